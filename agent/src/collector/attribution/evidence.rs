//! What a verdict rests on, in words. No user's name is among them: who may not see users may see evidence.

use std::collections::BTreeSet;

use podtrail_proto::v1::Verdict;

use super::{
    engine::Engine,
    fit::{self, Command},
    request::Request,
    session::Session,
    verdict::{length, text},
};
use crate::trail::log::Cursor;

/// KEP-6035: it came through the kubelet, whose caller gave no id.
pub(super) const UNKNOWN_ID: &str = "unknown";

impl Engine {
    /// Of what several requests and sessions may be.
    pub(super) fn evidence(
        &self,
        session: &Session,
        verdict: Verdict,
        candidates: &[&Request],
        (sessions, all): (usize, usize),
        told_apart: bool,
    ) -> Vec<String> {
        let mut evidence = Vec::new();
        match (verdict, candidates) {
            (Verdict::Matched, [_]) if sessions == 1 && all == 1 => {
                evidence.push("one request fits, and no other".to_owned());
            }
            (Verdict::Matched, [_]) => evidence.push(format!(
                "{sessions} sessions and {} are alike, and go together in one way only",
                requests(all)
            )),
            (Verdict::Matched, several) => evidence
                .push(format!("{} fit, all of the same user from the same address", requests(several.len()))),
            (_, [_]) if session.argv.is_none() => {
                evidence.push("one request fits, but what the session ran first is not known".to_owned());
            }
            (_, [_]) => evidence.push(format!("one request fits, to each of {sessions} sessions")),
            (_, several) => evidence.push(format!("{} fit", requests(several.len()))),
        }
        evidence.extend(self.alike(session, candidates));
        if told_apart {
            evidence.push("told apart by when they ended".to_owned());
        }
        evidence.extend(self.about_id(session));
        evidence
    }

    /// In what a session and its requests are equal.
    pub(super) fn alike(&self, session: &Session, candidates: &[&Request]) -> Vec<String> {
        let mut evidence = Vec::new();
        let [request, ..] = candidates else { return evidence };
        let command = session
            .argv
            .as_ref()
            .and_then(|argv| fit::command(&self.settings, argv, &request.command, request.truncated));
        let command = match command {
            Some(Command::Same) => ", and command are equal",
            Some(Command::SameButCut) => " are equal, and as much of the command as was recorded",
            Some(Command::Prefixed) => ", and command are equal, behind what a webhook put before it",
            Some(Command::Script) => ", and command are equal: a script, behind its interpreter",
            None => " are equal",
        };
        let container = if request.container.is_empty() { "" } else { ", container" };
        let tty = if session.terminal.is_some() { ", terminal" } else { "" };
        evidence.push(format!("namespace, pod{container}{tty}{command}"));
        if request.container.is_empty() {
            evidence.push("the request names no container: the pod's default".to_owned());
        }
        if let [request] = candidates {
            let wait = session.entered.0.saturating_sub(request.begin().0);
            evidence.push(format!("entered {} after the API server's answer", length(wait)));
            if request.proxied {
                evidence.push("by way of the proxy of a node or a pod".to_owned());
            }
            if let Some((end, complete)) = session.root_end.or(session.end).zip(request.complete) {
                let drain = complete.0.saturating_sub(end.0);
                evidence.push(format!("the response was complete {} after its end", length(drain)));
            }
        }
        evidence
    }

    /// What is to be said of the id in its environment, where that is not the proof.
    pub(super) fn about_id(&self, session: &Session) -> Option<String> {
        let id = match session.audit_id.as_str() {
            "" => return None,
            UNKNOWN_ID => {
                return Some(
                    "KUBERNETES_EXEC_AUDIT_ID of the root is \"unknown\": it came through the kubelet's API, from a caller that gave no id"
                        .to_owned(),
                );
            }
            id => id,
        };
        let key = (session.key.cluster.clone(), id.to_owned());
        let of = |set: Option<&BTreeSet<Cursor>>| set.map_or(0, BTreeSet::len);
        let (with, carriers) = (of(self.requests_by_id.get(&key)), of(self.sessions_by_id.get(&key)));
        let id = text(id);
        let why = match (with, carriers) {
            (0, _) => "which no request has".to_owned(),
            (1, 1) => "but the request with that id does not fit".to_owned(),
            (1, _) => format!("which {carriers} sessions have, so that it proves nothing"),
            _ => format!("which {with} requests have, so that it proves nothing"),
        };
        Some(format!("KUBERNETES_EXEC_AUDIT_ID of the root is {id}, {why}"))
    }
}

pub(super) fn requests(n: usize) -> String {
    if n == 1 { "1 request".to_owned() } else { format!("{n} requests") }
}
