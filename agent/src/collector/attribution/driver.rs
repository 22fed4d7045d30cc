//! Reads the log, asks the engine, and writes what it says.
//!
//! Its place in the log is kept with what it writes: after a restart everything that may still matter is read again, and
//! what was said before is found there. Nothing is said before all of that is read.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use podtrail_proto::v1;
use tokio::{sync::watch, task, time};
use tokio_util::sync::CancellationToken;

use super::{Counts, Engine, Heard, Known, Settings, World};
use crate::{
    collector::{
        audit::{self, Over, Stream},
        log::{Beside, DiskLog},
        writer::{Unwritten, Writer},
    },
    telemetry::{
        Emit as _,
        attribution::{AttributionBegan, AttributionFailed, AttributionMeasured, VerdictSaid},
    },
    trail::{
        Indexed, Moment,
        log::{Cursor, Entry, Log as _, LogError, Page},
        moment::Clock,
    },
};

/// Its place: cursor u64, big-endian.
const KEY: &[u8] = b"attribution/after";
/// Events that are written at once.
const BATCH: usize = 256;
/// What comes in so short a time is looked at together.
const TOGETHER: Duration = Duration::from_millis(20);
/// How often its place is kept though nothing is said.
const KEEP_EVERY: Duration = Duration::from_secs(10);
/// Before it begins again after a failure.
const RETRY: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug)]
pub(in super::super) struct Driver {
    pub(in super::super) settings: Settings,
    pub(in super::super) writer: Writer,
    pub(in super::super) indexed: Arc<Indexed<DiskLog>>,
    pub(in super::super) heard: audit::Heard,
    pub(in super::super) stop: CancellationToken,
}

/// Why it has to begin again.
#[derive(Debug, thiserror::Error)]
enum DriverError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("the log cannot be written")]
    Unwritten,
    #[error("reading the log failed by a bug; see the log above")]
    Panicked,
}

impl From<Unwritten> for DriverError {
    fn from(_: Unwritten) -> Self {
        Self::Unwritten
    }
}

/// What the engine asks.
struct Around {
    indexed: Arc<Indexed<DiskLog>>,
    /// of each cluster, what had been heard before the log was read: all of that was read
    heard: BTreeMap<String, Vec<Stream>>,
}

impl World for Around {
    fn heard(&self, cluster: &str, from: Moment, to: Moment) -> Heard {
        let streams = self.heard.get(cluster).map(Vec::as_slice).unwrap_or_default();
        match audit::over(streams, from, to) {
            Over::All => Heard::All,
            Over::Behind => Heard::Behind,
            Over::Partly(_) | Over::Nobody => Heard::No,
        }
    }

    fn known(&self, cluster: &str, id: &str) -> Known {
        self.indexed.index().known(cluster, id)
    }
}

