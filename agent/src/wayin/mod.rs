//! The way in: whether a session in a pod is a probe, a hook, or somebody's, with evidence; and of probes, which come
//! every few seconds on every node, only what is new.
//!
//! A pure stage between [`crate::session`] and [`crate::convert`], events in and events out: no clock, no I/O; what it
//! asks is in memory ([`World`]). It never loses an event in silence: what is held back is told, or counted by a
//! `Folded`. What it holds is saved with the spool's transaction, so that a kill loses and doubles nothing.
//!
//! | module | what it does |
//! |---|---|
//! | [`kubelet`] | asks the node's kubelet for its pods |
//! | [`spec`] | what it answers: probes and hooks, from JSON that may be anything |
//! | `command` | command lines, compared by digest |
//! | `method` | a method, from what is known |
//! | `conclude` | what becomes of a session that was held back |
//! | `rhythm` | when a probe comes |
//! | `fold` | what a session did, and how often |
//! | `label` | what its first command looks like |
//! | `saved` | the state that outlives the agent |

mod command;
mod conclude;
mod fold;
pub mod kubelet;
mod label;
mod method;
mod rhythm;
mod saved;
pub mod spec;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

pub use self::kubelet::{Kubelet, Look, Missing};
use self::{
    command::Command,
    conclude::{attribute, tell_counts},
    fold::Outcome,
    method::{Conclusion, Container, Group, Root},
};
use crate::{
    event::{Body, BootTime, Event, Method, SessionEnded, SessionId, SessionStarted},
    session::bounded::Bounded,
};

/// Sessions that are looked at, and what they may hold back together.
const MAX_SESSIONS: usize = 4096;
const MAX_BYTES: usize = 8 << 20;
/// What one may hold back. More is no probe's way, and is told.
const MAX_EVENTS_OF_ONE: usize = 256;
const MAX_BYTES_OF_ONE: usize = 256 << 10;
/// Containers whose probes are remembered.
const MAX_CONTAINERS: usize = 4096;
/// Sessions that were only counted, of which more may be said.
const MAX_FOLDED: usize = 1024;
/// Sessions that were told without what the kubelet knows.
const MAX_LATE: usize = 512;

/// From the first flush that finds a session waiting: flushes are a second apart, and the most is one second more.
const SPEC_WAIT_NS: u64 = 1_000_000_000;
const HOLD_NS: u64 = 4_000_000_000;

/// What is told of probes that are known as such.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probes {
    /// what is new; the rest is counted
    Fold,
    /// all of it
    All,
    /// counts
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    pub probes: Probes,
    /// from one count to the next, nanoseconds
    pub every: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { probes: Probes::Fold, every: 300 * 1_000_000_000 }
    }
}

/// Where a container is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// `None`: in no pod
    pub pod: Option<String>,
    /// the runtime's id
    pub id: Option<String>,
    /// as the pod's specification calls it
    pub name: Option<String>,
    pub sandbox: bool,
    /// argv of its preStop hook, where its runtime was told
    pub pre_stop: Option<Vec<String>>,
}

/// What is known around a session. Must not wait for anything.
pub trait World {
    /// `None`: nothing is known of this cgroup
    fn place(&self, cgroup: u64) -> Option<Place>;
    /// What the kubelet says of a pod, or of one of its containers.
    fn look(&self, pod: &str, container: Option<&str>) -> Look;
}

/// See the module.
#[derive(Debug)]
pub struct WayIn {
    options: Options,
    sessions: Bounded<SessionId, Session>,
    bytes: usize,
    containers: Bounded<u64, Container>,
    folded: Bounded<SessionId, ()>,
    /// of the sessions, oldest first
    late: VecDeque<SessionId>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Session {
    container: u64,
    stage: Stage,
    /// the first flush that found it held back
    found: Option<BootTime>,
    /// what is held back; nothing, once it is told
    held: Vec<Event>,
    bytes: usize,
    told: bool,
    outcome: Outcome,
    ended: Option<(BootTime, SessionEnded)>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Stage {
    /// its first command has not come. `sure`: that will say no more of its method
    Begun { sure: bool },
    /// what the kubelet knows of its pod has not come
    Asked(Root),
    /// a probe's
    Probe { group: Command, at: usize, root: Root },
    /// told: what it did is what the next is compared with, at least where it was a probe's for sure, the one `at`
    Watched { group: Command, at: Option<usize> },
    /// told, and what the kubelet knows may come yet
    Late(Root),
}

impl Default for WayIn {
    fn default() -> Self {
        Self::new(Options::default())
    }
}

impl WayIn {
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            options,
            sessions: Bounded::new(MAX_SESSIONS),
            bytes: 0,
            containers: Bounded::new(MAX_CONTAINERS),
            folded: Bounded::new(MAX_FOLDED),
            late: VecDeque::new(),
        }
    }

