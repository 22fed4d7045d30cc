//! The kernel side: its maps, its hooks, and the pins that keep them when the agent ends.

use std::{
    collections::HashMap,
    fs, io,
    io::Read as _,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    maps::{Map, MapData},
    programs::{Iter, ProgramError, iter::IterLink, links::FdLink},
};
use podtrail_ebpf::layout::{TaskStart, hook};
use zerocopy::FromBytes as _;

use super::{
    Options, ProbeError,
    control::{Control, ControlMap, fingerprint},
    failed::{self, Seen},
    hooks::{self, Hook, SETNS, typed},
    load::{self, Types, chain, short},
    maps::{self, Maps, RING, SHARED},
    pins::{self, Generation, Pins, Retired},
    position::Instance,
    reader::boot_now,
    sys,
    told::ToldMap,
    tracefs,
};
use crate::event::{self, BootTime};

const TASKS: &str = "podtrail_tasks";

/// Everything in the kernel but the ring, whose memory the reader has.
pub(super) struct Kernel {
    /// those that outlive an agent
    pub(super) maps: Maps,
    pub(super) hooks: Vec<Attached>,
    pub(super) control: Control,
    /// `None`: nothing is pinned, and all ends with the agent
    pub(super) kept: Option<Kept>,
    /// keeps the links that could not be pinned
    pub(super) ebpf: Option<Ebpf>,
}

/// A hook at work.
pub(super) struct Attached {
    pub(super) hook: &'static Hook,
    /// by which it hands over
    pub(super) slot: OwnedFd,
    /// the program that is attached
    pub(super) program: OwnedFd,
    /// the program that it hands over to, and its id
    pub(super) worker: OwnedFd,
    pub(super) worker_id: u32,
    /// not pinned: detached when dropped
    pub(super) link: Option<FdLink>,
}

/// What is pinned.
pub(super) struct Kept {
    pub(super) pins: Pins,
    pub(super) generation: Generation,
    pub(super) control: ControlMap,
    pub(super) told: ToldMap,
    pub(super) held: Vec<Held>,
    /// rings of before: theirs is with the reader, until it is kept
    pub(super) retired: Vec<Retired>,
}

/// A pin, and what it pins.
pub(super) struct Held {
    /// for people: "map EVENTS"
    pub(super) what: String,
    pub(super) path: PathBuf,
    pub(super) object: OwnedFd,
    pub(super) inode: Option<u64>,
}

impl Held {
    pub(super) fn open(what: String, path: PathBuf) -> io::Result<Self> {
        let object = sys::get(&path)?;
        let inode = pins::inode(&path);
        Ok(Self { what, path, object, inode })
    }
}

/// A kernel side that did not exist before.
pub(super) struct New {
    pub(super) kernel: Kernel,
    pub(super) ring: MapData,
    /// when the last hook was in place
    pub(super) attached: BootTime,
}

/// Loads and attaches everything. `replace` is called when all is loaded and nothing attached yet: whatever was attached
/// before must go now.
pub(super) fn fresh(
    options: &Options,
    pins: Option<&Pins>,
    replace: impl FnOnce() -> Result<(), ProbeError>,
) -> Result<New, ProbeError> {
    let types = load::types(options)?;
    let mut ebpf = load::object(options, &types, None, false)?;
    let mut parts = Vec::new();
    for hook in hooks::on_tracepoints(options) {
        parts.push((hook, part(&mut ebpf, hook, &types).map_err(|e| e.at_load(hook))?));
    }
    load_iterator(&mut ebpf, &types)?;
    if options.diagnose {
        super::reader::diagnose(&mut ebpf)?;
    }
    replace()?;
    let mut control = Control::new(Instance::random().map_err(ProbeError::Ring)?, fingerprint(options));
    let mut hooks = Vec::new();
    for (hook, attached) in parts {
        let link = hook.attach(&mut ebpf).map_err(|e| load::failed("attach", hook.place, &e))?;
        hooks.push(Attached { link, ..attached });
    }
    let (setns, reason) = setns(&mut ebpf, options, &types)?;
    control.setns =
        SETNS.iter().position(|way| way == setns.hook).and_then(|n| n.try_into().ok()).unwrap_or(0);
    control.set_reason(&reason);
    control.preempted = options.preempted.into();
    let (failed, seen) = failed::attach(&mut ebpf, options, &types, setns.hook)?;
    control.failed = seen as u32;
    hooks.push(setns);
    hooks.extend(failed);
    let attached = boot_now();
    control.since = attached.0;
    let mut maps = take(&mut ebpf)?;
    let Some(Map::RingBuf(ring)) = maps.remove(RING) else {
        return Err(ProbeError::Object("its map EVENTS is no ring buffer".to_owned()));
    };
    let mut kernel = Kernel { maps, hooks, control, kept: None, ebpf: Some(ebpf) };
    if let Some(pins) = pins {
        kernel.keep(pins, &ring)?;
    }
    Ok(New { kernel, ring, attached })
}

