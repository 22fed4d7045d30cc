//! What the cases of a run share: one agent, one beacon, and the right to have the node to oneself.

use std::{
    collections::HashMap,
    fmt::Write,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result};
use podtrail_proto::v1::Event;

use super::{
    Agent, Case, Container, Needs, Session, Spec, cgroup, host, leftovers,
    session::{self, line},
    surroundings::Surroundings,
};

/// Who uses the node now. Only one agent may run on it.
#[derive(Debug)]
struct Node {
    shared: Option<Arc<Agent>>,
    users: usize,
    alone: bool,
}

static NODE: Mutex<Node> = Mutex::new(Node { shared: None, users: 0, alone: false });
static CHANGED: Condvar = Condvar::new();
static BEACON: Mutex<Option<Container>> = Mutex::new(None);

fn node() -> MutexGuard<'static, Node> {
    NODE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one case works with.
#[derive(Debug)]
pub(crate) struct Cx {
    name: String,
    needs: Needs,
    agent: Option<Arc<Agent>>,
    /// of containers, and how they are called in messages
    names: Mutex<HashMap<u64, String>>,
    made: AtomicU64,
}

impl Cx {
    /// Waits until the case may run, and starts the shared agent if it is the first to want it.
    pub(crate) fn begin(case: &Case) -> Result<Self> {
        let mut agent = None;
        if case.needs == Needs::SharedAgent {
            let mut node =
                CHANGED.wait_while(node(), |node| node.alone).unwrap_or_else(PoisonError::into_inner);
            if node.shared.is_none() {
                show_hierarchy()?;
                node.shared = Some(Arc::new(Agent::start(&format!("shared-{}", serial()), &[])?));
            }
            node.users += 1;
            agent = node.shared.clone();
        }
        if case.needs.alone() {
            let mut node = CHANGED
                .wait_while(node(), |node| node.alone || node.users > 0)
                .unwrap_or_else(PoisonError::into_inner);
            node.alone = true;
            let shared = node.shared.take();
            drop(node);
            if let Some(shared) = shared {
                shared.stop().context("the agent that the other tests shared")?;
            }
        }
        Ok(Self {
            name: case.name.replace("::", "-"),
            needs: case.needs,
            agent,
            names: Mutex::default(),
            made: AtomicU64::new(0),
        })
    }

    /// The shared agent.
    pub(crate) fn agent(&self) -> Result<&Agent> {
        self.agent.as_deref().context("this case shares no agent")
    }

    /// An agent of this case's own.
    pub(crate) fn start_agent(&self, args: &[&str]) -> Result<Agent> {
        self.start_agent_in(args, &Surroundings::default())
    }

    /// The same somewhere else than on this machine as it is.
    pub(crate) fn start_agent_in(&self, args: &[&str], surroundings: &Surroundings) -> Result<Agent> {
        show_hierarchy()?;
        Agent::start_in(&self.unique("agent"), args, surroundings)
    }

    /// A name that nothing else has.
    pub(crate) fn unique(&self, what: &str) -> String {
        format!("{}-{what}{}", self.name, self.made.fetch_add(1, Ordering::Relaxed))
    }

    /// A container under runc.
    pub(crate) fn container(&self) -> Result<Container> {
        self.start(Spec::default())
    }

    /// Any container.
    pub(crate) fn start(&self, spec: Spec) -> Result<Container> {
        let name = self.unique("c");
        let container = spec.start(&name)?;
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.insert(container.cgroup_id, name);
        Ok(container)
    }

    /// The session in `container` whose root has `pid`, once it has ended; checked for what is true of every session.
    pub(crate) fn session(&self, container: &Container, pid: u32) -> Result<Session> {
        let session = self.open_session(container, pid)?;
        let session = self.agent()?.ended(&session.id)?;
        session.check()?;
        Ok(session)
    }

    /// The same as soon as it has begun.
    pub(crate) fn open_session(&self, container: &Container, pid: u32) -> Result<Session> {
        session::wait_open(self.agent()?, container.cgroup_id, pid)
    }

    /// All sessions of `container` so far. Nothing that happened before this call can be missing: a later session,
    /// elsewhere, has been seen to end.
    pub(crate) fn sessions(&self, container: &Container) -> Result<Vec<Session>> {
        self.settle()?;
        Ok(session::all(&self.agent()?.events(), container.cgroup_id))
    }

    /// Waits until everything that happened before this call has been told.
    pub(crate) fn settle(&self) -> Result<()> {
        settle(self.agent()?)
    }

    /// What was seen of this case's containers, for whoever must find out why it failed.
    pub(crate) fn story(&self) -> String {
        let Some(agent) = &self.agent else { return String::new() };
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let mut story = String::from("\nwhat the agent told of the containers of this test:");
        for event in agent.events() {
            let id = event.container.as_ref().map(|container| container.cgroup_id);
            if let Some(name) = id.and_then(|id| names.get(&id)) {
                let _ = write!(story, "\n  {name}: {}", line(&event));
            }
        }
        story
    }
}

impl Drop for Cx {
    fn drop(&mut self) {
        match self.needs {
            Needs::SharedAgent => node().users -= 1,
            Needs::OwnAgent | Needs::Containerd => node().alone = false,
            Needs::Nothing | Needs::Runtime => return,
        }
        CHANGED.notify_all();
    }
}

/// Where a runtime knows v1 alone, an agent learns that by the first container, as it learns it from its own pod.
fn show_hierarchy() -> Result<()> {
    if host().only_in_v1 { with_beacon(|_| Ok(())) } else { Ok(()) }
}

/// A container apart.
fn with_beacon<T>(use_it: impl FnOnce(&Container) -> Result<T>) -> Result<T> {
    let mut beacon = BEACON.lock().unwrap_or_else(PoisonError::into_inner);
    let container = match beacon.take() {
        Some(container) => container,
        None => Spec::default().start(&format!("beacon-{}", serial()))?,
    };
    use_it(beacon.insert(container))
}

/// Runs a session in a container apart, and waits until `agent` has told its end.
pub(crate) fn settle(agent: &Agent) -> Result<()> {
    let (pid, id) =
        with_beacon(|container| Ok((container.exec(&["/bin/true"]).run()?.ok()?.pid, container.cgroup_id)))?;
    let session = session::wait_open(agent, id, pid)?.id;
    agent.ended(&session)?;
    Ok(())
}

fn serial() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed)
}

/// Ends what the cases shared, and removes what the run made.
pub(crate) fn end() -> Result<()> {
    drop(BEACON.lock().unwrap_or_else(PoisonError::into_inner).take());
    let shared = node().shared.take();
    let stopped = shared.map_or(Ok(()), |agent| agent.stop().context("the agent that the tests shared"));
    if nix::unistd::geteuid().is_root() {
        cgroup::remove(&host().cgroup)?;
    }
    if std::env::var_os("PODTRAIL_ITEST_KEEP").is_none() {
        leftovers::remove_dir(&host().dir)?;
    }
    stopped
}

/// Events of one container, whatever session.
pub(crate) fn of_container(events: &[Arc<Event>], cgroup_id: u64) -> Vec<Arc<Event>> {
    let mine = |event: &&Arc<Event>| event.container.as_ref().is_some_and(|c| c.cgroup_id == cgroup_id);
    events.iter().filter(mine).cloned().collect()
}
