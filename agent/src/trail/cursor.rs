//! Cursors as readers get them: the number of an event, and of which log it is.
//!
//! ```text
//! 1234-9f3c2a71      number · "-" · id of the log, 8 hexadecimal digits
//! ```
//! A number alone would be taken for a place in whatever log is asked: one begun anew, or restored from a backup,
//! gives the same numbers to other events, and whoever goes on there misses some without a word.

use std::{
    fmt,
    hash::{BuildHasher as _, RandomState},
};

use tonic::Status;

use super::log::Cursor;

/// Which log. Made when the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LogId(pub u32);

/// Why a text is no cursor of this log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// it has another form
    #[error("{0:?} is not a cursor")]
    Garbage(String),
    /// it is of another log
    #[error(
        "cursor {cursor} is of another log than this one ({log}), begun anew or restored meanwhile: start with oldest, latest or a time"
    )]
    Foreign { cursor: String, log: LogId },
}

impl LogId {
    /// One that no other log has.
    #[must_use]
    pub fn random() -> Self {
        // Keyed by the system's random numbers.
        Self::fold(RandomState::new().hash_one(0))
    }

    /// For a log that begins with an epoch of its own.
    #[must_use]
    pub fn of_epoch(epoch: u64) -> Self {
        Self::fold(epoch)
    }

    #[expect(clippy::cast_possible_truncation, reason = "both halves are in it")]
    fn fold(n: u64) -> Self {
        Self((n >> 32) as u32 ^ n as u32)
    }

    /// This place, for a reader.
    #[must_use]
    pub fn text(self, cursor: Cursor) -> String {
        format!("{cursor}-{self}")
    }

    /// The place that a reader names.
    pub fn parse(self, text: &str) -> Result<Cursor, CursorError> {
        let (cursor, log) = split(text).ok_or_else(|| CursorError::Garbage(shown(text)))?;
        if log == self {
            return Ok(cursor);
        }
        Err(CursorError::Foreign { cursor: text.to_owned(), log: self })
    }
}

/// Whether it has a cursor's form, of whatever log.
#[must_use]
pub fn is_cursor(text: &str) -> bool {
    split(text).is_some()
}

fn split(text: &str) -> Option<(Cursor, LogId)> {
    let (number, log) = text.split_once('-')?;
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    let hex = log.len() == 8 && log.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let cursor = number.parse().ok().filter(|c| digits && *c < Cursor::MAX)?;
    Some((cursor, LogId(u32::from_str_radix(log, 16).ok().filter(|_| hex)?)))
}

/// Enough of it to find the mistake.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl From<CursorError> for Status {
    fn from(e: CursorError) -> Self {
        match e {
            CursorError::Garbage(_) => Self::invalid_argument(e.to_string()),
            CursorError::Foreign { .. } => Self::out_of_range(e.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tonic::Code;

    use super::*;

    #[test]
    fn a_cursor_names_its_log() {
        let log = LogId(0x9f3c_2a71);
        assert_eq!(log.text(1234), "1234-9f3c2a71");
        assert_eq!(log.parse("1234-9f3c2a71"), Ok(1234));
        let e = Status::from(LogId(1).parse("1234-9f3c2a71").unwrap_err());
        assert_eq!(e.code(), Code::OutOfRange);
        assert_eq!(
            e.message(),
            "cursor 1234-9f3c2a71 is of another log than this one (00000001), begun anew or restored meanwhile: start with oldest, latest or a time"
        );
    }

    #[test]
    fn what_is_no_cursor_is_said() {
        for bad in [
            "",
            "-",
            "1234",
            "1234-",
            "-9f3c2a71",
            "+1-9f3c2a71",
            "1-9F3C2A71",
            "1-9f3c2a7",
            "1-9f3c2a711",
            "1-+f3c2a71",
            "18446744073709551615-9f3c2a71",
            "18446744073709551616-9f3c2a71",
            " 1-9f3c2a71",
            "1\u{1b}[2J",
        ] {
            assert!(!is_cursor(bad), "{bad}");
            let e = Status::from(LogId(0x9f3c_2a71).parse(bad).unwrap_err());
            assert_eq!(
                (e.code(), e.message()),
                (Code::InvalidArgument, &*format!("{bad:?} is not a cursor"))
            );
        }
        let long = Status::from(LogId(1).parse(&"x".repeat(10_000)).unwrap_err());
        assert!(long.message().len() < 100);
    }

    #[test]
    fn no_two_logs_are_the_same() {
        let ids: std::collections::HashSet<_> = (0..100).map(|_| LogId::random()).collect();
        assert!(ids.len() > 98, "{ids:?}");
    }

    proptest! {
        #[test]
        fn comes_back_as_it_went(log: u32, cursor in 0..Cursor::MAX) {
            let text = LogId(log).text(cursor);
            prop_assert!(is_cursor(&text));
            prop_assert_eq!(LogId(log).parse(&text), Ok(cursor));
        }

        #[test]
        fn any_text_is_read_without_harm(text: String, log: u32) {
            _ = LogId(log).parse(&text);
        }
    }
}
