//! Building records and putting them into the ring.

use core::{ptr, slice};

use aya_ebpf::{
    bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_boot_ns},
};
use podtrail_ebpf::layout::{Header, LAYOUT_VERSION, TaskKey, counter, reader};

use crate::maps::{self, EVENTS, NOTE_SIZE, NOTES, READER, SCRATCH, SCRATCH_SIZE};

/// One record's worth of bytes, this CPU's, for one of [`podtrail_ebpf::layout::scratch`].
#[inline(always)]
pub fn scratch(hook: u32) -> Option<*mut u8> {
    SCRATCH.get_ptr_mut(hook).map(<*mut [u8; SCRATCH_SIZE]>::cast)
}

/// The same, smaller, for one of [`maps::note`].
#[inline(always)]
pub fn note(hook: u32) -> Option<*mut u8> {
    NOTES.get_ptr_mut(hook).map(<*mut [u8; NOTE_SIZE]>::cast)
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

/// Sends the first `len` bytes of a scratch buffer; false, and counted, where the ring has no room for them. What
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
    output(kind, lost, unsafe { slice::from_raw_parts(record, len) }, session)
}

/// [`send`], for a note.
#[inline(always)]
pub fn send_note(kind: u16, record: *const u8, len: u64, session: Option<&TaskKey>) -> bool {
    // The mask is for the verifier: no record is larger.
    let len = (len & (NOTE_SIZE as u64 - 1)) as usize;
    // SAFETY: a note has NOTE_SIZE bytes, and `len` is below that.
    let record = unsafe { slice::from_raw_parts(record, len) };
    output(kind, counter::LOST + u32::from(kind), record, session)
}

/// Counts so many that are lost, with their session too.
#[inline(always)]
pub fn lose(lost: u32, number: u64, session: Option<&TaskKey>) {
    maps::count_many(lost, number);
    if let Some(session) = session.and_then(maps::session) {
        maps::add((&raw mut session.lost).cast(), number as i64);
    }
}

#[inline(always)]
fn output(kind: u16, lost: u32, record: &[u8], session: Option<&TaskKey>) -> bool {
    if EVENTS.output::<[u8]>(record, u64::from(BPF_RB_NO_WAKEUP)).is_err() {
        lose(lost, 1, session);
        return false;
    }
    maps::count(counter::SENT + u32::from(kind));
    ask();
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
    // SAFETY: T is one of the layout's records, without padding.
    let record = unsafe { slice::from_raw_parts(ptr::from_ref(record).cast::<u8>(), size_of::<T>()) };
    output(kind, lost, record, session);
}

/// Asks for the reader to be woken, if it sleeps. It says so in `READER` before it looks into the ring a last time, and
/// this looks there only after the record is in: so no record waits for the next one. While the reader is at work it is left
/// alone: a wake-up for every event is most of what a tracer costs.
#[inline(always)]
fn ask() {
    let Some(state) = READER.get_ptr_mut(0) else { return };
    // SAFETY: a plain integer in a map value.
    unsafe {
        if ptr::read_volatile(state) == reader::ASLEEP {
            ptr::write_volatile(state, reader::WANTED);
        }
    }
}

/// Wakes the reader, if that was asked for.
///
/// For programs that do nothing after it. Whoever is woken has a real-time priority, and takes the processor there and then: in the
/// middle of a program that the kernel runs for nobody else on this processor before it has ended.
#[inline(always)]
pub fn wake() {
    let Some(state) = READER.get_ptr_mut(0) else { return };
    // What came in while the reader had the processor found this program at work, and nobody to wake it again.
    let mut times = 0;
    while times < 4 {
        times += 1;
        // SAFETY: a plain integer in a map value.
        unsafe {
            if ptr::read_volatile(state) != reader::WANTED {
                return;
            }
            ptr::write_volatile(state, reader::AWAKE);
        }
        if let Some(entry) = EVENTS.reserve::<u64>(0) {
            entry.discard(u64::from(BPF_RB_FORCE_WAKEUP));
        }
    }
}
