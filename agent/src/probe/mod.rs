//! Loads and attaches the BPF programs and reads their ring: the only module that names aya.
//!
//! Must never lose a record in silence: what the kernel side counts as lost, and what cannot be decoded here, comes
//! out of [`Probe::losses`]. Must never trust a record: see `decode`.

#![expect(unsafe_code, reason = "the ring's descriptor is registered with the runtime here")]

mod adopt;
mod alive;
mod btf;
mod capabilities;
mod control;
mod decode;
mod failed;
mod hooks;
mod inherit;
mod integrity;
mod kernel;
mod load;
mod losses;
mod maps;
mod memory;
mod offsets;
mod pinned;
mod pins;
mod position;
mod priority;
mod reader;
mod ring;
mod seed;
mod selftest;
mod survey;
mod sys;
mod told;
mod tracefs;

use std::path::PathBuf;

pub use adopt::Resumed;
pub use btf::BtfError;
pub use capabilities::names as capabilities;
pub use decode::{CgroupCreated, DecodeError, RawRecord, decode};
pub use failed::FailedExecs;
pub use hooks::are_preempted;
pub use inherit::Inherited;
pub use load::ProbeError;
pub use memory::give_back_memory;
pub use pinned::{Pinned, PinnedHook, PinnedMap, pinned};
pub use pins::{PinError, unload};
pub use priority::run_first;
pub use reader::Probe;
pub use selftest::{PLAYED, Refused, Tried, plays_along};
pub use survey::{Problem, Survey, survey};

/// What is done with a file that `--btf` names, for its fuzz target alone.
#[cfg(fuzzing)]
pub fn fuzz_btf(bytes: &[u8]) {
    if let Ok(btf) = btf::Btf::parse(bytes.to_vec(), &offsets::structs()) {
        _ = offsets::find(&btf);
        _ = btf.enumerator("pids_cgrp_id");
    }
}

/// The BPF object, as `build.rs` found it; empty where it was not built.
pub(crate) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/podtrail.bpf.o"));

/// How to see setns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Setns {
    /// the best that works here
    #[default]
    Auto,
    Fexit,
    Kprobe,
    Tracepoint,
}

/// What the kernel side must be told of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// inode numbers of the host's own namespaces
    pub mnt_ns: u32,
    pub pid_ns: u32,
    pub user_ns: u32,
    /// its root directory: inode, and device of the file system; `None`: not known
    pub root: Option<(u64, u32)>,
    /// the v1 controller whose cgroup ids are used ("pids"); `None`: the default hierarchy's (v2)
    pub controller: Option<String>,
    /// id of the hierarchy, as `/proc/self/cgroup` has it; 0 is the default one
    pub hierarchy: u32,
}

/// How to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// bytes of argv that are kept; what is longer keeps its head and its tail
    pub argv_limit: u32,
    /// bytes of argv that a session may have kept in a burst, and again in each ten seconds
    pub argv_budget: u32,
    /// bytes of the ring: a power of two, and whole pages
    pub ring_size: u32,
    /// tasks of sessions that can be followed at once
    pub tasks: u32,
    pub setns: Setns,
    /// whether to see execs that fail
    pub failed: FailedExecs,
    /// programs of tracepoints may be skipped, since tasks are preempted in them
    pub preempted: bool,
    /// BTF of the running kernel; `None`: `/sys/kernel/btf/vmlinux`
    pub btf: Option<PathBuf>,
    /// let the BPF programs say what they do, through the log
    pub diagnose: bool,
    pub host: Host,
    /// where everything is pinned, so that it goes on without the agent; `None`: nowhere
    pub pin: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            argv_limit: 64 * 1024,
            argv_budget: 4 * 1024 * 1024,
            ring_size: 4 * 1024 * 1024,
            tasks: 65_536,
            setns: Setns::Auto,
            failed: FailedExecs::Auto,
            preempted: are_preempted(),
            btf: None,
            diagnose: false,
            host: Host::default(),
            pin: None,
        }
    }
}
