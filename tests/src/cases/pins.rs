//! The kernel side without an agent, and with the next one: nothing is missed, nothing is told twice, and whoever
//! touches it is told of.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use podtrail_proto::v1::{AgentState, Event, GapSource, agent_state::Phase, event::Body};

use crate::{
    cases,
    harness::{
        Agent, Cx,
        agent::phase,
        container::ITEST,
        daemon, host, leftovers, process,
        session::{self, wait_open},
    },
};

cases! {
    "pins",
    OwnAgent: what_happens_without_an_agent_is_told_by_the_next, other_programs_take_over_in_a_storm,
        unload_takes_everything_off, pins_that_are_removed_come_back, a_program_that_is_taken_out_is_put_back,
        a_hook_that_is_gone_is_attached_again, another_layout_is_replaced, doctor_shows_the_pins
}

/// A directory for pins that outlive an agent, but not the test.
struct Pins(PathBuf);

impl Pins {
    fn new(cx: &Cx) -> Result<Self> {
        Ok(Self(host().dir(&cx.unique("pins"))?))
    }

    fn start(&self, cx: &Cx, more: &[&str]) -> Result<Agent> {
        let dir = self.0.to_str().context("a path that is no text")?;
        cx.start_agent(&[&["--pin", dir, "--integrity-every", "200ms"], more].concat())
    }

    fn path(&self, below: &str) -> PathBuf {
        let versions = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let mut names = versions.map(|entry| entry.path());
        let of_version =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('v'));
        names.find(of_version).unwrap_or_else(|| self.0.join("none")).join(below)
    }

    fn is_empty(&self) -> bool {
        !self.path("").exists()
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(e) = leftovers::unpin(&self.0) {
            eprintln!("pins are left in {}: {e:#}", self.0.display());
        }
    }
}

fn first(agent: &Agent) -> Result<AgentState> {
    let state = agent.events().iter().find_map(|event| state(event).cloned());
    state.context("the agent did not say how it began")
}

fn state(event: &Event) -> Option<&AgentState> {
    match &event.body {
        Some(Body::AgentState(state)) => Some(state),
        _ => None,
    }
}

/// Numbers of the storm called `name` that an agent told, in the order in which it did.
fn told(agent: &Agent, name: &str) -> Vec<u32> {
    let number = |event: &Arc<Event>| match &event.body {
        Some(Body::Executed(executed)) => match executed.argv.as_slice() {
            [_, storm, number] if storm == name => number.parse().ok(),
            _ => None,
        },
        _ => None,
    };
    agent.events().iter().filter_map(number).collect()
}

fn gaps(agent: &Agent) -> Vec<Arc<Event>> {
    agent.events().into_iter().filter(|event| matches!(event.body, Some(Body::Gap(_)))).collect()
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
    before: Agent,
    signal: Signal,
    between: impl FnOnce() -> Result<Agent>,
) -> Result<Agent> {
    let container = cx.container()?;
    let name = cx.unique("storm");
    let size = "3000";
    let running = container.exec(&[ITEST, "payload", "storm", size, "/bin/true", &name]).spawn()?;
    before.wait("the storm is on", |_| (told(&before, &name).len() > 50).then_some(()))?;
    before.end(signal)?;
    let after = between()?;
    let ran = running.wait()?.ok()?;
    ensure!(ran.text() == size, "the storm ran {}", ran.text());
    let session = wait_open(&after, container.cgroup_id, ran.pid)?;
    let session = after.ended(&session.id)?;
    let (early, late) = (told(&before, &name), told(&after, &name));
    let all: HashSet<u32> = early.iter().chain(&late).copied().collect();
    let wanted: u32 = size.parse()?;
    ensure!(!late.is_empty() && late.len() < wanted as usize, "{} were told by the second", late.len());
    ensure!(all.len() == wanted as usize, "{} of {size} were told", all.len());
    ensure!(
        early.len() + late.len() == wanted as usize,
        "{} were told twice",
        early.len() + late.len() - all.len()
    );
    ensure!(late.is_sorted(), "they were told out of order");
    ensure!(session.ended().is_some_and(|ended| ended.lost == Some(0)), "{}", session.story());
    Ok(after)
}

fn what_happens_without_an_agent_is_told_by_the_next(cx: &Cx) -> Result<()> {
    let pins = Pins::new(cx)?;
    let before = pins.start(cx, &[])?;
    ensure!(first(&before)?.adopted == Some(false), "{:?}", first(&before)?);
    let container = cx.container()?;
    before.stop()?;
    let pid = container.sh("/bin/echo while nobody looks").run()?.ok()?.pid;
    let after = pins.start(cx, &[])?;
    let began = first(&after)?;
    ensure!((began.phase(), began.adopted) == (Phase::Started, Some(true)), "{began:?}");
    let session = wait_open(&after, container.cgroup_id, pid)?;
    let session = after.ended(&session.id)?;
    session.command(&["/bin/echo", "while", "nobody", "looks"])?;
    ensure!(session.started()?.recovered != Some(true), "{}", session.story());
    ensure!(gaps(&after).is_empty(), "{:?}", gaps(&after));
    let later = storm_over(cx, after, Signal::SIGTERM, || pins.start(cx, &[]))?;
    later.stop()
}

