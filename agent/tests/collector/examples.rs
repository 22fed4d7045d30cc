//! The example consumers (`proto/examples`) keep what they promise: killed again and again while events come, each ends
//! with every event once and in order.

use std::path::PathBuf;

use super::*;

const EVENTS: u64 = 4000;
const KILLS: u64 = 8;

/// Where the workspace is.
fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Numbers of the events in a consumer's file; a last line that is not whole is none.
fn lines(path: &Path) -> Vec<u64> {
    let bytes = fs::read(path).unwrap_or_default();
    let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    let line = |line: &[u8]| {
        let value: serde_json::Value = serde_json::from_slice(line).unwrap();
        let seq = value["event"]["id"]["seq"].as_str().unwrap().parse::<u64>().unwrap();
        assert_eq!(value["event"]["executed"]["argv"][0], format!("n 1 {seq}"));
        assert_eq!(number(value["cursor"].as_str().unwrap()), seq);
        seq
    };
    bytes[..whole].split(|b| *b == b'\n').filter(|part| !part.is_empty()).map(line).collect()
}

/// Kills the consumer in the middle of its work, again and again.
async fn killed_it_has_all(consumer: impl Fn(&Collector, &Path) -> Command) {
    let dir = tempfile::tempdir().unwrap();
    let collector = start(&dir.path().join("data"));
    let out = dir.path().join("events.jsonl");
    let mut agent = Agent::connect(&collector).await;
    agent.send(Some(hello("n", 1)), vec![]).await.unwrap();
    let mut reported = 0;
    for round in 0..=KILLS {
        let mut child = consumer(&collector, &out).stdin(Stdio::null()).spawn().unwrap();
        let until = if round == KILLS { EVENTS } else { EVENTS * (round + 1) / (KILLS + 1) };
        let began = Instant::now();
        let before = lines(&out).len() as u64;
        // All but the last are killed while more comes than they have taken.
        while (round < KILLS && (lines(&out).len() as u64) < before + 100)
            || (round == KILLS && (lines(&out).len() as u64) < EVENTS)
        {
            assert!(began.elapsed() < 3 * SOON, "{} of {reported} in round {round}", lines(&out).len());
            assert!(child.try_wait().unwrap().is_none(), "the consumer ended by itself");
            if reported < until {
                let batch =
                    (reported + 1..=(reported + 50).min(until)).map(|seq| event("n", 1, seq)).collect();
                reported = agent.send(None, batch).await.unwrap();
            } else {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(lines(&out), (1..=EVENTS).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rust_example_killed_has_every_event_once() {
    // Built with the tests, beside the collector.
    let program =
        Path::new(env!("CARGO_BIN_EXE_podtrail-collector")).with_file_name("examples").join("follow");
    assert!(program.is_file(), "build it: cargo build -p podtrail-proto --examples");
    killed_it_has_all(|collector, out| {
        let mut command = Command::new(&program);
        command.arg(format!("http://{}", collector.grpc)).arg("rust").arg(out);
        command
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_example_killed_has_every_event_once() {
    let stubs = tempfile::tempdir().unwrap();
    let proto = workspace().join("proto");
    let flag = |name: &str, path: &Path| format!("--{name}={}", path.display());
    let generated = Command::new("protoc")
        .arg("-I")
        .arg(&proto)
        .arg(flag("python_out", stubs.path()))
        .arg(flag("grpc_python_out", stubs.path()))
        .arg("--plugin=protoc-gen-grpc_python=/usr/bin/grpc_python_plugin")
        .arg(proto.join("podtrail/v1/podtrail.proto"))
        .output();
    match generated {
        Ok(output) if output.status.success() => {}
        // `cargo xtask setup` installs it; where tests must not be left out, this is one.
        Err(e) if std::env::var_os("CI").is_none() => {
            eprintln!("left out: protoc cannot be run: {e}");
            return;
        }
        other => panic!("the stubs cannot be generated: {other:?}"),
    }
    killed_it_has_all(|collector, out| {
        let mut command = Command::new("/usr/bin/python3");
        command.env("PYTHONPATH", stubs.path()).env("PYTHONDONTWRITEBYTECODE", "1");
        command.arg(proto.join("examples/follow.py")).arg(collector.grpc.to_string()).arg("python").arg(out);
        command
    })
    .await;
}
