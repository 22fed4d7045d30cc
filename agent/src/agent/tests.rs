//! The pipeline from a fake source to a real gRPC server and a real Unix socket, without root.

use std::{
    collections::VecDeque,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use podtrail_proto::v1::{self, event::Body, trail_client::TrailClient};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc,
    time::timeout,
};
use tonic::transport::Endpoint;

use super::*;
use crate::{
    config::agent::Flags,
    event::{BootTime, Credentials, Executable, ExitStatus, GapSource, Hook, Namespaces, Process, TaskKey},
    probe::CgroupCreated,
    session::{
        Followed,
        record::{EntryKind, Exec, Exit, Lost, RawArgv, Record},
    },
    uplink::tests::Stub,
};

const WAIT: Duration = Duration::from_secs(20);
const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Gives what it is sent.
struct Fake {
    records: mpsc::UnboundedReceiver<RawRecord>,
    left: VecDeque<RawRecord>,
    losses: Vec<Lost>,
    /// how much there is to read before a tick, and how much was read
    written: u64,
    read: u64,
    /// somebody wanted to know how much there is to read
    marked: AtomicBool,
    /// execs refused, by session
    refused: Vec<(TaskKey, u64)>,
    /// sessions that are followed no more
    over: Vec<TaskKey>,
    /// for each time it was asked, the sessions and processes that it was asked for
    asked: Arc<Mutex<Vec<Followed>>>,
}

impl Fake {
    fn new(records: mpsc::UnboundedReceiver<RawRecord>) -> Self {
        let (left, losses, written, read, marked, refused, over, asked) = Default::default();
        Self { records, left, losses, written, read, marked, refused, over, asked }
    }
}

impl Source for Fake {
    fn hooks(&self) -> Vec<Hook> {
        vec![Hook { name: "exec".to_owned(), kind: "fake".to_owned(), reason: String::new() }]
    }

    async fn read(&mut self, out: &mut Vec<RawRecord>) -> Result<(), SourceError> {
        // What is to be read before a tick comes only after it.
        while self.written > 0 && !self.marked.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        match self.records.recv().await {
            Some(record) => {
                self.read += 1;
                out.push(record);
            }
            None => std::future::pending().await,
        }
        Ok(())
    }

    fn drain(&mut self, out: &mut Vec<RawRecord>) -> bool {
        let before = out.len();
        out.extend(std::iter::from_fn(|| self.records.try_recv().ok()));
        out.extend(self.left.pop_front());
        out.len() > before
    }

    fn losses(&mut self) -> Result<Vec<Lost>, SourceError> {
        Ok(std::mem::take(&mut self.losses))
    }

    fn position(&self) -> Vec<u8> {
        Vec::new()
    }

    fn release(&mut self) {}

    fn written(&self) -> u64 {
        self.marked.store(true, Ordering::Relaxed);
        self.written
    }

    fn read_to(&self) -> u64 {
        self.read
    }

    fn refused(&mut self, sessions: &[TaskKey]) -> Result<Vec<(TaskKey, u64)>, SourceError> {
        Ok(self.refused.iter().filter(|(entry, _)| sessions.contains(entry)).copied().collect())
    }

    fn gone(&mut self, followed: Followed) -> Result<Followed, SourceError> {
        self.asked.lock().unwrap().push(followed.clone());
        let Followed { mut sessions, processes: _ } = followed;
        sessions.retain(|entry| self.over.contains(entry));
        Ok(Followed { sessions, processes: Vec::new() })
    }
}

fn exec(time: u64, key: TaskKey, argv: &[u8]) -> RawRecord {
    let length = u32::try_from(argv.len()).unwrap();
    RawRecord::Session(Record::Exec(Box::new(Exec {
        time: BootTime(time),
        process: Process { key, parent: TaskKey::new(1, 1), comm: b"sh".to_vec() },
        tid: key.tgid,
        entry: TaskKey::new(500, 10),
        entered_by: TaskKey::new(400, 5),
        entry_time: BootTime(10),
        entry_kind: EntryKind::Runtime,
        container: Some(42),
        staging: false,
        root: key.tgid == 500,
        host_mnt: false,
        cgroup_id: 42,
        namespaces: Namespaces { mnt: 9, pid: 8, user: 7, net: 6 },
        credentials: Credentials::default(),
        tty: None,
        path: b"/bin/sh\xff".to_vec(),
        cwd: b"/".to_vec(),
        path_incomplete: false,
        script: None,
        executable: Executable::default(),
        argv: RawArgv { total: argv.len() as u64, head: length, tail: 0, bytes: argv.to_vec(), fault: false },
        argv_over_budget: false,
        descriptors: None,
        environment: None,
        spoof_suspected: false,
    })))
}

