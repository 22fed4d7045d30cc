//! One thread writes the log. What agents report at the same time becomes one batch with one fsync; numbers that
//! came before are passed over, numbers that are missing become a gap.
//!
//! Nothing is acknowledged before the log has it. After a failed write nobody can tell what is on the disk: the
//! thread ends, and the collector with it; the next start reads what is there.

use std::{
    collections::BTreeMap,
    io,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Instant,
};

use podtrail_proto::v1;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::log::{DiskLog, NodeEpoch, Reached};
use crate::{
    telemetry::{
        Emit as _,
        collector::{BatchCommitted, LogFailed, SequenceMissing},
    },
    trail::{Indexed, Moment, log::LogError},
};

/// Reports that become one batch, and how long they are together.
const MAX_GROUP: usize = 64;
const MAX_GROUP_BYTES: usize = 16 * 1024 * 1024;
/// Length of the reports that may wait; more of them wait in their streams, and so in the agents.
const MAX_WAITING_BYTES: usize = 64 * 1024 * 1024;

/// Events of one node, checked, in ascending order of their numbers.
#[derive(Debug)]
struct Report {
    node: NodeEpoch,
    events: Vec<v1::Event>,
    bytes: usize,
    /// gets the number up to which all is in the log
    done: oneshot::Sender<u64>,
}

#[derive(Debug)]
enum Order {
    Write(Report),
    Finish,
}

/// Hands reports to the thread.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    orders: mpsc::Sender<Order>,
    room: Arc<Semaphore>,
}

/// The thread has ended: nothing is written any more.
#[derive(Debug)]
pub(super) struct Ended;

impl Writer {
    /// Starts the thread; `failed` is cancelled if it has to give up.
    pub(super) fn start(
        indexed: Arc<Indexed<DiskLog>>,
        failed: CancellationToken,
    ) -> Result<(Self, JoinHandle<Result<(), LogError>>), LogError> {
        let sequences = indexed.log().sequences()?;
        let (orders, rx) = mpsc::channel(MAX_GROUP);
        let thread = thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || {
                // Dropped however this ends, by a panic too.
                let _failed = failed.drop_guard();
                run(&indexed, sequences, rx).inspect_err(|e| LogFailed { error: &e.to_string() }.emit())
            })
            .map_err(|source: io::Error| LogError::Io {
                call: "start",
                path: "a thread".to_owned(),
                source,
            })?;
        Ok((Self { orders, room: Arc::new(Semaphore::new(MAX_WAITING_BYTES)) }, thread))
    }

    /// Waits until these events are in the log; returns the number up to which the node's are.
    pub(super) async fn write(&self, node: NodeEpoch, events: Vec<v1::Event>) -> Result<u64, Ended> {
        let bytes = events.iter().map(prost::Message::encoded_len).sum::<usize>().clamp(1, MAX_WAITING_BYTES);
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        let _room = self.room.acquire_many(permits).await.map_err(|_| Ended)?;
        let (done, acked) = oneshot::channel();
        self.orders.send(Order::Write(Report { node, events, bytes, done })).await.map_err(|_| Ended)?;
        acked.await.map_err(|_| Ended)
    }

    /// Lets the thread write what it was given, and end.
    pub(super) async fn finish(&self) {
        // Gone already: then it is finished.
        _ = self.orders.send(Order::Finish).await;
    }
}

fn run(
    indexed: &Indexed<DiskLog>,
    mut sequences: BTreeMap<NodeEpoch, Reached>,
    mut orders: mpsc::Receiver<Order>,
) -> Result<(), LogError> {
    let mut finish = false;
    while !finish && let Some(Order::Write(first)) = orders.blocking_recv() {
        let mut bytes = first.bytes;
        let mut group = vec![first];
        while group.len() < MAX_GROUP
            && bytes < MAX_GROUP_BYTES
            && let Ok(order) = orders.try_recv()
        {
            let Order::Write(report) = order else {
                finish = true;
                break;
            };
            bytes += report.bytes;
            group.push(report);
        }
        write(indexed, &mut sequences, group)?;
    }
    Ok(())
}

fn write(
    indexed: &Indexed<DiskLog>,
    sequences: &mut BTreeMap<NodeEpoch, Reached>,
    group: Vec<Report>,
) -> Result<(), LogError> {
    let began = Instant::now();
    let mut batch = Vec::new();
    let mut duplicates = 0;
    let mut acks = Vec::with_capacity(group.len());
    for Report { node, events, bytes: _, done } in group {
        let reached = sequences.entry(node.clone()).or_default();
        for event in events {
            let seq = event.id.as_ref().map_or(0, |id| id.seq);
            if seq <= reached.seq {
                duplicates += 1;
                continue;
            }
            let time = event.time.as_ref().map_or(reached.time, Moment::from_timestamp);
            if seq > reached.seq + 1 {
                batch.push(Arc::new(gap(&node, reached, seq, time)));
            }
            *reached = Reached { seq, time, cursor: 0 };
            batch.push(Arc::new(event));
        }
        acks.push((done, reached.seq));
    }
    let events = batch.len() as u64;
    if events > 0 {
        indexed.append(batch)?;
    }
    BatchCommitted { events, duplicates, took: began.elapsed() }.emit();
    for (done, seq) in acks {
        // A stream that is gone asks again when it comes back.
        _ = done.send(seq);
    }
    Ok(())
}

/// Says that the numbers between `reached` and `seq` never came. It takes the first of them as its own.
fn gap(node: &NodeEpoch, reached: &Reached, seq: u64, time: Moment) -> v1::Event {
    let NodeEpoch { cluster, node, epoch } = node.clone();
    let (first, count) = (reached.seq + 1, seq - reached.seq - 1);
    SequenceMissing { cluster: &cluster, node: &node, epoch, first, count }.emit();
    let gap = v1::Gap {
        source: Some(v1::GapSource::CollectorSequence.into()),
        count: Some(count),
        exact: Some(true),
        // Before the first that ever came nothing is known.
        from: (reached.seq > 0).then(|| reached.time.timestamp()),
        to: Some(time.timestamp()),
        session_ids: Vec::new(),
        detail: "event numbers".to_owned(),
    };
    v1::Event {
        id: Some(v1::EventId { cluster, node, epoch, seq: first }),
        time: Some(time.timestamp()),
        body: Some(v1::event::Body::Gap(gap)),
        ..v1::Event::default()
    }
}
