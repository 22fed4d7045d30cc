//! How long to wait before the next attempt.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

/// Doubles from `first` to `max`; each wait is drawn from its upper half, so that a thousand agents do not come back
/// to a restarted collector in the same moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    next: Duration,
    max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(30))
    }
}

impl Backoff {
    #[must_use]
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { next: first, max }
    }

    pub fn next_wait(&mut self) -> Duration {
        let wait = self.next.min(self.max);
        self.next = wait.saturating_mul(2).min(self.max);
        let half = wait / 2;
        // The standard library's hasher is seeded at random: chance enough for this, and no dependency.
        let chance = u32::try_from(RandomState::new().hash_one(0) >> 48).unwrap_or(0);
        half + half * chance / u32::from(u16::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_most_and_stays_in_the_upper_half() {
        let mut backoff = Backoff::default();
        for expected in [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000_u64] {
            let wait = backoff.next_wait();
            let (least, most) = (Duration::from_millis(expected / 2), Duration::from_millis(expected));
            assert!(wait >= least && wait <= most, "{wait:?} for {expected}");
        }
    }

    #[test]
    fn two_agents_do_not_wait_alike() {
        let waits: Vec<_> = (0..8).map(|_| Backoff::default().next_wait()).collect();
        assert!(waits.iter().any(|wait| *wait != waits[0]), "{waits:?}");
    }
}
