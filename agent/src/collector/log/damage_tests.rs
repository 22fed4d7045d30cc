//! A log whose files were cut or changed anywhere.

use std::{collections::BTreeMap, fs, path::Path};

use podtrail_proto::v1::event::Body;

use super::{tests::open_patiently, *};
use crate::trail::{
    Indexed,
    testing::{event, exited},
};

const MEMTABLE: u64 = 16 * 1024;

/// Bytes of every file: journals are long, and mostly not written yet.
type Files = BTreeMap<std::path::PathBuf, (Vec<u8>, u64)>;

fn files(root: &Path) -> Files {
    let mut found = Files::new();
    let mut folders = vec![root.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let mut bytes = fs::read(&path).unwrap();
            let len = bytes.len() as u64;
            bytes.truncate(bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1));
            found.insert(path.strip_prefix(root).unwrap().to_owned(), (bytes, len));
        }
    }
    found
}

fn restore(files: &Files, folders: &[std::path::PathBuf], root: &Path) {
    for folder in folders {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    for (path, (bytes, len)) in files {
        fs::write(root.join(path), bytes).unwrap();
        fs::OpenOptions::new().write(true).open(root.join(path)).unwrap().set_len(*len).unwrap();
    }
}

fn folders(root: &Path) -> Vec<std::path::PathBuf> {
    let mut all = vec![std::path::PathBuf::new()];
    let mut at = 0;
    while at < all.len() {
        for entry in fs::read_dir(root.join(&all[at])).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                all.push(all[at].join(entry.file_name()));
            }
        }
        at += 1;
    }
    all
}

struct Dice(u64);

impl Dice {
    fn throw(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below.max(1)
    }
}

const TRIMMED: u64 = 40;
const EVENTS: u64 = 400;
const BATCH: u64 = 10;

/// Batches of ten, of one of two nodes in turn.
fn truth(cursor: u64) -> Arc<v1::Event> {
    let (batch, at) = ((cursor - 1) / BATCH, (cursor - 1) % BATCH);
    let node = ["m", "n"][usize::try_from(batch % 2).unwrap()];
    let session: String = std::iter::repeat_n('x', usize::try_from(cursor * 37 % 200).unwrap()).collect();
    Arc::new(event(node, batch / 2 * BATCH + at + 1, cursor.cast_signed(), &session, exited()))
}

fn make(root: &Path) {
    let log = DiskLog::open_with(root, Moment::clock(), MEMTABLE).unwrap();
    for first in (1..=EVENTS).step_by(10) {
        log.append((first..first + BATCH).map(truth).collect()).unwrap();
        if first % 90 == 1 {
            log.store().unwrap().events.rotate_memtable_and_wait().unwrap();
        }
        if first == 201 {
            let bytes = (TRIMMED + 1..=210).map(|n| prost::Message::encoded_len(&*truth(n)) as u64).sum();
            let dropped = log.trim(&Limits { max_age: std::time::Duration::MAX, max_bytes: bytes }).unwrap();
            assert_eq!(dropped, TRIMMED);
            log.store().unwrap().sequences.rotate_memtable_and_wait().unwrap();
            log.store().unwrap().state.rotate_memtable_and_wait().unwrap();
        }
    }
}

/// Every event is there, or told to be missing; what is there is not taken again.
fn check(root: &Path, what: &str) -> &'static str {
    let log = DiskLog::open_with(root, Moment::clock(), MEMTABLE)
        .unwrap_or_else(|e| panic!("{what}: it does not open: {e}"));
    let entries = log.read(0, Page { max_events: usize::MAX, max_bytes: usize::MAX }).unwrap();
    let mut present = 0;
    let mut missing = 0;
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    let aside = root.read_dir().unwrap().any(|e| {
        let path = e.unwrap().path();
        path.join("store").exists()
    });
    for entry in &entries {
        match &entry.event.body {
            Some(Body::Gap(gap)) => {
                assert_eq!(gap.source(), v1::GapSource::CollectorStore, "{what}");
                assert!(gap.exact(), "{what}");
                missing += gap.count();
            }
            _ => {
                assert_eq!(entry.event, truth(entry.cursor), "{what}");
                let id = entry.event.id.as_ref().unwrap();
                last.insert(id.node.clone(), id.seq);
                present += 1;
            }
        }
    }
    assert_eq!(present + missing, EVENTS - TRIMMED, "{what}: {present} there, {missing} missing");
    let log = Arc::new(log);
    let indexed = Indexed::open(Arc::clone(&log)).unwrap();
    log.confirm(&indexed.index().nodes()).unwrap();
    drop(indexed);
    let sequences = log.sequences().unwrap();
    for (node, last) in last {
        let reached = sequences.iter().find(|(n, _)| n.node == node).map_or(0, |(_, r)| r.seq);
        assert!(reached >= last && reached <= EVENTS / 2, "{what}: {node} {last} {reached}");
    }
    // And it goes on, with cursors that were never given.
    let next = log.append(vec![truth(EVENTS + 1)]).unwrap();
    assert!(next == if aside { 2 } else { EVENTS + 1 }, "{what}: {next}");
    let next = go_on(&log, next, what);
    drop(log);
    // Once more, as after any start.
    let log = open_patiently(root, &Moment::clock(), MEMTABLE);
    assert_eq!(log.bounds().unwrap().newest, next, "{what}");
    match (aside, missing) {
        (true, _) => "begun anew",
        (false, 0) => "whole",
        (false, _) => "with gaps",
    }
}

