//! What the node's container runtime knows of containers: their pods, names and images.
//!
//! It is asked over its own socket (CRI, `runtime.v1`), never the API server: no load on it, whatever the number of
//! nodes. What cannot be had says why; nothing here is ever an empty string for "not known".
//!
//! | module | what it does |
//! |---|---|
//! | [`socket`] | where runtimes listen |
//! | [`cri`] | the calls |
//! | [`facts`] | answers → what is known of a container |
//! | [`asker`] | the task that asks: when, how often, what it remembers |
//! | [`execs`] | the task that listens to containerd's events |
//! | [`sessions`] | what follows for sessions: told later, their exec ids, those that the kernel cannot see |
//!
//! Answers are untrusted in length and number, never in kind: who answers on the runtime's socket runs the node.

pub mod asker;
pub mod cri;
pub mod execs;
pub mod facts;
pub mod sessions;
pub mod socket;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use self::{asker::Asker, cri::Cri};
#[cfg(test)]
pub(crate) mod fake;

pub use self::{
    asker::{Ask, Timing},
    execs::{ExecId, ExecWord, StillRuns},
    facts::{Patterns, Rules},
    sessions::Sessions,
    socket::Socket,
};

/// What the runtime says of a container. None of it changes while the container lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerFacts {
    /// as the pod's specification calls it; `None`: it is the pod's sandbox
    pub name: Option<String>,
    /// the pod's own container, which holds its namespaces ("pause")
    pub sandbox: bool,
    pub image: Option<String>,
    /// "sha256:…"
    pub image_digest: Option<String>,
    /// the pod's runtime class, as the node calls it; `None`: the default
    pub runtime_handler: Option<String>,
    #[serde(with = "shared")]
    pub pod: Arc<PodFacts>,
    /// argv of its preStop hook, where the kubelet told the runtime
    pub pre_stop: Option<Vec<String>>,
    /// `false`: the host's kernel cannot see what is run in it (gVisor, Kata)
    pub observable: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodFacts {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// those that the configuration asks for
    pub labels: BTreeMap<String, String>,
}

/// What is known of a container now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lookup {
    Known(#[serde(with = "shared")] Arc<ContainerFacts>),
    /// asked for: an answer, or the reason why there is none, follows
    Pending,
    Missing(Missing),
}

/// Why nothing is known of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Missing {
    /// no runtime's socket on this node, or none wanted
    NoRuntime,
    /// no runtime of the node knows it
    NotFound,
    /// the runtime did not answer
    Unavailable(String),
}

impl Default for Lookup {
    fn default() -> Self {
        Self::Missing(Missing::NoRuntime)
    }
}

impl Lookup {
    #[must_use]
    pub fn known(&self) -> Option<&Arc<ContainerFacts>> {
        match self {
            Self::Known(facts) => Some(facts),
            Self::Pending | Self::Missing(_) => None,
        }
    }
}

/// What the tasks have to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// there is a runtime that answers, maybe another one than before
    Runtime,
    /// of the container with this id
    Container {
        id: String,
        lookup: Lookup,
    },
    Exec(ExecWord),
}

/// Words that may wait for the pipeline, and asks for the tasks.
const QUEUE: usize = 1024;

/// The tasks, until dropped.
#[derive(Debug)]
pub struct Pods {
    asks: mpsc::Sender<Ask>,
    still: mpsc::Sender<StillRuns>,
    words: mpsc::Receiver<Word>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

impl Pods {
    /// Starts to ask the runtime at `socket`. Must be called within a runtime of tokio's.
    #[must_use]
    pub fn start(socket: Socket, rules: Rules, timing: Timing) -> Self {
        let (asks, to_ask) = mpsc::channel(QUEUE);
        let (still, to_look) = mpsc::channel(QUEUE);
        let (say, words) = mpsc::channel(QUEUE);
        let (place, placed) = watch::channel(None::<PathBuf>);
        let backoff = timing.backoff.clone();
        let asker = Asker::new(socket, rules, timing, place);
        let asker = tokio::spawn(asker::run(asker, to_ask, say.clone()));
        let execs = tokio::spawn(execs::run(placed, to_look, say, backoff));
        Self { asks, still, words, _tasks: [AbortOnDropHandle::new(asker), AbortOnDropHandle::new(execs)] }
    }

    /// False: not now.
    #[must_use]
    pub fn ask(&self, ask: Ask) -> bool {
        self.asks.try_send(ask).is_ok()
    }

    /// False: not now.
    #[must_use]
    pub fn still_runs(&self, ask: StillRuns) -> bool {
        self.still.try_send(ask).is_ok()
    }

    /// Waits. Dropping the future loses nothing.
    pub async fn word(&mut self) -> Word {
        match self.words.recv().await {
            Some(word) => word,
            None => std::future::pending().await,
        }
    }

    /// Does not wait.
    pub fn next_word(&mut self) -> Option<Word> {
        self.words.try_recv().ok()
    }
}

/// A runtime's socket, and who answers there, like "containerd 1.6.20", or why nobody does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub socket: PathBuf,
    pub answer: Result<String, String>,
}

/// Which runtimes could be asked, in the order in which they are tried.
pub async fn survey(socket: &Socket) -> Vec<Found> {
    let mut found = Vec::new();
    for socket in socket.places() {
        let answer = Cri::new(&socket).version().await.map_err(|error| error.to_string());
        found.push(Found { socket, answer });
    }
    found
}

/// A shared value is kept as the value.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<T: Serialize, S: Serializer>(value: &Arc<T>, to: S) -> Result<S::Ok, S::Error> {
        T::serialize(value, to)
    }

    pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Arc<T>, D::Error> {
        T::deserialize(from).map(Arc::new)
    }
}
