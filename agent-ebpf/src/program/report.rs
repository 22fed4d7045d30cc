//! What is told of an exec: which program with which arguments.
//!
//! argv is read from the new address space, after the exec: what the program really got, whatever another thread did
//! to the caller's memory.

use aya_ebpf::helpers::generated::{bpf_probe_read_kernel_str, bpf_probe_read_user};
use podtrail_ebpf::{
    layout::{
        ABSENT, ARGV_CHUNK, ARGV_SMALL, ArgvChunk, Exec, SCRIPT_MAX, TaskKey, counter, entry_kind,
        exec_flags, executed, kind,
    },
    rules::Namespaces,
};

use crate::{
    environ,
    kernel::{self, begins, opaque, read},
    maps::{self, SCRATCH_SIZE, config, offset},
    ring, share, walk,
};

const FIXED: u32 = size_of::<Exec>() as u32;

/// Sends an exec. Exported, which makes it a global function for the verifier: verified once, by itself, for any
/// arguments, and not again on every path that leads to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn podtrail_report(hook: u32, old_tid: u32, bprm: u64, cgroup_id: u64, flags: u32) -> u32 {
    let task = kernel::current();
    let ns = Namespaces { mnt: kernel::mnt_ns(task), pid: kernel::pid_ns(task) };
    let key = kernel::key(task);
    let followed = maps::task(&key);
    let entry = followed.as_deref().map_or(key, |followed| followed.entry);
    let Some(buffer) = ring::scratch(hook) else { return 0 };
    let exec = buffer.cast::<Exec>();
    let time = ring::now();
    let mut flags = flags;
    let mut at = FIXED;
    // SAFETY: `exec` is the beginning of the scratch buffer, which is aligned to 8 and larger than an Exec; every
    // field is written.
    unsafe {
        kernel::fill_task(&raw mut (*exec).task, task, cgroup_id, ns.mnt, ns.pid);
        kernel::fill_creds(&raw mut (*exec).creds, task);
        (*exec).entry = entry;
        if let Some(session) = maps::session(&entry) {
            (*exec).entered_by = session.by;
            (*exec).entry_time = session.time;
            (*exec).container = session.container;
            (*exec).entry_kind = session.kind;
        } else {
            (*exec).entered_by = TaskKey::NONE;
            (*exec).entry_time = time;
            (*exec).container = 0;
            (*exec).entry_kind = entry_kind::RUNTIME;
        }
        let tid = kernel::tid(task);
        (*exec).old_tid = if old_tid == tid { 0 } else { old_tid };
        (*exec)._pad = [0; 7];

        if flags & exec_flags::ROOT != 0
            && let Some(session) = maps::session(&entry)
        {
            flags |= exec_flags::ROOT_FACTS;
            at += environ::fill(hook, exec.add(1).cast(), task, session) & 511;
        }

        let mm: u64 = read(task, offset!(task_mm));
        let file: u64 = read(mm, offset!(mm_exe_file));
        let path = offset!(file_path);
        let mnt = read(file, path.wrapping_add(offset!(path_mnt)));
        let dentry: u64 = read(file, path.wrapping_add(offset!(path_dentry)));
        let (exe_len, end) = walk::path(hook, mnt, dentry, at);
        if end != walk::COMPLETE {
            flags |= exec_flags::EXE_INCOMPLETE;
        }
        (*exec).exe_len = exe_len;
        at += exe_len;

        let (cwd_len, complete) = walk::working_directory(hook, task, at);
        if !complete {
            flags |= exec_flags::CWD_INCOMPLETE;
        }
        (*exec).cwd_len = cwd_len;
        at += cwd_len;

        let filename: u64 = read(bprm, offset!(bprm_filename));
        let interp: u64 = read(bprm, offset!(bprm_interp));
        let mut script_len = 0;
        if filename != interp {
            let to = buffer.add((at & (SCRATCH_SIZE as u32 / 2 - 1)) as usize);
            let length = bpf_probe_read_kernel_str(to.cast(), SCRIPT_MAX as u32, filename as *const _);
            if length > 1 {
                script_len = (length as u32 - 1) & (2 * SCRIPT_MAX as u32 - 1);
                if script_len == SCRIPT_MAX as u32 - 1 {
                    flags |= exec_flags::SCRIPT_CUT;
                }
            }
        }
        (*exec).script_len = script_len;
        at += script_len;

        flags |= executable(exec, file, dentry, end);
        flags |= terminal(exec, task);
        if ns.mnt == config!(host_mnt_ns) {
            flags |= exec_flags::HOST_MNT;
        }

        let start: u64 = read(mm, offset!(mm_arg_start));
        let total = (read::<u64>(mm, offset!(mm_arg_end))).wrapping_sub(start);
        let mut kept = u64::from(config!(argv_limit));
        if total < kept {
            kept = total;
        }
        // A runtime's stage is no event that anybody would miss: there are few, and they are not refused.
        let staging = flags & exec_flags::STAGING != 0;
        let may = if staging {
            share::WHOLE
        } else {
            share::podtrail_admit(entry.start_time, entry.tgid, at, kept, time)
        };
        match may {
            share::WHOLE => {}
            share::SMALL => {
                kept = ARGV_SMALL;
                flags |= exec_flags::ARGV_OVER_BUDGET;
            }
            _ => {
                if let Some(followed) = followed
                    && followed.executed == executed::NOTHING
                {
                    followed.executed = executed::REFUSED;
                }
                return 0;
            }
        }
        if let Some(followed) = followed
            && !staging
        {
            followed.executed = executed::TOLD;
        }
        let tail = if kept < total { kept / 2 } else { 0 };
        let head = kept - tail;
        if tail != 0 {
            flags |= exec_flags::ARGV_CUT;
        }
        (*exec).argv_total = total;
        (*exec).argv_head = head as u32;
        (*exec).argv_tail = tail as u32;

        // This record carries the beginning, and all of it where that is small; chunks do the rest.
        let first = if head > ARGV_CHUNK as u64 { ARGV_CHUNK as u64 } else { head };
        let mut carried = 0;
        if first > 0 {
            if argv(buffer, at, start, first) {
                carried = first as u32;
            } else {
                flags |= exec_flags::ARGV_FAULT;
            }
        }
        if tail != 0 && kept <= ARGV_SMALL && carried != 0 {
            let from = start.wrapping_add(total).wrapping_sub(tail);
            if argv(buffer, at + carried, from, tail) {
                carried = kept as u32;
            } else {
                flags |= exec_flags::ARGV_FAULT;
            }
        }
        (*exec).argv_len = carried;
        at += carried;

        (*exec).flags = flags;
        (*exec).header = ring::header(kind::EXEC, at, time);
        let lost = if staging { counter::LOST_STAGE } else { counter::LOST + u32::from(kind::EXEC) };
        if !ring::send_or(kind::EXEC, lost, buffer, u64::from(at), Some(&entry)) {
            return 0;
        }
        if kept > u64::from(carried) && flags & exec_flags::ARGV_FAULT == 0 {
            // What chunks need of the exec is left for them in the scratch buffer.
            let chunk = buffer.cast::<ArgvChunk>();
            let key = (*exec).task.key;
            (*chunk).key = key;
            (*chunk).exec_time = time;
            podtrail_chunks(hook, start, total, (head << 32) | kept, carried);
        }
    }
    1
}

