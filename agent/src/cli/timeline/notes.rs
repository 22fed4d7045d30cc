//! What is worth saying about a command beside its command line.

use podtrail_proto::v1;

use crate::{
    cli::{line::Style, words},
    escape,
};

/// What was there before, to tell what is different now.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Before<'e> {
    /// working directory of the command before it under the same parent, or of the parent
    pub cwd: Option<&'e [u8]>,
    /// of the session's first command
    pub credentials: Option<&'e v1::Credentials>,
}

/// The notes of one command.
#[must_use]
pub(super) fn notes(executed: &v1::Executed, before: Before<'_>) -> Vec<(Style, String)> {
    let mut notes = Vec::new();
    let path = words::exact(&executed.path, &executed.path_raw);
    let cwd = words::exact(&executed.cwd, &executed.cwd_raw);
    let argv0 = first_argument(executed);
    if !path.is_empty() && !says(argv0, path, cwd) {
        notes.push((Style::Note, format!("is {}", escape::word(path))));
    }
    let script = words::exact(&executed.script, &executed.script_raw);
    if !script.is_empty() {
        notes.push((Style::Note, format!("script {}", escape::word(script))));
    }
    if !cwd.is_empty()
        && before.cwd.is_none_or(|before| before != cwd)
        && !(before.cwd.is_none() && cwd == b"/")
    {
        notes.push((Style::Dim, format!("in {}", escape::word(cwd))));
    }
    if executed.not_found > 0 {
        let places = words::count(executed.not_found.into(), "other place");
        notes.push((Style::Dim, format!("not in {places}")));
    }
    if executed.path_incomplete {
        notes.push((Style::Warn, "path incomplete".to_owned()));
    }
    file(executed, &mut notes);
    identity(executed, before.credentials, &mut notes);
    if executed.truncated() {
        let kept: u64 = if executed.argv_raw.len() == executed.argv.len() {
            executed.argv_raw.iter().map(|arg| arg.len() as u64 + 1).sum()
        } else {
            executed.argv.iter().map(|arg| arg.len() as u64 + 1).sum()
        };
        let of = words::bytes(executed.argv_bytes());
        let why = if executed.argv_over_budget { ", over the session's budget" } else { "" };
        notes.push((Style::Warn, format!("argv cut: {} of {of} kept{why}", words::bytes(kept))));
    }
    notes
}

fn file(executed: &v1::Executed, notes: &mut Vec<(Style, String)>) {
    let Some(file) = &executed.executable else { return };
    if file.memfd {
        notes.push((Style::Bad, "memfd: lives in memory only".to_owned()));
    } else if file.deleted {
        notes.push((Style::Bad, "deleted file".to_owned()));
    }
    if file.upper_layer {
        notes.push((Style::Bad, "new file, not from the image".to_owned()));
    }
}

fn identity(executed: &v1::Executed, first: Option<&v1::Credentials>, notes: &mut Vec<(Style, String)>) {
    let Some(now) = &executed.credentials else { return };
    let file = executed.executable.as_ref();
    if now.effective_uid() != now.uid() {
        let setuid = file.is_some_and(|file| file.setuid);
        let text = match (setuid, now.effective_uid()) {
            (true, 0) => "setuid root".to_owned(),
            (true, uid) => format!("setuid {uid}"),
            (false, uid) => format!("effective uid {uid}"),
        };
        notes.push((Style::Warn, text));
    }
    if now.effective_gid() != now.gid() {
        let setgid = file.is_some_and(|file| file.setgid);
        let what = if setgid { "setgid" } else { "effective gid" };
        notes.push((Style::Warn, format!("{what} {}", now.effective_gid())));
    }
    if let Some(first) = first
        && (now.uid(), now.container_uid) != (first.uid(), first.container_uid)
    {
        notes.push((Style::Warn, uid(now)));
    }
}

/// `uid 0`, `uid 0 (100000 on the node)`
#[must_use]
pub(super) fn uid(credentials: &v1::Credentials) -> String {
    match credentials.container_uid {
        Some(inside) if inside != credentials.uid() => {
            format!("uid {inside} ({} on the node)", credentials.uid())
        }
        _ => format!("uid {}", credentials.uid()),
    }
}

fn first_argument(executed: &v1::Executed) -> &[u8] {
    let raw = if executed.argv_raw.len() == executed.argv.len() { executed.argv_raw.first() } else { None };
    match (raw, executed.argv.first()) {
        (Some(raw), _) => raw,
        (None, Some(text)) => text.as_bytes(),
        (None, None) => b"",
    }
}

/// Whether the first argument already tells the program's path: it is the path, leads there from the working
/// directory, or is the bare name of a program in a directory for programs. A `curl` from /tmp is not told by `curl`.
fn says(argv0: &[u8], path: &[u8], cwd: &[u8]) -> bool {
    if !argv0.contains(&b'/') {
        let name = argv0.strip_prefix(b"-").unwrap_or(argv0); // a login shell
        let Some(slash) = path.iter().rposition(|byte| *byte == b'/') else { return argv0 == path };
        let (dir, base) = path.split_at(slash);
        let usual = matches!(short(dir), b"/bin" | b"/sbin" | b"/local/bin" | b"/local/sbin");
        return usual && base.strip_prefix(b"/") == Some(name);
    }
    if argv0.starts_with(b"/") {
        return short(argv0) == short(path);
    }
    let relative = argv0.strip_prefix(b"./").unwrap_or(argv0);
    let dir = cwd.strip_suffix(b"/").unwrap_or(cwd);
    path.strip_prefix(dir).and_then(|rest| rest.strip_prefix(b"/")) == Some(relative)
}

/// Without `/usr`: on most images `/bin` is a link to `/usr/bin`.
fn short(path: &[u8]) -> &[u8] {
    path.strip_prefix(b"/usr").filter(|rest| rest.starts_with(b"/")).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_shown_where_the_first_argument_hides_it() {
        for (argv0, path, cwd, told) in [
            ("curl", "/usr/bin/curl", "/", true),
            ("/bin/ls", "/usr/bin/ls", "/", true),
            ("-bash", "/bin/bash", "/", true),
            ("./x", "/tmp/x", "/tmp", true),
            ("bin/x", "/bin/x", "/", true),
            ("curl", "/tmp/curl", "/tmp", false),
            ("ls", "/bin/busybox", "/", false),
            ("./ls", "/tmp/ls", "/home", false),
            ("", "/bin/sh", "/", false),
            ("/bin/sh", "/usr/bin/dash", "/", false),
            ("/bin/x", "/usrbin/x", "/", false),
        ] {
            assert_eq!(says(argv0.as_bytes(), path.as_bytes(), cwd.as_bytes()), told, "{argv0} is {path}");
        }
    }
}
