//! What is attached: hooks that hand over, each to the program in its slot. So a program changes at once, between two
//! calls, while its hook stays (`agent-ebpf/src/main.rs`).

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::{
    Btf as KernelBtf, Ebpf,
    programs::{
        BtfTracePoint, FExit, KProbe, Program, ProgramError, TracePoint,
        links::{FdLink, LinkError},
    },
    util::KernelVersion,
};
use podtrail_ebpf::layout::hook;

use super::{Options, Setns};
use crate::event;

/// One hook.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hook {
    /// index into slots and counters
    pub(super) index: u32,
    /// of its pins
    pub(super) name: &'static str,
    /// what it is attached to
    pub(super) place: &'static str,
    pub(super) kind: Kind,
    /// the program that is attached
    pub(super) hook: &'static str,
    /// the map that it hands over by
    pub(super) slot: &'static str,
    /// the program that it hands over to
    pub(super) program: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    BtfTracepoint,
    Fexit,
    Kprobe,
    Tracepoint,
}

impl Kind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::BtfTracepoint => "btf tracepoint",
            Self::Fexit => "fexit",
            Self::Kprobe => "kprobe",
            Self::Tracepoint => "tracepoint",
        }
    }
}

macro_rules! hook {
    ($index:ident $name:literal $place:expr, $kind:ident $hook:literal $slot:literal $program:literal) => {
        Hook {
            index: hook::$index,
            name: $name,
            place: $place,
            kind: Kind::$kind,
            hook: $hook,
            slot: $slot,
            program: $program,
        }
    };
}

/// On tracepoints, in the order in which they are attached: cgroups first, since a task must not come into one that is not known; those
/// that stand behind others after them, since the kernel calls the hooks of a place in this order.
static TRACEPOINTS: [Hook; 14] = [
    hook!(MKDIR "mkdir" "cgroup_mkdir", BtfTracepoint "hook_mkdir" "TO_MKDIR" "podtrail_mkdir"),
    hook!(RMDIR "rmdir" "cgroup_rmdir", BtfTracepoint "hook_rmdir" "TO_RMDIR" "podtrail_rmdir"),
    hook!(ATTACH "attach" "cgroup_attach_task", BtfTracepoint "hook_attach" "TO_ATTACH" "podtrail_attach"),
    hook!(FORK "fork" "sched_process_fork", BtfTracepoint "hook_fork" "TO_FORK" "podtrail_fork"),
    hook!(EXEC "exec" "sched_process_exec", BtfTracepoint "hook_exec" "TO_EXEC" "podtrail_exec"),
    hook!(EXIT "exit" "sched_process_exit", BtfTracepoint "hook_exit" "TO_EXIT" "podtrail_exit"),
    hook!(FORK2 "fork2" "sched_wakeup_new", BtfTracepoint "hook_fork2" "TO_FORK2" "podtrail_fork2"),
    hook!(EXEC2 "exec2" "sched_process_exec", BtfTracepoint "hook_exec2" "TO_EXEC2" "podtrail_exec2"),
    hook!(EXEC3 "exec3" "sched_process_exec", BtfTracepoint "hook_exec3" "TO_EXEC3" "podtrail_exec3"),
    hook!(EXEC4 "exec4" "sched_process_exec", BtfTracepoint "hook_exec4" "TO_EXEC4" "podtrail_exec4"),
    hook!(EXIT2 "exit2" "sched_process_exit", BtfTracepoint "hook_exit2" "TO_EXIT2" "podtrail_exit2"),
    hook!(FREED "freed" "sched_process_free", BtfTracepoint "hook_freed" "TO_FREED" "podtrail_freed"),
    hook!(EXECED "execed" "sched_process_exec", BtfTracepoint "hook_execed" "TO_EXECED" "podtrail_execed"),
    hook!(EXITED "exited" "sched_process_exit", BtfTracepoint "hook_exited" "TO_EXITED" "podtrail_exited"),
];

