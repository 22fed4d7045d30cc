//! What a new agent does with what it finds pinned.
//!
//! | found | done |
//! |---|---|
//! | nothing | everything is loaded and attached |
//! | the same layout, the same object told the same | taken over as it is: nothing is loaded |
//! | the same layout, another object, or one told otherwise | new programs into the slots of the old hooks: no call is missed, and none handled twice |
//! | the same layout, another size of the ring | besides, a new ring; the old one is read to its end |
//! | a hook is gone | it is attached again, and its hole is told |
//! | another layout, or pins that make no sense | what its ring holds is read or counted; loaded, the old detached, attached; the hole between is told |

use std::{fs, os::fd::AsFd as _};

use aya::maps::Map;
use podtrail_ebpf::layout::{LAYOUT_VERSION, hook};

use super::{
    Options, ProbeError,
    control::{Control, ControlMap, fingerprint},
    failed::{self, Seen},
    hooks::{self, Hook, SETNS},
    inherit::{Inherited, change_ring, retire},
    kernel::{self, Attached, Kernel, New, fill, load_iterator, pin_iterator},
    load,
    losses::Told,
    maps::{self, Maps, RING},
    pins::{self, Generation, PinError, Pins},
    position::Position,
    reader::boot_now,
    ring::Ring,
    sys,
    told::ToldMap,
};
use crate::{
    event::{BootTime, Finding, GapSource},
    session::record::Lost,
};

/// How the kernel side came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resumed {
    /// all of it is new, and here is why
    Fresh { why: String },
    /// it went on recording; nothing was changed
    Adopted,
    /// it went on recording; its programs were replaced, and here is why
    Upgraded { why: String },
}

impl Resumed {
    /// What was recorded without an agent is here.
    #[must_use]
    pub fn went_on(&self) -> bool {
        match self {
            Self::Fresh { why: _ } => false,
            Self::Adopted | Self::Upgraded { why: _ } => true,
        }
    }
}

pub(super) struct Started {
    pub(super) kernel: Kernel,
    pub(super) ring: Ring,
    pub(super) told: Told,
    /// the same as it was pinned: for who goes on without the state of the agent before
    pub(super) noted: Option<Told>,
    pub(super) resumed: Resumed,
    pub(super) inherited: Inherited,
}

/// Takes over what is pinned, or loads.
pub(super) fn start(options: &Options, saved: Option<&Position>) -> Result<Started, ProbeError> {
    let Some(dir) = &options.pin else {
        return new(options, None, saved, "nothing is pinned: it ends with the agent".to_owned());
    };
    let pins = match Pins::open(dir) {
        Ok(pins) => pins,
        Err(error) => return unpinned(options, saved, &error),
    };
    let why = match Found::look(&pins, options) {
        Ok(found) => return found.adopt(pins, options, saved),
        Err(why) => why,
    };
    match new(options, Some(&pins), saved, why) {
        Err(ProbeError::Pin(error)) => {
            pins.current().remove()?;
            unpinned(options, saved, &error)
        }
        done => done,
    }
}

fn unpinned(options: &Options, saved: Option<&Position>, error: &PinError) -> Result<Started, ProbeError> {
    tracing::warn!(%error, "nothing is pinned: what happens while no agent runs will not be recorded");
    new(options, None, saved, "nothing could be pinned".to_owned())
}

/// Everything new, in place of whatever there is.
fn new(
    options: &Options,
    pins: Option<&Pins>,
    saved: Option<&Position>,
    why: String,
) -> Result<Started, ProbeError> {
    let mut inherited = Inherited::default();
    let old = pins.map(Pins::generations).unwrap_or_default();
    let mut detached = None;
    let New { mut kernel, ring, attached } = kernel::fresh(options, pins, || {
        for generation in &old {
            let Some(pins) = pins else { continue };
            retire(pins, generation)?;
            inherited.losses.extend(Told::last_of(generation, options, saved));
            generation.remove()?;
        }
        detached = (!old.is_empty()).then(boot_now);
        Ok(())
    })?;
    if let Some(detached) = detached {
        inherited.losses.push(absent(detached, attached, format!("replaced: {why}")));
    }
    if let (Some(pins), Some(kept)) = (pins, &mut kernel.kept) {
        kept.retired = pins.retired();
        inherited.read(&kept.retired, &kernel.control, saved);
    }
    let ring = Ring::new(ring).map_err(ProbeError::Ring)?;
    let told = Told::begin(attached);
    Ok(Started { kernel, ring, told, noted: None, resumed: Resumed::Fresh { why }, inherited })
}

