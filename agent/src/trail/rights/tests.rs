use podtrail_proto::v1::{EntryMethod, GapSource};

use super::*;
use crate::trail::testing::{container, ended, event, executed, exited, gap, started};

fn rights(namespaces: &[&str], fields: &[&str]) -> Rights {
    Rights {
        verbs: [Verb::Tail].into(),
        namespaces: namespaces.iter().map(|&name| name.to_owned()).collect(),
        fields: Fields::compile(fields.iter().copied()).unwrap(),
    }
}

/// An event of a pod in this namespace.
fn of(namespace: &str, body: Body) -> Arc<v1::Event> {
    let mut event = event("n", 1, 1, "s", body);
    event.container = Some(container("c1", Some((namespace, "pod-0"))));
    Arc::new(event)
}

fn command() -> Body {
    Body::Executed(v1::Executed {
        process: Some(v1::Process { pid: 7, comm: "sh".to_owned(), ..v1::Process::default() }),
        path: "/bin/sh".to_owned(),
        path_raw: vec![1].into(),
        argv: vec!["sh".to_owned(), "--password=x".to_owned()],
        argv_raw: vec![vec![1].into(), vec![2].into()],
        credentials: Some(v1::Credentials { uid: Some(0), gid: Some(0), ..v1::Credentials::default() }),
        truncated: Some(false),
        ..v1::Executed::default()
    })
}

fn shown(rights: &Rights, event: &Arc<v1::Event>) -> Option<v1::Event> {
    rights.show(event.clone()).map(Arc::unwrap_or_clone)
}

fn executed_of(event: Option<v1::Event>) -> v1::Executed {
    match event.and_then(|event| event.body) {
        Some(Body::Executed(executed)) => executed,
        other => panic!("{other:?}"),
    }
}

#[test]
fn nobody_sees_anything_but_what_is_missing() {
    let nobody = Rights::default();
    assert_eq!(shown(&nobody, &of("prod", command())), None);
    assert_eq!(shown(&nobody, &Arc::new(event("n", 1, 1, "s", command()))), None);
    let seen = shown(&nobody, &of("prod", gap(GapSource::KernelRing, 3, 0, 1, &["s", "t"]))).unwrap();
    assert_eq!((seen.container, seen.session_id.as_str()), (None, ""));
    assert_eq!(seen.body, Some(gap(GapSource::KernelRing, 3, 0, 1, &[])));
    let state = Body::AgentState(v1::AgentState { boot_id: "b".to_owned(), ..v1::AgentState::default() });
    assert_eq!(shown(&nobody, &of("prod", state.clone())).unwrap().body, Some(state));
    assert_eq!(nobody.show_session(v1::Session::default()), None);
}

#[test]
fn everything_is_everything() {
    let all = Rights::everything();
    for event in [of("prod", command()), Arc::new(event("n", 1, 1, "s", command()))] {
        assert_eq!(shown(&all, &event), Some(Arc::unwrap_or_clone(event)));
    }
    assert_eq!(Fields::compile(["*"]).unwrap(), Fields::all());
}

#[test]
fn namespaces_are_names_and_patterns() {
    let some = rights(&["prod", "team-*", "*-x-*"], &["*"]);
    for (namespace, sees) in [
        ("prod", true),
        ("production", false),
        ("team-a", true),
        ("team-", true),
        ("steam-a", false),
        ("a-x-b", true),
        ("-x-", true),
        ("a-x", false),
        ("", false),
    ] {
        assert_eq!(shown(&some, &of(namespace, command())).is_some(), sees, "{namespace}");
    }
    // Of no pod that is known: only for those who see all.
    let host = Arc::new(event("n", 1, 1, "s", command()));
    assert_eq!(shown(&some, &host), None);
    assert!(shown(&rights(&["**"], &["*"]), &host).is_none());
    assert!(shown(&rights(&["prod", "*"], &["*"]), &host).is_some());
}

