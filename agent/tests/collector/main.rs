//! `podtrail-collector` as it is: the real binary, real gRPC, a real disk, and SIGKILL.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::float_cmp,
    reason = "a test fails by panicking, in its helpers too; counters are whole numbers"
)]

mod attribution;
mod audit;
mod cli;
mod examples;
mod full;
mod harness;
mod herd;
mod holes;
mod nodes;
mod silence;
mod subscribe;
mod tls;

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use podtrail::trail::{MAX_MESSAGE_BYTES, Moment};
use podtrail_proto::v1::{self, event::Body, tail_request::From, trail_client::TrailClient};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming, codec::CompressionEncoding, transport::Channel};

use self::harness::*;

/// Reports batches until the collector dies; returns the last number that was acknowledged.
async fn report(collector: &Collector, node: &str, mut next: u64, mut dice: Dice) -> u64 {
    // It may be killed before anybody is connected.
    let Ok(mut agent) = Agent::try_connect(collector).await else { return next - 1 };
    let Ok(mut acked) = agent.send(Some(hello(node, 1)), vec![]).await else { return next - 1 };
    assert!(acked >= next - 1, "{node}: {} was acknowledged, now it says {acked}", next - 1);
    loop {
        // From what was acknowledged *to us*: some of that it may have, and must pass over.
        let batch = (next..next + 1 + dice.throw(200)).map(|seq| event(node, 1, seq)).collect::<Vec<_>>();
        let last = next + batch.len() as u64 - 1;
        match agent.send(None, batch).await {
            Ok(now) => {
                assert!(now >= last && now >= acked, "{node}: sent up to {last}, acknowledged {now}");
                acked = now;
                next = last + 1;
            }
            Err(e) => {
                assert!(
                    matches!(e.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal),
                    "{e:?}"
                );
                return acked.min(next - 1);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_it_has_every_acknowledged_event_once_and_in_order() {
    let seed = std::process::id().into();
    println!("seed {seed}");
    let mut dice = Dice(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut acked = BTreeMap::from([("a", 0), ("b", 0)]);
    // Long enough to be worth something, also on a busy machine.
    for round in 0..100 {
        if round >= 12 && acked.values().all(|n| *n > 500) {
            break;
        }
        let collector = Arc::new(start(dir.path()));
        let agents: Vec<_> = acked
            .iter()
            .map(|(&node, &acked)| {
                let (collector, dice) = (collector.clone(), Dice(dice.throw(u64::MAX)));
                tokio::spawn(async move { (node, report(&collector, node, acked + 1, dice).await) })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(dice.throw(250))).await;
        kill(Pid::from_raw(i32::try_from(collector.child.id()).unwrap()), Signal::SIGKILL).unwrap();
        for agent in agents {
            let (node, now) = timeout(SOON, agent).await.unwrap().unwrap();
            acked.insert(node, now);
        }
    }
    assert!(acked.values().all(|n| *n > 500), "hardly anything was reported: {acked:?}");

    let collector = start(dir.path());
    let events = collector.events().await;
    let cursors: Vec<u64> = events.iter().map(|(c, _)| *c).collect();
    assert_eq!(cursors, (1..=events.len() as u64).collect::<Vec<_>>());
    for (node, acked) in acked {
        let own: Vec<_> =
            events.iter().filter(|(_, e)| e.id.as_ref().unwrap().node == node).cloned().collect();
        assert!(own.len() as u64 >= acked, "{node}: {acked} acknowledged, {} there", own.len());
        assert_eq!(seqs(&own), (1..=own.len() as u64).collect::<Vec<_>>(), "{node}");
        for (_, e) in &own {
            let Some(Body::Executed(executed)) = &e.body else { panic!("{e:?}") };
            assert_eq!(executed.argv, [format!("{node} 1 {}", e.id.as_ref().unwrap().seq)]);
        }
        // And the index counts the same.
        let request = v1::GetSessionRequest { id: format!("{node}-7"), ..v1::GetSessionRequest::default() };
        let response = collector.trail().await.get_session(request).await.unwrap().into_inner();
        assert_eq!(response.session.unwrap().commands, 10);
        assert_eq!(response.events.len(), 10);
    }
}

#[tokio::test]
async fn reports_that_cannot_be_trusted_are_refused_whole() {
    let dir = tempfile::tempdir().unwrap();
    let collector = start(dir.path());
    let invalid = |message: &str| (Code::InvalidArgument, message.to_owned());
    let good = || Some(hello("n", 1));
    assert_eq!(
        Agent::refused(&collector, None, vec![event("n", 1, 1)]).await,
        invalid("the first request of a stream must carry hello")
    );
    assert_eq!(
        Agent::refused(&collector, good(), vec![event("n", 1, 1), event("m", 1, 2)]).await,
        invalid("event 1 is of node \"c/m/1\", but the stream said hello for \"c/n/1\"")
    );
    assert_eq!(
        Agent::refused(&collector, good(), vec![event("n", 2, 1)]).await,
        invalid("event 0 is of node \"c/n/2\", but the stream said hello for \"c/n/1\"")
    );
    assert_eq!(
        Agent::refused(&collector, good(), vec![event("n", 1, 2), event("n", 1, 1)]).await,
        invalid("event 1 has seq 1 after 2: events must be in ascending order of seq")
    );
    assert_eq!(
        Agent::refused(&collector, good(), vec![event("n", 1, 0)]).await,
        invalid("event 0 of the request has no id, or seq 0")
    );
    assert_eq!(
        Agent::refused(&collector, good(), vec![event("n", 1, u64::MAX)]).await,
        invalid("event 0 has seq 18446744073709551615: there are none above 4611686018427387903")
    );
    for gone in [vec![(0, 1)], vec![(2, 1)], vec![(3, 4), (4, 5)], (1..=10_001).map(|n| (n, n)).collect()] {
        let gone = gone.into_iter().map(|(first, last)| v1::SeqRange { first, last }).collect();
        let request = v1::ReportRequest { hello: good(), events: vec![], gone };
        let e = Agent::connect(&collector).await.exchange(request).await.unwrap_err();
        assert_eq!(
            (e.code(), e.message()),
            (
                Code::InvalidArgument,
                "what is said to be gone is no ascending list of ranges, or they are more than 10000"
            )
        );
    }
    let mut timeless = event("n", 1, 1);
    timeless.time = Some(podtrail_proto::Timestamp { seconds: i64::MAX, nanos: -1 });
    assert_eq!(
        Agent::refused(&collector, good(), vec![timeless]).await,
        invalid("event 0 has no time, or one that is no time")
    );
    for bad in ["", "n\u{1b}[2J", &"n".repeat(254)] {
        let (code, message) = Agent::refused(&collector, Some(hello(bad, 1)), vec![]).await;
        assert_eq!(code, Code::InvalidArgument);
        assert!(message.starts_with("hello names no node, or a name is longer than 253 bytes"), "{message}");
    }
    let many = (1..=10_001).map(|n| event("n", 1, n)).collect();
    assert_eq!(
        Agent::refused(&collector, good(), many).await,
        invalid("10001 events in one request: at most 10000")
    );
    let mut agent = Agent::connect(&collector).await;
    agent.send(good(), vec![]).await.unwrap();
    let e = agent.send(good(), vec![]).await.unwrap_err();
    assert_eq!(e.message(), "hello was said already: open another stream for another node or epoch");
    assert_eq!(collector.events().await, []);
    assert_eq!(collector.metric("podtrail_collector_refused_total{reason=\"foreign\"}"), 2.0);
}

#[tokio::test]
async fn an_event_of_the_largest_kind_goes_through() {
    let dir = tempfile::tempdir().unwrap();
    let collector = start(dir.path());
    let mut large = event("n", 1, 1);
    let argument = "\u{fffd}".repeat(2 << 20);
    let raw = vec![0xff; 2 << 20];
    large.body = Some(Body::Executed(v1::Executed {
        argv: vec![argument.clone()],
        argv_raw: vec![raw.into()],
        ..v1::Executed::default()
    }));
    let mut agent = Agent::connect(&collector).await;
    assert_eq!(agent.send(Some(hello("n", 1)), vec![large.clone()]).await.unwrap(), 1);
    assert_eq!(collector.events().await, [(1, large.clone())]);
    let request = v1::GetSessionRequest { id: "n-0".to_owned(), ..v1::GetSessionRequest::default() };
    let response = collector.trail().await.get_session(request).await.unwrap().into_inner();
    assert_eq!(response.events, [large]);
}

#[tokio::test]
async fn readers_that_ask_for_it_get_it_compressed() {
    let dir = tempfile::tempdir().unwrap();
    let collector = start(dir.path());
    let mut agent = Agent::connect(&collector).await;
    let sent = event("n", 1, 1);
    assert_eq!(agent.send(Some(hello("n", 1)), vec![sent.clone()]).await.unwrap(), 1);
    let mut plain = collector.trail().await;
    let mut zstd = plain.clone().accept_compressed(CompressionEncoding::Zstd);
    let all =
        || v1::TailRequest { from: Some(From::Oldest(true)), follow: Some(false), ..Default::default() };
    let mut unasked = Request::new(all());
    // As grpcio says on every call.
    unasked.metadata_mut().insert("grpc-accept-encoding", "identity, deflate, gzip".parse().unwrap());
    for (answer, wanted) in [
        (zstd.tail(all()).await, Some("zstd")),
        (plain.tail(unasked).await, None),
        (plain.tail(all()).await, None),
    ] {
        let answer = answer.unwrap();
        let encoding = answer.metadata().get("grpc-encoding").map(|name| name.to_str().unwrap().to_owned());
        assert_eq!(encoding.as_deref(), wanted);
        let first = answer.into_inner().message().await.unwrap().unwrap();
        assert_eq!(first.event.as_ref(), Some(&sent));
    }
}

#[tokio::test]
async fn stops_at_once_on_a_signal_and_tells_its_readers() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let dir = tempfile::tempdir().unwrap();
        let collector = start(dir.path());
        let mut tail = collector.trail().await.tail(v1::TailRequest::default()).await.unwrap().into_inner();
        let mut agent = Agent::connect(&collector).await;
        agent.send(Some(hello("n", 1)), vec![event("n", 1, 1)]).await.unwrap();
        assert_eq!(
            timeout(SOON, tail.message()).await.unwrap().unwrap().unwrap().cursor.split('-').next(),
            Some("1")
        );
        assert!(collector.get("/readyz").ends_with("\r\n\r\nlog: ready\nwriter: ready\n"));

        let stopped = tokio::task::spawn_blocking(move || collector.stop(signal));
        let e = timeout(SOON, tail.message()).await.unwrap().unwrap_err();
        assert_eq!((e.code(), e.message()), (Code::Unavailable, "shutting down: come again"));
        let e = timeout(SOON, agent.responses.message()).await.unwrap().unwrap_err();
        assert_eq!((e.code(), e.message()), (Code::Unavailable, "shutting down: come again"));
        let (code, took) = stopped.await.unwrap();
        assert_eq!(code, Some(0));
        assert!(took < Duration::from_secs(5), "{took:?}");
        assert_eq!(start(dir.path()).events().await.len(), 1);
    }
}

#[tokio::test]
async fn a_peer_that_does_not_leave_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let collector = start(dir.path());
    let mut agent = Agent::connect(&collector).await;
    let wide = |seq| {
        let mut e = event("n", 1, seq);
        e.session_id = "x".repeat(200);
        e.body = Some(Body::Executed(v1::Executed { path: "p".repeat(100_000), ..v1::Executed::default() }));
        e
    };
    agent.send(Some(hello("n", 1)), (1..=100).map(wide).collect()).await.unwrap();
    // Open, and never read: more is on its way than any window holds.
    let request = v1::TailRequest { from: Some(From::Oldest(true)), follow: None, ..Default::default() };
    let tail = collector.trail().await.tail(request).await.unwrap();
    let (code, took) = tokio::task::spawn_blocking(move || collector.stop(Signal::SIGTERM)).await.unwrap();
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_millis(5500), "{took:?}");
    drop(tail);
}

#[tokio::test]
async fn speaks_health_and_reflection() {
    let dir = tempfile::tempdir().unwrap();
    let collector = start(dir.path());
    let mut health = tonic_health::pb::health_client::HealthClient::new(collector.channel().await);
    for service in ["", "podtrail.v1.Ingest", "podtrail.v1.Trail"] {
        let request = tonic_health::pb::HealthCheckRequest { service: service.to_owned() };
        let status = health.check(request).await.unwrap().into_inner().status();
        assert_eq!(status, tonic_health::pb::health_check_response::ServingStatus::Serving, "{service}");
    }
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let mut reflection = ServerReflectionClient::new(collector.channel().await);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers =
        reflection.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else { panic!("{answer:?}") };
    let names: Vec<&str> = list.service.iter().map(|s| s.name.as_str()).collect();
    for wanted in ["podtrail.v1.Ingest", "podtrail.v1.Trail", "grpc.health.v1.Health"] {
        assert!(names.contains(&wanted), "{names:?}");
    }
}

#[tokio::test]
async fn keeps_to_its_size() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("collector.toml");
    fs::write(&config, "max-bytes = \"1MiB\"\nmax-age = \"2h\"\n").unwrap();
    let mut command = command(&dir.path().join("data"));
    command.arg("--config").arg(&config);
    let collector = start_with(command);
    let mut agent = Agent::connect(&collector).await;
    let wide = |seq| {
        let mut e = event("n", 1, seq);
        e.body = Some(Body::Executed(v1::Executed { path: "p".repeat(10_000), ..v1::Executed::default() }));
        e
    };
    agent.send(Some(hello("n", 1)), (1..=300).map(wide).collect()).await.unwrap();
    let until = Instant::now() + SOON;
    let kept = loop {
        let nodes = collector.trail().await.list_nodes(v1::ListNodesRequest {}).await.unwrap().into_inner();
        let kept = nodes.retention.unwrap();
        if kept.bytes <= 1 << 20 {
            break kept;
        }
        assert!(Instant::now() < until, "{kept:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!((kept.max_bytes, kept.max_age.unwrap().seconds), (1 << 20, 7200));
    assert!((100..=104).contains(&kept.events), "{kept:?}");
    let events = collector.events().await;
    assert_eq!(seqs(&events), (301 - kept.events..=300).collect::<Vec<_>>());
    assert_eq!(events[0].0, number(&kept.oldest_cursor));
    let first = kept.oldest_cursor.replacen(&events[0].0.to_string(), "1", 1);
    let request = v1::TailRequest { from: Some(From::Cursor(first)), follow: None, ..Default::default() };
    let e = collector.trail().await.tail(request).await.unwrap_err();
    assert_eq!(e.code(), Code::OutOfRange);
    // The node's numbers go on where they were.
    drop(collector);
    let collector = start(&dir.path().join("data"));
    let mut agent = Agent::connect(&collector).await;
    assert_eq!(agent.send(Some(hello("n", 1)), vec![event("n", 1, 301)]).await.unwrap(), 301);
    assert_eq!(collector.metric("podtrail_collector_missing_total"), 0.0);
}

#[test]
fn what_cannot_be_is_told_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let ends = |code: i32, command: Command, message: &str| {
        let (ended, stderr) = fails(command);
        assert_eq!(ended, Some(code), "{stderr}");
        assert_eq!(stderr, format!("podtrail-collector: {message}\n"));
    };
    let told = |command, message: &str| ends(1, command, message);
    let misused = |command, message: &str| ends(2, command, message);
    let with = |args: &[&str]| {
        let mut command = command(&dir.path().join("data"));
        command.args(args);
        command
    };
    let path = dir.path().join("data").display().to_string();

    let mut open = Command::new(env!("CARGO_BIN_EXE_podtrail-collector"));
    open.args(["run", "--listen", "0.0.0.0:7443", "--data", &path]);
    misused(
        open,
        "--listen: 0.0.0.0:7443 is not a loopback address: give tls-ca, tls-cert and tls-key, or use 127.0.0.1:7443",
    );
    assert!(!dir.path().join("data").exists(), "nothing is touched before all is checked");

    let config = dir.path().join("x.toml");
    fs::write(&config, "\nmax-byts = 1\n").unwrap();
    let config = config.display().to_string();
    misused(
        with(&["--config", &config]),
        &format!(
            "{config}:2:1: max-byts: no such key; there are: \
             listen, data, max-age, max-bytes, tls-ca, tls-cert, tls-key, kubelet-ca, kubelet-cluster, streams-per-peer, \
             subscriptions-per-principal, subscription-slow-after, subscription-max-idle, silent-after, audit-listen, audit-ca, audit-client, audit-cluster, audit-max-body, audit-stale-after, audit-log, attribution-skew, attribution-latency, attribution-wait, attribution-prefixes, kubernetes, kubernetes-cluster, node-conditions, cluster-events, node-state-every, node-stale-after, metrics-listen, log-level, log-format, [[principal]], [[output]]"
        ),
    );
    misused(
        with(&["--config", "/nonexistent"]),
        "cannot read the configuration /nonexistent: No such file or directory (os error 2)",
    );

    fs::create_dir(dir.path().join("data")).unwrap();
    fs::write(dir.path().join("data/format"), "podtrail-collector 7\n").unwrap();
    told(
        with(&[]),
        &format!(
            "{path} was written by a newer podtrail (format 7, this one reads up to 1): upgrade podtrail, or use another --data directory"
        ),
    );
    fs::remove_file(dir.path().join("data/format")).unwrap();

    let first = start(&dir.path().join("data"));
    let (code, stderr) = fails(with(&[]));
    assert_eq!(code, Some(1));
    assert_eq!(
        stderr,
        format!(
            "podtrail-collector: {path} is in use by another process: stop it, or use another data directory\n"
        )
    );
    let mut taken = Command::new(env!("CARGO_BIN_EXE_podtrail-collector"));
    let address = first.grpc.to_string();
    taken.args(["run", "--listen", &address, "--metrics-listen", "none", "--data", &path]);
    told(taken, &format!("cannot listen on {address}: Address already in use (os error 98)"));

    let mut wrong = Command::new(env!("CARGO_BIN_EXE_podtrail-collector"));
    wrong.args(["run", "--lisen", "x"]);
    assert_eq!(fails(wrong).0, Some(2));
}
