//! The BPF programs: hooks on exec, fork, exit, cgroups and setns that follow the tasks of sessions and report them.
//!
//! They hold the maps, read the kernel ([`kernel`]) and do what [`podtrail_ebpf::rules`] decides. A process outside
//! every session costs look-ups and sends nothing. Whatever cannot be kept or sent is counted in `COUNTERS`.
//!
//! Must load on Linux 5.10: no `bpf_loop`, no dynptr, no fetching atomics, no map newer than the ring buffer.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)] // for the one atomic addition in `maps`

#[path = "program/cgroups.rs"]
mod cgroups;
#[path = "program/environ.rs"]
mod environ;
#[path = "program/exec.rs"]
mod exec;
#[path = "program/failed.rs"]
mod failed;
#[path = "program/join.rs"]
mod join;
#[path = "program/kernel.rs"]
mod kernel;
#[path = "program/maps.rs"]
mod maps;
#[path = "program/report.rs"]
mod report;
#[path = "program/ring.rs"]
mod ring;
#[path = "program/share.rs"]
mod share;
#[path = "program/tasks.rs"]
mod tasks;
#[path = "program/walk.rs"]
mod walk;

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    macros::{btf_tracepoint, fexit, kretprobe, tracepoint},
    maps::ProgramArray,
    programs::{BtfTracePointContext, FExitContext, RetProbeContext, TracePointContext},
};
use podtrail_ebpf::layout::{counter, hook, scratch};

use crate::maps::{config, note};

// What is attached: each hook only hands over to the program in its slot, by a tail call. A slot changes at once, so a
// new object takes over between two calls: none is handled twice, and none by nobody. These stay attached for as long as
// `LAYOUT_VERSION` is the same: who changes them changes that.

#[btf_tracepoint(function = "cgroup_mkdir")]
pub fn hook_mkdir(ctx: BtfTracePointContext) -> i32 {
    hand_over(&ctx, &maps::TO_MKDIR, hook::MKDIR)
}

#[btf_tracepoint(function = "cgroup_rmdir")]
pub fn hook_rmdir(ctx: BtfTracePointContext) -> i32 {
    hand_over(&ctx, &maps::TO_RMDIR, hook::RMDIR)
}

#[btf_tracepoint(function = "cgroup_attach_task")]
pub fn hook_attach(ctx: BtfTracePointContext) -> i32 {
    hand_over(&ctx, &maps::TO_ATTACH, hook::ATTACH)
}

#[btf_tracepoint(function = "sched_process_fork")]
pub fn hook_fork(ctx: BtfTracePointContext) -> i32 {
    hand_over(&ctx, &maps::TO_FORK, hook::FORK)
}

#[btf_tracepoint(function = "sched_process_exec")]
pub fn hook_exec(ctx: BtfTracePointContext) -> i32 {
    hand_over(&ctx, &maps::TO_EXEC, hook::EXEC)
}

#[btf_tracepoint(function = "sched_process_exit")]
pub fn hook_exit(ctx: BtfTracePointContext) -> i32 {
    hand_over(&ctx, &maps::TO_EXIT, hook::EXIT)
}

#[btf_tracepoint(function = "sched_wakeup_new")]
pub fn hook_fork2(ctx: BtfTracePointContext) -> i32 {
    hand_over(&ctx, &maps::TO_FORK2, hook::FORK2)
}

#[btf_tracepoint(function = "sched_process_exec")]
pub fn hook_exec2(ctx: BtfTracePointContext) -> i32 {
    hand_over(&ctx, &maps::TO_EXEC2, hook::EXEC2)
}

#[btf_tracepoint(function = "sched_process_exec")]
pub fn hook_exec3(ctx: BtfTracePointContext) -> i32 {
    hand_over(&ctx, &maps::TO_EXEC3, hook::EXEC3)
}

#[btf_tracepoint(function = "sched_process_exec")]
pub fn hook_exec4(ctx: BtfTracePointContext) -> i32 {
    hand_over(&ctx, &maps::TO_EXEC4, hook::EXEC4)
}

#[btf_tracepoint(function = "sched_process_exec")]
pub fn hook_execed(ctx: BtfTracePointContext) -> i32 {
    hand_over(&ctx, &maps::TO_EXECED, hook::EXECED)
}

#[btf_tracepoint(function = "sched_process_exit")]
pub fn hook_exit2(ctx: BtfTracePointContext) -> i32 {
    hand_over(&ctx, &maps::TO_EXIT2, hook::EXIT2)
}

#[btf_tracepoint(function = "sched_process_exit")]
pub fn hook_exited(ctx: BtfTracePointContext) -> i32 {
    hand_over(&ctx, &maps::TO_EXITED, hook::EXITED)
}

#[btf_tracepoint(function = "sched_process_free")]
pub fn hook_freed(ctx: BtfTracePointContext) -> i32 {
    hand_over(&ctx, &maps::TO_FREED, hook::FREED)
}

#[fexit]
pub fn hook_setns_fexit(ctx: FExitContext) -> i32 {
    hand_over(&ctx, &maps::TO_SETNS_FEXIT, hook::SETNS)
}

