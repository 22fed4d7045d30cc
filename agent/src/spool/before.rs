//! What the agents before left, whether it can be trusted, and whose numbers come next.

use super::{
    Disk, Fsync, Identity, Node, Saved,
    gap::Pending,
    inner::EpochOf,
    mark::{self, Mark},
    meta::{self, ENDS, Ends, GAPS, Gaps, LIFE, Life},
    row::Place,
    store::{Store, StoreError},
};
use crate::{state::State, trail::Moment};

/// Whoever goes on without what the agent before knew finds sessions in `/proc`.
pub(super) const NO_STATE: &str = "what was known of sessions is lost: they begin again, and a command whose arguments were on their way is missing";

/// What the store says of the agent before.
pub(super) struct Left {
    life: Life,
    ends: Ends,
    gaps: Gaps,
    /// `None`: it is damaged
    state: Option<State>,
    /// newest first
    places: Vec<Place>,
}

/// What the marks say.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Marks {
    pub(super) store: Option<Mark>,
    pub(super) memory: Option<Mark>,
}

/// What there is, as the next agent takes it over.
#[derive(Debug, Default)]
pub(super) struct Before {
    /// oldest first; all have ended, with these cursors
    pub(super) epochs: Vec<EpochOf>,
    /// the newest of them can go on: which numbers it has given is known
    pub(super) goes_on: bool,
    /// the newest cursor that was given
    pub(super) last: u64,
    pub(super) acked: u64,
    pub(super) sent: u64,
    pub(super) logged: Moment,
    pub(super) dropped: u64,
    /// oldest first
    pub(super) places: Vec<Place>,
    /// as the store has them
    pub(super) ends: Ends,
    /// no newer epoch may have a smaller number
    pub(super) newest: u64,
    /// when an agent was at work in this boot
    pub(super) since: Option<Moment>,
}

impl Left {
    /// `None`: the store is new.
    pub(super) fn read(store: &Store) -> Result<Option<Self>, StoreError> {
        fn get<M: prost::Message + Default>(
            store: &Store,
            name: &'static str,
        ) -> Result<Option<M>, StoreError> {
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
        Ok(Some(Self { life, ends, gaps, state: store.state()?, places }))
    }
}

impl Marks {
    /// When an agent was last at work.
    pub(super) fn at_work(&self) -> Option<Moment> {
        let Self { store, memory } = self;
        [store, memory].into_iter().flatten().map(|mark| mark.at_work).max()
    }

    /// The newest epoch that they know.
    pub(super) fn epoch(&self) -> Option<u64> {
        let Self { store, memory } = self;
        [store, memory].into_iter().flatten().map(|mark| mark.epoch).max()
    }

    /// The newest cursor that they know.
    pub(super) fn last(&self) -> u64 {
        let Self { store, memory } = self;
        [store, memory].into_iter().flatten().map(|mark| mark.last).max().unwrap_or_default()
    }
}

impl Before {
    /// Tells in `pending` what is missing, and in `saved` what the agent itself needs.
    pub(super) fn find(
        left: Option<Left>,
        marks: Marks,
        node: &Node,
        disk: &Disk,
        now: Moment,
        pending: &mut Pending,
        saved: &mut Saved,
    ) -> Self {
        let mut before = Self { newest: marks.epoch().unwrap_or_default(), ..Self::default() };
        let boot = mark::boot(&node.boot_id);
        match left {
            Some(left) => before.of_store(left, marks.store, node, disk, now, pending, saved),
            None => before.of_nothing(marks.store, boot, node, now, pending, saved),
        }
        if let Some(memory) = marks.memory {
            before.of_memory(&memory, boot, node, pending, saved);
        }
        saved.last_at_work = saved.last_at_work.max(marks.at_work());
        before
    }