fn other_programs_take_over_in_a_storm(cx: &Cx) -> Result<()> {
    let pins = Pins::new(cx)?;
    let mut agent = pins.start(cx, &[])?;
    for settings in [&["--argv-limit", "32KiB"][..], &["--argv-limit", "48KiB", "--ring-size", "8MiB"]] {
        agent = storm_over(cx, agent, Signal::SIGTERM, || pins.start(cx, settings))?;
        let began = first(&agent)?;
        ensure!((began.phase(), began.adopted) == (Phase::Upgraded, Some(true)), "{began:?}");
        ensure!(gaps(&agent).is_empty(), "{:?}", gaps(&agent));
    }
    agent.stop()
}

fn unload(pins: &Pins) -> Result<String> {
    let mut command = daemon::command("podtrail-agent");
    command.arg("unload").arg("--pin").arg(&pins.0).arg("--lock").arg(host().dir.join("agent.lock"));
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
    next.stop()
}

fn pins_that_are_removed_come_back(cx: &Cx) -> Result<()> {
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
    next.stop()
}

/// Takes the program out of a hook's slot, as bpftool would.
fn take_out(slot: &Path) -> Result<()> {
    let slot = slot.to_str().context("a path that is no text")?;
    process::succeed(process::payload(&["take-out", slot])).map(drop)
}

fn a_program_that_is_taken_out_is_put_back(cx: &Cx) -> Result<()> {
    let pins = Pins::new(cx)?;
    let agent = pins.start(cx, &[])?;
    take_out(&pins.path("maps/TO_EXEC"))?;
    disturbed_and_healed(&agent, "program exec", "taken out: put back")?;
    // This test's own programs, at the latest, ran into the hook meanwhile or did not: the storm of others is no help.
    let container = cx.container()?;
    let pid = container.sh("exit").run()?.ok()?.pid;
    let session = wait_open(&agent, container.cgroup_id, pid)?;
    agent.ended(&session.id)?;
    agent.end(Signal::SIGTERM)?;

    take_out(&pins.path("maps/TO_EXIT"))?;
    let next = pins.start(cx, &[])?;
    let began = first(&next)?;
    ensure!(began.findings.iter().any(|finding| finding.subject == "program exit"), "{began:?}");
    ensure!(gaps(&next).iter().any(|gap| is_absent(gap)), "no hole: {:?}", next.events());
    next.end(Signal::SIGTERM).map(drop)
}

fn is_absent(event: &Event) -> bool {
    matches!(&event.body, Some(Body::Gap(gap)) if gap.source() == GapSource::HooksAbsent)
}

fn a_hook_that_is_gone_is_attached_again(cx: &Cx) -> Result<()> {
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
    ensure!(gaps(&agent).iter().any(|gap| is_absent(gap)), "no hole: {:?}", agent.events());
    let container = cx.container()?;
    let pid = container.sh("exit").run()?.ok()?.pid;
    wait_open(&agent, container.cgroup_id, pid)?;
    agent.end(Signal::SIGTERM).map(drop)
}

fn another_layout_is_replaced(cx: &Cx) -> Result<()> {
    let pins = Pins::new(cx)?;
    pins.start(cx, &[])?.end(Signal::SIGKILL)?;
    let here = pins.path("");
    let other = pins.0.join("v999");
    fs::rename(&here, &other)?;
    let agent = pins.start(cx, &[])?;
    let began = first(&agent)?;
    ensure!((began.phase(), began.adopted) == (Phase::Started, Some(false)), "{began:?}");
    ensure!(gaps(&agent).iter().any(|gap| is_absent(gap)), "no hole: {:?}", agent.events());
    ensure!(!other.exists(), "the other layout still records");
    agent.end(Signal::SIGTERM).map(drop)
}

fn doctor_shows_the_pins(cx: &Cx) -> Result<()> {
    let pins = Pins::new(cx)?;
    let agent = pins.start(cx, &[])?;
    let mut command = daemon::command("podtrail-agent");
    command.args(["doctor", "-o", "json", "--pin"]).arg(&pins.0);
    let output = process::succeed(command)?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let pinned = &report["pinned"][0];
    ensure!(pinned["ours"] == true && pinned["since"].is_string(), "{report}");
    let hooks = pinned["hooks"].as_array().context("no hooks")?;
    ensure!(hooks.len() == 7 && hooks.iter().all(|hook| hook["worker"].is_u64()), "{pinned}");
    let ring = pinned["maps"].as_array().into_iter().flatten().find(|map| map["name"] == "EVENTS");
    ensure!(ring.is_some_and(|ring| ring["entries"] == 4 << 20), "{pinned}");
    agent.stop()
}
