//! Fork and exit: tasks come into sessions, and leave them.

use core::ffi::c_void;

use aya_ebpf::{helpers::generated::bpf_seq_write, programs::BtfTracePointContext};
use podtrail_ebpf::{
    layout::{
        ContainerEnded, Enter, Exit, FollowedTask, TaskKey, TaskStart, cgroup_state, counter, entry_kind,
        executed, exit_flags, kind, task_kind,
    },
    rules::{self, Place},
};

use crate::{
    exec,
    kernel::{self, read},
    maps::{self, NAMESPACES, TASKS, note, offset},
    ring, share,
};

/// `parent` is the forking task, and current; its child may have another `real_parent`. `note` is the hook's, of [`maps::note`]:
/// what the first of the two did, the second leaves.
#[inline(always)]
pub fn on_fork(_ctx: &BtfTracePointContext, note: u32, parent: u64, child: u64) {
    let child_tgid = kernel::tgid(child);
    if kernel::tid(child) != child_tgid {
        return; // a thread
    }
    let parent_key = kernel::key(parent);
    let followed = maps::task(&parent_key);
    // The same css_set means the same cgroups: most forks end here.
    let from_set: u64 = read(parent, offset!(task_cgroups));
    let to_set: u64 = read(child, offset!(task_cgroups));
    if followed.is_none() && from_set == to_set {
        return;
    }
    let mut session = None;
    if let Some(followed) = &followed
        && followed.kind == task_kind::SESSION
    {
        session = maps::session(&followed.entry);
    }
    let (mut from, mut to) = (Place::HOST, Place::HOST);
    let mut cgroup_id = 0;
    if from_set != to_set {
        cgroup_id = kernel::cgroup_id_of_css_set(to_set);
        from = maps::place(kernel::cgroup_id_of_css_set(from_set));
        to = maps::place(cgroup_id);
    }
    let child_key = kernel::key(child);
    if note == note::FORK2 && is_done(&child_key, &to) {
        return;
    }
    match rules::fork(followed.as_deref(), session.as_deref(), &from, &to) {
        rules::Fork::Ignore => {}
        rules::Fork::Inherit => {
            let Some(followed) = followed else { return };
            let execs = kernel::execs(child);
            let copy = FollowedTask { executed: executed::NOTHING, init: 0, execs, ..*followed };
            if maps::follow(&child_key, &copy) {
                if let Some(session) = session {
                    maps::add(&raw mut session.live, 1);
                }
            } else if let Some(session) = session {
                maps::add((&raw mut session.lost).cast(), 1);
            }
        }
        rules::Fork::First => maps::first_entry(to.id, &child_key, kernel::mnt_ns(parent)),
        rules::Fork::Leave => {
            let workload =
                FollowedTask::new(TaskKey::NONE, from.id, task_kind::WORKLOAD, kernel::execs(child));
            maps::follow(&child_key, &workload);
        }
        rules::Fork::Enter => {
            let replaces =
                if session.is_some() { followed.map_or(TaskKey::NONE, |f| f.entry) } else { TaskKey::NONE };
            enter(
                note,
                child,
                &child_key,
                cgroup_id,
                to.id,
                parent,
                &parent_key,
                entry_kind::RUNTIME,
                &replaces,
            );
        }
    }
}

/// Whether the fork of a child into a cgroup was seen already. The child has not run yet.
#[inline(always)]
fn is_done(child: &TaskKey, to: &Place) -> bool {
    maps::task(child).is_some() || maps::cgroup(to.id).is_some_and(|cgroup| cgroup.init == *child)
}

/// A task is in a running container now: a session-to-be. `note` is the hook's, of [`maps::note`].
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "inlined; a struct would stand on the stack")]
pub fn enter(
    note: u32,
    task: u64,
    key: &TaskKey,
    cgroup_id: u64,
    container: u64,
    by: u64,
    by_key: &TaskKey,
    entry_kind: u8,
    replaces: &TaskKey,
) {
    let new = exec::new_session(by_key, container, entry_kind, kernel::mnt_ns(by), 0);
    if !maps::open_session(key, &new, kernel::execs(task)) {
        return;
    }
    let Some(buffer) = ring::note(note) else { return };
    let record = buffer.cast::<Enter>();
    // SAFETY: an Enter fits into the note, which is aligned to 8; every field is written.
    unsafe {
        (*record).header = ring::header(kind::ENTER, size_of::<Enter>() as u32, new.time);
        kernel::fill_task(
            &raw mut (*record).task,
            task,
            cgroup_id,
            kernel::mnt_ns(task),
            kernel::pid_ns(task),
        );
        (*record).by = *by_key;
        kernel::copy((&raw mut (*record).by_comm).cast(), 16, by, offset!(task_comm));
        (*record).container = container;
        (*record).replaces = *replaces;
        (*record).entry_kind = entry_kind;
        (*record)._pad = [0; 7];
        (*record)._reserved = 0;
    }
    ring::send_note(kind::ENTER, buffer, size_of::<Enter>() as u64, Some(key));
}

/// `SIGNAL_GROUP_EXIT` (include/linux/sched/signal.h)
const GROUP_EXIT: u32 = 4;

