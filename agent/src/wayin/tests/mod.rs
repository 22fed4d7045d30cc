//! The way in, case by case: events as the state machine tells them, a kubelet that is a table.

mod cases;
mod fold;
mod lives;
mod storm;

use std::{cell::RefCell, collections::HashMap};

use super::{spec::SpecCommand, *};
use crate::{
    event::{
        Argv, Attributed, Credentials, Descriptor, ExecFailed, Executable, Executed, ExitStatus, Exited,
        Folded, Gap, GapSource, Namespaces, ProbeKind, Process, TaskKey, Tty,
    },
    state::{Changes, State},
};

pub(crate) const SECOND: u64 = 1_000_000_000;
pub(crate) const WEB: u64 = 42;
pub(crate) const FIXTURE: &[u8] = include_bytes!("../fixtures/pods.json");
/// Of the fixture: its pod, and that pod's container.
pub(crate) const POD: &str = "5c2fed68-81ac-4711-8b3e-251c6fa18122";
pub(crate) const ID: &str = "3099e8ec7bcd7afc53561d7422007137c889f85d3a3148a46e958705882cfea0";
pub(crate) const PROBE: [&str; 3] = ["/bin/sh", "-c", "test -d /tmp"];
pub(crate) const HOOK: [&str; 2] = ["/bin/touch", "/tmp/started"];

/// What is known around sessions.
pub(super) struct Known {
    pub(super) places: HashMap<u64, Place>,
    pub(super) look: RefCell<Look>,
}

impl World for Known {
    fn place(&self, cgroup: u64) -> Option<Place> {
        self.places.get(&cgroup).cloned()
    }

    fn look(&self, _pod: &str, _container: Option<&str>) -> Look {
        self.look.borrow().clone()
    }
}

/// The fixture's pod and container, known.
pub(super) fn web() -> Known {
    let place = Place { pod: Some(POD.to_owned()), id: Some(ID.to_owned()), ..Place::default() };
    Known { places: HashMap::from([(WEB, place)]), look: RefCell::new(fixture()) }
}

pub(super) fn fixture() -> Look {
    Look::Known(spec::read(FIXTURE).unwrap().remove(POD).unwrap().into())
}

/// A session, as it will be told.
#[derive(Clone)]
pub(super) struct Made {
    pub(super) id: SessionId,
    pub(super) container: u64,
    pub(super) at: u64,
    pub(super) commands: Vec<Vec<String>>,
    pub(super) status: ExitStatus,
    pub(super) tty: bool,
    pub(super) stdin: Option<Descriptor>,
    pub(super) audit_id: bool,
    pub(super) lost: u64,
    pub(super) inode: u64,
    pub(super) script: Option<&'static str>,
}

/// One that runs this at `at`, in nanoseconds, and exits with 0.
pub(super) fn made(name: &str, at: u64, argv: &[&str]) -> Made {
    Made {
        id: SessionId(name.to_owned()),
        container: WEB,
        at,
        commands: vec![argv.iter().map(|arg| (*arg).to_owned()).collect()],
        status: ExitStatus::Code(0),
        tty: false,
        stdin: Some(Descriptor::Null),
        audit_id: false,
        lost: 0,
        inode: 7,
        script: None,
    }
}

/// The readiness probe of the fixture.
pub(super) fn probe(at: u64) -> Made {
    made(&format!("probe@{}", method::seconds(at)), at, &PROBE)
}

impl Made {
    pub(super) fn also(mut self, argv: &[&str]) -> Self {
        self.commands.push(argv.iter().map(|arg| (*arg).to_owned()).collect());
        self
    }

    fn event(&self, after: u64, body: Body) -> Event {
        let time = BootTime(self.at + after);
        Event { time, container: Some(self.container), session: Some(self.id.clone()), body }
    }

    fn process(&self, number: usize) -> Process {
        let pid = u32::try_from(self.at % 100_000).unwrap() + u32::try_from(number).unwrap();
        Process { key: TaskKey::new(pid + 1, self.at), parent: TaskKey::new(1, 1), comm: b"x".to_vec() }
    }

