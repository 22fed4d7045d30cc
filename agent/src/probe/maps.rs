//! Which maps outlive an agent, and whether those that are pinned are what this agent takes them for.

use std::collections::HashMap;

use aya::maps::{Map, MapData, MapType};
use podtrail_ebpf::layout::{Cgroup, FollowedTask, Session, TaskKey, counter};

use super::{Options, pins::Generation};

/// The ring.
pub(super) const RING: &str = "EVENTS";

/// Shared by the programs of one agent and the next.
pub(super) const SHARED: [&str; 30] = [
    RING,
    "READER",
    "COUNTERS",
    "TASKS",
    "SESSIONS",
    "CGROUPS",
    "NAMESPACES",
    "TO_MKDIR",
    "TO_RMDIR",
    "TO_ATTACH",
    "TO_FORK",
    "TO_EXEC",
    "TO_EXIT",
    "TO_FORK2",
    "TO_EXEC2",
    "TO_EXEC3",
    "TO_EXEC4",
    "TO_EXIT2",
    "TO_EXECED",
    "TO_EXITED",
    "TO_FREED",
    "TO_SETNS_FEXIT",
    "TO_SETNS_KPROBE",
    "TO_SETNS_TRACEPOINT",
    "TO_EXECVE_FEXIT",
    "TO_EXECVE_KPROBE",
    "TO_EXECVE_TRACEPOINT",
    "TO_EXECVEAT_FEXIT",
    "TO_EXECVEAT_KPROBE",
    "TO_EXECVEAT_TRACEPOINT",
];

/// Each object's own.
const OWN: [&str; 5] = ["SCRATCH", "NOTES", "ENVIRON", "AYA_LOGS", "AYA_LOG_BUF"];

pub(super) fn is_known(name: &str) -> bool {
    SHARED.contains(&name) || OWN.contains(&name) || name.starts_with('.')
}

pub(super) type Maps = HashMap<&'static str, Map>;

/// The maps that are pinned; or why they are not these programs' maps. The ring may have another size.
pub(super) fn pinned(pins: &Generation, options: &Options) -> Result<Maps, String> {
    let mut maps = Maps::new();
    for name in SHARED {
        let open = || {
            let data = MapData::from_pin(pins.map(name))?;
            let found = data.info()?;
            let shape = (found.map_type()?, found.key_size(), found.value_size(), found.max_entries());
            Ok::<_, aya::maps::MapError>((Map::from_map_data(data)?, shape))
        };
        let (map, found) = open().map_err(|_error| format!("the pin of the map {name} is gone"))?;
        let wanted = shape(name, options);
        let entries = wanted.3.unwrap_or(found.3);
        if (found.0, found.1, found.2, found.3) != (wanted.0, wanted.1, wanted.2, entries) {
            return Err(format!("the map {name} has another shape"));
        }
        maps.insert(name, map);
    }
    Ok(maps)
}

type Shape = (MapType, u32, u32, Option<u32>);

/// Type, key, value, entries (`None`: whatever they are) of a map.
fn shape(name: &str, options: &Options) -> Shape {
    const KEY: u32 = size(size_of::<TaskKey>());
    match name {
        RING => (MapType::RingBuf, 0, 0, None),
        "READER" => (MapType::Array, 4, 4, Some(1)),
        "COUNTERS" => (MapType::PerCpuArray, 4, 8, Some(counter::COUNT)),
        "TASKS" => (MapType::Hash, KEY, size(size_of::<FollowedTask>()), Some(options.tasks)),
        "SESSIONS" => (MapType::Hash, KEY, size(size_of::<Session>()), None),
        "CGROUPS" => (MapType::Hash, 8, size(size_of::<Cgroup>()), None),
        "NAMESPACES" => (MapType::Hash, 4, 8, None),
        _ => (MapType::ProgramArray, 4, 4, Some(1)),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "sizes of keys and values, which are asserted")]
const fn size(bytes: usize) -> u32 {
    bytes as u32
}

/// The map itself, whatever it holds.
pub(super) fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data) | Map::PerCpuArray(data) | Map::HashMap(data) | Map::RingBuf(data) => Some(data),
        Map::ProgramArray(data) => Some(data),
        _ => None,
    }
}
