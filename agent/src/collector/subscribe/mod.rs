//! Durable subscriptions: who reads the log, and how far each has come
//! ([0015](../../../../docs/decisions/0015-subscriptions.md)).
//!
//! | module | what it does |
//! |---|---|
//! | [`feed`] | what one open subscription delivers next: pure |
//! | `lag` | how far behind each is, as metrics |
//! | `look` | reads the log for one reader; what retention took becomes a gap, or an error |
//! | [`handle`] | an open subscription: `next` and `ack` |
//! | [`store`] | keeps them on the disk |
//! | `calls` | the calls of `podtrail.v1.Trail` |
//!
//! Whoever reads, over gRPC or into a file, does it by [`Subscriptions::open`], and so has the same promises:
//!
//! - Every event that the reader may see and asked for is delivered, in the log's order, until it is acknowledged.
//! - What is acknowledged comes never again, but for acknowledgements that a crash took in their last moments.
//! - Where events are gone, because retention was faster, the reader hears of it: never a silent jump.
//! - One stream at a time: opening a subscription closes the stream that had it.
//!
//! The log is not held back by who reads it.

pub mod calls;
pub mod feed;
pub mod handle;
mod lag;
mod look;
pub mod store;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use podtrail_proto::v1;
use tokio::{
    sync::{Notify, Semaphore, watch},
    task,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use self::{
    feed::Feed,
    handle::{Ending, Reader},
    lag::Lags,
    look::{SharedLog, is_trimmed},
    store::{Change, Key, Record, Store},
};
pub use self::{
    feed::{Delivery, Pace, Window},
    handle::{AckError, Closed, Delivered, Handle, Opened},
    look::LookError,
};
use crate::{
    filter::{Filter, FilterError},
    telemetry::{
        Emit as _,
        subscriptions::{AcksNotWritten, SubscriptionExpired, SubscriptionRewound},
    },
    trail::{
        Moment,
        attributions::{Attributions, Unknown},
        log::{Cursor, LogError, Page},
        moment::Clock,
        sight::Sight,
        viewer::Viewer,
    },
};

/// Longest name, in bytes.
const MAX_NAME: usize = 64;
/// Acknowledgements of so long become one write; the first after a while is written at once.
const WRITE_EVERY: Duration = Duration::from_millis(100);
/// How often they are counted, and what they lag.
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked for subscriptions that nobody opens; also how long after a start for the first time.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// How subscriptions are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// a reader that has no room for so long, while there is something for it, is closed
    pub slow_after: Duration,
    /// a subscription that nobody had open for so long is forgotten
    pub max_idle: Duration,
    pub max_per_principal: usize,
    /// open at once, of all together
    pub max_streams: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            slow_after: Duration::from_secs(60),
            max_idle: Duration::from_secs(30 * 24 * 3600),
            max_per_principal: 100,
            max_streams: 256,
        }
    }
}

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// where it was; an error where it never was
    Resume,
    Oldest,
    Latest,
    /// what comes after it
    After(Cursor),
    /// what was logged then or later
    Time(Moment),
}

/// How to open a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `None`: where it was; a new one: latest
    pub from: Option<From>,
    /// kept with the subscription
    pub filter: String,
    pub window: Window,
    pub heartbeat: Duration,
    /// what retention took is told by a gap, instead of an error
    pub gap_if_trimmed: bool,
    /// events wait for the verdict on their session, for at most so long after they were logged; zero: not at all
    pub hold: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            from: None,
            filter: String::new(),
            window: Window { events: 10_000, bytes: 16 * 1024 * 1024 },
            heartbeat: Duration::from_secs(10),
            gap_if_trimmed: false,
            hold: Duration::ZERO,
        }
    }
}

/// Why a subscription cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// it has other letters, or too many
    #[error("a subscription's name has 1 to {MAX_NAME} of a-z, 0-9, - . _")]
    Name,
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// there is none to go on with
    #[error("there is no subscription {0:?} to resume: open it with oldest, latest, a cursor or a time")]
    NotThere(String),
    /// too many of one principal
    #[error("{0} subscriptions are the most: delete one that is not used")]
    TooMany(usize),
    /// too many streams
    #[error("{0} subscriptions are open already: try later")]
    TooManyOpen(usize),
    /// retention was faster
    #[error(
        "events {} to {} are trimmed already: open with gap_if_trimmed to go on behind them, or with oldest or a later cursor", after + 1, oldest - 1
    )]
    Trimmed { after: Cursor, oldest: Cursor },
    /// there is nothing yet
    #[error(
        "cursor {after} is after the newest, {newest}: the log has lost its end since; open with oldest or latest"
    )]
    AfterNewest { after: Cursor, newest: Cursor },
    #[error(transparent)]
    Log(#[from] LogError),
    /// a bug
    #[error("opening it failed; see the collector's log")]
    Panicked,
}

