//! An event as a syslog message (RFC 5424): what a receiver sorts by in the header, the event as JSON in the text.
//!
//! ```text
//! <110>1 2026-11-23T10:45:00.123456Z node-3 podtrail - Executed [podtrail@32473 cursor="…" …] {"id":…}
//! ```
//! Facility 13 (log audit). Severity: 4 (warning) for gaps and for a node that is silent or disturbed, 5 (notice) for
//! sessions and agents that begin or end, 6 (informational) for the rest. Private enterprise number 32473 is the one
//! that is reserved for use without one of one's own (RFC 5612).

use podtrail_proto::v1::{self, agent_state::Phase, event::Body};

use super::file::unwritable;
use crate::{
    condition::{Health, health},
    json,
    trail::Moment,
};

const AUDIT: u8 = 13;
/// Longest host name in a header.
const HOST_MAX: usize = 255;

/// Appends the message, framed by its length (RFC 6587, 3.4.1). One that is longer than `most` has its arguments cut
/// until it fits, and says so by `cut`; one without arguments that is longer is sent as it is.
pub fn push(out: &mut Vec<u8>, event: &v1::Event, cursor: &str, most: usize) {
    let message = whole(event, cursor, false);
    let message = if message.len() > most { cut(event, cursor, most).unwrap_or(message) } else { message };
    out.extend_from_slice(message.len().to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(&message);
}

fn whole(event: &v1::Event, cursor: &str, cut: bool) -> Vec<u8> {
    let (kind, severity) = kind(event);
    let id = event.id.as_ref();
    let node = id.map(|id| id.node.as_str()).unwrap_or_default();
    let mut out = format!(
        "<{}>1 {} {} podtrail - {kind} [podtrail@32473 cursor=\"{}\"",
        AUDIT * 8 + severity,
        time(event),
        host(node),
        parameter(cursor)
    );
    if let Some(v1::EventId { cluster, node: _, epoch, seq }) = id {
        out.push_str(&format!(" cluster=\"{}\" epoch=\"{epoch}\" seq=\"{seq}\"", parameter(cluster)));
    }
    if !event.session_id.is_empty() {
        out.push_str(&format!(" session=\"{}\"", parameter(&event.session_id)));
    }
    out.push_str(if cut { " cut=\"argv\"] " } else { "] " });
    let mut out = out.into_bytes();
    if let Err(error) = json::push(&mut out, event)
        && json::push(&mut out, &unwritable(event, &error)).is_err()
    {
        out.extend_from_slice(b"{}\n");
    }
    out.pop(); // the newline
    out
}

/// The same with as many arguments as fit; `None`: there are none to leave out.
fn cut(event: &v1::Event, cursor: &str, most: usize) -> Option<Vec<u8>> {
    let mut event = event.clone();
    loop {
        let Some(Body::Executed(executed)) = &mut event.body else { return None };
        let count = executed.argv.len();
        if count > 1 || !executed.argv_raw.is_empty() {
            executed.argv.truncate(count / 2);
            executed.argv_raw.clear();
        } else {
            let first = executed.argv.first_mut().filter(|first| first.len() > 64)?;
            first.truncate(first.floor_char_boundary(first.len() / 2));
        }
        executed.truncated = Some(true);
        let message = whole(&event, cursor, true);
        if message.len() <= most {
            return Some(message);
        }
    }
}

fn kind(event: &v1::Event) -> (&'static str, u8) {
    match &event.body {
        Some(Body::SessionStarted(_)) => ("SessionStarted", 5),
        Some(Body::Executed(_)) => ("Executed", 6),
        Some(Body::ExecFailed(_)) => ("ExecFailed", 5),
        Some(Body::Exited(_)) => ("Exited", 6),
        Some(Body::NamespaceJoined(_)) => ("NamespaceJoined", 5),
        Some(Body::SessionEnded(_)) => ("SessionEnded", 5),
        Some(Body::Attributed(_)) => ("Attributed", 6),
        Some(Body::Gap(_)) => ("Gap", 4),
        Some(Body::NodeCondition(condition)) => {
            let bad = health(&condition.r#type, &condition.status) == Health::Bad;
            ("NodeCondition", if bad { 4 } else { 5 })
        }
        Some(Body::NodeState(_)) => ("NodeState", 6),
        Some(Body::NodeObserved(_)) => ("NodeObserved", 6),
        Some(Body::ClusterEvent(event)) => ("ClusterEvent", if event.r#type == "Warning" { 4 } else { 6 }),
        Some(Body::AgentState(state)) => match state.phase() {
            Phase::Silent | Phase::Integrity => ("AgentState", 4),
            Phase::Unspecified | Phase::Started | Phase::Stopped | Phase::Upgraded | Phase::Returned => {
                ("AgentState", 5)
            }
        },
        Some(Body::ApiRequest(_)) => ("ApiRequest", 5),
        Some(Body::Folded(_)) => ("Folded", 6),
        None => ("-", 6),
    }
}

fn time(event: &v1::Event) -> String {
    let moment = event.time.as_ref().map(Moment::from_timestamp);
    let time = moment.and_then(|moment| jiff::Timestamp::from_nanosecond(moment.0.into()).ok());
    // Microseconds are the most that a header may have.
    time.map_or_else(|| "-".to_owned(), |time| time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string())
}

fn host(name: &str) -> String {
    let plain: String =
        name.chars().take(HOST_MAX).map(|c| if c.is_ascii_graphic() { c } else { '_' }).collect();
    if plain.is_empty() { "-".to_owned() } else { plain }
}

/// The value of a parameter: three characters must be escaped, and control characters have no place in it.
fn parameter(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        if matches!(c, '"' | '\\' | ']') {
            out.push('\\');
        }
        out.push(if crate::escape::is_plain(c) { c } else { '_' });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trail::testing::{self, executed, exited};

    fn text(event: &v1::Event, most: usize) -> String {
        let mut out = Vec::new();
        push(&mut out, event, "7-9f3c2a71", most);
        let text = String::from_utf8(out).unwrap();
        let (length, message) = text.split_once(' ').unwrap();
        assert_eq!(length.parse::<usize>().unwrap(), message.len());
        message.to_owned()
    }

    #[test]
    fn a_command() {
        let event =
            testing::event("node-3", 9, 1_700_000_000, "s1", executed(&["/bin/cat", "/etc/passwd"], true));
        let json = serde_json::to_string(&event).unwrap();
        assert_eq!(
            text(&event, 65_536),
            format!(
                "<110>1 2023-11-14T22:13:20.000000Z node-3 podtrail - Executed [podtrail@32473 cursor=\"7-9f3c2a71\" \
                 cluster=\"c\" epoch=\"1\" seq=\"9\" session=\"s1\"] {json}"
            )
        );
    }

    #[test]
    fn what_is_missing_is_a_warning() {
        let gap = testing::gap(v1::GapSource::KernelRing, 3, 1, 2, &[]);
        assert!(
            text(&testing::event("n", 1, 2, "", gap), 65_536)
                .starts_with("<108>1 1970-01-01T00:00:02.000000Z n ")
        );
        let state = v1::AgentState { phase: Some(Phase::Silent.into()), ..v1::AgentState::default() };
        let silent = testing::event("n", 1, 2, "", Body::AgentState(state));
        assert!(text(&silent, 65_536).starts_with("<108>1 "));
    }

    #[test]
    fn hostile_names_stay_in_their_places() {
        let mut event = testing::event("a b\u{1b}\n", 1, 1, "x\"] \u{7}\\", exited());
        event.time = None;
        let text = text(&event, 65_536);
        let header = "<110>1 - a_b__ podtrail - Exited [podtrail@32473 cursor=\"7-9f3c2a71\" cluster=\"c\" epoch=\"1\" seq=\"1\"";
        assert!(text.starts_with(&format!("{header} session=\"x\\\"\\] _\\\\\"] {{")), "{text}");
        assert!(!text.chars().any(char::is_control), "{text}");
    }

    #[test]
    fn arguments_are_cut_until_it_fits() {
        let long: Vec<String> = (0..1000).map(|n| format!("argument-{n}")).collect();
        let long: Vec<&str> = long.iter().map(String::as_str).collect();
        let event = testing::event("n", 1, 1, "s", executed(&long, true));
        let cut = text(&event, 2048);
        assert!(cut.len() <= 2048 && cut.contains(" cut=\"argv\"]"), "{cut}");
        let (_, json) = cut.split_once("] ").unwrap();
        let told: v1::Event = serde_json::from_str(json).unwrap();
        let Some(Body::Executed(told)) = told.body else { panic!("{told:?}") };
        assert!(told.argv.len() > 10 && told.argv[..] == long[..told.argv.len()], "{:?}", told.argv);
        assert_eq!(told.truncated, Some(true));
        let one = "ä".repeat(5000);
        let event = testing::event("n", 1, 1, "s", executed(&[&one], true));
        assert!(text(&event, 2048).len() <= 2048);
    }
}
