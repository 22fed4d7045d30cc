//! Hooks that the kernel skips, as it does where one of the same place is at work on that processor: what stands behind them makes
//! up for it, or tells it. Taking a program out of its slot stands for that; the agent is not let look after its slots meanwhile.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use podtrail_proto::v1::{Event, Gap, GapSource, Process, event::Body};

use super::{
    BUSYBOX,
    pins::{Pins, take_out},
    sh,
};
use crate::{
    cases,
    harness::{
        Agent, Cx,
        container::ITEST,
        process,
        session::{self, Session, wait_open, want},
        until,
    },
};

cases! {
    "skips",
    OwnAgent: the_second_does_what_the_first_was_skipped_for, an_exec_that_nobody_saw_is_told, an_exit_that_nobody_saw_is_told_late
}

fn start(cx: &Cx, pins: &Pins) -> Result<Agent> {
    cx.start_agent(&["--pin", pins.dir(), "--integrity-every", "1h", "--preempted", "yes"])
}

fn skipped(events: &[Arc<Event>]) -> Vec<Gap> {
    let skipped = |event: &Arc<Event>| match &event.body {
        Some(Body::Gap(gap)) if gap.source() == GapSource::KernelRecursion => Some(gap.clone()),
        _ => None,
    };
    events.iter().filter_map(skipped).collect()
}

fn count(gaps: &[Gap]) -> u64 {
    gaps.iter().filter_map(|gap| gap.count).sum()
}

fn the_second_does_what_the_first_was_skipped_for(cx: &Cx) -> Result<()> {
    let pins = Pins::new(cx)?;
    let agent = start(cx, &pins)?;
    let container = cx.container()?;
    for slot in ["TO_FORK", "TO_EXEC", "TO_EXIT"] {
        take_out(&pins.path("maps").join(slot))?;
    }
    let script = "/bin/true; (/bin/echo below; exit 2); exit 3";
    let pid = container.sh(script).run()?.pid;
    let open = wait_open(&agent, container.cgroup_id, pid)?;
    let session = agent.ended(&open.id)?;
    session.expect(&[
        want(BUSYBOX, &sh(script)).exit(3),
        want(BUSYBOX, &["/bin/true"]).exit(0),
        want(BUSYBOX, &["/bin/echo", "below"]).exit(0),
    ])?;
    // As of any exit: once, with its code, and the session ends by its root's.
    session.check()?;
    ensure!(session.ended().is_some_and(|ended| ended.exit_code == Some(3)), "{}", session.story());
    ensure!(
        session::all(&agent.events(), container.cgroup_id).len() == 1,
        "something became another session: {:?}",
        agent.events()
    );
    // Gaps are told, as they must be.
    ensure!(agent.end(Signal::SIGTERM)?.success(), "{}", agent.logged());
    Ok(())
}

/// A session that waits at /gate, before it does `then`, which these slots see nothing of any more.
fn wait_and_do(cx: &Cx, pins: &Pins, agent: &Agent, then: &str, slots: &[&str]) -> Result<Session> {
    let container = cx.container()?;
    container.gate("/gate")?;
    let running = container.sh(&format!("read x </gate; {then}")).detached().run()?.ok()?;
    let open = wait_open(agent, container.cgroup_id, running.pid)?;
    until("the session waits", || process::children(running.pid).is_empty())?;
    for slot in slots {
        take_out(&pins.path("maps").join(slot))?;
    }
    container.tell("/gate", "go")?;
    agent.ended(&open.id)
}

fn an_exec_that_nobody_saw_is_told(cx: &Cx) -> Result<()> {
    let pins = Pins::new(cx)?;
    let agent = start(cx, &pins)?;
    // One of a child, which ends; two of the root, one after the other.
    let then = format!("/bin/echo one; exec {ITEST} payload exec-chain 1");
    let slots = ["TO_EXEC", "TO_EXEC2", "TO_EXEC3", "TO_EXEC4"];
    let session = wait_and_do(cx, &pins, &agent, &then, &slots)?;
    ensure!(session.executed().len() == 1, "nobody saw what came after its root: {}", session.story());
    let skipped = agent.wait("three execs are told to be missing", |events| {
        let skipped = skipped(events);
        (count(&skipped) >= 3).then_some(skipped)
    })?;
    for gap in &skipped {
        ensure!((gap.detail.as_str(), gap.exact) == ("exec", Some(true)), "{gap:?}");
    }
    let ended = session.ended().with_context(|| session.story())?;
    ensure!(ended.lost == Some(3), "three of the session: {ended:?}");
    // Gaps are told, as they must be.
    ensure!(agent.end(Signal::SIGTERM)?.success(), "{}", agent.logged());
    Ok(())
}

fn an_exit_that_nobody_saw_is_told_late(cx: &Cx) -> Result<()> {
    let pins = Pins::new(cx)?;
    let agent = start(cx, &pins)?;
    let then = "/bin/echo seen; exit 3";
    let session = wait_and_do(cx, &pins, &agent, then, &["TO_EXIT", "TO_EXIT2"])?;
    // Nothing is lost: neither how they ended, nor that they did.
    session.check()?;
    let executed = session.executed();
    ensure!(executed.len() == 2, "{}", session.story());
    for (executed, code) in executed.into_iter().zip([3, 0]) {
        let exited = session.exit_of(executed)?;
        ensure!((exited.late, exited.exit_code) == (true, Some(code)), "{exited:?}");
        let parent = |process: Option<&Process>| {
            process.map(|process| (process.parent_pid, process.parent_start_time))
        };
        ensure!(parent(exited.process.as_ref()) == parent(executed.process.as_ref()), "{exited:?}");
    }
    let ended = session.ended().with_context(|| session.story())?;
    ensure!((ended.exit_code, ended.lost) == (Some(3), Some(0)), "{ended:?}");
    ensure!(skipped(&agent.events()).is_empty(), "told as lost: {:?}", skipped(&agent.events()));
    // That nobody was handed over to is told, as it must be.
    ensure!(agent.end(Signal::SIGTERM)?.success(), "{}", agent.logged());
    Ok(())
}
