//! A session that was announced: its processes, its counts, and its events in order.

use std::collections::{HashMap, HashSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::{
    argv::Assembly,
    record::{self, ArgvChunk, class},
    refused::Refused,
};
use crate::event::{
    Body, BootTime, Event, Executed, ExitStatus, Exited, Gap, GapSource, Process, SessionEnded, SessionId,
    TaskKey,
};

/// Processes of one session whose last exec is remembered. More than that many at once, and what is forgotten is
/// told by a gap.
pub(super) const MAX_PROCESSES: usize = 4096;

/// Processes that ended last, remembered so that each is told once.
const MAX_GONE: usize = 64;

/// Events of one session that may wait behind an argv that is not complete.
pub(super) const MAX_QUEUED: usize = 1024;

/// An announced session.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Open {
    pub(super) id: SessionId,
    pub(super) container: Option<u64>,
    pub(super) root: TaskKey,
    pub(super) entered: BootTime,
    /// a join whose own record has not come (yet)
    pub(super) join_missing: bool,
    pub(super) commands: u64,
    pub(super) lost: u64,
    /// the kernel side saw the last task leave, then
    pub(super) ending: Option<BootTime>,
    root_status: Option<ExitStatus>,
    processes: HashMap<TaskKey, Running>,
    gone: VecDeque<TaskKey>,
    queue: VecDeque<Queued>,
}

/// A process that ran a command, as it was at its last exec.
#[derive(Debug, Serialize, Deserialize)]
struct Running {
    process: Process,
    since: BootTime,
}

#[derive(Debug, Serialize, Deserialize)]
enum Queued {
    Ready(Event),
    Waiting(Box<Waiting>),
}

/// A command whose argv is not complete.
#[derive(Debug, Serialize, Deserialize)]
struct Waiting {
    time: BootTime,
    executed: Executed,
    argv: Assembly,
}

impl Open {
    pub(super) fn new(id: SessionId, container: Option<u64>, root: TaskKey, entered: BootTime) -> Self {
        Self {
            id,
            container,
            root,
            entered,
            join_missing: false,
            commands: 0,
            lost: 0,
            ending: None,
            root_status: None,
            processes: HashMap::new(),
            gone: VecDeque::new(),
            queue: VecDeque::new(),
        }
    }

    pub(super) fn event(&self, time: BootTime, body: Body) -> Event {
        Event { time, container: self.container, session: Some(self.id.clone()), body }
    }

    /// Says `event` after all that was said before it.
    pub(super) fn say(&mut self, event: Event, out: &mut Vec<Event>) {
        if self.queue.is_empty() {
            out.push(event);
            return;
        }
        self.queue.push_back(Queued::Ready(event));
        if self.queue.len() > MAX_QUEUED {
            self.release_all(out);
        }
    }

    /// A command. Returns how many bytes of argv wait for more.
    pub(super) fn executed(
        &mut self,
        time: BootTime,
        mut executed: Executed,
        argv: Assembly,
        out: &mut Vec<Event>,
    ) -> Option<usize> {
        self.commands = self.commands.saturating_add(1);
        self.remember(time, executed.process.clone(), out);
        if argv.is_complete() {
            executed.argv = argv.finish();
            let event = self.event(time, Body::Executed(Box::new(executed)));
            self.say(event, out);
            return None;
        }
        let bytes = argv.bytes();
        self.queue.push_back(Queued::Waiting(Box::new(Waiting { time, executed, argv })));
        Some(bytes)
    }

    /// A process that ran before anybody looked: only its exit will be told.
    pub(super) fn remember(&mut self, since: BootTime, process: Process, out: &mut Vec<Event>) {
        if self.processes.len() >= MAX_PROCESSES && !self.processes.contains_key(&process.key) {
            let forgotten = self.forget_oldest();
            let gap = Gap {
                source: GapSource::AgentBuffer,
                count: forgotten,
                exact: true,
                from: self.entered,
                to: since,
                sessions: vec![self.id.clone()],
                detail: "processes of a session: the start of their last command is forgotten".to_owned(),
            };
            let event = self.event(since, Body::Gap(gap));
            self.say(event, out);
        }
        self.processes.insert(process.key, Running { process, since });
    }

    /// Forgets a quarter at once: that is seldom, and costs little for each process.
    fn forget_oldest(&mut self) -> u64 {
        let mut ages: Vec<(BootTime, TaskKey)> =
            self.processes.iter().map(|(key, running)| (running.since, *key)).collect();
        ages.sort_unstable();
        ages.truncate((MAX_PROCESSES / 4).max(1));
        for (_, key) in &ages {
            self.processes.remove(key);
        }
        u64::try_from(ages.len()).unwrap_or(u64::MAX)
    }

    /// A process ended that ran a command.
    pub(super) fn exited(&mut self, exit: &record::Exit, out: &mut Vec<Event>) {
        let record::Exit {
            time,
            key,
            parent,
            entry: _,
            status,
            last: _,
            executed: _,
            late,
            lost: _,
            refused: _,
        } = exit;
        if *key == self.root {
            self.root_status = Some(*status);
        }
        let (before, comm, since) = match self.processes.remove(key) {
            Some(Running { process, since }) => (process.parent, process.comm, since),
            None if self.gone.contains(key) => return,
            // Its exec was lost: it did not run longer than since its birth.
            None => (
                TaskKey::NONE,
                Vec::new(),
                BootTime(if key.start_time == 0 { time.0 } else { key.start_time }),
            ),
        };
        self.gone.push_front(*key);
        self.gone.truncate(MAX_GONE);
        let exited = Exited {
            // Who was its parent last is not known then.
            process: Process { key: *key, parent: if *late { before } else { *parent }, comm },
            status: *status,
            duration_ns: time.since(since),
            late: *late,
        };
        let event = self.event(*time, Body::Exited(exited));
        self.say(event, out);
    }

