//! From the embedded object to attached programs.

use std::{fs, io, path::Path};

use aya::{
    Btf as KernelBtf, Ebpf, EbpfError, EbpfLoader,
    maps::MapError,
    programs::{BtfTracePoint, FExit, Iter, KProbe, Program, ProgramError, TracePoint},
};
use nix::sys::resource::{Resource, setrlimit};
use podtrail_ebpf::layout::{ABSENT, Config, LAYOUT_VERSION};
use zerocopy::IntoBytes as _;

use super::{OBJECT, Options, Setns, btf::Btf, btf::BtfError, offsets, tracefs};
use crate::event::Hook;

/// Where the kernel tells its types.
pub(crate) const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Why the kernel side does not run.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// the object is empty
    #[error("this podtrail-agent was built without its BPF programs: build it with `cargo xtask build`")]
    NoObject,
    /// BTF cannot be read
    #[error(
        "cannot read the kernel's types from {path}: {source}; use a kernel with CONFIG_DEBUG_INFO_BTF=y"
    )]
    NoBtf { path: String, source: io::Error },
    /// BTF cannot be understood
    #[error("{path} is no BTF of a kernel: {source}")]
    Btf { path: String, source: BtfError },
    /// aya cannot read it
    #[error("{path} cannot be used: {detail}")]
    KernelBtf { path: String, detail: String },
    /// the kernel lacks fields
    #[error("this kernel has no {}: it is not supported by this podtrail; report it with `podtrail-agent doctor`", .0.join(", "))]
    Fields(Vec<String>),
    /// the controller is unknown
    #[error("this kernel has no cgroup controller {0}; use cgroup v2, or a kernel with the pids controller")]
    Controller(String),
    /// not permitted
    #[error(
        "not permitted to load BPF programs: run as root, or with CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE"
    )]
    NotPermitted,
    /// the object is wrong
    #[error("the BPF object does not load: {0}; rebuild with `cargo xtask build`")]
    Object(String),
    /// a program does not load or attach
    #[error("cannot {call} the {program} hook: {detail}")]
    Program { call: &'static str, program: &'static str, detail: String },
    /// no way to see setns
    #[error("no way to see setns works here: {0}")]
    Setns(String),
    /// a map fails
    #[error("cannot {call} the map {map}: {detail}")]
    Map { call: &'static str, map: &'static str, detail: String },
    /// the ring
    #[error("cannot wait for the ring: {0}")]
    Ring(io::Error),
    /// the iterator
    #[error("cannot read the tasks' start times: {0}")]
    Tasks(String),
}

pub(crate) fn map_error(call: &'static str, map: &'static str, error: &MapError) -> ProbeError {
    ProbeError::Map { call, map, detail: chain(error) }
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    // A verifier's log is long: its last line says what it did not like.
    text.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" | ")
}

/// What loading needs of the kernel's BTF.
#[derive(Debug)]
pub(crate) struct Types {
    pub(crate) found: offsets::Found,
    subsys: u32,
    pub(crate) kernel: KernelBtf,
}

/// Reads BTF, twice: once for aya, which keeps struct members to itself, and once for them.
pub(crate) fn types(options: &Options) -> Result<Types, ProbeError> {
    let path = options.btf.as_deref().unwrap_or(Path::new(VMLINUX));
    let shown = path.display().to_string();
    let bytes = fs::read(path).map_err(|source| ProbeError::NoBtf { path: shown.clone(), source })?;
    let kernel = KernelBtf::parse(&bytes, aya::Endianness::default())
        .map_err(|e| ProbeError::KernelBtf { path: shown.clone(), detail: chain(&e) })?;
    let btf =
        Btf::parse(bytes, &offsets::structs()).map_err(|source| ProbeError::Btf { path: shown, source })?;
    let found = offsets::find(&btf);
    let subsys = match &options.host.controller {
        None => ABSENT,
        Some(name) => btf
            .enumerator(&format!("{name}_cgrp_id"))
            .and_then(|v| u32::try_from(v).ok())
            .ok_or_else(|| ProbeError::Controller(name.clone()))?,
    };
    Ok(Types { found, subsys, kernel })
}

