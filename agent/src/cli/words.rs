//! What messages mean, in words. Everything that comes from a message is escaped here.

use bytes::Bytes;
use nix::{errno::Errno, sys::signal::Signal};
use podtrail_proto::v1::{self, EntryMethod, GapSource};

use super::{line::Style, time};
use crate::escape;

/// Characters of a session's id that are shown at least.
pub const SHORT_ID: usize = 8;

/// The beginning of an id.
#[must_use]
pub fn short(id: &str, characters: usize) -> String {
    let end = id.char_indices().nth(characters).map_or(id.len(), |(at, _)| at);
    escape::name(id.get(..end).unwrap_or(id))
}

/// `prod/payments-0/app`, a container's own name, or the beginning of its id.
#[must_use]
pub fn place(container: Option<&v1::Container>) -> String {
    let Some(container) = container else { return "-".to_owned() };
    let pod = container.pod.as_ref().filter(|pod| !pod.name.is_empty());
    let own = if container.name.is_empty() && pod.is_none() {
        if container.id.is_empty() { String::new() } else { short(&container.id, 12) }
    } else {
        container.name.clone()
    };
    let parts = [
        pod.map(|pod| pod.namespace.as_str()).unwrap_or_default(),
        pod.map(|pod| pod.name.as_str()).unwrap_or_default(),
        own.as_str(),
    ];
    let parts: Vec<String> =
        parts.into_iter().filter(|part| !part.is_empty()).map(|part| escape::word(part.as_bytes())).collect();
    if !parts.is_empty() {
        return parts.join("/");
    }
    if container.cgroup_path.is_empty() {
        format!("cgroup {}", container.cgroup_id)
    } else {
        escape::word(container.cgroup_path.as_bytes())
    }
}

/// How a session came in, as far as is known by now.
#[must_use]
pub fn session_method(session: &v1::Session) -> String {
    if session.method.is_none() && session.started.is_none() {
        return method(None);
    }
    let mut started = session.started.clone().unwrap_or_default();
    started.method = session.method.or(started.method);
    let labels: String = started.labels.iter().map(|label| format!(", {}", escape::prose(label))).collect();
    method(Some(&started)) + &labels
}

/// How a session came in, as it was taken for when it began.
#[must_use]
pub fn method(started: Option<&v1::SessionStarted>) -> String {
    let Some(started) = started else { return "not known".to_owned() };
    match EntryMethod::try_from(started.method.unwrap_or_default()) {
        Ok(EntryMethod::RuntimeExec) => "runtime exec".to_owned(),
        Ok(EntryMethod::ExecProbe) => format!("exec probe{}", of_probe(started)),
        Ok(EntryMethod::LifecycleHook) => format!("lifecycle hook{}", of_probe(started)),
        Ok(EntryMethod::EphemeralContainer) => "ephemeral container".to_owned(),
        Ok(EntryMethod::NamespaceJoin) => match started.entered_by.as_ref().map(|by| by.comm.as_str()) {
            Some(comm) if !comm.is_empty() => format!("namespace join ({})", escape::word(comm.as_bytes())),
            _ => "namespace join".to_owned(),
        },
        Ok(EntryMethod::HostNamespace) => "host namespace".to_owned(),
        Ok(EntryMethod::Attach) => "attach".to_owned(),
        Ok(EntryMethod::PortForward) => "port-forward".to_owned(),
        Ok(EntryMethod::Unknown) => "unknown method".to_owned(),
        Err(error) => format!("method {}", error.0),
    }
}

fn of_probe(started: &v1::SessionStarted) -> String {
    started.probe.as_ref().map(|probe| format!(" ({})", escape::name(&probe.kind))).unwrap_or_default()
}

/// A session is of another method than it was told to be; `None`: nothing is said of that.
#[must_use]
pub fn turned_out(attributed: &v1::Attributed) -> Option<String> {
    let now = v1::SessionStarted { method: Some(attributed.method?), ..Default::default() };
    let why: Vec<String> = attributed.evidence.iter().map(|line| escape::prose(line)).collect();
    let colon = if why.is_empty() { "" } else { ": " };
    Some(format!("is {}{colon}{}", method(Some(&now)), why.join("; ")))
}

