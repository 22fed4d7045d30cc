//! A disk on which nothing can be written, and then can again.

use rustix::process::{Pid as Process, Resource, Rlimit, prlimit};

use super::*;

/// A collector that a limit on the length of files does not kill.
fn limited(data: &Path) -> Collector {
    limited_with(&command(data))
}

pub(super) fn limited_with(inner: &Command) -> Collector {
    let mut outer = Command::new("sh");
    outer.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]).arg(inner.get_program()).args(inner.get_args());
    outer.env_remove("RUST_LOG");
    start_with(outer)
}

/// From now on no file grows beyond `bytes`; `None`: as long as they like.
pub(super) fn limit(collector: &Collector, bytes: Option<u64>) {
    let process = Process::from_raw(i32::try_from(collector.child.id()).unwrap());
    prlimit(process, Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
}

pub(super) async fn readiness(collector: &Collector, wanted: &str) {
    let until = Instant::now() + SOON;
    while !collector.get("/readyz").contains(wanted) {
        assert!(Instant::now() < until, "{}", collector.get("/readyz"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_log_that_cannot_be_written_serves_readers_and_goes_on_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let collector = limited(dir.path());
    let mut agent = Agent::connect(&collector).await;
    let range =
        |numbers: std::ops::RangeInclusive<u64>| numbers.map(|n| event("n", 1, n)).collect::<Vec<_>>();
    assert_eq!(agent.send(Some(hello("n", 1)), range(1..=10)).await.unwrap(), 10);
    assert_eq!(collector.metric("podtrail_collector_log_writable"), 1.0);

    limit(&collector, Some(0));
    let e = agent.send(None, range(11..=20)).await.unwrap_err();
    assert_eq!((e.code(), e.message()), (Code::Unavailable, "the log cannot be written now: come again"));
    readiness(&collector, "log: not ready: the log cannot be written: ").await;
    assert_eq!(collector.metric("podtrail_collector_log_writable"), 0.0);
    // Nobody new is let in, and readers are served, also once it was tried again in vain.
    let e = Agent::connect(&collector).await.send(Some(hello("m", 1)), vec![]).await.unwrap_err();
    assert_eq!(e.code(), Code::Unavailable);
    assert_eq!(seqs(&collector.events().await), (1..=10).collect::<Vec<_>>());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(seqs(&collector.events().await), (1..=10).collect::<Vec<_>>());
    assert!(collector.get("/readyz").contains("log: not ready"));

    limit(&collector, None);
    readiness(&collector, "log: ready").await;
    assert_eq!(collector.metric("podtrail_collector_log_writable"), 1.0);
    let mut agent = Agent::connect(&collector).await;
    let acked = agent.send(Some(hello("n", 1)), vec![]).await.unwrap();
    assert!(acked == 10 || acked == 20, "{acked}");
    assert_eq!(agent.send(None, range(acked + 1..=25)).await.unwrap(), 25);
    let events = collector.events().await;
    assert_eq!(seqs(&events), (1..=25).collect::<Vec<_>>());
    let log = collector.log.lock().unwrap().clone();
    assert_eq!(log.matches("the log cannot be written: agents are refused").count(), 1, "{log}");
    assert_eq!(log.matches("the log can be written again").count(), 1, "{log}");
    assert_eq!(collector.stop(Signal::SIGTERM).0, Some(0));
}
