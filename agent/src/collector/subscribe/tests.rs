//! What a reader is promised, with a log in memory and a store that can fail.

mod calls;

use std::sync::atomic::AtomicI64;

use tokio::time::timeout;

use super::{testing::Kept, *};
use crate::trail::{
    MemoryLog,
    log::{Limits, Log as _},
    testing::{SECOND, event, exited},
};

const SOON: Duration = Duration::from_secs(10);
const DAY: i64 = 24 * 3600;

struct Fixture {
    log: Arc<MemoryLog>,
    kept: Kept,
    now: Arc<AtomicI64>,
    stop: CancellationToken,
    settings: Settings,
    subscriptions: Subscriptions,
}

impl Fixture {
    fn new(settings: Settings) -> Self {
        let now = Arc::new(AtomicI64::new(1000));
        let log = Arc::new(MemoryLog::with_clock(u64::MAX, clock(&now)));
        let (kept, stop) = (Kept::default(), CancellationToken::new());
        let subscriptions = load(&log, &kept, &now, &stop, settings);
        Self { log, kept, now, stop, settings, subscriptions }
    }

    /// As after a SIGKILL: what was not written is gone.
    fn restart(&mut self) {
        self.stop = CancellationToken::new();
        self.subscriptions = load(&self.log, &self.kept, &self.now, &self.stop, self.settings);
    }

    /// Events with these numbers; the cursors are the same.
    fn append(&self, numbers: std::ops::RangeInclusive<u64>) {
        let events = numbers.map(|n| Arc::new(event("n", n, n.cast_signed(), "", exited()))).collect();
        self.log.append(events).unwrap();
    }

    /// Keeps the last `events`, which are all of the same length.
    fn keep(&self, events: u64) {
        let bounds = self.log.bounds().unwrap();
        let max_bytes = bounds.bytes / bounds.events * events;
        self.log.trim(&Limits { max_age: Duration::MAX, max_bytes }).unwrap();
        assert_eq!(self.log.bounds().unwrap().events, events);
    }

    fn try_open(&self, name: &str, options: Options) -> Result<Handle, OpenError> {
        self.subscriptions.open_now(Viewer::everything("siem"), name.to_owned(), options)
    }

    fn open(&self, name: &str, from: Option<From>) -> Handle {
        self.try_open(name, Options { from, ..Options::default() }).unwrap()
    }

    fn position(&self, name: &str) -> Cursor {
        let text = self.subscriptions.get("siem", name).unwrap().cursor;
        self.log.id().parse(&text).unwrap()
    }
}

fn clock(now: &Arc<AtomicI64>) -> Clock {
    let now = now.clone();
    Arc::new(move || Moment(now.load(Ordering::Relaxed) * SECOND))
}

fn load(
    log: &Arc<MemoryLog>,
    kept: &Kept,
    now: &Arc<AtomicI64>,
    stop: &CancellationToken,
    settings: Settings,
) -> Subscriptions {
    Subscriptions::load(log.clone(), Box::new(kept.clone()), settings, clock(now), stop.clone()).unwrap()
}

async fn next(handle: &mut Handle) -> Result<Delivered, Closed> {
    timeout(SOON, handle.next()).await.expect("nothing came")
}

/// Cursors of the next `count` events.
async fn take(handle: &mut Handle, count: usize) -> Vec<Cursor> {
    let mut cursors = Vec::new();
    while cursors.len() < count {
        match next(handle).await.unwrap() {
            Delivered::Events(batch) => cursors.extend(batch.iter().map(|d| d.cursor)),
            Delivered::Heartbeat(_) => {}
        }
    }
    cursors
}

fn all(range: std::ops::RangeInclusive<u64>) -> Vec<Cursor> {
    range.collect()
}