    /// This agent goes on without the state of the one before, though the kernel side may have gone on.
    pub(super) fn forget_state(&self, pending: &mut Pending, now: Moment) {
        if let Some(since) = self.since {
            pending.unreadable(0, false, since, now.max(since), NO_STATE);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "each is read or filled once, here")]
    fn of_store(
        &mut self,
        left: Left,
        mark: Option<Mark>,
        node: &Node,
        disk: &Disk,
        now: Moment,
        pending: &mut Pending,
        saved: &mut Saved,
    ) {
        let Left { life, ends, gaps, state, places } = left;
        self.epochs = life.epochs.iter().map(EpochOf::from).collect();
        (self.last, self.acked, self.dropped) = (ends.last, ends.acked, gaps.dropped);
        self.sent = ends.sent.max(ends.acked);
        self.logged = Moment(ends.logged);
        gaps.gaps.into_iter().for_each(|gap| pending.add(gap));
        let of_epoch = self.epochs.last().map(|epoch| epoch.identity.clone());
        self.newest = self.epochs.iter().map(|epoch| epoch.identity.epoch).fold(self.newest, u64::max);
        self.end_with(ends.last);
        self.goes_on = true;

        let trusted = mark.filter(|mark| mark.boot == mark::boot(&node.boot_id));
        let same_epoch = |mark: &Mark| of_epoch.as_ref().is_some_and(|of| of.epoch == mark.epoch);
        let mark_of_it = mark.filter(same_epoch);
        let same_boot = life.boot_id == node.boot_id;
        if same_boot && !life.stopped_cleanly && ends.position.is_some() {
            self.since = Some(self.logged);
        }
        let at_work = mark_of_it.map_or(self.logged, |mark| mark.at_work.max(self.logged));

        // The mark is written after the store: it knows of more only where the store lost it.
        let tail_lost = mark_of_it.is_some_and(|mark| mark.last > ends.last);
        let power_cut = !same_boot && !life.stopped_cleanly && disk.fsync != Fsync::Always;
        if tail_lost || power_cut {
            let known = mark_of_it.map_or(ends.last, |mark| ends.last.max(mark.acked));
            let lost = mark_of_it.map_or(0, |mark| mark.last.saturating_sub(known));
            let exact = same_boot && mark_of_it.is_some_and(|mark| mark.sent <= known && lost > 0);
            let why = if power_cut {
                "the node went down without a last sync: the newest events on disk may be missing"
            } else {
                "the newest events on disk are damaged or were never written"
            };
            pending.unreadable(lost, exact, self.logged, at_work, why);
            saved.findings.push(format!("spool: {why} ({lost} known)"));
        }
        match trusted {
            Some(mark) if same_epoch(&mark) => {
                if tail_lost {
                    // Of these the collector may have any: it says so, and misses the others by their numbers.
                    (self.last, self.sent) = (mark.last, self.sent.max(mark.last));
                    self.end_with(mark.last);
                }
                self.goes_on = !power_cut;
            }
            Some(mark) => self.then(&mark, node),
            None => self.goes_on = !(tail_lost || power_cut),
        }
        let renamed = of_epoch.as_ref().is_none_or(|id| id.cluster != node.cluster || id.node != node.name);
        if renamed {
            // Nobody would take them from this node: they are another's.
            let count = ends.last.saturating_sub(self.acked);
            if count > 0 {
                let exact = ends.sent <= self.acked && gaps.dropped == 0;
                let why = "events under another name of this node or cluster";
                pending.unreadable(count, exact, self.logged, now, why);
            }
            saved
                .findings
                .push("spool: this node or cluster had another name: a new epoch begins".to_owned());
            self.acked = self.last;
            self.goes_on = false;
        }
        saved.stopped_cleanly = Some(life.stopped_cleanly);
        saved.last_at_work = Some(at_work);
        if same_boot && !tail_lost && self.goes_on && self.epochs.len() == life.epochs.len() {
            match state {
                Some(state) if ends.position.is_some() => {
                    saved.source.clone_from(&ends.position);
                    saved.state = state;
                }
                Some(state) => saved.unused = state,
                None => saved.findings.push("spool: the state of sessions is damaged".to_owned()),
            }
        } else {
            saved.unused = state.unwrap_or_default();
        }
        self.places = places;
        self.places.reverse();
        self.ends = ends;
    }

    /// There is no store, or none that can be read.
    fn of_nothing(
        &mut self,
        mark: Option<Mark>,
        boot: u64,
        node: &Node,
        now: Moment,
        pending: &mut Pending,
        saved: &mut Saved,
    ) {
        let Some(mark) = mark else {
            if !saved.findings.is_empty() {
                pending.unreadable(0, false, now, now, "the spool on disk cannot be read");
            }
            return;
        };
        saved.last_at_work = Some(mark.at_work);
        let trusted = mark.boot == boot;
        let missing = mark.last.saturating_sub(mark.acked);
        let exact = trusted && mark.sent <= mark.acked && mark.acked >= mark.base;
        let why = "the spool on disk has lost everything";
        if missing > 0 || !trusted {
            pending.unreadable(missing, exact, mark.at_work, now, why);
        }
        if saved.findings.is_empty() {
            saved.findings.push(format!("spool: {why}"));
        }
        if trusted {
            self.then(&mark, node);
            self.acked = mark.acked;
            self.since = Some(mark.at_work);
        }
    }

    /// An agent had its events in memory only.
    fn of_memory(&mut self, memory: &Mark, boot: u64, node: &Node, pending: &mut Pending, saved: &mut Saved) {
        let why = "an agent that could not open the spool had events in memory only";
        let count = memory.last.saturating_sub(memory.acked);
        let trusted = memory.boot == boot;
        if count > 0 || !trusted {
            let exact = trusted && memory.sent <= memory.acked;
            let from = saved.last_at_work.unwrap_or(memory.at_work).min(memory.at_work);
            pending.unreadable(count, exact, from, memory.at_work, why);
        }
        saved.findings.push(format!("spool: {why} ({count} were not acknowledged)"));
        // It has read on in the ring.
        saved.source = None;
        saved.unused.append(&mut saved.state);
        if trusted {
            self.then(memory, node);
            self.since = self.since.or(Some(memory.at_work));
        } else {
            self.goes_on = false;
        }
    }

    /// An epoch that the store knows nothing of; none of its events is there.
    fn then(&mut self, mark: &Mark, node: &Node) {
        let Mark { epoch, base, last, .. } = *mark;
        if self.epochs.last().is_some_and(|newest| newest.identity.epoch == epoch) {
            self.last = self.last.max(last);
            self.sent = self.sent.max(last);
            return self.end_with(self.last);
        }
        if base < self.last || last < base {
            self.goes_on = false;
            return;
        }
        self.end_with(self.last);
        let Node { cluster, name, boot_id: _ } = node.clone();
        self.epochs.push(EpochOf { identity: Identity { cluster, node: name, epoch }, base, end: last });
        (self.last, self.sent, self.goes_on) = (last, last, true);
    }

    fn end_with(&mut self, end: u64) {
        if let Some(newest) = self.epochs.last_mut() {
            newest.end = end;
        }
    }
}

impl From<&EpochOf> for meta::Epoch {
    fn from(epoch: &EpochOf) -> Self {
        let EpochOf { identity: Identity { cluster, node, epoch }, base, end } = epoch.clone();
        Self { cluster, node, epoch, base, end }
    }
}

impl From<&meta::Epoch> for EpochOf {
    fn from(epoch: &meta::Epoch) -> Self {
        let meta::Epoch { cluster, node, epoch, base, end } = epoch.clone();
        Self { identity: Identity { cluster, node, epoch }, base, end }
    }
}
