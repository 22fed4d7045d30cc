//! The spool on disk: over restarts, beyond its bounds, and damaged.

use std::{fs, path::Path};

use super::{tests::*, *};
use crate::trail::log::Log as _;

const BOOT: &str = "boot-1";

pub(super) struct Place {
    pub(super) dir: tempfile::TempDir,
    pub(super) disk: Disk,
    pub(super) options: Options,
    pub(super) node: Node,
}

impl Place {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk {
            dir: dir.path().to_owned(),
            max_bytes: 64 << 20,
            max_age: Duration::from_secs(1 << 30),
            fsync: Fsync::Every(Duration::from_secs(1)),
        };
        let node = Node { cluster: "c".to_owned(), name: "n".to_owned(), boot_id: BOOT.to_owned() };
        Self { dir, disk, options: Options { max_bytes: 1 << 20, acknowledged: true }, node }
    }

    pub(super) fn open(&self) -> (Spool, Saved) {
        Spool::open(&self.node, self.options, &self.disk, at(1_000_000).wall).unwrap()
    }

    pub(super) fn store(&self, name: &str) -> PathBuf {
        self.dir.path().join("spool").join(name)
    }
}

pub(super) fn commit(spool: &Spool, seconds: i64, position: &str, state: &[(&str, Option<&str>)]) {
    let bytes = |text: &str| text.as_bytes().to_vec();
    let state = state.iter().map(|(key, value)| (bytes(key), value.map(bytes))).collect();
    let batch = Batch {
        events: &mut vec![event("s", seconds)],
        position: bytes(position),
        state: Changes(state),
        may_wait: false,
        last: false,
    };
    spool.commit(batch, at(seconds), &mut Vec::new());
}

pub(super) fn all(spool: &Spool) -> Vec<(u64, v1::Event)> {
    let read = |after| spool.read(after, Page { max_events: 7, max_bytes: usize::MAX }).unwrap();
    let mut all: Vec<(u64, v1::Event)> = Vec::new();
    loop {
        let page = read(all.last().map_or(0, |(cursor, _)| *cursor));
        if page.is_empty() {
            return all;
        }
        all.extend(page.into_iter().map(|entry| (entry.cursor, Arc::unwrap_or_clone(entry.event))));
    }
}

fn drain(spool: &Spool) -> Vec<(Identity, u64)> {
    let mut sent = Vec::new();
    loop {
        let identity = spool.sending();
        let batch = spool.take_after(spool.fill().acked_seq, Page { max_events: 3, max_bytes: usize::MAX });
        let Some(last) = batch.last() else { return sent };
        sent.extend(batch.iter().map(|entry| (identity.clone(), entry.seq)));
        assert!(spool.ack(last.seq));
    }
}

#[test]
fn the_next_agent_goes_on_where_this_one_was_killed() {
    let place = Place::new();
    let (spool, saved) = place.open();
    assert_eq!(saved, Saved::default());
    commit(&spool, 1, "p1", &[("a", Some("1")), ("b", Some("2"))]);
    commit(&spool, 2, "p2", &[("a", None), ("c", Some("3"))]);
    let identity = spool.identity();
    let events = all(&spool);
    assert_eq!(seqs(&spool.take(0, 1, usize::MAX)), [1]);
    assert!(spool.ack(1));
    spool.push(&mut Vec::new(), at(3), &mut Vec::new());
    drop(spool);

    let (spool, saved) = place.open();
    assert_eq!((saved.source, saved.stopped_cleanly), (Some(b"p2".to_vec()), Some(false)));
    let state = [(b"b".to_vec(), b"2".to_vec()), (b"c".to_vec(), b"3".to_vec())];
    assert_eq!(saved.state, state.into_iter().collect());
    assert_eq!((saved.last_at_work, saved.findings), (Some(at(3).wall), Vec::new()));
    assert_eq!((spool.identity(), spool.sending()), (identity.clone(), identity));
    assert_eq!(all(&spool), events);
    assert_eq!(spool.fill().acked_seq, 1);
    commit(&spool, 4, "p3", &[]);
    assert_eq!(seqs(&spool.take(1, 9, usize::MAX)), [2, 3]);
    let batch = Batch {
        events: &mut Vec::new(),
        position: Vec::new(),
        state: Changes::default(),
        last: true,
        may_wait: false,
    };
    spool.commit(batch, at(5), &mut Vec::new());
    drop(spool);
    let saved = place.open().1;
    assert_eq!((saved.source, saved.stopped_cleanly), (Some(b"p3".to_vec()), Some(true)));
}

