//! Execs that the kernel side refused because their session had filled its share of the ring, and the exits that went with
//! them: told once a second, by session, while it goes on.
//!
//! The kernel side counts them twice: by session, which says whose they were and is told with exits and when asked, and
//! all together, which is never lost. What only the second knows of is told in nobody's name, after a while: the last
//! exit of its session did not come. While more is refused it is told too small rather than too large: of what was counted
//! until a moment, all that is known of sessions a while later is left out, whether or not it was refused after that moment.

use serde::{Deserialize, Serialize};

use super::bounded::Bounded;
use crate::{
    event::{BootTime, TaskKey},
    state::{Changes, State, StateError, Table},
};

/// Sessions whose counts are remembered.
const MAX_SESSIONS: usize = 16 * 1024;
/// How long a count has to be nobody's.
const NOBODY_NS: u64 = 3_000_000_000;

#[derive(Debug)]
pub(super) struct Refusals {
    sessions: Bounded<TaskKey, Count>,
    /// of `sessions`, those with something to tell
    untold: Vec<TaskKey>,
    /// all that was refused, as far as it is told
    counted: u64,
    /// of that, what is known of sessions, or was told in nobody's name
    known: u64,
    /// what was told
    told: u64,
    /// this was not there from the beginning
    after: Option<After>,
    /// since when there is more to be told than was told
    from: Option<BootTime>,
    /// some of it may have been told by a former agent
    uncertain: bool,
    nobodys: Option<Nobodys>,
}

/// What is saved as a whole.
pub(super) type Rest = (Vec<TaskKey>, Counts, Option<BootTime>, bool, Option<Nobodys>);

/// All together, known and told; and from when on.
type Counts = (u64, u64, u64, Option<After>);

/// What was told of sessions before, nobody knows.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct After {
    /// nothing was told of what came later
    told: BootTime,
    /// when the kernel side was asked for those that it followed
    asked: BootTime,
}

impl After {
    /// Some of what was refused of this session may have been told.
    fn may_be_told(&self, entry: &TaskKey) -> bool {
        entry.start_time < self.told.0
    }
}

/// Of one session.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Count {
    total: u64,
    told: u64,
}

/// What is not known of any session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Nobodys {
    since: BootTime,
    /// all that was refused until then
    counted: u64,
}

/// Something to tell.
#[derive(Debug)]
pub(super) struct Refused {
    /// `None`: nobody knows whose they were
    pub(super) entry: Option<TaskKey>,
    pub(super) count: u64,
    /// none of them was refused before; `None`: not known
    pub(super) from: Option<BootTime>,
    pub(super) exact: bool,
}

impl Refusals {
    pub(super) fn new() -> Self {
        Self {
            sessions: Bounded::new(MAX_SESSIONS),
            untold: Vec::new(),
            counted: 0,
            known: 0,
            told: 0,
            after: None,
            from: None,
            uncertain: false,
            nobodys: None,
        }
    }

    /// What was refused until `told` may be told. Later, when `asked`, so many were `refused` of each session.
    pub(super) fn after(told: BootTime, asked: BootTime, refused: Vec<(TaskKey, u64)>) -> Self {
        let after = After { told, asked };
        let mut this = Self { after: Some(after), ..Self::new() };
        for (entry, total) in refused.into_iter().filter(|(entry, _)| after.may_be_told(entry)) {
            *this.sessions.of(entry).0 = Count { total, told: total };
        }
        this
    }

    pub(super) fn save(&mut self, all: bool, out: &mut Changes) {
        self.sessions.save(Table::REFUSALS, all, out);
    }

    pub(super) fn forget_changes(&mut self) {
        self.sessions.forget_changes();
    }

    /// All but the sessions.
    pub(super) fn rest(&self) -> Rest {
        let Self { sessions: _, untold, counted, known, told, after, from, uncertain, nobodys } = self;
        (untold.clone(), (*counted, *known, *told, *after), *from, *uncertain, nobodys.clone())
    }

    pub(super) fn restore(state: &State, rest: Rest) -> Result<Self, StateError> {
        let sessions = Bounded::restore(MAX_SESSIONS, Table::REFUSALS, state)?;
        let (mut untold, (counted, known, told, after), from, uncertain, nobodys) = rest;
        untold.truncate(MAX_SESSIONS);
        Ok(Self { sessions, untold, counted, known, told, after, from, uncertain, nobodys })
    }

    /// `count` more were refused since `from`; not `exact`: a former agent may have told some of them.
    pub(super) fn count(&mut self, count: u64, from: BootTime, exact: bool) {
        self.counted = self.counted.saturating_add(count);
        self.from.get_or_insert(from);
        self.uncertain |= !exact;
    }

    /// More was refused than is known of sessions.
    pub(super) fn are_unknown(&self) -> bool {
        self.counted > self.known
    }

    /// How many of what was counted are not told.
    pub(super) fn untold(&self) -> i64 {
        self.counted.cast_signed().saturating_sub(self.told.cast_signed())
    }

