use proptest::prelude::*;

use super::*;
use crate::{
    collector::subscribe::look::{LookError, look},
    filter::Filter,
    trail::{
        MemoryLog,
        log::{Limits, Log as _},
        sight::Sight,
        testing::{event, exited},
        viewer::Viewer,
    },
};

const PACE: Pace = Pace { heartbeat: Duration::from_secs(10), slow_after: Duration::from_secs(60) };
const WIDE: Window = Window { events: 10_000, bytes: 1 << 24 };

fn delivery(cursor: Cursor) -> Delivery {
    Delivery::new(cursor, Arc::new(event("n", cursor, 1, "", exited())))
}

fn page(after: Cursor, to: Cursor, shown: impl IntoIterator<Item = Cursor>) -> Look {
    Look { after, to, shown: shown.into_iter().map(delivery).collect() }
}

fn cursors(step: Step) -> Vec<Cursor> {
    match step {
        Step::Deliver(batch) => batch.iter().map(|d| d.cursor).collect(),
        other => panic!("nothing is delivered: {other:?}"),
    }
}

fn now() -> Instant {
    Instant::now()
}

#[test]
fn delivers_in_order_and_then_waits_for_the_heartbeat() {
    let begin = now();
    let mut feed = Feed::new(4, WIDE, PACE, begin);
    assert_eq!(feed.wants(4), None);
    assert_eq!(feed.wants(9), Some(4));
    feed.page(page(4, 7, [5, 6, 7]));
    feed.page(page(4, 7, [5, 6, 7])); // not where the last ended
    assert_eq!(feed.wants(9), Some(7));
    assert_eq!(cursors(feed.step(begin)), [5, 6, 7]);
    assert_eq!(feed.in_flight(), 3);
    assert_eq!(feed.step(begin), Step::Wait(begin + PACE.heartbeat));
    assert_eq!(feed.step(begin + PACE.heartbeat), Step::Heartbeat(7));
    assert_eq!(feed.step(begin + PACE.heartbeat), Step::Wait(begin + 2 * PACE.heartbeat));
}

#[test]
fn what_is_not_shown_is_passed_over_by_a_heartbeat_that_may_be_acknowledged() {
    let begin = now();
    let mut feed = Feed::new(0, WIDE, PACE, begin);
    feed.page(page(0, 1000, []));
    assert_eq!(feed.ack(1000), Err(NotDelivered { last: 0 }), "nobody was told of it");
    assert_eq!(feed.step(begin + PACE.heartbeat), Step::Heartbeat(1000));
    assert_eq!(feed.ack(1000), Ok(true));
    assert_eq!(feed.ack(1000), Ok(false));
    assert_eq!(feed.ack(3), Ok(false));
    assert_eq!(feed.ack(1001), Err(NotDelivered { last: 1000 }));
}

#[test]
fn a_full_window_waits_for_acks_and_too_long_is_too_slow() {
    let begin = now();
    let mut feed = Feed::new(0, Window { events: 2, bytes: 1 << 20 }, PACE, begin);
    feed.page(page(0, 5, [1, 2, 4, 5]));
    assert_eq!(cursors(feed.step(begin)), [1, 2]);
    assert_eq!(feed.step(begin), Step::Wait(begin + PACE.heartbeat));
    let later = begin + Duration::from_secs(59);
    // What is held is not passed over by a heartbeat.
    assert_eq!(feed.step(later), Step::Heartbeat(2));
    assert_eq!(feed.ack(1), Ok(true));
    assert_eq!(cursors(feed.step(later)), [4]);
    assert_eq!(feed.step(later), Step::Wait(later + PACE.heartbeat));
    let last = later + PACE.slow_after;
    assert_eq!(feed.step(last), Step::Slow);
    // With nothing to deliver a full window is nobody's fault.
    feed.ack(2).unwrap();
    assert_eq!(cursors(feed.step(last)), [5]);
    assert_eq!(feed.step(last + PACE.slow_after), Step::Heartbeat(5));
}

