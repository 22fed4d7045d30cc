//! Opening the spool: the parts on disk, and whose numbers come next.

use std::{
    fs::{self, File, TryLockError},
    os::unix::fs::DirBuilderExt as _,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use super::{
    Disk, Fsync, Identity, Options, Saved, Spool, SpoolError,
    before::{Before, Left, Marks},
    commit::Writer,
    gap::Pending,
    inner::{EpochOf, Epochs, Inner},
    keeper::Keeper,
    mark::{self, Mark, Slot},
    store::{Store, StoreError, move_aside, open_private},
};
use crate::trail::Moment;

/// Below the directory.
pub(super) const SPOOL: &str = "spool";

/// How long a start waits for a store that is full or locked, and between its attempts.
const WAIT: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(50);

/// What this agent is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub cluster: String,
    pub name: String,
    pub boot_id: String,
}

pub(super) type Parts = (Arc<Store>, Keeper, File);

impl Spool {
    /// The spool in `disk.dir`, as the agent before left it; a new one, where there is none. Whatever is wrong with
    /// it, the agent can run: in memory, if it must be, until the disk is well. Only a directory that another agent
    /// uses is refused.
    pub fn open(
        node: &Node,
        options: Options,
        disk: &Disk,
        now: Moment,
    ) -> Result<(Self, Saved), SpoolError> {
        let mut writer = Writer { disk: Some(disk.clone()), node: Some(node.clone()), ..Writer::default() };
        let mut found =
            Opened { pending: Pending::default(), saved: Saved::default(), marks: Marks::default() };
        let begun = Instant::now();
        let opened = loop {
            match found.open(&mut writer, node, disk, now) {
                Err(OpenError::Locked) => {
                    return Err(SpoolError::Locked { path: disk.dir.display().to_string() });
                }
                // The ring keeps what comes meanwhile.
                Err(OpenError::Store(error)) if error.may_pass() && begun.elapsed() < WAIT => {
                    thread::sleep(PAUSE);
                }
                Err(OpenError::Store(error)) => break Err(error),
                Ok(opened) => break Ok(opened),
            }
        };
        let Opened { mut pending, mut saved, marks } = found;
        let mut inner = match opened {
            Ok((parts, before)) => {
                writer.install(parts, &before);
                if saved.source.is_none() {
                    before.forget_state(&mut pending, now);
                }
                let mut inner = before.inner(node, now, &mut writer);
                inner.store.clone_from(&writer.store);
                inner
            }
            Err(error) => without(node, now, marks, &error, &mut writer, &mut pending, &mut saved),
        };
        inner.pending = pending;
        writer.life = writer.new_life_of(&inner);
        if saved.source.is_none() {
            (writer.wants_state, writer.new_state, writer.ends.position) = (true, true, None);
        }
        // What an agent with a collector left is for a collector.
        let acknowledged = options.acknowledged || inner.acked < inner.last;
        Ok((Self::with(Options { acknowledged, ..options }, inner, writer), saved))
    }
}

/// What opening finds besides.
pub(super) struct Opened {
    pub(super) pending: Pending,
    pub(super) saved: Saved,
    pub(super) marks: Marks,
}

/// Why it cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// another agent uses it
    #[error("another podtrail-agent uses it")]
    Locked,
    /// {0}
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Opened {
    /// The parts on disk, and what is there. Of the `writer` nothing changes but the lock.
    pub(super) fn open(
        &mut self,
        writer: &mut Writer,
        node: &Node,
        disk: &Disk,
        now: Moment,
    ) -> Result<(Parts, Before), OpenError> {
        if writer.lock.is_none() {
            writer.lock = Some(take_lock(&disk.dir)?);
        }
        let path = disk.dir.join(SPOOL);
        let marks = path.join("mark");
        self.marks =
            Marks { store: Mark::read(&marks, Slot::Store), memory: Mark::read(&marks, Slot::Memory) };
        if self.marks.memory.is_some_and(|memory| writer.slot == Slot::Memory && memory.epoch == writer.epoch)
        {
            self.marks.memory = None; // of this agent itself
        }
        let (parts, left) = match parts(&path, disk) {
            Err(error) if error.is_damage() => {
                set_aside(&path, &error, now, &mut self.saved)?;
                let (parts, left) = parts(&path, disk)?;
                // It must outlive this agent too.
                for (mark, slot) in [(self.marks.store, Slot::Store), (self.marks.memory, Slot::Memory)] {
                    if let Some(mark) = mark {
                        let _ = mark.write(&parts.2, slot);
                    }
                }
                (parts, left)
            }
            other => other?,
        };
        let Self { pending, saved, marks } = self;
        let before = Before::find(left, *marks, node, disk, now, pending, saved);
        Ok((parts, before))
    }
}