#[tokio::test]
async fn begins_where_it_is_told_and_goes_on_where_it_was() {
    let f = Fixture::new(Settings::default());
    f.append(1..=3);
    f.now.store(2000, Ordering::Relaxed);
    f.append(4..=5);
    assert!(matches!(f.try_open("s", Options { from: Some(From::Resume), ..Options::default() }),
        Err(OpenError::NotThere(name)) if name == "s"));
    for (from, first) in [
        (Some(From::Oldest), 1),
        (Some(From::After(2)), 3),
        (Some(From::Time(Moment(1500 * SECOND))), 4),
        (Some(From::After(0)), 1),
    ] {
        let mut handle = f.open("s", from);
        assert_eq!(take(&mut handle, 6 - usize::try_from(first).unwrap()).await, all(first..=5), "{from:?}");
    }
    // Nothing of that was acknowledged, but the last open says where it is.
    for from in [None, Some(From::Resume)] {
        let mut handle = f.open("s", from);
        assert_eq!(handle.opened(), Opened { at: 0, created: false, oldest: 1, newest: 5 });
        assert_eq!(take(&mut handle, 5).await, all(1..=5));
    }
    let mut handle = f.open("s", None);
    take(&mut handle, 5).await;
    handle.ack(3).unwrap();
    drop(handle);
    assert_eq!(take(&mut f.open("s", None), 2).await, [4, 5]);
    // A new one begins at the end.
    let mut new = f.open("new", None);
    assert_eq!(new.opened(), Opened { at: 5, created: true, oldest: 1, newest: 5 });
    f.append(6..=6);
    assert_eq!(take(&mut new, 1).await, [6]);
    assert!(matches!(
        f.try_open("s", Options { from: Some(From::After(7)), ..Options::default() }),
        Err(OpenError::AfterNewest { after: 7, newest: 6 })
    ));
}

#[tokio::test]
async fn a_killed_collector_delivers_again_what_it_was_not_told_of_and_nothing_else() {
    let mut f = Fixture::new(Settings::default());
    f.append(1..=10);
    let mut handle = f.open("s", Some(From::Oldest));
    assert_eq!(take(&mut handle, 10).await, all(1..=10));
    handle.ack(4).unwrap();
    f.subscriptions.flush().unwrap();
    handle.ack(8).unwrap();
    f.restart();
    let mut again = f.open("s", Some(From::Resume));
    assert_eq!(take(&mut again, 6).await, all(5..=10), "the last acknowledgement was not written");
    again.ack(10).unwrap();
    // A stream of before the restart changes nothing: its table is not ours.
    drop(handle);
    f.subscriptions.flush().unwrap();
    f.restart();
    assert_eq!(f.position("s"), 10);
}

#[tokio::test]
async fn what_cannot_be_written_is_not_promised_and_tried_again() {
    let mut f = Fixture::new(Settings::default());
    f.append(1..=2);
    f.kept.0.fails.store(true, Ordering::Relaxed);
    assert!(matches!(f.try_open("s", Options::default()), Err(OpenError::Log(LogError::Store(_)))));
    assert_eq!(f.subscriptions.list("siem").unwrap(), []);
    f.kept.0.fails.store(false, Ordering::Relaxed);
    let mut handle = f.open("s", Some(From::Oldest));
    take(&mut handle, 2).await;
    handle.ack(2).unwrap();
    f.kept.0.fails.store(true, Ordering::Relaxed);
    f.subscriptions.flush().unwrap_err();
    f.kept.0.fails.store(false, Ordering::Relaxed);
    f.subscriptions.flush().unwrap();
    f.restart();
    assert_eq!(f.position("s"), 2);
}

#[tokio::test]
async fn acknowledgements_are_written_without_being_asked_for() {
    let f = Fixture::new(Settings::default());
    let running = tokio::spawn(f.subscriptions.clone().run());
    f.append(1..=2);
    let mut handle = f.open("s", Some(From::Oldest));
    take(&mut handle, 2).await;
    let written = async |cursor| {
        while f.kept.0.records.lock().unwrap().values().all(|r| r.cursor != cursor) {
            time::sleep(Duration::from_millis(1)).await;
        }
    };
    for cursor in [1, 2] {
        handle.ack(cursor).unwrap();
        timeout(SOON, written(cursor)).await.unwrap();
    }
    f.stop.cancel();
    assert!(matches!(next(&mut handle).await, Err(Closed::Shutdown)));
    timeout(SOON, running).await.unwrap().unwrap();
}

