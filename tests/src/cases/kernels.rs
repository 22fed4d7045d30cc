//! Whether the agent knows the kernel that it is on: its types, from a file too, and what is reported by them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use anyhow::{Context, Result, ensure};
use podtrail_proto::v1::event::Body;

use crate::{
    cases,
    harness::{Agent, Cx, agent, daemon, host, process, session, surroundings::Surroundings},
};

cases! {
    "kernels",
    OwnAgent: types_from_a_file, types_that_are_none, types_that_lack_something, types_of_another_kernel_are_found_out,
        what_is_tried_out_is_nobodys_session
}

pub(super) const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// A file with this kernel's types, changed.
fn types(cx: &Cx, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Result<PathBuf> {
    let path = host().dir(&cx.unique("types"))?.join("btf");
    fs::write(&path, change(fs::read(VMLINUX)?))?;
    Ok(path)
}

/// The same with another name in place of one: names stand in the file once, each between two NULs.
pub(super) fn renamed(mut types: Vec<u8>, names: &[(&str, &str)]) -> Vec<u8> {
    let places: Vec<(usize, &str)> = names
        .iter()
        .filter_map(|(from, to)| {
            let whole = format!("\0{from}\0");
            let at = types.windows(whole.len()).position(|bytes| bytes == whole.as_bytes())?;
            Some((at + 1, *to))
        })
        .collect();
    for (at, to) in places {
        types[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    types
}

/// Runs an agent with these types, that must not come to be at work; the line with which it ends.
fn refused(cx: &Cx, types: &Path, more: &[&str]) -> Result<String> {
    let types = types.to_str().context("a path that is no text")?;
    refused_in(cx, &[&["--btf", types], more].concat(), &Surroundings::default())
}

/// The same, whatever it is that keeps it from it.
pub(super) fn refused_in(cx: &Cx, args: &[&str], surroundings: &Surroundings) -> Result<String> {
    let (mut command, ..) = agent::command(&cx.unique("agent"), args)?;
    surroundings.put(&mut command);
    let mut child = command.stderr(std::process::Stdio::piped()).spawn()?;
    // Closed, it would end the agent.
    let _lifeline = child.stdin.take();
    let Output { status, stdout, stderr } = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&stderr).into_owned();
    ensure!(status.code() == Some(1), "{status}: {said}");
    ensure!(stdout.is_empty(), "{}", String::from_utf8_lossy(&stdout));
    Ok(said.lines().last().unwrap_or_default().to_owned())
}

fn doctor(types: &Path) -> Result<(bool, serde_json::Value)> {
    let mut command = daemon::command("podtrail-agent");
    command.args(["doctor", "-o", "json", "--btf"]).arg(types);
    let output = command.output()?;
    Ok((output.status.success(), serde_json::from_slice(&output.stdout)?))
}

fn works(cx: &Cx, agent: &Agent) -> Result<()> {
    let container = cx.container()?;
    let pid = container.sh("exit").run()?.ok()?.pid;
    session::wait_open(agent, container.cgroup_id, pid).map(drop)
}

fn types_from_a_file(cx: &Cx) -> Result<()> {
    let path = types(cx, |types| types)?;
    let agent = cx.start_agent(&["--btf", path.to_str().context("a path that is no text")?])?;
    works(cx, &agent)?;
    agent.stop()?;
    let (good, report) = doctor(&path)?;
    ensure!(good && report["btf"] == path.to_str().unwrap_or_default(), "{report}");
    Ok(())
}

fn types_that_are_none(cx: &Cx) -> Result<()> {
    let half = types(cx, |mut types| {
        types.truncate(types.len() / 2);
        types
    })?;
    let text = types(cx, |_types| b"#!/bin/sh\n".to_vec())?;
    let nowhere = Path::new("/nowhere/btf");
    for (path, why) in
        [(half.as_path(), "cannot be used: "), (&text, "cannot be used: "), (nowhere, "cannot read")]
    {
        let said = refused(cx, path, &[])?;
        ensure!(said.contains(why) && said.contains(&path.display().to_string()), "{said}");
        let (good, report) = doctor(path)?;
        let problem = &report["problems"][0];
        ensure!(!good && problem["fatal"] == true && report["btf"].is_null(), "{report}");
        ensure!(problem["what"].as_str().is_some_and(|what| what.contains(why)), "{report}");
        ensure!(problem["fix"].as_str().is_some_and(|fix| fix.contains("--btf")), "{report}");
    }
    Ok(())
}

fn types_that_lack_something(cx: &Cx) -> Result<()> {
    // Without a struct that it must have it does not run.
    let path = types(cx, |types| renamed(types, &[("css_set", "css_sex")]))?;
    let said = refused(cx, &path, &[])?;
    ensure!(said.contains("this kernel has no css_set.dfl_cgrp, css_set.subsys:"), "{said}");
    let (good, report) = doctor(&path)?;
    let what = report["problems"][0]["what"].as_str().unwrap_or_default();
    ensure!(!good && what == "this kernel has no css_set.dfl_cgrp, css_set.subsys", "{report}");
    // Without others it does, and says what is missing.
    let path = types(cx, |types| renamed(types, &[("loginuid", "loginuix")]))?;
    let agent = cx.start_agent(&["--btf", path.to_str().context("a path that is no text")?])?;
    works(cx, &agent)?;
    agent.stop()?;
    let (good, report) = doctor(&path)?;
    let told = report["problems"].as_array().into_iter().flatten().any(|problem| {
        problem["fatal"] == false
            && problem["what"].as_str().is_some_and(|what| {
                what.starts_with("events will lack the node's login user")
                    && what.ends_with("no task_struct.loginuid")
            })
    });
    ensure!(good && told, "{report}");
    Ok(())
}

fn types_of_another_kernel_are_found_out(cx: &Cx) -> Result<()> {
    let pins = super::pins::Pins::new(cx)?;
    for (one, other, what) in [("arg_start", "env_start", "arguments: "), ("d_name", "d_hash", "path: ")] {
        let path = types(cx, |types| renamed(types, &[(one, other), (other, one)]))?;
        let said = refused(cx, &path, &["--pin", pins.dir()])?;
        ensure!(said.contains("the kernel side reports what is not so") && said.contains(what), "{said}");
        ensure!(pins.is_empty(), "it still records");
        let (good, report) = doctor(&path)?;
        let problem = report["problems"][0]["what"].as_str().unwrap_or_default();
        ensure!(!good && problem.contains("reports what is not so") && problem.contains(what), "{report}");
    }
    let agent = pins.start(cx, &[])?;
    works(cx, &agent)?;
    agent.end(nix::sys::signal::Signal::SIGTERM).map(drop)
}

fn what_is_tried_out_is_nobodys_session(cx: &Cx) -> Result<()> {
    let pins = super::pins::Pins::new(cx)?;
    // New, taken over as it is, and with other programs.
    for settings in [&[][..], &[], &["--argv-limit", "32KiB"]] {
        let agent = pins.start(cx, settings)?;
        works(cx, &agent)?;
        for event in agent.events() {
            let own = |process: Option<&podtrail_proto::v1::Process>| {
                process.is_some_and(|process| agent.pid().is_ok_and(|pid| pid == process.parent_pid))
            };
            let of_its_own = match &event.body {
                Some(Body::Executed(executed)) => own(executed.process.as_ref()),
                Some(Body::SessionStarted(started)) => own(started.root.as_ref()),
                Some(Body::Gap(_)) => true,
                _ => false,
            };
            ensure!(!of_its_own, "{event:?}");
        }
        agent.end(nix::sys::signal::Signal::SIGKILL)?;
    }
    process::succeed({
        let mut doctor = daemon::command("podtrail-agent");
        doctor.arg("doctor");
        doctor
    })
    .map(drop)
}
