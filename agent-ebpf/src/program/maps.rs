//! The maps, the globals, and the few steps on them that several hooks share.

use core::ptr;

use aya_ebpf::{
    Global,
    macros::map,
    maps::{Array, HashMap, PerCpuArray, ProgramArray, RingBuf},
};
use podtrail_ebpf::{
    layout::{
        ABSENT, Cgroup, Config, FollowedTask, HostRoot, LAYOUT_VERSION, Session, TaskKey, cgroup_state,
        counter, scratch, task_kind,
    },
    offsets::Offsets,
    rules::{self, Namespaces, Place},
};

#[unsafe(no_mangle)]
pub static CONFIG: Global<Config> = Global::new(Config {
    version: LAYOUT_VERSION,
    host_mnt_ns: 0,
    host_pid_ns: 0,
    host_user_ns: 0,
    argv_limit: 64 * 1024,
    cgroup_subsys: ABSENT,
    hierarchy: 0,
    diagnose: 0,
    argv_budget: 4 * 1024 * 1024,
    registers_helper: 0,
    execve: ABSENT,
    execveat: ABSENT,
});

#[unsafe(no_mangle)]
pub static HOST_ROOT: Global<HostRoot> =
    Global::new(HostRoot { inode: 0, inode_high: 0, device: 0, _pad: 0 });

#[unsafe(no_mangle)]
pub static OFFSETS: Global<Offsets> = Global::new(Offsets::NONE);

/// One field of a global, so that the verifier sees a constant and prunes branches for what the kernel lacks.
macro_rules! global {
    ($global:ident: $type:ty, $field:ident) => {
        $crate::maps::load(
            (&raw const $crate::maps::$global)
                .cast::<u8>()
                .wrapping_add(core::mem::offset_of!($type, $field))
                .cast::<u32>(),
        )
    };
}

/// Reads a field of a global; volatile, because user space sets it after compilation.
#[inline(always)]
pub fn load(field: *const u32) -> u32 {
    // SAFETY: only `global!` calls it, with the address of a u32 in an initialized static.
    unsafe { ptr::read_volatile(field) }
}

macro_rules! config {
    ($field:ident) => {
        $crate::maps::global!(CONFIG: podtrail_ebpf::layout::Config, $field)
    };
}
macro_rules! offset {
    ($field:ident) => {
        $crate::maps::global!(OFFSETS: podtrail_ebpf::offsets::Offsets, $field)
    };
}
pub(crate) use {config, global, offset};

/// Sizes are set by user space at load.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(4 * 1024 * 1024, 0);

/// Whether the reader sleeps: [`podtrail_ebpf::layout::reader`].
#[map]
pub static READER: Array<u32> = Array::with_max_entries(1, 0);

#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(counter::COUNT, 0);

/// Preallocated and never an LRU: eviction would lose a live session silently.
#[map]
pub static TASKS: HashMap<TaskKey, FollowedTask> = HashMap::with_max_entries(65_536, 0);

#[map]
pub static SESSIONS: HashMap<TaskKey, Session> = HashMap::with_max_entries(16_384, 0);

#[map]
pub static CGROUPS: HashMap<u64, Cgroup> = HashMap::with_max_entries(16_384, 0);

/// Inode number of a container's mount or pid namespace → cgroup id of the container.
#[map]
pub static NAMESPACES: HashMap<u32, u64> = HashMap::with_max_entries(16_384, 0);

/// Records are built here: the largest is far over the stack's 512 bytes. A per-CPU value may have 32 KiB at most. Each hook
/// has its own: another one may come in between on the same processor, since programs of fexit can be preempted, and those of
/// tracepoints too from Linux 7 on. The same one cannot: the kernel does not run a program within itself.
/// How many there are is set by user space at load.
#[map]
pub static SCRATCH: PerCpuArray<[u8; SCRATCH_SIZE]> = PerCpuArray::with_max_entries(scratch::COUNT_BEHIND, 0);
pub const SCRATCH_SIZE: usize = 32 * 1024;

