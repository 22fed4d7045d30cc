//! The ways to see system calls: each tells the same, and the best that is there is chosen.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use podtrail_proto::v1::{AgentState, Event, Hook, event::Body};
use serde_json::Value;

use super::{
    failed::{put, state},
    kernels, sh,
};
use crate::{
    cases,
    harness::{
        Container, Cx,
        container::ITEST,
        daemon, host, node, process,
        session::{self, line},
        surroundings::Surroundings,
        verifier::WAYS,
    },
};

cases! {
    "hooks",
    OwnAgent: every_way_tells_the_same, the_best_way_that_is_there_is_chosen,
        kprobes_that_see_nothing_are_found_out
}

/// What there is of kprobes for user space; empty where a kernel has none.
const KPROBES: &str = "/sys/bus/event_source/devices";
/// Those of system calls.
const TRACEPOINTS: &str = "/sys/kernel/tracing/events/syscalls";

/// What doctor says, and whether it is content.
pub(super) fn doctor(args: &[&str], surroundings: &Surroundings) -> Result<(bool, Value)> {
    let mut command = daemon::command("podtrail-agent");
    command.args(["doctor", "-o", "json"]).args(args).stdin(Stdio::null());
    surroundings.put(&mut command);
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    Ok((output.status.success(), serde_json::from_slice(&output.stdout).with_context(|| said.into_owned())?))
}

/// A hook as doctor has it: its kind and the reason for it.
fn hook<'a>(report: &'a Value, name: &str) -> Option<(&'a str, &'a str)> {
    let hook = report["hooks"].as_array()?.iter().find(|hook| hook["name"] == name)?;
    Some((hook["kind"].as_str()?, hook["reason"].as_str()?))
}

/// The ways that this machine has: by doctor's word, and by what else is known of it.
fn ways() -> Result<Vec<&'static str>> {
    let mut ways = Vec::new();
    for way in WAYS {
        let (good, report) = doctor(&["--setns", way], &Surroundings::default())?;
        if good {
            ensure!(hook(&report, "setns") == Some((way, "asked for")), "{report}");
            ways.push(way);
        } else {
            let refused = report["problems"][0]["what"].as_str().unwrap_or_default();
            let begin = format!("no way to see setns works here: {way}: ");
            ensure!(refused.starts_with(&begin) && refused.len() > begin.len(), "{report}");
            ensure!(hook(&report, "setns").is_none(), "{report}");
        }
    }
    ensure!(ways.contains(&"tracepoint"), "every kernel has it: {ways:?}");
    ensure!(ways.contains(&"kprobe") == Path::new(KPROBES).join("kprobe").exists(), "{ways:?}");
    if let Ok(known) = env::var("PODTRAIL_ITEST_WAYS") {
        ensure!(ways.join(",") == known, "{ways:?}, and not {known}");
    }
    Ok(ways)
}

fn told<'a>(state: &'a AgentState, name: &str) -> Option<&'a Hook> {
    state.hooks.iter().find(|hook| hook.name == name)
}

fn every_way_tells_the_same(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    put(&container, "/tmp/closed", b"", 0o644)?;
    put(&container, "/tmp/garbage", b"\x01\x02\x03\x04", 0o755)?;
    let ways = ways()?;
    let mut all = Vec::new();
    // The first once more: what differs between two runs by itself would prove nothing.
    for way in ways.iter().chain(ways.first()) {
        let agent = cx.start_agent(&["--setns", way, "--failed-execs", "on"])?;
        let state = state(&agent)?;
        ensure!(told(&state, "setns").is_some_and(|hook| hook.kind == *way && hook.reason == "asked for"));
        for name in ["execve", "execveat"] {
            ensure!(told(&state, name).is_some_and(|hook| hook.kind == *way), "{:?}", state.hooks);
        }
        drive(&container)?;
        node::settle(&agent)?;
        let events = agent.events();
        agent.stop()?;
        let mine = |event: &&std::sync::Arc<Event>| {
            // A join without a command is told ten seconds after it ended: on a slow machine, before the rest is.
            let late = matches!(event.body, Some(Body::NamespaceJoined(_))) && event.session_id.is_empty();
            !late && event.container.as_ref().is_some_and(|c| c.cgroup_id == container.cgroup_id)
        };
        let events: Vec<&Event> = events.iter().filter(mine).map(|event| &**event).collect();
        is_all_there(&events).with_context(|| format!("by {way}"))?;
        all.push((way, plain(&events)?));
    }
    let Some(((first, expected), others)) = all.split_first() else { anyhow::bail!("no way") };
    for (way, events) in others {
        for (number, (one, other)) in expected.iter().zip(events).enumerate() {
            ensure!(one == other, "event {number} by {first} is\n{one:#}\nand by {way}\n{other:#}");
        }
        ensure!(expected.len() == events.len(), "by {first} {}, by {way} {}", expected.len(), events.len());
    }
    Ok(())
}

