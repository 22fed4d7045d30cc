//! Opening the spool: what the agent before left, whether it can be trusted, and whose numbers come next.

use std::{
    fs::{self, File, TryLockError},
    os::unix::fs::DirBuilderExt as _,
    path::Path,
    sync::Arc,
};

use super::{
    Disk, Fsync, Identity, Options, Saved, Spool, SpoolError,
    commit::Writer,
    gap::Pending,
    inner::{EpochOf, Epochs, Inner},
    keeper::Keeper,
    mark::{Mark, Slot},
    meta::{self, ENDS, Ends, GAPS, Gaps, LIFE, Life},
    row::Place,
    store::{Store, StoreError, move_aside, open_private},
};
use crate::{state::State, trail::Moment};

/// Below the directory.
pub(super) const SPOOL: &str = "spool";

/// What this agent is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub cluster: String,
    pub name: String,
    pub boot_id: String,
}

type Parts = (Arc<Store>, Keeper, File);

/// What the store says of the agent before.
struct Left {
    life: Life,
    ends: Ends,
    gaps: Gaps,
    /// `None`: it is damaged
    state: Option<State>,
    /// newest first
    places: Vec<Place>,
}

impl Spool {
    /// The spool in `disk.dir`, as the agent before left it; a new one, where there is none. Whatever is wrong with
    /// it, the agent can run: in memory, if it must be. Only a directory that another agent uses is refused.
    pub fn open(
        node: &Node,
        options: Options,
        disk: &Disk,
        now: Moment,
    ) -> Result<(Self, Saved), SpoolError> {
        let mut saved = Saved::default();
        let mut pending = Pending::default();
        let lock = match take_lock(&disk.dir) {
            Ok(lock) => lock,
            Err(Some(error)) => {
                let inner = inner(node, Vec::new(), 0, now);
                let writer = Writer::default();
                return Ok((Self::without_disk(options, inner, writer, &error, &mut saved), saved));
            }
            Err(None) => return Err(SpoolError::Locked { path: disk.dir.display().to_string() }),
        };
        let path = disk.dir.join(SPOOL);
        let marks = path.join("mark");
        let mark = Mark::read(&marks, Slot::Store);
        let memory = Mark::read(&marks, Slot::Memory);
        if let Some(memory) = memory {
            let (count, exact) = memory.unacked();
            let from = mark.map_or(memory.at_work, |mark| mark.at_work);
            let why = "an agent that could not open the spool had events in memory only";
            pending.unreadable(count, exact, from, memory.at_work, why);
            saved.findings.push(format!("spool: {why} ({count} were not acknowledged)"));
        }
        let now = memory.map_or(now, |memory| now.max(Moment(memory.epoch.cast_signed().saturating_add(1))));
        let opened = match parts(&path, disk) {
            Ok((parts, left)) => Ok((parts, left)),
            Err(error) if error.is_damage() => set_aside(&path, &error, mark, now, &mut pending, &mut saved)
                .and_then(|()| parts(&path, disk)),
            Err(error) => Err(error),
        };
        let ((store, keeper, file), left) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                // The store's events are sent when it can be opened. What it never got is counted then.
                if let Some(mark) = mark {
                    let detail = "the spool cannot be opened: what it has comes later, or is missing";
                    pending.unreadable(0, false, mark.at_work, now, detail);
                }
                saved.last_at_work = memory.or(mark).map(|mark| mark.at_work);
                let after = mark.map_or(Moment::MIN, |mark| Moment(mark.epoch.cast_signed()));
                let mut inner = inner(node, Vec::new(), 0, now.max(Moment(after.0.saturating_add(1))));
                inner.pending = pending;
                let writer = Writer {
                    _lock: Some(lock),
                    mark: open_private(&marks).ok(),
                    slot: Slot::Memory,
                    carries: memory.is_some(),
                    ..Writer::default()
                };
                return Ok((Self::without_disk(options, inner, writer, &error, &mut saved), saved));
            }
        };
        let mut writer = Writer {
            disk: Some(disk.clone()),
            _lock: Some(lock),
            store: Some(Arc::clone(&store)),
            keeper: Some(keeper),
            mark: Some(file),
            new_life: true,
            ..Writer::default()
        };
        let mut inner = match left {
            None => {
                // The mark is never there without a store, but where that has lost everything.
                if let Some(mark) = mark.filter(|_| saved.findings.is_empty()) {
                    let why = "the spool on disk has lost everything";
                    pending.unreadable(mark.last.saturating_sub(mark.acked), false, mark.at_work, now, why);
                    saved.findings.push(format!("spool: {why}: a new epoch begins"));
                    saved.last_at_work = Some(mark.at_work);
                }
                let after = mark.map_or(Moment::MIN, |mark| Moment(mark.epoch.cast_signed()));
                inner(node, Vec::new(), 0, now.max(Moment(after.0.saturating_add(1))))
            }
            Some(left) => {
                resume(left, (mark, memory), node, disk, now, &mut pending, &mut writer, &mut saved)
            }
        };
        inner.declared = inner.sent;
        inner.store = Some(store);
        inner.pending = pending;
        writer.life = Life {
            epochs: inner.epochs.iter().map(meta::Epoch::from).collect(),
            boot_id: node.boot_id.clone(),
            stopped_cleanly: false,
        };
        writer.wants_state = saved.source.is_none();
        writer.new_state = saved.source.is_none();
        // What an agent with a collector left is for a collector.
        let acknowledged = options.acknowledged || inner.acked < inner.last;
        Ok((Self::with(Options { acknowledged, ..options }, inner, writer), saved))
    }

    fn without_disk(
        options: Options,
        mut inner: Inner,
        writer: Writer,
        error: &StoreError,
        saved: &mut Saved,
    ) -> Self {
        tracing::error!(%error, "no spool on disk until the agent is started again: events are kept in memory, and lost if it is killed");
        saved.findings.push(format!("no spool on disk: {error}"));
        inner.set_trouble(Some(error.to_string()));
        Self::with(options, inner, writer)
    }
}