/// The same for hooks whose records are a path at most.
#[map]
pub static NOTES: PerCpuArray<[u8; NOTE_SIZE]> = PerCpuArray::with_max_entries(note::COUNT, 0);
pub const NOTE_SIZE: usize = 8 * 1024;
/// Which of [`NOTES`], by hook.
pub mod note {
    pub const MKDIR: u32 = 0;
    pub const ATTACH: u32 = 1;
    pub const FORK: u32 = 2;
    pub const FORK2: u32 = 3;
    pub const SETNS: u32 = 4;
    pub const COUNT: u32 = 5;
}

/// The program that a hook hands over to. A map for each hook: the kernel keeps programs of different arguments apart
/// (`__bpf_prog_map_compatible`, kernel/bpf/core.c).
#[map]
pub static TO_MKDIR: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
pub static TO_RMDIR: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
pub static TO_ATTACH: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
pub static TO_FORK: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
pub static TO_EXEC: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
pub static TO_EXIT: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
pub static TO_FORK2: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
pub static TO_EXEC2: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
pub static TO_EXEC3: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
pub static TO_EXEC4: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
pub static TO_EXIT2: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
pub static TO_EXECED: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
pub static TO_EXITED: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
pub static TO_FREED: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
pub static TO_SETNS_FEXIT: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
pub static TO_SETNS_KPROBE: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
pub static TO_SETNS_TRACEPOINT: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
pub static TO_EXECVE_FEXIT: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
pub static TO_EXECVE_KPROBE: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
pub static TO_EXECVE_TRACEPOINT: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
pub static TO_EXECVEAT_FEXIT: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
pub static TO_EXECVEAT_KPROBE: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
pub static TO_EXECVEAT_TRACEPOINT: ProgramArray = ProgramArray::with_max_entries(1, 0);

#[inline(always)]
pub fn count(index: u32) {
    count_many(index, 1);
}

#[inline(always)]
pub fn count_many(index: u32, number: u64) {
    // Another hook may come in between on the same CPU.
    if let Some(value) = COUNTERS.get_ptr_mut(index) {
        add(value.cast(), number as i64);
    }
}

/// The host's own namespaces.
#[inline(always)]
pub fn host() -> Namespaces {
    Namespaces { mnt: config!(host_mnt_ns), pid: config!(host_pid_ns) }
}

#[inline(always)]
pub fn cgroup(id: u64) -> Option<&'static mut Cgroup> {
    // SAFETY: the verifier bounds the value; its fields are plain integers, and a racing writer at worst makes a
    // decision that is taken again at the next exec.
    CGROUPS.get_ptr_mut(id).map(|p| unsafe { &mut *p })
}

#[inline(always)]
pub fn task(key: &TaskKey) -> Option<&'static mut FollowedTask> {
    // SAFETY: as for `cgroup`; a task's value is written by the task itself.
    TASKS.get_ptr_mut(key).map(|p| unsafe { &mut *p })
}

#[inline(always)]
pub fn session(key: &TaskKey) -> Option<&'static mut Session> {
    // SAFETY: as for `cgroup`; counts are only changed atomically.
    SESSIONS.get_ptr_mut(key).map(|p| unsafe { &mut *p })
}

/// Where a cgroup id belongs.
#[inline(always)]
pub fn place(id: u64) -> Place {
    let Some(own) = cgroup(id) else { return Place::HOST };
    if own.state == cgroup_state::NEW || own.state == cgroup_state::FIRST {
        // Its parent may have become a container since it was made.
        if let Some(parent) = cgroup(own.parent) {
            if parent.state == cgroup_state::MEMBER {
                own.container = parent.container;
                own.state = cgroup_state::MEMBER;
            } else if parent.state == cgroup_state::RUNNING || parent.state == cgroup_state::ENDED {
                own.container = own.parent;
                own.state = cgroup_state::MEMBER;
            }
        }
    }
    if own.state != cgroup_state::MEMBER {
        return Place::of(id, own);
    }
    let container = own.container;
    match cgroup(container) {
        Some(top) if top.state != cgroup_state::MEMBER => Place::of(container, top),
        _ => Place::HOST,
    }
}

