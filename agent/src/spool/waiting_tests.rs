//! What waits in the source while the disk fails, and what is said where it could not wait.

use super::{
    disk_tests::{Place, commit, killed, until_open},
    tests::*,
    *,
};

#[test]
fn records_that_no_event_came_of_wait_in_the_source_too() {
    let place = Place::new();
    let (spool, _) = place.open();
    commit(&spool, 1, "p1", &[("a", Some("1"))]);
    let other = rusqlite::Connection::open(place.store("store.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let released = |seconds| {
        let batch = Batch {
            events: &mut Vec::new(),
            position: b"p2".to_vec(),
            state: Changes(vec![(b"a".to_vec(), Some(b"2".to_vec()))]),
            last: false,
            may_wait: true,
        };
        spool.commit(batch, at(seconds), &mut Vec::new())
    };
    assert!(!released(2), "what they did to the state is not on disk");
    let (_after, saved) = killed(&place).open();
    assert_eq!(saved.source.as_deref(), Some(&b"p1"[..]));
    other.execute_batch("ROLLBACK").unwrap();
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while !released(3) {
        assert!(std::time::Instant::now() < end);
        std::thread::sleep(Duration::from_millis(10));
    }
    let (_after, saved) = killed(&place).open();
    assert_eq!(saved.source.as_deref(), Some(&b"p2"[..]));
}

#[test]
fn who_does_not_go_on_with_the_state_says_so() {
    let place = Place::new();
    let (spool, _) = place.open();
    commit(&spool, 1, "p1", &[("a", Some("1"))]);
    let (after, saved) = killed(&place).open();
    assert_eq!(saved.source.as_deref(), Some(&b"p1"[..]));
    after.forget_state(saved.last_at_work, at(3).wall);
    push_at(&after, at(3), Vec::new());
    let gaps = gaps(&after);
    let [gap] = &gaps[..] else { panic!("{gaps:?}") };
    assert_eq!((gap.source(), gap.exact), (v1::GapSource::AgentSpool, Some(false)));
    assert!(gap.detail.starts_with("what was known of sessions is lost"), "{gap:?}");
}

#[test]
fn what_is_not_on_disk_waits_in_the_source_and_is_not_sent() {
    let place = Place::new();
    let (spool, _) = place.open();
    commit(&spool, 1, "p1", &[("a", Some("1"))]);
    let other = rusqlite::Connection::open(place.store("store.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let waiting = |spool: &Spool, seconds| {
        let batch = Batch {
            events: &mut vec![event("s", seconds)],
            position: b"p2".to_vec(),
            state: Changes(vec![(b"a".to_vec(), Some(b"2".to_vec()))]),
            last: false,
            may_wait: true,
        };
        !spool.commit(batch, at(seconds), &mut Vec::new())
    };
    assert!(waiting(&spool, 2), "somebody is in the way");
    assert_eq!(spool.fill().trouble, None, "for a moment");
    assert_eq!(seqs(&spool.take(0, 9, usize::MAX)), [1]);
    // Killed now: the next agent makes the same of the same records, by the same numbers.
    let next = killed(&place);
    let (after, saved) = next.open();
    assert_eq!(
        (saved.source.as_deref(), saved.findings.len()),
        (Some(&b"p1"[..]), 0),
        "{:?}",
        saved.findings
    );
    assert_eq!(push_at(&after, at(2), vec![event("s", 2)]), [2]);
    // Not for ever.
    let end = std::time::Instant::now() + Duration::from_secs(60);
    let mut made = 3;
    while waiting(&spool, made) {
        assert!(std::time::Instant::now() < end);
        std::thread::sleep(Duration::from_millis(50));
        made += 1;
    }
    assert!(spool.fill().trouble.is_some());
    assert!(spool.take(0, 99, usize::MAX).len() > 1, "sent from memory");
    // Killed now: which numbers were given is known, and what is behind them is not trusted.
    let next = killed(&place);
    let (after, saved) = next.open();
    assert_eq!(saved.source, None);
    let first = push_at(&after, at(made), vec![event("s", made)])[0];
    assert_eq!(first, made.unsigned_abs() + 1);
    other.execute_batch("ROLLBACK").unwrap();
    until_open(&spool, at(made));
    assert_eq!(spool.fill().events as u64, made.unsigned_abs());
}
