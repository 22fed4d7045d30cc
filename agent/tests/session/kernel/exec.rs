//! Execs, as the BPF program on them goes about it.

use std::collections::{BTreeSet, HashMap};

use podtrail::{
    event::{BootTime, Credentials, Executable, Namespaces, TaskKey, Tty},
    session::record::{ContainerStarted, Exec, RawArgv, Record},
};
use podtrail_ebpf::{
    layout::{Cgroup, cgroup_state, entry_kind, task_kind},
    rules::{self, Known},
};

use super::{HOST, HOST_MNT, HOST_PID, Kernel, entry, followed_as};

impl Kernel {
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
        let target = self.beside(ns, &place).filter(|_| session.is_none());
        let beside = target.is_some();
        let known = Known { task: followed.as_ref(), session: session.as_ref(), place, owner, beside };
        let self_exec = file.starts_with("/proc/self/") || file.starts_with("/dev/fd/");
        match rules::exec(&known, ns, HOST, self_exec) {
            rules::Exec::Ignore => {}
            rules::Exec::Init => self.start_container(key, place.id, ns, None),
            rules::Exec::Ephemeral => {
                self.start_container(key, place.id, ns, target);
                let mut session = self.new_session(TaskKey::NONE, place.id, entry_kind::EPHEMERAL, HOST_MNT);
                session.announced = 1;
                self.open_session(key, session, 1);
                if let Some(task) = self.tasks.get_mut(&key) {
                    task.init = 1;
                }
                self.report(pid, old_tid, key, file, argv, false, true);
            }
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
                // Its end is the container's, too.
                if self.cgroups.get(&container).is_some_and(|cgroup| cgroup.init == key)
                    && let Some(task) = self.tasks.get_mut(&key)
                {
                    task.init = 1;
                }
                self.report(pid, old_tid, key, file, argv, false, true);
            }
        }
    }

    fn owner(&self, ns: rules::Namespaces) -> Option<u64> {
        let by_mnt = (ns.mnt != HOST_MNT).then(|| self.owner_of(ns.mnt)).flatten();
        by_mnt.or_else(|| (ns.pid != HOST_PID).then(|| self.owner_of(ns.pid)).flatten())
    }

    fn beside(&self, ns: rules::Namespaces, place: &rules::Place) -> Option<u64> {
        let owner = self.owner_of(ns.pid).filter(|owner| ns.pid != HOST_PID && *owner != place.id)?;
        let parent = self.cgroups.get(&self.cgroups.get(&owner)?.parent);
        let sandbox = parent.is_some_and(|parent| rules::is_sandbox(owner, parent));
        (place.may_start() && !sandbox).then_some(owner)
    }

    fn start_container(&mut self, key: TaskKey, id: u64, ns: rules::Namespaces, pid_owner: Option<u64>) {
        let mnt_ns = if ns.mnt == HOST_MNT { 0 } else { ns.mnt };
        let pid_ns = if ns.pid == HOST_PID { 0 } else { ns.pid };
        let pid_is_free = pid_ns != 0 && self.owner_of(pid_ns).is_none();
        if let Some(cgroup) = self.cgroups.get_mut(&id) {
            *cgroup = Cgroup { init: key, mnt_ns, pid_ns, state: cgroup_state::RUNNING, ..*cgroup };
        }
        let parent = self.cgroups.get(&id).map_or(0, |cgroup| cgroup.parent);
        if let Some(pod) = self.cgroups.get_mut(&parent)
            && pod.first == 0
        {
            pod.first = id;
        }
        if mnt_ns != 0 {
            self.namespaces.insert(mnt_ns, id);
        }
        if pid_is_free {
            self.namespaces.insert(pid_ns, id);
        }
        self.tasks.insert(key, followed_as(task_kind::INIT, id));
        let time = self.time();
        let started = ContainerStarted { time, cgroup_id: id, init: key, mnt_ns, pid_ns, pid_owner };
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
            argv_over_budget: false,
            descriptors: None,
            environment: None,
            spoof_suspected: false,
        };
        self.records.push(Record::Exec(Box::new(record)));
    }
}