/// A request to the API server that leads into a container.
#[must_use]
pub fn api_request(request: &v1::ApiRequest) -> String {
    let user = request.user.as_ref().map(|user| escape::name(&user.name)).unwrap_or_default();
    let code = request.code.map(|code| format!(", {code}")).unwrap_or_default();
    format!(
        "{} {} by {user} into {}/{}/{}{code}",
        request.action().as_str_name().to_ascii_lowercase(),
        escape::name(&request.stage),
        escape::name(&request.namespace),
        escape::name(&request.pod),
        escape::name(&request.container)
    )
}

/// Sessions that were only counted.
#[must_use]
pub fn folded(folded: &v1::Folded) -> String {
    let like = if folded.like_session_id.is_empty() {
        "of which none is told".to_owned()
    } else {
        format!("like {}", short(&folded.like_session_id, SHORT_ID))
    };
    let sessions = count(folded.sessions(), "session");
    let outcome = outcome(folded.exit_code, folded.signal, false).map(|(_, text)| format!(", {text}"));
    let times = time::moment(folded.first.as_ref()).zip(time::moment(folded.last.as_ref()));
    let times = times.map(|(first, last)| format!(", {} → {}", time::clock_ms(first), time::clock_ms(last)));
    let commands = count(folded.commands(), "command");
    format!("{sessions} {like}{}, {commands}{}", outcome.unwrap_or_default(), times.unwrap_or_default())
}

/// `exit 7`, `killed (9) SIGKILL, core`; `None`: nothing is told.
#[must_use]
pub fn outcome(exit_code: Option<i32>, signal: Option<i32>, core: bool) -> Option<(Style, String)> {
    match (signal, exit_code) {
        (Some(signal), _) => {
            let core = if core { ", core" } else { "" };
            let name = signal_name(signal);
            let space = if name.is_empty() { "" } else { " " };
            Some((Style::Bad, format!("killed ({signal}){space}{name}{core}")))
        }
        (None, Some(0)) => Some((Style::Good, "exit 0".to_owned())),
        (None, Some(code)) => Some((Style::Warn, format!("exit {code}"))),
        (None, None) => None,
    }
}

fn signal_name(signal: i32) -> String {
    match Signal::try_from(signal) {
        Ok(signal) => signal.as_str().to_owned(),
        Err(_) if (34..=64).contains(&signal) => format!("SIGRTMIN+{}", signal - 34),
        Err(_) => String::new(),
    }
}

/// `4 commands, none lost`. `known`, `possible`: what gaps that name only this session add up to, and all gaps.
#[must_use]
pub fn commands_and_loss(session: &v1::Session, known: u64, possible: u64) -> Vec<(Style, String)> {
    let commands = count(session.commands, "command");
    let ended = session.ended.unwrap_or_default();
    let known = known.max(ended.lost());
    let possible = possible.max(lost(session));
    let mut words = vec![(Style::Plain, commands)];
    if ended.commands() > session.commands {
        words.push((Style::Warn, format!(" of {} that ran", grouped(ended.commands()))));
    }
    if known > 0 {
        words.push((Style::Bad, format!(", at least {} lost", grouped(known))));
        if possible > known {
            words.push((Style::Warn, format!(", perhaps {}", grouped(possible))));
        }
    } else if possible > 0 {
        // They are missing on the node while this session was open: whose they were nobody can tell.
        words.push((Style::Bad, format!(", {} may be lost", grouped(possible))));
    } else if ended.commands() <= session.commands {
        words.push((Style::Good, ", none lost".to_owned()));
    }
    words
}

/// What is lost of a session or may be, by the kernel's count or the log's.
#[must_use]
pub fn lost(session: &v1::Session) -> u64 {
    session.lost.max(session.ended.as_ref().and_then(|ended| ended.lost).unwrap_or_default())
}

