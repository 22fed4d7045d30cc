//! What the collector can be told of the Kubernetes API.

use std::time::Duration;

use super::settings::{
    Settings,
    value::{duration, name, path, quoted},
};
use crate::collector::nodes::{self, Access, Choice, Patience};

/// As the agents' own name for their cluster.
const CLUSTER: &str = "default";
const STATE_EVERY: Duration = Duration::from_secs(10 * 60);
const STATE_EVERY_MIN: Duration = Duration::from_secs(30);
/// Twice what the node-problem-detector takes for a heartbeat.
const STALE_AFTER: Duration = Duration::from_secs(10 * 60);
const STALE_AFTER_MIN: Duration = Duration::from_secs(60);

/// Its flags.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct KubernetesFlags {
    /// Whose nodes and Events to watch: in-cluster (by the pod's service account), the path of a kubeconfig, or none [default: none]
    #[arg(long, value_name = "WHERE")]
    pub kubernetes: Option<String>,
    /// The name of that cluster, as its agents have it [default: default]
    #[arg(long, value_name = "NAME")]
    pub kubernetes_cluster: Option<String>,
    /// Which conditions of nodes: all (but the kubelet's own five), types with commas between them, or manager:NAME, those that it
    /// wrote by the node's managed fields [default: all]
    #[arg(long, value_name = "WHICH")]
    pub node_conditions: Option<String>,
    /// Which Events of the Kubernetes API: all, nodes (only those about nodes), or none [default: all]
    #[arg(long, value_name = "WHICH")]
    pub cluster_events: Option<String>,
    /// How often the whole state of each node is said again [default: 10m]
    #[arg(long, value_name = "DURATION")]
    pub node_state_every: Option<String>,
    /// A condition that nobody confirmed for so long is stale [default: 10m]
    #[arg(long, value_name = "DURATION")]
    pub node_stale_after: Option<String>,
    /// For tests, which do not wait for so long
    #[arg(long, hide = true)]
    pub kubernetes_soon: bool,
}

pub(super) const KEYS: [&str; 6] = [
    "kubernetes",
    "kubernetes-cluster",
    "node-conditions",
    "cluster-events",
    "node-state-every",
    "node-stale-after",
];

/// Which Events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Events {
    #[default]
    All,
    OfNodes,
    None,
}

/// What was told, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    /// `None`: no API server is asked
    pub access: Option<Access>,
    pub events: Events,
    pub patience: Patience,
    pub settings: nodes::Settings,
}

impl Default for Kubernetes {
    fn default() -> Self {
        Self {
            access: None,
            events: Events::All,
            patience: Patience::default(),
            settings: nodes::Settings {
                cluster: CLUSTER.to_owned(),
                choice: Choice::Others,
                state_every: STATE_EVERY,
                stale_after: STALE_AFTER,
            },
        }
    }
}

impl KubernetesFlags {
    pub(super) fn put(self, settings: &mut Settings) {
        let Self {
            kubernetes,
            kubernetes_cluster,
            node_conditions,
            cluster_events,
            node_state_every,
            node_stale_after,
            kubernetes_soon: _,
        } = self;
        settings.flag("--kubernetes", kubernetes);
        settings.flag("--kubernetes-cluster", kubernetes_cluster);
        settings.flag("--node-conditions", node_conditions);
        settings.flag("--cluster-events", cluster_events);
        settings.flag("--node-state-every", node_state_every);
        settings.flag("--node-stale-after", node_stale_after);
    }
}

/// `soon`: for tests.
pub(super) fn check(settings: &mut Settings, soon: bool) -> Kubernetes {
    let Kubernetes { access, events, patience, settings: defaults } = Kubernetes::default();
    let least = |least| if soon { Duration::ZERO } else { least };
    let nodes::Settings { cluster, choice, state_every, stale_after } = defaults;
    Kubernetes {
        access: settings.check("kubernetes", access, |text| match text {
            "none" => Ok(None),
            "in-cluster" => Ok(Some(Access::InCluster)),
            text => path(text)
                .map(|path| Some(Access::Kubeconfig(path)))
                .map_err(|e| format!("{e}, nor in-cluster, nor none")),
        }),
        events: settings.check("cluster-events", events, |text| match text {
            "all" => Ok(Events::All),
            "nodes" => Ok(Events::OfNodes),
            "none" => Ok(Events::None),
            text => Err(format!("{} is not all, nodes or none", quoted(text))),
        }),
        patience: if soon {
            Patience { watch: Duration::from_secs(3), answer: Duration::from_secs(5) }
        } else {
            patience
        },
        settings: nodes::Settings {
            cluster: settings.check("kubernetes-cluster", cluster, name),
            choice: settings.check("node-conditions", choice, which),
            state_every: settings
                .check("node-state-every", state_every, |text| duration(text, least(STATE_EVERY_MIN))),
            stale_after: settings
                .check("node-stale-after", stale_after, |text| duration(text, least(STALE_AFTER_MIN))),
        },
    }
}

