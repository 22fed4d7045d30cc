//! How often is it right who is behind a session, and how soon: a real collector, agents that report as nodes do, and API
//! servers that post their audit. Run by `cargo xtask bench attribution`; prints a table.
//!
//! Whose each session is, is known here, and compared with what the collector says.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement ends where it fails"
)]

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use podtrail::trail::{MAX_MESSAGE_BYTES, Moment};
use podtrail_proto::v1::{
    self, EntryMethod, Verdict, event::Body, ingest_client::IngestClient, tail_request::From,
    trail_client::TrailClient,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

const MS: i64 = 1_000_000;
const EXECS: usize = 200;
/// Of the node itself, and requests that start nothing.
const LOCAL: usize = 15;
const EMPTY: usize = 15;
const PODS: usize = 20;
const NODES: usize = 4;
const USERS: usize = 10;
const COMMANDS: [&[&str]; 4] = [&["sh"], &["sh", "-c", "id"], &["ls", "-l"], &["cat", "/etc/hosts"]];
/// API servers post this often.
const POST: Duration = Duration::from_secs(1);

/// What is played.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    /// in which the execs begin
    seconds: i64,
    ids: bool,
    flags: &'static [&'static str],
    /// clocks are up to this far from the right time
    skew: i64,
    commands: usize,
}

const CASES: [Case; 4] = [
    Case { name: "within 60 s", seconds: 60, ids: false, flags: &[], skew: 900, commands: 4 },
    Case {
        name: "within 60 s, with audit ids in the environment",
        seconds: 60,
        ids: true,
        flags: &[],
        skew: 900,
        commands: 4,
    },
    Case {
        name: "within 60 s, clocks within 200 ms (`attribution-skew = \"200ms\"`)",
        seconds: 60,
        ids: false,
        flags: &["--attribution-skew", "200ms"],
        skew: 90,
        commands: 4,
    },
    Case {
        name: "within 10 s, all with the same command",
        seconds: 10,
        ids: false,
        flags: &[],
        skew: 900,
        commands: 1,
    },
];

/// Events at their times.
type Script<T> = BTreeMap<(Moment, usize), T>;

#[derive(Default)]
struct Play {
    nodes: Vec<Script<v1::Event>>,
    servers: Vec<Script<String>>,
    /// of each session, whose it is
    truth: BTreeMap<String, Option<String>>,
}

fn later(moment: Moment, ms: i64) -> Moment {
    Moment(moment.0 + ms * MS)
}

fn play(case: Case, seed: u64, begin: Moment) -> Play {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut play =
        Play { nodes: vec![Script::new(); NODES], servers: vec![Script::new(); 2], truth: BTreeMap::new() };
    let clocks: Vec<i64> = (0..NODES + 2).map(|_| rng.i64(-case.skew..=case.skew)).collect();
    for n in 0..EXECS + LOCAL + EMPTY {
        let (pod, server) = (rng.usize(0..PODS), rng.usize(0..2));
        let node = pod % NODES;
        let (runs, asked) = (n < EXECS + LOCAL, !(EXECS..EXECS + LOCAL).contains(&n));
        let argv: &[&str] = if runs { COMMANDS[rng.usize(0..case.commands)] } else { &["bash"] };
        let tty = rng.u8(0..4) == 0;
        let user = format!("user-{}", rng.usize(0..USERS));
        let answered = later(begin, rng.i64(0..case.seconds * 1000));
        let entered = later(answered, rng.i64(5..300));
        let end = later(entered, 10 << rng.u32(0..12));
        let complete = match rng.u8(0..20) {
            0 => Moment((entered.0 + end.0) / 2),
            _ => later(end, rng.i64(1..80)),
        };
        let id = format!("{seed:04x}{n:04x}-0000-4000-8000-000000000000");
        if asked {
            let clock = clocks[NODES + server];
            let pod = format!("web-{pod}");
            let stage = |stage: &str, at: Moment| {
                let asked = Asked { id: &id, user: &user, pod: &pod, argv, tty };
                audit(&asked, stage, later(answered, clock - 10), later(at, clock))
            };
            let script = &mut play.servers[server];
            script.insert((answered, n), stage("ResponseStarted", answered));
            let complete = if runs { complete } else { later(answered, 40) };
            script.insert((complete, n), stage("ResponseComplete", complete));
        }
        if runs {
            let session = format!("s{n}");
            let clock = clocks[node];
            let own = if case.ids && asked { id.as_str() } else { "" };
            let events =
                session_events(&session, pod, argv, tty, own, later(entered, clock), later(end, clock));
            let report = rng.i64(5..100);
            for (at, event) in [entered, entered, end, end].into_iter().zip(events) {
                let place = play.nodes[node].len();
                play.nodes[node].insert((later(at, report), place), event);
            }
            play.truth.insert(session, asked.then_some(user));
        }
    }
    play
}

