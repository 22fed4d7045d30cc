//! The node's two clocks. The kernel tells `CLOCK_BOOTTIME`, people want the wall clock, and the difference moves
//! (NTP, somebody who sets the date): it is measured again and again, and each event gets the newest.

use std::time::UNIX_EPOCH;

use nix::time::{ClockId, clock_gettime};
use podtrail_proto::Timestamp;

use crate::event::BootTime;

/// Wall clock (UTC, since 1970) minus `CLOCK_BOOTTIME`, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WallOffset(pub i128);

impl WallOffset {
    /// Reads both clocks, a few times: the reading with the least time between is the best.
    #[must_use]
    pub fn measure() -> Self {
        let mut best = (u64::MAX, 0);
        for _ in 0..3 {
            let before = boot_now().0;
            let wall = crate::clock::wall().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
            let after = boot_now().0;
            let width = after.saturating_sub(before);
            if width < best.0 {
                let middle = before.saturating_add(width / 2);
                best = (width, i128::try_from(wall).unwrap_or(i128::MAX) - i128::from(middle));
            }
        }
        Self(best.1)
    }

    /// The wall clock's time at `time`.
    #[must_use]
    pub fn wall(self, time: BootTime) -> Timestamp {
        super::timestamp(self.0.saturating_add(i128::from(time.0)))
    }
}

/// `CLOCK_BOOTTIME` now; 0 where the kernel has no such clock (it has had it since 2.6.39).
#[must_use]
pub fn boot_now() -> BootTime {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |t| {
        let seconds = u64::try_from(t.tv_sec()).unwrap_or(0);
        let nanos = u64::try_from(t.tv_nsec()).unwrap_or(0);
        seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
    });
    BootTime(now)
}
