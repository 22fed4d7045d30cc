//! What is pinned, for `podtrail-agent doctor`: looked at, not changed.

use std::path::{Path, PathBuf};

use aya::maps::MapData;
use podtrail_ebpf::layout::{LAYOUT_VERSION, hook};

use super::{
    control::ControlMap,
    hooks,
    maps::SHARED,
    pins::{Generation, Pins},
    sys,
};
use crate::event::BootTime;

/// The pins of one layout's version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    pub dir: PathBuf,
    /// `None`: its record is gone
    pub layout: Option<u32>,
    /// this podtrail can take it over
    pub ours: bool,
    /// when its hooks were attached
    pub since: Option<BootTime>,
    pub hooks: Vec<PinnedHook>,
    pub maps: Vec<PinnedMap>,
}

/// A hook: ids of its link, of its program, and of the program that it hands over to. `None`: it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedHook {
    pub name: String,
    pub link: Option<u32>,
    pub program: Option<u32>,
    pub worker: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedMap {
    pub name: String,
    pub id: u32,
    /// bytes, of the ring
    pub entries: u32,
}

/// What is pinned in `dir`, by version; empty: nothing, or it may not be looked at.
#[must_use]
pub fn pinned(dir: &Path) -> Vec<Pinned> {
    let generations = Pins::existing(dir).map(|pins| pins.generations()).unwrap_or_default();
    generations.iter().map(look).collect()
}

fn look(generation: &Generation) -> Pinned {
    let control = ControlMap::pinned(&generation.control()).ok().and_then(|map| map.read());
    let id = |path: PathBuf, what: &str| sys::get(&path).ok().and_then(|fd| sys::id(fd, what));
    let hooks = hooks::all()
        .map(|hook| {
            let pinned = PinnedHook {
                name: hook.name.to_owned(),
                link: id(generation.link(hook.name), "link_id"),
                program: id(generation.hook(hook.name), "prog_id"),
                worker: id(generation.program(hook.name), "prog_id"),
            };
            (hook, pinned)
        })
        .filter_map(|(hook, pinned)| {
            // Of the ways to see a system call one is in use.
            (hook.index < hook::SETNS || pinned.program.is_some()).then_some(pinned)
        })
        .collect();
    let maps = SHARED
        .iter()
        .filter_map(|name| {
            let info = MapData::from_pin(generation.map(name)).ok()?.info().ok()?;
            Some(PinnedMap { name: (*name).to_owned(), id: info.id(), entries: info.max_entries() })
        })
        .collect();
    Pinned {
        dir: generation.dir.clone(),
        layout: control.map(|control| control.layout),
        ours: control.is_some_and(|control| control.layout == LAYOUT_VERSION && control.ready == 1),
        since: control.map(|control| control.since()),
        hooks,
        maps,
    }
}
