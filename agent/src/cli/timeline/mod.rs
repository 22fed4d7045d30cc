//! The timeline of a session: who was in which container, what ran under what, how it ended, and what is missing.
//!
//! Everything that a message carries is escaped by `words`, `escape` or the line itself. Work and output grow with
//! the number of events alone, however deep the processes are nested.

mod header;
mod notes;
mod tree;

use std::{
    collections::HashMap,
    io::{self, Write},
};

use podtrail_proto::v1::{self, event::Body};

use self::{
    notes::Before,
    tree::{Item, NodeId, Tree},
};
use super::{
    around,
    line::{Line, Look, Style, cut, wrap},
    time, words,
};
use crate::escape;

/// Deeper than this the indentation stands still and the depth is said in a number: else output would grow with
/// the square of it.
const MAX_INDENT: usize = 32;
/// On a terminal, lines that one command may take; of more, the head and the tail are shown.
const MAX_LINES: usize = 6;
/// Not on a terminal, columns that commands are padded to.
const PIPED_COMMAND: usize = 60;

/// One line to be, its columns not yet known.
struct Row {
    time: String,
    /// lines of the tree before it, and before what is wrapped
    guide: String,
    guide_below: String,
    style: Style,
    text: String,
    outcome: Option<(Style, String)>,
    length: String,
    notes: Vec<(Style, String)>,
}

/// Writes a session and all its events.
pub fn write(
    out: &mut dyn Write,
    look: &Look,
    session: &v1::Session,
    events: &[v1::Event],
) -> io::Result<()> {
    let mut text = String::new();
    header::push(&mut text, look, session, events);
    let rows = Rows::new(look, session, events).collect();
    let columns = Columns::fit(&rows, look);
    for row in &rows {
        columns.push(&mut text, row, look);
        if text.len() > 64 * 1024 {
            out.write_all(text.as_bytes())?;
            text.clear();
        }
    }
    out.write_all(text.as_bytes())
}

/// Walks the tree and makes rows of it.
struct Rows<'e> {
    events: &'e [v1::Event],
    tree: Tree,
    first_credentials: Option<&'e v1::Credentials>,
    /// by parent, where its last child ran
    cwds: HashMap<NodeId, &'e [u8]>,
    ended: bool,
    dates: bool,
    max_indent: usize,
    rows: Vec<Row>,
}

/// A process whose items are being walked.
struct Frame {
    node: Option<NodeId>,
    next: usize,
    /// bytes of the guide that its items begin with
    guide: usize,
    depth: usize,
}

impl<'e> Rows<'e> {
    fn new(look: &Look, session: &v1::Session, events: &'e [v1::Event]) -> Self {
        let first_credentials = events.iter().find_map(|event| executed(event)?.credentials.as_ref());
        let mut moments = events.iter().filter_map(|event| time::moment(event.time.as_ref()));
        let first = moments.next().map(time::date);
        Self {
            events,
            tree: Tree::build(events),
            first_credentials,
            cwds: HashMap::new(),
            ended: session.ended.is_some() || session.end.is_some(),
            dates: moments.any(|moment| Some(time::date(moment)) != first),
            max_indent: look
                .width
                .map_or(MAX_INDENT, |width| (width.saturating_sub(50) / 3).clamp(3, MAX_INDENT)),
            rows: Vec::with_capacity(events.len()),
        }
    }

    fn collect(mut self) -> Vec<Row> {
        let mut guide = String::new();
        let mut stack = vec![Frame { node: None, next: 0, guide: 0, depth: 0 }];
        while let Some(frame) = stack.last_mut() {
            let items = match frame.node {
                Some(id) => self.tree.nodes.get(id).map(|node| node.items.as_slice()).unwrap_or_default(),
                None => self.tree.top.as_slice(),
            };
            let Some(item) = items.get(frame.next).copied() else {
                stack.pop();
                continue;
            };
            frame.next += 1;
            let last = frame.next == items.len();
            let Frame { node, guide: begin, depth, .. } = *frame;
            guide.truncate(begin);
            self.item(item, node, last, depth, &mut guide);
            if let Item::Child(id) = item {
                stack.push(Frame { node: Some(id), next: 0, guide: guide.len(), depth: depth + 1 });
            }
        }
        self.rows
    }

