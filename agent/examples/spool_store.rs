//! Measures what the agent's spool asks of a store: fjall, redb and SQLite, one after the other.
//!
//! `cargo run --release --example spool_store -- [DIR]`. What was measured stands in
//! `docs/decisions/0012-spool-store.md`. A child appends as the pipeline would at 20,000 events/s, with the state of
//! sessions beside them, syncs once a second on another thread, and trims behind a collector that is 2 s late; then
//! it is killed (SIGKILL), and the parent looks what is there.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use fjall::{AbstractTree as _, Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use redb::ReadableDatabase as _;
use rusqlite::{Connection, OptionalExtension as _, params};

const EVENT_BYTES: usize = 300;
const BATCH: usize = 125;
const BATCHES_A_SECOND: u64 = 160;
const SECONDS: u64 = 10;
/// Batches that are not acknowledged.
const BEHIND: u64 = 2 * BATCHES_A_SECOND;
/// Keys of the state that a batch changes, of so many.
const CHANGED: u64 = 4;
const KEYS: u64 = 64;

trait Store: Sized + Send + Sync + 'static {
    const NAME: &'static str;
    fn open(path: &Path) -> Result<Self>;
    /// One batch that a crash of the process must not lose.
    fn append(&self, number: u64, events: &[u8], state: &[(u64, Vec<u8>)]) -> Result<()>;
    /// What a power cut must not lose is what came before this. Called on another thread.
    fn sync(&self) -> Result<()>;
    fn trim(&self, before: u64) -> Result<()>;
    /// The first and the last batch, read with all between.
    fn read(&self) -> Result<(u64, u64)>;
}

struct Fjall {
    db: Database,
    events: Keyspace,
    state: Keyspace,
}

impl Store for Fjall {
    const NAME: &'static str = "fjall";

    fn open(path: &Path) -> Result<Self> {
        let db = Database::builder(path)
            .cache_size(1 << 20)
            .max_journaling_size(64 << 20)
            .worker_threads(1)
            .open()?;
        let space = |name: &str, bytes| {
            db.keyspace(name, || KeyspaceCreateOptions::default().max_memtable_size(bytes))
        };
        let (events, state) = (space("events", 4 << 20)?, space("state", 1 << 20)?);
        Ok(Self { db, events, state })
    }

    fn append(&self, number: u64, events: &[u8], state: &[(u64, Vec<u8>)]) -> Result<()> {
        let mut batch = self.db.batch().durability(Some(PersistMode::Buffer));
        batch.insert(&self.events, number.to_be_bytes(), events);
        for (key, value) in state {
            batch.insert(&self.state, key.to_be_bytes(), &value[..]);
        }
        Ok(batch.commit()?)
    }

    fn sync(&self) -> Result<()> {
        Ok(self.db.persist(PersistMode::SyncData)?)
    }

    fn trim(&self, before: u64) -> Result<()> {
        Ok(self.events.tree.drop_range(..before.to_be_bytes())?)
    }

    fn read(&self) -> Result<(u64, u64)> {
        let mut found = (0, 0);
        for item in self.events.iter() {
            let (key, value) = item.into_inner()?;
            let number = u64::from_be_bytes(key[..].try_into()?);
            assert_eq!(value.len(), EVENT_BYTES * BATCH);
            found = (if found.0 == 0 { number } else { found.0 }, number);
        }
        Ok(found)
    }
}

const EVENTS: redb::TableDefinition<'_, u64, &[u8]> = redb::TableDefinition::new("events");
const STATE: redb::TableDefinition<'_, u64, &[u8]> = redb::TableDefinition::new("state");

/// Synced with each batch: what redb writes without is lost with the process.
struct Redb(redb::Database);

impl Store for Redb {
    const NAME: &'static str = "redb";

    fn open(path: &Path) -> Result<Self> {
        fs::create_dir_all(path)?;
        let db = redb::Builder::new().set_cache_size(1 << 20).create(path.join("spool.redb"))?;
        let tx = db.begin_write()?;
        tx.open_table(EVENTS)?;
        tx.open_table(STATE)?;
        tx.commit()?;
        Ok(Self(db))
    }

