//! The newest events in memory: readers that keep up cost the disk nothing.

use std::collections::VecDeque;

use crate::trail::log::{Cursor, Entry, Page};

/// How much is kept, whichever is reached first.
const MAX_BYTES: usize = 8 * 1024 * 1024;
const MAX_EVENTS: usize = 16 * 1024;

#[derive(Debug, Default)]
pub(super) struct Tail {
    kept: VecDeque<(Entry, usize)>,
    bytes: usize,
}

impl Tail {
    /// Adds what was just appended: entries with what they cost.
    pub(super) fn extend(&mut self, entries: Vec<(Entry, usize)>) {
        for (entry, bytes) in entries {
            self.bytes += bytes;
            self.kept.push_back((entry, bytes));
        }
        while self.kept.len() > MAX_EVENTS || self.bytes > MAX_BYTES {
            self.drop_oldest();
        }
    }

    pub(super) fn trim(&mut self, oldest: Cursor) {
        while self.kept.front().is_some_and(|(e, _)| e.cursor < oldest) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((_, bytes)) = self.kept.pop_front() {
            self.bytes -= bytes;
        }
    }

    /// What stands at `from` and after it; `None`: that is not all here.
    pub(super) fn read(&self, from: Cursor, page: Page) -> Option<Vec<Entry>> {
        let first = self.kept.front()?.0.cursor;
        let start = usize::try_from(from.checked_sub(first)?).ok()?;
        let mut total = 0;
        let rest = self.kept.range(start.min(self.kept.len())..).enumerate();
        Some(
            rest.take_while(|(n, (_, bytes))| {
                let takes = page.takes(*n, total, *bytes);
                total += bytes;
                takes
            })
            .map(|(_, (entry, _))| entry.clone())
            .collect(),
        )
    }
}
