//! Numbers events and keeps them, encoded, until the collector has them: in memory, bounded by bytes.
//!
//! ```text
//!            acknowledged      │    sent, not acknowledged      │      not sent yet
//!   ◄── trimmed, oldest first  │   never dropped (a window)     │  ◄── dropped here, counted       push ◄──
//! ```
//! Invariants:
//! - `seq` is dense from 1; whatever is numbered is kept, acknowledged, or counted in a gap: never silently gone.
//! - Only events that were never sent are dropped, so that the gap's count is exact.
//! - A dropped gap is not lost: what it counted goes into the next one of its kind.
//! - No call waits: not for the collector, not for a reader. The lock is held for copies of references only.

mod gap;
mod log;
mod saved;

#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::{Bytes, BytesMut};
use podtrail_proto::v1;
use prost::Message as _;
use tokio::sync::{Notify, watch};

use self::gap::Pending;
pub use self::saved::Saved;
use crate::{
    event::BootTime,
    state::Changes,
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

/// How much may be kept, and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// of encoded events, all together
    pub max_bytes: usize,
    /// whether somebody acknowledges. If not, the oldest are trimmed and nobody misses them.
    pub acknowledged: bool,
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
    /// what changed since the last batch
    pub state: Changes,
    /// the agent's last words: it stops cleanly, and what was dropped is reported even where there is no room
    pub last: bool,
}

/// An event as it goes over the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    pub seq: u64,
    /// when it was numbered
    pub logged: Moment,
    pub bytes: Bytes,
}

/// How full it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    pub bytes: usize,
    pub events: usize,
    pub last_seq: u64,
    pub acked_seq: u64,
    /// dropped since the start, never sent
    pub dropped: u64,
}

/// The agent's buffer. Shared between the pipeline, the uplink and local readers.
#[derive(Debug)]
pub struct Spool {
    identity: Identity,
    options: Options,
    inner: Mutex<Inner>,
    newest: watch::Sender<u64>,
    acked: watch::Sender<u64>,
    /// wakes the uplink: something to send, or room in its window
    uplink: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// sent, or not to be sent: oldest first; of these, all up to `acked` are history
    kept: VecDeque<Encoded>,
    /// not sent yet: oldest first, all newer than `kept`
    queue: VecDeque<Encoded>,
    last: u64,
    logged: Moment,
    acked: u64,
    /// of `kept` and `queue`
    bytes: usize,
    acked_bytes: usize,
    queue_bytes: usize,
    pending: Pending,
    dropped: u64,
    /// events are cut from this: one allocation for many
    chunk: BytesMut,
}

/// What an entry costs beside its bytes.
const OVERHEAD: usize = size_of::<Encoded>();

/// Encoded events share allocations of this size.
const CHUNK: usize = 16 * 1024;

impl Spool {
    #[must_use]
    pub fn new(identity: Identity, options: Options) -> Self {
        Self {
            identity,
            options,
            inner: Mutex::default(),
            newest: watch::Sender::new(0),
            acked: watch::Sender::new(0),
            uplink: Notify::new(),
        }
    }

    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What the events are called that [`Self::take`] gives. Changes when the last event of an earlier epoch is
    /// acknowledged: a stream is of one epoch, so a new one must begin then.
    #[must_use]
    pub fn sending(&self) -> Identity {
        self.identity.clone()
    }

    /// Numbers and keeps `events`, oldest first, and leaves the vector empty: with no more to be kept beside them.
    pub fn push(&self, events: &mut Vec<v1::Event>, now: Now, kept: &mut Vec<Entry>) {
        let batch = Batch { events, position: Vec::new(), state: Changes::default(), last: false };
        self.commit(batch, now, kept);
    }

    /// Numbers and keeps the events, oldest first, with the position and the state: when this returns, a crash of
    /// the agent loses all of the batch or nothing, and what it returned for is nothing. Then reports what had to be
    /// dropped, if there is room for it by now. To be called now and then without events for that alone. What was
    /// kept is appended to `kept`.
    pub fn commit(&self, batch: Batch<'_>, now: Now, kept: &mut Vec<Entry>) {
        let Batch { events, position: _, state: _, last } = batch;
        self.push_all(events, now, last, kept);
    }

