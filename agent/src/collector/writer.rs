//! One thread writes the log. What agents report at the same time becomes one batch with one fsync; what is taken of
//! it `sequence` decides.
//!
//! Nothing is acknowledged before the log has it. Where it cannot be written, nothing is taken: agents are refused,
//! and keep what they have. A disk that is nearly full is left the room that the store needs to trim and to tidy up.
//! After a failed write nobody can tell what is on the disk: the log is closed and opened again, until it goes.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use podtrail_proto::v1;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    ingest::Taken,
    log::{Beside, DiskLog},
    sequence::{Answer, Report, Sequences},
    watchdog::Pulse,
};
use crate::{
    telemetry::{
        Component, Emit as _,
        collector::{BatchCommitted, LogFailed, LogWritable},
    },
    trail::{Indexed, log::LogError},
};

/// Reports that become one batch, and how long they are together.
const MAX_GROUP: usize = 64;
const MAX_GROUP_BYTES: usize = 8 * 1024 * 1024;
/// Between two attempts to write again: doubled up to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(8));
/// How soon an end is noticed meanwhile.
const TICK: Duration = Duration::from_millis(50);

/// A report that waits to be written.
#[derive(Debug)]
struct Waiting {
    report: Report,
    bytes: usize,
    done: oneshot::Sender<Answer>,
    /// until it is written, though nobody waits for it any more
    room: Taken,
}

#[derive(Debug)]
enum Order {
    Write(Waiting),
    Note(Notes),
    Finish,
}

/// Events of the collector's own, and what is kept with them.
#[derive(Debug)]
struct Notes {
    events: Vec<v1::Event>,
    beside: Vec<Beside>,
    bytes: usize,
    done: oneshot::Sender<()>,
}

/// Hands reports to the thread.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    orders: mpsc::Sender<Order>,
    failing: Arc<AtomicBool>,
}

/// Nothing is written: not now, or not any more.
#[derive(Debug)]
pub(super) struct Unwritten;

impl Writer {
    /// Starts the thread; `failed` is cancelled if it has to give up. `health` hears when the log cannot be written,
    /// `pulse` of every write.
    pub(super) fn start(
        indexed: Arc<Indexed<DiskLog>>,
        health: Component,
        pulse: Pulse,
        failed: CancellationToken,
    ) -> Result<(Self, JoinHandle<Result<(), LogError>>), LogError> {
        let sequences = Sequences::new(indexed.log().sequences()?);
        let (orders, rx) = mpsc::channel(MAX_GROUP);
        let failing = Arc::new(AtomicBool::new(false));
        let state = Arc::clone(&failing);
        let thread = thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || {
                // Dropped however this ends, by a panic too.
                let _failed = failed.drop_guard();
                Thread { indexed, sequences, orders: rx, health, failing: state, pulse }.run()
            })
            .map_err(|source: io::Error| LogError::Io {
                call: "start",
                path: "a thread".to_owned(),
                source,
            })?;
        Ok((Self { orders, failing }, thread))
    }

    /// Waits until what can be taken of it is in the log. It has its room until then.
    pub(super) async fn write(&self, report: Report, room: Taken) -> Result<Answer, Unwritten> {
        if self.failing.load(Ordering::Relaxed) {
            return Err(Unwritten);
        }
        let bytes = report.events.iter().map(prost::Message::encoded_len).sum::<usize>();
        let (done, answer) = oneshot::channel();
        self.orders.send(Order::Write(Waiting { report, bytes, done, room })).await.map_err(|_| Unwritten)?;
        answer.await.map_err(|_| Unwritten)
    }

    /// Waits until an event of the collector's own is in the log.
    pub(super) async fn note(&self, event: v1::Event) -> Result<(), Unwritten> {
        self.notes(vec![event]).await
    }

    /// Waits until all of these are in the log: all of them, or none.
    pub(super) async fn notes(&self, events: Vec<v1::Event>) -> Result<(), Unwritten> {
        self.notes_with(events, Vec::new()).await
    }

    /// The same with what is to be kept beside them.
    pub(super) async fn notes_with(
        &self,
        events: Vec<v1::Event>,
        beside: Vec<Beside>,
    ) -> Result<(), Unwritten> {
        if self.failing.load(Ordering::Relaxed) {
            return Err(Unwritten);
        }
        let bytes = events.iter().map(prost::Message::encoded_len).sum::<usize>();
        let (done, written) = oneshot::channel();
        let notes = Notes { events, beside, bytes, done };
        self.orders.send(Order::Note(notes)).await.map_err(|_| Unwritten)?;
        written.await.map_err(|_| Unwritten)
    }

    /// Lets the thread write what it was given, and end.
    pub(super) async fn finish(&self) {
        // Gone already: then it is finished.
        _ = self.orders.send(Order::Finish).await;
    }
}

