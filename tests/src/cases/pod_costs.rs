//! What pods cost: calls of the runtime, and memory. `cargo xtask bench pods` writes what is printed here.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::pods::{agent, is_all_known, over};
use crate::{
    cases,
    harness::{
        Agent, Cx, cgroup,
        containerd::{Containerd, PodSpec},
        host,
        runtime::Crowd,
        until,
    },
};

cases! {
    "pod_costs",
    Containerd: calls_for_containers_of_before_and_later;
    OwnAgent: memory_of_a_thousand
}

/// Pods of the measure, and containers of each.
const PODS: usize = 6;
const CONTAINERS: usize = 2;

fn calls_for_containers_of_before_and_later(cx: &Cx) -> Result<()> {
    let containerd = Containerd::start()?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut all = Vec::new();
    let make = |number: usize| -> Result<_> {
        let pod = containerd.pod(PodSpec::new("prod", &format!("web{number}")))?;
        let names: Vec<String> = (0..CONTAINERS).map(|c| format!("c{c}")).collect();
        let made = names.iter().map(|name| containerd.container(&pod, name, &["/bin/sleep", "1000000"]));
        Ok((made.collect::<Result<Vec<_>>>()?, pod, names))
    };
    for number in 0..PODS {
        all.push(make(number)?);
    }
    let agent = agent(cx, &containerd, &["--metrics-listen", &format!("127.0.0.1:{port}")])?;
    let known = |count: usize| {
        until(&format!("{count} containers are known"), || {
            metric(port, "podtrail_agent_containers{metadata=\"known\"}").is_ok_and(|known| known == count)
        })
        .with_context(|| agent.logged())
    };
    // Each pod has its sandbox besides.
    let before = PODS * (CONTAINERS + 1);
    known(before)?;
    let at_start = calls(port)?;
    for (containers, pod, names) in &all {
        for (container, name) in containers.iter().zip(names) {
            containerd.exec_sync(container, &["/bin/echo", "there"])?;
            is_all_known(&over(&agent, container, "there")?, &pod.spec, name, &containerd.digest)?;
        }
    }
    let again = calls(port)? - at_start;
    ensure!(again <= others(port)?, "asked {again} times more for what was known");
    // Those that come later come one by one.
    for number in PODS..2 * PODS {
        all.push(make(number)?);
        known((number + 1) * (CONTAINERS + 1))?;
    }
    let later = calls(port)? - at_start;
    println!(
        "calls: | {before} containers that were there before the agent | {at_start} | {:.2} |",
        ratio(at_start, before)
    );
    println!("calls: | {before} that came one pod after the other | {later} | {:.2} |", ratio(later, before));
    let others = others(port)?;
    ensure!(at_start <= 6 + others, "{at_start} calls for containers of before the agent");
    ensure!(later <= 2 * before + others, "{later} calls for {before} containers");
    agent.stop()
}

#[expect(clippy::cast_precision_loss, reason = "small counts")]
fn ratio(calls: usize, containers: usize) -> f64 {
    calls as f64 / containers as f64
}

/// Calls that containers on this machine may have cost that are no test's: each is asked for three times, twice a time.
fn others(port: u16) -> Result<usize> {
    let of = |metadata| metric(port, &format!("podtrail_agent_containers{{metadata=\"{metadata}\"}}"));
    Ok(6 * (of("missing")? + of("pending")?))
}

/// Calls of the runtime so far.
fn calls(port: u16) -> Result<usize> {
    let all = scrape(port)?;
    let calls = all.lines().filter(|line| line.starts_with("podtrail_agent_cri_calls_total{"));
    let asked = calls.filter(|line| !line.contains("\"Version\""));
    asked.map(|line| Ok(line.rsplit(' ').next().unwrap_or_default().parse::<usize>()?)).sum()
}

fn metric(port: u16, name: &str) -> Result<usize> {
    let all = scrape(port)?;
    let line = all.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(Ok(0), |value| Ok(value.trim().parse()?))
}

fn scrape(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Bytes of memory that a process has.
fn resident(agent: &Agent) -> Result<usize> {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: usize = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}

fn memory_of_a_thousand(cx: &Cx) -> Result<()> {
    const PODS: usize = 500;
    let crowd = Crowd::new(PODS);
    let all = crowd.cgroups();
    let top = format!("{}/crowd", host().cgroup);
    all.iter().try_for_each(|path| cgroup::make(&format!("{top}/{path}")))?;
    let dir = host().dir("crowd")?;
    let serving = crowd.serve(&dir)?;
    let socket = serving.socket.to_str().context("a path that is no text")?;
    let measure = |socket: &str, metadata: &str| -> Result<usize> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let listen = format!("127.0.0.1:{port}");
        let agent = cx.start_agent(&["--runtime-socket", socket, "--metrics-listen", &listen])?;
        let name = format!("podtrail_agent_containers{{metadata=\"{metadata}\"}}");
        until("all containers are known", || metric(port, &name).is_ok_and(|count| count >= all.len()))
            .with_context(|| agent.logged())?;
        let resident = resident(&agent)?;
        agent.stop()?;
        Ok(resident)
    };
    let without = measure("none", "missing")?;
    let with = measure(socket, "known")?;
    drop(serving);
    cgroup::remove(&top)?;
    let more = with.saturating_sub(without);
    println!(
        "memory: | {} containers and what their runtime says of them | {} KiB | {} KiB |",
        all.len(),
        with >> 10,
        more >> 10
    );
    ensure!(more < 8 << 20, "{more} bytes more for {} containers", all.len());
    Ok(())
}
