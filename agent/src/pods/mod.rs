//! What the node's container runtime knows of containers: their pods, names and images.
//!
//! It is asked over its own socket (CRI, `runtime.v1`), never the API server: no load on it, whatever the number of
//! nodes. What cannot be had says why; nothing here is ever an empty string for "not known".

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

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
