//! Settings' texts, read as what they mean. An error says what was written, and what would do.

use std::{fmt::Write as _, net::SocketAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use tracing_subscriber::EnvFilter;

use crate::telemetry::LogFormat;

/// A setting's text in a message: it is the user's, and may hold anything.
#[must_use]
pub fn quoted(text: &str) -> String {
    let mut short: String = text.chars().take(80).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}

/// The name of a node, a cluster or a principal: it is in every event, so it is short, and safe to show.
pub fn name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 253 || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(format!("{} is no name: 1 to 253 bytes, without spaces", quoted(text)));
    }
    Ok(text.to_owned())
}

/// A number of bytes: `65536`, `64KiB`, `16 MiB`.
pub fn bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let (digits, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let factor = match unit.trim() {
        "" | "B" => Some(1),
        "K" | "KiB" => Some(1 << 10),
        "M" | "MiB" => Some(1 << 20),
        "G" | "GiB" => Some(1 << 30),
        "T" | "TiB" => Some(1 << 40),
        _ => None,
    };
    let number = digits.parse::<u64>().ok();
    number
        .zip(factor)
        .and_then(|(number, factor)| number.checked_mul(factor))
        .ok_or_else(|| format!("{} is no number of bytes, like 65536, 64KiB or 16MiB", quoted(text)))
}

/// A number of bytes within a range.
pub fn bytes_within(text: &str, range: &RangeInclusive<u64>) -> Result<u64, String> {
    let number = bytes(text)?;
    if range.contains(&number) {
        return Ok(number);
    }
    Err(format!("{number} bytes is not between {} and {}", range.start(), range.end()))
}

/// A whole number within a range.
pub fn number_within(text: &str, range: &RangeInclusive<usize>) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| {
        format!("{} is no whole number between {} and {}", quoted(text), range.start(), range.end())
    })
}

/// A duration of at least `least`: `7d`, `36h`, `30m`.
pub fn duration(text: &str, least: Duration) -> Result<Duration, String> {
    let wrong = || format!("{} is no duration, like 7d, 36h or 30m", quoted(text));
    let span: jiff::Span = text.parse().map_err(|_wrong| wrong())?;
    let duration = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_wrong| wrong())?;
    let duration = Duration::try_from(duration).map_err(|_wrong| wrong())?;
    if duration < least {
        return Err(format!("{} is less than {} s", quoted(text), least.as_secs()));
    }
    Ok(duration)
}

/// An address with a port; `like` is one.
pub fn address(text: &str, like: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_wrong| format!("{} is no address with a port, like {like}", quoted(text)))
}

/// `none`, or what `parse` makes of it.
pub fn optional<T>(text: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<T>, String> {
    if text == "none" { Ok(None) } else { parse(text).map(Some) }
}

/// An absolute path: a daemon's working directory is nobody's intention.
pub fn path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() && !text.contains('\0') {
        Ok(path)
    } else {
        Err(format!("{} is not an absolute path", quoted(text)))
    }
}

/// One of the known words.
pub fn one_of<T: Copy>(text: &str, known: &[(&str, T)]) -> Result<T, String> {
    known.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(|| {
        let mut message = format!("{} is none of", quoted(text));
        for (at, (name, _)) in known.iter().enumerate() {
            let _ = write!(message, "{} {name}", if at == 0 { "" } else { "," }); // into a String: cannot fail
        }
        message
    })
}

/// A filter as in `RUST_LOG`.
pub fn log_level(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text)
        .map(|_filter| text.to_owned())
        .map_err(|_wrong| format!("{} is no log level, like info, or podtrail=debug,warn", quoted(text)))
}

/// How log lines look.
pub fn log_format(text: &str) -> Result<LogFormat, String> {
    one_of(
        text,
        &[
            ("auto", LogFormat::Auto),
            ("text", LogFormat::Text),
            ("logfmt", LogFormat::Logfmt),
            ("json", LogFormat::Json),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("0", 0),
            ("65536", 65_536),
            ("64KiB", 65_536),
            (" 16 MiB ", 16 << 20),
            ("1G", 1 << 30),
            ("2TiB", 2 << 40),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in
            ["", "KiB", "-1", "1.5M", "64 kib", "99999999999999999999", "18446744073709551615K", "1MiB2"]
        {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations() {
        let minute = Duration::from_secs(60);
        for (text, seconds) in [("7d", 604_800), ("36h", 129_600), ("1m", 60), ("1h 30m", 5_400)] {
            assert_eq!(duration(text, minute), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "soon", "-7d", "7", "1 month", "59s"] {
            assert!(duration(text, minute).is_err(), "{text}");
        }
    }

    #[test]
    fn a_message_names_what_would_do() {
        let told = log_format("xml").unwrap_err();
        assert_eq!(told, "\"xml\" is none of auto, text, logfmt, json");
        assert_eq!(address("x", "[::1]:1").unwrap_err(), "\"x\" is no address with a port, like [::1]:1");
        assert_eq!(path("a/b").unwrap_err(), "\"a/b\" is not an absolute path");
    }

    #[test]
    fn a_message_carries_no_terminal_escapes() {
        assert_eq!(quoted("\u{1b}[2J"), r#""\u{1b}[2J""#);
        assert_eq!(quoted(&"x".repeat(100)).chars().count(), 83);
    }
}
