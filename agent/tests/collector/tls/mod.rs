//! Who may: a collector with certificates, and everybody who comes to it.

#[path = "../../../src/tls/testing.rs"]
pub(super) mod authority;
mod document;
mod door;
mod reload;
mod rights;

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use podtrail::tls::{ClientTls, Files};
use podtrail_proto::v1::{self, ingest_client::IngestClient, tail_request::From, trail_client::TrailClient};
use tempfile::TempDir;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};

use self::authority::{Authority, Issued, Wanted};
use super::{Collector, SOON, command, hello, start_with};

/// An authority, a collector with its certificate, and room for the certificates of others.
pub(super) struct Place {
    dir: TempDir,
    pub(super) authority: Authority,
}

impl Place {
    pub(super) fn new() -> Self {
        let this = Self { dir: tempfile::tempdir().unwrap(), authority: Authority::new("podtrail") };
        this.server().write(&this.dir.path().join("server"), &this.authority.pem());
        this
    }

    /// A new certificate for the collector.
    fn server(&self) -> Issued {
        self.authority.issue(Wanted { hosts: &["127.0.0.1", "localhost"], ..Wanted::default() })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn file(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Starts the collector with this configuration beside its files.
    pub(super) fn start(&self, configuration: &str) -> Collector {
        let mut text = String::new();
        for (key, file) in [("tls-ca", "ca"), ("tls-cert", "cert"), ("tls-key", "key")] {
            writeln!(text, "{key} = {:?}", self.file(&format!("server/{file}.pem"))).unwrap();
        }
        fs::write(self.path("collector.toml"), text + configuration).unwrap();
        let mut command = command(&self.path("data"));
        command.arg("--config").arg(self.path("collector.toml"));
        start_with(command)
    }

    /// Files of somebody with this certificate, who believes this authority.
    pub(super) fn files(&self, name: &str, issued: &Issued) -> Files {
        let dir = self.path(name);
        issued.write(&dir, &self.authority.pem());
        files(&dir)
    }

    /// Somebody whose certificate has this name.
    pub(super) fn named(&self, uri: &str) -> Files {
        self.files(&uri.replace('/', "_"), &self.authority.of(&[uri]))
    }

    pub(super) fn agent(&self, node: &str) -> Files {
        self.named(&format!("podtrail://agent/c/{node}"))
    }

    pub(super) fn reader(&self, principal: &str) -> Files {
        self.named(&format!("podtrail://reader/{principal}"))
    }
}

fn files(dir: &Path) -> Files {
    Files { ca: dir.join("ca.pem"), cert: dir.join("cert.pem"), key: dir.join("key.pem") }
}

async fn channel(collector: &Collector, files: Files) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("https://{}", collector.grpc)).unwrap();
    let connected = timeout(SOON, ClientTls::new(files).connect(&endpoint)).await.unwrap();
    connected.map_err(|e| {
        let e: &dyn std::error::Error = &e;
        std::iter::successors(Some(e), |e| e.source()).map(|e| format!("{e} ")).collect()
    })
}

pub(super) async fn trail(collector: &Collector, files: Files) -> TrailClient<Channel> {
    TrailClient::new(channel(collector, files).await.unwrap())
}

/// Reports as an agent; the answer to the last of the requests.
async fn report(
    collector: &Collector,
    files: Files,
    node: &str,
    events: Vec<v1::Event>,
) -> Result<u64, Status> {
    let channel = channel(collector, files).await.map_err(Status::unavailable)?;
    let (tx, rx) = mpsc::channel(1);
    let request = v1::ReportRequest { hello: Some(hello(node, 1)), events, gone: Vec::new() };
    tx.send(request).await.unwrap();
    let mut answers = IngestClient::new(channel).report(ReceiverStream::new(rx)).await?.into_inner();
    let answer = timeout(SOON, answers.message()).await.unwrap()?;
    Ok(answer.unwrap().acked_seq)
}

pub(super) async fn tail(
    collector: &Collector,
    files: Files,
    from: From,
) -> Result<Streaming<v1::TailResponse>, Status> {
    let channel = channel(collector, files).await.map_err(Status::unavailable)?;
    let request = v1::TailRequest { from: Some(from), ..v1::TailRequest::default() };
    Ok(TrailClient::new(channel).tail(request).await?.into_inner())
}

pub(super) async fn next(tail: &mut Streaming<v1::TailResponse>) -> Result<Option<v1::Event>, Status> {
    Ok(timeout(SOON, tail.message()).await.unwrap()?.map(|response| response.event.unwrap()))
}

/// Waits until the collector's log has this many lines with all of these words.
pub(super) async fn told(collector: &Collector, words: &[&str], times: usize) {
    let waited = timeout(SOON, async {
        while lines(collector, words) < times {
            sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "no {words:?} in {}", collector.log.lock().unwrap());
}

pub(super) fn lines(collector: &Collector, words: &[&str]) -> usize {
    let log = collector.log.lock().unwrap();
    log.lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
}

pub(super) fn refused(collector: &Collector, reason: &str) -> f64 {
    let text = collector.get("/metrics");
    let name = format!("podtrail_collector_refused_total{{reason=\"{reason}\"}}");
    text.lines().find_map(|line| line.strip_prefix(&name)).map_or(0.0, |value| value.trim().parse().unwrap())
}

/// Waits until more were refused than before, and says how many now are. A client may try twice.
pub(super) async fn more_refused(collector: &Collector, reason: &str, before: f64) -> f64 {
    timeout(SOON, async {
        loop {
            let now = refused(collector, reason);
            if now > before {
                return now;
            }
            sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("nobody was refused for {reason}: {}", collector.log.lock().unwrap()))
}

fn code<T: std::fmt::Debug>(result: Result<T, Status>) -> (Code, String) {
    let status = result.unwrap_err();
    (status.code(), status.message().to_owned())
}

fn ended() -> Option<SystemTime> {
    Some(SystemTime::now() - std::time::Duration::from_secs(3600))
}
