use std::time::Duration;

use super::*;
use crate::trail::testing::{self, executed};

const LOG: LogId = LogId(7);

fn delivery(cursor: Cursor) -> Delivery {
    let argv = format!("{cursor:0>40}");
    let event = testing::event("n", cursor, 1, "s", executed(&["/bin/true", &argv], false));
    Delivery::new(cursor, event.into())
}

fn deliveries(range: std::ops::RangeInclusive<Cursor>) -> Vec<Delivery> {
    range.map(delivery).collect()
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("events.jsonl")
    }

    fn open(&self, max_bytes: u64, keep: usize) -> FileSink {
        FileSink::open(FileOptions { path: self.path(), max_bytes, keep }, LOG).unwrap()
    }

    /// Set aside, oldest first; then the present one.
    fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> =
            fs::read_dir(self.0.path()).unwrap().map(|e| e.unwrap().path()).collect();
        files.retain(|path| path.extension().is_none_or(|e| e != "mark") && *path != self.path());
        files.sort();
        files.push(self.path());
        files
    }

    /// Sequence numbers of all lines there are, in order.
    fn lines(&self) -> Vec<u64> {
        let text: String = self.files().iter().map(|path| fs::read_to_string(path).unwrap()).collect();
        text.lines().map(|line| serde_json::from_str::<v1::Event>(line).unwrap().id.unwrap().seq).collect()
    }
}

fn write(sink: &mut FileSink, range: std::ops::RangeInclusive<Cursor>) {
    sink.write(&deliveries(range.clone())).unwrap();
    sink.passed(*range.end());
}

#[test]
fn a_line_for_each_event_and_a_mark_behind_it() {
    let place = Place::new();
    let mut sink = place.open(1 << 20, 3);
    assert_eq!(sink.has(), None);
    write(&mut sink, 1..=3);
    assert_eq!(sink.keep().unwrap(), Some(3));
    assert_eq!(sink.keep().unwrap(), None, "nothing new");
    sink.passed(9);
    assert_eq!(sink.keep().unwrap(), Some(9), "what is not for it is passed, too");
    assert_eq!(place.lines(), [1, 2, 3]);
    drop(sink);
    assert_eq!(place.open(1 << 20, 3).has(), Some(9));
}

#[test]
fn what_was_written_before_a_crash_is_not_written_twice() {
    let place = Place::new();
    let mut sink = place.open(1 << 20, 3);
    write(&mut sink, 1..=3);
    sink.keep().unwrap();
    // Never marked: killed here.
    write(&mut sink, 4..=8);
    drop(sink);
    let mut sink = place.open(1 << 20, 3);
    assert_eq!(sink.has(), Some(3));
    write(&mut sink, 4..=6);
    write(&mut sink, 7..=12);
    assert_eq!(sink.keep().unwrap(), Some(12));
    assert_eq!(place.lines(), (1..=12).collect::<Vec<_>>());
}

#[test]
fn cut_at_every_byte_it_ends_with_every_event_once() {
    let place = Place::new();
    let mut sink = place.open(1 << 20, 3);
    write(&mut sink, 1..=2);
    sink.keep().unwrap();
    let kept = fs::metadata(place.path()).unwrap().len();
    write(&mut sink, 3..=5);
    drop(sink);
    let (whole, mark) = (fs::read(place.path()).unwrap(), fs::read(beside(&place.path(), ".mark")).unwrap());
    for cut in usize::try_from(kept).unwrap()..=whole.len() {
        // The same file: its inode is in the mark.
        File::options()
            .write(true)
            .truncate(true)
            .open(place.path())
            .unwrap()
            .write_all(&whole[..cut])
            .unwrap();
        fs::write(beside(&place.path(), ".mark"), &mark).unwrap();
        let mut sink = place.open(1 << 20, 3);
        write(&mut sink, 3..=7);
        sink.keep().unwrap();
        assert_eq!(place.lines(), [1, 2, 3, 4, 5, 6, 7], "cut at {cut}");
    }
}

