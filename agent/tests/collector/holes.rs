//! Numbers that come again, that come late, that never come.

use podtrail_proto::v1::{self, event::Body};

use super::*;

fn range(first: u64, last: u64) -> v1::SeqRange {
    v1::SeqRange { first, last }
}

fn report(epoch: u64, seqs: impl IntoIterator<Item = u64>, gone: &[v1::SeqRange]) -> v1::ReportRequest {
    let events = seqs.into_iter().map(|seq| event("n", epoch, seq)).collect();
    v1::ReportRequest { hello: None, events, gone: gone.to_vec() }
}

async fn greet(collector: &Collector, epoch: u64) -> (Agent, u64) {
    let mut agent = Agent::connect(collector).await;
    let acked = agent.send(Some(hello("n", epoch)), vec![]).await.unwrap();
    (agent, acked)
}

fn gap(event: &v1::Event) -> (v1::GapSource, u64, bool, &str) {
    let Some(Body::Gap(gap)) = &event.body else { panic!("{event:?}") };
    (gap.source(), gap.count(), gap.from.is_some(), &gap.detail)
}

#[tokio::test]
async fn what_came_before_is_passed_over_and_what_is_missing_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let collector = start(dir.path());
    let (mut agent, acked) = greet(&collector, 1).await;
    assert_eq!(acked, 0);
    assert_eq!(agent.exchange(report(1, 1..=5, &[])).await.unwrap().acked_seq, 5);
    assert_eq!(agent.exchange(report(1, 3..=7, &[])).await.unwrap().acked_seq, 7);
    assert_eq!(agent.exchange(report(1, 1..=7, &[])).await.unwrap().acked_seq, 7);
    let answer = agent.exchange(report(1, 11..=12, &[])).await.unwrap();
    assert_eq!((answer.acked_seq, &answer.missing[..]), (7, &[range(8, 10)][..]));
    assert_eq!(collector.events().await.len(), 7, "nothing after the hole is in the log");
    // It has what is missing.
    let answer = agent.exchange(report(1, 8..=12, &[])).await.unwrap();
    assert_eq!((answer.acked_seq, &answer.missing[..]), (12, &[][..]));
    // And next time it has not.
    agent.exchange(report(1, [14, 17], &[])).await.unwrap();
    let answer = agent.exchange(report(1, [14, 17], &[range(13, 13), range(15, 16)])).await.unwrap();
    assert_eq!((answer.acked_seq, &answer.missing[..]), (17, &[][..]));

    // Another stream of the same node goes on there; another epoch begins with its third.
    assert_eq!(greet(&collector, 1).await.1, 17);
    let (mut next, acked) = greet(&collector, 2).await;
    assert_eq!(acked, 0);
    let answer = next.exchange(report(2, [3], &[range(1, 2)])).await.unwrap();
    assert_eq!((answer.acked_seq, &answer.missing[..]), (3, &[][..]));

    let events = collector.events().await;
    assert_eq!(seqs(&events), (1..=15).chain([17, 1, 3]).collect::<Vec<_>>());
    let detail = "gone from the agent's spool";
    assert_eq!(gap(&events[12].1), (v1::GapSource::CollectorSequence, 1, true, detail));
    assert_eq!(gap(&events[14].1), (v1::GapSource::CollectorSequence, 2, true, detail));
    assert_eq!(gap(&events[16].1), (v1::GapSource::CollectorSequence, 2, false, detail));
    assert_eq!(collector.metric("podtrail_collector_events_total"), 18.0);
    assert_eq!(collector.metric("podtrail_collector_duplicates_total"), 10.0);
    assert_eq!(collector.metric("podtrail_collector_held_total"), 4.0);
    assert_eq!(collector.metric("podtrail_collector_missing_total"), 5.0);
    let nodes = collector.trail().await.list_nodes(v1::ListNodesRequest {}).await.unwrap().into_inner();
    let node = &nodes.nodes[0];
    assert_eq!((node.name.as_str(), node.epoch, node.events, node.lost), ("n", 2, 18, 5));
    assert!(node.connected);
    let kept = nodes.retention.unwrap();
    assert_eq!((kept.max_age.unwrap().seconds, kept.max_bytes), (604_800, 10_737_418_240));
    let log = collector.log.lock().unwrap().clone();
    let told =
        "msg=\"events of a node never came: recorded as a gap\" cluster=c node=n epoch=1 first=13 count=1";
    assert!(log.contains(told), "{log}");
}

#[tokio::test]
async fn a_hole_is_asked_for_again_by_a_collector_that_was_killed() {
    let dir = tempfile::tempdir().unwrap();
    let collector = start(dir.path());
    let (mut agent, _) = greet(&collector, 1).await;
    agent.exchange(report(1, 1..=5, &[])).await.unwrap();
    agent.exchange(report(1, [9], &[])).await.unwrap();
    drop(collector);
    let collector = start(dir.path());
    let (mut agent, acked) = greet(&collector, 1).await;
    assert_eq!(acked, 5);
    assert_eq!(agent.exchange(report(1, [9], &[])).await.unwrap().missing, [range(6, 8)]);
    assert_eq!(agent.exchange(report(1, [8, 9], &[range(6, 7)])).await.unwrap().acked_seq, 9);
    assert_eq!(seqs(&collector.events().await), [1, 2, 3, 4, 5, 6, 8, 9]);
}

#[tokio::test]
async fn an_agent_that_does_not_know_the_question_goes_on_with_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let collector = start(dir.path());
    let (mut agent, _) = greet(&collector, 1).await;
    assert_eq!(agent.exchange(report(1, [4], &[])).await.unwrap().missing, [range(1, 3)]);
    // It goes on sending, and hears in the end that it must connect again.
    assert_eq!(agent.exchange(report(1, [5], &[])).await.unwrap().acked_seq, 0);
    let e = timeout(SOON, agent.responses.message()).await.unwrap().unwrap_err();
    assert_eq!(e.code(), Code::Unavailable);
    assert!(e.message().starts_with("what comes after event 0 was asked for, and did not come"), "{e:?}");
    let (mut agent, acked) = greet(&collector, 1).await;
    assert_eq!(acked, 0);
    assert_eq!(agent.exchange(report(1, [4, 5], &[])).await.unwrap().acked_seq, 5);
    let events = collector.events().await;
    assert_eq!(seqs(&events), [1, 4, 5]);
    let detail = "the agent was asked and did not answer";
    assert_eq!(gap(&events[0].1), (v1::GapSource::CollectorSequence, 3, false, detail));
}
