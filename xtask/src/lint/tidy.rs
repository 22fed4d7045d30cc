//! The invariants of `docs/architecture.md` that a look at the source can check.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use super::source::{self, Line};
use crate::root;

/// Lines of a program in `bin/`: arguments, configuration, run, exit code.
const BIN_LINES: usize = 100;
/// Beyond this a file is named, for somebody to think about; no failure.
const LONG_FILE: usize = 600;

/// Folders where the words must not stand, and why.
struct Ban {
    folders: &'static [&'static str],
    except: &'static [&'static str],
    words: &'static [&'static str],
    rule: &'static str,
}

const BANS: &[Ban] = &[
    Ban {
        folders: &["agent/", "agent-ebpf/", "proto/", "tests/", "xtask/"],
        // The payload is what a test's intruder runs: it clones as runtimes do, which no library offers.
        except: &["agent/src/probe/", "agent-ebpf/", "tests/src/payload/"],
        words: &["unsafe"],
        rule: "`unsafe` stands only in agent/src/probe and agent-ebpf (and in the tests' payload)",
    },
    Ban {
        folders: &["agent/", "proto/", "tests/", "xtask/"],
        except: &["agent/src/probe/"],
        words: &["aya", "aya_obj", "aya_log"],
        rule: "only agent/src/probe names aya",
    },
    Ban {
        folders: &[
            "agent/src/session/",
            "agent/src/wayin/",
            "agent/src/pods/sessions.rs",
            "agent/src/pods/facts.rs",
        ],
        // Which asks for what wayin is then given.
        except: &["agent/src/wayin/kubelet/", "agent/src/wayin/tests/"],
        words: &["SystemTime", "Instant", "std::fs", "fs", "std::net", "tokio", "File"],
        rule: "session has no clock and no I/O, nor have wayin, but for its kubelet, and what pods make of answers",
    },
    Ban {
        folders: &["agent/src/"],
        except: &["agent/src/clock.rs"],
        words: &["SystemTime::now"],
        rule: "the wall clock is read in agent/src/clock.rs alone, where tests can step it",
    },
    Ban {
        folders: &["agent/src/session/", "agent/src/probe/", "agent/src/container/", "agent/src/wayin/"],
        except: &[],
        words: &["podtrail_proto"],
        rule: "proto types stop at convert",
    },
    Ban {
        folders: &[
            "agent/src/agent",
            "agent/src/bin/podtrail-agent.rs",
            "agent/src/container/",
            "agent/src/local",
            "agent/src/pods/",
            "agent/src/probe/",
            "agent/src/session/",
            "agent/src/spool",
            "agent/src/trail/",
            "agent/src/uplink",
            "agent/src/wayin/",
        ],
        except: &[],
        words: &["crate::collector", "podtrail::collector"],
        rule: "the program on every node does not carry the collector",
    },
];

/// Checks all rules; names every place that breaks one.
pub(super) fn run() -> Result<()> {
    let workspace = root::workspace();
    let mut found = Vec::new();
    let mut long = Vec::new();
    for folder in ["agent", "agent-ebpf", "proto", "tests", "xtask"] {
        manifest(&workspace.join(folder), &mut found)?;
        let mut files = Vec::new();
        rust_files(&workspace.join(folder), &mut files)?;
        for file in files {
            let text =
                fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let name = file.strip_prefix(&workspace).unwrap_or(&file).display().to_string();
            let lines = source::lines(&text);
            check(&name, &lines, &mut found);
            if lines.len() > LONG_FILE {
                long.push(format!("{name}: {} lines", lines.len()));
            }
        }
    }
    for file in long {
        eprintln!("note: long: {file}");
    }
    for place in &found {
        eprintln!("{place}");
    }
    if found.is_empty() { Ok(()) } else { bail!("{} places break a rule", found.len()) }
}

