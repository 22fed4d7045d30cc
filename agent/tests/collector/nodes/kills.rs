//! Killed at any moment: no edge is lost and none is told twice, nor an Event.

use super::*;

const KILLS: usize = 20;
const NODES: [&str; 4] = ["a", "b", "c", "d"];

/// Changes conditions and writes Events, numbered each, until it is told to stop: how many of each there were.
async fn write(server: Server, stop: tokio_util::sync::CancellationToken) -> (i64, i64) {
    let mut n = 0;
    while !stop.is_cancelled() {
        n += 1;
        let status = if n % 2 == 1 { "True" } else { "Unknown" };
        for name in NODES {
            server.put("nodes", node(name, &[("X", status, 1000 + n), ("Old", "False", 1)]));
        }
        server.put("events", event(&format!("e{n}"), ("Pod", "p", "q"), &format!("event {n}"), 1));
        if n % 10 == 0 {
            // One that grows.
            server.put("events", event("grows", ("Pod", "p", "grows"), "again", (n / 10).cast_unsigned()));
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    (n, n / 10)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn killed_at_any_moment_it_has_every_edge_and_every_event_once() {
    let seed = std::process::id().into();
    println!("seed {seed}");
    let mut dice = Dice(seed);
    let server = Server::start().await;
    for name in NODES {
        server.put("nodes", node(name, &[("X", "False", 1000), ("Old", "False", 1)]));
    }
    let place = Place::new(&server);
    let collector = place.start();
    // There is a place to go on from before the first kill.
    until(&collector, &["d: state Old=False,X=False"]).await;
    watched(&server).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let writing = tokio::spawn(write(server.clone(), stop.clone()));
    let mut collector = collector;
    for kill_number in 0..KILLS {
        tokio::time::sleep(Duration::from_millis(dice.throw(300))).await;
        kill(Pid::from_raw(i32::try_from(collector.child.id()).unwrap()), Signal::SIGKILL).unwrap();
        drop(collector);
        let cut_after = (kill_number % 3 == 0).then(|| usize::try_from(5 + dice.throw(40)).unwrap());
        let chunk = usize::try_from(dice.throw(3) * 50).unwrap();
        server.set(Moods {
            cut_after,
            chunk,
            bookmarks: Some(Duration::from_millis(20)),
            ..Moods::default()
        });
        collector = place.start();
    }
    stop.cancel();
    let (count, grown) = writing.await.unwrap();
    server.set(Moods::default());
    let last = format!(": Pod p/q: event {count} ×1");
    until(&collector, &[&last]).await;
    let end = Instant::now() + SOON;
    loop {
        let edges = edges_of(&collector).await;
        if edges.values().all(|edges| i64::try_from(edges.len()).unwrap() >= count)
            && edges.len() == NODES.len()
        {
            break;
        }
        assert!(
            Instant::now() < end,
            "{count}: {:?}",
            edges.iter().map(|(n, e)| (n, e.len())).collect::<Vec<_>>()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for (name, edges) in edges_of(&collector).await {
        assert_eq!(edges, (1001..=1000 + count).collect::<Vec<_>>(), "{name}");
    }
    let now = told(&collector).await;
    let events: Vec<&String> = now.iter().filter(|told| told.contains("Pod p/q")).collect();
    let wanted: Vec<String> = (1..=count).map(|n| format!(": Pod p/q: event {n} ×1")).collect();
    assert_eq!(events, wanted.iter().collect::<Vec<_>>());
    let grows: Vec<&String> = now.iter().filter(|told| told.contains("Pod p/grows")).collect();
    let wanted: Vec<String> = (1..=grown).map(|n| format!(": Pod p/grows: again ×{n}")).collect();
    assert_eq!(grows, wanted.iter().collect::<Vec<_>>());
    assert!(now.iter().all(|told| !told.contains("gap")), "{now:#?}");
    println!("{KILLS} kills, {} edges, {} events", count * 4, count + grown);
}

/// Transitions of the edges of each node, in the order of the log.
async fn edges_of(collector: &Collector) -> BTreeMap<String, Vec<i64>> {
    let mut edges: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for (_, event) in collector.events().await {
        if let Some(Body::NodeCondition(condition)) = event.body {
            assert_eq!(
                (condition.r#type.as_str(), condition.change()),
                ("X", Change::Became),
                "{condition:?}"
            );
            edges.entry(event.id.unwrap().node).or_default().push(condition.transition.unwrap().seconds);
        }
    }
    edges
}