/// A hook and its program, loaded, the slot filled: nothing is called yet.
fn part(ebpf: &mut Ebpf, hook: &'static Hook, types: &Types) -> Result<Attached, Refused> {
    let worker = hook.load_program(ebpf, &types.kernel)?;
    let program = hook.load_hook(ebpf, &types.kernel)?;
    let slot = slot(ebpf, hook)?;
    let worker_id = fill(hook, slot.as_fd(), worker.as_fd())?;
    Ok(Attached { hook, slot, program, worker, worker_id, link: None })
}

/// Why a hook is not there: the kernel's reasons are shown with what was tried.
enum Refused {
    Kernel(ProgramError),
    Other(ProbeError),
}

impl From<ProgramError> for Refused {
    fn from(error: ProgramError) -> Self {
        Self::Kernel(error)
    }
}

impl From<ProbeError> for Refused {
    fn from(error: ProbeError) -> Self {
        Self::Other(error)
    }
}

impl Refused {
    fn at_load(self, hook: &Hook) -> ProbeError {
        match self {
            Self::Kernel(error) => load::failed("load", hook.place, &error),
            Self::Other(error) => error,
        }
    }
}

/// Loads and attaches one hook.
pub(super) fn attach(ebpf: &mut Ebpf, hook: &'static Hook, types: &Types) -> Result<Attached, ProbeError> {
    let attached = part(ebpf, hook, types).map_err(|e| e.at_load(hook))?;
    let link = hook.attach(ebpf).map_err(|e| load::failed("attach", hook.place, &e))?;
    Ok(Attached { link, ..attached })
}

fn slot(ebpf: &Ebpf, hook: &Hook) -> Result<OwnedFd, ProbeError> {
    let data = ebpf.map(hook.slot).and_then(maps::data);
    let data = data.ok_or_else(|| ProbeError::Object(format!("it has no map {}", hook.slot)))?;
    data.fd().as_fd().try_clone_to_owned().map_err(|source| ProbeError::Slot { hook: hook.name, source })
}

/// Makes `worker` the program of a hook; answers its id.
pub(super) fn fill(hook: &Hook, slot: BorrowedFd<'_>, worker: BorrowedFd<'_>) -> Result<u32, ProbeError> {
    let error = |source| ProbeError::Slot { hook: hook.name, source };
    sys::set_slot(slot, worker).map_err(error)?;
    sys::slot(slot).map_err(error)?.ok_or_else(|| error(io::ErrorKind::NotFound.into()))
}

/// fexit where the kernel allows it, else kprobe, else the system call's tracepoint. All of it with tracefs, where one
/// can be had: aya looks for it once and for all.
pub(super) fn setns(
    ebpf: &mut Ebpf,
    options: &Options,
    types: &Types,
) -> Result<(Attached, String), ProbeError> {
    if tracefs::is_mounted() {
        return choose_setns(ebpf, options, types);
    }
    let (chosen, mounted) = tracefs::with_own(|| choose_setns(ebpf, options, types))?;
    match (chosen, mounted) {
        (Err(ProbeError::Setns(refused)), Err(e)) => Err(ProbeError::Setns(format!(
            "{refused}; tracefs is not mounted, and cannot be mounted for the agent alone: {e}"
        ))),
        (chosen, _) => chosen,
    }
}