    pub(super) fn started(&self) -> Event {
        let tty = self.tty.then(|| Tty { major: 136, minor: 0, name: "pts/0".to_owned() });
        let others = if self.tty { Descriptor::Terminal { major: 136, minor: 0 } } else { Descriptor::Pipe };
        self.event(
            0,
            Body::SessionStarted(Box::new(SessionStarted {
                method: Method::RuntimeExec,
                evidence: Vec::new(),
                tty,
                root: self.process(0),
                entered_by: None,
                entered: BootTime(self.at),
                login_uid: None,
                audit_session: None,
                recovered: None,
                exec_id: None,
                exec_audit_id: self.audit_id.then(|| b"5f2c".to_vec()),
                exec_request_uid: None,
                observable: true,
                labels: Vec::new(),
                probe: None,
                spoofed: Vec::new(),
                descriptors: self.stdin.map(|stdin| [stdin, others, others]),
                ancestors: Vec::new(),
            })),
        )
    }

    pub(super) fn executed(&self, number: usize) -> Event {
        let args: Vec<Vec<u8>> = self.commands[number].iter().map(|arg| arg.clone().into_bytes()).collect();
        self.event(
            number as u64 * 1000,
            Body::Executed(Box::new(Executed {
                process: self.process(number),
                path: args[0].clone(),
                cwd: b"/".to_vec(),
                path_incomplete: false,
                argv: Argv { total: args.iter().map(|arg| arg.len() as u64 + 1).sum(), args, cut: None },
                script: self.script.map(|script| script.as_bytes().to_vec()),
                credentials: Credentials::default(),
                tty: None,
                executable: Executable { inode: self.inode, ..Executable::default() },
                namespaces: Namespaces::default(),
                cgroup_id: self.container,
                root: number == 0,
                argv_over_budget: false,
                spoof_suspected: false,
                not_found: 0,
            })),
        )
    }

    pub(super) fn ends(&self) -> Vec<Event> {
        let after = 5_000_000;
        let exits = (0..self.commands.len()).map(|number| {
            let exited = Exited {
                process: self.process(number),
                status: self.status,
                duration_ns: after,
                late: false,
            };
            self.event(after, Body::Exited(exited))
        });
        let ended = SessionEnded {
            status: Some(self.status),
            duration_ns: after,
            commands: self.commands.len() as u64,
            lost: self.lost,
        };
        exits.chain([self.event(after, Body::SessionEnded(ended))]).collect()
    }

    /// All of it.
    pub(super) fn events(&self) -> Vec<Event> {
        let commands = (0..self.commands.len()).map(|number| self.executed(number));
        [self.started()].into_iter().chain(commands).chain(self.ends()).collect()
    }
}

/// Plays events, and answers what was told.
pub(super) fn play(wayin: &mut WayIn, world: &Known, events: impl IntoIterator<Item = Event>) -> Vec<Event> {
    let mut out = Vec::new();
    for event in events {
        wayin.handle(event, world, &mut out);
    }
    out
}

/// A line for each session that was told or changed, and for each count.
pub(super) fn lines(events: &[Event]) -> Vec<String> {
    let name = |event: &Event| event.session.as_ref().map_or_else(String::new, |SessionId(id)| id.clone());
    let line = |event: &Event| match &event.body {
        Body::SessionStarted(started) => Some(format!("{} {:?}", name(event), started.method)),
        Body::Attributed(attributed) => {
            Some(format!("{} is {:?}", name(event), attributed.method.unwrap_or(Method::Unknown)))
        }
        Body::Folded(folded) => {
            let Folded { like: SessionId(like), sessions, commands, status, method: _, first: _, last: _ } =
                &**folded;
            Some(format!("{sessions} like {like}, {commands} commands, {status:?}"))
        }
        Body::Gap(gap) => Some(format!("gap of {}", gap.count)),
        _ => None,
    };
    events.iter().filter_map(line).collect()
}

/// What is told of one session, and why it is taken for what it is.
pub(super) fn told(events: &[Event], id: &SessionId) -> (Method, Vec<String>, Vec<String>) {
    let mut of = events.iter().filter(|event| event.session.as_ref() == Some(id));
    let started = of.find_map(|event| match &event.body {
        Body::SessionStarted(started) => {
            Some((started.method, started.evidence.clone(), started.labels.clone()))
        }
        _ => None,
    });
    started.unwrap()
}
