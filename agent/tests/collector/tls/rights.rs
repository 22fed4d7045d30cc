//! What principals see of the same log.

use podtrail::trail::Moment;
use podtrail_proto::v1::{
    Container, Event, EventId, Executed, GetSessionRequest, ListNodesRequest, ListSessionsRequest, Pod,
    SessionStarted, SubscribeOpen, SubscribeRequest, TailRequest, event::Body, subscribe_open,
    subscribe_request, subscribe_response,
};

use super::*;

const PRINCIPALS: &str = r#"
[[principal]]
name = "all"
verbs = ["tail", "subscribe", "sessions", "nodes"]
namespaces = ["*"]
fields = ["*"]
[[principal]]
name = "prod"
verbs = ["tail", "subscribe", "sessions"]
namespaces = ["prod"]
fields = ["*", "!executed.argv", "!container.pod.name"]
[[principal]]
name = "nothing"
verbs = ["tail", "subscribe", "sessions"]
"#;

/// Sessions in two pods, one on the node itself, and a gap.
fn events() -> Vec<Event> {
    let container = |namespace: &str| Container {
        id: format!("{namespace}-container"),
        pod: Some(Pod { namespace: namespace.to_owned(), name: format!("{namespace}-0"), ..Pod::default() }),
        ..Container::default()
    };
    let mut events = Vec::new();
    let mut add = |session: &str, container: Option<Container>, body: Body| {
        let seq = u64::try_from(events.len()).unwrap() + 1;
        events.push(Event {
            id: Some(EventId { cluster: "c".to_owned(), node: "n".to_owned(), epoch: 1, seq }),
            time: Some(Moment::now().timestamp()),
            session_id: session.to_owned(),
            container,
            body: Some(body),
            ..Event::default()
        });
    };
    for (session, container) in [
        ("session-prod", Some(container("prod"))),
        ("session-dev", Some(container("dev"))),
        ("session-host", None),
    ] {
        // The first event of a session may not know its pod yet.
        add(session, None, Body::SessionStarted(SessionStarted::default()));
        let argv = vec!["sh".to_owned(), format!("--secret={session}")];
        let executed = Executed { path: "/bin/sh".to_owned(), argv, root: Some(true), ..Executed::default() };
        add(session, container, Body::Executed(executed));
    }
    let gap = v1::Gap { count: Some(3), session_ids: vec!["session-dev".to_owned()], ..v1::Gap::default() };
    add("", None, Body::Gap(gap));
    events
}

async fn all_of(collector: &Collector, files: Files, filter: &str) -> Result<Vec<Event>, Status> {
    let request =
        TailRequest { from: Some(From::Oldest(true)), filter: filter.to_owned(), follow: Some(false) };
    let mut stream = trail(collector, files).await.tail(request).await?.into_inner();
    let mut events = Vec::new();
    while let Some(event) = next(&mut stream).await? {
        events.push(event);
    }
    Ok(events)
}

fn seqs(events: &[Event]) -> Vec<u64> {
    events.iter().map(|event| event.id.as_ref().unwrap().seq).collect()
}

