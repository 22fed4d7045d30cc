//! What happened, as the agent itself speaks of it: between the kernel's records and the wire's messages.
//!
//! How events look outside `convert` alone knows. That they can be serialized is for the state machine's own state,
//! which the next agent of the same version reads, and nobody else.

use std::fmt;

use serde::{Deserialize, Serialize};

pub use podtrail_ebpf::layout::TaskKey;

/// A moment of the node's `CLOCK_BOOTTIME`, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BootTime(pub u64);

impl BootTime {
    /// Nanoseconds from `earlier` to `self`, 0 where it is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Id of a session, stable across restarts of the agent: made from the boot id, the root's pid and its start time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub String);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One event. Its number comes later, in the spool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub time: BootTime,
    /// cgroup id of the container; `None`: about no container, or about one that nobody knows
    pub container: Option<u64>,
    pub session: Option<SessionId>,
    pub body: Body,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Body {
    SessionStarted(Box<SessionStarted>),
    Executed(Box<Executed>),
    ExecFailed(Box<ExecFailed>),
    Exited(Exited),
    NamespaceJoined(Box<NamespaceJoined>),
    SessionEnded(SessionEnded),
    Gap(Gap),
    AgentState(AgentState),
    Attributed(Box<Attributed>),
    Folded(Box<Folded>),
    Observed(Box<Observed>),
}

/// What the node's problem detector was found to say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// by type
    pub conditions: Vec<ObservedCondition>,
    /// by reason
    pub problems: Vec<ObservedProblem>,
    /// why it could not be asked
    pub unreachable: Option<String>,
    /// it was asked for conditions, and for problems
    pub has_conditions: bool,
    pub has_problems: bool,
}

/// A condition of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedCondition {
    pub kind: String,
    pub status: String,
    pub reason: String,
    pub message: String,
    /// seconds since 1970, by the detector's clock; `None`: it does not say
    pub transition: Option<i64>,
    /// a text was too long
    pub truncated: bool,
}

/// How often a problem was found since the detector began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedProblem {
    pub reason: String,
    pub count: u64,
}

/// How a session came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Method {
    Unknown,
    RuntimeExec,
    ExecProbe,
    LifecycleHook,
    EphemeralContainer,
    NamespaceJoin,
    HostNamespace,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionStarted {
    pub method: Method,
    /// what the method was concluded from, one finding each
    pub evidence: Vec<String>,
    pub tty: Option<Tty>,
    pub root: Process,
    pub entered_by: Option<Process>,
    pub entered: BootTime,
    /// audit login uid and session of the node; `None`: not set
    pub login_uid: Option<u32>,
    pub audit_session: Option<u32>,
    /// it began before the agent did, and nothing before this moment was seen
    pub recovered: Option<BootTime>,
    /// the runtime's name for it
    pub exec_id: Option<String>,
    /// of the root's environment: the API server's audit id, and that of an admission request
    pub exec_audit_id: Option<Vec<u8>>,
    pub exec_request_uid: Option<Vec<u8>>,
    /// `false`: the host's kernel cannot see what is run in it
    pub observable: bool,
    /// what its commands look like
    pub labels: Vec<String>,
    pub probe: Option<Probe>,
    /// audit ids found where none belongs
    pub spoofed: Vec<String>,
    /// stdin, stdout and stderr of the root as it began; `None`: not known. Not on the wire.
    pub descriptors: Option<[Descriptor; 3]>,
    /// of whoever joined the namespaces: who started it, the nearest first
    pub ancestors: Vec<Process>,
}

/// What a descriptor is open to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Descriptor {
    /// `/dev/null`
    Null,
    Pipe,
    Terminal {
        major: u32,
        minor: u32,
    },
    File,
    Socket,
    /// a directory, another device, or something that is no file at all, as an eventfd
    Other,
    /// not open
    Closed,
}

impl fmt::Display for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("/dev/null"),
            Self::Pipe => f.write_str("a pipe"),
            Self::Terminal { major, minor } => write!(f, "terminal {major}:{minor}"),
            Self::File => f.write_str("a file"),
            Self::Socket => f.write_str("a socket"),
            Self::Other => f.write_str("something else"),
            Self::Closed => f.write_str("closed"),
        }
    }
}

/// A command that the pod's specification tells the kubelet to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    pub kind: ProbeKind,
    /// nanoseconds; `None`: not run again and again
    pub period_ns: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ProbeKind {
    Liveness,
    Readiness,
    Startup,
    PostStart,
    PreStop,
}

impl ProbeKind {
    /// As a pod's specification calls it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
            Self::Startup => "startup",
            Self::PostStart => "postStart",
            Self::PreStop => "preStop",
        }
    }
}

/// More became known of a session, or of its container, which is that of the event.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Attributed {
    /// what is known of its container is new
    pub container: bool,
    pub evidence: Vec<String>,
    /// what it was taken for before was wrong
    pub method: Option<Method>,
    /// the runtime's name for the session
    pub exec_id: Option<String>,
    /// how its root ended, by the runtime's word
    pub status: Option<ExitStatus>,
}

/// Sessions like one that was told in full, which were only counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Folded {
    pub like: SessionId,
    pub method: Method,
    pub sessions: u64,
    pub commands: u64,
    pub first: BootTime,
    pub last: BootTime,
    pub status: Option<ExitStatus>,
}