/// A payload, as it is called in a container.
fn inside<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [&[ITEST, "payload"], args].concat()
}

/// Joins of each kind and failed execs of each kind, one after the other.
fn drive(container: &Container) -> Result<()> {
    let init = container.init.to_string();
    let shell = sh("/bin/true; exit 3");
    let joins: [(&str, &str, &str, Vec<&str>, i32); 8] = [
        ("files", "mnt", "exec", shell.to_vec(), 3),
        ("files", "mnt,pid", "spawn", shell.to_vec(), 3),
        ("pidfd", "mnt,pid,uts,ipc,net", "spawn", shell.to_vec(), 3),
        ("clumsy", "uts,pid,mnt", "spawn", shell.to_vec(), 3),
        ("files", "mnt,pid", "thread-spawn", shell.to_vec(), 3),
        ("files", "mnt", "thread-exec", inside(&["exec-failing", "/tmp", "13", "by", "join"]), 0),
        // It never comes to a command: what it tried to become is none.
        ("files", "mnt", "exec", vec!["/tmp/garbage", "joined"], 99),
        // No container's: nothing is told.
        ("files", "uts,ipc,net", "spawn", vec![ITEST, "payload", "exit", "0"], 0),
    ];
    for (how, kinds, then, program, code) in joins {
        let mut args = vec!["join", &init, how, kinds, then];
        // Outside, this program is elsewhere.
        let exe = host().exe.display().to_string();
        let outside = !kinds.contains("mnt");
        args.extend(program.iter().map(|arg| if outside && *arg == ITEST { exe.as_str() } else { *arg }));
        let output = process::payload(&args).output()?;
        ensure!(
            output.status.code() == Some(code),
            "{args:?}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let long = "y".repeat(10_000);
    for args in [
        &["exec-failing", "/tmp/garbage", "8", "one", "", "\u{1b}[2J\n"][..],
        &["exec-failing", "tmp/nosuch", "2", "x", &long, "behind"],
        &["execat-failing", "/tmp", "-", "13", "x"],
        &["execat-failing", "/tmp", "closed", "13", "x"],
        &["exec-search", "/none:/tmp/closed:/tmp:/bin", "true"],
        &["spawn-search", "/a:/b", "nosuch"],
    ] {
        container.exec(&inside(args)).run()?.ok()?;
    }
    // Before its session's first command: the runtime tries it itself, and fails.
    let ran = container.exec(&["/tmp/garbage", "now"]).run();
    ensure!(ran.is_err() || ran.is_ok_and(|ran| !ran.status.success()), "garbage was run");
    Ok(())
}

/// Whether it is what was done, and not the same nothing by every way.
fn is_all_there(events: &[&Event]) -> Result<()> {
    let story = || events.iter().map(|event| line(event)).collect::<Vec<_>>().join("\n    ");
    let (mut joins, mut failed, mut found) = (Vec::new(), Vec::new(), Vec::new());
    for event in events {
        match &event.body {
            Some(Body::NamespaceJoined(joined)) => {
                let namespaces = joined.namespaces.context("no namespaces")?;
                joins.push((namespaces.mount != 0, namespaces.pid != 0));
            }
            Some(Body::ExecFailed(it)) => {
                // Some are descriptors.
                let path = it.path.replace(|c: char| c.is_ascii_digit(), "N");
                failed.push((path, it.error.clone(), it.attempts.unwrap_or_default()));
            }
            Some(Body::Executed(executed)) if executed.not_found != 0 => found.push(executed.not_found),
            _ => {}
        }
    }
    let both = (true, true);
    ensure!(joins == [(true, false), both, both, both, both, (true, false)], "{joins:?}: {}", story());
    let expected = [
        ("/tmp", "EACCES", 1),
        ("/tmp/garbage", "ENOEXEC", 1),
        ("/tmp/garbage", "ENOEXEC", 1),
        ("tmp/nosuch", "ENOENT", 1),
        ("/dev/fd/N", "EACCES", 1),
        ("/dev/fd/N/closed", "EACCES", 1),
        ("/b/nosuch", "ENOENT", 2),
        ("/tmp/garbage", "ENOEXEC", 1),
    ];
    let failed: Vec<_> = failed.iter().map(|(path, error, n)| (path.as_str(), error.as_str(), *n)).collect();
    ensure!(failed == expected, "{failed:?}: {}", story());
    ensure!(found == [3], "{found:?}: {}", story());
    Ok(())
}

/// Events as they are when done again: without times, and with what counts on, numbered as it comes.
fn plain(events: &[&Event]) -> Result<Vec<Value>> {
    let mut seen = Seen::default();
    let mut plain = Vec::new();
    for event in events {
        let mut value = serde_json::to_value(event)?;
        let object = value.as_object_mut().context("an event is an object")?;
        ensure!(object.remove("id").is_some() && object.remove("time").is_some(), "{event:?}");
        seen.number(&mut value);
        plain.push(value);
    }
    Ok(plain)
}

#[derive(Default)]
struct Seen {
    pids: Vec<String>,
    starts: Vec<String>,
    sessions: Vec<String>,
}

impl Seen {
    fn number(&mut self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    match name.as_str() {
                        "pid" | "parentPid" => place(&mut self.pids, value),
                        "startTime" | "parentStartTime" => place(&mut self.starts, value),
                        "sessionId" => place(&mut self.sessions, value),
                        "boottimeNs" | "entered" | "duration" => *value = Value::from("some"),
                        "evidence" => self.without_pids(value),
                        _ => self.number(value),
                    }
                }
            }
            Value::Array(all) => all.iter_mut().for_each(|value| self.number(value)),
            _ => {}
        }
    }

    fn without_pids(&self, lines: &mut Value) {
        for line in lines.as_array_mut().into_iter().flatten() {
            let text = line.as_str().unwrap_or_default();
            let words = text.split(' ').map(|word| {
                let number = word.trim_end_matches([',', '.', ')']);
                self.pids
                    .iter()
                    .position(|pid| pid == number)
                    .map_or_else(|| word.to_owned(), |n| format!("#{n}"))
            });
            *line = Value::from(words.collect::<Vec<_>>().join(" "));
        }
    }
}