    fn append(&self, number: u64, events: &[u8], state: &[(u64, Vec<u8>)]) -> Result<()> {
        let mut tx = self.0.begin_write()?;
        tx.set_quick_repair(true);
        {
            tx.open_table(EVENTS)?.insert(number, events)?;
            let mut table = tx.open_table(STATE)?;
            for (key, value) in state {
                table.insert(key, &value[..])?;
            }
        }
        Ok(tx.commit()?)
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn trim(&self, before: u64) -> Result<()> {
        let tx = self.0.begin_write()?;
        tx.open_table(EVENTS)?.retain_in(..before, |_, _| false)?;
        Ok(tx.commit()?)
    }

    fn read(&self) -> Result<(u64, u64)> {
        let mut found = (0, 0);
        for item in self.0.begin_read()?.open_table(EVENTS)?.range::<u64>(..)? {
            let (number, value) = item?;
            assert_eq!(value.value().len(), EVENT_BYTES * BATCH);
            found = (if found.0 == 0 { number.value() } else { found.0 }, number.value());
        }
        Ok(found)
    }
}

/// With a write-ahead log, which another connection carries over into the tables.
struct Sqlite {
    writer: Mutex<Connection>,
    keeper: Mutex<Connection>,
    wal: fs::File,
    path: PathBuf,
}

impl Sqlite {
    fn connect(path: &Path) -> Result<Connection> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.execute_batch(
            "PRAGMA page_size = 4096; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;
             PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = -512;
             CREATE TABLE IF NOT EXISTS events (number INTEGER PRIMARY KEY, bytes BLOB NOT NULL);
             CREATE TABLE IF NOT EXISTS state (key INTEGER PRIMARY KEY, value BLOB NOT NULL);",
        )?;
        Ok(connection)
    }
}

impl Store for Sqlite {
    const NAME: &'static str = "SQLite";

    fn open(path: &Path) -> Result<Self> {
        fs::create_dir_all(path)?;
        let file = path.join("spool.db");
        let (writer, keeper) = (Self::connect(&file)?, Self::connect(&file)?);
        let wal = path.join("spool.db-wal");
        let wal_file = fs::File::options().create(true).append(true).open(&wal)?;
        Ok(Self { writer: Mutex::new(writer), keeper: Mutex::new(keeper), wal: wal_file, path: wal })
    }

    fn append(&self, number: u64, events: &[u8], state: &[(u64, Vec<u8>)]) -> Result<()> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let tx = writer.transaction()?;
        tx.prepare_cached("INSERT INTO events VALUES (?1, ?2)")?
            .execute(params![number.cast_signed(), events])?;
        {
            let mut put = tx.prepare_cached("REPLACE INTO state VALUES (?1, ?2)")?;
            for (key, value) in state {
                put.execute(params![key.cast_signed(), value])?;
            }
        }
        Ok(tx.commit()?)
    }

    fn sync(&self) -> Result<()> {
        self.wal.sync_data()?;
        if fs::metadata(&self.path)?.len() > 4 << 20 {
            let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
            let checkpoint = |mode: &str| {
                keeper.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
                    Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
                })
            };
            let (pages, done) = checkpoint("PASSIVE")?;
            if done < pages || pages > 1000 {
                checkpoint("RESTART")?;
            }
        }
        Ok(())
    }

    fn trim(&self, before: u64) -> Result<()> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.prepare_cached("DELETE FROM events WHERE number < ?1")?.execute([before.cast_signed()])?;
        Ok(())
    }

    fn read(&self) -> Result<(u64, u64)> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = (0, 0);
        let mut select = writer.prepare("SELECT number, bytes FROM events ORDER BY number")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let number = row.get::<_, i64>(0)?.cast_unsigned();
            assert_eq!(row.get_ref(1)?.as_blob()?.len(), EVENT_BYTES * BATCH);
            found = (if found.0 == 0 { number } else { found.0 }, number);
        }
        writer.query_row("SELECT count(*) FROM state", [], |row| row.get::<_, i64>(0)).optional()?;
        Ok(found)
    }
}

/// As argv and names are: not random, not all alike.
fn events(number: u64) -> Vec<u8> {
    let mut all = Vec::with_capacity(BATCH * EVENT_BYTES);
    let mut x = number;
    for n in 0..BATCH {
        let mut text = format!("/usr/bin/curl -s http://10.0.{}.{n}/path/{number:x} ", number % 256);
        while text.len() < EVENT_BYTES {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            text.push_str(&format!("--header=x{:04x} node-{} ", x >> 48, n % 7));
        }
        text.truncate(EVENT_BYTES);
        all.extend_from_slice(text.as_bytes());
    }
    all
}

