//! `podtrail` against a real `podtrail-collector`: what an agent reports is what a person reads.
use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Output, Stdio},
};

use podtrail_proto::{
    Timestamp,
    v1::{self, event::Body, ingest_client::IngestClient},
};
use tempfile::TempDir;

use super::{Pid, Signal, kill, start};

const SESSION: &str = "4k7qabcdefgh0123";

struct Collector {
    process: super::Collector,
    _data: TempDir,
}

impl Collector {
    fn start() -> Self {
        let data = TempDir::new().unwrap();
        Self { process: start(data.path()), _data: data }
    }

    fn report(&self, events: Vec<v1::Event>) {
        let last = events.len() as u64;
        let hello = v1::Hello { node: "n1".to_owned(), epoch: 1, ..Default::default() };
        let requests = [
            v1::ReportRequest { hello: Some(hello), ..Default::default() },
            v1::ReportRequest { events, ..Default::default() },
        ];
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let mut client = IngestClient::new(self.process.channel().await);
            // The stream stays open until all is acknowledged.
            let open = futures::StreamExt::chain(tokio_stream::iter(requests), tokio_stream::pending());
            let mut acks = client.report(open).await.unwrap().into_inner();
            while acks.message().await.unwrap().unwrap().acked_seq < last {}
        });
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_podtrail"))
            .env("PODTRAIL_COLLECTOR", self.process.grpc.to_string())
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn text(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

fn process(pid: u32, parent: u32) -> Option<v1::Process> {
    Some(v1::Process {
        pid,
        start_time: pid.into(),
        parent_pid: parent,
        parent_start_time: parent.into(),
        ..Default::default()
    })
}

fn exec(pid: u32, parent: u32, argv: &[&str]) -> Body {
    Body::Executed(v1::Executed {
        process: process(pid, parent),
        path: format!("/bin/{}", argv[0]),
        argv: argv.iter().map(|arg| (*arg).to_owned()).collect(),
        cwd: "/".to_owned(),
        root: Some(parent == 99),
        ..Default::default()
    })
}

fn exit(pid: u32, code: i32) -> Body {
    let duration = Some(podtrail_proto::Duration { seconds: 1, nanos: 0 });
    Body::Exited(v1::Exited {
        process: process(pid, 0),
        exit_code: Some(code),
        duration,
        ..Default::default()
    })
}

/// 20:14:02 of a day that is not today, and that no retention has reached yet.
fn yesterday() -> jiff::Timestamp {
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    today.yesterday().unwrap().at(20, 14, 2, 0).to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp()
}

/// Numbered, a second apart, all of one session.
fn events(bodies: Vec<Body>) -> Vec<v1::Event> {
    let number = |(body, seq): (Body, u64)| v1::Event {
        id: Some(v1::EventId { node: "n1".to_owned(), epoch: 1, seq, ..Default::default() }),
        time: Some(Timestamp { seconds: yesterday().as_second() + i64::try_from(seq).unwrap(), nanos: 0 }),
        session_id: SESSION.to_owned(),
        container: Some(v1::Container {
            id: "c0ffee".repeat(10),
            name: "app".to_owned(),
            ..Default::default()
        }),
        body: Some(body),
        ..Default::default()
    };
    bodies.into_iter().zip(1..).map(number).collect()
}

#[test]
fn what_an_agent_reports_is_what_a_person_reads() {
    let collector = Collector::start();
    collector.report(events(vec![
        Body::SessionStarted(v1::SessionStarted {
            method: Some(v1::EntryMethod::RuntimeExec.into()),
            tty: Some(v1::Tty { name: "pts/0".to_owned(), major: 136, minor: 0 }),
            root: process(1, 99),
            ..Default::default()
        }),
        exec(1, 99, &["sh"]),
        exec(2, 1, &["echo", "\x1b]0;owned\x07\n"]),
        exit(2, 0),
        exec(3, 1, &["false"]),
        exit(3, 1),
        exit(1, 0),
        Body::SessionEnded(v1::SessionEnded {
            exit_code: Some(0),
            duration: Some(podtrail_proto::Duration { seconds: 6, nanos: 0 }),
            commands: Some(3),
            lost: Some(0),
            ..Default::default()
        }),
    ]));

    let day = yesterday().strftime("%Y-%m-%d").to_string();
    let timeline = collector.text(&["session", "4k7q"]);
    let golden = r"
session 4k7qabcd  app  runtime exec, terminal pts/0  DAY 20:14:04 → 20:14:10  6.00 s  exit 0  3 commands, none lost
  node n1  container c0ffeec0ffee
  20:14:04.000  sh                             exit 0  1.00 s
  20:14:05.000  ├─ echo $'\x1b]0;owned\x07\n'  exit 0  1.00 s
  20:14:07.000  └─ false                       exit 1  1.00 s
";
    assert_eq!(format!("\n{timeline}"), golden.replace("DAY", &day));

    let sessions = collector.text(&["sessions", "--node", "n1", "--method", "runtime-exec"]);
    assert!(sessions.lines().nth(1).unwrap().starts_with("4k7qabcd  "), "{sessions}");
    assert_eq!(collector.text(&["sessions", "--method", "namespace-join"]), "");
    assert_eq!(collector.text(&["sessions", "--since", &format!("{day}T21:00:00Z")]), "");

    let nodes = collector.text(&["nodes"]);
    assert!(nodes.contains("\nn1 "), "{nodes}");
    assert!(nodes.contains("kept: at most 7 days or 10 GiB; now 8 events"), "{nodes}");

    let newest = nodes.trim_end().rsplit(' ').next().unwrap();
    let seventh = newest.replacen('8', "7", 1);
    let tail = collector.text(&["tail", "--from", &seventh, "--no-follow", "-o", "json"]);
    let last: serde_json::Value = serde_json::from_str(&tail).unwrap();
    assert_eq!((&last["id"]["seq"], &last["sessionEnded"]["commands"]), (&"8".into(), &"3".into()));
    let all = collector.text(&["tail", "--from", &day, "--no-follow"]);
    assert_eq!(all.lines().count(), 8, "{all}");

    let none = collector.run(&["session", "zzzz"]);
    assert_eq!(none.status.code(), Some(1));
    let said = String::from_utf8(none.stderr).unwrap();
    assert!(said.contains("zzzz") && said.lines().count() == 1, "{said}");
}

/// Runs `tail --subscription` until it has shown so many lines, and interrupts it.
fn subscribe(collector: &Collector, lines: usize, args: &[&str]) -> Vec<String> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_podtrail"))
        .env("PODTRAIL_COLLECTOR", collector.process.grpc.to_string())
        .args(["tail", "--subscription", "shell", "-o", "json"])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let shown: Vec<String> = stdout.lines().take(lines).map(Result::unwrap).collect();
    let pid = Pid::from_raw(child.id().try_into().unwrap());
    kill(pid, Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    shown
}

#[test]
fn a_subscription_goes_on_where_it_was_and_is_listed_and_deleted() {
    let collector = Collector::start();
    collector.report(events(vec![exec(1, 99, &["sh"]), exec(2, 1, &["id"]), exit(2, 0)]));
    let none = collector.run(&["subscriptions"]);
    assert_eq!(
        (none.stdout.as_slice(), none.stderr.as_slice()),
        (&[][..], &b"podtrail: no subscriptions\n"[..])
    );

    assert_eq!(subscribe(&collector, 3, &["--from", "oldest"]).len(), 3);
    let shown = collector.text(&["subscriptions", "-o", "json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&shown["name"], &shown["connected"]), (&"shell".into(), &false.into()));
    assert_eq!((&shown["lagEvents"], &shown["inFlightEvents"]), (&"0".into(), &"0".into()));
    assert!(shown["cursor"].as_str().unwrap().starts_with("3-"), "{shown}");

    let again = subscribe(
        &collector,
        2,
        &["--from", shown["cursor"].as_str().unwrap().replacen('3', "1", 1).as_str()],
    );
    assert!(again[0].contains("\"seq\":\"2\""), "{again:?}");
    let table = collector.text(&["subscriptions", "shell"]);
    assert!(
        table.lines().nth(1).unwrap().starts_with("shell         no              0    -          0  "),
        "{table}"
    );

    collector.text(&["subscriptions", "shell", "--delete"]);
    let gone = collector.run(&["subscriptions", "shell"]);
    assert_eq!(gone.status.code(), Some(1));
    assert_eq!(gone.stderr, b"podtrail: there is no subscription \"shell\"\n");
}