/// Those of tracepoints that are there with these options.
pub(super) fn on_tracepoints(options: &Options) -> impl Iterator<Item = &'static Hook> {
    let preempted = options.preempted;
    TRACEPOINTS.iter().filter(move |hook| preempted || !hook.makes_up())
}

/// Whether this kernel lets a task be preempted in the middle of a tracepoint's program, as it does from 7.0 on.
#[must_use]
pub fn are_preempted() -> bool {
    KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(7, 0, 0))
}

/// A system call's function in the kernel, which is given the caller's registers.
macro_rules! call {
    ($name:literal) => {
        if cfg!(target_arch = "aarch64") {
            concat!("__arm64_sys_", $name)
        } else {
            concat!("__x64_sys_", $name)
        }
    };
}

/// The ways to see setns, the best first.
pub(super) static SETNS: [Hook; 3] = [
    hook!(SETNS "setns_fexit" call!("setns"), Fexit "hook_setns_fexit" "TO_SETNS_FEXIT" "podtrail_setns_fexit"),
    hook!(SETNS "setns_kprobe" call!("setns"), Kprobe "hook_setns_kprobe" "TO_SETNS_KPROBE" "podtrail_setns_kprobe"),
    hook!(SETNS "setns_tracepoint" "sys_exit_setns", Tracepoint "hook_setns_tracepoint" "TO_SETNS_TRACEPOINT" "podtrail_setns_tracepoint"),
];

/// Failed execs, by each of those ways.
pub(super) static FAILED: [[Hook; 2]; 3] = [
    [
        hook!(EXECVE "execve_fexit" call!("execve"), Fexit "hook_execve_fexit" "TO_EXECVE_FEXIT" "podtrail_execve_fexit"),
        hook!(EXECVEAT "execveat_fexit" call!("execveat"), Fexit "hook_execveat_fexit" "TO_EXECVEAT_FEXIT" "podtrail_execveat_fexit"),
    ],
    [
        hook!(EXECVE "execve_kprobe" call!("execve"), Kprobe "hook_execve_kprobe" "TO_EXECVE_KPROBE" "podtrail_execve_kprobe"),
        hook!(EXECVEAT "execveat_kprobe" call!("execveat"), Kprobe "hook_execveat_kprobe" "TO_EXECVEAT_KPROBE" "podtrail_execveat_kprobe"),
    ],
    [
        hook!(EXECVE "execve_tracepoint" "sys_exit_execve", Tracepoint "hook_execve_tracepoint" "TO_EXECVE_TRACEPOINT" "podtrail_execve_tracepoint"),
        hook!(EXECVEAT "execveat_tracepoint" "sys_exit_execveat", Tracepoint "hook_execveat_tracepoint" "TO_EXECVEAT_TRACEPOINT" "podtrail_execveat_tracepoint"),
    ],
];

/// All of them, whichever is in use.
pub(super) fn all() -> impl Iterator<Item = &'static Hook> {
    TRACEPOINTS.iter().chain(&SETNS).chain(FAILED.iter().flatten())
}

impl Setns {
    /// Whether it may be seen in this way.
    pub(super) fn allows(self, way: &Hook) -> bool {
        match self {
            Self::Auto => true,
            Self::Fexit => way.kind == Kind::Fexit,
            Self::Kprobe => way.kind == Kind::Kprobe,
            Self::Tracepoint => way.kind == Kind::Tracepoint,
        }
    }
}

impl Hook {
    /// Whether it does what others were skipped for, which they are only where they are preempted.
    fn makes_up(&self) -> bool {
        (hook::FORK2..=hook::FREED).contains(&self.index)
    }

    /// Whether there is another one that sees what it sees, and is told.
    pub(super) fn is_behind(&self) -> bool {
        (hook::FORK2..=hook::EXITED).contains(&self.index)
    }

    /// Whether what it was skipped for is done by another one, or found out and counted.
    pub(super) fn is_made_up_for(&self) -> bool {
        matches!(self.index, hook::FORK | hook::EXEC | hook::EXIT) || self.is_behind()
    }

