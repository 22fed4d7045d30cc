//! Records in the ring; and by [`maps`], values in the maps, and the globals that user space sets at load.
//!
//! Every type is `repr(C)` with explicit padding and has its size asserted: both sides must agree to the byte.
//! Integers are in the machine's own order. User space copies a record out before it looks at it, and never casts.

#[cfg(not(target_arch = "bpf"))]
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Version of everything in this module, and of the hooks in `main.rs`: what is pinned by one agent is taken over by
/// the next where this is the same. User space refuses an object of another version.
pub const LAYOUT_VERSION: u32 = 6;

/// Marks a field that the running kernel's BTF does not have.
pub const ABSENT: u32 = u32::MAX;

/// Bytes of argv that one record carries at most; longer ones go on in [`ArgvChunk`] records.
pub const ARGV_CHUNK: usize = 16 * 1024;

/// Bytes of argv that are kept, from the beginning and from the end together, of a command that may not have more: see
/// [`crate::budget`].
pub const ARGV_SMALL: u64 = 1024;

/// Bytes that the walked path components of one path may take in a record.
pub const PATH_MAX: usize = 4096;

/// Bytes of a `#!` script's path in a record.
pub const SCRIPT_MAX: usize = 1024;

/// Bytes of a cgroup's path in a record.
pub const CGROUP_PATH_MAX: usize = 2048;

macro_rules! shared {
    ($(#[$meta:meta])* pub struct $name:ident: $size:literal { $($body:tt)* }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[cfg_attr(not(target_arch = "bpf"), derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
        pub struct $name { $($body)* }
        const _: () = assert!(size_of::<$name>() == $size, concat!(stringify!($name), " changed its size"));
        const _: () = assert!(align_of::<$name>() <= 8);
    };
}

mod maps;

pub use self::maps::*;

/// Start time in the key of the session in which an agent tries out the kernel side: no task's. Nobody is told of it.
pub const SELF_TEST: u64 = u64::MAX;

shared! {
/// Names a process for ever within a boot: thread group id, and start of the group's leader in nanoseconds of
/// `CLOCK_BOOTTIME` (it survives an exec from another thread). All zero: none.
#[derive(Default, Hash, PartialOrd, Ord)]
#[cfg_attr(not(target_arch = "bpf"), derive(serde::Serialize, serde::Deserialize))]
pub struct TaskKey: 16 {
    pub start_time: u64,
    pub tgid: u32,
    pub _pad: u32,
}
}

impl TaskKey {
    /// No process.
    pub const NONE: Self = Self { start_time: 0, tgid: 0, _pad: 0 };

    /// The key of a process.
    #[must_use]
    pub const fn new(tgid: u32, start_time: u64) -> Self {
        Self { start_time, tgid, _pad: 0 }
    }

    /// Whether it names no process.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.tgid == 0 && self.start_time == 0
    }
}

/// What a record is. Zero is none, so that a zeroed buffer is no record.
pub mod kind {
    /// [`super::Exec`], and what follows it
    pub const EXEC: u16 = 1;
    /// [`super::ArgvChunk`]
    pub const ARGV_CHUNK: u16 = 2;
    /// [`super::Exit`]
    pub const EXIT: u16 = 3;
    /// [`super::Enter`]
    pub const ENTER: u16 = 4;
    /// [`super::Join`]
    pub const JOIN: u16 = 5;
    /// [`super::CgroupCreated`], and its path
    pub const CGROUP_CREATED: u16 = 6;
    /// [`super::CgroupRemoved`]
    pub const CGROUP_REMOVED: u16 = 7;
    /// [`super::ContainerStarted`]
    pub const CONTAINER_STARTED: u16 = 8;
    /// [`super::ContainerEnded`]
    pub const CONTAINER_ENDED: u16 = 9;
    /// [`super::ExecFailed`], and what follows it
    pub const EXEC_FAILED: u16 = 10;
    /// One more than the greatest; the length of the counters by kind
    pub const COUNT: u16 = 11;
}

shared! {
/// Begins every record.
pub struct Header: 24 {
    /// `CLOCK_BOOTTIME`, nanoseconds
    pub time: u64,
    /// of the whole record, this header and everything variable included
    pub size: u32,
    /// one of [`kind`]
    pub kind: u16,
    pub cpu: u16,
    /// [`LAYOUT_VERSION`]
    pub version: u32,
    pub _pad: u32,
}
}

