//! Commands whose argv is not complete, until the rest comes, or it is given up.

use serde::{Deserialize, Serialize};

use super::{Machine, record::ArgvChunk};
use crate::event::{BootTime, Event, TaskKey};

/// Such commands at once, and bytes that they hold.
pub(super) const MAX_WAITS: usize = 4096;
pub(super) const MAX_WAITING_BYTES: usize = 16 * 1024 * 1024;

/// A command that waits for more of its argv.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Wait {
    pub(super) entry: TaskKey,
    pub(super) key: TaskKey,
    pub(super) exec_time: BootTime,
    pub(super) bytes: usize,
    /// the first flush that found it
    pub(super) found: Option<BootTime>,
}

impl Machine {
    pub(super) fn wait(&mut self, wait: Wait, out: &mut Vec<Event>) {
        self.waiting_bytes = self.waiting_bytes.saturating_add(wait.bytes);
        self.waits.push_back(wait);
        while self.waits.len() > MAX_WAITS || self.waiting_bytes > MAX_WAITING_BYTES {
            self.release_oldest(out);
        }
    }

    pub(super) fn chunk(&mut self, chunk: ArgvChunk, out: &mut Vec<Event>) {
        let Some(wait) =
            self.waits.iter_mut().find(|wait| wait.key == chunk.key && wait.exec_time == chunk.exec_time)
        else {
            return; // told already, with a mark where this was to be
        };
        let state = self.open.get_mut(&wait.entry).and_then(|open| open.chunk(chunk, out));
        let (bytes, complete) = state.unwrap_or((0, true));
        self.waiting_bytes = self.waiting_bytes.saturating_sub(wait.bytes).saturating_add(bytes);
        wait.bytes = bytes;
        if complete {
            let (key, exec_time) = (wait.key, wait.exec_time);
            self.forget_waits(|wait| wait.key == key && wait.exec_time == exec_time);
        }
        while self.waiting_bytes > MAX_WAITING_BYTES {
            self.release_oldest(out);
        }
    }

    /// The process goes on: what it waits for does not come any more.
    pub(super) fn release_task(&mut self, entry: TaskKey, key: TaskKey, out: &mut Vec<Event>) {
        while let Some(at) = self.waits.iter().position(|wait| wait.entry == entry && wait.key == key) {
            if let Some(wait) = self.waits.remove(at) {
                self.release(&wait, out);
            }
        }
    }

    pub(super) fn release_oldest(&mut self, out: &mut Vec<Event>) -> bool {
        let Some(wait) = self.waits.pop_front() else { return false };
        self.release(&wait, out);
        true
    }

    fn release(&mut self, wait: &Wait, out: &mut Vec<Event>) {
        self.waiting_bytes = self.waiting_bytes.saturating_sub(wait.bytes);
        if let Some(open) = self.open.get_mut(&wait.entry) {
            open.release(wait.key, wait.exec_time, out);
        }
    }

    pub(super) fn forget_waits(&mut self, over: impl Fn(&Wait) -> bool) {
        let bytes = &mut self.waiting_bytes;
        self.waits.retain(|wait| {
            let over = over(wait);
            if over {
                *bytes = bytes.saturating_sub(wait.bytes);
            }
            !over
        });
    }
}