fn exit(time: u64, key: TaskKey, last: bool) -> RawRecord {
    RawRecord::Session(Record::Exit(Exit {
        time: BootTime(time),
        key,
        parent: TaskKey::new(1, 1),
        entry: TaskKey::new(500, 10),
        status: ExitStatus::Code(3),
        last,
        executed: true,
        late: false,
        lost: 0,
        refused: 0,
    }))
}

fn cgroup() -> RawRecord {
    RawRecord::CgroupCreated(CgroupCreated {
        time: BootTime(1),
        id: 42,
        parent: 1,
        container: Some(42),
        path: format!("/kubepods.slice/cri-containerd-{ID}.scope").into_bytes(),
    })
}

fn about() -> About {
    let text = |text: &str| text.to_owned();
    About { version: text("1"), kernel: text("6.1"), boot_id: text("b5b3ee22-4c0e-4c59-9d5a-0f5a4b7f3a01") }
}

fn config(dir: &tempfile::TempDir, collector: Option<String>) -> AgentConfig {
    let path = |name: &str| Some(dir.path().join(name).display().to_string());
    let flags = Flags {
        node_name: Some("n".to_owned()),
        cluster: Some("c".to_owned()),
        collector,
        socket: path("agent.sock"),
        lock: path("agent.lock"),
        spool: path("spool"),
        metrics_listen: Some("none".to_owned()),
        ..Flags::default()
    };
    AgentConfig::load(flags).unwrap()
}

fn kinds<'a>(events: impl IntoIterator<Item = &'a v1::Event>) -> Vec<&'static str> {
    let kind = |event: &v1::Event| match &event.body {
        Some(Body::SessionStarted(_)) => "session started",
        Some(Body::Executed(_)) => "executed",
        Some(Body::Exited(_)) => "exited",
        Some(Body::SessionEnded(_)) => "session ended",
        Some(Body::Gap(_)) => "gap",
        Some(Body::AgentState(state)) if state.phase() == v1::agent_state::Phase::Started => "started",
        Some(Body::AgentState(_)) => "stopped",
        _ => "other",
    };
    events.into_iter().map(kind).collect()
}

async fn trail(path: PathBuf) -> TrailClient<tonic::transport::Channel> {
    let endpoint = Endpoint::from_shared(format!("unix://{}", path.display())).unwrap();
    TrailClient::new(endpoint.connect().await.unwrap())
}

