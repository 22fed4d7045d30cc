//! Containers and sessions that were there before the agent, from `/proc`.
//!
//! To be called when the hooks are attached. What a hook decided meanwhile is newer than what is found here: insert
//! into the maps only what is not there yet, then call it a second time and insert what is new, because a task of a
//! session that forked before its session was in the map has left a child that nobody follows.
//!
//! What `/proc` cannot tell, and is therefore concluded:
//! - who forked a process whose parent is gone: the kernel gave it to the first process of its pid namespace, so it
//!   looks like workload. It is a session's where its POSIX session (`setsid`) is one that a session's task is in.
//!   A daemon that forked twice and made a POSIX session of its own is not told from the workload's.
//! - whether a process outside every container's cgroup, with a container's namespaces and its first process for a
//!   parent, came by `nsenter` or was moved out: it is taken for a join, since a record too many is no loss.

mod cgroups;
mod sessions;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;

use podtrail_ebpf::layout::{self, FollowedTask, Session, TaskKey, entry_kind, task_kind};

use super::cgroupfs::{CgroupError, Found, Hierarchy, Walk};
use super::host::{Host, HostNamespaces};
use super::process::{self, Process};
use crate::event::BootTime;
use crate::event::Process as EventProcess;
use crate::session::record::{EntryKind, Exec, Recovered};

use sessions::{Label, Plan};

/// Passes over `/proc` until there is nothing new, at most.
const PASSES_MAX: usize = 4;

/// Nanoseconds in a tick of `/proc/PID/stat`: USER_HZ is 100 on every machine that podtrail runs on.
const TICK_NS: u64 = 10_000_000;

#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    #[error("{path} cannot be read: {source}; is the node's /proc mounted there?")]
    Proc { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

/// Knows when processes started, to the nanosecond of `CLOCK_BOOTTIME` that the kernel side has: `/proc` tells
/// hundredths of a second only.
pub trait ExactStart {
    /// `None`: there is no such process, or it cannot be known.
    fn start_time(&self, pid: u32) -> Option<u64>;
}

impl<T: ExactStart + ?Sized> ExactStart for &T {
    fn start_time(&self, pid: u32) -> Option<u64> {
        (**self).start_time(pid)
    }
}

/// Knows nothing: every task is left out, and counted in [`Snapshot::unkeyed`].
#[derive(Clone, Copy, Debug, Default)]
pub struct NoExactStart;

impl ExactStart for NoExactStart {
    fn start_time(&self, _pid: u32) -> Option<u64> {
        None
    }
}

/// What was found: seeds for the kernel side's maps, for the directory, and records for the session machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    pub cgroups: Vec<(u64, layout::Cgroup)>,
    /// inode number of a container's own mount or pid namespace → cgroup id of the container
    pub namespaces: Vec<(u32, u64)>,
    pub tasks: Vec<(TaskKey, FollowedTask)>,
    pub sessions: Vec<(TaskKey, Session)>,
    /// for [`super::Directory::seed`]
    pub containers: Vec<Found>,
    pub recovered: Vec<Recovered>,
    /// processes of sessions and inits of containers whose exact start could not be known, and that are left out
    pub unkeyed: Vec<u32>,
    /// cgroups that could not be read
    pub skipped_cgroups: u64,
}

impl Snapshot {
    /// Leaves out sessions whose first task began at or after `attached`, when the hooks were attached: the kernel
    /// side saw these come in itself, maybe by an entry that `/proc` does not show any more.
    pub fn keep_before(&mut self, attached: BootTime) {
        let known = |entry: &TaskKey| entry.start_time >= attached.0;
        self.sessions.retain(|(entry, _)| !known(entry));
        self.recovered.retain(|recovered| !known(&recovered.entry));
        self.tasks.retain(|(_, task)| task.kind != task_kind::SESSION || !known(&task.entry));
    }
}

/// What [`recover`] looks at, and for whom.
#[derive(Clone, Copy, Debug)]
pub struct Scan<'a> {
    pub host: &'a Host,
    pub hierarchy: &'a Hierarchy,
    pub namespaces: &'a HostNamespaces,
    /// now, for the records
    pub time: BootTime,
    /// the agent itself, which is in no session
    pub self_pid: u32,
}

/// Looks at every cgroup and every process.
pub fn recover(scan: &Scan<'_>, exact: &dyn ExactStart) -> Result<Snapshot, RecoverError> {
    find(scan, exact, None)
}

