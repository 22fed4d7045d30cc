//! A disk that comes back: the store that could not be opened, or that died, is opened while the agent runs, and what is
//! in memory goes into it.

use std::time::Instant;

use super::{
    Saved, Spool,
    before::{Before, Marks},
    commit::{RETRY, Writer},
    gap::Pending,
    inner::Inner,
    mark::Slot,
    open::{self, OpenError, Opened},
    store::{StoreError, move_aside},
};
use crate::trail::Moment;

impl Spool {
    /// A store that cannot be read goes out of the way.
    pub(super) fn set_broken_aside(&self, writer: &mut Writer, now: Moment) {
        let mut inner = self.lock();
        let Some(why) = inner.broken.take() else { return };
        let Some(disk) = writer.disk.clone() else { return };
        let first = inner.memory.front().map_or(inner.last + 1, |entry| entry.cursor);
        let lost = first.saturating_sub(1).saturating_sub(inner.acked).min(inner.disk_events);
        let from = Moment(writer.ends.logged);
        inner.pending.unreadable(lost, false, from, now, "the spool on disk was damaged as a whole");
        inner.store = None;
        inner.forget_disk();
        (writer.store, writer.keeper, writer.mark, writer.retry) = (None, None, None, None);
        let path = disk.dir.join(open::SPOOL);
        let aside =
            move_aside(&path, "damaged", now).map_or_else(|e| e.to_string(), |to| to.display().to_string());
        tracing::error!(%why, events = lost, aside, "the spool is damaged: moved aside, and begun anew");
        inner.set_trouble(Some(why));
    }

    /// Tries again to open what is not open.
    pub(super) fn reopen(&self, writer: &mut Writer, now: Moment) {
        let (Some(disk), Some(node), None) = (writer.disk.clone(), writer.node.clone(), &writer.store) else {
            return;
        };
        if writer.retry.is_some_and(|retry| Instant::now() < retry) {
            return;
        }
        let mut found =
            Opened { pending: Pending::default(), saved: Saved::default(), marks: Marks::default() };
        let opened = found.open(writer, &node, &disk, now);
        let mut inner = self.lock();
        let (parts, before) = match opened {
            Ok((_, before)) if before.last > inner.epochs.oldest() && !before.epochs.is_empty() => {
                let error = StoreError::Later;
                return writer.try_later(&mut inner, &error.into());
            }
            Ok(opened) => opened,
            Err(error) => return writer.try_later(&mut inner, &error),
        };
        writer.install(parts, &before);
        before.forget_state(&mut found.pending, now);
        (writer.slot, writer.retry, writer.position, writer.ends.position) = (Slot::Store, None, None, None);
        (writer.wants_state, writer.new_state) = (true, true);
        writer.state.clear();
        inner.store.clone_from(&writer.store);
        inner.put_before(before);
        found.pending.gaps().into_iter().for_each(|gap| inner.pending.add(gap));
        writer.life = writer.new_life_of(&inner);
        inner.set_trouble(None);
        self.acked.send_replace(inner.acked);
        self.uplink.notify_one();
        tracing::info!(findings = ?found.saved.findings, "the spool on disk is open");
    }
}

impl Inner {
    /// Of agents before: this comes first, also where what is newer has been acknowledged.
    fn put_before(&mut self, before: Before) {
        let Before { epochs, last, acked, dropped, places, ends, .. } = before;
        if !epochs.is_empty() {
            self.epochs.put_before(epochs);
            self.acknowledged_only(acked.min(self.acked));
            self.stored = last;
        }
        self.dropped += dropped;
        self.declared = self.sent;
        self.marked = self.marked.min(self.last);
        (self.disk_bytes, self.disk_events) = (ends.bytes, ends.events);
        places.into_iter().for_each(|place| self.see(place));
    }
}

impl Writer {
    fn try_later(&mut self, inner: &mut Inner, error: &OpenError) {
        self.retry = Some(Instant::now() + RETRY);
        inner.set_trouble(Some(error.to_string()));
    }
}
