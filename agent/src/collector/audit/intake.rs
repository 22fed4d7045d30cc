//! Takes audit in, whichever way it comes, one batch after the other: passes over what was kept before, has the log
//! written, and says so once it is.
//!
//! Who sent a batch may be gone before it is written, and send it again: here nothing is given up half-way.

use std::sync::Arc;

use podtrail_proto::v1::{self, event::Body};
use prost::Message as _;
use tokio::{
    sync::{mpsc, oneshot},
    task,
};

use super::{
    event::{self, Batch},
    heard::{Heard, Source},
};
use crate::{
    collector::{
        log::{Beside, DiskLog},
        seen::Seen,
        writer::{Unwritten, Writer},
    },
    telemetry::{
        Emit as _,
        audit::{AuditTaken, AuditUnreadable},
    },
    trail::{Indexed, Moment},
};

/// Requests that were kept.
const SEEN: &[u8] = b"audit/seen/";
/// Batches that are written together.
const MAX_GROUP: usize = 64;

/// What came from a source at once.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) batch: Batch,
    /// what of it cannot be read
    pub(super) gaps: Vec<v1::Gap>,
    /// how far the source is read with it
    pub(super) beside: Vec<Beside>,
    /// nothing is missing between what came before and this, but for the gaps
    pub(super) whole: bool,
}

#[derive(Debug)]
struct Order {
    source: Source,
    part: Part,
    done: oneshot::Sender<()>,
}

/// Hands batches over.
#[derive(Clone, Debug)]
pub(super) struct Intake {
    orders: mpsc::Sender<Order>,
    heard: Heard,
}

impl Intake {
    /// Runs until the last handle is gone.
    pub(super) fn start(writer: Writer, indexed: Arc<Indexed<DiskLog>>, heard: Heard) -> Self {
        let (orders, rx) = mpsc::channel(MAX_GROUP);
        tokio::spawn(Task { writer, indexed, heard: heard.clone(), seen: None }.run(rx));
        Self { orders, heard }
    }

    /// Waits until what is kept of it is in the log.
    pub(super) async fn take(&self, source: &Source, part: Part) -> Result<(), Unwritten> {
        let (done, written) = oneshot::channel();
        let order = Order { source: source.clone(), part, done };
        self.orders.send(order).await.map_err(|_| Unwritten)?;
        written.await.map_err(|_| Unwritten)
    }

    /// Something of this source was not taken, and it is told to come again.
    pub(super) fn put_off(&self, source: &Source) {
        self.heard.put_off(source);
    }
}

struct Task {
    writer: Writer,
    indexed: Arc<Indexed<DiskLog>>,
    heard: Heard,
    /// `None`: what is in the log is not known
    seen: Option<Seen>,
}

impl Task {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut group = Vec::new();
        while orders.recv_many(&mut group, MAX_GROUP).await > 0 {
            // Where it cannot be written all are dropped, whoever waits is refused, and what is in the log is read anew.
            _ = self.write(std::mem::take(&mut group)).await;
        }
    }

    async fn write(&mut self, orders: Vec<Order>) -> Result<(), Unwritten> {
        let mut seen = match self.seen.take() {
            Some(seen) => seen,
            None => self.load().await?,
        };
        let (mut events, mut beside, mut written) = (Vec::new(), Vec::new(), Vec::new());
        let (mut heard, mut duplicates) = (0, 0);
        for Order { source, part, done } in orders {
            let Part { batch, gaps, beside: position, whole } = part;
            let broken = !gaps.is_empty();
            let Batch { requests, events: count, first, last } = batch;
            heard += count;
            for request in requests {
                debug_assert!(request.source.is_empty(), "the same request comes by several ways");
                if seen.add(Seen::print(&source.cluster, &request.encode_to_vec()), &mut beside) {
                    events.push(event::message(&source.cluster, &source.name, request));
                } else {
                    duplicates += 1;
                }
            }
            for gap in gaps {
                AuditUnreadable { source: &source.name, detail: &gap.detail, count: gap.count() }.emit();
                events.push(message(&source, gap));
            }
            beside.extend(position);
            written.push((source, first.zip(last), whole, broken, done));
        }
        let requests = events.len() as u64;
        if !events.is_empty() || !beside.is_empty() {
            self.writer.notes_with(events, beside).await?;
        }
        self.seen = Some(seen);
        AuditTaken { events: heard, requests, duplicates }.emit();
        for (source, stages, whole, broken, done) in written {
            if let Some((first, last)) = stages {
                self.heard.hear(&source, first, last, whole);
            }
            if broken {
                self.heard.interrupt(&source);
            }
            // Who does not wait any more sends it again.
            _ = done.send(());
        }
        Ok(())
    }

    /// Reads what the log knows: at the start, and after a write of which nobody can say whether it was done.
    async fn load(&self) -> Result<Seen, Unwritten> {
        let indexed = self.indexed.clone();
        let loaded = task::spawn_blocking(move || Seen::load(indexed.log(), SEEN)).await;
        loaded.map_err(|_panicked| Unwritten)?.map_err(|_closed| Unwritten)
    }
}

/// A gap as an event of the log.
fn message(source: &Source, gap: v1::Gap) -> v1::Event {
    v1::Event {
        id: Some(v1::EventId { cluster: source.cluster.clone(), ..v1::EventId::default() }),
        time: gap.to.or_else(|| Some(Moment::now().timestamp())),
        body: Some(Body::Gap(gap)),
        ..v1::Event::default()
    }
}
