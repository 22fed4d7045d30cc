//! What the index knows of one session.

use std::{collections::VecDeque, sync::Arc};

use podtrail_proto::v1::{self, EntryMethod, event::Body};
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
    /// the newest with a verdict
    pub(super) attributed: Option<v1::Attributed>,
    /// the same, as it stands on events
    pub(super) attribution: Option<Arc<v1::Attribution>>,
    /// what it was taken for was wrong
    corrected: Option<i32>,
    /// sessions like it that were only counted, and where the log says so
    folded: VecDeque<(Cursor, u64)>,
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
            attribution: None,
            corrected: None,
            folded: VecDeque::new(),
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
            Some(Body::Attributed(a)) => self.attribute(a),
            Some(Body::Folded(folded)) => {
                self.folded.push_back((cursor, folded.sessions()));
                // It was over before it was compared with; its own events are not in the log any more.
                if self.started.is_none() {
                    self.end.get_or_insert(time);
                }
            }
            _ => {}
        }
    }

    /// What an agent says of the container, and the collector of the person, add up.
    fn attribute(&mut self, new: &v1::Attributed) {
        self.learn_container(new.container.as_ref());
        if let Some(started) = self.started.as_mut().filter(|started| started.exec_id.is_empty()) {
            started.exec_id.clone_from(&new.exec_id);
        }
        // What the API server says of it goes before what the node takes it for.
        let named = matches!(new.verdict(), v1::Verdict::ExactId | v1::Verdict::Matched);
        if named || !self.is_person() {
            self.corrected = new.method.or(self.corrected);
        }
        if new.verdict.is_some() {
            // Without what would make it too long, rather than not at all: whose it is must be known.
            self.attributed = bounded(new).or_else(|| {
                bounded(&v1::Attributed {
                    candidates: Vec::new(),
                    evidence: vec!["too long to be listed here: see its events".to_owned()],
                    ..new.clone()
                })
            });
            self.attribution = self.attributed.as_ref().map(|attributed| {
                Arc::new(v1::Attribution {
                    verdict: attributed.verdict,
                    user: attributed.user.clone(),
                    impersonated: attributed.impersonated.clone(),
                })
            });
        }
    }

    /// Whether it is known to be somebody's.
    fn is_person(&self) -> bool {
        let verdict = self.attributed.as_ref().map(v1::Attributed::verdict);
        matches!(verdict, Some(v1::Verdict::ExactId | v1::Verdict::Matched))
    }

    /// How it came in, as far as is known by now.
    pub(super) fn method(&self) -> Option<i32> {
        self.corrected.or_else(|| self.started.as_ref().and_then(|started| started.method))
    }

    /// Whether a verdict is still to come. Of probes and hooks there is none, as long as they are not a person's.
    pub(super) fn awaits_verdict(&self) -> bool {
        let method = self.method().map(EntryMethod::try_from);
        self.attributed.is_none()
            && matches!(
                method,
                Some(Ok(EntryMethod::RuntimeExec
                    | EntryMethod::Unknown
                    | EntryMethod::EphemeralContainer
                    | EntryMethod::NamespaceJoin
                    | EntryMethod::Attach
                    | EntryMethod::PortForward))
            )
    }

    /// Forgets what stood before `oldest`.
    pub(super) fn trim(&mut self, oldest: Cursor) {
        self.cursors.trim(oldest);
        while self.folded.pop_front_if(|(cursor, _)| *cursor < oldest).is_some() {}
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
            method: self.method(),
            folded: self.folded.iter().fold(0, |sum, (_, sessions)| sum.saturating_add(*sessions)),
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