fn of_proc(file: &str, key: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/self/{file}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)).with_context(|| format!("no {key}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Processor time of all threads.
fn cpu() -> Result<Duration> {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF)?;
    let time = |t: nix::sys::time::TimeVal| {
        Duration::from_micros((t.tv_sec() * 1_000_000 + t.tv_usec()).cast_unsigned())
    };
    Ok(time(usage.user_time()) + time(usage.system_time()))
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

/// In the child: appends, says how it was, and waits to be killed.
fn fill<S: Store>(path: &Path) -> Result<()> {
    let samples: Vec<Vec<u8>> = (0..64).map(events).collect();
    let empty = of_proc("status", "VmRSS:")?;
    let store = Arc::new(S::open(path)?);
    let opened = of_proc("status", "VmRSS:")?;
    let over = Arc::new(AtomicBool::new(false));
    let syncer = std::thread::spawn({
        let (store, over) = (Arc::clone(&store), Arc::clone(&over));
        move || -> Result<()> {
            while !over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_secs(1));
                store.sync()?;
            }
            Ok(())
        }
    });
    let (written, before) = (of_proc("io", "write_bytes:")?, cpu()?);
    let (mut took, mut longest) = (Vec::new(), Duration::ZERO);
    let began = Instant::now();
    for number in 1..=SECONDS * BATCHES_A_SECOND {
        let due = Duration::from_micros(number * 1_000_000 / BATCHES_A_SECOND);
        std::thread::sleep(due.saturating_sub(began.elapsed()));
        let state: Vec<_> = (0..CHANGED).map(|n| ((number * CHANGED + n) % KEYS, vec![7; 200])).collect();
        let begun = Instant::now();
        store.append(number, &samples[usize::try_from(number % 64)?], &state)?;
        if number > BEHIND && number % 16 == 0 {
            store.trim(number - BEHIND)?;
        }
        took.push(begun.elapsed());
        longest = longest.max(begun.elapsed());
    }
    let (spent, late) = (cpu()? - before, began.elapsed());
    over.store(true, Ordering::Relaxed);
    if let Err(panicked) = syncer.join() {
        std::panic::resume_unwind(panicked);
    }
    took.sort_unstable();
    println!(
        "append and trim: median {:4} µs, 99 % {:5} µs, longest {:6} µs, took {:.1} s · processor {:4.1} % · memory +{:.1} MiB open, +{:.1} MiB then, peak +{:.1} MiB · written {:.1} of {:.1} MB",
        took[took.len() / 2].as_micros(),
        took[took.len() * 99 / 100].as_micros(),
        longest.as_micros(),
        late.as_secs_f64(),
        spent.as_secs_f64() * 100.0 / late.as_secs_f64(),
        (opened - empty) as f64 / 1024.0,
        (of_proc("status", "VmRSS:")? - empty) as f64 / 1024.0,
        (of_proc("status", "VmHWM:")? - empty) as f64 / 1024.0,
        (of_proc("io", "write_bytes:")? - written) as f64 / 1e6,
        (SECONDS * BATCHES_A_SECOND) as f64 * (BATCH * EVENT_BYTES) as f64 / 1e6,
    );
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
    BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
    child.kill()?;
    child.wait()?;
    let full = size(&path)?;
    let began = Instant::now();
    let store = S::open(&path)?;
    let opened = began.elapsed();
    let (first, last) = store.read()?;
    if last != SECONDS * BATCHES_A_SECOND {
        bail!("{}: batch {last} is the last that is there; it said {line:?}", S::NAME);
    }
    println!(
        "{:6} {} · on disk {:.1} MB, batches from {first} · open after kill {:.1} ms",
        S::NAME,
        line.trim(),
        full as f64 / 1e6,
        opened.as_secs_f64() * 1e3,
    );
    drop(store);
    Ok(fs::remove_dir_all(&path)?)
}

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["fill", "fjall", path] => return fill::<Fjall>(Path::new(path)),
        ["fill", "redb", path] => return fill::<Redb>(Path::new(path)),
        ["fill", "SQLite", path] => return fill::<Sqlite>(Path::new(path)),
        _ => {}
    }
    let dir = args.first().map_or_else(|| env::temp_dir().join("podtrail-spool-store"), PathBuf::from);
    fs::create_dir_all(&dir)?;
    for _ in 0..2 {
        measure::<Fjall>(&dir)?;
        measure::<Redb>(&dir)?;
        measure::<Sqlite>(&dir)?;
    }
    Ok(fs::remove_dir(&dir)?)
}