#[test]
fn two_agents_cannot_have_one_spool() {
    let place = Place::new();
    let _first = place.open();
    let error = Spool::open(&place.node, place.options, &place.disk, at(1).wall).unwrap_err();
    assert!(matches!(error, SpoolError::Locked { .. }), "{error}");
}

#[test]
fn what_does_not_fit_is_counted_exactly_and_the_count_outlives_the_agent() {
    let mut place = Place::new();
    place.disk.max_bytes = 20_000;
    place.options.max_bytes = 4096;
    let (spool, _) = place.open();
    let batch = |seconds: std::ops::Range<i64>| {
        let mut events = seconds.clone().map(|second| event("s", second)).collect();
        spool.push(&mut events, at(seconds.start), &mut Vec::new());
    };
    batch(0..3);
    assert_eq!(seqs(&spool.take(0, 3, usize::MAX)), [1, 2, 3], "sent: kept");
    (0..2000).for_each(|n| batch(3 + 3 * n..6 + 3 * n));
    let fill = spool.fill();
    assert!(fill.disk_bytes <= 20_000 + 1024 * 300, "{fill:?}");
    assert_eq!(fill.dropped + fill.events as u64, 6003, "kept or counted: {fill:?}");
    let gone = spool.gone(v1::SeqRange { first: 1, last: 6003 });
    assert_eq!(gone.iter().map(|range| range.last - range.first + 1).sum::<u64>(), fill.dropped);
    drop(spool);

    let (spool, _) = place.open();
    assert_eq!(spool.fill().dropped, fill.dropped);
    let mut sent: Vec<u64> = drain(&spool).into_iter().map(|(_, seq)| seq).collect();
    (0..3).for_each(|_| spool.push(&mut Vec::new(), at(9000), &mut Vec::new()));
    sent.extend(drain(&spool).into_iter().map(|(_, seq)| seq));
    let told = gaps(&spool);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((told[0].count, told[0].exact), (Some(fill.dropped), Some(true)));
    assert_eq!(told[0].session_ids, ["s"]);
    assert_eq!(sent.len() as u64 + fill.dropped, 6004, "with the gap itself");
    drop(spool);
    assert_eq!(gaps(&place.open().0).len(), 1, "told once");
}

#[test]
fn what_is_too_old_is_dropped_and_counted() {
    let mut place = Place::new();
    place.disk.max_age = Duration::from_secs(3600);
    let (spool, _) = place.open();
    for second in 0..10 {
        commit(&spool, second, "", &[]);
    }
    (0..2).for_each(|_| spool.push(&mut Vec::new(), at(3604), &mut Vec::new()));
    let told = gaps(&spool);
    assert_eq!((told[0].count, told[0].exact), (Some(4), Some(true)), "{told:?}");
    assert_eq!(seqs(&spool.take(0, 99, usize::MAX)), [5, 6, 7, 8, 9, 10, 11]);
}

#[test]
fn history_is_trimmed_and_the_disk_does_not_grow() {
    let mut place = Place::new();
    place.disk.max_bytes = 200_000;
    let (spool, _) = place.open();
    for n in 0..3000 {
        commit(&spool, n, "p", &[("k", Some("v"))]);
        let after = spool.fill().acked_seq;
        let last = spool.take(after, 9, usize::MAX).last().unwrap().seq;
        assert!(spool.ack(last));
    }
    let fill = spool.fill();
    assert!(fill.disk_bytes <= 200_000, "{fill:?}");
    assert_eq!((fill.dropped, gaps(&spool)), (0, Vec::new()));
}

