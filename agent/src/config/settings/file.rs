//! A TOML file as a list of settings, each with its line and column. Keys are flat: the flags' names without dashes.

use std::{fs::File, io::Read as _, path::Path};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{Origin, Setting, Settings, SettingsError, Wrong};

/// More is no configuration.
const SIZE_MAX: u64 = 1 << 20;

/// The settings of a file whose keys are among `known`, and what is wrong with the rest.
pub(super) fn read(path: &Path, known: &[&'static str]) -> Result<Settings, SettingsError> {
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
    Ok(parse(path, &text, known))
}

fn parse(path: &Path, text: &str, known: &[&'static str]) -> Settings {
    let place = |offset: usize| {
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = 1 + before.matches('\n').count();
        (line, 1 + before.get(line_start..).map_or(0, |line| line.chars().count()))
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut wrong: Vec<Wrong> = errors
        .iter()
        .map(|error| {
            let (line, column) = place(error.span().map_or(text.len(), |span| span.start));
            let what = error.message().lines().collect::<Vec<_>>().join(" ").escape_debug().to_string();
            Wrong { at: format!("{}:{line}:{column}", path.display()), what: format!("not TOML: {what}") }
        })
        .collect();

    let mut settings = Settings::default();
    for (key, value) in table.get_ref() {
        let (line, column) = place(key.span().start);
        let name = key.get_ref().to_string();
        let from = Origin::File { path: path.to_owned(), line, column, key: name.clone() };
        let Some(known) = known.iter().find(|known| **known == name) else {
            let what = format!("no such key; there are: {}", known.join(", "));
            wrong.push(Wrong { at: from.to_string(), what });
            continue;
        };
        match scalar(value) {
            Some(text) => settings.put(known, Setting { text, from }),
            // What could not be parsed has been told already.
            None if !errors.is_empty() => {}
            None => {
                let what =
                    format!("{} stands where a string or a whole number belongs", value.get_ref().type_str());
                wrong.push(Wrong { at: from.to_string(), what });
            }
        }
    }
    settings.wrong = wrong;
    settings
}

fn scalar(value: &Spanned<DeValue<'_>>) -> Option<String> {
    match value.get_ref() {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).ok().map(|number| number.to_string())
        }
        DeValue::Boolean(value) => Some(value.to_string()),
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 3] = ["cluster", "argv-limit", "stdout"];

    fn wrong(text: &str) -> Vec<String> {
        parse(Path::new("a.toml"), text, &KNOWN).wrong.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn settings_come_with_their_places() {
        let Settings { written, wrong } = parse(
            Path::new("a.toml"),
            "# ä\ncluster = \"c\"\n  argv-limit = 0x1_000\nstdout = true\n",
            &KNOWN,
        );
        assert_eq!(wrong, []);
        let told: Vec<_> = written.iter().map(|(key, s)| format!("{key}={} at {}", s.text, s.from)).collect();
        assert_eq!(
            told,
            [
                "argv-limit=4096 at a.toml:3:3: argv-limit",
                "cluster=c at a.toml:2:1: cluster",
                "stdout=true at a.toml:4:1: stdout",
            ]
        );
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let told = wrong("colour = 1\ncluster = [1]\n\n[metrics]\nlisten = \"x\"\n");
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(
            told.iter().any(|line| line.starts_with("a.toml:1:1: colour: no such key; there are: cluster"))
        );
        assert!(
            told.iter().any(|line| line.starts_with("a.toml:2:1: cluster: array stands where")),
            "{told:?}"
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
        let error = read(&path, &KNOWN).unwrap_err().to_string();
        assert!(error.ends_with("a.toml: line 2 is not UTF-8"), "{error}");
        let error = read(&dir.path().join("none"), &KNOWN).unwrap_err().to_string();
        assert!(error.contains("cannot read the configuration") && error.contains("No such file"), "{error}");
    }
}