impl Driver {
    /// Until the stop.
    pub(in super::super) async fn run(self) {
        let stop = self.stop.clone();
        let this = Arc::new(self);
        loop {
            let error = tokio::select! {
                ended = this.once(Moment::clock()) => match ended {
                    Err(error) => error,
                    Ok(never) => match never {},
                },
                () = stop.cancelled() => return,
            };
            // What was said and not written must be said again: all is read anew.
            AttributionFailed { error: &error.to_string() }.emit();
            tokio::select! {
                () = time::sleep(RETRY) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn once(self: &Arc<Self>, clock: Clock) -> Result<std::convert::Infallible, DriverError> {
        let mut newest = self.indexed.log().newest();
        let mut heard = self.heard.changed();
        let this = Arc::clone(self);
        let (mut engine, mut after) = blocking(move || this.begin()).await?;
        self.keep(&mut after.kept, engine.needs_after(), Vec::new()).await?;
        let mut kept_at = time::Instant::now();
        loop {
            newest.borrow_and_update();
            if heard.has_changed().unwrap_or(false) {
                heard.borrow_and_update();
                engine.heard_changed();
            }
            let this = Arc::clone(self);
            let now = clock();
            let said;
            (engine, after, said) = blocking(move || this.read(engine, after, now)).await?;
            if let Some((events, counts)) = said {
                if !events.is_empty() || kept_at.elapsed() >= KEEP_EVERY {
                    self.keep(&mut after.kept, engine.needs_after(), events).await?;
                    kept_at = time::Instant::now();
                }
                self.tell(&engine, counts, after.read);
            }
            wait(&mut newest, &mut heard, engine.next_due().map(|due| due.since(clock()))).await;
        }
    }

    /// Everything that may still matter but what comes behind its place.
    fn begin(&self) -> Result<(Engine, Place), DriverError> {
        let log = self.indexed.log();
        let bounds = log.bounds()?;
        let kept = log.beside(KEY)?.into_iter().find(|(key, _)| key == KEY);
        let kept = kept.and_then(|(_, value)| Some(Cursor::from_be_bytes(value.try_into().ok()?)));
        // What was before anybody listened is nobody's to judge.
        let read = kept.unwrap_or(bounds.newest).clamp(bounds.oldest.saturating_sub(1), bounds.newest);
        let mut engine = Engine::new(self.settings.clone());
        let most = self.settings.most.saturating_mul(4);
        let mut cursors = self.indexed.index().for_attribution(read, most);
        if let Some(first) = cursors.first().filter(|_| cursors.len() == most) {
            let page = Page { max_events: 1, max_bytes: 0 };
            let from = log.get(&[*first], page)?.first().map(|entry| entry.logged);
            engine.reads_from(from.unwrap_or(Moment::MIN));
        }
        let found = cursors.len();
        while !cursors.is_empty() {
            let page = log.get(&cursors, Page::SCAN)?;
            let Some(last) = page.last().map(|entry| entry.cursor) else { break };
            page.iter().for_each(|entry| engine.take(entry));
            cursors.retain(|cursor| *cursor > last);
        }
        AttributionBegan { after: &log.id().text(read), replay: bounds.newest - read, requests: found }
            .emit();
        Ok((engine, Place { read, kept }))
    }

    /// Reads all there is, and asks the engine.
    fn read(&self, mut engine: Engine, mut place: Place, now: Moment) -> Result<Asked, DriverError> {
        let log = self.indexed.log();
        // In this order: what was heard is in the log, up to here at most.
        let heard = engine.clusters().map(|name| (name.to_owned(), self.heard.streams(name))).collect();
        let newest = log.bounds()?.newest;
        while place.read < newest && !self.stop.is_cancelled() {
            let page: Vec<Entry> = log.read(place.read, Page::SCAN)?;
            page.iter().for_each(|entry| engine.take(entry));
            // Nothing: trimmed, or lost with the log's end.
            place.read = page.last().map_or(newest, |entry| entry.cursor);
        }
        if place.read < newest {
            return Ok((engine, place, None));
        }
        let events = engine.poll(now, &Around { indexed: self.indexed.clone(), heard });
        let counts = engine.counts();
        Ok((engine, place, Some((events, counts))))
    }

    /// Writes what is said, and from where it must be read again.
    async fn keep(
        &self,
        kept: &mut Option<Cursor>,
        after: Cursor,
        mut events: Vec<v1::Event>,
    ) -> Result<(), DriverError> {
        while events.len() > BATCH {
            let rest = events.split_off(BATCH);
            self.writer.notes(std::mem::replace(&mut events, rest)).await?;
        }
        if events.is_empty() && *kept == Some(after) {
            return Ok(());
        }
        let place = Beside { key: KEY.to_vec(), value: Some(after.to_be_bytes().to_vec()) };
        self.writer.notes_with(events, vec![place]).await?;
        *kept = Some(after);
        Ok(())
    }

    fn tell(&self, engine: &Engine, counts: Counts, read: Cursor) {
        let Counts { said, hurried } = counts;
        for (verdict, after) in said {
            VerdictSaid { verdict, after }.emit();
        }
        let (sessions, requests) = engine.len();
        let lag = self.indexed.log().bounds().map_or(0, |bounds| bounds.newest.saturating_sub(read));
        AttributionMeasured { sessions, requests, lag, hurried }.emit();
    }
}

/// The engine, where it is, and what is to be said and told, where it may say something.
type Asked = (Engine, Place, Option<(Vec<v1::Event>, Counts)>);

/// Where it is in the log.
#[derive(Debug)]
struct Place {
    read: Cursor,
    /// what is on the disk
    kept: Option<Cursor>,
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DriverError> + Send + 'static,
) -> Result<T, DriverError> {
    task::spawn_blocking(work).await.map_err(|_| DriverError::Panicked)?
}

/// Until something came, was heard, or falls due.
async fn wait(newest: &mut watch::Receiver<Cursor>, heard: &mut watch::Receiver<u64>, due: Option<Duration>) {
    let due = due.unwrap_or(KEEP_EVERY).clamp(TOGETHER, KEEP_EVERY);
    tokio::select! {
        grown = newest.changed() => match grown {
            // What comes at once is read at once.
            Ok(()) => time::sleep(TOGETHER).await,
            Err(_) => std::future::pending().await,
        },
        changed = heard.changed() => match changed {
            Ok(()) => heard.mark_changed(),
            Err(_) => std::future::pending().await,
        },
        () = time::sleep(due) => {}
    }
}
