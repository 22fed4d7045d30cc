//! Over gRPC, with a log in memory.

use podtrail_proto::v1::{
    subscribe_open, subscribe_request::Request, subscribe_response::Response, trail_client::TrailClient,
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Server, server::TcpIncoming},
};

use super::{super::calls::Calls, *};
use crate::trail::{Indexed, LogId, MAX_MESSAGE_BYTES, service::Service};

/// A subscriber as a client is one.
struct Client {
    requests: mpsc::Sender<v1::SubscribeRequest>,
    responses: Streaming<v1::SubscribeResponse>,
    log: LogId,
}

struct Served {
    f: Fixture,
    trail: TrailClient<Channel>,
}

async fn serve(settings: Settings) -> Served {
    let f = Fixture::new(settings);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = Limits { max_age: Duration::MAX, max_bytes: u64::MAX };
    let indexed = Arc::new(Indexed::open(f.log.clone()).unwrap());
    let service = Service::new(indexed, limits, f.stop.clone(), Viewer::everything("siem"))
        .with_subscriptions(Arc::new(Calls::new(f.subscriptions.clone())))
        .into_server();
    let server = Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    Served { f, trail: TrailClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES) }
}

fn named(name: &str) -> v1::SubscribeOpen {
    v1::SubscribeOpen { name: name.to_owned(), ..Default::default() }
}

fn oldest(name: &str) -> v1::SubscribeOpen {
    v1::SubscribeOpen { from: Some(subscribe_open::From::Oldest(true)), ..named(name) }
}

impl Served {
    async fn stream(&self, first: Request) -> Client {
        let (requests, rx) = mpsc::channel(16);
        requests.send(v1::SubscribeRequest { request: Some(first) }).await.unwrap();
        let responses = self.trail.clone().subscribe(ReceiverStream::new(rx)).await.unwrap().into_inner();
        Client { requests, responses, log: self.f.log.id() }
    }

    async fn open(&self, open: v1::SubscribeOpen) -> (Client, v1::SubscribeOpened) {
        let mut client = self.stream(Request::Open(open)).await;
        match client.next().await.unwrap() {
            Response::Opened(opened) => (client, opened),
            other => panic!("{other:?}"),
        }
    }

    async fn refused(&self, open: v1::SubscribeOpen) -> (Code, String) {
        self.stream(Request::Open(open)).await.end().await
    }
}

impl Client {
    async fn next(&mut self) -> Result<Response, Status> {
        let response = timeout(SOON, self.responses.message()).await.expect("nothing came")?;
        Ok(response.ok_or_else(|| Status::ok("it ended"))?.response.unwrap())
    }

    /// Cursors of the next `count` events.
    async fn take(&mut self, count: usize) -> Vec<Cursor> {
        let mut all = Vec::new();
        while all.len() < count {
            let Response::Events(v1::SubscribeEvents { events, cursors }) = self.next().await.unwrap() else {
                continue;
            };
            let cursors: Vec<Cursor> = cursors.iter().map(|c| self.log.parse(c).unwrap()).collect();
            let numbers: Vec<u64> = events.iter().map(|e| e.id.as_ref().unwrap().seq).collect();
            assert_eq!(numbers, cursors);
            all.extend(cursors);
        }
        all
    }

    async fn heartbeat(&mut self) -> v1::SubscribeHeartbeat {
        match self.next().await.unwrap() {
            Response::Heartbeat(heartbeat) => heartbeat,
            other => panic!("{other:?}"),
        }
    }

    async fn ack_text(&self, cursor: &str) {
        let ack = v1::SubscribeAck { cursor: cursor.to_owned() };
        self.requests.send(v1::SubscribeRequest { request: Some(Request::Ack(ack)) }).await.unwrap();
    }

    async fn ack(&self, cursor: Cursor) {
        self.ack_text(&self.log.text(cursor)).await;
    }

    /// Why it ends, whatever comes before.
    async fn end(mut self) -> (Code, String) {
        loop {
            if let Err(status) = self.next().await {
                return (status.code(), status.message().to_owned());
            }
        }
    }
}

