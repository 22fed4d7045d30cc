//! An open subscription: what its reader calls.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    task::JoinHandle,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Subscriptions,
    feed::{Delivery, Feed, Look, Step},
    look::{LookError, SharedLog, look},
    store::Key,
};
use crate::trail::{
    Moment,
    log::{Cursor, LogError},
    moment::Clock,
    sight::Sight,
};

/// What comes.
#[derive(Clone, Debug, PartialEq)]
pub enum Delivered {
    /// in order, at least one
    Events(Vec<Delivery>),
    /// nothing came for a while; everything up to here is delivered, or not shown to this reader
    Heartbeat(Cursor),
}

/// Where an open subscription begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// what comes is after it
    pub at: Cursor,
    /// it was not there before
    pub created: bool,
    pub oldest: Cursor,
    pub newest: Cursor,
}

/// Why an open subscription is closed. Its position stays, but for one that is deleted.
#[derive(Debug, thiserror::Error)]
pub enum Closed {
    /// the same subscription was opened again
    #[error("this subscription was opened again elsewhere: one stream at a time")]
    TakenOver,
    /// somebody deleted it
    #[error("this subscription was deleted")]
    Deleted,
    /// the collector stops
    #[error("shutting down: come again")]
    Shutdown,
    /// too much is not acknowledged, or not taken, for too long
    #[error(
        "too slow: for {seconds} s there was no room for what is next; acknowledge sooner, and open again to go on"
    )]
    Slow { seconds: u64 },
    /// retention was faster
    #[error(transparent)]
    Read(#[from] LookError),
    /// a bug
    #[error("reading the log failed; see the collector's log")]
    Panicked,
}

/// Why an acknowledgement is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AckError {
    /// this stream has not come so far
    #[error("that was not delivered yet: the last that was is {last}")]
    NotDelivered { last: Cursor },
    /// another stream has the subscription now
    #[error("this stream is closed: nothing is acknowledged on it any more")]
    Closed,
}

/// Why a stream is ended from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    TakenOver,
    Deleted,
}

/// A subscription while it is open; dropping it closes it.
///
/// Call [`Handle::next`] for what comes, and [`Handle::ack`] once it is where it belongs.
#[derive(Debug)]
pub struct Handle {
    pub(super) subscriptions: Subscriptions,
    pub(super) key: Key,
    pub(super) ticket: u64,
    pub(super) opened: Opened,
    pub(super) feed: Feed,
    pub(super) reader: Reader,
    pub(super) ending: watch::Receiver<Option<Ending>>,
    pub(super) shutdown: CancellationToken,
    pub(super) in_flight: Arc<AtomicU64>,
    pub(super) slow_seconds: u64,
    pub(super) _permit: OwnedSemaphorePermit,
}

/// Reads pages where blocking is allowed, one ahead.
pub(super) struct Reader {
    pub(super) log: SharedLog,
    pub(super) newest: watch::Receiver<Cursor>,
    pub(super) sight: Arc<Sight>,
    /// whether a gap stands for what is trimmed
    pub(super) gaps: bool,
    /// for the first page alone
    pub(super) gap_first: bool,
    /// how long an event waits for the verdict on its session
    pub(super) hold: Duration,
    pub(super) clock: Clock,
    /// something waits for that: when to look again
    pub(super) again: Option<Instant>,
    pub(super) reading: Option<JoinHandle<Result<(Look, bool), LookError>>>,
}

/// How often it is looked whether a verdict came that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("gaps", &self.gaps).finish_non_exhaustive()
    }
}

impl Reader {
    fn start(&mut self, after: Cursor) {
        let (log, sight) = (self.log.clone(), self.sight.clone());
        let gaps = self.gaps || std::mem::take(&mut self.gap_first);
        let held_from = match self.hold {
            Duration::ZERO => Moment::MAX,
            hold => (self.clock)().before(hold),
        };
        self.again = None;
        self.reading = Some(tokio::task::spawn_blocking(move || look(&*log, after, &sight, gaps, held_from)));
    }

    /// The page that is being read; never, where none is.
    async fn page(&mut self) -> Result<Look, Closed> {
        let Some(reading) = &mut self.reading else { return std::future::pending().await };
        let page = reading.await;
        self.reading = None;
        let (page, held) = page.map_err(|_| Closed::Panicked)??;
        self.again = held.then(|| Instant::now() + LOOK_EVERY);
        Ok(page)
    }
}

impl Handle {
    /// Where it began.
    #[must_use]
    pub fn opened(&self) -> Opened {
        self.opened
    }

    /// The newest cursor of the log.
    #[must_use]
    pub fn newest(&self) -> Cursor {
        *self.reader.newest.borrow()
    }

    /// What comes next. Waits for it; a heartbeat comes in time where nothing else does. May be cancelled: nothing is
    /// lost by it.
    pub async fn next(&mut self) -> Result<Delivered, Closed> {
        loop {
            self.is_open()?;
            let newest = *self.reader.newest.borrow_and_update();
            if self.reader.reading.is_none()
                && self.reader.again.is_none_or(|again| again <= Instant::now())
                && let Some(after) = self.feed.wants(newest)
            {
                self.reader.start(after);
            }
            let until = match self.feed.step(Instant::now()) {
                Step::Deliver(events) => {
                    self.count();
                    return Ok(Delivered::Events(events));
                }
                Step::Heartbeat(cursor) => return Ok(Delivered::Heartbeat(cursor)),
                Step::Slow => return Err(Closed::Slow { seconds: self.slow_seconds }),
                Step::Wait(until) => until,
            };
            let Self { reader, ending, shutdown, .. } = self;
            let until = reader.again.map_or(until, |again| again.min(until));
            let mut grown = reader.newest.clone();
            tokio::select! {
                page = reader.page() => self.feed.page(page?),
                // The log's end, if it ever came, would be a shutdown.
                _ = grown.changed() => {}
                () = sleep_until(until) => {}
                _ = ending.changed() => {}
                () = shutdown.cancelled() => {}
            }
        }
    }

    /// Everything up to `cursor` is processed, and will not come again. Late and repeated ones do no harm.
    pub fn ack(&mut self, cursor: Cursor) -> Result<(), AckError> {
        match self.feed.ack(cursor) {
            Ok(true) => {
                self.count();
                self.subscriptions.acked(&self.key, self.ticket, cursor)
            }
            Ok(false) => Ok(()),
            Err(not) => Err(AckError::NotDelivered { last: not.last }),
        }
    }

    /// Waits until it is closed from outside.
    pub async fn closed(&mut self) -> Closed {
        loop {
            if let Err(closed) = self.is_open() {
                return closed;
            }
            let Self { ending, shutdown, .. } = self;
            tokio::select! {
                _ = ending.changed() => {}
                () = shutdown.cancelled() => {}
            }
        }
    }

    fn is_open(&self) -> Result<(), Closed> {
        match *self.ending.borrow() {
            Some(Ending::TakenOver) => Err(Closed::TakenOver),
            Some(Ending::Deleted) => Err(Closed::Deleted),
            None if self.shutdown.is_cancelled() => Err(Closed::Shutdown),
            // Whoever would say so is gone: it is not the one that is known any more.
            None if self.ending.has_changed().is_err() => Err(Closed::TakenOver),
            None => Ok(()),
        }
    }

    fn count(&self) {
        self.in_flight.store(u64::try_from(self.feed.in_flight()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.subscriptions.left(&self.key, self.ticket);
    }
}

impl From<LogError> for Closed {
    fn from(e: LogError) -> Self {
        Self::Read(e.into())
    }
}
