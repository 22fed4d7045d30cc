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
    AHEAD, Batch, Disk, Encoded, Identity, Now, Spool,
    gap::Pending,
    inner::Inner,
    keeper::Keeper,
    mark::{Mark, Slot},
    meta::{self, ENDS, Ends, GAPS, Gaps, LIFE, Life},
    open,
    row::{Place, Row},
    store::{Found, Store, StoreError, Write, move_aside},
};
use crate::{
    state::Changes,
    trail::{Moment, log::Entry},
};

/// How often a store that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Encoded events share allocations of this size.
const CHUNK: usize = 16 * 1024;

/// Rows that a commit removes at most for their age alone, or because they are history.
const REMOVE: usize = 64;

/// What only a commit needs.
#[derive(Debug, Default)]
pub(super) struct Writer {
    pub(super) disk: Option<Disk>,
    /// the directory's, as long as the agent runs
    pub(super) _lock: Option<File>,
    pub(super) store: Option<Arc<Store>>,
    pub(super) keeper: Option<Keeper>,
    pub(super) mark: Option<File>,
    /// of this agent in `mark`
    pub(super) slot: Slot,
    /// what an agent without the store had in memory is told by this one, which has no store either
    pub(super) carries: bool,
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
    /// events are cut from this: one allocation for many
    pub(super) chunk: BytesMut,
}

/// Rows to be removed, and what was dropped with them.
#[derive(Default)]
struct Removal {
    places: Vec<Place>,
    pending: Option<Pending>,
    dropped: u64,
}

impl Spool {
    /// Numbers and keeps the events, oldest first, with the position and the state: a crash of the agent leaves all
    /// of it or nothing, and all once this has returned. Where the disk fails they are kept in memory, as well as
    /// that can. Then reports what had to be dropped, if there is room for it by now. To be called now and then
    /// without events for that alone. What was kept is appended to `kept`.
    pub fn commit(&self, batch: Batch<'_>, now: Now, kept: &mut Vec<Entry>) {
        let mut writer = self.writer();
        let Batch { events, position, state, last } = batch;
        writer.take_in(position, state, last);
        self.replace_broken(&mut writer, now.wall);
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
        writer.mark(&inner, now.wall);
        let newest = inner.last;
        if !self.options.acknowledged {
            self.acked.send_replace(inner.acked);
        }
        drop(inner);
        if last {
            // With a last sync.
            writer.keeper = None;
        }
        drop(writer);
        if self.newest.send_if_modified(|before| std::mem::replace(before, newest) != newest) {
            self.uplink.notify_one();
        }
    }

    /// Whether the next batch must bring all of the state, or only what changed. `None`: there is nowhere to keep it.
    #[must_use]
    pub fn wants_state(&self) -> Option<bool> {
        let writer = self.writer();
        writer.store.is_some().then_some(writer.wants_state)
    }

