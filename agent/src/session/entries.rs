//! Entries that have run no command yet: runtimes on their way in, and joins that may be somebody's or a runtime's.
//!
//! An entry without a command ends without a word. A join does not: somebody took on a container's namespaces, and
//! that is worth telling even where no program was run, unless it was a runtime at its work.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{
    bounded::Bounded,
    record::{ContainerEnded, ContainerStarted, Enter, Join},
};
use crate::event::{Body, BootTime, Event, Gap, GapSource, NamespaceJoined, Namespaces, TaskKey};
use crate::state::{Changes, State, StateError, Table};

/// Entries without a command that are kept at once.
pub(super) const MAX_UNANNOUNCED: usize = 8192;
/// Containers whose start is remembered.
const MAX_CONTAINERS: usize = 4096;
/// Makers of entries, replaced joins, and joins waiting for their verdict that are remembered.
const MAX_REMEMBERED: usize = 1024;
/// How long a join that ended may yet turn out to be the making of its container.
pub(super) const VERDICT_NS: u64 = 10_000_000_000;

/// What is known of an entry before its first command.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) enter: Option<Box<Enter>>,
    pub(super) join: Option<Joining>,
    /// execs of the runtime on its way in
    pub(super) staged: u64,
    /// commands that were left out: nobody knew whose the namespaces were
    pub(super) unowned: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Joining {
    pub(super) join: Box<Join>,
    /// the container's own making: it started only after this
    making: bool,
}

impl Entry {
    /// The container that it is in, as far as anything said so.
    pub(super) fn container(&self) -> Option<u64> {
        let join = self.join.as_ref().and_then(|joining| joining.join.container);
        self.enter.as_ref().map(|enter| enter.container).or(join)
    }
}

impl From<Join> for NamespaceJoined {
    fn from(join: Join) -> Self {
        let Join {
            time: _,
            process,
            tid: _,
            entry: _,
            container: _,
            mnt_ns,
            pid_ns,
            login_uid,
            audit_session,
            ancestors,
        } = join;
        let joined = Namespaces { mnt: mnt_ns, pid: pid_ns, ..Namespaces::default() };
        Self { process, joined, login_uid, audit_session, ancestors }
    }
}

impl Joining {
    /// What it was, as an event without a session.
    pub(super) fn joined(&self) -> Event {
        let join = NamespaceJoined::from((*self.join).clone());
        Event {
            time: self.join.time,
            container: self.join.container,
            session: None,
            body: Body::NamespaceJoined(Box::new(join)),
        }
    }

    fn is_of(&self, started: &ContainerStarted) -> bool {
        let mnt = self.join.mnt_ns != 0 && self.join.mnt_ns == started.mnt_ns;
        let pid = self.join.pid_ns != 0 && self.join.pid_ns == started.pid_ns;
        mnt || pid
    }
}

/// All entries without a command.
#[derive(Debug)]
pub(super) struct Entries {
    entries: Bounded<TaskKey, Entry>,
    containers: Bounded<u64, ContainerStarted>,
    /// who made an entry into which container
    makers: Bounded<(u64, TaskKey), ()>,
    /// joins that became an entry by the cgroup
    replaced: Bounded<TaskKey, ()>,
    /// joins that ended, in a container whose start was not seen
    held: VecDeque<(BootTime, Joining)>,
}

impl Entries {
    pub(super) fn new() -> Self {
        Self {
            entries: Bounded::new(MAX_UNANNOUNCED),
            containers: Bounded::new(MAX_CONTAINERS),
            makers: Bounded::new(MAX_REMEMBERED),
            replaced: Bounded::new(MAX_REMEMBERED),
            held: VecDeque::new(),
        }
    }

    pub(super) fn save(&mut self, all: bool, out: &mut Changes) {
        self.entries.save(Table::ENTRIES, all, out);
        self.containers.save(Table::CONTAINERS, all, out);
        self.makers.save(Table::MAKERS, all, out);
        self.replaced.save(Table::REPLACED, all, out);
    }

    pub(super) fn forget_changes(&mut self) {
        let Self { entries, containers, makers, replaced, held: _ } = self;
        entries.forget_changes();
        containers.forget_changes();
        makers.forget_changes();
        replaced.forget_changes();
    }

    /// Joins waiting for their verdict change with every look at them: they are saved as a whole.
    pub(super) fn held(&self) -> &VecDeque<(BootTime, Joining)> {
        &self.held
    }

