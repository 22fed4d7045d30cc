//! What was pinned, for the next agent: a map of one value, which no program reads.

use std::{os::fd::AsFd as _, path::Path};

use aya::maps::{Array, IterableMap as _, Map, MapData, MapError};
use podtrail_ebpf::layout::{LAYOUT_VERSION, hook};
use sha2::{Digest as _, Sha256};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    OBJECT, Options,
    load::{ProbeError, map_error},
    pins,
    position::Instance,
    seed::{Bytes, bytes},
};
use crate::event::BootTime;

const MAGIC: [u8; 8] = *b"podtrail";
const SIZE: usize = 512;
const REASON: usize = 256;

/// The value. `magic`, `layout` and `instance` are where they are in every version of the layout.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(super) struct Control {
    magic: [u8; 8],
    pub(super) layout: u32,
    /// 1: everything is pinned and attached
    pub(super) ready: u32,
    /// of the ring
    instance: [u8; 16],
    /// of the ring before, where only the ring was changed: what was told of losses holds on
    previous: [u8; 16],
    /// when the hooks were attached, `CLOCK_BOOTTIME`
    pub(super) since: u64,
    /// of the object and of what it was told
    pub(super) object: [u8; 32],
    /// ids of the programs that are handed over to, by hook
    pub(super) programs: [u32; hook::COUNT as usize],
    /// ids of the hooks' links; 0: it could not be pinned
    pub(super) links: [u32; hook::COUNT as usize],
    /// how setns is seen: index into `hooks::SETNS`
    pub(super) setns: u32,
    reason_len: u32,
    /// why it is seen in this way
    reason: [u8; REASON],
    /// whether failed execs are seen: of [`super::failed::Seen`]
    pub(super) failed: u32,
    /// 1: what it reports was compared with `/proc`, and was right
    pub(super) tested: u32,
    /// 1: hooks that make up for others are there
    pub(super) preempted: u32,
    _rest: [u8; 12],
}

const _: () = assert!(size_of::<Control>() == SIZE, "a new member is to be taken from `_rest`");

impl Control {
    pub(super) fn new(instance: Instance, object: [u8; 32]) -> Self {
        Self {
            magic: MAGIC,
            layout: LAYOUT_VERSION,
            ready: 0,
            instance: instance.0,
            previous: [0; 16],
            since: 0,
            object,
            programs: [0; hook::COUNT as usize],
            links: [0; hook::COUNT as usize],
            setns: 0,
            reason_len: 0,
            reason: [0; REASON],
            failed: 0,
            tested: 0,
            preempted: 0,
            _rest: [0; 12],
        }
    }

    pub(super) fn instance(&self) -> Instance {
        Instance(self.instance)
    }

    pub(super) fn since(&self) -> BootTime {
        BootTime(self.since)
    }

    /// The ring is another one from here on.
    pub(super) fn renew(&mut self, instance: Instance) {
        self.previous = self.instance;
        self.instance = instance.0;
    }

    /// Whether what was told of losses with a position in `instance` was told of these counters.
    pub(super) fn counts_for(&self, instance: Instance) -> bool {
        instance.0 == self.instance || (instance.0 == self.previous && self.previous != [0; 16])
    }

    pub(super) fn reason(&self) -> String {
        let length = (self.reason_len as usize).min(REASON);
        String::from_utf8_lossy(self.reason.get(..length).unwrap_or_default()).into_owned()
    }

    pub(super) fn set_reason(&mut self, reason: &str) {
        let length = reason.floor_char_boundary(REASON);
        self.reason = [0; REASON];
        if let (Some(to), Some(from)) = (self.reason.get_mut(..length), reason.as_bytes().get(..length)) {
            to.copy_from_slice(from);
        }
        self.reason_len = u32::try_from(length).unwrap_or(0);
    }
}

/// Names the object together with all that it is told: what has the same is the same programs. What comes from the
/// kernel's types is left out: it does not change while the kernel runs.
pub(super) fn fingerprint(options: &Options) -> [u8; 32] {
    let Options {
        argv_limit,
        argv_budget,
        ring_size: _,
        tasks,
        setns: _,
        failed: _,
        preempted: _,
        btf: _,
        diagnose,
        host,
        pin: _,
    } = options;
    let super::Host { mnt_ns, pid_ns, user_ns, root, controller, hierarchy } = host;
    let mut hash = Sha256::new();
    for number in [argv_limit, argv_budget, tasks, &u32::from(*diagnose), mnt_ns, pid_ns, user_ns, hierarchy]
    {
        hash.update(number.to_le_bytes());
    }
    let (inode, device) = root.unwrap_or_default();
    hash.update(inode.to_le_bytes());
    hash.update(device.to_le_bytes());
    hash.update(controller.as_deref().unwrap_or_default());
    hash.update([0]);
    hash.update(OBJECT);
    hash.finalize().into()
}

/// The map it is in.
pub(super) struct ControlMap {
    map: Array<MapData, Bytes<SIZE>>,
}

impl ControlMap {
    pub(super) fn create() -> Result<Self, ProbeError> {
        let map = Array::create(1, 0).map_err(|e| map_error("make", "control", &e))?;
        Ok(Self { map })
    }

    /// What is pinned at `path`. Whatever it is: [`Self::read`] says whether it makes sense.
    pub(super) fn pinned(path: &Path) -> Result<Self, MapError> {
        let map = Map::from_map_data(MapData::from_pin(path)?)?;
        Ok(Self { map: Array::try_from(map)? })
    }

    pub(super) fn pin(&self, path: &Path) -> Result<(), ProbeError> {
        Ok(pins::replace(self.map.map().fd().as_fd(), path)?)
    }

    /// `None`: it is no record of ours.
    pub(super) fn read(&self) -> Option<Control> {
        let bytes = self.map.get(&0, 0).ok()?;
        Control::read_from_bytes(&bytes).ok().filter(|control| control.magic == MAGIC)
    }

    pub(super) fn write(&mut self, control: &Control) -> Result<(), ProbeError> {
        self.map.set(0, bytes::<_, SIZE>(control), 0).map_err(|e| map_error("write", "control", &e))
    }
}
