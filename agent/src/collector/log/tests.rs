use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, Instant},
};

use podtrail_proto::v1::event::Body;

use super::{store::MEMTABLE, *};
use crate::trail::{
    Indexed,
    testing::{SECOND, ended, event, exited, started},
};

/// A child that another test has forked, and that has not become its own program yet, holds the lock as well.
pub(super) fn open_patiently(path: &Path, clock: &Clock, memtable: u64) -> DiskLog {
    let began = Instant::now();
    loop {
        match DiskLog::open_with(path, clock.clone(), memtable) {
            Err(LogError::Locked { .. }) if began.elapsed().as_secs() < 20 => std::thread::yield_now(),
            opened => return opened.unwrap(),
        }
    }
}

struct Fixture {
    dir: tempfile::TempDir,
    now: Arc<AtomicI64>,
    memtable: u64,
}

impl Fixture {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), now: Arc::new(AtomicI64::new(1000)), memtable: MEMTABLE }
    }

    fn open(&self) -> DiskLog {
        let now = self.now.clone();
        let clock: Clock = Arc::new(move || Moment(now.load(Ordering::Relaxed) * SECOND));
        open_patiently(self.dir.path(), &clock, self.memtable)
    }

    fn at(&self, seconds: i64) {
        self.now.store(seconds, Ordering::Relaxed);
    }

    /// Bytes in the store's tables.
    fn tables(&self) -> u64 {
        self.files("tables").iter().map(|f| fs::metadata(f).unwrap().len()).sum()
    }

    fn files(&self, folder: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.dir.path().to_owned()];
        while let Some(at) = folders.pop() {
            for entry in fs::read_dir(at).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.parent().unwrap().ends_with(folder) {
                    found.push(path);
                }
            }
        }
        found.sort();
        found
    }
}

fn some(seq: u64) -> Arc<v1::Event> {
    Arc::new(event("n", seq, seq.cast_signed(), "", exited()))
}

/// Hard to compress.
fn noise(seq: u64, bytes: usize) -> Arc<v1::Event> {
    let mut x = seq.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let text = std::iter::repeat_with(|| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        format!("{x:016x}")
    });
    let mut event = event("n", seq, 1, "", exited());
    event.session_id = text.take(bytes / 16).collect();
    Arc::new(event)
}

fn read(log: &DiskLog) -> Vec<(Cursor, u64)> {
    let mut all: Vec<Entry> = Vec::new();
    loop {
        let after = all.last().map_or(0, |e| e.cursor);
        let page = log.read(after, Page { max_events: 7, max_bytes: 1 << 20 }).unwrap();
        if page.is_empty() {
            return all.iter().map(|e| (e.cursor, e.event.id.as_ref().map_or(0, |id| id.seq))).collect();
        }
        all.extend(page);
    }
}

fn same(range: std::ops::RangeInclusive<u64>) -> Vec<(Cursor, u64)> {
    range.map(|n| (n, n)).collect()
}

#[test]
fn what_was_appended_is_there_after_a_restart() {
    let f = Fixture::new();
    let log = f.open();
    assert_eq!(log.bounds().unwrap(), Bounds { oldest: 1, ..Bounds::default() });
    assert_eq!(log.append((1..=20).map(some).collect()).unwrap(), 20);
    let bounds = log.bounds().unwrap();
    let bytes = (1..=20).map(|n| prost::Message::encoded_len(&*some(n)) as u64).sum();
    assert_eq!((bounds.events, bounds.bytes), (20, bytes));
    let entries = log.read(0, Page::SCAN).unwrap();
    drop(log);

    f.at(2000);
    let log = f.open();
    assert_eq!(log.bounds().unwrap(), bounds);
    assert_eq!(log.read(0, Page::SCAN).unwrap(), entries);
    assert_eq!(*log.newest().borrow(), 20);
    assert_eq!(log.append(vec![some(21)]).unwrap(), 21);
    assert_eq!(read(&log), same(1..=21));
    assert_eq!(log.seek(Moment(1001 * SECOND)).unwrap(), 20);
    assert_eq!(log.seek(Moment(0)).unwrap(), 0);
    assert_eq!(log.seek(Moment::MAX).unwrap(), 21);
    let got = log.get(&[0, 3, 21, 22], Page::SCAN).unwrap();
    assert_eq!(got.iter().map(|e| e.cursor).collect::<Vec<_>>(), [3, 21]);
}

