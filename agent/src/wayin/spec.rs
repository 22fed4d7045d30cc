//! What a pod's specification has the kubelet run: the pods of its `/pods`, read from JSON that may be anything.
//!
//! Of a pod is kept what a session is compared with, and no text but names: commands are digests.

use std::{collections::HashMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, SeqAccess, Visitor},
};

use super::command::Command;
use crate::event::ProbeKind;

const MAX_PODS: usize = 4096;
/// Of a pod, of each kind.
const MAX_CONTAINERS: usize = 1024;
/// Of a node: three times what it may have by default, with ten containers each.
const MAX_CONTAINERS_IN_ALL: usize = 16 * 1024;
const MAX_ARGS: usize = 16 * 1024;
const MAX_VARIABLES: usize = 64 * 1024;
/// Bytes of a pod's commands with what their variables stand for: a few bytes can ask for any number. What is beyond is
/// no probe that anybody could tell by its command.
const MAX_EXPANDED: usize = 1 << 20;
/// Of a name or an id.
const MAX_NAME: usize = 512;

/// A pod of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSpec {
    pub containers: Vec<ContainerSpec>,
    /// it is being deleted: its containers are being stopped
    pub deleting: bool,
    /// seconds that its containers have to stop
    pub grace: u64,
}

/// A container of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerSpec {
    pub name: String,
    /// the runtime's id; `None`: it has not been told yet
    pub id: Option<String>,
    pub role: Role,
    pub commands: Vec<SpecCommand>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Container,
    /// ends before the containers start
    Init,
    /// an init container that stays
    Sidecar,
    Ephemeral,
}

/// A command that the kubelet runs in a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecCommand {
    pub kind: ProbeKind,
    pub command: Command,
    /// nanoseconds; `None`: not run again and again
    pub period: Option<u64>,
}

/// The pods in a `PodList`, by their uid as cgroups are called.
pub fn read(json: &[u8]) -> Result<HashMap<String, PodSpec>, serde_json::Error> {
    let PodList { kind, items } = serde_json::from_slice(json)?;
    if kind != "PodList" {
        return Err(serde_json::Error::custom("that is no PodList"));
    }
    Ok(items.map(|Pods(pods)| pods).unwrap_or_default())
}

#[derive(Deserialize)]
struct PodList {
    kind: String,
    items: Option<Pods>,
}

/// Each pod is made small before the next is read.
struct Pods(HashMap<String, PodSpec>);

impl<'de> Deserialize<'de> for Pods {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Pods;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of pods")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Pods, A::Error> {
                let (mut pods, mut containers) = (HashMap::new(), 0_usize);
                while let Some(pod) = seq.next_element::<Pod>()? {
                    let Pod { metadata, spec, status } = pod;
                    let Metadata { uid, annotations, deletion_timestamp } = metadata;
                    let spec = describe(spec, status, deletion_timestamp.is_some());
                    containers += spec.containers.len();
                    if pods.len() >= MAX_PODS || containers > MAX_CONTAINERS_IN_ALL {
                        return Err(A::Error::custom("more pods than a node can have"));
                    }
                    // A static pod's cgroups may be called by the hash of its file.
                    let Annotations { hash, mirror } = annotations.unwrap_or_default();
                    let others = [hash, mirror].into_iter().flatten().filter(|other| *other != uid);
                    for uid in others.chain([uid.clone()]).filter(|uid| is_name(uid)) {
                        pods.insert(uid, spec.clone());
                    }
                }
                Ok(Pods(pods))
            }
        }
        deserializer.deserialize_seq(Each)
    }
}

/// A list with a limit.
struct Few<T, const MAX: usize>(Vec<T>);

impl<T, const MAX: usize> Default for Few<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Few<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AtMost<T, const MAX: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for AtMost<T, MAX> {
            type Value = Few<T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX}")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Few<T, MAX>, A::Error> {
                let mut list = Vec::new();
                while let Some(next) = seq.next_element()? {
                    if list.len() >= MAX {
                        return Err(A::Error::invalid_length(MAX + 1, &self));
                    }
                    list.push(next);
                }
                Ok(Few(list))
            }

            fn visit_unit<E>(self) -> Result<Few<T, MAX>, E> {
                Ok(Few::default())
            }
        }
        deserializer.deserialize_any(AtMost::<T, MAX>(PhantomData))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pod {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    uid: String,
    annotations: Option<Annotations>,
    deletion_timestamp: Option<IgnoredAny>,
}

#[derive(Default, Deserialize)]
struct Annotations {
    #[serde(rename = "kubernetes.io/config.hash")]
    hash: Option<String>,
    #[serde(rename = "kubernetes.io/config.mirror")]
    mirror: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    containers: Few<Container, MAX_CONTAINERS>,
    init_containers: Few<Container, MAX_CONTAINERS>,
    ephemeral_containers: Few<Container, MAX_CONTAINERS>,
    termination_grace_period_seconds: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    name: String,
    restart_policy: Option<String>,
    env: Option<Few<Variable, MAX_VARIABLES>>,
    liveness_probe: Option<Probe>,
    readiness_probe: Option<Probe>,
    startup_probe: Option<Probe>,
    lifecycle: Option<Lifecycle>,
}

