//! The agent's spool and the collector's log, opened from files that something has damaged.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
    time::Duration,
};

use podtrail::{
    collector::log::DiskLog,
    spool::{Disk, Fsync, Node, Now, Options, Spool},
    trail::{
        Moment,
        log::{Log, Page},
    },
};
use podtrail_proto::{Timestamp, v1};

use super::folder;

/// A store's files, whole.
type Files = Vec<(PathBuf, Vec<u8>)>;

const TIME: Timestamp = Timestamp { seconds: 1_795_382_440, nanos: 0 };

/// The collector's log.
pub fn log_files(data: &[u8]) {
    static WHOLE: LazyLock<Option<Files>> = LazyLock::new(|| {
        whole(|dir| {
            let log = DiskLog::open(dir).ok()?;
            (1..=20).try_for_each(|seq| log.append(vec![Arc::new(event(seq))]).ok().map(drop))?;
            log.flush().ok()
        })
    });
    let Some(dir) = damaged(WHOLE.as_ref(), data) else { return };
    let Ok(log) = DiskLog::open(dir.path()) else { return };
    _ = log.sequences();
    read_all(&log);
}

/// The agent's spool: it always opens, if only in memory, and goes on.
pub fn spool_files(data: &[u8]) {
    static WHOLE: LazyLock<Option<Files>> = LazyLock::new(|| {
        whole(|dir| {
            let spool = open(dir)?;
            (1..=20).for_each(|_| push(&spool));
            _ = spool.ack(5);
            Some(())
        })
    });
    let Some(dir) = damaged(WHOLE.as_ref(), data) else { return };
    let spool = open(dir.path()).expect("the spool opens, whatever is wrong with its files");
    read_all(&spool);
    let before = *spool.newest_seq().borrow();
    push(&spool);
    assert!(*spool.newest_seq().borrow() > before, "it takes no event any more");
}

fn open(dir: &Path) -> Option<Spool> {
    let node = Node { cluster: "c".to_owned(), name: "n".to_owned(), boot_id: "boot".to_owned() };
    let disk = Disk {
        dir: dir.to_owned(),
        max_bytes: 64 << 20,
        max_age: Duration::from_secs(1 << 30),
        fsync: Fsync::Never,
    };
    let options = Options { max_bytes: 1 << 20, acknowledged: true };
    Spool::open(&node, options, &disk, Moment::from_timestamp(&TIME)).ok().map(|(spool, _)| spool)
}

fn push(spool: &Spool) {
    let now = Now { wall: Moment::from_timestamp(&TIME), boot: Default::default() };
    spool.push(&mut vec![v1::Event { id: None, ..event(0) }], now, &mut Vec::new());
}

fn event(seq: u64) -> v1::Event {
    v1::Event {
        id: Some(v1::EventId { node: "n".to_owned(), epoch: 1, seq, ..Default::default() }),
        time: Some(TIME),
        session_id: "s".repeat(40),
        ..Default::default()
    }
}

/// What can be read is in order, and ends.
fn read_all(log: &impl Log) {
    let Ok(bounds) = log.bounds() else { return };
    let mut after = bounds.oldest.saturating_sub(1);
    while let Ok(page) = log.read(after, Page { max_events: 16, max_bytes: 1 << 20 }) {
        let Some(last) = page.last() else { break };
        assert!(last.cursor > after, "{} after {after}", last.cursor);
        after = last.cursor;
    }
}

/// The bytes say what is damaged: which file, where, and with what; or where it is cut.
fn damaged(whole: Option<&Files>, data: &[u8]) -> Option<tempfile::TempDir> {
    let dir = tempfile::tempdir_in(folder()).ok()?;
    let mut files = whole?.clone();
    for change in data.chunks_exact(6) {
        let [file, at_high, at_low, what, with, more] = change else { continue };
        let count = files.len();
        let Some((_, bytes)) = files.get_mut(usize::from(*file) % count) else { continue };
        if bytes.is_empty() {
            continue;
        }
        let at = (usize::from(*at_high) << 8 | usize::from(*at_low)) % bytes.len();
        match what % 4 {
            0 => bytes.truncate(at),
            1 => bytes[at..].iter_mut().take(usize::from(*more) + 1).for_each(|byte| *byte = *with),
            2 => bytes[at] ^= with,
            _ => bytes.extend(std::iter::repeat_n(*with, usize::from(*more) + 1)),
        }
    }
    for (path, bytes) in &files {
        let path = dir.path().join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).ok()?;
        }
        fs::write(path, bytes).ok()?;
    }
    Some(dir)
}

fn whole(make: impl FnOnce(&Path) -> Option<()>) -> Option<Files> {
    let dir = tempfile::tempdir_in(folder()).ok()?;
    make(dir.path())?;
    let mut files = Files::new();
    collect(dir.path(), dir.path(), &mut files);
    files.sort();
    Some(files)
}

fn collect(root: &Path, dir: &Path, files: &mut Files) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(root, &path, files);
        } else if let (Ok(bytes), Ok(name)) = (fs::read(&path), path.strip_prefix(root)) {
            files.push((name.to_path_buf(), bytes));
        }
    }
}