#[kretprobe]
pub fn hook_setns_kprobe(ctx: RetProbeContext) -> u32 {
    hand_over(&ctx, &maps::TO_SETNS_KPROBE, hook::SETNS).cast_unsigned()
}

#[tracepoint(category = "syscalls", name = "sys_exit_setns")]
pub fn hook_setns_tracepoint(ctx: TracePointContext) -> u32 {
    hand_over(&ctx, &maps::TO_SETNS_TRACEPOINT, hook::SETNS).cast_unsigned()
}

#[fexit]
pub fn hook_execve_fexit(ctx: FExitContext) -> i32 {
    hand_over(&ctx, &maps::TO_EXECVE_FEXIT, hook::EXECVE)
}

#[kretprobe]
pub fn hook_execve_kprobe(ctx: RetProbeContext) -> u32 {
    hand_over(&ctx, &maps::TO_EXECVE_KPROBE, hook::EXECVE).cast_unsigned()
}

#[tracepoint(category = "syscalls", name = "sys_exit_execve")]
pub fn hook_execve_tracepoint(ctx: TracePointContext) -> u32 {
    hand_over(&ctx, &maps::TO_EXECVE_TRACEPOINT, hook::EXECVE).cast_unsigned()
}

#[fexit]
pub fn hook_execveat_fexit(ctx: FExitContext) -> i32 {
    hand_over(&ctx, &maps::TO_EXECVEAT_FEXIT, hook::EXECVEAT)
}

#[kretprobe]
pub fn hook_execveat_kprobe(ctx: RetProbeContext) -> u32 {
    hand_over(&ctx, &maps::TO_EXECVEAT_KPROBE, hook::EXECVEAT).cast_unsigned()
}

#[tracepoint(category = "syscalls", name = "sys_exit_execveat")]
pub fn hook_execveat_tracepoint(ctx: TracePointContext) -> u32 {
    hand_over(&ctx, &maps::TO_EXECVEAT_TRACEPOINT, hook::EXECVEAT).cast_unsigned()
}

#[inline(always)]
fn hand_over<C: EbpfContext>(ctx: &C, to: &ProgramArray, hook: u32) -> i32 {
    // SAFETY: nothing here has a destructor.
    unsafe { to.tail_call(ctx, 0) };
    // Only where the slot is empty: somebody took the program out.
    maps::count(counter::UNHANDLED + hook);
    0
}

// What the hooks hand over to.

/// `(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`
#[btf_tracepoint(function = "sched_process_exec")]
pub fn podtrail_exec(ctx: BtfTracePointContext) -> i32 {
    exec::on_exec(scratch::EXEC, pointer(&ctx, 1) as u32, number(&ctx, 2));
    0
}

/// `(struct task_struct *parent, struct task_struct *child)`
#[btf_tracepoint(function = "sched_process_fork")]
pub fn podtrail_fork(ctx: BtfTracePointContext) -> i32 {
    tasks::on_fork(&ctx, note::FORK, pointer(&ctx, 0), pointer(&ctx, 1));
    0
}

/// `(struct task_struct *p, …)`
#[btf_tracepoint(function = "sched_process_exit")]
pub fn podtrail_exit(ctx: BtfTracePointContext) -> i32 {
    tasks::on_exit(pointer(&ctx, 0));
    0
}

// Behind the others: they do what those before them were skipped for, and the last wake the reader, where that was asked for. The kernel skips a program that is at work on the processor already, as it is from Linux 7 on when a task is preempted
// within it.

/// `(struct task_struct *p)`: comes after the fork, before the child runs, and nobody is preempted in it, since the processor's queue of
/// tasks is locked.
#[btf_tracepoint(function = "sched_wakeup_new")]
pub fn podtrail_fork2(ctx: BtfTracePointContext) -> i32 {
    tasks::on_fork(&ctx, note::FORK2, kernel::current(), pointer(&ctx, 0));
    0
}

#[btf_tracepoint(function = "sched_process_exec")]
pub fn podtrail_exec2(ctx: BtfTracePointContext) -> i32 {
    exec::on_exec(scratch::EXEC2, pointer(&ctx, 1) as u32, number(&ctx, 2));
    0
}

#[btf_tracepoint(function = "sched_process_exec")]
pub fn podtrail_exec3(ctx: BtfTracePointContext) -> i32 {
    exec::on_exec(scratch::EXEC3, pointer(&ctx, 1) as u32, number(&ctx, 2));
    0
}

#[btf_tracepoint(function = "sched_process_exec")]
pub fn podtrail_exec4(ctx: BtfTracePointContext) -> i32 {
    exec::on_exec(scratch::EXEC4, pointer(&ctx, 1) as u32, number(&ctx, 2));
    0
}

#[btf_tracepoint(function = "sched_process_exec")]
pub fn podtrail_execed(_ctx: BtfTracePointContext) -> i32 {
    ring::wake();
    0
}

#[btf_tracepoint(function = "sched_process_exit")]
pub fn podtrail_exit2(ctx: BtfTracePointContext) -> i32 {
    tasks::on_exit(pointer(&ctx, 0));
    0
}

