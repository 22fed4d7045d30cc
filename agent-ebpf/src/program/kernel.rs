//! Reads of kernel memory, by the offsets that user space found. Addresses are plain numbers here: nothing is
//! dereferenced but by `bpf_probe_read_kernel`, which answers zero for what cannot be read.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::helpers::generated::{
    bpf_get_current_task, bpf_get_current_task_btf, bpf_probe_read_kernel, bpf_task_pt_regs,
};
use podtrail_ebpf::layout::{ABSENT, Creds, Task, TaskKey};

use crate::maps::{config, global, offset};

/// What stands at `base + offset`; zeros where that cannot be read.
#[inline(always)]
pub fn read<T: Copy>(base: u64, offset: u32) -> T {
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: the helper writes `size_of::<T>()` bytes into `value`, zeros on failure; every T used here is made of
    // integers.
    unsafe {
        bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            base.wrapping_add(u64::from(offset)) as *const c_void,
        );
        value.assume_init()
    }
}

/// Copies `N` bytes to `to`.
///
/// # Safety
/// `to` must have room for `len` bytes.
#[inline(always)]
pub unsafe fn copy(to: *mut u8, len: u32, base: u64, offset: u32) {
    // SAFETY: the caller's.
    unsafe { bpf_probe_read_kernel(to.cast(), len, base.wrapping_add(u64::from(offset)) as *const c_void) };
}

/// Hides a value from the compiler, which else drops the masks that the verifier needs.
#[inline(always)]
pub fn opaque(value: u64) -> u64 {
    let kept = value;
    // SAFETY: reads a local variable.
    unsafe { core::ptr::read_volatile(&raw const kept) }
}

#[inline(always)]
pub fn current() -> u64 {
    // SAFETY: takes nothing, always answers.
    unsafe { bpf_get_current_task() }
}

/// The registers with which the current task came into the kernel, for system call `number`; 0: they cannot be found.
#[inline(always)]
pub fn registers(number: u32) -> u64 {
    if config!(registers_helper) != 0 {
        let mut found = 0;
        // SAFETY: the helper takes the current task, and answers where on its stack they are. Written to a local variable.
        unsafe {
            (&raw mut found).write_volatile(bpf_task_pt_regs(bpf_get_current_task_btf()));
        }
        // As a plain number: a global function takes no pointer that the verifier knows the type of.
        return read((&raw const found) as u64, 0);
    }
    if offset!(task_stack) == ABSENT || offset!(regs_size) == ABSENT || offset!(regs_call) == ABSENT {
        return 0;
    }
    // They are at the stack's end (`task_pt_regs`, arch/{x86,arm64}/include/asm/processor.h; padding there is newer than the
    // helper). How large stacks are nothing tells: the call's number says whether it is the place.
    let stack: u64 = read(current(), offset!(task_stack));
    let mut size = 16 * 1024_u64;
    while size <= 64 * 1024 {
        let at = stack.wrapping_add(size).wrapping_sub(u64::from(offset!(regs_size)));
        if read::<u32>(at, offset!(regs_call)) == number {
            return at;
        }
        size *= 2;
    }
    0
}

#[inline(always)]
pub fn tgid(task: u64) -> u32 {
    read(task, offset!(task_tgid))
}

#[inline(always)]
pub fn tid(task: u64) -> u32 {
    read(task, offset!(task_pid))
}

/// How many execs led to what a task runs, its parents' before it among them.
#[inline(always)]
pub fn execs(task: u64) -> u64 {
    read(task, offset!(task_exec_id))
}

/// The key of a task's process. An exec from another thread hands the leader's start time over, so the key stays.
#[inline(always)]
pub fn key(task: u64) -> TaskKey {
    let leader: u64 = read(task, offset!(task_leader));
    TaskKey::new(tgid(task), read(leader, offset!(task_start)))
}

