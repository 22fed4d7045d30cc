//! Takes in what is watched, and what agents observed, one after the other: has it change what is known of nodes, and has the log
//! written, with the rows that changed and the place up to which it was read. One batch: a kill loses and doubles nothing.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use podtrail_proto::v1::{self, event::Body};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task, time,
};

use super::{
    Settings,
    conditions::Now,
    state::{Name, Nodes, Out, Up},
    watcher::{Change, Position, What},
};
use crate::{
    collector::{
        log::{Beside, DiskLog},
        writer::{Unwritten, Writer},
    },
    telemetry::{
        Emit as _,
        nodes::{NodesMeasured, NodesTaken, NodesUnreadable},
    },
    trail::{Indexed, Moment, log::Cursor},
};

/// Orders that are written together.
const MAX_GROUP: usize = 16;
/// A place that nothing came with is kept so often.
const KEEP: Duration = Duration::from_secs(5);
/// How often it is looked at what time brings.
const TICK: Duration = Duration::from_secs(1);
const AT: &[u8] = b"nodes/at/";
/// What agents observed is taken up to here: cursor u64, big-endian.
pub(super) const AFTER: &[u8] = b"nodes/after";

/// What a watch has come to.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) what: What,
    pub(super) changes: Vec<Change>,
    /// `None`: a part of a list, which will be listed again unless its end comes
    pub(super) position: Option<Position>,
}

#[derive(Debug)]
enum Work {
    Taken(Taken),
    /// and up to which cursor
    Observed(Vec<(Name, v1::NodeObserved)>, Cursor),
}

#[derive(Debug)]
struct Order {
    work: Work,
    done: oneshot::Sender<()>,
}

/// Hands things over.
#[derive(Clone, Debug)]
pub(super) struct Intake {
    orders: mpsc::Sender<Order>,
    indexed: Arc<Indexed<DiskLog>>,
    up: Arc<Mutex<Up>>,
    began: Instant,
    listed: Arc<watch::Sender<bool>>,
}

impl Intake {
    /// Runs until the last handle is gone.
    pub(super) fn start(writer: Writer, indexed: Arc<Indexed<DiskLog>>, settings: Settings) -> Self {
        let (orders, rx) = mpsc::channel(MAX_GROUP);
        let began = Instant::now();
        let up = Arc::new(Mutex::new(Up::default()));
        let listed = Arc::new(watch::Sender::new(false));
        let task = Task {
            writer,
            indexed: indexed.clone(),
            settings,
            nodes: None,
            up: up.clone(),
            began,
            kept: [None, None],
        };
        tokio::spawn(task.run(rx));
        Self { orders, indexed, up, began, listed }
    }

    /// Waits until what follows from it is in the log.
    pub(super) async fn take(&self, taken: Taken) -> Result<(), Unwritten> {
        let nodes = taken.what == What::Nodes && taken.position.is_some();
        self.order(Work::Taken(taken)).await?;
        if nodes {
            self.listed.send_replace(true);
        }
        Ok(())
    }

    pub(super) async fn observed(
        &self,
        observed: Vec<(Name, v1::NodeObserved)>,
        upto: Cursor,
    ) -> Result<(), Unwritten> {
        self.order(Work::Observed(observed, upto)).await
    }

    async fn order(&self, work: Work) -> Result<(), Unwritten> {
        let (done, written) = oneshot::channel();
        self.orders.send(Order { work, done }).await.map_err(|_| Unwritten)?;
        written.await.map_err(|_| Unwritten)
    }

    /// Waits until it is known which nodes there are; not for ever, since that may be forbidden.
    pub(super) async fn listed(&self, patience: Duration) {
        let mut listed = self.listed.subscribe();
        // The sender is here.
        _ = time::timeout(patience, listed.wait_for(|listed| *listed)).await;
    }

    /// Where a watch was; asked until the log can be read. `Err`: it is closed for good.
    pub(super) async fn position(&self, what: What) -> Result<Option<Position>, Unwritten> {
        let key = key(what);
        let found = self.read(key).await?;
        Ok(found.and_then(|value| postcard::from_bytes(&value).ok()))
    }

    /// What is kept beside the log under a key.
    pub(super) async fn read(&self, key: Vec<u8>) -> Result<Option<Vec<u8>>, Unwritten> {
        loop {
            let (indexed, wanted) = (self.indexed.clone(), key.clone());
            let found = task::spawn_blocking(move || indexed.log().beside(&wanted)).await;
            match found.map_err(|_panicked| Unwritten)? {
                Ok(found) => {
                    return Ok(found.into_iter().find(|(own, _)| *own == key).map(|(_, value)| value));
                }
                // It is opened again.
                Err(_closed) => time::sleep(TICK).await,
            }
            if self.orders.is_closed() {
                return Err(Unwritten);
            }
        }
    }

    /// A watch is heard.
    pub(super) fn up(&self, what: What) {
        let now = steady(self.began);
        _ = match what {
            What::Nodes => *lock(&self.up).nodes.get_or_insert(now),
            What::Events { .. } => *lock(&self.up).events.get_or_insert(now),
        };
    }

    /// And is not any more.
    pub(super) fn down(&self, what: What) {
        match what {
            What::Nodes => lock(&self.up).nodes = None,
            What::Events { .. } => lock(&self.up).events = None,
        }
    }
}