fn choose_setns(ebpf: &mut Ebpf, options: &Options, types: &Types) -> Result<(Attached, String), ProbeError> {
    let mut refused: Vec<String> = Vec::new();
    for way in SETNS.iter().filter(|way| options.setns.allows(way)) {
        let tried = match part(ebpf, way, types) {
            Ok(attached) => way.attach(ebpf).map(|link| Attached { link, ..attached }).map_err(|e| short(&e)),
            Err(Refused::Kernel(error)) => Err(short(&error)),
            Err(Refused::Other(error)) => Err(error.to_string()),
        };
        match tried {
            Ok(attached) => {
                let chosen = options.setns != super::Setns::Auto;
                let reason = if chosen { "asked for".to_owned() } else { refused.join("; ") };
                return Ok((attached, reason));
            }
            Err(detail) => refused.push(format!("{}: {detail}", way.kind.as_str())),
        }
    }
    Err(ProbeError::Setns(refused.join("; ")))
}

/// Loaded with the rest: the kernel's types are many megabytes, and go when loading is done.
pub(super) fn load_iterator(ebpf: &mut Ebpf, types: &Types) -> Result<(), ProbeError> {
    typed::<Iter>(ebpf, TASKS)
        .and_then(|program| program.load("task", &types.kernel))
        .map_err(|e| load::failed("load", "iter/task", &e))
}

fn iterator(ebpf: &mut Ebpf) -> Result<IterLink, ProbeError> {
    let error = |e: &dyn std::error::Error| ProbeError::Tasks(chain(e));
    let program = typed::<Iter>(ebpf, TASKS).map_err(|e| error(&e))?;
    let link = program.attach().map_err(|e| error(&e))?;
    program.take_link(link).map_err(|e| error(&e))
}

/// Pins the iterator: reading the pin is reading the tasks.
pub(super) fn pin_iterator(ebpf: &mut Ebpf, path: &Path) -> Result<(), ProbeError> {
    let link = FdLink::try_from(iterator(ebpf)?).map_err(|e| ProbeError::Tasks(e.to_string()))?;
    pin_link(link, path)
}

/// Pins a link, in place of what is there.
pub(super) fn pin_link(link: FdLink, path: &Path) -> Result<(), ProbeError> {
    pins::gone(fs::remove_file(path)).map_err(pins::PinError::io("remove", path))?;
    link.pin(path)
        .map(drop)
        .map_err(|e| pins::PinError::io("pin", path)(io::Error::other(chain(&e))))
        .map_err(ProbeError::from)
}

fn take(ebpf: &mut Ebpf) -> Result<Maps, ProbeError> {
    SHARED
        .into_iter()
        .map(|name| {
            let map = ebpf.take_map(name);
            Ok((name, map.ok_or_else(|| ProbeError::Object(format!("it has no map {name}")))?))
        })
        .collect()
}

impl Kernel {
    /// Pins everything, and says so in the record last: what is half pinned is nobody's.
    fn keep(&mut self, pins: &Pins, ring: &MapData) -> Result<(), ProbeError> {
        let generation = pins.current();
        generation.remove()?;
        generation.make()?;
        for (name, map) in &self.maps {
            let data = maps::data(map)
                .ok_or_else(|| ProbeError::Object(format!("its map {name} is of an unknown kind")))?;
            pins::replace(data.fd().as_fd(), &generation.map(name))?;
        }
        pins::replace(ring.fd().as_fd(), &generation.map(RING))?;
        for attached in &mut self.hooks {
            attached.keep(&generation, &mut self.control)?;
        }
        if let Some(ebpf) = &mut self.ebpf {
            pin_iterator(ebpf, &generation.tasks())?;
        }
        let told = ToldMap::create()?;
        told.pin(&generation.told())?;
        let mut control = ControlMap::create()?;
        self.control.ready = 1;
        control.write(&self.control)?;
        control.pin(&generation.control())?;
        self.hold(pins.clone(), generation, control, told)
    }

