//! Who is behind a session, in words: short for a column, and in full. Everything that comes from a message is escaped
//! here.

use podtrail_proto::v1::{self, Verdict};

use super::{line::Style, time, words};
use crate::escape;

/// Candidates, and lines of evidence, that are shown; all are in JSON.
const MOST: usize = 16;

/// `alice@example.com`, `alice as bob`, `alice? (1 of 2)`, `node-local`, `-`.
#[must_use]
pub fn short(attributed: Option<&v1::Attributed>) -> (Style, String) {
    let Some(attributed) = attributed else { return (Style::Plain, "-".to_owned()) };
    match attributed.verdict() {
        Verdict::NodeLocal => (Style::Warn, "node-local".to_owned()),
        Verdict::Ambiguous => {
            let first = attributed.candidates.first();
            let name = first.and_then(|c| person(c.user.as_ref(), c.impersonated.as_ref()));
            let of = match attributed.candidates.len() {
                0 | 1 => String::new(),
                n => format!(" (1 of {n})"),
            };
            (Style::Warn, format!("{}?{of}", name.unwrap_or_default()))
        }
        Verdict::ExactId | Verdict::Matched | Verdict::None | Verdict::Unspecified => {
            (Style::Plain, known(attributed.user.as_ref(), attributed.impersonated.as_ref()))
        }
    }
}

/// The same of what stands on an event.
#[must_use]
pub fn on_event(attribution: &v1::Attribution) -> String {
    match attribution.verdict() {
        Verdict::NodeLocal => "node-local".to_owned(),
        Verdict::Ambiguous => "?".to_owned(),
        _ => known(attribution.user.as_ref(), attribution.impersonated.as_ref()),
    }
}

fn known(user: Option<&v1::User>, impersonated: Option<&v1::User>) -> String {
    person(user, impersonated).unwrap_or_else(|| "-".to_owned())
}

fn person(user: Option<&v1::User>, impersonated: Option<&v1::User>) -> Option<String> {
    let user = user.filter(|user| !user.name.is_empty()).map(|user| escape::name(&user.name));
    match (user, impersonated) {
        (Some(user), Some(other)) => Some(format!("{user} as {}", escape::name(&other.name))),
        (user, _) => user,
    }
}

/// What a verdict is called.
#[must_use]
pub fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::ExactId => "exact id",
        Verdict::Matched => "matched",
        Verdict::Ambiguous => "ambiguous",
        Verdict::NodeLocal => "node-local",
        Verdict::None => "none: nobody can say",
        Verdict::Unspecified => "no verdict",
    }
}

/// What an event says of persons, in one line.
#[must_use]
pub fn line(attributed: &v1::Attributed) -> String {
    let mut text = match attributed.verdict() {
        Verdict::ExactId | Verdict::Matched | Verdict::Ambiguous => {
            format!("{}, {}", short(Some(attributed)).1, verdict(attributed.verdict()))
        }
        other => verdict(other).to_owned(),
    };
    if let Some(first) = attributed.evidence.first() {
        text.push_str(&format!(": {}", escape::prose(first)));
    }
    text
}

/// Everything about it: a label, and what stands behind it.
#[must_use]
pub fn lines(attributed: &v1::Attributed) -> Vec<(&'static str, Style, String)> {
    let v1::Attributed { user, candidates, evidence, audit_id, source_ips, user_agent, .. } = attributed;
    let mut lines = Vec::new();
    let sure = attributed.verdict();
    let style =
        if matches!(sure, Verdict::Ambiguous | Verdict::NodeLocal) { Style::Warn } else { Style::Plain };
    let groups = user.as_ref().map(|user| user.groups.as_slice()).unwrap_or_default();
    let name = short(Some(attributed)).1;
    let mut who = if name == "-" { verdict(sure).to_owned() } else { format!("{name}, {}", verdict(sure)) };
    if sure == Verdict::NodeLocal {
        who = name;
    }
    lines.push(("who", style, who));
    if !groups.is_empty() {
        lines.push(("groups", Style::Plain, some(groups.iter().map(|group| escape::name(group)), ", ")));
    }
    let request = |audit_id: &str| if audit_id.is_empty() { "-".to_owned() } else { escape::name(audit_id) };
    if !audit_id.is_empty() {
        lines.push(("request", Style::Plain, request(audit_id)));
    }
    // The API server has seen the last itself; the others are told by whoever forwards.
    if let Some((last, told)) = source_ips.split_last() {
        let mut from = escape::name(last);
        if !told.is_empty() {
            let told = some(told.iter().map(|ip| escape::name(ip)), ", ");
            from.push_str(&format!(", for {told} as it claims"));
        }
        lines.push(("from", Style::Plain, from));
    }
    if !user_agent.is_empty() {
        lines.push(("client", Style::Plain, format!("{}, as it claims", escape::prose(user_agent))));
    }
    for line in evidence.iter().take(MOST) {
        lines.push(("evidence", Style::Plain, escape::prose(line)));
    }
    for candidate in candidates.iter().take(MOST) {
        let v1::Candidate { user, impersonated, audit_id, received, evidence } = candidate;
        let at = time::moment(received.as_ref()).map(|at| format!(" at {}", time::clock_ms(at)));
        let mut text = format!(
            "{}, request {}{}",
            known(user.as_ref(), impersonated.as_ref()),
            request(audit_id),
            at.unwrap_or_default()
        );
        for line in evidence.iter().take(MOST) {
            text.push_str(&format!("; {}", escape::prose(line)));
        }
        lines.push(("candidate", Style::Warn, text));
    }
    if candidates.len() > MOST {
        lines.push((
            "candidate",
            Style::Warn,
            format!("and {} more", words::grouped((candidates.len() - MOST) as u64)),
        ));
    }
    lines
}