pub(super) fn absent(from: BootTime, to: BootTime, detail: String) -> Lost {
    Lost { from, time: to, source: GapSource::HooksAbsent, count: 0, exact: false, detail }
}

/// Pins that this agent can take over.
struct Found {
    generation: Generation,
    map: ControlMap,
    control: Control,
    maps: Maps,
}

impl Found {
    /// Or why it cannot.
    fn look(pins: &Pins, options: &Options) -> Result<Self, String> {
        let generation = pins.current();
        if !generation.exists() {
            return Err(match pins.generations().first() {
                None => "nothing was pinned".to_owned(),
                Some(other) => format!(
                    "a podtrail of another layout pinned {} (this one has v{LAYOUT_VERSION})",
                    other.dir.display()
                ),
            });
        }
        let map = ControlMap::pinned(&generation.control())
            .map_err(|_error| "the record of what was pinned is gone".to_owned())?;
        let control = map.read().ok_or("the record of what was pinned makes no sense")?;
        if control.layout != LAYOUT_VERSION {
            return Err(format!("layout {} was pinned as v{LAYOUT_VERSION}", control.layout));
        }
        if control.ready != 1 {
            return Err("an agent was ended while it pinned".to_owned());
        }
        if control.preempted != u32::from(options.preempted) {
            return Err("it has not the hooks that this agent was asked for".to_owned());
        }
        let maps = maps::pinned(&generation, options)?;
        Ok(Self { generation, map, control, maps })
    }

