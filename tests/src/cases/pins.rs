//! The kernel side without an agent, and with the next one: nothing is missed, nothing is told twice, and whoever
//! touches it is told of.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use podtrail_proto::v1::{AgentState, Event, Gap, GapSource, agent_state::Phase, event::Body};

use crate::{
    cases,
    harness::{
        Agent, Cx,
        agent::phase,
        container::ITEST,
        daemon, factor, host, leftovers, process,
        session::{self, wait_open},
    },
};

cases! {
    "pins",
    OwnAgent: the_next_agent_reads_on, others_take_over_in_a_storm,
        unload_takes_everything_off, removed_pins_come_back, a_program_is_put_back,
        a_hook_is_attached_again, another_layout_is_replaced, doctor_shows_the_pins
}

/// Directories for pins and a spool that outlive an agent, but not the test.
pub(super) struct Pins {
    pins: PathBuf,
    spool: PathBuf,
}

impl Pins {
    pub(super) fn new(cx: &Cx) -> Result<Self> {
        Ok(Self { pins: host().dir(&cx.unique("pins"))?, spool: host().dir(&cx.unique("spool"))? })
    }

    pub(super) fn start(&self, cx: &Cx, more: &[&str]) -> Result<Agent> {
        let [pins, spool] = [&self.pins, &self.spool].map(|dir| dir.to_str().unwrap_or_default());
        let begun = i128::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
        let args = [&["--pin", pins, "--spool", spool, "--integrity-every", "200ms"], more].concat();
        let agent = cx.start_agent(&args)?;
        // Not the word of the one before, which may not have been printed.
        agent.wait("this agent's own first word", |events| {
            let now = |event: &Event| {
                event
                    .time
                    .is_some_and(|t| i128::from(t.seconds) * 1000 + i128::from(t.nanos / 1_000_000) >= begun)
            };
            events.iter().any(|event| begins(event) && now(event)).then_some(())
        })?;
        Ok(agent)
    }

    /// As a disk may: with it goes what the agent knew.
    pub(super) fn lose_the_store(&self) -> Result<()> {
        for entry in fs::read_dir(self.spool.join("spool"))? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("store.db")) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    pub(super) fn path(&self, below: &str) -> PathBuf {
        let versions = fs::read_dir(&self.pins).into_iter().flatten().flatten();
        let mut names = versions.map(|entry| entry.path());
        let of_version =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('v'));
        names.find(of_version).unwrap_or_else(|| self.pins.join("none")).join(below)
    }

    pub(super) fn dir(&self) -> &str {
        self.pins.to_str().unwrap_or_default()
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.path("").exists()
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(e) = leftovers::unpin(&self.pins) {
            eprintln!("pins are left in {}: {e:#}", self.pins.display());
        }
    }
}

/// The first word of the newest agent: one that goes on with a spool may print what the one before it did not.
fn first(agent: &Agent) -> Result<AgentState> {
    let events = agent.events();
    let began = events.iter().rfind(|event| begins(event)).and_then(|event| state(event).cloned());
    began.context("the agent did not say how it began")
}

fn begins(event: &Event) -> bool {
    matches!(phase(event), Some(Phase::Started | Phase::Upgraded))
}

fn state(event: &Event) -> Option<&AgentState> {
    match &event.body {
        Some(Body::AgentState(state)) => Some(state),
        _ => None,
    }
}

/// Numbers of the storm called `name`, by the numbers of their events: what is printed twice is one event.
fn told(events: &[Arc<Event>], name: &str) -> BTreeMap<u64, u32> {
    let number = |event: &Arc<Event>| match &event.body {
        Some(Body::Executed(executed)) => match executed.argv.as_slice() {
            [_, storm, number] if storm == name => Some((event.id.as_ref()?.seq, number.parse().ok()?)),
            _ => None,
        },
        _ => None,
    };
    events.iter().filter_map(number).collect()
}

fn gaps(events: &[Arc<Event>]) -> Vec<Gap> {
    let gap = |event: &Arc<Event>| match &event.body {
        Some(Body::Gap(gap)) => Some(gap.clone()),
        _ => None,
    };
    events.iter().filter_map(gap).collect()
}

