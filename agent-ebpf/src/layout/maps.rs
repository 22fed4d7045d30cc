//! Values in the maps, what indexes them, and the globals that user space sets at load.

#[cfg(not(target_arch = "bpf"))]
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{TaskKey, kind};

shared! {
/// What a session, or all sessions of a container, have in the ring: at most `before + since` bytes.
#[derive(Default)]
pub struct Share: 32 {
    /// where the ring ended when `since` began, in bytes since the ring was made; and when that was, `CLOCK_BOOTTIME`
    pub mark: u64,
    pub time: u64,
    /// bytes that went in before `mark`, as far as the reader may not have come past them
    pub before: u64,
    /// bytes that went in since; below zero where one processor took back what another had forgotten meanwhile
    pub since: i64,
}
}

/// What a cgroup is.
pub mod cgroup_state {
    /// not a container's
    pub const HOST: u8 = 0;
    /// no task was ever in it
    pub const NEW: u8 = 1;
    /// its first entry has been made, and it is not decided yet whether it is a container
    pub const FIRST: u8 = 2;
    /// a container by its name, its init not running yet
    pub const NAMED: u8 = 3;
    /// a container with a running init
    pub const RUNNING: u8 = 4;
    /// below a container: `container` says which
    pub const MEMBER: u8 = 5;
    /// a container whose init is gone
    pub const ENDED: u8 = 6;
}

shared! {
/// Map `CGROUPS`: by cgroup id.
pub struct Cgroup: 88 {
    pub parent: u64,
    /// MEMBER: the container's cgroup id
    pub container: u64,
    /// NAMED, FIRST: the first task; RUNNING: the init
    pub init: TaskKey,
    /// RUNNING: namespaces of the container's init; 0: not known, or the host's.
    /// NAMED, FIRST: the mount namespace of whoever made the first entry.
    pub mnt_ns: u32,
    pub pid_ns: u32,
    /// of [`cgroup_state`]
    pub state: u8,
    /// RUNNING: what was [`crate::environ::found`] in the environment with which the init began
    pub environment: u8,
    /// 1: a pod, by its name
    pub pod: u8,
    /// RUNNING, 1: the init's root directory was the host's from the start
    pub host_root: u8,
    pub _pad: [u8; 4],
    /// of a container's sessions, all together
    pub share: Share,
    /// of a pod: cgroup id of the container in it that runs for longest, which is its sandbox; 0: none
    pub first: u64,
}
}

impl Cgroup {
    /// As it begins, with nobody in it.
    #[must_use]
    pub const fn new(parent: u64, container: u64, state: u8) -> Self {
        Self {
            parent,
            container,
            init: TaskKey::NONE,
            mnt_ns: 0,
            pid_ns: 0,
            state,
            environment: 0,
            pod: 0,
            host_root: 0,
            _pad: [0; 4],
            share: Share { mark: 0, time: 0, before: 0, since: 0 },
            first: 0,
        }
    }
}

/// What a followed task ran of its session's commands.
pub mod executed {
    pub const NOTHING: u8 = 0;
    /// at least one that was told
    pub const TOLD: u8 = 1;
    /// only such as were refused
    pub const REFUSED: u8 = 2;
}

/// What a followed task is.
pub mod task_kind {
    /// of a session (or of one that may become one): `entry` says which
    pub const SESSION: u8 = 1;
    /// the init of a container; not inherited
    pub const INIT: u8 = 2;
    /// of a container's own workload, but moved out of its cgroup: no session, whatever its cgroup
    pub const WORKLOAD: u8 = 3;
}

shared! {
/// Map `TASKS`: by [`TaskKey`]. Inserted at fork, removed at exit, never evicted.
pub struct FollowedTask: 40 {
    pub entry: TaskKey,
    /// cgroup id of the container
    pub container: u64,
    /// of [`task_kind`]
    pub kind: u8,
    /// of [`executed`]
    pub executed: u8,
    /// 1: SESSION, and besides the init of its container; not inherited
    pub init: u8,
    pub _pad: [u8; 5],
    /// what the kernel counted of its execs, or of its parents' (`self_exec_id`), at the last one that was seen; 0: not known
    pub execs: u64,
}
}

impl FollowedTask {
    /// As it begins: it has run nothing yet.
    #[must_use]
    pub const fn new(entry: TaskKey, container: u64, kind: u8, execs: u64) -> Self {
        Self { entry, container, kind, executed: executed::NOTHING, init: 0, _pad: [0; 5], execs }
    }
}

shared! {
/// Map `SESSIONS`: by the [`TaskKey`] of the entry.
pub struct Session: 136 {
    pub container: u64,
    pub time: u64,
    pub by: TaskKey,
    /// tasks in it
    pub live: i64,
    /// records that did not fit into the ring, so far
    pub lost: u64,
    /// execs refused so far, and their exits
    pub refused: u64,
    /// until when, `CLOCK_BOOTTIME`, its budget of argument bytes is spent: see [`crate::budget`]
    pub argv_spent: u64,
    pub share: Share,
    /// hashes of the values in the root's environment
    pub audit_id: u64,
    pub request_uid: u64,
    /// the mount namespace of who made the entry
    pub origin_mnt_ns: u32,
    /// JOIN: the namespaces joined; 0: none
    pub joined_mnt_ns: u32,
    pub joined_pid_ns: u32,
    /// execs before the session saw the container
    pub staged: u32,
    /// of [`entry_kind`]
    pub kind: u8,
    /// 1: it ran its first command
    pub announced: u8,
    /// what was [`crate::environ::found`] in the root's environment
    pub environment: u8,
    pub _pad: [u8; 5],
}
}

