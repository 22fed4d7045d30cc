use proptest::prelude::*;

use super::*;
use crate::trail::testing::{event, exited};

fn node() -> NodeEpoch {
    NodeEpoch { cluster: "c".to_owned(), node: "n".to_owned(), epoch: 1 }
}

fn range(first: u64, last: u64) -> v1::SeqRange {
    v1::SeqRange { first, last }
}

struct Fixture {
    sequences: Sequences,
    now: Instant,
    log: Vec<(u64, u64, String)>,
}

impl Fixture {
    fn new() -> Self {
        Self { sequences: Sequences::default(), now: Instant::now(), log: Vec::new() }
    }

    fn report(&mut self, stream: u64, seqs: impl IntoIterator<Item = u64>, gone: &[v1::SeqRange]) -> Answer {
        let events = seqs.into_iter().map(|seq| event("n", seq, 1, "", exited())).collect();
        let mut group = self.sequences.group();
        let report = Report { node: node(), stream, events, gone: gone.to_vec() };
        let answer = group.take(report, self.now);
        for event in &group.batch {
            let (count, why) = match &event.body {
                Some(v1::event::Body::Gap(gap)) => (gap.count(), gap.detail.clone()),
                _ => (1, String::new()),
            };
            self.log.push((number(event), count, why));
        }
        group.keep();
        answer
    }

    /// All up to `last` stands in the log, once and in order; these ranges as gaps.
    #[track_caller]
    fn whole(&self, last: u64, gaps: &[(u64, u64, &str)]) {
        let mut next = 1;
        for (seq, count, _) in &self.log {
            assert_eq!(*seq, next, "{:?}", self.log);
            next += count;
        }
        assert_eq!(next, last + 1, "{:?}", self.log);
        let told: Vec<_> = self.log.iter().filter(|(.., why)| !why.is_empty()).cloned().collect();
        let wanted: Vec<_> = gaps.iter().map(|(f, n, why)| (*f, *n, (*why).to_owned())).collect();
        assert_eq!(told, wanted);
    }
}

fn acked(acked: u64) -> Answer {
    Answer { acked, ..Answer::default() }
}

const GONE: &str = "gone from the agent's spool";
const SILENT: &str = "the agent was asked and did not answer";

#[test]
fn a_hole_is_asked_for_once_and_filled() {
    let mut f = Fixture::new();
    assert_eq!(f.report(1, 1..=4, &[]), acked(4));
    let asked = f.report(1, [7, 8, 11], &[]);
    assert_eq!(asked, Answer { acked: 4, missing: vec![range(5, 6), range(9, 10)], asked: true });
    // These were under way already.
    let waiting = Answer { acked: 4, missing: vec![], asked: true };
    assert_eq!(f.report(1, 12..=20, &[]), waiting);
    assert_eq!(f.report(1, [], &[]), waiting);
    assert_eq!(f.report(1, 5..=20, &[]), acked(20));
    f.whole(20, &[]);
}

#[test]
fn what_the_agent_says_is_gone_becomes_a_gap() {
    let mut f = Fixture::new();
    f.report(1, 1..=4, &[]);
    f.report(1, [7, 8, 11], &[]);
    assert_eq!(f.report(1, [7, 8, 11], &[range(5, 6), range(9, 10)]), acked(11));
    f.whole(11, &[(5, 2, GONE), (9, 2, GONE)]);
    // Said before it was asked, in parts that touch and overlap.
    assert_eq!(f.report(1, [20], &[range(12, 15), range(14, 18), range(19, 19)]), acked(20));
    f.whole(20, &[(5, 2, GONE), (9, 2, GONE), (12, 8, GONE)]);
}

#[test]
fn only_what_is_gone_wholly_is_passed_over() {
    let mut f = Fixture::new();
    f.report(1, 1..=4, &[]);
    f.report(1, [10], &[]);
    // It has dropped more meanwhile, and says so only of the first: asked again, for the rest.
    let asked = Answer { acked: 4, missing: vec![range(10, 29)], asked: true };
    assert_eq!(f.report(1, [30], &[range(5, 9)]), asked);
    let asked = Answer { acked: 4, missing: vec![range(7, 7)], asked: true };
    assert_eq!(f.report(1, [9], &[range(5, 6), range(8, 8)]), asked);
    assert_eq!(f.report(1, 7..=9, &[range(5, 6)]), acked(9));
    f.whole(9, &[(5, 2, GONE)]);
}