#[tokio::test]
async fn from_the_source_to_the_collector_and_the_socket() {
    let dir = tempfile::tempdir().unwrap();
    let stub = Stub::default();
    let (address, _server) = stub.serve("127.0.0.1:0".parse().unwrap()).await;
    let config = config(&dir, Some(format!("http://{address}")));
    let (send, records) = mpsc::unbounded_channel();
    // What is in the ring when the agent is told to stop must still come out.
    let left = VecDeque::from([exit(40, TaskKey::new(500, 10), true)]);
    let lost = Lost {
        from: BootTime(1),
        time: BootTime(2),
        source: GapSource::KernelRing,
        count: 5,
        exact: true,
        detail: "exec".to_owned(),
    };
    let source = Fake { left, losses: vec![lost], ..Fake::new(records) };
    let pipeline = Pipeline::new(source, Containers::default(), about());
    let stop = CancellationToken::new();
    let socket = config.socket.clone().unwrap();
    let agent = tokio::spawn({
        let stop = stop.clone();
        async move { run(&config, open_spool(&config, &about()).unwrap().0, pipeline, vec![cgroup()], stop).await }
    });
    send.send(exec(20, TaskKey::new(500, 10), b"sh\0-c\0\x1b[2J\xff\0")).unwrap();
    send.send(exec(30, TaskKey::new(501, 25), b"ls\0")).unwrap();
    send.send(exit(35, TaskKey::new(501, 25), false)).unwrap();

    // All but the end: started, gap, session started, executed twice, exited.
    let waiting = async {
        while stub.dense() < 6 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(WAIT, waiting).await.unwrap();

    let mut trail = trail(socket.clone()).await;
    let sessions =
        trail.list_sessions(v1::ListSessionsRequest::default()).await.unwrap().into_inner().sessions;
    assert_eq!(sessions.len(), 1);
    assert_eq!((sessions[0].commands, sessions[0].first_command.as_str()), (2, "sh -c \u{1b}[2J\u{fffd}"));
    let container = sessions[0].container.clone().unwrap();
    assert_eq!(
        (container.id.as_str(), container.runtime.as_str(), container.cgroup_id),
        (ID, "containerd", 42)
    );

    stop.cancel();
    timeout(WAIT, agent).await.unwrap().unwrap().unwrap();
    assert!(!socket.exists());

    let received = stub.received.lock().unwrap();
    let events: Vec<&v1::Event> = received.values().map(|(event, _)| event).collect();
    let seqs: Vec<u64> = events.iter().map(|event| event.id.as_ref().unwrap().seq).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>(), "dense from 1");
    let kinds = kinds(events.iter().copied());
    assert_eq!((kinds.first(), kinds.last()), (Some(&"started"), Some(&"stopped")), "{kinds:?}");
    let mut sorted = kinds.clone();
    sorted.sort_unstable();
    assert_eq!(
        sorted,
        [
            "executed",
            "executed",
            "exited",
            "exited",
            "gap",
            "session ended",
            "session started",
            "started",
            "stopped"
        ]
    );
    let executed = events
        .iter()
        .find_map(|event| match &event.body {
            Some(Body::Executed(executed)) => Some(executed),
            _ => None,
        })
        .unwrap();
    assert_eq!(executed.path_raw, b"/bin/sh\xff"[..]);
    assert_eq!(executed.argv_raw, [&b"sh"[..], b"-c", b"\x1b[2J\xff"]);
    assert_eq!((executed.argv_bytes, executed.truncated), (Some(12), Some(false)));
    let Some(Body::AgentState(state)) = &events[0].body else { panic!("{:?}", events[0]) };
    assert_eq!((state.kernel.as_str(), state.hooks[0].kind.as_str()), ("6.1", "fake"));
}

#[tokio::test]
async fn without_a_collector_the_socket_has_it_all_and_the_stop_is_quick() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir, None);
    let (send, records) = mpsc::unbounded_channel();
    let source = Fake::new(records);
    let pipeline = Pipeline::new(source, Containers::default(), about());
    let stop = CancellationToken::new();
    let socket = config.socket.clone().unwrap();
    let agent = tokio::spawn({
        let stop = stop.clone();
        async move { run(&config, open_spool(&config, &about()).unwrap().0, pipeline, Vec::new(), stop).await }
    });
    send.send(exec(20, TaskKey::new(500, 10), b"true\0")).unwrap();
    let connected = async {
        while !socket.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        trail(socket.clone()).await
    };
    let mut trail = timeout(WAIT, connected).await.unwrap();
    let from = Some(v1::tail_request::From::Oldest(true));
    let request = v1::TailRequest { from, follow: Some(true), ..Default::default() };
    let mut tail = trail.tail(request).await.unwrap().into_inner();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let response = timeout(WAIT, tail.message()).await.unwrap().unwrap().unwrap();
        seen.push(response.event.unwrap());
    }
    assert_eq!(kinds(&seen), ["started", "session started", "executed"]);
    stop.cancel();
    timeout(Duration::from_secs(2), agent).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn what_the_problem_detector_of_the_node_says_goes_to_the_collector() {
    const CONDITIONS: &str = include_str!("../../../tests/fixtures/npd/cond_bad.json");
    const METRICS: &str = include_str!("../../../tests/fixtures/npd/metrics_bad.txt");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let _serving = AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = [0; 1024];
            let n = stream.read(&mut asked).await.unwrap();
            let body = if asked[..n].starts_with(b"GET /conditions ") { CONDITIONS } else { METRICS };
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    }));
    let dir = tempfile::tempdir().unwrap();
    let stub = Stub::default();
    let (collector, _server) = stub.serve("127.0.0.1:0".parse().unwrap()).await;
    let config = config(&dir, Some(format!("http://{collector}")));
    let (_send, records) = mpsc::unbounded_channel();
    let options = crate::detector::Options { conditions: Some(address), metrics: Some(address) };
    let pipeline = Pipeline::new(Fake::new(records), Containers::default(), about())
        .observes(crate::detector::Detector::start(options));
    let stop = CancellationToken::new();
    let agent = tokio::spawn({
        let stop = stop.clone();
        async move { run(&config, open_spool(&config, &about()).unwrap().0, pipeline, Vec::new(), stop).await }
    });
    let waiting = async {
        while stub.dense() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(WAIT, waiting).await.unwrap();
    stop.cancel();
    timeout(WAIT, agent).await.unwrap().unwrap().unwrap();
    let received = stub.received.lock().unwrap();
    let observed = received.values().find_map(|(event, _)| match &event.body {
        Some(Body::NodeObserved(observed)) => Some((event, observed)),
        _ => None,
    });
    let (event, observed) = observed.unwrap();
    assert_eq!((event.container.as_ref(), event.session_id.as_str()), (None, ""));
    assert_eq!((observed.conditions.len(), observed.problems.len()), (5, 16));
    assert_eq!((observed.has_conditions(), observed.has_problems()), (true, true));
    let fd = v1::NodeCondition {
        r#type: "FDPressure".to_owned(),
        status: "True".to_owned(),
        reason: "NodeHasFDPressure".to_owned(),
        message: "current fd usage is 1700000 and max is 2000000".to_owned(),
        transition: Some(podtrail_proto::Timestamp { seconds: 1_795_374_600, nanos: 0 }),
        ..v1::NodeCondition::default()
    };
    assert_eq!(observed.conditions[1], fd);
    let conntrack = v1::ProblemCount { reason: "ConntrackFull".to_owned(), count: 2 };
    assert_eq!(observed.problems[0], conntrack);
}

