//! From a `struct path` to its text: `bpf_d_path` is not to be had in tracepoints, so dentries and mounts are walked
//! up to the task's root. Components come out last first; user space turns them round.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use podtrail_ebpf::layout::PATH_MAX;

use crate::{
    kernel::read,
    maps::{SCRATCH_SIZE, offset},
    ring,
};

/// Components and mounts that one walk passes at most.
const STEPS: usize = 48;
/// A component's bytes at most, with its NUL.
const NAME_MAX: u32 = 256;

/// The walk ended at the root of a mount namespace.
pub const COMPLETE: u32 = 1;
/// It ended at a root of its own with a name, which is the last component: a memfd, or what was unmounted.
pub const DETACHED: u32 = 2;

/// The task's working directory, to the scratch buffer `hook` at `at`: its length there, and whether that is all.
#[inline(always)]
pub fn working_directory(hook: u32, task: u64, at: u32) -> (u32, bool) {
    let fs: u64 = read(task, offset!(task_fs));
    let pwd = offset!(fs_pwd);
    let mnt = read(fs, pwd.wrapping_add(offset!(path_mnt)));
    let (length, end) = path(hook, mnt, read(fs, pwd.wrapping_add(offset!(path_dentry))), at);
    (length, end == COMPLETE)
}

/// The path to a `dentry`, to the scratch buffer `hook` at `at`: its length there, and how the walk ended.
#[inline(always)]
pub fn path(hook: u32, mnt: u64, dentry: u64, at: u32) -> (u32, u32) {
    let walked = podtrail_walk(hook, mnt, dentry, at);
    // The mask is for the verifier.
    (walked as u32 & (2 * PATH_MAX as u32 - 1), (walked >> 32) as u32)
}

/// Walks from `mnt` and `dentry` to the mount namespace's root, and writes components, each with a NUL, to the scratch buffer `hook`
/// at `start` and on. Answers the bytes written in the low half, and how it ended in the high half.
///
/// A global function, as `podtrail_report`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn podtrail_walk(hook: u32, mnt: u64, dentry: u64, start: u32) -> u64 {
    let Some(buffer) = ring::scratch(hook) else { return 0 };
    let mut mnt = mnt;
    let mut dentry = dentry;
    let mut written: u32 = 0;
    let mut end: u32 = 0;
    let mut step = 0;
    while step < STEPS {
        step += 1;
        if dentry == 0 || mnt == 0 {
            break;
        }
        let mount_root: u64 = read(mnt, offset!(vfsmount_root));
        if dentry == mount_root {
            let mount = mnt.wrapping_sub(u64::from(offset!(mount_mnt)));
            let parent: u64 = read(mount, offset!(mount_parent));
            if parent == mount || parent == 0 {
                // The topmost mount. One that was unmounted while in use is topmost too, but in no namespace.
                if read::<u64>(mount, offset!(mount_ns)) != 0 {
                    end = COMPLETE;
                }
                break;
            }
            dentry = read(mount, offset!(mount_mountpoint));
            mnt = parent.wrapping_add(u64::from(offset!(mount_mnt)));
            continue;
        }
        let parent: u64 = read(dentry, offset!(dentry_parent));
        let name: u64 = read(dentry, offset!(dentry_name).wrapping_add(offset!(qstr_name)));
        if written > PATH_MAX as u32 - NAME_MAX {
            break;
        }
        // The mask is for the verifier: start is below 8 KiB and written below 4 KiB.
        let at = (start.wrapping_add(written) & (SCRATCH_SIZE as u32 / 2 - 1)) as usize;
        // SAFETY: at most half of the buffer plus one name.
        let length = unsafe { bpf_probe_read_kernel_str(buffer.add(at).cast(), NAME_MAX, name as *const _) };
        if length <= 0 {
            break;
        }
        written = written.wrapping_add(length as u32 & (NAME_MAX * 2 - 1));
        if parent == dentry {
            end = DETACHED;
            break;
        }
        dentry = parent;
    }
    u64::from(written) | (u64::from(end) << 32)
}
