//! A session that floods hides no other: whatever it does, every command of the others is told, and of its own it is
//! told exactly how many are not.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use podtrail_proto::v1::{Event, Gap, GapSource, event::Body};

use super::{BUSYBOX, pins::Pins, sh};
use crate::{
    cases,
    harness::{
        Agent, Container, Cx, Session, container::ITEST, exec::Running, factor, node, session, until, want,
    },
    payload::sized_argv,
};

cases! {
    "floods",
    OwnAgent: a_flood_beside_another_session, a_flood_in_small_rings, floods_of_many_sessions,
        a_session_over_its_budget_of_arguments, a_flood_while_nobody_reads, what_was_refused_is_told_once
}

/// Bytes of arguments of each command of a flood.
const LONG: usize = 100 * 1024;

/// A session that floods until it is told to stop.
struct Flood<'c> {
    container: &'c Container,
    dir: PathBuf,
    running: Running,
}

impl<'c> Flood<'c> {
    /// Begins with so many workers; back when they are at work.
    fn begin(container: &'c Container, name: &str, workers: usize, bytes: usize) -> Result<Self> {
        let inside = format!("/tmp/{name}");
        let dir = container.path(&inside);
        fs::create_dir(&dir)?;
        let (workers, bytes) = (workers.to_string(), bytes.to_string());
        let args = [ITEST, "payload", "flood", &workers, &inside, "/bin/true", &bytes];
        let running = container.exec(&args).spawn()?;
        let flooding = dir.join("flooding");
        until("the flood has begun", || flooding.exists())?;
        Ok(Self { container, dir, running })
    }

    /// It is enough. What it did is told later: whoever prints and reads it is slower than a flood.
    fn stop(&self) -> Result<()> {
        Ok(fs::write(self.dir.join("stop"), "")?)
    }

    /// When it has stopped: every command of it must have been told, or be in the count of those that are not.
    fn end(self, agent: &Agent) -> Result<Told> {
        let ran = self.running.wait()?.ok()?;
        let commands: u64 = ran.text().parse().context("the flood's count")?;
        let open = session::wait_open(agent, self.container.cgroup_id, ran.pid)?;
        let session = agent.ended(&open.id)?;
        let mut refused = 0;
        for gap in gaps(agent).iter().filter(|gap| gap.source() == GapSource::SessionBudget) {
            if gap.session_ids == [session.id.clone()] {
                ensure!(gap.exact == Some(true) && gap.detail == "exec, exit", "{gap:?}");
                ensure!(gap.from.is_some() && gap.to.is_some(), "{gap:?}");
                refused += gap.count();
            }
        }
        let (executed, exited) = (session.executed().len() as u64, session.exited().len() as u64);
        // With the flood's own program.
        ensure!(
            executed + exited + refused == 2 * (commands + 1),
            "{executed} commands and {exited} ends told, {refused} refused of {} commands; {:?}",
            commands + 1,
            gaps(agent)
        );
        ensure!(executed == exited, "{executed} commands and {exited} ends");
        let ended = session.ended().context("no end")?;
        ensure!(ended.lost == Some(refused), "its end counts {:?}, its gaps {refused}", ended.lost);
        Ok(Told { session, refused })
    }
}

/// What was told of a flood.
struct Told {
    session: Session,
    refused: u64,
}

fn gaps(agent: &Agent) -> Vec<Gap> {
    let events = agent.events();
    let gaps = events.iter().filter_map(|event| match &event.body {
        Some(Body::Gap(gap)) => Some(gap.clone()),
        _ => None,
    });
    gaps.collect()
}

/// Nothing is missing but what single sessions are known to have lost by their budget.
fn only_refused(agent: &Agent) -> Result<()> {
    for gap in gaps(agent) {
        ensure!(gap.source() == GapSource::SessionBudget && gap.session_ids.len() == 1, "{gap:?}");
    }
    Ok(())
}

const HUNDRED: &str = "i=0; while [ $i -lt 100 ]; do /bin/echo number-$i; i=$((i+1)); done; exit";

