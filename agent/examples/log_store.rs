//! Measures what the collector's log asks of a store: fjall and redb in the same run, turn by turn.
//!
//! `cargo run --example log_store -- [DIR]`. What was measured stands in `docs/decisions/0002-collector-store.md`.
//! A child fills a store as the log would and is killed (SIGKILL) at the end; the parent measures what it finds.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use fjall::{AbstractTree as _, Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use podtrail::{
    collector::log::DiskLog,
    trail::{
        Indexed,
        log::{Limits, Log as _, Page},
    },
};
use podtrail_proto::v1;
use redb::{ReadableDatabase as _, ReadableTableMetadata as _};

const EVENT_BYTES: usize = 300;
/// (batches, events in each)
const SMALL: (u64, u64) = (500, 1);
const LARGE: (u64, u64) = (500, 2000);
const ROUNDS: usize = 3;
const TABLE: redb::TableDefinition<'_, u64, &[u8]> = redb::TableDefinition::new("events");

trait Store: Sized {
    const NAME: &'static str;
    fn open(path: &Path) -> Result<Self>;
    /// One durable batch.
    fn append(&self, first: u64, values: &[Vec<u8>]) -> Result<()>;
    /// Reads all in order; how many.
    fn read(&self) -> Result<u64>;
    /// Drops what is before this.
    fn trim(&self, before: u64) -> Result<()>;
}

struct Fjall(Database, Keyspace);

impl Store for Fjall {
    const NAME: &'static str = "fjall";

    fn open(path: &Path) -> Result<Self> {
        let db = Database::builder(path).open()?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(32 << 20);
        let events = db.keyspace("events", options)?;
        Ok(Self(db, events))
    }

    fn append(&self, first: u64, values: &[Vec<u8>]) -> Result<()> {
        let mut batch = self.0.batch().durability(Some(PersistMode::SyncData));
        for (cursor, value) in (first..).zip(values) {
            batch.insert(&self.1, cursor.to_be_bytes(), &value[..]);
        }
        Ok(batch.commit()?)
    }

    fn read(&self) -> Result<u64> {
        let mut count = 0;
        for item in self.1.iter() {
            count += u64::from(!item.value()?.is_empty());
        }
        Ok(count)
    }

    fn trim(&self, before: u64) -> Result<()> {
        Ok(self.1.tree.drop_range(..before.to_be_bytes())?)
    }
}

struct Redb(redb::Database);

impl Store for Redb {
    const NAME: &'static str = "redb";

    fn open(path: &Path) -> Result<Self> {
        fs::create_dir_all(path)?;
        let db = redb::Database::create(path.join("log.redb"))?;
        let tx = db.begin_write()?;
        tx.open_table(TABLE)?;
        tx.commit()?;
        Ok(Self(db))
    }

    fn append(&self, first: u64, values: &[Vec<u8>]) -> Result<()> {
        let mut tx = self.0.begin_write()?;
        // Without it, opening after a kill walks the whole file.
        tx.set_quick_repair(true);
        {
            let mut table = tx.open_table(TABLE)?;
            for (cursor, value) in (first..).zip(values) {
                table.insert(cursor, &value[..])?;
            }
        }
        Ok(tx.commit()?)
    }

    fn read(&self) -> Result<u64> {
        let tx = self.0.begin_read()?;
        let table = tx.open_table(TABLE)?;
        let mut count = 0;
        for item in table.range::<u64>(..)? {
            count += u64::from(!item?.1.value().is_empty());
        }
        assert_eq!(count, table.len()?, "redb counts otherwise");
        Ok(count)
    }

    fn trim(&self, before: u64) -> Result<()> {
        let tx = self.0.begin_write()?;
        tx.open_table(TABLE)?.retain_in(..before, |_, _| false)?;
        Ok(tx.commit()?)
    }
}

/// As argv and names are: not random, not all alike.
fn value(n: u64) -> Vec<u8> {
    let mut text = format!("/usr/bin/curl -s http://10.0.{}.{}/path/{n:x} ", n % 256, n % 199);
    let mut x = n;
    while text.len() < EVENT_BYTES {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        text.push_str(&format!("--header=x{:04x} node-{} ", x >> 48, n % 7));
    }
    text.truncate(EVENT_BYTES);
    text.into_bytes()
}

fn io_written() -> Result<u64> {
    let text = fs::read_to_string("/proc/self/io")?;
    let line = text.lines().find_map(|l| l.strip_prefix("write_bytes: ")).context("no write_bytes")?;
    Ok(line.parse()?)
}

fn size(path: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let meta = fs::metadata(path)?;
    let mut sum = meta.blocks() * 512;
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            sum += size(&entry?.path())?;
        }
    }
    Ok(sum)
}

/// In the child: appends, prints, and waits to be killed.
fn fill<S: Store>(path: &Path) -> Result<()> {
    let store = S::open(path)?;
    let mut next = 1;
    let mut run = |(batches, each): (u64, u64)| -> Result<Duration> {
        let mut took = Duration::ZERO;
        for _ in 0..batches {
            let values: Vec<_> = (next..next + each).map(value).collect();
            let began = Instant::now();
            store.append(next, &values)?;
            took += began.elapsed();
            next += each;
        }
        Ok(took)
    };
    let small = run(SMALL)?;
    let before = io_written()?;
    let large = run(LARGE)?;
    let written = io_written()? - before;
    println!("{} {} {written}", small.as_micros(), large.as_micros());
    loop {
        std::thread::park();
    }
}

