use super::*;

const RUN: &[u8] = include_bytes!("../../../../tests/fixtures/audit/exec-eventlist.json");
const POSTS: [&[u8]; 3] = [
    include_bytes!("../../../../tests/fixtures/audit/raw-post-003.json"),
    include_bytes!("../../../../tests/fixtures/audit/raw-post-005.json"),
    include_bytes!("../../../../tests/fixtures/audit/raw-post-008.json"),
];

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn at(text: &str) -> Option<Timestamp> {
    Some(time(text).unwrap())
}

fn alice() -> Option<v1::User> {
    let groups = strings(&["developers", "system:authenticated"]);
    Some(v1::User { name: "alice@example.com".to_owned(), uid: "alice".to_owned(), groups, extra: vec![] })
}

const ALLOWED: &str =
    "RBAC: allowed by ClusterRoleBinding \"dev\" of ClusterRole \"dev\" to Group \"developers\"";

/// What the run's requests have in common.
fn common() -> v1::ApiRequest {
    v1::ApiRequest {
        namespace: "prod".to_owned(),
        pod: "web-0".to_owned(),
        user: alice(),
        source_ips: strings(&["127.0.0.1"]),
        user_agent: "kubectl/v1.36.4 (linux/amd64) kubernetes/bb826b1".to_owned(),
        decision: "allow".to_owned(),
        reason: ALLOWED.to_owned(),
        ..v1::ApiRequest::default()
    }
}

