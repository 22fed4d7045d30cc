//! What the spool has in memory: its newest events, and where everything begins and ends.

use std::{collections::VecDeque, sync::Arc};

use super::{
    Encoded, Fill, Identity,
    gap::Pending,
    row::Place,
    store::{Store, StoreError},
};
use crate::{
    telemetry::Component,
    trail::{Moment, log::Page},
};

/// What an entry costs beside its bytes.
const OVERHEAD: usize = size_of::<Encoded>();

/// Of events that are on disk, so much stays in memory too: for a collector and readers that keep up.
const TAIL: usize = 2 << 20;

/// What is kept of acknowledged events, for readers on the node; and how many rows at most.
pub(super) const HISTORY: u64 = 16 << 20;
const HISTORY_ROWS: usize = 32 * 1024;

/// Epochs of one spool, oldest first; never empty.
#[derive(Debug)]
pub(super) struct Epochs(Vec<EpochOf>);

/// Numbers begin at 1 again after the cursor `base`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EpochOf {
    pub(super) identity: Identity,
    pub(super) base: u64,
    /// its last cursor, once it is over: the next may begin far behind that
    pub(super) end: u64,
}

/// All of it but what is written to disk.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) epochs: Epochs,
    /// the newest events, and all that are not on disk; oldest first
    pub(super) memory: VecDeque<Encoded>,
    /// of these
    bytes: usize,
    acked_bytes: usize,
    pub(super) last: u64,
    pub(super) logged: Moment,
    /// up to here everything is on disk, dropped, or acknowledged
    pub(super) stored: u64,
    pub(super) acked: u64,
    /// nothing after this was ever sent
    pub(super) sent: u64,
    /// and the store says the same of this
    pub(super) declared: u64,
    /// nothing after this may be sent: the disk does not know that there is such a number
    pub(super) marked: u64,
    /// what was sent since the start and is not acknowledged: last cursor and bytes of each batch
    flight: VecDeque<(u64, usize)>,
    flight_bytes: usize,
    pub(super) pending: Pending,
    pub(super) dropped: u64,
    /// `None`: in memory alone
    pub(super) store: Option<Arc<Store>>,
    /// the newest rows, as many as local readers see; oldest first
    pub(super) recent: VecDeque<Place>,
    recent_size: u64,
    /// of all rows
    pub(super) disk_bytes: u64,
    pub(super) disk_events: u64,
    pub(super) sync_errors: u64,
    /// rows that cannot be read, until they are removed and counted
    pub(super) damaged: Vec<Place>,
    /// the store as a whole cannot be read
    pub(super) broken: Option<String>,
    /// it cannot be written, for now
    trouble: Option<String>,
    /// who is told of that
    health: Option<Component>,
}

impl Epochs {
    /// Those of `over` have ended.
    pub(super) fn new(mut over: Vec<EpochOf>, newest: EpochOf) -> Self {
        over.push(EpochOf { end: u64::MAX, ..newest });
        Self(over)
    }

    pub(super) fn newest(&self) -> &EpochOf {
        // Never empty: `new` puts one in, and nothing takes one out.
        self.0.last().unwrap_or(const { &NONE })
    }

    /// The epoch that this event is of.
    pub(super) fn of(&self, cursor: u64) -> &EpochOf {
        self.0.iter().rev().find(|epoch| epoch.base < cursor).unwrap_or_else(|| self.newest())
    }

    /// The epoch of the first event that is not acknowledged, or of the next to come.
    pub(super) fn sending(&self, acked: u64) -> &EpochOf {
        self.0.iter().find(|epoch| epoch.end > acked).unwrap_or_else(|| self.newest())
    }

    /// Before the first event of all.
    pub(super) fn oldest(&self) -> u64 {
        self.0.first().map_or(0, |epoch| epoch.base)
    }

    /// These are of agents before, and have ended.
    pub(super) fn put_before(&mut self, before: Vec<EpochOf>) {
        self.0.splice(0..0, before);
    }