#[test]
fn an_event_of_two_namespaces_is_of_both() {
    let attributed = |namespace| {
        Body::Attributed(v1::Attributed {
            container: Some(container("c1", Some((namespace, "p")))),
            ..v1::Attributed::default()
        })
    };
    let prod = rights(&["prod"], &["*"]);
    let without = |body| Arc::new(event("n", 1, 1, "s", body));
    assert!(shown(&prod, &without(attributed("prod"))).is_some());
    assert!(shown(&prod, &without(attributed("dev"))).is_none());
    assert!(shown(&prod, &of("prod", attributed("dev"))).is_none());
    assert!(shown(&prod, &of("dev", attributed("prod"))).is_none());
    // A session's namespace stands in for what an early event did not know, and for nothing else.
    let early = without(command());
    assert!(prod.show_in(early.clone(), Some("prod")).is_some());
    assert!(prod.show_in(early.clone(), Some("dev")).is_none());
    assert!(prod.show_in(early, None).is_none());
    assert!(prod.show_in(of("dev", command()), Some("prod")).is_none());
}

#[test]
fn a_field_is_taken_away_with_its_exact_bytes() {
    let event = of("prod", command());
    let whole = executed_of(Some((*event).clone()));
    let seen = executed_of(shown(&rights(&["*"], &["*", "!executed.argv"]), &event));
    assert_eq!(seen, v1::Executed { argv: vec![], argv_raw: vec![], ..whole.clone() });
    // By the proto's names too, one level down, in any order.
    let seen =
        executed_of(shown(&rights(&["*"], &["!executed.credentials.gid", "!executed.path", "*"]), &event));
    let credentials = v1::Credentials { uid: Some(0), ..v1::Credentials::default() };
    let expected = v1::Executed {
        path: String::new(),
        path_raw: vec![].into(),
        credentials: Some(credentials),
        ..whole.clone()
    };
    assert_eq!(seen, expected);
    let seen = executed_of(shown(&rights(&["*"], &["*", "!executed.argv_bytes"]), &event));
    assert_eq!(seen, whole);
}

#[test]
fn what_is_hidden_of_a_command_is_hidden_of_one_that_failed() {
    let failed = v1::ExecFailed {
        path: "/tmp/x".to_owned(),
        argv: vec!["x".to_owned(), "secret".to_owned()],
        argv_raw: vec![vec![b'x'].into(), vec![255].into()],
        credentials: Some(v1::Credentials { uid: Some(1), gid: Some(2), ..v1::Credentials::default() }),
        errno: Some(13),
        ..v1::ExecFailed::default()
    };
    let event = of("prod", Body::ExecFailed(failed.clone()));
    let seen = |fields: &[&str]| match shown(&rights(&["*"], fields), &event)?.body {
        Some(Body::ExecFailed(seen)) => Some(seen),
        other => panic!("{other:?}"),
    };
    let without = v1::ExecFailed { argv: vec![], argv_raw: vec![], ..failed.clone() };
    assert_eq!(seen(&["*", "!executed.argv"]), Some(without));
    let without = v1::ExecFailed { argv_raw: vec![], ..failed.clone() };
    assert_eq!(seen(&["*", "!executed.argvRaw"]), Some(without));
    let credentials = v1::Credentials { uid: Some(1), ..v1::Credentials::default() };
    let without = v1::ExecFailed { credentials: Some(credentials), path: String::new(), ..failed.clone() };
    assert_eq!(seen(&["*", "!executed.credentials.gid", "!executed.path"]), Some(without));
    assert_eq!(seen(&["*", "!executed"]), None);
    assert_eq!(seen(&["*"]), Some(failed));
}

#[test]
fn only_what_is_named_is_there() {
    let some = rights(&["*"], &["executed.path", "sessionEnded", "container.id"]);
    let event = of("prod", command());
    let seen = shown(&some, &event).unwrap();
    assert_eq!((&seen.id, &seen.time, seen.session_id.as_str()), (&event.id, &event.time, "s"));
    assert_eq!(seen.container, Some(container("c1", None)));
    let path =
        v1::Executed { path: "/bin/sh".to_owned(), path_raw: vec![1].into(), ..v1::Executed::default() };
    assert_eq!(executed_of(Some(seen)), path);
    assert_eq!(shown(&some, &of("prod", ended(3))).unwrap().body, Some(ended(3)));
    // Of what is not named not even that it was.
    assert_eq!(shown(&some, &of("prod", exited())), None);
    assert_eq!(shown(&some, &of("prod", started(0, EntryMethod::RuntimeExec))), None);
    // What is taken away stays away, whatever else is named.
    let none = rights(&["*"], &["executed.path", "!executed"]);
    assert_eq!(shown(&none, &event), None);
    // A pod's namespace is asked for before anything is taken away.
    assert!(shown(&rights(&["prod"], &["executed"]), &event).is_some());
    assert!(shown(&rights(&["dev"], &["executed"]), &event).is_none());
}