fn session_events(
    id: &str,
    pod: usize,
    argv: &[&str],
    tty: bool,
    audit_id: &str,
    entered: Moment,
    end: Moment,
) -> [v1::Event; 4] {
    let process = v1::Process { pid: 7, start_time: entered.0.unsigned_abs(), ..v1::Process::default() };
    let container = v1::Container {
        id: format!("{pod:064x}"),
        name: "app".to_owned(),
        pod: Some(v1::Pod { namespace: "prod".to_owned(), name: format!("web-{pod}"), ..v1::Pod::default() }),
        ..v1::Container::default()
    };
    let event = |time: Moment, body| v1::Event {
        time: Some(time.timestamp()),
        container: Some(container.clone()),
        session_id: id.to_owned(),
        body: Some(body),
        ..v1::Event::default()
    };
    let started = v1::SessionStarted {
        method: Some(EntryMethod::RuntimeExec.into()),
        interactive: Some(tty),
        root: Some(process.clone()),
        entered: Some(entered.timestamp()),
        exec_audit_id: audit_id.to_owned(),
        ..v1::SessionStarted::default()
    };
    let executed = v1::Executed {
        process: Some(process.clone()),
        argv: argv.iter().map(|&word| word.to_owned()).collect(),
        root: Some(true),
        ..v1::Executed::default()
    };
    let exited = v1::Exited { process: Some(process), exit_code: Some(0), ..v1::Exited::default() };
    [
        event(entered, Body::SessionStarted(started)),
        event(entered, Body::Executed(executed)),
        event(end, Body::Exited(exited)),
        event(end, Body::SessionEnded(v1::SessionEnded::default())),
    ]
}

/// A request for an exec.
struct Asked<'a> {
    id: &'a str,
    user: &'a str,
    pod: &'a str,
    argv: &'a [&'a str],
    tty: bool,
}

fn audit(asked: &Asked<'_>, stage: &str, received: Moment, at: Moment) -> String {
    let Asked { id, user, pod, argv, tty } = asked;
    let command: String = argv.iter().map(|word| format!("command={}&", word.replace('/', "%2F"))).collect();
    let time = |moment: Moment| {
        jiff::Timestamp::from_nanosecond(moment.0.into()).expect("a time of today").to_string()
    };
    serde_json::json!({
        "auditID": id, "stage": stage, "verb": "get",
        "requestURI": format!("/api/v1/namespaces/prod/pods/{pod}/exec?{command}container=app&stdout=true&tty={tty}"),
        "user": {"username": user}, "sourceIPs": [format!("192.0.2.{}", user.len())],
        "objectRef": {"resource": "pods", "namespace": "prod", "name": pod, "apiVersion": "v1", "subresource": "exec"},
        "responseStatus": {"code": 101}, "requestReceivedTimestamp": time(received), "stageTimestamp": time(at),
    })
    .to_string()
}

/// A collector that is killed when this is dropped.
struct Collector {
    child: Child,
    grpc: SocketAddr,
    audit: SocketAddr,
    _data: tempfile::TempDir,
}

