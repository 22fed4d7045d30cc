//! Numbers events and keeps them, encoded, until the collector has them: on disk, and the newest in memory too.
//!
//! ```text
//!            acknowledged      │    sent, not acknowledged      │      not sent yet
//!   ◄── trimmed, oldest first  │   never dropped (a window)     │  ◄── dropped here, counted      commit ◄──
//! ────────────────────────── on disk ──────────────────────────────────────────┤ newest: in memory too
//! ```
//! # Invariants
//! - `seq` is dense from 1 in each epoch; whatever is numbered is kept, acknowledged, or counted in a gap: never
//!   silently gone.
//! - A [`Batch`] is kept as a whole or not at all. It is seen by nobody, and sent to nobody, before it is kept.
//! - Only events that were never sent are dropped, so that the gap's count is exact: also when an agent before this
//!   one sent them, since nothing is sent before the store knows how far (`Ends::sent`).
//! - A dropped gap is not lost: what it counted goes into the next one of its kind. Nor are counts of what was
//!   dropped: they are in the store until they are told.
//! - A number is never given twice: the mark says which were given, also where the store has lost them, and nothing is
//!   sent that neither knows of. Where the mark may be old too (a power cut), a new epoch begins; those of the epoch
//!   before are still sent, as its own.
//! - What is not on disk waits in the source too, for a while: then a kill loses nothing.
//! - Nothing that a disk does ends the agent or keeps it from reading the ring: without the disk, events are kept in
//!   memory, bounded, and what that cannot hold is counted.
//!
//! # On disk
//! ```text
//! DIR/lock                    held by the agent that uses the directory
//! DIR/spool/store.db          see `store`; beside it its log, `-wal`, and `-shm`
//! DIR/spool/mark              what the store must know at least, see `mark`
//! DIR/spool.damaged-TIME      one that could not be read; only the latest is kept
//! ```
//! Cursors count events over all epochs of one spool: those of the epoch that began after cursor `base` have the
//! seqs `cursor - base`. An epoch that began without the store begins far ahead, so that the store's come first.

mod before;
mod commit;
mod gap;
mod inner;
mod keeper;
mod log;
mod mark;
mod meta;
mod open;
mod removal;
mod reopen;
mod row;
mod saved;
mod store;

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod disk_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod waiting_tests;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use podtrail_proto::v1;
use tokio::sync::{Notify, watch};

use self::{
    commit::Writer,
    inner::{EpochOf, Inner},
    store::{Found, Store},
};
pub use self::{open::Node, saved::Saved};
use crate::{
    event::BootTime,
    state::Changes,
    telemetry::Component,
    trail::{
        Moment,
        log::{Entry, Page},
    },
};

/// What this agent's events are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster: String,
    pub node: String,
    pub epoch: u64,
}

/// How much may be kept in memory, and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// of encoded events, all together, that are not on disk
    pub max_bytes: usize,
    /// whether somebody acknowledges. If not, the oldest are trimmed and nobody misses them.
    pub acknowledged: bool,
}

/// Where events are kept, and how much of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    pub dir: PathBuf,
    pub max_bytes: u64,
    pub max_age: Duration,
    pub fsync: Fsync,
}

/// What a power cut may lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// at most what came in this time
    Every(Duration),
    /// nothing: each batch waits for the disk
    Always,
    /// what the kernel had not written yet, by its own settings
    Never,
}

/// Why there is no spool.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// {path} is in use by another agent
    #[error("the spool {path} is in use by another podtrail-agent: stop it, or use another --spool")]
    Locked { path: String },
}

/// What time it is, on both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    pub wall: Moment,
    pub boot: BootTime,
}

/// What is kept or lost as one: events, and what the agent knew when it had made them.
#[derive(Debug)]
pub struct Batch<'a> {
    /// oldest first; taken
    pub events: &'a mut Vec<v1::Event>,
    /// [`crate::agent::Source::position`]; empty: not told
    pub position: Vec<u8>,
    /// what changed since the last batch; all there is, where the spool [wants it](Spool::wants_state)
    pub state: Changes,
    /// the agent's last words: it stops cleanly, and what was dropped is reported even where there is no room
    pub last: bool,
    /// the source can keep the records for a while, should the disk fail
    pub may_wait: bool,
}