    /// What [`super::Saved`] brought of the state is not made use of: the next batch brings all there is.
    pub fn forget_state(&self) {
        let mut writer = self.writer();
        (writer.wants_state, writer.new_state) = (true, true);
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
                if writer.retry.take().is_some() {
                    tracing::info!("the spool can be written again");
                    self.lock().set_trouble(None);
                }
                written
            }
            Err(error) => {
                self.lock().store_failed(&error);
                if writer.retry.replace(Instant::now() + RETRY).is_none() {
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

    /// What has to go: what cannot be read, history beyond what local readers see, and then the oldest beyond the
    /// bounds, which is counted where nobody has it. `incoming`: bytes that need room.
    fn removal(
        &self,
        writer: &Writer,
        store: &Store,
        incoming: u64,
        now: Moment,
    ) -> Result<Removal, StoreError> {
        let Some(disk) = &writer.disk else { return Ok(Removal::default()) };
        let oldest_allowed = now.before(disk.max_age);
        let (acked, protected, mut bytes, recent, damaged, mut pending) = {
            let mut inner = self.lock();
            let full = inner.disk_bytes.saturating_add(incoming) > disk.max_bytes / 2;
            if !full && inner.damaged.is_empty() && inner.is_all_recent(oldest_allowed) {
                return Ok(Removal::default());
            }
            let recent = inner.recent.front().map_or(u64::MAX, |place| place.first);
            let damaged = std::mem::take(&mut inner.damaged);
            (
                inner.acked,
                inner.declared.max(inner.sent),
                inner.disk_bytes,
                recent,
                damaged,
                inner.pending.clone(),
            )
        };
        let mut removal = Removal::default();
        for place in damaged {
            bytes = bytes.saturating_sub(place.size);
            if place.last() > acked {
                let detail = "events on disk that are damaged";
                pending.unreadable(place.count, true, place.logged, place.logged, detail);
            }
            removal.places.push(place);
        }
        let mut next = 0;
        while let Some(place) = store.next_place(next)? {
            next = place.first.saturating_add(1);
            let full = bytes.saturating_add(incoming) > disk.max_bytes;
            let old = place.logged < oldest_allowed && removal.places.len() < REMOVE;
            if place.last() <= acked {
                // Half is for what nobody has.
                let much = bytes.saturating_add(incoming) > disk.max_bytes / 2;
                let history = place.first < recent && removal.places.len() < REMOVE;
                if !(much || old || history) {
                    break;
                }
            } else if !(full || old) {
                break;
            } else if place.first <= protected {
                // The collector may have it: nobody could say whether it is missing.
                next = next.max(protected.saturating_add(1));
                continue;
            } else {
                match store.row(place.first, next)? {
                    Some(Found::Whole(row)) if row.first == place.first => {
                        for (_, event) in row.unpack().unwrap_or_default() {
                            pending.count(&event);
                        }
                    }
                    _ => pending.unreadable(
                        place.count,
                        true,
                        place.logged,
                        place.logged,
                        "events on disk that are damaged",
                    ),
                }
                removal.dropped += place.count;
            }
            if !removal.places.iter().any(|known| known.first == place.first) {
                bytes = bytes.saturating_sub(place.size);
                removal.places.push(place);
            }
        }
        removal.pending = Some(pending);
        Ok(removal)
    }

    /// A store that cannot be read is moved aside, and what is in memory goes into a new one.
    fn replace_broken(&self, writer: &mut Writer, now: Moment) {
        let mut inner = self.lock();
        let Some(why) = inner.broken.take() else { return };
        let Some(disk) = writer.disk.clone() else { return };
        let first = inner.memory.front().map_or(inner.last + 1, |entry| entry.cursor);
        let lost = first.saturating_sub(1).saturating_sub(inner.acked).min(inner.disk_events);
        let from = Moment(writer.ends.logged);
        inner.pending.unreadable(lost, false, from, now, "the spool on disk was damaged as a whole");
        inner.store = None;
        inner.forget_disk();
        (writer.store, writer.keeper, writer.mark) = (None, None, None);
        let path = disk.dir.join(open::SPOOL);
        let aside =
            move_aside(&path, "damaged", now).map_or_else(|e| e.to_string(), |to| to.display().to_string());
        tracing::error!(%why, events = lost, aside, "the spool is damaged: moved aside, and begun anew");
        match open::fresh(&path, &disk) {
            Ok((store, keeper, mark)) => {
                inner.store = Some(Arc::clone(&store));
                (writer.store, writer.keeper, writer.mark) = (Some(store), Some(keeper), Some(mark));
            }
            Err(error) => inner.set_trouble(Some(error.to_string())),
        }
        writer.ends = Ends::default();
        writer.gaps = Vec::new();
        (writer.new_life, writer.wants_state) = (true, true);
        writer.position = None;
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

    fn mark(&self, inner: &Inner, now: Moment) {
        let Some(file) = &self.mark else { return };
        let Inner { last, acked, sent, .. } = *inner;
        let epoch = inner.epochs.newest().identity.epoch;
        // It only says less, and that is what it is for.
        let behind = self.carries || self.retry.is_some();
        let _ = Mark { epoch, last, acked, sent, at_work: now, behind }.write(file, self.slot);
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

impl Removal {
    fn apply(self, inner: &mut Inner) {
        let Self { places, pending, dropped } = self;
        for place in &places {
            inner.removed(place);
        }
        if let Some(pending) = pending {
            inner.pending = pending;
        }
        inner.dropped += dropped;
    }
}
