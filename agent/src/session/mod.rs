//! From the kernel's records to events: which sessions there are, and what was run in them.
//!
//! A pure state machine: no clock, no I/O, no panics, whatever it is fed. Time comes with the records.
//!
//! An entry is silent until its first command; that one is the session's root and names it. The kernel side says
//! which session a record is of (`entry`) and this module believes it: cgroups and namespaces may change under a
//! session, the entry does not. Every record of a command says all that a session needs, so one whose entry was lost
//! in the ring is announced all the same, with evidence that says what is missing.
//!
//! - Execs of a runtime on its way in are counted and dropped.
//! - A join of namespaces that nobody owns is nobody's session: it is dropped, with its commands, until a record
//!   names the container. Entries of every other kind have a container by what they are, and are told even where its
//!   cgroup is not known.
//! - Order holds within a session: an event waits for the argv of the one before it, but not for ever.
//! - Memory is bounded by the constants below and those of the submodules. What has to be given up is told by a
//!   [`Gap`], except for an entry by the cgroup that has run nothing: its first command says everything again.

mod argv;
pub(crate) mod bounded;
mod entries;
pub(crate) mod id;
mod missing;
mod open;
pub mod record;
mod refused;
mod saved;
mod searches;
mod started;
mod untold;
mod waits;

use std::collections::{HashSet, VecDeque};

use serde::{Deserialize, Serialize};

pub use self::missing::Followed;
use self::{
    argv::Assembly,
    bounded::Bounded,
    entries::{Entries, Entry},
    id::Ids,
    missing::Missing,
    open::Open,
    record::{EntryKind, Exec, Exit, Lost, Record, Recovered, class},
    refused::{Refusals, Refused},
    searches::Searches,
    untold::{LATE_COMMAND, STRAY_EXIT, give_up, one_untold},
    waits::Wait,
};
use crate::event::{Body, BootTime, Event, Executed, Gap, GapSource, NamespaceJoined, SessionId, TaskKey};

/// Sessions that are open at once.
const MAX_SESSIONS: usize = 16 * 1024;
/// Sessions whose end is remembered, so that what comes late starts no second one.
const MAX_ENDED: usize = 4096;
/// How long a command waits for the rest of its argv.
const ARGV_WAIT_NS: u64 = 1_000_000_000;
/// How long a session whose last task has left waits for exits still on their way: tasks that end at once on two
/// processors may be told of in either order, and both as the last.
const END_WAIT_NS: u64 = 1_000_000_000;
/// Sessions that a gap names; where it may touch more, it names none, which means any.
const MAX_GAP_SESSIONS: usize = 256;

/// Turns records into events.
#[derive(Debug)]
pub struct Machine {
    ids: Ids,
    entries: Entries,
    open: Bounded<TaskKey, Open>,
    ended: Bounded<TaskKey, Ended>,
    /// commands whose argv is not complete, oldest first; some of them have been told by now
    waits: VecDeque<Wait>,
    waiting_bytes: usize,
    /// sessions that are over but for exits on their way
    endings: VecDeque<Ending>,
    /// what the kernel side follows no more, but for exits on their way; oldest first
    missing: VecDeque<Missing>,
    refusals: Refusals,
    searches: Searches,
    /// what waits, as it was last saved
    saved: Vec<u8>,
}

/// A session that is over.
#[derive(Debug, Serialize, Deserialize)]
struct Ended {
    id: SessionId,
    container: Option<u64>,
    time: BootTime,
}

/// A session whose last task has left.
#[derive(Debug, Serialize, Deserialize)]
struct Ending {
    entry: TaskKey,
    since: BootTime,
    /// the first flush that found it
    found: Option<BootTime>,
}

impl Machine {
    /// A machine that has seen nothing yet. Ids of sessions are the same for every machine of the same boot.
    #[must_use]
    pub fn new(boot_id: &str) -> Self {
        Self {
            ids: Ids::new(boot_id),
            entries: Entries::new(),
            open: Bounded::new(MAX_SESSIONS),
            ended: Bounded::new(MAX_ENDED),
            waits: VecDeque::new(),
            waiting_bytes: 0,
            endings: VecDeque::new(),
            missing: VecDeque::new(),
            refusals: Refusals::new(),
            searches: Searches::new(),
            saved: Vec::new(),
        }
    }

