//! What of a session goes into the ring, by the rules of [`podtrail_ebpf::budget`].
//!
//! Processors that count at once may pass each other; then a share is counted too small until the reader has come on.

use core::ptr;

use aya_ebpf::bindings::{BPF_RB_CONS_POS, BPF_RB_PROD_POS, BPF_RB_RING_SIZE};
use podtrail_ebpf::{
    budget::{self, Ring},
    layout::{ARGV_SMALL, Session, Share, TaskKey, counter},
};

use crate::maps::{self, EVENTS, config};

/// Answers of [`podtrail_admit`].
pub const REFUSED: u32 = 0;
pub const SMALL: u32 = 1;
pub const WHOLE: u32 = 2;

/// What the ring itself takes for a record, its length rounded up.
const OVERHEAD: u64 = 16;
/// What the headers of chunks take: a part in so many of argv.
const CHUNKED: u64 = 128;

/// Whether an exec of the session may go in, as a record of `record` bytes and `argv` more: with all of them, with
/// [`ARGV_SMALL`], or not at all, which is counted. A global function, as `podtrail_report`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn podtrail_admit(entry_start: u64, entry_tgid: u32, record: u32, argv: u64, now: u64) -> u32 {
    let Some(session) = maps::session(&TaskKey::new(entry_tgid, entry_start)) else { return WHOLE };
    let shares = Shares::of(session);
    let ring = Ring {
        size: EVENTS.query(u64::from(BPF_RB_RING_SIZE)),
        consumed: EVENTS.query(u64::from(BPF_RB_CONS_POS)),
        produced: EVENTS.query(u64::from(BPF_RB_PROD_POS)),
    };
    shares.turn(&ring, now);
    let record = u64::from(record) + OVERHEAD;
    let mut answer = WHOLE;
    let mut bytes = record + argv;
    if argv > ARGV_SMALL {
        let whole = record + argv + argv / CHUNKED;
        if shares.fit_large(&ring, whole) && affords(session, argv, now) {
            shares.add(whole as i64);
            // Again, with what other processors let in meanwhile.
            if shares.fit_large(&ring, 0) {
                spend(session, argv, now);
                return WHOLE;
            }
            shares.add(-(whole as i64));
        }
        bytes = record + ARGV_SMALL;
        answer = SMALL;
    }
    if shares.fit(&ring, bytes) {
        shares.add(bytes as i64);
        return answer;
    }
    refuse(session);
    REFUSED
}

/// Counts an event of the session that is not told.
#[inline(always)]
pub fn refuse(session: &mut Session) {
    maps::count(counter::REFUSED);
    maps::add((&raw mut session.refused).cast(), 1);
}

/// Counts what goes in without being asked for.
#[inline(always)]
pub fn charge(session: &mut Session, bytes: u64) {
    Shares::of(session).add((bytes + OVERHEAD) as i64);
}

/// Whether the session's budget of argument bytes has so many left.
#[inline(always)]
fn affords(session: &mut Session, bytes: u64, now: u64) -> bool {
    let price = budget::price(bytes, config!(argv_budget));
    // SAFETY: a plain integer in a map value.
    let spent = unsafe { ptr::read_volatile(&raw const session.argv_spent) };
    budget::affords(spent, now, price)
}

/// Takes them.
#[inline(always)]
fn spend(session: &mut Session, bytes: u64, now: u64) {
    let spent = &raw mut session.argv_spent;
    // SAFETY: a plain integer in a map value.
    unsafe {
        if ptr::read_volatile(spent) < now {
            ptr::write_volatile(spent, now);
        }
    }
    maps::add(spent.cast(), budget::price(bytes, config!(argv_budget)) as i64);
}

/// A session's share, and that of its container: null where that is not known.
struct Shares {
    session: *mut Share,
    container: *mut Share,
}

impl Shares {
    #[inline(always)]
    fn of(session: &mut Session) -> Self {
        let container = maps::cgroup(session.container).map_or(ptr::null_mut(), |c| &raw mut c.share);
        Self { session: &raw mut session.share, container }
    }

    #[inline(always)]
    fn turn(&self, ring: &Ring, now: u64) {
        turn(self.session, ring, now);
        if !self.container.is_null() {
            turn(self.container, ring, now);
        }
    }

    #[inline(always)]
    fn add(&self, bytes: i64) {
        // SAFETY: they point into map values, or are null.
        unsafe {
            maps::add(&raw mut (*self.session).since, bytes);
            if !self.container.is_null() {
                maps::add(&raw mut (*self.container).since, bytes);
            }
        }
    }

    /// Whether a small record of so many bytes may go in.
    #[inline(always)]
    fn fit(&self, ring: &Ring, bytes: u64) -> bool {
        let (container, session) = self.held();
        budget::fits(ring, container + bytes, session + bytes)
    }

    #[inline(always)]
    fn fit_large(&self, ring: &Ring, bytes: u64) -> bool {
        let (container, session) = self.held();
        budget::fits_large(ring, container + bytes, session + bytes)
    }

    #[inline(always)]
    fn held(&self) -> (u64, u64) {
        let session = held(self.session);
        let container = if self.container.is_null() { session } else { held(self.container) };
        (container, session)
    }
}

#[inline(always)]
fn turn(share: *mut Share, ring: &Ring, time: u64) {
    // SAFETY: plain integers in a map value; other processors may write them meanwhile, and what that can do is said above.
    unsafe {
        let now = ptr::read_volatile(share);
        if let Some(new) = budget::turned(&now, ring, time)
            && ptr::read_volatile(&raw const (*share).mark) == now.mark
        {
            ptr::write_volatile(share, new);
        }
    }
}

#[inline(always)]
fn held(share: *const Share) -> u64 {
    // SAFETY: as in `turn`.
    let now = unsafe { ptr::read_volatile(share) };
    budget::held(&now)
}