/// Of the kernel: `(6, 1)`.
fn version(state: &AgentState) -> (u32, u32) {
    let mut numbers =
        state.kernel.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Before 5.15 kprobes and tracepoints of system calls end with the agent, and the next one tells their hole.
pub(super) fn has_hooks_that_end(state: &AgentState) -> bool {
    version(state) < (5, 15)
        && state.hooks.iter().any(|hook| hook.kind == "kprobe" || hook.kind == "tracepoint")
}

/// No gap, but the hole of hooks that end with the agent, which must be told.
fn only_what_ended(agent: &Agent) -> Result<()> {
    let ended = has_hooks_that_end(&first(agent)?);
    if ended {
        let of_setns =
            |gap: &Gap| gap.detail.starts_with("the setns_") && gap.detail.ends_with(" hook was gone");
        agent.wait("the hole of the hook on setns", |events| {
            gaps(events).iter().any(of_setns).then_some(())
        })?;
    }
    let gaps = gaps(&agent.events());
    ensure!(gaps.iter().all(|gap| ended && gap.source() == GapSource::HooksAbsent), "{gaps:?}");
    Ok(())
}

/// Waits for an event that says something is wrong with `subject`, and then for one that says all is right.
fn disturbed_and_healed(agent: &Agent, subject: &str, detail: &str) -> Result<()> {
    agent.wait(&format!("{subject} is told of, and then that all is right"), |events| {
        let mut states =
            events.iter().filter(|event| phase(event) == Some(Phase::Integrity)).filter_map(|e| state(e));
        states
            .by_ref()
            .find(|state| state.findings.iter().any(|f| f.subject == subject && f.detail.contains(detail)))?;
        states.find(|state| state.findings.is_empty()).map(|_| ())
    })
}

/// A storm in a session that begins under one agent and ends under the other, which `between` starts.
fn storm_over(
    cx: &Cx,
    before: &Agent,
    signal: Signal,
    between: impl FnOnce() -> Result<Agent>,
) -> Result<Agent> {
    let container = cx.container()?;
    let name = cx.unique("storm");
    // Long enough that the next agent comes in the midst of it: where everything is slow, so is each command.
    let size = 3000 / factor().min(3);
    let running =
        container.exec(&[ITEST, "payload", "storm", &size.to_string(), "/bin/true", &name]).spawn()?;
    before.wait("the storm is on", |events| (told(events, &name).len() > 50).then_some(()))?;
    before.end(signal)?;
    let after = between()?;
    let ran = running.wait()?.ok()?;
    ensure!(ran.text() == size.to_string(), "the storm ran {}", ran.text());
    after.wait("the storm's session ends", |events| {
        let ended = |event: &&Arc<Event>| matches!(event.body, Some(Body::SessionEnded(_)));
        let here = |event: &&Arc<Event>| {
            event.container.as_ref().is_some_and(|c| c.cgroup_id == container.cgroup_id)
        };
        events.iter().filter(ended).any(|event| here(&event)).then_some(())
    })?;
    let late = told(&after.events(), &name);
    let mut all = told(&before.events(), &name);
    ensure!(
        !late.is_empty() && late.keys().any(|seq| !all.contains_key(seq)),
        "the second told nothing of it"
    );
    all.extend(late);
    let wanted: Vec<u32> = (0..size).collect();
    let numbers: Vec<u32> = all.values().copied().collect();
    ensure!(
        numbers == wanted,
        "{} of {size} were told, {} of them once",
        numbers.len(),
        BTreeSet::from_iter(numbers).len()
    );
    Ok(after)
}

fn the_next_agent_reads_on(cx: &Cx) -> Result<()> {
    let pins = Pins::new(cx)?;
    let before = pins.start(cx, &[])?;
    ensure!(first(&before)?.adopted == Some(false), "{:?}", first(&before)?);
    let container = cx.container()?;
    before.stop()?;
    let pid = container.sh("/bin/echo while nobody looks").run()?.ok()?.pid;
    let after = pins.start(cx, &[])?;
    let began = first(&after)?;
    ensure!((began.phase(), began.adopted) == (Phase::Started, Some(true)), "{began:?}");
    // A runtime that joins before it moves is told from the workload by its setns, so this one may be in the hole.
    if !has_hooks_that_end(&began) {
        let session = wait_open(&after, container.cgroup_id, pid)?;
        let session = after.ended(&session.id)?;
        session.command(&["/bin/echo", "while", "nobody", "looks"])?;
        ensure!(session.started()?.recovered != Some(true), "{}", session.story());
    }
    only_what_ended(&after)?;
    let later = storm_over(cx, &after, Signal::SIGKILL, || pins.start(cx, &[]))?;
    later.end(Signal::SIGTERM).map(drop)
}

fn others_take_over_in_a_storm(cx: &Cx) -> Result<()> {
    let pins = Pins::new(cx)?;
    let mut agent = pins.start(cx, &[])?;
    for settings in [&["--argv-limit", "32KiB"][..], &["--argv-limit", "48KiB", "--ring-size", "8MiB"]] {
        agent = storm_over(cx, &agent, Signal::SIGTERM, || pins.start(cx, settings))?;
        let began = first(&agent)?;
        ensure!((began.phase(), began.adopted) == (Phase::Upgraded, Some(true)), "{began:?}");
        only_what_ended(&agent)?;
    }
    agent.end(Signal::SIGTERM).map(drop)
}

fn unload(pins: &Pins) -> Result<String> {
    let mut command = daemon::command("podtrail-agent");
    command.arg("unload").arg("--pin").arg(&pins.pins).arg("--lock").arg(host().dir.join("agent.lock"));
    let output = process::succeed(command)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn unload_takes_everything_off(cx: &Cx) -> Result<()> {
    let pins = Pins::new(cx)?;
    let agent = pins.start(cx, &[])?;
    ensure!(unload(&pins).is_err(), "it unloads what a running agent reads");
    agent.end(Signal::SIGKILL)?;
    ensure!(pins.path("links/exec").exists(), "a killed agent takes its pins with it");
    let told = unload(&pins)?;
    ensure!(told.contains("/links/exec\n") && told.contains("/maps/EVENTS\n"), "{told}");
    ensure!(pins.is_empty(), "something is left");
    ensure!(unload(&pins)?.starts_with("nothing was pinned in "), "it says otherwise the second time");
    let container = cx.container()?;
    let missed = container.sh("exit").run()?.ok()?.pid;
    let next = pins.start(cx, &[])?;
    ensure!(first(&next)?.adopted == Some(false), "{:?}", first(&next)?);
    let pid = container.sh("exit").run()?.ok()?.pid;
    wait_open(&next, container.cgroup_id, pid)?;
    for session in session::all(&next.events(), container.cgroup_id) {
        ensure!(session.started()?.root.as_ref().is_some_and(|root| root.pid != missed), "it still recorded");
    }
    next.end(Signal::SIGTERM).map(drop)
}

fn removed_pins_come_back(cx: &Cx) -> Result<()> {
    let pins = Pins::new(cx)?;
    let agent = pins.start(cx, &[])?;
    for (file, subject) in [("maps/EVENTS", "pin of map EVENTS"), ("links/exec", "pin of link exec")] {
        let path = pins.path(file);
        fs::remove_file(&path)?;
        disturbed_and_healed(&agent, subject, "gone: pinned again")?;
        ensure!(path.exists(), "{} is not there", path.display());
    }
    let container = cx.container()?;
    let pid = container.sh("exit").run()?.ok()?.pid;
    wait_open(&agent, container.cgroup_id, pid)?;
    agent.end(Signal::SIGKILL)?;
    let next = pins.start(cx, &[])?;
    ensure!(first(&next)?.adopted == Some(true), "what was pinned again is not the same");
    next.end(Signal::SIGTERM).map(drop)
}

/// Takes the program out of a hook's slot, as bpftool would.
pub(super) fn take_out(slot: &Path) -> Result<()> {
    let slot = slot.to_str().context("a path that is no text")?;
    process::succeed(process::payload(&["take-out", slot])).map(drop)
}

fn a_program_is_put_back(cx: &Cx) -> Result<()> {
    let pins = Pins::new(cx)?;
    let agent = pins.start(cx, &[])?;
    take_out(&pins.path("maps/TO_EXEC"))?;
    disturbed_and_healed(&agent, "program exec", "taken out: put back")?;
    let container = cx.container()?;
    let pid = container.sh("exit").run()?.ok()?.pid;
    let session = wait_open(&agent, container.cgroup_id, pid)?;
    agent.ended(&session.id)?;
    agent.end(Signal::SIGTERM)?;

    take_out(&pins.path("maps/TO_EXIT"))?;
    let next = pins.start(cx, &[])?;
    let began = first(&next)?;
    ensure!(began.findings.iter().any(|finding| finding.subject == "program exit"), "{began:?}");
    hole(&next)?;
    next.end(Signal::SIGTERM).map(drop)
}

/// Waits for a gap that says that nothing was hooked.
fn hole(agent: &Agent) -> Result<()> {
    agent.wait("a hole is told", |events| {
        let absent = |event: &Arc<Event>| {
            matches!(&event.body, Some(Body::Gap(gap)) if gap.source() == GapSource::HooksAbsent)
        };
        events.iter().any(absent).then_some(())
    })
}

fn a_hook_is_attached_again(cx: &Cx) -> Result<()> {
    let pins = Pins::new(cx)?;
    pins.start(cx, &[])?.end(Signal::SIGKILL)?;
    fs::remove_file(pins.path("links/exec"))?;
    let agent = pins.start(cx, &[])?;
    let began = first(&agent)?;
    ensure!(began.adopted == Some(true), "{began:?}");
    ensure!(
        began
            .findings
            .iter()
            .any(|f| (f.subject.as_str(), f.detail.as_str()) == ("hook exec", "gone: attached again")),
        "{began:?}"
    );
    hole(&agent)?;
    let container = cx.container()?;
    let pid = container.sh("exit").run()?.ok()?.pid;
    wait_open(&agent, container.cgroup_id, pid)?;
    agent.end(Signal::SIGTERM).map(drop)
}

fn another_layout_is_replaced(cx: &Cx) -> Result<()> {
    let pins = Pins::new(cx)?;
    pins.start(cx, &[])?.end(Signal::SIGKILL)?;
    let here = pins.path("");
    let other = pins.pins.join("v999");
    fs::rename(&here, &other)?;
    let agent = pins.start(cx, &[])?;
    let began = first(&agent)?;
    ensure!((began.phase(), began.adopted) == (Phase::Started, Some(false)), "{began:?}");
    hole(&agent)?;
    ensure!(!other.exists(), "the other layout still records");
    agent.end(Signal::SIGTERM).map(drop)
}

fn doctor_shows_the_pins(cx: &Cx) -> Result<()> {
    let pins = Pins::new(cx)?;
    let agent = pins.start(cx, &[])?;
    let mut command = daemon::command("podtrail-agent");
    command.args(["doctor", "-o", "json", "--pin"]).arg(&pins.pins);
    let output = process::succeed(command)?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let pinned = &report["pinned"][0];
    ensure!(pinned["ours"] == true && pinned["since"].is_string(), "{report}");
    let hooks = pinned["hooks"].as_array().context("no hooks")?;
    // Those on failed execs are there where the kernel lets them, and those that make up for others where they are preempted.
    let always = if version(&first(&agent)?) >= (7, 0) { 15 } else { 9 };
    let failed =
        hooks.iter().filter(|hook| hook["name"].as_str().is_some_and(|name| name.starts_with("execve")));
    ensure!(matches!((hooks.len() - always, failed.count()), (0, 0) | (2, 2)), "{pinned}");
    ensure!(hooks.iter().all(|hook| hook["worker"].is_u64()), "{pinned}");
    let ring = pinned["maps"].as_array().into_iter().flatten().find(|map| map["name"] == "EVENTS");
    ensure!(ring.is_some_and(|ring| ring["entries"] == 4 << 20), "{pinned}");
    agent.stop()
}
