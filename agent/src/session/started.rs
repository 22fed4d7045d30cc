//! What is said when a session is announced: how it came in, and what that was concluded from.

use super::{
    entries::Entry,
    record::{EntryKind, Environment, EnvironmentValue, Exec},
};
use crate::event::{BootTime, Method, Process, SessionStarted, TaskKey};

/// How a session with this root came in.
fn method(kind: EntryKind, host_mnt: bool) -> Method {
    match kind {
        EntryKind::HostNamespace => Method::HostNamespace,
        // In a container's cgroup, but not in its mount namespace: `kubectl debug node/…` then chroot, and its like.
        EntryKind::Runtime | EntryKind::SelfMoved | EntryKind::Recovered if host_mnt => Method::HostNamespace,
        EntryKind::Runtime => Method::RuntimeExec,
        EntryKind::SelfMoved | EntryKind::Join => Method::NamespaceJoin,
        EntryKind::Ephemeral => Method::EphemeralContainer,
        EntryKind::Recovered => Method::Unknown,
    }
}

/// The announcement of the session whose root ran `exec`. `entry` is what was known of it before.
/// `beside` is the container whose pid namespace its own one was put into.
pub(super) fn started(
    exec: &Exec,
    entry: Option<&Entry>,
    beside: Option<u64>,
    recovered: Option<BootTime>,
) -> SessionStarted {
    let enter = entry.and_then(|entry| entry.enter.as_deref());
    let join = entry.and_then(|entry| entry.join.as_ref()).map(|joining| &*joining.join);
    let by = enter.map_or(exec.entered_by, |enter| enter.by);
    let entered_by = match (enter, join) {
        _ if by.is_none() => None,
        (Some(enter), _) => Some(Process { key: by, parent: TaskKey::NONE, comm: enter.by_comm.clone() }),
        (None, Some(join)) if join.process.key == by => Some(join.process.clone()),
        (None, _) if exec.process.key == by => Some(exec.process.clone()),
        (None, _) => Some(Process { key: by, parent: TaskKey::NONE, comm: Vec::new() }),
    };
    let entered = if exec.entry_time == BootTime(0) {
        enter.map_or_else(|| join.map_or(exec.time, |join| join.time), |enter| enter.time)
    } else {
        exec.entry_time
    };
    let mut evidence = evidence(exec, entry, beside, recovered.is_some());
    let ancestors = join.map(|join| join.ancestors.clone()).unwrap_or_default();
    if !ancestors.is_empty() {
        let above: Vec<String> = ancestors.iter().map(|above| above.key.tgid.to_string()).collect();
        evidence.push(format!("whoever joined was started by pid {}", above.join(", that by ")));
    }
    if let Some([stdin, stdout, stderr]) = exec.descriptors {
        evidence.push(format!("stdin is {stdin}, stdout {stdout}, stderr {stderr}"));
    }
    let Ids { audit_id, request_uid, spoofed } = ids(exec, &mut evidence);
    SessionStarted {
        method: method(exec.entry_kind, exec.host_mnt),
        evidence,
        tty: exec.tty.clone(),
        root: exec.process.clone(),
        entered_by,
        entered,
        login_uid: exec
            .credentials
            .login_uid
            .or_else(|| enter.and_then(|enter| enter.login_uid))
            .or_else(|| join.and_then(|join| join.login_uid)),
        audit_session: exec
            .credentials
            .audit_session
            .or_else(|| enter.and_then(|enter| enter.audit_session))
            .or_else(|| join.and_then(|join| join.audit_session)),
        recovered,
        exec_id: None,
        exec_audit_id: audit_id,
        exec_request_uid: request_uid,
        observable: true,
        labels: Vec::new(),
        probe: None,
        spoofed,
        descriptors: exec.descriptors,
        ancestors,
    }
}

/// What the root's environment names, as far as that means anything.
#[derive(Debug, Default)]
struct Ids {
    audit_id: Option<Vec<u8>>,
    request_uid: Option<Vec<u8>>,
    spoofed: Vec<String>,
}