/// The store, made where it is missing, and what is in it.
fn parts(path: &Path, disk: &Disk) -> Result<(Parts, Option<Left>), StoreError> {
    let parts = fresh(path, disk)?;
    let left = read(&parts.0)?;
    Ok((parts, left))
}

/// Opens or makes the store at `path`.
pub(super) fn fresh(path: &Path, disk: &Disk) -> Result<Parts, StoreError> {
    make_dir(path).map_err(|e| StoreError::Io("make the spool's directory", e))?;
    let store = Store::open(&path.join("store.db"), disk.fsync == Fsync::Always)?;
    let keeper = Keeper::start(&store, disk.fsync)?;
    let mark = open_private(&path.join("mark")).map_err(|e| StoreError::Io("open the spool's mark", e))?;
    Ok((Arc::new(store), keeper, mark))
}

fn read(store: &Store) -> Result<Option<Left>, StoreError> {
    fn get<M: prost::Message + Default>(store: &Store, name: &'static str) -> Result<Option<M>, StoreError> {
        let Some(bytes) = store.meta(name)? else { return Ok(None) };
        meta::decode(&bytes).map(Some).ok_or(StoreError::Damaged(name))
    }
    let (life, ends) = (get::<Life>(store, LIFE)?, get::<Ends>(store, ENDS)?);
    let gaps = get::<Gaps>(store, GAPS)?.unwrap_or_default();
    let mut places: Vec<Place> = Vec::new();
    let mut size = 0;
    store.places(|place| {
        places.push(*place);
        size += place.size;
        size <= super::inner::HISTORY
    })?;
    let (life, ends) = match (life, ends) {
        (None, None) if places.is_empty() => return Ok(None),
        (Some(life), Some(ends)) => (life, ends),
        _ => return Err(StoreError::Damaged("what it says of itself")),
    };
    if life.epochs.is_empty() || places.first().is_some_and(|place| place.last() > ends.last) {
        return Err(StoreError::Damaged("what it says of itself"));
    }
    Ok(Some(Left { life, ends, gaps, state: store.state()?, places }))
}

