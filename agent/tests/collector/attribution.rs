//! Who is behind a session: agents report, an API server posts, readers see it; and the collector is killed meanwhile.

use podtrail_proto::v1::{EntryMethod, Verdict};

use super::{subscribe::Subscriber, *};

const MS: i64 = 1_000_000;

/// A collector that waits less than others do.
fn start(data: &Path) -> Collector {
    let mut command = command(data);
    let flags = "--audit-listen 127.0.0.1:0 --audit-cluster c --attribution-skew 200ms --attribution-latency 2s \
                 --attribution-wait 4s";
    command.args(flags.split(' '));
    start_with(command)
}

fn before(moment: Moment, ms: i64) -> Moment {
    Moment(moment.0 - ms * MS)
}

/// An audit event, as an API server writes it.
fn audit(id: &str, stage: &str, user: &str, path: &str, received: Moment, at: Moment) -> String {
    let time = |moment: Moment| {
        let timestamp = moment.timestamp();
        let text =
            serde_json::to_string(&v1::Event { time: Some(timestamp), ..v1::Event::default() }).unwrap();
        text.split("\"time\":").nth(1).unwrap().trim_end_matches('}').to_owned()
    };
    let subresource = path.split('/').nth(7).and_then(|last| last.split('?').next()).unwrap_or_default();
    let pod = path.split('/').nth(6).unwrap_or_default();
    format!(
        r#"{{"level":"Metadata","auditID":"{id}","stage":"{stage}","requestURI":"{path}","verb":"get",
        "user":{{"username":"{user}","groups":["developers"]}},"sourceIPs":["198.51.100.7"],"userAgent":"kubectl/v1.36.4",
        "objectRef":{{"resource":"pods","namespace":"prod","name":"{pod}","apiVersion":"v1","subresource":"{subresource}"}},
        "responseStatus":{{"code":101}},"requestReceivedTimestamp":{},"stageTimestamp":{},
        "annotations":{{"authorization.k8s.io/decision":"allow"}}}}"#,
        time(received),
        time(at)
    )
}