/// An event as it goes over the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// its place in the spool
    pub cursor: u64,
    pub seq: u64,
    /// when it was numbered
    pub logged: Moment,
    pub bytes: Bytes,
}

/// How full it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    /// in memory
    pub bytes: usize,
    /// on disk
    pub disk_bytes: u64,
    /// in memory or on disk
    pub events: usize,
    /// the newest, and the last that is acknowledged, by their cursors
    pub last_seq: u64,
    pub acked_seq: u64,
    /// dropped since the spool was new, never sent
    pub dropped: u64,
    /// when the oldest that is not acknowledged was logged
    pub oldest_unacked: Option<Moment>,
    /// syncs that failed since the start
    pub sync_errors: u64,
    /// why events are not written to disk, though they should be
    pub trouble: Option<String>,
}

/// The agent's buffer. Shared between the pipeline, the uplink and local readers.
#[derive(Debug)]
pub struct Spool {
    options: Options,
    inner: Mutex<Inner>,
    /// held for a whole commit
    writer: Mutex<Writer>,
    newest: watch::Sender<u64>,
    acked: watch::Sender<u64>,
    /// wakes the uplink: something to send, or room in its window
    uplink: Notify,
}

/// Events that are declared as sent before they are, so that the store need not be told each time.
const AHEAD: u64 = 1024;

impl Spool {
    /// In memory alone.
    #[must_use]
    pub fn new(identity: Identity, options: Options) -> Self {
        Self::with(options, Inner::new(identity), Writer::default())
    }

    fn with(options: Options, inner: Inner, writer: Writer) -> Self {
        let (newest, acked) = (watch::Sender::new(inner.last), watch::Sender::new(inner.acked));
        let (inner, writer) = (Mutex::new(inner), Mutex::new(writer));
        Self { options, inner, writer, newest, acked, uplink: Notify::new() }
    }