/// There is no such subscription.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// never, or not any more
    #[error("there is no subscription {0:?}")]
    NotThere(String),
    #[error(transparent)]
    Log(#[from] LogError),
}

/// All subscriptions. A clone is another handle to the same.
#[derive(Clone)]
pub struct Subscriptions(Arc<Inner>);

struct Inner {
    log: SharedLog,
    store: Box<dyn Store>,
    settings: Settings,
    clock: Clock,
    shutdown: CancellationToken,
    streams: Arc<Semaphore>,
    tickets: AtomicU64,
    /// held over every write to the store, and taken before `table`
    writing: Mutex<()>,
    /// never held over a write
    table: Mutex<BTreeMap<Key, Known>>,
    /// something is to be written
    changed: Notify,
    /// who knows whose sessions are
    attributions: OnceLock<Arc<dyn Attributions>>,
}

struct Known {
    record: Record,
    /// the store has it otherwise
    dirty: bool,
    open: Option<Stream>,
}

/// Who has it open.
struct Stream {
    ticket: u64,
    ending: watch::Sender<Option<Ending>>,
    in_flight: Arc<AtomicU64>,
}

impl Subscriptions {
    /// Takes up what the store has. May touch the disk.
    pub fn load(
        log: SharedLog,
        store: Box<dyn Store>,
        settings: Settings,
        clock: Clock,
        shutdown: CancellationToken,
    ) -> Result<Self, LogError> {
        let newest = log.bounds()?.newest;
        let mut table = BTreeMap::new();
        for (key, mut record) in store.load()? {
            let dirty = record.cursor > newest;
            if dirty {
                // Whatever comes under the numbers that were lost has to reach it.
                let Key { principal, name } = &key;
                SubscriptionRewound { principal, name, from: record.cursor, to: newest }.emit();
                record.cursor = newest;
            }
            table.insert(key, Known { record, dirty, open: None });
        }
        let this = Self(Arc::new(Inner {
            log,
            store,
            settings,
            clock,
            shutdown,
            streams: Arc::new(Semaphore::new(settings.max_streams)),
            tickets: AtomicU64::new(0),
            writing: Mutex::default(),
            table: Mutex::new(table),
            changed: Notify::new(),
            attributions: OnceLock::new(),
        }));
        this.flush()?;
        Ok(this)
    }

    /// From now on events are sent with whose session they are of. The first time counts.
    pub fn attribute(&self, attributions: Arc<dyn Attributions>) {
        _ = self.0.attributions.set(attributions);
    }

    fn attributions(&self) -> Arc<dyn Attributions> {
        self.0.attributions.get().cloned().unwrap_or_else(|| Arc::new(Unknown))
    }

    /// Opens a subscription for somebody; one that is not there is made. Whoever has it open is closed.
    pub async fn open(&self, viewer: Viewer, name: &str, options: Options) -> Result<Handle, OpenError> {
        let (this, name) = (self.clone(), name.to_owned());
        task::spawn_blocking(move || this.open_now(viewer, name, options))
            .await
            .map_err(|_| OpenError::Panicked)?
    }