#[tokio::test]
async fn opening_it_again_closes_who_had_it() {
    let f = Fixture::new(Settings::default());
    f.append(1..=4);
    let mut first = f.open("s", Some(From::Oldest));
    assert_eq!(take(&mut first, 4).await, all(1..=4));
    first.ack(1).unwrap();
    let mut second = f.open("s", None);
    assert_eq!(
        first.ack(4),
        Err(AckError::Closed),
        "the second begins after what was acknowledged before it"
    );
    assert!(matches!(next(&mut first).await, Err(Closed::TakenOver)));
    assert!(matches!(timeout(SOON, first.closed()).await, Ok(Closed::TakenOver)));
    drop(first);
    assert_eq!(f.subscriptions.get("siem", "s").unwrap().connected, Some(true));
    assert_eq!(take(&mut second, 3).await, all(2..=4));
    // Others of the same name are not touched, nor is one that waits.
    let other = f.subscriptions.open_now(Viewer::everything("other"), "s".to_owned(), Options::default());
    assert!(other.unwrap().opened().created);
    second.ack(4).unwrap();
    let waiting = tokio::spawn(async move { next(&mut second).await });
    task::yield_now().await;
    let third = f.subscriptions.open(Viewer::everything("siem"), "s", Options::default()).await.unwrap();
    assert_eq!(third.opened().at, 4);
    assert!(matches!(timeout(SOON, waiting).await.unwrap().unwrap(), Err(Closed::TakenOver)));
}

#[tokio::test]
async fn an_open_that_fails_takes_nothing_from_who_has_it() {
    let f = Fixture::new(Settings::default());
    f.append(1..=10);
    let mut handle = f.open("s", Some(From::Oldest));
    take(&mut handle, 10).await;
    f.keep(3);
    let wrong = [
        Options { from: Some(From::After(99)), ..Options::default() },
        Options { from: Some(From::After(1)), ..Options::default() },
        Options { filter: "(".to_owned(), ..Options::default() },
    ];
    for options in wrong {
        f.try_open("s", options).unwrap_err();
    }
    handle.ack(10).unwrap();
    assert_eq!(f.position("s"), 10);
}

#[tokio::test]
async fn deleted_while_it_is_open() {
    let mut f = Fixture::new(Settings::default());
    f.append(1..=1);
    let mut handle = f.open("s", Some(From::Oldest));
    take(&mut handle, 1).await;
    f.subscriptions.delete("siem", "s").unwrap();
    assert!(matches!(next(&mut handle).await, Err(Closed::Deleted)));
    assert_eq!(handle.ack(1), Err(AckError::Closed));
    drop(handle);
    for _ in 0..2 {
        assert!(matches!(f.subscriptions.delete("siem", "s"), Err(FindError::NotThere(_))));
        assert!(matches!(f.subscriptions.get("siem", "s"), Err(FindError::NotThere(_))));
        f.subscriptions.flush().unwrap();
        f.restart();
    }
    assert!(f.open("s", None).opened().created);
}

