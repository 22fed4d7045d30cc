use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicI64, Ordering},
};

use podtrail_proto::v1::trail_client::TrailClient;
use tokio::{net::TcpListener, time::timeout};
use tonic::{
    Code, Streaming,
    transport::{Channel, Server, server::TcpIncoming},
};

use super::*;
use crate::trail::{
    MemoryLog,
    log::Entry,
    testing::{SECOND, ended, event, executed, exited, started},
};

const LIMITS: Limits = Limits { max_age: Duration::from_secs(3600), max_bytes: 1 << 20 };
const SOON: Duration = Duration::from_secs(10);

struct Fixture {
    indexed: Arc<Indexed<MemoryLog>>,
    client: TrailClient<Channel>,
    stop: CancellationToken,
    now: Arc<AtomicI64>,
}

async fn serve(max_bytes: u64) -> Fixture {
    let now = Arc::new(AtomicI64::new(1000));
    let clock = now.clone();
    let log =
        MemoryLog::with_clock(max_bytes, Arc::new(move || Moment(clock.load(Ordering::Relaxed) * SECOND)));
    let indexed = Arc::new(Indexed::open(Arc::new(log)).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let service =
        Service::new(indexed.clone(), LIMITS, stop.clone(), Viewer::everything("test")).into_server();
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener)));
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let client = TrailClient::new(channel);
    Fixture { indexed, client: client.max_decoding_message_size(MAX_MESSAGE_BYTES), stop, now }
}

impl Fixture {
    /// Events with these numbers; the cursors are the same.
    fn append(&self, numbers: std::ops::RangeInclusive<u64>) {
        let events = numbers.map(|n| Arc::new(event("n", n, n.cast_signed(), "", exited()))).collect();
        self.indexed.append(events).unwrap();
    }

    fn cursor(&self, cursor: Cursor) -> From {
        From::Cursor(self.indexed.log().id().text(cursor))
    }

    async fn tail(
        &mut self,
        from: Option<From>,
        follow: Option<bool>,
    ) -> Result<Streaming<v1::TailResponse>, Status> {
        self.client
            .tail(v1::TailRequest { from, follow, ..Default::default() })
            .await
            .map(Response::into_inner)
    }

    async fn all(&mut self, from: From) -> Vec<u64> {
        let mut stream = self.tail(Some(from), Some(false)).await.unwrap();
        let mut seen = Vec::new();
        while let Some(n) = next(&mut stream).await.unwrap() {
            seen.push(n);
        }
        seen
    }

    async fn refused(&mut self, from: From) -> (Code, String) {
        let e = self.tail(Some(from), Some(false)).await.unwrap_err();
        (e.code(), e.message().to_owned())
    }
}

/// Of a cursor, whatever log it is of.
fn number(cursor: &str) -> u64 {
    cursor.split_once('-').unwrap().0.parse().unwrap()
}

/// Number of the next event, which must be the same as its cursor here.
async fn next(stream: &mut Streaming<v1::TailResponse>) -> Result<Option<u64>, Status> {
    let Some(response) = timeout(SOON, stream.message()).await.expect("nothing came")? else {
        return Ok(None);
    };
    let seq = response.event.unwrap().id.unwrap().seq;
    assert_eq!(number(&response.cursor), seq);
    Ok(Some(seq))
}

#[tokio::test]
async fn tails_begin_where_they_are_told() {
    let mut f = serve(u64::MAX).await;
    f.append(1..=3);
    f.now.store(2000, Ordering::Relaxed);
    f.append(4..=5);
    assert_eq!(f.all(From::Oldest(true)).await, [1, 2, 3, 4, 5]);
    assert_eq!(f.all(From::Latest(true)).await, [0; 0]);
    assert_eq!(f.all(f.cursor(0)).await, [1, 2, 3, 4, 5]);
    assert_eq!(f.all(f.cursor(3)).await, [4, 5]);
    assert_eq!(f.all(f.cursor(5)).await, [0; 0]);
    assert_eq!(f.all(From::Time(Moment(1500 * SECOND).timestamp())).await, [4, 5]);
    assert_eq!(f.all(From::Time(Moment(3000 * SECOND).timestamp())).await, [0; 0]);

    let mut latest = f.tail(None, None).await.unwrap();
    f.append(6..=700);
    for wanted in 6..=700 {
        assert_eq!(next(&mut latest).await.unwrap(), Some(wanted));
    }
    f.stop.cancel();
    let end = next(&mut latest).await.unwrap_err();
    assert_eq!((end.code(), end.message()), (Code::Unavailable, "shutting down: come again"));
}