#[test]
fn readers_that_are_behind_read_from_disk() {
    let place = Place::new();
    let (spool, _) = place.open();
    for n in 0..8 {
        let mut events = (0..2000).map(|_| event("s", n)).collect();
        spool.push(&mut events, at(n), &mut Vec::new());
    }
    let fill = spool.fill();
    assert!(fill.bytes < 2 << 20, "{fill:?}");
    let read: Vec<u64> = all(&spool).into_iter().map(|(cursor, _)| cursor).collect();
    assert_eq!(read, (1..=16_000).collect::<Vec<_>>());
    let sent: Vec<u64> = drain(&spool).into_iter().map(|(_, seq)| seq).collect();
    assert_eq!(sent, (1..=16_000).collect::<Vec<_>>());
    assert_eq!(spool.seek(at(5).wall).unwrap(), 10_000);
    assert_eq!(spool.get(&[1, 9999], ALL).unwrap().len(), 2);
}

#[test]
fn after_a_power_cut_a_new_epoch_begins_and_the_old_one_is_sent_first() {
    let mut place = Place::new();
    let (spool, _) = place.open();
    (1..4).for_each(|n| commit(&spool, n, "p", &[("a", Some("1"))]));
    let old = spool.identity();
    drop(spool);
    place.node.boot_id = "boot-2".to_owned();
    let (spool, saved) = place.open();
    assert_eq!((saved.source, saved.state.len(), saved.stopped_cleanly), (None, 0, Some(false)));
    assert_eq!(saved.findings.len(), 1, "{:?}", saved.findings);
    let new = spool.identity();
    assert!(new.epoch > old.epoch);
    assert_eq!(spool.sending(), old);
    push_at(&spool, at(10), vec![event("t", 10)]);
    let of = |identity: &Identity, seqs: &[u64]| -> Vec<_> {
        seqs.iter().map(|seq| (identity.clone(), *seq)).collect()
    };
    assert_eq!(spool.take(0, 9, usize::MAX).last().unwrap().seq, 3, "not beyond the end of the epoch");
    assert_eq!(drain(&spool), [of(&old, &[1, 2, 3]), of(&new, &[1, 2])].concat());
    let told = gaps(&spool);
    assert_eq!(
        (told[0].source(), told[0].count, told[0].exact),
        (v1::GapSource::AgentSpool, Some(0), Some(false))
    );
    spool.push(&mut Vec::new(), at(10), &mut Vec::new());
    drop(spool);
    let (spool, saved) = place.open();
    assert_eq!((spool.identity(), saved.findings.len()), (new, 0));
    push_at(&spool, at(11), vec![event("t", 11)]);
    assert_eq!(drain(&spool).len(), 1);
}

#[test]
fn a_collector_that_has_more_of_an_old_epoch_than_the_disk_is_no_liar() {
    let place = Place::new();
    let (spool, _) = place.open();
    (1..4).for_each(|n| commit(&spool, n, "p", &[]));
    let old = spool.identity();
    drop(spool);
    let kept = tempfile::tempdir().unwrap();
    copy(&place.dir.path().join("spool"), kept.path());
    let (spool, _) = place.open();
    (4..7).for_each(|n| commit(&spool, n, "p", &[]));
    drop(spool);
    // The disk forgets its newest events, but not the mark that says how many there were.
    for name in ["store.db", "store.db-wal", "store.db-shm"] {
        let _ = fs::remove_file(place.store(name));
    }
    fs::remove_file(kept.path().join("mark")).unwrap();
    copy(kept.path(), &place.dir.path().join("spool"));

    let (spool, saved) = place.open();
    assert_eq!(saved.findings.len(), 1, "{:?}", saved.findings);
    assert_eq!(
        (spool.sending(), spool.identity()),
        (old.clone(), old.clone()),
        "which numbers were given is known"
    );
    assert!(spool.ack(6), "the agent before this one may have sent that much");
    push_at(&spool, at(10), vec![event("t", 10)]);
    let told = gaps(&spool);
    assert_eq!((told[0].source(), told[0].count), (v1::GapSource::AgentSpool, Some(3)));
    assert_eq!(told[1].count, Some(0), "and that sessions begin again: {told:?}");
    assert_eq!(drain(&spool), [7, 8, 9].map(|seq| (old.clone(), seq)), "what comes now, and the gaps");
}

