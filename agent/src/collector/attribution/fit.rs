//! Whether a request may be the one behind a session.
//!
//! Both sides have clocks of their own, which may be apart by the skew; lengths of time are not touched by that.

use std::time::Duration;

use podtrail_proto::v1::{EntryMethod, api_request::Action};

use super::{
    Settings,
    request::Request,
    session::{Argv, Place, Session},
};
use crate::trail::Moment;

/// The API server may take so long from a request's arrival to its answer.
pub const ANSWER: Duration = Duration::from_secs(70);
/// From a request for an ephemeral container until it runs: an image may have to be pulled.
pub const EPHEMERAL: Duration = Duration::from_secs(3600);
/// From the end of a session until the response is complete: what was printed is still on its way, to a client that may
/// be slow to read.
const DRAIN: Duration = Duration::from_secs(10);
/// A session that goes on for so long after its response goes on without it.
const LEAVE: Duration = Duration::from_secs(1);
/// How two texts of a command compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Same,
    /// what is there of it
    SameButCut,
    /// behind what a webhook put before it
    Prefixed,
    /// it is a script, whose interpreter stands before it
    Script,
}

/// Whether the session can have been entered by this request; ends are not looked at.
#[must_use]
pub fn fits(settings: &Settings, session: &Session, request: &Request) -> bool {
    let Place::Pod(pod) = &session.place else { return false };
    if !request.went_through() || request.pod != *pod || request.consumed {
        return false;
    }
    if session.method == EntryMethod::EphemeralContainer {
        let name = session.container_name();
        let since = session.entered.before(EPHEMERAL);
        return request.action == Action::EphemeralContainer
            && request.ephemeral.iter().any(|ephemeral| ephemeral == name)
            && (since..=after(session.entered, settings.skew)).contains(&request.begin());
    }
    request.action == Action::Exec
        && same_container(session, request)
        && session.terminal.is_none_or(|terminal| terminal == request.tty)
        && in_time(settings, session, request)
        && session
            .argv
            .as_ref()
            .is_none_or(|argv| command(settings, argv, &request.command, request.truncated).is_some())
}

fn same_container(session: &Session, request: &Request) -> bool {
    let name = session.container_name();
    request.container.is_empty() || name.is_empty() || request.container == name
}

fn in_time(settings: &Settings, session: &Session, request: &Request) -> bool {
    let entered = session.entered;
    let begin = request.begin();
    // Where its answer is not told, it came at some time after the request.
    let wait = if request.started.is_some() { settings.latency } else { settings.latency + ANSWER };
    let last = after(begin, wait).min(request.complete.unwrap_or(Moment::MAX));
    entered >= begin.before(settings.skew) && entered <= after(last, settings.skew)
}

/// This far after, held at the end of time.
#[must_use]
pub fn after(moment: Moment, by: Duration) -> Moment {
    Moment(moment.0.saturating_add(i64::try_from(by.as_nanos()).unwrap_or(i64::MAX)))
}

/// Whether what ran is what was asked for.
#[must_use]
pub fn command(settings: &Settings, argv: &Argv, asked: &[String], truncated: bool) -> Option<Command> {
    if truncated || asked.is_empty() {
        return None;
    }
    if equal(&argv.words, argv.cut, asked) {
        return Some(if argv.cut.is_some() { Command::SameButCut } else { Command::Same });
    }
    for prefix in &settings.prefixes {
        let n = prefix.len();
        if let Some((head, rest)) = argv.words.split_at_checked(n)
            && n > 0
            && argv.cut.is_none_or(|cut| cut > n)
            && prefix.iter().zip(head).enumerate().all(|(at, (p, word))| like(p, word, at == 0))
            && equal(rest, argv.cut.map(|cut| cut - n), asked)
        {
            return Some(Command::Prefixed);
        }
    }
    script(argv, asked).then_some(Command::Script)
}