    /// Opens every pin, to know later whether it is still there, and what to pin again.
    pub(super) fn hold(
        &mut self,
        pins: Pins,
        generation: Generation,
        control: ControlMap,
        told: ToldMap,
    ) -> Result<(), ProbeError> {
        let mut paths: Vec<(String, PathBuf)> =
            SHARED.iter().map(|name| (format!("map {name}"), generation.map(name))).collect();
        paths.push(("record".to_owned(), generation.control()));
        paths.push(("what was told".to_owned(), generation.told()));
        paths.push(("tasks".to_owned(), generation.tasks()));
        for Attached { hook, .. } in &self.hooks {
            paths.push((format!("hook {}", hook.name), generation.hook(hook.name)));
            paths.push((format!("program {}", hook.name), generation.program(hook.name)));
            if self.control.links.get(hook.index as usize).is_some_and(|id| *id != 0) {
                paths.push((format!("link {}", hook.name), generation.link(hook.name)));
            }
        }
        let held = paths
            .into_iter()
            .map(|(what, path)| {
                Held::open(what, path.clone()).map_err(pins::PinError::io("open the pin", &path))
            })
            .collect::<Result<_, _>>()?;
        self.kept = Some(Kept { pins, generation, control, told, held, retired: Vec::new() });
        Ok(())
    }

    /// What was in the rings of before is kept by now.
    pub(super) fn forget_retired(&mut self) {
        let Some(kept) = &mut self.kept else { return };
        for retired in kept.retired.drain(..) {
            if let Err(error) = retired.remove() {
                tracing::warn!(%error, "an old ring stays pinned");
            }
        }
    }

    /// The hooks in use, and why. Those behind others are where these are.
    pub(super) fn told(&self) -> Vec<event::Hook> {
        let reason = self.control.reason();
        let told = |attached: &Attached| {
            attached.hook.told(if attached.hook.index == hook::SETNS { &reason } else { "" })
        };
        let off = Seen::of(&self.control).and_then(Seen::told);
        let hooks = self.hooks.iter().filter(|attached| !attached.hook.is_behind());
        hooks.map(told).chain(off).collect()
    }

    /// Exact start times of all processes, by pid, in nanoseconds of `CLOCK_BOOTTIME`: `/proc` rounds them.
    pub(super) fn start_times(&mut self) -> Result<HashMap<u32, u64>, ProbeError> {
        let error = |e: io::Error| ProbeError::Tasks(e.to_string());
        let mut file = match (&self.kept, &mut self.ebpf) {
            (Some(kept), _) => fs::File::open(kept.generation.tasks()).map_err(error)?,
            (None, Some(ebpf)) => iterator(ebpf)?.into_file().map_err(|e| ProbeError::Tasks(chain(&e)))?,
            (None, None) => return Err(ProbeError::Tasks("there is no iterator".to_owned())),
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(error)?;
        Ok(bytes
            .chunks_exact(size_of::<TaskStart>())
            .filter_map(|row| TaskStart::read_from_bytes(row).ok())
            .map(|row| (row.pid, row.start_time))
            .collect())
    }
}

impl Attached {
    /// Pins the hook, its program and its link, where that can be pinned.
    pub(super) fn keep(&mut self, to: &Generation, control: &mut Control) -> Result<(), ProbeError> {
        let Self { hook, slot: _, program, worker, worker_id, link } = self;
        pins::replace(program.as_fd(), &to.hook(hook.name))?;
        pins::replace(worker.as_fd(), &to.program(hook.name))?;
        let mut link_id = 0;
        if let Some(link) = link.take() {
            link_id = link.info().map_err(|e| ProbeError::Object(chain(&e)))?.id();
            pin_link(link, &to.link(hook.name))?;
        } else {
            tracing::warn!(
                hook = hook.name,
                "this kernel cannot keep it without the agent (that takes 5.15): what it tells is missed while none runs"
            );
        }
        if let Some(id) = control.links.get_mut(hook.index as usize) {
            *id = link_id;
        }
        if let Some(id) = control.programs.get_mut(hook.index as usize) {
            *id = *worker_id;
        }
        Ok(())
    }
}