    /// Of this session `total` were refused so far: by an exit at a time, or by the kernel side now.
    pub(super) fn of(&mut self, entry: TaskKey, total: u64, exit: Option<BootTime>) {
        if total == 0 {
            return;
        }
        let over = |after: &After| after.may_be_told(&entry) && exit.is_some_and(|exit| exit < after.asked);
        if self.after.as_ref().is_some_and(over) && !self.sessions.contains(&entry) {
            // It was followed no more when all others were asked for.
            *self.sessions.of(entry).0 = Count { total, told: total };
            return;
        }
        let (count, _) = self.sessions.of(entry);
        if total > count.total {
            if count.told == count.total {
                self.untold.push(entry);
            }
            self.known = self.known.saturating_add(total - count.total);
            count.total = total;
        }
    }

    /// All that was refused of a session.
    pub(super) fn total(&self, entry: &TaskKey) -> u64 {
        self.sessions.get(entry).map_or(0, |count| count.total)
    }

    /// What is to be told of a session that is over.
    pub(super) fn end(&mut self, entry: &TaskKey) -> Option<Refused> {
        let at = self.untold.iter().position(|untold| untold == entry)?;
        self.untold.swap_remove(at);
        self.tell(*entry)
    }

    /// What is to be told now. `all`: there will be no other time.
    pub(super) fn flush(&mut self, now: BootTime, all: bool) -> Vec<Refused> {
        let untold = std::mem::take(&mut self.untold);
        let mut told: Vec<Refused> = untold.into_iter().filter_map(|entry| self.tell(entry)).collect();
        if self.counted <= self.known {
            (self.nobodys, self.from, self.uncertain) = (None, None, false);
            return told;
        }
        let begins = Nobodys { since: now, counted: self.counted };
        let nobodys = self.nobodys.get_or_insert(begins.clone());
        let counted = if all { self.counted } else { nobodys.counted };
        if all || now.since(nobodys.since) >= NOBODY_NS {
            let count = counted.saturating_sub(self.known);
            if count > 0 {
                told.push(Refused { entry: None, count, from: self.from, exact: !self.uncertain });
            }
            self.known = self.known.saturating_add(count);
            self.told = self.told.saturating_add(count);
            self.nobodys = (self.counted > self.known).then_some(begins);
        }
        told
    }

    fn tell(&mut self, entry: TaskKey) -> Option<Refused> {
        let count = self.sessions.get_mut(&entry)?;
        let untold = count.total.saturating_sub(count.told);
        count.told = count.total;
        self.told = self.told.saturating_add(untold);
        let (from, exact) = (self.from, !self.uncertain);
        (untold > 0).then_some(Refused { entry: Some(entry), count: untold, from, exact })
    }
}

#[cfg(test)]
mod tests {
    use super::{Refusals, Refused};
    use crate::event::{BootTime, TaskKey};

    const ONE: TaskKey = TaskKey::new(1, 1);
    const TWO: TaskKey = TaskKey::new(2, 2);
    const SECOND: u64 = 1_000_000_000;

    fn of(refusals: &mut Refusals, entry: TaskKey, total: u64) {
        refusals.of(entry, total, Some(BootTime(0)));
    }

    fn told(refused: Vec<Refused>) -> Vec<(Option<u32>, u64)> {
        refused.into_iter().map(|r| (r.entry.map(|entry| entry.tgid), r.count)).collect()
    }

    fn flush(refusals: &mut Refusals, seconds: u64) -> Vec<(Option<u32>, u64)> {
        told(refusals.flush(BootTime(seconds * SECOND), false))
    }

    #[test]
    fn each_is_told_once_and_by_its_session() {
        let mut refusals = Refusals::new();
        refusals.count(10, BootTime(0), true);
        of(&mut refusals, ONE, 4);
        of(&mut refusals, TWO, 5);
        of(&mut refusals, ONE, 5);
        of(&mut refusals, ONE, 3); // an exit from before
        assert_eq!(flush(&mut refusals, 1), [(Some(1), 5), (Some(2), 5)]);
        assert_eq!(flush(&mut refusals, 2), []);
        refusals.count(1, BootTime(2), true);
        of(&mut refusals, TWO, 6);
        assert_eq!(told(refusals.end(&TWO).into_iter().collect()), [(Some(2), 1)]);
        assert_eq!((refusals.total(&TWO), refusals.total(&ONE)), (6, 5));
        assert_eq!(flush(&mut refusals, 20), []);
    }

