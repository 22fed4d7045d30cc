//! What compressing costs and saves: reports on the wire, and the log's tables.

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    Plan,
    load::{Load, number},
};
use crate::{bench::exec::Bench, sh::step};

/// Reports of so many events, compressed so.
#[derive(Debug)]
pub(super) struct Codec {
    pub(super) compression: String,
    pub(super) events: f64,
    /// an event
    pub(super) bytes: f64,
    /// microseconds an event
    pub(super) compress: f64,
    pub(super) decompress: f64,
}

/// Tables of the log, compressed so.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) compression: String,
    pub(super) block_kib: f64,
    /// an event
    pub(super) bytes: f64,
    /// microseconds an event
    pub(super) write: f64,
    pub(super) read: f64,
}

pub(super) fn codecs(bench: &Bench, plan: Plan) -> Result<Vec<Codec>> {
    step("compressing reports");
    let rounds = plan.rounds.to_string();
    let lines = Load::start(&["codecs", "--rounds", &rounds])?.lines(&bench.stage)?;
    let codec = |line: &Value| {
        Ok(Codec {
            compression: text(line, "compression")?,
            events: number(line, "report_events")?,
            bytes: number(line, "bytes_an_event")?,
            compress: number(line, "compress_us_an_event")?,
            decompress: number(line, "decompress_us_an_event")?,
        })
    };
    lines.iter().map(codec).collect()
}

pub(super) fn tables(bench: &Bench, plan: Plan) -> Result<Vec<Table>> {
    step("compressing the log's tables");
    let data = bench.stage.data().display().to_string();
    let events = if plan.quick { "50000" } else { "300000" };
    let rounds = plan.rounds.to_string();
    let arguments = ["tables", "--data", &data, "--events", events, "--rounds", &rounds];
    let lines = Load::start(&arguments)?.lines(&bench.stage)?;
    let table = |line: &Value| {
        Ok(Table {
            compression: text(line, "compression")?,
            block_kib: number(line, "block_kib")?,
            bytes: number(line, "bytes_an_event")?,
            write: number(line, "write_us_an_event")?,
            read: number(line, "read_us_an_event")?,
        })
    };
    lines.iter().map(table).collect()
}

fn text(line: &Value, name: &str) -> Result<String> {
    let text = line.get(name).and_then(Value::as_str);
    text.map(str::to_owned).with_context(|| format!("the load said no {name}: {line}"))
}