#[tokio::test]
async fn cursors_that_cannot_be_served_are_refused() {
    let mut f = serve(u64::MAX).await;
    f.append(1..=10);
    let bytes = f.indexed.log().bounds().unwrap().bytes;
    f.indexed.trim(&Limits { max_age: Duration::MAX, max_bytes: bytes / 2 }).unwrap();
    assert_eq!(
        f.refused(f.cursor(4)).await,
        (
            Code::OutOfRange,
            format!(
                "events 5 to 5 are trimmed already: the oldest left is {}; start with oldest, or with a later cursor",
                f.indexed.log().id().text(6)
            )
        )
    );
    assert_eq!(f.all(f.cursor(5)).await, [6, 7, 8, 9, 10]);
    let (code, message) = f.refused(f.cursor(11)).await;
    assert_eq!(code, Code::OutOfRange);
    let log = f.indexed.log().id();
    assert!(message.starts_with(&format!("cursor 11-{log} is after the newest, 10-{log}")), "{message}");
    let other = LogId(log.0 ^ 1);
    let (code, message) = f.refused(From::Cursor(other.text(7))).await;
    assert_eq!(code, Code::OutOfRange);
    assert!(
        message.starts_with(&format!("cursor 7-{other} is of another log than this one ({log})")),
        "{message}"
    );
    for bad in ["", "x", "-1", "7", "18446744073709551615-00000000", "1\u{1b}[2J"] {
        let (code, message) = f.refused(From::Cursor(bad.to_owned())).await;
        assert_eq!((code, message), (Code::InvalidArgument, format!("{bad:?} is not a cursor")));
    }
}

#[tokio::test]
async fn a_slow_reader_holds_no_more_than_a_page_and_is_told_when_it_is_left_behind() {
    let mut f = serve(256 * 1024).await;
    let big = |n| {
        let mut e = event("n", n, 1, "", exited());
        e.session_id = "x".repeat(10_000);
        Arc::new(e)
    };
    let mut slow = f.tail(Some(From::Latest(true)), None).await.unwrap();
    let weak: Vec<_> = (1..=4000u64)
        .map(|n| {
            let event = big(n);
            let weak = Arc::downgrade(&event);
            f.indexed.append(vec![event]).unwrap();
            weak
        })
        .collect();
    let held = weak.iter().filter(|w| w.strong_count() > 0).count();
    assert!(held < 300, "{held} of 4000 events are still in memory");
    let mut last = 0;
    let end = loop {
        match next(&mut slow).await {
            Ok(Some(n)) => {
                assert_eq!(n, last + 1);
                last = n;
            }
            Ok(None) => panic!("it ended without a reason"),
            Err(e) => break e,
        }
    };
    assert_eq!(end.code(), Code::OutOfRange);
    assert!(end.message().starts_with(&format!("events {} to ", last + 1)), "{}", end.message());
}

fn session(id: &str, commands: u64, argument: &str) -> Vec<Arc<v1::Event>> {
    let mut bodies = vec![started(1, v1::EntryMethod::RuntimeExec)];
    bodies.extend((0..commands).map(|n| executed(&["echo", &n.to_string(), argument], n == 0)));
    bodies.push(ended(0));
    let events =
        bodies.into_iter().zip(1..).map(|(body, n)| Arc::new(event("n", n, n.cast_signed(), id, body)));
    // Others in between.
    events.flat_map(|e| [e, Arc::new(event("m", 1, 1, "", exited()))]).collect()
}

async fn pages(f: &mut Fixture, id: &str, page_size: u32) -> (v1::Session, Vec<Vec<v1::Event>>) {
    let mut request = v1::GetSessionRequest { id: id.to_owned(), page_size, page_token: String::new() };
    let mut pages = Vec::new();
    loop {
        let response = f.client.get_session(request.clone()).await.unwrap().into_inner();
        assert!(prost::Message::encoded_len(&response) < 4 << 20);
        pages.push(response.events);
        request.page_token = response.next_page_token;
        if request.page_token.is_empty() {
            return (response.session.unwrap(), pages);
        }
    }
}

#[tokio::test]
async fn sessions_come_in_pages_by_count_and_by_length() {
    let mut f = serve(u64::MAX).await;
    f.indexed.append(session("long", 98, "x")).unwrap();
    f.indexed.append(session("wide", 50, &"y".repeat(100_000))).unwrap();

    let (known, parts) = pages(&mut f, "long", 30).await;
    assert_eq!((known.id.as_str(), known.commands, known.first_command.as_str()), ("long", 98, "echo 0 x"));
    assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [30, 30, 30, 10]);
    let numbers: Vec<u64> = parts.iter().flatten().map(|e| e.id.as_ref().unwrap().seq).collect();
    assert_eq!(numbers, (1..=100).collect::<Vec<_>>());
    assert!(parts.iter().flatten().all(|e| e.session_id == "long"));

    let (_, parts) = pages(&mut f, "w", 0).await;
    assert_eq!(parts.iter().map(Vec::len).sum::<usize>(), 52);
    assert!(parts.len() >= 5, "{} pages", parts.len());
    let (_, parts) = pages(&mut f, "wide", 52).await;
    assert_eq!(parts.iter().map(Vec::len).sum::<usize>(), 52);
}