#[tokio::test]
async fn what_retention_took_is_told_and_counted() {
    let f = Fixture::new(Settings::default());
    f.append(1..=10);
    let mut strict = f.open("strict", Some(From::After(2)));
    let mut lenient = f
        .try_open(
            "lenient",
            Options { from: Some(From::After(2)), gap_if_trimmed: true, ..Options::default() },
        )
        .unwrap();
    // Both are open already when it happens.
    f.keep(3);
    assert!(matches!(next(&mut strict).await, Err(Closed::Read(LookError::Trimmed { after: 2, oldest: 8 }))));
    let Delivered::Events(batch) = next(&mut lenient).await.unwrap() else { panic!("no events") };
    assert_eq!(batch.iter().map(|d| d.cursor).collect::<Vec<_>>(), [7, 8, 9, 10]);
    let Some(v1::event::Body::Gap(gap)) = &batch[0].event.body else { panic!("{batch:?}") };
    assert_eq!((gap.source(), gap.count(), gap.exact()), (v1::GapSource::Retention, 5, true));
    assert_eq!(gap.to, Some(Moment(1000 * SECOND).timestamp()));
    drop((strict, lenient));
    // And at open; until the gap is acknowledged it comes again.
    let trimmed = |name: &str, from| f.try_open(name, Options { from, ..Options::default() }).unwrap_err();
    assert!(matches!(trimmed("strict", None), OpenError::Trimmed { after: 2, oldest: 8 }));
    assert!(matches!(trimmed("new", Some(From::After(6))), OpenError::Trimmed { after: 6, oldest: 8 }));
    assert!(matches!(f.subscriptions.get("siem", "new"), Err(FindError::NotThere(_))));
    f.keep(1);
    let mut lenient = f.try_open("lenient", Options { gap_if_trimmed: true, ..Options::default() }).unwrap();
    assert_eq!(take(&mut lenient, 2).await, [9, 10]);
    lenient.ack(9).unwrap();
    drop(lenient);
    assert_eq!(take(&mut f.open("lenient", None), 1).await, [10]);
    assert_eq!(f.subscriptions.get("siem", "strict").unwrap().trimmed, Some(true));
    // Where nothing is left there is still a gap, and a place to go on from.
    f.keep(0);
    let mut empty = f
        .try_open("empty", Options { from: Some(From::After(4)), gap_if_trimmed: true, ..Options::default() })
        .unwrap();
    assert_eq!(take(&mut empty, 1).await, [10]);
    f.append(11..=11);
    assert_eq!(take(&mut empty, 1).await, [11]);
}

#[tokio::test]
async fn the_oldest_is_told_of_what_was_older() {
    let f = Fixture::new(Settings::default());
    f.append(1..=10);
    let mut handle = f.open("s", Some(From::Oldest));
    f.keep(4);
    assert_eq!(take(&mut handle, 5).await, all(6..=10), "a gap for 1 to 6, then the oldest");
    f.append(11..=20);
    f.keep(4);
    assert!(matches!(
        next(&mut handle).await,
        Err(Closed::Read(LookError::Trimmed { after: 10, oldest: 17 }))
    ));
}

#[tokio::test]
async fn a_reader_that_does_not_acknowledge_is_closed_and_its_place_is_kept() {
    let f = Fixture::new(Settings { slow_after: Duration::from_secs(1), ..Settings::default() });
    f.append(1..=10);
    let options = Options {
        from: Some(From::Oldest),
        window: Window { events: 4, bytes: 1 << 20 },
        heartbeat: Duration::from_millis(300),
        ..Options::default()
    };
    let mut handle = f.try_open("s", options).unwrap();
    assert_eq!(take(&mut handle, 4).await, all(1..=4));
    handle.ack(2).unwrap();
    assert_eq!(take(&mut handle, 2).await, [5, 6]);
    let mut heartbeats = 0;
    let closed = loop {
        match handle.next().await {
            Ok(Delivered::Heartbeat(6)) => heartbeats += 1,
            Ok(other) => panic!("{other:?}"),
            Err(closed) => break closed,
        }
    };
    assert_eq!(
        closed.to_string(),
        "too slow: for 1 s there was no room for what is next; acknowledge sooner, and open again to go on"
    );
    assert!(heartbeats > 0);
    assert_eq!(f.position("s"), 2);
}

