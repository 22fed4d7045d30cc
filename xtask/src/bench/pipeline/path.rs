//! The real way of an event: an exec in a container, ring, agent, spool, collector, log, subscriber.

use std::{fmt, process::Command};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    Plan,
    load::{Load, number},
};
use crate::{
    bench::{
        exec::{self, Bench, STAGE, count, micros},
        measure::{self, Samples},
    },
    sh::step,
    stage::{Agent, Collector},
};

/// A storm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Storm {
    /// a second, of all workers together; 0: as fast as can be
    pub(super) rate: u64,
    pub(super) workers: usize,
}

const STORMS: [Storm; 5] = [
    Storm { rate: 100, workers: 1 },
    Storm { rate: 1000, workers: 1 },
    Storm { rate: 10_000, workers: 2 },
    Storm { rate: 0, workers: 1 },
    Storm { rate: 0, workers: 2 },
];
impl fmt::Display for Storm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rate {
            0 => write!(f, "full speed")?,
            rate => write!(f, "{rate} a second")?,
        }
        if self.workers > 1 {
            write!(f, ", {} processors", self.workers)?;
        }
        Ok(())
    }
}

/// Execs of a storm at full speed, for each second of the others.
const FULL: u64 = 3000;
/// A slow storm lasts longer, or its percentiles would be of a handful.
const LEAST_EXECS: u64 = 2000;

/// What was measured of a storm, in every round.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) storm: Storm,
    /// a second
    pub(super) execs: Samples,
    /// of the session
    pub(super) events: Samples,
    /// a second
    pub(super) to_log: Samples,
    pub(super) to_subscriber: Samples,
    /// exec to subscriber, in microseconds
    pub(super) p50: Samples,
    pub(super) p99: Samples,
    pub(super) p999: Samples,
    pub(super) most: Samples,
    /// microseconds of processor time an exec
    pub(super) agent: Samples,
    pub(super) collector: Samples,
    /// bytes an event on the wire: to the collector, and back
    pub(super) up: Samples,
    pub(super) down: Samples,
    /// execs that did not come, of all rounds
    pub(super) missing: u64,
}

pub(super) fn measure(bench: &Bench, plan: Plan) -> Result<Vec<Measured>> {
    let mut measured: Vec<Measured> = STORMS.iter().map(|storm| Measured::new(*storm)).collect();
    for round in 1..=plan.rounds {
        step(&format!("the real way, round {round} of {}", plan.rounds));
        let collector = Collector::start(&bench.stage, &bench.programs)?;
        let agent = Agent::start(&bench.stage, &collector)?;
        for each in &mut measured {
            each.storm(bench, plan, &collector, &agent)?;
        }
        agent.stop(&bench.stage)?;
        collector.stop(&bench.stage)?;
        bench.stage.forget("collector")?;
        bench.stage.forget("spool")?;
    }
    Ok(measured)
}

impl Measured {
    fn new(storm: Storm) -> Self {
        let none = Samples::default;
        Self {
            storm,
            execs: none(),
            events: none(),
            to_log: none(),
            to_subscriber: none(),
            p50: none(),
            p99: none(),
            p999: none(),
            most: none(),
            agent: none(),
            collector: none(),
            up: none(),
            down: none(),
            missing: 0,
        }
    }

    /// One storm in a session, with a subscriber that waits for it.
    fn storm(&mut self, bench: &Bench, plan: Plan, collector: &Collector, agent: &Agent) -> Result<()> {
        let Storm { rate, workers } = self.storm;
        let workers_count = u64::try_from(workers).context("so many workers?")?;
        let all = match rate {
            0 => FULL * plan.seconds,
            rate if plan.quick => rate * plan.seconds,
            rate => (rate * plan.seconds).max(LEAST_EXECS),
        };
        let load = exec::Load { count: all / workers_count, rate: rate / workers_count, workers };
        let id = bench.container.id();
        let arguments = ["readers", "--name", "path", "--container", id, "--node", STAGE];
        let mut reader = Load::against(collector, &arguments)?;
        reader.line(&bench.stage)?;
        let (pids, port) = ((agent.pid(), collector.pid()), port(collector.url())?);
        let before = (measure::processor_time(pids.0)?, measure::processor_time(pids.1)?);
        let wire = socket(pids.0, port)?;
        let took = bench.storm_by_exec(load)?;
        let said = reader.line(&bench.stage)?;
        let after = (measure::processor_time(pids.0)?, measure::processor_time(pids.1)?);
        let (up, down) = socket(pids.0, port)?;
        let execs = count(load.count * workers_count);
        let events = number(&said, "events")?;
        self.execs.add(execs / took.as_secs_f64());
        self.events.add(events);
        self.to_log.add(number(&said, "logged_events")? / number(&said, "logged_seconds")?);
        self.to_subscriber.add(events / number(&said, "span_seconds")?);
        for (samples, name) in [
            (&mut self.p50, "p50_us"),
            (&mut self.p99, "p99_us"),
            (&mut self.p999, "p999_us"),
            (&mut self.most, "most_us"),
        ] {
            samples.add(number(&said, name)?);
        }
        self.agent.add(micros(after.0.saturating_sub(before.0)) / execs);
        self.collector.add(micros(after.1.saturating_sub(before.1)) / execs);
        self.up.add((up - wire.0) / events);
        self.down.add((down - wire.1) / events);
        // The shell and the storm are commands too.
        let commands = said.get("timed").and_then(Value::as_u64).context("the load timed nothing")?;
        self.missing += (load.count * workers_count + 2).saturating_sub(commands);
        eprintln!(
            "    {}: p50 {:.1} ms, p99 {:.1} ms",
            self.storm,
            number(&said, "p50_us")? / 1e3,
            number(&said, "p99_us")? / 1e3
        );
        Ok(())
    }
}

fn port(url: &str) -> Result<u16> {
    let port = url.rsplit(':').next().and_then(|port| port.parse().ok());
    port.with_context(|| format!("{url} has no port"))
}

/// What the process has sent to that port of the loopback and received from it, in bytes.
fn socket(pid: u32, port: u16) -> Result<(f64, f64)> {
    let to = format!("dport = :{port}");
    let output = Command::new("ss").args(["-tniOHp", &to]).output().context("cannot start ss")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let owner = format!("pid={pid},");
    let line = text.lines().find(|line| line.contains(&owner));
    let line = line.with_context(|| format!("ss knows no connection of process {pid} to port {port}"))?;
    let field = |name: &str| {
        let value = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.parse::<f64>().ok());
        value.unwrap_or(0.0)
    };
    Ok((field("bytes_sent:"), field("bytes_received:")))
}
