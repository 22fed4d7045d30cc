//! An exec failed: which program a task of a session tried to run, with which arguments.
//!
//! Nothing but the caller's memory says what was asked for, and it is read after the call: a thread that changes it in
//! between is believed.

use aya_ebpf::helpers::generated::{bpf_probe_read_user, bpf_probe_read_user_str};
use podtrail_ebpf::{
    layout::{
        ABSENT, ARGV_SMALL, ExecFailed, FAILED_ARGS_MAX, FAILED_ARGV_MAX, PATH_MAX, failed_flags, kind,
        scratch, task_kind,
    },
    rules::{self, Known, Namespaces},
};

use crate::{
    kernel::{self, opaque, read},
    maps::{self, SCRATCH_SIZE, offset},
    ring, share, walk,
};

const FIXED: u32 = size_of::<ExecFailed>() as u32;

/// From here on a number is the kernel's own: the call begins anew, and nobody has seen it return
/// (include/linux/errno.h).
const ERESTARTSYS: i64 = 512;

/// `result` is what the call returned, `registers` finds those of the caller.
#[inline(always)]
pub fn on_return(result: i64, registers: impl FnOnce() -> u64, at: bool) {
    if result >= 0 || result <= -ERESTARTSYS {
        return;
    }
    if podtrail_failed() == 0 {
        return;
    }
    let registers = registers();
    if registers != 0 {
        podtrail_report_failed(registers, -result as u32, u32::from(at));
    }
}

/// Whether the current task's exec would have been a command of its session. A global function, as `podtrail_report`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn podtrail_failed() -> u32 {
    let task = kernel::current();
    let Some(followed) = maps::task(&kernel::key(task)) else { return 0 };
    if followed.kind != task_kind::SESSION || offset!(regs_first) == ABSENT {
        return 0;
    }
    let Some(session) = maps::session(&followed.entry) else { return 0 };
    if session.announced != 0 {
        return 1;
    }
    let ns = Namespaces { mnt: kernel::mnt_ns(task), pid: kernel::pid_ns(task) };
    let place = maps::place(kernel::cgroup_id(task));
    let known = Known { task: Some(followed), session: Some(session), place, owner: None, beside: false };
    u32::from(rules::exec(&known, ns, maps::host(), false) == rules::Exec::Command)
}

/// Sends it. A global function, as `podtrail_report`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn podtrail_report_failed(registers: u64, error: u32, is_at: u32) -> u32 {
    let task = kernel::current();
    let key = kernel::key(task);
    let entry = maps::task(&key).map_or(key, |followed| followed.entry);
    let hook = if is_at == 0 { scratch::EXECVE } else { scratch::EXECVEAT };
    let Some(buffer) = ring::scratch(hook) else { return 0 };
    let failed = buffer.cast::<ExecFailed>();
    let time = ring::now();
    let mut flags = 0;
    let mut at = FIXED;
    let mut path: u64 = read(registers, offset!(regs_first));
    let mut args: u64 = read(registers, offset!(regs_second));
    // SAFETY: `failed` is the beginning of the scratch buffer, which is aligned to 8 and larger; every field is written.
    unsafe {
        (*failed).directory = 0;
        if is_at != 0 {
            flags |= failed_flags::AT;
            (*failed).directory = path as i32;
            path = args;
            args = read(registers, offset!(regs_third));
        }
        let cgroup_id = kernel::cgroup_id(task);
        let (mnt, pid) = (kernel::mnt_ns(task), kernel::pid_ns(task));
        kernel::fill_task(&raw mut (*failed).task, task, cgroup_id, mnt, pid);
        kernel::fill_creds(&raw mut (*failed).creds, task);
        (*failed).entry = entry;
        (*failed).container = maps::session(&entry).map_or(0, |session| session.container);
        (*failed).error = error;
        (*failed)._reserved = 0;

        let (cwd_len, complete) = walk::working_directory(hook, task, at);
        if !complete {
            flags |= failed_flags::CWD_INCOMPLETE;
        }
        (*failed).cwd_len = cwd_len;
        at += cwd_len;

        let to = buffer.add((at & (SCRATCH_SIZE as u32 / 2 - 1)) as usize);
        let length = bpf_probe_read_user_str(to.cast(), PATH_MAX as u32, path as *const _);
        let mut path_len = 0;
        if length > 0 {
            path_len = (length as u32 - 1) & (PATH_MAX as u32 - 1);
        } else if length < 0 {
            flags |= failed_flags::PATH_FAULT;
        }
        (*failed).path_len = path_len;
        at += path_len;

        let read = podtrail_failed_argv(hook, args, at);
        flags |= (read >> 32) as u32;
        let mut argv_len = read as u32 & (2 * FAILED_ARGV_MAX as u32 - 1);
        match share::podtrail_admit(entry.start_time, entry.tgid, at, u64::from(argv_len), time) {
            share::WHOLE => {}
            share::SMALL if argv_len <= ARGV_SMALL as u32 => {}
            share::SMALL => {
                argv_len = ARGV_SMALL as u32;
                flags |= failed_flags::ARGV_CUT;
            }
            _ => return 0,
        }
        (*failed).argv_len = argv_len;
        at += argv_len;
        (*failed).flags = flags;
        (*failed).header = ring::header(kind::EXEC_FAILED, at, time);
        ring::send(kind::EXEC_FAILED, buffer, u64::from(at), Some(&entry));
    }
    1
}

