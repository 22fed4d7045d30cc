//! The kernel side, simulated: processes, cgroups and namespaces as the kernel has them, the maps as the BPF
//! programs keep them, and between the two the very rules that the BPF programs run.

use std::collections::{BTreeSet, HashMap};

use podtrail::{
    event::{BootTime, Credentials, Executable, ExitStatus, Namespaces, Process, TaskKey, Tty},
    session::record::{
        ContainerEnded, ContainerStarted, Enter, EntryKind, Exec, Exit, Join, RawArgv, Record,
    },
};
use podtrail_ebpf::{
    layout::{Cgroup, FollowedTask, Session, cgroup_state, entry_kind, task_kind},
    rules::{self, Known, NAME_MAX, Place},
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
        let state = rules::cgroup_created(rules::name(&bytes, name.len()), parent_state.as_ref());
        let container = match (state, parent_state) {
            (cgroup_state::MEMBER, Some(up)) if up.state == cgroup_state::MEMBER => up.container,
            (cgroup_state::MEMBER, _) => parent,
            _ => 0,
        };
        self.cgroups.insert(
            id,
            Cgroup {
                parent,
                container,
                init: TaskKey::NONE,
                mnt_ns: 0,
                pid_ns: 0,
                state,
                _pad: [0; 7],
                _reserved: 0,
            },
        );
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
            FollowedTask {
                entry: key,
                container: session.container,
                kind: task_kind::SESSION,
                executed,
                _pad: [0; 6],
                _reserved: 0,
            },
        );
    }

    fn new_session(&self, by: TaskKey, container: u64, kind: u8, origin_mnt_ns: u32) -> Session {
        Session {
            container,
            time: self.time().0,
            by,
            live: 1,
            lost: 0,
            origin_mnt_ns,
            joined_mnt_ns: 0,
            joined_pid_ns: 0,
            staged: 0,
            kind,
            announced: 0,
            _pad: [0; 6],
            _reserved: 0,
            _reserved2: 0,
        }
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

    pub(crate) fn fork(&mut self, parent_tid: u32, child: u32, how: Clone3) {
        let tgid = self.tgid(parent_tid);
        let parent = self.process(tgid, 0).clone();
        let mnt = how.mnt_ns.unwrap_or_else(|| self.mnt(parent_tid));
        if how.thread {
            self.threads.insert(child, tgid);
            let task = self.process(tgid, 0);
            task.threads.insert(child, mnt);
            task.live.insert(child);
            return;
        }
        self.processes.remove(&child); // its number was another's
        let real_parent = if how.parent { parent.parent } else { tgid };
        let task = self.process(child, real_parent);
        task.cgroup = how.into.unwrap_or(parent.cgroup);
        task.pid_ns = how.pid_ns.unwrap_or(parent.pid_ns_for_children);
        task.pid_ns_for_children = task.pid_ns;
        task.comm.clone_from(&parent.comm);
        task.threads.insert(child, mnt);
        let (key, cgroup) = (task.key, task.cgroup);

        let (from, to) = if cgroup == parent.cgroup {
            (Place::HOST, Place::HOST)
        } else {
            (self.place(parent.cgroup), self.place(cgroup))
        };
        let (followed, session) = self.known(parent.key);
        match rules::fork(followed.as_ref(), session.as_ref(), &from, &to) {
            rules::Fork::Ignore => {}
            rules::Fork::Inherit => {
                let Some(followed) = followed else { return };
                self.tasks.insert(key, FollowedTask { executed: 0, ..followed });
                if session.is_some()
                    && let Some(session) = self.sessions.get_mut(&followed.entry)
                {
                    session.live += 1;
                }
            }
            rules::Fork::First => self.first_entry(to.id, key, self.mnt(parent_tid)),
            rules::Fork::Enter => {
                let replaces = session.and(followed).map(|followed| followed.entry);
                self.enter(child, to.id, parent_tid, entry_kind::RUNTIME, replaces);
            }
        }
    }

    fn enter(&mut self, pid: u32, container: u64, by_tid: u32, kind: u8, replaces: Option<TaskKey>) {
        let by = self.describe(self.tgid(by_tid));
        let process = self.describe(pid);
        let session = self.new_session(by.key, container, kind, self.mnt(by_tid));
        self.open_session(process.key, session, 0);
        self.records.push(Record::Enter(Box::new(Enter {
            time: self.time(),
            process,
            by: by.key,
            by_comm: by.comm,
            kind: entry(kind),
            container,
            replaces,
            login_uid: None,
            audit_session: None,
        })));
    }

    pub(crate) fn attach(&mut self, by_tid: u32, pid: u32, cgroup: u64) {
        self.process(pid, 0).cgroup = cgroup;
        let key = self.key(pid);
        let mover = self.tgid(by_tid);
        self.process(mover, 0);
        let to = self.place(cgroup);
        let (followed, session) = self.known(key);
        let (mnt, pid_ns) = (self.mnt(pid), self.process(pid, 0).pid_ns);
        let by_mnt = (mnt != HOST_MNT).then(|| self.owner_of(mnt)).flatten();
        let owner = by_mnt.or_else(|| (pid_ns != HOST_PID).then(|| self.owner_of(pid_ns)).flatten());
        let joined = followed.map(|followed| followed.entry);
        match rules::attach(key, followed.as_ref(), session.as_ref(), &to, owner, self.key(mover) == key) {
            rules::Attach::Ignore => {}
            rules::Attach::First => {
                if session.is_some() {
                    self.tasks.remove(&key);
                    self.leave(joined.unwrap_or_default());
                }
                self.first_entry(to.id, key, self.mnt(by_tid));
            }
            rules::Attach::Enter(kind) => {
                let replaces = session.and(joined);
                if let Some(replaced) = replaces
                    && replaced != key
                {
                    self.leave(replaced);
                }
                self.enter(pid, to.id, by_tid, kind, replaces);
            }
            rules::Attach::Leave => {
                let container = owner.unwrap_or_default();
                self.tasks.insert(key, followed_as(task_kind::WORKLOAD, container));
            }
        }
    }

    /// A setns that succeeded, with what it changed.
    pub(crate) fn setns(&mut self, tid: u32, mnt: Option<u32>, pid_ns: Option<u32>) {
        let tgid = self.tgid(tid);
        if let Some(mnt) = mnt {
            self.set_mnt(tid, mnt);
        }
        let task = self.process(tgid, 0);
        if let Some(pid_ns) = pid_ns {
            task.pid_ns_for_children = pid_ns;
        }
        let (key, cgroup, pid) = (task.key, task.cgroup, task.pid_ns_for_children);
        let now = rules::Namespaces { mnt: self.mnt(tid), pid };
        let mnt_owner = (now.mnt != HOST_MNT).then(|| self.owner_of(now.mnt)).flatten();
        let pid_owner = (now.pid != HOST_PID).then(|| self.owner_of(now.pid)).flatten();
        let Some(container) = mnt_owner.or(pid_owner) else { return };
        let mnt_ns = if mnt_owner.is_some() { now.mnt } else { 0 };
        let pid_ns = if pid_owner.is_some() { now.pid } else { 0 };
        let place = self.place(cgroup);
        let (followed, session) = self.known(key);
        let mut entry = key;
        match rules::join(followed.as_ref(), session.as_ref(), &place, now, HOST) {
            rules::Join::Ignore => return,
            rules::Join::Start => {
                let mut session = self.new_session(key, container, entry_kind::JOIN, HOST_MNT);
                session.joined_mnt_ns = mnt_ns;
                session.joined_pid_ns = pid_ns;
                self.open_session(key, session, 0);
            }
            rules::Join::Update => {
                entry = followed.map_or(key, |followed| followed.entry);
                if let Some(session) = self.sessions.get_mut(&entry) {
                    session.joined_mnt_ns = mnt_ns;
                    session.joined_pid_ns = pid_ns;
                    session.container = container;
                }
            }
        }
        self.records.push(Record::Join(Box::new(Join {
            time: self.time(),
            process: self.describe(tgid),
            tid,
            entry,
            container: Some(container),
            mnt_ns,
            pid_ns,
            login_uid: None,
            audit_session: None,
        })));
    }

    pub(crate) fn unshare(&mut self, tid: u32, mnt: Option<u32>, pid_ns: Option<u32>) {
        if let Some(mnt) = mnt {
            self.set_mnt(tid, mnt);
        }
        if let Some(pid_ns) = pid_ns {
            let tgid = self.tgid(tid);
            self.process(tgid, 0).pid_ns_for_children = pid_ns;
        }
    }

    /// A program runs in process `pid`; `old_tid` called execve.
    pub(crate) fn exec(&mut self, pid: u32, old_tid: u32, comm: &str, file: &str, argv: &[&str]) {
        let mnt = self.mnt(old_tid);
        let task = self.process(pid, 0);
        // The other threads are gone, and the one that called has become the leader.
        let gone: Vec<u32> = task.live.iter().copied().filter(|tid| *tid != pid).collect();
        task.live = BTreeSet::from([pid]);
        task.threads = HashMap::from([(pid, mnt)]);
        comm.clone_into(&mut task.comm);
        let (key, cgroup, pid_ns) = (task.key, task.cgroup, task.pid_ns);
        for tid in gone {
            self.threads.remove(&tid);
        }

        let ns = rules::Namespaces { mnt, pid: pid_ns };
        let place = self.place(cgroup);
        let (followed, session) = self.known(key);
        let outside = !place.is_container() && place.state != cgroup_state::FIRST;
        let owner = (outside && session.is_none()).then(|| self.owner(ns)).flatten();
        let known = Known { task: followed.as_ref(), session: session.as_ref(), place, owner };
        let self_exec = file.starts_with("/proc/self/") || file.starts_with("/dev/fd/");
        match rules::exec(&known, ns, HOST, self_exec) {
            rules::Exec::Ignore => {}
            rules::Exec::Init => self.start_container(key, place.id, ns),
            rules::Exec::Host => {
                if let Some(cgroup) = self.cgroups.get_mut(&place.id) {
                    cgroup.state = cgroup_state::HOST;
                }
            }
            rules::Exec::Staging => {
                let Some(entry) = followed.map(|followed| followed.entry) else { return };
                if let Some(session) = self.sessions.get_mut(&entry) {
                    session.staged += 1;
                }
                self.report(pid, old_tid, entry, file, argv, true, false);
            }
            rules::Exec::Command => {
                let Some(entry) = followed.map(|followed| followed.entry) else { return };
                if let Some(task) = self.tasks.get_mut(&key) {
                    task.executed = 1;
                }
                let first = self.sessions.get_mut(&entry).is_some_and(|session| {
                    let first = session.announced == 0;
                    session.announced = 1;
                    first
                });
                self.report(pid, old_tid, entry, file, argv, false, first);
            }
            rules::Exec::New(kind, container) => {
                let mut session = self.new_session(key, container, kind, HOST_MNT);
                session.announced = 1;
                self.open_session(key, session, 1);
                self.report(pid, old_tid, key, file, argv, false, true);
            }
        }
    }

    fn owner(&self, ns: rules::Namespaces) -> Option<u64> {
        let by_mnt = (ns.mnt != HOST_MNT).then(|| self.owner_of(ns.mnt)).flatten();
        by_mnt.or_else(|| (ns.pid != HOST_PID).then(|| self.owner_of(ns.pid)).flatten())
    }

    fn start_container(&mut self, key: TaskKey, id: u64, ns: rules::Namespaces) {
        let mnt_ns = if ns.mnt == HOST_MNT { 0 } else { ns.mnt };
        let pid_ns = if ns.pid == HOST_PID { 0 } else { ns.pid };
        let pid_is_free = pid_ns != 0 && self.owner_of(pid_ns).is_none();
        if let Some(cgroup) = self.cgroups.get_mut(&id) {
            *cgroup = Cgroup { init: key, mnt_ns, pid_ns, state: cgroup_state::RUNNING, ..*cgroup };
        }
        if mnt_ns != 0 {
            self.namespaces.insert(mnt_ns, id);
        }
        if pid_is_free {
            self.namespaces.insert(pid_ns, id);
        }
        self.tasks.insert(key, followed_as(task_kind::INIT, id));
        let time = self.time();
        let started = ContainerStarted { time, cgroup_id: id, init: key, mnt_ns, pid_ns };
        self.records.push(Record::ContainerStarted(started));
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one record")]
    fn report(
        &mut self,
        pid: u32,
        old_tid: u32,
        entry_key: TaskKey,
        file: &str,
        argv: &[&str],
        staging: bool,
        root: bool,
    ) {
        let Some(session) = self.sessions.get(&entry_key).copied() else { return };
        let argv: Vec<u8> = argv.iter().flat_map(|arg| arg.bytes().chain([0])).collect();
        let total = u32::try_from(argv.len()).unwrap();
        let mnt = self.mnt(pid);
        let task = &self.processes[&pid];
        let record = Exec {
            time: self.time(),
            process: self.describe(pid),
            tid: old_tid,
            entry: entry_key,
            entered_by: session.by,
            entry_time: BootTime(session.time),
            entry_kind: entry(session.kind),
            container: Some(session.container),
            staging,
            root,
            host_mnt: mnt == HOST_MNT,
            cgroup_id: task.cgroup,
            namespaces: Namespaces { mnt, pid: task.pid_ns, user: 0, net: 0 },
            credentials: Credentials::default(),
            tty: None::<Tty>,
            path: file.as_bytes().to_vec(),
            cwd: b"/".to_vec(),
            path_incomplete: false,
            script: None,
            executable: Executable::default(),
            argv: RawArgv { total: u64::from(total), head: total, tail: 0, bytes: argv, fault: false },
        };
        self.records.push(Record::Exec(Box::new(record)));
    }

    /// A thread ends; with the last one of its process, the process.
    pub(crate) fn exit(&mut self, tid: u32, code: u32) {
        let tgid = self.tgid(tid);
        self.threads.remove(&tid);
        let Some(task) = self.processes.get_mut(&tgid) else { return };
        task.live.remove(&tid);
        if !task.live.is_empty() {
            return;
        }
        let Process { key, parent, comm: _ } = self.describe(tgid);
        self.processes.remove(&tgid);
        let Some(followed) = self.tasks.remove(&key) else { return };
        let (time, status) = (self.time(), ExitStatus::from_wait(code));
        match followed.kind {
            task_kind::SESSION => {
                let lost = self.sessions.get(&followed.entry).map_or(0, |session| session.lost);
                let last = self.leave(followed.entry);
                let executed = followed.executed != 0;
                if last || executed {
                    let exit =
                        Exit { time, key, parent, entry: followed.entry, status, last, executed, lost };
                    self.records.push(Record::Exit(exit));
                }
            }
            task_kind::INIT => {
                let id = followed.container;
                if let Some(cgroup) = self.cgroups.get_mut(&id)
                    && cgroup.init == key
                {
                    let gone = [cgroup.mnt_ns, cgroup.pid_ns];
                    cgroup.init = TaskKey::NONE;
                    cgroup.state = cgroup_state::ENDED;
                    self.namespaces.retain(|inum, owner| *owner != id || !gone.contains(inum));
                }
                let ended = ContainerEnded { time, cgroup_id: id, init: key, status };
                self.records.push(Record::ContainerEnded(ended));
            }
            _ => {}
        }
    }
}

fn followed_as(kind: u8, container: u64) -> FollowedTask {
    FollowedTask { entry: TaskKey::NONE, container, kind, executed: 0, _pad: [0; 6], _reserved: 0 }
}

fn entry(kind: u8) -> EntryKind {
    match kind {
        entry_kind::RUNTIME => EntryKind::Runtime,
        entry_kind::SELF_MOVED => EntryKind::SelfMoved,
        entry_kind::JOIN => EntryKind::Join,
        entry_kind::HOST_NS => EntryKind::HostNamespace,
        entry_kind::RECOVERED => EntryKind::Recovered,
        other => panic!("no entry kind: {other}"),
    }
}