impl Drop for Collector {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn start(program: &str, flags: &[&str]) -> Collector {
    let data = tempfile::tempdir().unwrap();
    let fixed =
        "run --listen 127.0.0.1:0 --metrics-listen none --audit-listen 127.0.0.1:0 --audit-cluster c --data";
    let mut child = Command::new(program)
        .args(fixed.split(' '))
        .arg(data.path())
        .args(flags)
        .env_remove("RUST_LOG")
        .stderr(Stdio::piped())
        .spawn()
        .expect("the collector starts");
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = lines.by_ref().map_while(Result::ok).find(|line| line.contains("msg=listening "));
    let line = line.expect("the collector listens");
    // Whatever it says later has somewhere to go.
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
    let value = |key: &str| {
        let (_, rest) = line.split_once(key).expect("an address");
        rest.split(' ').next().unwrap_or_default().parse().expect("an address")
    };
    Collector { child, grpc: value(" grpc="), audit: value(" audit="), _data: data }
}

/// One API server, from an address of its own.
async fn serve_api(address: SocketAddr, own: u8, clock_from: Moment, script: Script<String>, until: Moment) {
    let mut rest: Vec<(Moment, String)> =
        script.into_iter().map(|((at, _), item)| (at, item)).rev().collect();
    let mut first = true;
    let mut end = false;
    while !end {
        let now = Moment::now();
        end = now > until;
        let seen = if first { clock_from } else { now };
        first = false;
        // Something else happens all the time.
        let id = format!("alive-{own}-{}", now.0);
        let alive = Asked { id: &id, user: "system:node", pod: "x", argv: &[], tty: false };
        let mut items = vec![
            audit(&alive, "ResponseComplete", seen, seen)
                .replace("/pods/x/exec", "/pods/x/log")
                .replace("\"subresource\":\"exec\"", "\"subresource\":\"log\""),
        ];
        while rest.last().is_some_and(|(at, _)| *at <= now) {
            items.extend(rest.pop().map(|(_, item)| item));
        }
        let body =
            format!(r#"{{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[{}]}}"#, items.join(","));
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, own], 0))).unwrap();
        let mut stream = socket.connect(address).await.expect("the webhook answers");
        let head = format!(
            "POST /audit HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        sleep(POST).await;
    }
}

async fn channel(address: SocketAddr) -> Channel {
    Channel::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
        .expect("the collector is there")
}

async fn report(address: SocketAddr, node: usize, script: Script<v1::Event>) {
    let client = IngestClient::new(channel(address).await);
    let (requests, rx) = mpsc::channel(4);
    let mut responses = client.clone().report(ReceiverStream::new(rx)).await.unwrap().into_inner();
    let name = format!("n{node}");
    let hello = v1::Hello { cluster: "c".to_owned(), node: name.clone(), epoch: 1, ..v1::Hello::default() };
    requests.send(v1::ReportRequest { hello: Some(hello), ..Default::default() }).await.unwrap();
    for (n, ((at, _), mut event)) in script.into_iter().enumerate() {
        sleep(at.since(Moment::now())).await;
        let id = v1::EventId { cluster: "c".to_owned(), node: name.clone(), epoch: 1, seq: n as u64 + 1 };
        event.id = Some(id);
        requests.send(v1::ReportRequest { events: vec![event], ..Default::default() }).await.unwrap();
        responses.message().await.unwrap().expect("an acknowledgement");
    }
}

#[derive(Default)]
struct Counts {
    verdicts: BTreeMap<&'static str, usize>,
    wrong: usize,
    /// until the first verdict, and until the last; of sessions that have a request
    first: Vec<Duration>,
    last: Vec<Duration>,
}

async fn watch(address: SocketAddr, truth: BTreeMap<String, Option<String>>, until: Instant) -> Counts {
    let mut client = TrailClient::new(channel(address).await).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let request = v1::TailRequest { from: Some(From::Oldest(true)), ..Default::default() };
    let mut stream = client.tail(request).await.unwrap().into_inner();
    let mut begun: BTreeMap<String, Instant> = BTreeMap::new();
    let mut said: BTreeMap<String, (Instant, Instant, v1::Attributed)> = BTreeMap::new();
    let mut counts = Counts::default();
    loop {
        let event = tokio::select! {
            message = stream.message() => message.unwrap().expect("it goes on").event.unwrap(),
            () = sleep_until(until) => break,
        };
        let now = Instant::now();
        match event.body {
            Some(Body::SessionStarted(_)) => _ = begun.insert(event.session_id, now),
            Some(Body::Attributed(attributed)) => {
                let expected = truth.get(&event.session_id).expect("one of ours");
                counts.wrong += usize::from(is_wrong(&attributed, expected.as_deref()));
                let first = said.get(&event.session_id).map_or(now, |(first, ..)| *first);
                said.insert(event.session_id, (first, now, attributed));
            }
            _ => {}
        }
    }
    for (session, expected) in &truth {
        let Some((first, last, attributed)) = said.get(session) else {
            *counts.verdicts.entry("no verdict").or_default() += 1;
            continue;
        };
        *counts.verdicts.entry(attributed.verdict().as_str_name()).or_default() += 1;
        if expected.is_some() {
            let begun = *begun.get(session).expect("it began");
            counts.first.push(first.duration_since(begun));
            counts.last.push(last.duration_since(begun));
        }
    }
    counts.first.sort_unstable();
    counts.last.sort_unstable();
    counts
}