    fn adopt(self, pins: Pins, options: &Options, saved: Option<&Position>) -> Result<Started, ProbeError> {
        let Self { generation, mut map, control, mut maps } = self;
        let mut inherited = Inherited::default();
        let ours = saved.filter(|saved| control.counts_for(saved.instance));
        let pinned = ToldMap::pinned(&generation.told());
        let noted = pinned.as_ref().and_then(ToldMap::read);
        let noted = noted.filter(|noted| control.counts_for(noted.instance));
        let newest = ours.into_iter().chain(noted.as_ref()).max_by_key(|known| known.looked);
        let since = newest.map_or(control.since(), |known| known.looked);

        // Hooks that are as they were made, and those that are not.
        let setns = usize::try_from(control.setns).ok().and_then(|n| SETNS.get(n)).unwrap_or(&SETNS[0]);
        let mut hooks = Vec::new();
        let mut missing = Vec::new();
        for hook in hooks::on_tracepoints(options).chain([setns]) {
            let wanted = hook.index != hook::SETNS || options.setns.allows(hook);
            match attached(hook, &generation, &maps, &control) {
                Some(found) if wanted => hooks.push(found),
                _ => missing.push(hook),
            }
        }

        // Those on failed execs follow setns, and what is asked for now.
        let certain = missing.iter().all(|hook| hook.index != hook::SETNS);
        let wanted = failed::wanted(options, setns);
        let pair: &[Hook] = wanted.as_ref().map_or(&[], |pair| pair.as_slice());
        let found: Vec<Attached> =
            pair.iter().filter_map(|hook| attached(hook, &generation, &maps, &control)).collect();
        let whole = certain && found.len() == pair.len();
        let mut stale = failed::pinned(&generation);
        if whole {
            stale.retain(|hook| !pair.contains(hook));
            hooks.extend(found);
        }
        let refused = Seen::of(&control) == Some(Seen::Refused) && control.object == fingerprint(options);
        let unsettled = !stale.is_empty() || !certain || !(whole || refused);

        let Some(Map::RingBuf(mut events)) = maps.remove(RING) else {
            return Err(ProbeError::Object("the pinned EVENTS is no ring buffer".to_owned()));
        };
        let size = events.info().map_err(|e| load::map_error("read", RING, &e))?.max_entries();
        let mut retired = pins.retired();
        // Two rings of before would be one too many to keep apart.
        let new_ring = size != options.ring_size && retired.is_empty();
        let why = reason(&control, options, &hooks, new_ring);
        for attached in
            hooks.iter().filter(|attached| attached.worker_id != made(&control.programs, attached.hook))
        {
            let (name, now) = (attached.hook.name, boot_now());
            inherited.losses.push(absent(
                since,
                now,
                format!("somebody changed the program of the {name} hook"),
            ));
            inherited.findings.push(Finding {
                subject: format!("program {name}"),
                detail: "changed while no agent ran: put back".to_owned(),
                time: now,
            });
        }

        let mut ebpf = None;
        let mut kernel = Kernel { maps, hooks, control, kept: None, ebpf: None };
        if let Err(seen) = wanted
            && kernel.control.failed != seen as u32
        {
            kernel.control.failed = seen as u32;
            map.write(&kernel.control)?;
        }
        if why.is_some() || !missing.is_empty() || unsettled || !generation.tasks().exists() {
            let types = load::types(options)?;
            let mut object = load::object(options, &types, Some(&generation), new_ring)?;
            load_iterator(&mut object, &types)?;
            if options.diagnose {
                super::reader::diagnose(&mut object)?;
            }
            let mut fresh = Vec::new();
            if why.is_some() {
                // All are loaded before the first is changed: an object that does not load changes nothing.
                for attached in &kernel.hooks {
                    let hook = attached.hook;
                    let program = hook.load_program(&mut object, &types.kernel);
                    fresh.push((hook, program.map_err(|e| load::failed("load", hook.place, &e))?));
                }
            }
            if new_ring {
                let Some(Map::RingBuf(ring)) = object.take_map(RING) else {
                    return Err(ProbeError::Object("its map EVENTS is no ring buffer".to_owned()));
                };
                retired.push(change_ring(&pins, &generation, &mut map, &mut kernel.control, &ring)?);
                events = ring;
            }
            fresh.sort_by_key(|(hook, _)| hook.turn());
            for (hook, worker) in fresh {
                let Some(attached) = kernel.hooks.iter_mut().find(|attached| attached.hook == hook) else {
                    continue;
                };
                attached.worker_id = fill(hook, attached.slot.as_fd(), worker.as_fd())?;
                pins::replace(worker.as_fd(), &generation.program(hook.name))?;
                attached.worker = worker;
                if let Some(id) = kernel.control.programs.get_mut(hook.index as usize) {
                    *id = attached.worker_id;
                }
            }
            for hook in missing {
                let mut again = again(hook, &mut object, options, &types, &generation, &mut kernel.control)?;
                again.keep(&generation, &mut kernel.control)?;
                let now = boot_now();
                inherited.losses.push(absent(since, now, format!("the {} hook was gone", hook.name)));
                inherited.findings.push(Finding {
                    subject: format!("hook {}", hook.name),
                    detail: "gone: attached again".to_owned(),
                    time: now,
                });
                kernel.hooks.push(again);
            }
            for hook in stale {
                failed::remove(hook, &generation, &mut kernel.control)?;
            }
            if !whole {
                let before = Seen::of(&kernel.control);
                let setns = kernel.hooks.iter().find(|attached| attached.hook.index == hook::SETNS);
                let setns = setns.map_or(&SETNS[0], |attached| attached.hook);
                let (again, seen) = failed::attach(&mut object, options, &types, setns)?;
                for mut attached in again {
                    attached.keep(&generation, &mut kernel.control)?;
                    kernel.hooks.push(attached);
                }
                kernel.control.failed = seen as u32;
                if (before, seen) == (Some(Seen::Yes), Seen::Yes) {
                    let detail = "the hooks on failed execs were gone, or others".to_owned();
                    inherited.losses.push(absent(since, boot_now(), detail));
                }
            }
            pin_iterator(&mut object, &generation.tasks())?;
            kernel.control.object = fingerprint(options);
            if why.is_some() || !whole {
                kernel.control.tested = 0;
            }
            map.write(&kernel.control)?;
            ebpf = Some(object);
        }
        kernel.ebpf = ebpf;
        inherited.read(&retired, &kernel.control, saved);
        let told = match pinned {
            Some(pinned) => pinned,
            None => {
                let told = ToldMap::create()?;
                told.pin(&generation.told())?;
                told
            }
        };
        kernel.hold(pins, generation, map, told)?;
        if let Some(kept) = &mut kernel.kept {
            kept.retired = retired;
        }

        let mut ring = Ring::new(events).map_err(ProbeError::Ring)?;
        let here = ours.filter(|saved| saved.instance == kernel.control.instance());
        inherited.continued = match here {
            Some(saved) => ring.skip_to(saved.ring),
            // Its ring was changed: the old one was read from there, and this one from its beginning.
            None => ours.is_some(),
        };
        let told = ours.map_or_else(|| Told::unknown(since), Told::saved);
        let noted = noted.as_ref().map(Told::saved);
        let resumed = match why {
            None => Resumed::Adopted,
            Some(why) => Resumed::Upgraded { why },
        };
        Ok(Started { kernel, ring, told, noted, resumed, inherited })
    }
}

