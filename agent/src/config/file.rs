//! Configuration files: TOML with flat keys, read into a struct of serde's; mistakes are told with file, line and key.
//!
//! Give the struct `#[serde(deny_unknown_fields)]`, so that a misspelt key is a mistake and not a default.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;

/// Longest configuration file: far beyond any that a person writes.
const MAX_BYTES: u64 = 1024 * 1024;

/// Why a configuration cannot be used. One line, whatever the file holds.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// cannot read {path}: {source}
    #[error("cannot read the configuration {}: {source}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    /// {place}: {message}
    #[error("{place}: {message}")]
    Invalid { place: String, message: String },
    /// {flag}: {message}
    #[error("{flag}: {message}")]
    Flag { flag: &'static str, message: String },
}

/// A file as read, to say where in it something stands.
#[derive(Clone, Debug, Default)]
pub struct Source {
    path: PathBuf,
    text: String,
}

/// Reads a file into `T`.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<(T, Source), ConfigError> {
    let read_error = |source| ConfigError::Read { path: path.to_owned(), source };
    let meta = fs::metadata(path).map_err(read_error)?;
    if meta.len() > MAX_BYTES {
        return Err(read_error(io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than 1 MiB")));
    }
    let text = fs::read_to_string(path).map_err(read_error)?;
    parse(path, text)
}

fn parse<T: DeserializeOwned>(path: &Path, text: String) -> Result<(T, Source), ConfigError> {
    let source = Source { path: path.to_owned(), text };
    match toml::from_str(&source.text) {
        Ok(value) => Ok((value, source)),
        Err(e) => {
            let start = e.span().map_or(0, |s| s.start);
            let message = match source.key_at(start) {
                Some(key) if !e.message().contains(&format!("`{key}`")) => format!("{key}: {}", e.message()),
                _ => e.message().to_owned(),
            };
            Err(source.invalid(start, &message))
        }
    }
}

impl Source {
    /// A mistake in the value of `key`.
    #[must_use]
    pub fn error(&self, key: &str, message: &str) -> ConfigError {
        let mut at = 0;
        for line in self.text.split_inclusive('\n') {
            if line.split_once('=').is_some_and(|(k, _)| k.trim() == key) {
                break;
            }
            at += line.len();
        }
        self.invalid(at, &format!("{key}: {message}"))
    }

    fn invalid(&self, at: usize, message: &str) -> ConfigError {
        let before = self.text.get(..at).unwrap_or(&self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
        ConfigError::Invalid {
            place: format!("{}:{line}:{column}", self.path.display()),
            message: message.split_whitespace().collect::<Vec<_>>().join(" "),
        }
    }

    /// The key on the line of this byte.
    fn key_at(&self, at: usize) -> Option<String> {
        let start = self.text.get(..at)?.rfind('\n').map_or(0, |n| n + 1);
        let line = self.text.get(start..)?.lines().next()?;
        let (key, _) = line.split_once('=')?;
        Some(key.trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "read by the test's assertions only through Debug")]
    struct Some {
        port: Option<u16>,
        name: Option<String>,
    }

    fn message(text: &str) -> String {
        parse::<Some>(Path::new("/etc/x.toml"), text.to_owned()).unwrap_err().to_string()
    }

    #[test]
    fn mistakes_are_told_with_file_line_column_and_key() {
        assert_eq!(
            message("name = \"a\"\nprot = 1\n"),
            "/etc/x.toml:2:1: unknown field `prot`, expected `port` or `name`"
        );
        assert_eq!(
            message("\n  port = \"a\"\n"),
            "/etc/x.toml:2:10: port: invalid type: string \"a\", expected u16"
        );
        let broken = message("port = \n");
        assert!(broken.starts_with("/etc/x.toml:1:") && !broken.contains('\n'), "{broken}");
    }

    #[test]
    fn a_value_that_makes_no_sense_is_told_with_its_line() {
        let (_, source) = parse::<Some>(Path::new("x.toml"), "name = \"a\"\nport = 7\n".to_owned()).unwrap();
        assert_eq!(source.error("port", "is taken").to_string(), "x.toml:2:1: port: is taken");
    }

    #[test]
    fn a_missing_file_is_told_with_its_name() {
        let e = load::<Some>(Path::new("/nonexistent/x.toml")).unwrap_err().to_string();
        assert!(e.starts_with("cannot read the configuration /nonexistent/x.toml: No such file"), "{e}");
    }
}
