//! A collector under test, and the command line that asks it.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, ChildStdin, ExitStatus, Output, Stdio},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use podtrail::trail::MAX_MESSAGE_BYTES;
use podtrail_proto::v1::{Event, TailResponse, trail_client::TrailClient};
use tonic::transport::{Channel, Endpoint};

use super::{
    certificates::{Authority, Files},
    daemon, host, process, until,
};

/// A place for a collector: it may run, be killed, and run again there.
#[derive(Debug)]
pub(crate) struct Collector {
    dir: PathBuf,
    port: u16,
    metrics: u16,
    child: Option<(Child, Option<ChildStdin>)>,
    tls: Option<Tls>,
    /// flags besides
    flags: Vec<String>,
}

/// Its own certificate, and that of whoever reads its events.
#[derive(Debug)]
struct Tls {
    server: Files,
    reader: Files,
}

/// May read everything.
const READER: &str = "[[principal]]\nname = \"itest\"\nverbs = [\"tail\", \"subscribe\", \"sessions\"]\nnamespaces = [\"*\"]\nfields = [\"*\"]\n";

impl Collector {
    /// A place, with no collector yet.
    pub(crate) fn place(name: &str) -> Result<Self> {
        // Free now; loopback ports are many, and the tests alone with them.
        let free = || TcpListener::bind("127.0.0.1:0").context("is the loopback interface up?");
        let (grpc, metrics) = (free()?, free()?);
        let (port, metrics) = (grpc.local_addr()?.port(), metrics.local_addr()?.port());
        Ok(Self { dir: host().dir(name)?, port, metrics, child: None, tls: None, flags: Vec::new() })
    }

    /// The same, for one that takes in nobody without a certificate of this authority.
    pub(crate) fn secure_place(name: &str, authority: &Authority) -> Result<Self> {
        let mut this = Self::place(name)?;
        this.renew(authority)?;
        fs::write(this.dir.join("collector.toml"), READER)?;
        Ok(this)
    }

    /// New certificates, in the place of those that are there.
    pub(crate) fn renew(&mut self, authority: &Authority) -> Result<()> {
        let server = authority.collector(&self.dir.join("server"))?;
        let reader = authority.of("podtrail://reader/itest", &self.dir.join("reader"))?;
        self.tls = Some(Tls { server, reader });
        Ok(())
    }

    /// It takes in audit, too; where.
    pub(crate) fn takes_audit(&mut self, flags: &str) -> Result<SocketAddr> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        self.flags.extend(["--audit-listen".to_owned(), address.to_string()]);
        self.flags.extend(flags.split_whitespace().map(str::to_owned));
        Ok(address)
    }

    /// As somebody who may read everything.
    pub(crate) fn reader(&self) -> Result<impl Future<Output = Result<TrailClient<Channel>>> + use<>> {
        let tls = self.tls.as_ref().context("it has no certificates")?.reader.reader();
        let endpoint = Endpoint::from_shared(self.url())?;
        Ok(async move {
            let channel = tls.connect(&endpoint).await?;
            Ok(TrailClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES))
        })
    }

    /// Where its log is to be.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// What `/readyz` answers.
    pub(crate) fn readiness(&self) -> Result<String> {
        self.get("readyz")
    }

    /// One of its metrics, named with its labels; 0 where it is not there.
    pub(crate) fn metric(&self, name: &str) -> Result<f64> {
        let metrics = self.get("metrics")?;
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.map_or(Ok(0.0), |value| value.trim().parse())?)
    }

    fn get(&self, page: &str) -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.metrics))?;
        write!(stream, "GET /{page} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Its address, for agents and readers.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address())
    }

    /// The same, without a scheme.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Runs it there, and waits until it answers.
    pub(crate) fn start(&mut self) -> Result<()> {
        let mut command = daemon::daemon("podtrail-collector");
        let [listen, metrics] = [self.port, self.metrics].map(|port| format!("127.0.0.1:{port}"));
        command.args(["run", "--metrics-listen", &metrics, "--listen", &listen]);
        command.arg("--data").arg(self.data()).args(&self.flags);
        if let Some(tls) = &self.tls {
            command.args(tls.server.args()).arg("--config").arg(self.dir.join("collector.toml"));
        }
        let log = File::options().create(true).append(true).open(self.dir.join("log"))?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).spawn()?;
        let lifeline = child.stdin.take();
        let port = self.port;
        // One with certificates counts whoever comes without.
        let answers = until("the collector answers", || match self.tls {
            None => TcpStream::connect(("127.0.0.1", port)).is_ok(),
            Some(_) => self.readiness().is_ok_and(|answer| answer.contains("log: ready")),
        });
        self.child = Some((child, lifeline));
        answers.with_context(|| self.logged())
    }

    /// Ends it.
    pub(crate) fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        let (mut child, _lifeline) = self.child.take().context("it does not run")?;
        kill(Pid::from_raw(child.id().cast_signed()), signal)?;
        process::reap(&mut child, "the collector ends")
    }

    /// All events it has, in its order, each once.
    pub(crate) fn events(&self) -> Result<Vec<Event>> {
        let mut command = daemon::command("podtrail");
        command.args(["tail", "--collector", &self.url(), "--from", "oldest", "--no-follow", "-o", "json"]);
        command.envs(self.tls.iter().flat_map(|tls| tls.reader.env())).stdin(Stdio::null());
        let output = command.output().context("cannot run podtrail")?;
        text(&output)?.lines().map(event).collect()
    }

    /// What it logged.
    pub(crate) fn logged(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if self.child.is_some()
            && let Err(e) = self.end(Signal::SIGKILL)
        {
            eprintln!("cannot end a collector: {e:#}");
        }
        if std::env::var_os("PODTRAIL_ITEST_KEEP").is_some() {
            eprintln!("log of a collector: {}", self.logged());
        }
    }
}

/// An event as the command line prints it: bare, or with its cursor.
pub(crate) fn event(line: &str) -> Result<Event> {
    if let Ok(event) = serde_json::from_str::<Event>(line) {
        return Ok(event);
    }
    let response: TailResponse = serde_json::from_str(line).with_context(|| format!("no event: {line}"))?;
    response.event.context("a response without an event")
}

/// Runs `podtrail`.
pub(crate) fn podtrail(args: &[&str]) -> Result<Output> {
    let mut command = daemon::command("podtrail");
    command.args(args).stdin(Stdio::null());
    command.output().context("cannot run podtrail")
}

/// What a program that succeeded printed.
pub(crate) fn text(output: &Output) -> Result<String> {
    if !output.status.success() {
        bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout.clone()).context("it printed what is not UTF-8")
}