/// Why the programs must be changed; `None`: they are what this agent would load.
fn reason(control: &Control, options: &Options, hooks: &[Attached], new_ring: bool) -> Option<String> {
    if hooks.iter().any(|attached| attached.worker_id != made(&control.programs, attached.hook)) {
        return Some("somebody changed its programs".to_owned());
    }
    if new_ring {
        return Some("the ring has another size".to_owned());
    }
    if control.object != fingerprint(options) {
        return Some("another object, or other settings".to_owned());
    }
    options.diagnose.then(|| "to say what they do".to_owned())
}

/// Of a hook, the id that was written down; 0: none.
fn made(ids: &[u32], hook: &Hook) -> u32 {
    ids.get(hook.index as usize).copied().unwrap_or(0)
}

/// A hook as it was pinned; `None`: something of it is gone, or not what was made.
fn attached(
    hook: &'static Hook,
    generation: &Generation,
    maps: &Maps,
    control: &Control,
) -> Option<Attached> {
    let link = sys::get(&generation.link(hook.name)).ok()?;
    let program = sys::get(&generation.hook(hook.name)).ok()?;
    let worker = sys::get(&generation.program(hook.name)).ok()?;
    let slot = maps::data(maps.get(hook.slot)?)?.fd().as_fd().try_clone_to_owned().ok()?;
    if sys::id(&link, "link_id") != Some(made(&control.links, hook))
        || sys::id(&link, "prog_id") != sys::id(&program, "prog_id")
    {
        return None;
    }
    // 0, of no program: the slot is empty, and that is a reason to fill it.
    let worker_id = sys::slot(slot.as_fd()).ok()?.unwrap_or(0);
    Some(Attached { hook, slot, program, worker, worker_id, link: None })
}

/// Attaches a hook again. What is left of it goes first: it must not be called twice.
fn again(
    hook: &'static Hook,
    object: &mut aya::Ebpf,
    options: &Options,
    types: &load::Types,
    generation: &Generation,
    control: &mut Control,
) -> Result<Attached, ProbeError> {
    for path in [generation.link(hook.name), generation.hook(hook.name), generation.program(hook.name)] {
        pins::gone(fs::remove_file(&path)).map_err(PinError::io("remove", &path))?;
    }
    if hook.index != hook::SETNS {
        return kernel::attach(object, hook, types);
    }
    let (attached, reason) = kernel::setns(object, options, types)?;
    let way = SETNS.iter().position(|way| way == attached.hook);
    control.setns = way.and_then(|way| way.try_into().ok()).unwrap_or(0);
    control.set_reason(&reason);
    Ok(attached)
}