    /// Takes an event, in order, and appends what is to be told now.
    pub fn handle(&mut self, event: Event, world: &impl World, out: &mut Vec<Event>) {
        match (&event.body, &event.session) {
            (Body::SessionStarted(started), Some(id)) => {
                let (id, method) = (id.clone(), started.method);
                if method == Method::RuntimeExec && started.recovered.is_none() && started.observable {
                    self.begin(id, event, world, out);
                } else {
                    out.push(event);
                }
            }
            (Body::Gap(gap), _) => {
                self.gap(gap, event.session.as_ref(), out);
                out.push(event);
            }
            (_, Some(id)) => {
                let id = id.clone();
                self.goes_on(&id, event, world, out);
            }
            (_, None) => out.push(event),
        }
    }

    /// A container's own program started.
    pub fn container_started(&mut self, cgroup: u64, at: BootTime, world: &impl World, out: &mut Vec<Event>) {
        if world.place(cgroup).is_some_and(|place| place.pod.is_some()) {
            self.container(cgroup, out).started = Some(at);
        }
    }

    /// A container's own program ended: nothing is asked of it any more.
    pub fn container_ended(&mut self, cgroup: u64, at: BootTime, out: &mut Vec<Event>) {
        let Some(mut container) = self.containers.remove(&cgroup) else { return };
        if let Some((session, evidence)) = container.stopped(at) {
            attribute(session, cgroup, Method::LifecycleHook, evidence, at, out);
        }
        tell_counts(cgroup, &mut container, out);
    }

    /// Gives up on what has waited for too long. To be called about once a second.
    pub fn flush(&mut self, now: BootTime, out: &mut Vec<Event>) {
        let (mut late, mut long) = (Vec::new(), Vec::new());
        self.sessions.change_each(|session| {
            !session.told && session.found.is_none() && {
                session.found = Some(now);
                true
            }
        });
        for (id, session) in self.sessions.iter().filter(|(_, session)| !session.told) {
            let waited = session.found.map_or(0, |found| now.since(found));
            match session.stage {
                Stage::Begun { sure: _ } | Stage::Asked(_) if waited >= SPEC_WAIT_NS => late.push(id.clone()),
                Stage::Probe { .. } if waited >= HOLD_NS => long.push(id.clone()),
                _ => {}
            }
        }
        for id in late {
            match self.sessions.get(&id).map(|session| &session.stage) {
                Some(Stage::Asked(_)) => self.conclude(&id, method::without(None), true, now, out),
                Some(Stage::Begun { sure: false }) => {
                    let evidence = vec!["its first command has not come yet".to_owned()];
                    self.conclude(&id, Conclusion::Unknown { evidence }, false, now, out);
                }
                _ => self.release(&id, out),
            }
        }
        for id in long {
            self.release(&id, out);
        }
        let every = self.options.every;
        let due = |group: &Group| group.count.is_some_and(|count| now.since(count.since()) >= every);
        let containers = self.containers.iter().filter(|(_, container)| container.groups.values().any(due));
        for cgroup in containers.map(|(cgroup, _)| *cgroup).collect::<Vec<_>>() {
            if let Some(container) = self.containers.get_mut(&cgroup) {
                tell_counts(cgroup, container, out);
            }
        }
    }

