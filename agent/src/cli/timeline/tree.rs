//! Which process ran what, and under which: built from a session's events in one pass.
//!
//! Never walks up more than it has to: depth and breadth are the session's to choose, so every step is near constant.

use std::collections::HashMap;

use podtrail_proto::v1::{self, event::Body};

/// Names a process within a boot.
type Key = (u32, u64);

/// Something that stands below a process, in the order of events. Numbers are places in the list of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// the process itself ran another program
    Again(usize),
    Child(NodeId),
    Gap(usize),
    Joined(usize),
    /// on the node, or to the pod
    Around(usize),
    /// an exec that failed
    Failed(usize),
}

/// Place of a process in [`Tree::nodes`].
pub(super) type NodeId = usize;

#[derive(Debug)]
pub(super) struct Node {
    /// its first exec
    pub exec: usize,
    pub items: Vec<Item>,
    /// its end
    pub exit: Option<usize>,
    /// the exec that the end is of
    pub last_exec: usize,
    /// its parent ran no command itself: it stands below the root for want of a better place
    pub distant: bool,
    /// where something that is not told of a process goes, once this one is gone
    above: Option<NodeId>,
}

/// The processes of a session.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub nodes: Vec<Node>,
    /// what stands below no process
    pub top: Vec<Item>,
}

impl Tree {
    #[must_use]
    pub(super) fn build(events: &[v1::Event]) -> Self {
        let mut tree = Self::default();
        let mut by_key: HashMap<Key, NodeId> = HashMap::new();
        let mut root = None;
        let mut recent = None;
        for (at, event) in events.iter().enumerate() {
            match &event.body {
                Some(Body::Executed(executed)) => {
                    let key = executed.process.as_ref().map(key);
                    let known = key.and_then(|key| by_key.get(&key).copied());
                    if let Some(node) = known.and_then(|id| tree.nodes.get_mut(id)) {
                        node.items.push(Item::Again(at));
                        node.last_exec = at;
                        recent = known;
                        continue;
                    }
                    let parent =
                        executed.process.as_ref().map(parent_key).and_then(|key| by_key.get(&key).copied());
                    let id = tree.nodes.len();
                    tree.nodes.push(Node {
                        exec: at,
                        items: Vec::new(),
                        exit: None,
                        last_exec: at,
                        distant: parent.is_none() && root.is_some(),
                        above: parent.or(root),
                    });
                    tree.put(parent.or(root), Item::Child(id));
                    if let Some(key) = key {
                        by_key.insert(key, id);
                    }
                    if executed.root() && root.is_none() {
                        root = Some(id);
                    }
                    recent = Some(id);
                }
                Some(Body::Exited(exited)) => {
                    let id = exited.process.as_ref().and_then(|process| by_key.get(&key(process)).copied());
                    if let Some(node) = id.and_then(|id| tree.nodes.get_mut(id)) {
                        node.exit.get_or_insert(at);
                    }
                }
                Some(Body::Gap(_)) => {
                    recent = tree.living(recent);
                    tree.put(recent, Item::Gap(at));
                }
                Some(Body::NodeCondition(_) | Body::ClusterEvent(_)) => {
                    recent = tree.living(recent);
                    tree.put(recent, Item::Around(at));
                }
                Some(Body::NamespaceJoined(v1::NamespaceJoined { process, .. })) => {
                    tree.put(nearest(process.as_ref(), &by_key).or(root), Item::Joined(at));
                }
                Some(Body::ExecFailed(v1::ExecFailed { process, .. })) => {
                    tree.put(nearest(process.as_ref(), &by_key).or(root), Item::Failed(at));
                }
                Some(
                    Body::SessionStarted(_)
                    | Body::SessionEnded(_)
                    | Body::Attributed(_)
                    | Body::NodeState(_)
                    | Body::NodeObserved(_)
                    | Body::AgentState(_)
                    | Body::ApiRequest(_)
                    | Body::Folded(_),
                )
                | None => {}
            }
        }
        tree
    }

    fn put(&mut self, node: Option<NodeId>, item: Item) {
        match node.and_then(|id| self.nodes.get_mut(id)) {
            Some(node) => node.items.push(item),
            None => self.top.push(item),
        }
    }

    /// The nearest process that has not ended, from `id` up. Halves the way for the next who asks.
    fn living(&mut self, mut id: Option<NodeId>) -> Option<NodeId> {
        while let Some(node) = id.and_then(|id| self.nodes.get(id)) {
            if node.exit.is_none() {
                break;
            }
            let above = node.above;
            let shorter = match above.and_then(|above| self.nodes.get(above)) {
                Some(parent) if parent.exit.is_some() => parent.above,
                _ => above,
            };
            if let Some(node) = id.and_then(|id| self.nodes.get_mut(id)) {
                node.above = shorter;
            }
            id = shorter;
        }
        id
    }
}

/// The process, or else its parent.
fn nearest(process: Option<&v1::Process>, by_key: &HashMap<Key, NodeId>) -> Option<NodeId> {
    let process = process?;
    by_key.get(&key(process)).or_else(|| by_key.get(&parent_key(process))).copied()
}

fn key(process: &v1::Process) -> Key {
    (process.pid, process.start_time)
}

fn parent_key(process: &v1::Process) -> Key {
    (process.parent_pid, process.parent_start_time)
}