    /// Of these numbers of the epoch being sent, those that are not here any more: the collector asked for them, and
    /// will not get them. Oldest first.
    #[must_use]
    pub fn gone(&self, range: v1::SeqRange) -> Vec<v1::SeqRange> {
        let inner = self.lock();
        let mut gone = Vec::new();
        let mut next = range.first.max(1);
        let end = range.last.min(inner.last);
        for entries in [&inner.kept, &inner.queue] {
            let from = entries.partition_point(|entry| entry.seq < next);
            for entry in entries.range(from..) {
                if entry.seq > end {
                    break;
                }
                if entry.seq > next {
                    gone.push(v1::SeqRange { first: next, last: entry.seq - 1 });
                }
                next = entry.seq + 1;
            }
        }
        if next <= end {
            gone.push(v1::SeqRange { first: next, last: end });
        }
        gone
    }

    fn push_all(&self, events: &mut Vec<v1::Event>, now: Now, force: bool, kept: &mut Vec<Entry>) {
        let mut inner = self.lock();
        for event in events.drain(..) {
            kept.push(self.keep(&mut inner, event, now));
        }
        // Not at the brim: a gap for each dropped event would push out the next.
        let room = inner.unacked_bytes() <= self.options.max_bytes / 8 * 7;
        if !inner.pending.is_empty() && (room || force) {
            for event in inner.pending.take(now) {
                kept.push(self.keep(&mut inner, event, now));
            }
        }
        let last = inner.last;
        drop(inner);
        if self.newest.send_if_modified(|newest| std::mem::replace(newest, last) != last) {
            self.uplink.notify_one();
        }
    }

    /// Events after `after`, for the acknowledging consumer; they count as sent from here on. Nothing while the
    /// window of sent and unacknowledged events is full.
    #[must_use]
    pub fn take(&self, after: u64, max_events: usize, max_bytes: usize) -> Vec<Encoded> {
        let mut inner = self.lock();
        let after = after.max(inner.acked);
        let mut out = Vec::new();
        let mut bytes = 0;
        let from = inner.kept.partition_point(|entry| entry.seq <= after);
        for entry in inner.kept.range(from..) {
            if out.len() >= max_events || (bytes + entry.bytes.len() > max_bytes && !out.is_empty()) {
                return out;
            }
            bytes += entry.bytes.len();
            out.push(entry.clone());
        }
        while out.len() < max_events {
            let unacked = inner.unacked_bytes() - inner.queue_bytes;
            let Some(next) = inner.queue.front() else { break };
            let fits = bytes + next.bytes.len() <= max_bytes || out.is_empty();
            if !fits || (unacked > self.window() && unacked > 0) {
                break;
            }
            let Some(entry) = inner.queue.pop_front() else { break };
            bytes += entry.bytes.len();
            inner.queue_bytes -= cost(&entry);
            out.push(entry.clone());
            inner.kept.push_back(entry);
        }
        out
    }

    /// The consumer has everything up to `seq`. Returns whether that can be: nobody has what was not sent.
    pub fn ack(&self, seq: u64) -> bool {
        let mut inner = self.lock();
        let sent = inner.kept.back().map_or(inner.acked, |entry| entry.seq.max(inner.acked));
        if seq > sent {
            return false;
        }
        if seq > inner.acked {
            let from = inner.acked;
            inner.acked = seq;
            let newly: usize = {
                let first = inner.kept.partition_point(|entry| entry.seq <= from);
                let end = inner.kept.partition_point(|entry| entry.seq <= seq);
                inner.kept.range(first..end).map(cost).sum()
            };
            inner.acked_bytes += newly;
            self.trim_history(&mut inner);
            drop(inner);
            self.acked.send_replace(seq);
            self.uplink.notify_one();
        }
        true
    }

    /// Waits for something new to send, or for room in the window.
    pub async fn wake(&self) {
        self.uplink.notified().await;
    }

