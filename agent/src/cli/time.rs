//! Times and durations: as people type them, and as they are shown (UTC, always).

use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp, civil, tz::TimeZone};
use podtrail_proto as proto;

/// A moment as it was typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    At(Timestamp),
    /// a time of day, of today
    Today(civil::Time),
    Ago(SignedDuration),
}

/// {0:?} is not a time …
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is neither a time nor a duration: write 2026-11-22T20:14:00Z, 2026-11-22, 20:14 (today, UTC) or 1h30m (that long ago)"
)]
pub struct TimeError;

impl Moment {
    /// Reads an RFC 3339 time, a date, a time of day, or a duration before now.
    pub fn parse(text: &str) -> Result<Self, TimeError> {
        let text = text.trim();
        if let Ok(time) = text.parse::<Timestamp>() {
            return Ok(Self::At(time));
        }
        if let Ok(time) = text.parse::<civil::DateTime>() {
            let zoned = time.to_zoned(TimeZone::UTC).map_err(|_| TimeError)?;
            return Ok(Self::At(zoned.timestamp()));
        }
        if text.contains(':')
            && let Ok(time) = text.parse::<civil::Time>()
        {
            return Ok(Self::Today(time));
        }
        let span: Span = text.parse().map_err(|_| TimeError)?;
        let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| TimeError)?;
        Ok(Self::Ago(duration.abs()))
    }

    /// The moment itself, as of `now`.
    #[must_use]
    pub fn resolve(self, now: Timestamp) -> proto::Timestamp {
        let time = match self {
            Self::At(time) => time,
            Self::Today(time) => now
                .to_zoned(TimeZone::UTC)
                .date()
                .to_datetime(time)
                .to_zoned(TimeZone::UTC)
                .map_or(now, |zoned| zoned.timestamp()),
            // A duration longer than there has been time means: everything.
            Self::Ago(duration) => now.checked_sub(duration).unwrap_or(Timestamp::UNIX_EPOCH),
        };
        // Protobuf wants nanoseconds that count forward, jiff's have the sign of the seconds.
        let nanos = time.as_nanosecond();
        let seconds = nanos.div_euclid(1_000_000_000);
        let nanos = nanos.rem_euclid(1_000_000_000);
        proto::Timestamp {
            seconds: i64::try_from(seconds).unwrap_or_default(),
            nanos: i32::try_from(nanos).unwrap_or_default(),
        }
    }
}

/// A time from the wire; `None` where it is none.
#[must_use]
pub fn moment(time: Option<&proto::Timestamp>) -> Option<Timestamp> {
    time.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok())
}

/// `20:14:02`
#[must_use]
pub fn clock(time: Timestamp) -> String {
    time.strftime("%H:%M:%S").to_string()
}

/// `20:14:02.118`
#[must_use]
pub fn clock_ms(time: Timestamp) -> String {
    time.strftime("%H:%M:%S.%3f").to_string()
}

/// `2026-11-22`
#[must_use]
pub fn date(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d").to_string()
}

/// `20:14:02`, and its date where that is not `today`'s.
#[must_use]
pub fn clock_or_date(time: Timestamp, today: Timestamp) -> String {
    if date(time) == date(today) { clock(time) } else { format!("{} {}", date(time), clock(time)) }
}

/// Nanoseconds of a duration from the wire.
#[must_use]
pub fn nanos(duration: &proto::Duration) -> i128 {
    i128::from(duration.seconds) * 1_000_000_000 + i128::from(duration.nanos)
}