#[btf_tracepoint(function = "sched_process_exit")]
pub fn podtrail_exited(_ctx: BtfTracePointContext) -> i32 {
    ring::wake();
    0
}

/// `(struct task_struct *task)`
#[btf_tracepoint(function = "sched_process_free")]
pub fn podtrail_freed(ctx: BtfTracePointContext) -> i32 {
    tasks::on_free(pointer(&ctx, 0));
    0
}

/// `(struct cgroup *dst_cgrp, const char *path, struct task_struct *task, bool threadgroup)`
#[btf_tracepoint(function = "cgroup_attach_task")]
pub fn podtrail_attach(ctx: BtfTracePointContext) -> i32 {
    cgroups::on_attach(&ctx, pointer(&ctx, 0), pointer(&ctx, 2));
    0
}

/// `(struct cgroup *cgrp, const char *path)`
#[btf_tracepoint(function = "cgroup_mkdir")]
pub fn podtrail_mkdir(ctx: BtfTracePointContext) -> i32 {
    cgroups::on_mkdir(pointer(&ctx, 0), pointer(&ctx, 1));
    0
}

/// `(struct cgroup *cgrp, const char *path)`
#[btf_tracepoint(function = "cgroup_rmdir")]
pub fn podtrail_rmdir(ctx: BtfTracePointContext) -> i32 {
    cgroups::on_rmdir(pointer(&ctx, 0));
    0
}

/// The first choice for setns: nothing but the call itself pays for it. Attached to the system call's function, so
/// the first argument is its `pt_regs` and the second is what it returned.
#[fexit]
pub fn podtrail_setns_fexit(ctx: FExitContext) -> i32 {
    if ctx.arg::<u64>(1) == 0 {
        join::on_setns(&ctx);
    }
    0
}

/// The second choice for setns.
#[kretprobe]
pub fn podtrail_setns_kprobe(ctx: RetProbeContext) -> u32 {
    if ctx.ret::<u64>() == 0 {
        join::on_setns(&ctx);
    }
    0
}

/// The last choice for setns: any enabled system call tracepoint puts every task on the slow path.
#[tracepoint(category = "syscalls", name = "sys_exit_setns")]
pub fn podtrail_setns_tracepoint(ctx: TracePointContext) -> u32 {
    if returned(&ctx) == 0 {
        join::on_setns(&ctx);
    }
    0
}

// Failed execs, in the same three ways. All but those that failed are left after one comparison.

#[fexit]
pub fn podtrail_execve_fexit(ctx: FExitContext) -> i32 {
    // The first argument is the caller's registers.
    failed::on_return(ctx.arg::<i64>(1), || kernel::read(ctx.as_ptr() as u64, 0), false);
    0
}

#[kretprobe]
pub fn podtrail_execve_kprobe(ctx: RetProbeContext) -> u32 {
    failed::on_return(ctx.ret::<i64>(), || kernel::registers(config!(execve)), false);
    0
}

#[tracepoint(category = "syscalls", name = "sys_exit_execve")]
pub fn podtrail_execve_tracepoint(ctx: TracePointContext) -> u32 {
    failed::on_return(returned(&ctx), || kernel::registers(config!(execve)), false);
    0
}

#[fexit]
pub fn podtrail_execveat_fexit(ctx: FExitContext) -> i32 {
    // The first argument is the caller's registers.
    failed::on_return(ctx.arg::<i64>(1), || kernel::read(ctx.as_ptr() as u64, 0), true);
    0
}

#[kretprobe]
pub fn podtrail_execveat_kprobe(ctx: RetProbeContext) -> u32 {
    failed::on_return(ctx.ret::<i64>(), || kernel::registers(config!(execveat)), true);
    0
}

#[tracepoint(category = "syscalls", name = "sys_exit_execveat")]
pub fn podtrail_execveat_tracepoint(ctx: TracePointContext) -> u32 {
    failed::on_return(returned(&ctx), || kernel::registers(config!(execveat)), true);
    0
}

/// What a system call returned, by its tracepoint: struct trace_event_raw_sys_exit has 8 bytes common, `long id`, `long
/// ret`, unchanged since these tracepoints exist.
#[inline(always)]
fn returned(ctx: &TracePointContext) -> i64 {
    // SAFETY: the helper checks that the offset is within the tracepoint's record.
    unsafe { ctx.read_at::<i64>(16) }.unwrap_or(i64::MAX)
}

/// Tells exact start times, which `/proc` rounds: `struct bpf_iter__task { struct bpf_iter_meta *meta; struct
/// task_struct *task; }`.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub fn podtrail_tasks(ctx: *mut c_void) -> i32 {
    tasks::on_iterate(ctx);
    0
}

#[inline(always)]
fn pointer(ctx: &BtfTracePointContext, n: usize) -> u64 {
    ctx.arg::<u64>(n)
}

/// An argument as a plain number: a global function takes no pointer that the verifier knows the type of.
#[inline(always)]
fn number(ctx: &BtfTracePointContext, n: u32) -> u64 {
    kernel::read(ctx.as_ptr() as u64, n * 8)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program that could come here.
    loop {}
}

/// Kernel helpers such as `bpf_probe_read_kernel` ask for it.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
