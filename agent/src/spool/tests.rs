use podtrail_proto::Timestamp;

use super::*;
use crate::trail::log::Log as _;

fn spool(max_bytes: usize, acknowledged: bool) -> Spool {
    let identity = Identity { cluster: "c".to_owned(), node: "n".to_owned(), epoch: 7 };
    Spool::new(identity, Options { max_bytes, acknowledged })
}

pub(super) fn at(seconds: i64) -> Now {
    Now { wall: Moment(seconds * 1_000_000_000), boot: BootTime(1) }
}

pub(super) const ALL: Page = Page { max_events: usize::MAX, max_bytes: usize::MAX };

/// An event of about 200 bytes.
pub(super) fn event(session: &str, seconds: i64) -> v1::Event {
    let path = "x".repeat(150);
    v1::Event {
        time: Some(Timestamp { seconds, nanos: 0 }),
        session_id: session.to_owned(),
        body: Some(v1::event::Body::Executed(v1::Executed { path, ..v1::Executed::default() })),
        ..v1::Event::default()
    }
}

pub(super) fn push_at(spool: &Spool, now: Now, mut events: Vec<v1::Event>) -> Vec<u64> {
    let mut kept = Vec::new();
    spool.push(&mut events, now, &mut kept);
    assert_eq!(events, []);
    kept.iter().map(|entry| entry.cursor).collect()
}

fn push(spool: &Spool, seconds: std::ops::Range<i64>, session: &str) {
    for second in seconds {
        push_at(spool, at(second), vec![event(session, second)]);
    }
}

pub(super) fn push_last(spool: &Spool, now: Now) {
    let batch = Batch {
        events: &mut Vec::new(),
        position: Vec::new(),
        state: Changes::default(),
        last: true,
        may_wait: false,
    };
    spool.commit(batch, now, &mut Vec::new());
}

pub(super) fn gaps(spool: &Spool) -> Vec<v1::Gap> {
    let all = spool.read(0, ALL).unwrap();
    all.iter()
        .filter_map(|entry| match &entry.event.body {
            Some(v1::event::Body::Gap(gap)) => Some(gap.clone()),
            _ => None,
        })
        .collect()
}

pub(super) fn seqs(entries: &[Encoded]) -> Vec<u64> {
    entries.iter().map(|entry| entry.seq).collect()
}

