//! What a principal may see: which calls, which pods' events, and which fields of them. Nothing, unless it is said.
//!
//! - `verbs`: the calls, by name.
//! - `namespaces`: of pods; `team-*` stands for several, and `*` for all, and for what is of no pod that is known.
//! - `fields`: of an event, by the names they have in its JSON, with all below them; `*` for all of them; `!name` takes
//!   one away again. A field's exact bytes (`argvRaw`) go with it (`argv`), and with `attributed.user` all that names
//!   somebody's session's user. `attribution` is shown as `attributed` is, and not at all without its `user`.
//!
//! Always shown, of an event that is shown at all: `id`, `time`, `boottimeNs`, `sessionId`. Gaps and agent states are
//! shown to everybody who may read: who is not told of them takes a hole for the whole. They name sessions only to those
//! who see all namespaces.
//!
//! How a node is concerns everybody on it, so conditions are shown whatever the namespaces; but what a detector read in the kernel's
//! log may be of anybody, so their messages only to those who see all. Events of the Kubernetes API are of the namespace that
//! they are about, and those about no namespace, such as a node, for those who see all.

mod fields;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, sync::Arc};

use podtrail_proto::v1::{self, event::Body};

pub use self::fields::{Fields, FieldsError};
use super::viewer::Verb;

/// What somebody may see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    pub verbs: BTreeSet<Verb>,
    pub namespaces: Namespaces,
    pub fields: Fields,
}

/// Somebody who may read, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    pub name: String,
    pub rights: Rights,
}

/// Namespaces of pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Namespaces {
    /// and what is of no pod
    All,
    Some(Vec<String>),
}

impl Default for Namespaces {
    fn default() -> Self {
        Self::Some(Vec::new())
    }
}

impl FromIterator<String> for Namespaces {
    fn from_iter<T: IntoIterator<Item = String>>(patterns: T) -> Self {
        let patterns: Vec<_> = patterns.into_iter().collect();
        if patterns.iter().any(|pattern| pattern == "*") { Self::All } else { Self::Some(patterns) }
    }
}

impl Namespaces {
    fn has(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Some(patterns) => patterns.iter().any(|pattern| matches(pattern, namespace)),
        }
    }
}

/// A `*` stands for any number of characters.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => name.strip_prefix(head).is_some_and(|rest| {
            rest.char_indices().map(|(at, _)| at).chain([rest.len()]).any(|at| matches(tail, &rest[at..]))
        }),
    }
}

impl Rights {
    /// Everything.
    #[must_use]
    pub fn everything() -> Self {
        Self {
            verbs: [Verb::Tail, Verb::Subscribe, Verb::Sessions, Verb::Nodes].into(),
            namespaces: Namespaces::All,
            fields: Fields::all(),
        }
    }

    fn is_whole(&self) -> bool {
        self.namespaces == Namespaces::All && self.fields.are_all()
    }

    /// The event as it may be seen; `None`: not at all.
    #[must_use]
    pub fn show(&self, event: Arc<v1::Event>) -> Option<Arc<v1::Event>> {
        self.show_in(event, None)
    }

    /// The same of an event of a session that is known to be of this namespace, whatever the event knew.
    #[must_use]
    pub fn show_in(&self, event: Arc<v1::Event>, namespace: Option<&str>) -> Option<Arc<v1::Event>> {
        if self.is_whole() {
            return Some(event);
        }
        // A session says nothing of whose is what happened beside it.
        let namespace = namespace.filter(|_| !matches!(event.body, Some(Body::ClusterEvent(_))));
        let seen = self.sees(namespaces(&event).chain(namespace));
        match &event.body {
            Some(Body::NodeCondition(_) | Body::NodeState(_)) => {
                let seen = self.namespaces == Namespaces::All;
                self.fields.show(if seen { event } else { wordless(event) })
            }
            Some(Body::Gap(_) | Body::AgentState(_)) => Some(if seen { event } else { nameless(event) }),
            _ if seen => self.fields.show(event),
            _ => None,
        }
    }

    /// A session as it may be seen; `None`: not at all.
    #[must_use]
    pub fn show_session(&self, session: v1::Session) -> Option<v1::Session> {
        if self.is_whole() {
            return Some(session);
        }
        if self.sees_session(session.container.as_ref(), session.attributed.as_ref()) {
            self.fields.show_session(&session)
        } else {
            None
        }
    }

    /// A node as it may be seen: its conditions as the events of them.
    #[must_use]
    pub fn show_node(&self, mut node: v1::Node) -> v1::Node {
        let shown = node.conditions.into_iter().filter_map(|condition| {
            let event = v1::Event { body: Some(Body::NodeCondition(condition)), ..v1::Event::default() };
            match self.show(Arc::new(event)).map(Arc::unwrap_or_clone)?.body {
                Some(Body::NodeCondition(condition)) => Some(condition),
                _ => None,
            }
        });
        node.conditions = shown.collect();
        node
    }

    /// Whether a session of this container, attributed like this, may be seen.
    #[must_use]
    pub fn sees_session(
        &self,
        container: Option<&v1::Container>,
        attributed: Option<&v1::Attributed>,
    ) -> bool {
        self.sees(
            container.into_iter().chain(attributed.and_then(|a| a.container.as_ref())).filter_map(of_pod),
        )
    }

    /// Something of these namespaces: every one of them must be theirs, and it must be of one.
    fn sees<'a>(&self, namespaces: impl Iterator<Item = &'a str>) -> bool {
        if self.namespaces == Namespaces::All {
            return true;
        }
        let mut any = false;
        let all = namespaces.into_iter().all(|namespace| {
            any = true;
            self.namespaces.has(namespace)
        });
        any && all
    }
}

fn of_pod(container: &v1::Container) -> Option<&str> {
    container.pod.as_ref().map(|pod| pod.namespace.as_str())
}

/// What an event says of the namespace it is of.
fn namespaces(event: &v1::Event) -> impl Iterator<Item = &str> {
    let attributed = match &event.body {
        Some(Body::Attributed(attributed)) => attributed.container.as_ref(),
        _ => None,
    };
    // A request names its pod even where it leads to none.
    let asked = match &event.body {
        Some(Body::ApiRequest(request)) if !request.namespace.is_empty() => Some(request.namespace.as_str()),
        _ => None,
    };
    // An Event stands in a namespace even where it is about none: a node's in "default".
    let about = match &event.body {
        Some(Body::ClusterEvent(event)) => {
            event.involved.as_ref().map(|involved| involved.namespace.as_str())
        }
        _ => None,
    };
    let about = about.filter(|namespace| !namespace.is_empty());
    event.container.iter().chain(attributed).filter_map(of_pod).chain(asked).chain(about)
}

/// Without what a detector read somewhere.
fn wordless(event: Arc<v1::Event>) -> Arc<v1::Event> {
    let mut event = Arc::unwrap_or_clone(event);
    match &mut event.body {
        Some(Body::NodeCondition(condition)) => condition.message.clear(),
        Some(Body::NodeState(state)) => state.conditions.iter_mut().for_each(|c| c.message.clear()),
        _ => {}
    }
    Arc::new(event)
}

/// Without the sessions and the container that it is about: then it may be about any.
fn nameless(event: Arc<v1::Event>) -> Arc<v1::Event> {
    let mut event = Arc::unwrap_or_clone(event);
    event.container = None;
    event.session_id.clear();
    if let Some(Body::Gap(gap)) = &mut event.body {
        gap.session_ids.clear();
    }
    Arc::new(event)
}
