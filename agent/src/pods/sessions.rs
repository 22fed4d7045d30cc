//! What follows for sessions from what a runtime says: pure, without clock and I/O.
//!
//! - A session that was told before its container was known is told of it later, by an `Attributed` event, once for
//!   every answer until there is one that stays. So it is after a restart of the agent.
//! - containerd's ids of execs go to their sessions by container and pid. The kernel's word is mostly first: then the id
//!   follows as `Attributed`.
//! - The status of a root whose end the kernel side lost is the runtime's.
//! - In containers that the host's kernel cannot see into, execs by the runtime's word are all there is: sessions that
//!   say so, with a beginning and an end. When the runtime's word was not heard, a gap says so.
//!
//! All of it is bounded; what is pushed out is the oldest, and loses what would have been added to it, no session.

use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque},
};

use serde::{Deserialize, Serialize};

use super::{ContainerFacts, ExecId, ExecWord, Lookup, Missing, StillRuns};
use crate::{
    container::{ContainerInfo, Runtime},
    event::{
        Attributed, Body, BootTime, Event, ExitStatus, Gap, GapSource, Method, Process, SessionEnded,
        SessionId, SessionStarted, TaskKey,
    },
    session::{bounded::Bounded, id::Ids},
    state::{Changes, State, StateError, Table},
};

/// Sessions that are open, as many as the machine has.
const OPEN_MAX: usize = 16 * 1024;
/// Sessions that are to be told of their containers later.
const UNTOLD_MAX: usize = 16 * 1024;
/// Execs that no session is known of yet.
const EARLY_MAX: usize = 1024;
/// Sessions open in containers that the kernel cannot see into.
const OPAQUE_MAX: usize = 4096;
/// Containers that only containerd's events tell of.
const STRANGERS_MAX: usize = 1024;

/// How long a session that is over may still get the runtime's word: short ones are over before it comes.
const LATE_NS: u64 = 10_000_000_000;

/// How long an exec that the runtime tells of waits for the kernel's word, which mostly is first, but may be held back.
const EARLY_NS: u64 = 10_000_000_000;
/// And until its container is asked for, where no cgroup has its name.
const ASK_NS: u64 = 2_000_000_000;
/// An exec of a container that nobody knows anything of is not kept longer.
const STRANGE_NS: u64 = 60_000_000_000;

/// What is said, and of which container, where the directory does not know it.
#[derive(Clone, Debug, PartialEq)]
pub struct Said {
    pub event: Event,
    pub info: Option<Box<ContainerInfo>>,
}

/// What is to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// of this container, now
    Container(String),
    StillRuns(StillRuns),
}

/// A container, by the id that the runtime gave it.
pub trait Known {
    fn by_id(&mut self, id: &str) -> Option<&ContainerInfo>;
}

type RootKey = (String, u32);

/// A session whose root the kernel side told: open, or over not long ago.
#[derive(Debug)]
struct Root {
    session: SessionId,
    cgroup: Option<u64>,
    exec: Option<ExecId>,
    /// by the runtime's word
    status: Option<ExitStatus>,
    /// it ended, and whether it was told how
    over: Option<bool>,
}

/// An exec by the runtime's word, of which the kernel side has told nothing (yet).
#[derive(Debug)]
struct Early {
    exec: ExecId,
    namespace: String,
    since: BootTime,
    /// how it ended, if it has
    exit: Option<(BootTime, Option<u32>)>,
}

/// A session in a container that the kernel cannot see into.
#[derive(Debug, Serialize, Deserialize)]
struct Opaque {
    session: SessionId,
    namespace: String,
    since: BootTime,
    info: ContainerInfo,
}

