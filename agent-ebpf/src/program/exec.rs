//! A program runs: whose is it, and what begins with it. What is told of it is in [`report`].

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use podtrail_ebpf::{
    environ::found,
    layout::{
        ContainerStarted, FollowedTask, Session, TaskKey, cgroup_state, counter, entry_kind, exec_flags,
        kind, task_kind,
    },
    rules::{self, Known, Namespaces},
};

use crate::{
    environ,
    kernel::{self, begins, read},
    maps::{self, config, offset},
    report, ring,
};

/// What is to be done, as [`podtrail_decide`] answers it.
mod action {
    pub const NOTHING: u32 = 0;
    pub const START: u32 = 1;
    pub const START_BESIDE: u32 = 2;
    pub const STAGING: u32 = 3;
    /// a session's first command, and any other
    pub const FIRST: u32 = 4;
    pub const COMMAND: u32 = 5;
    pub const OPEN: u32 = 6;
}

/// With what, in the scratch buffer.
#[repr(C)]
struct Decided {
    /// the task's own cgroup
    cgroup_id: u64,
    container: u64,
    /// the container whose pid namespace it runs in; 0: none
    beside: u64,
    /// of the task's session
    entry: TaskKey,
    entry_kind: u32,
    /// what was found in the environment of its root
    known: u32,
}

/// Calls one step after the other, all of them global functions, and keeps next to nothing on the stack below them. `hook` is of
/// [`podtrail_ebpf::layout::scratch`]: each does what those before it were skipped for.
#[inline(always)]
pub fn on_exec(hook: u32, old_tid: u32, bprm: u64) {
    let action = podtrail_decide(hook, bprm);
    if action == action::NOTHING {
        return;
    }
    let Some(buffer) = ring::scratch(hook) else { return };
    let decided = buffer.cast::<Decided>();
    // SAFETY: it was written there just now.
    let (cgroup_id, container, beside, entry_kind, known, entry) = unsafe {
        let Decided { cgroup_id, container, beside, entry, entry_kind, known } = *decided;
        (cgroup_id, container, beside, entry_kind, known, entry)
    };
    let flags = match action {
        action::START => {
            podtrail_start(hook, container, environ::of_root(hook), 0);
            return;
        }
        action::START_BESIDE => {
            let found = environ::of_root(hook);
            podtrail_start(hook, container, found, beside);
            if podtrail_open(hook, container, entry_kind, found) == 0 {
                return;
            }
            exec_flags::ROOT
        }
        action::STAGING => exec_flags::STAGING,
        action::OPEN => {
            if podtrail_open(hook, container, entry_kind, environ::of_root(hook)) == 0 {
                return;
            }
            exec_flags::ROOT
        }
        // What its root had is what others may differ from.
        action::COMMAND if known & u32::from(found::LOOKED) == 0 => 0,
        _ => environ::podtrail_environ_in_session(
            hook,
            entry.start_time,
            entry.tgid,
            u32::from(action == action::FIRST),
        ),
    };
    report::podtrail_report(hook, old_tid, bprm, cgroup_id, flags);
}