/// In place of a value, which of all such values it is.
fn place(known: &mut Vec<String>, value: &mut Value) {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let at = known.iter().position(|known| *known == text).unwrap_or_else(|| {
        known.push(text);
        known.len() - 1
    });
    *value = Value::from(at);
}

/// The function of setns in the kernel.
const CALL: &str = if cfg!(target_arch = "aarch64") { "__arm64_sys_setns" } else { "__x64_sys_setns" };

fn the_best_way_that_is_there_is_chosen(cx: &Cx) -> Result<()> {
    let here = ways()?;
    let container = cx.container()?;
    // A kernel whose types do not tell of the function; without kprobes; without tracepoints of system calls.
    let types = host().dir(&cx.unique("types"))?.join("btf");
    let renamed = kernels::renamed(fs::read(kernels::VMLINUX)?, &[(CALL, &CALL.replace("setns", "setnx"))]);
    fs::write(&types, renamed)?;
    let types = types.to_str().context("a path that is no text")?;
    for taken in 0..=WAYS.len() {
        let (gone, left) = WAYS.split_at(taken);
        let mut args = vec!["--setns", "auto"];
        if gone.contains(&"fexit") {
            args.extend(["--btf", types]);
        }
        let without = [("kprobe", KPROBES), ("tracepoint", TRACEPOINTS)];
        let without = without.into_iter().filter(|(way, _)| gone.contains(way)).map(|(_, dir)| dir).collect();
        let surroundings = Surroundings { without, ..Surroundings::default() };
        match left.iter().find(|way| here.contains(way)) {
            Some(best) => is_chosen(cx, &container, best, gone, &args, &surroundings),
            None => nothing_is_left(cx, &args, &surroundings),
        }
        .with_context(|| format!("without {gone:?}"))?;
    }
    Ok(())
}

/// The agent and doctor say that they see system calls by `best`, and why by no better one; and by it they are seen.
fn is_chosen(
    cx: &Cx,
    container: &Container,
    best: &str,
    gone: &[&str],
    args: &[&str],
    surroundings: &Surroundings,
) -> Result<()> {
    let (good, report) = doctor(args, surroundings)?;
    ensure!(good, "{report}");
    let (kind, reason) = hook(&report, "setns").context("doctor does not tell of setns")?;
    ensure!(kind == best, "{report}");
    let better: Vec<&str> = WAYS.into_iter().take_while(|way| *way != best).collect();
    tells_of(reason, &better, gone)?;
    let agent = cx.start_agent_in(args, surroundings)?;
    let state = state(&agent)?;
    let setns = told(&state, "setns").context("the agent does not tell of setns")?;
    ensure!((setns.kind.as_str(), setns.reason.as_str()) == (best, reason), "{setns:?}, and not {report}");
    // Failed execs go with it, unless they would cost everybody something.
    let costly = best == "tracepoint";
    for name in ["execve", "execveat"] {
        let kind = told(&state, name).map(|hook| hook.kind.as_str());
        ensure!(kind == (!costly).then_some(best), "{name} by {kind:?}: {:?}", state.hooks);
        ensure!(hook(&report, name).map(|(kind, _)| kind) == kind, "{report}");
    }
    let off = told(&state, "failed execs").map(|off| (off.kind.as_str(), off.reason.as_str()));
    ensure!(off == hook(&report, "failed execs"), "{off:?}, and not {report}");
    match off {
        Some((kind, reason)) => ensure!(
            costly && kind == "off" && reason.starts_with("only the system call's tracepoint is to be had"),
            "{off:?}"
        ),
        None => ensure!(!costly, "nothing is said of failed execs: {:?}", state.hooks),
    }

    let init = container.init.to_string();
    let program = inside(&["exec-failing", "/tmp", "13", "by", best]);
    let join = [&["join", &init, "files", "mnt", "exec"], program.as_slice()].concat();
    process::succeed(process::payload(&join))?;
    node::settle(&agent)?;
    let session = session::only(&session::all(&agent.events(), container.cgroup_id))?;
    session.check()?;
    ensure!(session.joined().len() == 1, "{}", session.story());
    let failed: Vec<&[String]> = session.failed().iter().map(|failed| failed.argv.as_slice()).collect();
    let expected = ["by".to_owned(), best.to_owned()];
    ensure!(failed == vec![expected.as_slice(); usize::from(!costly)], "{}", session.story());
    agent.stop()
}