/// See the module.
#[derive(Debug)]
pub struct Sessions {
    ids: Ids,
    roots: Bounded<RootKey, Root>,
    keys: HashMap<SessionId, RootKey>,
    /// of `roots` and of `early`
    execs: HashMap<ExecId, RootKey>,
    /// sessions that are over, in their order
    overs: VecDeque<(BootTime, SessionId)>,
    early: Bounded<RootKey, Early>,
    /// told before its container was known: its container's cgroup
    untold: Bounded<SessionId, u64>,
    opaque: Bounded<ExecId, Opaque>,
    /// containers that no cgroup of this node is named after
    strangers: Bounded<String, Lookup>,
    /// there is a container that the kernel cannot see into
    blind: bool,
    /// since when the runtime's events were not heard
    deaf: Option<BootTime>,
    questions: Vec<Question>,
}

impl Sessions {
    #[must_use]
    pub fn new(boot_id: &str) -> Self {
        Self {
            ids: Ids::new(boot_id),
            roots: Bounded::new(OPEN_MAX),
            keys: HashMap::new(),
            execs: HashMap::new(),
            overs: VecDeque::new(),
            early: Bounded::new(EARLY_MAX),
            untold: Bounded::new(UNTOLD_MAX),
            opaque: Bounded::new(OPAQUE_MAX),
            strangers: Bounded::new(STRANGERS_MAX),
            blind: false,
            deaf: None,
            questions: Vec::new(),
        }
    }

    /// What changed since the last time; all there is, if `all`.
    pub fn save(&mut self, all: bool, out: &mut Changes) {
        self.untold.save(Table::UNTOLD, all, out);
        self.opaque.save(Table::OPAQUE, all, out);
        self.forget_unsaved();
    }

    /// Instead of [`Self::save`], where nobody keeps what it saves.
    pub fn forget_changes(&mut self) {
        self.untold.forget_changes();
        self.opaque.forget_changes();
        self.forget_unsaved();
    }

    fn forget_unsaved(&mut self) {
        self.roots.forget_changes();
        self.early.forget_changes();
        self.strangers.forget_changes();
    }

    /// Goes on with what was saved. `since`: when the agent before was last at work.
    pub fn restore(boot_id: &str, state: &State, since: Option<BootTime>) -> Result<Self, StateError> {
        let mut this = Self::new(boot_id);
        this.untold = Bounded::restore(UNTOLD_MAX, Table::UNTOLD, state)?;
        this.opaque = Bounded::restore(OPAQUE_MAX, Table::OPAQUE, state)?;
        this.deaf = since;
        Ok(this)
    }

    /// A container that was known before: whether the kernel can see into it.
    pub fn met(&mut self, facts: &ContainerFacts) {
        self.blind |= !facts.observable;
    }