/// Every crate takes on lints: a crate without the section has none of the workspace's.
fn manifest(folder: &Path, found: &mut Vec<String>) -> Result<()> {
    let file = folder.join("Cargo.toml");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    if !text.lines().any(|line| line.starts_with("[lints")) {
        found.push(format!("{}: no [lints]: say `lints.workspace = true`", file.display()));
    }
    Ok(())
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("cannot list {}", folder.display()))?.path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "target") {
                rust_files(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(())
}

/// Checks one file.
fn check(name: &str, lines: &[Line], found: &mut Vec<String>) {
    for (index, line) in lines.iter().enumerate() {
        let code = line.code.as_str();
        for ban in BANS {
            let here = ban.folders.iter().any(|folder| name.starts_with(folder))
                && !ban.except.iter().any(|folder| name.starts_with(folder));
            if here && ban.words.iter().any(|word| source::has_word(code, word)) {
                found.push(format!("{name}:{}: {}", index + 1, ban.rule));
            }
        }
        let attribute = code.trim_start();
        if attribute.starts_with("#[allow(") || attribute.starts_with("#![allow(") {
            found.push(format!("{name}:{}: say #[expect(…, reason = \"…\")], not #[allow]", index + 1));
        }
        if is_unsafe(code) && !explained(lines, index) {
            found.push(format!("{name}:{}: this `unsafe` has no SAFETY comment", index + 1));
        }
    }
    if name.contains("/src/bin/") && lines.len() > BIN_LINES {
        found.push(format!(
            "{name}: {} lines: a program has at most {BIN_LINES}; move it to the library",
            lines.len()
        ));
    }
}

/// Whether a line has an `unsafe` that somebody must answer for; the attribute `#[unsafe(no_mangle)]` is none.
fn is_unsafe(code: &str) -> bool {
    source::has_word(&code.replace("unsafe(", "("), "unsafe") && !code.contains("unsafe_")
}

/// Whether a SAFETY comment stands on the line, or above it with nothing but comments, attributes and the beginning
/// of the same statement between.
fn explained(lines: &[Line], index: usize) -> bool {
    let says = |line: &Line| line.comment.contains("SAFETY:") || line.comment.contains("# Safety");
    let above = lines.iter().take(index).rev().take_while(|line| {
        let code = line.code.trim();
        code.is_empty() && !line.comment.is_empty()
            || code.starts_with('#')
            || !code.is_empty() && !code.ends_with([';', '}', '{', ','])
    });
    lines.get(index).is_some_and(says) || above.into_iter().any(says)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(name: &str, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        check(name, &source::lines(text), &mut found);
        found
    }

    #[test]
    fn unsafe_wants_a_reason_and_its_place() {
        let bare = "fn f() {\n    unsafe { g() }\n}";
        let told = "fn f() {\n    // SAFETY: g is harmless\n    let x =\n        unsafe { g() };\n}";
        assert_eq!(broken("agent-ebpf/src/main.rs", bare).len(), 1);
        assert_eq!(broken("agent-ebpf/src/main.rs", told), Vec::<String>::new());
        assert_eq!(broken("agent/src/spool.rs", told).len(), 1);
        assert_eq!(
            broken("agent-ebpf/src/main.rs", "#[unsafe(no_mangle)]\nstatic X: u8 = 0;"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn stages_know_only_what_they_may() {
        assert_eq!(broken("agent/src/spool.rs", "use aya::Ebpf;").len(), 1);
        assert_eq!(broken("agent/src/probe/load.rs", "use aya::Ebpf;"), Vec::<String>::new());
        assert_eq!(broken("agent/src/session/mod.rs", "use std::time::Instant;").len(), 1);
        assert_eq!(broken("agent/src/session/mod.rs", "// no Instant here"), Vec::<String>::new());
        assert_eq!(broken("agent/src/container/mod.rs", "use podtrail_proto::v1;").len(), 1);
        assert_eq!(broken("agent/src/convert.rs", "use podtrail_proto::v1;"), Vec::<String>::new());
        assert_eq!(broken("agent/src/spool/mod.rs", "use crate::collector::log;").len(), 1);
        assert_eq!(broken("agent/src/spool/mod.rs", "let now = SystemTime::now();").len(), 1);
    }

    #[test]
    fn lints_are_expected_with_a_reason_never_allowed() {
        assert_eq!(broken("agent/src/spool.rs", "#[allow(dead_code)]").len(), 1);
        assert_eq!(broken("agent/src/spool.rs", "#![allow(dead_code)]").len(), 1);
        assert_eq!(
            broken("agent/src/spool.rs", "#[expect(dead_code, reason = \"x\")]"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn programs_stay_thin() {
        assert_eq!(broken("agent/src/bin/podtrail.rs", &"x\n".repeat(101)).len(), 1);
        assert_eq!(broken("agent/src/bin/podtrail.rs", &"x\n".repeat(100)), Vec::<String>::new());
    }
}
