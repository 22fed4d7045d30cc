//! Turns the measurements of `bench exec` into their section of `docs/benchmarks.md`; puts sections into their places.

use std::{fmt::Write as _, fs};

use anyhow::{Context, Result, bail};

use super::exec::{Case, Options, Results, Storm, count, micros};
use super::measure::Samples;
use crate::{machine, root};

/// The section's text.
pub(super) fn section(options: &Options, results: &Results) -> Result<String> {
    let mut text = String::new();
    writeln!(text, "{}", machine::told(&machine::commit()?)?)?;
    writeln!(
        text,
        "\n{} rounds of {} execs a case, all cases in every round.\n",
        options.rounds, options.count
    )?;
    prices(&mut text, results)?;
    agent(&mut text, options, results)?;
    Ok(text)
}

fn of(results: &Results, case: Case) -> Option<&Samples> {
    results.cases.iter().find(|(at, samples)| *at == case && !samples.is_empty()).map(|(_, samples)| samples)
}

/// What an exec costs.
fn prices(text: &mut String, results: &Results) -> Result<()> {
    writeln!(
        text,
        "| what traces | the storm is | µs an exec: median (least to most) | more than with none in the same round: median | by the least |"
    )?;
    writeln!(text, "|---|---|---|---|---|")?;
    for case in Case::ALL {
        let Some(samples) = of(results, case) else { continue };
        let (tracer, storm, base) = match case {
            Case::None => ("nothing", "a session's", None),
            Case::NoneInit => ("nothing", "the container's own", None),
            Case::Outside => ("podtrail", "the container's own: in no session", Some(Case::NoneInit)),
            Case::Session => ("podtrail", "a session's", Some(Case::None)),
            Case::Execsnoop => ("`execsnoop` (libbpf-tools), every exec", "a session's", Some(Case::None)),
            Case::Bpftrace => ("`bpftrace` on `sched_process_exec`", "a session's", Some(Case::None)),
        };
        let (least, most) = samples.range();
        let more = base.and_then(|base| of(results, base)).map_or_else(
            || " | ".to_owned(),
            |base| {
                let more = |with: f64, without: f64| {
                    format!("{:+.1} µs, {:+.1} %", with - without, 100.0 * (with - without) / without)
                };
                let (base_least, _) = base.range();
                let (added, share) = (samples.over(base).median(), samples.share_over(base).median());
                format!("{added:+.1} µs, {share:+.1} % | {}", more(least, base_least))
            },
        );
        writeln!(
            text,
            "| {tracer} | {storm} | {:.1} ({least:.1} to {most:.1}) | {more} |",
            samples.median()
        )?;
    }
    if let (Some(none), Some(session), Some(execsnoop)) =
        (of(results, Case::None), of(results, Case::Session), of(results, Case::Execsnoop))
    {
        let (ours, theirs) = (session.over(none).median(), execsnoop.over(none).median());
        writeln!(
            text,
            "\nIn a session podtrail adds {:.2} times what `execsnoop` adds (wanted: at most 0.33); in no session {} \
             (wanted: under 2 %).",
            ours / theirs,
            match (of(results, Case::NoneInit), of(results, Case::Outside)) {
                (Some(none), Some(outside)) => format!("{:+.1} %", outside.share_over(none).median()),
                _ => "it was not measured".to_owned(),
            },
        )?;
    }
    Ok(())
}

/// How the agent does.
fn agent(text: &mut String, options: &Options, results: &Results) -> Result<()> {
    writeln!(
        text,
        "\n| storm in a session | execs a second | commands | at the collector | told lost | agent's processor time for 1,000 execs | collector's | agent's memory at most |"
    )?;
    writeln!(text, "|---|---|---|---|---|---|---|---|")?;
    let one = format!("one processor, the worst of {}", options.rounds);
    let steady = format!("1,000 a second for {} s", options.seconds);
    let many = format!("all processors, 10,000 a second for {} s", options.seconds / 3);
    let storms = [
        (one.as_str(), &results.full),
        ("all processors at full speed", &results.all_processors),
        (many.as_str(), &results.ten_thousand),
        (steady.as_str(), &results.steady),
    ];
    for (name, storm) in storms {
        let Storm { expected, recorded, told_lost, took, agent_time, collector_time, resident_most } = storm;
        let execs = count(*expected);
        writeln!(
            text,
            "| {name} | {:.0} | {expected} | {recorded} | {told_lost} | {:.1} ms | {:.1} ms | {resident_most:.1} MiB |",
            execs / took.as_secs_f64(),
            micros(*agent_time) / execs,
            micros(*collector_time) / execs,
        )?;
    }
    let steady = &results.steady;
    writeln!(
        text,
        "\nAt 1,000 execs a second the agent takes {:.1} % of one processor (wanted: 2 %) and {:.1} MiB (wanted: 40); \
         at rest, {:.1} MiB (wanted: 25).",
        100.0 * steady.agent_time.as_secs_f64() / steady.took.as_secs_f64(),
        steady.resident_most,
        results.resident_rest.median(),
    )?;
    Ok(())
}

/// Puts the section of `cargo xtask bench SUBJECT` into its place.
pub(super) fn write(subject: &str, section: &str) -> Result<()> {
    write_to("docs/benchmarks.md", subject, section)
}

/// The same in another page.
pub(super) fn write_to(page: &str, subject: &str, section: &str) -> Result<()> {
    let begin = format!("<!-- `cargo xtask bench {subject}` writes from here -->");
    let end = format!("<!-- `cargo xtask bench {subject}` writes up to here -->");
    let file = root::workspace().join(page);
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let (Some((before, _)), Some((_, after))) = (text.split_once(&begin), text.split_once(&end)) else {
        bail!("{} has no place for results (`{begin}` and `{end}`)", file.display());
    };
    let text = format!("{before}{begin}\n\n{}\n\n{end}{after}", section.trim());
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    eprintln!("written to {}", file.display());
    Ok(())
}
