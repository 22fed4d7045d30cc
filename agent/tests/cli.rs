//! `podtrail` as a process, against a `Trail` server over a real socket and real TCP.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, ErrorKind, Read as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use futures::Stream;
use podtrail_proto::v1::{
    self,
    event::Body,
    tail_request,
    trail_server::{Trail, TrailServer},
};
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, UnixListener},
    runtime::Runtime,
};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// Answers from what it was given, page by page.
#[derive(Clone, Default)]
struct Fake {
    events: Vec<v1::Event>,
    sessions: Vec<v1::Session>,
    /// by what was asked for
    refusals: HashMap<String, Status>,
    page: usize,
}

impl Fake {
    fn part<T: Clone>(&self, all: &[T], token: &str) -> (Vec<T>, String) {
        let begin: usize = token.parse().unwrap_or(0);
        let page = if self.page == 0 { 1000 } else { self.page };
        let end = (begin + page).min(all.len());
        let next = if end < all.len() { end.to_string() } else { String::new() };
        (all[begin..end].to_vec(), next)
    }
}

type Events = Pin<Box<dyn Stream<Item = Result<v1::TailResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Trail for Fake {
    type SubscribeStream = tokio_stream::Pending<Result<v1::SubscribeResponse, Status>>;
    type TailStream = Events;

    async fn subscribe(
        &self,
        _: Request<Streaming<v1::SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn list_subscriptions(
        &self,
        _: Request<v1::ListSubscriptionsRequest>,
    ) -> Result<Response<v1::ListSubscriptionsResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn get_subscription(
        &self,
        _: Request<v1::GetSubscriptionRequest>,
    ) -> Result<Response<v1::GetSubscriptionResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn delete_subscription(
        &self,
        _: Request<v1::DeleteSubscriptionRequest>,
    ) -> Result<Response<v1::DeleteSubscriptionResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn tail(&self, request: Request<v1::TailRequest>) -> Result<Response<Events>, Status> {
        let request = request.into_inner();
        let filter = podtrail::filter::Filter::compile(&request.filter)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let after = match &request.from {
            Some(tail_request::From::Cursor(cursor)) => {
                cursor.strip_suffix("-00000000").unwrap().parse().unwrap()
            }
            Some(tail_request::From::Latest(_)) => self.events.len(),
            _ => 0,
        };
        let responses: Vec<_> = self
            .events
            .iter()
            .enumerate()
            .skip(after)
            .filter(|(_, event)| filter.passes(event))
            .map(|(at, event)| {
                Ok(v1::TailResponse { event: Some(event.clone()), cursor: format!("{}-00000000", at + 1) })
            })
            .collect();
        let now = tokio_stream::iter(responses);
        Ok(Response::new(if request.follow() {
            Box::pin(futures::StreamExt::chain(now, tokio_stream::pending()))
        } else {
            Box::pin(now)
        }))
    }

    async fn list_sessions(
        &self,
        request: Request<v1::ListSessionsRequest>,
    ) -> Result<Response<v1::ListSessionsResponse>, Status> {
        let request = request.into_inner();
        let chosen: Vec<_> = self
            .sessions
            .iter()
            .filter(|session| request.node.is_empty() || session.node == request.node)
            .cloned()
            .collect();
        let (sessions, next_page_token) = self.part(&chosen, &request.page_token);
        Ok(Response::new(v1::ListSessionsResponse { sessions, next_page_token }))
    }

    async fn get_session(
        &self,
        request: Request<v1::GetSessionRequest>,
    ) -> Result<Response<v1::GetSessionResponse>, Status> {
        let request = request.into_inner();
        if let Some(status) = self.refusals.get(&request.id) {
            return Err(status.clone());
        }
        let session = self.sessions.iter().find(|session| session.id.starts_with(&request.id)).cloned();
        let (events, next_page_token) = self.part(&self.events, &request.page_token);
        Ok(Response::new(v1::GetSessionResponse { session, events, next_page_token }))
    }

    async fn list_nodes(
        &self,
        _: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        let node =
            |name: &str| v1::Node { name: name.to_owned(), connected: true, events: 5, ..Default::default() };
        let retention = v1::Retention {
            max_age: Some(podtrail_proto::Duration { seconds: 7 * 86_400, nanos: 0 }),
            max_bytes: 10 << 30,
            ..Default::default()
        };
        Ok(Response::new(v1::ListNodesResponse {
            nodes: vec![node("n1"), node("n2")],
            retention: Some(retention),
        }))
    }
}

/// The fake on both kinds of address; gone when dropped.
struct Server {
    _runtime: Runtime,
    dir: TempDir,
    address: SocketAddr,
}

impl Server {
    fn start(fake: &Fake) -> Self {
        let runtime = Runtime::new().unwrap();
        let dir = TempDir::new().unwrap();
        let (unix, tcp) = runtime.block_on(async {
            (
                UnixListener::bind(dir.path().join("s")).unwrap(),
                TcpListener::bind("127.0.0.1:0").await.unwrap(),
            )
        });
        let address = tcp.local_addr().unwrap();
        let serve = || tonic::transport::Server::builder().add_service(TrailServer::new(fake.clone()));
        runtime.spawn(serve().serve_with_incoming(UnixListenerStream::new(unix)));
        runtime.spawn(serve().serve_with_incoming(TcpListenerStream::new(tcp)));
        Self { _runtime: runtime, dir, address }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    fn run(&self, args: &[&str]) -> Output {
        podtrail().arg("--socket").arg(self.socket()).args(args).output().unwrap()
    }
}

fn podtrail() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_podtrail"));
    command.env_remove("PODTRAIL_COLLECTOR").env_remove("NO_COLOR").stdin(Stdio::null());
    command
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn json_lines(text: &str) -> Vec<serde_json::Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn exec(pid: u32, argv: &[&str]) -> v1::Event {
    let executed = v1::Executed {
        process: Some(v1::Process {
            pid,
            start_time: pid.into(),
            parent_pid: 1,
            parent_start_time: 1,
            ..Default::default()
        }),
        path: format!("/bin/{}", argv[0]),
        argv: argv.iter().map(|arg| (*arg).to_owned()).collect(),
        root: Some(pid == 1),
        ..Default::default()
    };
    v1::Event {
        session_id: "s1aaaaaaaaaa".to_owned(),
        time: Some(podtrail_proto::Timestamp { seconds: 1_795_378_442, nanos: 0 }),
        body: Some(Body::Executed(executed)),
        ..Default::default()
    }
}

fn session(id: &str, node: &str) -> v1::Session {
    v1::Session { id: id.to_owned(), node: node.to_owned(), commands: 3, ..Default::default() }
}

fn fake() -> Fake {
    Fake {
        events: vec![exec(1, &["sh"]), exec(2, &["echo", "\x1b[2J\nA\u{202e}B"]), exec(3, &["ls", "-l"])],
        sessions: vec![
            session("s1aaaaaaaaaa", "n1"),
            session("s2bbbbbbbbbb", "n2"),
            session("s3cccccccccc", "n1"),
        ],
        ..Default::default()
    }
}

#[test]
fn tail_writes_one_event_a_line() {
    let server = Server::start(&fake());
    let lines = json_lines(&stdout(&server.run(&["tail", "--from", "oldest", "--no-follow", "-o", "json"])));
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0]["sessionId"], "s1aaaaaaaaaa");
    assert_eq!(lines[1]["executed"]["argv"][1], "\x1b[2J\nA\u{202e}B");
    assert_eq!(lines[2]["executed"]["process"]["pid"], 3);
}

