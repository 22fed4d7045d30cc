//! Cgroups come and go, and tasks are moved between them.

use aya_ebpf::{helpers::generated::bpf_probe_read_kernel_str, programs::BtfTracePointContext};
use podtrail_ebpf::{
    layout::{
        CGROUP_PATH_MAX, Cgroup, CgroupCreated, CgroupRemoved, FollowedTask, TaskKey, cgroup_state, counter,
        kind, task_kind,
    },
    rules::{self, NAME_MAX},
};

use crate::{
    kernel::{self, read},
    maps::{self, CGROUPS, config, note, offset},
    ring, tasks,
};

/// Whether a cgroup is of the hierarchy whose ids are used: on v1 and hybrid machines the same happens in many.
#[inline(always)]
fn is_ours(cgroup: u64) -> bool {
    let root: u64 = read(cgroup, offset!(cgroup_root));
    read::<u32>(root, offset!(root_hierarchy)) == config!(hierarchy)
}

#[inline(always)]
pub fn on_mkdir(cgroup: u64, path: u64) {
    if !is_ours(cgroup) {
        return;
    }
    let id = kernel::id_of_cgroup(cgroup);
    // `cgroup.self` is the css of the cgroup itself; its parent's cgroup is the parent.
    let parent_css: u64 = read(cgroup, offset!(cgroup_self).wrapping_add(offset!(css_parent)));
    let parent_id = kernel::id_of_cgroup(read(parent_css, offset!(css_cgroup)));

    let mut name = [0u8; NAME_MAX];
    let kn: u64 = read(cgroup, offset!(cgroup_kn));
    let from: u64 = read(kn, offset!(kn_name));
    // SAFETY: writes at most the length of `name`.
    let length =
        unsafe { bpf_probe_read_kernel_str(name.as_mut_ptr().cast(), NAME_MAX as u32, from as *const _) };
    let length = if length > 0 { length as usize - 1 } else { 0 };

    let parent = maps::cgroup(parent_id);
    let kind = rules::name(&name, length);
    let state = rules::cgroup_created(kind, parent.as_deref());
    let mut container = 0;
    if state == cgroup_state::MEMBER
        && let Some(parent) = &parent
    {
        container = if parent.state == cgroup_state::MEMBER { parent.container } else { parent_id };
    }
    if state == cgroup_state::NAMED {
        container = id;
    }
    let mut value = Cgroup::new(parent_id, container, state);
    value.pod = u8::from(kind == rules::Name::Pod);
    if CGROUPS.insert(id, value, 0).is_err() {
        maps::count(counter::CGROUPS_FULL);
    }

    let Some(buffer) = ring::note(note::MKDIR) else { return };
    let record = buffer.cast::<CgroupCreated>();
    // SAFETY: header and path fit into the note, which is aligned to 8; every field is written.
    unsafe {
        let to = buffer.add(size_of::<CgroupCreated>());
        let length = bpf_probe_read_kernel_str(to.cast(), CGROUP_PATH_MAX as u32, path as *const _);
        let length = if length > 0 { (length as u32 - 1) & (2 * CGROUP_PATH_MAX as u32 - 1) } else { 0 };
        let size = size_of::<CgroupCreated>() as u32 + length;
        (*record).header = ring::header(kind::CGROUP_CREATED, size, ring::now());
        (*record).id = id;
        (*record).parent = parent_id;
        (*record).container = container;
        (*record).path_len = length;
        (*record)._pad = 0;
        ring::send_note(kind::CGROUP_CREATED, buffer, u64::from(size), None);
    }
}

#[inline(always)]
pub fn on_rmdir(cgroup: u64) {
    if !is_ours(cgroup) {
        return;
    }
    let id = kernel::id_of_cgroup(cgroup);
    let _ = CGROUPS.remove(id);
    let record = CgroupRemoved {
        header: ring::header(kind::CGROUP_REMOVED, size_of::<CgroupRemoved>() as u32, ring::now()),
        id,
    };
    ring::send_small(kind::CGROUP_REMOVED, &record, None);
}

/// `task` was moved to `cgroup`, by current.
#[inline(always)]
pub fn on_attach(_ctx: &BtfTracePointContext, cgroup: u64, task: u64) {
    if !is_ours(cgroup) || kernel::tid(task) != kernel::tgid(task) {
        return;
    }
    let key = kernel::key(task);
    let cgroup_id = kernel::id_of_cgroup(cgroup);
    let to = maps::place(cgroup_id);
    let followed = maps::task(&key);
    let mut session = None;
    if let Some(followed) = &followed
        && followed.kind == task_kind::SESSION
    {
        session = maps::session(&followed.entry);
    }
    let host = maps::host();
    let mut owner = None;
    let mnt = kernel::mnt_ns(task);
    if mnt != host.mnt {
        owner = maps::owner_of(mnt);
    }
    if owner.is_none() {
        let pid = kernel::pid_ns(task);
        if pid != host.pid {
            owner = maps::owner_of(pid);
        }
    }
    let mover = kernel::current();
    let mover_key = kernel::key(mover);
    let joined = followed.as_deref().map_or(TaskKey::NONE, |f| f.entry);
    match rules::attach(key, followed.as_deref(), session.as_deref(), &to, owner, mover_key == key) {
        rules::Attach::Ignore => {}
        rules::Attach::First => {
            if session.is_some() {
                let _ = maps::TASKS.remove(key);
                maps::leave(&joined);
            }
            maps::first_entry(to.id, &key, kernel::mnt_ns(mover));
        }
        rules::Attach::Enter(entry_kind) => {
            if session.is_some() && joined != key {
                maps::leave(&joined);
            }
            tasks::enter(note::ATTACH, task, &key, cgroup_id, to.id, mover, &mover_key, entry_kind, &joined);
        }
        rules::Attach::Leave => {
            if let Some(container) = owner {
                let workload =
                    FollowedTask::new(TaskKey::NONE, container, task_kind::WORKLOAD, kernel::execs(task));
                maps::follow(&key, &workload);
            }
        }
    }
}
