//! Events for people, one a line, in columns that stay where they are.

use podtrail_proto::v1::{self, agent_state::Phase, event::Body};

use super::{
    around,
    line::{Line, Look, Style, cut},
    time, who, words,
};
use crate::escape;

/// Remembers how wide columns had to be, so that they only ever move once.
#[derive(Debug)]
pub struct Printer {
    look: Look,
    node: usize,
    place: usize,
    /// 0 until somebody is known
    who: usize,
}

impl Printer {
    #[must_use]
    pub fn new(look: Look) -> Self {
        Self { look, node: 8, place: 14, who: 0 }
    }

    /// Appends one event.
    pub fn push(&mut self, out: &mut String, event: &v1::Event) {
        let time = time::moment(event.time.as_ref())
            .map_or_else(|| "-".to_owned(), |time| format!("{} {}", time::date(time), time::clock_ms(time)));
        let node = escape::name(event.id.as_ref().map(|id| id.node.as_str()).unwrap_or_default());
        let place = words::place(event.container.as_ref());
        self.node = self.node.max(escape::width(&node).min(24));
        self.place = self.place.max(escape::width(&place).min(40));
        let (kind, style, text) = describe(event);

        let mut line = Line::new();
        line.push(Style::Dim, &time).tab(25).plain(&node);
        let mut column = 25 + self.node + 2;
        line.tab(column).push(Style::Name, &place);
        column += self.place + 2;
        line.tab(column).push(Style::Strong, &words::short(&event.session_id, words::SHORT_ID));
        column += words::SHORT_ID + 2;
        let who = event.attribution.as_ref().map(who::on_event).unwrap_or_default();
        self.who = self.who.max(escape::width(&who).min(32));
        if self.who > 0 {
            line.tab(column).push(Style::Note, &who);
            column += self.who + 2;
        }
        line.tab(column).push(style, kind);
        line.tab(column + 7);
        match self.look.width {
            Some(width) => line.push(style, &cut(&text, width.saturating_sub(line.width()).max(20))),
            None => line.push(style, &text),
        };
        line.write(out, self.look.colour);
    }
}

fn describe(event: &v1::Event) -> (&'static str, Style, String) {
    match &event.body {
        Some(Body::SessionStarted(started)) => {
            let tty = match &started.tty {
                Some(tty) => format!(", terminal {}", escape::name(&tty.name)),
                None => ", no terminal".to_owned(),
            };
            let recovered =
                if started.recovered() { ", recovered: it began before the agent did" } else { "" };
            let labels: String =
                started.labels.iter().map(|label| format!(", {}", escape::prose(label))).collect();
            let method = words::method(Some(started));
            ("start", Style::Good, format!("{method}{tty}{labels}{recovered}"))
        }
        Some(Body::Executed(executed)) => ("exec", Style::Plain, words::command_line(executed)),
        Some(Body::ExecFailed(failed)) => ("fail", Style::Warn, words::exec_failed(failed)),
        Some(Body::Exited(exited)) => {
            let outcome = words::outcome(exited.exit_code, exited.signal, exited.core_dumped);
            let (style, outcome) = outcome.unwrap_or((Style::Warn, "ended".to_owned()));
            let style = if style == Style::Good { Style::Dim } else { style };
            let who = exited.process.as_ref().map(words::process).unwrap_or_default();
            let late = if exited.late { ", or earlier" } else { "" };
            ("exit", style, format!("{outcome}  {who}{}{late}", after(exited.duration.as_ref())))
        }
        Some(Body::NamespaceJoined(joined)) => {
            ("join", Style::Note, words::joined(joined, event.container.as_ref()))
        }
        Some(Body::SessionEnded(ended)) => {
            let outcome = words::outcome(ended.exit_code, ended.signal, false).map(|(_, text)| text);
            let commands = words::count(ended.commands(), "command");
            let (style, lost) = match ended.lost() {
                0 => (Style::Good, "none lost".to_owned()),
                lost => (Style::Bad, format!("at least {} lost", words::grouped(lost))),
            };
            let outcome = outcome.unwrap_or_else(|| "exit not seen".to_owned());
            ("end", style, format!("{outcome}{}, {commands}, {lost}", after(ended.duration.as_ref())))
        }
        Some(Body::Attributed(attributed)) if attributed.verdict.is_some() => {
            ("who", Style::Note, who::line(attributed))
        }
        Some(Body::Attributed(attributed)) => ("who", Style::Note, learned(attributed)),
        Some(Body::Gap(gap)) => ("gap", Style::Bad, format!("!! {}", words::gap(gap))),
        Some(Body::NodeCondition(condition)) => {
            let (style, text) = around::condition(condition);
            ("node", style, text)
        }
        Some(Body::NodeState(state)) => {
            let (style, text) = around::state(state);
            ("node", style, text)
        }
        Some(Body::NodeObserved(observed)) => ("node", Style::Dim, around::observed(observed)),
        Some(Body::ClusterEvent(event)) => {
            let (style, text) = around::event(event);
            ("k8s", style, text)
        }
        Some(Body::AgentState(state)) => {
            let style = if state.findings.is_empty() { Style::Note } else { Style::Warn };
            ("agent", style, agent(state))
        }
        Some(Body::ApiRequest(request)) => ("api", Style::Note, words::api_request(request)),
        Some(Body::Folded(folded)) => ("probe", Style::Dim, words::folded(folded)),
        None => ("?", Style::Warn, "an event of a newer podtrail: upgrade this one to read it".to_owned()),
    }
}

