//! The lines above a timeline: the session in one sentence, and what one must know before reading on.

use podtrail_proto::v1::{self, event::Body};

use crate::{
    cli::{
        line::{Line, Look, Style},
        time, who, words,
    },
    escape,
};

use super::notes;

/// Columns that a label takes.
const LABEL: usize = 9;

/// A part of a headline, never broken across lines.
type Part = Vec<(Style, String)>;

/// Appends them.
pub(super) fn push(out: &mut String, look: &Look, session: &v1::Session, events: &[v1::Event]) {
    push_parts(out, look, "", &headline(look, session, events));
    let detail = detail(session, events);
    if !detail.is_empty() {
        push_parts(out, look, "  ", &detail);
    }
    if session.folded > 0 {
        let text = format!("{} more like it were only counted", words::count(session.folded, "session"));
        push_parts(out, look, "  ", &[vec![(Style::Dim, text)]]);
    }
    let said = session.attributed.iter().flat_map(who::lines);
    let mut before = "";
    for (label, style, text) in said {
        let shown = if label == before { "" } else { label };
        before = label;
        // Labels end where those of others do.
        let mut line = Line::new();
        line.plain("  ").push(Style::Dim, shown).tab(2 + LABEL + 2).push(style, &text);
        line.write(out, look.colour);
    }
    if let Some(started) = session.started.as_ref().filter(|started| started.recovered()) {
        let from = time::moment(started.observed_from.as_ref())
            .map_or_else(|| "the agent started".to_owned(), |from| time::clock_or_date(from, look.now));
        let text = format!("recovered: it began before the agent did; nothing before {from} was seen");
        push_parts(out, look, "  ", &[vec![(Style::Warn, text)]]);
    }
    let evidence: Vec<Part> = way_in(session, events);
    if !evidence.is_empty() {
        push_parts(out, look, "  ", &evidence);
    }
}

/// What the method was concluded from, and what was found to be wrong with that.
fn way_in(session: &v1::Session, events: &[v1::Event]) -> Vec<Part> {
    let started = session.started.as_ref();
    let evidence = started.map(|started| started.evidence.as_slice()).unwrap_or_default();
    let mut parts: Vec<Part> =
        evidence.iter().map(|line| vec![(Style::Dim, format!("· {}", escape::prose(line)))]).collect();
    for event in events {
        if let Some(Body::Attributed(attributed)) = &event.body
            && let Some(now) = words::turned_out(attributed)
        {
            parts.push(vec![(Style::Dim, "· ".to_owned()), (Style::Note, now)]);
        }
    }
    parts
}

fn headline(look: &Look, session: &v1::Session, events: &[v1::Event]) -> Vec<Part> {
    let started = session.started.as_ref();
    let mut parts = vec![
        vec![
            (Style::Plain, "session ".to_owned()),
            (Style::Strong, words::short(&session.id, words::SHORT_ID)),
        ],
        vec![(Style::Name, words::place(session.container.as_ref()))],
    ];
    let terminal = match started.map(|started| started.tty.as_ref()) {
        Some(Some(tty)) if tty.name.is_empty() => format!(", terminal {}:{}", tty.major, tty.minor),
        Some(Some(tty)) => format!(", terminal {}", escape::word(tty.name.as_bytes())),
        Some(None) => ", no terminal".to_owned(),
        None => String::new(),
    };
    parts.push(vec![(Style::Plain, format!("{}{terminal}", words::session_method(session)))]);

    let start = time::moment(session.start.as_ref())
        .or_else(|| time::moment(started.and_then(|started| started.entered.as_ref())))
        .or_else(|| time::moment(events.first().and_then(|event| event.time.as_ref())));
    let end = time::moment(session.end.as_ref());
    let open = session.end.is_none() && session.ended.is_none();
    let from = start.map_or_else(|| "?".to_owned(), |start| time::clock_or_date(start, look.now));
    let to = match end {
        Some(end) => (
            Style::Plain,
            time::clock_or_date(end, start.filter(|_| !from.contains('?')).unwrap_or(look.now)),
        ),
        None if open => (Style::Good, "open".to_owned()),
        None => (Style::Plain, "?".to_owned()),
    };
    parts.push(vec![(Style::Plain, format!("{from} → ")), to]);

    let told = session.ended.as_ref().and_then(|ended| ended.duration.as_ref()).map(time::nanos);
    let until = if open { Some(look.now) } else { end };
    let counted = until.zip(start).map(|(until, start)| until.duration_since(start).as_nanos());
    if let Some(nanos) = told.or(counted) {
        let so_far = if open { " so far" } else { "" };
        parts.push(vec![(Style::Plain, format!("{}{so_far}", time::headline(nanos)))]);
    }
    if let Some(ended) = &session.ended {
        let outcome = words::outcome(ended.exit_code, ended.signal, false)
            .unwrap_or_else(|| (Style::Warn, "exit not seen".to_owned()));
        parts.push(vec![outcome]);
    }
    let (mut known, mut possible) = (0u64, 0u64);
    for gap in events.iter().filter_map(super::gap) {
        // A gap of which no number is told is one event at least.
        let count = gap.count().max(1);
        possible = possible.saturating_add(count);
        if gap.session_ids.len() == 1 {
            known = known.saturating_add(count);
        }
    }
    parts.push(words::commands_and_loss(session, known, possible));
    parts
}

fn detail(session: &v1::Session, events: &[v1::Event]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut part = |label: &str, style, text: String| {
        let label = if label.is_empty() { String::new() } else { format!("{label} ") };
        parts.push(vec![(Style::Dim, label), (style, text)]);
    };
    if !session.node.is_empty() {
        part("node", Style::Plain, escape::name(&session.node));
    }
    if let Some(container) = &session.container {
        if !container.id.is_empty() {
            part("container", Style::Plain, words::short(&container.id, 12));
        }
        if !container.image.is_empty() {
            part("image", Style::Plain, escape::name(&container.image));
        }
    }
    let first = events.iter().find_map(|event| super::executed(event)?.credentials.as_ref());
    if let Some(first) = first {
        part("", Style::Plain, notes::uid(first));
    }
    let started = session.started.as_ref();
    if let Some(uid) = started.and_then(|started| started.login_uid) {
        part("login uid", Style::Plain, uid.to_string());
    }
    if let Some(by) = started.and_then(|started| started.entered_by.as_ref()) {
        part("entered by", Style::Plain, words::process(by));
    }
    let ancestors = started.map(|started| started.ancestors.as_slice()).unwrap_or_default();
    if !ancestors.is_empty() {
        let line: Vec<String> = ancestors.iter().map(words::process).collect();
        part("started by", Style::Plain, line.join(" ← "));
    }
    parts
}

/// Parts two spaces apart, on as many lines as the terminal asks for.
fn push_parts(out: &mut String, look: &Look, indent: &str, parts: &[Part]) {
    let mut line = Line::new();
    line.plain(indent);
    let mut begun = false;
    for part in parts {
        let width: usize = part.iter().map(|(_, text)| escape::width(text)).sum();
        if begun && look.width.is_some_and(|columns| line.width() + 2 + width > columns) {
            line.write(out, look.colour);
            line = Line::new();
            line.plain(indent).plain("  ");
        } else if begun {
            line.plain("  ");
        }
        begun = true;
        for (style, text) in part {
            line.push(*style, text);
        }
    }
    line.write(out, look.colour);
}
