//! Keeping a batch: numbers for its events, one write to the store, room for it.

use std::{
    collections::BTreeMap,
    fs::File,
    sync::{Arc, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use podtrail_proto::v1;
use prost::Message as _;

use super::{
    AHEAD, Batch, Disk, Encoded, Identity, Node, Now, Spool,
    before::{Before, NO_STATE},
    inner::{EpochOf, Inner},
    keeper::Keeper,
    mark::{self, Mark, Slot},
    meta::{self, ENDS, Ends, GAPS, Gaps, LIFE, Life},
    open,
    removal::Removal,
    row::Row,
    store::{Store, StoreError, Write},
};
use crate::{
    state::Changes,
    trail::{Moment, log::Entry},
};

/// How often a store that could not be written is tried again.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// Encoded events share allocations of this size.
const CHUNK: usize = 16 * 1024;

/// So long the source keeps its records instead, and nothing is sent that is not on disk: whoever comes after a kill
/// makes the same events of them again. And how often the store is tried then.
const WAIT: Duration = Duration::from_secs(3);
const QUICK: Duration = Duration::from_millis(100);

/// What only a commit needs.
#[derive(Debug, Default)]
pub(super) struct Writer {
    pub(super) disk: Option<Disk>,
    pub(super) node: Option<Node>,
    /// the directory's, as long as the agent runs
    pub(super) lock: Option<File>,
    pub(super) store: Option<Arc<Store>>,
    pub(super) keeper: Option<Keeper>,
    pub(super) mark: Option<File>,
    /// of this agent in `mark`
    pub(super) slot: Slot,
    /// the newest
    pub(super) epoch: u64,
    /// the newest that the source told
    pub(super) position: Option<Vec<u8>>,
    /// as they were last written
    pub(super) ends: Ends,
    pub(super) life: Life,
    /// `life` is not in the store yet
    pub(super) new_life: bool,
    /// what the store has of the state counts no more
    pub(super) new_state: bool,
    /// changes that are not in the store yet
    pub(super) state: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// all of the state is wanted: the store that had it is gone
    pub(super) wants_state: bool,
    pub(super) gaps: Vec<u8>,
    pub(super) retry: Option<Instant>,
    /// the disk failed, and this is how long the source is asked to wait for it
    pub(super) waits_until: Option<Instant>,
    /// events are cut from this: one allocation for many
    pub(super) chunk: BytesMut,
}

impl Spool {
    /// Numbers and keeps the events, oldest first, with the position and the state: a crash of the agent leaves all
    /// of it or nothing, and all once this has returned. Where the disk fails they are kept in memory, as well as
    /// that can. Then reports what had to be dropped, if there is room for it by now. To be called now and then
    /// without events for that alone. What was kept is appended to `kept`.
    ///
    /// Returns whether the source may forget the records: `false` where the disk failed just now, and they are all
    /// there is should the agent be killed.
    pub fn commit(&self, batch: Batch<'_>, now: Now, kept: &mut Vec<Entry>) -> bool {
        let mut writer = self.writer();
        let Batch { events, position, state, last, may_wait } = batch;
        writer.take_in(position, state, last);
        self.set_broken_aside(&mut writer, now.wall);
        self.reopen(&mut writer, now.wall);
        let mut fresh = self.number(&mut writer, None, events, now.wall, kept);
        let disk_max = writer.disk.as_ref().map(|disk| disk.max_bytes);
        if let Some(mut gaps) = self.report(disk_max, now, last) {
            let gaps = self.number(&mut writer, fresh.last(), &mut gaps, now.wall, kept);
            fresh.extend(gaps);
        }
        let written = self.write(&mut writer, &fresh, now.wall);
        let mut inner = self.lock();
        for entry in fresh {
            inner.keep(entry, self.options.acknowledged);
        }
        if let Some((rows, removal)) = written {
            inner.written(rows.iter().map(Row::place));
            removal.apply(&mut inner);
        }
        inner.make_room(self.options.max_bytes);
        inner.sync_errors = writer.keeper.as_ref().map_or(inner.sync_errors, Keeper::errors);
        // Also where no event is new: what the records did to the state is not on disk either.
        let waits = may_wait && !last && writer.is_waiting();
        let sendable = inner.sendable();
        writer.mark(&mut inner, now.wall, waits);
        let (newest, more) = (inner.last, inner.sendable() > sendable);
        if !self.options.acknowledged {
            self.acked.send_replace(inner.acked);
        }
        drop(inner);
        if last {
            // With a last sync.
            writer.keeper = None;
        }
        drop(writer);
        if self.newest.send_if_modified(|before| std::mem::replace(before, newest) != newest) || more {
            self.uplink.notify_one();
        }
        !waits
    }

    /// Whether the next agent knows which numbers were given, and so what is missing, whatever becomes of the store.
    #[must_use]
    pub fn is_marked(&self) -> bool {
        self.writer().mark.is_some()
    }

    /// Whether the next batch must bring all of the state, or only what changed. `None`: there is nowhere to keep it.
    #[must_use]
    pub fn wants_state(&self) -> Option<bool> {
        let writer = self.writer();
        writer.store.is_some().then_some(writer.wants_state)
    }

    /// What [`super::Saved`] brought of the state is not made use of: the next batch brings all there is. `since`: the kernel side
    /// went on, and so who goes on without what was known until then tells it.
    pub fn forget_state(&self, since: Option<Moment>, now: Moment) {
        let mut writer = self.writer();
        (writer.wants_state, writer.new_state) = (true, true);
        if let Some(since) = since {
            self.lock().pending.unreadable(0, false, since, now.max(since), NO_STATE);
        }
    }

    /// Nothing after `cursor` is sent before this is called again.
    pub(super) fn declare(&self, cursor: u64) {
        let mut writer = self.writer();
        let Some(store) = writer.store.clone() else { return self.lock().declared = cursor };
        let ends = Ends { sent: cursor, ..writer.ends.clone() };
        // Where it cannot be written, the mark says what was sent, with the next batch.
        if writer.retry.is_none()
            && store.write(&Write { meta: &[(ENDS, meta::encode(&ends))], ..Write::default() }).is_ok()
        {
            writer.ends = ends;
        }
        self.lock().declared = cursor;
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives numbers from that of `before` on, or of the newest event there is.
    fn number(
        &self,
        writer: &mut Writer,
        before: Option<&Encoded>,
        events: &mut Vec<v1::Event>,
        now: Moment,
        kept: &mut Vec<Entry>,
    ) -> Vec<Encoded> {
        let (epoch, mut cursor, logged) = {
            let inner = self.lock();
            // Whoever sets the clock back does not disorder the log.
            (inner.epochs.newest().clone(), inner.last, inner.logged.max(now))
        };
        cursor = before.map_or(cursor, |entry| entry.cursor);
        let number = |mut event: v1::Event| {
            cursor += 1;
            let seq = cursor - epoch.base;
            let Identity { cluster, node, epoch } = epoch.identity.clone();
            event.id = Some(v1::EventId { cluster, node, epoch, seq });
            let entry = Encoded { cursor, seq, logged, bytes: writer.encode(&event) };
            kept.push(Entry { cursor, logged, event: Arc::new(event) });
            entry
        };
        events.drain(..).map(number).collect()
    }

    /// The gaps that are due as events.
    fn report(&self, disk_max: Option<u64>, now: Now, force: bool) -> Option<Vec<v1::Event>> {
        let mut inner = self.lock();
        if inner.pending.is_empty() {
            return None;
        }
        let disk_full = disk_max.is_some_and(|max| inner.disk_bytes > max / 8 * 7);
        let room = inner.has_room(self.options.max_bytes) && !disk_full;
        (room || force).then(|| inner.pending.take(now))
    }

    /// One write of everything that is not on disk. `None`: there is no disk, it cannot be written, or there is
    /// nothing to write.
    fn write(&self, writer: &mut Writer, fresh: &[Encoded], now: Moment) -> Option<(Vec<Row>, Removal)> {
        let store = writer.store.clone()?;
        if writer.retry.is_some_and(|retry| Instant::now() < retry) {
            return None;
        }
        match self.try_write(writer, &store, fresh, now) {
            Ok(written) => {
                (writer.retry, writer.waits_until) = (None, None);
                let mut inner = self.lock();
                if inner.is_in_trouble() {
                    tracing::info!("the spool can be written again");
                    inner.set_trouble(None);
                }
                drop(inner);
                written
            }
            Err(error) => {
                self.lock().store_failed(&error);
                let now = Instant::now();
                let until = *writer.waits_until.get_or_insert(now + WAIT);
                writer.retry = Some(now + if now < until { QUICK } else { RETRY });
                // Somebody who is in the way for a moment is no trouble.
                let told = self.lock().is_in_trouble() || (error.may_pass_soon() && now < until);
                if !told {
                    tracing::error!(
                        %error,
                        "the spool cannot be written: events are kept in memory, and lost if the agent is killed; make room on its disk"
                    );
                    self.lock().set_trouble(Some(error.to_string()));
                }
                None
            }
        }
    }

    fn try_write(
        &self,
        writer: &mut Writer,
        store: &Store,
        fresh: &[Encoded],
        now: Moment,
    ) -> Result<Option<(Vec<Row>, Removal)>, StoreError> {
        if writer.keeper.as_ref().is_some_and(|keeper| !keeper.has_room()) {
            return Err(StoreError::LogFull);
        }
        let (rows, last) = {
            let inner = self.lock();
            let last = fresh.last().or(inner.memory.back()).map_or(inner.last, |entry| entry.cursor);
            (Row::pack(inner.unsaved().chain(fresh)), last.max(inner.last))
        };
        let removal = self.removal(writer, store, rows.iter().map(|row| row.place().size).sum(), now)?;
        let mut inner = self.lock();
        let (mut bytes, mut events) = (inner.disk_bytes, inner.disk_events);
        for place in rows.iter().map(Row::place) {
            (bytes, events) = (bytes.saturating_add(place.size), events.saturating_add(place.count));
        }
        for place in &removal.places {
            (bytes, events) = (bytes.saturating_sub(place.size), events.saturating_sub(place.count));
        }
        // Before the uplink must ask for it.
        if inner.is_sending() && inner.sent.saturating_add(AHEAD / 2) > inner.declared {
            inner.declared = inner.sent.max(last).saturating_add(AHEAD);
        }
        let acked = if self.options.acknowledged { inner.acked } else { last };
        let logged = fresh.last().map_or(inner.logged, |entry| entry.logged).0;
        let position = writer.position.clone().or_else(|| writer.ends.position.clone());
        let ends = Ends { last, acked, sent: inner.declared, bytes, events, logged, position };
        let pending = removal.pending.as_ref().unwrap_or(&inner.pending);
        let gaps = Gaps { gaps: pending.gaps(), dropped: inner.dropped + removal.dropped };
        let gaps = if gaps.gaps.is_empty() && gaps.dropped == 0 { Vec::new() } else { meta::encode(&gaps) };
        drop(inner);

        let mut meta = Vec::new();
        // Together with its life: the one without the other is damage.
        if ends != writer.ends || writer.new_life {
            meta.push((ENDS, meta::encode(&ends)));
        }
        if gaps != writer.gaps {
            meta.push((GAPS, gaps.clone()));
        }
        if writer.new_life {
            meta.push((LIFE, meta::encode(&writer.life)));
        }
        if rows.is_empty() && meta.is_empty() && removal.places.is_empty() && writer.state.is_empty() {
            return Ok(None);
        }
        let state = Changes(std::mem::take(&mut writer.state).into_iter().collect());
        let remove: Vec<u64> = removal.places.iter().map(|place| place.first).collect();
        let new_state = writer.new_state;
        let written =
            store.write(&Write { rows: &rows, meta: &meta, state: Some(&state), remove: &remove, new_state });
        if let Err(error) = written {
            writer.state = state.0.into_iter().collect();
            return Err(error);
        }
        (writer.ends, writer.gaps) = (ends, gaps);
        if writer.new_life
            && let Some(file) = &writer.mark
        {
            // The gap that tells of it is in the store by now.
            let _ = Slot::Memory.clear(file);
        }
        (writer.new_life, writer.new_state) = (false, false);
        if let Some(keeper) = &writer.keeper {
            keeper.written();
        }
        Ok(Some((rows, removal)))
    }
}

impl Writer {
    fn take_in(&mut self, position: Vec<u8>, state: Changes, last: bool) {
        if !position.is_empty() {
            self.position = Some(position);
        }
        if self.store.is_none() {
            return;
        }
        if !state.is_empty() {
            self.wants_state = false;
        }
        self.state.extend(state.0);
        if last {
            (self.life.stopped_cleanly, self.new_life) = (true, true);
        }
    }

    /// What is on disk now.
    pub(super) fn install(&mut self, (store, keeper, mark): open::Parts, before: &Before) {
        (self.store, self.keeper, self.mark) = (Some(store), Some(keeper), Some(mark));
        self.ends = before.ends.clone();
        // What the store has of them is told, or is told again: it is written in any case.
        self.gaps = vec![0];
        self.new_life = true;
    }

    pub(super) fn new_life_of(&self, inner: &Inner) -> Life {
        let boot_id = self.node.as_ref().map(|node| node.boot_id.clone()).unwrap_or_default();
        Life { epochs: inner.epochs.iter().map(meta::Epoch::from).collect(), boot_id, stopped_cleanly: false }
    }

    fn is_waiting(&self) -> bool {
        self.waits_until.is_some_and(|until| Instant::now() < until)
    }

    /// Says on disk how far events have come. What `waits` has not come: it is made anew after a kill.
    fn mark(&self, inner: &mut Inner, now: Moment, waits: bool) {
        let (Some(file), Some(node)) = (&self.mark, &self.node) else { return };
        let last = if waits { inner.marked.max(inner.stored) } else { inner.last };
        let EpochOf { identity, base, end: _ } = inner.epochs.newest();
        let mark = Mark {
            boot: mark::boot(&node.boot_id),
            epoch: identity.epoch,
            base: *base,
            last,
            acked: inner.acked,
            sent: inner.sent.max(inner.declared).min(last),
            at_work: now,
        };
        if mark.write(file, self.slot).is_ok() {
            inner.marked = last;
        }
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
}
