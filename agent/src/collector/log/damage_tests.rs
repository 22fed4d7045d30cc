//! A log whose files were cut or changed anywhere.

use std::{collections::BTreeMap, fs, path::Path};

use podtrail_proto::v1::event::Body;

use super::{tests::open_patiently, *};
use crate::trail::testing::{event, exited};

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

/// Cursor n is event n / 2 of one of two nodes.
fn truth(cursor: u64) -> Arc<v1::Event> {
    let node = ["m", "n"][usize::try_from(cursor % 2).unwrap()];
    let session: String = std::iter::repeat_n('x', usize::try_from(cursor * 37 % 200).unwrap()).collect();
    Arc::new(event(node, cursor.div_ceil(2), cursor.cast_signed(), &session, exited()))
}

fn make(root: &Path) {
    let log = DiskLog::open_with(root, Moment::clock(), MEMTABLE).unwrap();
    for first in (1..=EVENTS).step_by(10) {
        log.append((first..first + 10).map(truth).collect()).unwrap();
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
    let sequences = log.sequences().unwrap();
    for (node, last) in last {
        let reached = sequences.iter().find(|(n, _)| n.node == node).map_or(0, |(_, r)| r.seq);
        assert!(reached >= last && reached <= EVENTS / 2, "{what}: {node} {last} {reached}");
    }
    // And it goes on, with cursors that were never given.
    let next = log.append(vec![truth(EVENTS + 1)]).unwrap();
    assert!(next == if aside { 2 } else { EVENTS + 1 }, "{what}: {next}");
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

#[test]
fn cut_or_changed_anywhere_it_opens_and_says_what_is_missing() {
    let base = tempfile::tempdir().unwrap();
    make(base.path());
    let (whole, folders) = (files(base.path()), folders(base.path()));
    let seed = u64::from(std::process::id());
    let mut dice = Dice(seed);
    let rounds = std::env::var("PODTRAIL_DAMAGE_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let mut ends: BTreeMap<String, u32> = BTreeMap::new();
    for path in whole.keys() {
        // Whoever changes these changes what the directory is.
        if path.ends_with("format") || path.ends_with("lock") {
            continue;
        }
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
            let end = check(dir.path(), &what);
            let kind = path.file_name().unwrap().to_string_lossy().into_owned();
            *ends.entry(format!("{kind}: {end}")).or_default() += 1;
        }
    }
    println!("{ends:#?}");
}