/// A process, by its ids in the node's initial pid namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub key: TaskKey,
    pub parent: TaskKey,
    pub comm: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tty {
    pub major: u32,
    pub minor: u32,
    /// as people know it: "pts/0"
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Executed {
    pub process: Process,
    pub path: Vec<u8>,
    pub cwd: Vec<u8>,
    pub path_incomplete: bool,
    pub argv: Argv,
    /// a `#!` script's own path
    pub script: Option<Vec<u8>>,
    pub credentials: Credentials,
    pub tty: Option<Tty>,
    pub executable: Executable,
    pub namespaces: Namespaces,
    /// the task's own cgroup
    pub cgroup_id: u64,
    /// the session's first command
    pub root: bool,
    /// the arguments are cut further than the limit asks for: the session had used up its budget
    pub argv_over_budget: bool,
    /// its environment has another audit id than that of the session's root
    pub spoof_suspected: bool,
    /// places where the process looked for the program before
    pub not_found: u32,
}

/// An exec failed, and the process went on as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecFailed {
    pub process: Process,
    /// as it was given
    pub path: Vec<u8>,
    pub cwd: Vec<u8>,
    pub path_incomplete: bool,
    pub argv: Vec<Vec<u8>>,
    /// there was more of it
    pub argv_cut: bool,
    pub credentials: Credentials,
    /// `errno`
    pub error: i32,
    /// places where the program was looked for in vain; `path` is the last
    pub attempts: u32,
}

/// Arguments, as bytes. Where they are cut, `args` is the head's arguments and then the tail's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Argv {
    pub args: Vec<Vec<u8>>,
    /// bytes of the whole, each argument's NUL included
    pub total: u64,
    /// index of the first argument of the tail, which may lack its beginning; `None`: nothing is cut
    pub cut: Option<usize>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    pub uid: u32,
    pub gid: u32,
    pub euid: u32,
    pub egid: u32,
    /// as the process's own user namespace sees them, where that is not the node's
    pub container_uid: Option<u32>,
    pub container_gid: Option<u32>,
    pub cap_effective: u64,
    pub cap_permitted: u64,
    pub login_uid: Option<u32>,
    pub audit_session: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Executable {
    pub inode: u64,
    pub device_major: u32,
    pub device_minor: u32,
    pub deleted: bool,
    pub memfd: bool,
    pub upper_layer: bool,
    pub setuid: bool,
    pub setgid: bool,
}

/// Inode numbers; 0: not told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    pub mnt: u32,
    pub pid: u32,
    pub user: u32,
    pub net: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exited {
    pub process: Process,
    pub status: ExitStatus,
    /// since the process's last exec, nanoseconds
    pub duration_ns: u64,
    /// nobody saw it end: when it was found out, and that is the time of the event
    pub late: bool,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    Code(i32),
    Signal { signal: i32, core: bool },
}

impl ExitStatus {
    /// From the kernel's `wait` status.
    #[must_use]
    pub fn from_wait(code: u32) -> Self {
        #[expect(clippy::cast_possible_wrap, reason = "masked to a byte")]
        match code & 0x7f {
            0 => Self::Code(((code >> 8) & 0xff) as i32),
            signal => Self::Signal { signal: signal as i32, core: code & 0x80 != 0 },
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NamespaceJoined {
    pub process: Process,
    /// only those joined; the others are 0
    pub joined: Namespaces,
    pub login_uid: Option<u32>,
    pub audit_session: Option<u32>,
    /// who started the process, the nearest first
    pub ancestors: Vec<Process>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionEnded {
    /// of the root, where it was seen
    pub status: Option<ExitStatus>,
    /// from entry to the last exit, nanoseconds
    pub duration_ns: u64,
    pub commands: u64,
    /// records of this session that the kernel could not deliver
    pub lost: u64,
}

/// Events are missing here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    pub source: GapSource,
    pub count: u64,
    /// `false`: `count` is a lower bound
    pub exact: bool,
    pub from: BootTime,
    pub to: BootTime,
    /// sessions that it may touch; empty: any that was open
    pub sessions: Vec<SessionId>,
    /// the class of record, or the table
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum GapSource {
    KernelRing,
    KernelTable,
    KernelRecursion,
    AgentDecode,
    AgentBuffer,
    SessionBudget,
    /// nothing was hooked: what happened is not known, nor how much
    HooksAbsent,
    /// the container runtime's own word was not heard
    RuntimeEvents,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentState {
    pub phase: AgentPhase,
    pub version: String,
    pub kernel: String,
    pub boot_id: String,
    pub hooks: Vec<Hook>,
    /// what is wrong now
    pub findings: Vec<Finding>,
    /// of a start; see [`Start`]
    pub start: Option<Start>,
}

/// What an agent found of the one before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// the kernel side went on recording without an agent, and this one reads on
    pub adopted: bool,
    /// whether the agent before said that it stopped; `None`: nobody knows
    pub stopped_cleanly: Option<bool>,
    /// when it was last at work, in nanoseconds of the wall clock since 1970
    pub since: Option<i64>,
}

/// Something is wrong with what records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub subject: String,
    pub detail: String,
    pub time: BootTime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AgentPhase {
    Started,
    Stopped,
    /// started, with other programs than those that were recording
    Upgraded,
    /// something is wrong with what records, or is right again
    Integrity,
}

/// A hook in the kernel, and why it is of its kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    pub name: String,
    pub kind: String,
    /// empty: the first choice
    pub reason: String,
}