/// The key of a task's parent, by `real_parent`.
#[inline(always)]
pub fn parent_key(task: u64) -> TaskKey {
    key(read(task, offset!(task_parent)))
}

/// Inode number of a namespace whose struct has its `ns_common` at `common`.
#[inline(always)]
fn inum(ns: u64, common: u32) -> u32 {
    if ns == 0 { 0 } else { read(ns, common.wrapping_add(offset!(ns_inum))) }
}

#[inline(always)]
pub fn mnt_ns(task: u64) -> u32 {
    let nsproxy: u64 = read(task, offset!(task_nsproxy));
    if nsproxy == 0 {
        return 0; // exiting
    }
    inum(read(nsproxy, offset!(nsproxy_mnt)), offset!(mnt_ns_common))
}

/// The pid namespace that the task's children will be in.
#[inline(always)]
pub fn pid_ns_for_children(task: u64) -> u32 {
    let nsproxy: u64 = read(task, offset!(task_nsproxy));
    if nsproxy == 0 {
        return 0;
    }
    inum(read(nsproxy, offset!(nsproxy_pid)), offset!(pid_ns_common))
}

#[inline(always)]
fn net_ns(task: u64) -> u32 {
    let common = offset!(net_common);
    let nsproxy: u64 = read(task, offset!(task_nsproxy));
    if nsproxy == 0 || common == ABSENT {
        return 0;
    }
    inum(read(nsproxy, offset!(nsproxy_net)), common)
}

/// The pid namespace that the task itself is in.
#[inline(always)]
pub fn pid_ns(task: u64) -> u32 {
    let pid: u64 = read(task, offset!(task_thread_pid));
    if pid == 0 {
        return 0;
    }
    let level: u32 = read(pid, offset!(pid_level));
    let at = offset!(pid_numbers)
        .wrapping_add((level & 31).wrapping_mul(offset!(upid_size)))
        .wrapping_add(offset!(upid_ns));
    inum(read(pid, at), offset!(pid_ns_common))
}

/// The cgroup whose id is the container's key: of the default hierarchy, or on pure v1 of the chosen controller.
#[inline(always)]
pub fn cgroup_id(task: u64) -> u64 {
    cgroup_id_of_css_set(read(task, offset!(task_cgroups)))
}

#[inline(always)]
pub fn cgroup_id_of_css_set(css_set: u64) -> u64 {
    let subsys = config!(cgroup_subsys);
    let cgroup: u64 = if subsys == ABSENT {
        read(css_set, offset!(css_set_dfl_cgrp))
    } else {
        let css: u64 = read(css_set, offset!(css_set_subsys).wrapping_add(subsys.wrapping_mul(8)));
        read(css, offset!(css_cgroup))
    };
    id_of_cgroup(cgroup)
}

#[inline(always)]
pub fn id_of_cgroup(cgroup: u64) -> u64 {
    let kn: u64 = read(cgroup, offset!(cgroup_kn));
    read(kn, offset!(kn_id))
}

/// Whether the task's root directory is the host's, whatever its mount namespace. A global function, for its own stack.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn podtrail_has_host_root(task: u64) -> u32 {
    let low = global!(HOST_ROOT: podtrail_ebpf::layout::HostRoot, inode);
    let high = global!(HOST_ROOT: podtrail_ebpf::layout::HostRoot, inode_high);
    let host = u64::from(low) | (u64::from(high) << 32);
    let (root, inode_of) = (offset!(fs_root), offset!(dentry_inode));
    if host == 0 || root == ABSENT || inode_of == ABSENT {
        return 0;
    }
    let fs: u64 = read(task, offset!(task_fs));
    let dentry: u64 = read(fs, root.wrapping_add(offset!(path_dentry)));
    let inode: u64 = read(dentry, inode_of);
    if read::<u64>(inode, offset!(inode_ino)) != host {
        return 0;
    }
    let sb: u64 = read(inode, offset!(inode_sb));
    u32::from(read::<u32>(sb, offset!(sb_dev)) == global!(HOST_ROOT: podtrail_ebpf::layout::HostRoot, device))
}