#[test]
fn how_far_nodes_have_come_outlives_their_events() {
    let f = Fixture::new();
    let log = f.open();
    let other = |epoch, seq| {
        let mut e = event("m", seq, 5, "", exited());
        e.id.as_mut().unwrap().epoch = epoch;
        Arc::new(e)
    };
    log.append(vec![some(1), other(1, 9), some(2)]).unwrap();
    log.append(vec![other(2, 1), some(3)]).unwrap();
    drop(log);
    let log = f.open();
    let reached = |log: &DiskLog| -> Vec<(String, u64, u64)> {
        log.sequences().unwrap().into_iter().map(|(n, r)| (n.node, n.epoch, r.seq)).collect()
    };
    let m = "m".to_owned();
    assert_eq!(reached(&log), [(m.clone(), 1, 9), (m.clone(), 2, 1), ("n".to_owned(), 1, 3)]);
    // All is trimmed: the last of each node stays, epochs that are over go.
    assert_eq!(log.trim(&Limits { max_age: Duration::MAX, max_bytes: 0 }).unwrap(), 5);
    drop(log);
    let log = f.open();
    assert_eq!(reached(&log), [(m, 2, 1), ("n".to_owned(), 1, 3)]);
    // Cursors are not given again, and bytes count from here.
    assert_eq!(log.bounds().unwrap(), Bounds { oldest: 6, newest: 5, ..Bounds::default() });
    assert_eq!(log.append(vec![some(6)]).unwrap(), 6);
    assert_eq!(log.bounds().unwrap().bytes, prost::Message::encoded_len(&*some(6)) as u64);
    assert_eq!(read(&log), [(6, 6)]);
}

#[test]
fn trims_by_age() {
    let f = Fixture::new();
    let log = f.open();
    for n in 1..=10 {
        f.at(1000 + 10 * n);
        log.append(vec![some(n.cast_unsigned())]).unwrap();
    }
    let limits = Limits { max_age: Duration::from_secs(45), max_bytes: u64::MAX };
    f.at(1100);
    assert_eq!(log.trim(&limits).unwrap(), 5);
    assert_eq!(read(&log), same(6..=10));
    assert_eq!(log.bounds().unwrap().oldest_time, Some(Moment(1060 * SECOND)));
    assert_eq!(log.trim(&limits).unwrap(), 0);
    drop(log);
    let log = f.open();
    assert_eq!(read(&log), same(6..=10));
    f.at(5000);
    assert_eq!(log.trim(&limits).unwrap(), 5);
    assert_eq!(read(&log), []);
}

/// Its tables never overlap: the store only moves them, and would by itself compress none of them.
#[test]
fn events_that_are_alike_take_a_third_of_their_length() {
    let f = Fixture::new();
    let log = f.open();
    let alike = |seq| {
        let mut event = event("n", seq, 1, "", exited());
        event.session_id = format!("{:0300}", 7);
        Arc::new(event)
    };
    for batch in 0..20 {
        log.append((1..=500).map(|n| alike(batch * 500 + n)).collect()).unwrap();
    }
    log.store().unwrap().events.rotate_memtable_and_wait().unwrap();
    let bytes = log.bounds().unwrap().bytes;
    assert!(bytes > 3_000_000 && f.tables() < bytes / 3, "{bytes} bytes of events take {}", f.tables());
    assert!(read(&log).into_iter().eq(same(1..=10_000)));
}

