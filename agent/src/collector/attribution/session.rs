//! A session, as far as it matters to whose it is.

use podtrail_proto::v1::{self, EntryMethod};

use super::verdict::Said;
use crate::trail::{Moment, log::Cursor};

/// Longest arguments that are kept; the rest counts as cut.
const MAX_ARGV_BYTES: usize = 64 * 1024;

/// Names a session: ids are unique, but a node may claim that of another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey {
    pub cluster: String,
    pub node: String,
    pub id: String,
}

/// Names a pod, at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodKey {
    pub cluster: String,
    pub namespace: String,
    pub name: String,
}

/// What the root ran.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Argv {
    pub words: Vec<String>,
    /// the first word of the tail, which may lack its beginning; all are whole without it
    pub cut: Option<usize>,
    /// what was asked for is a script: its interpreter stands before it
    pub script: String,
}

/// Where its container is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// not known yet
    #[default]
    Unknown,
    Pod(PodKey),
    /// no pod's
    NoPod,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Session {
    /// of `SessionStarted`
    pub cursor: Cursor,
    /// when the newest that matters came
    pub logged: Moment,
    /// when `SessionStarted` came
    pub first_logged: Moment,
    pub key: SessionKey,
    pub entered: Moment,
    pub method: EntryMethod,
    pub terminal: Option<bool>,
    /// of the root's environment
    pub audit_id: String,
    pub root: Option<(u32, u64)>,
    pub argv: Option<Argv>,
    pub container: Option<v1::Container>,
    /// as `SessionStarted` said it
    pub container_id: String,
    pub place: Place,
    pub root_end: Option<Moment>,
    pub end: Option<Moment>,
    pub said: Option<Said>,
}

impl Session {
    pub fn new(
        cursor: Cursor,
        logged: Moment,
        key: SessionKey,
        event: &v1::Event,
        s: &v1::SessionStarted,
    ) -> Self {
        let time = event.time.as_ref().map(Moment::from_timestamp);
        let mut this = Self {
            cursor,
            logged,
            first_logged: logged,
            key,
            entered: s.entered.as_ref().map(Moment::from_timestamp).or(time).unwrap_or(logged),
            method: s.method(),
            terminal: s.interactive.or(s.tty.as_ref().map(|_| true)),
            audit_id: s.exec_audit_id.clone(),
            root: s.root.as_ref().map(|root| (root.pid, root.start_time)),
            argv: None,
            container: None,
            container_id: event.container.as_ref().map(|c| c.id.clone()).unwrap_or_default(),
            place: Place::Unknown,
            root_end: None,
            end: None,
            said: None,
        };
        this.learn(event.container.as_ref());
        this
    }

    /// Later events may know more of the container than the first did. Returns whether this one does.
    pub fn learn(&mut self, container: Option<&v1::Container>) -> bool {
        let Some(container) = container else { return false };
        let place = match &container.pod {
            Some(pod) if !pod.name.is_empty() => Place::Pod(PodKey {
                cluster: self.key.cluster.clone(),
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
            }),
            // The runtime knows it, and of no pod.
            _ if container.metadata() == v1::Metadata::Known => Place::NoPod,
            _ => Place::Unknown,
        };
        let better = match (&self.place, &place) {
            (Place::Unknown, _) => self.container.is_none() || place != Place::Unknown,
            (Place::NoPod, Place::Pod(_)) => true,
            _ => false,
        };
        if better {
            self.container = Some(v1::Container {
                // Enough to say whose it is, and whose it may be seen by.
                pod: container
                    .pod
                    .as_ref()
                    .map(|pod| v1::Pod { labels: std::collections::HashMap::default(), ..pod.clone() }),
                ..container.clone()
            });
            self.place = place;
        }
        better
    }

    pub fn ran(&mut self, executed: &v1::Executed) {
        let mut bytes = 0;
        let fits = executed.argv.iter().take_while(|word| {
            bytes += word.len();
            bytes <= MAX_ARGV_BYTES
        });
        let words: Vec<String> = fits.cloned().collect();
        let cut = executed.truncated().then_some(executed.argv_cut_index as usize);
        let cut = if words.len() < executed.argv.len() {
            Some(cut.unwrap_or(words.len()).min(words.len()))
        } else {
            cut
        };
        self.argv = Some(Argv { words, cut, script: executed.script.clone() });
    }

    /// A probe or a hook, as far as the node can tell.
    #[must_use]
    pub fn is_kubelets(&self) -> bool {
        matches!(self.method, EntryMethod::ExecProbe | EntryMethod::LifecycleHook)
    }

    #[must_use]
    pub fn container_name(&self) -> &str {
        self.container.as_ref().map_or("", |container| &container.name)
    }
}
