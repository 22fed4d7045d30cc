//! Which of a node's conditions are watched.

/// The kubelet's own: it says them of itself, and they are everybody's daily business.
const KUBELETS: [&str; 5] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable"];

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// all but the kubelet's own five
    #[default]
    Others,
    /// those of these types
    Types(Vec<String>),
    /// those that this manager wrote, by the Node's managed fields
    Manager(String),
}

impl Choice {
    pub(super) fn manager(&self) -> Option<&str> {
        match self {
            Self::Manager(manager) => Some(manager),
            Self::Others | Self::Types(_) => None,
        }
    }

    /// `owned`: the types that the manager wrote.
    pub(super) fn takes(&self, kind: &str, owned: &[String]) -> bool {
        match self {
            Self::Others => !KUBELETS.contains(&kind),
            Self::Types(types) => types.iter().any(|chosen| chosen == kind),
            Self::Manager(_) => owned.iter().any(|own| own == kind),
        }
    }

    /// Of what the detector itself told, on the node: there is nobody else's among it.
    pub(super) fn takes_from_detector(&self, kind: &str) -> bool {
        match self {
            Self::Others | Self::Types(_) => self.takes(kind, &[]),
            Self::Manager(_) => true,
        }
    }
}