    /// A machine that does not know what was told until `told`. Later, when `asked`, the kernel side had refused so many of
    /// each session: of those that were there before, they are counted with all others, and told in nobody's name where they
    /// are not told yet.
    #[must_use]
    pub fn goes_on_after(mut self, told: BootTime, asked: BootTime, refused: Vec<(TaskKey, u64)>) -> Self {
        self.refusals = Refusals::after(told, asked, refused);
        self
    }

    /// Takes one record, in the order of the ring, and appends what follows from it.
    pub fn handle(&mut self, record: Record, out: &mut Vec<Event>) {
        match record {
            Record::Exec(exec) => {
                self.release_late(exec.time, out);
                self.exec(*exec, out);
            }
            Record::ArgvChunk(chunk) => self.chunk(chunk, out),
            Record::ExecFailed(failed) => {
                self.release_late(failed.time, out);
                self.exec_failed(*failed, out);
            }
            Record::Exit(exit) => {
                self.release_late(exit.time, out);
                self.exit(&exit, out);
            }
            Record::Enter(enter) => {
                let key = enter.process.key;
                let announced = self.open.contains(&key) || self.ended.contains(&key);
                self.entries.enter(enter, announced, out);
            }
            Record::Join(join) => self.join(join, out),
            Record::ContainerStarted(started) => self.entries.container_started(started),
            Record::ContainerEnded(ended) => self.entries.container_ended(&ended),
            Record::Lost(lost) => self.lost(lost, out),
            Record::Refused { entry, total } => self.refusals.of(entry, total, None),
            Record::Recovered(recovered) => self.recovered(*recovered, out),
            Record::Agent { time, state } => {
                out.push(Event { time, container: None, session: None, body: Body::AgentState(state) });
            }
        }
    }

    /// Gives up on what has waited for too long. To be called about once a second: records that never come end no
    /// wait. Time counts from the first flush that finds something waiting, because the reader of the ring may be
    /// far behind `now`, with what is waited for still before it.
    pub fn flush(&mut self, now: BootTime, out: &mut Vec<Event>) {
        for wait in &mut self.waits {
            wait.found.get_or_insert(now);
        }
        for ending in &mut self.endings {
            ending.found.get_or_insert(now);
        }
        for missing in &mut self.missing {
            missing.found.get_or_insert(now);
        }
        let late = |found: Option<BootTime>, wait| found.is_some_and(|found| now.since(found) >= wait);
        while self.waits.front().is_some_and(|wait| late(wait.found, ARGV_WAIT_NS)) {
            self.release_oldest(out);
        }
        while let Some(ending) = self.endings.pop_front_if(|ending| late(ending.found, END_WAIT_NS)) {
            self.end(&ending.entry, out);
        }
        while let Some(missing) = self.missing.pop_front_if(|missing| late(missing.found, END_WAIT_NS)) {
            self.forget(&missing, out);
        }
        for search in self.searches.flush(now) {
            self.not_executed(search, out);
        }
        self.entries.flush(Some(now), out);
        for refused in self.refusals.flush(now, false) {
            self.refused(&refused, now, out);
        }
    }

    /// Says all that waits, with what is there `now`. Sessions stay open: they are the kernel's, not this machine's.
    pub fn finish(&mut self, now: BootTime, out: &mut Vec<Event>) {
        for search in self.searches.finish() {
            self.not_executed(search, out);
        }
        while self.release_oldest(out) {}
        while let Some(ending) = self.endings.pop_front() {
            self.end(&ending.entry, out);
        }
        while let Some(missing) = self.missing.pop_front() {
            self.forget(&missing, out);
        }
        self.entries.flush(None, out);
        for refused in self.refusals.flush(now, true) {
            self.refused(&refused, now, out);
        }
    }

