//! Reading, also where the disk is damaged.

use std::sync::Arc;

use podtrail_proto::v1;

use super::{
    DiskLog,
    codec::{self, Header, Stored},
    store::Store,
};
use crate::{
    telemetry::{Emit as _, collector::EventsUnreadable},
    trail::log::{Cursor, Entry},
};

impl DiskLog {
    /// Reads `from..=to`, in order, calling `take` until it says no.
    pub(super) fn scan(
        &self,
        store: &Store,
        from: Cursor,
        to: Cursor,
        mut take: impl FnMut(Entry, usize) -> bool,
    ) {
        let mut next = from;
        for item in store.events.range(next.to_be_bytes()..=to.to_be_bytes()) {
            let Ok((key, value)) = item.into_inner() else {
                return self.scan_singly(store, next, to, take);
            };
            let cursor = codec::cursor(&key).unwrap_or(next);
            if let Some(gap) = self.missing(store, next, cursor.saturating_sub(1))
                && !take(gap, 0)
            {
                return;
            }
            next = cursor + 1;
            if !take(self.entry(store, cursor, &value), codec::cost(&value)) {
                return;
            }
        }
        if let Some(gap) = self.missing(store, next, to) {
            take(gap, 0);
        }
    }

    /// Stands for `from..=to`, which are not in the store; but what was trimmed since the scan began was not damaged.
    fn missing(&self, store: &Store, from: Cursor, to: Cursor) -> Option<Entry> {
        if from > to {
            return None;
        }
        let from = from.max(self.ends().oldest);
        (from <= to).then(|| self.gap(store, from, to, "they are not in the store"))
    }

    /// As `scan`, where it came upon damage: the store reads ahead, so the damage itself may be further on.
    fn scan_singly(
        &self,
        store: &Store,
        from: Cursor,
        to: Cursor,
        mut take: impl FnMut(Entry, usize) -> bool,
    ) {
        let mut next = from;
        while next <= to {
            let (entry, bytes) = match store.events.get(next.to_be_bytes()) {
                Ok(Some(value)) => (self.entry(store, next, &value), codec::cost(&value)),
                Ok(None) | Err(_) => {
                    let good = next_readable(store, next, to);
                    (self.gap(store, next, good - 1, "the store cannot read them"), 0)
                }
            };
            next = entry.cursor + 1;
            if !take(entry, bytes) {
                return;
            }
        }
    }

    pub(super) fn entry(&self, store: &Store, cursor: Cursor, value: &[u8]) -> Entry {
        match Stored::decode(value) {
            Ok(Stored { header, event }) => Entry { cursor, logged: header.logged, event },
            Err(why) => self.gap(store, cursor, cursor, why),
        }
    }

    /// Stands for `from..=to`, at the last of them.
    pub(super) fn gap(&self, store: &Store, from: Cursor, to: Cursor, why: &'static str) -> Entry {
        EventsUnreadable { from, to, why }.emit();
        let logged = header_at(store, to + 1).map_or_else(|| self.ends().newest_logged, |h| h.logged);
        let gap = v1::Gap {
            source: Some(v1::GapSource::CollectorStore.into()),
            count: Some(to - from + 1),
            exact: Some(true),
            // Events may be logged long after they happened: when these did is not known.
            from: None,
            to: Some(logged.timestamp()),
            session_ids: Vec::new(),
            detail: why.to_owned(),
        };
        let event = v1::Event {
            time: Some(logged.timestamp()),
            body: Some(v1::event::Body::Gap(gap)),
            ..v1::Event::default()
        };
        Entry { cursor: to, logged, event: Arc::new(event) }
    }
}

pub(super) fn header_at(store: &Store, cursor: Cursor) -> Option<Header> {
    store.events.get(cursor.to_be_bytes()).ok().flatten().and_then(|v| Header::decode(&v))
}

/// The event at `from` cannot be read: the next up to `to` that can, or `to + 1`.
fn next_readable(store: &Store, from: Cursor, to: Cursor) -> Cursor {
    let readable = |c: Cursor| header_at(store, c).is_some();
    // Damage is taken to be in one piece: first in growing steps, then halving the last of them.
    let (mut bad, mut step) = (from, 1);
    let mut good = loop {
        let at = bad.saturating_add(step);
        if at > to {
            break to + 1;
        }
        if readable(at) {
            break at;
        }
        (bad, step) = (at, step.saturating_mul(2));
    };
    while good - bad > 1 {
        let middle = bad + (good - bad) / 2;
        *if readable(middle) { &mut good } else { &mut bad } = middle;
    }
    good
}

/// The header at a cursor, or where that cannot be read at the first after it that can, up to `to`.
pub(super) fn header(store: &Store, from: Cursor, to: Cursor) -> Option<Header> {
    header_at(store, from).or_else(|| header_at(store, next_readable(store, from, to)))
}

/// The first cursor of `oldest..=newest` for which `wanted` holds (it must go on holding); `newest + 1`: none.
pub(super) fn first(
    store: &Store,
    oldest: Cursor,
    newest: Cursor,
    wanted: impl Fn(&Header) -> bool,
) -> Cursor {
    let (mut low, mut high) = (oldest, newest + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        // What nobody can tell the time of stays.
        if header(store, middle, newest).is_none_or(|h| wanted(&h)) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}