/// Loads the object: maps are there, programs are not yet.
pub(crate) fn object(options: &Options, types: &Types) -> Result<Ebpf, ProbeError> {
    if OBJECT.is_empty() {
        return Err(ProbeError::NoObject);
    }
    if !types.found.missing.is_empty() {
        return Err(ProbeError::Fields(types.found.missing.clone()));
    }
    // Before 5.11, BPF memory counts against this limit; where it may not be raised, loading says so.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, u64::MAX, u64::MAX);

    let Options { argv_limit, argv_budget, ring_size, tasks, setns: _, btf: _, diagnose, host } = options;
    let config = Config {
        version: LAYOUT_VERSION,
        host_mnt_ns: host.mnt_ns,
        host_pid_ns: host.pid_ns,
        host_user_ns: host.user_ns,
        argv_limit: *argv_limit,
        cgroup_subsys: types.subsys,
        hierarchy: host.hierarchy,
        diagnose: u32::from(*diagnose),
        argv_budget: *argv_budget,
        _pad: 0,
    };
    let loader = &mut EbpfLoader::new();
    loader
        .btf(Some(&types.kernel))
        .override_global("CONFIG", config.as_bytes(), true)
        .override_global("OFFSETS", types.found.values.as_slice(), true)
        .map_max_entries("EVENTS", *ring_size)
        .map_max_entries("TASKS", *tasks);
    loader.load(OBJECT).map_err(|e| object_error(&e))
}

fn object_error(error: &EbpfError) -> ProbeError {
    let detail = chain(error);
    if detail.contains("os error 1)") { ProbeError::NotPermitted } else { ProbeError::Object(detail) }
}

fn program<'a, T>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut T, ProbeError>
where
    &'a mut T: TryFrom<&'a mut Program, Error = ProgramError>,
{
    ebpf.program_mut(name)
        .ok_or_else(|| ProbeError::Object(format!("it has no program {name}")))?
        .try_into()
        .map_err(|e: ProgramError| ProbeError::Object(format!("{name}: {e}")))
}

/// The hooks that are always there: program, tracepoint.
const TRACEPOINTS: &[(&str, &str)] = &[
    // Cgroups first: a task must not come into one that is not known.
    ("podtrail_mkdir", "cgroup_mkdir"),
    ("podtrail_rmdir", "cgroup_rmdir"),
    ("podtrail_attach", "cgroup_attach_task"),
    ("podtrail_fork", "sched_process_fork"),
    ("podtrail_exec", "sched_process_exec"),
    ("podtrail_exit", "sched_process_exit"),
];

/// Attaches everything; says which hooks are in use, and why.
pub(crate) fn attach(ebpf: &mut Ebpf, options: &Options, types: &Types) -> Result<Vec<Hook>, ProbeError> {
    let mut hooks = Vec::new();
    // All are loaded before the first is attached: an object that does not load changes nothing.
    for (name, tracepoint) in TRACEPOINTS {
        program::<BtfTracePoint>(ebpf, name)?
            .load(tracepoint, &types.kernel)
            .map_err(|e| failed("load", tracepoint, &e))?;
    }
    // Read only at start, but loaded here: the kernel's types are many megabytes, and go when loading is done.
    program::<Iter>(ebpf, "podtrail_tasks")?
        .load("task", &types.kernel)
        .map_err(|e| failed("load", "iter/task", &e))?;
    for (name, tracepoint) in TRACEPOINTS {
        program::<BtfTracePoint>(ebpf, name)?.attach().map_err(|e| failed("attach", tracepoint, &e))?;
        hooks.push(Hook {
            name: (*tracepoint).to_owned(),
            kind: "btf tracepoint".to_owned(),
            reason: String::new(),
        });
    }
    hooks.push(setns(ebpf, options.setns, types)?);
    Ok(hooks)
}

fn failed(call: &'static str, program: &'static str, error: &ProgramError) -> ProbeError {
    let detail = chain(error);
    if call == "load" && detail.contains("os error 1)") {
        return ProbeError::NotPermitted;
    }
    ProbeError::Program { call, program, detail }
}