    /// Makes the row of an item, and leaves in `guide` what its own items begin with.
    fn item(&mut self, item: Item, parent: Option<NodeId>, last: bool, depth: usize, guide: &mut String) {
        let distant = match item {
            Item::Child(id) => self.tree.nodes.get(id).is_some_and(|node| node.distant),
            Item::Again(_) | Item::Gap(_) | Item::Joined(_) | Item::Around(_) | Item::Failed(_) => false,
        };
        let mut own = guide.clone();
        if depth > self.max_indent {
            own.push_str(&format!("+{} ", depth - self.max_indent));
        }
        if depth > 0 {
            own.push_str(match (item, last, distant) {
                (Item::Again(_), true, _) => "└→ ",
                (Item::Again(_), false, _) => "├→ ",
                (_, true, false) => "└─ ",
                (_, false, false) => "├─ ",
                (_, true, true) => "└┄ ",
                (_, false, true) => "├┄ ",
            });
            if depth <= self.max_indent {
                guide.push_str(if last { "   " } else { "│  " });
            }
        }
        let more_below = matches!(item, Item::Child(id) if self.tree.nodes.get(id).is_some_and(|node| !node.items.is_empty()));
        let below = format!("{guide}{}", if more_below { "│  " } else { "   " });
        let row = match item {
            Item::Child(id) => {
                let Some((exec, exit)) = self
                    .tree
                    .nodes
                    .get(id)
                    .map(|node| (node.exec, (node.exec == node.last_exec).then_some(node.exit)))
                else {
                    return;
                };
                self.command(exec, exit, parent, id)
            }
            Item::Again(at) => {
                let Some(id) = parent else { return };
                let exit =
                    self.tree.nodes.get(id).and_then(|node| (node.last_exec == at).then_some(node.exit));
                self.command(at, exit, parent, id)
            }
            Item::Gap(at) => self.events.get(at).and_then(|event| match &event.body {
                Some(Body::Gap(gap)) => {
                    Some(self.remark(event, Style::Bad, format!("!! {}", words::gap(gap))))
                }
                _ => None,
            }),
            Item::Around(at) => self.events.get(at).and_then(|event| {
                let (what, (style, text)) = match &event.body {
                    Some(Body::NodeCondition(condition)) => ("node", around::condition(condition)),
                    Some(Body::ClusterEvent(about)) => ("event", around::event(about)),
                    _ => return None,
                };
                Some(self.remark(event, style, format!("~ {what} {text}")))
            }),
            Item::Joined(at) => self.events.get(at).and_then(|event| match &event.body {
                Some(Body::NamespaceJoined(joined)) => {
                    let text = words::joined(joined, event.container.as_ref());
                    Some(self.remark(event, Style::Note, format!("=> {text}")))
                }
                _ => None,
            }),
            Item::Failed(at) => self.events.get(at).and_then(|event| match &event.body {
                Some(Body::ExecFailed(failed)) => {
                    let text = words::exec_failed(failed);
                    Some(self.remark(event, Style::Warn, format!("x> {text}")))
                }
                _ => None,
            }),
        };
        if let Some(row) = row {
            self.rows.push(Row { guide: own, guide_below: below, ..row });
        }
    }

    /// `exit`: of the process, where this is its last program.
    fn command(
        &mut self,
        at: usize,
        exit: Option<Option<usize>>,
        parent: Option<NodeId>,
        id: NodeId,
    ) -> Option<Row> {
        let event = self.events.get(at)?;
        let executed = executed(event)?;
        let cwd = words::exact(&executed.cwd, &executed.cwd_raw);
        let before = Before {
            cwd: parent.and_then(|parent| self.cwds.get(&parent).copied()),
            credentials: self.first_credentials,
        };
        let mut notes = notes::notes(executed, before);
        self.cwds.insert(id, cwd);
        if let Some(parent) = parent {
            self.cwds.insert(parent, cwd);
        }
        let (outcome, length) = match exit.map(|exit| exit.and_then(|at| exited(self.events.get(at)?))) {
            // The next line of the same process goes on.
            None => (None, String::new()),
            Some(Some(exited)) => {
                if exited.late {
                    notes.push((Style::Note, "it may have ended earlier".to_owned()));
                }
                let duration = exited.duration.as_ref();
                (
                    words::outcome(exited.exit_code, exited.signal, exited.core_dumped),
                    duration.map(|duration| time::length(time::nanos(duration))).unwrap_or_default(),
                )
            }
            Some(None) if self.ended => (Some((Style::Warn, "end not seen".to_owned())), String::new()),
            Some(None) => (Some((Style::Dim, "running".to_owned())), String::new()),
        };
        let text = words::command_line(executed);
        Some(Row { outcome, length, notes, ..self.remark(event, Style::Plain, text) })
    }

    fn remark(&self, event: &v1::Event, style: Style, text: String) -> Row {
        let time = match time::moment(event.time.as_ref()) {
            Some(moment) if self.dates => format!("{} {}", time::date(moment), time::clock_ms(moment)),
            Some(moment) => time::clock_ms(moment),
            None => "-".to_owned(),
        };
        Row {
            time,
            guide: String::new(),
            guide_below: String::new(),
            style,
            text,
            outcome: None,
            length: String::new(),
            notes: Vec::new(),
        }
    }
}

/// Where columns begin.
#[derive(Debug)]
struct Columns {
    command: usize,
    /// columns that a command may take, on a terminal
    room: Option<usize>,
    outcome: usize,
    length: usize,
    notes: usize,
}