/// Only a runtime hands down what the API server said, and only where the container's own environment does not say it to all.
fn ids(exec: &Exec, evidence: &mut Vec<String>) -> Ids {
    let mut ids = Ids::default();
    let Some(environment) = &exec.environment else { return ids };
    let Environment { audit_id, request_uid, total, searched } = environment;
    if searched < total {
        evidence.push(format!("{searched} of the {total} bytes of its environment could be searched"));
    }
    for (name, value, id) in [
        ("KUBERNETES_EXEC_AUDIT_ID", audit_id, &mut ids.audit_id),
        ("SPO_EXEC_REQUEST_UID", request_uid, &mut ids.request_uid),
    ] {
        let Some(EnvironmentValue { bytes, cut, of_init }) = value else { continue };
        let why = if exec.entry_kind != EntryKind::Runtime {
            "and no runtime put it there"
        } else if *of_init == Some(true) {
            "and so has that of the container's init"
        } else if *cut {
            "longer than any"
        } else if bytes.is_empty() {
            evidence.push(format!("its environment has {name}, empty"));
            continue;
        } else if of_init.is_none() {
            // Nobody's forgery, as far as is known.
            evidence.push(format!(
                "its environment has {name}; whether the container's has it, too, is not known"
            ));
            continue;
        } else {
            evidence.push(format!("its environment has {name}"));
            *id = Some(bytes.clone());
            continue;
        };
        evidence.push(format!("its environment has {name}, {why}: not used"));
        ids.spoofed.push(format!("{name}={}", String::from_utf8_lossy(bytes)));
    }
    ids
}

/// Findings, one line each, of numbers and fixed words only: what a task calls itself is in its own field, raw.
fn evidence(exec: &Exec, entry: Option<&Entry>, beside: Option<u64>, recovered: bool) -> Vec<String> {
    let by = exec.entered_by.tgid;
    let mut evidence = vec![match exec.entry_kind {
        EntryKind::Runtime => format!("pid {by} put it into the container's cgroup"),
        EntryKind::SelfMoved => format!("pid {by} moved itself into the container's cgroup"),
        EntryKind::Join => "its cgroup is not the container's, its namespaces are".to_owned(),
        EntryKind::HostNamespace if exec.host_mnt => {
            "a process of the container took on the host's mount namespace".to_owned()
        }
        EntryKind::HostNamespace => {
            "a process of the container took the host's root directory for its own: chroot".to_owned()
        }
        EntryKind::Ephemeral => "it is the first process of its container".to_owned(),
        EntryKind::Recovered => "found in the container's cgroup".to_owned(),
    }];
    if let Some(owner) = beside {
        evidence.push(format!("it is in the pid namespace of another container, with cgroup id {owner}"));
    }
    if exec.host_mnt {
        evidence.push("the first command sees the host's mount namespace".to_owned());
    }
    if recovered {
        evidence.push("found in /proc: it began before it was known to be a session".to_owned());
        return evidence;
    }
    match entry {
        Some(Entry { enter, join, staged, unowned }) => {
            if *staged > 0 {
                evidence.push(format!("execs of the runtime on its way in: {staged}"));
            }
            if *unowned > 0 {
                evidence.push(format!("commands before its namespaces' owner was known: {unowned}"));
            }
            if let Some(join) = join.as_ref().map(|joining| &joining.join) {
                for (namespace, inode) in [("mount", join.mnt_ns), ("pid", join.pid_ns)] {
                    if inode != 0 {
                        evidence.push(format!(
                            "pid {} joined {namespace} namespace {inode}",
                            join.process.key.tgid
                        ));
                    }
                }
            }
            if enter.is_none() && join.is_none() {
                evidence.push("the entry itself was not seen".to_owned());
            }
        }
        // Nothing precedes it: the kernel side opens this kind at its first command.
        None if matches!(exec.entry_kind, EntryKind::HostNamespace | EntryKind::Ephemeral) => {}
        None => evidence.push("the entry itself was not seen".to_owned()),
    }
    if !exec.root {
        evidence.push("its first command was not seen: this is the first that was".to_owned());
    }
    evidence
}