/// Whose the exec is: one of [`action`], with the rest in the scratch buffer. A global function, as `podtrail_report`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn podtrail_decide(hook: u32, bprm: u64) -> u32 {
    let task = kernel::current();
    let key = kernel::key(task);
    if key.tgid == 0 {
        maps::count(counter::UNREADABLE);
        return action::NOTHING;
    }
    let host = maps::host();
    let ns = Namespaces { mnt: kernel::mnt_ns(task), pid: kernel::pid_ns(task) };
    let cgroup_id = kernel::cgroup_id(task);

    let mut followed = maps::task(&key);
    if let Some(followed) = followed.as_deref_mut() {
        let execs = kernel::execs(task);
        if followed.execs == execs {
            return action::NOTHING; // it was done already
        }
        lose_skipped(followed, execs.wrapping_sub(1));
        followed.execs = execs;
    }
    let mut session = None;
    if let Some(followed) = &followed
        && followed.kind == task_kind::SESSION
    {
        session = maps::session(&followed.entry);
    }
    let place = maps::place(cgroup_id);
    let foreign = ns.mnt != host.mnt || ns.pid != host.pid;
    // Numbers, and no options: 5.10 refuses to read what is nothing's, which the compiler may do.
    let owner = if foreign && session.is_none() { owner(ns, host, &place) } else { 0 };
    let beside = if foreign && session.is_none() { beside(ns, host, &place) } else { 0 };
    let known = Known {
        task: followed.as_deref(),
        session: session.as_deref(),
        place,
        owner: (owner != 0).then_some(owner),
        beside: beside != 0,
    };
    let self_exec = known.place.state == cgroup_state::FIRST && names_itself(bprm);
    let Some(buffer) = ring::scratch(hook) else { return action::NOTHING };
    let mut decided = Decided {
        cgroup_id,
        container: known.place.id,
        beside,
        entry: followed.as_deref().map_or(TaskKey::NONE, |followed| followed.entry),
        entry_kind: 0,
        known: 0,
    };
    let action = match rules::exec(&known, ns, host, self_exec) {
        rules::Exec::Ignore => {
            let asked =
                rules::may_have_host_root(&known, ns, host) && kernel::podtrail_has_host_root(task) != 0;
            // One that had it from the start has nothing else.
            if !asked || maps::cgroup(known.place.id).is_none_or(|cgroup| cgroup.host_root != 0) {
                return action::NOTHING;
            }
            decided.entry_kind = entry_kind::HOST_NS.into();
            action::OPEN
        }
        rules::Exec::Host => {
            if let Some(cgroup) = maps::cgroup(known.place.id) {
                cgroup.state = cgroup_state::HOST;
            }
            return action::NOTHING;
        }
        rules::Exec::Init => action::START,
        rules::Exec::Ephemeral => {
            decided.entry_kind = entry_kind::EPHEMERAL.into();
            action::START_BESIDE
        }
        rules::Exec::Staging => {
            let Some(session) = session else { return action::NOTHING };
            session.staged += 1;
            action::STAGING
        }
        rules::Exec::Command => {
            let Some(session) = session else { return action::NOTHING };
            let first = session.announced == 0;
            session.announced = 1;
            decided.known = session.environment.into();
            if ns.mnt != host.mnt {
                nested_namespace(ns.mnt, session.container);
            }
            if first { action::FIRST } else { action::COMMAND }
        }
        rules::Exec::New(kind, container) => {
            decided.entry_kind = kind.into();
            decided.container = container;
            action::OPEN
        }
    };
    // SAFETY: a Decided fits into the scratch buffer, which is aligned to 8.
    unsafe { buffer.cast::<Decided>().write(decided) };
    action
}

/// Counts execs of a session's task for which the kernel skipped every hook, when it counts `execs` up to the last one that was seen.
#[inline(always)]
pub fn lose_skipped(followed: &FollowedTask, execs: u64) {
    if followed.kind == task_kind::SESSION && followed.execs != 0 && execs > followed.execs {
        ring::lose(counter::SKIPPED_EXEC, execs - followed.execs, Some(&followed.entry));
    }
}

/// A session as it begins, with one task in it.
#[inline(always)]
pub fn new_session(by: &TaskKey, container: u64, kind: u8, origin_mnt_ns: u32, announced: u8) -> Session {
    Session { origin_mnt_ns, announced, ..Session::new(container, ring::now(), *by, kind) }
}

/// The container that the namespaces belong to, or 0, for a task outside every container. Only those of a container's
/// init count: the number of a namespace that a container made for itself may be used again by the host.
#[inline(always)]
fn owner(ns: Namespaces, host: Namespaces, place: &rules::Place) -> u64 {
    if place.state == cgroup_state::RUNNING {
        // Most execs of a node are a container's workload: what follows is for others.
        if ns.mnt != host.mnt && ns.mnt != place.mnt_ns {
            nested_namespace(ns.mnt, place.id);
        }
        return 0;
    }
    if place.is_container() || place.state == cgroup_state::FIRST {
        return 0;
    }
    if ns.mnt != host.mnt
        && let Some(container) = maps::owner_of(ns.mnt)
        && maps::cgroup(container).is_some_and(|c| c.mnt_ns == ns.mnt)
    {
        return container;
    }
    if ns.pid != host.pid {
        return maps::owner_of(ns.pid).unwrap_or(0);
    }
    0
}

/// A container's task sees a mount namespace that is not its init's: keep it, so that a join to it is seen.
#[inline(always)]
fn nested_namespace(mnt_ns: u32, container: u64) {
    maps::keep_namespace(mnt_ns, container);
}