    /// What this machine takes to be followed by the kernel side, without what is said to be [`Self::missing`] already.
    #[must_use]
    pub fn followed(&self) -> Followed {
        let sessions: HashSet<TaskKey> =
            self.missing.iter().flat_map(|missing| &missing.sessions).copied().collect();
        let processes: HashSet<TaskKey> =
            self.missing.iter().flat_map(|missing| &missing.processes).copied().collect();
        let open = self.open.iter().map(|(entry, _)| entry).chain(self.entries.keys());
        let running = self.open.iter().flat_map(|(_, open)| open.running());
        Followed {
            sessions: open.filter(|entry| !sessions.contains(entry)).copied().collect(),
            processes: running.filter(|key| !processes.contains(key)).copied().collect(),
        }
    }

    /// The kernel side followed these no more at `time`, and may have failed to say so. What has not ended by records
    /// when exits on their way have had their time is over, and what is not known of its end stays unknown.
    pub fn missing(&mut self, time: BootTime, gone: Followed) {
        if !gone.is_empty() {
            let Followed { sessions, processes } = gone;
            let processes = processes.into_iter().collect();
            self.missing.push_back(Missing { sessions, processes, since: time, found: None });
        }
    }

    /// Execs or exits were refused, and not all that is known of whom came with exits: the kernel side is to be asked.
    #[must_use]
    pub fn misses_refused(&self) -> bool {
        self.refusals.are_unknown()
    }

    /// How many of those that were counted as refused are not told yet; below zero, exits told of more than was counted.
    #[must_use]
    pub fn untold_refused(&self) -> i64 {
        self.refusals.untold()
    }

    /// Sessions announced and not ended.
    #[must_use]
    pub fn open_sessions(&self) -> usize {
        self.open.len()
    }