#[tokio::test]
async fn sessions_are_listed_in_pages() {
    let mut f = serve(u64::MAX).await;
    for n in 0..5 {
        f.indexed.append(session(&format!("s{n}"), 1, "x")).unwrap();
    }
    let mut request = v1::ListSessionsRequest { page_size: 2, ..v1::ListSessionsRequest::default() };
    let mut seen = Vec::new();
    loop {
        let response = f.client.list_sessions(request.clone()).await.unwrap().into_inner();
        seen.push(response.sessions.into_iter().map(|s| s.id).collect::<Vec<_>>().join(" "));
        request.page_token = response.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, ["s4 s3", "s2 s1", "s0"]);
    request.page_token = "nonsense".to_owned();
    let e = f.client.list_sessions(request).await.unwrap_err();
    assert_eq!(
        (e.code(), e.message()),
        (Code::InvalidArgument, "page_token is not one that this call gave out")
    );
}

#[tokio::test]
async fn names_that_find_nothing_or_too_much() {
    let mut f = serve(u64::MAX).await;
    for id in ["aa", "ab"] {
        f.indexed.append(session(id, 1, "x")).unwrap();
    }
    let mut ask = async |id: &str| {
        let request = v1::GetSessionRequest { id: id.to_owned(), ..v1::GetSessionRequest::default() };
        let e = f.client.get_session(request).await.unwrap_err();
        (e.code(), e.message().to_owned())
    };
    let (code, message) = ask("b").await;
    assert_eq!(code, Code::NotFound);
    assert!(message.starts_with("there is no session \"b\" in the log"), "{message}");
    let (code, message) = ask("a").await;
    assert_eq!(code, Code::InvalidArgument);
    assert!(message.ends_with("write more of it: aa, ab"), "{message}");
}

#[tokio::test]
async fn nodes_and_what_is_kept() {
    let mut f = serve(u64::MAX).await;
    f.append(1..=10);
    f.indexed.set_connected("c", "n", true);
    let response = f.client.list_nodes(v1::ListNodesRequest {}).await.unwrap().into_inner();
    let node = &response.nodes[0];
    assert_eq!((node.cluster.as_str(), node.name.as_str(), node.events, node.last_seq), ("c", "n", 10, 10));
    assert!(node.connected);
    let kept = response.retention.unwrap();
    assert_eq!((kept.max_age.unwrap().seconds, kept.max_bytes, kept.events), (3600, 1 << 20, 10));
    assert_eq!((number(&kept.oldest_cursor), number(&kept.newest_cursor)), (1, 10));
    assert_eq!(kept.oldest, Some(Moment(1000 * SECOND).timestamp()));
    assert_eq!(kept.bytes, f.indexed.log().bounds().unwrap().bytes);
}

/// A log whose question panics: the answer is an error, and the next question is answered.
#[derive(Debug)]
struct Broken(tokio::sync::watch::Sender<Cursor>);

impl Log for Broken {
    fn id(&self) -> LogId {
        LogId(1)
    }
    fn append(&self, _: Vec<Arc<v1::Event>>) -> Result<Cursor, LogError> {
        Ok(0)
    }
    fn read(&self, _: Cursor, _: Page) -> Result<Vec<Entry>, LogError> {
        Ok(Vec::new())
    }
    fn get(&self, _: &[Cursor], _: Page) -> Result<Vec<Entry>, LogError> {
        Ok(Vec::new())
    }
    fn seek(&self, time: Moment) -> Result<Cursor, LogError> {
        if time.0 == 0 { panic!("broken") } else { Err(LogError::Corrupt(7, "torn".to_owned())) }
    }
    fn bounds(&self) -> Result<crate::trail::log::Bounds, LogError> {
        Ok(crate::trail::log::Bounds { oldest: 1, ..crate::trail::log::Bounds::default() })
    }
    fn trim(&self, _: &Limits) -> Result<u64, LogError> {
        Ok(0)
    }
    fn newest(&self) -> tokio::sync::watch::Receiver<Cursor> {
        self.0.subscribe()
    }
}

#[tokio::test]
async fn a_log_that_fails_is_an_error_and_not_the_end() {
    use podtrail_proto::v1::trail_server::Trail as _;
    let indexed = Arc::new(Indexed::open(Arc::new(Broken(tokio::sync::watch::Sender::new(0)))).unwrap());
    let service = Service::new(indexed, LIMITS, CancellationToken::new(), Viewer::everything("test"));
    let ask = async |time: i64| {
        let from = Some(From::Time(Moment(time).timestamp()));
        let Err(e) =
            service.tail(Request::new(v1::TailRequest { from, follow: None, ..Default::default() })).await
        else {
            panic!("it was answered")
        };
        (e.code(), e.message().to_owned())
    };
    assert_eq!(ask(0).await.0, Code::Internal);
    assert_eq!(ask(1).await, (Code::DataLoss, "the event at cursor 7 cannot be read: torn".to_owned()));
}

