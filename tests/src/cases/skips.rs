//! Hooks that the kernel skips, as it does where one of the same place is at work on that processor: what stands behind them makes
//! up for it, or tells it. Taking a program out of its slot stands for that; the agent is not let look after its slots meanwhile.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use podtrail_proto::v1::{Event, Gap, GapSource, event::Body};

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
        session::{self, wait_open, want},
        until,
    },
};

cases! {
    "skips",
    OwnAgent: the_second_does_what_the_first_was_skipped_for, an_exec_that_nobody_saw_is_told, an_exit_that_nobody_saw_is_told
}

fn start(cx: &Cx, pins: &Pins) -> Result<Agent> {
    cx.start_agent(&["--pin", pins.dir(), "--integrity-every", "1h"])
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

fn an_exec_that_nobody_saw_is_told(cx: &Cx) -> Result<()> {
    let pins = Pins::new(cx)?;
    let agent = start(cx, &pins)?;
    let container = cx.container()?;
    container.gate("/gate")?;
    // One of a child, which ends; two of the root, one after the other.
    let script = format!("read x </gate; /bin/echo one; exec {ITEST} payload exec-chain 1");
    let running = container.sh(&script).detached().run()?.ok()?;
    let open = wait_open(&agent, container.cgroup_id, running.pid)?;
    until("the session waits", || process::children(running.pid).is_empty())?;
    for slot in ["TO_EXEC", "TO_EXEC2", "TO_EXEC3", "TO_EXEC4"] {
        take_out(&pins.path("maps").join(slot))?;
    }
    container.tell("/gate", "go")?;
    let session = agent.ended(&open.id)?;
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

fn an_exit_that_nobody_saw_is_told(cx: &Cx) -> Result<()> {
    let pins = Pins::new(cx)?;
    let agent = start(cx, &pins)?;
    let container = cx.container()?;
    container.gate("/gate")?;
    let script = "read x </gate; /bin/echo seen; exit 3";
    let running = container.sh(script).detached().run()?.ok()?;
    let open = wait_open(&agent, container.cgroup_id, running.pid)?;
    until("the session waits", || process::children(running.pid).is_empty())?;
    for slot in ["TO_EXIT", "TO_EXIT2", "TO_EXIT3"] {
        take_out(&pins.path("maps").join(slot))?;
    }
    container.tell("/gate", "go")?;
    let session = agent.ended(&open.id)?;
    session.command(&["/bin/echo", "seen"])?;
    ensure!(session.exited().is_empty(), "nobody saw an exit: {}", session.story());
    let ended = session.ended().is_some_and(|ended| (ended.exit_code, ended.signal) == (None, None));
    ensure!(ended, "nobody saw how its root ended: {}", session.story());
    let skipped = agent.wait("two exits are told to be missing", |events| {
        // Others of this machine may have ended, too.
        let skipped = skipped(events);
        (count(&skipped) >= 2).then_some(skipped)
    })?;
    for gap in &skipped {
        ensure!((gap.detail.as_str(), gap.exact) == ("exit", Some(true)), "{gap:?}");
    }
    ensure!(skipped.iter().any(|gap| gap.session_ids.contains(&open.id)), "{skipped:?}");
    // Gaps are told, as they must be.
    ensure!(agent.end(Signal::SIGTERM)?.success(), "{}", agent.logged());
    Ok(())
}
