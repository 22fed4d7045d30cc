//! The table of results.

use std::{fmt::Write as _, time::Duration};

use anyhow::Result;

use super::{Outcome, Scenario};

/// Results so far.
#[derive(Debug)]
pub(super) struct Report {
    rows: Vec<Row>,
    pub(super) passed: u64,
    pub(super) failed: u64,
}

/// All runs of one scenario.
#[derive(Clone, Debug)]
struct Row {
    scenario: Scenario,
    runs: u64,
    failed: u64,
    faults: u64,
    commands: u64,
    events: u64,
    lost: u64,
    duplicated: u64,
    claimed: u64,
    inexact: u64,
    missing: u64,
    took: Duration,
}

impl Report {
    pub(super) fn new(scenarios: &[Scenario]) -> Self {
        let row = |&scenario: &Scenario| Row {
            scenario,
            runs: 0,
            failed: 0,
            faults: 0,
            commands: 0,
            events: 0,
            lost: 0,
            duplicated: 0,
            claimed: 0,
            inexact: 0,
            missing: 0,
            took: Duration::ZERO,
        };
        Self { rows: scenarios.iter().map(row).collect(), passed: 0, failed: 0 }
    }

    /// Adds a run of the scenario at `index`, and says how it went.
    pub(super) fn add(&mut self, index: usize, outcome: Result<Outcome>) {
        let Some(row) = self.rows.get_mut(index) else { return };
        row.runs += 1;
        match outcome {
            Ok(Outcome { faults, verdict, took, traffic, wrong }) => {
                row.faults += faults;
                row.commands += verdict.commands;
                row.events += verdict.events;
                row.lost += verdict.lost;
                row.duplicated += verdict.duplicated;
                row.claimed += verdict.claimed();
                row.inexact += verdict.inexact;
                row.missing += verdict.missing();
                row.took += took;
                let traffic = traffic.map(|traffic| format!(", {traffic}")).unwrap_or_default();
                println!(
                    "test {} ... {} ({faults} faults, {} commands, {} events, {} lost, {} duplicated, {:.0} s{traffic})",
                    row.scenario.name,
                    if wrong.is_none() { "ok" } else { "FAILED" },
                    verdict.commands,
                    verdict.events,
                    verdict.lost,
                    verdict.duplicated,
                    took.as_secs_f64()
                );
                if let Some(wrong) = wrong {
                    self.failed += 1;
                    row.failed += 1;
                    println!("  {wrong}");
                } else {
                    self.passed += 1;
                }
            }
            Err(e) => {
                self.failed += 1;
                row.failed += 1;
                println!("test {} ... FAILED\n  {e:#}", row.scenario.name);
            }
        }
    }

    pub(super) fn word(&self) -> &'static str {
        if self.failed == 0 { "ok" } else { "FAILED" }
    }

    /// As it goes into the documents.
    pub(super) fn table(&self) -> String {
        let mut table = String::from(
            "| scenario | runs | faults | commands run | events at the subscriber | lost | duplicated | gaps claimed | gaps true | time |\n\
             |---|---|---|---|---|---|---|---|---|---|\n",
        );
        for row in &self.rows {
            let Row { scenario, runs, failed, faults, commands, events, lost, duplicated, .. } = row;
            let runs = if *failed > 0 { format!("{runs}, **{failed} failed**") } else { runs.to_string() };
            let claimed = match row.inexact {
                0 => row.claimed.to_string(),
                inexact => format!("≥ {} ({inexact} inexact)", row.claimed),
            };
            let _ = writeln!(
                table,
                "| {} | {runs} | {faults} | {commands} | {events} | {lost} | {duplicated} | {claimed} | {} | {} s |",
                scenario.about,
                row.missing,
                row.took.as_secs(),
            );
        }
        table
    }
}