impl Columns {
    fn fit(rows: &[Row], look: &Look) -> Self {
        let most = |width: &dyn Fn(&Row) -> usize| rows.iter().map(width).max().unwrap_or(0);
        let time = most(&|row| row.time.len());
        let outcome = most(&|row| row.outcome.as_ref().map_or(0, |(_, text)| text.len()));
        let length = most(&|row| row.length.len());
        let notes = most(&|row| notes_width(&row.notes)).min(32);
        let commands = most(&|row| {
            if row.outcome.is_none() && row.notes.is_empty() {
                return 0; // nothing stands right of it
            }
            escape::width(&row.guide) + escape::width(&row.text)
        });
        let command = 2 + time + 2;
        let taken = command + 2 + outcome + 2 + length;
        let room = look.width.map(|width| {
            let room = width.saturating_sub(taken);
            // Notes stand beside commands where that leaves room enough for these, else below them.
            match room.checked_sub(2 + notes) {
                Some(beside) if notes > 0 && beside >= 40 => beside,
                _ => room.max(16),
            }
        });
        let wide = commands.min(room.unwrap_or(PIPED_COMMAND));
        let outcome_at = command + wide + 2;
        let length_at = outcome_at + outcome + 2;
        Self { command, room, outcome: outcome_at, length: length_at + length, notes: length_at + length + 2 }
    }

    fn push(&self, out: &mut String, row: &Row, look: &Look) {
        // What has nothing right of it may take the whole line.
        let alone = row.outcome.is_none() && row.notes.is_empty();
        let left = |guide: &str, room: usize| room.saturating_sub(escape::width(guide)).max(16);
        let widths = look.width.zip(self.room).map(|(width, room)| {
            let whole = width.saturating_sub(self.command);
            (left(&row.guide, if alone { whole } else { room }), left(&row.guide_below, whole))
        });
        let pieces = pieces(&row.text, widths);
        let mut pieces = pieces.iter();
        let mut line = Line::new();
        line.plain("  ").push(Style::Dim, &row.time).tab(self.command);
        line.push(Style::Dim, &row.guide)
            .push(row.style, pieces.next().map(String::as_str).unwrap_or_default());
        if let Some((style, text)) = &row.outcome {
            line.tab(self.outcome).push(*style, text);
        }
        if !row.length.is_empty() {
            line.tab(self.length - row.length.len().min(self.length)).push(Style::Dim, &row.length);
        }
        let fits = look
            .width
            .is_none_or(|width| line.width().max(self.notes - 2) + 2 + notes_width(&row.notes) <= width);
        if fits && !row.notes.is_empty() {
            line.tab(self.notes);
            push_notes(&mut line, &row.notes);
        }
        line.write(out, look.colour);
        for piece in pieces {
            let mut line = self.below(row);
            line.push(row.style, piece).write(out, look.colour);
        }
        if !fits {
            self.push_notes_below(out, row, look);
        }
    }

    /// Begins a line under a row's text.
    fn below(&self, row: &Row) -> Line {
        let mut line = Line::new();
        line.plain(&" ".repeat(self.command)).push(Style::Dim, &row.guide_below);
        line
    }

    fn push_notes_below(&self, out: &mut String, row: &Row, look: &Look) {
        let width = look.width.unwrap_or(usize::MAX);
        for (style, note) in &row.notes {
            let mut line = self.below(row);
            line.plain("· ");
            let room = width.saturating_sub(line.width()).max(16);
            for (at, piece) in wrap(note, room, room).iter().enumerate() {
                if at > 0 {
                    line.write(out, look.colour);
                    line = self.below(row);
                    line.plain("  ");
                }
                line.push(*style, piece);
            }
            line.write(out, look.colour);
        }
    }
}

/// A command line in pieces that fit, its middle left out where there are too many. `widths`: of the first, and of
/// the others.
fn pieces(text: &str, widths: Option<(usize, usize)>) -> Vec<String> {
    let Some((first, rest)) = widths else { return vec![text.to_owned()] };
    let mut pieces = wrap(text, first, rest);
    let left_out = pieces.len().saturating_sub(MAX_LINES - 1);
    if left_out > 1 {
        let words = format!("… {} left out; whole when piped …", words::count(left_out as u64, "line"));
        pieces.splice(MAX_LINES - 2..MAX_LINES - 2 + left_out, [cut(&words, rest)]);
    }
    pieces
}

fn push_notes(line: &mut Line, notes: &[(Style, String)]) {
    for (at, (style, note)) in notes.iter().enumerate() {
        if at > 0 {
            line.plain(", ");
        }
        line.push(*style, note);
    }
}

fn notes_width(notes: &[(Style, String)]) -> usize {
    notes.iter().map(|(_, note)| escape::width(note) + 2).sum::<usize>().saturating_sub(2)
}

fn executed(event: &v1::Event) -> Option<&v1::Executed> {
    match &event.body {
        Some(Body::Executed(executed)) => Some(executed),
        _ => None,
    }
}

fn gap(event: &v1::Event) -> Option<&v1::Gap> {
    match &event.body {
        Some(Body::Gap(gap)) => Some(gap),
        _ => None,
    }
}

fn exited(event: &v1::Event) -> Option<&v1::Exited> {
    match &event.body {
        Some(Body::Exited(exited)) => Some(exited),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