#[test]
fn a_hidden_container_is_hidden_where_it_is_named_again() {
    let attributed = Body::Attributed(v1::Attributed {
        container: Some(container("c1", Some(("prod", "p")))),
        evidence: vec!["e".to_owned()],
        ..v1::Attributed::default()
    });
    let seen =
        shown(&rights(&["prod"], &["*", "!container.pod.name"]), &of("prod", attributed.clone())).unwrap();
    let without_name = container("c1", Some(("prod", "")));
    assert_eq!(seen.container, Some(without_name.clone()));
    let Some(Body::Attributed(a)) = seen.body else { panic!("{seen:?}") };
    assert_eq!((a.container, a.evidence), (Some(without_name), vec!["e".to_owned()]));
    let seen = shown(&rights(&["prod"], &["*", "!container"]), &of("prod", attributed)).unwrap();
    let Some(Body::Attributed(a)) = seen.body else { panic!("{seen:?}") };
    assert_eq!((seen.container, a.container), (None, None));
}

#[test]
fn a_session_shows_what_its_events_do() {
    let session = v1::Session {
        id: "s".to_owned(),
        node: "n".to_owned(),
        cluster: "c".to_owned(),
        container: Some(container("c1", Some(("prod", "p")))),
        started: Some(v1::SessionStarted { login_uid: Some(7), ..v1::SessionStarted::default() }),
        ended: Some(v1::SessionEnded { commands: Some(1), ..v1::SessionEnded::default() }),
        commands: 1,
        lost: 2,
        first_command: "sh --password=x".to_owned(),
        ..v1::Session::default()
    };
    let seen = |fields: &[&str]| rights(&["prod"], fields).show_session(session.clone()).unwrap();
    assert_eq!(seen(&["*"]), session);
    let without = v1::Session { first_command: String::new(), ..session.clone() };
    assert_eq!(seen(&["*", "!executed.argv"]), without);
    let least = v1::Session {
        container: None,
        started: None,
        ended: None,
        commands: 0,
        first_command: String::new(),
        ..session.clone()
    };
    assert_eq!(seen(&[]), least);
    assert_eq!(
        seen(&["executed.path", "sessionEnded"]),
        v1::Session { commands: 1, ended: session.ended, ..least }
    );
    assert_eq!(rights(&["dev"], &["*"]).show_session(session.clone()), None);
    let nowhere = v1::Session { container: None, ..session };
    assert_eq!(rights(&["prod"], &["*"]).show_session(nowhere.clone()), None);
    assert!(rights(&["*"], &["*"]).show_session(nowhere).is_some());
}

#[test]
fn gaps_name_sessions_to_those_who_see_them() {
    let of_prod = of("prod", gap(GapSource::SessionBudget, 3, 0, 1, &["s"]));
    assert_eq!(shown(&rights(&["prod"], &["exited"]), &of_prod), Some((*of_prod).clone()));
    let elsewhere = shown(&rights(&["dev"], &["*"]), &of_prod).unwrap();
    assert_eq!(elsewhere.body, Some(gap(GapSource::SessionBudget, 3, 0, 1, &[])));
}

#[test]
fn a_name_that_means_nothing_is_told() {
    let told = |name: &str| Fields::compile([name]).unwrap_err().to_string();
    assert!(told("executed.agv").starts_with(
        "\"executed.agv\": executed has no field \"agv\"; it has: process, path, pathRaw, argv, argvRaw"
    ));
    assert!(told("exec").starts_with("\"exec\": event has no field \"exec\"; it has: id, time, boottimeNs"));
    assert!(
        told("!executed.argv.0").contains("there is nothing below \"argv\""),
        "{}",
        told("executed.argv.0")
    );
    assert!(told("container.pod.labels.app").contains("there is nothing below \"labels\""));
    assert!(told("").contains("has no field \"\""));
    assert!(told("executed.").contains("has no field \"\""));
    assert!(told("!sessionId").contains("is always shown"));
    assert!(told("id.seq").contains("is always shown"));
}