fn some(all: impl ExactSizeIterator<Item = String>, between: &str) -> String {
    let rest = all.len().saturating_sub(MOST);
    let mut texts: Vec<String> = all.take(MOST).collect();
    if rest > 0 {
        texts.push(format!("and {rest} more"));
    }
    texts.join(between)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> Option<v1::User> {
        Some(v1::User { name: name.to_owned(), ..Default::default() })
    }

    fn said(verdict: Verdict) -> v1::Attributed {
        v1::Attributed { verdict: Some(verdict.into()), ..Default::default() }
    }

    fn candidate(name: &str, audit_id: &str) -> v1::Candidate {
        v1::Candidate {
            user: user(name),
            audit_id: audit_id.to_owned(),
            received: Some(podtrail_proto::Timestamp { seconds: 1_795_378_442, nanos: 118_000_000 }),
            evidence: vec!["its\nend".to_owned()],
            ..Default::default()
        }
    }

    #[test]
    fn a_column_says_how_sure_it_is() {
        let two = vec![candidate("alice", "a"), candidate("bob", "b")];
        let acted =
            v1::Attributed { user: user("root"), impersonated: user("bob\x1b[2J"), ..said(Verdict::ExactId) };
        for (attributed, expected) in [
            (None, "-"),
            (Some(said(Verdict::None)), "-"),
            (Some(said(Verdict::NodeLocal)), "node-local"),
            (
                Some(v1::Attributed { user: user("alice@example.com"), ..said(Verdict::Matched) }),
                "alice@example.com",
            ),
            (Some(acted), r"root as $'bob\x1b[2J'"),
            (Some(v1::Attributed { candidates: two.clone(), ..said(Verdict::Ambiguous) }), "alice? (1 of 2)"),
            (Some(v1::Attributed { candidates: two[..1].to_vec(), ..said(Verdict::Ambiguous) }), "alice?"),
            // What one may not see is not there.
            (Some(said(Verdict::Ambiguous)), "?"),
            (Some(said(Verdict::Matched)), "-"),
        ] {
            assert_eq!(short(attributed.as_ref()).1, expected);
        }
    }

    #[test]
    fn in_full_it_says_what_is_claimed() {
        let attributed = v1::Attributed {
            user: Some(v1::User {
                name: "alice".to_owned(),
                groups: vec!["dev".to_owned(), "system:authenticated".to_owned()],
                ..Default::default()
            }),
            evidence: vec!["one request fits, and no other".to_owned(), "\u{1b}]0;x".to_owned()],
            audit_id: "8ed335c5".to_owned(),
            source_ips: vec!["10.0.0.9".to_owned(), "198.51.100.7".to_owned()],
            user_agent: "kubectl/v1.36 (\u{202e})".to_owned(),
            ..said(Verdict::Matched)
        };
        let text: Vec<String> = lines(&attributed).iter().map(|(l, _, t)| format!("{l}: {t}")).collect();
        assert_eq!(
            text,
            [
                "who: alice, matched",
                "groups: dev, system:authenticated",
                "request: 8ed335c5",
                "from: 198.51.100.7, for 10.0.0.9 as it claims",
                r"client: kubectl/v1.36 (\u{202e}), as it claims",
                "evidence: one request fits, and no other",
                r"evidence: \x1b]0;x",
            ]
        );
        assert_eq!(line(&attributed), "alice, matched: one request fits, and no other");
        let ambiguous = v1::Attributed {
            candidates: vec![candidate("alice", "a\n"), candidate("bob", "")],
            ..said(Verdict::Ambiguous)
        };
        let text: Vec<String> = lines(&ambiguous).iter().map(|(l, _, t)| format!("{l}: {t}")).collect();
        assert_eq!(
            text,
            [
                "who: alice? (1 of 2), ambiguous",
                r"candidate: alice, request $'a\n' at 20:14:02.118; its\nend",
                r"candidate: bob, request - at 20:14:02.118; its\nend",
            ]
        );
        let text = |verdict| lines(&said(verdict)).remove(0).2;
        assert_eq!(
            (text(Verdict::NodeLocal).as_str(), text(Verdict::None).as_str()),
            ("node-local", "none: nobody can say")
        );
        // A flood of candidates is no flood of lines.
        let many = v1::Attributed { candidates: vec![candidate("x", "y"); 40], ..said(Verdict::Ambiguous) };
        let text = lines(&many);
        assert_eq!((text.len(), text.last().unwrap().2.as_str()), (18, "and 24 more"));
    }
}
