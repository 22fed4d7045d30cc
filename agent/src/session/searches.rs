//! Programs that were looked for and not found: a shell asks for each directory of its PATH, and only what comes of it is
//! worth an event.
//!
//! A search goes on while the same process asks for the same name, and is not there. It ends in an exec, which then says
//! how often it was not found before, or with another name, the process, its session, or time: then it is told, once.

use serde::{Deserialize, Serialize};

use super::{
    Machine,
    bounded::Bounded,
    entries::Entry,
    record::{self, Exec},
    untold::{LATE_COMMAND, one_untold},
};
use crate::{
    event::{Body, BootTime, Event, TaskKey},
    state::{Changes, State, StateError, Table},
};

/// Searches at once.
const MAX_SEARCHES: usize = 1024;
/// How long a search waits for its next step.
pub(super) const SEARCH_NS: u64 = 1_000_000_000;

const ENOENT: i32 = 2;
const ENOTDIR: i32 = 20;

/// By process.
#[derive(Debug)]
pub(super) struct Searches(Bounded<TaskKey, Search>);

/// A search that is not over: its last step.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Search {
    pub(super) last: record::ExecFailed,
    /// the first flush that found it
    found: Option<BootTime>,
}

impl Searches {
    pub(super) fn new() -> Self {
        Self(Bounded::new(MAX_SEARCHES))
    }

    pub(super) fn save(&mut self, all: bool, out: &mut Changes) {
        self.0.save(Table::SEARCHES, all, out);
    }

    pub(super) fn forget_changes(&mut self) {
        self.0.forget_changes();
    }

    pub(super) fn restore(state: &State) -> Result<Self, StateError> {
        Ok(Self(Bounded::restore(MAX_SEARCHES, Table::SEARCHES, state)?))
    }

    /// One more failure. What is to be told now, in this order.
    pub(super) fn failed(&mut self, mut failed: record::ExecFailed) -> Vec<record::ExecFailed> {
        let key = failed.failed.process.key;
        let mut told = Vec::new();
        let same = self.0.get(&key).is_some_and(|search| name(&search.last) == name(&failed));
        if !matches!(failed.failed.error, ENOENT | ENOTDIR) {
            // A directory of the PATH may be closed to this user, and the search goes on behind it.
            if !same {
                told.extend(self.over(&key));
            }
            told.push(failed);
            return told;
        }
        match self.0.remove(&key).map(|search| search.last) {
            Some(before) if same => {
                failed.failed.attempts = before.failed.attempts.saturating_add(1);
            }
            before => told.extend(before),
        }
        let oldest = self.0.insert(key, Search { last: failed, found: None });
        told.extend(oldest.map(|(_, search)| search.last));
        told
    }

    /// The process runs a program: how often it was not found before, or what else was looked for in vain.
    pub(super) fn executed(&mut self, exec: &Exec) -> (u32, Option<record::ExecFailed>) {
        match self.over(&exec.process.key) {
            Some(search) if is_of(exec, name(&search)) => (search.failed.attempts, None),
            other => (0, other),
        }
    }

    /// The process is gone, or goes on with something else.
    pub(super) fn over(&mut self, key: &TaskKey) -> Option<record::ExecFailed> {
        // Most processes look for nothing: they are not to be written down as changed.
        if self.0.contains(key) { self.0.remove(key).map(|search| search.last) } else { None }
    }

    /// Those of a session that is over.
    pub(super) fn end(&mut self, entry: &TaskKey) -> Vec<record::ExecFailed> {
        let over = self.0.iter().filter(|(_, search)| search.last.entry == *entry);
        let over: Vec<TaskKey> = over.map(|(key, _)| *key).collect();
        over.iter().filter_map(|key| self.over(key)).collect()
    }

    /// One that nothing came of for long enough: the ring has come as far as `now`. The oldest step is the first.
    pub(super) fn late(&mut self, now: BootTime) -> Option<record::ExecFailed> {
        let (key, search) = self.0.iter().next()?;
        let key = (now.since(search.last.time) >= SEARCH_NS).then_some(*key)?;
        self.over(&key)
    }

    /// Those that nothing came of for long enough, by the agent's own clock.
    pub(super) fn flush(&mut self, now: BootTime) -> Vec<record::ExecFailed> {
        self.0.change_each(|search| {
            let new = search.found.is_none();
            search.found.get_or_insert(now);
            new
        });
        let late = |search: &Search| search.found.is_some_and(|found| now.since(found) >= SEARCH_NS);
        let over = self.0.iter().filter(|(_, search)| late(search));
        let over: Vec<TaskKey> = over.map(|(key, _)| *key).collect();
        over.iter().filter_map(|key| self.over(key)).collect()
    }

    /// All of them.
    pub(super) fn finish(&mut self) -> Vec<record::ExecFailed> {
        std::iter::from_fn(|| self.0.pop_oldest()).map(|(_, search)| search.last).collect()
    }
}

impl Machine {
    /// An exec that failed: told at once, or as a part of a search.
    pub(super) fn exec_failed(&mut self, failed: record::ExecFailed, out: &mut Vec<Event>) {
        self.release_task(failed.entry, failed.failed.process.key, out);
        for failed in self.searches.failed(failed) {
            self.not_executed(failed, out);
        }
    }

    /// Tells of an exec that failed, or of a search that nothing came of. Before its session's first command there is no
    /// session to tell it of.
    pub(super) fn not_executed(&mut self, failed: record::ExecFailed, out: &mut Vec<Event>) {
        let record::ExecFailed { time, entry, container, failed } = failed;
        if let Some(open) = self.open.get_mut(&entry) {
            open.container = open.container.or(container);
            let event = open.event(time, Body::ExecFailed(Box::new(failed)));
            open.say(event, out);
            return;
        }
        if let Some(ended) = self.ended.get(&entry) {
            let (container, session) = (ended.container, Some(ended.id.clone()));
            let gap = one_untold(time, ended.id.clone(), LATE_COMMAND);
            out.push(Event { time, container, session, body: Body::Gap(gap) });
            return;
        }
        let container = container.or_else(|| self.entries.get(&entry).and_then(Entry::container));
        // Namespaces that nobody owns are nobody's session.
        if container.is_some() {
            let body = Body::ExecFailed(Box::new(failed));
            out.push(Event { time, container, session: None, body });
        }
    }
}

/// What was looked for, wherever that was.
fn name(failed: &record::ExecFailed) -> &[u8] {
    base(&failed.failed.path)
}

fn base(path: &[u8]) -> &[u8] {
    path.rsplit(|b| *b == b'/').next().unwrap_or_default()
}

/// Whether a program goes by this name: as its own, as the script's, or as it calls itself.
fn is_of(exec: &Exec, name: &[u8]) -> bool {
    let argv0 = exec.argv.bytes.split(|b| *b == 0).next().unwrap_or_default();
    let argv0 = argv0.strip_prefix(b"-").unwrap_or(argv0);
    let script = exec.script.as_deref().unwrap_or_default();
    !name.is_empty() && [exec.path.as_slice(), script, argv0].into_iter().any(|path| base(path) == name)
}