fn which(text: &str) -> Result<Choice, String> {
    let is_name = |name: &str| {
        !name.is_empty() && name.len() <= 253 && name.chars().all(|c| c.is_ascii_graphic() && c != ':')
    };
    if text == "all" {
        return Ok(Choice::Others);
    }
    if let Some(manager) = text.strip_prefix("manager:").map(str::trim) {
        return if is_name(manager) {
            Ok(Choice::Manager(manager.to_owned()))
        } else {
            Err(format!("{} names no manager, like manager:node-problem-detector", quoted(text)))
        };
    }
    let types: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
    if types.iter().all(|name| is_name(name)) {
        return Ok(Choice::Types(types));
    }
    Err(format!("{} is not all, manager:NAME, or types like KernelDeadlock,ReadonlyFilesystem", quoted(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Kubernetes, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let mut settings = Settings::read(Some(file.path()), &KEYS, &[]).unwrap();
        let checked = check(&mut settings, false);
        let path = file.path().display().to_string();
        settings.finish(checked).map_err(|e| e.to_string().replace(&path, "F"))
    }

    #[test]
    fn nobody_is_asked_unless_it_is_said() {
        assert_eq!(load("").unwrap(), Kubernetes::default());
        assert_eq!(load("kubernetes = \"none\"\n").unwrap(), Kubernetes::default());
        assert_eq!(load("kubernetes = \"in-cluster\"\n").unwrap().access, Some(Access::InCluster));
        let told = "kubernetes = \"/etc/podtrail/kubeconfig\"\nkubernetes-cluster = \"east\"\ncluster-events = \"nodes\"\n\
                    node-conditions = \"KernelDeadlock, FDPressure\"\nnode-state-every = \"5m\"\nnode-stale-after = \"1h\"\n";
        assert_eq!(
            load(told).unwrap(),
            Kubernetes {
                access: Some(Access::Kubeconfig("/etc/podtrail/kubeconfig".into())),
                events: Events::OfNodes,
                patience: Patience::default(),
                settings: nodes::Settings {
                    cluster: "east".to_owned(),
                    choice: Choice::Types(vec!["KernelDeadlock".to_owned(), "FDPressure".to_owned()]),
                    state_every: Duration::from_secs(300),
                    stale_after: Duration::from_secs(3600),
                },
            }
        );
        let manager = load("node-conditions = \"manager:node-problem-detector\"\n").unwrap();
        assert_eq!(manager.settings.choice, Choice::Manager("node-problem-detector".to_owned()));
        assert_eq!(load("cluster-events = \"none\"\n").unwrap().events, Events::None);
    }

    #[test]
    fn what_cannot_be_is_told_in_its_place() {
        let told = |text: &str| load(text).unwrap_err();
        assert_eq!(
            told("kubernetes = \"auto\"\n"),
            "F:1:1: kubernetes: \"auto\" is not an absolute path, nor in-cluster, nor none"
        );
        assert_eq!(
            told("cluster-events = \"pods\"\n"),
            "F:1:1: cluster-events: \"pods\" is not all, nodes or none"
        );
        for wrong in ["", "a,,b", "a b", ":", "x:y"] {
            let text = format!("node-conditions = \"{wrong}\"\n");
            assert!(told(&text).contains("is not all, manager:NAME, or types"), "{wrong}");
        }
        assert!(told("node-conditions = \"manager:\"\n").contains("names no manager"));
        assert!(told("node-state-every = \"1s\"\n").contains("node-state-every"));
        assert!(told("node-stale-after = \"10s\"\n").contains("node-stale-after"));
    }
}
