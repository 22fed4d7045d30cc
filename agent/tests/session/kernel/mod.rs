//! The kernel side, simulated: processes, cgroups and namespaces as the kernel has them, the maps as the BPF
//! programs keep them, and between the two the very rules that the BPF programs run.

mod exec;
mod tasks;

use std::collections::{BTreeSet, HashMap};

use podtrail::{
    event::{BootTime, Process, TaskKey},
    session::record::{EntryKind, Record},
};
use podtrail_ebpf::{
    layout::{Cgroup, FollowedTask, Session, cgroup_state, entry_kind, task_kind},
    rules::{self, NAME_MAX, Place},
};

/// The host's own mount and pid namespace, as in the traces.
pub(crate) const HOST_MNT: u32 = 4_026_531_832;
pub(crate) const HOST_PID: u32 = 4_026_531_836;
/// The cgroup of everything that is in no other.
pub(crate) const HOST_CGROUP: u64 = 1;

const HOST: rules::Namespaces = rules::Namespaces { mnt: HOST_MNT, pid: HOST_PID };

/// A process, as the kernel knows it.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) key: TaskKey,
    pub(crate) parent: u32,
    pub(crate) cgroup: u64,
    pub(crate) pid_ns: u32,
    pub(crate) pid_ns_for_children: u32,
    pub(crate) comm: String,
    /// of each live thread, its mount namespace
    threads: HashMap<u32, u32>,
    live: BTreeSet<u32>,
}

#[derive(Debug, Default)]
pub(crate) struct Kernel {
    pub(crate) now: u64,
    pub(crate) processes: HashMap<u32, Task>,
    /// of the threads that are no leaders, their process
    pub(crate) threads: HashMap<u32, u32>,
    pub(crate) cgroups: HashMap<u64, Cgroup>,
    pub(crate) tasks: HashMap<TaskKey, FollowedTask>,
    pub(crate) sessions: HashMap<TaskKey, Session>,
    pub(crate) namespaces: HashMap<u32, u64>,
    pub(crate) records: Vec<Record>,
}

/// How a child is made, where it is not a plain fork.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clone3 {
    pub(crate) thread: bool,
    /// the child's parent is the forking task's parent
    pub(crate) parent: bool,
    /// CLONE_INTO_CGROUP
    pub(crate) into: Option<u64>,
    /// CLONE_NEWNS
    pub(crate) mnt_ns: Option<u32>,
    /// CLONE_NEWPID
    pub(crate) pid_ns: Option<u32>,
}

impl Kernel {
    /// A process that was there before anybody looked.
    pub(crate) fn process(&mut self, pid: u32, parent: u32) -> &mut Task {
        let start = self.now.max(1) * 1000;
        self.processes.entry(pid).or_insert_with(|| Task {
            key: TaskKey::new(pid, start),
            parent,
            cgroup: HOST_CGROUP,
            pid_ns: HOST_PID,
            pid_ns_for_children: HOST_PID,
            comm: String::new(),
            threads: HashMap::from([(pid, HOST_MNT)]),
            live: BTreeSet::from([pid]),
        })
    }

    pub(crate) fn key(&self, pid: u32) -> TaskKey {
        self.processes.get(&pid).map_or(TaskKey::NONE, |task| task.key)
    }

    pub(crate) fn tgid(&self, tid: u32) -> u32 {
        self.threads.get(&tid).copied().unwrap_or(tid)
    }

    pub(crate) fn set_mnt(&mut self, tid: u32, mnt: u32) {
        let tgid = self.tgid(tid);
        self.process(tgid, 0).threads.insert(tid, mnt);
    }

    pub(crate) fn mnt(&self, tid: u32) -> u32 {
        let task = self.processes.get(&self.tgid(tid));
        task.and_then(|task| task.threads.get(&tid)).copied().unwrap_or(HOST_MNT)
    }

    fn time(&self) -> BootTime {
        BootTime(self.now * 1000)
    }