#[test]
fn whether_a_field_is_hidden_can_be_asked() {
    let fields = |names: &[&str]| Fields::compile(names.iter().copied()).unwrap();
    let user = &["attributed", "user", "name"][..];
    assert!(Fields::all().show_all_of(user) && fields(&["attributed"]).show_all_of(user));
    assert!(!fields(&["*", "!attributed.user"]).show_all_of(user) && !Fields::default().show_all_of(user));
    assert!(!fields(&["*", "!container.pod.labels"]).show_all_of(&["container"]));
    assert!(fields(&["*", "!container.pod.labels"]).show_all_of(&["container", "id"]));
    assert!(!Fields::all().show_all_of(&["nothing"]));
}

fn user(name: &str) -> Option<v1::User> {
    Some(v1::User { name: name.to_owned(), groups: vec!["g".to_owned()], ..v1::User::default() })
}

#[test]
fn who_may_not_see_users_sees_none_anywhere() {
    let attribution = v1::Attribution {
        verdict: Some(v1::Verdict::Matched.into()),
        user: user("alice"),
        impersonated: user("bob"),
    };
    let attributed = Body::Attributed(v1::Attributed {
        verdict: Some(v1::Verdict::Ambiguous.into()),
        user: user("alice"),
        impersonated: user("bob"),
        candidates: vec![v1::Candidate {
            user: user("carol"),
            impersonated: user("dave"),
            audit_id: "x".to_owned(),
            ..v1::Candidate::default()
        }],
        ..v1::Attributed::default()
    });
    let request = Body::ApiRequest(v1::ApiRequest {
        user: user("alice"),
        impersonated: user("bob"),
        namespace: "prod".to_owned(),
        ..v1::ApiRequest::default()
    });
    let with = |body| {
        let event = v1::Event { attribution: Some(attribution.clone()), ..(*of("prod", body)).clone() };
        Arc::new(event)
    };
    let text = |fields: &[&str], body: &Body| {
        let seen = shown(&rights(&["prod"], fields), &with(body.clone()));
        serde_json::to_string(&seen.unwrap()).unwrap()
    };
    let names = ["alice", "bob", "carol", "dave"];
    for body in [&attributed, &request, &command()] {
        let seen = text(&["*", "!attributed.user"], body);
        assert!(names.iter().all(|name| !seen.contains(name)), "{seen}");
        assert!(!seen.contains("attribution"), "{seen}");
        // One who may see names and no groups.
        let seen = text(&["*", "!attributed.user.groups"], body);
        assert!(seen.contains("alice") && !seen.contains("groups"), "{seen}");
        assert!(!text(&["*", "!attribution"], body).contains("attribution"));
    }
    // It is shown where `attributed` is, with no name of its own; and never more of it.
    let seen = text(&["executed", "attributed.user.name"], &command());
    assert!(seen.contains("alice") && !seen.contains("bob") && !seen.contains("MATCHED"), "{seen}");
    let seen = text(&["executed", "attribution"], &command());
    assert!(!seen.contains("alice"), "{seen}");
    let session = v1::Session {
        container: Some(container("c1", Some(("prod", "p")))),
        method: Some(1),
        folded: 7,
        ..v1::Session::default()
    };
    let seen = |fields: &[&str]| {
        let seen = rights(&["prod"], fields).show_session(session.clone()).unwrap();
        (seen.method, seen.folded)
    };
    assert_eq!(seen(&["*", "!container.pod.labels"]), (Some(1), 7));
    assert_eq!(seen(&["*", "!sessionStarted.method", "!folded"]), (None, 0));
    assert_eq!(seen(&["*", "!attributed.method"]), (None, 7));
    // A request is of its namespace, though no container is known of it.
    let bare = v1::Event { container: None, ..(*with(request)).clone() };
    assert!(shown(&rights(&["prod"], &["*"]), &Arc::new(bare.clone())).is_some());
    assert!(shown(&rights(&["dev"], &["*"]), &Arc::new(bare)).is_none());
}

