//! `podtrail nodes` and `podtrail session` as a person and a script read them.

use std::process::Stdio;

use super::*;

const SESSION: &str = "4k7qabcdefgh0123";

fn podtrail(collector: &Collector, args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_podtrail"))
        .env("PODTRAIL_COLLECTOR", collector.grpc.to_string())
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(!output.stdout.contains(&0x1b), "hostile text reached the terminal");
    String::from_utf8(output.stdout).unwrap()
}

/// Of a session in prod/payments-0 on n1.
fn of_session(seq: u64, body: Body) -> v1::Event {
    let pod = v1::Pod { namespace: "prod".to_owned(), name: "payments-0".to_owned(), ..Default::default() };
    let container = v1::Container { id: "c0ffee".repeat(10), pod: Some(pod), ..Default::default() };
    let base = super::super::event("n1", 1, seq);
    v1::Event { session_id: SESSION.to_owned(), container: Some(container), body: Some(body), ..base }
}

fn command(argv: &str, pid: u32, parent: u32) -> Body {
    Body::Executed(v1::Executed {
        process: Some(v1::Process {
            pid,
            start_time: pid.into(),
            parent_pid: parent,
            parent_start_time: parent.into(),
            ..Default::default()
        }),
        path: format!("/bin/{argv}"),
        argv: vec![argv.to_owned()],
        root: Some(parent == 99),
        ..Default::default()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_so_on_the_node_stands_in_the_session() {
    let server = Server::start().await;
    let now = Moment::now().0 / 1_000_000_000;
    // Bad long before, good again before, and bad on another node.
    server.put(
        "nodes",
        node("n1", &[("ReadonlyFilesystem", "True", now - 900), ("FDPressure", "True", now - 800)]),
    );
    server.put("nodes", node("n2", &[("KernelDeadlock", "True", now - 900)]));
    let place = Place::new(&server);
    let collector = place.start();
    watched(&server).await;
    server.put(
        "nodes",
        node("n1", &[("ReadonlyFilesystem", "True", now - 900), ("FDPressure", "False", now - 700)]),
    );
    until(&collector, &["n1: FDPressure RECOVERED False"]).await;
    let mut agent = Agent::connect(&collector).await;
    agent.send(Some(hello("n1", 1)), vec![of_session(1, command("sh", 1, 99))]).await.unwrap();
    let moment = Moment::now().0 / 1_000_000_000 + 1;
    // Both are in the session, which is open.
    while Moment::now().0 / 1_000_000_000 < moment {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.put(
        "nodes",
        node(
            "n1",
            &[
                ("ReadonlyFilesystem", "True", now - 900),
                ("FDPressure", "False", now - 700),
                ("KernelDeadlock", "True", moment),
            ],
        ),
    );
    server.put("events", event("e1", ("Pod", "prod", "payments-0"), "evicted\u{1b}[2J", 1));
    server.put("events", event("e2", ("Pod", "prod", "payments-1"), "another", 1));
    until(&collector, &["n1: KernelDeadlock FIRST True", ": Pod prod/payments-1: another ×1"]).await;
    agent.send(None, vec![of_session(2, command("ls", 2, 1))]).await.unwrap();

    let text = podtrail(&collector, &["session", "4k7q"]);
    for line in [
        "~ node ReadonlyFilesystem=True, first seen: ReadonlyFilesystemTrue, from a \\x1b[31mlog, since ",
        "~ node KernelDeadlock=True, first seen: KernelDeadlockTrue, from a \\x1b[31mlog, since ",
        "~ event Pod prod/payments-0: Why, evicted\\x1b[2J (kubelet)",
    ] {
        assert_eq!(text.matches(line).count(), 1, "{line}\n{text}");
    }
    assert!(!text.contains("FDPressure") && !text.contains("another") && !text.contains("n2"), "{text}");
    let json = podtrail(&collector, &["session", SESSION, "-o", "json"]);
    let lines: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["commands"], "2");
    let conditions: Vec<&str> =
        lines.iter().filter_map(|line| line["nodeCondition"]["type"].as_str()).collect();
    assert_eq!(conditions, ["ReadonlyFilesystem", "KernelDeadlock"]);
    let events: Vec<&str> =
        lines.iter().filter_map(|line| line["clusterEvent"]["message"].as_str()).collect();
    assert_eq!(events, ["evicted\u{1b}[2J"]);

    let text = podtrail(&collector, &["nodes"]);
    let row = |name: &str| {
        text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"))
    };
    assert!(
        row("n1 ").contains("  yes  ")
            && row("n1 ").ends_with("KernelDeadlock=True, ReadonlyFilesystem=True, 1 good"),
        "{text}"
    );
    assert!(row("n2 ").contains("  no agent  ") && row("n2 ").ends_with("KernelDeadlock=True"), "{text}");
    assert!(
        text.contains("  n1: KernelDeadlock=True: KernelDeadlockTrue, from a \\x1b[31mlog, since "),
        "{text}"
    );
    let json = podtrail(&collector, &["nodes", "-o", "json"]);
    let nodes: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(nodes[0]["conditions"][2]["type"], "ReadonlyFilesystem");
    assert_eq!(nodes[0]["conditions"][2]["sources"], json!(["api"]));
    assert_eq!(nodes[0]["conditions"][0]["status"], "False");
}