    /// Epochs without an event from `cursor` on are of no use.
    pub(super) fn forget_before(&mut self, cursor: u64) {
        while self.0.get(1).is_some_and(|second| second.base < cursor) {
            self.0.remove(0);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &EpochOf> {
        self.0.iter()
    }
}

const NONE: EpochOf = EpochOf {
    identity: Identity { cluster: String::new(), node: String::new(), epoch: 0 },
    base: 0,
    end: u64::MAX,
};

impl Inner {
    /// Of a spool in memory that is new.
    pub(super) fn new(identity: Identity) -> Self {
        Self {
            epochs: Epochs::new(Vec::new(), EpochOf { identity, base: 0, end: u64::MAX }),
            memory: VecDeque::new(),
            bytes: 0,
            acked_bytes: 0,
            last: 0,
            logged: Moment::default(),
            stored: 0,
            acked: 0,
            sent: 0,
            declared: u64::MAX,
            marked: u64::MAX,
            flight: VecDeque::new(),
            flight_bytes: 0,
            pending: Pending::default(),
            dropped: 0,
            store: None,
            recent: VecDeque::new(),
            recent_size: 0,
            disk_bytes: 0,
            disk_events: 0,
            sync_errors: 0,
            damaged: Vec::new(),
            broken: None,
            trouble: None,
            health: None,
        }
    }

    /// Events are in memory alone though they should be on disk; or all is well.
    pub(super) fn set_trouble(&mut self, trouble: Option<String>) {
        self.trouble = trouble;
        match (&self.health, &self.trouble) {
            (Some(health), None) => health.ready(),
            (Some(health), Some(why)) => health.not_ready(format!("events are in memory: {why}")),
            (None, _) => {}
        }
    }

    pub(super) fn is_in_trouble(&self) -> bool {
        self.trouble.is_some()
    }

    pub(super) fn report_to(&mut self, health: Component) {
        self.health = Some(health);
        self.set_trouble(self.trouble.clone());
    }

    pub(super) fn fill(&self) -> Fill {
        let unsaved = self.unsaved().count();
        let first = self.memory.partition_point(|entry| entry.cursor <= self.acked);
        let in_memory = self.memory.get(first).filter(|entry| entry.cursor == self.acked + 1);
        Fill {
            bytes: self.bytes,
            disk_bytes: self.disk_bytes,
            events: usize::try_from(self.disk_events).unwrap_or(usize::MAX).saturating_add(unsaved),
            last_seq: self.last,
            acked_seq: self.acked,
            dropped: self.dropped,
            oldest_unacked: in_memory.map(|entry| entry.logged),
            sync_errors: self.sync_errors,
            trouble: self.trouble.clone(),
        }
    }

    /// Base and end of the epoch being sent, if it is this one.
    pub(super) fn sending_of(&self, epoch: u64) -> Option<(u64, u64)> {
        let EpochOf { identity, base, end } = self.epochs.sending(self.acked);
        (identity.epoch == epoch).then_some((*base, *end))
    }

    /// Something was sent and is not acknowledged.
    pub(super) fn is_sending(&self) -> bool {
        !self.flight.is_empty()
    }

    /// Leaves out what the window has no room for: one event more than fits is sent, and what was sent before always.
    pub(super) fn fit(&self, entries: &mut Vec<Encoded>, window: usize) {
        let mut flight = self.flight_bytes;
        let end = entries.iter().position(|entry| {
            let fresh = entry.cursor > self.sent;
            let full = fresh && flight > window;
            flight += if fresh { cost(entry) } else { 0 };
            full
        });
        entries.truncate(end.unwrap_or(entries.len()));
    }

    /// These were sent, up to `last`.
    pub(super) fn sent(&mut self, entries: &[Encoded], last: u64) {
        if last <= self.sent {
            return;
        }
        let fresh = entries.iter().filter(|entry| entry.cursor > self.sent);
        let bytes = fresh.map(cost).sum();
        self.flight.push_back((last, bytes));
        self.flight_bytes += bytes;
        self.sent = last;
    }

    pub(super) fn ack(&mut self, cursor: u64, max_bytes: usize) {
        let first = self.memory.partition_point(|entry| entry.cursor <= self.acked);
        let end = self.memory.partition_point(|entry| entry.cursor <= cursor);
        self.acked_bytes += self.memory.range(first..end).map(cost).sum::<usize>();
        self.acked = cursor;
        while let Some((_, bytes)) = self.flight.pop_front_if(|(last, _)| *last <= cursor) {
            self.flight_bytes -= bytes;
        }
        // Kept for readers on the node, but not at the cost of the node's memory.
        while self.store.is_none() && self.acked_bytes > max_bytes / 4 {
            self.forget_oldest();
        }
    }

    /// No more than this is, though more may have been.
    pub(super) fn acknowledged_only(&mut self, cursor: u64) {
        self.acked = cursor;
        let end = self.memory.partition_point(|entry| entry.cursor <= cursor);
        self.acked_bytes = self.memory.range(..end).map(cost).sum();
    }

    /// Up to here the disk knows that there are such numbers.
    pub(super) fn sendable(&self) -> u64 {
        self.marked.max(self.stored)
    }

    /// Events that are nowhere but in memory.
    pub(super) fn unsaved(&self) -> impl Iterator<Item = &Encoded> {
        let from = self.memory.partition_point(|entry| entry.cursor <= self.stored);
        self.memory.range(from..)
    }

    /// From memory alone.
    pub(super) fn page(&self, after: u64, page: Page) -> Vec<Encoded> {
        let from = self.memory.partition_point(|entry| entry.cursor <= after);
        paged(self.memory.range(from..), page)
    }

    pub(super) fn keep(&mut self, entry: Encoded, acknowledged: bool) {
        let cost = cost(&entry);
        self.bytes += cost;
        self.last = entry.cursor;
        self.logged = entry.logged;
        if !acknowledged {
            self.acked = entry.cursor;
            self.sent = entry.cursor;
            self.acked_bytes += cost;
        }
        self.memory.push_back(entry);
    }

    /// Trims what is on disk too, then history; then drops what was not sent yet. The newest event always stays.
    pub(super) fn make_room(&mut self, max_bytes: usize) {
        while self.bytes > TAIL.min(max_bytes) && self.memory.front().is_some_and(|e| e.cursor <= self.stored)
        {
            self.forget_oldest();
        }
        while self.bytes > max_bytes && self.acked_bytes > 0 && self.memory.len() > 1 {
            self.forget_oldest();
        }
        if self.bytes > max_bytes {
            self.drop_unsent(max_bytes - max_bytes / 32);
        }
    }

    /// Whether there is room in memory to tell what was dropped: at the brim, a gap for each would push out the next.
    pub(super) fn has_room(&self, max_bytes: usize) -> bool {
        self.bytes.saturating_sub(self.acked_bytes) <= max_bytes / 8 * 7
    }

    /// The oldest in memory, acknowledged or on disk.
    fn forget_oldest(&mut self) {
        if let Some(entry) = self.memory.pop_front() {
            self.subtract(&entry);
        }
    }

    fn subtract(&mut self, entry: &Encoded) {
        let cost = cost(entry);
        self.bytes -= cost;
        if entry.cursor <= self.acked {
            self.acked_bytes = self.acked_bytes.saturating_sub(cost);
        }
    }

    /// Several at once: they go out of the middle.
    fn drop_unsent(&mut self, down_to: usize) {
        let declared = if self.store.is_some() { self.declared } else { 0 };
        let keep = self.sent.max(self.stored).max(declared);
        let from = self.memory.partition_point(|entry| entry.cursor <= keep);
        let mut end = from;
        let mut bytes = self.bytes;
        while bytes > down_to && end + 1 < self.memory.len() {
            bytes -= self.memory.get(end).map_or(0, cost);
            end += 1;
        }
        let gone: Vec<Encoded> = self.memory.drain(from..end).collect();
        for entry in gone {
            self.subtract(&entry);
            self.dropped += 1;
            self.pending.count(&entry.bytes);
        }
    }

    /// These rows are on disk now.
    pub(super) fn written(&mut self, rows: impl Iterator<Item = Place>) {
        for place in rows {
            self.disk_bytes = self.disk_bytes.saturating_add(place.size);
            self.disk_events = self.disk_events.saturating_add(place.count);
            self.see(place);
        }
        self.stored = self.last;
    }

    /// Local readers see this row, and no more older ones than there may be.
    pub(super) fn see(&mut self, place: Place) {
        self.recent.push_back(place);
        self.recent_size += place.size;
        while self.recent.len() > 1 && (self.recent_size > HISTORY || self.recent.len() > HISTORY_ROWS) {
            if let Some(oldest) = self.recent.pop_front() {
                self.recent_size -= oldest.size;
            }
        }
    }

    /// Local readers see every row, and none was logged before `oldest`.
    pub(super) fn is_all_recent(&self, oldest: Moment) -> bool {
        self.disk_bytes <= self.recent_size && self.recent.front().is_none_or(|place| place.logged >= oldest)
    }

    /// This row is not on disk any more.
    pub(super) fn removed(&mut self, place: &Place) {
        self.disk_bytes = self.disk_bytes.saturating_sub(place.size);
        self.disk_events = self.disk_events.saturating_sub(place.count);
        if let Ok(at) = self.recent.binary_search_by_key(&place.first, |row| row.first) {
            self.recent.remove(at);
            self.recent_size -= place.size;
        }
        let from = self.memory.partition_point(|entry| entry.cursor < place.first);
        let end = self.memory.partition_point(|entry| entry.cursor <= place.last());
        let gone: Vec<Encoded> = self.memory.drain(from..end).collect();
        for entry in &gone {
            self.subtract(entry);
        }
    }

    /// The store is not there any more: what is in memory is all there is.
    pub(super) fn forget_disk(&mut self) {
        self.recent.clear();
        self.damaged.clear();
        (self.recent_size, self.disk_bytes, self.disk_events) = (0, 0, 0);
        self.stored = self.memory.front().map_or(self.last, |entry| entry.cursor - 1);
    }

    pub(super) fn found_damaged(&mut self, place: Place) {
        if !self.damaged.iter().any(|known| known.first == place.first) {
            self.damaged.push(place);
        }
    }

    pub(super) fn store_failed(&mut self, error: &StoreError) {
        if error.is_damage() && self.broken.is_none() {
            self.broken = Some(error.to_string());
        }
    }
}

pub(super) fn cost(entry: &Encoded) -> usize {
    entry.bytes.len() + OVERHEAD
}

pub(super) fn paged<'a>(entries: impl Iterator<Item = &'a Encoded>, page: Page) -> Vec<Encoded> {
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