    pub(super) fn restore(
        state: &State,
        mut held: VecDeque<(BootTime, Joining)>,
    ) -> Result<Self, StateError> {
        held.truncate(MAX_REMEMBERED);
        Ok(Self {
            entries: Bounded::restore(MAX_UNANNOUNCED, Table::ENTRIES, state)?,
            containers: Bounded::restore(MAX_CONTAINERS, Table::CONTAINERS, state)?,
            makers: Bounded::restore(MAX_REMEMBERED, Table::MAKERS, state)?,
            replaced: Bounded::restore(MAX_REMEMBERED, Table::REPLACED, state)?,
            held,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len().saturating_add(self.held.len())
    }

    /// `announced`: its first command was seen before it.
    pub(super) fn enter(&mut self, enter: Box<Enter>, announced: bool, out: &mut Vec<Event>) {
        let made = (enter.container, enter.by);
        let _ = self.makers.insert(made, ());
        self.held.retain(|(_, joining)| {
            joining.join.container.map(|id| (id, joining.join.process.key)) != Some(made)
        });
        if let Some(replaced) = enter.replaces {
            self.entries.remove(&replaced);
            let _ = self.replaced.insert(replaced, ());
        }
        if !announced {
            let entry = self.of(enter.process.key, enter.time, out);
            entry.enter = entry.enter.take().or(Some(enter));
        }
    }

    pub(super) fn join(&mut self, join: Box<Join>, out: &mut Vec<Event>) {
        if self.replaced.contains(&join.entry) {
            return;
        }
        let entry = self.of(join.entry, join.time, out);
        match &mut entry.join {
            Some(before) => {
                let before = &mut before.join;
                before.container = join.container.or(before.container);
                before.mnt_ns = if join.mnt_ns == 0 { before.mnt_ns } else { join.mnt_ns };
                before.pid_ns = if join.pid_ns == 0 { before.pid_ns } else { join.pid_ns };
            }
            None => entry.join = Some(Joining { join, making: false }),
        }
    }

    /// The entry with this key; a new one, where none is known.
    pub(super) fn of(&mut self, key: TaskKey, time: BootTime, out: &mut Vec<Event>) -> &mut Entry {
        let (entry, evicted) = self.entries.of(key);
        if let Some((_, forgotten)) = evicted {
            Self::forgotten(&forgotten, time, out);
        }
        entry
    }

    /// An entry by the cgroup says all it said again with its first command; a join that is forgotten is lost.
    fn forgotten(entry: &Entry, time: BootTime, out: &mut Vec<Event>) {
        let Some(Joining { join, making: false }) = &entry.join else { return };
        if join.container.is_none() {
            return;
        }
        let gap = Gap {
            source: GapSource::AgentBuffer,
            count: 1,
            exact: true,
            from: join.time,
            to: time,
            sessions: Vec::new(),
            detail: "namespace joins without a command: too many at once".to_owned(),
        };
        out.push(Event { time, container: join.container, session: None, body: Body::Gap(gap) });
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &TaskKey> {
        self.entries.iter().map(|(key, _)| key)
    }

    pub(super) fn get(&self, key: &TaskKey) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub(super) fn take(&mut self, key: &TaskKey) -> Option<Entry> {
        self.entries.remove(key)
    }

    /// The container whose pid namespace this one was put into.
    pub(super) fn beside(&self, container: u64) -> Option<u64> {
        self.containers.get(&container)?.pid_owner
    }

    /// Joined from outside: as long as nobody knows what, its commands are nobody's.
    pub(super) fn of_no_session(&self, key: &TaskKey) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.join.is_some() && entry.enter.is_none())
    }

    /// The entry is over without a command.
    pub(super) fn ended(&mut self, key: &TaskKey, time: BootTime, out: &mut Vec<Event>) {
        self.replaced.remove(key);
        let Some(Entry { join: Some(joining), enter: None, staged: _, unowned: _ }) =
            self.entries.remove(key)
        else {
            return;
        };
        let Some(container) = joining.join.container else { return };
        if joining.making || self.makers.contains(&(container, joining.join.process.key)) {
            return;
        }
        if let Some((_, started)) = self.containers.iter().find(|(_, started)| joining.is_of(started)) {
            if started.time <= joining.join.time {
                out.push(joining.joined());
            }
            return;
        }
        if self.held.len() >= MAX_REMEMBERED
            && let Some((_, oldest)) = self.held.pop_front()
        {
            out.push(oldest.joined());
        }
        self.held.push_back((time, joining));
    }

    pub(super) fn container_started(&mut self, started: ContainerStarted) {
        self.held.retain(|(_, joining)| !(joining.is_of(&started) && joining.join.time <= started.time));
        self.entries.change_each(|entry| {
            let Some(joining) = &mut entry.join else { return false };
            let making = joining.is_of(&started) && joining.join.time <= started.time;
            joining.making |= making;
            making
        });
        let _ = self.containers.insert(started.cgroup_id, started);
    }

    pub(super) fn container_ended(&mut self, ended: &ContainerEnded) {
        let ContainerEnded { time: _, cgroup_id, init, status: _ } = ended;
        if self.containers.get(cgroup_id).is_some_and(|started| started.init == *init) {
            self.containers.remove(cgroup_id);
        }
    }

    /// Tells of joins that nothing explained for long enough; of all, where `now` is `None`.
    pub(super) fn flush(&mut self, now: Option<BootTime>, out: &mut Vec<Event>) {
        while let Some((since, joining)) = self.held.front() {
            if now.is_some_and(|now| now.since(*since) < VERDICT_NS) {
                break;
            }
            out.push(joining.joined());
            self.held.pop_front();
        }
    }
}