/// One event, as a list.
fn one(event: &str) -> Batch {
    parse(&format!(r#"{{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[{event}]}}"#)).unwrap()
}

fn parse(body: &str) -> Result<Batch, AuditError> {
    Batch::parse(body.as_bytes())
}

fn request_of(event: &str) -> v1::ApiRequest {
    let mut batch = one(event);
    assert_eq!((batch.events, batch.requests.len()), (1, 1), "{event}");
    batch.requests.remove(0)
}

#[test]
fn an_interactive_exec_is_told_whole() {
    let batch = Batch::parse(RUN).unwrap();
    let uri = "/api/v1/namespaces/prod/pods/web-0/exec?command=%2Fbin%2Fsh&command=-c&command=tty%3B+echo+interactive\
               &container=app&stdin=true&stdout=true&tty=true";
    let expected = v1::ApiRequest {
        action: Some(Action::Exec.into()),
        audit_id: "68ced368".to_owned(),
        stage: "ResponseComplete".to_owned(),
        verb: "get".to_owned(),
        request_uri: uri.to_owned(),
        container: "app".to_owned(),
        command: strings(&["/bin/sh", "-c", "tty; echo interactive"]),
        stdin: Some(true),
        stdout: Some(true),
        tty: Some(true),
        code: Some(101),
        received: at("2026-11-22T19:23:51.285765Z"),
        stage_time: at("2026-11-22T19:23:51.332417Z"),
        ..common()
    };
    let mut found = batch.requests.iter().filter(|request| request.request_uri == uri);
    assert_eq!(found.next().unwrap().stage, "ResponseStarted");
    let mut complete = found.next().unwrap().clone();
    complete.audit_id.truncate(8);
    assert_eq!(complete, expected);
}

#[test]
fn every_request_of_a_real_run_is_kept_and_nothing_else() {
    let batch = Batch::parse(RUN).unwrap();
    assert_eq!(batch.events, 28);
    assert_eq!(batch.first, at("2026-11-22T19:23:11.772288Z").map(|t| Moment::from_timestamp(&t)));
    assert_eq!(batch.last, at("2026-11-22T19:24:28.909773Z").map(|t| Moment::from_timestamp(&t)));
    let told: Vec<String> = batch
        .requests
        .iter()
        .filter(|request| request.stage == "ResponseComplete")
        .map(|r| {
            let streams = [("i", r.stdin), ("o", r.stdout), ("e", r.stderr), ("t", r.tty)];
            let streams: String =
                streams.iter().filter(|(_, on)| *on == Some(true)).map(|(name, _)| *name).collect();
            let action = r.action().as_str_name();
            format!("{action} {} {} {} {streams} {}", r.verb, r.code(), r.container, r.command.join("|"))
        })
        .collect();
    assert_eq!(
        told,
        [
            "EXEC get 101 app oe /bin/sh|-c|id; cat /proc/self/cgroup; echo $$",
            "EXEC create 101 app oe /bin/echo|over-spdy",
            "EXEC get 101 app iot /bin/sh|-c|tty; echo interactive",
            "EPHEMERAL_CONTAINER patch 200   /bin/sh|-c|ps; sleep 2",
            "ATTACH get 101 app oe ",
            "EXEC get 500 app oe /bin/sh|-c|id; cat /proc/self/cgroup; echo $$",
            "EXEC create 500 app oe /bin/sh|-c|id; cat /proc/self/cgroup; echo $$",
            "EXEC get 500 app oe /bin/cat|/proc/self/cgroup",
            "EXEC create 500 app oe /bin/cat|/proc/self/cgroup",
            "EXEC get 101 app oe test|-d|/tmp/f",
            "EXEC get 101 app ioe tar|-xmf|-|-C|/tmp",
            "EXEC get 101 app ioe /bin/sh",
            "PORT_FORWARD get 403   ",
            "PORT_FORWARD create 403   ",
        ]
    );
    assert!(batch.requests.iter().all(|r| r.namespace == "prod" && r.pod == "web-0" && !r.truncated));
    let forbidden = batch.requests.last().unwrap();
    assert_eq!((forbidden.decision.as_str(), forbidden.code()), ("forbid", 403));
    let debug = batch.requests.iter().find(|r| r.action() == Action::EphemeralContainer).unwrap();
    assert_eq!(debug.ephemeral_containers, ["dbg"]);
    assert_eq!((debug.target_container.as_str(), debug.stdin, debug.tty), ("app", Some(false), Some(false)));
}

#[test]
fn bodies_as_they_were_posted() {
    let counts = POSTS.map(|post| {
        let batch = Batch::parse(post).unwrap();
        (batch.events, batch.requests.len())
    });
    assert_eq!(counts, [(2, 1), (5, 4), (1, 0)]);
}

#[test]
fn v1beta1_and_a_single_event_are_read_the_same() {
    let expected = Batch::parse(POSTS[1]).unwrap();
    let text = std::str::from_utf8(POSTS[1]).unwrap();
    assert_eq!(parse(&text.replace("audit.k8s.io/v1", "audit.k8s.io/v1beta1")).unwrap(), expected);
    let list: serde_json::Value = serde_json::from_str(text).unwrap();
    let mut each = Batch::default();
    for item in list["items"].as_array().unwrap() {
        // As in a log file: kind and version on each, in any order, and what nobody knows beside them.
        let mut item = item.clone();
        item["apiVersion"] = "audit.k8s.io/v1".into();
        item["kind"] = "Event".into();
        item["zzz"] = serde_json::json!({"items": [1, {"stage": 7}]});
        each.and(parse(&item.to_string()).unwrap());
    }
    assert_eq!(each, expected);
}

#[test]
fn who_it_was_and_whom_they_asked_to_be() {
    let request = request_of(
        r#"{"objectRef":{"resource":"pods","subresource":"exec","namespace":"n","name":"p"},"requestURI":"/x",
           "user":{"username":"root","extra":{"b":["1","2"],"a":null}},
           "impersonatedUser":{"username":"eve","uid":"7","groups":["g"]},"sourceIPs":["192.0.2.1","10.0.0.1"]}"#,
    );
    let extra = [("a", vec![]), ("b", strings(&["1", "2"]))];
    let extra = extra.map(|(key, values)| v1::Extra { key: key.to_owned(), values }).to_vec();
    assert_eq!(request.user, Some(v1::User { name: "root".to_owned(), extra, ..v1::User::default() }));
    let eve =
        v1::User { name: "eve".to_owned(), uid: "7".to_owned(), groups: strings(&["g"]), extra: vec![] };
    assert_eq!(request.impersonated, Some(eve));
    assert_eq!(request.source_ips, ["192.0.2.1", "10.0.0.1"]);
    assert_eq!((request.code, request.received, request.stage_time), (None, None, None));
}

fn proxied_by(resource: &str, name: &str, verb: &str, uri: &str) -> Batch {
    one(&format!(
        r#"{{"verb":{verb:?},"requestURI":{uri:?},
            "objectRef":{{"resource":{resource:?},"subresource":"proxy","name":{name:?},"namespace":"kube-system"}}}}"#
    ))
}