// Every change leaves it whole.
fn lock(up: &Mutex<Up>) -> MutexGuard<'_, Up> {
    up.lock().unwrap_or_else(PoisonError::into_inner)
}

fn steady(began: Instant) -> i64 {
    i64::try_from(began.elapsed().as_nanos()).unwrap_or(i64::MAX)
}

fn key(what: What) -> Vec<u8> {
    [AT, what.name().as_bytes()].concat()
}

struct Task {
    writer: Writer,
    indexed: Arc<Indexed<DiskLog>>,
    settings: Settings,
    /// `None`: what is in the log is not known
    nodes: Option<Nodes>,
    up: Arc<Mutex<Up>>,
    began: Instant,
    /// when a place was last written: of nodes, of events
    kept: [Option<Instant>; 2],
}

impl Task {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut tick = time::interval(TICK);
        tick.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let mut group = Vec::new();
        loop {
            tokio::select! {
                taken = orders.recv_many(&mut group, MAX_GROUP) => if taken == 0 { return },
                _ = tick.tick() => {}
            }
            // Where it cannot be written all are dropped, and whoever waits begins again.
            if self.write(std::mem::take(&mut group)).await.is_err() {
                self.nodes = None;
            }
        }
    }

    fn now(&self) -> Now {
        Now { wall: Moment::now(), steady: steady(self.began) }
    }

    async fn write(&mut self, orders: Vec<Order>) -> Result<(), Unwritten> {
        let mut nodes = match self.nodes.take() {
            Some(nodes) => nodes,
            None => self.load().await?,
        };
        let (now, mut out, mut written) = (self.now(), Out::default(), Vec::new());
        let (mut kept, mut place) = (self.kept, Vec::new());
        let time = orders.is_empty();
        for Order { work, done } in orders {
            written.push(done);
            match work {
                Work::Taken(Taken { what, changes, position }) => {
                    for change in changes {
                        self.change(&mut nodes, what, change, now, &mut out);
                    }
                    if let Some(position) = position {
                        let at = usize::from(what != What::Nodes);
                        let late = kept[at].is_none_or(|kept| kept.elapsed() >= KEEP);
                        let value = postcard::to_stdvec(&position).ok();
                        place.push((at, late, Beside { key: key(what), value }));
                    }
                }
                Work::Observed(observed, upto) => {
                    for (name, observed) in &observed {
                        nodes.observed(name, observed, now, &mut out);
                    }
                    out.beside.push(Beside { key: AFTER.to_vec(), value: Some(upto.to_be_bytes().to_vec()) });
                }
            }
        }
        if time {
            let up = *lock(&self.up);
            nodes.tick(up, now, &mut out);
            let (count, bad, unknown, stale) = nodes.counts();
            NodesMeasured { count, bad, unknown, stale, up: [up.nodes.is_some(), up.events.is_some()] }
                .emit();
        }
        nodes.keep(&mut out);
        let Out { events, mut beside, replays, duplicates } = out;
        let something = !events.is_empty() || !beside.is_empty();
        for (at, late, place) in place {
            if something || late {
                kept[at] = Some(Instant::now());
                beside.push(place);
            }
        }
        let told = events.len() as u64;
        if !events.is_empty() || !beside.is_empty() {
            self.writer.notes_with(events, beside).await?;
        }
        (self.nodes, self.kept) = (Some(nodes), kept);
        NodesTaken { events: told, replays, duplicates }.emit();
        for done in written {
            // Who does not wait any more begins again from what is written.
            _ = done.send(());
        }
        Ok(())
    }

    fn change(&self, nodes: &mut Nodes, what: What, change: Change, now: Now, out: &mut Out) {
        match change {
            Change::Node(node) => nodes.node(&node, now, out),
            Change::NodeGone(name) => nodes.node_gone(&name, now, out),
            Change::Only(names) => nodes.only(&names, now, out),
            Change::Event(event, updated) => nodes.event(&event, updated, now, out),
            Change::Gap { since, count, why } => {
                NodesUnreadable { what: what.name(), why: &why, count }.emit();
                out.events.push(self.gap(since, count, why, now));
            }
        }
    }

    fn gap(&self, since: Option<Moment>, count: u64, why: String, now: Now) -> v1::Event {
        let gap = v1::Gap {
            source: Some(v1::GapSource::Kubernetes.into()),
            count: Some(count),
            exact: Some(count > 0),
            from: since.map(|since| since.min(now.wall).timestamp()),
            to: Some(now.wall.timestamp()),
            session_ids: Vec::new(),
            detail: why,
        };
        v1::Event {
            id: Some(v1::EventId { cluster: self.settings.cluster.clone(), ..v1::EventId::default() }),
            time: Some(now.wall.timestamp()),
            body: Some(Body::Gap(gap)),
            ..v1::Event::default()
        }
    }

    /// Reads what the log knows: at the start, and after a write of which nobody can say whether it was done.
    async fn load(&self) -> Result<Nodes, Unwritten> {
        let (indexed, settings, now) = (self.indexed.clone(), self.settings.clone(), self.now());
        let loaded = task::spawn_blocking(move || Nodes::load(indexed.log(), settings, now)).await;
        loaded.map_err(|_panicked| Unwritten)?.map_err(|_closed| Unwritten)
    }
}