#[test]
fn no_event_grows_by_what_is_hidden() {
    // Whatever is left out of the encoded form, what is left can be read: all kinds of bodies.
    let bodies = [command(), executed(&["a"], true), exited(), ended(1), started(0, EntryMethod::ExecProbe)];
    let names =
        ["*", "!executed.process.comm", "!sessionStarted.evidence", "!exited.duration", "!container.pod.uid"];
    for body in bodies {
        let event = of("prod", body);
        let seen = shown(&rights(&["*"], &names), &event).unwrap();
        assert_eq!(std::mem::discriminant(&seen.body), std::mem::discriminant(&event.body));
        assert_eq!(seen.id, event.id);
    }
}

fn condition() -> v1::NodeCondition {
    v1::NodeCondition {
        r#type: "KernelDeadlock".to_owned(),
        status: "True".to_owned(),
        message: "task payments:20744 blocked".to_owned(),
        ..v1::NodeCondition::default()
    }
}

#[test]
fn how_a_node_is_everybody_on_it_sees_and_what_its_log_says_those_who_see_all() {
    let one = Arc::new(event("n", 0, 1, "", Body::NodeCondition(condition())));
    let state = v1::NodeState { conditions: vec![condition()] };
    let all = Arc::new(event("n", 0, 1, "", Body::NodeState(state)));
    let wordless = v1::NodeCondition { message: String::new(), ..condition() };
    let some = rights(&["prod"], &["*"]);
    assert_eq!(shown(&some, &one).unwrap().body, Some(Body::NodeCondition(wordless.clone())));
    let seen = v1::NodeState { conditions: vec![wordless.clone()] };
    assert_eq!(shown(&some, &all).unwrap().body, Some(Body::NodeState(seen)));
    // As of a session that is theirs.
    let beside = some.show_in(one.clone(), Some("prod")).unwrap();
    assert_eq!(beside.body, Some(Body::NodeCondition(wordless.clone())));
    assert_eq!(shown(&rights(&["*"], &["*"]), &one), Some((*one).clone()));
    // Fields are fields here too, and nobody sees nothing.
    assert_eq!(shown(&rights(&["*"], &["executed"]), &one), None);
    assert_eq!(shown(&Rights::default(), &one), None);
    let fields = rights(&["*"], &["*", "!nodeCondition.message"]);
    assert_eq!(shown(&fields, &one).unwrap().body, Some(Body::NodeCondition(wordless.clone())));
    let node = v1::Node { conditions: vec![condition()], ..v1::Node::default() };
    assert_eq!(some.show_node(node.clone()).conditions, std::slice::from_ref(&wordless));
    assert_eq!(fields.show_node(node.clone()).conditions, [wordless]);
    assert_eq!(rights(&["*"], &["executed"]).show_node(node.clone()).conditions, []);
    assert_eq!(Rights::everything().show_node(node.clone()), node);
    // What an agent was told stays between it and those who see all.
    let observed = v1::NodeObserved { conditions: vec![condition()], ..v1::NodeObserved::default() };
    let observed = Arc::new(event("n", 1, 1, "", Body::NodeObserved(observed)));
    assert_eq!(shown(&some, &observed), None);
    assert!(shown(&rights(&["*"], &["*"]), &observed).is_some());
}

#[test]
fn an_event_of_the_cluster_is_of_the_namespace_that_it_is_about() {
    let about = |kind: &str, namespace: &str| {
        let involved = v1::Involved {
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            ..v1::Involved::default()
        };
        let cluster = v1::ClusterEvent {
            namespace: "prod".to_owned(),
            involved: Some(involved),
            ..v1::ClusterEvent::default()
        };
        Arc::new(event("n", 0, 1, "", Body::ClusterEvent(cluster)))
    };
    let prod = rights(&["prod"], &["*"]);
    assert!(shown(&prod, &about("Pod", "prod")).is_some());
    assert!(shown(&prod, &about("Pod", "dev")).is_none());
    // About a node: in a namespace, and of none; and no session of theirs makes it theirs.
    assert!(shown(&prod, &about("Node", "")).is_none());
    assert!(prod.show_in(about("Node", ""), Some("prod")).is_none());
    assert!(prod.show_in(about("Pod", "dev"), Some("prod")).is_none());
    assert!(shown(&rights(&["*"], &["*"]), &about("Node", "")).is_some());
}