shared! {
/// A task, as it was at the record's time. Numbers are the initial namespace's.
pub struct Task: 88 {
    pub key: TaskKey,
    /// its parent (`real_parent`)
    pub parent: TaskKey,
    pub tid: u32,
    /// inode numbers of its namespaces
    pub mnt_ns: u32,
    pub pid_ns: u32,
    pub user_ns: u32,
    pub net_ns: u32,
    /// audit login uid and session; [`u32::MAX`]: none
    pub login_uid: u32,
    pub audit_session: u32,
    pub _pad: u32,
    pub cgroup_id: u64,
    pub comm: [u8; 16],
}
}

shared! {
/// Credentials. Ids are the node's; `ns_*` are those of the task's own user namespace.
pub struct Creds: 48 {
    pub cap_effective: u64,
    pub cap_permitted: u64,
    pub uid: u32,
    pub gid: u32,
    pub euid: u32,
    pub egid: u32,
    /// [`u32::MAX`]: not mapped, or too many extents to say
    pub ns_uid: u32,
    pub ns_gid: u32,
    /// 1 where the user namespace is not the initial one
    pub in_user_ns: u32,
    pub _pad: u32,
}
}

/// How a session's entry was made.
pub mod entry_kind {
    /// a runtime forked or moved a task into the container's cgroup
    pub const RUNTIME: u8 = 1;
    /// a task of the host moved itself into the container's cgroup
    pub const SELF_MOVED: u8 = 2;
    /// a task joined the container's mount or pid namespace, its cgroup still the host's
    pub const JOIN: u8 = 3;
    /// a task of the container came to the host's mount namespace
    pub const HOST_NS: u8 = 4;
    /// found running when the agent started
    pub const RECOVERED: u8 = 5;
    /// the first task of a new container, which shares the pid namespace of another that is not its pod's first
    pub const EPHEMERAL: u8 = 6;
}

/// Flags of [`Exec`].
pub mod exec_flags {
    /// Not a command: the runtime at work, before the session saw the container
    pub const STAGING: u32 = 1;
    /// The session's first command
    pub const ROOT: u32 = 1 << 1;
    /// argv was longer than the limit: head and tail are here
    pub const ARGV_CUT: u32 = 1 << 2;
    /// a page of argv could not be read: it ends there
    pub const ARGV_FAULT: u32 = 1 << 3;
    /// the walk of the executable's path did not reach the root
    pub const EXE_INCOMPLETE: u32 = 1 << 4;
    /// the walk of the working directory did not reach the root
    pub const CWD_INCOMPLETE: u32 = 1 << 5;
    /// the executable has no name left
    pub const DELETED: u32 = 1 << 6;
    /// the executable is a memfd
    pub const MEMFD: u32 = 1 << 7;
    /// the executable is in the overlay's upper layer
    pub const UPPER_LAYER: u32 = 1 << 8;
    /// the task sees the host's mount namespace
    pub const HOST_MNT: u32 = 1 << 9;
    /// the task has a controlling terminal
    pub const TTY: u32 = 1 << 10;
    /// the script's path was longer than the buffer
    pub const SCRIPT_CUT: u32 = 1 << 11;
    /// less of argv is here than usual: the session has used up its budget, or its share of the ring
    pub const ARGV_OVER_BUDGET: u32 = 1 << 12;
    /// [`super::Root`] is here
    pub const ROOT_FACTS: u32 = 1 << 13;
    /// no root, and its environment names a request otherwise than the root's
    pub const SPOOF_SUSPECTED: u32 = 1 << 14;
}