    /// The order in which programs change: what comes later in a task's life first, so that what an old program tells
    /// never comes after what a new one tells of the same task.
    pub(super) fn turn(&self) -> u32 {
        match self.index {
            hook::FREED => 0,
            hook::EXIT | hook::EXIT2 | hook::EXITED => 1,
            hook::RMDIR => 2,
            hook::EXEC | hook::EXEC2 | hook::EXEC3 | hook::EXEC4 | hook::EXECED => 3,
            hook::SETNS => 4,
            hook::EXECVE | hook::EXECVEAT => 5,
            hook::FORK | hook::FORK2 => 6,
            hook::ATTACH => 7,
            _ => 8,
        }
    }

    /// As events tell it.
    pub(super) fn told(&self, reason: &str) -> event::Hook {
        let name = match self.index {
            hook::SETNS => "setns",
            hook::EXECVE => "execve",
            hook::EXECVEAT => "execveat",
            _ => self.place,
        };
        event::Hook { name: name.to_owned(), kind: self.kind.as_str().to_owned(), reason: reason.to_owned() }
    }

    /// Loads the program that does the work; answers its descriptor.
    pub(super) fn load_program(&self, ebpf: &mut Ebpf, btf: &KernelBtf) -> Result<OwnedFd, ProgramError> {
        self.load(ebpf, self.program, btf)
    }

    fn load(&self, ebpf: &mut Ebpf, name: &'static str, btf: &KernelBtf) -> Result<OwnedFd, ProgramError> {
        match self.kind {
            Kind::BtfTracepoint => typed::<BtfTracePoint>(ebpf, name)?.load(self.place, btf)?,
            Kind::Fexit => typed::<FExit>(ebpf, name)?.load(self.place, btf)?,
            Kind::Kprobe => typed::<KProbe>(ebpf, name)?.load()?,
            Kind::Tracepoint => typed::<TracePoint>(ebpf, name)?.load()?,
        }
        let program = ebpf.program(name).ok_or(ProgramError::NotLoaded)?;
        Ok(program.fd()?.as_fd().try_clone_to_owned()?)
    }

    /// Loads the hook itself; answers its descriptor. Nothing is called yet.
    pub(super) fn load_hook(&self, ebpf: &mut Ebpf, btf: &KernelBtf) -> Result<OwnedFd, ProgramError> {
        self.load(ebpf, self.hook, btf)
    }

    /// Attaches the hook. The link, where one can be pinned; else it stays with `ebpf`.
    pub(super) fn attach(&self, ebpf: &mut Ebpf) -> Result<Option<FdLink>, ProgramError> {
        let link = |e: LinkError| ProgramError::IOError(io::Error::other(e));
        let perf_link = aya::features().bpf_perf_link(); // since 5.15
        Ok(match self.kind {
            Kind::BtfTracepoint => {
                let hook = typed::<BtfTracePoint>(ebpf, self.hook)?;
                let id = hook.attach()?;
                Some(hook.take_link(id)?.into())
            }
            Kind::Fexit => {
                let hook = typed::<FExit>(ebpf, self.hook)?;
                let id = hook.attach()?;
                Some(hook.take_link(id)?.into())
            }
            Kind::Kprobe => {
                let hook = typed::<KProbe>(ebpf, self.hook)?;
                let id = hook.attach(self.place, 0)?;
                if perf_link { Some(hook.take_link(id)?.try_into().map_err(link)?) } else { None }
            }
            Kind::Tracepoint => {
                let hook = typed::<TracePoint>(ebpf, self.hook)?;
                let id = hook.attach("syscalls", self.place)?;
                if perf_link { Some(hook.take_link(id)?.try_into().map_err(link)?) } else { None }
            }
        })
    }
}

pub(super) fn typed<'a, T>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut T, ProgramError>
where
    &'a mut T: TryFrom<&'a mut Program, Error = ProgramError>,
{
    ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)?.try_into()
}