/// `12 events missing here: …`
#[must_use]
pub fn gap(gap: &v1::Gap) -> String {
    let mut text = match (gap.count, gap.exact) {
        (None | Some(0), _) => "events may be missing here".to_owned(),
        (Some(n), Some(true)) => format!("{} missing here", count(n, "event")),
        (Some(n), _) => format!("at least {} missing here", count(n, "event")),
    };
    let source = match GapSource::try_from(gap.source.unwrap_or_default()) {
        Ok(GapSource::KernelRing) => "the ring between kernel and agent was full",
        Ok(GapSource::KernelTable) => "a table in the kernel was full",
        Ok(GapSource::KernelRecursion) => "the kernel skipped a hook",
        Ok(GapSource::AgentDecode) => "the agent could not read them",
        Ok(GapSource::AgentBuffer) => "the agent's buffer was full",
        Ok(GapSource::CollectorSequence) => "the collector did not get these numbers",
        Ok(GapSource::CollectorStore) => "the collector's log cannot read them",
        Ok(GapSource::HooksAbsent) => "nothing was hooked in the kernel",
        Ok(GapSource::RuntimeEvents) => "the container runtime's events were not heard",
        Ok(GapSource::SessionBudget) => "the session filled more than its share of the ring",
        Ok(GapSource::AgentSpool) => "the agent's spool cannot read them",
        Ok(GapSource::Retention) => "dropped from the collector's log by age or size",
        Ok(GapSource::Audit) => "audit of the API server could not be read",
        Ok(GapSource::NodeProblemDetector) => "the node's problem detector told of no more",
        Ok(GapSource::Kubernetes) => "the Kubernetes API could not be read without a hole",
        Ok(GapSource::Unspecified) | Err(_) => "reason not told",
    };
    text.push_str(": ");
    text.push_str(source);
    if !gap.detail.is_empty() {
        text.push_str(" (");
        text.push_str(&escape::prose(&gap.detail));
        text.push(')');
    }
    if let (Some(from), Some(to)) = (time::moment(gap.from.as_ref()), time::moment(gap.to.as_ref())) {
        text.push_str(&format!(", {} → {}", time::clock_ms(from), time::clock_ms(to)));
    }
    text.push_str(match gap.session_ids.len() {
        0 => "; from any session open then",
        1 => "",
        _ => "; from this or other sessions",
    });
    text
}

/// `nsenter (pid 812) joined the mount and pid namespaces of prod/payments-0/app`
#[must_use]
pub fn joined(joined: &v1::NamespaceJoined, container: Option<&v1::Container>) -> String {
    let who = joined.process.as_ref().map_or_else(String::new, process);
    let namespaces = joined.namespaces.unwrap_or_default();
    let named: Vec<&str> = [
        ("mount", namespaces.mount),
        ("pid", namespaces.pid),
        ("user", namespaces.user),
        ("network", namespaces.network),
    ]
    .into_iter()
    .filter_map(|(name, inode)| (inode != 0).then_some(name))
    .collect();
    let which = match named.as_slice() {
        [] => "namespaces".to_owned(),
        [one] => format!("the {one} namespace"),
        [first @ .., last] => format!("the {} and {last} namespaces", first.join(", ")),
    };
    let path = if joined.path.is_empty() {
        String::new()
    } else {
        format!(" [{}]", escape::word(joined.path.as_bytes()))
    };
    let whose =
        container.map_or_else(|| "a container not known".to_owned(), |container| place(Some(container)));
    format!("{who}{path} joined {which} of {whose}").trim_start().to_owned()
}

/// `nsenter (pid 812)`
#[must_use]
pub fn process(process: &v1::Process) -> String {
    if process.comm.is_empty() {
        format!("pid {}", process.pid)
    } else {
        format!("{} (pid {})", escape::word(process.comm.as_bytes()), process.pid)
    }
}

/// argv as one line. Where it is cut, a bare `…` stands in its place.
#[must_use]
pub fn command_line(executed: &v1::Executed) -> String {
    let cut = executed.truncated().then_some(executed.argv_cut_index as usize);
    arguments(&executed.argv, &executed.argv_raw, cut)
}

/// An exec that failed: the command, and why.
#[must_use]
pub fn exec_failed(failed: &v1::ExecFailed) -> String {
    let v1::ExecFailed { path, path_raw, argv, argv_raw, error, attempts, .. } = failed;
    let mut text = arguments(argv, argv_raw, failed.truncated().then_some(argv.len()));
    let path = exact(path, path_raw);
    let first = argv_raw.first().map(AsRef::as_ref).or(argv.first().map(String::as_bytes));
    if first != Some(path) {
        text += &format!(" ({})", escape::word(path));
    }
    let why = match (attempts, Errno::from_raw(failed.errno())) {
        (Some(places @ 2..), _) => format!("not found in {places} places"),
        (_, Errno::UnknownErrno) => format!("error {}", failed.errno()),
        (_, errno) => format!("{}, {}", errno.desc(), escape::name(error)),
    };
    format!("{text}: {why}")
}

