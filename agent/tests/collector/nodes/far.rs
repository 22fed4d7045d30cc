//! An API server that forgets, breaks off, is slow, or has very many nodes.

use super::*;

fn gaps(told: &[String]) -> Vec<&str> {
    told.iter().map(String::as_str).filter(|told| told.contains(": gap ")).collect()
}

const FORGOT: &str = "changed that the API server does not know any more: too old resource version";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_forgotten_in_the_middle_is_listed_and_leaves_a_gap() {
    for gone_by_status in [false, true] {
        let server = Server::start().await;
        server.put("nodes", node("n1", &[("X", "False", 10)]));
        let place = Place::new(&server);
        let collector = place.start();
        watched(&server).await;
        // Two lines come, and then it says that it has forgotten; both watches have to be begun anew.
        server.set(Moods { forgets_after: Some(2), gone_by_status, ..Moods::default() });
        for n in 1..=5 {
            server.put("events", event(&format!("e{n}"), ("Pod", "p", "q"), &format!("event {n}"), 1));
        }
        let wanted: Vec<String> = (1..=5).map(|n| format!(": Pod p/q: event {n} ×1")).collect();
        let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
        let now = until(&collector, &wanted).await;
        let events: Vec<&str> = now.iter().map(String::as_str).filter(|told| told.contains("Pod")).collect();
        assert_eq!(events, wanted, "each once, in their order");
        let gap = format!(": gap KUBERNETES events {FORGOT}");
        assert_eq!(until(&collector, &[&gap]).await.iter().filter(|told| **told == gap).count(), 1);
        let (_, event) =
            collector.events().await.into_iter().find(|(_, e)| matches!(e.body, Some(Body::Gap(_)))).unwrap();
        let Some(Body::Gap(gap)) = event.body else { panic!() };
        let times = [&gap.from, &gap.to].map(|time| Moment::from_timestamp(time.as_ref().unwrap()));
        assert!(times[0] <= times[1] && !gap.exact(), "{gap:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_forgotten_while_the_collector_was_away_is_a_gap() {
    for gone_by_status in [false, true] {
        let server = Server::start().await;
        server.set(Moods { gone_by_status, ..Moods::default() });
        server.put("nodes", node("n1", &[("X", "False", 10)]));
        server.put("nodes", node("n2", &[("X", "True", 10)]));
        server.put("nodes", node("n3", &[("X", "True", 10)]));
        server.put("events", event("e1", ("Pod", "p", "q"), "before", 1));
        let place = Place::new(&server);
        let collector = place.start();
        until(&collector, &[": Pod p/q: before ×1"]).await;
        drop(collector);
        // A node goes; another is there, and cannot be read.
        server.delete("nodes", "n2");
        server.put("nodes", json!({ "metadata": { "name": "n3" }, "status": 7 }));
        // X breaks and is whole again, an Event comes and goes, another stays.
        server.put("nodes", node("n1", &[("X", "True", 20)]));
        server.put("nodes", node("n1", &[("X", "False", 30), ("Y", "False", 1)]));
        server.put("events", event("e2", ("Pod", "p", "q"), "gone", 1));
        server.delete("events", "e2");
        server.put("events", event("e3", ("Pod", "p", "q"), "there", 4));
        server.forget();
        let collector = place.start();
        let wanted = [
            "n1: X AGAIN False",
            "n2: X GONE True",
            ": Pod p/q: there ×4",
            &format!(": gap KUBERNETES nodes {FORGOT}"),
            &format!(": gap KUBERNETES events {FORGOT}"),
        ];
        let now = until(&collector, &wanted).await;
        assert_eq!(now.iter().filter(|told| told.contains("before")).count(), 1, "{now:#?}");
        assert!(!now.iter().any(|told| told.starts_with("n3: X GONE")), "{now:#?}");
        // Of what was forgotten, and of n3; and besides those wanted, what was told before.
        assert_eq!((gaps(&now).len(), edges(&now).len()), (3, 9), "{now:#?}");
        assert_eq!(
            collector.metric("podtrail_collector_watch_lists_total{resource=\"events\",why=\"gone\"}"),
            1.0
        );
        // It goes on from there, and has no gap any more.
        server.put("events", event("e4", ("Pod", "p", "q"), "later", 1));
        let now = until(&collector, &[": Pod p/q: later ×1"]).await;
        assert_eq!(gaps(&now).len(), 3, "{now:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_quiet_cluster_a_version_grows_old_and_nothing_is_missing() {
    let server = Server::start().await;
    server.set(Moods { ends: Some(Duration::from_millis(1200)), ..Moods::default() });
    server.put("nodes", node("n1", &[("X", "False", 10)]));
    let place = Place::new(&server);
    let collector = place.start();
    watched(&server).await;
    let lists = |server: &Server| server.asked().iter().filter(|asked| *asked == "list events").count();
    for wanted in 2..4 {
        server.forget();
        let end = Instant::now() + SOON;
        while lists(&server) < wanted {
            assert!(Instant::now() < end, "{:?}", server.asked());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    server.put("events", event("e1", ("Pod", "p", "q"), "at last", 1));
    let now = until(&collector, &[": Pod p/q: at last ×1"]).await;
    assert_eq!(gaps(&now), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bookmark_is_a_place_to_go_on_from() {
    let server = Server::start().await;
    server.set(Moods { bookmarks: Some(Duration::from_millis(50)), ..Moods::default() });
    server.put("nodes", node("n1", &[("X", "False", 10)]));
    let place = Place::new(&server);
    let collector = place.start();
    until(&collector, &["n1: state X=False"]).await;
    let end = Instant::now() + SOON;
    while !collector.get("/metrics").contains("podtrail_collector_watch_bookmarks_total{resource=\"nodes\"} ")
        || collector.metric("podtrail_collector_watch_bookmarks_total{resource=\"nodes\"}") < 2.0
    {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let now = told(&collector).await;
    assert_eq!(now, ["n1: state X=False"], "a bookmark is no event");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_break_anywhere_and_pieces_of_any_size_lose_and_double_nothing() {
    let server = Server::start().await;
    server.put("nodes", node("n1", &[("X", "False", 1000)]));
    server.set(Moods { chunk: 7, cut_after: Some(3), ..Moods::default() });
    let place = Place::new(&server);
    let collector = place.start();
    watched(&server).await;
    for n in 1..=20i64 {
        let status = if n % 2 == 1 { "True" } else { "False" };
        server.put("nodes", node("n1", &[("X", status, 1000 + n)]));
        server.put("events", event(&format!("e{n}"), ("Pod", "p", "q"), &format!("event {n}"), 1));
    }
    let now = until(&collector, &[": Pod p/q: event 20 ×1"]).await;
    let end = Instant::now() + SOON;
    let mut now = now;
    while now.iter().filter(|told| told.starts_with("n1: X ")).count() < 20 {
        assert!(Instant::now() < end, "{now:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
        now = told(&collector).await;
    }
    let nodes: Vec<&String> = now.iter().filter(|told| told.starts_with("n1: X ")).collect();
    let wanted: Vec<&str> =
        (1..=20).map(|n| if n % 2 == 1 { "n1: X BECAME True" } else { "n1: X RECOVERED False" }).collect();
    assert_eq!(nodes, wanted);
    let events: Vec<&String> = now.iter().filter(|told| told.contains("Pod")).collect();
    assert_eq!(
        events,
        (1..=20).map(|n| format!(": Pod p/q: event {n} ×1")).collect::<Vec<_>>().iter().collect::<Vec<_>>()
    );
    assert_eq!(gaps(&now), [""; 0]);
    assert!(server.asked().iter().filter(|asked| asked.starts_with("watch events")).count() > 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_nodes() {
    const NODES: usize = 5000;
    let server = Server::start().await;
    for n in 0..NODES {
        let mut node = node(
            &format!("node-{n:04}"),
            &[("KernelDeadlock", "False", 10), ("ReadonlyFilesystem", "False", 10)],
        );
        // What makes a Node long: the names of its images.
        let images: Vec<Value> = (0..10)
            .map(|i| json!({ "names": [format!("registry.example/image-{i}@sha256:{}", "0".repeat(64))] }))
            .collect();
        node["status"]["images"] = json!(images);
        server.put("nodes", node);
    }
    let place = Place::new(&server);
    let began = Instant::now();
    let collector = place.start();
    measured(&collector, &format!("podtrail_collector_nodes {NODES}")).await;
    println!("{NODES} nodes are known after {:?}", began.elapsed());
    assert!(server.asked().iter().filter(|asked| *asked == "list nodes").count() >= NODES / 250, "by pages");
    for n in (0..NODES).step_by(10) {
        server.put(
            "nodes",
            node(
                &format!("node-{n:04}"),
                &[("KernelDeadlock", "True", 20), ("ReadonlyFilesystem", "False", 10)],
            ),
        );
    }
    let changed = Instant::now();
    measured(&collector, &format!("podtrail_collector_node_conditions{{state=\"bad\"}} {}", NODES / 10))
        .await;
    println!("{} edges after {:?}", NODES / 10, changed.elapsed());
    // A restart in the middle of it says nothing twice.
    drop(collector);
    let collector = place.start();
    server.put(
        "nodes",
        node("node-0001", &[("KernelDeadlock", "True", 20), ("ReadonlyFilesystem", "False", 10)]),
    );
    let now = until(&collector, &["node-0001: KernelDeadlock BECAME True"]).await;
    assert_eq!(edges(&now).len(), NODES / 10 + 1);
    assert_eq!(now.len() - edges(&now).len(), NODES);
}