#[test]
fn the_kubelets_own_api_through_the_api_server() {
    let mut batch = proxied_by(
        "nodes",
        "https:n1:10250",
        "create",
        "/api/v1/nodes/https:n1:10250/proxy/exec/prod/web-0/app?command=id&command=-u&input=1&output=1&tty=1",
    );
    let request = batch.requests.remove(0);
    assert_eq!(request.action(), Action::NodeProxy);
    let [node, namespace, pod, container] =
        [&request.node, &request.namespace, &request.pod, &request.container].map(String::as_str);
    assert_eq!([node, namespace, pod, container], ["n1", "prod", "web-0", "app"]);
    assert_eq!(request.command, ["id", "-u"]);
    assert_eq!(
        (request.stdin, request.stdout, request.stderr, request.tty),
        (Some(true), Some(true), None, Some(true))
    );

    let run = "/api/v1/nodes/n1/proxy/run/prod/web-0/app?cmd=cat+%2Fetc%2Fpasswd&command=x";
    assert_eq!(proxied_by("nodes", "n1", "create", run).requests[0].command, ["cat", "/etc/passwd"]);
    // All else of it is kept too, but for what is only measured.
    let uri = |path: &str| format!("/api/v1/nodes/n1/proxy/{path}");
    for (path, kept) in
        [("pods", 1), ("logs/", 1), ("", 1), ("metrics", 0), ("metrics/cadvisor", 0), ("metrics/", 1)]
    {
        assert_eq!(proxied_by("nodes", "n1", "get", &uri(path)).requests.len(), kept, "{path:?}");
    }
    assert_eq!(proxied_by("nodes", "n1", "create", &uri("metrics")).requests.len(), 1);
    // A pod or a service that is the kubelet's port.
    for resource in ["pods", "services"] {
        let uri =
            |path: &str| format!("/api/v1/namespaces/kube-system/{resource}/https:k:10250/proxy/{path}");
        let batch = proxied_by(resource, "https:k:10250", "get", &uri("exec/prod/web-0/app?command=id"));
        let request = &batch.requests[0];
        assert_eq!((request.action(), request.node.as_str()), (Action::NodeProxy, ""));
        assert_eq!((request.namespace.as_str(), request.pod.as_str()), ("prod", "web-0"));
        assert_eq!(proxied_by(resource, "k", "get", &uri("healthz")).requests, []);
    }
}

