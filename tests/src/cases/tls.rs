//! From the agent to the collector with certificates on both sides.

use std::{fs, io::Read as _, net::TcpStream, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, Stream,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use super::collecting::{same, storm};
use crate::{
    cases,
    harness::{
        Agent, Cx,
        agent::NODE,
        certificates::{Authority, Files},
        collector::Collector,
        host, until, within,
    },
};

cases! {
    "tls",
    OwnAgent: commands_come_over_mutual_tls, certificates_are_renewed_in_a_storm, an_agent_of_another_name_is_refused;
    Nothing: who_has_no_certificate_is_refused
}

fn agents_files(cx: &Cx) -> Result<PathBuf> {
    host().dir(&cx.unique("certificate"))
}

fn own(authority: &Authority, dir: &std::path::Path) -> Result<Files> {
    authority.of(&format!("podtrail://agent/default/{NODE}"), dir)
}

fn start(cx: &Cx, collector: &Collector, files: &Files) -> Result<Agent> {
    let args = [vec!["--collector".to_owned(), collector.url()], files.args()].concat();
    cx.start_agent(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Of the agent, in KiB: now, and at its highest.
fn resident(agent: &Agent) -> Result<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid()?))?;
    let of = |key: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).context("no memory in status")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    };
    Ok((of("VmRSS:")?, of("VmHWM:")?))
}

fn connected(collector: &Collector) -> usize {
    collector.logged().matches("msg=\"agent connected\"").count()
}

fn commands_come_over_mutual_tls(cx: &Cx) -> Result<()> {
    let authority = Authority::new("itest")?;
    let mut collector = Collector::secure_place(&cx.unique("collector"), &authority)?;
    collector.start()?;
    let agent = start(cx, &collector, &own(&authority, &agents_files(cx)?)?)?;
    storm(cx, &agent, 300, || Ok(()))?;
    same(&agent, &collector)?;
    let (now, most) = resident(&agent)?;
    eprintln!(
        "an agent with TLS, of this build: {} MiB resident, {} at its highest",
        now / 1024,
        most / 1024
    );
    agent.stop()?;
    same(&agent, &collector)?;
    ensure!(connected(&collector) == 1, "{}", collector.logged());
    ensure!(collector.end(Signal::SIGTERM)?.success(), "{}", collector.logged());
    Ok(())
}

fn certificates_are_renewed_in_a_storm(cx: &Cx) -> Result<()> {
    let (old, new) = (Authority::new("old")?, Authority::new("new")?);
    let mut collector = Collector::secure_place(&cx.unique("collector"), &old)?;
    collector.start()?;
    let dir = agents_files(cx)?;
    let agent = start(cx, &collector, &own(&old, &dir)?)?;
    storm(cx, &agent, 3000, || {
        until("some of it has come", || collector.events().is_ok_and(|events| events.len() > 100))?;
        own(&new, &dir)?;
        collector.renew(&new)?;
        until("it is reloaded", || collector.logged().contains("certificates reloaded"))
            .with_context(|| collector.logged())
    })?;
    // The reader shows its new certificate; the agent is still there by its old one.
    same(&agent, &collector)?;
    ensure!(connected(&collector) == 1, "{}", collector.logged());
    ensure!(!collector.logged().contains("msg=refused"), "{}", collector.logged());
    // Where it has to come again, it comes with the new one.
    collector.end(Signal::SIGKILL)?;
    collector.start()?;
    storm(cx, &agent, 100, || Ok(()))?;
    same(&agent, &collector)?;
    ensure!(connected(&collector) == 2, "{}", collector.logged());
    agent.stop()
}

fn an_agent_of_another_name_is_refused(cx: &Cx) -> Result<()> {
    let authority = Authority::new("itest")?;
    let mut collector = Collector::secure_place(&cx.unique("collector"), &authority)?;
    collector.start()?;
    let dir = agents_files(cx)?;
    let agent = start(cx, &collector, &authority.of("podtrail://agent/default/other", &dir)?)?;
    let foreign = || collector.metric("podtrail_collector_refused_total{reason=\"foreign_node\"}");
    until("it has come three times", || foreign().is_ok_and(|refused| refused >= 3.0))
        .with_context(|| format!("{}{}", agent.logged(), collector.logged()))?;
    let lines = |words: &[&str]| {
        let logged = collector.logged();
        logged.lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
    };
    ensure!(lines(&["msg=refused"]) == 1, "{}", collector.logged());
    let told = ["msg=refused", "peer=\"agent default/other\"", "reason=foreign_node"];
    ensure!(lines(&told) == 1, "{}", collector.logged());
    ensure!(collector.events()?.is_empty(), "{:?}", collector.events());
    // Its events wait for the certificate that it should have had.
    own(&authority, &dir)?;
    within(Duration::from_secs(60), "it comes with the right one", || {
        (connected(&collector) > 0).then_some(())
    })
    .with_context(|| agent.logged())?;
    same(&agent, &collector)?;
    agent.stop()
}

fn who_has_no_certificate_is_refused(cx: &Cx) -> Result<()> {
    let authority = Authority::new("itest")?;
    let mut collector = Collector::secure_place(&cx.unique("collector"), &authority)?;
    collector.start()?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes())?)?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = Arc::new(config);
    for times in [1.0, 2.0] {
        let mut tcp = TcpStream::connect(collector.address())?;
        let mut tls = ClientConnection::new(Arc::clone(&config), "127.0.0.1".try_into()?)?;
        let answer = Stream::new(&mut tls, &mut tcp).read(&mut [0]);
        let why = answer.err().context("it was let in")?.to_string();
        ensure!(why.contains("CertificateRequired"), "{why}");
        let refused = "podtrail_collector_refused_total{reason=\"no_certificate\"}";
        until("it is counted", || collector.metric(refused).is_ok_and(|refused| refused == times))?;
    }
    let told = collector.logged().matches("msg=refused").count();
    ensure!(told == 1, "{}", collector.logged());
    Ok(())
}