#[test]
fn numbers_that_the_disk_lost_are_passed_over_and_none_is_given_twice() {
    let place = Place::new();
    let (spool, _) = place.open();
    (1..4).for_each(|n| commit(&spool, n, "p", &[]));
    let kept = tempfile::tempdir().unwrap();
    copy(&place.dir.path().join("spool"), kept.path());
    (4..7).for_each(|n| commit(&spool, n, "p", &[]));
    let old = spool.identity();
    drop(spool);
    for name in ["store.db", "store.db-wal", "store.db-shm"] {
        let _ = fs::remove_file(place.store(name));
    }
    fs::remove_file(kept.path().join("mark")).unwrap();
    copy(kept.path(), &place.dir.path().join("spool"));
    let (spool, _) = place.open();
    push_at(&spool, at(10), vec![event("t", 10)]);
    assert_eq!(drain(&spool), [1, 2, 3, 7, 8, 9].map(|seq| (old.clone(), seq)));
}

#[test]
fn a_clean_stop_and_a_new_boot_are_no_new_epoch() {
    let mut place = Place::new();
    let (spool, _) = place.open();
    commit(&spool, 1, "p", &[]);
    push_last(&spool, at(2));
    let identity = spool.identity();
    drop(spool);
    place.node.boot_id = "boot-2".to_owned();
    let (spool, saved) = place.open();
    assert_eq!((spool.identity(), saved.source, saved.stopped_cleanly), (identity, None, Some(true)));
    assert_eq!(saved.findings, Vec::<String>::new());
}

#[test]
fn another_name_is_another_epoch_and_what_nobody_will_take_is_told() {
    let mut place = Place::new();
    let (spool, _) = place.open();
    (1..4).for_each(|n| commit(&spool, n, "p", &[]));
    let epoch = spool.identity().epoch;
    drop(spool);
    place.node.name = "m".to_owned();
    let (spool, saved) = place.open();
    assert_eq!(saved.source, None);
    assert!(spool.identity().epoch > epoch && spool.identity().node == "m");
    spool.push(&mut Vec::new(), at(9), &mut Vec::new());
    assert_eq!(drain(&spool), [1, 2].map(|seq| (spool.identity(), seq)));
    assert_eq!(gaps(&spool)[0].count, Some(3));
}

#[test]
fn rows_that_are_damaged_become_a_gap_with_their_count() {
    let place = Place::new();
    let (spool, _) = place.open();
    for n in 0..5 {
        push_at(&spool, at(n), (0..10).map(|_| event("s", n)).collect());
    }
    drop(spool);
    let other = rusqlite::Connection::open(place.store("store.db")).unwrap();
    assert_eq!(
        other.execute("UPDATE events SET bytes = zeroblob(length(bytes)) WHERE first = 11", []).unwrap(),
        1
    );
    assert_eq!(other.execute("UPDATE events SET logged = logged + 1 WHERE first = 31", []).unwrap(), 1);
    drop(other);
    let (spool, _) = place.open();
    assert_eq!(all(&spool).len(), 30);
    (0..2).for_each(|_| spool.push(&mut Vec::new(), at(9), &mut Vec::new()));
    let told = gaps(&spool);
    assert_eq!(
        (told.len(), told[0].source(), told[0].count, told[0].exact),
        (1, v1::GapSource::AgentSpool, Some(20), Some(true))
    );
    let range = |first, last| v1::SeqRange { first, last };
    assert_eq!(spool.gone(range(1, 51)), [range(11, 20), range(31, 40)]);
    assert_eq!(drain(&spool).len(), 31);
}

#[test]
fn a_store_that_is_none_is_moved_aside_and_told() {
    let place = Place::new();
    let (spool, _) = place.open();
    (1..9).for_each(|n| commit(&spool, n, "p", &[]));
    let epoch = spool.identity().epoch;
    assert_eq!(seqs(&spool.take(0, 2, usize::MAX)), [1, 2]);
    assert!(spool.ack(2));
    spool.push(&mut Vec::new(), at(9), &mut Vec::new());
    drop(spool);
    fs::write(place.store("store.db"), [7; 10_000]).unwrap();
    let (spool, saved) = place.open();
    assert_eq!((saved.source, saved.stopped_cleanly), (None, None));
    assert_eq!(saved.last_at_work, Some(at(9).wall));
    assert!(saved.findings[0].contains("spool.damaged-1000000"), "{:?}", saved.findings);
    assert!(place.dir.path().join("spool.damaged-1000000/store.db").exists());
    assert_eq!(spool.identity().epoch, epoch, "the mark says which numbers were given");
    spool.push(&mut Vec::new(), at(9), &mut Vec::new());
    let told = gaps(&spool);
    assert_eq!(
        (told[0].source(), told[0].count, told[0].exact),
        (v1::GapSource::AgentSpool, Some(6), Some(false))
    );
    assert_eq!(drain(&spool), [9, 10].map(|seq| (spool.identity(), seq)));
}

