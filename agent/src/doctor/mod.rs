//! Can the agent run on this node, and how: what `podtrail-agent doctor` says.
//!
//! Looks, and for a moment loads; changes nothing. For everything that is missing there is a sentence or a command
//! that helps. Works without root, and then says what it could not look at.

mod node;
mod text;

#[cfg(test)]
mod tests;

use serde::Serialize;

use crate::{
    agent::{probe_options, selftest},
    config::agent::AgentConfig,
    container::{Hierarchy, Host, host_namespaces},
    convert::WallOffset,
    event,
    pods::{self, Socket},
    probe::{self, Survey},
    trail::Moment,
};

pub use self::{
    node::Node,
    text::{json, text},
};

/// Everything that was found. Its JSON is what `-o json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub version: String,
    /// nothing that is missing keeps the agent from running
    pub can_run: bool,
    pub kernel: String,
    pub arch: String,
    /// where the kernel's types come from; `None`: nowhere
    pub btf: Option<String>,
    /// capabilities that the agent uses and that this process has
    pub capabilities: Vec<String>,
    pub cgroups: Option<Cgroups>,
    pub host_namespaces: HostNamespaces,
    /// as they would be used; empty: not tried, because something else is missing
    pub hooks: Vec<Hook>,
    /// how long it took to try them out, in microseconds; `None`: they were not
    pub tried_out_us: Option<u64>,
    pub node: Node,
    /// whom the agent can ask for pods: the first that answers
    pub runtimes: Vec<Runtime>,
    /// what goes on recording without an agent, by version of the layout; empty: nothing
    pub pinned: Vec<Pinned>,
    pub problems: Vec<Problem>,
}

/// Pins in one directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pinned {
    pub dir: String,
    pub layout: Option<u32>,
    /// this podtrail-agent takes it over
    pub ours: bool,
    /// when its hooks were attached, RFC 3339
    pub since: Option<String>,
    pub hooks: Vec<PinnedHook>,
    pub maps: Vec<PinnedMap>,
}

/// Ids in the kernel; `None`: it is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PinnedHook {
    pub name: String,
    pub link: Option<u32>,
    pub program: Option<u32>,
    /// the program that it hands over to
    pub worker: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PinnedMap {
    pub name: String,
    pub id: u32,
    /// bytes, of the ring
    pub entries: u32,
}

fn pinned(config: &AgentConfig) -> Vec<Pinned> {
    let offset = WallOffset::measure();
    let found = config.pin.as_deref().map(probe::pinned).unwrap_or_default();
    let told = |pinned: probe::Pinned| {
        let probe::Pinned { dir, layout, ours, since, hooks, maps } = pinned;
        let since = since.and_then(|since| {
            let at = Moment::from_timestamp(&offset.wall(since)).0;
            jiff::Timestamp::from_nanosecond(at.into()).ok()
        });
        Pinned {
            dir: dir.display().to_string(),
            layout,
            ours,
            since: since.map(|since| format!("{since:.0}")),
            hooks: hooks
                .into_iter()
                .map(|probe::PinnedHook { name, link, program, worker }| PinnedHook {
                    name,
                    link,
                    program,
                    worker,
                })
                .collect(),
            maps: maps
                .into_iter()
                .map(|probe::PinnedMap { name, id, entries }| PinnedMap { name, id, entries })
                .collect(),
        }
    };
    found.into_iter().map(told).collect()
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cgroups {
    /// "v2", "hybrid" or "v1"
    pub mode: String,
    pub mount: String,
    /// v1: the controller whose hierarchy is used
    pub controller: Option<String>,
    /// all of the node's cgroups can be seen
    pub whole: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HostNamespaces {
    /// inode numbers
    pub mount: u32,
    pub pid: u32,
    pub user: u32,
    pub cgroup: u32,
    /// how the mount namespace was found
    pub found_by: String,
}

/// A hook that would be used, and why it is of its kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hook {
    pub name: String,
    pub kind: String,
    /// why not a better one; empty: there is none
    pub reason: String,
}

/// A container runtime's socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Runtime {
    pub socket: String,
    /// who answers, like "containerd 1.6.20"; `None`: nobody
    pub version: Option<String>,
    /// why not
    pub error: Option<String>,
}

