//! What a filter costs an event: `cargo run --release --example filter_cost`.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use podtrail::filter::Filter;
use podtrail_proto::v1::{self, event::Body};

/// How long each filter is measured.
const LONG: Duration = Duration::from_secs(1);
/// Events between two looks at the clock.
const BATCH: u32 = 1000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("{:>12} {:>12} {:>10}  filter", "events/s", "ns an event", "bytes argv");
    let short = command(&["ls", "-l", "/usr/share/doc"]);
    let long = command(&vec!["--an-option-of-32-characters=here"; 1985]);
    for (event, filter) in [
        (&short, r#"executed.path.startsWith("/bin/")"#),
        (&short, r#"container.pod.namespace == "prod" && has(executed)"#),
        (&short, r#"container.pod.labels["app"] in ["web", "payments"]"#),
        (&short, r#"executed.argv.exists(a, a.matches("(?i)passw(or)?d"))"#),
        (&short, r#"executed.argv.join(" ").contains("/etc/shadow")"#),
        (
            &short,
            r#"executed.credentials.uid == 0 && time.getHours() < 6 && !executed.executable.upperLayer"#,
        ),
        (&long, r#"executed.argv.exists(a, a.contains("passwd"))"#),
        (&long, r#"executed.argv.exists(a, a.matches("(?i)passw(or)?d"))"#),
        // Uses up all its steps.
        (&long, "executed.argv.all(a, executed.argv.all(b, a.size() == b.size()))"),
    ] {
        measure(event, filter)?;
    }
    Ok(())
}

fn measure(event: &v1::Event, text: &str) -> Result<(), podtrail::filter::FilterError> {
    let filter = Filter::compile(text)?;
    let (begin, mut events) = (Instant::now(), 0_u32);
    while begin.elapsed() < LONG {
        let batch = if events == 0 { 1 } else { BATCH.min(events) };
        for _ in 0..batch {
            black_box(filter.decide(black_box(event))).ok();
        }
        events += batch;
    }
    let each = begin.elapsed() / events;
    let second = Duration::from_secs(1);
    let rate = second.as_nanos() / each.as_nanos().max(1);
    let bytes = match &event.body {
        Some(Body::Executed(executed)) => executed.argv.iter().map(|a| a.len() + 1).sum(),
        _ => 0,
    };
    println!("{rate:>12} {:>12} {bytes:>10}  {text}", each.as_nanos());
    Ok(())
}

/// A command in a pod, with all that an agent says of one.
fn command(argv: &[&str]) -> v1::Event {
    let labels = [("app", "payments"), ("pod-template-hash", "7d9f"), ("tier", "backend")];
    let executed = v1::Executed {
        process: Some(v1::Process {
            pid: 4711,
            parent_pid: 4700,
            comm: "ls".to_owned(),
            ..Default::default()
        }),
        path: "/bin/ls".to_owned(),
        argv: argv.iter().map(|&argument| argument.to_owned()).collect(),
        cwd: "/".to_owned(),
        credentials: Some(v1::Credentials { uid: Some(0), gid: Some(0), ..Default::default() }),
        executable: Some(v1::Executable { inode: 17, ..Default::default() }),
        ..Default::default()
    };
    v1::Event {
        time: Some(podtrail_proto::Timestamp { seconds: 1_795_360_000, nanos: 0 }),
        container: Some(v1::Container {
            id: "4f1d".repeat(16),
            pod: Some(v1::Pod {
                namespace: "prod".to_owned(),
                name: "payments-0".to_owned(),
                labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        session_id: "s1".to_owned(),
        body: Some(Body::Executed(executed)),
        ..Default::default()
    }
}
