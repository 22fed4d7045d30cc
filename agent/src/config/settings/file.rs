//! A TOML file as a list of settings, each with its line and column. Keys are flat: the flags' names without dashes;
//! what there may be several of stands in arrays of tables.

use std::{collections::BTreeMap, fs::File, io::Read as _, path::Path};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{Kind, Origin, Setting, Settings, SettingsError, Table, Value, Wrong};

/// More is no configuration.
const SIZE_MAX: u64 = 1 << 20;

/// The settings of a file whose keys are among `known` and whose arrays of tables are among `kinds`, and what is wrong
/// with the rest.
pub(super) fn read(path: &Path, known: &[&'static str], kinds: &[Kind]) -> Result<Settings, SettingsError> {
    let unreadable = |reason: String| SettingsError::Unreadable { path: path.to_owned(), reason };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(SIZE_MAX + 1).read_to_end(&mut bytes))
        .map_err(|e| unreadable(e.to_string()))?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len > SIZE_MAX) {
        return Err(unreadable("it is longer than 1 MiB".to_owned()));
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        let good = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        unreadable(format!("line {} is not UTF-8", 1 + good.iter().filter(|b| **b == b'\n').count()))
    })?;
    Ok(parse(path, &text, known, kinds))
}

fn parse(path: &Path, text: &str, known: &[&'static str], kinds: &[Kind]) -> Settings {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut reader = Reader { path, lines: Lines::of(text), broken: !errors.is_empty(), wrong: Vec::new() };
    for error in &errors {
        let Place { line, column } = reader.lines.place(error.span().map_or(text.len(), |span| span.start));
        let what = error.message().lines().collect::<Vec<_>>().join(" ").escape_debug().to_string();
        reader.wrong.push(Wrong {
            at: format!("{}:{line}:{column}", path.display()),
            what: format!("not TOML: {what}"),
        });
    }
    let mut settings = Settings::default();
    for (key, value) in table.get_ref() {
        let name = key.get_ref();
        if let Some(kind) = kinds.iter().find(|kind| kind.name == *name) {
            settings.tables.insert(kind.name, reader.tables(kind, key.span().start, value));
        } else if let Some(known) = known.iter().find(|known| **known == *name) {
            let from = reader.origin(key.span().start, name.to_string());
            settings.put(known, reader.setting(value, from));
        } else {
            let tables = kinds.iter().map(|kind| format!("[[{}]]", kind.name));
            let all: Vec<_> = known.iter().map(|&key| key.to_owned()).chain(tables).collect();
            let at = reader.origin(key.span().start, name.to_string()).to_string();
            let what = format!("no such key; there are: {}", all.join(", "));
            reader.wrong.push(Wrong { at, what });
        }
    }
    settings.wrong = reader.wrong;
    settings
}

/// Line and column, from 1.
#[derive(Clone, Copy)]
struct Place {
    line: usize,
    column: usize,
}

/// Where lines begin, so that a place is found without going through the text again.
struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, starts }
    }

    fn place(&self, offset: usize) -> Place {
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = self.starts.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let before = self.text.get(start..offset.min(self.text.len())).unwrap_or_default();
        Place { line, column: 1 + before.chars().count() }
    }
}

struct Reader<'a> {
    path: &'a Path,
    lines: Lines<'a>,
    /// what could not be parsed has been told: what is left in its place is not told again
    broken: bool,
    wrong: Vec<Wrong>,
}