/// The container with this cgroup is somebody's session, though nothing that the kernel knows says so: its processes, as such,
/// and nothing else.
pub fn follow(scan: &Scan<'_>, exact: &dyn ExactStart, container: u64) -> Result<Snapshot, RecoverError> {
    let mut found = find(scan, exact, Some(container))?;
    found
        .recovered
        .retain(|recovered| recovered.container == container && recovered.kind == EntryKind::Ephemeral);
    let of = |entry: &TaskKey| found.recovered.iter().any(|recovered| recovered.entry == *entry);
    found.sessions.retain(|(entry, _)| of(entry));
    found.tasks.retain(|(_, task)| task.kind == task_kind::SESSION && of(&task.entry));
    let Snapshot { tasks, sessions, recovered, .. } = found;
    Ok(Snapshot { tasks, sessions, recovered, ..Snapshot::default() })
}

fn find(scan: &Scan<'_>, exact: &dyn ExactStart, follow: Option<u64>) -> Result<Snapshot, RecoverError> {
    let (walk, processes) = look(scan)?;
    let cgroups = cgroups::classify(&walk, &processes, scan.namespaces);
    let mut beside = cgroups.beside();
    beside.extend(follow);
    let labels = sessions::label(&processes, &cgroups, &beside, scan.namespaces);
    let mut snapshot = Snapshot {
        namespaces: cgroups.namespaces(),
        containers: cgroups.found(&walk),
        skipped_cgroups: walk.skipped,
        ..Snapshot::default()
    };
    let mut keys = Keys { exact, processes: &processes, known: HashMap::new(), unkeyed: Vec::new() };
    snapshot.cgroups = cgroups.states(&walk, |pid| keys.get(pid));
    for (id, value) in &mut snapshot.cgroups {
        if let Some(init) = cgroups.container(*id).and_then(|container| container.init) {
            value.environment = process::environment(scan.host, init);
        }
    }
    for (id, container) in cgroups.containers().filter(|(id, _)| !beside.contains(id)) {
        if let Some(key) = container.init.and_then(|pid| keys.get(pid)) {
            snapshot.tasks.push((key, task(task_kind::INIT, id, TaskKey::NONE, false)));
        }
    }
    for (pid, label) in &labels.of {
        if let Label::MovedOut(container) = label
            && let Some(key) = keys.get(*pid)
        {
            snapshot.tasks.push((key, task(task_kind::WORKLOAD, *container, TaskKey::NONE, false)));
        }
    }
    for plan in &labels.sessions {
        session(scan, &processes, plan, &mut keys, &mut snapshot);
    }
    snapshot.unkeyed = keys.unkeyed;
    snapshot.unkeyed.sort_unstable();
    snapshot.unkeyed.dedup();
    Ok(snapshot)
}

/// Cgroups and processes, until two looks agree on which processes there are.
fn look(scan: &Scan<'_>) -> Result<(Walk, BTreeMap<u32, Process>), RecoverError> {
    let mut walk = Walk::default();
    let mut processes: BTreeMap<u32, Process> = BTreeMap::new();
    for _ in 0..PASSES_MAX {
        walk = scan.hierarchy.walk()?;
        let ids: HashMap<&[u8], u64> =
            walk.cgroups.iter().map(|found| (found.path.as_slice(), found.id)).collect();
        let cgroup_of = |path: &[u8]| ids.get(path).copied().or_else(|| scan.hierarchy.id_of(path));
        let pids = process::pids(scan.host)
            .map_err(|source| RecoverError::Proc { path: scan.host.proc.clone(), source })?;
        let mut now = BTreeMap::new();
        let mut new = false;
        for pid in pids.into_iter().filter(|pid| *pid != scan.self_pid) {
            // All of it again: a parent that died, or a move to another cgroup, changes what a process is.
            let Some(process) = process::read(scan.host, scan.hierarchy, cgroup_of, pid) else { continue };
            new |= processes.get(&pid).is_none_or(|before| before.start_ticks != process.start_ticks);
            now.insert(pid, process);
        }
        processes = now;
        if !new {
            break;
        }
    }
    Ok((walk, processes))
}