/// What was found of runtimes, and what follows if none answers.
fn runtimes(config: &AgentConfig, found: Vec<pods::Found>, problems: &mut Vec<Problem>) -> Vec<Runtime> {
    let answers = found.iter().any(|found| found.answer.is_ok());
    if !answers && config.runtime_socket != Socket::Nowhere {
        problems.push(Problem {
            what: "no container runtime answers: containers are told without pod, name and image".to_owned(),
            fix: "mount the runtime's socket where it is on the node, or name it with --runtime-socket"
                .to_owned(),
            fatal: false,
        });
    }
    let told = |pods::Found { socket, answer }| {
        let (version, error) = match answer {
            Ok(version) => (Some(version), None),
            Err(error) => (None, Some(error)),
        };
        Runtime { socket: socket.display().to_string(), version, error }
    };
    found.into_iter().map(told).collect()
}

/// Something is missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub what: String,
    /// what to do about it
    pub fix: String,
    /// the agent cannot run like this
    pub fatal: bool,
}

/// Looks at this node. Must be called within a runtime, for the trial of the hooks.
#[must_use]
pub fn examine(config: &AgentConfig, runtimes: Vec<pods::Found>) -> Report {
    let host = Host::default();
    let namespaces = host_namespaces(&host);
    let mut problems = Vec::new();
    let mut problem =
        |what: String, fix: &str, fatal| problems.push(Problem { what, fix: fix.to_owned(), fatal });

    let hierarchy = match Hierarchy::find(&host) {
        Ok(hierarchy) => Some(hierarchy),
        Err(error) => {
            problem(error.to_string(), "mount -t cgroup2 cgroup2 /sys/fs/cgroup", true);
            None
        }
    };
    if hierarchy.as_ref().is_some_and(|hierarchy| !hierarchy.whole) {
        problem(
            "only a part of the node's cgroups can be seen: containers outside it have no names".to_owned(),
            "mount the node's /sys/fs/cgroup; if it is, run in the node's cgroup namespace",
            false,
        );
    }
    if let Some(note) = &namespaces.note {
        let fix = "if that is not so, run with the node's pid namespace (hostPID) and CAP_SYS_PTRACE";
        problem(note.clone(), fix, namespaces.mnt == 0);
    }
    let node = Node::examine(config, &mut problems);
    let runtimes = self::runtimes(config, runtimes, &mut problems);

    let options = match &hierarchy {
        Some(hierarchy) => probe_options(config, hierarchy, &namespaces),
        None => probe::Options::default(),
    };
    // A unit test is not the agent's program, and cannot play its part.
    let tried = hierarchy.as_ref().filter(|_| !cfg!(test));
    let mut took = None;
    let try_out = |probe: &mut probe::Probe| {
        if let Some(hierarchy) = tried {
            took = selftest::try_out(probe, &host, hierarchy, &namespaces)?;
        }
        Ok(())
    };
    let Survey { kernel, arch, btf, capabilities, hooks, problems: found } = probe::survey(&options, try_out);
    let mut all: Vec<Problem> = found
        .into_iter()
        .map(|probe::Problem { what, fix, fatal }| Problem { what, fix, fatal })
        .chain(problems)
        .collect();
    // What keeps the agent from running comes first.
    all.sort_by_key(|problem| !problem.fatal);

    Report {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        can_run: !all.iter().any(|problem| problem.fatal),
        kernel,
        arch,
        btf: Some(btf).filter(|btf| !btf.is_empty()),
        capabilities,
        cgroups: hierarchy.map(|hierarchy| Cgroups {
            mode: hierarchy.mode.as_str().to_owned(),
            mount: hierarchy.mount.display().to_string(),
            controller: hierarchy.controller,
            whole: hierarchy.whole,
        }),
        host_namespaces: HostNamespaces {
            mount: namespaces.mnt,
            pid: namespaces.pid,
            user: namespaces.user,
            cgroup: namespaces.cgroup,
            found_by: namespaces.found_by.to_owned(),
        },
        hooks: hooks
            .into_iter()
            .map(|event::Hook { name, kind, reason }| Hook { name, kind, reason })
            .collect(),
        tried_out_us: took.and_then(|took| took.as_micros().try_into().ok()),
        node,
        runtimes,
        pinned: pinned(config),
        problems: all,
    }
}
