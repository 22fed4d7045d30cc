//! What a report may say.

use podtrail_proto::v1::{self, EntryMethod, event::Body};
use tonic::Status;

use crate::{
    collector::log::NodeEpoch,
    tls::{Identity, Peer},
};

/// Events in one request, and ranges that are gone.
pub(super) const MAX_EVENTS: usize = 10_000;
/// Longest name of a cluster or node (a DNS name), and of a session.
const MAX_NAME: usize = 253;
/// Highest number of an event: sums of a few never overflow.
const MAX_SEQ: u64 = u64::MAX / 4;
/// Years 1 to 9999, which is what a protobuf timestamp may say.
const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// Why a report is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReportError {
    #[error("the first request of a stream must carry hello")]
    NoHello,
    #[error("hello was said already: open another stream for another node or epoch")]
    SecondHello,
    #[error("hello names no node, or a name is longer than {MAX_NAME} bytes or has control characters in it")]
    BadHello,
    #[error("{peer} may not report as node {node} of cluster {cluster}: its certificate does not name that")]
    NotYours { peer: Identity, cluster: String, node: String },
    #[error("{0} events in one request: at most {MAX_EVENTS}")]
    TooMany(usize),
    #[error("event {0} of the request has no id, or seq 0")]
    NoId(usize),
    #[error("event {at} is of node {found:?}, but the stream said hello for {expected:?}")]
    Foreign { at: usize, found: String, expected: String },
    #[error("event {at} has seq {seq} after {before}: events must be in ascending order of seq")]
    Order { at: usize, seq: u64, before: u64 },
    #[error("event {0} has no time, or one that is no time")]
    BadTime(usize),
    #[error("event {0} has a session id longer than {MAX_NAME} bytes")]
    LongSession(usize),
    #[error("event {at} has seq {seq}: there are none above {MAX_SEQ}")]
    Seq { at: usize, seq: u64 },
    #[error("event {at} says {what}, which the collector alone finds out")]
    Presumes { at: usize, what: &'static str },
    #[error("what is said to be gone is no ascending list of ranges, or they are more than {MAX_EVENTS}")]
    BadGone,
}

impl ReportError {
    /// For the metric.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::NoHello | Self::SecondHello | Self::BadHello => "hello",
            Self::NotYours { .. } => "foreign_node",
            Self::TooMany(_) => "too_many",
            Self::NoId(_) => "no_id",
            Self::Foreign { .. } => "foreign",
            Self::Order { .. } => "order",
            Self::BadTime(_) => "time",
            Self::LongSession(_) => "session",
            Self::Seq { .. } => "seq",
            Self::Presumes { .. } => "presumes",
            Self::BadGone => "gone",
        }
    }

    pub(super) fn status(&self) -> Status {
        let message = self.to_string();
        match self {
            Self::NotYours { .. } => Status::permission_denied(message),
            _ => Status::invalid_argument(message),
        }
    }
}

pub(super) fn hello(hello: Option<v1::Hello>) -> Result<NodeEpoch, ReportError> {
    let v1::Hello { cluster, node, epoch, agent_version: _, boot_id: _ } =
        hello.ok_or(ReportError::NoHello)?;
    let good = |name: &str| name.len() <= MAX_NAME && !name.chars().any(char::is_control);
    if node.is_empty() || !good(&node) || !good(&cluster) {
        return Err(ReportError::BadHello);
    }
    Ok(NodeEpoch { cluster, node, epoch })
}

/// Nobody speaks for a node but that node.
pub(super) fn may_report(peer: &Peer, node: NodeEpoch) -> Result<NodeEpoch, ReportError> {
    if peer.may_report_as(&node.cluster, &node.node) {
        return Ok(node);
    }
    let NodeEpoch { cluster, node, epoch: _ } = node;
    Err(ReportError::NotYours { peer: peer.identity.clone(), cluster, node })
}

pub(super) fn events(expected: &NodeEpoch, events: &[v1::Event]) -> Result<(), ReportError> {
    if events.len() > MAX_EVENTS {
        return Err(ReportError::TooMany(events.len()));
    }
    let mut before = 0;
    for (at, event) in events.iter().enumerate() {
        let Some(v1::EventId { cluster, node, epoch, seq }) = &event.id else {
            return Err(ReportError::NoId(at));
        };
        let NodeEpoch { cluster: c, node: n, epoch: e } = expected;
        if (cluster, node, epoch) != (c, n, e) {
            let found = cut(&format!("{cluster}/{node}/{epoch}"));
            return Err(ReportError::Foreign { at, found, expected: format!("{c}/{n}/{e}") });
        }
        match *seq {
            0 => return Err(ReportError::NoId(at)),
            seq if seq <= before => return Err(ReportError::Order { at, seq, before }),
            seq if seq > MAX_SEQ => return Err(ReportError::Seq { at, seq }),
            seq => before = seq,
        }
        let time = event.time.as_ref().filter(|t| SECONDS.contains(&t.seconds));
        if !time.is_some_and(|t| (0..1_000_000_000).contains(&t.nanos)) {
            return Err(ReportError::BadTime(at));
        }
        if event.session_id.len() > MAX_NAME {
            return Err(ReportError::LongSession(at));
        }
        if let Some(what) = presumes(event) {
            return Err(ReportError::Presumes { at, what });
        }
    }
    Ok(())
}