shared! {
/// A successful exec by a task of a session. Followed by, in this order:
/// `exe_len` bytes: the path's components from the last to the first, each followed by a NUL;
/// `cwd_len` bytes: the same for the working directory;
/// `script_len` bytes: the path of the `#!` script, where there is one, without NUL;
/// a [`Root`] with what follows it, if `flags` say so;
/// `argv_len` bytes: the beginning of what is kept of argv, each argument with its NUL.
pub struct Exec: 304 {
    pub header: Header,
    pub task: Task,
    pub creds: Creds,
    /// the session: the key of its entry
    pub entry: TaskKey,
    /// who made the entry
    pub entered_by: TaskKey,
    /// when the entry was made, `CLOCK_BOOTTIME`
    pub entry_time: u64,
    /// cgroup id of the container; 0: user space must find the owner of the namespaces
    pub container: u64,
    /// all of argv, as it was in memory
    pub argv_total: u64,
    /// of `argv_total`, what is kept from the beginning, and from the end
    pub argv_head: u32,
    pub argv_tail: u32,
    /// of `argv_head + argv_tail`, what this record carries; the rest comes in [`ArgvChunk`]s
    pub argv_len: u32,
    pub exe_len: u32,
    pub cwd_len: u32,
    pub script_len: u32,
    /// of [`exec_flags`]
    pub flags: u32,
    /// the thread that called execve, where it was not the leader; else 0
    pub old_tid: u32,
    pub exe_inode: u64,
    /// major and minor of the executable's filesystem, as the kernel has it: `major << 20 | minor`
    pub exe_dev: u32,
    /// permissions and type
    pub exe_mode: u32,
    pub tty_major: u32,
    pub tty_minor: u32,
    /// of [`entry_kind`]
    pub entry_kind: u8,
    pub _pad: [u8; 7],
    /// the terminal's name as the kernel has it ("pts0"), NUL-padded
    pub tty_name: [u8; 24],
}
}

/// Bytes of a failed exec's arguments that are kept.
pub const FAILED_ARGV_MAX: usize = 4096;
/// How many of its arguments are looked at.
pub const FAILED_ARGS_MAX: u32 = 64;

/// Flags of [`ExecFailed`].
pub mod failed_flags {
    /// by `execveat`: the path is below `directory`, or is what it is open to
    pub const AT: u32 = 1;
    /// the path could not be read
    pub const PATH_FAULT: u32 = 1 << 1;
    /// there are more arguments than are here, or the last of them is longer
    pub const ARGV_CUT: u32 = 1 << 2;
    /// an argument could not be read: they end there
    pub const ARGV_FAULT: u32 = 1 << 3;
    /// the walk of the working directory did not reach the root
    pub const CWD_INCOMPLETE: u32 = 1 << 4;
}

shared! {
/// An exec by a task of a session that failed: the task goes on as it was. Followed by, in this order:
/// `cwd_len` bytes: the components of the working directory's path, as in an [`Exec`];
/// `path_len` bytes: the path as it was given, without its NUL;
/// `argv_len` bytes: arguments as they were given, each with its NUL.
pub struct ExecFailed: 216 {
    pub header: Header,
    pub task: Task,
    pub creds: Creds,
    /// the session: the key of its entry
    pub entry: TaskKey,
    /// cgroup id of the container; 0: user space must find the owner of the namespaces
    pub container: u64,
    /// `errno`
    pub error: u32,
    /// of [`failed_flags`]
    pub flags: u32,
    /// AT: the descriptor, or `AT_FDCWD`
    pub directory: i32,
    pub cwd_len: u32,
    pub path_len: u32,
    pub argv_len: u32,
    /// whoever asks for a member of its own finds room here
    pub _reserved: u64,
}
}

shared! {
/// What a descriptor is open to.
#[derive(Default)]
pub struct Descriptor: 8 {
    /// of its inode, type and permissions; 0: it is not open
    pub mode: u32,
    /// of a device: `major << 20 | minor`
    pub rdev: u32,
}
}

/// Flags of [`Root`].
pub mod root_flags {
    /// its descriptors could be looked at
    pub const DESCRIPTORS: u32 = 1;
    /// its environment could be looked at
    pub const ENVIRONMENT: u32 = 1 << 1;
    /// it has a KUBERNETES_EXEC_AUDIT_ID, and a SPO_EXEC_REQUEST_UID
    pub const AUDIT_ID: u32 = 1 << 2;
    pub const REQUEST_UID: u32 = 1 << 3;
    /// which are longer than what is here
    pub const AUDIT_ID_CUT: u32 = 1 << 4;
    pub const REQUEST_UID_CUT: u32 = 1 << 5;
    /// the container's init had them when it began
    pub const INIT_AUDIT_ID: u32 = 1 << 6;
    pub const INIT_REQUEST_UID: u32 = 1 << 7;
    /// nobody looked at the init's environment
    pub const INIT_UNKNOWN: u32 = 1 << 8;
}

shared! {
/// In an [`Exec`]: how a session's root began. Followed by `audit_id_len` and then `request_uid_len` bytes of values.
pub struct Root: 48 {
    /// bytes of its environment, and how many of them were searched
    pub environ_total: u64,
    pub environ_searched: u64,
    pub descriptors: [Descriptor; 3],
    /// of [`root_flags`]
    pub flags: u32,
    pub audit_id_len: u16,
    pub request_uid_len: u16,
}
}