#[derive(Deserialize)]
struct Variable {
    name: String,
    value: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    exec: Option<Exec>,
    period_seconds: Option<u32>,
}

#[derive(Deserialize)]
struct Exec {
    #[serde(default)]
    command: Few<String, MAX_ARGS>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Lifecycle {
    post_start: Option<Handler>,
    pre_stop: Option<Handler>,
}

#[derive(Deserialize)]
struct Handler {
    exec: Option<Exec>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    container_statuses: Few<ContainerStatus, MAX_CONTAINERS>,
    init_container_statuses: Few<ContainerStatus, MAX_CONTAINERS>,
    ephemeral_container_statuses: Few<ContainerStatus, MAX_CONTAINERS>,
}

#[derive(Deserialize)]
struct ContainerStatus {
    name: String,
    #[serde(rename = "containerID")]
    id: Option<String>,
}

fn describe(spec: Spec, status: Status, deleting: bool) -> PodSpec {
    let Spec { containers, init_containers, ephemeral_containers, termination_grace_period_seconds } = spec;
    let Status { container_statuses, init_container_statuses, ephemeral_container_statuses } = status;
    let statuses = [container_statuses, init_container_statuses, ephemeral_container_statuses];
    let mut ids: HashMap<String, String> = HashMap::new();
    for ContainerStatus { name, id } in statuses.into_iter().flat_map(|Few(statuses)| statuses) {
        // "containerd://3099e8…"
        let id = id.as_deref().and_then(|id| id.split_once("://")).map(|(_, id)| id);
        if let Some(id) = id.filter(|id| is_name(id)) {
            ids.insert(name, id.to_owned());
        }
    }
    let kinds = [
        (containers, Role::Container),
        (init_containers, Role::Init),
        (ephemeral_containers, Role::Ephemeral),
    ];
    let all = kinds
        .into_iter()
        .flat_map(|(Few(containers), role)| containers.into_iter().map(move |container| (container, role)));
    let mut room = MAX_EXPANDED;
    let containers = all.filter(|(container, _)| is_name(&container.name)).map(|(container, role)| {
        let stays = container.restart_policy.as_deref() == Some("Always");
        let role = if role == Role::Init && stays { Role::Sidecar } else { role };
        let id = ids.remove(&container.name);
        ContainerSpec { id, role, commands: commands(&container, &mut room), name: container.name }
    });
    PodSpec {
        containers: containers.collect(),
        deleting,
        grace: termination_grace_period_seconds.unwrap_or(30),
    }
}

fn commands(container: &Container, room: &mut usize) -> Vec<SpecCommand> {
    let Container {
        name: _,
        restart_policy: _,
        env,
        liveness_probe,
        readiness_probe,
        startup_probe,
        lifecycle,
    } = container;
    let variables = env.iter().flat_map(|Few(variables)| variables);
    let variables: HashMap<&str, &str> = variables
        .map(|Variable { name, value }| (name.as_str(), value.as_deref().unwrap_or_default()))
        .collect();
    let probes = [
        (ProbeKind::Liveness, liveness_probe),
        (ProbeKind::Readiness, readiness_probe),
        (ProbeKind::Startup, startup_probe),
    ];
    let probes = probes.into_iter().filter_map(|(kind, probe)| {
        let Probe { exec, period_seconds } = probe.as_ref()?;
        let Few(args) = &exec.as_ref()?.command;
        let args = args.iter().map(|arg| expand(arg, &variables, room)).collect::<Option<Vec<_>>>()?;
        let command = Command::of(args);
        let seconds = period_seconds.filter(|seconds| *seconds > 0).unwrap_or(10);
        Some(SpecCommand { kind, command, period: Some(u64::from(seconds) * 1_000_000_000) })
    });
    let lifecycle = lifecycle.as_ref();
    let hooks = [
        (ProbeKind::PostStart, lifecycle.and_then(|hooks| hooks.post_start.as_ref())),
        (ProbeKind::PreStop, lifecycle.and_then(|hooks| hooks.pre_stop.as_ref())),
    ];
    let hooks = hooks.into_iter().filter_map(|(kind, handler)| {
        let Few(args) = &handler?.exec.as_ref()?.command;
        Some(SpecCommand { kind, command: Command::of(args), period: None })
    });
    probes.chain(hooks).collect()
}

/// `$(NAME)` as the kubelet expands it in a probe's command (`ExpandContainerCommandOnlyStatic`, Kubernetes 1.36):
/// `$$` is a dollar, and what names no variable stays. `None`: it is more than there is room for.
fn expand(text: &str, variables: &HashMap<&str, &str>, room: &mut usize) -> Option<String> {
    // Put together at the end: a text that grows piece by piece takes three times what it becomes.
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        pieces.push(before);
        if let Some(after) = after.strip_prefix('$') {
            pieces.push("$");
            rest = after;
        } else if let Some((name, after)) = after.strip_prefix('(').and_then(|after| after.split_once(')')) {
            match variables.get(name) {
                Some(value) => {
                    *room = room.checked_sub(value.len())?;
                    pieces.push(value);
                }
                None => pieces.extend(["$(", name, ")"]),
            }
            rest = after;
        } else {
            pieces.push("$");
            rest = after;
        }
    }
    pieces.push(rest);
    Some(pieces.concat())
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_NAME
}