/// What no agent can know: persons, and requests to the API server. A node that could say it could write anybody's name.
fn presumes(event: &v1::Event) -> Option<&'static str> {
    if event.attribution.is_some() {
        return Some("whose session it is");
    }
    match &event.body {
        Some(Body::ApiRequest(_)) => Some("what the API server was asked"),
        Some(Body::NodeCondition(_) | Body::NodeState(_)) => {
            Some("how its node is, and not what its detector told it")
        }
        Some(Body::ClusterEvent(_)) => Some("what the Kubernetes API has for Events"),
        Some(Body::Attributed(attributed)) => {
            let v1::Attributed {
                container: _,
                user,
                evidence: _,
                verdict,
                candidates,
                impersonated,
                audit_id,
                source_ips,
                user_agent,
                method: _,
                exec_id: _,
                exit_code: _,
            } = attributed;
            let person = user.is_some()
                || verdict.is_some()
                || impersonated.is_some()
                || !(candidates.is_empty() && audit_id.is_empty())
                || !(source_ips.is_empty() && user_agent.is_empty());
            person.then_some("who is behind a session")
        }
        Some(Body::SessionStarted(started))
            if matches!(started.method(), EntryMethod::Attach | EntryMethod::PortForward) =>
        {
            Some("that somebody attached or forwarded ports")
        }
        _ => None,
    }
}

/// Short enough for an error message.
fn cut(name: &str) -> String {
    name.get(..name.floor_char_boundary(MAX_NAME)).unwrap_or_default().to_owned()
}

/// What a stream said is gone, and is not in the log as a gap yet: ascending by `first`.
#[derive(Debug, Default)]
pub(super) struct Gone(Vec<v1::SeqRange>);

impl Gone {
    pub(super) fn ranges(&self) -> &[v1::SeqRange] {
        &self.0
    }

    /// Adds what one request says.
    pub(super) fn and(mut self, more: Vec<v1::SeqRange>) -> Result<Self, ReportError> {
        if more.is_empty() {
            return Ok(self);
        }
        let mut before = 0;
        for &v1::SeqRange { first, last } in &more {
            if first <= before || last < first {
                return Err(ReportError::BadGone);
            }
            before = last;
        }
        self.0.extend(more);
        // An agent that begins again after a hole says the same again.
        self.0.sort_unstable_by_key(|range| (range.first, range.last));
        self.0.dedup();
        if self.0.len() > MAX_EVENTS {
            return Err(ReportError::BadGone);
        }
        Ok(self)
    }

    /// All up to `acked` is in the log.
    pub(super) fn forget(&mut self, acked: u64) {
        self.0.retain(|range| range.last > acked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_says_nothing_of_persons() {
        let node = NodeEpoch { cluster: "c".to_owned(), node: "n".to_owned(), epoch: 1 };
        let event = |body| v1::Event {
            id: Some(v1::EventId { cluster: "c".to_owned(), node: "n".to_owned(), epoch: 1, seq: 1 }),
            time: Some(podtrail_proto::Timestamp { seconds: 1, nanos: 0 }),
            session_id: "s".to_owned(),
            body: Some(body),
            ..v1::Event::default()
        };
        let refused = |event: v1::Event| {
            let e = events(&node, &[event]).unwrap_err();
            assert_eq!((e.reason(), e.status().code()), ("presumes", tonic::Code::InvalidArgument));
            e.to_string()
        };
        let who = "event 0 says who is behind a session, which the collector alone finds out";
        let user = Some(v1::User { name: "alice".to_owned(), ..v1::User::default() });
        let none = v1::Attributed::default;
        for attributed in [
            v1::Attributed { user: user.clone(), ..none() },
            v1::Attributed { impersonated: user.clone(), ..none() },
            v1::Attributed { verdict: Some(v1::Verdict::ExactId.into()), ..none() },
            v1::Attributed { verdict: Some(v1::Verdict::Unspecified.into()), ..none() },
            v1::Attributed { candidates: vec![v1::Candidate::default()], ..none() },
            v1::Attributed { audit_id: "x".to_owned(), ..none() },
            v1::Attributed { source_ips: vec!["192.0.2.1".to_owned()], ..none() },
            v1::Attributed { user_agent: "kubectl".to_owned(), ..none() },
        ] {
            assert_eq!(refused(event(Body::Attributed(attributed))), who);
        }
        let asked = "event 0 says what the API server was asked, which the collector alone finds out";
        assert_eq!(refused(event(Body::ApiRequest(v1::ApiRequest::default()))), asked);
        for body in [
            Body::NodeCondition(v1::NodeCondition::default()),
            Body::NodeState(v1::NodeState::default()),
            Body::ClusterEvent(v1::ClusterEvent::default()),
        ] {
            assert!(refused(event(body)).ends_with(", which the collector alone finds out"));
        }
        let observed = Body::NodeObserved(v1::NodeObserved::default());
        assert!(events(&node, &[event(observed)]).is_ok(), "what it was told itself");
        for method in [EntryMethod::Attach, EntryMethod::PortForward] {
            let started = v1::SessionStarted { method: Some(method.into()), ..Default::default() };
            assert!(refused(event(Body::SessionStarted(started))).contains("attached or forwarded ports"));
        }
        let ended = Body::SessionEnded(v1::SessionEnded::default());
        let attribution = Some(v1::Attribution { user, ..v1::Attribution::default() });
        let said = refused(v1::Event { attribution, ..event(ended.clone()) });
        assert!(said.contains("whose session it is"), "{said}");
        // What it knows of the container it may say, also later.
        let container = Some(v1::Container { name: "app".to_owned(), ..v1::Container::default() });
        let method = Some(EntryMethod::ExecProbe.into());
        let own = v1::Attributed { container, method, evidence: vec!["e".to_owned()], ..none() };
        assert!(events(&node, &[event(Body::Attributed(own))]).is_ok());
        assert!(events(&node, &[event(ended)]).is_ok());
    }
}
