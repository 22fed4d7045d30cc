//! Subscribers of a collector that is killed under them.

use podtrail_proto::v1::{
    subscribe_open::From as Begin, subscribe_request::Request, subscribe_response::Response,
};

use super::*;

/// A subscriber's stream.
pub(super) struct Subscriber {
    requests: mpsc::Sender<v1::SubscribeRequest>,
    responses: Streaming<v1::SubscribeResponse>,
    opened: v1::SubscribeOpened,
}

impl Subscriber {
    pub(super) async fn open(collector: &Collector, open: v1::SubscribeOpen) -> Result<Self, Status> {
        let endpoint = Channel::from_shared(format!("http://{}", collector.grpc)).unwrap();
        let channel = endpoint.connect().await.map_err(|e| Status::unavailable(e.to_string()))?;
        let mut trail = TrailClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let (requests, rx) = mpsc::channel(64);
        requests.send(v1::SubscribeRequest { request: Some(Request::Open(open)) }).await.unwrap();
        let responses = trail.subscribe(ReceiverStream::new(rx)).await?.into_inner();
        let mut this = Self { requests, responses, opened: v1::SubscribeOpened::default() };
        match this.next().await? {
            Response::Opened(opened) => this.opened = opened,
            other => panic!("{other:?}"),
        }
        Ok(this)
    }

    async fn next(&mut self) -> Result<Response, Status> {
        let response = timeout(SOON, self.responses.message()).await.expect("nothing came")?;
        Ok(response.ok_or_else(|| Status::unavailable("it ended"))?.response.unwrap())
    }

    /// Events with their cursors; a heartbeat has none.
    pub(super) async fn events(&mut self) -> Result<Vec<(String, v1::Event)>, Status> {
        Ok(match self.next().await? {
            Response::Events(v1::SubscribeEvents { events, cursors }) => {
                assert_eq!(events.len(), cursors.len());
                cursors.into_iter().zip(events).collect()
            }
            _ => Vec::new(),
        })
    }

    async fn ack(&self, cursor: &str) {
        let ack = v1::SubscribeAck { cursor: cursor.to_owned() };
        _ = self.requests.send(v1::SubscribeRequest { request: Some(Request::Ack(ack)) }).await;
    }
}

fn named(name: &str, from: Option<Begin>) -> v1::SubscribeOpen {
    v1::SubscribeOpen { name: name.to_owned(), from, max_in_flight_events: 500, ..Default::default() }
}

/// What a subscriber remembers over the collector's deaths.
#[derive(Debug, Default)]
struct Memory {
    /// cursor and number of what came last
    delivered: u64,
    /// the last that it acknowledged
    acked: u64,
    /// the same, as text; the collector may not have kept it
    cursor: Option<String>,
    /// where the collector said that it begins
    began: u64,
    redelivered: u64,
}

