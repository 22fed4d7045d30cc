//! What the node-problem-detector answers: `/conditions`, and of `/metrics` its `problem_counter`. Never panics, keeps a bounded part.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::event::{ObservedCondition, ObservedProblem};

/// Kept of either.
const MAX_CONDITIONS: usize = 100;
const MAX_PROBLEMS: usize = 200;
const MAX_WORD: usize = 256;
const MAX_TEXT: usize = 4096;
/// Above it a counter is no whole number any more.
const MAX_COUNT: f64 = 9_007_199_254_740_992.0;

#[derive(Debug, Deserialize)]
struct Raw {
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    transition: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

/// By type, since it has them in another order each time; `None`: it has just begun, and says `null`.
pub(super) fn conditions(body: &[u8]) -> Result<Option<Vec<ObservedCondition>>, serde_json::Error> {
    let Some(raw) = serde_json::from_slice::<Option<Vec<Raw>>>(body)? else { return Ok(None) };
    let mut found = BTreeMap::new();
    for Raw { r#type, status, transition, reason, message } in raw {
        if r#type.is_empty() || (found.len() >= MAX_CONDITIONS && !found.contains_key(&r#type)) {
            continue;
        }
        let mut truncated = false;
        let kind = cut(r#type, MAX_WORD, &mut truncated);
        let condition = ObservedCondition {
            kind: kind.clone(),
            status: cut(status, MAX_WORD, &mut truncated),
            reason: cut(reason, MAX_WORD, &mut truncated),
            message: cut(message, MAX_TEXT, &mut truncated),
            transition: transition.parse().ok().map(|time: jiff::Timestamp| time.as_second()),
            truncated,
        };
        found.insert(kind, condition);
    }
    Ok(Some(found.into_values().collect()))
}

fn cut(mut text: String, max: usize, truncated: &mut bool) -> String {
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max));
        *truncated = true;
    }
    text
}

/// Counters by reason; those that are 0 too. What is no line of them is passed over.
pub(super) fn problems(body: &[u8]) -> Vec<ObservedProblem> {
    let mut found: BTreeMap<String, u64> = BTreeMap::new();
    for line in body.split(|byte| *byte == b'\n') {
        let Some((reason, count)) = std::str::from_utf8(line).ok().and_then(problem) else { continue };
        if found.len() < MAX_PROBLEMS || found.contains_key(&reason) {
            let sum = found.entry(reason).or_default();
            *sum = sum.saturating_add(count);
        }
    }
    found.into_iter().map(|(reason, count)| ObservedProblem { reason, count }).collect()
}

/// `problem_counter{reason="OOMKilling"} 1`, with other labels beside, and a time behind.
fn problem(line: &str) -> Option<(String, u64)> {
    let mut rest = line.strip_prefix("problem_counter{")?;
    let mut reason = None;
    loop {
        rest = rest.trim_start_matches([' ', ',']);
        if let Some(after) = rest.strip_prefix('}') {
            rest = after;
            break;
        }
        let (name, after) = rest.split_once("=\"")?;
        let (value, after) = quoted(after)?;
        if name.trim() == "reason" {
            reason = Some(value);
        }
        rest = after;
    }
    let value: f64 = rest.split_whitespace().next()?.parse().ok()?;
    let reason = reason.filter(|reason| !reason.is_empty() && reason.len() <= MAX_WORD)?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a whole number that a double has exactly, or its whole part"
    )]
    (0.0..=MAX_COUNT).contains(&value).then_some((reason, value as u64))
}