/// Reads `length` bytes of argv, not more than a chunk, to the scratch buffer at `at`.
///
/// # Safety
/// `buffer` must be the scratch buffer, and `at` in its first half.
#[inline(always)]
unsafe fn argv(buffer: *mut u8, at: u32, from: u64, length: u64) -> bool {
    // The masks are for the verifier, which must see the bounds on what it passes on.
    let length = opaque(length) & (2 * ARGV_CHUNK as u64 - 1);
    // SAFETY: half of the buffer is left, which has room for a chunk.
    unsafe {
        let to = buffer.add((at & (SCRATCH_SIZE as u32 / 2 - 1)) as usize);
        length <= ARGV_CHUNK as u64 && bpf_probe_read_user(to.cast(), length as u32, from as *const _) == 0
    }
}

/// The kernel's own limit on argv and environment is 6 MiB (3/4 of _STK_LIM, fs/exec.c).
const CHUNKS: u32 = 6 * 1024 * 1024 / ARGV_CHUNK as u32 + 2;

/// Sends what is kept of argv beyond the `first` bytes, which the exec's own record carried; answers where it came to. A
/// global function, as `podtrail_report`: its loop is not gone through again on every path there.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn podtrail_chunks(hook: u32, start: u64, total: u64, head_and_kept: u64, first: u32) -> u32 {
    // As many arguments as there may be.
    let (head, kept) = ((head_and_kept >> 32) as u32, head_and_kept as u32);
    let mut offset = first;
    let mut i = 0;
    while i < CHUNKS {
        i += 1;
        if offset >= kept {
            break;
        }
        // A chunk never spans the cut: head's bytes stand at the beginning, tail's before the end.
        let (from, left) = if offset < head {
            (start.wrapping_add(u64::from(offset)), head - offset)
        } else {
            (start.wrapping_add(total).wrapping_sub(u64::from(kept - offset)), kept - offset)
        };
        let sent = podtrail_chunk(hook, from, left, offset);
        if sent == 0 {
            break;
        }
        offset = offset.wrapping_add(sent);
    }
    offset
}

