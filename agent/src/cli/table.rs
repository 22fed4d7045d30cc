//! Tables of sessions, nodes and subscriptions.

use std::collections::HashMap;

use podtrail_proto::v1::{self, agent_state::Phase};

use super::{
    around,
    line::{Line, Look, Style, cut},
    time, who, words,
};
use crate::escape;

/// A cell: escaped text, and how it looks.
type Cell = (Style, String);

/// Columns as wide as their widest cell; the last is cut to what a terminal has left.
#[derive(Debug)]
struct Table {
    heads: Vec<(&'static str, Align)>,
    rows: Vec<Vec<Cell>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Align {
    Left,
    Right,
}

impl Table {
    fn push(&self, out: &mut String, look: &Look) {
        let widths: Vec<usize> = self
            .heads
            .iter()
            .enumerate()
            .map(|(at, (head, _))| {
                let cells = self.rows.iter().filter_map(|row| row.get(at));
                cells.map(|(_, text)| escape::width(text)).max().unwrap_or(0).max(head.len())
            })
            .collect();
        let heads: Vec<Cell> = self.heads.iter().map(|(head, _)| (Style::Dim, (*head).to_owned())).collect();
        for row in std::iter::once(&heads).chain(&self.rows) {
            let mut line = Line::new();
            let mut column = 0;
            for (at, ((style, text), width)) in row.iter().zip(&widths).enumerate() {
                let right = self.heads.get(at).is_some_and(|(_, align)| *align == Align::Right);
                let begin = column + if right { width - escape::width(text).min(*width) } else { 0 };
                if at > 0 {
                    line.tab(begin);
                }
                let last = at + 1 == row.len();
                match look.width.filter(|_| last) {
                    Some(columns) => {
                        line.push(*style, &cut(text, columns.saturating_sub(line.width()).max(8)))
                    }
                    None => line.push(*style, text),
                };
                column += width + 2;
            }
            line.write(out, look.colour);
        }
    }
}

/// Which column says how many more were like a session: that after its commands.
const ALIKE: usize = 9;

/// `podtrail sessions`
#[must_use]
pub fn sessions(sessions: &[v1::Session], look: &Look) -> String {
    use Align::{Left, Right};
    let short = shortest(sessions.iter().map(|session| session.id.as_str()));
    // Most have none like them: then there is no such column.
    let alike = sessions.iter().any(|session| session.folded > 0);
    let rows = sessions.iter().map(|session| {
        let start = time::moment(session.start.as_ref());
        let open = session.end.is_none() && session.ended.is_none();
        let end = if open { Some(look.now) } else { time::moment(session.end.as_ref()) };
        let told = session.ended.as_ref().and_then(|ended| ended.duration.as_ref()).map(time::nanos);
        let counted = end.zip(start).map(|(end, start)| end.duration_since(start).as_nanos());
        let length = told.or(counted).map_or_else(|| "-".to_owned(), time::headline);
        let tty = session.started.as_ref().and_then(|started| started.tty.as_ref());
        let lost = words::lost(session);
        let more =
            if session.folded > 0 { format!("+{}", words::grouped(session.folded)) } else { "-".to_owned() };
        let mut row = vec![
            (
                Style::Strong,
                words::short(&session.id, short.get(session.id.as_str()).copied().unwrap_or(usize::MAX)),
            ),
            (
                Style::Plain,
                start.map_or_else(|| "-".to_owned(), |start| time::clock_or_date(start, look.now)),
            ),
            if open { (Style::Good, format!("open {length}")) } else { (Style::Plain, length) },
            (Style::Plain, escape::name(&session.node)),
            (Style::Name, words::place(session.container.as_ref())),
            (Style::Plain, words::session_method(session)),
            (Style::Plain, tty.map_or_else(|| "-".to_owned(), |tty| escape::name(&tty.name))),
            who::short(session.attributed.as_ref()),
            (Style::Plain, words::grouped(session.commands)),
            (if lost > 0 { Style::Bad } else { Style::Dim }, words::grouped(lost)),
            (Style::Plain, escape::prose(&session.first_command)),
        ];
        if alike {
            row.insert(ALIKE, (Style::Dim, more));
        }
        row
    });
    let mut heads = vec![
        ("SESSION", Left),
        ("START", Left),
        ("LENGTH", Right),
        ("NODE", Left),
        ("CONTAINER", Left),
        ("METHOD", Left),
        ("TTY", Left),
        ("USER", Left),
        ("COMMANDS", Right),
        ("LOST", Right),
        ("FIRST COMMAND", Left),
    ];
    if alike {
        heads.insert(ALIKE, ("ALIKE", Right));
    }
    let mut out = String::new();
    Table { heads, rows: rows.collect() }.push(&mut out, look);
    out
}

/// `podtrail nodes`
#[must_use]
pub fn nodes(answer: &v1::ListNodesResponse, look: &Look) -> String {
    use Align::{Left, Right};
    let when = |moment: Option<&podtrail_proto::Timestamp>| {
        time::moment(moment).map_or_else(|| "-".to_owned(), |moment| time::clock_or_date(moment, look.now))
    };
    let rows = answer.nodes.iter().map(|node| {
        let agent = node.agent.as_ref();
        vec![
            (Style::Strong, escape::name(&node.name)),
            (Style::Plain, agent.map_or_else(|| "-".to_owned(), |agent| escape::name(&agent.version))),
            (Style::Plain, agent.map_or_else(|| "-".to_owned(), |agent| agent.hooks.len().to_string())),
            (Style::Plain, when(node.last_seen.as_ref())),
            presence(node, &when),
            (
                Style::Plain,
                node.lag.as_ref().map_or_else(|| "-".to_owned(), |lag| time::length(time::nanos(lag))),
            ),
            (Style::Plain, words::grouped(node.events)),
            (if node.lost > 0 { Style::Bad } else { Style::Dim }, words::grouped(node.lost)),
            around::all(&node.conditions),
        ]
    });
    let heads = vec![
        ("NODE", Left),
        ("AGENT", Left),
        ("HOOKS", Right),
        ("LAST SEEN", Left),
        ("CONNECTED", Left),
        ("LAG", Right),
        ("EVENTS", Right),
        ("LOST", Right),
        ("CONDITIONS", Left),
    ];
    let mut out = String::new();
    Table { heads, rows: rows.collect() }.push(&mut out, look);
    for node in &answer.nodes {
        for hook in node.agent.iter().flat_map(|agent| &agent.hooks).filter(|hook| !hook.reason.is_empty()) {
            let mut line = Line::new();
            let text = format!(
                "{}: {} by {}: ",
                escape::name(&node.name),
                escape::name(&hook.name),
                escape::prose(&hook.kind)
            );
            line.plain("  ").push(Style::Dim, &text).push(Style::Dim, &escape::prose(&hook.reason));
            line.write(&mut out, look.colour);
        }
        for condition in node.conditions.iter().filter(|condition| around::style(condition) != Style::Good) {
            let mut line = Line::new();
            let (style, text) = around::condition(condition);
            line.plain("  ").push(Style::Dim, &format!("{}: ", escape::name(&node.name))).push(style, &text);
            line.write(&mut out, look.colour);
        }
    }
    if let Some(kept) = &answer.retention {
        let mut line = Line::new();
        line.plain(&retention(kept, look)).write(&mut out, look.colour);
    }
    out
}

/// `podtrail subscriptions`
#[must_use]
pub fn subscriptions(all: &[v1::Subscription], look: &Look) -> String {
    use Align::{Left, Right};
    let rows = all.iter().map(|subscription| {
        let last_ack = time::moment(subscription.last_ack.as_ref());
        let behind = words::grouped(subscription.lag_events());
        let lag =
            subscription.lag.as_ref().map_or_else(|| "-".to_owned(), |lag| time::length(time::nanos(lag)));
        vec![
            (Style::Strong, escape::name(&subscription.name)),
            if subscription.connected() {
                (Style::Good, "yes".to_owned())
            } else {
                (Style::Plain, "no".to_owned())
            },
            // What it has not got is gone: there will be a gap.
            if subscription.trimmed() {
                (Style::Bad, format!("{behind}, trimmed"))
            } else {
                (Style::Plain, behind)
            },
            (Style::Plain, lag),
            (Style::Plain, words::grouped(subscription.in_flight_events())),
            (
                Style::Plain,
                last_ack.map_or_else(|| "never".to_owned(), |at| time::clock_or_date(at, look.now)),
            ),
            (Style::Plain, escape::name(&subscription.cursor)),
            (Style::Plain, escape::prose(&subscription.filter)),
        ]
    });
    let heads = vec![
        ("SUBSCRIPTION", Left),
        ("CONNECTED", Left),
        ("BEHIND", Right),
        ("LAG", Right),
        ("IN FLIGHT", Right),
        ("LAST ACK", Left),
        ("CURSOR", Left),
        ("FILTER", Left),
    ];
    let mut out = String::new();
    Table { heads, rows: rows.collect() }.push(&mut out, look);
    out
}

/// Whether it is there, and what is known where not.
fn presence(
    node: &v1::Node,
    when: &impl Fn(Option<&podtrail_proto::Timestamp>) -> String,
) -> (Style, String) {
    let stopped = node.agent.as_ref().is_some_and(|agent| agent.phase() == Phase::Stopped);
    // The API server has it, and nobody else.
    let never = node.agent.is_none() && node.last_seen.is_none() && node.epoch == 0;
    match &node.silent_since {
        Some(_) => (Style::Bad, format!("silent since {}", when(node.silent_since.as_ref()))),
        None if node.connected => (Style::Good, "yes".to_owned()),
        None if stopped => (Style::Plain, "stopped".to_owned()),
        None if never => (Style::Warn, "no agent".to_owned()),
        None => (Style::Bad, "no".to_owned()),
    }
}

fn retention(kept: &v1::Retention, look: &Look) -> String {
    let v1::Retention { max_age, max_bytes, bytes, events, oldest_cursor, newest_cursor, oldest } = kept;
    let limits: Vec<String> = [
        max_age.as_ref().map(|age| age_limit(time::nanos(age))),
        (*max_bytes > 0).then(|| words::bytes(*max_bytes)),
    ]
    .into_iter()
    .flatten()
    .collect();
    let limits = if limits.is_empty() {
        "no limit told".to_owned()
    } else {
        format!("at most {}", limits.join(" or "))
    };
    let mut text =
        format!("kept: {limits}; now {}, {}", words::count(*events, "event"), words::bytes(*bytes));
    if let Some(oldest) = time::moment(oldest.as_ref()) {
        text.push_str(&format!(", since {}", time::clock_or_date(oldest, look.now)));
    }
    if !newest_cursor.is_empty() {
        text.push_str(&format!(
            ", cursors {} to {}",
            escape::name(oldest_cursor),
            escape::name(newest_cursor)
        ));
    }
    text
}

/// `7 days`, `36 hours`
fn age_limit(nanos: i128) -> String {
    let hours = nanos / 3_600_000_000_000;
    match (hours, hours % 24) {
        (0, _) => time::length(nanos),
        (24, _) => "1 day".to_owned(),
        (_, 0) => format!("{} days", hours / 24),
        (1, _) => "1 hour".to_owned(),
        _ => format!("{hours} hours"),
    }
}

/// How many characters of each id tell it from all the others here; eight at least.
fn shortest<'i>(ids: impl Iterator<Item = &'i str>) -> HashMap<&'i str, usize> {
    let mut ids: Vec<&str> = ids.collect();
    ids.sort_unstable();
    ids.dedup();
    let mut needed = HashMap::new();
    for pair in ids.windows(2) {
        let [a, b] = pair else { continue };
        let common = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count() + 1;
        for id in [a, b] {
            let most = needed.entry(*id).or_insert(words::SHORT_ID);
            *most = common.max(*most);
        }
    }
    for id in ids {
        needed.entry(id).or_insert(words::SHORT_ID);
    }
    needed
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
