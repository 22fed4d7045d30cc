//! Forks, moves, joins and exits, as the BPF programs on them go about it.

use podtrail::{
    event::{ExitStatus, Process, TaskKey},
    session::record::{ContainerEnded, Enter, Exit, Join, Record},
};
use podtrail_ebpf::{
    layout::{FollowedTask, cgroup_state, entry_kind, task_kind},
    rules::{self, Place},
};

use super::{Clone3, HOST, HOST_MNT, HOST_PID, Kernel, entry, followed_as};

impl Kernel {
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
                self.tasks.insert(key, FollowedTask { executed: 0, init: 0, ..followed });
                if session.is_some()
                    && let Some(session) = self.sessions.get_mut(&followed.entry)
                {
                    session.live += 1;
                }
            }
            rules::Fork::First => self.first_entry(to.id, key, self.mnt(parent_tid)),
            rules::Fork::Leave => {
                self.tasks.insert(key, followed_as(task_kind::WORKLOAD, from.id));
            }
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
            ancestors: Vec::new(),
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
                let (lost, refused) = self
                    .sessions
                    .get(&followed.entry)
                    .map_or((0, 0), |session| (session.lost, session.refused));
                let last = self.leave(followed.entry);
                let executed = followed.executed != 0;
                if last || executed {
                    let entry = followed.entry;
                    let late = false;
                    let exit = Exit { time, key, parent, entry, status, last, executed, late, lost, refused };
                    self.records.push(Record::Exit(exit));
                }
                if followed.init != 0 {
                    self.end_container(key, followed.container, status);
                }
            }
            task_kind::INIT => self.end_container(key, followed.container, status),
            _ => {}
        }
    }

    fn end_container(&mut self, init: TaskKey, id: u64, status: ExitStatus) {
        let mut parent = 0;
        if let Some(cgroup) = self.cgroups.get_mut(&id)
            && cgroup.init == init
        {
            let gone = [cgroup.mnt_ns, cgroup.pid_ns];
            cgroup.init = TaskKey::NONE;
            cgroup.state = cgroup_state::ENDED;
            parent = cgroup.parent;
            self.namespaces.retain(|inum, owner| *owner != id || !gone.contains(inum));
        }
        if let Some(pod) = self.cgroups.get_mut(&parent)
            && pod.first == id
        {
            pod.first = 0;
        }
        let ended = ContainerEnded { time: self.time(), cgroup_id: id, init, status };
        self.records.push(Record::ContainerEnded(ended));
    }
}
