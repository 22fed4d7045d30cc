//! The spool beside a model of it: whatever is done in whatever order, nothing is lost untold, and nothing comes twice.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{disk_tests::*, tests::*, *};

/// What may be done to it.
#[derive(Clone, Debug)]
enum Step {
    /// a batch of so many events, and a value under one of a few keys, or none any more
    Commit(u8, u8, Option<u8>),
    Take(u8),
    /// so many of those that were taken
    Ack(u8),
    /// the agent is killed, and the next one opens what is on disk
    Kill,
    Stop,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..6_u8, 0..4_u8, any::<Option<u8>>()).prop_map(|(n, key, value)| Step::Commit(n, key, value)),
        3 => (1..9_u8).prop_map(Step::Take),
        3 => (1..9_u8).prop_map(Step::Ack),
        1 => Just(Step::Kill),
        1 => Just(Step::Stop),
    ]
}

/// What must be so.
#[derive(Default)]
struct Model {
    /// what was pushed, by a number of its own
    made: i64,
    /// sent and not acknowledged, oldest first
    flight: Vec<(u64, Bytes)>,
    /// what the consumer has
    received: BTreeMap<u64, Bytes>,
    acked: u64,
    state: BTreeMap<Vec<u8>, Vec<u8>>,
    position: Vec<u8>,
}

impl Model {
    fn commit(&mut self, spool: &Spool, count: u8, key: u8, value: Option<u8>) {
        let mut events: Vec<_> = (0..count)
            .map(|_| {
                self.made += 1;
                event("s", self.made)
            })
            .collect();
        self.position = self.made.to_le_bytes().to_vec();
        let change = (vec![key], value.map(|value| vec![value]));
        let state = Changes(vec![change.clone()]);
        state.clone().apply(&mut self.state);
        let batch = Batch {
            events: &mut events,
            position: self.position.clone(),
            state,
            last: false,
            may_wait: false,
        };
        spool.commit(batch, at(self.made), &mut Vec::new());
    }

    /// What was sent before comes again, the same, and first.
    fn take(&mut self, spool: &Spool, count: u8) {
        let taken = spool.take(self.acked, count.into(), usize::MAX);
        for (at, entry) in taken.into_iter().enumerate() {
            match self.flight.get(at) {
                Some(before) => assert_eq!(*before, (entry.seq, entry.bytes), "sent before"),
                None => {
                    let newest = self.flight.last().map_or(self.acked, |(seq, _)| *seq);
                    assert!(entry.seq > newest, "{} after {newest}", entry.seq);
                    self.flight.push((entry.seq, entry.bytes));
                }
            }
        }
    }

    fn ack(&mut self, spool: &Spool, count: u8) {
        let count = usize::from(count).min(self.flight.len());
        for (seq, bytes) in self.flight.drain(..count) {
            assert_eq!(self.received.insert(seq, bytes), None, "{seq} came twice");
            self.acked = seq;
        }
        assert!(spool.ack(self.acked));
    }

    fn is_restored(&self, saved: &Saved) {
        assert_eq!(saved.findings, Vec::<String>::new());
        if !self.position.is_empty() {
            assert_eq!((saved.source.as_ref(), &saved.state), (Some(&self.position), &self.state));
        }
    }

    /// Everything comes, and what does not is counted, exactly.
    fn finish(mut self, spool: &Spool) {
        for _ in 0..3 {
            loop {
                self.take(spool, 50);
                if self.flight.is_empty() {
                    break;
                }
                self.ack(spool, u8::MAX);
            }
            // Now there is room to tell what was dropped.
            spool.push(&mut Vec::new(), at(self.made), &mut Vec::new());
        }
        let last = spool.fill().last_seq;
        assert_eq!(self.received.keys().next_back().copied().unwrap_or(0), last, "the newest came");
        let missing = last - self.received.len() as u64;
        let events =
            self.received.values().map(|bytes| <v1::Event as prost::Message>::decode(&**bytes).unwrap());
        let (mut counted, mut gaps, mut order) = (0, 0, 0);
        for event in events {
            if let Some(v1::event::Body::Gap(gap)) = event.body {
                assert_eq!((gap.source(), gap.exact), (v1::GapSource::AgentBuffer, Some(true)));
                gaps += 1;
                counted += gap.count();
            } else {
                let number = event.time.unwrap().seconds;
                assert!(number > order, "{number} after {order}");
                order = number;
            }
        }
        // A gap that was dropped itself is one of those missing, and what it counted is in the next one.
        assert_eq!(counted, missing, "{gaps} gaps");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_does_what_its_model_does(
        steps in prop::collection::vec(step(), 1..90),
        max_bytes in prop_oneof![Just(3_000_u64), Just(20_000), Just(64 << 20)],
    ) {
        let mut place = Place::new();
        place.disk.max_bytes = max_bytes;
        place.options.max_bytes = 8192;
        let (mut spool, saved) = place.open();
        let mut model = Model::default();
        model.is_restored(&saved);
        for step in steps {
            match step {
                Step::Commit(count, key, value) => model.commit(&spool, count, key, value),
                Step::Take(count) => model.take(&spool, count),
                Step::Ack(count) => model.ack(&spool, count),
                Step::Kill => {
                    // Acknowledgements of before the last commit are kept with it.
                    spool.push(&mut Vec::new(), at(model.made), &mut Vec::new());
                    let next = killed(&place);
                    drop(spool);
                    place = Place { disk: Disk { dir: next.disk.dir.clone(), ..place.disk.clone() }, options: place.options, ..next };
                    let (next, saved) = place.open();
                    spool = next;
                    model.is_restored(&saved);
                }
                Step::Stop => {
                    push_last(&spool, at(model.made));
                    drop(spool);
                    let (next, saved) = place.open();
                    spool = next;
                    model.is_restored(&saved);
                }
            }
        }
        model.finish(&spool);
    }
}