    /// The kubelet has answered, or has not: looks again at what waits for it.
    pub fn answered(&mut self, now: BootTime, world: &impl World, out: &mut Vec<Event>) {
        let waits = |stage: &Stage| matches!(stage, Stage::Asked(_) | Stage::Late(_));
        let waiting = self.sessions.iter().filter(|(_, session)| waits(&session.stage));
        for id in waiting.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.compare(&id, now, world, out);
        }
    }

    /// Tells all that is held back and all that was counted. What is open goes on in the next agent.
    pub fn finish(&mut self, out: &mut Vec<Event>) {
        self.release_all(out);
        for cgroup in self.containers.iter().map(|(cgroup, _)| *cgroup).collect::<Vec<_>>() {
            if let Some(container) = self.containers.get_mut(&cgroup) {
                tell_counts(cgroup, container, out);
            }
        }
    }

    /// Tells all that is held back.
    pub fn release_all(&mut self, out: &mut Vec<Event>) {
        let held = self.sessions.iter().filter(|(_, session)| !session.told);
        for id in held.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.release(&id, out);
        }
    }

    /// Bytes that are held back, about.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.bytes
    }

    /// Sessions that are looked at, and containers whose probes are remembered.
    #[must_use]
    pub fn kept(&self) -> (usize, usize) {
        (self.sessions.len(), self.containers.len())
    }

    fn begin(&mut self, id: SessionId, mut event: Event, world: &impl World, out: &mut Vec<Event>) {
        let place = event.container.and_then(|cgroup| Some((cgroup, world.place(cgroup)?)));
        let (Some((cgroup, place)), Body::SessionStarted(started)) = (place, &mut event.body) else {
            return out.push(event);
        };
        if place.pod.is_none() {
            return out.push(event);
        }
        let why = method::excludes(started, place.sandbox);
        let sure = !why.is_empty();
        started.evidence.extend(why);
        let bytes = weight(&event);
        let session = Session {
            container: cgroup,
            stage: Stage::Begun { sure },
            found: None,
            held: vec![event],
            bytes,
            told: false,
            outcome: Outcome::default(),
            ended: None,
        };
        // Announced twice, as after a state that could not be read.
        self.give_up(&id, out);
        if self.sessions.is_full() {
            let oldest = self.sessions.iter().next().map(|(id, _)| id.clone());
            oldest.iter().for_each(|oldest| self.give_up(oldest, out));
        }
        self.bytes = self.bytes.saturating_add(bytes);
        let _ = self.sessions.insert(id, session);
        self.make_room(out);
    }

    fn goes_on(&mut self, id: &SessionId, event: Event, world: &impl World, out: &mut Vec<Event>) {
        let Some(session) = self.sessions.get_mut(id) else {
            // More is known of a session that nobody was told of.
            if !(matches!(event.body, Body::Attributed(_)) && self.folded.contains(id)) {
                out.push(event);
            }
            return;
        };
        let time = event.time;
        session.outcome.see(&event.body);
        if let Body::SessionEnded(ended) = &event.body {
            session.ended = Some((time, ended.clone()));
        }
        if session.told {
            out.push(event);
            return self.settle(id, out);
        }
        let first = matches!((&event.body, &session.stage), (Body::Executed(_), Stage::Begun { sure: _ }));
        let bytes = weight(&event);
        session.bytes = session.bytes.saturating_add(bytes);
        session.held.push(event);
        let too_much = session.held.len() > MAX_EVENTS_OF_ONE || session.bytes > MAX_BYTES_OF_ONE;
        let give_up = too_much || session.outcome.is_broken();
        self.bytes = self.bytes.saturating_add(bytes);
        if first {
            self.first_command(id, world, out);
        }
        if give_up {
            self.release(id, out);
        }
        self.settle(id, out);
        self.make_room(out);
    }

    /// The first command is there, the last of what is held back.
    fn first_command(&mut self, id: &SessionId, world: &impl World, out: &mut Vec<Event>) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let (Some(Body::Executed(executed)), Stage::Begun { sure }) =
            (session.held.last().map(|event| &event.body), &session.stage)
        else {
            return;
        };
        let (label, sure) = (label::of(&executed.argv), *sure);
        // Of another command than the root nothing is known that could be compared.
        let commands = if executed.root { command::could_be(executed) } else { Vec::new() };
        let time = session.held.last().map_or(BootTime(0), |event| event.time);
        let Some(started) = session.started() else { return };
        started.labels.extend(label.map(str::to_owned));
        if sure {
            return self.release(id, out);
        }
        let allows = method::allows(started);
        started.evidence.push(allows);
        let root = Root { session: id.clone(), entered: started.entered, commands };
        session.stage = Stage::Asked(root);
        self.compare(id, time, world, out);
    }

    fn container(&mut self, cgroup: u64, out: &mut Vec<Event>) -> &mut Container {
        let (container, evicted) = self.containers.of(cgroup);
        if let Some((cgroup, mut evicted)) = evicted {
            tell_counts(cgroup, &mut evicted, out);
        }
        container
    }

    fn group(&mut self, cgroup: u64, group: Command) -> Option<&mut Group> {
        self.containers.get_mut(&cgroup)?.groups.get_mut(&group)
    }
}

impl Session {
    /// The announcement, while it is held back.
    fn started(&mut self) -> Option<&mut SessionStarted> {
        match self.held.first_mut().map(|event| &mut event.body) {
            Some(Body::SessionStarted(started)) => Some(started),
            _ => None,
        }
    }
}

/// Bytes that an event takes, about.
fn weight(event: &Event) -> usize {
    const FIXED: usize = 600;
    let lists = |list: &[Vec<u8>]| list.iter().map(|part| part.len() + 24).sum::<usize>();
    FIXED
        + match &event.body {
            Body::Executed(executed) => {
                let script = executed.script.as_ref().map_or(0, Vec::len);
                executed.path.len() + executed.cwd.len() + script + lists(&executed.argv.args)
            }
            _ => FIXED,
        }
}