#[test]
fn tail_begins_at_a_cursor() {
    let server = Server::start(&fake());
    let text = stdout(&server.run(&["tail", "--from", "2-00000000", "--no-follow"]));
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("ls -l"), "{text}");
    assert_eq!(stdout(&server.run(&["tail", "--no-follow"])), "", "from latest on there is nothing");
}

#[test]
fn tail_shows_what_the_filter_lets_through() {
    let server = Server::start(&fake());
    let tail = |filter: &str| {
        server.run(&["tail", "--from", "oldest", "--no-follow", "-o", "json", "--filter", filter])
    };
    let lines = json_lines(&stdout(&tail("executed.process.pid == 3")));
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["executed"]["process"]["pid"], 3);
    assert_eq!(json_lines(&stdout(&tail(""))).len(), 3);
}

#[test]
fn a_wrong_filter_is_shown_with_its_place() {
    let server = Server::start(&fake());
    let filter = "has(executed) &&\n  executed.path == 'Ä' && \texecuted.pth == \"\u{202e}\"";
    let output = server.run(&["tail", "--filter", filter]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let expected = "podtrail: filter, line 2, column 37: Executed has no field pth; did you mean path?
    executed.path == 'Ä' && \\texecuted.pth == \"\\u{202e}\"
                                       ^
";
    assert_eq!(stderr(&output), expected);
}

#[test]
fn nothing_raw_reaches_the_output() {
    let server = Server::start(&fake());
    for args in [
        &["tail", "--from", "oldest", "--no-follow"][..],
        &["tail", "--from", "oldest", "--no-follow", "-o", "json"],
        &["session", "s1"],
        &["session", "s1", "-o", "json"],
        &["sessions"],
    ] {
        let text = stdout(&server.run(args));
        let raw = |c: char| c != '\n' && !podtrail::escape::is_plain(c);
        assert!(!text.contains(raw), "{args:?}: {text:?}");
    }
    let timeline = stdout(&server.run(&["session", "s1"]));
    assert!(timeline.contains(r"echo $'\x1b[2J\nA\u{202e}B'"), "{timeline}");
}

#[test]
fn a_session_is_its_line_and_then_its_events() {
    let server = Server::start(&Fake { page: 1, ..fake() });
    let lines = json_lines(&stdout(&server.run(&["session", "s1", "-o", "json"])));
    assert_eq!(lines.len(), 4, "over several pages");
    assert_eq!(lines[0]["id"], "s1aaaaaaaaaa");
    assert_eq!(lines[3]["executed"]["argv"][0], "ls");
}

#[test]
fn sessions_come_from_every_page_and_are_filtered() {
    let server = Server::start(&Fake { page: 1, ..fake() });
    let lines =
        json_lines(&stdout(&server.run(&["sessions", "-o", "json", "--node", "n1", "--since", "1h"])));
    let ids: Vec<_> = lines.iter().map(|line| line["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["s1aaaaaaaaaa", "s3cccccccccc"]);
    let table = stdout(&server.run(&["sessions"]));
    assert_eq!(table.lines().count(), 4, "{table}");
}

#[test]
fn nodes_over_tcp_by_flag_and_by_environment() {
    let server = Server::start(&fake());
    for url in [server.address.to_string(), format!("http://{}", server.address)] {
        let by_flag = podtrail().args(["nodes", "-o", "json", "--collector", &url]).output().unwrap();
        let by_environment =
            podtrail().args(["nodes", "-o", "json"]).env("PODTRAIL_COLLECTOR", &url).output().unwrap();
        for output in [by_flag, by_environment] {
            let names: Vec<_> =
                json_lines(&stdout(&output)).iter().map(|node| node["name"].clone()).collect();
            assert_eq!(names, ["n1", "n2"]);
        }
    }
    let text = stdout(&server.run(&["nodes"]));
    assert!(text.contains("kept: at most 7 days or 10 GiB"), "{text}");
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let events = (0..20_000).map(|pid| exec(pid, &["echo", "a rather long line of arguments"])).collect();
    let server = Server::start(&Fake { events, ..fake() });
    for args in [&["tail", "--from", "oldest"][..], &["session", "s1"], &["session", "s1", "-o", "json"]] {
        let mut child = podtrail()
            .arg("--socket")
            .arg(server.socket())
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_exact(&mut [0; 100]).unwrap();
        drop(stdout);
        let output = within(Duration::from_secs(30), child);
        assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""), "{args:?}");
    }
}

/// Waits for an end, and makes one where none comes.
fn within(limit: Duration, mut child: Child) -> Output {
    let begin = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begin.elapsed() > limit {
            child.kill().unwrap();
            panic!("it did not end within {limit:?}: {:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

#[track_caller]
fn assert_fails(output: &Output, code: i32, says: &str) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains(says), "{text}");
    assert!(output.stdout.is_empty());
    if code == 1 {
        assert_eq!(text.lines().count(), 1, "one line: {text}");
    }
}

#[test]
fn a_socket_that_cannot_be_used_says_what_to_do() {
    let dir = TempDir::new().unwrap();
    let on = |path: &Path| podtrail().arg("--socket").arg(path).arg("nodes").output().unwrap();
    assert_fails(&on(&dir.path().join("none")), 1, "start podtrail-agent on this node");

    let dead = dir.path().join("dead");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    assert_fails(&on(&dead), 1, "start podtrail-agent again");

    let long = dir.path().join("x".repeat(200));
    assert_fails(&on(&long), 1, "is that the agent's socket?");
}

#[test]
fn a_socket_without_permission_asks_for_root() {
    use std::os::unix::{fs::PermissionsExt, process::CommandExt as _};
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("s");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o000)).unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    // The program itself may lie where nobody else may go.
    let program = dir.path().join("podtrail");
    std::fs::copy(env!("CARGO_BIN_EXE_podtrail"), &program).unwrap();
    let begin = Instant::now();
    let output = loop {
        let run =
            Command::new(&program).arg("--socket").arg(&socket).arg("nodes").uid(65_534).gid(65_534).output();
        match run {
            // Another test forked while the copy was open for writing, and has not run its program yet.
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy && begin.elapsed().as_secs() < 30 => {
            }
            run => break run.unwrap(),
        }
    };
    assert_fails(&output, 1, "run this as root");
}