/// Fills in what every record says of a task.
///
/// # Safety
/// `to` must point to a `Task` that may be written.
#[inline(always)]
pub unsafe fn fill_task(to: *mut Task, task: u64, cgroup_id: u64, mnt_ns: u32, pid_ns: u32) {
    let cred: u64 = read(task, offset!(task_cred));
    let login = offset!(task_loginuid);
    let audit = offset!(task_sessionid);
    // SAFETY: the caller's; every field is written.
    unsafe {
        (*to).key = key(task);
        (*to).parent = parent_key(task);
        (*to).tid = tid(task);
        (*to).mnt_ns = mnt_ns;
        (*to).pid_ns = pid_ns;
        (*to).user_ns = inum(read(cred, offset!(cred_user_ns)), offset!(user_ns_common));
        (*to).net_ns = net_ns(task);
        (*to).login_uid = if login == ABSENT { u32::MAX } else { read(task, login) };
        (*to).audit_session = if audit == ABSENT { u32::MAX } else { read(task, audit) };
        (*to)._pad = 0;
        (*to).cgroup_id = cgroup_id;
        copy((&raw mut (*to).comm).cast(), 16, task, offset!(task_comm));
    }
}

/// Fills in credentials.
///
/// # Safety
/// `to` must point to a `Creds` that may be written.
#[inline(always)]
pub unsafe fn fill_creds(to: *mut Creds, task: u64) {
    let cred: u64 = read(task, offset!(task_cred));
    let user_ns: u64 = read(cred, offset!(cred_user_ns));
    let uid: u32 = read(cred, offset!(cred_uid));
    let gid: u32 = read(cred, offset!(cred_gid));
    let foreign = inum(user_ns, offset!(user_ns_common)) != config!(host_user_ns);
    // SAFETY: the caller's; every field is written.
    unsafe {
        (*to).cap_effective = read(cred, offset!(cred_cap_effective));
        (*to).cap_permitted = read(cred, offset!(cred_cap_permitted));
        (*to).uid = uid;
        (*to).gid = gid;
        (*to).euid = read(cred, offset!(cred_euid));
        (*to).egid = read(cred, offset!(cred_egid));
        (*to).ns_uid = u32::MAX;
        (*to).ns_gid = u32::MAX;
        (*to).in_user_ns = u32::from(foreign);
        (*to)._pad = 0;
        if foreign {
            (*to).ns_uid = podtrail_mapped(user_ns.wrapping_add(u64::from(offset!(user_ns_uid_map))), uid);
            (*to).ns_gid = podtrail_mapped(user_ns.wrapping_add(u64::from(offset!(user_ns_gid_map))), gid);
        }
    }
}

/// A user namespace keeps up to five extents in place, `struct { u32 first, lower_first, count; }`
/// (include/linux/user_namespace.h, since 4.15); with more of them the answer is not given. A global function, for its
/// own stack.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn podtrail_mapped(map: u64, id: u32) -> u32 {
    let count: u32 = read(map, offset!(uid_map_count));
    if count > 5 {
        return u32::MAX;
    }
    let mut i = 0;
    while i < 5 {
        let at = offset!(uid_map_extents).wrapping_add(i * 12);
        let first: u32 = read(map, at);
        let below = id.wrapping_sub(read(map, at.wrapping_add(4)));
        if i < count && below < read(map, at.wrapping_add(8)) {
            return first.wrapping_add(below);
        }
        i += 1;
    }
    u32::MAX
}

/// Whether a name begins so.
#[inline(always)]
pub fn begins<const N: usize>(name: &[u8; 16], with: &[u8; N]) -> bool {
    let mut i = 0;
    while i < N {
        if name[i] != with[i] {
            return false;
        }
        i += 1;
    }
    true
}