/// Posts a batch, as often as it takes while the collector restarts.
fn post(collector: &Collector, items: &[String]) {
    let body =
        format!(r#"{{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[{}]}}"#, items.join(","));
    let mut stream = TcpStream::connect(collector.audit.unwrap()).unwrap();
    let length = body.len();
    write!(
        stream,
        "POST /audit HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// Something that matters to nobody: the API server is there.
fn alive(collector: &Collector, at: Moment) {
    let path = "/api/v1/namespaces/prod/pods/web-0";
    post(collector, &[audit(&format!("alive-{}", at.0), "ResponseComplete", "system:node", path, at, at)]);
}

fn session(id: &str, first: u64, entered: Moment, argv: &[&str]) -> Vec<v1::Event> {
    let process = v1::Process { pid: 7, start_time: first, ..v1::Process::default() };
    let event = |seq, body| v1::Event {
        id: Some(v1::EventId { cluster: "c".to_owned(), node: "n".to_owned(), epoch: 1, seq }),
        time: Some(entered.timestamp()),
        session_id: id.to_owned(),
        container: Some(v1::Container {
            id: "c1".to_owned(),
            name: "app".to_owned(),
            pod: Some(v1::Pod {
                namespace: "prod".to_owned(),
                name: "web-0".to_owned(),
                ..v1::Pod::default()
            }),
            ..v1::Container::default()
        }),
        body: Some(body),
        ..v1::Event::default()
    };
    let started = v1::SessionStarted {
        method: Some(EntryMethod::RuntimeExec.into()),
        interactive: Some(false),
        root: Some(process.clone()),
        entered: Some(entered.timestamp()),
        ..v1::SessionStarted::default()
    };
    let executed = v1::Executed {
        process: Some(process),
        argv: argv.iter().map(|&word| word.to_owned()).collect(),
        root: Some(true),
        ..v1::Executed::default()
    };
    vec![event(first, Body::SessionStarted(started)), event(first + 1, Body::Executed(executed))]
}

fn exec(argv: &[&str]) -> String {
    let command: Vec<String> = argv.iter().map(|word| format!("command={word}&")).collect();
    format!("/api/v1/namespaces/prod/pods/web-0/exec?{}container=app&stdout=true", command.concat())
}

/// The verdicts on a session, as the log has them.
async fn verdicts(collector: &Collector, id: &str) -> Vec<(Verdict, String)> {
    let events = collector.events().await.into_iter().filter(|(_, event)| event.session_id == id);
    events
        .filter_map(|(_, event)| match event.body {
            Some(Body::Attributed(attributed)) => {
                let verdict = attributed.verdict();
                Some((verdict, attributed.user.map(|user| user.name).unwrap_or_default()))
            }
            _ => None,
        })
        .collect()
}

/// Waits until there is one, while the API server goes on.
async fn verdict(collector: &Collector, id: &str) -> (Verdict, String) {
    let began = Instant::now();
    loop {
        if let Some(last) = verdicts(collector, id).await.pop() {
            return last;
        }
        assert!(began.elapsed() < SOON, "no verdict on {id}: {}", collector.log.lock().unwrap());
        alive(collector, Moment::now());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_session_is_somebodys_or_nobodys_and_said_once() {
    let dir = tempfile::tempdir().unwrap();
    let collector = start(dir.path());
    let begin = Moment::now();
    alive(&collector, before(begin, 60_000));
    alive(&collector, begin);

    // Alice's request comes before its session, and that of nobody is the node's own.
    let path = exec(&["id"]);
    let stage = |id: &str, stage: &str, at| audit(id, stage, "alice", &path, before(begin, 30), at);
    post(&collector, &[stage("a1", "ResponseStarted", before(begin, 20))]);
    let mut agent = Agent::connect(&collector).await;
    let sessions = [session("hers", 1, begin, &["id"]), session("local", 3, begin, &["whoami"])].concat();
    agent.send(Some(hello("n", 1)), sessions).await.unwrap();
    // A subscriber who waits gets her name with the first event.
    let open = v1::SubscribeOpen {
        name: "siem".to_owned(),
        from: Some(v1::subscribe_open::From::Oldest(true)),
        filter: "sessionId == 'hers'".to_owned(),
        hold: Some(Duration::from_secs(20).into()),
        heartbeat: Some(Duration::from_millis(200).into()),
        ..v1::SubscribeOpen::default()
    };
    let mut subscriber = Subscriber::open(&collector, open).await.unwrap();
    let mut beats = 0;
    let first = loop {
        alive(&collector, Moment::now());
        match subscriber.events().await.unwrap().into_iter().next() {
            Some((_, event)) => break event,
            None => beats += 1,
        }
    };
    assert!(beats > 0, "heartbeats go on meanwhile");
    assert!(matches!(first.body, Some(Body::SessionStarted(_))), "{first:?}");
    let user = |event: &v1::Event| event.attribution.clone().unwrap().user.unwrap().name;
    assert_eq!(user(&first), "alice");

    assert_eq!(verdict(&collector, "hers").await, (Verdict::Matched, "alice".to_owned()));
    assert_eq!(verdict(&collector, "local").await, (Verdict::NodeLocal, String::new()));

    // Killed and started again, nothing is said twice: not even of what was decided a moment before.
    drop(collector);
    let collector = start(dir.path());
    let again = Moment::now();
    alive(&collector, again);
    let path = exec(&["ls"]);
    let mut agent = Agent::connect(&collector).await;
    agent.send(Some(hello("n", 1)), session("later", 5, again, &["ls"])).await.unwrap();
    drop(collector);
    // Its request comes after another.
    let collector = start(dir.path());
    let of = |stage: &str, at| audit("b1", stage, "bob", &path, before(again, 30), at);
    post(&collector, &[of("ResponseComplete", Moment::now()), of("ResponseStarted", before(again, 20))]);
    assert_eq!(verdict(&collector, "later").await, (Verdict::Matched, "bob".to_owned()));
    for (id, said) in [("hers", 1), ("local", 1), ("later", 1)] {
        assert_eq!(verdicts(&collector, id).await.len(), said, "{id}");
    }

    // Whoever asks finds them by it, and filters by it.
    let list = |user: &str| v1::ListSessionsRequest { user: user.to_owned(), ..Default::default() };
    let found = collector.trail().await.list_sessions(list("alice")).await.unwrap().into_inner().sessions;
    assert_eq!(found.iter().map(|s| s.id.as_str()).collect::<Vec<_>>(), ["hers"]);
    let attributed = found[0].attributed.clone().unwrap();
    assert_eq!(
        (attributed.audit_id.as_str(), attributed.source_ips),
        ("a1", vec!["198.51.100.7".to_owned()])
    );
    let get = v1::GetSessionRequest { id: "hers".to_owned(), ..Default::default() };
    let got = collector.trail().await.get_session(get).await.unwrap().into_inner();
    assert!(got.events.len() > 2 && got.events.iter().all(|event| user(event) == "alice"));
    let tail = v1::TailRequest {
        from: Some(From::Oldest(true)),
        follow: Some(false),
        filter: "attribution.user.name == 'bob' && has(executed)".to_owned(),
    };
    let mut tail = collector.trail().await.tail(tail).await.unwrap().into_inner();
    let one = timeout(SOON, tail.message()).await.unwrap().unwrap().unwrap().event.unwrap();
    assert_eq!((one.session_id.as_str(), user(&one)), ("later", "bob".to_owned()));
    assert_eq!(timeout(SOON, tail.message()).await.unwrap().unwrap(), None);
    assert_eq!(collector.metric("podtrail_collector_attribution_lag_events "), 0.0);
}

#[tokio::test]
async fn attaching_is_a_session_that_only_the_api_server_knows() {
    let dir = tempfile::tempdir().unwrap();
    let mut collector = start(dir.path());
    let now = Moment::now();
    let path = "/api/v1/namespaces/prod/pods/web-0/attach?container=app&stdin=true&stdout=true&tty=true";
    let stage = |stage: &str, at| audit("x1", stage, "carol", path, before(now, 1000), at);
    let (begun, done) = (stage("ResponseStarted", before(now, 990)), stage("ResponseComplete", now));
    let sessions = async |collector: &Collector| {
        let request = v1::ListSessionsRequest { user: "carol".to_owned(), ..Default::default() };
        collector.trail().await.list_sessions(request).await.unwrap().into_inner().sessions
    };
    post(&collector, std::slice::from_ref(&begun));
    let began = Instant::now();
    let open = loop {
        assert!(began.elapsed() < SOON, "it is no session");
        if let Some(session) = sessions(&collector).await.pop() {
            break session;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!((open.method, open.node.as_str()), (Some(EntryMethod::Attach.into()), ""));
    assert_eq!(open.container.unwrap().pod.unwrap().name, "web-0");
    assert!(open.id.starts_with("api-") && open.end.is_none(), "{}", open.id);
    for round in 0..3 {
        // The same batch again, over restarts.
        drop(collector);
        collector = start(dir.path());
        post(&collector, &[begun.clone(), done.clone()]);
        let began = Instant::now();
        let ended = loop {
            assert!(began.elapsed() < SOON, "it does not end, round {round}");
            let session = sessions(&collector).await.pop().unwrap();
            if session.end.is_some() {
                break session;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!((ended.id.as_str(), ended.commands), (open.id.as_str(), 0));
        assert_eq!(ended.ended.unwrap().duration.unwrap().seconds, 0);
    }
    let own = collector.events().await.into_iter().filter(|(_, event)| event.session_id == open.id).count();
    assert_eq!(own, 3, "start, verdict and end, once each");
    // A cluster is no node.
    let nodes = collector.trail().await.list_nodes(v1::ListNodesRequest {}).await.unwrap().into_inner().nodes;
    assert!(nodes.iter().all(|node| !node.name.is_empty()), "{nodes:?}");
}

#[tokio::test]
async fn without_audit_nothing_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let collector = super::start(dir.path());
    let mut agent = Agent::connect(&collector).await;
    agent.send(Some(hello("n", 1)), session("s", 1, Moment::now(), &["id"])).await.unwrap();
    // Nobody is kept waiting for what will not come.
    let open = v1::SubscribeOpen {
        name: "siem".to_owned(),
        from: Some(v1::subscribe_open::From::Oldest(true)),
        hold: Some(Duration::from_secs(60).into()),
        ..v1::SubscribeOpen::default()
    };
    let mut subscriber = Subscriber::open(&collector, open.clone()).await.unwrap();
    let mut got = 0;
    while got < 2 {
        got += subscriber.events().await.unwrap().len();
    }
    assert_eq!(collector.events().await.len(), 2);
    let hold = Some(Duration::from_millis(60_001).into());
    let e = Subscriber::open(&collector, v1::SubscribeOpen { hold, ..open }).await.err().unwrap();
    assert_eq!((e.code(), e.message()), (Code::InvalidArgument, "hold is between 0 and 60 s"));
}
