//! The hooks on execs that fail: there where setns is seen in a way that costs nobody else anything, or where they are
//! asked for.

use std::fs;

use aya::Ebpf;

use super::{
    Options, ProbeError,
    control::Control,
    hooks::{FAILED, Hook, Kind, SETNS},
    kernel::{self, Attached},
    load::Types,
    pins::{self, Generation, PinError},
    tracefs,
};
use crate::event;

/// Whether to see execs that fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailedExecs {
    /// where it costs none but execs something: by fexit or kprobe
    #[default]
    Auto,
    On,
    Off,
}

/// How they are seen; the number stands in the record of what is pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Yes = 1,
    /// not wanted
    Off = 2,
    /// there is nothing but the system call's tracepoint
    Costly = 3,
    /// the kernel lets nobody
    Refused = 4,
}

impl Seen {
    pub(super) fn of(control: &Control) -> Option<Self> {
        [Self::Yes, Self::Off, Self::Costly, Self::Refused]
            .into_iter()
            .find(|seen| *seen as u32 == control.failed)
    }

    /// As events tell it: nothing, where the hooks speak for themselves.
    pub(super) fn told(self) -> Option<event::Hook> {
        let reason = match self {
            Self::Yes => return None,
            Self::Off => "asked for",
            Self::Costly => {
                "only the system call's tracepoint is to be had, which slows down every system call of the node: --failed-execs on"
            }
            Self::Refused => "the kernel refuses these hooks",
        };
        Some(event::Hook {
            name: "failed execs".to_owned(),
            kind: "off".to_owned(),
            reason: reason.to_owned(),
        })
    }
}

/// What is to be attached where setns is seen by `setns`; or why nothing is.
pub(super) fn wanted(options: &Options, setns: &Hook) -> Result<&'static [Hook; 2], Seen> {
    match options.failed {
        FailedExecs::Off => return Err(Seen::Off),
        FailedExecs::Auto if setns.kind == Kind::Tracepoint => return Err(Seen::Costly),
        FailedExecs::Auto | FailedExecs::On => {}
    }
    let way = SETNS.iter().position(|way| way.kind == setns.kind);
    way.and_then(|way| FAILED.get(way)).ok_or(Seen::Refused)
}

/// Attaches both, or none.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    options: &Options,
    types: &Types,
    setns: &Hook,
) -> Result<(Vec<Attached>, Seen), ProbeError> {
    let pair = match wanted(options, setns) {
        Ok(pair) => pair,
        Err(seen) => return Ok((Vec::new(), seen)),
    };
    let tried = if setns.kind == Kind::Tracepoint && !tracefs::is_mounted() {
        tracefs::with_own(|| both(ebpf, pair, types))?.0
    } else {
        both(ebpf, pair, types)
    };
    Ok(match tried {
        Ok(attached) => (attached, Seen::Yes),
        Err(error) => {
            tracing::warn!(%error, "execs that fail are not seen");
            (Vec::new(), Seen::Refused)
        }
    })
}

fn both(ebpf: &mut Ebpf, pair: &'static [Hook; 2], types: &Types) -> Result<Vec<Attached>, ProbeError> {
    if let Some(field) = types.found.absent_of("failed execs") {
        return Err(ProbeError::Fields(vec![field]));
    }
    pair.iter().map(|hook| kernel::attach(ebpf, hook, types)).collect()
}

/// Those that are pinned.
pub(super) fn pinned(generation: &Generation) -> Vec<&'static Hook> {
    FAILED.iter().flatten().filter(|hook| generation.hook(hook.name).exists()).collect()
}

/// Takes off what is pinned of a hook.
pub(super) fn remove(hook: &Hook, generation: &Generation, control: &mut Control) -> Result<(), ProbeError> {
    for path in [generation.link(hook.name), generation.hook(hook.name), generation.program(hook.name)] {
        pins::gone(fs::remove_file(&path)).map_err(PinError::io("remove", &path))?;
    }
    for ids in [&mut control.programs, &mut control.links] {
        if let Some(id) = ids.get_mut(hook.index as usize) {
            *id = 0;
        }
    }
    Ok(())
}
