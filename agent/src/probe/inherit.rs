//! What is left of a kernel side that goes: what nobody has read of its ring, which stays pinned, written no more, until
//! what it held is kept.

use std::{fs, os::fd::AsFd as _, thread, time::Duration};

use aya::maps::MapData;

use super::{
    ProbeError, RawRecord,
    control::{Control, ControlMap},
    decode::decode,
    maps::RING,
    pins::{self, Generation, PinError, Pins, Retired},
    position::{Instance, Position},
    reader::boot_now,
    ring::Ring,
};
use crate::{
    event::{Finding, GapSource},
    session::record::Lost,
};

/// What a new agent begins with.
#[derive(Debug, Default)]
pub struct Inherited {
    /// reading goes on at the saved position: the saved state is true
    pub continued: bool,
    /// from rings that are written no more, oldest first
    pub records: Vec<RawRecord>,
    pub losses: Vec<Lost>,
    /// what was wrong with the pins
    pub findings: Vec<Finding>,
}

impl Inherited {
    /// Reads what nobody has read of rings that are written no more.
    pub(super) fn read(&mut self, retired: &[Retired], control: &Control, saved: Option<&Position>) {
        for old in retired {
            let Ok(map) = MapData::from_pin(old.ring()) else { continue };
            let Ok(mut ring) = Ring::new(map) else { continue };
            let of = ControlMap::pinned(&old.control()).ok().and_then(|map| map.read());
            if let Some(saved) = saved {
                if saved.instance == control.instance() {
                    continue; // that position was saved together with what is in here
                }
                if of.is_some_and(|of| of.instance() == saved.instance) {
                    ring.skip_to(saved.ring);
                }
            }
            self.read_one(&mut ring);
        }
    }

    fn read_one(&mut self, ring: &mut Ring) {
        let mut unreadable = 0;
        let mut why = String::new();
        // A call that was under way when the hooks went may still be writing.
        for last in [false, true] {
            while let Some(record) = ring.next() {
                match record.map(decode) {
                    Ok(Ok(RawRecord::SelfTest(_))) => {}
                    Ok(Ok(record)) => self.records.push(record),
                    Ok(Err(error)) => {
                        unreadable += 1;
                        why = error.to_string();
                    }
                    Err(torn) => {
                        unreadable += 1;
                        why = torn.to_string();
                    }
                }
            }
            if !last {
                thread::sleep(Duration::from_millis(20));
            }
        }
        if unreadable > 0 {
            let now = boot_now();
            self.losses.push(Lost {
                from: now,
                time: now,
                source: GapSource::AgentDecode,
                count: unreadable,
                exact: true,
                detail: why,
            });
        }
    }
}

/// Puts the ring aside, where it stays until what it holds is kept.
pub(super) fn retire(pins: &Pins, generation: &Generation) -> Result<(), ProbeError> {
    let name = ControlMap::pinned(&generation.control())
        .ok()
        .and_then(|map| map.read())
        .map_or_else(|| "unknown".to_owned(), |control| control.instance().name());
    let retired = pins.retire(&name);
    retired.make()?;
    for (from, to) in [(generation.map(RING), retired.ring()), (generation.control(), retired.control())] {
        pins::gone(fs::rename(&from, &to)).map_err(PinError::io("move", &from))?;
    }
    Ok(())
}

/// Puts a new ring in place of the pinned one. The programs still write to the old one: killed here, the next agent finds
/// an object that is not its own, and changes the programs.
pub(super) fn change_ring(
    pins: &Pins,
    generation: &Generation,
    map: &mut ControlMap,
    control: &mut Control,
    ring: &MapData,
) -> Result<Retired, ProbeError> {
    let retired = pins.retire(&control.instance().name());
    retired.make()?;
    let mut copy = ControlMap::create()?;
    copy.write(control)?;
    copy.pin(&retired.control())?;
    let from = generation.map(RING);
    fs::rename(&from, retired.ring()).map_err(PinError::io("move", &from))?;
    pins::replace(ring.fd().as_fd(), &from)?;
    control.renew(Instance::random().map_err(ProbeError::Ring)?);
    control.object = [0; 32];
    map.write(control)?;
    Ok(retired)
}
