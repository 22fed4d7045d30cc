//! From the agent to the collector: the same events, each once, whatever fails between.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use nix::{
    fcntl::{FallocateFlags, fallocate},
    mount::{MsFlags, mount},
    sys::{signal::Signal, statvfs::statvfs},
};
use podtrail_proto::v1::Event;
use serde_json::Value;

use crate::{
    cases,
    harness::{
        Agent, Cx, Session,
        agent::whole,
        collector::{Collector, podtrail, text},
        container::ITEST,
        session, until,
    },
};

cases! {
    "collecting",
    OwnAgent: the_collector_has_what_the_agent_told, a_collector_that_comes_later, a_collector_that_is_killed,
        a_collector_that_is_stopped,
        a_full_disk_under_the_log, sessions_and_nodes_of_a_collector
}

type Id = (u64, u64);

fn id(event: &Event) -> Id {
    event.id.as_ref().map_or((0, 0), |id| (id.epoch, id.seq))
}

/// Waits until the collector has the agent's newest event, and fails unless it then has exactly what the agent told.
pub(super) fn same(agent: &Agent, collector: &Collector) -> Result<()> {
    let newest = agent.events().last().map(|event| id(event)).context("the agent told nothing")?;
    let mut have = Vec::new();
    until("the collector has the newest event", || {
        have = collector.events().unwrap_or_default();
        have.iter().any(|event| id(event) == newest)
    })
    .with_context(|| format!("{} events there; {}", have.len(), collector.logged()))?;
    let told: Vec<Arc<Event>> = agent.events().into_iter().filter(|event| id(event) <= newest).collect();
    whole(&told)?;
    let mut by_id: BTreeMap<Id, &Event> = BTreeMap::new();
    for event in &have {
        ensure!(by_id.insert(id(event), event).is_none(), "twice at the collector: {:?}", event.id);
    }
    for event in &told {
        let there = by_id.get(&id(event)).with_context(|| format!("not at the collector: {:?}", event.id))?;
        ensure!(
            **there == **event,
            "the collector has another event of that number: {there:?}, told: {event:?}"
        );
    }
    ensure!(by_id.range(..=newest).count() == told.len(), "the collector has events that nobody told");
    Ok(())
}

