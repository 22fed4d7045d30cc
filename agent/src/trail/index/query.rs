//! Questions to the index.

use std::{collections::BTreeSet, ops::Bound, sync::Arc};

use podtrail_proto::v1;
use prost::Message as _;

use super::{Index, Key, NodeNumber, Session, around, node::Node};
use crate::trail::{Moment, log::Cursor, rights::Rights};

/// How many candidates an ambiguous question names.
const MAX_CANDIDATES: usize = 5;

/// Which sessions; the default is all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// open at or after it
    pub since: Option<Moment>,
    /// open at or before it
    pub until: Option<Moment>,
    pub namespace: Option<String>,
    pub pod: Option<String>,
    pub user: Option<String>,
    pub method: Option<i32>,
    pub node: Option<String>,
    /// or a unique beginning of it
    pub container: Option<String>,
}

/// Where a list goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageToken {
    start: Moment,
    key: Key,
}

/// What the log holds of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    pub started: bool,
    /// has a verdict
    pub attributed: bool,
    pub ended: bool,
}

/// A part of a list of sessions, newest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SessionsPage {
    pub sessions: Vec<v1::Session>,
    pub next: Option<PageToken>,
}

/// A session that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRef(pub(super) Key);

/// Why a name finds nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// there is no {what} {name:?}
    #[error("there is no {what} {name:?} in the log: it was never recorded, or is trimmed already")]
    None { what: &'static str, name: String },
    /// {name:?} is the beginning of several
    #[error("{name:?} is the beginning of several {what}s, write more of it: {}", .candidates.join(", "))]
    Ambiguous { what: &'static str, name: String, candidates: Vec<String> },
}

impl PageToken {
    /// As it goes over the wire.
    #[must_use]
    pub fn encode(&self) -> String {
        format!("{}/{}/{}", self.start.0, self.key.node.0, self.key.id)
    }

    /// `None`: nothing that [`Self::encode`] made.
    #[must_use]
    pub fn decode(token: &str) -> Option<Self> {
        let mut parts = token.splitn(3, '/');
        let start = Moment(parts.next()?.parse().ok()?);
        let node = NodeNumber(parts.next()?.parse().ok()?);
        Some(Self { start, key: Key { id: parts.next()?.into(), node } })
    }
}

impl Filter {
    fn takes(&self, session: &Session, node: &Node) -> bool {
        let Self { since, until, namespace, pod, user, method, node: on, container } = self;
        let same = |wanted: &Option<String>, has: Option<&str>| {
            wanted.as_deref().is_none_or(|w| has.is_some_and(|h| h == w))
        };
        // Whoever acted as somebody else is found by both names.
        let is_user = |wanted: &str| {
            let attributed = session.attributed.as_ref();
            let users = attributed.into_iter().flat_map(|a| a.user.iter().chain(&a.impersonated));
            users.into_iter().any(|user| user.name == wanted)
        };
        since.is_none_or(|since| session.end.is_none_or(|end| end >= since))
            && until.is_none_or(|until| session.begin() <= until)
            && same(namespace, session.pod().map(|p| p.namespace.as_str()))
            && same(pod, session.pod().map(|p| p.name.as_str()))
            && user.as_deref().is_none_or(is_user)
            && same(on, Some(&node.name))
            && method.is_none_or(|m| session.method().unwrap_or(0) == m)
            && container.as_deref().is_none_or(|c| container_id(session).starts_with(c))
    }
}

fn container_id(session: &Session) -> &str {
    session.container.as_ref().map_or("", |c| &c.id)
}

impl Index {
    /// Sessions that somebody with these rights may see, newest first, up to `max_sessions` and about `max_bytes`, from
    /// `after` on.
    pub fn sessions(
        &self,
        filter: &Filter,
        rights: &Rights,
        after: Option<&PageToken>,
        max_sessions: usize,
        max_bytes: usize,
    ) -> Result<SessionsPage, FindError> {
        self.check_container(filter, rights)?;
        let upper = after.map_or(Bound::Unbounded, |t| Bound::Excluded((t.start, t.key.clone())));
        let mut page = SessionsPage::default();
        let mut bytes = 0;
        let mut last = None;
        for (start, key) in self.by_start.range((Bound::Unbounded, upper)).rev() {
            let (Some(session), Some(node)) = (self.sessions.get(key), self.nodes.get(&key.node)) else {
                continue;
            };
            if !session.is_seen(rights) || !filter.takes(session, node) {
                continue;
            }
            let message = session.message(&key.id, node, &self.anywhere);
            let Some(message) = rights.show_session(message) else { continue };
            let len = message.encoded_len();
            if !page.sessions.is_empty() && (page.sessions.len() >= max_sessions || bytes + len > max_bytes) {
                page.next = last;
                break;
            }
            bytes += len;
            page.sessions.push(message);
            last = Some(PageToken { start: *start, key: key.clone() });
        }
        Ok(page)
    }

    /// A beginning of a container's id must mean one container, of those that they may see.
    fn check_container(&self, filter: &Filter, rights: &Rights) -> Result<(), FindError> {
        let Some(prefix) = filter.container.as_deref() else { return Ok(()) };
        let seen = self.sessions.values().filter(|session| session.is_seen(rights));
        let ids: BTreeSet<&str> = seen.map(container_id).filter(|id| id.starts_with(prefix)).collect();
        if ids.len() > 1 && !ids.contains(prefix) {
            let candidates = ids.iter().take(MAX_CANDIDATES).map(|&id| id.to_owned()).collect();
            return Err(FindError::Ambiguous { what: "container", name: prefix.to_owned(), candidates });
        }
        Ok(())
    }

    /// The session with this id, or the only one whose id begins with it, of those that they may see: of others they
    /// are not told that there are any.
    pub fn find(&self, id: &str, rights: &Rights) -> Result<SessionRef, FindError> {
        let from = Key { id: id.into(), node: NodeNumber(0) };
        let matches = || {
            let all = self.sessions.range(from.clone()..).take_while(|(k, _)| k.id.starts_with(id));
            all.filter(|(_, session)| session.is_seen(rights)).map(|(k, _)| k)
        };
        let exact = || matches().take_while(|k| &*k.id == id);
        let ambiguous = |keys: &mut dyn Iterator<Item = &Key>, named: bool| FindError::Ambiguous {
            what: "session",
            name: id.to_owned(),
            candidates: keys
                .take(MAX_CANDIDATES)
                .map(|k| match self.nodes.get(&k.node) {
                    Some(node) if named => format!("{} on {}/{}", k.id, node.cluster, node.name),
                    _ => k.id.to_string(),
                })
                .collect(),
        };
        let none = || FindError::None { what: "session", name: id.to_owned() };
        if id.is_empty() {
            return Err(none());
        }
        match (exact().count(), matches().take(2).count()) {
            (1, _) => exact().next().cloned().map(SessionRef).ok_or_else(none),
            (0, 1) => matches().next().cloned().map(SessionRef).ok_or_else(none),
            (0, 0) => Err(none()),
            (0, _) => Err(ambiguous(&mut matches(), false)),
            (_, _) => Err(ambiguous(&mut exact(), true)),
        }
    }

    /// What is known of a session that the collector made, on no node.
    #[must_use]
    pub fn known(&self, cluster: &str, id: &str) -> Known {
        let number = self.node_numbers.get(cluster).and_then(|names| names.get(""));
        let session = number.and_then(|n| self.sessions.get(&Key { id: id.into(), node: *n }));
        session.map_or_else(Known::default, |session| Known {
            started: session.is_announced(),
            attributed: session.attributed.is_some(),
            ended: session.end.is_some(),
        })
    }

    /// Whose session an event is of, as far as is known; `None`: of none, or not known.
    #[must_use]
    pub fn attribution(&self, event: &v1::Event) -> Option<Arc<v1::Attribution>> {
        if self.attributed == 0 {
            return None;
        }
        self.session_of(event)?.attribution.clone()
    }

    /// Whether a verdict on the session of this event is still to come.
    #[must_use]
    pub fn awaits_verdict(&self, event: &v1::Event) -> bool {
        self.session_of(event).is_some_and(Session::awaits_verdict)
    }

    fn session_of(&self, event: &v1::Event) -> Option<&Session> {
        let id = event.id.as_ref().filter(|_| !event.session_id.is_empty())?;
        let node = *self.node_numbers.get(&id.cluster)?.get(&id.node)?;
        self.sessions.get(&Key { id: event.session_id.as_str().into(), node })
    }

    /// Where requests to API servers and verdicts stand, up to `to`: the newest `max`, ascending.
    #[must_use]
    pub fn for_attribution(&self, to: Cursor, max: usize) -> Vec<Cursor> {
        let end = self.for_attribution.partition_point(|cursor| *cursor <= to);
        self.for_attribution.range(end.saturating_sub(max)..end).copied().collect()
    }

    /// What is known of it; `None`: it was dropped since.
    #[must_use]
    pub fn session(&self, session: &SessionRef) -> Option<v1::Session> {
        let key = &session.0;
        Some(self.sessions.get(key)?.message(&key.id, self.nodes.get(&key.node)?, &self.anywhere))
    }

    /// Where its events stand, the gaps that may touch it, and what happened on its node and to its pod meanwhile: ascending, after `after`, at most `max`.
    #[must_use]
    pub fn cursors(&self, session: &SessionRef, after: Cursor, max: usize) -> Vec<Cursor> {
        let key = &session.0;
        let (Some(session), Some(node)) = (self.sessions.get(key), self.nodes.get(&key.node)) else {
            return Vec::new();
        };
        let time = (session.begin(), session.end);
        let around = around::of_session(&self.nodes, &self.pods, key.node, session.pod(), time);
        let around = around.range((Bound::Excluded(after), Bound::Unbounded)).copied();
        let gaps = session.gaps(&key.id, node, &self.anywhere);
        let gaps: BTreeSet<Cursor> = gaps.map(|g| g.cursor).filter(|c| *c > after).collect();
        let own = session.cursors.iter().filter(|c| *c > after).take(max);
        let all: BTreeSet<Cursor> = own.chain(gaps).chain(around).collect();
        all.into_iter().take(max).collect()
    }

    /// Where agents say what they were told by the detectors of their nodes: ascending, after `after`, at most `max`.
    #[must_use]
    pub fn observed(&self, after: Cursor, max: usize) -> Vec<Cursor> {
        self.observed.after(after, max)
    }

    /// Nodes of which an agent was heard, by cluster and name.
    #[must_use]
    pub fn agents(&self) -> Vec<v1::Node> {
        let has = |node: &v1::Node| {
            let number = self.node_numbers.get(&node.cluster).and_then(|names| names.get(&node.name));
            number.and_then(|number| self.nodes.get(number)).is_some_and(Node::has_agent)
        };
        self.nodes().into_iter().filter(has).collect()
    }

    /// Whether the last that came from this node's agent was that it stopped.
    #[must_use]
    pub fn has_stopped(&self, cluster: &str, name: &str) -> bool {
        let number = self.node_numbers.get(cluster).and_then(|names| names.get(name));
        number.and_then(|number| self.nodes.get(number)).is_some_and(|node| node.stopped)
    }

    /// All nodes, by cluster and name.
    #[must_use]
    pub fn nodes(&self) -> Vec<v1::Node> {
        self.node_numbers
            .values()
            .flat_map(|names| names.values())
            .filter_map(|n| self.nodes.get(n))
            // What the collector says of a whole cluster is of no node.
            .filter(|node| !node.name.is_empty())
            .map(Node::message)
            .collect()
    }
}