/// Reads until the collector dies. With `own`, it begins at its own cursor and not where the collector believes it is.
async fn read(collector: &Collector, mut memory: Memory, own: bool, mut dice: Dice) -> Memory {
    let (name, from) = match &memory.cursor {
        Some(cursor) if own => ("own", Some(Begin::Cursor(cursor.clone()))),
        _ if own => ("own", Some(Begin::Oldest(true))),
        None => ("kept", Some(Begin::Oldest(true))),
        Some(_) => ("kept", Some(Begin::Resume(true))),
    };
    let Ok(mut subscriber) = Subscriber::open(collector, named(name, from)).await else { return memory };
    let began = number(&subscriber.opened.cursor);
    assert!(began <= memory.acked, "{name}: begins after {began}, acknowledged was {}", memory.acked);
    assert!(began >= memory.began, "{name}: was at {} before, and begins after {began}", memory.began);
    if own {
        assert_eq!(began, memory.acked);
    }
    memory.began = began;
    let mut next = began + 1;
    while let Ok(events) = subscriber.events().await {
        let mut last = None;
        for (cursor, event) in events {
            // One node, one epoch: the number is the place in the log.
            assert_eq!((number(&cursor), event.id.unwrap().seq), (next, next), "{name}");
            memory.redelivered += u64::from(next <= memory.delivered);
            memory.delivered = memory.delivered.max(next);
            next += 1;
            last = Some(cursor);
        }
        if let Some(cursor) = last
            && (own || dice.throw(3) > 0)
        {
            subscriber.ack(&cursor).await;
            memory.acked = number(&cursor);
            memory.cursor = Some(cursor);
        }
    }
    memory
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_it_delivers_every_event_in_order_and_none_that_a_reader_keeps_count_of_twice() {
    let seed = std::process::id().into();
    println!("seed {seed}");
    let mut dice = Dice(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut reported = 0;
    let (mut own, mut kept) = (Memory::default(), Memory::default());
    for round in 0..100 {
        if round >= 12 && own.delivered > 1000 && kept.began > 200 {
            break;
        }
        let collector = Arc::new(start(dir.path()));
        let (agent, first, second) =
            (collector.clone(), Dice(dice.throw(u64::MAX)), Dice(dice.throw(u64::MAX)));
        let reporting = tokio::spawn(async move { report(&agent, "n", reported + 1, first).await });
        let readers = [(own, true), (kept, false)].map(|(memory, own)| {
            let (collector, dice) = (collector.clone(), Dice(second.0));
            tokio::spawn(async move { read(&collector, memory, own, dice).await })
        });
        tokio::time::sleep(Duration::from_millis(50 + dice.throw(300))).await;
        kill(Pid::from_raw(i32::try_from(collector.child.id()).unwrap()), Signal::SIGKILL).unwrap();
        reported = timeout(SOON, reporting).await.unwrap().unwrap();
        let [first, second] = readers;
        own = timeout(SOON, first).await.unwrap().unwrap();
        kept = timeout(SOON, second).await.unwrap().unwrap();
    }
    println!("{own:?} {kept:?}");
    assert!(own.delivered > 1000 && kept.began > 200, "hardly anything was delivered: {own:?} {kept:?}");
    assert_eq!(own.redelivered, 0, "{own:?}");

    // And in the end both have all of it.
    let collector = start(dir.path());
    let newest = collector.events().await.len() as u64;
    assert!(newest >= reported);
    for (memory, from) in [(own, Begin::Cursor(String::new())), (kept, Begin::Resume(true))] {
        let (name, from) = match from {
            Begin::Cursor(_) => ("own", memory.cursor.map_or(Begin::Oldest(true), Begin::Cursor)),
            from => ("kept", from),
        };
        let mut subscriber = Subscriber::open(&collector, named(name, Some(from))).await.unwrap();
        let mut next = number(&subscriber.opened.cursor) + 1;
        assert!(next <= memory.delivered + 1);
        let mut broken = 0;
        while next <= newest {
            let events = match subscriber.events().await {
                Ok(events) => events,
                // A connection may break; whoever comes again goes on where it was.
                Err(e) => {
                    broken += 1;
                    assert!(broken < 5, "{name}: {e:?}; {}", collector.log.lock().unwrap());
                    subscriber =
                        Subscriber::open(&collector, named(name, Some(Begin::Resume(true)))).await.unwrap();
                    let began = number(&subscriber.opened.cursor) + 1;
                    assert!(began <= next, "{name}: goes on with {began}, came to {next}");
                    next = began;
                    continue;
                }
            };
            for (cursor, event) in events {
                assert_eq!((number(&cursor), event.id.unwrap().seq), (next, next), "{name}");
                next += 1;
                subscriber.ack(&cursor).await;
            }
        }
    }
}

#[tokio::test]
async fn a_stop_keeps_every_acknowledgement_and_tells_the_reader() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let collector = start(dir.path());
        let mut agent = Agent::connect(&collector).await;
        let first = round * 10 + 1;
        let events = (first..first + 10).map(|seq| event("n", 1, seq)).collect();
        agent.send(Some(hello("n", 1)), events).await.unwrap();
        let from = (round == 0).then_some(Begin::Oldest(true));
        let mut subscriber = Subscriber::open(&collector, named("s", from)).await.unwrap();
        // What was not acknowledged the last time comes again, and nothing else.
        let begin = if round == 0 { 0 } else { first - 6 };
        assert_eq!(number(&subscriber.opened.cursor), begin);
        let mut cursors = Vec::new();
        while cursors.len() as u64 + begin < first + 9 {
            cursors.extend(subscriber.events().await.unwrap().into_iter().map(|(cursor, _)| cursor));
        }
        let fifth = cursors.iter().find(|c| number(c) == first + 4).unwrap();
        subscriber.ack(fifth).await;
        let until = Instant::now() + SOON;
        let request = v1::GetSubscriptionRequest { name: "s".to_owned() };
        while {
            let got = collector.trail().await.get_subscription(request.clone()).await.unwrap().into_inner();
            got.subscription.unwrap().cursor != *fifth
        } {
            assert!(Instant::now() < until);
        }
        let stopped = tokio::task::spawn_blocking(move || collector.stop(Signal::SIGTERM));
        let end = loop {
            if let Err(end) = subscriber.events().await {
                break end;
            }
        };
        assert_eq!((end.code(), end.message()), (Code::Unavailable, "shutting down: come again"));
        assert_eq!(stopped.await.unwrap().0, Some(0));
    }
}

