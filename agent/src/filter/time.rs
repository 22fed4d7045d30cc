//! Timestamps and durations: text to them and back, and their parts.

use jiff::tz::{Offset, TimeZone};

use super::{program::Part, value::SECOND};

/// RFC 3339 to nanoseconds since 1970.
pub(super) fn timestamp(text: &str) -> Option<i128> {
    text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_nanosecond)
}

/// And back; `None` outside the years that it can say.
pub(super) fn timestamp_text(nanoseconds: i128) -> Option<String> {
    jiff::Timestamp::from_nanosecond(nanoseconds).ok().map(|time| time.to_string())
}

/// "1h30m", "1.5s", "-100ms" to nanoseconds.
pub(super) fn duration(text: &str) -> Option<i128> {
    let (sign, mut rest) = match text.as_bytes().first()? {
        b'-' => (-1, text.get(1..)?),
        b'+' => (1, text.get(1..)?),
        _ => (1, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut sum: i128 = 0;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => digits(after),
            None => ("", after),
        };
        // More digits than these are no nanosecond, or no duration.
        if (whole.is_empty() && fraction.is_empty()) || whole.len() > 18 || fraction.len() > 18 {
            return None;
        }
        let units = [
            ("ns", 1),
            ("us", 1000),
            ("µs", 1000),
            ("ms", 1_000_000),
            ("s", SECOND),
            ("m", 60 * SECOND),
            ("h", 3600 * SECOND),
        ];
        let (unit, after) =
            units.iter().find_map(|(name, unit)| after.strip_prefix(name).map(|after| (*unit, after)))?;
        if !whole.is_empty() {
            sum = sum.checked_add(whole.parse::<i128>().ok()?.checked_mul(unit)?)?;
        }
        if !fraction.is_empty() {
            let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
            sum = sum.checked_add(fraction.parse::<i128>().ok()?.checked_mul(unit)? / scale)?;
        }
        rest = after;
    }
    Some(sign * sum)
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

/// "90s", "0.25s"
pub(super) fn duration_text(nanoseconds: i128) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let all = nanoseconds.unsigned_abs();
    let (seconds, rest) = (all / SECOND.unsigned_abs(), all % SECOND.unsigned_abs());
    let fraction = format!("{rest:09}");
    match fraction.trim_end_matches('0') {
        "" => format!("{sign}{seconds}s"),
        fraction => format!("{sign}{seconds}.{fraction}s"),
    }
}

/// A time zone as filters say it: "UTC", "+02:00", "-05:30".
pub(super) fn offset(text: &str) -> Option<Offset> {
    if text == "UTC" || text == "Z" {
        return Some(Offset::UTC);
    }
    let (sign, rest) = match text.as_bytes().first()? {
        b'-' => (-1, text.get(1..)?),
        b'+' => (1, text.get(1..)?),
        _ => (1, text),
    };
    let (hours, minutes) = rest.split_once(':')?;
    let number = |text: &str, most: i32| {
        let digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<i32>().ok().filter(|n| digits && *n <= most)
    };
    Offset::from_seconds(sign * (number(hours, 18)? * 3600 + number(minutes, 59)? * 60)).ok()
}

/// `None` outside the years that a calendar is for.
pub(super) fn part_of_timestamp(part: Part, nanoseconds: i128, offset: Offset) -> Option<i64> {
    let time = jiff::Timestamp::from_nanosecond(nanoseconds).ok()?.to_zoned(TimeZone::fixed(offset));
    Some(match part {
        Part::FullYear => i64::from(time.year()),
        Part::Month => i64::from(time.month()) - 1,
        Part::Date => i64::from(time.day()),
        Part::DayOfMonth => i64::from(time.day()) - 1,
        Part::DayOfWeek => i64::from(time.weekday().to_sunday_zero_offset()),
        Part::DayOfYear => i64::from(time.day_of_year()) - 1,
        Part::Hours => i64::from(time.hour()),
        Part::Minutes => i64::from(time.minute()),
        Part::Seconds => i64::from(time.second()),
        Part::Milliseconds => i64::from(time.millisecond()),
    })
}

/// `None`: does not fit, or durations have no such part.
pub(super) fn part_of_duration(part: Part, nanoseconds: i128) -> Option<i64> {
    let unit = match part {
        Part::Hours => 3600 * SECOND,
        Part::Minutes => 60 * SECOND,
        Part::Seconds => SECOND,
        Part::Milliseconds => SECOND / 1000,
        Part::FullYear | Part::Month | Part::Date | Part::DayOfMonth | Part::DayOfWeek | Part::DayOfYear => {
            return None;
        }
    };
    i64::try_from(nanoseconds / unit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_as_go_writes_them() {
        for (text, nanoseconds) in [
            ("0", Some(0)),
            ("1h30m", Some(5400 * SECOND)),
            ("1.5s", Some(1_500_000_000)),
            (".5s", Some(500_000_000)),
            ("-100ms", Some(-100_000_000)),
            ("1m0.000000001s", Some(60 * SECOND + 1)),
            ("2µs3ns", Some(2003)),
            ("", None),
            ("-", None),
            ("1", None),
            ("s", None),
            ("1.s", Some(SECOND)),
            (".s", None),
            ("1d", None),
            ("1h ", None),
            ("9999999999999999999s", None),
            ("999999999999999999h", Some(999_999_999_999_999_999 * 3600 * SECOND)),
        ] {
            assert_eq!(duration(text), nanoseconds, "{text}");
        }
    }

    #[test]
    fn durations_come_back() {
        for text in ["0s", "90s", "-1.5s", "0.000000001s"] {
            assert_eq!(duration_text(duration(text).unwrap()), text);
        }
    }

    #[test]
    fn parts_are_of_the_zone() {
        let time = timestamp("2026-11-22T23:30:15.250Z").unwrap();
        let part = |part, zone| part_of_timestamp(part, time, offset(zone).unwrap());
        assert_eq!(part(Part::Hours, "UTC"), Some(23));
        assert_eq!(part(Part::Hours, "+01:00"), Some(0));
        assert_eq!(part(Part::Minutes, "-05:30"), Some(0));
        assert_eq!(part(Part::Date, "UTC"), Some(22));
        assert_eq!(part(Part::DayOfMonth, "+01:00"), Some(22));
        assert_eq!(part(Part::Month, "UTC"), Some(10));
        assert_eq!(part(Part::DayOfWeek, "UTC"), Some(0));
        assert_eq!(part(Part::DayOfYear, "UTC"), Some(325));
        assert_eq!(part(Part::FullYear, "UTC"), Some(2026));
        assert_eq!(part(Part::Seconds, "UTC"), Some(15));
        assert_eq!(part(Part::Milliseconds, "UTC"), Some(250));
        assert_eq!(part_of_timestamp(Part::Hours, i128::MAX, Offset::UTC), None);
        for wrong in ["", "Europe/Berlin", "+1:00", "+19:00", "01:60", "+01:00:00", "++1:00"] {
            assert!(offset(wrong).is_none(), "{wrong}");
        }
    }
}
