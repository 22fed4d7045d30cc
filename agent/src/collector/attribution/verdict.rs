//! What is concluded of a session, as a message.

use std::collections::BTreeSet;

use podtrail_proto::v1::{self, EntryMethod, Verdict, event::Body};

use super::{
    request::{Request, Who},
    session::Session,
};
use crate::trail::Moment;

/// Candidates that are listed; the evidence tells how many there are.
const MAX_CANDIDATES: usize = 16;
/// Longest text from outside in a line of evidence.
const MAX_TEXT: usize = 128;

/// What was said of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub verdict: Verdict,
    /// of EXACT_ID and MATCHED: whom it named
    pub who: Option<Who>,
    /// the audit ids it listed
    pub candidates: BTreeSet<String>,
    /// how often something was said
    pub times: u32,
}

/// How sure it is: what is surer goes before what is less so.
#[must_use]
pub fn rank(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Unspecified => 0,
        Verdict::None => 1,
        Verdict::NodeLocal => 2,
        Verdict::Ambiguous => 3,
        Verdict::Matched => 4,
        Verdict::ExactId => 5,
    }
}

/// What is to be said.
#[derive(Clone, Debug, PartialEq)]
pub struct Conclusion {
    pub verdict: Verdict,
    pub evidence: Vec<String>,
    /// of EXACT_ID and MATCHED, the one it was; several where they are all of the same person
    pub requests: Vec<Request>,
}

impl Conclusion {
    pub fn new(verdict: Verdict, evidence: impl IntoIterator<Item = String>, requests: &[&Request]) -> Self {
        let requests = requests.iter().map(|request| (*request).clone()).collect();
        Self { verdict, evidence: evidence.into_iter().collect(), requests }
    }

    #[must_use]
    pub fn names_somebody(&self) -> bool {
        matches!(self.verdict, Verdict::ExactId | Verdict::Matched)
    }

    /// The same, to be remembered.
    #[must_use]
    pub fn said(&self, before: Option<&Said>) -> Said {
        Said {
            verdict: self.verdict,
            who: self.requests.first().filter(|_| self.names_somebody()).map(Request::who),
            candidates: self
                .requests
                .iter()
                .take(MAX_CANDIDATES)
                .map(|request| request.key.audit_id.clone())
                .collect(),
            times: before.map_or(0, |before| before.times).saturating_add(1),
        }
    }

    /// The body for the log. `method`: what the session was taken for.
    #[must_use]
    pub fn message(&self, method: EntryMethod, terminal: Option<bool>) -> v1::Attributed {
        let Self { verdict, evidence, requests } = self;
        let one = requests.first().filter(|_| self.names_somebody());
        let alone = one.filter(|_| requests.len() == 1);
        let doubted =
            matches!(method, EntryMethod::Unknown | EntryMethod::ExecProbe | EntryMethod::LifecycleHook);
        // Neither the kubelet's probes and hooks come through the API server, nor do they have a terminal.
        let overruled = doubted && (one.is_some() || terminal == Some(true));
        let mut evidence = evidence.clone();
        let listed = if alone.is_some() { &[] } else { requests.as_slice() };
        if listed.len() > MAX_CANDIDATES {
            evidence.push(format!("only {MAX_CANDIDATES} of {} are listed", listed.len()));
        }
        v1::Attributed {
            user: one.and_then(|request| request.user.clone()),
            impersonated: one.and_then(|request| request.impersonated.clone()),
            evidence,
            verdict: Some((*verdict).into()),
            candidates: listed.iter().take(MAX_CANDIDATES).map(candidate).collect(),
            audit_id: alone.map(|request| request.key.audit_id.clone()).unwrap_or_default(),
            source_ips: one.map(|request| request.source_ips.clone()).unwrap_or_default(),
            user_agent: one.map(|request| request.user_agent.clone()).unwrap_or_default(),
            method: overruled.then(|| EntryMethod::RuntimeExec.into()),
            ..v1::Attributed::default()
        }
    }
}

fn candidate(request: &Request) -> v1::Candidate {
    v1::Candidate {
        user: request.user.clone(),
        impersonated: request.impersonated.clone(),
        audit_id: request.key.audit_id.clone(),
        received: Some(request.key.received.timestamp()),
        evidence: vec![match request.complete {
            Some(complete) => {
                format!(
                    "answered, and complete {} later",
                    length(complete.0.saturating_sub(request.begin().0))
                )
            }
            None => "answered; its end is not known yet".to_owned(),
        }],
    }
}

/// Says it of a session, as an event for the log.
#[must_use]
pub fn event(session: &Session, conclusion: &Conclusion, now: Moment) -> v1::Event {
    let message = conclusion.message(session.method, session.terminal);
    let super::session::SessionKey { cluster, node, id } = &session.key;
    v1::Event {
        id: Some(v1::EventId { cluster: cluster.clone(), node: node.clone(), epoch: 0, seq: 0 }),
        time: Some(now.timestamp()),
        container: session.container.clone(),
        session_id: id.clone(),
        body: Some(Body::Attributed(message)),
        ..v1::Event::default()
    }
}

/// What was said in an event of the log; `None`: nothing of persons.
#[must_use]
pub fn read(attributed: &v1::Attributed, before: Option<&Said>) -> Option<Said> {
    attributed.verdict?;
    let verdict = attributed.verdict();
    let identity =
        |user: Option<&v1::User>| user.map(|u| (u.name.clone(), u.uid.clone())).unwrap_or_default();
    let named = matches!(verdict, Verdict::ExactId | Verdict::Matched);
    let ids = attributed.candidates.iter().map(|candidate| candidate.audit_id.clone());
    let alone = Some(attributed.audit_id.clone()).filter(|id| !id.is_empty());
    Some(Said {
        verdict,
        who: named.then(|| {
            Who::new(
                identity(attributed.user.as_ref()),
                identity(attributed.impersonated.as_ref()),
                attributed.source_ips.last().cloned().unwrap_or_default(),
            )
        }),
        candidates: ids.chain(alone).collect(),
        times: before.map_or(0, |before| before.times).saturating_add(1),
    })
}

/// `12 ms`, `3.5 s`
#[must_use]
pub fn length(nanos: i64) -> String {
    let ms = nanos / 1_000_000;
    match ms.unsigned_abs() {
        0..1000 => format!("{ms} ms"),
        _ => format!("{}.{} s", ms / 1000, ms.unsigned_abs() % 1000 / 100),
    }
}

/// A text from outside, short enough for a line.
#[must_use]
pub fn text(text: &str) -> String {
    let cut = text.floor_char_boundary(MAX_TEXT);
    text.get(..cut).unwrap_or_default().to_owned()
}