    /// As [`Self::open`], where blocking is allowed.
    pub fn open_now(&self, viewer: Viewer, name: String, options: Options) -> Result<Handle, OpenError> {
        let Options { from, filter: text, window, heartbeat, gap_if_trimmed, hold } = options;
        let Inner { log, store, settings, .. } = &*self.0;
        if !is_name(&name) {
            return Err(OpenError::Name);
        }
        let filter = Filter::compile(&text)?;
        let permit = self
            .0
            .streams
            .clone()
            .try_acquire_owned()
            .map_err(|_| OpenError::TooManyOpen(settings.max_streams))?;
        let key = Key { principal: viewer.principal().to_owned(), name };
        let _writing = self.writing();
        let known = self.known(&key)?;
        // Everything is checked before whoever has it open loses it.
        let bounds = log.bounds()?;
        let set = match (from, &known) {
            (None | Some(From::Resume), Some(_)) => None,
            (Some(From::Resume), None) => return Err(OpenError::NotThere(key.name)),
            (None | Some(From::Latest), _) => Some(bounds.newest),
            (Some(From::Oldest), _) => Some(bounds.oldest.saturating_sub(1)),
            (Some(From::After(cursor)), _) => Some(cursor),
            (Some(From::Time(time)), _) => Some(log.seek(time)?),
        };
        let after = set.or(known.as_ref().map(|r| r.cursor)).unwrap_or(bounds.newest);
        if after > bounds.newest {
            return Err(OpenError::AfterNewest { after, newest: bounds.newest });
        }
        if is_trimmed(&bounds, after) && !gap_if_trimmed {
            return Err(OpenError::Trimmed { after, oldest: bounds.oldest });
        }
        let now = (self.0.clock)();
        let created = known.is_none();
        // From here on the old stream acknowledges nothing more.
        let known = self.close(&key, Ending::TakenOver).or(known);
        let record = match known {
            Some(record) => {
                Record { cursor: set.unwrap_or(record.cursor), seen: now, filter: text, ..record }
            }
            None => Record { cursor: after, created: now, seen: now, last_ack: None, filter: text },
        };
        let opened = Opened { at: record.cursor, created, oldest: bounds.oldest, newest: bounds.newest };
        store.write(&[(key.clone(), Some(record.clone()))], true)?;
        let ticket = self.0.tickets.fetch_add(1, Ordering::Relaxed);
        let (ending_tx, ending) = watch::channel(None);
        let in_flight = Arc::<AtomicU64>::default();
        let stream = Stream { ticket, ending: ending_tx, in_flight: in_flight.clone() };
        self.table().insert(key.clone(), Known { record, dirty: false, open: Some(stream) });
        self.0.changed.notify_one();
        let pace = Pace { heartbeat, slow_after: settings.slow_after };
        Ok(Handle {
            subscriptions: self.clone(),
            key,
            ticket,
            opened,
            feed: Feed::new(opened.at, window, pace, Instant::now()),
            reader: Reader {
                log: log.clone(),
                newest: log.newest(),
                sight: Arc::new(Sight { filter, viewer, attributions: self.attributions() }),
                hold,
                clock: self.0.clock.clone(),
                again: None,
                gaps: gap_if_trimmed,
                // What is oldest may be trimmed before it is read.
                gap_first: from == Some(From::Oldest),
                reading: None,
            },
            ending,
            shutdown: self.0.shutdown.clone(),
            in_flight,
            slow_seconds: settings.slow_after.as_secs(),
            _permit: permit,
        })
    }

    /// What is known of it; an error, where there is none and no room for another.
    fn known(&self, key: &Key) -> Result<Option<Record>, OpenError> {
        let table = self.table();
        if let Some(known) = table.get(key) {
            return Ok(Some(known.record.clone()));
        }
        let most = self.0.settings.max_per_principal;
        if table.keys().filter(|k| k.principal == key.principal).count() >= most {
            return Err(OpenError::TooMany(most));
        }
        Ok(None)
    }

    /// Closes the stream that has it, if any; returns what is known of it now.
    fn close(&self, key: &Key, why: Ending) -> Option<Record> {
        let mut table = self.table();
        let known = table.get_mut(key)?;
        if let Some(stream) = known.open.take() {
            stream.ending.send_replace(Some(why));
        }
        Some(known.record.clone())
    }

    /// All of one principal, by name. May touch the disk.
    pub fn list(&self, principal: &str) -> Result<Vec<v1::Subscription>, LogError> {
        let keys: Vec<Key> = self.table().keys().filter(|k| k.principal == principal).cloned().collect();
        keys.iter().filter_map(|key| self.describe(key).transpose()).collect()
    }

    /// One of them. May touch the disk.
    pub fn get(&self, principal: &str, name: &str) -> Result<v1::Subscription, FindError> {
        let key = Key { principal: principal.to_owned(), name: name.to_owned() };
        self.describe(&key)?.ok_or(FindError::NotThere(key.name))
    }

    /// Forgets it, and closes whoever has it open. May touch the disk.
    pub fn delete(&self, principal: &str, name: &str) -> Result<(), FindError> {
        let key = Key { principal: principal.to_owned(), name: name.to_owned() };
        let _writing = self.writing();
        if self.close(&key, Ending::Deleted).is_none() {
            return Err(FindError::NotThere(key.name));
        }
        self.0.store.write(&[(key.clone(), None)], true)?;
        self.table().remove(&key);
        self.0.changed.notify_one();
        Ok(())
    }

    fn describe(&self, key: &Key) -> Result<Option<v1::Subscription>, LogError> {
        let (record, in_flight) = {
            let table = self.table();
            let Some(known) = table.get(key) else { return Ok(None) };
            let in_flight = known.open.as_ref().map(|s| s.in_flight.load(Ordering::Relaxed));
            (known.record.clone(), in_flight)
        };
        let Record { cursor, created, seen: _, last_ack, filter } = record;
        let log = &self.0.log;
        let bounds = log.bounds()?;
        let first = log.read(cursor, Page { max_events: 1, max_bytes: 0 })?;
        let now = (self.0.clock)();
        Ok(Some(v1::Subscription {
            principal: key.principal.clone(),
            name: key.name.clone(),
            filter,
            cursor: log.id().text(cursor),
            connected: Some(in_flight.is_some()),
            created: Some(created.timestamp()),
            last_ack: last_ack.map(Moment::timestamp),
            lag_events: Some(bounds.newest.saturating_sub(cursor)),
            lag: first.first().map(|e| now.since(e.logged).into()),
            in_flight_events: Some(in_flight.unwrap_or(0)),
            trimmed: Some(is_trimmed(&bounds, cursor)),
        }))
    }