/// Runs a hundred commands in a session, which is that of this process.
fn hundred(container: &Container) -> Result<u32> {
    Ok(container.sh(HUNDRED).run()?.ok()?.pid)
}

/// All of them must be told, and nothing be said to be missing of that session.
fn all_told(agent: &Agent, container: &Container, pid: u32) -> Result<()> {
    let open = session::wait_open(agent, container.cgroup_id, pid)?;
    let session = agent.ended(&open.id)?;
    session.check()?;
    let numbers: Vec<String> = (0..100).map(|number| format!("number-{number}")).collect();
    let mut wanted = vec![want(BUSYBOX, &sh(HUNDRED))];
    wanted.extend(numbers.iter().map(|number| want(BUSYBOX, &["/bin/echo", number])));
    session.expect(&wanted)?;
    let touched = gaps(agent).into_iter().find(|gap| gap.session_ids.contains(&session.id));
    ensure!(touched.is_none(), "{touched:?}");
    Ok(())
}

/// One worker for each processor, and one more.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(4, usize::from) + 1
}

fn one_beside_another(cx: &Cx, args: &[&str]) -> Result<Told> {
    let (flooded, quiet) = (cx.container()?, cx.container()?);
    let agent = cx.start_agent(args)?;
    let flood = Flood::begin(&flooded, "flood", workers(), LONG)?;
    let pid = hundred(&quiet)?;
    flood.stop()?;
    all_told(&agent, &quiet, pid)?;
    let told = flood.end(&agent)?;
    only_refused(&agent)?;
    ensure!(agent.end(Signal::SIGTERM)?.success(), "{}", agent.logged());
    Ok(told)
}

fn a_flood_beside_another_session(cx: &Cx) -> Result<()> {
    one_beside_another(cx, &[]).map(|_| ())
}

fn a_flood_in_small_rings(cx: &Cx) -> Result<()> {
    for size in ["64KiB", "128KiB", "256KiB"] {
        let told = one_beside_another(cx, &["--ring-size", size]).with_context(|| size.to_owned())?;
        eprintln!("{size}: {} told, {} refused", told.session.executed().len(), told.refused);
    }
    Ok(())
}

fn floods_of_many_sessions(cx: &Cx) -> Result<()> {
    let (flooded, quiet) = (cx.container()?, cx.container()?);
    for size in ["512KiB", "4MiB"] {
        // What is within the budget takes a slow build long to print: it has to have room meanwhile.
        let args = ["--ring-size", size, "--session-argv-budget", "256KiB", "--spool-size", "256MiB"];
        let agent = cx.start_agent(&args)?;
        let mut floods = Vec::new();
        for number in 0..(6 / factor()).max(2) {
            floods.push(Flood::begin(&flooded, &format!("flood-{size}-{number}"), 1, LONG)?);
        }
        let pids = [hundred(&quiet)?, hundred(&flooded)?];
        floods.iter().try_for_each(Flood::stop)?;
        for (container, pid) in [&quiet, &flooded].into_iter().zip(pids) {
            all_told(&agent, container, pid)?;
        }
        for flood in floods {
            flood.end(&agent)?;
        }
        only_refused(&agent)?;
        ensure!(agent.end(Signal::SIGTERM)?.success(), "{}", agent.logged());
    }
    Ok(())
}