#[test]
fn a_collector_that_cannot_be_reached_says_so() {
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let output = podtrail().args(["sessions", "--collector", &closed]).output().unwrap();
    assert_fails(&output, 1, "does podtrail-collector run there");
}

#[test]
fn what_is_no_collector_is_found_out() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answering = std::thread::spawn(move || {
        use std::io::Write as _;
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    });
    let child = podtrail()
        .args(["sessions", "--collector", &address])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    assert_fails(&within(Duration::from_secs(30), child), 1, &address);
    answering.join().unwrap();
}

#[test]
fn what_the_server_refuses_is_told_in_its_words_escaped() {
    let refusals = HashMap::from([
        ("nope".to_owned(), Status::not_found("no session begins with nope\x1b[2J")),
        ("bug".to_owned(), Status::internal("")),
    ]);
    let server = Server::start(&Fake { refusals, ..fake() });
    assert_fails(&server.run(&["session", "nope"]), 1, "podtrail: no session begins with nope\\x1b[2J");
    assert_fails(&server.run(&["session", "bug"]), 1, "failed");
}

#[test]
fn wrong_usage_is_two() {
    for (args, says) in [
        (&["sessions", "--since", "yesterday"][..], "1h30m"),
        (&["sessions", "--method", "ssh"], "namespace-join"),
        (&["tail", "--from", "tomorrow"], "20:14"),
        (&["nodes", "--collector", "https://c:1"], "https needs --tls-ca"),
        (&["nodes", "--collector", "c"], "the port is missing"),
        (&["sessions", "--since", "\x1b[2J\u{202e}"], r"\u{202e}"),
        (&["frobnicate"], "unrecognized subcommand"),
        (&[], "Usage"),
    ] {
        let output = podtrail().args(args).output().unwrap();
        assert_fails(&output, 2, says);
        assert!(!stderr(&output).contains('\x1b'), "{}", stderr(&output));
    }
}