/// Reads arguments from the caller's memory, each with its NUL, to the scratch buffer `hook` at `at`. Answers how many bytes in
/// the low half, and [`failed_flags`] in the high half. A global function, as `podtrail_report`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn podtrail_failed_argv(hook: u32, args: u64, at: u32) -> u64 {
    const CUT: u64 = (failed_flags::ARGV_CUT as u64) << 32;
    const FAULT: u64 = (failed_flags::ARGV_FAULT as u64) << 32;
    let Some(buffer) = ring::scratch(hook) else { return 0 };
    if args == 0 {
        return 0; // Linux takes that for none
    }
    let mut written: u32 = 0;
    let mut i = 0;
    while i < FAILED_ARGS_MAX {
        let mut arg: u64 = 0;
        let from = args.wrapping_add(u64::from(i) * 8);
        // SAFETY: writes 8 bytes to a local variable.
        if unsafe { bpf_probe_read_user((&raw mut arg).cast(), 8, from as *const _) } != 0 {
            return u64::from(written) | FAULT;
        }
        if arg == 0 {
            return u64::from(written);
        }
        if written >= FAILED_ARGV_MAX as u32 {
            break;
        }
        // The masks are for the verifier: `at` is below 8 KiB plus the fixed part, and what is left at most 4 KiB.
        let left = opaque(u64::from(FAILED_ARGV_MAX as u32 - written)) & (2 * FAILED_ARGV_MAX as u64 - 1);
        if left > FAILED_ARGV_MAX as u64 {
            break;
        }
        let place = (at.wrapping_add(written) & (SCRATCH_SIZE as u32 / 2 - 1)) as usize;
        // SAFETY: at most half of the buffer, and 4 KiB behind it.
        let length =
            unsafe { bpf_probe_read_user_str(buffer.add(place).cast(), left as u32, arg as *const _) };
        if length < 0 {
            return u64::from(written) | FAULT;
        }
        let mut length = length as u32 & (2 * FAILED_ARGV_MAX as u32 - 1);
        if length == 0 {
            // An empty one, before 6.2 (strncpy_from_user_nofault, mm/maccess.c).
            // SAFETY: as above.
            unsafe { *buffer.add(place) = 0 };
            length = 1;
        }
        written = written.wrapping_add(length);
        if u64::from(length) == left {
            // It is longer, or just as long; the one is likely, and the other does no harm.
            break;
        }
        i += 1;
    }
    u64::from(written) | CUT
}