#[test]
fn the_window_counts_bytes_and_one_event_always_goes() {
    let begin = now();
    let one = delivery(1).bytes;
    let mut feed = Feed::new(0, Window { events: 100, bytes: 2 * one }, PACE, begin);
    feed.page(page(0, 9, 1..=9));
    assert_eq!(cursors(feed.step(begin)), [1, 2]);
    feed.ack(1).unwrap();
    assert_eq!(cursors(feed.step(begin)), [3]);
    let mut feed = Feed::new(0, Window { events: 100, bytes: 1 }, PACE, begin);
    feed.page(page(0, 2, 1..=2));
    assert_eq!(cursors(feed.step(begin)), [1]);
    feed.ack(1).unwrap();
    assert_eq!(cursors(feed.step(begin)), [2]);
}

#[test]
fn a_response_holds_so_much_and_no_more() {
    let begin = now();
    let mut feed = Feed::new(0, WIDE, PACE, begin);
    feed.page(page(0, 3000, 1..=3000));
    assert_eq!(feed.wants(9000), None, "enough is held");
    assert_eq!(cursors(feed.step(begin)), (1..=1024).collect::<Vec<_>>());
    assert_eq!(feed.wants(9000), Some(3000));
    let mut wide = delivery(3001);
    wide.bytes = BATCH_BYTES + 1;
    feed.page(Look { after: 3000, to: 3002, shown: vec![wide, delivery(3002)] });
    assert_eq!(cursors(feed.step(begin)), (1025..=2048).collect::<Vec<_>>());
    assert_eq!(cursors(feed.step(begin)), (2049..=3000).collect::<Vec<_>>());
    assert_eq!(cursors(feed.step(begin)), [3001]);
    assert_eq!(cursors(feed.step(begin)), [3002]);
}

/// What may happen to a subscription.
#[derive(Clone, Debug)]
enum Op {
    Append(Vec<bool>),
    /// keeps so much of what is there, in percent
    Trim(u64),
    Read,
    Step,
    Seconds(u64),
    /// acknowledges this much of what was told, in percent
    Ack(u64),
    Reconnect,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => prop::collection::vec(any::<bool>(), 1..20).prop_map(Op::Append),
        1 => (0..100u64).prop_map(Op::Trim),
        4 => Just(Op::Read),
        5 => Just(Op::Step),
        1 => (1..30u64).prop_map(Op::Seconds),
        2 => (0..=100u64).prop_map(Op::Ack),
        1 => Just(Op::Reconnect),
    ]
}

/// The wide way to say the same: everything is remembered, and nothing is clever.
struct Model {
    /// whether each event is for this reader, by cursor from 1
    wanted: Vec<bool>,
    /// acknowledged, and so what a new stream begins after
    acked: Cursor,
    /// on this stream: up to here all was delivered, counted in a gap, or is not wanted
    next: Cursor,
    told: Cursor,
}

impl Model {
    /// What is delivered must be the next that is wanted; a gap stands for as many as it counts, and no other is
    /// missing.
    fn delivered(&mut self, d: &Delivery) {
        let first = match &d.event.body {
            Some(v1::event::Body::Gap(gap)) => {
                assert!(gap.exact());
                d.cursor + 1 - gap.count()
            }
            _ => {
                assert!(self.is_wanted(d.cursor));
                assert_eq!(d.event.id.as_ref().unwrap().seq, d.cursor);
                d.cursor
            }
        };
        assert!(first > self.next, "{first} to {} came already", d.cursor);
        let skipped = (self.next + 1..first).filter(|c| self.is_wanted(*c)).collect::<Vec<_>>();
        assert_eq!(skipped, [0; 0], "passed over before {first}");
        self.next = d.cursor;
        self.told = d.cursor;
    }

    fn heartbeat(&mut self, cursor: Cursor) {
        assert!(cursor >= self.told);
        let skipped = (self.next + 1..=cursor).filter(|c| self.is_wanted(*c)).collect::<Vec<_>>();
        assert_eq!(skipped, [0; 0], "a heartbeat passed over them");
        self.next = cursor;
        self.told = cursor;
    }