shared! {
/// More of the argv of the [`Exec`] of the same task at `exec_time`. Followed by its bytes.
pub struct ArgvChunk: 56 {
    pub header: Header,
    pub key: TaskKey,
    /// `header.time` of the exec
    pub exec_time: u64,
    /// where these bytes stand in what is kept (head, then tail)
    pub offset: u32,
    pub len: u32,
}
}

/// Flags of [`Exit`].
pub mod exit_flags {
    /// the session has no task left
    pub const LAST: u32 = 1;
    /// the process ran a command of its session that was told
    pub const EXECUTED: u32 = 1 << 1;
    /// the kernel skipped every hook on its end: the time is when its memory was given back, and `parent` is not known
    pub const LATE: u32 = 1 << 2;
}

shared! {
/// The end of a process of a session: only of those that ran a command, and of the last one.
pub struct Exit: 96 {
    pub header: Header,
    pub key: TaskKey,
    pub parent: TaskKey,
    /// the session
    pub entry: TaskKey,
    /// as `wait` has it: signal in the low seven bits, 0x80 core, code in bits 8 to 15
    pub code: u32,
    /// of [`exit_flags`]
    pub flags: u32,
    /// records of this session that did not fit into the ring, so far
    pub lost: u64,
    /// its execs that were refused, as they were over its share of the ring, and their exits, so far
    pub refused: u64,
}
}

shared! {
/// A task entered a running container. It is a session from its first command on; until then a runtime's stage.
pub struct Enter: 184 {
    pub header: Header,
    /// the task that is in now; its key is the session's
    pub task: Task,
    /// who put it there: the forking or moving task; the task itself, where it moved itself
    pub by: TaskKey,
    pub by_comm: [u8; 16],
    /// cgroup id of the container
    pub container: u64,
    /// the session-to-be that this entry replaces (a join that was a runtime's stage), or none
    pub replaces: TaskKey,
    /// of [`entry_kind`]
    pub entry_kind: u8,
    pub _pad: [u8; 7],
    pub _reserved: u64,
}
}

shared! {
/// A task above another: behind a [`Join`], the nearest first.
pub struct Ancestor: 32 {
    pub key: TaskKey,
    pub comm: [u8; 16],
}
}

/// Ancestors that are told, at most.
pub const ANCESTORS_MAX: usize = 8;

shared! {
/// A task outside every container joined a mount or pid namespace that is not the host's. Followed by `ancestors` of
/// [`Ancestor`]: none, where they were told before.
pub struct Join: 152 {
    pub header: Header,
    /// `mnt_ns` is what it sees now
    pub task: Task,
    /// the session-to-be; the task's own key unless it inherited one
    pub entry: TaskKey,
    /// cgroup id of the container; 0: not known to the kernel side
    pub container: u64,
    /// the mount namespace it joined, the pid namespace its children will be in; 0: none
    pub mnt_ns: u32,
    pub pid_ns: u32,
    pub ancestors: u32,
    pub _pad: u32,
}
}

shared! {
/// Followed by `path_len` bytes of path from the hierarchy's root.
pub struct CgroupCreated: 56 {
    pub header: Header,
    pub id: u64,
    pub parent: u64,
    /// cgroup id of the container that this is, or is below of; 0: none, or not yet
    pub container: u64,
    pub path_len: u32,
    pub _pad: u32,
}
}

shared! {
pub struct CgroupRemoved: 32 {
    pub header: Header,
    pub id: u64,
}
}

shared! {
/// A container's init runs: its first exec inside.
pub struct ContainerStarted: 72 {
    pub header: Header,
    pub cgroup_id: u64,
    pub init: TaskKey,
    pub mnt_ns: u32,
    pub pid_ns: u32,
    /// cgroup id of another container, whose pid namespace it is; 0: it is its own, or the host's
    pub pid_owner: u64,
    pub _reserved: u64,
}
}

shared! {
/// A container's init is gone.
pub struct ContainerEnded: 56 {
    pub header: Header,
    pub cgroup_id: u64,
    pub init: TaskKey,
    pub code: u32,
    pub _pad: u32,
}
}

shared! {
/// One row of the task iterator: not in the ring, but read from the iterator's file.
pub struct TaskStart: 16 {
    pub start_time: u64,
    pub pid: u32,
    pub _pad: u32,
}
}