/// Until the store has tidied up what is damaged, too; returns the last cursor.
fn go_on(log: &DiskLog, mut last: Cursor, what: &str) -> Cursor {
    let store = log.store().unwrap();
    let began = std::time::Instant::now();
    let mut append = || {
        let next = log.append(vec![truth(last + 1)]);
        assert_eq!(next.as_ref().ok(), Some(&(last + 1)), "{what}: {next:?}");
        last += 1;
    };
    let keyspaces = [&store.events, &store.sequences, &store.state];
    // More tables than there may be before they are compacted.
    for _ in 0..5 {
        append();
        for keyspace in keyspaces {
            if std::ptr::eq(keyspace, &store.state) {
                keyspace.insert("test", "test").unwrap();
            }
            keyspace.rotate_memtable_and_wait().unwrap();
        }
    }
    while store.database.compactions_completed() < 10 {
        assert!(began.elapsed().as_secs() < 20, "{what}: it does not compact");
        append();
        std::thread::yield_now();
    }
    append();
    last
}

#[test]
fn a_table_of_contents_without_end_is_found_before_memory_is_asked_for_it() {
    let base = tempfile::tempdir().unwrap();
    make(base.path());
    let (whole, folders) = (files(base.path()), folders(base.path()));
    let mut found = 0;
    for (path, (bytes, _)) in &whole {
        let Some(at) = bytes.windows(4).rposition(|b| b == b"TOC!") else { continue };
        found += 1;
        let mut files = whole.clone();
        files.get_mut(path).unwrap().0[at + 7] = 0x80;
        let dir = tempfile::tempdir().unwrap();
        restore(&files, &folders, dir.path());
        check(dir.path(), &path.display().to_string());
    }
    assert!(found > 10, "{found}");
}

/// The journal has no checksum over a batch's number: one that is too high comes before all that was written after it,
/// or leaves no number for what is to be written; one that is too low is passed over.
#[test]
fn whatever_the_number_of_a_batch_in_the_journal_becomes() {
    const END: &[u8] = b"FJL\x03";
    const START: u8 = 1;
    let base = tempfile::tempdir().unwrap();
    make(base.path());
    let (whole, folders) = (files(base.path()), folders(base.path()));
    let mut ends: BTreeMap<&str, u32> = BTreeMap::new();
    for (path, (bytes, _)) in &whole {
        if path.extension().is_none_or(|extension| extension != "jnl") {
            continue;
        }
        let batches = (0..bytes.len()).filter(|&at| bytes[..at].ends_with(END) && bytes[at] == START);
        for (nth, at) in batches.enumerate() {
            let mut files = whole.clone();
            let byte = at + 1 + size_of::<u32>() + nth % size_of::<u64>();
            files.get_mut(path).unwrap().0[byte] ^= if nth % 3 == 0 { 0x80 } else { 0x01 };
            let dir = tempfile::tempdir().unwrap();
            restore(&files, &folders, dir.path());
            *ends.entry(check(dir.path(), &format!("{} changed at {byte}", path.display()))).or_default() +=
                1;
        }
    }
    assert!(ends.values().sum::<u32>() >= 20 && ends.contains_key("with gaps"), "{ends:?}");
}

/// With `PODTRAIL_DAMAGE_ROUNDS=300 PODTRAIL_DAMAGE_SEED=7` as many more of each file. What is found becomes a test of its
/// own: the store's files differ from one run to the next, whatever the seed is.
#[test]
fn cut_or_changed_anywhere_it_opens_and_says_what_is_missing() {
    const THREADS: usize = 4;
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let rounds = number("PODTRAIL_DAMAGE_ROUNDS").unwrap_or(2);
    let seeds = number("PODTRAIL_DAMAGE_SEED").map_or(vec![1, std::process::id().into()], |seed| vec![seed]);
    println!("seeds {seeds:?}");
    let base = tempfile::tempdir().unwrap();
    make(base.path());
    let (whole, folders) = (files(base.path()), folders(base.path()));
    // Whoever changes these changes what the directory is.
    let named = |path: &Path| path.ends_with("format") || path.ends_with("lock");
    let paths: Vec<_> = whole.keys().filter(|path| !named(path)).collect();
    let damage = |seed: u64, path: &Path| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let mut dice =
            Dice(seed.wrapping_add(xxhash_rust::xxh3::xxh3_64(path.as_os_str().as_encoded_bytes())));
        let mut ends = Vec::new();
        for round in 0..rounds {
            let mut files = whole.clone();
            let (bytes, len) = files.get_mut(path).unwrap();
            let at = dice.throw(bytes.len() as u64);
            let what = if round % 2 == 0 {
                bytes.truncate(usize::try_from(at).unwrap());
                *len = at;
                format!("seed {seed}: {} cut at {at}", path.display())
            } else {
                let at = usize::try_from(at).unwrap();
                let Some(byte) = bytes.get_mut(at) else { continue };
                *byte ^= u8::try_from(dice.throw(255) + 1).unwrap();
                format!("seed {seed}: {} changed at {at}", path.display())
            };
            let dir = tempfile::tempdir().unwrap();
            restore(&files, &folders, dir.path());
            println!("{what}");
            ends.push(format!("{name}: {}", check(dir.path(), &what)));
        }
        ends
    };
    let mut ends: BTreeMap<String, u32> = BTreeMap::new();
    std::thread::scope(|scope| {
        let (damage, paths, seeds) = (&damage, &paths, &seeds);
        let every = |nth| {
            move || -> Vec<String> {
                let mine = paths.iter().skip(nth).step_by(THREADS);
                mine.flat_map(|path| seeds.iter().flat_map(move |seed| damage(*seed, path))).collect()
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|nth| scope.spawn(every(nth))).collect();
        for end in threads.into_iter().flat_map(|thread| thread.join().unwrap()) {
            *ends.entry(end).or_default() += 1;
        }
    });
    println!("{ends:#?}");
}
