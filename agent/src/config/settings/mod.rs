//! Settings from flags and a TOML file, checked one by one.
//!
//! Every error is found at once, and each says where: the flag, or file, line, column and key. Nothing that is
//! checked here is checked again later.

pub mod file;

use std::{fmt, path::PathBuf};

/// A setting as it was written, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    pub text: String,
    pub from: Origin,
}

/// Where a setting stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// a flag, with its dashes
    Flag(&'static str),
    File {
        path: PathBuf,
        line: usize,
        column: usize,
        key: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => f.write_str(flag),
            Self::File { path, line, column, key } => {
                write!(f, "{}:{line}:{column}: {}", path.display(), key.escape_debug())
            }
        }
    }
}

/// What is wrong with a setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {what}")]
pub struct Wrong {
    /// a setting, or a place in a file
    pub at: String,
    pub what: String,
}

/// Why a configuration cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// cannot read the configuration {path}: {reason}
    #[error("cannot read the configuration {}: {reason}", path.display())]
    Unreadable { path: PathBuf, reason: String },
    /// each wrong setting, a line each
    #[error("{}", lines(_0))]
    Settings(Vec<Wrong>),
}

fn lines(wrong: &[Wrong]) -> String {
    wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Checks settings and collects what is wrong with them.
#[derive(Debug, Default)]
pub struct Checker {
    wrong: Vec<Wrong>,
}

impl Checker {
    /// The checked value; `default` where there is no setting, or a wrong one, which is noted.
    pub fn check<T>(
        &mut self,
        setting: Option<Setting>,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> T {
        let Some(Setting { text, from }) = setting else { return default };
        match parse(&text) {
            Ok(value) => value,
            Err(what) => {
                self.wrong.push(Wrong { at: from.to_string(), what });
                default
            }
        }
    }

    pub fn note(&mut self, wrong: impl IntoIterator<Item = Wrong>) {
        self.wrong.extend(wrong);
    }

    /// The end of checking.
    pub fn finish<T>(self, value: T) -> Result<T, SettingsError> {
        if self.wrong.is_empty() { Ok(value) } else { Err(SettingsError::Settings(self.wrong)) }
    }
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
        _ => None,
    };
    let number = digits.parse::<u64>().ok();
    number
        .zip(factor)
        .and_then(|(number, factor)| number.checked_mul(factor))
        .ok_or_else(|| format!("{} is no number of bytes, like 65536, 64KiB or 16MiB", quoted(text)))
}

/// A setting's text in a message: it is the user's, and may hold anything.
#[must_use]
pub fn quoted(text: &str) -> String {
    let mut short: String = text.chars().take(80).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expected) in
            [("0", 0), ("65536", 65_536), ("64KiB", 65_536), (" 16 MiB ", 16 << 20), ("1G", 1 << 30)]
        {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in
            ["", "KiB", "-1", "1.5M", "64 kib", "99999999999999999999", "18446744073709551615K", "1MiB2"]
        {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_message_carries_no_terminal_escapes() {
        assert_eq!(quoted("\u{1b}[2J"), r#""\u{1b}[2J""#);
        assert_eq!(quoted(&"x".repeat(100)).chars().count(), 83);
    }
}
