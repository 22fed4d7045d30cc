//! setns succeeded: a task of the host may have joined a container's namespaces.

use aya_ebpf::EbpfContext;
use podtrail_ebpf::{
    layout::{Join, TaskKey, entry_kind, kind, task_kind},
    rules::{self, Namespaces},
};

use crate::{
    exec, kernel,
    maps::{self, config},
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
    match rules::join(followed.as_deref(), session.as_deref(), &place, now, host) {
        rules::Join::Ignore => return,
        rules::Join::Start => {
            let mut new = exec::new_session(&key, container, entry_kind::JOIN, host.mnt, 0);
            new.joined_mnt_ns = mnt;
            new.joined_pid_ns = pid;
            if !maps::open_session(&key, &new) {
                return;
            }
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
    report(task, cgroup_id, &entry, container, mnt, pid);
}

#[inline(always)]
fn report(task: u64, cgroup_id: u64, entry: &TaskKey, container: u64, mnt: u32, pid: u32) {
    let Some(buffer) = ring::scratch() else { return };
    let record = buffer.cast::<Join>();
    // SAFETY: a Join fits into the scratch buffer, which is aligned to 8; every field is written.
    unsafe {
        (*record).header = ring::header(kind::JOIN, size_of::<Join>() as u32, ring::now());
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
        (*record)._reserved = 0;
    }
    ring::send(kind::JOIN, buffer, size_of::<Join>() as u64, Some(entry));
}