impl Before {
    fn inner(self, node: &Node, now: Moment, writer: &mut Writer) -> Inner {
        let Self { mut epochs, goes_on, last, acked, sent, logged, dropped, places, ends, newest, since: _ } =
            self;
        let now = now.max(Moment(newest.cast_signed().saturating_add(1)));
        let fresh = |_: &mut Vec<EpochOf>| new_epoch(node, last, now);
        let newest =
            if goes_on { epochs.pop().unwrap_or_else(|| fresh(&mut epochs)) } else { fresh(&mut epochs) };
        let mut inner = Inner::new(newest.identity.clone());
        writer.epoch = newest.identity.epoch;
        inner.epochs = Epochs::new(epochs, newest);
        inner.epochs.forget_before(places.first().map_or(last, |place| place.first.min(acked)));
        (inner.last, inner.stored, inner.acked, inner.sent) = (last, last, acked, sent);
        (inner.marked, inner.declared) = (last, sent);
        (inner.logged, inner.dropped) = (logged, dropped);
        (inner.disk_bytes, inner.disk_events) = (ends.bytes, ends.events);
        places.into_iter().for_each(|place| inner.see(place));
        inner
    }
}

/// There is no store for now: events are in memory only, in an epoch of their own.
fn without(
    node: &Node,
    now: Moment,
    marks: Marks,
    error: &StoreError,
    writer: &mut Writer,
    pending: &mut Pending,
    saved: &mut Saved,
) -> Inner {
    let Some(disk) = writer.disk.clone() else { return Inner::new(new_epoch(node, 0, now).identity) };
    tracing::error!(%error, "no spool on disk: events are kept in memory, and lost if the agent is killed; it is tried again every second");
    saved.findings.push(format!("no spool on disk: {error}"));
    saved.last_at_work = marks.at_work();
    let now = now.max(Moment(marks.epoch().unwrap_or_default().cast_signed().saturating_add(1)));
    // The store's events come when it can be opened, before these: so far ahead no spool has ever come.
    let mut last = u64::try_from(now.0 / 1000).unwrap_or_default().max(marks.last());
    let mut acked = last;
    let mut newest = new_epoch(node, last, now);
    // An agent that had no store either goes on: what it had, and the collector has not, is missed by its number.
    if let Some(memory) = marks.memory.filter(|memory| memory.boot == mark::boot(&node.boot_id)) {
        (newest.identity.epoch, newest.base, last) = (memory.epoch, memory.base, memory.last);
        acked = memory.acked;
        let why = "an agent that could not open the spool had events in memory only";
        let count = memory.last.saturating_sub(memory.acked);
        pending.unreadable(count, memory.sent <= memory.acked, memory.at_work, now, why);
    }
    let mut inner = Inner::new(newest.identity.clone());
    writer.epoch = newest.identity.epoch;
    inner.epochs = Epochs::new(Vec::new(), newest);
    (inner.last, inner.stored, inner.acked, inner.sent) = (last, last, acked, last);
    inner.set_trouble(Some(error.to_string()));
    writer.mark = open_private(&disk.dir.join(SPOOL).join("mark")).ok();
    writer.slot = Slot::Memory;
    inner.marked = if writer.mark.is_some() { last } else { u64::MAX };
    inner
}

/// The store, made where it is missing, and what is in it.
fn parts(path: &Path, disk: &Disk) -> Result<(Parts, Option<Left>), StoreError> {
    let parts = fresh(path, disk)?;
    let left = Left::read(&parts.0)?;
    Ok((parts, left))
}

/// Opens or makes the store at `path`.
fn fresh(path: &Path, disk: &Disk) -> Result<Parts, StoreError> {
    make_dir(path).map_err(|e| StoreError::Io("make the spool's directory", e))?;
    let store = Store::open(&path.join("store.db"), disk.fsync == Fsync::Always)?;
    let keeper = Keeper::start(&store, disk)?;
    let mark = open_private(&path.join("mark")).map_err(|e| StoreError::Io("open the spool's mark", e))?;
    Ok((Arc::new(store), keeper, mark))
}

/// What cannot be read goes out of the way; only the latest of its kind is kept.
fn set_aside(path: &Path, error: &StoreError, now: Moment, saved: &mut Saved) -> Result<(), StoreError> {
    let why = if matches!(error, StoreError::Newer(_)) { "newer" } else { "damaged" };
    let to = move_aside(path, why, now).map_err(|e| StoreError::Io("move the damaged spool aside", e))?;
    tracing::error!(%error, aside = %to.display(), "the spool cannot be read: moved aside, and begun anew");
    saved.findings.push(format!("spool: {error}: moved to {}", to.display()));
    Ok(())
}

fn new_epoch(node: &Node, base: u64, now: Moment) -> EpochOf {
    let Node { cluster, name, boot_id: _ } = node.clone();
    let epoch = u64::try_from(now.0).unwrap_or(1).max(1);
    EpochOf { identity: Identity { cluster, node: name, epoch }, base, end: u64::MAX }
}

fn take_lock(dir: &Path) -> Result<File, OpenError> {
    let io = |what| move |e| StoreError::Io(what, e);
    make_dir(dir).map_err(io("make the spool's directory"))?;
    let file = open_private(&dir.join("lock")).map_err(io("open the spool's lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked),
        Err(TryLockError::Error(e)) => Err(io("lock the spool")(e).into()),
    }
}

/// Commands and their arguments are nobody else's business.
fn make_dir(path: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}