fn measure<S: Store>(dir: &Path) -> Result<()> {
    let path = dir.join(S::NAME);
    let mut child = Command::new(env::current_exe()?)
        .args(["fill", S::NAME])
        .arg(&path)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    let stdout = child.stdout.take().context("no output")?;
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line)?;
    child.kill()?;
    child.wait()?;
    let told: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let &[small, large, written] = &told[..] else { bail!("{} said {line:?}", S::NAME) };

    let events = SMALL.0 * SMALL.1 + LARGE.0 * LARGE.1;
    let payload = LARGE.0 * LARGE.1 * EVENT_BYTES as u64;
    let began = Instant::now();
    let store = S::open(&path)?;
    let opened = began.elapsed();
    let began = Instant::now();
    let count = store.read()?;
    let read = began.elapsed();
    if count != events {
        bail!("{}: {events} were acknowledged, {count} are there", S::NAME);
    }
    let full = size(&path)?;
    let began = Instant::now();
    store.trim(events * 3 / 4)?;
    let trimmed = began.elapsed();
    drop(store);
    println!(
        "{:6} append 1: {:5.0} µs  append {}: {:6.1} ms = {:7.0} events/s  written/payload {:4.2}  open after kill {:6.0} ms  read {:8.0} events/s  disk {:4.0} MB, after trim of 3/4 {:4.0} MB in {:6.1} ms",
        S::NAME,
        small as f64 / SMALL.0 as f64,
        LARGE.1,
        large as f64 / LARGE.0 as f64 / 1e3,
        (LARGE.0 * LARGE.1) as f64 / (large as f64 / 1e6),
        written as f64 / payload as f64,
        opened.as_secs_f64() * 1e3,
        events as f64 / read.as_secs_f64(),
        full as f64 / 1e6,
        size(&path)? as f64 / 1e6,
        trimmed.as_secs_f64() * 1e3,
    );
    fs::remove_dir_all(&path)?;
    Ok(())
}

/// The log itself: appends, and how fast the index is counted from it at a start.
fn measure_log(dir: &Path) -> Result<()> {
    let path = dir.join("disk-log");
    let event = |n: u64| {
        let argv = String::from_utf8(value(n)).unwrap_or_default();
        let executed = v1::Executed { argv: vec![argv], ..v1::Executed::default() };
        Arc::new(v1::Event {
            id: Some(v1::EventId { cluster: "c".to_owned(), node: format!("n{}", n % 50), epoch: 1, seq: n }),
            time: Some(podtrail::trail::Moment::now().timestamp()),
            session_id: format!("session-{}", n % 20_000),
            body: Some(v1::event::Body::Executed(executed)),
            ..v1::Event::default()
        })
    };
    let log = DiskLog::open(&path)?;
    let mut took = Duration::ZERO;
    let (batches, each) = LARGE;
    for batch in 0..batches {
        let events = (batch * each..(batch + 1) * each).map(event).collect();
        let began = Instant::now();
        log.append(events)?;
        took += began.elapsed();
    }
    drop(log);
    let began = Instant::now();
    let log = Arc::new(DiskLog::open(&path)?);
    let opened = began.elapsed();
    let began = Instant::now();
    let indexed = Indexed::open(log)?;
    let counted = began.elapsed();
    let events = indexed.log().bounds()?.events;
    let bytes = indexed.log().bounds()?.bytes;
    let began = Instant::now();
    indexed.trim(&Limits { max_age: Duration::MAX, max_bytes: bytes / 4 })?;
    let trimmed = began.elapsed();
    let left = indexed.log().read(0, Page::SCAN)?.len();
    println!(
        "DiskLog append {each}: {:.1} ms = {:.0} events/s  open {:.0} ms  index rebuilt at {:.0} events/s  trim of 3/4 with index {:.0} ms ({left} read after)",
        took.as_secs_f64() * 1e3 / batches as f64,
        events as f64 / took.as_secs_f64(),
        opened.as_secs_f64() * 1e3,
        events as f64 / counted.as_secs_f64(),
        trimmed.as_secs_f64() * 1e3,
    );
    fs::remove_dir_all(&path)?;
    Ok(())
}

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["fill", "fjall", path] => return fill::<Fjall>(Path::new(path)),
        ["fill", "redb", path] => return fill::<Redb>(Path::new(path)),
        _ => {}
    }
    let dir = args.first().map_or_else(|| env::temp_dir().join("podtrail-log-store"), PathBuf::from);
    fs::create_dir_all(&dir)?;
    for _ in 0..ROUNDS {
        measure::<Fjall>(&dir)?;
        measure::<Redb>(&dir)?;
    }
    measure_log(&dir)?;
    fs::remove_dir(&dir)?;
    Ok(())
}