    /// The newest number, as it grows.
    #[must_use]
    pub fn newest_seq(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// What is acknowledged, as it grows.
    #[must_use]
    pub fn acked_seq(&self) -> watch::Receiver<u64> {
        self.acked.subscribe()
    }

    #[must_use]
    pub fn fill(&self) -> Fill {
        let inner = self.lock();
        Fill {
            bytes: inner.bytes,
            events: inner.kept.len() + inner.queue.len(),
            last_seq: inner.last,
            acked_seq: inner.acked,
            dropped: inner.dropped,
        }
    }

    /// Events after `after`, up to `page`, for a reader that acknowledges nothing.
    #[must_use]
    pub fn read_after(&self, after: u64, page: Page) -> Vec<Encoded> {
        let inner = self.lock();
        let kept = inner.kept.partition_point(|entry| entry.seq <= after);
        let queue = inner.queue.partition_point(|entry| entry.seq <= after);
        paged(inner.kept.range(kept..).chain(inner.queue.range(queue..)), page)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while it was held can have left at worst one event uncounted; the agent must go on.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that may be sent and unacknowledged.
    fn window(&self) -> usize {
        (self.options.max_bytes / 4).min(1 << 20)
    }

    fn keep(&self, inner: &mut Inner, mut event: v1::Event, now: Now) -> Entry {
        inner.last += 1;
        let Identity { cluster, node, epoch } = &self.identity;
        let (cluster, node) = (cluster.clone(), node.clone());
        event.id = Some(v1::EventId { cluster, node, epoch: *epoch, seq: inner.last });
        inner.logged = inner.logged.max(now.wall); // whoever sets the clock back does not disorder the log
        let (seq, logged) = (inner.last, inner.logged);
        let entry = Encoded { seq, logged, bytes: inner.encode(&event) };
        let cost = cost(&entry);
        inner.bytes += cost;
        if self.options.acknowledged {
            inner.queue_bytes += cost;
            inner.queue.push_back(entry);
        } else {
            inner.acked = entry.seq;
            inner.acked_bytes += cost;
            inner.kept.push_back(entry);
        }
        self.make_room(inner);
        Entry { cursor: seq, logged, event: Arc::new(event) }
    }

    /// Trims history first, then drops what was not sent yet; the newest event always stays.
    fn make_room(&self, inner: &mut Inner) {
        while inner.bytes > self.options.max_bytes {
            if inner.acked_bytes > 0 && inner.kept.len() + inner.queue.len() > 1 {
                inner.forget_oldest();
            } else if inner.queue.len() > 1 {
                inner.drop_oldest();
            } else {
                break;
            }
        }
    }

    /// Acknowledged events are kept for readers on the node, but not at the cost of the node's memory.
    fn trim_history(&self, inner: &mut Inner) {
        while inner.acked_bytes > self.options.max_bytes / 4 {
            inner.forget_oldest();
        }
    }
}

impl Inner {
    fn unacked_bytes(&self) -> usize {
        self.bytes.saturating_sub(self.acked_bytes)
    }

    fn encode(&mut self, event: &v1::Event) -> Bytes {
        let len = event.encoded_len();
        if self.chunk.capacity() < len {
            self.chunk = BytesMut::with_capacity(len.max(CHUNK));
        }
        // Cannot fail: there is room.
        let _ = event.encode(&mut self.chunk);
        self.chunk.split().freeze()
    }

    /// Drops the oldest event of the history.
    fn forget_oldest(&mut self) {
        if let Some(entry) = self.kept.pop_front() {
            let cost = cost(&entry);
            self.bytes -= cost;
            self.acked_bytes = self.acked_bytes.saturating_sub(cost);
        }
    }

    /// Drops the oldest event that was not sent, and counts it.
    fn drop_oldest(&mut self) {
        if let Some(entry) = self.queue.pop_front() {
            let cost = cost(&entry);
            self.bytes -= cost;
            self.queue_bytes -= cost;
            self.dropped += 1;
            self.pending.count(&entry);
        }
    }
}

fn cost(entry: &Encoded) -> usize {
    entry.bytes.len() + OVERHEAD
}

fn paged<'a>(entries: impl Iterator<Item = &'a Encoded>, page: Page) -> Vec<Encoded> {
    let mut total = 0;
    let mut out = Vec::new();
    for entry in entries {
        if !page.takes(out.len(), total, entry.bytes.len()) {
            break;
        }
        total += entry.bytes.len();
        out.push(entry.clone());
    }
    out
}