/// Whether `reason` says of each better way, and of no other, why it is not taken.
fn tells_of(reason: &str, better: &[&str], gone: &[&str]) -> Result<()> {
    let mut from = 0;
    for way in better {
        let word = format!("{way}: ");
        let at = reason[from..].find(&word).with_context(|| format!("nothing of {way}: {reason}"))?;
        from += at + word.len();
    }
    for way in WAYS.iter().filter(|way| !better.contains(way)) {
        ensure!(!reason.contains(&format!("{way}: ")), "{way} is at hand: {reason}");
    }
    ensure!(better.is_empty() == reason.is_empty(), "{reason}");
    if gone.contains(&"fexit") {
        ensure!(reason.contains(&format!("fexit: unknown BTF type `{CALL}`")), "{reason}");
    }
    if gone.contains(&"kprobe") {
        ensure!(reason.contains("kprobe: No such file or directory"), "{reason}");
    }
    Ok(())
}

fn nothing_is_left(cx: &Cx, args: &[&str], surroundings: &Surroundings) -> Result<()> {
    let (good, report) = doctor(args, surroundings)?;
    let problem = &report["problems"][0];
    ensure!(!good && problem["fatal"] == true && report["hooks"] == Value::Array(vec![]), "{report}");
    let what = problem["what"].as_str().unwrap_or_default();
    let reason = what.strip_prefix("no way to see setns works here: ").with_context(|| report.to_string())?;
    tells_of(reason, &WAYS, &WAYS)?;
    ensure!(reason.contains("tracepoint: No such file or directory"), "{reason}");
    ensure!(problem["fix"].as_str().is_some_and(|fix| fix.contains("tracefs")), "{report}");
    let said = kernels::refused_in(cx, args, surroundings)?;
    ensure!(said.contains(what), "{said}");
    Ok(())
}

/// Kprobes can be switched off for a whole machine: then they can be attached as ever, and see nothing.
fn kprobes_that_see_nothing_are_found_out(cx: &Cx) -> Result<()> {
    let here = ways()?;
    let debugfs = Debugfs::mount(host().dir(&cx.unique("debugfs"))?)?;
    let switch = debugfs.0.join("kprobes/enabled");
    ensure!(switch.exists() == here.contains(&"kprobe"), "{here:?}");
    if !switch.exists() {
        return Ok(());
    }
    ensure!(fs::read_to_string(&switch)?.trim() == "1", "somebody has switched them off");
    let args = ["--setns", "kprobe"];
    fs::write(&switch, "0")?;
    let found_out = (|| -> Result<()> {
        let (good, report) = doctor(&args, &Surroundings::default())?;
        let what = report["problems"][0]["what"].as_str().unwrap_or_default();
        let why = "exec that fails: nothing, and not ";
        ensure!(!good && what.contains("reports what is not so") && what.contains(why), "{report}");
        let said = kernels::refused_in(cx, &args, &Surroundings::default())?;
        ensure!(said.contains(why), "{said}");
        Ok(())
    })();
    fs::write(&switch, "1")?;
    found_out?;
    let (good, report) = doctor(&args, &Surroundings::default())?;
    ensure!(good, "{report}");
    Ok(())
}

/// Mounted until dropped.
struct Debugfs(PathBuf);

impl Debugfs {
    fn mount(at: PathBuf) -> Result<Self> {
        let none: Option<&str> = None;
        mount(Some("debugfs"), &at, Some("debugfs"), MsFlags::empty(), none)
            .context("cannot mount debugfs")?;
        Ok(Self(at))
    }
}

impl Drop for Debugfs {
    fn drop(&mut self) {
        if let Err(e) = umount2(&self.0, MntFlags::MNT_DETACH) {
            eprintln!("cannot unmount {}: {e}", self.0.display());
        }
    }
}
