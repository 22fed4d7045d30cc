//! What has to go: what cannot be read, what everybody has, and what there is no room for.

use super::{
    Spool,
    commit::Writer,
    gap::Pending,
    inner::Inner,
    row::Place,
    store::{Found, Store, StoreError},
};
use crate::trail::Moment;

/// Rows that a commit removes at most for their age alone, or because they are history.
const REMOVE: usize = 64;

/// Why rows are gone that were damaged.
const DAMAGED: &str = "events on disk that are damaged";

/// Rows to be removed, and what was dropped with them.
#[derive(Default)]
pub(super) struct Removal {
    pub(super) places: Vec<Place>,
    pub(super) pending: Option<Pending>,
    pub(super) dropped: u64,
}

impl Spool {
    /// What has to go: what cannot be read, history beyond what local readers see, and then the oldest beyond the
    /// bounds, which is counted where nobody has it. `incoming`: bytes that need room.
    pub(super) fn removal(
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
                pending.unreadable(place.count, true, place.logged, place.logged, DAMAGED);
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
                    _ => pending.unreadable(place.count, true, place.logged, place.logged, DAMAGED),
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
}

impl Removal {
    pub(super) fn apply(self, inner: &mut Inner) {
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