#[inline(always)]
pub fn on_exit(task: u64) {
    let key = kernel::key(task);
    let Some(followed) = maps::task(&key) else { return };
    let signal: u64 = read(task, offset!(task_signal));
    // Only the last thread ends the process; the leader may go before it.
    if read::<i32>(signal, offset!(signal_live)) != 0 {
        return;
    }
    end(task, &key, *followed, 0);
}

/// Its memory is given back, some time after its end. The kernel calls this where nothing is preempted (from RCU), so that it is skipped for
/// nobody: who is followed still had an end that no hook was called for, and it is told now.
#[inline(always)]
pub fn on_free(task: u64) {
    // Of threads that are not the leader, what points to the leader may be stale.
    if kernel::tid(task) != kernel::tgid(task) {
        return;
    }
    let key = kernel::key(task);
    if let Some(followed) = maps::task(&key) {
        end(task, &key, *followed, exit_flags::LATE);
    }
}

/// A process has ended. `late`: [`exit_flags::LATE`] or 0.
#[inline(always)]
fn end(task: u64, key: &TaskKey, followed: FollowedTask, late: u32) {
    // Of two threads that both see themselves last, one removes the process.
    if TASKS.remove(key).is_err() {
        return;
    }
    let signal: u64 = read(task, offset!(task_signal));
    let code: u32 = if read::<u32>(signal, offset!(signal_flags)) & GROUP_EXIT != 0 {
        read(signal, offset!(signal_exit_code))
    } else {
        let leader: u64 = read(task, offset!(task_leader));
        read(leader, offset!(task_exit_code))
    };
    match followed.kind {
        task_kind::SESSION => {
            // Whoever did not hear of the beginning does not hear of the end: it counts as refused, too.
            if followed.executed == executed::REFUSED
                && let Some(session) = maps::session(&followed.entry)
            {
                share::refuse(session);
            }
            exec::lose_skipped(&followed, kernel::execs(task));
            let mut flags = 0;
            let left = maps::leave(&followed.entry);
            if left.session.is_none() {
                flags |= exit_flags::LAST;
            }
            if followed.executed == executed::TOLD {
                flags |= exit_flags::EXECUTED;
            }
            if flags != 0 {
                // Never refused, but what else the session sends has to make room for it.
                if let Some(session) = left.session {
                    share::charge(session, size_of::<Exit>() as u64);
                }
                let record = Exit {
                    header: ring::header(kind::EXIT, size_of::<Exit>() as u32, ring::now()),
                    key: *key,
                    // It may be gone itself by then.
                    parent: if late == 0 { kernel::parent_key(task) } else { TaskKey::NONE },
                    entry: followed.entry,
                    code,
                    flags: flags | late,
                    lost: left.lost,
                    refused: left.refused,
                };
                // What is counted as lost would have been an event.
                let lost = if flags & exit_flags::EXECUTED != 0 {
                    counter::LOST + u32::from(kind::EXIT)
                } else {
                    counter::LOST_LAST
                };
                ring::send_small_or(kind::EXIT, lost, &record, Some(&followed.entry));
            }
            if followed.init != 0 {
                end_container(key, followed.container, code);
            }
        }
        task_kind::INIT => end_container(key, followed.container, code),
        _ => {}
    }
}

#[inline(always)]
fn end_container(init: &TaskKey, container: u64, code: u32) {
    if let Some(cgroup) = maps::cgroup(container)
        && cgroup.init == *init
    {
        forget_namespace(cgroup.mnt_ns, container);
        forget_namespace(cgroup.pid_ns, container);
        cgroup.init = TaskKey::NONE;
        cgroup.state = cgroup_state::ENDED;
        if let Some(pod) = maps::cgroup(cgroup.parent)
            && pod.first == container
        {
            pod.first = 0;
        }
    }
    let record = ContainerEnded {
        header: ring::header(kind::CONTAINER_ENDED, size_of::<ContainerEnded>() as u32, ring::now()),
        cgroup_id: container,
        init: *init,
        code,
        _pad: 0,
    };
    ring::send_small(kind::CONTAINER_ENDED, &record, None);
}

#[inline(always)]
fn forget_namespace(inum: u32, container: u64) {
    if inum == 0 {
        return;
    }
    // SAFETY: the value is a plain integer.
    if NAMESPACES.get_ptr(inum).is_some_and(|owner| unsafe { *owner } == container) {
        let _ = NAMESPACES.remove(inum);
    }
}

/// One task of the iteration: exact start times of processes.
#[inline(always)]
pub fn on_iterate(ctx: *mut c_void) {
    // SAFETY: the context is two pointers; the kernel's type information lets the verifier check these loads. `meta`'s
    // first member is the seq_file (include/linux/bpf.h).
    let (seq, task) = unsafe {
        let meta = *ctx.cast::<*const *mut c_void>();
        let task = *ctx.cast::<u64>().add(1);
        (*meta, task)
    };
    if task == 0 {
        return; // the end
    }
    let tgid = kernel::tgid(task);
    if kernel::tid(task) != tgid {
        return;
    }
    let row = TaskStart { start_time: kernel::key(task).start_time, pid: tgid, _pad: 0 };
    // SAFETY: writes the row's bytes to the reader.
    let full = unsafe {
        bpf_seq_write(seq.cast(), (&raw const row).cast_mut().cast(), size_of::<TaskStart>() as u32)
    };
    if full != 0 {
        maps::count(counter::UNREADABLE);
    }
}
