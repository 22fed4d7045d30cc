//! What happened around sessions, in words: conditions of nodes, Events of the Kubernetes API. Everything that comes from a
//! message is escaped here.

use podtrail_proto::v1::{self, node_condition::Change};

use super::{line::Style, time, words};
use crate::{
    condition::{Health, health},
    escape,
};

/// Conditions named one by one in a state.
const NAMED: usize = 8;

/// How a condition looks by its status: that alone decides.
#[must_use]
pub fn style(condition: &v1::NodeCondition) -> Style {
    match health(&condition.r#type, &condition.status) {
        Health::Bad => Style::Bad,
        Health::Good if !condition.stale() => Style::Good,
        Health::Good | Health::Unknown => Style::Warn,
    }
}

/// `ReadonlyFilesystem=True`, with ` (stale)` where nobody confirmed it.
#[must_use]
pub fn short(condition: &v1::NodeCondition) -> String {
    let stale = if condition.stale() { " (stale)" } else { "" };
    format!("{}={}{stale}", escape::name(&condition.r#type), escape::name(&condition.status))
}

/// `ReadonlyFilesystem=True, was False: FilesystemIsReadOnly, kernel: …`
#[must_use]
pub fn condition(condition: &v1::NodeCondition) -> (Style, String) {
    let was = &condition.previous_status;
    let was = if was.is_empty() { String::new() } else { format!(", was {}", escape::name(was)) };
    let change = match condition.change.map(Change::try_from) {
        Some(Ok(Change::First)) => ", first seen".to_owned(),
        Some(Ok(Change::Recovered)) => ", recovered".to_owned(),
        Some(Ok(Change::Reset)) => format!("{was}; reset: its detector began anew, which proves nothing"),
        Some(Ok(Change::Again)) => ", and was something else meanwhile".to_owned(),
        Some(Ok(Change::Reason)) => ", for another reason".to_owned(),
        Some(Ok(Change::Stale)) => ": nobody confirms it any more".to_owned(),
        Some(Ok(Change::Fresh)) => ", confirmed again".to_owned(),
        Some(Ok(Change::Gone)) => ": no condition of the node any more".to_owned(),
        Some(Ok(Change::Became | Change::Unspecified) | Err(_)) | None => was,
    };
    let why = because(&condition.reason, &condition.message);
    let since = time::moment(condition.transition.as_ref());
    let since = since.map(|since| format!(", since {} {}", time::date(since), time::clock(since)));
    let text = format!("{}{change}{why}{}", short(condition), since.unwrap_or_default());
    let style = match condition.change.map(Change::try_from) {
        Some(Ok(Change::Stale | Change::Reset)) => Style::Warn,
        _ => style(condition),
    };
    (style, text)
}

/// The conditions of a node, in a column.
#[must_use]
pub fn all(conditions: &[v1::NodeCondition]) -> (Style, String) {
    let worst = if conditions.iter().any(|condition| style(condition) == Style::Bad) {
        Style::Bad
    } else if conditions.iter().any(|condition| style(condition) != Style::Good) {
        Style::Warn
    } else {
        Style::Plain
    };
    (worst, if conditions.is_empty() { "-".to_owned() } else { summary(conditions) })
}

/// The conditions of a node: those that are not good, and how many are.
#[must_use]
pub fn state(state: &v1::NodeState) -> (Style, String) {
    let (worst, _) = all(&state.conditions);
    let style = if worst == Style::Plain { Style::Dim } else { Style::Warn };
    let text =
        if state.conditions.is_empty() { "no condition".to_owned() } else { summary(&state.conditions) };
    (style, format!("now: {text}"))
}

fn summary(conditions: &[v1::NodeCondition]) -> String {
    let bad: Vec<&v1::NodeCondition> =
        conditions.iter().filter(|condition| style(condition) != Style::Good).collect();
    let good = conditions.len() - bad.len();
    let mut parts: Vec<String> = bad.iter().take(NAMED).map(|condition| short(condition)).collect();
    if let Some(more @ 1..) = bad.len().checked_sub(NAMED) {
        parts.push(format!("{more} more"));
    }
    if good > 0 {
        parts.push(format!("{good} good"));
    }
    parts.join(", ")
}

/// What an agent was told by the detector of its node.
#[must_use]
pub fn observed(observed: &v1::NodeObserved) -> String {
    let v1::NodeObserved { conditions, problems, unreachable, has_conditions: _, has_problems: _ } = observed;
    if !unreachable.is_empty() {
        return format!("the node's problem detector does not answer: {}", escape::prose(unreachable));
    }
    let bad = conditions.iter().filter(|condition| style(condition) != Style::Good).map(short);
    let bad: Vec<String> = bad.take(NAMED).collect();
    let problems = problems.iter().fold(0, |sum: u64, problem| sum.saturating_add(problem.count));
    let bad = if bad.is_empty() { String::new() } else { format!(": {}", bad.join(", ")) };
    format!(
        "the node's problem detector has {}{bad}; {} counted",
        words::count(conditions.len() as u64, "condition"),
        words::count(problems, "problem")
    )
}

/// An Event of the Kubernetes API.
#[must_use]
pub fn event(event: &v1::ClusterEvent) -> (Style, String) {
    let involved = event.involved.clone().unwrap_or_default();
    let v1::Involved { kind, namespace, name, uid: _, api_version: _, field_path } = &involved;
    let within = if namespace.is_empty() { String::new() } else { format!("{}/", escape::name(namespace)) };
    let field = if field_path.is_empty() { String::new() } else { format!(" {}", escape::prose(field_path)) };
    let mut text = format!("{} {within}{}{field}", escape::name(kind), escape::name(name));
    text += &because(&event.reason, &event.message);
    let by = if event.component.is_empty() {
        String::new()
    } else {
        format!(" ({})", escape::name(&event.component))
    };
    text += &by;
    if event.count() > 1 {
        text += &format!(", {} times", words::grouped(event.count()));
    }
    if event.merged {
        text += ", others put together with it";
    }
    if event.mangled {
        text += ", its text spoilt by its writer";
    }
    (if event.r#type == "Warning" { Style::Warn } else { Style::Dim }, text)
}

fn because(reason: &str, message: &str) -> String {
    match (reason, message) {
        ("", "") => String::new(),
        (reason, "") => format!(": {}", escape::prose(reason)),
        ("", message) => format!(": {}", escape::prose(message)),
        (reason, message) => format!(": {}, {}", escape::prose(reason), escape::prose(message)),
    }
}