/// What the node learned of a session later.
fn learned(attributed: &v1::Attributed) -> String {
    let v1::Attributed { container, exec_id, exit_code, .. } = attributed;
    let parts = [
        container.as_ref().map(|container| words::place(Some(container))),
        Some(exec_id).filter(|id| !id.is_empty()).map(|id| format!("exec {}", words::short(id, 12))),
        exit_code.map(|code| format!("exit {code}")),
        words::turned_out(attributed),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "nothing new".to_owned() } else { parts.join(", ") }
}

/// What an agent says of itself, or the collector of one that says nothing.
fn agent(state: &v1::AgentState) -> String {
    /// All of them are in JSON.
    const FINDINGS: usize = 8;
    let (phase, begins) = match Phase::try_from(state.phase.unwrap_or_default()) {
        Ok(Phase::Started) => ("started", true),
        Ok(Phase::Upgraded) => ("upgraded", true),
        Ok(Phase::Stopped) => ("stopped", false),
        Ok(Phase::Integrity) if state.findings.is_empty() => ("whole again", false),
        Ok(Phase::Integrity) => ("disturbed", false),
        Ok(Phase::Silent) => ("silent", false),
        Ok(Phase::Returned) => ("heard again", false),
        Ok(Phase::Unspecified) | Err(_) => ("changed", false),
    };
    let mut text = format!("agent {phase}");
    if let Some(since) = time::moment(state.since.as_ref()) {
        let what = if begins { "the one before was last at work" } else { "nothing came since" };
        text += &format!(", {what} {} {}", time::date(since), time::clock(since));
    }
    if !state.version.is_empty() {
        let (version, kernel) = (escape::name(&state.version), escape::name(&state.kernel));
        let hooks = words::count(state.hooks.len() as u64, "hook");
        text += &format!(", version {version}, kernel {kernel}, {hooks}");
    }
    if state.adopted() {
        text += ", reads on: the kernel side recorded meanwhile";
    }
    if begins && state.stopped_cleanly == Some(false) {
        text += ", the one before did not say that it stopped";
    }
    for v1::Finding { subject, detail, time: _ } in state.findings.iter().take(FINDINGS) {
        text += &format!("; {}: {}", escape::prose(subject), escape::prose(detail));
    }
    if let Some(more @ 1..) = state.findings.len().checked_sub(FINDINGS) {
        text += &format!("; and {more} more");
    }
    text
}

fn after(duration: Option<&podtrail_proto::Duration>) -> String {
    duration.map(|duration| format!(" after {}", time::length(time::nanos(duration)))).unwrap_or_default()
}

#[cfg(test)]
#[path = "tail_tests.rs"]
mod tests;