    /// Entries and joins that are kept without having been announced.
    #[must_use]
    pub fn unannounced(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of arguments that wait for more.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    fn exec(&mut self, exec: Exec, out: &mut Vec<Event>) {
        if exec.staging {
            if !self.open.contains(&exec.entry) && !self.ended.contains(&exec.entry) {
                let entry = self.entries.of(exec.entry, exec.time, out);
                entry.staged = entry.staged.saturating_add(1);
            }
            return;
        }
        if let Some(ended) = self.ended.get(&exec.entry) {
            let gap = one_untold(exec.time, ended.id.clone(), LATE_COMMAND);
            out.push(Event {
                time: exec.time,
                container: ended.container,
                session: Some(ended.id.clone()),
                body: Body::Gap(gap),
            });
            return;
        }
        let root = !self.open.contains(&exec.entry);
        if root && !self.announce(&exec, None, out) {
            return;
        }
        self.command(exec, root, out);
    }

    /// Opens the session whose first command this is. `false`: it is nobody's.
    fn announce(&mut self, exec: &Exec, recovered: Option<BootTime>, out: &mut Vec<Event>) -> bool {
        let known = self.entries.take(&exec.entry);
        let container = exec.container.or_else(|| known.as_ref().and_then(Entry::container));
        if container.is_none() && exec.entry_kind == EntryKind::Join {
            let entry = self.entries.of(exec.entry, exec.time, out);
            *entry = known.unwrap_or_default();
            entry.unowned = entry.unowned.saturating_add(1);
            return false;
        }
        let beside = container.and_then(|container| self.entries.beside(container));
        let beside = beside.filter(|_| exec.entry_kind == EntryKind::Ephemeral);
        let started = started::started(exec, known.as_ref(), beside, recovered);
        let mut open = Open::new(self.ids.of(exec.process.key), container, exec.process.key, started.entered);
        out.push(open.event(exec.time, Body::SessionStarted(Box::new(started))));
        match known.and_then(|known| known.join) {
            Some(joining) => {
                out.push(Event { container, session: Some(open.id.clone()), ..joining.joined() });
            }
            None => open.join_missing = exec.entry_kind == EntryKind::Join,
        }
        if let Some((_, forgotten)) = self.open.insert(exec.entry, open) {
            give_up(forgotten, exec.time, out);
        }
        true
    }

    fn command(&mut self, exec: Exec, root: bool, out: &mut Vec<Event>) {
        let (not_found, other_search) = self.searches.executed(&exec);
        let Exec {
            time,
            process,
            tid: _,
            entry,
            entered_by: _,
            entry_time: _,
            entry_kind: _,
            container,
            staging: _,
            root: _,
            host_mnt: _,
            cgroup_id,
            namespaces,
            credentials,
            tty,
            path,
            cwd,
            path_incomplete,
            script,
            executable,
            argv,
            argv_over_budget,
            descriptors: _,
            environment: _,
            spoof_suspected,
        } = exec;
        let key = process.key;
        self.release_task(entry, key, out);
        if let Some(search) = other_search {
            self.not_executed(search, out);
        }
        let Some(open) = self.open.get_mut(&entry) else { return };
        open.container = open.container.or(container);
        let executed = Executed {
            process,
            path,
            cwd,
            path_incomplete,
            argv: crate::event::Argv::default(),
            script,
            credentials,
            tty,
            executable,
            namespaces,
            cgroup_id,
            root,
            argv_over_budget,
            spoof_suspected,
            not_found,
        };
        if let Some(bytes) = open.executed(time, executed, Assembly::new(argv), out) {
            self.wait(Wait { entry, key, exec_time: time, bytes, found: None }, out);
        }
    }

    fn exit(&mut self, exit: &Exit, out: &mut Vec<Event>) {
        self.refusals.of(exit.entry, exit.refused, Some(exit.time));
        if exit.executed {
            self.release_task(exit.entry, exit.key, out);
            if let Some(search) = self.searches.over(&exit.key) {
                self.not_executed(search, out);
            }
        }
        let Some(open) = self.open.get_mut(&exit.entry) else {
            let over = self.ended.contains(&exit.entry);
            if exit.executed && !over && !self.entries.of_no_session(&exit.entry) {
                let gap = one_untold(exit.time, self.ids.of(exit.entry), STRAY_EXIT);
                out.push(Event { time: exit.time, container: None, session: None, body: Body::Gap(gap) });
            }
            if exit.last {
                self.entries.ended(&exit.entry, exit.time, out);
            }
            return;
        };
        open.lost = open.lost.max(exit.lost);
        if exit.executed {
            open.exited(exit, out);
        }
        let was_ending = open.ending.is_some();
        if exit.last || was_ending {
            open.ending = open.ending.max(Some(exit.time));
        }
        if open.ending.is_some() && !open.is_running() {
            self.end(&exit.entry, out);
        } else if exit.last && !was_ending {
            self.endings.push_back(Ending { entry: exit.entry, since: exit.time, found: None });
        }
    }

    fn end(&mut self, entry: &TaskKey, out: &mut Vec<Event>) {
        for search in self.searches.end(entry) {
            self.not_executed(search, out);
        }
        let refused = self.refusals.end(entry);
        let Some(mut open) = self.open.remove(entry) else { return };
        if let Some(refused) = refused {
            open.refused(&refused, open.ending.unwrap_or(open.entered), out);
        }
        open.lost = open.lost.saturating_add(self.refusals.total(entry));
        let time = open.ending.unwrap_or(open.entered);
        let ended = Ended { id: open.id.clone(), container: open.container, time };
        open.ended(time, out);
        self.forget_waits(|wait| wait.entry == *entry);
        self.endings.retain(|ending| ending.entry != *entry);
        let _ = self.ended.insert(*entry, ended);
    }

    fn forget(&mut self, missing: &Missing, out: &mut Vec<Event>) {
        let Missing { sessions, processes, since, found: _ } = missing;
        for entry in sessions {
            match self.open.get_mut(entry) {
                // Else its last exit came after all, and it ends in its own time.
                Some(open) if open.ending.is_none() => {
                    open.end_unseen(*since);
                    self.end(entry, out);
                }
                Some(_) => {}
                None => self.entries.ended(entry, *since, out),
            }
        }
        if !processes.is_empty() {
            self.open.change_each(|open| open.forget(processes));
        }
    }

    fn join(&mut self, join: Box<record::Join>, out: &mut Vec<Event>) {
        let Some(open) = self.open.get_mut(&join.entry) else {
            if !self.ended.contains(&join.entry) {
                self.entries.join(join, out);
            }
            return;
        };
        if std::mem::take(&mut open.join_missing) {
            let event = open.event(join.time, Body::NamespaceJoined(Box::new(NamespaceJoined::from(*join))));
            open.say(event, out);
        }
    }

    fn refused(&mut self, refused: &Refused, now: BootTime, out: &mut Vec<Event>) {
        let Refused { entry, count, from, exact } = *refused;
        if let Some(open) = entry.and_then(|entry| self.open.get_mut(&entry)) {
            open.refused(refused, now, out);
            return;
        }
        let ended = entry.and_then(|entry| self.ended.get(&entry));
        let (id, container) = ended.map(|ended| (ended.id.clone(), ended.container)).unzip();
        let gap = Gap {
            source: GapSource::SessionBudget,
            count,
            exact,
            from: from.unwrap_or(now),
            to: now,
            sessions: id.clone().into_iter().collect(),
            detail: class::REFUSED.to_owned(),
        };
        out.push(Event { time: now, container: container.flatten(), session: id, body: Body::Gap(gap) });
    }

    fn lost(&mut self, lost: Lost, out: &mut Vec<Event>) {
        if lost.source == GapSource::SessionBudget {
            // Told when it is known of whom, and by nobody's name only then.
            self.refusals.count(lost.count, lost.from, lost.exact);
            return;
        }
        let Lost { from, time, source, count, exact, detail } = lost;
        let open = self.open.iter().filter(|(_, open)| open.entered <= time).map(|(_, open)| &open.id);
        let ended = self.ended.iter().filter(|(_, ended)| ended.time >= from).map(|(_, ended)| &ended.id);
        let mut sessions: Vec<SessionId> = open.chain(ended).take(MAX_GAP_SESSIONS + 1).cloned().collect();
        if sessions.len() > MAX_GAP_SESSIONS {
            sessions.clear();
        }
        let gap = Gap { source, count, exact, from, to: time, sessions, detail };
        out.push(Event { time, container: None, session: None, body: Body::Gap(gap) });
    }

    /// A session that was there before the agent: its root is told as `/proc` shows it, so that its timeline has
    /// one; of the others only what comes.
    fn recovered(&mut self, recovered: Recovered, out: &mut Vec<Event>) {
        let Recovered { time, entry, kind, container, processes } = recovered;
        if self.open.contains(&entry) || self.ended.contains(&entry) {
            return;
        }
        for (index, mut exec) in processes.into_iter().enumerate() {
            exec.entry = entry;
            exec.entry_kind = kind;
            exec.container = Some(container);
            if index == 0 {
                if self.announce(&exec, Some(time), out) {
                    self.command(exec, true, out);
                }
            } else if let Some(open) = self.open.get_mut(&entry) {
                open.remember(exec.time, exec.process, out);
            }
        }
    }

    /// The ring has come as far as `now`.
    fn release_late(&mut self, now: BootTime, out: &mut Vec<Event>) {
        while self.waits.front().is_some_and(|wait| now.since(wait.exec_time) >= ARGV_WAIT_NS) {
            self.release_oldest(out);
        }
        while let Some(ending) = self.endings.pop_front_if(|ending| now.since(ending.since) >= END_WAIT_NS) {
            self.end(&ending.entry, out);
        }
        while let Some(search) = self.searches.late(now) {
            self.not_executed(search, out);
        }
        let is_late = |missing: &mut Missing| now.since(missing.since) >= END_WAIT_NS;
        while let Some(missing) = self.missing.pop_front_if(is_late) {
            self.forget(&missing, out);
        }
        self.entries.flush(Some(now), out);
    }
}