#[test]
fn trims_by_bytes_and_gives_the_disk_back() {
    let f = Fixture { memtable: 256 * 1024, ..Fixture::new() };
    let log = f.open();
    for batch in 0..80u64 {
        log.append((1..=10).map(|n| noise(batch * 10 + n, 10_000)).collect()).unwrap();
    }
    log.store().unwrap().events.rotate_memtable_and_wait().unwrap();
    let before = f.tables();
    assert!(before > 3_500_000, "8 MB of hex digits in {before} bytes");
    let limits = Limits { max_age: Duration::MAX, max_bytes: 1_000_000 };
    let dropped = log.trim(&limits).unwrap();
    let bounds = log.bounds().unwrap();
    assert!((900_000..=1_000_000).contains(&bounds.bytes), "{bounds:?}");
    assert_eq!(bounds.events + dropped, 800);
    assert_eq!(read(&log), same(dropped + 1..=800));
    // Whoever was reading meanwhile sees no damage in it.
    let mut seen = Vec::new();
    log.scan(&log.store().unwrap(), 1, 800, |entry, _| {
        assert!(entry.event.id.is_some(), "{entry:?}");
        seen.push(entry.cursor);
        true
    });
    assert!(seen.len() < 800 && seen.ends_with(&(dropped + 1..=800).collect::<Vec<_>>()), "{seen:?}");
    drop(log);
    let log = f.open();
    assert_eq!(log.bounds().unwrap(), bounds);
    assert_eq!(read(&log), same(dropped + 1..=800));
    let after = f.tables();
    assert!(after < before / 2, "{before} bytes on disk before, {after} after");
}

fn gaps(log: &DiskLog) -> Vec<(Cursor, u64, String)> {
    let entries = log.read(0, Page { max_events: usize::MAX, max_bytes: usize::MAX }).unwrap();
    let gap = |e: &Entry| match &e.event.body {
        Some(Body::Gap(g)) if g.source() == v1::GapSource::CollectorStore => {
            Some((e.cursor, g.count(), g.detail.clone()))
        }
        _ => None,
    };
    entries.iter().filter_map(gap).collect()
}

#[test]
fn damaged_records_become_gaps() {
    let f = Fixture::new();
    let log = f.open();
    log.append((1..=10).map(some).collect()).unwrap();
    drop(log);
    let log = f.open();
    let value = Stored::encode(Header { logged: Moment(1000 * SECOND), before: 0 }, &some(3));
    log.store().unwrap().events.insert(3u64.to_be_bytes(), [&value[..], &[0xff; 9]].concat()).unwrap();
    log.store().unwrap().events.insert(5u64.to_be_bytes(), b"short").unwrap();
    log.store().unwrap().events.remove(7u64.to_be_bytes()).unwrap();
    log.store().unwrap().events.remove(8u64.to_be_bytes()).unwrap();
    let told = [(3, 1, "it is no event"), (5, 1, "it is cut short"), (8, 2, "they are not in the store")];
    assert_eq!(gaps(&log), told.map(|(c, n, why)| (c, n, why.to_owned())));
    let seqs: Vec<u64> = read(&log).into_iter().map(|(_, seq)| seq).filter(|s| *s > 0).collect();
    assert_eq!(seqs, [1, 2, 4, 6, 9, 10]);
    let got = log.get(&[4, 5, 8], Page::SCAN).unwrap();
    assert_eq!(got.iter().map(|e| e.event.id.is_some()).collect::<Vec<_>>(), [true, false, false]);
    // And a log with holes is trimmed and searched all the same.
    assert_eq!(log.seek(Moment(1000 * SECOND)).unwrap(), 0);
    assert_eq!(log.trim(&Limits { max_age: Duration::MAX, max_bytes: 0 }).unwrap(), 10);
    assert_eq!(log.append(vec![some(11)]).unwrap(), 11);
}

