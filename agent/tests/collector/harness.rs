//! A collector, and who reports to it.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex, mpsc as std_mpsc},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use podtrail::trail::{MAX_MESSAGE_BYTES, Moment};
use podtrail_proto::v1::{
    self, event::Body, ingest_client::IngestClient, tail_request::From, trail_client::TrailClient,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};

pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A collector that is killed when this is dropped.
pub(crate) struct Collector {
    pub(crate) child: Child,
    pub(crate) grpc: SocketAddr,
    pub(crate) metrics: SocketAddr,
    /// the audit webhook
    pub(crate) audit: Option<SocketAddr>,
    pub(crate) log: Arc<Mutex<String>>,
}

pub(crate) fn command(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_podtrail-collector"));
    command.args(["run", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--data"]).arg(data);
    command.env_remove("RUST_LOG");
    command
}

pub(crate) fn start(data: &Path) -> Collector {
    start_with(command(data))
}

pub(crate) fn start_with(mut command: Command) -> Collector {
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let log = Arc::new(Mutex::new(String::new()));
    let (found, listening) = std_mpsc::channel();
    let kept = log.clone();
    thread::spawn(move || {
        for line in stderr.lines().map_while(Result::ok) {
            kept.lock().unwrap().push_str(&format!("{line}\n"));
            if line.contains("msg=listening ") {
                let value = |key: &str| {
                    let at = line.find(key).unwrap() + key.len();
                    line[at..].split(' ').next().unwrap().parse::<SocketAddr>().ok()
                };
                let (grpc, metrics) = (value(" grpc=").unwrap(), value(" metrics=").unwrap());
                _ = found.send((grpc, metrics, value(" audit=")));
            }
        }
    });
    match listening.recv_timeout(SOON) {
        Ok((grpc, metrics, audit)) => Collector { child, grpc, metrics, audit, log },
        Err(_) => {
            _ = child.kill();
            panic!("it does not listen: {}", log.lock().unwrap());
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

impl Collector {
    pub(crate) async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.grpc)).unwrap().connect().await.unwrap()
    }

    pub(crate) async fn trail(&self) -> TrailClient<Channel> {
        TrailClient::new(self.channel().await).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Every event in the log, with its cursor.
    pub(crate) async fn events(&self) -> Vec<(u64, v1::Event)> {
        let request =
            v1::TailRequest { from: Some(From::Oldest(true)), follow: Some(false), ..Default::default() };
        let mut stream = self.trail().await.tail(request).await.unwrap().into_inner();
        let mut events = Vec::new();
        while let Some(response) = timeout(SOON, stream.message()).await.unwrap().unwrap() {
            events.push((number(&response.cursor), response.event.unwrap()));
        }
        events
    }

    /// Asks it to stop, and waits: exit code, and how long it took.
    pub(crate) fn stop(mut self, signal: Signal) -> (Option<i32>, Duration) {
        let began = Instant::now();
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status.code(), began.elapsed());
            }
            assert!(began.elapsed() < SOON, "it does not stop: {}", self.log.lock().unwrap());
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.metrics).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics");
        let line =
            text.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}: {text}"));
        line.trim().parse().unwrap()
    }
}

/// A run that must fail: its exit code and what it said.
pub(crate) fn fails(mut command: Command) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(stdout.is_empty());
    (status.code(), String::from_utf8(stderr).unwrap())
}

pub(crate) fn hello(node: &str, epoch: u64) -> v1::Hello {
    v1::Hello { cluster: "c".to_owned(), node: node.to_owned(), epoch, ..v1::Hello::default() }
}

pub(crate) fn event(node: &str, epoch: u64, seq: u64) -> v1::Event {
    let executed = v1::Executed { argv: vec![format!("{node} {epoch} {seq}")], ..v1::Executed::default() };
    v1::Event {
        id: Some(v1::EventId { cluster: "c".to_owned(), node: node.to_owned(), epoch, seq }),
        time: Some(Moment::now().timestamp()),
        session_id: format!("{node}-{}", seq / 10),
        body: Some(Body::Executed(executed)),
        ..v1::Event::default()
    }
}

/// An agent's stream.
pub(crate) struct Agent {
    pub(crate) requests: mpsc::Sender<v1::ReportRequest>,
    pub(crate) responses: Streaming<v1::ReportResponse>,
}

impl Agent {
    pub(crate) async fn connect(collector: &Collector) -> Self {
        Self::try_connect(collector).await.unwrap()
    }

    /// `Err`: the collector is gone already.
    pub(crate) async fn try_connect(collector: &Collector) -> Result<Self, Status> {
        let (requests, rx) = mpsc::channel(4);
        let endpoint = Channel::from_shared(format!("http://{}", collector.grpc)).unwrap();
        let channel = endpoint.connect().await.map_err(|e| Status::unavailable(e.to_string()))?;
        let responses = IngestClient::new(channel).report(ReceiverStream::new(rx)).await?.into_inner();
        Ok(Self { requests, responses })
    }

    pub(crate) async fn send(
        &mut self,
        hello: Option<v1::Hello>,
        events: Vec<v1::Event>,
    ) -> Result<u64, Status> {
        let request = v1::ReportRequest { hello, events, gone: Vec::new() };
        Ok(self.exchange(request).await?.acked_seq)
    }

    pub(crate) async fn exchange(
        &mut self,
        request: v1::ReportRequest,
    ) -> Result<v1::ReportResponse, Status> {
        if self.requests.send(request).await.is_err() {
            return Err(Status::unavailable("the stream is closed"));
        }
        let response = timeout(SOON, self.responses.message()).await.expect("no answer")?;
        response.ok_or_else(|| Status::unavailable("the stream ended"))
    }

    pub(crate) async fn refused(
        collector: &Collector,
        hello: Option<v1::Hello>,
        events: Vec<v1::Event>,
    ) -> (Code, String) {
        let e = Self::connect(collector).await.send(hello, events).await.unwrap_err();
        (e.code(), e.message().to_owned())
    }
}

/// Of a cursor, whatever log it is of.
pub(crate) fn number(cursor: &str) -> u64 {
    cursor.split_once('-').unwrap().0.parse().unwrap()
}

pub(crate) fn seqs(events: &[(u64, v1::Event)]) -> Vec<u64> {
    events.iter().map(|(_, e)| e.id.as_ref().unwrap().seq).collect()
}

/// Numbers without a pattern; which ones is said when the test fails.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn throw(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}