    /// What new events are called.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.lock().epochs.newest().identity.clone()
    }

    /// What the events are called that [`Self::take`] gives. Changes when the last event of an earlier epoch is
    /// acknowledged: a stream is of one epoch, so a new one must begin then.
    #[must_use]
    pub fn sending(&self) -> Identity {
        let inner = self.lock();
        inner.epochs.sending(inner.acked).identity.clone()
    }

    /// Says from now on whether events are on disk, where they should be.
    pub fn report_to(&self, health: Component) {
        self.lock().report_to(health);
    }

    /// Numbers and keeps `events`, oldest first, and leaves the vector empty: with no more to be kept beside them.
    pub fn push(&self, events: &mut Vec<v1::Event>, now: Now, kept: &mut Vec<Entry>) {
        let batch =
            Batch { events, position: Vec::new(), state: Changes::default(), last: false, may_wait: false };
        self.commit(batch, now, kept);
    }

    /// Events after `after`, for the acknowledging consumer; they count as sent from here on. Nothing while the
    /// window of sent and unacknowledged events is full. Numbers are of the epoch [being sent](Self::sending), and so
    /// are the events. May read from disk.
    #[must_use]
    pub fn take(&self, after: u64, max_events: usize, max_bytes: usize) -> Vec<Encoded> {
        self.take_of(self.sending().epoch, after, max_events, max_bytes)
    }

    /// The same, and nothing where another epoch is being sent than this.
    #[must_use]
    pub fn take_of(&self, epoch: u64, after: u64, max_events: usize, max_bytes: usize) -> Vec<Encoded> {
        let Some((base, _)) = self.lock().sending_of(epoch) else { return Vec::new() };
        self.take_from(Some(epoch), base.saturating_add(after), Page { max_events, max_bytes })
    }

    /// The same, after a cursor.
    pub(crate) fn take_after(&self, after: u64, page: Page) -> Vec<Encoded> {
        self.take_from(None, after, page)
    }

    fn take_from(&self, epoch: Option<u64>, after: u64, page: Page) -> Vec<Encoded> {
        loop {
            let mut inner = self.lock();
            let mut entries = if inner.store.is_none() {
                inner.page(after, page)
            } else {
                drop(inner);
                let entries = self.entries(after, page);
                inner = self.lock();
                entries
            };
            let epoch = epoch.unwrap_or_else(|| inner.epochs.sending(inner.acked).identity.epoch);
            let Some((base, end)) = inner.sending_of(epoch) else { return Vec::new() };
            let end = end.min(inner.sendable());
            entries.retain(|entry| entry.cursor > base && entry.cursor <= end);
            inner.fit(&mut entries, self.window());
            let last = entries.last().map_or(0, |entry| entry.cursor);
            if last <= inner.declared {
                inner.sent(&entries, last);
                drop(inner);
                if entries.is_empty() {
                    self.skip_to_next_epoch();
                }
                return entries;
            }
            // Until it is declared, it may be dropped: so it is looked for again then.
            drop(inner);
            self.declare(last.saturating_add(AHEAD));
        }
    }

    /// Where an epoch is over, and nothing of it is here that is not acknowledged, nobody will ever acknowledge its end.
    fn skip_to_next_epoch(&self) {
        let (acked, end) = {
            let inner = self.lock();
            (inner.acked, inner.epochs.sending(inner.acked).end)
        };
        if end == u64::MAX
            || self.entries(acked, Page { max_events: 1, max_bytes: 0 }).iter().any(|e| e.cursor <= end)
        {
            return;
        }
        let mut inner = self.lock();
        if inner.acked == acked {
            inner.sent = inner.sent.max(end);
            inner.ack(end, self.options.max_bytes);
        }
    }

    /// The consumer has everything up to `seq` of the epoch being sent. Returns whether that can be: nobody has what
    /// was not sent.
    pub fn ack(&self, seq: u64) -> bool {
        self.ack_of(self.sending().epoch, seq)
    }

    /// The same, of an epoch that may not be the one being sent any more: then it says nothing, and may be.
    pub fn ack_of(&self, epoch: u64, seq: u64) -> bool {
        let mut inner = self.lock();
        let Some((base, end)) = inner.sending_of(epoch) else { return true };
        let Some(cursor) = base.checked_add(seq) else { return false };
        if cursor > end {
            // Of an epoch that is over, the agent before this one may have sent more than its disk has kept.
            inner.sent = inner.sent.max(end);
        }
        drop(inner);
        self.ack_up_to(cursor.min(end))
    }

    /// The same, up to a cursor.
    pub(crate) fn ack_up_to(&self, cursor: u64) -> bool {
        let mut inner = self.lock();
        let end = inner.epochs.sending(inner.acked).end;
        if cursor > inner.sent.min(inner.last).min(end) {
            return cursor <= inner.acked;
        }
        if cursor > inner.acked {
            inner.ack(cursor, self.options.max_bytes);
            drop(inner);
            self.acked.send_replace(cursor);
            self.uplink.notify_one();
        }
        true
    }

    /// Of these numbers of the epoch being sent, those that are not here any more: the collector asked for them, and
    /// will not get them. Oldest first. May read from disk.
    #[must_use]
    pub fn gone(&self, range: v1::SeqRange) -> Vec<v1::SeqRange> {
        let inner = self.lock();
        let EpochOf { base, end, .. } = *inner.epochs.sending(inner.acked);
        let mut next = base.saturating_add(range.first.max(1));
        let end = base.saturating_add(range.last).min(inner.last).min(end);
        let (stored, store) = (inner.stored, inner.store.clone());
        let unsaved: Vec<u64> = inner.unsaved().map(|entry| entry.cursor).take_while(|c| *c <= end).collect();
        drop(inner);
        let mut gone = Vec::new();
        let mut there = |first: u64, last: u64| {
            if first > next {
                gone.push(v1::SeqRange { first: next - base, last: first.min(end + 1) - 1 - base });
            }
            next = next.max(last.saturating_add(1));
            next <= end
        };
        if let Some(store) = store {
            let mut cursor = base.saturating_add(range.first.max(1));
            // What cannot be read is not there.
            while let Ok(Some(place)) = store.place(cursor) {
                if place.first > end.min(stored) || !there(place.first, place.last()) {
                    break;
                }
                cursor = place.last().saturating_add(1);
            }
        }
        let _ = unsaved.into_iter().all(|cursor| there(cursor, cursor));
        there(end.saturating_add(1), end);
        gone
    }

    /// Waits for something new to send, or for room in the window.
    pub async fn wake(&self) {
        self.uplink.notified().await;
    }

    /// The newest cursor, as it grows.
    #[must_use]
    pub fn newest_seq(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// The cursor up to which all is acknowledged, as it grows.
    #[must_use]
    pub fn acked_seq(&self) -> watch::Receiver<u64> {
        self.acked.subscribe()
    }

    #[must_use]
    pub fn fill(&self) -> Fill {
        let inner = self.lock();
        let mut fill = inner.fill();
        let (acked, store) = (inner.acked, inner.store.clone());
        drop(inner);
        if fill.oldest_unacked.is_none()
            && fill.acked_seq < fill.last_seq
            && let Some(store) = store
        {
            let place = store.place(acked.saturating_add(1)).ok().flatten();
            fill.oldest_unacked = place.map(|place| place.logged);
        }
        fill
    }

    /// Events after `after`, up to `page`, for a reader that acknowledges nothing. May read from disk.
    #[must_use]
    pub fn read_after(&self, after: u64, page: Page) -> Vec<Encoded> {
        self.entries(after, page)
    }

    /// From memory, or where that begins later, from disk.
    fn entries(&self, after: u64, page: Page) -> Vec<Encoded> {
        let mut after = after;
        loop {
            let (store, below) = {
                let inner = self.lock();
                let below = inner.memory.front().map_or(inner.last + 1, |entry| entry.cursor);
                match &inner.store {
                    Some(store) if after + 1 < below && after < inner.stored => (Arc::clone(store), below),
                    _ => return inner.page(after, page),
                }
            };
            let (mut found, all) = self.rows(&store, after, below, page);
            let Some(last) = found.last().map(|entry| entry.cursor) else {
                after = below - 1;
                continue;
            };
            let inner = self.lock();
            // Else what followed is on disk alone by now, and comes with the next page.
            if all && inner.memory.front().is_some_and(|entry| entry.cursor <= below) {
                let total: usize = found.iter().map(|entry| entry.bytes.len()).sum();
                let max_events = page.max_events.saturating_sub(found.len());
                let rest = Page { max_events, max_bytes: page.max_bytes.saturating_sub(total) };
                let room = |entry: &Encoded| rest.max_events > 0 && entry.bytes.len() <= rest.max_bytes;
                let more = inner.page(last, rest);
                if more.first().is_some_and(room) {
                    found.extend(more);
                }
            }
            return found;
        }
    }

    /// From disk alone: what is before `below`, and whether that is all of it.
    fn rows(&self, store: &Store, after: u64, below: u64, page: Page) -> (Vec<Encoded>, bool) {
        let (mut out, mut total, mut next) = (Vec::new(), 0, after + 1);
        while next < below {
            let row = match store.row(next, below) {
                Ok(Some(Found::Whole(row))) => row,
                Ok(Some(Found::Damaged(place))) => {
                    next = place.last().saturating_add(1);
                    self.lock().found_damaged(place);
                    continue;
                }
                Ok(None) => break,
                Err(error) => {
                    self.lock().store_failed(&error);
                    break;
                }
            };
            let Some(events) = row.unpack() else {
                self.lock().found_damaged(row.place());
                next = row.place().last().saturating_add(1);
                continue;
            };
            let base = self.lock().epochs.of(row.first).base;
            for (cursor, bytes) in events {
                if cursor < next {
                    continue;
                }
                if !page.takes(out.len(), total, bytes.len()) {
                    return (out, false);
                }
                total += bytes.len();
                out.push(Encoded { cursor, seq: cursor - base, logged: row.logged, bytes });
            }
            next = row.place().last().saturating_add(1);
        }
        (out, true)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while it was held can have left at worst one event uncounted; the agent must go on.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that may be sent and unacknowledged.
    fn window(&self) -> usize {
        (self.options.max_bytes / 4).min(1 << 20)
    }
}