#[test]
fn what_is_said_to_be_gone_is_believed_of_holes_alone() {
    let mut f = Fixture::new();
    f.report(1, 1..=4, &[]);
    // Of what is in the log, of what comes with it, of all there will ever be.
    assert_eq!(f.report(1, [], &[range(1, u64::MAX)]), acked(4));
    assert_eq!(f.report(1, [4, 5, 6], &[range(1, u64::MAX)]), acked(6));
    f.whole(6, &[]);
    assert_eq!(f.report(1, [8], &[range(0, 0), range(3, 6), range(9, u64::MAX)]).missing, [range(7, 7)]);
}

#[test]
fn an_agent_that_never_answers_is_not_held_up_for_ever() {
    let mut f = Fixture::new();
    // An epoch that begins above 1 begins with a hole.
    assert_eq!(f.report(1, [3, 4], &[]).missing, [range(1, 2)]);
    f.now += ANSWER_WAIT * 2;
    // On the stream that was asked an answer may still be under way.
    assert_eq!(f.report(1, [5], &[]), Answer { acked: 0, missing: vec![], asked: true });
    assert_eq!(f.report(2, [3, 4, 5, 7], &[]), Answer { acked: 5, missing: vec![range(6, 6)], asked: true });
    f.whole(5, &[(1, 2, SILENT)]);
    // The next hole has a time of its own.
    assert_eq!(f.report(3, [7], &[]).missing, [range(6, 6)]);
    f.now += ANSWER_WAIT;
    assert_eq!(f.report(3, [6, 7], &[]), acked(7));
    f.whole(7, &[(1, 2, SILENT)]);
}

#[test]
fn what_the_log_did_not_take_comes_again() {
    let mut f = Fixture::new();
    f.report(1, 1..=4, &[]);
    let mut group = f.sequences.group();
    let event = event("n", 5, 1, "", exited());
    let report = Report { node: node(), stream: 1, events: vec![event], gone: vec![] };
    assert_eq!(group.take(report, f.now), acked(5));
    drop(group);
    assert_eq!(f.report(1, [5, 6], &[]), acked(6));
    f.whole(6, &[]);
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut f = Fixture::new();
    for epoch in 0..MAX_HOLES as u64 + 10 {
        let node = NodeEpoch { epoch, ..node() };
        let events = vec![event("n", 9, 1, "", exited())];
        let mut group = f.sequences.group();
        group.take(Report { node, stream: 1, events, gone: vec![] }, f.now);
        group.keep();
    }
    assert_eq!(f.sequences.holes.len(), MAX_HOLES);
    let many: Vec<u64> = (1..5000).map(|n| n * 2).collect();
    assert_eq!(f.report(1, many, &[]).missing.len(), MAX_ASKED);
}

proptest! {
    /// An agent that has lost some, sends in batches over streams that break, and answers as it should.
    #[test]
    fn every_number_is_in_the_log_or_in_a_gap_once(
        lost in prop::collection::btree_set(1u64..200, 0..100),
        steps in prop::collection::vec((1usize..30, any::<bool>(), any::<bool>()), 1..100),
    ) {
        let mut f = Fixture::new();
        let has: Vec<u64> = (1..=200).filter(|seq| !lost.contains(seq)).collect();
        let (mut stream, mut sent, mut acked) = (1, 0, 0);
        // As long as it is not done: batches without a break.
        let steps = steps.into_iter().chain(std::iter::repeat((50, false, true)));
        for (n, breaks, tells) in steps.take(400) {
            if breaks {
                (stream, sent) = (stream + 1, acked);
            }
            let batch: Vec<u64> = has.iter().copied().filter(|seq| *seq > sent).take(n).collect();
            let mut gone = Vec::new();
            let mut at = sent;
            for seq in &batch {
                if tells && *seq > at + 1 {
                    gone.push(range(at + 1, seq - 1));
                }
                at = *seq;
            }
            sent = at;
            let answer = f.report(stream, batch, &gone);
            prop_assert!(answer.acked >= acked);
            acked = answer.acked;
            if let Some(first) = answer.missing.first() {
                sent = first.first - 1;
            }
            if acked == 200 {
                break;
            }
        }
        prop_assert_eq!(acked, 200);
        let counted: u64 = f.log.iter().filter(|(.., why)| why == GONE).map(|(_, n, _)| n).sum();
        prop_assert_eq!(counted, lost.len() as u64);
        let gaps: Vec<_> = f.log.iter().filter(|(.., why)| !why.is_empty()).map(|(s, n, w)| (*s, *n, w.as_str())).collect();
        f.whole(200, &gaps);
    }
}