/// `cut`: at this one something is missing.
fn arguments(argv: &[String], argv_raw: &[Bytes], cut: Option<usize>) -> String {
    let raw = argv_raw.iter().map(AsRef::as_ref);
    let text = argv.iter().map(String::as_bytes);
    let mut line = String::new();
    let mut push = |at: usize, arg: &[u8]| {
        if at > 0 {
            line.push(' ');
        }
        if cut == Some(at) {
            line.push_str("… ");
        }
        escape::push_word(&mut line, arg);
    };
    if argv_raw.len() == argv.len() {
        raw.enumerate().for_each(|(at, arg)| push(at, arg));
    } else {
        text.enumerate().for_each(|(at, arg)| push(at, arg));
    }
    if cut.is_some_and(|cut| cut >= argv.len()) {
        line.push_str(" …");
    }
    if line.is_empty() {
        line.push_str("(no arguments)");
    }
    line
}

/// A path, by its exact bytes where there are some.
#[must_use]
pub fn exact<'e>(text: &'e str, raw: &'e [u8]) -> &'e [u8] {
    if raw.is_empty() { text.as_bytes() } else { raw }
}

/// `1 command`, `12,000 commands`
#[must_use]
pub fn count(n: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(n), if n == 1 { "" } else { "s" })
}

/// `12,000`
#[must_use]
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `64 KiB`, `1.2 MiB`
#[must_use]
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut unit = "B";
    let mut tenths = u128::from(n) * 10;
    for larger in UNITS {
        if tenths < 10_240 {
            break;
        }
        unit = larger;
        tenths /= 1024;
    }
    if tenths.is_multiple_of(10) {
        format!("{} {unit}", tenths / 10)
    } else {
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes() {
        let text = |code, signal, core| outcome(code, signal, core).map(|(_, text)| text);
        assert_eq!(text(Some(7), None, false).as_deref(), Some("exit 7"));
        assert_eq!(text(None, Some(9), false).as_deref(), Some("killed (9) SIGKILL"));
        assert_eq!(text(None, Some(11), true).as_deref(), Some("killed (11) SIGSEGV, core"));
        assert_eq!(text(None, Some(35), false).as_deref(), Some("killed (35) SIGRTMIN+1"));
        assert_eq!(text(None, Some(-1), false).as_deref(), Some("killed (-1)"));
        assert_eq!(text(None, None, false), None);
    }

    #[test]
    fn quantities() {
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(64 * 1024), "64 KiB");
        assert_eq!(bytes(1_258_292), "1.2 MiB");
        assert_eq!(bytes(u64::MAX), "15.9 EiB");
        assert_eq!(count(1, "event"), "1 event");
    }

    #[test]
    fn arguments_are_shown_to_the_byte() {
        let executed = v1::Executed {
            argv: vec!["sh".to_owned(), "\u{fffd}".to_owned(), String::new()],
            argv_raw: vec!["sh".into(), b"\xff"[..].into(), "".into()],
            ..Default::default()
        };
        assert_eq!(command_line(&executed), r"sh $'\xff' ''");
    }

    #[test]
    fn a_cut_stands_where_it_is() {
        let executed = v1::Executed {
            argv: ["tar", "aa", "zz", "…"].map(str::to_owned).to_vec(),
            truncated: Some(true),
            argv_cut_index: 2,
            ..Default::default()
        };
        assert_eq!(command_line(&executed), "tar aa … zz '…'");
    }

    #[test]
    fn labels_and_names_are_escaped() {
        let container = v1::Container {
            name: "a\x1b[2J".to_owned(),
            pod: Some(v1::Pod { namespace: "n s".to_owned(), name: "p".to_owned(), ..Default::default() }),
            ..Default::default()
        };
        assert_eq!(place(Some(&container)), r"'n s'/p/$'a\x1b[2J'");
    }
}