fn a_session_over_its_budget_of_arguments(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let agent = cx.start_agent(&["--session-argv-budget", "1MiB"])?;
    let flood = Flood::begin(&container, "flood", 1, LONG)?;
    until("the session is over its budget", || {
        agent.events().iter().any(|e| matches!(&e.body, Some(Body::Executed(e)) if e.argv_over_budget))
    })?;
    flood.stop()?;
    let Told { session, refused } = flood.end(&agent)?;
    ensure!(refused == 0, "{refused} refused");
    let all = sized_argv(LONG);
    let (mut whole, mut cut) = (0, 0);
    for executed in session.executed().into_iter().skip(1) {
        ensure!(executed.argv_bytes == Some(LONG as u64 + 5), "{:?}", executed.argv_bytes);
        ensure!(executed.truncated == Some(true), "not cut, at all");
        let kept: usize = executed.argv.iter().map(|arg| arg.len() + 1).sum();
        if executed.argv_over_budget {
            cut += 1;
            ensure!((1000..=1026).contains(&kept), "{kept} bytes kept over the budget");
        } else {
            whole += 1;
            ensure!(kept > 60 * 1024, "{kept} bytes kept within the budget");
        }
        ensure!(executed.argv.first() == Some(&"/bin/true".to_owned()), "{:?}", executed.argv.first());
        let head = executed.argv.get(1).context("no head")?;
        ensure!(all[1].starts_with(head.as_str()) && head.len() > 400, "another head: {head:?}");
        let (end, last) = (executed.argv.last().context("no end")?, all.last().context("no argument")?);
        ensure!(last.ends_with(end.as_str()) && !end.is_empty(), "another end: {end:?}");
    }
    // The budget is 16 times what is kept of one command, and no more came back meanwhile than what a slow machine gives
    // time for.
    ensure!(whole >= 16 && cut > 0, "{whole} whole, {cut} cut");
    agent.stop()
}

fn a_flood_while_nobody_reads(cx: &Cx) -> Result<()> {
    let (flooded, quiet) = (cx.container()?, cx.container()?);
    let agent = cx.start_agent(&["--ring-size", "2MiB"])?;
    let flood = Flood::begin(&flooded, "flood", workers(), LONG)?;
    let pid = Pid::from_raw(agent.pid()?.cast_signed());
    kill(pid, Signal::SIGSTOP)?;
    let ran = hundred(&quiet).and_then(|one| Ok([(&quiet, one), (&flooded, hundred(&flooded)?)]));
    flood.stop()?;
    kill(pid, Signal::SIGCONT)?;
    for (container, pid) in ran? {
        all_told(&agent, container, pid)?;
    }
    let told = flood.end(&agent)?;
    ensure!(told.refused > 0, "nothing was refused");
    only_refused(&agent)?;
    ensure!(agent.end(Signal::SIGTERM)?.success(), "{}", agent.logged());
    Ok(())
}

/// Also by an agent that has lost what the one before it knew.
fn what_was_refused_is_told_once(cx: &Cx) -> Result<()> {
    let pins = Pins::new(cx)?;
    let container = cx.container()?;
    let args = ["--ring-size", "64KiB"];
    let agent = pins.start(cx, &args)?;
    let flood = Flood::begin(&container, "first", workers(), LONG)?;
    agent.wait("something is refused", |events| {
        let refused = |event: &Event| {
            matches!(&event.body, Some(Body::Gap(gap)) if gap.source() == GapSource::SessionBudget)
        };
        events.iter().any(|event| refused(event)).then_some(())
    })?;
    flood.stop()?;
    let first = flood.end(&agent)?;
    ensure!(first.refused > 0, "nothing was refused");
    only_refused(&agent)?;
    node::settle(&agent)?;
    agent.end(Signal::SIGKILL)?;
    pins.lose_the_store()?;
    // Nobody reads: all but the first thirty or so are refused.
    let flood = Flood::begin(&container, "second", 1, LONG)?;
    hundred(&container)?;
    flood.stop()?;
    let agent = pins.start(cx, &args)?;
    let second = flood.end(&agent)?;
    ensure!(second.refused > 0, "nothing was refused");
    // Of the first, nothing; and what hundred others had refused.
    let refused = |gap: &Gap| {
        gap.source() == GapSource::SessionBudget && gap.session_ids != [second.session.id.clone()]
    };
    for gap in gaps(&agent).iter().filter(|gap| refused(gap)) {
        ensure!(gap.exact == Some(true) && gap.count() <= 202, "{gap:?}");
    }
    ensure!(agent.end(Signal::SIGTERM)?.success(), "{}", agent.logged());
    let others: u64 = gaps(&agent).iter().filter(|gap| refused(gap)).map(Gap::count).sum();
    ensure!(others <= 202, "{others} refused of others: {:?}", gaps(&agent));
    Ok(())
}