struct Thread {
    indexed: Arc<Indexed<DiskLog>>,
    sequences: Sequences,
    orders: mpsc::Receiver<Order>,
    health: Component,
    failing: Arc<AtomicBool>,
    pulse: Pulse,
}

/// What becomes one batch.
#[derive(Default)]
struct Batch {
    reports: Vec<Waiting>,
    notes: Vec<Notes>,
    bytes: usize,
}

impl Thread {
    fn run(mut self) -> Result<(), LogError> {
        let mut finish = false;
        while !finish && let Some(order) = self.orders.blocking_recv() {
            let mut batch = Batch::default();
            finish = !batch.add(order);
            while !finish && batch.has_room() {
                let Ok(order) = self.orders.try_recv() else { break };
                finish = !batch.add(order);
            }
            if let Err(error) = self.write(batch) {
                // A log that cannot be written is no reason to keep anybody from leaving.
                if finish || !self.recover(&error)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, batch: Batch) -> Result<(), LogError> {
        let Batch { reports, notes, bytes: _ } = batch;
        let began = Instant::now();
        let mut group = self.sequences.group();
        let mut answers = Vec::with_capacity(reports.len());
        let mut rooms = Vec::with_capacity(reports.len());
        for Waiting { report, bytes: _, done, room } in reports {
            rooms.push(room);
            answers.push((done, group.take(report, began)));
        }
        let mut batch = std::mem::take(&mut group.batch);
        let (duplicates, held) = (group.duplicates, group.held);
        let mut noted = Vec::with_capacity(notes.len());
        let mut beside = Vec::new();
        for Notes { events, beside: with, bytes: _, done } in notes {
            batch.extend(events.into_iter().map(Arc::new));
            beside.extend(with);
            noted.push(done);
        }
        let events = batch.len() as u64;
        if events > 0 || !beside.is_empty() {
            let _beat = self.pulse.begin();
            self.indexed.log().check_room()?;
            self.indexed.log().append_with(batch, &beside)?;
            self.indexed.catch_up()?;
        }
        group.keep();
        drop(rooms);
        BatchCommitted { events, duplicates, held, took: began.elapsed() }.emit();
        for (done, answer) in answers {
            // A stream that is gone asks again when it comes back.
            _ = done.send(answer);
        }
        for done in noted {
            _ = done.send(());
        }
        Ok(())
    }

    /// Refuses everybody until the log can be written again; `false`: it is to end before.
    fn recover(&mut self, error: &LogError) -> Result<bool, LogError> {
        let mut said = error.to_string();
        self.failing.store(true, Ordering::Relaxed);
        self.health.not_ready(format!("the log cannot be written: {said}"));
        LogFailed { error: &said }.emit();
        let began = Instant::now();
        let mut wait = RETRY.0;
        // Where the disk was only nearly full, nothing has failed, and readers need not wait.
        let mut whole = matches!(error, LogError::Full { .. });
        loop {
            let until = Instant::now() + wait;
            while Instant::now() < until {
                match self.orders.try_recv() {
                    // Dropped: whoever waits for it is refused.
                    Ok(Order::Write(_) | Order::Note(_)) => {}
                    Ok(Order::Finish) | Err(mpsc::error::TryRecvError::Disconnected) => return Ok(false),
                    Err(mpsc::error::TryRecvError::Empty) => thread::sleep(TICK),
                }
            }
            wait = (wait * 2).min(RETRY.1);
            match self.again(whole) {
                Ok(()) => break,
                Err(e) => {
                    whole &= matches!(e, LogError::Full { .. });
                    let now = e.to_string();
                    if now != said {
                        self.health.not_ready(format!("the log cannot be written: {now}"));
                        said = now;
                    }
                }
            }
        }
        self.failing.store(false, Ordering::Relaxed);
        self.health.ready();
        LogWritable { took: began.elapsed() }.emit();
        Ok(true)
    }

    fn again(&mut self, whole: bool) -> Result<(), LogError> {
        self.indexed.log().check_room_to_go_on()?;
        if !whole {
            self.indexed.log().reopen()?;
            // What was not acknowledged may be in it all the same.
            self.indexed.catch_up()?;
            let nodes = self.indexed.index().nodes();
            self.indexed.log().confirm(&nodes)?;
            self.sequences = Sequences::new(self.indexed.log().sequences()?);
        }
        Ok(())
    }
}

impl Batch {
    fn has_room(&self) -> bool {
        self.reports.len() + self.notes.len() < MAX_GROUP && self.bytes < MAX_GROUP_BYTES
    }

    /// `false`: this was the last.
    fn add(&mut self, order: Order) -> bool {
        match order {
            Order::Write(waiting) => {
                self.bytes += waiting.bytes;
                self.reports.push(waiting);
            }
            Order::Note(notes) => {
                self.bytes += notes.bytes;
                self.notes.push(notes);
            }
            Order::Finish => return false,
        }
        true
    }
}