#[test]
fn damaged_tables_become_gaps() {
    let f = Fixture::new();
    let log = f.open();
    log.append((1..=400).map(|n| noise(n, 1000)).collect()).unwrap();
    log.store().unwrap().events.rotate_memtable_and_wait().unwrap();
    drop(log);
    let largest = f.files("tables").into_iter().max_by_key(|p| fs::metadata(p).unwrap().len()).unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    for byte in &mut bytes[100_000..100_200] {
        *byte ^= 0x55;
    }
    fs::write(&largest, bytes).unwrap();

    let log = f.open();
    let gaps = gaps(&log);
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    let (cursor, count, why) = &gaps[0];
    assert_eq!(why, "the store cannot read them");
    assert!((1..=50).contains(count), "{gaps:?}");
    let seen = read(&log);
    assert_eq!(seen.len() as u64 + count - 1, 400);
    assert!(seen.iter().all(|(c, seq)| c == seq || c == cursor));
    // Whoever counts sessions from it comes through as well.
    let indexed = Indexed::open(Arc::new(log)).unwrap();
    assert_eq!(indexed.index().newest(), 400);
}

#[test]
fn a_torn_end_of_the_journal_loses_in_silence_only_what_was_never_acknowledged() {
    let f = Fixture::new();
    let log = f.open();
    for n in 1..=20 {
        log.append(vec![noise(n, 1000)]).unwrap();
    }
    drop(log);
    let journal = f.files("store").into_iter().filter(|p| p.extension().is_some_and(|e| e == "jnl"));
    let journal = journal.max_by_key(|p| fs::metadata(p).unwrap().len()).unwrap();
    let whole = fs::read(&journal).unwrap();
    let used = whole.iter().rposition(|b| *b != 0).unwrap() + 1;
    for cut in [1, 10, 500] {
        fs::write(&journal, &whole[..used - cut]).unwrap();
        let log = f.open();
        // It was acknowledged, and that is told outside of the journal.
        assert_eq!(read(&log), [same(1..=19), vec![(20, 0)]].concat(), "{cut} bytes cut");
        assert_eq!(gaps(&log), [(20, 1, "they are not in the store".to_owned())]);
        assert_eq!(log.sequences().unwrap().values().next().unwrap().seq, 19);
        drop(log);
        // As it is where the crash came before the acknowledgement.
        fs::remove_file(f.dir.path().join("reach")).unwrap();
        fs::write(&journal, &whole[..used - cut]).unwrap();
        let log = f.open();
        assert_eq!(read(&log), same(1..=19), "{cut} bytes cut");
        drop(log);
        fs::write(&journal, &whole[..used]).unwrap();
        assert_eq!(read(&f.open()), same(1..=20));
    }
}

#[test]
fn the_index_is_rebuilt_as_it_was() {
    let f = Fixture::new();
    let indexed = Indexed::open(Arc::new(f.open())).unwrap();
    let begin = event("n", 1, 1, "s", started(1, v1::EntryMethod::RuntimeExec));
    indexed.append(vec![Arc::new(begin), some(2), Arc::new(event("n", 3, 3, "s", ended(4)))]).unwrap();
    let know = |i: &Indexed<DiskLog>| {
        let index = i.index();
        (index.session(&index.find("s", &crate::trail::rights::Rights::everything()).unwrap()), index.nodes())
    };
    let known = know(&indexed);
    assert_eq!(known.0.as_ref().unwrap().lost, 4);
    drop(indexed);
    let indexed = Indexed::open(Arc::new(f.open())).unwrap();
    assert_eq!(know(&indexed), known);
}

#[test]
fn the_log_keeps_its_id_and_a_copy_of_it_has_another() {
    let dir = tempfile::tempdir().unwrap();
    let first = dir.path().join("first");
    let id = DiskLog::open(&first).unwrap().id();
    assert_eq!(DiskLog::open(&first).unwrap().id(), id);
    assert_ne!(DiskLog::open(&dir.path().join("second")).unwrap().id(), id);

    let copy = dir.path().join("copy");
    assert!(std::process::Command::new("cp").arg("-a").args([&first, &copy]).status().unwrap().success());
    let copied = DiskLog::open(&copy).unwrap().id();
    assert_ne!(copied, id);
    assert_eq!(DiskLog::open(&copy).unwrap().id(), copied);
    assert_eq!(DiskLog::open(&first).unwrap().id(), id);
}