#[tokio::test]
async fn a_reader_that_retention_overtakes_gets_a_gap_with_the_exact_count() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = command(dir.path());
    command.args(["--max-bytes", "1MiB"]);
    let collector = start_with(command);
    let mut agent = Agent::connect(&collector).await;
    let wide = |seq| {
        let mut e = event("n", 1, seq);
        e.body = Some(Body::Executed(v1::Executed { path: "p".repeat(10_000), ..v1::Executed::default() }));
        e
    };
    agent.send(Some(hello("n", 1)), (1..=50).map(wide).collect()).await.unwrap();
    let open = |gap_if_trimmed| v1::SubscribeOpen { gap_if_trimmed, ..named("s", None) };
    let oldest = v1::SubscribeOpen { from: Some(Begin::Oldest(true)), ..open(true) };
    let mut subscriber = Subscriber::open(&collector, oldest).await.unwrap();
    let mut seen = 0;
    while seen < 50 {
        seen += subscriber.events().await.unwrap().len();
    }
    drop(subscriber);
    agent.send(None, (51..=400).map(wide).collect()).await.unwrap();
    let until = Instant::now() + SOON;
    let request = v1::GetSubscriptionRequest { name: "s".to_owned() };
    loop {
        let got = collector.trail().await.get_subscription(request.clone()).await.unwrap().into_inner();
        let got = got.subscription.unwrap();
        if got.trimmed() {
            assert_eq!(got.lag_events(), 400);
            break;
        }
        assert!(Instant::now() < until, "{got:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let e = Subscriber::open(&collector, open(false)).await.err().unwrap();
    assert_eq!(e.code(), Code::OutOfRange);
    assert!(e.message().starts_with("events 1 to "), "{e:?}");
    let mut subscriber = Subscriber::open(&collector, open(true)).await.unwrap();
    let mut events: Vec<(String, v1::Event)> = Vec::new();
    while events.last().is_none_or(|(cursor, _)| number(cursor) < 400) {
        events.extend(subscriber.events().await.unwrap());
    }
    let Some(Body::Gap(gap)) = &events[0].1.body else { panic!("{:?}", events[0]) };
    assert_eq!((gap.source(), gap.exact()), (v1::GapSource::Retention, true));
    assert_eq!(gap.count() + events.len() as u64 - 1, 400);
    let rest: Vec<u64> = events[1..].iter().map(|(_, e)| e.id.as_ref().unwrap().seq).collect();
    assert_eq!(rest, (gap.count() + 1..=400).collect::<Vec<_>>());
}
