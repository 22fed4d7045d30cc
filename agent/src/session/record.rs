//! What the kernel side reports, decoded: owned, with every length already checked.
//!
//! `probe` makes these from the bytes of the ring, tests from traces. See `podtrail_ebpf::layout` for what each
//! field is; names are the same.

use serde::{Deserialize, Serialize};

use crate::event::{
    self, AgentState, BootTime, Credentials, Descriptor, Executable, ExitStatus, GapSource, Namespaces,
    Process, TaskKey, Tty,
};

/// One report of the kernel side, or of what was found in `/proc` at start.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    Exec(Box<Exec>),
    ArgvChunk(ArgvChunk),
    ExecFailed(Box<ExecFailed>),
    Exit(Exit),
    Enter(Box<Enter>),
    Join(Box<Join>),
    ContainerStarted(ContainerStarted),
    ContainerEnded(ContainerEnded),
    /// records were lost between `from` and `time`
    Lost(Lost),
    /// so many execs and exits of the session with this entry were refused so far
    Refused {
        entry: TaskKey,
        total: u64,
    },
    /// a session that was there before the agent: all its tasks, the root first
    Recovered(Box<Recovered>),
    /// the agent itself started or stopped
    Agent {
        time: BootTime,
        state: AgentState,
    },
}

/// Where an entry into a container came from; see `layout::entry_kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    Runtime,
    SelfMoved,
    Join,
    HostNamespace,
    Recovered,
    /// a container that was put into the pid namespace of another
    Ephemeral,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Exec {
    pub time: BootTime,
    pub process: Process,
    pub tid: u32,
    /// the session: the key of its entry
    pub entry: TaskKey,
    pub entered_by: TaskKey,
    pub entry_time: BootTime,
    pub entry_kind: EntryKind,
    /// cgroup id of the container; `None`: whoever owns the namespaces could not be found
    pub container: Option<u64>,
    /// the runtime at work: no command
    pub staging: bool,
    /// the session's first command
    pub root: bool,
    /// the task sees the host's mount namespace
    pub host_mnt: bool,
    pub cgroup_id: u64,
    pub namespaces: Namespaces,
    pub credentials: Credentials,
    pub tty: Option<Tty>,
    /// absolute, as far as it could be walked
    pub path: Vec<u8>,
    pub cwd: Vec<u8>,
    pub path_incomplete: bool,
    pub script: Option<Vec<u8>>,
    pub executable: Executable,
    pub argv: RawArgv,
    /// less of it is here than the limit allows
    pub argv_over_budget: bool,
    /// of a root: stdin, stdout and stderr; `None`: not known
    pub descriptors: Option<[Descriptor; 3]>,
    /// of a root; `None`: nobody looked
    pub environment: Option<Environment>,
    /// its environment names a request, and not as its session's root does
    pub spoof_suspected: bool,
}

/// What was looked for in the environment of a session's root, and nothing else of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// the first KUBERNETES_EXEC_AUDIT_ID and the first SPO_EXEC_REQUEST_UID
    pub audit_id: Option<EnvironmentValue>,
    pub request_uid: Option<EnvironmentValue>,
    /// bytes of all of it, and how many of them were looked at
    pub total: u64,
    pub searched: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentValue {
    pub bytes: Vec<u8>,
    /// it is longer than what is kept
    pub cut: bool,
    /// whether the container's own init began with this variable too: then the value may be the pod's own, and says
    /// nothing; `None`: nobody looked
    pub of_init: Option<bool>,
}

/// The argument area, as far as it is here. The rest comes in [`ArgvChunk`]s.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawArgv {
    /// bytes of the whole, in memory
    pub total: u64,
    /// how many are kept of the beginning and of the end; their sum is `total` where nothing is cut
    pub head: u32,
    pub tail: u32,
    /// the first of the `head + tail` bytes
    pub bytes: Vec<u8>,
    /// memory could not be read to the end
    pub fault: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgvChunk {
    pub time: BootTime,
    pub key: TaskKey,
    /// time of the exec it belongs to
    pub exec_time: BootTime,
    /// where `bytes` stand within head and tail
    pub offset: u32,
    pub bytes: Vec<u8>,
}

/// An exec that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecFailed {
    pub time: BootTime,
    pub entry: TaskKey,
    /// cgroup id of the container; `None`: whoever owns the namespaces could not be found
    pub container: Option<u64>,
    /// `attempts` is 1
    pub failed: event::ExecFailed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    pub time: BootTime,
    pub key: TaskKey,
    pub parent: TaskKey,
    pub entry: TaskKey,
    pub status: ExitStatus,
    /// no task of the session is left
    pub last: bool,
    /// the process ran a command of its session
    pub executed: bool,
    /// nobody saw it: it was not later than `time`
    pub late: bool,
    /// records of this session lost so far
    pub lost: u64,
    /// execs and exits of this session refused so far
    pub refused: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enter {
    pub time: BootTime,
    pub process: Process,
    pub by: TaskKey,
    pub by_comm: Vec<u8>,
    pub kind: EntryKind,
    pub container: u64,
    /// the session-to-be that this one replaces
    pub replaces: Option<TaskKey>,
    pub login_uid: Option<u32>,
    pub audit_session: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    pub time: BootTime,
    pub process: Process,
    pub tid: u32,
    pub entry: TaskKey,
    /// `None`: the namespaces' owner is not known
    pub container: Option<u64>,
    /// the mount namespace it joined, the pid namespace its children will be in; 0: none
    pub mnt_ns: u32,
    pub pid_ns: u32,
    pub login_uid: Option<u32>,
    pub audit_session: Option<u32>,
    /// who started the process, the nearest first, as far as the kernel side followed
    pub ancestors: Vec<Process>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStarted {
    pub time: BootTime,
    pub cgroup_id: u64,
    pub init: TaskKey,
    pub mnt_ns: u32,
    pub pid_ns: u32,
    /// cgroup id of another container, whose pid namespace it is
    pub pid_owner: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerEnded {
    pub time: BootTime,
    pub cgroup_id: u64,
    pub init: TaskKey,
    pub status: ExitStatus,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    pub from: BootTime,
    pub time: BootTime,
    pub source: GapSource,
    pub count: u64,
    pub exact: bool,
    pub detail: String,
}

/// Classes of records that can be lost, as [`Lost::detail`] names them: those that somebody asks for.
pub mod class {
    pub const REFUSED: &str = "exec, exit";
    pub const EXIT: &str = "exit";
    /// of a process without a command, the last of its session
    pub const LAST: &str = "last exit";
    pub const CGROUP_CREATED: &str = "cgroup created";
}

impl Lost {
    /// Whether records of this class did not fit into the ring.
    #[must_use]
    pub fn is_of(&self, class: &str) -> bool {
        self.source == GapSource::KernelRing && self.detail == class
    }
}

/// A session found in `/proc`.
#[derive(Clone, Debug, PartialEq)]
pub struct Recovered {
    pub time: BootTime,
    pub entry: TaskKey,
    pub kind: EntryKind,
    pub container: u64,
    /// `Exec`s as `/proc` tells them, the root's first; `time` of each is its process's start
    pub processes: Vec<Exec>,
}