impl Reader<'_> {
    fn origin(&self, offset: usize, key: String) -> Origin {
        let Place { line, column } = self.lines.place(offset);
        Origin::File { path: self.path.to_owned(), line, column, key }
    }

    fn setting(&self, value: &Spanned<DeValue<'_>>, from: Origin) -> Setting {
        let value = match value.get_ref() {
            DeValue::String(text) => Value::One(text.to_string()),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Value::One(number.to_string()),
                Err(_wrong) => Value::Other("a number that is too large"),
            },
            DeValue::Boolean(value) => Value::One(value.to_string()),
            DeValue::Array(values) => {
                let place = |value: &Spanned<_>| self.origin(value.span().start, from.key().to_owned());
                Value::Many(values.iter().map(|value| self.setting(value, place(value))).collect())
            }
            DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_) => {
                Value::Other(value.get_ref().type_str())
            }
        };
        let told = self.broken && !matches!(value, Value::One(_));
        Setting { value: if told { Value::Told } else { value }, from }
    }

    /// The tables of an array of them.
    fn tables(&mut self, kind: &Kind, at: usize, value: &Spanned<DeValue<'_>>) -> Vec<Table> {
        let Kind { name, keys: _ } = kind;
        let DeValue::Array(values) = value.get_ref() else {
            if !self.broken {
                let at = self.origin(at, (*name).to_owned()).to_string();
                self.wrong.push(Wrong { at, what: format!("there may be several: write [[{name}]]") });
            }
            return Vec::new();
        };
        let mut tables = Vec::new();
        for value in values {
            match value.get_ref() {
                DeValue::Table(table) => tables.push(self.table(kind, value.span().start, table)),
                _ if self.broken => {}
                other => {
                    let at = self.origin(value.span().start, (*name).to_owned()).to_string();
                    let what = format!("{} stands where a table belongs", other.type_str());
                    self.wrong.push(Wrong { at, what });
                }
            }
        }
        tables
    }

    fn table(&mut self, kind: &Kind, at: usize, table: &DeTable<'_>) -> Table {
        let Kind { name, keys } = kind;
        let mut written = BTreeMap::new();
        for (key, value) in table {
            let from = self.origin(key.span().start, format!("{name}.{}", key.get_ref()));
            match keys.iter().find(|known| **known == *key.get_ref()) {
                Some(known) => _ = written.insert(*known, self.setting(value, from)),
                None => {
                    let what = format!("no such key; there are: {}", keys.join(", "));
                    self.wrong.push(Wrong { at: from.to_string(), what });
                }
            }
        }
        Table { from: self.origin(at, (*name).to_owned()), written, wrong: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 3] = ["cluster", "argv-limit", "stdout"];

    fn wrong(text: &str) -> Vec<String> {
        let kinds = [Kind { name: "output", keys: &["name"] }];
        parse(Path::new("a.toml"), text, &KNOWN, &kinds).wrong.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn settings_come_with_their_places() {
        let Settings { written, tables, wrong } = parse(
            Path::new("a.toml"),
            "# ä\ncluster = \"c\"\n  argv-limit = 0x1_000\nstdout = true\n",
            &KNOWN,
            &[],
        );
        assert_eq!((wrong, tables.len()), (vec![], 0));
        let told: Vec<_> = written.values().map(|s| format!("{:?} at {}", s.value, s.from)).collect();
        assert_eq!(
            told,
            [
                "One(\"4096\") at a.toml:3:3: argv-limit",
                "One(\"c\") at a.toml:2:1: cluster",
                "One(\"true\") at a.toml:4:1: stdout",
            ]
        );
    }

    #[test]
    fn every_unknown_key_is_told() {
        let told = wrong("colour = 1\ncluster = \"c\"\n\n[metrics]\nlisten = \"x\"\n");
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told.iter().any(|line| line.starts_with("a.toml:1:1: colour: no such key; there are: cluster"))
        );
        assert!(told.iter().any(|line| line.starts_with("a.toml:4:2: metrics: no such key")), "{told:?}");
    }

    #[test]
    fn what_is_not_toml_says_where() {
        let told = wrong("cluster = \"a\"\nargv-limit = \n");
        assert!(told[0].starts_with("a.toml:2:"), "{told:?}");
        let told = wrong("cluster = \"a\"\ncluster = \"b\"\n");
        assert!(told[0].starts_with("a.toml:2:1: not TOML: duplicate key"), "{told:?}");
    }

    #[test]
    fn hostile_files_do_not_panic() {
        for text in [
            "\u{0}",
            "\u{1b}[2J = 1",
            "=",
            "[[[[",
            "a.b.c.d = 1",
            "\"\\u{1b}\" = 1",
            "'''",
            "x = 99999999999999999999999",
            "[[output]]\n[[output.\u{1b}]]\n[output]\n",
            "output = [[[[",
            "[[output]]\nname = [{ \"\\u001b\" = 1 }, ",
        ] {
            for line in wrong(text) {
                assert!(!line.contains('\u{1b}') && !line.contains('\n'), "{line:?}");
            }
        }
    }

    #[test]
    fn a_file_that_is_not_text_says_which_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.toml");
        std::fs::write(&path, b"cluster = \"a\"\n# \xff\n").unwrap();
        let error = read(&path, &KNOWN, &[]).unwrap_err().to_string();
        assert!(error.ends_with("a.toml: line 2 is not UTF-8"), "{error}");
        let error = read(&dir.path().join("none"), &KNOWN, &[]).unwrap_err().to_string();
        assert!(error.contains("cannot read the configuration") && error.contains("No such file"), "{error}");
    }
}