/// A log that is busy: before each read so many events come that all it held is trimmed.
#[derive(Debug)]
struct Busy {
    log: MemoryLog,
    next: AtomicI64,
    /// not while the index counts what is there
    served: AtomicBool,
}

impl Busy {
    const HELD: i64 = 3;

    fn new() -> Self {
        let event = |n| Arc::new(event("n", n, 1000, "", exited()));
        let bytes = prost::Message::encoded_len(&*event(1)) * 3;
        let busy = Self {
            log: MemoryLog::new(bytes as u64),
            next: AtomicI64::new(1),
            served: AtomicBool::new(false),
        };
        busy.come();
        busy
    }

    fn come(&self) {
        let first = self.next.fetch_add(Self::HELD, Ordering::Relaxed);
        let event = |n: i64| Arc::new(event("n", n.cast_unsigned(), 1000, "", exited()));
        self.log.append((first..first + Self::HELD).map(event).collect()).unwrap();
    }
}

impl Log for Busy {
    fn id(&self) -> LogId {
        self.log.id()
    }
    fn append(&self, events: Vec<Arc<v1::Event>>) -> Result<Cursor, LogError> {
        self.log.append(events)
    }
    fn read(&self, after: Cursor, page: Page) -> Result<Vec<Entry>, LogError> {
        if !self.served.load(Ordering::Relaxed) {
            return self.log.read(after, page);
        }
        self.come();
        // A page of one, so that there is a second read.
        self.log.read(after, Page { max_events: 1, ..page })
    }
    fn get(&self, cursors: &[Cursor], page: Page) -> Result<Vec<Entry>, LogError> {
        self.log.get(cursors, page)
    }
    fn seek(&self, time: Moment) -> Result<Cursor, LogError> {
        self.log.seek(time)
    }
    fn bounds(&self) -> Result<crate::trail::log::Bounds, LogError> {
        self.log.bounds()
    }
    fn trim(&self, limits: &Limits) -> Result<u64, LogError> {
        self.log.trim(limits)
    }
    fn newest(&self) -> tokio::sync::watch::Receiver<Cursor> {
        self.log.newest()
    }
}

#[tokio::test]
async fn the_oldest_is_what_is_oldest_when_it_is_read() {
    use podtrail_proto::v1::trail_server::Trail as _;
    for follow in [false, true] {
        let busy = Arc::new(Busy::new());
        let indexed = Arc::new(Indexed::open(busy.clone()).unwrap());
        busy.served.store(true, Ordering::Relaxed);
        let service = Service::new(indexed, LIMITS, CancellationToken::new(), Viewer::everything("test"));
        let from = Some(From::Oldest(true));
        let request = v1::TailRequest { from, follow: Some(follow), ..Default::default() };
        let mut tail = service.tail(Request::new(request)).await.unwrap().into_inner();
        let first = timeout(SOON, tail.next()).await.unwrap().unwrap().unwrap();
        // What was there at the call, 1 to 3, is gone by the first read.
        assert_eq!(number(&first.cursor), 4, "follow {follow}");
        let then = timeout(SOON, tail.next()).await.unwrap();
        if follow {
            // From its first event on it is a reader like any other.
            let left_behind = then.unwrap().unwrap_err();
            assert_eq!(left_behind.code(), Code::OutOfRange);
            assert!(left_behind.message().starts_with("events 5 to "), "{}", left_behind.message());
        } else {
            assert!(then.is_none(), "{then:?}");
        }
    }
}

#[tokio::test]
async fn whoever_keeps_no_subscriptions_says_who_does() {
    let mut f = serve(u64::MAX).await;
    let said = |e: Status| (e.code(), e.message().to_owned());
    let expected = (Code::Unimplemented, "subscriptions are the collector's: ask it, or tail".to_owned());
    let requests = tokio_stream::iter([v1::SubscribeRequest::default()]);
    assert_eq!(said(f.client.subscribe(requests).await.unwrap_err()), expected);
    let list = f.client.list_subscriptions(v1::ListSubscriptionsRequest {}).await;
    assert_eq!(said(list.unwrap_err()), expected);
    let get = f.client.get_subscription(v1::GetSubscriptionRequest::default()).await;
    assert_eq!(said(get.unwrap_err()), expected);
    let delete = f.client.delete_subscription(v1::DeleteSubscriptionRequest::default()).await;
    assert_eq!(said(delete.unwrap_err()), expected);
}