#[test]
fn a_directory_that_cannot_be_is_no_reason_not_to_run() {
    let mut place = Place::new();
    place.disk.dir = "/proc/none".into();
    let (spool, saved) = place.open();
    assert_eq!(saved.findings.len(), 1);
    assert!(spool.fill().trouble.is_some());
    push_at(&spool, at(1), vec![event("s", 1)]);
    assert_eq!(seqs(&spool.take(0, 9, usize::MAX)), [1]);
}

/// Everything below a folder, as it is.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// As if the agent was killed now.
pub(super) fn killed(place: &Place) -> Place {
    let other = Place { node: place.node.clone(), ..Place::new() };
    copy(&place.dir.path().join("spool"), &other.dir.path().join("spool"));
    other
}

/// As a full disk does it: the store cannot be opened, and the mark can be written.
fn hide(place: &Place) {
    fs::rename(place.store("store.db"), place.store("away")).unwrap();
    fs::create_dir(place.store("store.db")).unwrap();
}

fn unhide(place: &Place) {
    fs::remove_dir(place.store("store.db")).unwrap();
    fs::rename(place.store("away"), place.store("store.db")).unwrap();
}

/// Commits until the store that could not be opened is.
pub(super) fn until_open(spool: &Spool, now: Now) {
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while spool.fill().trouble.is_some() {
        assert!(std::time::Instant::now() < end, "{:?}", spool.fill());
        spool.push(&mut Vec::new(), now, &mut Vec::new());
    }
}

#[test]
fn what_an_agent_without_the_store_had_in_memory_is_missed_by_its_numbers() {
    let place = Place::new();
    let (spool, _) = place.open();
    (1..4).for_each(|n| commit(&spool, n, "p", &[]));
    let first = spool.identity();
    drop(spool);
    hide(&place);
    let (spool, saved) = place.open();
    assert_eq!((&saved.source, saved.last_at_work.is_some()), (&None, true));
    let second = spool.identity();
    assert!(second.epoch > first.epoch);
    push_at(&spool, at(4), vec![event("s", 4)]);
    assert_eq!(seqs(&spool.take(0, 9, usize::MAX)), [1]);
    drop(spool);

    // Again: numbers go on behind those of the one before, for the collector may have them.
    let (spool, _) = place.open();
    assert_eq!(spool.identity(), second);
    assert_eq!(spool.sending(), second);
    push_at(&spool, at(5), vec![event("s", 5)]);
    assert_eq!(seqs(&spool.take(0, 9, usize::MAX)), [2, 3]);
    let told = gaps(&spool);
    assert_eq!((told.len(), told[0].count, told[0].exact), (1, Some(1), Some(false)), "{told:?}");
    drop(spool);

    unhide(&place);
    let (spool, saved) = place.open();
    assert_eq!(saved.source, None, "another has read on since");
    assert_eq!((spool.identity(), spool.sending()), (second.clone(), first.clone()));
    push_at(&spool, at(9), vec![event("s", 9)]);
    let of = |identity: &Identity, seqs: &[u64]| -> Vec<_> {
        seqs.iter().map(|seq| (identity.clone(), *seq)).collect()
    };
    assert_eq!(drain(&spool), [of(&first, &[1, 2, 3]), of(&second, &[4, 5, 6])].concat());
    assert_eq!(spool.gone(v1::SeqRange { first: 1, last: 5 }), [v1::SeqRange { first: 1, last: 3 }]);
    let told = gaps(&spool);
    assert_eq!(
        (told.len(), told[0].source(), told[0].count),
        (2, v1::GapSource::AgentSpool, Some(3)),
        "{told:?}"
    );
    drop(spool);
    // It is told once.
    let (spool, saved) = place.open();
    assert_eq!((spool.identity(), saved.findings.len()), (second, 0), "{:?}", saved.findings);
}

