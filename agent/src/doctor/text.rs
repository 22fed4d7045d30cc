//! A report for people.

use std::fmt::Write as _;

use super::{HostNamespaces, Node, Pinned, PinnedHook, PinnedMap, Problem, Report, Runtime};
use crate::escape;

/// The report as a table, what is missing below it, and the verdict in the last line.
#[must_use]
pub fn text(report: &Report) -> String {
    let Report {
        version,
        can_run,
        kernel,
        arch,
        btf,
        capabilities,
        cgroups,
        host_namespaces,
        hooks,
        tried_out_us,
        node,
        runtimes,
        pinned,
        problems,
    } = report;
    let mut out = String::new();
    let mut row = |name: &str, value: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(out, "{name:<16}{}", escape::guard(value));
    };
    row("agent", version);
    row("kernel", &format!("{kernel} {arch}"));
    row("types (BTF)", btf.as_deref().unwrap_or("none"));
    row("capabilities", &or_none(&capabilities.join(", ")));
    let cgroups = cgroups.as_ref().map(|cgroups| {
        let controller = cgroups.controller.as_ref().map(|name| format!(", by {name}")).unwrap_or_default();
        let part = if cgroups.whole { "" } else { ", in part" };
        format!("{} at {}{controller}{part}", cgroups.mode, cgroups.mount)
    });
    row("cgroups", &cgroups.unwrap_or_else(|| "none".to_owned()));
    let HostNamespaces { mount, pid, user, cgroup: _, found_by } = host_namespaces;
    row("namespaces", &format!("mount {mount} (by {found_by}), pid {pid}, user {user}"));
    let Node { locked_memory_limit, open_files_limit, tracefs, bpffs, other_agent } = node;
    let bytes = |limit: &Option<u64>| {
        limit.map_or_else(|| "unlimited".to_owned(), |limit| format!("{} KiB", limit >> 10))
    };
    let count = |limit: &Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    row(
        "limits",
        &format!("locked memory {}, open files {}", bytes(locked_memory_limit), count(open_files_limit)),
    );
    row(
        "tracefs",
        tracefs.as_deref().unwrap_or("not mounted (the agent mounts it for itself where it needs it)"),
    );
    row("bpffs", bpffs.as_deref().unwrap_or("not mounted (the agent mounts it, to pin what records)"));
    row("other agent", &other_agent.map_or_else(|| "none".to_owned(), |pid| format!("pid {pid}")));
    if runtimes.is_empty() {
        row("runtime", "no socket of one, or none wanted");
    }
    for (index, Runtime { socket, version, error }) in runtimes.iter().enumerate() {
        let answer = version.as_ref().or(error.as_ref()).map_or("", String::as_str);
        row(if index == 0 { "runtime" } else { "" }, &format!("{answer} at {socket}"));
    }
    if hooks.is_empty() {
        row("hooks", "not tried, because something is missing");
    }
    for (index, hook) in hooks.iter().enumerate() {
        let why = if hook.reason.is_empty() { String::new() } else { format!("   because {}", hook.reason) };
        row(if index == 0 { "hooks" } else { "" }, &format!("{:<22}{}{why}", hook.name, hook.kind));
    }
    let tried =
        tried_out_us.map(|us| format!("in {}.{} ms: what they report is so", us / 1000, us / 100 % 10));
    row("tried out", tried.as_deref().unwrap_or("not"));
    if pinned.is_empty() {
        row("pinned", "nothing: no agent ran here since the node started, or it was unloaded");
    }
    for Pinned { dir, layout, ours, since, hooks, maps } in pinned {
        let layout = layout.map_or_else(|| "unknown".to_owned(), |layout| layout.to_string());
        let reader = match (ours, node.other_agent) {
            (false, _) => "cannot be taken over by this version",
            (true, Some(_)) => "an agent reads it",
            (true, None) => "recording, and no agent reads it",
        };
        let since = since.as_deref().unwrap_or("unknown");
        row("pinned", &format!("{dir}, layout {layout}, since {since}: {reader}"));
        let id = |id: &Option<u32>| id.map_or_else(|| "gone".to_owned(), |id| id.to_string());
        for PinnedHook { name, link, program, worker } in hooks {
            let (link, program, worker) = (id(link), id(program), id(worker));
            row("", &format!("hook {name:<17}link {link}, program {program} → {worker}"));
        }
        for PinnedMap { name, id, entries } in maps.iter().filter(|map| !map.name.starts_with("TO_")) {
            let unit = if name == "EVENTS" { "bytes" } else { "entries" };
            row("", &format!("map {name:<18}id {id}, {entries} {unit}"));
        }
    }
    for Problem { what, fix, fatal } in problems {
        let mark = if *fatal { "missing" } else { "note" };
        let _ = write!(out, "\n{mark:<16}{}\n{:<16}→ {}\n", escape::guard(what), "", escape::guard(fix));
    }
    let verdict = if *can_run { "The agent can run here." } else { "The agent cannot run here." };
    let _ = write!(out, "\n{verdict}\n");
    out
}

/// The report for programs: one line.
#[must_use]
pub fn json(report: &Report) -> String {
    // Strings and numbers alone: cannot fail.
    serde_json::to_string(report).unwrap_or_default() + "\n"
}

fn or_none(text: &str) -> String {
    if text.is_empty() { "none that the agent uses".to_owned() } else { text.to_owned() }
}