#[test]
fn what_leads_nowhere_is_counted_and_not_kept() {
    for object in [
        r#"{"resource":"pods","name":"p","namespace":"n"}"#,
        r#"{"resource":"pods","subresource":"log"}"#,
        r#"{"resource":"pods","subresource":"exec","apiGroup":"example.com"}"#,
        r#"{"resource":"deployments","subresource":"exec"}"#,
        "null",
    ] {
        let event =
            format!(r#"{{"stageTimestamp":"2026-11-22T19:23:51Z","verb":"get","objectRef":{object}}}"#);
        let batch = one(&event);
        assert_eq!((batch.events, batch.requests.len()), (1, 0), "{object}");
        assert_eq!(batch.last, Some(Moment(1_795_375_431_000_000_000)));
    }
    let object = r#"{"resource":"pods","subresource":"ephemeralcontainers","namespace":"n","name":"p"}"#;
    assert_eq!(one(&format!(r#"{{"verb":"get","objectRef":{object}}}"#)).requests, []);
}

#[test]
fn what_is_no_audit_is_told_in_one_line() {
    let told = |body: &str| parse(body).unwrap_err().to_string();
    assert_eq!(told(""), "it is no JSON: EOF while parsing a value at line 1 column 0");
    assert_eq!(told("[]").split(':').next(), Some("it is no JSON"));
    assert_eq!(
        told(r#"{"kind":"PodList\u001b[2J","apiVersion":"v1","items":[]}"#),
        "it is \"PodList\\\\x1b[2J\" of \"v1\", and not an EventList or Event of audit.k8s.io/v1 or v1beta1: \
         point the API server's audit here, and nothing else"
    );
    let list =
        |items: &str| format!(r#"{{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":{items}}}"#);
    assert_eq!(
        told(&list(r#"[{},{"stage":7}]"#)),
        "items[1] is no audit event: invalid type: integer `7`, expected a string at line 1 column 14"
    );
    assert!(told(&list(r#"{"a":1}"#)).starts_with("items[0] is no audit event: "));
    let long = told(&list(&format!(r#"[{{"stage":["{}"]}}]"#, "x".repeat(100_000))));
    assert!(long.len() < 400 && !long.contains('\n'), "{long}");
    // Cut anywhere, it is nothing.
    let whole = POSTS[0].trim_ascii_end();
    for end in 0..whole.len() {
        assert!(Batch::parse(&whole[..end]).is_err(), "{end}");
    }
    // Nothing to tell is no mistake.
    for items in ["null", "[]"] {
        assert_eq!(parse(&list(items)).unwrap(), Batch::default());
    }
}

#[test]
fn what_is_too_deep_or_too_long_does_no_harm() {
    let object = r#""objectRef":{"resource":"pods","subresource":"exec","namespace":"n","name":"p"}"#;
    let deep = |n: usize| format!(r#"{{{object},"requestObject":{}{}}}"#, "[".repeat(n), "]".repeat(n));
    assert_eq!(one(&deep(500_000)).requests.len(), 1);
    let debug = deep(500_000).replace("exec", "ephemeralcontainers");
    assert_eq!(one(&debug).requests[0].ephemeral_containers, [""; 0]);

    let command = "command=".to_owned() + &"a".repeat(MAX_COMMAND) + "&command=b";
    let request = request_of(&format!(r#"{{{object},"requestURI":"/x?command=first&{command}"}}"#));
    assert!(request.truncated);
    assert_eq!((request.command.as_slice(), request.request_uri.len()), (&["first".to_owned()][..], MAX_URI));
    let many = "&command".repeat(1_000_000);
    let request = request_of(&format!(r#"{{{object},"requestURI":"/x?{many}"}}"#));
    assert_eq!((request.command.len(), request.truncated), (MAX_COMMAND / 2, true));

    let groups = serde_json::json!(vec!["g"; 10_000]);
    let extra: BTreeMap<String, Vec<&str>> = (0..10).map(|n| (n.to_string(), vec!["v"; 1000])).collect();
    let user = serde_json::json!({"username": "ä".repeat(10_000), "groups": groups, "extra": extra});
    let request = request_of(&format!(r#"{{{object},"user":{user}}}"#));
    let user = request.user.unwrap();
    assert_eq!((user.name.len(), user.groups.len(), request.truncated), (MAX_TEXT, MAX_MANY, true));
    assert_eq!(user.extra.iter().map(|extra| extra.values.len()).sum::<usize>(), MAX_MANY);
    // However many long ones there are, what is kept can be sent.
    let user = serde_json::json!({"username": "u", "groups": vec!["g".repeat(MAX_TEXT); 2000]});
    let request =
        request_of(&format!(r#"{{{object},"user":{user},"impersonatedUser":{user},"userAgent":"x"}}"#));
    let bytes = prost::Message::encoded_len(&request);
    assert!(request.truncated && bytes < MAX_REQUEST + 64 * 1024, "{bytes}");
}

#[test]
fn times_that_are_none_are_left_out() {
    for (text, good) in [
        ("2026-11-22T19:23:51.075053Z", true),
        ("2026-11-22T19:23:51+02:00", true),
        ("9999-12-30T00:00:00Z", true),
        ("0000-01-01T00:00:00Z", false),
        ("-000001-01-01T00:00:00Z", false),
        ("2026-11-22", false),
        ("", false),
        ("null", false),
    ] {
        assert_eq!(time(text).is_some(), good, "{text}");
    }
}

#[test]
fn the_event_of_the_log_says_where_it_leads() {
    let mut batch = Batch::parse(POSTS[0]).unwrap();
    let request = batch.requests.remove(0);
    let event = message("c", "webhook 192.0.2.1", request.clone());
    let pod = v1::Pod { namespace: "prod".to_owned(), name: "web-0".to_owned(), ..v1::Pod::default() };
    let container = v1::Container { name: "app".to_owned(), pod: Some(pod), ..v1::Container::default() };
    let expected = v1::Event {
        id: Some(v1::EventId { cluster: "c".to_owned(), ..v1::EventId::default() }),
        time: at("2026-11-22T19:23:55.492063Z"),
        container: Some(container),
        body: Some(Body::ApiRequest(v1::ApiRequest { source: "webhook 192.0.2.1".to_owned(), ..request })),
        ..v1::Event::default()
    };
    assert_eq!(event, expected);
    // A node's proxy is of no pod: only those who may see everything see it.
    let uri = "/api/v1/nodes/n1/proxy/pods";
    let request = proxied_by("nodes", "n1", "get", uri).requests.remove(0);
    assert_eq!(message("c", "s", request).container, None);
}

proptest::proptest! {
    #[test]
    fn any_uri_is_read_without_harm(uri: String, verb: String) {
        for resource in ["pods", "nodes", "services"] {
            for subresource in ["exec", "attach", "portforward", "ephemeralcontainers", "proxy"] {
                let object = ObjectRef {
                    resource: Some(resource.to_owned()),
                    subresource: Some(subresource.to_owned()),
                    ..ObjectRef::default()
                };
                if let Some(found) = Found::of(&object, &verb, &uri) {
                    _ = found.action();
                }
                streams(&uri, &mut v1::ApiRequest::default(), verb.is_empty());
            }
        }
    }

    #[test]
    fn any_bytes_are_no_audit(bytes: Vec<u8>) {
        proptest::prop_assert!(Batch::parse(&bytes).is_err());
    }
}