#[tokio::test]
async fn names_and_numbers_are_bounded() {
    let settings = Settings { max_per_principal: 2, max_streams: 3, ..Settings::default() };
    let f = Fixture::new(settings);
    for bad in ["", "A", "a b", "ä", "a/b", "\u{1b}", &"a".repeat(65)] {
        assert!(matches!(f.try_open(bad, Options::default()), Err(OpenError::Name)), "{bad}");
    }
    drop(f.open(&"a".repeat(64), None));
    drop(f.open("a.b-c_9", None));
    assert!(matches!(f.try_open("third", Options::default()), Err(OpenError::TooMany(2))));
    let open = |principal: &str, name: &str| {
        f.subscriptions.open_now(Viewer::everything(principal), name.to_owned(), Options::default())
    };
    let _streams = [open("other", "a").unwrap(), open("other", "b").unwrap(), open("more", "a").unwrap()];
    assert!(matches!(open("more", "b"), Err(OpenError::TooManyOpen(3))));
    f.subscriptions.delete("siem", "a.b-c_9").unwrap();
    drop(_streams);
    open("siem", "third").unwrap();
}

#[tokio::test]
async fn what_nobody_opens_is_forgotten_in_the_end() {
    let mut f = Fixture::new(Settings::default());
    let open = f.open("open", None);
    drop(f.open("idle", None));
    let names = |f: &Fixture| {
        let all = f.subscriptions.list("siem").unwrap();
        all.into_iter().map(|s| s.name).collect::<Vec<_>>().join(" ")
    };
    f.now.store(1000 + 30 * DAY, Ordering::Relaxed);
    f.subscriptions.sweep().unwrap();
    assert_eq!(names(&f), "idle open");
    f.now.store(1001 + 30 * DAY, Ordering::Relaxed);
    f.subscriptions.sweep().unwrap();
    assert_eq!(names(&f), "open");
    // Being open counts, also if the end was not seen.
    f.subscriptions.flush().unwrap();
    f.restart();
    f.now.store(1002 + 59 * DAY, Ordering::Relaxed);
    f.subscriptions.sweep().unwrap();
    assert_eq!(names(&f), "open");
    drop(open);
    f.now.store(1002 + 60 * DAY, Ordering::Relaxed);
    f.subscriptions.sweep().unwrap();
    assert_eq!(names(&f), "");
    f.restart();
    assert_eq!(names(&f), "");
}

#[tokio::test]
async fn a_log_that_lost_its_end_takes_back_who_was_there() {
    let mut f = Fixture::new(Settings::default());
    f.append(1..=10);
    let mut handle = f.open("s", Some(From::Oldest));
    take(&mut handle, 10).await;
    handle.ack(10).unwrap();
    f.subscriptions.flush().unwrap();
    f.log = Arc::new(MemoryLog::with_clock(u64::MAX, clock(&f.now)));
    f.append(1..=7);
    f.restart();
    f.append(8..=9);
    assert_eq!(take(&mut f.open("s", Some(From::Resume)), 2).await, [8, 9]);
}

#[tokio::test]
async fn says_how_far_behind_it_is() {
    let f = Fixture::new(Settings::default());
    f.append(1..=2);
    f.now.store(1010, Ordering::Relaxed);
    f.append(3..=10);
    let mut handle = f.open("s", Some(From::Oldest));
    take(&mut handle, 10).await;
    f.now.store(1015, Ordering::Relaxed);
    handle.ack(4).unwrap();
    f.now.store(1020, Ordering::Relaxed);
    let told = f.subscriptions.get("siem", "s").unwrap();
    let moment = |at: i64| Some(Moment(at * SECOND).timestamp());
    assert_eq!(
        told,
        v1::Subscription {
            principal: "siem".to_owned(),
            name: "s".to_owned(),
            filter: String::new(),
            cursor: f.log.id().text(4),
            connected: Some(true),
            created: moment(1010),
            last_ack: moment(1015),
            lag_events: Some(6),
            lag: Some(Duration::from_secs(10).into()),
            in_flight_events: Some(6),
            trimmed: Some(false),
        }
    );
    drop(handle);
    assert_eq!(
        f.subscriptions.list("siem").unwrap(),
        [v1::Subscription { connected: Some(false), in_flight_events: Some(0), ..told }]
    );
    assert_eq!(f.subscriptions.list("else").unwrap(), []);
}
