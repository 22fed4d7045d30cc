//! What the index knows of one session.

use podtrail_proto::v1::{self, event::Body};
use prost::Message;

use super::{
    cursors::Cursors,
    node::{Gap, Gaps, Node, Tally},
};
use crate::trail::{Moment, log::Cursor, rights::Rights};

/// Longest message that is kept as a part of a summary; events themselves may be longer.
const MAX_PART_BYTES: usize = 64 * 1024;
/// Longest command line in a list.
const MAX_COMMAND_BYTES: usize = 4096;

/// `m`, unless it is too long to be kept in memory for every session and node.
pub(super) fn bounded<M: Message + Clone>(m: &M) -> Option<M> {
    (m.encoded_len() <= MAX_PART_BYTES).then(|| m.clone())
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) cursors: Cursors,
    pub(super) last_event: Moment,
    pub(super) end: Option<Moment>,
    pub(super) started: Option<v1::SessionStarted>,
    pub(super) container: Option<v1::Container>,
    pub(super) attributed: Option<v1::Attributed>,
    ended: Option<v1::SessionEnded>,
    first_command: String,
    first_event: Moment,
    /// time of `SessionStarted`
    announced: Option<Moment>,
    /// time of the root's first command
    root_ran: Option<Moment>,
}

impl Session {
    pub(super) fn new(time: Moment) -> Self {
        Self {
            cursors: Cursors::default(),
            last_event: time,
            end: None,
            started: None,
            container: None,
            attributed: None,
            ended: None,
            first_command: String::new(),
            first_event: time,
            announced: None,
            root_ran: None,
        }
    }

    /// When its first command ran, as far as is known.
    pub(super) fn start(&self) -> Moment {
        self.root_ran.or(self.announced).unwrap_or(self.first_event)
    }

    pub(super) fn is_announced(&self) -> bool {
        self.announced.is_some()
    }

    /// From when on it may have lost something.
    pub(super) fn begin(&self) -> Moment {
        let entered = self.started.as_ref().and_then(|s| s.entered.as_ref()).map(Moment::from_timestamp);
        entered.unwrap_or(Moment::MAX).min(self.first_event).min(self.start())
    }

    pub(super) fn apply(&mut self, cursor: Cursor, time: Moment, event: &v1::Event) {
        self.cursors.push(cursor, matches!(event.body, Some(Body::Executed(_))));
        self.last_event = self.last_event.max(time);
        self.first_event = self.first_event.min(time);
        self.learn_container(event.container.as_ref());
        match &event.body {
            Some(Body::SessionStarted(s)) if self.announced.is_none() => {
                self.announced = Some(time);
                self.started = bounded(s);
            }
            Some(Body::Executed(e)) if e.root() && self.root_ran.is_none() => {
                self.root_ran = Some(time);
                self.first_command = command_line(&e.argv);
            }
            Some(Body::SessionEnded(e)) => {
                self.end = Some(time);
                self.ended = Some(*e);
            }
            Some(Body::Attributed(a)) => {
                self.learn_container(a.container.as_ref());
                self.attributed = bounded(a);
            }
            _ => {}
        }
    }

    /// Later events may know more of the container than the first did, never less.
    fn learn_container(&mut self, new: Option<&v1::Container>) {
        let known = |c: &v1::Container| (c.pod.is_some(), !c.id.is_empty());
        if let Some(new) = new
            && self.container.as_ref().is_none_or(|old| known(new) > known(old))
            && let Some(new) = bounded(new)
        {
            self.container = Some(new);
        }
    }

    pub(super) fn pod(&self) -> Option<&v1::Pod> {
        self.container.as_ref().and_then(|c| c.pod.as_ref())
    }

    pub(super) fn is_seen(&self, rights: &Rights) -> bool {
        rights.sees_session(self.container.as_ref(), self.attributed.as_ref())
    }

    /// Those that may touch it: of its node, and of nobody knows where.
    pub(super) fn gaps<'a>(
        &'a self,
        id: &'a str,
        node: &'a Node,
        anywhere: &'a Gaps,
    ) -> impl Iterator<Item = &'a Gap> + 'a {
        let (begin, end) = (self.begin(), self.end);
        node.gaps.iter().chain(anywhere.iter()).filter(move |g| g.touches(id, begin, end))
    }

    /// What is lost is told twice by some: each loss counts once.
    fn lost(&self, id: &str, node: &Node, anywhere: &Gaps) -> u64 {
        let by_session = self.ended.as_ref().map_or(0, v1::SessionEnded::lost);
        Tally::of(self.gaps(id, node, anywhere)).lost(by_session)
    }

    pub(super) fn message(&self, id: &str, node: &Node, anywhere: &Gaps) -> v1::Session {
        v1::Session {
            id: id.to_owned(),
            node: node.name.clone(),
            container: self.container.clone(),
            started: self.started.clone(),
            start: Some(self.start().timestamp()),
            end: self.end.map(Moment::timestamp),
            ended: self.ended,
            commands: self.cursors.commands(),
            lost: self.lost(id, node, anywhere),
            last_event: Some(self.last_event.timestamp()),
            attributed: self.attributed.clone(),
            first_command: self.first_command.clone(),
            cluster: node.cluster.clone(),
            method: self.started.as_ref().and_then(|started| started.method),
            folded: 0,
        }
    }
}

/// The arguments in one line, cut where that gets too long.
fn command_line(argv: &[String]) -> String {
    let mut line = String::new();
    for arg in argv {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(arg);
        if line.len() > MAX_COMMAND_BYTES {
            line.truncate(line.floor_char_boundary(MAX_COMMAND_BYTES));
            line.push('…');
            break;
        }
    }
    line
}