pub(super) fn storm(
    cx: &Cx,
    agent: &Agent,
    runs: u32,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<Session> {
    let container = cx.container()?;
    let runs = runs.to_string();
    let running = container.exec(&[ITEST, "payload", "storm", &runs, "/bin/true", "storm"]).spawn()?;
    meanwhile()?;
    let ran = running.wait()?.ok()?;
    ensure!(ran.text() == runs, "{}", ran.text());
    let open = session::wait_open(agent, container.cgroup_id, ran.pid)?;
    let session = agent.ended(&open.id)?;
    session.check()?;
    ensure!(
        (session.executed().len() - 1).to_string() == runs,
        "{} told of {runs}",
        session.executed().len() - 1
    );
    Ok(session)
}

fn the_collector_has_what_the_agent_told(cx: &Cx) -> Result<()> {
    let mut collector = Collector::place(&cx.unique("collector"))?;
    collector.start()?;
    let agent = cx.start_agent(&["--collector", &collector.url()])?;
    storm(cx, &agent, 300, || Ok(()))?;
    same(&agent, &collector)?;
    agent.stop()?;
    // Its last word too.
    same(&agent, &collector)?;
    ensure!(collector.end(Signal::SIGTERM)?.success(), "{}", collector.logged());
    Ok(())
}

fn a_collector_that_comes_later(cx: &Cx) -> Result<()> {
    let mut collector = Collector::place(&cx.unique("collector"))?;
    let agent = cx.start_agent(&["--collector", &collector.url()])?;
    storm(cx, &agent, 200, || Ok(()))?;
    collector.start()?;
    storm(cx, &agent, 100, || Ok(()))?;
    same(&agent, &collector)?;
    // It said once that there was no collector, not with every attempt.
    let complaints = agent
        .logged()
        .lines()
        .filter(|line| line.contains("level=warn") && line.contains("collector"))
        .count();
    ensure!(complaints <= 2, "{}", agent.logged());
    agent.stop()
}

fn a_collector_that_is_killed(cx: &Cx) -> Result<()> {
    let mut collector = Collector::place(&cx.unique("collector"))?;
    collector.start()?;
    let agent = cx.start_agent(&["--collector", &collector.url()])?;
    storm(cx, &agent, 3000, || {
        for _ in 0..3 {
            let before = collector.events()?.len();
            until("it has got more", || collector.events().is_ok_and(|events| events.len() > before))?;
            collector.end(Signal::SIGKILL)?;
            collector.start()?;
        }
        Ok(())
    })?;
    same(&agent, &collector)?;
    agent.stop()
}

fn a_collector_that_is_stopped(cx: &Cx) -> Result<()> {
    let mut collector = Collector::place(&cx.unique("collector"))?;
    collector.start()?;
    let agent = cx.start_agent(&["--collector", &collector.url()])?;
    storm(cx, &agent, 200, || Ok(()))?;
    ensure!(collector.end(Signal::SIGTERM)?.success(), "{}", collector.logged());
    storm(cx, &agent, 200, || Ok(()))?;
    collector.start()?;
    same(&agent, &collector)?;
    agent.stop()
}

fn sessions_and_nodes_of_a_collector(cx: &Cx) -> Result<()> {
    let mut collector = Collector::place(&cx.unique("collector"))?;
    collector.start()?;
    let url = collector.url();
    let agent = cx.start_agent(&["--collector", &url])?;
    let session = storm(cx, &agent, 50, || Ok(()))?;
    same(&agent, &collector)?;
    let check = || -> Result<()> {
        let listed = text(&podtrail(&["sessions", "--collector", &url, "-o", "json"])?)?;
        let listed: Vec<Value> = listed.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let mine = listed.iter().find(|listed| listed["id"] == *session.id).context("it is not listed")?;
        ensure!(mine["commands"] == "51" && mine["node"] == "itest", "{mine}");
        ensure!(mine["ended"]["exitCode"] == 0, "{mine}");
        let timeline = text(&podtrail(&["session", &session.id, "--collector", &url])?)?;
        ensure!(timeline.contains("51 commands") && timeline.contains("/bin/true storm 49"), "{timeline}");
        Ok(())
    };
    check()?;
    let nodes = text(&podtrail(&["nodes", "--collector", &url, "-o", "json"])?)?;
    let nodes: Value = serde_json::from_str(nodes.lines().next().unwrap_or_default())?;
    let node = if nodes.get("nodes").is_some() { &nodes["nodes"][0] } else { &nodes };
    ensure!(node["name"] == "itest" && node["connected"] == true, "{nodes}");
    agent.stop()?;
    // All of it is on disk.
    collector.end(Signal::SIGKILL)?;
    collector.start()?;
    check()
}

/// Room for what the store allocates in advance. Of it a sixteenth has to stay free.
const DISK: u64 = 256 << 20;

fn a_full_disk_under_the_log(cx: &Cx) -> Result<()> {
    let mut collector = Collector::place(&cx.unique("collector"))?;
    let data = collector.data();
    fs::create_dir(&data)?;
    let size = format!("size={DISK}");
    mount(Some("tmpfs"), &data, Some("tmpfs"), MsFlags::empty(), Some(size.as_str()))
        .context("cannot mount a tmpfs")?;
    collector.start()?;
    let agent = cx.start_agent(&["--collector", &collector.url()])?;
    storm(cx, &agent, 200, || Ok(()))?;
    same(&agent, &collector)?;
    until("it is ready", || collector.readiness().is_ok_and(|answer| answer.contains("log: ready")))?;
    let before = collector.events()?.len();

    // Half of what has to stay free.
    let filler = data.join("filler");
    let disk = statvfs(&data)?;
    let free = disk.blocks_available() * disk.fragment_size();
    let fill = free.checked_sub(DISK / 32).context("the disk is full already")?;
    fallocate(&File::create(&filler)?, FallocateFlags::empty(), 0, fill.cast_signed())?;
    storm(cx, &agent, 200, || Ok(()))?;
    let told = format!(" MiB are free on the disk of {}", data.display());
    until("/readyz says it", || {
        let answer = collector.readiness().unwrap_or_default();
        answer.starts_with("HTTP/1.1 503 ")
            && answer.contains("log: not ready: the log cannot be written: less than ")
            && answer.contains(&told)
    })
    .with_context(|| format!("{:?}", collector.readiness()))?;
    // A storm as long as the first did not come in.
    let meanwhile = collector.events()?.len();
    ensure!(meanwhile < before + 100, "{meanwhile} events are in the log, {before} were before");
    until("the agent says why", || {
        agent.logged().contains("Unavailable: the log cannot be written now: come again")
    })
    .with_context(|| agent.logged())?;
    ensure!(collector.events()?.len() == meanwhile, "something was written all the same");

    fs::remove_file(&filler)?;
    until("it goes on", || collector.readiness().is_ok_and(|answer| answer.contains("log: ready")))
        .with_context(|| format!("{:?}: {}", collector.readiness(), collector.logged()))?;
    same(&agent, &collector)?;
    storm(cx, &agent, 50, || Ok(()))?;
    same(&agent, &collector)?;
    for line in
        ["msg=\"the log cannot be written: agents are refused", "msg=\"the log can be written again\""]
    {
        ensure!(collector.logged().matches(line).count() == 1, "{line}: {}", collector.logged());
    }
    agent.stop()?;
    ensure!(collector.end(Signal::SIGTERM)?.success(), "{}", collector.logged());
    Ok(())
}
