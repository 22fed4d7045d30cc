//! A point of wall-clock time as a plain number, because times from the wire may be anything.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use podtrail_proto::Timestamp;

use crate::clock;

const SECOND: i64 = 1_000_000_000;

/// Nanoseconds since 1970 in UTC; what lies beyond `i64` is held at its ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub i64);

/// Tells what time it is; replaced in tests.
pub type Clock = Arc<dyn Fn() -> Moment + Send + Sync>;

impl Moment {
    pub const MIN: Self = Self(i64::MIN);
    pub const MAX: Self = Self(i64::MAX);

    /// Now, by the system's clock.
    #[must_use]
    pub fn now() -> Self {
        clock::wall().into()
    }

    /// [`Moment::now`] as a [`Clock`].
    #[must_use]
    pub fn clock() -> Clock {
        Arc::new(Self::now)
    }

    #[must_use]
    pub fn from_timestamp(t: &Timestamp) -> Self {
        Self(t.seconds.saturating_mul(SECOND).saturating_add(i64::from(t.nanos)))
    }

    #[must_use]
    pub fn timestamp(self) -> Timestamp {
        #[expect(clippy::cast_possible_truncation, reason = "less than a second of nanoseconds")]
        Timestamp { seconds: self.0.div_euclid(SECOND), nanos: self.0.rem_euclid(SECOND) as i32 }
    }

    /// This far before, held at the beginning of time.
    #[must_use]
    pub fn before(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(by.as_nanos()).unwrap_or(i64::MAX)))
    }

    /// From `earlier` to `self`; zero where it is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl From<SystemTime> for Moment {
    fn from(time: SystemTime) -> Self {
        let nanos = |d: Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
        Self(match time.duration_since(UNIX_EPOCH) {
            Ok(since) => nanos(since),
            Err(before) => -nanos(before.duration()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_timestamps_are_held_at_the_ends() {
        assert_eq!(Moment::from_timestamp(&Timestamp { seconds: i64::MAX, nanos: i32::MAX }), Moment::MAX);
        assert_eq!(Moment::from_timestamp(&Timestamp { seconds: i64::MIN, nanos: i32::MIN }), Moment::MIN);
    }

    #[test]
    fn times_before_1970_come_back_as_they_went() {
        for nanos in [-1, -SECOND, -SECOND - 1, 0, 1, SECOND * 3 + 7] {
            assert_eq!(Moment::from_timestamp(&Moment(nanos).timestamp()), Moment(nanos));
            assert!((0..1_000_000_000).contains(&Moment(nanos).timestamp().nanos));
        }
    }
}