    /// What is to be asked since the last call.
    pub fn questions(&mut self) -> std::vec::Drain<'_, Question> {
        self.questions.drain(..)
    }

    /// An event goes by; `info`: what is known of its container.
    pub fn pass(&mut self, event: &mut Event, info: Option<&ContainerInfo>) {
        let Some(session) = &event.session else { return };
        match &mut event.body {
            Body::SessionStarted(started) => {
                if let Some(id) = info.and_then(|info| info.id.as_ref()) {
                    let key = (id.clone(), started.root.key.tgid);
                    self.begun(key, session.clone(), event.container, started);
                }
            }
            Body::SessionEnded(ended) => self.ended(session, event.time, ended),
            Body::Executed(_)
            | Body::ExecFailed(_)
            | Body::Exited(_)
            | Body::NamespaceJoined(_)
            | Body::Gap(_)
            | Body::AgentState(_)
            | Body::Attributed(_)
            | Body::Folded(_)
            | Body::Observed(_) => {}
        }
        let Some(info) = info else { return };
        match &info.metadata {
            Lookup::Known(_) | Lookup::Missing(Missing::NoRuntime | Missing::NotFound) => {}
            Lookup::Pending | Lookup::Missing(Missing::Unavailable(_)) => {
                if !self.untold.contains(session) {
                    if let (Lookup::Pending, Some(id)) = (&info.metadata, &info.id) {
                        self.questions.push(Question::Container(id.clone()));
                    }
                    let _oldest = self.untold.insert(session.clone(), info.cgroup_id);
                }
            }
        }
    }

    fn begun(&mut self, key: RootKey, session: SessionId, cgroup: Option<u64>, started: &mut SessionStarted) {
        let early = self.early.remove(&key);
        let mut root = Root { session: session.clone(), cgroup, exec: None, status: None, over: None };
        if let Some(Early { exec, namespace: _, since: _, exit }) = early {
            started.exec_id = Some(exec.exec.clone());
            root.status = exit.and_then(|(_, status)| status).map(code);
            root.exec = Some(exec);
        }
        if let Some(before) = self.roots.remove(&key) {
            self.forget(&before);
        }
        self.keys.insert(session, key.clone());
        if let Some((_, oldest)) = self.roots.insert(key, root) {
            self.forget(&oldest);
        }
    }

    fn forget(&mut self, root: &Root) {
        self.keys.remove(&root.session);
        if let Some(exec) = &root.exec {
            self.execs.remove(exec);
        }
    }

    fn ended(&mut self, session: &SessionId, time: BootTime, ended: &mut SessionEnded) {
        let Some(root) = self.keys.get(session).and_then(|key| self.roots.get_mut(key)) else { return };
        ended.status = ended.status.or(root.status);
        root.over = Some(ended.status.is_some());
        self.overs.push_back((time, session.clone()));
    }

    /// Forgets sessions that are over for long.
    fn expire(&mut self, now: BootTime) {
        while let Some((_, session)) = self.overs.pop_front_if(|(at, _)| now.since(*at) >= LATE_NS) {
            if let Some(key) = self.keys.remove(&session)
                && let Some(root) = self.roots.remove(&key)
            {
                self.forget(&root);
            }
        }
    }

    /// The runtime's answer is there for the container `id`, which has this cgroup or none of this node's.
    pub fn answered(
        &mut self,
        id: &str,
        cgroup: Option<u64>,
        lookup: &Lookup,
        now: BootTime,
        known: &mut impl Known,
        out: &mut Vec<Said>,
    ) {
        if let Lookup::Known(facts) = lookup {
            self.met(facts);
        }
        match cgroup {
            Some(cgroup) => self.tell(cgroup, lookup, now, out),
            None => {
                let _oldest = self.strangers.insert(id.to_owned(), lookup.clone());
            }
        }
        self.look_again(now, Some(id), known, out);
    }

    /// Tells the sessions of a container what is known of it now.
    fn tell(&mut self, cgroup: u64, lookup: &Lookup, now: BootTime, out: &mut Vec<Said>) {
        let evidence = match lookup {
            Lookup::Known(_) => "the runtime's answer came after the session's first event",
            Lookup::Missing(Missing::NotFound) => "the runtime does not know the container",
            Lookup::Missing(Missing::NoRuntime) => "there is no runtime to ask",
            Lookup::Missing(Missing::Unavailable(_)) => "the runtime did not answer",
            Lookup::Pending => return,
        };
        let untold = self.untold.iter().filter(|(_, of)| **of == cgroup);
        let sessions: Vec<SessionId> = untold.map(|(session, _)| session.clone()).collect();
        for session in sessions {
            // Whose runtime did not answer may be told once more.
            if !matches!(lookup, Lookup::Missing(Missing::Unavailable(_))) {
                self.untold.remove(&session);
            }
            let attributed =
                Attributed { container: true, evidence: vec![evidence.to_owned()], ..Attributed::default() };
            out.push(Said::of(now, Some(cgroup), session, attributed));
        }
    }

    /// The runtime says something of an exec.
    pub fn exec(&mut self, word: ExecWord, now: BootTime, known: &mut impl Known, out: &mut Vec<Said>) {
        match word {
            ExecWord::Heard => self.heard(now, out),
            ExecWord::Deaf => self.deaf = self.deaf.or(Some(now)),
            ExecWord::Started { exec, pid, namespace } => {
                let key = (exec.container.clone(), pid);
                self.exec_started(key, Early { exec, namespace, since: now, exit: None }, now, known, out);
            }
            ExecWord::Exited { exec, status } => self.exec_exited(&exec, status, now, out),
        }
    }

    fn heard(&mut self, now: BootTime, out: &mut Vec<Said>) {
        let Some(from) = self.deaf.take() else { return };
        for (exec, opaque) in self.opaque.iter() {
            let ask = StillRuns { exec: exec.clone(), namespace: opaque.namespace.clone() };
            self.questions.push(Question::StillRuns(ask));
        }
        if self.blind {
            let gap = Gap {
                source: GapSource::RuntimeEvents,
                count: 0,
                exact: false,
                from,
                to: now,
                sessions: Vec::new(),
                detail: "execs in containers that the host's kernel cannot see into".to_owned(),
            };
            let event = Event { time: now, container: None, session: None, body: Body::Gap(gap) };
            out.push(Said { event, info: None });
        }
    }

    fn exec_started(
        &mut self,
        key: RootKey,
        early: Early,
        now: BootTime,
        known: &mut impl Known,
        out: &mut Vec<Said>,
    ) {
        let exec = early.exec.clone();
        if let Some(root) = self.roots.get_mut(&key) {
            if root.exec.is_none() {
                root.exec = Some(exec.clone());
                let attributed = Attributed { exec_id: Some(exec.exec.clone()), ..Attributed::default() };
                out.push(Said::of(now, root.cgroup, root.session.clone(), attributed));
                self.execs.insert(exec, key);
            }
            return;
        }
        if let Some(before) = self.early.remove(&key) {
            self.execs.remove(&before.exec);
        }
        self.execs.insert(exec, key.clone());
        if let Some((_, oldest)) = self.early.insert(key.clone(), early) {
            self.execs.remove(&oldest.exec);
        }
        self.look(&key, now, known, out);
    }

    fn exec_exited(&mut self, exec: &ExecId, status: Option<u32>, now: BootTime, out: &mut Vec<Said>) {
        if let Some(opaque) = self.opaque.remove(exec) {
            out.push(opaque.ended(status, now));
            return;
        }
        let Some(key) = self.execs.get(exec) else { return };
        if let Some(early) = self.early.get_mut(key) {
            early.exit = Some((now, status));
        } else if let Some(root) = self.roots.get_mut(key) {
            root.status = status.map(code);
            if root.over == Some(false) && root.status.is_some() {
                root.over = Some(true);
                let attributed = Attributed {
                    status: root.status,
                    evidence: vec!["how its root ended is the runtime's word".to_owned()],
                    ..Attributed::default()
                };
                out.push(Said::of(now, root.cgroup, root.session.clone(), attributed));
            }
        }
    }

    /// To be called about once a second.
    pub fn tick(&mut self, now: BootTime, known: &mut impl Known, out: &mut Vec<Said>) {
        self.expire(now);
        if self.early.len() > 0 {
            self.look_again(now, None, known, out);
        }
    }

    /// Looks at the execs of which the kernel side told nothing: those of `container`, or all.
    fn look_again(
        &mut self,
        now: BootTime,
        container: Option<&str>,
        known: &mut impl Known,
        out: &mut Vec<Said>,
    ) {
        let keys = self.early.iter().map(|(key, _)| key);
        let keys = keys.filter(|key| container.is_none_or(|container| key.0 == container));
        for key in keys.cloned().collect::<Vec<_>>() {
            self.look(&key, now, known, out);
        }
    }

    fn look(&mut self, key: &RootKey, now: BootTime, known: &mut impl Known, out: &mut Vec<Said>) {
        let Some(waited) = self.early.get(key).map(|early| now.since(early.since)) else { return };
        let info = self.info(&key.0, waited >= ASK_NS, known);
        let over = match info.as_deref().map(|info| &info.metadata) {
            Some(Lookup::Known(facts)) if !facts.observable => true,
            // The kernel side saw it, or says that it lost something.
            Some(Lookup::Known(_) | Lookup::Missing(_)) => waited >= EARLY_NS,
            Some(Lookup::Pending) | None => waited >= STRANGE_NS,
        };
        let opaque = info.filter(|info| info.metadata.known().is_some_and(|facts| !facts.observable));
        let opaque = opaque.map(Cow::into_owned);
        if over && let Some(early) = self.early.remove(key) {
            self.execs.remove(&early.exec);
            if let Some(info) = opaque {
                self.begin(key.1, early, info, out);
            }
        }
    }

    /// What is known of a container, also where no cgroup has its name. `ask`: it is time to ask for that.
    fn info<'k>(
        &mut self,
        container: &str,
        ask: bool,
        known: &'k mut impl Known,
    ) -> Option<Cow<'k, ContainerInfo>> {
        if let Some(info) = known.by_id(container) {
            return Some(Cow::Borrowed(info));
        }
        let id = container.to_owned();
        let Some(lookup) = self.strangers.get(&id) else {
            if ask {
                let _oldest = self.strangers.insert(id.clone(), Lookup::Pending);
                self.questions.push(Question::Container(id));
            }
            return None;
        };
        Some(Cow::Owned(ContainerInfo {
            id: Some(id),
            runtime: Some(Runtime::Containerd),
            cgroup_id: 0,
            cgroup_path: None,
            pod_uid: None,
            metadata: lookup.clone(),
        }))
    }

    /// A session in a container that the kernel cannot see into.
    fn begin(&mut self, pid: u32, early: Early, info: ContainerInfo, out: &mut Vec<Said>) {
        let Early { exec, namespace, since, exit } = early;
        let session = self.ids.of_exec(&exec.container, &exec.exec);
        let handler = info.metadata.known().and_then(|facts| facts.runtime_handler.clone());
        let started = SessionStarted {
            method: Method::Unknown,
            tty: None,
            evidence: vec![
                format!(
                    "the runtime tells of an exec, in a container whose inside the host's kernel cannot see ({})",
                    handler.unwrap_or_default()
                ),
                "its command is not known: a probe looks the same".to_owned(),
            ],
            root: Process { key: TaskKey::new(pid, 0), parent: TaskKey::NONE, comm: Vec::new() },
            entered_by: None,
            entered: since,
            login_uid: None,
            audit_session: None,
            recovered: None,
            exec_id: Some(exec.exec.clone()),
            exec_audit_id: None,
            exec_request_uid: None,
            observable: false,
            labels: Vec::new(),
            probe: None,
            spoofed: Vec::new(),
            descriptors: None,
            ancestors: Vec::new(),
        };
        let opaque = Opaque { session, namespace, since, info };
        out.push(opaque.say(since, Body::SessionStarted(Box::new(started))));
        match exit {
            Some((at, status)) => out.push(opaque.ended(status, at)),
            None => {
                if let Some((_, oldest)) = self.opaque.insert(exec, opaque) {
                    out.push(oldest.ended(None, since));
                }
            }
        }
    }
}

impl Opaque {
    fn say(&self, time: BootTime, body: Body) -> Said {
        let cgroup = (self.info.cgroup_id != 0).then_some(self.info.cgroup_id);
        let event = Event { time, container: cgroup, session: Some(self.session.clone()), body };
        Said { event, info: Some(Box::new(self.info.clone())) }
    }

    fn ended(&self, status: Option<u32>, time: BootTime) -> Said {
        let ended = SessionEnded {
            status: status.map(code),
            duration_ns: time.since(self.since),
            commands: 0,
            lost: 0,
        };
        self.say(time, Body::SessionEnded(ended))
    }
}

impl Said {
    fn of(time: BootTime, container: Option<u64>, session: SessionId, attributed: Attributed) -> Self {
        let body = Body::Attributed(Box::new(attributed));
        Self { event: Event { time, container, session: Some(session), body }, info: None }
    }
}

/// By a runtime's word, a signal is a code too: nothing tells it from a program that said so itself.
fn code(status: u32) -> ExitStatus {
    ExitStatus::Code(i32::try_from(status).unwrap_or(i32::MAX))
}

#[cfg(test)]
mod tests;
