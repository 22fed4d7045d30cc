//! What a cgroup's path in the host's tree says of its container: id, runtime, pod.
//!
//! Whether a name is a container's is decided by [`rules::name`], here as in the kernel, so that both sides never
//! disagree. The outermost such component is the container; what is below it was made inside, and whatever it is
//! called it is no other container. Never fails: a path that says nothing has no id.

use serde::{Deserialize, Serialize};

use std::fmt;

use podtrail_ebpf::rules;

const ID_LEN: usize = 64;

/// Characters kept of the name of a container that was made by hand.
const HAND_MADE_MAX: usize = 255;

/// Whose container it is, as its cgroup's name tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Runtime {
    Containerd,
    CriO,
    Docker,
    Podman,
    /// by hand, with systemd's names
    Runc,
    /// by hand, with systemd's names
    Crun,
}

impl Runtime {
    /// As events have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::CriO => "cri-o",
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Runc => "runc",
            Self::Crun => "crun",
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A container, by its cgroup's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerName {
    pub id: String,
    /// `None`: the name is of no runtime's own form
    pub runtime: Option<Runtime>,
    /// `None`: in no pod of a kubelet
    pub pod_uid: Option<String>,
    /// bytes of the path that name the container's own cgroup; what follows is below it
    pub len: usize,
}

/// The outermost container in `path`, by the names that known runtimes give.
#[must_use]
pub fn parse(path: &[u8]) -> Option<ContainerName> {
    components(path).find_map(|(at, component)| known(path, at, component))
}

/// The container whose own cgroup is `path`, whatever it is called: one made by hand has the last component for its
/// id. `None`: the root, which is no container.
#[must_use]
pub fn of_container(path: &[u8]) -> Option<ContainerName> {
    let (at, component) = components(path).last()?;
    if let Some(name) = known(path, at, component) {
        return Some(name);
    }
    let text = String::from_utf8_lossy(component);
    let scope = text.strip_suffix(".scope");
    let (runtime, id) = match scope.and_then(|scope| scope.split_once('-')) {
        Some(("runc", id)) if !id.is_empty() => (Some(Runtime::Runc), id),
        Some(("crun", id)) if !id.is_empty() => (Some(Runtime::Crun), id),
        _ => (None, text.as_ref()),
    };
    Some(ContainerName {
        id: id.chars().take(HAND_MADE_MAX).collect(),
        runtime,
        pod_uid: pod_uid(path.get(..at).unwrap_or_default()),
        len: at + component.len(),
    })
}

/// What the last component of `path` says, exactly as the kernel side reads it.
#[must_use]
pub fn kind(path: &[u8]) -> rules::Name {
    components(path).last().map_or(rules::Name::Other, |(_, component)| component_kind(component))
}

fn component_kind(component: &[u8]) -> rules::Name {
    let mut bytes = [0; rules::NAME_MAX];
    for (to, from) in bytes.iter_mut().zip(component) {
        *to = *from;
    }
    rules::name(&bytes, component.len())
}

fn known(path: &[u8], at: usize, component: &[u8]) -> Option<ContainerName> {
    if component_kind(component) != rules::Name::Container {
        return None;
    }
    let name = component.get(..rules::NAME_MAX).unwrap_or(component);
    let name = name.strip_suffix(b".scope").unwrap_or(name);
    let (prefix, id) = name.split_at_checked(name.len().checked_sub(ID_LEN)?)?;
    let above = path.get(..at).unwrap_or_default();
    Some(ContainerName {
        id: str::from_utf8(id).ok()?.to_owned(),
        runtime: runtime(prefix, above),
        pod_uid: pod_uid(above),
        len: at + component.len(),
    })
}

fn runtime(prefix: &[u8], above: &[u8]) -> Option<Runtime> {
    match prefix {
        b"cri-containerd-" | b"nerdctl-" => Some(Runtime::Containerd),
        b"crio-" => Some(Runtime::CriO),
        b"docker-" => Some(Runtime::Docker),
        b"libpod-" | b"libpod-payload-" => Some(Runtime::Podman),
        // With the cgroupfs driver only the folder tells: the name of containerd's namespace, or of Docker's parent.
        b"" => match components(above).last().map(|(_, parent)| parent) {
            Some(b"docker" | b"moby") => Some(Runtime::Docker),
            Some(b"default" | b"k8s.io") => Some(Runtime::Containerd),
            _ => None,
        },
        _ => None,
    }
}

/// The innermost pod among the components of `above`.
fn pod_uid(above: &[u8]) -> Option<String> {
    components(above).filter_map(|(_, component)| uid_of(component)).last()
}

/// `pod<uid>`, or systemd's `…-pod<uid with _>.slice`. A static pod's uid is 32 hex digits without dashes.
fn uid_of(component: &[u8]) -> Option<String> {
    let text = str::from_utf8(component).ok()?;
    let uid = match text.strip_suffix(".slice") {
        Some(slice) => slice.rsplit('-').next()?.strip_prefix("pod")?.replace('_', "-"),
        None => text.strip_prefix("pod")?.to_owned(),
    };
    let dashes = [8, 13, 18, 23];
    let well_formed = match uid.len() {
        32 => uid.bytes().all(|c| c.is_ascii_hexdigit()),
        36 => uid
            .bytes()
            .enumerate()
            .all(|(at, c)| if dashes.contains(&at) { c == b'-' } else { c.is_ascii_hexdigit() }),
        _ => false,
    };
    well_formed.then_some(uid)
}

/// The components of a path, each with where it stands.
fn components(path: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    path.split(|c| *c == b'/').filter_map(move |component| {
        let start = at;
        at += component.len() + 1;
        (!component.is_empty()).then_some((start, component))
    })
}

#[cfg(test)]
mod tests;