#[test]
fn colours_only_where_asked_for_when_piped() {
    let server = Server::start(&fake());
    assert!(!stdout(&server.run(&["session", "s1"])).contains('\x1b'));
    assert!(stdout(&server.run(&["session", "s1", "--color", "always"])).contains("\x1b["));
    assert!(!stdout(&server.run(&["session", "s1", "--color", "never"])).contains('\x1b'));
}

#[test]
fn a_message_of_a_newer_version_hides_none_after_it() {
    let newer = v1::Event {
        body: Some(Body::SessionStarted(v1::SessionStarted { method: Some(99), ..Default::default() })),
        ..Default::default()
    };
    let server = Server::start(&Fake { events: vec![newer, exec(2, &["ls"])], ..fake() });
    let output = server.run(&["tail", "--from", "oldest", "--no-follow", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("1 message left out"), "{}", stderr(&output));
    let lines = json_lines(&String::from_utf8(output.stdout).unwrap());
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["executed"]["argv"][0], "ls");
}

/// A tail that has shown its first line.
fn follow(command: &mut Command) -> (Child, String) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (child, line)
}

#[test]
fn an_event_is_shown_when_it_comes_and_an_interrupt_ends_the_tail() {
    let server = Server::start(&fake());
    let (mut child, line) = follow(podtrail().arg("--socket").arg(server.socket()).args([
        "tail",
        "--from",
        "2-00000000",
        "-o",
        "json",
    ]));
    assert!(line.contains("\"ls\""), "{line}");
    assert!(child.try_wait().unwrap().is_none(), "it follows");
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let output = within(Duration::from_secs(30), child);
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
}

#[test]
fn a_server_that_goes_away_fails_the_tail() {
    let server = Server::start(&fake());
    let (child, _line) =
        follow(podtrail().args(["tail", "--from", "2-00000000", "--collector", &server.address.to_string()]));
    let address = server.address;
    drop(server);
    let output = within(Duration::from_secs(30), child);
    assert_fails(&output, 1, &format!("lost the connection to the collector at http://{address}"));
}

/// What it writes to a terminal of this width.
fn on_terminal(server: &Server, columns: u16, args: &[&str], environment: &[(&str, &str)]) -> String {
    let size = nix::pty::Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = nix::pty::openpty(&size, None).unwrap();
    let child = podtrail()
        .env("TERM", "xterm")
        .envs(environment.iter().copied())
        .arg("--socket")
        .arg(server.socket())
        .args(args)
        .stdout(pty.slave)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Read until the last who has the other end is gone, which Linux tells as an error.
    let mut text = Vec::new();
    let _ = std::fs::File::from(pty.master).read_to_end(&mut text);
    let output = within(Duration::from_secs(30), child);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(text).unwrap()
}

#[test]
fn a_terminal_has_colours_and_a_width() {
    let long = exec(1, &["echo", &"x".repeat(500)]);
    let server = Server::start(&Fake { events: vec![long], ..fake() });
    let text = on_terminal(&server, 80, &["session", "s1"], &[]);
    assert!(text.contains("\x1b[1m"), "{text:?}");
    assert!(!text.contains(&"x".repeat(81)), "wrapped: {text:?}");
    for environment in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let text = on_terminal(&server, 80, &["tail", "--from", "oldest", "--no-follow"], &[environment]);
        assert!(!text.contains('\x1b'), "{environment:?}: {text:?}");
        assert!(text.contains("xxx…"), "cut: {text:?}");
    }
}
