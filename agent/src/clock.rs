//! The wall clock, read in one place.
//!
//! Only so can the tests step it for one daemon alone: an hour back on the machine's own clock would hurt whatever
//! else runs there. Nothing in podtrail's programs moves it.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, SystemTime},
};

/// Nanoseconds by which this process's wall clock is off the system's.
static STEPPED: AtomicI64 = AtomicI64::new(0);

/// What time it is.
#[must_use]
pub fn wall() -> SystemTime {
    let now = SystemTime::now();
    let by = STEPPED.load(Ordering::Relaxed);
    let distance = Duration::from_nanos(by.unsigned_abs());
    let stepped = if by < 0 { now.checked_sub(distance) } else { now.checked_add(distance) };
    stepped.unwrap_or(now)
}

/// From now on [`wall`] is this many nanoseconds off the system's clock. For tests.
pub fn step(nanos: i64) {
    STEPPED.store(nanos, Ordering::Relaxed);
}
