//! Building records in the scratch buffer and putting them into the ring.

use core::{ptr, slice};

use aya_ebpf::{
    bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_boot_ns},
};
use podtrail_ebpf::layout::{Header, LAYOUT_VERSION, TaskKey, counter};

use crate::maps::{self, EVENTS, READER, SCRATCH, SCRATCH_SIZE};

/// The scratch buffer: one record's worth of bytes, this CPU's. Hooks do not nest and are not preempted.
#[inline(always)]
pub fn scratch() -> Option<*mut u8> {
    SCRATCH.get_ptr_mut(0).map(<*mut [u8; SCRATCH_SIZE]>::cast)
}

#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: takes nothing, always answers.
    unsafe { bpf_ktime_get_boot_ns() }
}

#[inline(always)]
pub fn header(kind: u16, size: u32, time: u64) -> Header {
    Header {
        time,
        size,
        kind,
        // SAFETY: takes nothing, always answers.
        cpu: unsafe { bpf_get_smp_processor_id() } as u16,
        version: LAYOUT_VERSION,
        _pad: 0,
    }
}

/// Sends the first `len` bytes of the scratch buffer; false, and counted, where the ring has no room for them. What
/// is lost of a session is counted with the session too.
#[inline(always)]
pub fn send(kind: u16, record: *const u8, len: u64, session: Option<&TaskKey>) -> bool {
    send_or(kind, counter::LOST + u32::from(kind), record, len, session)
}

/// [`send`], with a counter of its own for what the ring has no room for.
#[inline(always)]
pub fn send_or(kind: u16, lost: u32, record: *const u8, len: u64, session: Option<&TaskKey>) -> bool {
    // The mask is for the verifier: no record is larger.
    let len = (len & (SCRATCH_SIZE as u64 - 1)) as usize;
    // SAFETY: the scratch buffer has SCRATCH_SIZE bytes, and `len` is below that.
    let bytes = unsafe { slice::from_raw_parts(record, len) };
    if EVENTS.output::<[u8]>(bytes, u64::from(BPF_RB_NO_WAKEUP)).is_err() {
        maps::count(lost);
        if let Some(session) = session.and_then(maps::session) {
            maps::add((&raw mut session.lost).cast(), 1);
        }
        return false;
    }
    maps::count(counter::SENT + u32::from(kind));
    wake();
    true
}

/// Sends a record that is small enough for the stack.
#[inline(always)]
pub fn send_small<T>(kind: u16, record: &T, session: Option<&TaskKey>) {
    send_small_or(kind, counter::LOST + u32::from(kind), record, session);
}

/// [`send_small`], with a counter of its own for what the ring has no room for.
#[inline(always)]
pub fn send_small_or<T>(kind: u16, lost: u32, record: &T, session: Option<&TaskKey>) {
    let Some(to) = scratch() else { return };
    // SAFETY: T is one of the layout's records, far smaller than the buffer, and the buffer is aligned to 8.
    unsafe { ptr::write(to.cast::<T>(), ptr::read(record)) };
    send_or(kind, lost, to, size_of::<T>() as u64, session);
}

/// Wakes the reader if it sleeps. It says so in `READER` before it looks into the ring a last time, and this looks
/// there only after the record is in: so no record waits for the next one. While the reader is at work it is left
/// alone: a wake-up for every event is most of what a tracer costs.
#[inline(always)]
fn wake() {
    let Some(asleep) = READER.get_ptr_mut(0) else { return };
    // SAFETY: a plain integer in a map value.
    unsafe {
        if ptr::read_volatile(asleep) == 0 {
            return;
        }
        ptr::write_volatile(asleep, 0);
    }
    if let Some(entry) = EVENTS.reserve::<u64>(0) {
        entry.discard(u64::from(BPF_RB_FORCE_WAKEUP));
    }
}