    /// Everything up to `cursor` is processed by the stream with this ticket.
    fn acked(&self, key: &Key, ticket: u64, cursor: Cursor) -> Result<(), AckError> {
        let now = (self.0.clock)();
        let mut table = self.table();
        let known = table
            .get_mut(key)
            .filter(|k| k.open.as_ref().is_some_and(|s| s.ticket == ticket))
            .ok_or(AckError::Closed)?;
        known.record.cursor = known.record.cursor.max(cursor);
        known.record.last_ack = Some(now);
        known.dirty = true;
        drop(table);
        self.0.changed.notify_one();
        Ok(())
    }

    /// The stream with this ticket is gone.
    fn left(&self, key: &Key, ticket: u64) {
        let now = (self.0.clock)();
        let mut table = self.table();
        if let Some(known) = table.get_mut(key)
            && known.open.as_ref().is_some_and(|s| s.ticket == ticket)
        {
            known.open = None;
            known.record.seen = now;
            known.dirty = true;
            drop(table);
            self.0.changed.notify_one();
        }
    }

    /// Writes what was acknowledged, until the shutdown; then call [`Self::flush`] once more.
    pub async fn run(self) {
        let mut sweep = Instant::now() + SWEEP_EVERY;
        let mut count = Instant::now();
        let mut lags = Lags::default();
        loop {
            tokio::select! {
                () = self.0.shutdown.cancelled() => return,
                () = self.0.changed.notified() => self.blocking(Self::flush).await,
                () = time::sleep_until(sweep) => {
                    self.blocking(Self::sweep).await;
                    sweep = Instant::now() + SWEEP_EVERY;
                }
                () = time::sleep_until(count) => {
                    self.count(&mut lags);
                    count = Instant::now() + COUNT_EVERY;
                }
            }
            tokio::select! {
                () = self.0.shutdown.cancelled() => return,
                () = time::sleep(WRITE_EVERY) => {}
            }
        }
    }

    async fn blocking(&self, work: fn(&Self) -> Result<(), LogError>) {
        let this = self.clone();
        if let Ok(Err(e)) = task::spawn_blocking(move || work(&this)).await {
            AcksNotWritten { error: &e.to_string() }.emit();
        }
    }

    /// Writes what was acknowledged. May touch the disk.
    pub fn flush(&self) -> Result<(), LogError> {
        let _writing = self.writing();
        let changes: Vec<Change> = {
            let mut table = self.table();
            let dirty = table.iter_mut().filter(|(_, known)| known.dirty);
            dirty
                .map(|(key, known)| {
                    known.dirty = false;
                    (key.clone(), Some(known.record.clone()))
                })
                .collect()
        };
        if changes.is_empty() {
            return Ok(());
        }
        self.0.store.write(&changes, false).inspect_err(|_| {
            let mut table = self.table();
            for (key, _) in &changes {
                if let Some(known) = table.get_mut(key) {
                    known.dirty = true;
                }
            }
        })
    }

    /// Forgets what nobody has opened for too long. May touch the disk.
    pub fn sweep(&self) -> Result<(), LogError> {
        let now = (self.0.clock)();
        let _writing = self.writing();
        let idle: Vec<Change> = {
            let mut table = self.table();
            for known in table.values_mut().filter(|k| k.open.is_some()) {
                known.record.seen = now;
                known.dirty = true;
            }
            let idle = table
                .iter()
                .filter(|(_, k)| k.open.is_none() && now.since(k.record.seen) > self.0.settings.max_idle);
            idle.map(|(key, _)| (key.clone(), None)).collect()
        };
        if !idle.is_empty() {
            self.0.store.write(&idle, true)?;
        }
        let mut table = self.table();
        for (Key { principal, name }, _) in &idle {
            SubscriptionExpired { principal, name, days: self.0.settings.max_idle.as_secs() / 86_400 }.emit();
        }
        table.retain(|key, _| idle.iter().all(|(gone, _)| gone != key));
        drop(table);
        self.0.changed.notify_one();
        Ok(())
    }

    fn count(&self, lags: &mut Lags) {
        let Ok(bounds) = self.0.log.bounds() else { return };
        let all: Vec<_> = {
            let table = self.table();
            table.iter().map(|(key, k)| (key.clone(), k.record.cursor, k.open.is_some())).collect()
        };
        lags.tell(&all, &bounds);
    }

    // Every change leaves the table whole.
    fn table(&self) -> MutexGuard<'_, BTreeMap<Key, Known>> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        self.0.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Subscriptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriptions").field("settings", &self.0.settings).finish_non_exhaustive()
    }
}

fn is_name(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b);
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(good)
}

#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;