#[tokio::test]
async fn a_principal_sees_its_namespaces_and_fields_and_nothing_else() {
    let place = Place::new();
    let collector = place.start(PRINCIPALS);
    let events = events();
    assert_eq!(report(&collector, place.agent("n"), "n", events.clone()).await.unwrap(), 7);
    let [all, prod, nothing] = ["all", "prod", "nothing"].map(|name| place.reader(name));

    assert_eq!(all_of(&collector, all.clone(), "").await.unwrap(), events);
    let seen = all_of(&collector, prod.clone(), "").await.unwrap();
    assert_eq!(seqs(&seen), [2, 7], "{seen:?}");
    let Some(Body::Executed(executed)) = &seen[0].body else { panic!("{seen:?}") };
    assert_eq!((executed.path.as_str(), executed.argv.as_slice()), ("/bin/sh", &[][..]));
    let pod = seen[0].container.as_ref().unwrap().pod.as_ref().unwrap();
    assert_eq!((pod.namespace.as_str(), pod.name.as_str()), ("prod", ""));
    let Some(Body::Gap(gap)) = &seen[1].body else { panic!("{seen:?}") };
    assert_eq!((gap.count, gap.session_ids.len()), (Some(3), 0));
    assert_eq!(seqs(&all_of(&collector, nothing.clone(), "").await.unwrap()), [7]);

    // A filter sees what its reader sees: a hidden field cannot be guessed at.
    let guess = "executed.argv.exists(arg, arg.contains('secret=session-prod'))";
    assert_eq!(seqs(&all_of(&collector, all.clone(), guess).await.unwrap()), [2, 7]);
    assert_eq!(seqs(&all_of(&collector, prod.clone(), guess).await.unwrap()), [7]);

    // A subscription shows the same.
    let (tx, rx) = mpsc::channel(1);
    let open = SubscribeOpen {
        name: "s".to_owned(),
        from: Some(subscribe_open::From::Oldest(true)),
        ..SubscribeOpen::default()
    };
    tx.send(SubscribeRequest { request: Some(subscribe_request::Request::Open(open)) }).await.unwrap();
    let mut client = trail(&collector, prod.clone()).await;
    let mut stream = client.subscribe(ReceiverStream::new(rx)).await.unwrap().into_inner();
    let mut subscribed = Vec::new();
    while subscribed.len() < 2 {
        let message = timeout(SOON, stream.message()).await.unwrap().unwrap().unwrap();
        if let Some(subscribe_response::Response::Events(events)) = message.response {
            subscribed.extend(events.events);
        }
    }
    assert_eq!(subscribed, seen);

    // Sessions.
    let list = async |files: &Files, request: ListSessionsRequest| {
        let answer = trail(&collector, files.clone()).await.list_sessions(request).await;
        answer.map(|answer| answer.into_inner().sessions)
    };
    let ids = |sessions: Vec<v1::Session>| {
        let mut ids: Vec<_> = sessions.into_iter().map(|session| session.id).collect();
        ids.sort();
        ids
    };
    let everything = ListSessionsRequest::default;
    assert_eq!(ids(list(&all, everything()).await.unwrap()), ["session-dev", "session-host", "session-prod"]);
    let of_prod = list(&prod, everything()).await.unwrap();
    assert_eq!((of_prod[0].first_command.as_str(), of_prod[0].commands), ("", 1));
    assert_eq!(of_prod[0].container.as_ref().unwrap().pod.as_ref().unwrap().name, "");
    assert_eq!(ids(of_prod), ["session-prod"]);
    assert!(list(&nothing, everything()).await.unwrap().is_empty());
    // A hidden field cannot be guessed at.
    let by_pod = ListSessionsRequest { pod: "prod-0".to_owned(), ..everything() };
    assert_eq!(ids(list(&all, by_pod.clone()).await.unwrap()), ["session-prod"]);
    let (code_, why) = code(list(&prod, by_pod).await);
    assert!(code_ == Code::PermissionDenied && why.contains("may not ask for container.pod.name"), "{why}");
    // Nor can another's container be, by the beginning of its id.
    let by_container = ListSessionsRequest { container_id: "dev-".to_owned(), ..everything() };
    assert!(list(&prod, by_container).await.unwrap().is_empty());

    // A session that may not be seen is none; neither does a beginning of its id tell of it.
    let get = async |files: &Files, id: &str| {
        let request = GetSessionRequest { id: id.to_owned(), ..GetSessionRequest::default() };
        trail(&collector, files.clone()).await.get_session(request).await.map(tonic::Response::into_inner)
    };
    for id in ["session-dev", "session-host", "session-d"] {
        let hidden = code(get(&prod, id).await);
        let none = code(get(&prod, "no-such").await);
        assert_eq!(hidden.0, Code::NotFound);
        assert_eq!(hidden.1.replace(id, "no-such"), none.1);
    }
    assert_eq!(code(get(&all, "session-").await).0, Code::InvalidArgument);
    // Of one that may be seen, its first event is, though it did not know its pod; and gaps that may touch it.
    let found = get(&prod, "session-").await.unwrap();
    assert_eq!(found.session.unwrap().id, "session-prod");
    assert_eq!(seqs(&found.events), [1, 2], "{:?}", found.events);
    let Some(Body::Executed(executed)) = &found.events[1].body else { panic!("{:?}", found.events) };
    assert!(executed.argv.is_empty());

    // Verbs.
    let nodes = async |files: &Files| {
        trail(&collector, files.clone())
            .await
            .list_nodes(ListNodesRequest {})
            .await
            .map(|n| n.into_inner().nodes.len())
    };
    assert_eq!(nodes(&all).await.unwrap(), 1);
    let (code_, why) = code(nodes(&prod).await);
    assert_eq!(
        (code_, why.as_str()),
        (Code::PermissionDenied, "\"prod\" may not nodes: its [[principal]] has no such verb")
    );
    assert_eq!(refused(&collector, "rights"), 2.0);
}