/// Opens a session whose entry is the current task's exec, in whose environment `bits` were found. A global function, as `podtrail_report`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn podtrail_open(hook: u32, container: u64, entry_kind: u32, bits: u32) -> u32 {
    let task = kernel::current();
    let key = kernel::key(task);
    // A container's first task was put there by its runtime, whose part in it is over.
    let by = if entry_kind == u32::from(entry_kind::EPHEMERAL) { TaskKey::NONE } else { key };
    let mut new = new_session(&by, container, entry_kind as u8, config!(host_mnt_ns), 1);
    environ::keep(hook, &mut new, bits as u8);
    if !maps::open_session(&key, &new, kernel::execs(task)) {
        return 0;
    }
    // Its end is the container's, too.
    if maps::cgroup(container).is_some_and(|cgroup| cgroup.init == key)
        && let Some(task) = maps::task(&key)
    {
        task.init = 1;
    }
    1
}

/// The container whose pid namespace the first task of another one runs in, where that is not its pod's sandbox, whose
/// namespace all containers of a pod may be told to share; 0: none.
#[inline(always)]
fn beside(ns: Namespaces, host: Namespaces, place: &rules::Place) -> u64 {
    if ns.pid == host.pid || !place.may_start() {
        return 0;
    }
    let Some(owner) = maps::owner_of(ns.pid) else { return 0 };
    if owner == place.id || maps::is_sandbox(owner) { 0 } else { owner }
}

/// The current task is the init of the container, and runs; in its environment `bits` were found, and it runs in the pid
/// namespace of `pid_owner`, if that is not 0. A global function, as `podtrail_report`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn podtrail_start(hook: u32, container: u64, bits: u32, pid_owner: u64) -> u32 {
    let task = kernel::current();
    let host = maps::host();
    let key = kernel::key(task);
    let Some(cgroup) = maps::cgroup(container) else { return 0 };
    let mnt = kernel::mnt_ns(task);
    let pid = kernel::pid_ns(task);
    cgroup.init = key;
    cgroup.mnt_ns = if mnt == host.mnt { 0 } else { mnt };
    cgroup.pid_ns = if pid == host.pid { 0 } else { pid };
    cgroup.state = cgroup_state::RUNNING;
    cgroup.environment = bits as u8;
    cgroup.host_root = kernel::podtrail_has_host_root(task) as u8;
    let (mnt_ns, pid_ns) = (cgroup.mnt_ns, cgroup.pid_ns);
    if let Some(pod) = maps::cgroup(cgroup.parent)
        && pod.first == 0
    {
        pod.first = container;
    }
    if mnt_ns != 0 {
        maps::keep_namespace(mnt_ns, container);
    }
    // Containers of a pod may share a pid namespace: it belongs to the first.
    if pid_ns != 0 {
        maps::keep_namespace(pid_ns, container);
    }
    let init = FollowedTask::new(TaskKey::NONE, container, task_kind::INIT, kernel::execs(task));
    maps::follow(&key, &init);
    let Some(buffer) = ring::scratch(hook) else { return 0 };
    let record = buffer.cast::<ContainerStarted>();
    // SAFETY: a ContainerStarted fits into the scratch buffer, which is aligned to 8; every field is written.
    unsafe {
        (*record).header =
            ring::header(kind::CONTAINER_STARTED, size_of::<ContainerStarted>() as u32, ring::now());
        (*record).cgroup_id = container;
        (*record).init = key;
        (*record).mnt_ns = mnt_ns;
        (*record).pid_ns = pid_ns;
        (*record).pid_owner = pid_owner;
        (*record)._reserved = 0;
    }
    ring::send(kind::CONTAINER_STARTED, buffer, size_of::<ContainerStarted>() as u64, None);
    1
}

/// Whether the program was named through a descriptor, as runtimes do to run a sealed copy of themselves.
#[inline(always)]
fn names_itself(bprm: u64) -> bool {
    let mut name = [0u8; 16];
    let filename: u64 = read(bprm, offset!(bprm_filename));
    // SAFETY: writes at most the length of `name`.
    unsafe { bpf_probe_read_kernel_str(name.as_mut_ptr().cast(), 16, filename as *const _) };
    begins(&name, b"/proc/self/") || begins(&name, b"/dev/fd/")
}