    /// Execs and exits of it were refused, by `time` at the latest.
    pub(super) fn refused(&mut self, refused: &Refused, time: BootTime, out: &mut Vec<Event>) {
        let gap = Gap {
            source: GapSource::SessionBudget,
            count: refused.count,
            exact: refused.exact,
            from: refused.from.unwrap_or(self.entered).max(self.entered).min(time),
            to: time,
            sessions: vec![self.id.clone()],
            detail: class::REFUSED.to_owned(),
        };
        let event = self.event(time, Body::Gap(gap));
        self.say(event, out);
    }

    /// As it may be, whatever was read.
    pub(super) fn is_bounded(&self) -> bool {
        self.processes.len() <= MAX_PROCESSES && self.gone.len() <= MAX_GONE && self.queue.len() <= MAX_QUEUED
    }

    /// Whether processes that ran a command are still to be told of.
    pub(super) fn is_running(&self) -> bool {
        !self.processes.is_empty()
    }

    /// Processes that ran a command and are not known to be gone.
    pub(super) fn running(&self) -> impl Iterator<Item = &TaskKey> {
        self.processes.keys()
    }

    /// These ended, and nobody knows when or how: that is no exit to tell.
    pub(super) fn forget(&mut self, gone: &HashSet<TaskKey>) -> bool {
        let before = self.processes.len();
        self.processes.retain(|key, _| !gone.contains(key));
        self.processes.len() < before
    }

    /// The session was over by `time`, and its last exit was not told. The kernel side's count of what it lost came
    /// with exits only: at least the last is not in it, and at least those of all that were still running are lost.
    pub(super) fn end_unseen(&mut self, time: BootTime) {
        let running = u64::try_from(self.processes.len()).unwrap_or(u64::MAX);
        self.lost = self.lost.saturating_add(1).max(running);
        self.ending = Some(time);
    }

    /// The last descendant is gone.
    pub(super) fn ended(mut self, time: BootTime, out: &mut Vec<Event>) {
        self.release_all(out);
        let ended = SessionEnded {
            status: self.root_status,
            duration_ns: time.since(self.entered),
            commands: self.commands,
            lost: self.lost,
        };
        out.push(self.event(time, Body::SessionEnded(ended)));
    }

    /// More of the argv of the command of `key` at `exec_time`. Returns the bytes that it holds now, and whether it
    /// is complete; `None` where no such command waits.
    pub(super) fn chunk(&mut self, chunk: ArgvChunk, out: &mut Vec<Event>) -> Option<(usize, bool)> {
        let ArgvChunk { time: _, key, exec_time, offset, bytes } = chunk;
        let waiting = self.queue.iter_mut().find_map(|queued| match queued {
            Queued::Waiting(waiting) if waiting.is_of(key, exec_time) => Some(waiting),
            Queued::Waiting(_) | Queued::Ready(_) => None,
        })?;
        waiting.argv.add(offset, bytes);
        let state = (waiting.argv.bytes(), waiting.argv.is_complete());
        if state.1 {
            self.drain(out);
        }
        Some(state)
    }

    /// Says the command of `key` at `exec_time` with what there is of its argv.
    pub(super) fn release(&mut self, key: TaskKey, exec_time: BootTime, out: &mut Vec<Event>) {
        for queued in &mut self.queue {
            if let Queued::Waiting(waiting) = queued
                && waiting.is_of(key, exec_time)
            {
                let event = waiting.say(self.container, &self.id);
                *queued = Queued::Ready(event);
                break;
            }
        }
        self.drain(out);
    }

    /// Says all that waits, with what there is.
    pub(super) fn release_all(&mut self, out: &mut Vec<Event>) {
        for queued in self.queue.drain(..) {
            out.push(match queued {
                Queued::Ready(event) => event,
                Queued::Waiting(mut waiting) => waiting.say(self.container, &self.id),
            });
        }
    }

    fn drain(&mut self, out: &mut Vec<Event>) {
        while let Some(queued) = self.queue.pop_front() {
            match queued {
                Queued::Ready(event) => out.push(event),
                Queued::Waiting(mut waiting) if waiting.argv.is_complete() => {
                    out.push(waiting.say(self.container, &self.id));
                }
                Queued::Waiting(waiting) => {
                    self.queue.push_front(Queued::Waiting(waiting));
                    break;
                }
            }
        }
    }
}

impl Waiting {
    fn is_of(&self, key: TaskKey, exec_time: BootTime) -> bool {
        self.executed.process.key == key && self.time == exec_time
    }

    /// The event, in which the command itself leaves this.
    fn say(&mut self, container: Option<u64>, id: &SessionId) -> Event {
        let mut executed = self.executed.clone();
        executed.argv = std::mem::replace(&mut self.argv, Assembly::new(record::RawArgv::default())).finish();
        Event {
            time: self.time,
            container,
            session: Some(id.clone()),
            body: Body::Executed(Box::new(executed)),
        }
    }
}