/// Waits until the subscription has come to this place.
async fn until_at(f: &Fixture, name: &str, cursor: Cursor) {
    let there = async {
        while f.position(name) != cursor {
            time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(SOON, there).await.unwrap_or_else(|_| panic!("it is at {}", f.position(name)));
}

#[tokio::test]
async fn delivers_what_is_there_and_what_comes_and_goes_on_after_what_was_acknowledged() {
    let s = serve(Settings::default()).await;
    s.f.append(1..=3000);
    let (mut client, opened) = s.open(oldest("s")).await;
    let text = |cursor| s.f.log.id().text(cursor);
    assert_eq!(
        opened,
        v1::SubscribeOpened {
            cursor: text(0),
            created: true,
            oldest_cursor: text(1),
            newest_cursor: text(3000)
        }
    );
    assert_eq!(client.take(3000).await, all(1..=3000));
    s.f.append(3001..=3001);
    assert_eq!(client.take(1).await, [3001]);
    client.ack(2500).await;
    client.ack(100).await;
    until_at(&s.f, "s", 2500).await;
    // Ending the requests ends the stream.
    let Client { requests, mut responses, .. } = client;
    drop(requests);
    assert_eq!(timeout(SOON, responses.message()).await.unwrap().unwrap(), None);
    let (mut again, opened) = s.open(named("s")).await;
    assert_eq!((opened.cursor, opened.created), (text(2500), false));
    assert_eq!(again.take(501).await, all(2501..=3001));
}

#[tokio::test]
async fn heartbeats_say_what_may_be_acknowledged_though_nothing_is_for_this_reader() {
    let s = serve(Settings::default()).await;
    let fast = podtrail_proto::Duration { seconds: 0, nanos: 100_000_000 };
    // Who may see nothing is like one whose filter matches nothing.
    let viewer = Viewer::nobody();
    s.f.append(1..=50);
    let options =
        Options { from: Some(From::Oldest), heartbeat: Duration::from_millis(100), ..Options::default() };
    let mut blind = s.f.subscriptions.open_now(viewer, "s".to_owned(), options).unwrap();
    let cursor = loop {
        match next(&mut blind).await.unwrap() {
            Delivered::Heartbeat(cursor) if cursor > 0 => break cursor,
            Delivered::Heartbeat(_) => {}
            Delivered::Events(events) => panic!("{events:?}"),
        }
    };
    assert_eq!(cursor, 50);
    blind.ack(50).unwrap();

    let (mut client, _) = s.open(v1::SubscribeOpen { heartbeat: Some(fast), ..oldest("s") }).await;
    client.take(50).await;
    let heartbeat = client.heartbeat().await;
    assert_eq!(heartbeat.cursor, s.f.log.id().text(50));
    assert_eq!(heartbeat.newest_cursor, s.f.log.id().text(50));
    client.ack_text(&heartbeat.cursor).await;
    until_at(&s.f, "s", 50).await;
}

#[tokio::test]
async fn wrong_requests_are_refused_with_what_is_right() {
    let s = serve(Settings::default()).await;
    s.f.append(1..=10);
    s.f.keep(3);
    let log = s.f.log.id();
    let invalid = |message: &str| (Code::InvalidArgument, message.to_owned());
    let from =
        |cursor: String| v1::SubscribeOpen { from: Some(subscribe_open::From::Cursor(cursor)), ..named("s") };
    let second = |nanos| Some(podtrail_proto::Duration { seconds: 0, nanos });
    for (open, message) in [
        (named("S"), "a subscription's name has 1 to 64 of a-z, 0-9, - . _"),
        (
            v1::SubscribeOpen { max_in_flight_events: 10_001, ..named("s") },
            "max_in_flight_events is at most 10000",
        ),
        (
            v1::SubscribeOpen { max_in_flight_bytes: (64 << 20) + 1, ..named("s") },
            "max_in_flight_bytes is at most 67108864",
        ),
        (
            v1::SubscribeOpen { heartbeat: second(99_999_999), ..named("s") },
            "heartbeat is between 100 ms and 1 h",
        ),
        (v1::SubscribeOpen { heartbeat: second(-1), ..named("s") }, "heartbeat is between 100 ms and 1 h"),
        (from("7".to_owned()), "\"7\" is not a cursor"),
    ] {
        assert_eq!(s.refused(open).await, invalid(message));
    }
    let resume = v1::SubscribeOpen { from: Some(subscribe_open::From::Resume(true)), ..named("s") };
    assert_eq!(s.refused(resume).await.0, Code::NotFound);
    let (code, message) = s.refused(from(LogId(log.0 ^ 1).text(9))).await;
    assert_eq!(code, Code::OutOfRange);
    assert!(message.contains("is of another log than this one"), "{message}");
    assert_eq!(
        s.refused(from(log.text(4))).await,
        (
            Code::OutOfRange,
            format!(
                "events 5 to 7 are trimmed already: open with gap_if_trimmed to go on behind them, or with oldest or a later cursor; the oldest left is {}",
                log.text(8)
            )
        )
    );
    assert_eq!(s.refused(from(log.text(11))).await.0, Code::OutOfRange);
    assert_eq!(s.f.subscriptions.list("siem").unwrap(), [], "nothing was made");

    let ack = || Request::Ack(v1::SubscribeAck { cursor: log.text(9) });
    let no_open = invalid("the first request of a stream must carry open");
    assert_eq!(s.stream(ack()).await.end().await, no_open);
    let (client, _) = s.open(oldest("s")).await;
    let again = v1::SubscribeRequest { request: Some(Request::Open(named("s"))) };
    client.requests.send(again).await.unwrap();
    assert_eq!(client.end().await, invalid("after open a client sends acks alone"));
}

#[tokio::test]
async fn acknowledgements_of_what_was_not_delivered_are_refused() {
    let s = serve(Settings::default()).await;
    s.f.append(1..=10);
    let log = s.f.log.id();
    let small = v1::SubscribeOpen { max_in_flight_events: 4, ..oldest("s") };
    let (mut client, _) = s.open(small.clone()).await;
    assert_eq!(client.take(4).await, all(1..=4));
    client.ack(3).await;
    assert_eq!(client.take(3).await, all(5..=7));
    client.ack(8).await;
    assert_eq!(
        client.end().await,
        (
            Code::InvalidArgument,
            format!("that was not delivered on this stream yet: the last that was is {}", log.text(7))
        )
    );
    for (wrong, code) in
        [(LogId(log.0 ^ 1).text(1), Code::OutOfRange), ("4".to_owned(), Code::InvalidArgument)]
    {
        let (mut client, _) = s.open(v1::SubscribeOpen { from: None, ..small.clone() }).await;
        client.take(4).await;
        client.ack_text(&wrong).await;
        assert_eq!(client.end().await.0, code);
    }
    assert_eq!(s.f.position("s"), 3);
}

#[tokio::test]
async fn whoever_is_closed_hears_why() {
    let s = serve(Settings::default()).await;
    s.f.append(1..=2);
    let (first, _) = s.open(oldest("s")).await;
    let (second, _) = s.open(named("s")).await;
    let message = "this subscription was opened again elsewhere: one stream at a time";
    assert_eq!(first.end().await, (Code::Aborted, message.to_owned()));
    let delete = |name: &str| v1::DeleteSubscriptionRequest { name: name.to_owned() };
    s.trail.clone().delete_subscription(delete("s")).await.unwrap();
    assert_eq!(second.end().await, (Code::NotFound, "this subscription was deleted".to_owned()));
    let e = s.trail.clone().delete_subscription(delete("s")).await.unwrap_err();
    assert_eq!((e.code(), e.message()), (Code::NotFound, "there is no subscription \"s\""));
    let (strict, _) = s.open(named("strict")).await;
    let (third, _) = s.open(named("s")).await;
    s.f.append(3..=20);
    s.f.stop.cancel();
    for client in [third, strict] {
        assert_eq!(client.end().await, (Code::Unavailable, "shutting down: come again".to_owned()));
    }
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_closed_and_gets_it_all_when_it_comes_again() {
    let s = serve(Settings { slow_after: Duration::from_millis(300), ..Settings::default() }).await;
    let wide = |n| {
        let mut e = event("n", n, 1, "", exited());
        e.session_id = "x".repeat(10_000);
        Arc::new(e)
    };
    // Its window would take all of it; the connection does not.
    s.f.log.append((1..=2000).map(wide).collect()).unwrap();
    let (client, _) = s.open(v1::SubscribeOpen { max_in_flight_bytes: 64 << 20, ..oldest("s") }).await;
    let closed = async {
        while s.f.subscriptions.get("siem", "s").unwrap().connected() {
            time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, closed).await.unwrap();
    let (code, message) = client.end().await;
    assert_eq!(code, Code::ResourceExhausted);
    assert!(message.starts_with("too slow: for 0 s there was no room for what is next"), "{message}");
    let (mut again, _) = s.open(named("s")).await;
    assert_eq!(again.take(1000).await.first(), Some(&1));
}

#[tokio::test]
async fn they_are_listed_and_shown() {
    let s = serve(Settings::default()).await;
    s.f.append(1..=4);
    let (mut client, _) = s.open(oldest("b")).await;
    client.take(4).await;
    client.ack(1).await;
    until_at(&s.f, "b", 1).await;
    let (_other, _) = s.open(named("a")).await;
    let mut trail = s.trail.clone();
    let listed = trail.list_subscriptions(v1::ListSubscriptionsRequest {}).await.unwrap().into_inner();
    let told: Vec<_> = listed
        .subscriptions
        .iter()
        .map(|s| (s.name.as_str(), s.lag_events(), s.in_flight_events()))
        .collect();
    assert_eq!(told, [("a", 0, 0), ("b", 3, 3)]);
    let request = v1::GetSubscriptionRequest { name: "b".to_owned() };
    let shown = trail.get_subscription(request).await.unwrap().into_inner().subscription;
    assert_eq!(shown.as_ref(), listed.subscriptions.get(1));
    let request = v1::GetSubscriptionRequest { name: "c".to_owned() };
    assert_eq!(trail.get_subscription(request).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_filter_is_kept_and_replaced_by_the_next_open_and_gaps_pass_it() {
    let s = serve(Settings::default()).await;
    let in_session = |n, session: &str| Arc::new(event("n", n, 1, session, exited()));
    let all = (1..=100).map(|n| in_session(n, if n % 10 == 0 { "tens" } else { "rest" }));
    s.f.log.append(all.collect()).unwrap();
    let with = |filter: &str, open| v1::SubscribeOpen { filter: filter.to_owned(), ..open };
    let (code, message) = s.refused(with("sessionid == 'x'", oldest("s"))).await;
    assert_eq!(code, Code::InvalidArgument);
    assert!(message.starts_with("filter, line 1, column 1: "), "{message}");

    let (mut client, _) = s.open(with("session_id == 'tens'", oldest("s"))).await;
    assert_eq!(client.take(10).await, [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]);
    assert_eq!(s.f.subscriptions.get("siem", "s").unwrap().filter, "session_id == 'tens'");
    client.ack(40).await;
    until_at(&s.f, "s", 40).await;
    let (mut client, _) = s.open(named("s")).await;
    assert_eq!(client.take(60).await, (41..=100).collect::<Vec<_>>());
    assert_eq!(s.f.subscriptions.get("siem", "s").unwrap().filter, "");

    s.f.keep(5);
    let open = v1::SubscribeOpen { gap_if_trimmed: true, ..with("session_id == 'tens'", named("s")) };
    let (mut client, _) = s.open(open).await;
    let Response::Events(v1::SubscribeEvents { events, cursors }) = client.next().await.unwrap() else {
        panic!("no events")
    };
    assert!(matches!(&events[0].body, Some(v1::event::Body::Gap(gap)) if gap.count() == 55), "{events:?}");
    assert_eq!(cursors, [s.f.log.id().text(95), s.f.log.id().text(100)]);
}