/// Exact keys of processes, each asked for once.
struct Keys<'a> {
    exact: &'a dyn ExactStart,
    processes: &'a BTreeMap<u32, Process>,
    known: HashMap<u32, Option<TaskKey>>,
    unkeyed: Vec<u32>,
}

impl Keys<'_> {
    fn get(&mut self, pid: u32) -> Option<TaskKey> {
        if let Some(key) = self.known.get(&pid) {
            return *key;
        }
        let key = self.processes.get(&pid).and_then(|process| {
            let start = self.exact.start_time(pid);
            if start.is_none() {
                self.unkeyed.push(pid);
            }
            // Else the pid is another process's by now.
            start.filter(|start| start / TICK_NS == process.start_ticks).map(|start| TaskKey::new(pid, start))
        });
        self.known.insert(pid, key);
        key
    }

    /// For what is told of a process but must not be looked up: without a start time where that is not known.
    fn name(&mut self, pid: u32) -> TaskKey {
        self.get(pid).unwrap_or(TaskKey::new(pid, 0))
    }
}

fn task(kind: u8, container: u64, entry: TaskKey, executed: bool) -> FollowedTask {
    FollowedTask { entry, container, kind, executed: u8::from(executed), init: 0, _pad: [0; 5], execs: 0 }
}

fn session(
    scan: &Scan<'_>,
    processes: &BTreeMap<u32, Process>,
    plan: &Plan,
    keys: &mut Keys<'_>,
    snapshot: &mut Snapshot,
) {
    // Without its root's key a session has no name; its tasks would be nobody's.
    let Some(entry) = keys.get(plan.root) else {
        keys.unkeyed.extend(&plan.members);
        return;
    };
    let ephemeral = plan.kind == EntryKind::Ephemeral;
    let parent = processes.get(&plan.root).filter(|_| !ephemeral).map(|root| root.parent);
    let by = parent.map_or(TaskKey::NONE, |parent| keys.name(parent));
    let mut live = 0;
    let mut execs = Vec::new();
    for process in plan.members.iter().filter_map(|pid| processes.get(pid)) {
        let Some(key) = keys.get(process.pid) else { continue };
        let Some(details) = process::details(scan.host, process, scan.namespaces.user) else { continue };
        // Not another process with the same number.
        if process::glance(scan.host, process.pid).is_none_or(|now| now.start_ticks != process.start_ticks) {
            continue;
        }
        live += 1;
        let init = u8::from(ephemeral && process.pid == plan.root);
        let task = task(task_kind::SESSION, plan.container, entry, true);
        snapshot.tasks.push((key, FollowedTask { init, ..task }));
        let process::Details { credentials, namespaces, path, cwd, path_incomplete, executable, argv, tty } =
            details;
        execs.push(Exec {
            time: BootTime(key.start_time),
            process: EventProcess { key, parent: keys.name(process.parent), comm: process.comm.clone() },
            tid: process.pid,
            entry,
            entered_by: by,
            entry_time: BootTime(entry.start_time),
            entry_kind: plan.kind,
            container: Some(plan.container),
            staging: false,
            root: execs.is_empty(),
            host_mnt: namespaces.mnt != 0 && namespaces.mnt == scan.namespaces.mnt,
            cgroup_id: process.cgroup.unwrap_or(0),
            namespaces,
            credentials,
            tty,
            path,
            cwd,
            path_incomplete,
            script: None,
            executable,
            argv,
            argv_over_budget: false,
            descriptors: None,
            environment: None,
            spoof_suspected: false,
        });
    }
    if live == 0 {
        return;
    }
    let root = processes.get(&plan.root);
    let joined =
        |ns: Option<u32>, host: u32| ns.filter(|ns| plan.kind == EntryKind::Join && *ns != host).unwrap_or(0);
    snapshot.sessions.push((
        entry,
        Session {
            live,
            origin_mnt_ns: scan.namespaces.mnt,
            joined_mnt_ns: joined(root.and_then(|root| root.mnt_ns), scan.namespaces.mnt),
            joined_pid_ns: joined(root.and_then(|root| root.pid_ns), scan.namespaces.pid),
            announced: 1,
            ..Session::new(plan.container, entry.start_time, by, entry_kind::RECOVERED)
        },
    ));
    snapshot.recovered.push(Recovered {
        time: scan.time,
        entry,
        kind: plan.kind,
        container: plan.container,
        processes: execs,
    });
}

#[cfg(test)]
mod tests;