/// A `*` at the end of a pattern stands for anything; the program may be named by its path.
fn like(pattern: &str, word: &str, program: bool) -> bool {
    let word = if program && !pattern.contains('/') { base(word) } else { word };
    match pattern.strip_suffix('*') {
        Some(beginning) => word.starts_with(beginning),
        None => word == pattern,
    }
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The words of a script's process are its interpreter, perhaps one argument for that, its path, and its arguments.
fn script(argv: &Argv, asked: &[String]) -> bool {
    let Some((program, arguments)) = asked.split_first() else { return false };
    if argv.script.is_empty() || argv.cut.is_some() || base(&argv.script) != base(program) {
        return false;
    }
    (1..=2).any(|at| {
        argv.words.get(at).is_some_and(|word| *word == argv.script)
            && argv.words.get(at + 1..) == Some(arguments)
    })
}

/// Where a part is cut out, its head and its tail must be those of what was asked for.
fn equal(words: &[String], cut: Option<usize>, asked: &[String]) -> bool {
    let Some(cut) = cut else { return words == asked };
    let (head, tail) = words.split_at_checked(cut).unwrap_or((words, &[]));
    // The last word of the head may lack its end, the first of the tail its beginning.
    let Some((broken, head)) = head.split_last() else { return tail_is(tail, asked) };
    let Some((same, rest)) = asked.split_at_checked(head.len()) else { return false };
    same == head && rest.first().is_some_and(|word| word.starts_with(broken.as_str())) && tail_is(tail, rest)
}

fn tail_is(tail: &[String], asked: &[String]) -> bool {
    let Some((broken, tail)) = tail.split_first() else { return true };
    let Some(at) = asked.len().checked_sub(tail.len() + 1) else { return false };
    asked.get(at).is_some_and(|word| word.ends_with(broken.as_str())) && asked.get(at + 1..) == Some(tail)
}

/// Whether the response went on after all of the session had ended: then it was another's. The other way round says
/// nothing, since clients may leave. `heard`: whether the API server was heard up to a moment.
#[must_use]
pub fn outlives(
    settings: &Settings,
    request: &Request,
    session: &Session,
    heard: impl Fn(Moment) -> bool,
) -> bool {
    let Some(end) = session.end else { return false };
    let last = after(end, settings.skew + DRAIN);
    match request.complete {
        Some(complete) => {
            // Lengths of time need no common clock.
            let lasted = end.since(session.entered) + settings.latency + DRAIN;
            complete > last || complete.since(request.begin()) > lasted
        }
        None => heard(last),
    }
}

/// Whether the response was over so soon that it may have started nothing, while the session went on. `node`: how far
/// its node has reported.
#[must_use]
pub fn is_abandoned(settings: &Settings, request: &Request, session: &Session, node: Moment) -> bool {
    let Some(complete) = request.complete else { return false };
    let ran = session.root_end.or(session.end).unwrap_or(node);
    complete < after(session.entered, settings.skew) && ran > after(complete, settings.skew + LEAVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }

    fn compared(argv: &str, cut: Option<usize>, script: &str, asked: &str) -> Option<Command> {
        let argv = Argv { words: words(argv), cut, script: script.to_owned() };
        command(&Settings::default(), &argv, &words(asked), false)
    }

    #[test]
    fn what_ran_is_what_was_asked_for_and_nothing_like_it() {
        use Command::{Prefixed, Same, SameButCut, Script};
        type Case = (&'static str, Option<usize>, &'static str, &'static str, Option<Command>);
        let cases: [Case; 27] = [
            ("ls -l /", None, "", "ls -l /", Some(Same)),
            ("ls -l", None, "", "ls -l /", None),
            ("ls -l / /", None, "", "ls -l /", None),
            ("/bin/ls -l", None, "", "ls -l", None),
            // Head and tail of what was longer; the last of the head and the first of the tail may be broken.
            ("tar -c aa zz y", Some(3), "", "tar -c aabb cc dd xzz y", Some(SameButCut)),
            ("tar -c aa zz y", Some(3), "", "tar -c aabb xzz y", Some(SameButCut)),
            ("tar -c aa zz y", Some(3), "", "tar -c aabb cc xzz z", None),
            ("tar -c aa zz y", Some(3), "", "tar -x aabb cc xzz y", None),
            ("tar -c aa zz y", Some(3), "", "tar -c ab cc xzz y", None),
            ("tar -c aa zz y", Some(3), "", "tar -c aabb cc xz y", None),
            ("tar -c aa zz y", Some(3), "", "tar -c", None),
            ("tar -c aa", Some(3), "", "tar -c aabb cc", Some(SameButCut)),
            // What a webhook puts before it, by any path of `env`; and what it does not.
            ("env SPO_EXEC_REQUEST_UID=1 ls -l", None, "", "ls -l", Some(Prefixed)),
            ("/usr/bin/env SPO_EXEC_REQUEST_UID=1 ls -l", None, "", "ls -l", Some(Prefixed)),
            ("env SPO_EXEC_REQUEST_UID=1 ls -l", None, "", "ls", None),
            ("env OTHER=1 ls -l", None, "", "ls -l", None),
            ("xenv SPO_EXEC_REQUEST_UID=1 ls -l", None, "", "ls -l", None),
            ("env SPO_EXEC_REQUEST_UID=1", None, "", "ls", None),
            ("env SPO_EXEC_REQUEST_UID=1 tar -c aa zz", Some(5), "", "tar -c aabb cc xzz", Some(Prefixed)),
            // A script behind its interpreter, with an argument for that or without.
            ("/bin/sh /run.sh a b", None, "/run.sh", "/run.sh a b", Some(Script)),
            ("/bin/sh -e /run.sh a b", None, "/run.sh", "/run.sh a b", Some(Script)),
            ("/bin/sh /usr/bin/run.sh a", None, "/usr/bin/run.sh", "run.sh a", Some(Script)),
            ("/bin/sh /run.sh a b", None, "/run.sh", "/run.sh a", None),
            ("/bin/sh /run.sh a b", None, "/run.sh", "/other.sh a b", None),
            ("/bin/sh /run.sh a b", None, "", "/run.sh a b", None),
            ("/bin/sh -e -x /run.sh a", None, "/run.sh", "/run.sh a", None),
            ("ls", None, "", "", None),
        ];
        for (argv, cut, script, asked, expected) in cases {
            assert_eq!(compared(argv, cut, script, asked), expected, "{argv:?} cut {cut:?}, for {asked:?}");
        }
        let argv = Argv { words: words("ls"), cut: None, script: String::new() };
        assert_eq!(command(&Settings::default(), &argv, &words("ls"), true), None, "the request is cut");
    }
}