#[test]
fn a_store_that_could_not_be_opened_is_opened_later_and_comes_first() {
    let place = Place::new();
    let (spool, _) = place.open();
    (1..4).for_each(|n| commit(&spool, n, "p", &[("a", Some("1"))]));
    let first = spool.identity();
    drop(spool);
    hide(&place);
    let (spool, _) = place.open();
    assert!(spool.fill().trouble.is_some());
    assert_eq!(spool.wants_state(), None);
    let second = spool.identity();
    push_at(&spool, at(4), vec![event("s", 4), event("s", 5)]);
    assert_eq!(seqs(&spool.take(0, 1, usize::MAX)), [1]);
    assert!(spool.ack(1));
    unhide(&place);
    until_open(&spool, at(6));
    assert_eq!(spool.wants_state(), Some(true), "the state of before counts no more");
    assert_eq!((spool.identity(), spool.sending()), (second.clone(), first.clone()));
    assert!(spool.take_of(second.epoch, 1, 9, usize::MAX).is_empty(), "a stream of the other epoch ends");
    assert!(spool.ack_of(second.epoch, 2) && spool.fill().acked_seq == 0, "and says nothing of this one");
    let events = all(&spool);
    assert_eq!(events.len(), 6, "{events:?}");
    assert_eq!(gaps(&spool)[0].count, Some(0), "sessions begin again");
    drop(spool);

    let (spool, saved) = place.open();
    assert_eq!((saved.source, saved.findings.len()), (None, 0), "{:?}", saved.findings);
    assert_eq!(all(&spool), events);
    let of = |identity: &Identity, seqs: &[u64]| -> Vec<_> {
        seqs.iter().map(|seq| (identity.clone(), *seq)).collect()
    };
    assert_eq!(drain(&spool), [of(&first, &[1, 2, 3]), of(&second, &[1, 2, 3])].concat());
    commit(&spool, 7, "q", &[]);
    assert_eq!(drain(&spool), of(&second, &[4]));
}

#[test]
fn a_store_that_died_is_made_anew_as_soon_as_that_can_be() {
    let place = Place::new();
    let (spool, _) = place.open();
    (1..4).for_each(|n| commit(&spool, n, "p", &[]));
    spool.lock().broken = Some("a test".to_owned());
    // Nothing can be made where it was.
    let aside = place.dir.path().join("spool.damaged-4");
    fs::create_dir(&aside).unwrap();
    fs::set_permissions(place.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o500)).unwrap();
    push_at(&spool, at(4), vec![event("s", 4)]);
    fs::set_permissions(place.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    until_open(&spool, at(5));
    let identity = spool.identity();
    assert_eq!(spool.fill().events as u64, spool.fill().last_seq, "what is in memory is in the new one");
    let events = all(&spool);
    drop(spool);
    let (spool, _) = place.open();
    assert_eq!((spool.identity(), all(&spool)), (identity, events));
}

#[test]
fn the_stores_log_does_not_outgrow_a_small_spool() {
    let mut place = Place::new();
    place.disk.max_bytes = 1 << 20;
    let (spool, _) = place.open();
    let wal = place.store("store.db-wal");
    let mut longest = 0;
    for n in 0..3000 {
        let mut events = (0..20).map(|_| event("s", n)).collect();
        spool.push(&mut events, at(n), &mut Vec::new());
        // Readers come and go meanwhile, far behind.
        assert!(
            !spool.read_after(spool.fill().acked_seq, Page { max_events: 5, max_bytes: 4096 }).is_empty()
        );
        longest = longest.max(fs::metadata(&wal).unwrap().len());
    }
    // What would make it longer waits in memory.
    assert!(longest <= 16 * (512 << 10) + (1 << 20), "{longest} bytes");
    until_open(&spool, at(3000));
    let fill = spool.fill();
    assert_eq!(fill.dropped + fill.events as u64, fill.last_seq, "{fill:?}");
}
