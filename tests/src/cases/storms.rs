//! Very much at once: whatever is executed is told, in order, in the right session.

use std::io::Write;

use anyhow::{Context, Result, ensure};

use super::{BUSYBOX, nothing_else};
use crate::{
    cases,
    harness::{
        Container, Cx, Session, agent,
        container::ITEST,
        factor,
        session::{key, want},
    },
};

cases! {
    "storms",
    SharedAgent: a_storm_beside_a_quiet_session, storms_in_two_containers, a_storm_of_sessions
}

/// Commands of one storm: fewer on a slow machine, which takes as long for them.
fn size() -> u32 {
    (2000 / factor()).max(100)
}

/// Fails unless a storm called `name` was told entirely: as many as the program counted itself, in order, each with its end.
fn whole(session: &Session, name: &str, counted: &str) -> Result<()> {
    ensure!(counted.parse() == Ok(size()), "the payload counted {counted}");
    let executed = session.executed();
    ensure!(executed.len() == size() as usize + 1, "{} commands of {}", executed.len(), size());
    let exited: std::collections::HashSet<_> =
        session.exited().iter().filter(|e| e.exit_code == Some(0)).map(|e| key(e.process.as_ref())).collect();
    for (number, executed) in executed.iter().skip(1).enumerate() {
        ensure!(
            executed.argv == ["/bin/true", name, &number.to_string()],
            "command {number} is {:?}",
            executed.argv
        );
        ensure!(exited.contains(&key(executed.process.as_ref())), "command {number} never ended");
    }
    Ok(())
}

fn storm<'c>(container: &'c Container, name: &str) -> crate::harness::exec::Exec<'c> {
    container.exec(&[ITEST, "payload", "storm", &size().to_string(), "/bin/true", name])
}

fn a_storm_beside_a_quiet_session(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    container.gate("/gate")?;
    let script = "while read word; do /bin/echo $word; done </gate";
    let quiet = container.sh(script).detached().spawn()?;
    let pid = quiet.pid;
    quiet.wait()?.ok()?;
    let mut pipe = container.speak("/gate")?;
    let storming = storm(&container, "storm").spawn()?;
    let words: Vec<String> = (0..30).map(|number| format!("word-{number}")).collect();
    for word in &words {
        pipe.write_all(format!("{word}\n").as_bytes())?;
    }
    let ran = storming.wait()?.ok()?;
    whole(&cx.session(&container, ran.pid)?, "storm", &ran.text())?;
    drop(pipe);
    let session = cx.session(&container, pid)?;
    let told: Vec<String> =
        session.executed().iter().skip(1).filter_map(|e| e.argv.last().cloned()).collect();
    ensure!(told == words, "{}", session.story());
    Ok(())
}

fn storms_in_two_containers(cx: &Cx) -> Result<()> {
    let containers = [cx.container()?, cx.container()?];
    let mut running = Vec::new();
    for container in &containers {
        for name in ["a", "b"] {
            running.push((container, name, storm(container, name).spawn()?));
        }
    }
    let mut sessions = Vec::new();
    for (container, name, running) in running {
        let ran = running.wait()?.ok()?;
        let session = cx.session(container, ran.pid)?;
        whole(&session, name, &ran.text())?;
        sessions.push(session);
    }
    for (container, sessions) in containers.iter().zip(sessions.chunks(2)) {
        nothing_else(cx, container, &sessions.iter().collect::<Vec<_>>())?;
    }
    let all = cx.agent()?.events();
    agent::whole(&all).context("the numbers of all events")
}

fn a_storm_of_sessions(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let mut sessions = Vec::new();
    for round in 0..5 {
        let mut running = Vec::new();
        for number in 0..6 {
            running.push(container.exec(&["/bin/echo", &format!("{round}-{number}")]).spawn()?);
        }
        for (number, running) in running.into_iter().enumerate() {
            let session = cx.session(&container, running.wait()?.ok()?.pid)?;
            session.expect(&[want(BUSYBOX, &["/bin/echo", &format!("{round}-{number}")])])?;
            sessions.push(session);
        }
    }
    nothing_else(cx, &container, &sessions.iter().collect::<Vec<_>>())
}
