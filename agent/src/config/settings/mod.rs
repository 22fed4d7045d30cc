//! Settings from flags and a TOML file, checked one by one.
//!
//! Every error is found at once, and each says where: the flag, or file, line, column and key. Nothing that is
//! checked here is checked again later.

mod file;
pub mod value;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

/// A setting as it was written, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Setting {
    text: String,
    from: Origin,
}

/// Where a setting stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    /// a flag with its dashes, or what stands for one
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

/// All settings of a program as they were written, and what was found to be wrong with them so far.
#[derive(Debug, Default)]
pub struct Settings {
    /// by key: the flag without its dashes
    written: BTreeMap<&'static str, Setting>,
    wrong: Vec<Wrong>,
}

impl Settings {
    /// Reads the file, where there is one; it may have these keys.
    pub fn read(path: Option<&Path>, keys: &[&'static str]) -> Result<Self, SettingsError> {
        path.map_or_else(|| Ok(Self::default()), |path| file::read(path, keys))
    }

    /// A flag, with its dashes; it goes before what the file says.
    pub fn flag(&mut self, flag: &'static str, text: Option<String>) {
        if let Some(text) = text {
            self.put(flag.trim_start_matches('-'), Setting { text, from: Origin::Flag(flag) });
        }
    }

    /// What stands for a setting that was not written, to be checked as if it were; `called` is how errors name it.
    pub fn otherwise(&mut self, key: &'static str, called: &'static str, text: impl FnOnce() -> String) {
        self.written.entry(key).or_insert_with(|| Setting { text: text(), from: Origin::Flag(called) });
    }

    fn put(&mut self, key: &'static str, setting: Setting) {
        self.written.insert(key, setting);
    }

    /// The checked value; `default` where there is no setting, or a wrong one, which is noted.
    pub fn check<T>(&mut self, key: &str, default: T, parse: impl FnOnce(&str) -> Result<T, String>) -> T {
        let Some(Setting { text, from }) = self.written.remove(key) else { return default };
        match parse(&text) {
            Ok(value) => value,
            Err(what) => {
                self.wrong.push(Wrong { at: from.to_string(), what });
                default
            }
        }
    }

    /// The end of checking.
    pub fn finish<T>(self, value: T) -> Result<T, SettingsError> {
        let Self { written, wrong } = self;
        debug_assert!(written.is_empty(), "nobody asked for {written:?}");
        if wrong.is_empty() { Ok(value) } else { Err(SettingsError::Settings(wrong)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_goes_before_the_file_and_both_before_what_stands_for_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.toml");
        std::fs::write(&path, "a = 1\nb = 2\n").unwrap();
        let mut settings = Settings::read(Some(&path), &["a", "b", "c"]).unwrap();
        settings.flag("--a", Some("flag".to_owned()));
        settings.flag("--b", None);
        for key in ["a", "b", "c"] {
            settings.otherwise(key, "the host", || "host".to_owned());
        }
        let mut text = |key| settings.check(key, String::new(), |text| Ok(text.to_owned()));
        assert_eq!([text("a"), text("b"), text("c")], ["flag", "2", "host"]);
        assert_eq!(settings.finish(()), Ok(()));
    }

    #[test]
    fn the_default_is_what_nobody_wrote() {
        let mut settings = Settings::default();
        assert_eq!(settings.check("x", 7, |_| Err("not asked".to_owned())), 7);
        assert_eq!(settings.finish(1), Ok(1));
    }
}