impl Session {
    /// As it begins, with one task in it.
    #[must_use]
    pub const fn new(container: u64, time: u64, by: TaskKey, kind: u8) -> Self {
        Self {
            container,
            time,
            by,
            live: 1,
            lost: 0,
            refused: 0,
            argv_spent: 0,
            share: Share { mark: 0, time: 0, before: 0, since: 0 },
            audit_id: 0,
            request_uid: 0,
            origin_mnt_ns: 0,
            joined_mnt_ns: 0,
            joined_pid_ns: 0,
            staged: 0,
            kind,
            announced: 0,
            environment: 0,
            _pad: [0; 5],
        }
    }
}

/// The hooks. What is attached hands over to the program in a slot, so that programs change while hooks stay.
pub mod hook {
    pub const MKDIR: u32 = 0;
    pub const RMDIR: u32 = 1;
    pub const ATTACH: u32 = 2;
    pub const FORK: u32 = 3;
    pub const EXEC: u32 = 4;
    pub const EXIT: u32 = 5;
    pub const SETNS: u32 = 6;
    pub const EXECVE: u32 = 7;
    pub const EXECVEAT: u32 = 8;
    /// behind those of the same places: they do what those before them were skipped for
    pub const FORK2: u32 = 9;
    pub const EXEC2: u32 = 10;
    pub const EXEC3: u32 = 11;
    pub const EXEC4: u32 = 12;
    pub const EXIT2: u32 = 13;
    /// when a task's memory is given back: whose end nobody saw is found out
    pub const FREED: u32 = 14;
    /// behind all others of an exec, and of an exit: they wake the reader
    pub const EXECED: u32 = 15;
    pub const EXITED: u32 = 16;
    pub const COUNT: u32 = 17;
}

/// Which of the buffers that records are built in, by hook.
pub mod scratch {
    pub const EXECVE: u32 = 0;
    pub const EXECVEAT: u32 = 1;
    pub const EXEC: u32 = 2;
    /// How many there are where nothing stands behind the hook on execs.
    pub const COUNT: u32 = 3;
    pub const EXEC2: u32 = 3;
    pub const EXEC3: u32 = 4;
    pub const EXEC4: u32 = 5;
    /// How many there are else.
    pub const COUNT_BEHIND: u32 = 6;
}

/// What stands in `READER`.
pub mod reader {
    /// it looks into the ring by itself
    pub const AWAKE: u32 = 0;
    pub const ASLEEP: u32 = 1;
    /// there is something in the ring, and it sleeps
    pub const WANTED: u32 = 2;
}

/// Index into the per-CPU map `COUNTERS`.
pub mod counter {
    use super::kind;

    /// records put into the ring, by [`kind`]
    pub const SENT: u32 = 0;
    /// records that did not fit, by [`kind`]; but for those that are no event, which are counted apart
    pub const LOST: u32 = kind::COUNT as u32;
    const TABLES: u32 = 2 * kind::COUNT as u32;
    /// execs refused, as they were over their session's share of the ring, and exits of which no exec was told for that
    pub const REFUSED: u32 = TABLES;
    /// tasks that could not be followed: `TASKS` was full
    pub const TASKS_FULL: u32 = TABLES + 1;
    /// sessions that could not be opened: `SESSIONS` was full
    pub const SESSIONS_FULL: u32 = TABLES + 2;
    /// cgroups that could not be kept: `CGROUPS` was full
    pub const CGROUPS_FULL: u32 = TABLES + 3;
    /// namespaces that could not be kept: `NAMESPACES` was full
    pub const NAMESPACES_FULL: u32 = TABLES + 4;
    /// tasks whose facts could not be read
    pub const UNREADABLE: u32 = TABLES + 5;
    /// execs of a runtime on its way in that did not fit
    pub const LOST_STAGE: u32 = TABLES + 6;
    /// ends of processes of which no command was told that did not fit: the last of their session
    pub const LOST_LAST: u32 = TABLES + 7;
    /// execs of sessions for which the kernel skipped every hook
    pub const SKIPPED_EXEC: u32 = TABLES + 8;
    /// calls of a hook that found no program to hand over to, by [`super::hook`]
    pub const UNHANDLED: u32 = TABLES + 9;
    pub const COUNT: u32 = UNHANDLED + super::hook::COUNT;
}

shared! {
/// Global `CONFIG`, set by user space before load.
pub struct Config: 48 {
    pub version: u32,
    /// the host's own namespaces
    pub host_mnt_ns: u32,
    pub host_pid_ns: u32,
    pub host_user_ns: u32,
    /// bytes of argv to keep
    pub argv_limit: u32,
    /// [`ABSENT`]: ids come from the default hierarchy (v2); else the index in `css_set.subsys`
    pub cgroup_subsys: u32,
    /// the id of the hierarchy that `cgroup_*` tracepoints must be of
    pub hierarchy: u32,
    /// 1: diagnose through aya-log
    pub diagnose: u32,
    /// bytes of argv that a session may have kept whole: see [`crate::budget`]
    pub argv_budget: u32,
    /// 1: the kernel has a helper that finds a task's registers (5.15 and newer)
    pub registers_helper: u32,
    /// numbers of these system calls
    pub execve: u32,
    pub execveat: u32,
}
}

shared! {
/// Global `HOST_ROOT`, set by user space before load: the host's root directory.
#[derive(Default)]
pub struct HostRoot: 16 {
    /// low half and high half; 0: not known
    pub inode: u32,
    pub inode_high: u32,
    /// of its file system, as the kernel numbers devices within itself
    pub device: u32,
    pub _pad: u32,
}
}