    fn is_wanted(&self, cursor: Cursor) -> bool {
        self.wanted[usize::try_from(cursor).unwrap() - 1]
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_event_is_delivered_in_order_or_counted_whatever_happens(
        ops in prop::collection::vec(op(), 0..120), events in 1usize..8,
    ) {
        let window = Window { events, bytes: 1 << 20 };
        let log = Arc::new(MemoryLog::new(u64::MAX));
        let sight = Sight {
            filter: Filter::compile("").unwrap(),
            viewer: Viewer::everything("test"),
            attributions: Arc::new(crate::trail::attributions::Unknown),
        };
        let mut model = Model { wanted: Vec::new(), acked: 0, next: 0, told: 0 };
        let mut clock = now();
        let mut feed = Feed::new(0, window, PACE, clock);
        // What is not wanted is taken out here, as a filter would.
        let read = |feed: &mut Feed, model: &Model| {
            let Some(after) = feed.wants(*log.newest().borrow()) else { return };
            let (mut page, held) = look(&*log, after, &sight, true, crate::trail::Moment::MAX).unwrap();
            assert!(!held);
            page.shown.retain(|d| d.event.id.is_none() || model.is_wanted(d.cursor));
            let trimmed = log.bounds().unwrap().oldest > after + 1;
            assert_eq!(trimmed, matches!(look(&*log, after, &sight, false, crate::trail::Moment::MAX), Err(LookError::Trimmed { .. })));
            feed.page(page);
        };
        let step = |feed: &mut Feed, model: &mut Model, clock: Instant| match feed.step(clock) {
            Step::Deliver(batch) => {
                assert!(!batch.is_empty());
                batch.iter().for_each(|d| model.delivered(d));
                assert!(feed.in_flight() <= window.events);
                true
            }
            Step::Heartbeat(cursor) => {
                model.heartbeat(cursor);
                true
            }
            Step::Slow => {
                assert_eq!(feed.in_flight(), window.events, "there was room");
                false
            }
            Step::Wait(until) => {
                assert!(until > clock);
                false
            }
        };
        for op in ops {
            match op {
                Op::Append(wanted) => {
                    let first = model.wanted.len() as u64 + 1;
                    let events = (first..).zip(&wanted).map(|(n, _)| Arc::new(event("n", n, 1, "", exited())));
                    log.append(events.collect()).unwrap();
                    model.wanted.extend(wanted);
                }
                Op::Trim(percent) => {
                    let max_bytes = log.bounds().unwrap().bytes * percent / 100;
                    log.trim(&Limits { max_age: Duration::MAX, max_bytes }).unwrap();
                }
                Op::Read => read(&mut feed, &model),
                Op::Step => _ = step(&mut feed, &mut model, clock),
                Op::Seconds(seconds) => clock += Duration::from_secs(seconds),
                Op::Ack(percent) => {
                    let cursor = model.acked + (model.told - model.acked) * percent / 100;
                    prop_assert_eq!(feed.ack(cursor), Ok(cursor > model.acked));
                    model.acked = cursor;
                    prop_assert_eq!(feed.ack(model.told + 1), Err(NotDelivered { last: model.told }));
                }
                Op::Reconnect => {
                    feed = Feed::new(model.acked, window, PACE, clock);
                    (model.next, model.told) = (model.acked, model.acked);
                }
            }
        }
        // And in the end, with a reader that acknowledges, all of it has come.
        let newest = model.wanted.len() as u64;
        for _ in 0..10_000 {
            read(&mut feed, &model);
            while step(&mut feed, &mut model, clock) {}
            feed.ack(model.told).unwrap();
            clock += PACE.heartbeat;
            if model.told == newest {
                return Ok(());
            }
        }
        prop_assert!(false, "{} of {} have come", model.told, newest);
    }
}