/// Sends one chunk, of at most `left` bytes from `from` in the task's memory; answers how many, or 0. `key` and
/// `exec_time` stand in the scratch buffer already. A global function, as `podtrail_report`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn podtrail_chunk(hook: u32, from: u64, left: u32, offset: u32) -> u32 {
    let Some(buffer) = ring::scratch(hook) else { return 0 };
    let chunk = buffer.cast::<ArgvChunk>();
    let length = if left > ARGV_CHUNK as u32 { ARGV_CHUNK as u32 } else { left };
    let length = opaque(u64::from(length)) & (2 * ARGV_CHUNK as u64 - 1);
    if length > ARGV_CHUNK as u64 {
        return 0;
    }
    // SAFETY: header and a chunk fit into the scratch buffer, which is aligned to 8; every field is written.
    unsafe {
        let key = (*chunk).key;
        let entry = maps::task(&key).map_or(key, |followed| followed.entry);
        let to = buffer.add(size_of::<ArgvChunk>());
        if bpf_probe_read_user(to.cast(), length as u32, from as *const _) != 0 {
            return 0;
        }
        let size = size_of::<ArgvChunk>() as u64 + length;
        (*chunk).header = ring::header(kind::ARGV_CHUNK, size as u32, ring::now());
        (*chunk).offset = offset;
        (*chunk).len = length as u32;
        if !ring::send(kind::ARGV_CHUNK, buffer, size, Some(&entry)) {
            return 0;
        }
    }
    length as u32
}

const S_IFMT_ALL: u32 = 0xffff;
const TMPFS_MAGIC: u64 = 0x0102_1994;
const OVERLAYFS_MAGIC: u64 = 0x794c_7630;

/// Facts of the executable's inode.
///
/// # Safety
/// `exec` must be writable.
#[inline(always)]
unsafe fn executable(exec: *mut Exec, file: u64, dentry: u64, walk_end: u32) -> u32 {
    let inode: u64 = read(file, offset!(file_inode));
    let sb: u64 = read(inode, offset!(inode_sb));
    let mode: u16 = read(inode, offset!(inode_mode));
    let nlink: u32 = read(inode, offset!(inode_nlink));
    let magic: u64 = read(sb, offset!(sb_magic));
    // SAFETY: the caller's.
    unsafe {
        (*exec).exe_inode = read(inode, offset!(inode_ino));
        (*exec).exe_dev = read(sb, offset!(sb_dev));
        (*exec).exe_mode = u32::from(mode) & S_IFMT_ALL;
    }
    let mut flags = 0;
    if nlink == 0 {
        flags |= exec_flags::DELETED;
    }
    if magic == TMPFS_MAGIC && walk_end == walk::DETACHED {
        let mut name = [0u8; 16];
        let from: u64 = read(dentry, offset!(dentry_name).wrapping_add(offset!(qstr_name)));
        // SAFETY: writes at most the length of `name`.
        unsafe { bpf_probe_read_kernel_str(name.as_mut_ptr().cast(), 16, from as *const _) };
        if begins(&name, b"memfd:") {
            flags |= exec_flags::MEMFD;
        }
    }
    if magic == OVERLAYFS_MAGIC {
        // `struct ovl_inode` has `__upperdentry` right behind the inode it embeds (fs/overlayfs/ovl_entry.h, 4.13 on).
        let upper: u64 = read(inode, offset!(inode_size));
        if upper != 0 {
            flags |= exec_flags::UPPER_LAYER;
        }
    }
    flags
}

/// The controlling terminal.
///
/// # Safety
/// `exec` must be writable.
#[inline(always)]
unsafe fn terminal(exec: *mut Exec, task: u64) -> u32 {
    // SAFETY: the caller's.
    unsafe {
        (*exec).tty_major = 0;
        (*exec).tty_minor = 0;
        (*exec).tty_name = [0; 24];
        if offset!(tty_driver) == ABSENT {
            return 0;
        }
        let signal: u64 = read(task, offset!(task_signal));
        let tty: u64 = read(signal, offset!(signal_tty));
        if tty == 0 {
            return 0;
        }
        let driver: u64 = read(tty, offset!(tty_driver));
        let index: u32 = read(tty, offset!(tty_index));
        (*exec).tty_major = read(driver, offset!(tty_driver_major));
        (*exec).tty_minor = read::<u32>(driver, offset!(tty_driver_minor)).wrapping_add(index);
        kernel::copy((&raw mut (*exec).tty_name).cast(), 24, tty, offset!(tty_name));
    }
    exec_flags::TTY
}