    pub(crate) fn mkdir(&mut self, id: u64, parent: u64, name: &str) {
        let mut bytes = [0; NAME_MAX];
        let len = name.len().min(NAME_MAX);
        bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
        let parent_state = self.cgroups.get(&parent).copied();
        let kind = rules::name(&bytes, name.len());
        let state = rules::cgroup_created(kind, parent_state.as_ref());
        let container = match (state, parent_state) {
            (cgroup_state::MEMBER, Some(up)) if up.state == cgroup_state::MEMBER => up.container,
            (cgroup_state::MEMBER, _) => parent,
            _ => 0,
        };
        let pod = u8::from(kind == rules::Name::Pod);
        self.cgroups.insert(id, Cgroup { pod, ..Cgroup::new(parent, container, state) });
    }

    fn place(&mut self, id: u64) -> Place {
        let Some(mut own) = self.cgroups.get(&id).copied() else { return Place::HOST };
        if matches!(own.state, cgroup_state::NEW | cgroup_state::FIRST)
            && let Some(up) = self.cgroups.get(&own.parent)
        {
            let container = match up.state {
                cgroup_state::MEMBER => Some(up.container),
                cgroup_state::RUNNING | cgroup_state::ENDED => Some(own.parent),
                _ => None,
            };
            if let Some(container) = container {
                own = Cgroup { container, state: cgroup_state::MEMBER, ..own };
                self.cgroups.insert(id, own);
            }
        }
        if own.state != cgroup_state::MEMBER {
            return Place::of(id, &own);
        }
        self.cgroups.get(&own.container).map_or(Place::HOST, |top| Place::of(own.container, top))
    }

    fn owner_of(&self, inum: u32) -> Option<u64> {
        let container = *self.namespaces.get(&inum)?;
        (self.cgroups.get(&container)?.state == cgroup_state::RUNNING).then_some(container)
    }

    fn first_entry(&mut self, container: u64, key: TaskKey, maker_mnt_ns: u32) {
        let Some(cgroup) = self.cgroups.get_mut(&container) else { return };
        cgroup.state =
            if cgroup.state == cgroup_state::NEW { cgroup_state::FIRST } else { cgroup_state::NAMED };
        cgroup.init = key;
        cgroup.mnt_ns = maker_mnt_ns;
        cgroup.pid_ns = 0;
    }

    fn known(&self, key: TaskKey) -> (Option<FollowedTask>, Option<Session>) {
        let task = self.tasks.get(&key).copied();
        let session = task
            .filter(|task| task.kind == task_kind::SESSION)
            .and_then(|task| self.sessions.get(&task.entry).copied());
        (task, session)
    }

    fn open_session(&mut self, key: TaskKey, session: Session, executed: u8) {
        self.sessions.insert(key, session);
        self.tasks.insert(
            key,
            FollowedTask { executed, ..FollowedTask::new(key, session.container, task_kind::SESSION, 0) },
        );
    }

    fn new_session(&self, by: TaskKey, container: u64, kind: u8, origin_mnt_ns: u32) -> Session {
        Session { origin_mnt_ns, ..Session::new(container, self.time().0, by, kind) }
    }

    fn leave(&mut self, entry: TaskKey) -> bool {
        let Some(session) = self.sessions.get_mut(&entry) else { return true };
        session.live -= 1;
        if session.live > 0 {
            return false;
        }
        self.sessions.remove(&entry);
        true
    }

    fn describe(&self, pid: u32) -> Process {
        let Some(task) = self.processes.get(&pid) else {
            return Process { key: TaskKey::NONE, parent: TaskKey::NONE, comm: Vec::new() };
        };
        Process { key: task.key, parent: self.key(task.parent), comm: task.comm.clone().into_bytes() }
    }
}

fn followed_as(kind: u8, container: u64) -> FollowedTask {
    FollowedTask::new(TaskKey::NONE, container, kind, 0)
}

fn entry(kind: u8) -> EntryKind {
    match kind {
        entry_kind::RUNTIME => EntryKind::Runtime,
        entry_kind::SELF_MOVED => EntryKind::SelfMoved,
        entry_kind::JOIN => EntryKind::Join,
        entry_kind::HOST_NS => EntryKind::HostNamespace,
        entry_kind::RECOVERED => EntryKind::Recovered,
        entry_kind::EPHEMERAL => EntryKind::Ephemeral,
        other => panic!("no entry kind: {other}"),
    }
}