#[test]
fn a_file_that_is_full_is_set_aside_and_the_oldest_go() {
    let place = Place::new();
    let line = {
        let mut bytes = Vec::new();
        json::push(&mut bytes, &*delivery(1).event).unwrap();
        bytes.len() as u64
    };
    let mut sink = place.open(4 * line + line / 2, 2);
    for start in (1..=18).step_by(3) {
        write(&mut sink, start..=start + 2);
        sink.keep().unwrap();
    }
    assert_eq!(place.files().len(), 3, "{:?}", place.files());
    let lines = place.lines();
    assert!(lines.len() >= 8, "{lines:?}");
    assert_eq!(lines, (lines[0]..=18).collect::<Vec<_>>());
    for file in place.files() {
        assert!(fs::metadata(&file).unwrap().len() <= 4 * line + line / 2, "{file:?}");
    }
}

#[test]
fn killed_around_a_rotation_nothing_comes_twice() {
    let place = Place::new();
    let mut sink = place.open(700, 9);
    write(&mut sink, 1..=2);
    sink.keep().unwrap();
    // Rotates several times, and is never marked by `keep`.
    write(&mut sink, 3..=10);
    assert!(place.files().len() > 2, "{:?}", place.files());
    drop(sink);
    let mut sink = place.open(700, 9);
    let from = sink.has().unwrap();
    assert!(from > 2, "the mark was moved on by the rotation");
    write(&mut sink, from + 1..=12);
    sink.keep().unwrap();
    assert_eq!(place.lines(), (1..=12).collect::<Vec<_>>());
}

#[test]
fn somebody_else_may_rotate_it() {
    let place = Place::new();
    let mut sink = place.open(1 << 20, 3);
    write(&mut sink, 1..=3);
    fs::rename(place.path(), place.0.path().join("events.jsonl.1")).unwrap();
    sink.keep().unwrap();
    write(&mut sink, 4..=5);
    sink.keep().unwrap();
    assert_eq!(place.lines(), [1, 2, 3, 4, 5]);
    assert_eq!(fs::read_to_string(place.path()).unwrap().lines().count(), 2);
}

#[test]
fn only_its_own_parts_are_removed() {
    let place = Place::new();
    let other = place.0.path().join("events.jsonl.20261123T104500.backup");
    fs::write(&other, "x").unwrap();
    let mut sink = place.open(300, 0);
    write(&mut sink, 1..=9);
    assert!(other.exists());
    assert_eq!(place.files().len(), 2, "{:?}", place.files());
}

#[test]
fn a_mark_of_another_log_or_a_damaged_one_says_nothing() {
    let place = Place::new();
    let mut sink = place.open(1 << 20, 3);
    write(&mut sink, 1..=3);
    sink.keep().unwrap();
    let options = FileOptions { path: place.path(), max_bytes: 1 << 20, keep: 3 };
    assert_eq!(FileSink::open(options, LogId(8)).unwrap().has(), None);
    fs::write(beside(&place.path(), ".mark"), "{\"cursor\":").unwrap();
    assert_eq!(place.open(1 << 20, 3).has(), None);
}

#[test]
fn a_device_or_a_missing_directory_is_refused_with_its_name() {
    for path in ["/dev/null", "/nowhere/events.jsonl"] {
        let options = FileOptions { path: path.into(), max_bytes: 1, keep: 1 };
        let error = FileSink::open(options, LOG).unwrap_err().to_string();
        assert!(error.starts_with("cannot ") && error.contains(path), "{error}");
    }
}

#[test]
fn names_of_parts_sort_as_time_does() {
    let at = |seconds: i64| stamp(Moment(seconds * 1_000_000_000 + 123_456_789));
    assert_eq!(at(1_700_000_000), "20231114T221320.123456Z");
    assert!(is_stamp(&at(1_700_000_000)) && at(1_700_000_000) < at(1_700_000_001));
    assert!(Moment::now().since(Moment(0)) > Duration::ZERO);
}
