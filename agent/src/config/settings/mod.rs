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
    value: Value,
    from: Origin,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    /// a string, a whole number, true or false: as text
    One(String),
    Many(Vec<Setting>),
    /// nothing that any setting takes: its type
    Other(&'static str),
    /// stands in a file that cannot be read as TOML: that has been told
    Told,
}

impl Value {
    /// What stands there, for a message.
    fn kind(&self) -> &'static str {
        match self {
            Self::One(_) => "a single value",
            Self::Many(_) => "array",
            Self::Other(kind) => kind,
            Self::Told => "nothing",
        }
    }
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

impl Origin {
    fn key(&self) -> &str {
        match self {
            Self::Flag(flag) => flag,
            Self::File { key, .. } => key,
        }
    }
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

/// An array of tables that a file may have, `[[name]]`, and their keys.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub name: &'static str,
    pub keys: &'static [&'static str],
}

/// All settings of a program as they were written, and what was found to be wrong with them so far.
#[derive(Debug, Default)]
pub struct Settings {
    /// by key: the flag without its dashes
    written: BTreeMap<&'static str, Setting>,
    /// by name of their array
    tables: BTreeMap<&'static str, Vec<Table>>,
    wrong: Vec<Wrong>,
}

impl Settings {
    /// Reads the file, where there is one; it may have these keys, and these arrays of tables.
    pub fn read(path: Option<&Path>, keys: &[&'static str], kinds: &[Kind]) -> Result<Self, SettingsError> {
        path.map_or_else(|| Ok(Self::default()), |path| file::read(path, keys, kinds))
    }

    /// A flag, with its dashes; it goes before what the file says.
    pub fn flag(&mut self, flag: &'static str, text: Option<String>) {
        if let Some(text) = text {
            let setting = Setting { value: Value::One(text), from: Origin::Flag(flag) };
            self.put(flag.trim_start_matches('-'), setting);
        }
    }

    /// What stands for a setting that was not written, to be checked as if it were; `called` is how errors name it.
    pub fn otherwise(&mut self, key: &'static str, called: &'static str, text: impl FnOnce() -> String) {
        let from = Origin::Flag(called);
        self.written.entry(key).or_insert_with(|| Setting { value: Value::One(text()), from });
    }

    fn put(&mut self, key: &'static str, setting: Setting) {
        self.written.insert(key, setting);
    }

    /// Whether it was written, and is not checked yet.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.written.contains_key(key)
    }

    /// The checked value; `default` where there is no setting, or a wrong one, which is noted.
    pub fn check<T>(&mut self, key: &str, default: T, parse: impl FnOnce(&str) -> Result<T, String>) -> T {
        one(self.written.remove(key), &mut self.wrong, parse).unwrap_or(default)
    }

    /// Notes that settings do not go together, or that one is missing; `at` names them.
    pub fn note(&mut self, at: &str, what: String) {
        self.wrong.push(Wrong { at: at.to_owned(), what });
    }

    /// The tables `[[name]]`, in their order, each as `check` reads it: by [`Table::check`] and its like.
    pub fn tables<T>(&mut self, name: &str, mut check: impl FnMut(&mut Table) -> T) -> Vec<T> {
        let tables = self.tables.remove(name).unwrap_or_default();
        let mut checked = Vec::new();
        for mut table in tables {
            checked.push(check(&mut table));
            let Table { from: _, written, wrong } = table;
            debug_assert!(written.is_empty(), "nobody asked for {written:?}");
            self.wrong.extend(wrong);
        }
        checked
    }

    /// The end of checking.
    pub fn finish<T>(self, value: T) -> Result<T, SettingsError> {
        let Self { written, tables, wrong } = self;
        debug_assert!(written.is_empty(), "nobody asked for {written:?}");
        debug_assert!(tables.is_empty(), "nobody asked for {tables:?}");
        if wrong.is_empty() { Ok(value) } else { Err(SettingsError::Settings(wrong)) }
    }
}

/// One table of an array of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// its head
    from: Origin,
    written: BTreeMap<&'static str, Setting>,
    wrong: Vec<Wrong>,
}

impl Table {
    /// The checked value; `default` where there is no setting, or a wrong one, which is noted.
    pub fn check<T>(&mut self, key: &str, default: T, parse: impl FnOnce(&str) -> Result<T, String>) -> T {
        one(self.written.remove(key), &mut self.wrong, parse).unwrap_or(default)
    }

    /// As [`Self::check`], but it must be there; `default` only stands in its place until the end of checking.
    pub fn need<T>(&mut self, key: &str, default: T, parse: impl FnOnce(&str) -> Result<T, String>) -> T {
        if !self.written.contains_key(key) {
            self.note(format!("{key} is missing"));
        }
        self.check(key, default, parse)
    }