/// A label's value, and what is after its quote.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match (escaped, c) {
            (true, 'n') => value.push('\n'),
            (true, c) => value.push(c),
            (false, '\\') => {
                escaped = true;
                continue;
            }
            (false, '"') => return Some((value, text.get(at + 1..)?)),
            (false, c) => value.push(c),
        }
        escaped = false;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONDITIONS: &[u8] = include_bytes!("../../../tests/fixtures/npd/cond_bad.json");
    const METRICS: &[u8] = include_bytes!("../../../tests/fixtures/npd/metrics_bad.txt");

    #[test]
    fn what_a_real_one_answers() {
        let found = conditions(CONDITIONS).unwrap().unwrap();
        let short: Vec<_> =
            found.iter().map(|c| (c.kind.as_str(), c.status.as_str(), c.transition)).collect();
        // 19:09:33, 19:10:00 and 19:09:58, in whole seconds as the API server has them.
        let (start, fd, kernel) = (Some(1_795_374_573), Some(1_795_374_600), Some(1_795_374_598));
        assert_eq!(
            short,
            [
                ("CperHardwareErrorFatal", "False", start),
                ("FDPressure", "True", fd),
                ("KernelDeadlock", "True", kernel),
                ("ReadonlyFilesystem", "True", kernel),
                ("XfsShutdown", "False", start),
            ]
        );
        assert_eq!(
            (found[2].reason.as_str(), found[2].message.as_str(), found[2].truncated),
            ("DockerHung", "kernel: INFO: task docker:20744 blocked for more than 120 seconds.", false)
        );
        let problems = problems(METRICS);
        assert_eq!(problems.len(), 16, "problem_gauge is none of them");
        let of = |reason: &str| problems.iter().find(|p| p.reason == reason).map(|p| p.count);
        assert_eq!((of("ConntrackFull"), of("OOMKilling"), of("Ext4Error")), (Some(2), Some(1), Some(0)));
    }

    #[test]
    fn it_says_null_at_first_and_may_say_anything() {
        assert_eq!(conditions(b"null").unwrap(), None);
        assert_eq!(conditions(b"[]").unwrap(), Some(vec![]));
        assert!(conditions(b"").is_err() && conditions(b"{}").is_err() && conditions(b"[7]").is_err());
        let odd = format!(
            r#"[{{"type":"","status":"True"}},{{"type":"X","transition":"never","message":"{}"}},{{"type":"X","status":"True"}}]"#,
            "é".repeat(5000)
        );
        let found = conditions(odd.as_bytes()).unwrap().unwrap();
        assert_eq!((found.len(), found[0].status.as_str(), found[0].transition), (1, "True", None));
        let many: Vec<String> =
            (0..500).map(|n| format!(r#"{{"type":"C{n}","message":"{}"}}"#, "x".repeat(9000))).collect();
        let found = conditions(format!("[{}]", many.join(",")).as_bytes()).unwrap().unwrap();
        assert_eq!((found.len(), found[0].message.len(), found[0].truncated), (100, 4096, true));
    }

    #[test]
    fn counters_in_any_form() {
        let text = b"problem_counter{reason=\"A\"} 1e+06\nproblem_counter{node=\"a}b\",reason=\"q\\\"\\\\\\n\",} 3 1700000000\n\
            problem_counter{reason=\"A\"} 2\nproblem_counter{reason=\"N\"} NaN\nproblem_counter{reason=\"M\"} -1\n\
            problem_counter{reason=\"I\"} +Inf\nproblem_counter{reason=\"\"} 1\nproblem_counter{other=\"x\"} 1\nproblem_counter 5\n\
            problem_counter{reason=\"open 1\nproblem_counter_total{reason=\"T\"} 1\n\xff\xfe\nproblem_counter{reason=\"Z\"}\n";
        let found: Vec<_> = problems(text).into_iter().map(|p| (p.reason, p.count)).collect();
        assert_eq!(found, [("A".to_owned(), 1_000_002), ("q\"\\\n".to_owned(), 3)]);
        let many: String = (0..999).map(|n| format!("problem_counter{{reason=\"R{n}\"}} 1\n")).collect();
        assert_eq!(problems(many.as_bytes()).len(), MAX_PROBLEMS);
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[a-z{}\"=\\\\, 0-9\n]{0,80}") {
            _ = (conditions(&bytes), problems(&bytes));
            _ = problems(format!("problem_counter{{{text}").as_bytes());
            _ = conditions(text.as_bytes());
        }
    }
}
