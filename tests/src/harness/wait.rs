//! Waiting for conditions, never for time.

use std::{
    env,
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// How long a condition may take to come true on a machine of ordinary speed.
const PATIENCE: Duration = Duration::from_secs(20);

/// How many times slower than ordinary this machine is.
pub(crate) fn factor() -> u32 {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    *FACTOR
        .get_or_init(|| env::var("PODTRAIL_ITEST_SLOW").ok().and_then(|v| v.parse().ok()).unwrap_or(1).max(1))
}

/// A time limit for this machine.
pub(crate) fn scaled(limit: Duration) -> Duration {
    limit * factor()
}

/// The moment until which to wait for a condition.
pub(crate) fn deadline() -> Instant {
    Instant::now() + scaled(PATIENCE)
}

/// Waits until `condition` holds.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    within(PATIENCE, what, || condition().then_some(()))
}

/// Waits until `condition` gives something, for `limit` at most.
pub(crate) fn within<T>(limit: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> Result<T> {
    let limit = scaled(limit);
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        if Instant::now() >= end {
            bail!("waited {limit:?} in vain for: {what}");
        }
        // Files and processes give no notice; a short nap between two looks is not a guess at how long it takes.
        thread::sleep(Duration::from_millis(2));
    }
}
