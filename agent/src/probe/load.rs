//! From the embedded object to maps and programs in the kernel.

use std::{fs, io, path::Path};

use aya::{Btf as KernelBtf, Ebpf, EbpfError, EbpfLoader, maps::MapError, programs::ProgramError};
use nix::{
    libc::{SYS_execve, SYS_execveat},
    sys::resource::{Resource, setrlimit},
};
use podtrail_ebpf::layout::{ABSENT, Config, HostRoot, LAYOUT_VERSION, scratch};
use zerocopy::IntoBytes as _;

use super::{
    OBJECT, Options,
    btf::{Btf, BtfError},
    maps, offsets,
    pins::{Generation, PinError},
};

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
    #[error("cannot read the ring: {0}")]
    Ring(io::Error),
    /// {0}
    #[error(transparent)]
    Pin(#[from] PinError),
    /// a slot
    #[error("cannot say which program the {hook} hook hands over to: {source}")]
    Slot { hook: &'static str, source: io::Error },
    /// it reports what is not so
    #[error(
        "the kernel side reports what is not so, and is not used ({0}); is --btf of this kernel? Else report it with the output of `podtrail-agent doctor`"
    )]
    SelfTest(String),
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
    /// the kernel has `bpf_task_pt_regs`
    registers_helper: bool,
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
    let registers_helper = btf.enumerator("BPF_FUNC_task_pt_regs").is_some();
    Ok(Types { found, subsys, registers_helper, kernel })
}

/// Loads the object: maps are there, programs are not yet. With `reuse`, of the maps that outlive an agent those that
/// are pinned there, but for a new ring where that is wanted.
pub(super) fn object(
    options: &Options,
    types: &Types,
    reuse: Option<&Generation>,
    new_ring: bool,
) -> Result<Ebpf, ProbeError> {
    if OBJECT.is_empty() {
        return Err(ProbeError::NoObject);
    }
    if !types.found.missing.is_empty() {
        return Err(ProbeError::Fields(types.found.missing.clone()));
    }
    // Before 5.11, BPF memory counts against this limit; where it may not be raised, loading says so.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, u64::MAX, u64::MAX);

    let Options {
        argv_limit,
        argv_budget,
        ring_size,
        tasks,
        setns: _,
        failed: _,
        preempted,
        btf: _,
        diagnose,
        host,
        pin: _,
    } = options;
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
        registers_helper: types.registers_helper.into(),
        execve: u32::try_from(SYS_execve).unwrap_or(ABSENT),
        execveat: u32::try_from(SYS_execveat).unwrap_or(ABSENT),
    };
    let (inode, device) = host.root.unwrap_or_default();
    let half = |shift: u32| u32::try_from((inode >> shift) & u64::from(u32::MAX)).unwrap_or_default();
    let host_root = HostRoot { inode: half(0), inode_high: half(32), device, _pad: 0 };
    let buffers = if *preempted { scratch::COUNT_BEHIND } else { scratch::COUNT };
    let loader = &mut EbpfLoader::new();
    loader
        .btf(Some(&types.kernel))
        .override_global("CONFIG", config.as_bytes(), true)
        .override_global("HOST_ROOT", host_root.as_bytes(), true)
        .override_global("OFFSETS", types.found.values.as_slice(), true)
        .map_max_entries("EVENTS", *ring_size)
        .map_max_entries("TASKS", *tasks)
        .map_max_entries("SCRATCH", buffers)
        .map_max_entries("ENVIRON", buffers - scratch::EXEC);
    if let Some(pins) = reuse {
        for name in maps::SHARED.iter().filter(|name| !(new_ring && **name == maps::RING)) {
            loader.map_pin_path(name, pins.map(name));
        }
    }
    let ebpf = loader.load(OBJECT).map_err(|e| object_error(&e))?;
    // Whoever adds a map must say whether the next agent needs it.
    if let Some((name, _)) = ebpf.maps().find(|(name, _)| !maps::is_known(name)) {
        return Err(ProbeError::Object(format!("its map {name} is in no list of probe/maps.rs")));
    }
    Ok(ebpf)
}

fn object_error(error: &EbpfError) -> ProbeError {
    let detail = chain(error);
    if detail.contains("os error 1)") { ProbeError::NotPermitted } else { ProbeError::Object(detail) }
}

pub(super) fn failed(call: &'static str, program: &'static str, error: &ProgramError) -> ProbeError {
    let detail = chain(error);
    if call == "load" && detail.contains("os error 1)") {
        return ProbeError::NotPermitted;
    }
    ProbeError::Program { call, program, detail }
}

/// Why a way was refused, for people: the innermost cause.
pub(super) fn short(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    let text = chain(innermost);
    text.split(" | ").next().unwrap_or_default().to_owned()
}
