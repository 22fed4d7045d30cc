//! The collector with simulated agents and subscribers, and with a subscriber that was away for long.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use anyhow::{Context, Result, ensure};

use super::{
    Plan,
    load::{Load, number},
};
use crate::{
    bench::{
        exec::{Bench, count, micros},
        measure::{self, Samples},
    },
    sh::step,
    stage::Collector,
};

const AGENTS: [u64; 3] = [1, 100, 1000];
const READERS: [u64; 3] = [1, 10, 100];
/// Events of a case with so many subscribers.
const EVENTS: u64 = 300_000;
const EVENTS_FOR_MANY: u64 = 50_000;
const MANY: u64 = 100;

/// Agents that fill the log for who is away.
const FILLERS: u64 = 8;
/// Nothing is to be trimmed.
const KEEP: [&str; 2] = ["--max-bytes", "1TiB"];
/// With how its responses may be compressed, and how many of the events it reads.
const AWAY: [(&str, u64); 2] = [("none", 1), ("zstd", 4)];

/// What was measured of a case, in every round.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) agents: u64,
    pub(super) readers: u64,
    pub(super) events: u64,
    /// a second, into the log
    pub(super) ingested: Samples,
    /// a second, of all subscribers together
    pub(super) delivered: Samples,
    /// MiB
    pub(super) resident_most: Samples,
    /// microseconds of processor time an event
    pub(super) processor: Samples,
    /// bytes an event, on the wire
    pub(super) wire_in: Samples,
    pub(super) wire_out: Samples,
}

/// Every case with a collector of its own.
pub(super) fn measure(bench: &Bench, plan: Plan) -> Result<Vec<Measured>> {
    let mut cases: Vec<Measured> = AGENTS
        .iter()
        .flat_map(|agents| READERS.map(|readers| Measured::new(*agents, readers, plan)))
        .collect();
    for round in 1..=plan.rounds {
        step(&format!("the collector, round {round} of {}", plan.rounds));
        for case in &mut cases {
            case.measure(bench)?;
        }
    }
    Ok(cases)
}

impl Measured {
    fn new(agents: u64, readers: u64, plan: Plan) -> Self {
        let events = if readers < MANY { EVENTS } else { EVENTS_FOR_MANY };
        let events = if plan.quick { events / 10 } else { events };
        let none = Samples::default;
        Self {
            agents,
            readers,
            // As many of each agent.
            events: (events / agents).max(1) * agents,
            ingested: none(),
            delivered: none(),
            resident_most: none(),
            processor: none(),
            wire_in: none(),
            wire_out: none(),
        }
    }

    fn measure(&mut self, bench: &Bench) -> Result<()> {
        let [agents, readers, events] = [self.agents, self.readers, self.events].map(|n| n.to_string());
        let collector = Collector::start(&bench.stage, &bench.programs)?;
        let arguments = ["readers", "--readers", &readers, "--events", &events];
        let mut readers = Load::against(&collector, &arguments)?;
        readers.line(&bench.stage)?;
        measure::forget_peak(collector.pid())?;
        let before = measure::processor_time(collector.pid())?;
        let arguments = ["agents", "--agents", &agents, "--events", &events];
        let sent = Load::against(&collector, &arguments)?.line(&bench.stage)?;
        let read = readers.line(&bench.stage)?;
        let spent = measure::processor_time(collector.pid())?.saturating_sub(before);
        let (ingested, delivered) = (number(&sent, "events")?, number(&read, "events")?);
        // From the first event on: connecting the agents is not of it.
        let begun = number(&sent, "began")?;
        self.ingested.add(ingested / number(&sent, "seconds")?);
        self.delivered.add(delivered / (number(&read, "ended")? - begun));
        self.resident_most.add(measure::resident(collector.pid())?.1);
        self.processor.add(micros(spent) / ingested);
        self.wire_in.add(number(&sent, "bytes_up")? / ingested);
        self.wire_out.add(number(&read, "bytes_down")? / delivered);
        eprintln!(
            "    {} agents, {} subscribers: {:.0} events/s in, {:.0} events/s out",
            self.agents,
            self.readers,
            ingested / number(&sent, "seconds")?,
            delivered / (number(&read, "ended")? - begun),
        );
        collector.stop(&bench.stage)?;
        bench.stage.forget("collector")
    }
}