/// The container that a namespace belongs to, if that container still runs: inode numbers are used again.
#[inline(always)]
pub fn owner_of(inum: u32) -> Option<u64> {
    // SAFETY: the value is a plain integer.
    let container = unsafe { *NAMESPACES.get_ptr(inum)? };
    match cgroup(container) {
        Some(top) if top.state == cgroup_state::RUNNING => Some(container),
        _ => None,
    }
}

/// Whether a container is the first of its pod: the one that is there to hold the namespaces of all.
#[inline(always)]
pub fn is_sandbox(container: u64) -> bool {
    let Some(own) = cgroup(container) else { return false };
    let Some(parent) = cgroup(own.parent) else { return false };
    rules::is_sandbox(container, parent)
}

/// Keeps a namespace as a running container's; whoever has it keeps it, so that a workload that makes a cgroup look
/// like a new container takes over nothing.
#[inline(always)]
pub fn keep_namespace(inum: u32, container: u64) {
    if owner_of(inum).is_some() {
        return;
    }
    if NAMESPACES.insert(inum, container, 0).is_err() {
        count(counter::NAMESPACES_FULL);
    }
}

/// The first task of a new container is in.
#[inline(always)]
pub fn first_entry(container: u64, key: &TaskKey, maker_mnt_ns: u32) {
    if let Some(cgroup) = cgroup(container) {
        cgroup.state = match cgroup.state {
            cgroup_state::NEW => cgroup_state::FIRST,
            _ => cgroup_state::NAMED,
        };
        cgroup.init = *key;
        cgroup.mnt_ns = maker_mnt_ns;
        cgroup.pid_ns = 0;
    }
}

/// Makes a session of `key` and follows its first task. False: a table is full, and that is counted.
#[inline(always)]
pub fn open_session(key: &TaskKey, value: &Session, execs: u64) -> bool {
    if SESSIONS.insert(key, value, 0).is_err() {
        count(counter::SESSIONS_FULL);
        return false;
    }
    follow(key, &FollowedTask::new(*key, value.container, task_kind::SESSION, execs))
}

#[inline(always)]
pub fn follow(key: &TaskKey, value: &FollowedTask) -> bool {
    if TASKS.insert(key, value, 0).is_err() {
        count(counter::TASKS_FULL);
        return false;
    }
    true
}

/// What a session was when one of its tasks left it.
pub struct Left {
    /// `None`: it was the last, and the session is forgotten. Two tasks that leave at once may both hear that: user space
    /// expects it.
    pub session: Option<&'static mut Session>,
    pub lost: u64,
    pub refused: u64,
}

/// One task less in a session.
#[inline(always)]
pub fn leave(entry: &TaskKey) -> Left {
    let Some(session) = session(entry) else { return Left { session: None, lost: 0, refused: 0 } };
    add(&raw mut session.live, -1);
    // SAFETY: plain integers in a map value. The counts are read last: those that left before have counted what they had.
    let (live, lost, refused) = unsafe {
        (
            ptr::read_volatile(&raw const session.live),
            ptr::read_volatile(&raw const session.lost),
            ptr::read_volatile(&raw const session.refused),
        )
    };
    if live > 0 {
        return Left { session: Some(session), lost, refused };
    }
    let _ = SESSIONS.remove(entry);
    Left { session: None, lost, refused }
}

/// Adds atomically. rustc knows no atomics for BPF, and those that fetch are newer than 5.10.
#[inline(always)]
pub fn add(value: *mut i64, by: i64) {
    // SAFETY: `value` points into a map value, aligned to 8.
    unsafe { core::arch::asm!("lock *(u64 *)({at} + 0) += {by}", at = in(reg) value, by = in(reg) by) };
}
