//! What a session may take of the ring, and of everything behind it, so that it cannot hide another: decisions only, as
//! in [`crate::rules`].
//!
//! **A share of the ring.** A session may have as much in it as half of what is free then: so k that flood leave two parts
//! in k + 2 to all others, however large the ring is and however fast it is filled. Where the sessions of one container
//! have more in it, all together, than is free, each of them may have an eighth of that: so opening more sessions is of
//! less and less use. While half of the ring is free, small records are let in without a question. Nobody tells the
//! kernel side what the reader took of whom, but it sees how far the reader has come: see [`turned`].
//!
//! **A budget of argument bytes**, for commands whose arguments take more than a small record: [`affords`].

use crate::layout::Share;

/// The time in which a session gets its whole budget of argument bytes once more, in microseconds.
pub const ARGV_PERIOD_US: u64 = 10_000_000;

/// How long it may take from counting a record until it is in the ring, at most, in nanoseconds.
pub const UNDER_WAY_NS: u64 = 1_000_000;

/// The ring: places in it are bytes since it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    pub size: u64,
    /// the reader has come so far
    pub consumed: u64,
    pub produced: u64,
}

impl Ring {
    /// Bytes that nothing is in.
    #[inline(always)]
    #[must_use]
    pub fn free(&self) -> u64 {
        self.size.saturating_sub(self.produced.saturating_sub(self.consumed))
    }
}

/// What a share has become now that the reader has come past its mark; `None`: it has not. Nothing of `before` is in the
/// ring any more, nor under way to it. All that was counted since the mark may be: it is the new `before`. A mark beyond
/// the ring's end is of another ring, which an agent replaced by this one.
#[inline(always)]
#[must_use]
pub fn turned(share: &Share, ring: &Ring, now: u64) -> Option<Share> {
    let past = ring.consumed >= share.mark || share.mark > ring.produced;
    if past && now.wrapping_sub(share.time) > UNDER_WAY_NS {
        Some(Share { mark: ring.produced, time: now, before: since(share), since: 0 })
    } else {
        None
    }
}

/// What a share has in the ring at most.
#[inline(always)]
#[must_use]
pub fn held(share: &Share) -> u64 {
    share.before.saturating_add(since(share))
}

#[inline(always)]
fn since(share: &Share) -> u64 {
    if share.since < 0 { 0 } else { share.since as u64 }
}

/// Whether a small record may go in when its session holds `session` bytes, and all sessions of its container `container`,
/// it itself included.
#[inline(always)]
#[must_use]
pub fn fits(ring: &Ring, container: u64, session: u64) -> bool {
    let free = ring.free();
    let share = if container > free { free / 8 } else { free / 2 };
    free >= ring.size / 2 || session <= share
}

/// The same of a large record: a few of them fill what is free, so nobody is let in without a question, and a container
/// that has its share already gets none.
#[inline(always)]
#[must_use]
pub fn fits_large(ring: &Ring, container: u64, session: u64) -> bool {
    let free = ring.free();
    container <= free && session <= free / 2
}

/// When `bytes` of a session's budget will have been given back, in nanoseconds from now, at a rate of `budget` bytes in
/// [`ARGV_PERIOD_US`]. They may be taken if that, with what was taken before, is within one period: see [`affords`].
#[inline(always)]
#[must_use]
pub fn price(bytes: u64, budget: u32) -> u64 {
    if budget == 0 || bytes > u64::from(budget) {
        return u64::MAX;
    }
    // Far below 2^64: at most 2^32 times 10^7.
    bytes * ARGV_PERIOD_US / u64::from(budget) * 1000
}

/// Whether a budget that is spent until `spent` has something of this [`price`] left at `now`. It never has more than
/// what one period gives back.
#[inline(always)]
#[must_use]
pub fn affords(spent: u64, now: u64, price: u64) -> bool {
    let from = if spent > now { spent } else { now };
    from.saturating_add(price) <= now.saturating_add(ARGV_PERIOD_US * 1000)
}