/// How a subscriber catches up.
#[derive(Debug)]
pub(super) struct CatchUp {
    pub(super) events: u64,
    /// as encoded, in bytes
    pub(super) event_bytes: f64,
    /// a second, while the log is filled and nobody reads
    pub(super) ingested: f64,
    pub(super) wire_in: f64,
    pub(super) ingest_processor: f64,
    pub(super) ingest_resident: f64,
    /// bytes an event
    pub(super) disk: f64,
    /// by how responses are compressed
    pub(super) away: Vec<Away>,
}

/// A subscriber that was away.
#[derive(Debug)]
pub(super) struct Away {
    pub(super) compression: &'static str,
    pub(super) events: f64,
    /// a second
    pub(super) rate: f64,
    pub(super) wire_out: f64,
    /// microseconds of the collector's processor time an event
    pub(super) processor: f64,
    pub(super) resident_most: f64,
}

pub(super) fn catch_up(bench: &Bench, plan: Plan) -> Result<CatchUp> {
    step(&format!("a subscriber that is away for {} events", plan.events));
    let stage = &bench.stage;
    let collector = Collector::start_with(stage, &bench.programs, &KEEP)?;
    for (name, _) in AWAY {
        // Comes once, and goes.
        let load = Load::against(&collector, &["readers", "--name", name, "--events", "0"])?;
        load.lines(stage)?;
    }
    let pid = collector.pid();
    let wanted = plan.events.div_ceil(FILLERS) * FILLERS;
    let (fillers, total) = (FILLERS.to_string(), wanted.to_string());
    measure::forget_peak(pid)?;
    let before = measure::processor_time(pid)?;
    let sent =
        Load::against(&collector, &["agents", "--agents", &fillers, "--events", &total])?.line(stage)?;
    let spent = measure::processor_time(pid)?.saturating_sub(before);
    let ingest_resident = measure::resident(pid)?.1;
    let events = number(&sent, "events")?;
    let disk = length(&stage.data().join("collector"))?;
    let ingested = events / number(&sent, "seconds")?;
    eprintln!("    filled at {ingested:.0} events/s; {:.0} bytes an event on the disk", disk / events);
    let mut away = Vec::new();
    for (compression, part) in AWAY {
        let wanted = (wanted / part).to_string();
        let arguments = ["readers", "--name", compression, "--resume", "--decode", "--events", &wanted];
        let more: &[&str] = if compression == "zstd" { &["--zstd"] } else { &[] };
        measure::forget_peak(pid)?;
        let before = measure::processor_time(pid)?;
        let mut load = Load::against(&collector, &[&arguments[..], more].concat())?;
        load.line(stage)?;
        let read = load.line(stage)?;
        let spent = measure::processor_time(pid)?.saturating_sub(before);
        let events = number(&read, "events")?;
        let rate = events / number(&read, "seconds")?;
        eprintln!("    caught up at {rate:.0} events/s, compression {compression}");
        away.push(Away {
            compression,
            events,
            rate,
            wire_out: number(&read, "bytes_down")? / events,
            processor: micros(spent) / events,
            resident_most: measure::resident(pid)?.1,
        });
    }
    collector.stop(stage)?;
    stage.forget("collector")?;
    ensure!(events > 0.0, "no events came");
    Ok(CatchUp {
        events: wanted,
        event_bytes: number(&sent, "event_bytes")? / events,
        ingested,
        wire_in: number(&sent, "bytes_up")? / events,
        ingest_processor: micros(spent) / events,
        ingest_resident,
        disk: disk / events,
        away,
    })
}

/// What the files of a folder take on the disk, in bytes.
fn length(folder: &Path) -> Result<f64> {
    let mut sum = 0.0;
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry.context("cannot list files")?;
        // A file that the store has removed since it was listed.
        let Ok(about) = entry.metadata() else { continue };
        sum += if about.is_dir() { length(&entry.path())? } else { count(about.blocks() * 512) };
    }
    Ok(sum)
}