#[cfg(target_arch = "x86_64")]
const SETNS_FUNCTION: &str = "__x64_sys_setns";
#[cfg(target_arch = "aarch64")]
const SETNS_FUNCTION: &str = "__arm64_sys_setns";

/// fexit where the kernel allows it, else kprobe, else the system call's tracepoint. All of it with tracefs, where one
/// can be had: aya looks for it once and for all.
fn setns(ebpf: &mut Ebpf, choice: Setns, types: &Types) -> Result<Hook, ProbeError> {
    if tracefs::is_mounted() {
        return choose_setns(ebpf, choice, types);
    }
    let (chosen, mounted) = tracefs::with_own(|| choose_setns(ebpf, choice, types))?;
    match (chosen, mounted) {
        (Err(ProbeError::Setns(refused)), Err(e)) => Err(ProbeError::Setns(format!(
            "{refused}; tracefs is not mounted, and cannot be mounted for the agent alone: {e}"
        ))),
        (chosen, _) => chosen,
    }
}

fn choose_setns(ebpf: &mut Ebpf, choice: Setns, types: &Types) -> Result<Hook, ProbeError> {
    let mut refused: Vec<String> = Vec::new();
    let ways: &[(Setns, &str)] =
        &[(Setns::Fexit, "fexit"), (Setns::Kprobe, "kprobe"), (Setns::Tracepoint, "tracepoint")];
    for (way, kind) in ways {
        if choice != Setns::Auto && choice != *way {
            continue;
        }
        let tried = match way {
            Setns::Fexit => setns_fexit(ebpf, types),
            Setns::Kprobe => setns_kprobe(ebpf),
            Setns::Tracepoint | Setns::Auto => setns_tracepoint(ebpf),
        };
        match tried {
            Ok(()) => {
                let mut reason = refused.join("; ");
                if choice != Setns::Auto {
                    "asked for".clone_into(&mut reason);
                }
                return Ok(Hook { name: "setns".to_owned(), kind: (*kind).to_owned(), reason });
            }
            Err(detail) => refused.push(format!("{kind}: {detail}")),
        }
    }
    Err(ProbeError::Setns(refused.join("; ")))
}

fn setns_fexit(ebpf: &mut Ebpf, types: &Types) -> Result<(), String> {
    let program = program::<FExit>(ebpf, "podtrail_setns_fexit").map_err(|e| e.to_string())?;
    program.load(SETNS_FUNCTION, &types.kernel).map_err(|e| short(&e))?;
    program.attach().map_err(|e| short(&e))?;
    Ok(())
}

fn setns_kprobe(ebpf: &mut Ebpf) -> Result<(), String> {
    let program = program::<KProbe>(ebpf, "podtrail_setns_kprobe").map_err(|e| e.to_string())?;
    program.load().map_err(|e| short(&e))?;
    program.attach(SETNS_FUNCTION, 0).map_err(|e| short(&e))?;
    Ok(())
}

fn setns_tracepoint(ebpf: &mut Ebpf) -> Result<(), String> {
    let program = program::<TracePoint>(ebpf, "podtrail_setns_tracepoint").map_err(|e| e.to_string())?;
    program.load().map_err(|e| short(&e))?;
    program.attach("syscalls", "sys_exit_setns").map_err(|e| short(&e))?;
    Ok(())
}

/// Why a way was refused, for people: the innermost cause.
fn short(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    let text = chain(innermost);
    text.split(" | ").next().unwrap_or_default().to_owned()
}

/// Opens the task iterator for reading.
pub(crate) fn task_iterator(ebpf: &mut Ebpf) -> Result<fs::File, ProbeError> {
    let error = |e: &dyn std::error::Error| ProbeError::Tasks(chain(e));
    let program = program::<Iter>(ebpf, "podtrail_tasks")?;
    let link = program.attach().map_err(|e| error(&e))?;
    program.take_link(link).map_err(|e| error(&e))?.into_file().map_err(|e| error(&e))
}