fn is_wrong(said: &v1::Attributed, expected: Option<&str>) -> bool {
    let name = |user: &Option<v1::User>| user.as_ref().map(|user| user.name.clone());
    match said.verdict() {
        Verdict::ExactId | Verdict::Matched => name(&said.user).as_deref() != expected,
        Verdict::Ambiguous => expected
            .is_some_and(|user| said.candidates.iter().all(|c| name(&c.user).as_deref() != Some(user))),
        Verdict::NodeLocal => expected.is_some(),
        Verdict::None | Verdict::Unspecified => false,
    }
}

async fn run(case: Case, seed: u64, program: String) -> String {
    let collector = start(&program, case.flags);
    let begin = later(Moment::now(), 3000);
    let Play { nodes, servers, truth } = play(case, seed, begin);
    // The last begins then, lasts up to 41 s, and the node's own are waited for.
    let length = Duration::from_secs(case.seconds.unsigned_abs() + 41 + 70);
    let end = Instant::now() + length;
    let watching = tokio::spawn(watch(collector.grpc, truth, end));
    let until = later(begin, i64::try_from(length.as_millis()).unwrap());
    let mut playing = JoinSet::new();
    for (n, script) in (1u8..).zip(servers) {
        playing.spawn(serve_api(collector.audit, n, later(begin, -120_000), script, until));
    }
    for (n, script) in nodes.into_iter().enumerate() {
        playing.spawn(report(collector.grpc, n, script));
    }
    let Counts { verdicts, wrong, first, last } = watching.await.unwrap();
    // Before the collector goes; where one has failed, nothing that was counted is worth anything.
    while let Some(ended) = playing.try_join_next() {
        ended.unwrap();
    }
    playing.shutdown().await;
    let count = |name: &str| verdicts.get(name).copied().unwrap_or(0);
    let at = |all: &[Duration], percent: usize| {
        let place = (all.len() * percent).div_ceil(100).saturating_sub(1);
        all.get(place).map_or_else(|| "-".to_owned(), |time| format!("{:.1} s", time.as_secs_f64()))
    };
    format!(
        "| {} | {} | {} | {} | {} | {} | **{wrong}** | {} | {} | {} | {} |",
        case.name,
        count("EXACT_ID"),
        count("MATCHED"),
        count("AMBIGUOUS"),
        count("NODE_LOCAL"),
        count("NONE") + count("no verdict"),
        at(&first, 50),
        at(&first, 99),
        at(&last, 50),
        at(&last, 99),
    )
}

#[tokio::main]
async fn main() {
    let Some(program) = std::env::args().nth(1) else {
        panic!("usage: attribution PROGRAM, which is podtrail-collector");
    };
    println!(
        "{EXECS} execs through two API servers into {PODS} pods on {NODES} nodes by {USERS} users, with {} commands, one in \
         twenty left by its client; beside them {LOCAL} of the node's own with the same commands, and {EMPTY} requests that start \
         nothing. Clocks are up to 0.9 s from the right time (where not said otherwise: 0.09 s), audit is posted every \
         {} s, a command runs up to 0.3 s after the answer.\n",
        COMMANDS.len(),
        POST.as_secs(),
    );
    println!(
        "| execs | EXACT_ID | MATCHED | AMBIGUOUS | NODE_LOCAL | NONE | wrong | first verdict, p50 | p99 | last verdict, p50 | p99 |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    let mut running = Vec::new();
    for (seed, case) in (1..).zip(CASES) {
        running.push(tokio::spawn(run(case, seed, program.clone())));
    }
    for line in running {
        println!("{}", line.await.unwrap());
    }
}