/// Goes on where the agent before ended.
#[expect(clippy::too_many_arguments, reason = "each is filled or read once, here")]
fn resume(
    left: Left,
    (mark, memory): (Option<Mark>, Option<Mark>),
    node: &Node,
    disk: &Disk,
    now: Moment,
    pending: &mut Pending,
    writer: &mut Writer,
    saved: &mut Saved,
) -> Inner {
    let Left { life, ends, gaps, state, places } = left;
    let mut epochs: Vec<EpochOf> = life.epochs.iter().map(EpochOf::from).collect();
    let logged = Moment(ends.logged);
    let mut acked = ends.acked;
    let before = epochs.last().map(|epoch| epoch.identity.clone());
    let mark = mark.filter(|mark| before.as_ref().is_some_and(|before| before.epoch == mark.epoch));
    let at_work = mark.into_iter().chain(memory).map(|mark| mark.at_work).fold(logged, Moment::max);
    let same_boot = life.boot_id == node.boot_id;
    gaps.gaps.into_iter().for_each(|gap| pending.add(gap));

    // The mark is written after the store: it knows of more only where the store lost it.
    let known = mark.map_or(ends.last, |mark| ends.last.max(mark.acked));
    let lost = mark.map_or(0, |mark| mark.last.saturating_sub(known));
    let tail_lost = mark.is_some_and(|mark| mark.behind || mark.last > ends.last);
    let power_cut = !same_boot && !life.stopped_cleanly && disk.fsync != Fsync::Always;
    if tail_lost || power_cut {
        let exact = same_boot && mark.is_some_and(|mark| mark.sent <= known && (lost > 0 || !mark.behind));
        let why = if power_cut {
            "the node went down without a last sync: the newest events on disk may be missing"
        } else {
            "the newest events on disk are damaged or were never written"
        };
        pending.unreadable(lost, exact, logged, at_work, why);
        saved.findings.push(format!("spool: {why} ({lost} known)"));
    }
    let renamed = before.as_ref().is_none_or(|id| id.cluster != node.cluster || id.node != node.name);
    if renamed {
        // Nobody would take them from this node: they are another's.
        let count = ends.last.saturating_sub(acked);
        if count > 0 {
            let exact = ends.sent <= acked && gaps.dropped == 0;
            pending.unreadable(
                count,
                exact,
                logged,
                now,
                "events under another name of this node or cluster",
            );
        }
        saved.findings.push("spool: this node or cluster had another name: a new epoch begins".to_owned());
        acked = ends.last;
    }
    saved.stopped_cleanly = Some(life.stopped_cleanly);
    saved.last_at_work = Some(at_work);
    // Another has read on in the ring since.
    let passed = memory.is_some();
    if same_boot && !tail_lost && !renamed && !passed {
        match state {
            Some(state) if ends.position.is_some() => {
                saved.source.clone_from(&ends.position);
                saved.state = state;
            }
            Some(_) => {}
            None => saved.findings.push("spool: the state of sessions is damaged".to_owned()),
        }
    }
    let mut inner = if tail_lost || power_cut || renamed || passed {
        let newest = epochs.iter().map(|epoch| epoch.identity.epoch).max().unwrap_or(0);
        inner(node, epochs, ends.last, Moment(now.0.max(newest.cast_signed().saturating_add(1))))
    } else {
        let newest = epochs.pop().unwrap_or_else(|| new_epoch(node, ends.last, now));
        let mut inner = Inner::new(newest.identity.clone());
        inner.epochs = Epochs::new(epochs, newest);
        inner
    };
    inner.epochs.forget_before(places.last().map_or(ends.last, |place| place.first.min(acked)));
    (inner.last, inner.stored, inner.acked) = (ends.last, ends.last, acked);
    inner.logged = logged;
    inner.sent = ends.sent.max(acked);
    inner.dropped = gaps.dropped;
    (inner.disk_bytes, inner.disk_events) = (ends.bytes, ends.events);
    places.into_iter().rev().for_each(|place| inner.see(place));
    writer.ends = ends;
    inner
}

/// What cannot be read goes out of the way; only the latest of its kind is kept.
fn set_aside(
    path: &Path,
    error: &StoreError,
    mark: Option<Mark>,
    now: Moment,
    pending: &mut Pending,
    saved: &mut Saved,
) -> Result<(), StoreError> {
    let why = if matches!(error, StoreError::Newer(_)) { "newer" } else { "damaged" };
    let to = move_aside(path, why, now).map_err(|e| StoreError::Io("move the damaged spool aside", e))?;
    let unacked = mark.map_or(0, |mark| mark.last.saturating_sub(mark.acked));
    let from = mark.map_or(now, |mark| mark.at_work);
    pending.unreadable(unacked, false, from, now, "the spool on disk cannot be read");
    tracing::error!(%error, events = unacked, aside = %to.display(), "the spool cannot be read: moved aside, and begun anew");
    saved.findings.push(format!("spool: {error}: moved to {}, a new epoch begins", to.display()));
    saved.last_at_work = mark.map(|mark| mark.at_work);
    Ok(())
}

fn inner(node: &Node, epochs: Vec<EpochOf>, base: u64, now: Moment) -> Inner {
    let newest = new_epoch(node, base, now);
    let mut inner = Inner::new(newest.identity.clone());
    inner.epochs = Epochs::new(epochs, newest);
    inner
}

fn new_epoch(node: &Node, base: u64, now: Moment) -> EpochOf {
    let Node { cluster, name, boot_id: _ } = node.clone();
    let epoch = u64::try_from(now.0).unwrap_or(1).max(1);
    EpochOf { identity: Identity { cluster, node: name, epoch }, base }
}

/// `Err(None)`: another has it.
fn take_lock(dir: &Path) -> Result<File, Option<StoreError>> {
    let io = |what| move |e| Some(StoreError::Io(what, e));
    make_dir(dir).map_err(io("make the spool's directory"))?;
    let file = open_private(&dir.join("lock")).map_err(io("open the spool's lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(None),
        Err(TryLockError::Error(e)) => Err(io("lock the spool")(e)),
    }
}

/// Commands and their arguments are nobody else's business.
fn make_dir(path: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

impl From<&EpochOf> for meta::Epoch {
    fn from(epoch: &EpochOf) -> Self {
        let EpochOf { identity: Identity { cluster, node, epoch }, base } = epoch.clone();
        Self { cluster, node, epoch, base }
    }
}

impl From<&meta::Epoch> for EpochOf {
    fn from(epoch: &meta::Epoch) -> Self {
        let meta::Epoch { cluster, node, epoch, base } = epoch.clone();
        Self { identity: Identity { cluster, node, epoch }, base }
    }
}