#[test]
fn numbers_are_dense_and_in_the_event() {
    let spool = spool(1 << 20, true);
    assert_eq!(push_at(&spool, at(2), vec![event("a", 1), event("a", 2)]), [1, 2]);
    assert_eq!(push_at(&spool, at(1), vec![event("a", 3)]), [3]);
    let events = spool.read(1, ALL).unwrap();
    assert_eq!(events.iter().map(|entry| entry.cursor).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(events[1].logged, at(2).wall, "a clock that is set back does not disorder the log");
    let id = events[0].event.id.clone().unwrap();
    assert_eq!((id.cluster.as_str(), id.node.as_str(), id.epoch, id.seq), ("c", "n", 7, 2));
    assert_eq!(*spool.newest().borrow(), 3);
}

#[test]
fn what_is_dropped_becomes_one_exact_gap_when_there_is_room() {
    let spool = spool(4096, true);
    push(&spool, 0..100, "a");
    push(&spool, 100..140, "b");
    let fill = spool.fill();
    assert!(fill.bytes <= 4096, "{fill:?}");
    assert_eq!(fill.dropped + u64::try_from(fill.events).unwrap(), 140, "kept or counted");
    assert_eq!(gaps(&spool), [], "no room yet");

    let mut received = Vec::new();
    loop {
        let batch = spool.take(received.last().copied().unwrap_or(0), 3, usize::MAX);
        let Some(last) = batch.last() else { break };
        received.extend(seqs(&batch));
        assert!(spool.ack(last.seq));
    }
    push_at(&spool, at(500), Vec::new());
    let last = spool.take(140, 10, usize::MAX);
    assert!(spool.ack(141));
    received.extend(seqs(&last));
    let gaps = gaps(&spool);
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert_eq!(gaps[0].source, Some(v1::GapSource::AgentBuffer.into()));
    assert_eq!((gaps[0].count, gaps[0].exact), (Some(fill.dropped), Some(true)));
    assert_eq!(gaps[0].from.unwrap().seconds, 0);
    assert_eq!(gaps[0].to.unwrap().seconds, i64::try_from(fill.dropped).unwrap() - 1);
    assert_eq!(gaps[0].session_ids, ["a", "b"]);
    assert_eq!(*received.last().unwrap(), 141, "the gap is the last event");
    let missing = 141 - u64::try_from(received.len()).unwrap();
    assert_eq!(Some(missing), gaps[0].count, "what the reader misses by counting is what the gap says");
}

#[test]
fn a_dropped_gap_is_carried_on() {
    let spool = spool(4096, true);
    let gap = v1::Gap {
        source: Some(v1::GapSource::KernelRing.into()),
        count: Some(1000),
        exact: Some(false),
        detail: "exec".to_owned(),
        ..v1::Gap::default()
    };
    for _ in 0..2 {
        let body = Some(v1::event::Body::Gap(gap.clone()));
        push_at(&spool, at(1), vec![v1::Event { body, ..event("", 1) }]);
    }
    push(&spool, 0..100, "a");
    push_last(&spool, at(200));
    let gaps = gaps(&spool);
    let of = |source: v1::GapSource| {
        gaps.iter().filter(|gap| gap.source == Some(source.into())).collect::<Vec<_>>()
    };
    let ring = of(v1::GapSource::KernelRing);
    assert_eq!(ring.len(), 1, "{gaps:?}");
    assert_eq!((ring[0].count, ring[0].exact, ring[0].detail.as_str()), (Some(2000), Some(false), "exec"));
    assert_eq!(ring[0].session_ids, Vec::<String>::new(), "any session");
    assert_eq!(of(v1::GapSource::AgentBuffer).len(), 1, "{gaps:?}");
}

#[test]
fn what_was_sent_is_not_dropped_and_is_sent_again() {
    let spool = spool(4096, true);
    push(&spool, 0..4, "a");
    let sent = spool.take(0, 100, usize::MAX);
    assert_eq!(seqs(&sent), [1, 2, 3, 4]);
    push(&spool, 4..100, "a");
    assert_eq!(spool.take(0, 4, usize::MAX), sent, "the connection was cut: the same again");
    assert!(spool.ack(2));
    assert_eq!(seqs(&spool.take(2, 2, usize::MAX)), [3, 4]);
    assert_eq!(
        seqs(&spool.take(0, 2, usize::MAX)),
        [1, 2],
        "also what is acknowledged, as long as it is there"
    );
}

#[test]
fn the_window_bounds_what_is_sent_and_not_acknowledged() {
    let spool = spool(16 * 1024, true);
    push(&spool, 0..60, "a");
    let mut after = 0;
    let mut sent = 0;
    while let Some(last) = spool.take(after, 5, usize::MAX).last() {
        after = last.seq;
        sent = last.seq;
        assert!(sent < 60, "the window never filled");
    }
    assert!(sent > 5);
    assert!(spool.ack(sent));
    assert_eq!(spool.take(after, 1, usize::MAX)[0].seq, sent + 1, "room again");
}

#[test]
fn an_acknowledgement_of_what_was_never_sent_is_refused() {
    let spool = spool(1 << 20, true);
    push(&spool, 0..10, "a");
    assert!(!spool.ack(1));
    let _ = spool.take(0, 5, usize::MAX);
    assert!(!spool.ack(6));
    assert!(spool.ack(5));
    assert!(spool.ack(3), "late, and harmless");
    assert_eq!(spool.fill().acked_seq, 5);
    assert!(!spool.ack(u64::MAX));
}

#[test]
fn without_a_collector_the_oldest_make_room_and_nobody_misses_them() {
    let spool = spool(4096, false);
    push(&spool, 0..200, "a");
    let fill = spool.fill();
    assert!(fill.bytes <= 4096 && fill.events > 5, "{fill:?}");
    assert_eq!((fill.dropped, fill.last_seq), (0, 200));
    assert_eq!(gaps(&spool), []);
    let bounds = spool.bounds().unwrap();
    assert_eq!((bounds.newest, bounds.oldest), (200, 201 - bounds.events));
    assert_eq!(bounds.oldest_time.unwrap(), at(i64::try_from(bounds.oldest).unwrap() - 1).wall);
}

#[test]
fn an_event_greater_than_the_whole_buffer_is_kept_alone() {
    let spool = spool(1000, true);
    push(&spool, 0..3, "a");
    let path = "y".repeat(5000);
    let body = Some(v1::event::Body::Executed(v1::Executed { path, ..v1::Executed::default() }));
    push_at(&spool, at(3), vec![v1::Event { body, ..event("a", 3) }]);
    assert_eq!(seqs(&spool.take(0, 10, 100)), [4]);
    assert!(spool.ack(4));
    push_at(&spool, at(5), Vec::new());
    let rest = spool.take(4, 10, usize::MAX);
    assert_eq!(seqs(&rest), [5], "the gap of the three");
    assert_eq!(gaps(&spool)[0].count, Some(3));
}

#[test]
fn many_sessions_are_any_session() {
    let spool = spool(2048, true);
    for i in 0..1000 {
        push_at(&spool, at(i), vec![event(&format!("s{i}"), i)]);
    }
    push_last(&spool, at(2000));
    let gaps = gaps(&spool);
    assert_eq!((gaps.len(), gaps[0].session_ids.len()), (1, 0));
}

#[test]
fn readers_find_their_place_by_number_and_by_time() {
    let spool = spool(4096, true);
    push(&spool, 0..10, "a");
    let _ = spool.take(0, 4, usize::MAX);
    assert!(spool.ack(2));
    push(&spool, 10..40, "a");
    let all: Vec<u64> = spool.read(0, ALL).unwrap().iter().map(|entry| entry.cursor).collect();
    assert_eq!(all[..2], [3, 4], "history is trimmed, what was sent is not");
    assert!(all[2] > 5, "a hole: {all:?}");
    let found = spool.get(&[1, 4, 5, all[2], 99], ALL).unwrap();
    assert_eq!(found.iter().map(|entry| entry.cursor).collect::<Vec<_>>(), [4, all[2]]);
    assert_eq!(spool.seek(at(0).wall).unwrap(), 2);
    assert_eq!(spool.seek(at(4).wall).unwrap(), all[2] - 1);
    assert_eq!(spool.seek(at(99).wall).unwrap(), 40);
    let page = Page { max_events: 2, max_bytes: usize::MAX };
    assert_eq!(spool.read(3, page).unwrap().len(), 2);
}

#[test]
fn what_is_gone_is_told_by_its_numbers() {
    let range = |first, last| v1::SeqRange { first, last };
    let spool = spool(4096, true);
    push(&spool, 0..10, "a");
    let _ = spool.take(0, 4, usize::MAX);
    assert_eq!(spool.gone(range(1, 10)), []);
    push(&spool, 10..40, "a");
    let there: Vec<u64> = spool.read(0, ALL).unwrap().iter().map(|entry| entry.cursor).collect();
    assert_eq!(there[..4], [1, 2, 3, 4]);
    assert_eq!(spool.gone(range(2, 40)), [range(5, there[4] - 1)]);
    assert_eq!(spool.gone(range(6, 8)), [range(6, 8)]);
    assert_eq!(spool.gone(range(there[4], 99)), [], "what is not made yet is not gone");
}
