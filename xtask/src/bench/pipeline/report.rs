//! Turns the measurements of `bench pipeline` into their section of `docs/benchmarks.md`.

use std::fmt::Write as _;

use anyhow::Result;

use super::{Plan, Results, collector::CatchUp};
use crate::{
    bench::{exec::count, measure::Samples},
    machine,
};

/// The section's text.
pub(super) fn section(plan: Plan, results: &Results) -> Result<String> {
    let mut text = String::new();
    writeln!(text, "{}", machine::told(&machine::commit()?)?)?;
    let flags = if plan.quick { " --quick" } else { "" };
    writeln!(
        text,
        "`cargo xtask bench pipeline{flags} --rounds {} --events {} --seconds {}`: medians of the rounds.",
        plan.rounds, plan.events, plan.seconds
    )?;
    path(&mut text, results)?;
    collector(&mut text, results)?;
    catch_up(&mut text, &results.catch_up)?;
    compress(&mut text, results)?;
    Ok(text)
}

fn path(text: &mut String, results: &Results) -> Result<()> {
    writeln!(text, "\n### From the exec to a subscriber\n")?;
    writeln!(
        text,
        "| storm of execs | execs a second | p50 | p99 | p99.9 | most | events a second into the log | to the subscriber | missing |"
    )?;
    writeln!(text, "|---|---|---|---|---|---|---|---|---|")?;
    for m in &results.path {
        let ms = |samples: &Samples| format!("{:.1} ms", samples.median() / 1e3);
        writeln!(
            text,
            "| {} | {:.0} | {} | {} | {} | {} | {:.0} | {:.0} | {} |",
            m.storm,
            m.execs.median(),
            ms(&m.p50),
            ms(&m.p99),
            ms(&m.p999),
            ms(&m.most),
            m.to_log.median(),
            m.to_subscriber.median(),
            m.missing,
        )?;
    }
    writeln!(
        text,
        "\n| storm of execs | agent's processor time for 1,000 execs | collector's | bytes an event, to the collector | back from it |"
    )?;
    writeln!(text, "|---|---|---|---|---|")?;
    for m in &results.path {
        writeln!(
            text,
            "| {} | {:.1} ms | {:.1} ms | {:.0} | {:.1} |",
            m.storm,
            m.agent.median(),
            m.collector.median(),
            m.up.median(),
            m.down.median(),
        )?;
    }
    Ok(())
}

fn collector(text: &mut String, results: &Results) -> Result<()> {
    writeln!(text, "\n### The collector, with simulated agents\n")?;
    writeln!(
        text,
        "| agents | subscribers | events | events a second into the log | to all subscribers | collector's processor time for 1,000 events | its memory at most | bytes an event in | out, for each subscriber |"
    )?;
    writeln!(text, "|---|---|---|---|---|---|---|---|---|")?;
    for m in &results.collector {
        writeln!(
            text,
            "| {} | {} | {} | {:.0} | {:.0} | {:.1} ms | {:.0} MiB | {:.0} | {:.0} |",
            m.agents,
            m.readers,
            m.events,
            m.ingested.median(),
            m.delivered.median(),
            m.processor.median(),
            m.resident_most.median(),
            m.wire_in.median(),
            m.wire_out.median(),
        )?;
    }
    Ok(())
}

fn catch_up(text: &mut String, measured: &CatchUp) -> Result<()> {
    let CatchUp { events, event_bytes, ingested, wire_in, ingest_processor, ingest_resident, disk, away } =
        measured;
    writeln!(text, "\n### Away for {events} events\n")?;
    writeln!(
        text,
        "While nobody reads, the log takes in {ingested:.0} events a second, of {event_bytes:.0} bytes each: {wire_in:.0} on the \
         wire, {disk:.0} on the disk, {ingest_processor:.1} µs of the collector's processor time; it has {ingest_resident:.0} MiB \
         at most."
    )?;
    writeln!(
        text,
        "\n| responses compressed | events | events a second | bytes an event on the wire | collector's processor time for 1,000 events | its memory at most |"
    )?;
    writeln!(text, "|---|---|---|---|---|---|")?;
    for a in away {
        writeln!(
            text,
            "| {} | {:.0} | {:.0} | {:.0} | {:.1} ms | {:.0} MiB |",
            a.compression, a.events, a.rate, a.wire_out, a.processor, a.resident_most
        )?;
    }
    let fastest = away.first().map_or(f64::NAN, |a| a.rate);
    writeln!(text, "\nIt has caught up with {events} events after {:.0} s.", count(*events) / fastest)?;
    Ok(())
}

fn compress(text: &mut String, results: &Results) -> Result<()> {
    writeln!(text, "\n### Compression\n")?;
    writeln!(
        text,
        "| report of | compressed | bytes an event | µs for 1,000 events, to compress | to decompress |"
    )?;
    writeln!(text, "|---|---|---|---|---|")?;
    for c in &results.codecs {
        writeln!(
            text,
            "| {:.0} events | {} | {:.0} | {:.0} | {:.0} |",
            c.events,
            c.compression,
            c.bytes,
            c.compress * 1e3,
            c.decompress * 1e3,
        )?;
    }
    writeln!(
        text,
        "\n| tables of the log | blocks | bytes an event | µs for 1,000 events, to write | to read |"
    )?;
    writeln!(text, "|---|---|---|---|---|")?;
    for t in &results.tables {
        writeln!(
            text,
            "| {} | {:.0} KiB | {:.0} | {:.0} | {:.0} |",
            t.compression,
            t.block_kib,
            t.bytes,
            t.write * 1e3,
            t.read * 1e3,
        )?;
    }
    Ok(())
}