/// `0.31 s`, `12.0 s`, `5 min 03 s`, `2 h 05 min`, `3 d 04 h`
#[must_use]
pub fn length(nanos: i128) -> String {
    let (sign, nanos) = if nanos < 0 { ("-", -nanos) } else { ("", nanos) };
    let tenths = nanos / 100_000_000;
    let seconds = tenths / 10;
    if nanos < 10_000_000_000 {
        let hundredths = nanos / 10_000_000;
        format!("{sign}{}.{:02} s", hundredths / 100, hundredths % 100)
    } else if seconds < 60 {
        format!("{sign}{seconds}.{} s", tenths % 10)
    } else if seconds < 3600 {
        format!("{sign}{} min {:02} s", seconds / 60, seconds % 60)
    } else if seconds < 86_400 {
        format!("{sign}{} h {:02} min", seconds / 3600, seconds / 60 % 60)
    } else {
        format!("{sign}{} d {:02} h", seconds / 86_400, seconds / 3600 % 24)
    }
}

/// The same for a headline: whole seconds from ten on.
#[must_use]
pub fn headline(nanos: i128) -> String {
    let seconds = nanos / 1_000_000_000;
    if (10..60).contains(&seconds) { format!("{seconds} s") } else { length(nanos) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-22T20:14:31Z".parse().unwrap()
    }

    fn resolved(text: &str) -> String {
        let time = Moment::parse(text).unwrap().resolve(now());
        Timestamp::new(time.seconds, time.nanos).unwrap().to_string()
    }

    #[test]
    fn moments_are_read() {
        for (typed, meant) in [
            ("2026-11-21T10:00:00Z", "2026-11-21T10:00:00Z"),
            ("2026-11-21T10:00:00+02:00", "2026-11-21T08:00:00Z"),
            ("2026-11-21 10:00:00.5", "2026-11-21T10:00:00.5Z"),
            ("2026-11-21", "2026-11-21T00:00:00Z"),
            ("20:00", "2026-11-22T20:00:00Z"),
            ("1h", "2026-11-22T19:14:31Z"),
            ("1h30m", "2026-11-22T18:44:31Z"),
            ("2d", "2026-11-20T20:14:31Z"),
            ("90s", "2026-11-22T20:13:01Z"),
            ("1h ago", "2026-11-22T19:14:31Z"),
            ("9000w", "1854-05-28T20:14:31Z"),
        ] {
            assert_eq!(resolved(typed), meant, "{typed}");
        }
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for typed in [
            "",
            "yesterday",
            "1",
            "1x",
            "h",
            "2026-13-01",
            "25:00",
            "1 month",
            "-",
            "\x1b[2J",
            "99999999999999999h",
        ] {
            assert_eq!(Moment::parse(typed), Err(TimeError), "{typed:?}");
        }
    }

    #[test]
    fn a_time_before_1970_has_nanoseconds_that_count_forward() {
        let time = Moment::parse("1969-12-31T23:59:59.5Z").unwrap().resolve(now());
        assert_eq!((time.seconds, time.nanos), (-1, 500_000_000));
    }

    #[test]
    fn lengths_are_short() {
        for (nanos, shown, head) in [
            (0, "0.00 s", "0.00 s"),
            (310_000_000, "0.31 s", "0.31 s"),
            (9_999_999_999, "9.99 s", "9.99 s"),
            (12_040_000_000, "12.0 s", "12 s"),
            (59_999_000_000, "59.9 s", "59 s"),
            (303_000_000_000, "5 min 03 s", "5 min 03 s"),
            (7_500_000_000_000, "2 h 05 min", "2 h 05 min"),
            (273_600_000_000_000, "3 d 04 h", "3 d 04 h"),
            (-1_500_000_000, "-1.50 s", "-1.50 s"),
        ] {
            assert_eq!((length(nanos).as_str(), headline(nanos).as_str()), (shown, head));
        }
    }

    #[test]
    fn a_senseless_time_from_the_wire_is_none() {
        assert_eq!(moment(Some(&proto::Timestamp { seconds: i64::MAX, nanos: 0 })), None);
        assert_eq!(moment(Some(&proto::Timestamp { seconds: 0, nanos: i32::MIN })), None);
        assert_eq!(
            nanos(&proto::Duration { seconds: i64::MIN, nanos: i32::MIN }),
            -9_223_372_036_854_775_808_000_000_000 - 2_147_483_648
        );
    }
}
