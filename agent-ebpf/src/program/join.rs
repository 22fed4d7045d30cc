//! setns succeeded: a task of the host may have joined a container's namespaces.

use aya_ebpf::EbpfContext;
use podtrail_ebpf::{
    layout::{ANCESTORS_MAX, Ancestor, Join, TaskKey, entry_kind, kind, task_kind},
    rules::{self, Namespaces},
};

use crate::{
    exec,
    kernel::{self, read},
    maps::{self, config, note, offset},
    ring,
};

#[inline(always)]
pub fn on_setns<C: EbpfContext>(ctx: &C) {
    let task = kernel::current();
    let host = maps::host();
    let now = Namespaces { mnt: kernel::mnt_ns(task), pid: kernel::pid_ns_for_children(task) };
    // Only namespaces of a running container count: the node's network plug-ins and services use setns all day.
    let mnt_owner = if now.mnt == host.mnt { None } else { maps::owner_of(now.mnt) };
    let pid_owner = if now.pid == host.pid { None } else { maps::owner_of(now.pid) };
    let Some(container) = mnt_owner.or(pid_owner) else { return };
    let mnt = if mnt_owner.is_some() { now.mnt } else { 0 };
    let pid = if pid_owner.is_some() { now.pid } else { 0 };

    let key = kernel::key(task);
    let followed = maps::task(&key);
    let mut session = None;
    let mut entry = key;
    if let Some(followed) = &followed
        && followed.kind == task_kind::SESSION
    {
        entry = followed.entry;
        session = maps::session(&followed.entry);
    }
    let cgroup_id = kernel::cgroup_id(task);
    let place = maps::place(cgroup_id);
    let mut first = false;
    match rules::join(followed.as_deref(), session.as_deref(), &place, now, host) {
        rules::Join::Ignore => return,
        rules::Join::Start => {
            let mut new = exec::new_session(&key, container, entry_kind::JOIN, host.mnt, 0);
            new.joined_mnt_ns = mnt;
            new.joined_pid_ns = pid;
            if !maps::open_session(&key, &new, kernel::execs(task)) {
                return;
            }
            first = true;
        }
        rules::Join::Update => {
            if let Some(session) = session {
                session.joined_mnt_ns = mnt;
                session.joined_pid_ns = pid;
                session.container = container;
            }
        }
    }
    if config!(diagnose) != 0 {
        aya_log_ebpf::info!(
            ctx,
            "pid {} joined mnt {} pid {} of container {}",
            key.tgid,
            mnt,
            pid,
            container
        );
    }
    report(task, cgroup_id, &entry, container, mnt, pid, first);
}

#[inline(always)]
fn report(task: u64, cgroup_id: u64, entry: &TaskKey, container: u64, mnt: u32, pid: u32, first: bool) {
    let Some(buffer) = ring::note(note::SETNS) else { return };
    let record = buffer.cast::<Join>();
    // Later joins of the same task are of those that are above it now, too.
    let count = if first { podtrail_ancestors(task) & (2 * ANCESTORS_MAX as u32 - 1) } else { 0 };
    let size = size_of::<Join>() as u32 + count * size_of::<Ancestor>() as u32;
    // SAFETY: a Join fits into the note, which is aligned to 8; every field is written.
    unsafe {
        (*record).header = ring::header(kind::JOIN, size, ring::now());
        kernel::fill_task(
            &raw mut (*record).task,
            task,
            cgroup_id,
            kernel::mnt_ns(task),
            kernel::pid_ns(task),
        );
        (*record).entry = *entry;
        (*record).container = container;
        (*record).mnt_ns = mnt;
        (*record).pid_ns = pid;
        (*record).ancestors = count;
        (*record)._pad = 0;
    }
    ring::send_note(kind::JOIN, buffer, u64::from(size), Some(entry));
}

/// Writes who is above a task, the nearest first, behind a [`Join`] in the note; answers how many. A global
/// function, as `podtrail_report`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn podtrail_ancestors(task: u64) -> u32 {
    let Some(buffer) = ring::note(note::SETNS) else { return 0 };
    let mut task = task;
    let mut count = 0;
    while count < ANCESTORS_MAX {
        let parent: u64 = read(task, offset!(task_parent));
        let key = kernel::key(parent);
        // Above the first process stands the idle task, which has the number 0.
        if parent == task || key.tgid == 0 {
            break;
        }
        // SAFETY: that many fit into the note behind a Join; every field is written.
        unsafe {
            let ancestor = buffer.add(size_of::<Join>()).cast::<Ancestor>().add(count);
            (*ancestor).key = key;
            kernel::copy((&raw mut (*ancestor).comm).cast(), 16, parent, offset!(task_comm));
        }
        task = parent;
        count += 1;
    }
    count as u32
}