/// Where the record of a session is when a loss is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Session {
    /// read, as if it had been there when the agent came
    Known,
    /// not there yet
    Unwritten,
    /// there, but nobody has read it
    Unread,
}

/// A record, and a loss of exits; what the socket tells of it.
async fn after_a_loss_of(detail: &str, over: bool, session: Session) -> (Vec<v1::Event>, Vec<Followed>) {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir, None);
    let (send, records) = mpsc::unbounded_channel();
    let lost = Lost {
        from: BootTime(1),
        time: BootTime(50),
        source: GapSource::KernelRing,
        count: 1,
        exact: true,
        detail: detail.to_owned(),
    };
    let mut source = Fake { losses: vec![lost], ..Fake::new(records) };
    if over {
        source.over.push(TaskKey::new(500, 10));
    }
    source.written = u64::from(session == Session::Unread);
    let asked = Arc::clone(&source.asked);
    let pipeline = Pipeline::new(source, Containers::default(), about());
    let stop = CancellationToken::new();
    let socket = config.socket.clone().unwrap();
    let record = exec(20, TaskKey::new(500, 10), b"sh\0");
    let (mut before, mut behind) = (Vec::new(), None);
    match session {
        Session::Known => before.push(record),
        Session::Unwritten => behind = Some(record),
        Session::Unread => send.send(record).unwrap(),
    }
    let agent = tokio::spawn({
        let stop = stop.clone();
        async move { run(&config, open_spool(&config, &about()).unwrap().0, pipeline, before, stop).await }
    });
    let connected = async {
        while !socket.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        trail(socket.clone()).await
    };
    let mut trail = timeout(WAIT, connected).await.unwrap();
    let from = Some(v1::tail_request::From::Oldest(true));
    let request = v1::TailRequest { from, follow: Some(true), ..Default::default() };
    let mut tail = trail.tail(request).await.unwrap().into_inner();
    let mut seen = Vec::new();
    if let Some(record) = behind {
        while seen.len() < 2 {
            seen.push(timeout(WAIT, tail.message()).await.unwrap().unwrap().unwrap().event.unwrap());
        }
        send.send(record).unwrap();
    }
    // Where the session goes on, the stop is what ends the reading.
    while seen.len() < 4 + usize::from(over) {
        seen.push(timeout(WAIT, tail.message()).await.unwrap().unwrap().unwrap().event.unwrap());
    }
    stop.cancel();
    timeout(WAIT, agent).await.unwrap().unwrap().unwrap();
    drop(send);
    let asked = asked.lock().unwrap().clone();
    (seen, asked)
}