    /// Each of a list, checked; those that are wrong are noted, each in its place, and left out. `None`: no such key.
    pub fn list<T>(&mut self, key: &str, mut parse: impl FnMut(&str) -> Result<T, String>) -> Option<Vec<T>> {
        let Setting { value, from } = self.written.remove(key)?;
        let each = match value {
            Value::Many(each) => each,
            Value::Told => Vec::new(),
            value @ (Value::One(_) | Value::Other(_)) => {
                let what = format!("{} stands where a list belongs, like [\"a\", \"b\"]", value.kind());
                self.wrong.push(Wrong { at: from.to_string(), what });
                Vec::new()
            }
        };
        Some(each.into_iter().filter_map(|value| one(Some(value), &mut self.wrong, &mut parse)).collect())
    }

    /// Notes what is wrong with the table as a whole.
    pub fn note(&mut self, what: String) {
        self.wrong.push(Wrong { at: self.from.to_string(), what });
    }
}

fn one<T>(
    setting: Option<Setting>,
    wrong: &mut Vec<Wrong>,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    let Setting { value, from } = setting?;
    let what = match value {
        Value::One(text) => match parse(&text) {
            Ok(value) => return Some(value),
            Err(what) => what,
        },
        Value::Told => return None,
        value @ (Value::Many(_) | Value::Other(_)) => {
            format!("{} stands where a string or a whole number belongs", value.kind())
        }
    };
    wrong.push(Wrong { at: from.to_string(), what });
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_goes_before_the_file_and_both_before_what_stands_for_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.toml");
        std::fs::write(&path, "a = 1\nb = 2\n").unwrap();
        let mut settings = Settings::read(Some(&path), &["a", "b", "c"], &[]).unwrap();
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

    const OUTPUT: Kind = Kind { name: "output", keys: &["name", "size", "only"] };

    type Output = (String, u64, Option<Vec<u64>>);

    fn outputs(text: &str) -> Result<Vec<Output>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let mut settings = Settings::read(Some(file.path()), &["a"], &[OUTPUT]).unwrap();
        settings.check("a", 0, value::bytes);
        let outputs = settings.tables("output", |table| {
            let name = table.need("name", String::new(), |text| Ok(text.to_owned()));
            (name, table.check("size", 7, value::bytes), table.list("only", value::bytes))
        });
        let path = file.path().display().to_string();
        settings.finish(outputs).map_err(|e| e.to_string().replace(&path, "F"))
    }

    #[test]
    fn arrays_of_tables_are_read_in_their_order() {
        let text = "a = 1\n[[output]]\nname = \"x\"\nsize = \"1KiB\"\n\n[[output]]\nname = \"y\"\nonly = [1, \"2K\"]\n";
        assert_eq!(
            outputs(text).unwrap(),
            [("x".to_owned(), 1024, None), ("y".to_owned(), 7, Some(vec![1, 2048]))]
        );
        assert_eq!(outputs("").unwrap(), []);
        assert_eq!(outputs("output = [{ name = \"x\" }]\n").unwrap(), [("x".to_owned(), 7, None)]);
    }

    #[test]
    fn all_that_is_wrong_with_tables_is_told_with_its_place() {
        let text = "a = [1]\nb = 1\n\n[[output]]\n  nmae = \"x\"\nsize = [1]\n\n  [[output]]\nname = 1.5\n\
                    size = \"big\"\nonly = [1,\n  \"ä\", [2],\n  \"\\u001b\"]\n[[output]]\nname = \"n\"\nonly = 3\n";
        let told = outputs(text).unwrap_err();
        let mut told: Vec<_> = told.lines().collect();
        told.sort_unstable();
        let number = "is no number of bytes, like 65536, 64KiB or 16MiB";
        let single = "stands where a string or a whole number belongs";
        assert_eq!(
            told,
            [
                format!("F:10:1: output.size: \"big\" {number}"),
                format!("F:12:3: output.only: \"ä\" {number}"),
                format!("F:12:8: output.only: array {single}"),
                format!("F:13:3: output.only: \"\\u{{1b}}\" {number}"),
                "F:16:1: output.only: a single value stands where a list belongs, like [\"a\", \"b\"]"
                    .to_owned(),
                format!("F:1:1: a: array {single}"),
                "F:2:1: b: no such key; there are: a, [[output]]".to_owned(),
                "F:4:1: output: name is missing".to_owned(),
                "F:5:3: output.nmae: no such key; there are: name, size, only".to_owned(),
                format!("F:6:1: output.size: array {single}"),
                format!("F:9:1: output.name: float {single}"),
            ]
        );
        assert_eq!(
            outputs("[output]\nname = \"x\"\n").unwrap_err(),
            "F:1:2: output: there may be several: write [[output]]"
        );
        assert_eq!(
            outputs("output = [1]\n").unwrap_err(),
            "F:1:11: output: integer stands where a table belongs"
        );
    }
}
