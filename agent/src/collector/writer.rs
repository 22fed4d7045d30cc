//! One thread writes the log. What agents report at the same time becomes one batch with one fsync; what is taken of
//! it `sequence` decides.
//!
//! Nothing is acknowledged before the log has it. After a failed write nobody can tell what is on the disk: the
//! thread ends, and the collector with it; the next start reads what is there.

use std::{
    io,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Instant,
};

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    log::DiskLog,
    sequence::{Answer, Report, Sequences},
};
use crate::{
    telemetry::{
        Emit as _,
        collector::{BatchCommitted, LogFailed},
    },
    trail::{Indexed, log::LogError},
};

/// Reports that become one batch, and how long they are together.
const MAX_GROUP: usize = 64;
const MAX_GROUP_BYTES: usize = 16 * 1024 * 1024;
/// Length of the reports that may wait; more of them wait in their streams, and so in the agents.
const MAX_WAITING_BYTES: usize = 64 * 1024 * 1024;

/// A report that waits to be written.
#[derive(Debug)]
struct Waiting {
    report: Report,
    bytes: usize,
    done: oneshot::Sender<Answer>,
}

#[derive(Debug)]
enum Order {
    Write(Waiting),
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
        let sequences = Sequences::new(indexed.log().sequences()?);
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

    /// Waits until what can be taken of it is in the log.
    pub(super) async fn write(&self, report: Report) -> Result<Answer, Ended> {
        let bytes = report.events.iter().map(prost::Message::encoded_len).sum::<usize>();
        let bytes = bytes.clamp(1, MAX_WAITING_BYTES);
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        let _room = self.room.acquire_many(permits).await.map_err(|_| Ended)?;
        let (done, answer) = oneshot::channel();
        self.orders.send(Order::Write(Waiting { report, bytes, done })).await.map_err(|_| Ended)?;
        answer.await.map_err(|_| Ended)
    }

    /// Lets the thread write what it was given, and end.
    pub(super) async fn finish(&self) {
        // Gone already: then it is finished.
        _ = self.orders.send(Order::Finish).await;
    }
}

fn run(
    indexed: &Indexed<DiskLog>,
    mut sequences: Sequences,
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
            let Order::Write(waiting) = order else {
                finish = true;
                break;
            };
            bytes += waiting.bytes;
            group.push(waiting);
        }
        write(indexed, &mut sequences, group)?;
    }
    Ok(())
}

fn write(
    indexed: &Indexed<DiskLog>,
    sequences: &mut Sequences,
    waiting: Vec<Waiting>,
) -> Result<(), LogError> {
    let began = Instant::now();
    let mut group = sequences.group();
    let mut answers = Vec::with_capacity(waiting.len());
    for Waiting { report, bytes: _, done } in waiting {
        answers.push((done, group.take(report, began)));
    }
    let batch = std::mem::take(&mut group.batch);
    let (events, duplicates, held) = (batch.len() as u64, group.duplicates, group.held);
    if events > 0 {
        indexed.append(batch)?;
    }
    group.keep();
    BatchCommitted { events, duplicates, held, took: began.elapsed() }.emit();
    for (done, answer) in answers {
        // A stream that is gone asks again when it comes back.
        _ = done.send(answer);
    }
    Ok(())
}