    #[test]
    fn what_no_session_is_known_of_is_told_in_nobodys_name_and_only_that() {
        let mut refusals = Refusals::new();
        refusals.count(10, BootTime(7), true);
        of(&mut refusals, ONE, 6);
        assert_eq!(flush(&mut refusals, 1), [(Some(1), 6)]);
        // More is refused all the time, and of two it is always known a little later of whom.
        refusals.count(2, BootTime(0), true);
        assert_eq!(flush(&mut refusals, 2), []);
        of(&mut refusals, TWO, 2);
        refusals.count(2, BootTime(0), true);
        assert_eq!(flush(&mut refusals, 3), [(Some(2), 2)]);
        of(&mut refusals, TWO, 4);
        // What is known of sessions by now may have been refused after the first second.
        assert_eq!(flush(&mut refusals, 4), [(Some(2), 2)]);
        assert_eq!(flush(&mut refusals, 6), []);
        let all = refusals.flush(BootTime(7 * SECOND), false);
        assert_eq!(all.last().map(|last| last.from), Some(Some(BootTime(7))));
        assert_eq!(told(all), [(None, 4)]);
        assert_eq!(flush(&mut refusals, 100), []);
    }

    #[test]
    fn what_always_another_session_is_late_to_tell_is_not_told_in_nobodys_name() {
        let mut refusals = Refusals::new();
        // Whenever it is looked, the last exit of a session is on its way.
        for second in 0_u32..20 {
            refusals.count(100, BootTime(0), true);
            let late = TaskKey::new(second, 1);
            let expected: &[(Option<u32>, u64)] = &[(Some(second.wrapping_sub(1)), 100)];
            assert_eq!(flush(&mut refusals, second.into()), if second > 0 { expected } else { &[] });
            of(&mut refusals, late, 100);
        }
        assert_eq!(flush(&mut refusals, 20), [(Some(19), 100)]);
        assert_eq!(flush(&mut refusals, 40), []);
    }

    #[test]
    fn what_is_nobodys_is_told_when_the_flood_is_over() {
        let mut refusals = Refusals::new();
        refusals.count(7, BootTime(0), true);
        for second in 0..20 {
            refusals.count(100, BootTime(0), true);
            of(&mut refusals, ONE, 100 * (second + 1));
            assert_eq!(flush(&mut refusals, second), [(Some(1), 100)]);
        }
        let after: Vec<_> = (20..30).flat_map(|second| flush(&mut refusals, second)).collect();
        assert_eq!(after, [(None, 7)]);
    }

    #[test]
    fn an_exit_may_come_before_the_count() {
        let mut refusals = Refusals::new();
        of(&mut refusals, ONE, 3);
        assert_eq!(flush(&mut refusals, 1), [(Some(1), 3)]);
        refusals.count(3, BootTime(0), true);
        for second in 2..20 {
            assert_eq!(flush(&mut refusals, second), []);
        }
    }

    #[test]
    fn what_a_former_agent_may_have_told_is_not_exact() {
        let mut refusals = Refusals::new();
        refusals.count(9, BootTime(0), false);
        assert!(refusals.are_unknown());
        of(&mut refusals, ONE, 9);
        assert!(!refusals.are_unknown());
        let exact = |refused: Vec<Refused>| refused.into_iter().map(|r| r.exact).collect::<Vec<_>>();
        assert_eq!(exact(refusals.flush(BootTime(1), false)), [false]);
        refusals.count(1, BootTime(2), true);
        of(&mut refusals, ONE, 10);
        assert_eq!(exact(refusals.flush(BootTime(2), false)), [true]);
    }

    #[test]
    fn at_the_end_all_is_told() {
        let mut refusals = Refusals::new();
        refusals.count(3, BootTime(0), true);
        of(&mut refusals, ONE, 2);
        assert_eq!(told(refusals.flush(BootTime(1), true)), [(Some(1), 2), (None, 1)]);
        assert_eq!(told(refusals.flush(BootTime(1), true)), []);
    }

    #[test]
    fn who_does_not_know_what_was_told_tells_the_rest_in_nobodys_name() {
        // Of one that goes on ten were refused; of another, which is over, three. Eleven of these were told. And one of a
        // session that began since.
        let late = TaskKey::new(4, 45);
        let mut refusals = Refusals::after(BootTime(44), BootTime(50), vec![(ONE, 10), (late, 1)]);
        refusals.count(5, BootTime(40), true);
        refusals.of(late, 1, Some(BootTime(48)));
        refusals.of(ONE, 8, Some(BootTime(45)));
        refusals.of(TWO, 3, Some(BootTime(46)));
        // Two more since: one of them of a session that began even later.
        refusals.of(ONE, 11, Some(BootTime(60)));
        let new = TaskKey::new(3, 55);
        refusals.of(new, 1, Some(BootTime(60)));
        assert_eq!(refusals.untold(), 5);
        assert_eq!(flush(&mut refusals, 1), [(Some(4), 1), (Some(1), 1), (Some(3), 1)]);
        assert_eq!(refusals.untold(), 2);
        assert_eq!(flush(&mut refusals, 4), [(None, 2)]);
        assert_eq!((refusals.total(&ONE), refusals.total(&TWO)), (11, 3));
        assert_eq!((refusals.untold(), flush(&mut refusals, 9)), (0, vec![]));
    }
}