#[tokio::test]
async fn after_a_loss_of_exits_sessions_that_are_gone_end() {
    let (seen, asked) = after_a_loss_of("exit", true, Session::Known).await;
    assert_eq!(kinds(&seen), ["started", "session started", "executed", "gap", "session ended"]);
    let key = TaskKey::new(500, 10);
    assert_eq!(asked[0], Followed { sessions: vec![key], processes: vec![key] });
    assert!(asked.iter().skip(1).all(|asked| asked.sessions.is_empty()), "asked for it once");
    let Some(Body::SessionEnded(ended)) = &seen[4].body else { panic!("{:?}", seen[4]) };
    assert_eq!((ended.exit_code, ended.signal), (None, None));
    assert_eq!((ended.commands, ended.lost), (Some(1), Some(1)));
    let Some(Body::Gap(gap)) = &seen[3].body else { panic!("{:?}", seen[3]) };
    assert_eq!(gap.session_ids, [seen[4].session_id.clone()]);
}

#[tokio::test]
async fn a_session_that_was_unread_when_the_loss_was_told_ends_too() {
    let (seen, _) = after_a_loss_of("exit", true, Session::Unwritten).await;
    assert_eq!(kinds(&seen), ["started", "gap", "session started", "executed", "session ended"]);
}

#[tokio::test]
async fn what_was_lost_is_asked_for_when_what_was_there_is_read() {
    let (seen, asked) = after_a_loss_of("exit", true, Session::Unread).await;
    assert_eq!(kinds(&seen), ["started", "session started", "executed", "gap", "session ended"]);
    let key = TaskKey::new(500, 10);
    assert_eq!(asked[0], Followed { sessions: vec![key], processes: vec![key] });
}

#[tokio::test]
async fn after_a_loss_of_exits_sessions_that_live_go_on() {
    let (seen, asked) = after_a_loss_of("exit", false, Session::Known).await;
    assert_eq!(kinds(&seen), ["started", "session started", "executed", "gap"]);
    assert!(!asked.is_empty());
}

#[tokio::test]
async fn other_losses_bring_no_question() {
    let (_, asked) = after_a_loss_of("argv", false, Session::Known).await;
    assert_eq!(asked, []);
}

fn filled(acknowledged: bool) -> Arc<Spool> {
    let identity = Identity { cluster: "c".to_owned(), node: "n".to_owned(), epoch: 1 };
    Arc::new(Spool::new(identity, spool::Options { max_bytes: 1 << 20, acknowledged }))
}

fn push(spool: &Spool) {
    spool.push(&mut vec![v1::Event::default()], spool::Now::default(), &mut Vec::new());
}

#[tokio::test]
async fn standard_output_gets_a_line_an_event() {
    let spool = filled(true);
    let (reader, writer) = nix::unistd::pipe().unwrap();
    let stop = CancellationToken::new();
    let printer =
        stdout::Printer::to(fs::File::from(writer), Arc::clone(&spool), true, stop.clone()).unwrap();
    for _ in 0..3 {
        push(&spool);
    }
    printer.finish(3, WAIT).await.unwrap();
    let text = io::read_to_string(fs::File::from(reader)).unwrap();
    let seqs: Vec<String> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"]["seq"].to_string())
        .collect();
    assert_eq!(seqs, ["\"1\"", "\"2\"", "\"3\""]);
    assert_eq!(spool.fill().acked_seq, 3);
}

#[tokio::test]
async fn a_closed_pipe_ends_the_agent_though_nothing_happens() {
    let (reader, writer): (OwnedFd, OwnedFd) = nix::unistd::pipe().unwrap();
    drop(reader);
    let stop = CancellationToken::new();
    let printer = stdout::Printer::to(fs::File::from(writer), filled(true), true, stop.clone()).unwrap();
    timeout(WAIT, stop.cancelled()).await.unwrap();
    printer.finish(0, WAIT).await.unwrap();
}

#[tokio::test]
async fn a_reader_that_does_not_read_does_not_hold_up_the_end() {
    let spool = filled(true);
    let (reader, writer) = nix::unistd::pipe().unwrap();
    let printer =
        stdout::Printer::to(fs::File::from(writer), Arc::clone(&spool), true, CancellationToken::new())
            .unwrap();
    let long = v1::Event { session_id: "x".repeat(200_000), ..v1::Event::default() };
    spool.push(&mut vec![long], spool::Now::default(), &mut Vec::new());
    let error = printer.finish(1, Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    drop(reader);
}
