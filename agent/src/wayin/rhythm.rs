//! When a probe comes: every period, give or take what a busy node needs to start a process.
//!
//! The kubelet probes by a ticker, so that a probe that is late is followed by one in time. Of several sessions within
//! one period only one is the probe's. Time is the events' own.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::event::{BootTime, SessionId};

/// Sessions of which it is not known yet whether they were the probe's.
const MAX_HEARD: usize = 8;
/// A probe that has not come for so many periods has no rhythm any more.
const MISSED_MAX: u64 = 5;
/// For two sessions to make a rhythm, at most so many periods lie between them.
const FIRST_MAX: u64 = 2;

const TOLERANCE_MIN: u64 = 200_000_000;
const TOLERANCE_MAX: u64 = 2_000_000_000;

/// How far from its time a probe may begin.
pub(super) fn tolerance(period: u64) -> u64 {
    (period / 5).clamp(TOLERANCE_MIN, TOLERANCE_MAX)
}

/// The rhythms of the probes of one container that have the same arguments.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Rhythm {
    /// one for each probe, in its order
    locks: Vec<Option<Lock>>,
    heard: VecDeque<Heard>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Lock {
    /// when the ticker was at the last one
    tick: BootTime,
    last: BootTime,
    /// since then none was missing
    unbroken: BootTime,
    /// when the last one was over
    ended: Option<BootTime>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Heard {
    at: BootTime,
    session: SessionId,
}

/// What the time of a session says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Beat {
    /// it is that probe's; so long after the one before it
    In { probe: usize, after: u64, learned: Learned },
    /// none that has come before says when to expect one
    First,
    /// so long after the last that was in time
    Out { after: u64 },
}

/// What became known of sessions before.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Learned {
    /// was the probe's too
    pub(super) probe: Option<SessionId>,
    /// were none of the probes', which came all in their time before and after
    pub(super) others: Vec<SessionId>,
}

impl Rhythm {
    /// A session of one of the probes' arguments begins. `periods`: of each probe, nanoseconds.
    pub(super) fn hear(&mut self, periods: &[u64], at: BootTime, session: &SessionId) -> Beat {
        self.locks.resize(periods.len(), None);
        for (lock, period) in self.locks.iter_mut().zip(periods) {
            let lapsed = |lock: &Lock| {
                at.since(lock.last) > period.saturating_mul(MISSED_MAX).saturating_add(tolerance(*period))
            };
            if lock.as_ref().is_some_and(lapsed) {
                *lock = None;
            }
        }
        let in_time = self.locks.iter().zip(periods).enumerate().filter_map(|(probe, (lock, period))| {
            let (off, beat) = lock.as_ref()?.beat(*period, at)?;
            Some((off, probe, beat))
        });
        if let Some((_, probe, next)) = in_time.min_by_key(|(off, ..)| *off) {
            let after = self.locks.get(probe).and_then(Option::as_ref).map_or(0, |lock| at.since(lock.last));
            if let Some(lock) = self.locks.get_mut(probe) {
                *lock = Some(next);
            }
            return Beat::In { probe, after, learned: Learned { probe: None, others: self.others() } };
        }
        let free =
            periods.iter().enumerate().filter(|(probe, _)| matches!(self.locks.get(*probe), Some(None)));
        let pairs = free.flat_map(|(probe, period)| {
            let heard = self.heard.iter().enumerate();
            heard.filter_map(move |(index, heard)| {
                let (beats, off) = beats(*period, at.since(heard.at));
                ((1..=FIRST_MAX).contains(&beats) && off <= tolerance(*period))
                    .then_some((beats, off, probe, index))
            })
        });
        if let Some((_, _, probe, index)) = pairs.min()
            && let Some(first) = self.heard.remove(index)
            && let Some(lock) = self.locks.get_mut(probe)
        {
            *lock = Some(Lock { tick: at, last: at, unbroken: first.at, ended: None });
            let after = at.since(first.at);
            let learned = Learned { probe: Some(first.session), others: Vec::new() };
            return Beat::In { probe, after, learned };
        }
        let last = self.locks.iter().flatten().map(|lock| lock.last).max();
        self.heard.push_back(Heard { at, session: session.clone() });
        while self.heard.len() > MAX_HEARD {
            self.heard.pop_front();
        }
        match last {
            Some(last) if self.locks.iter().all(Option::is_some) => Beat::Out { after: at.since(last) },
            _ => Beat::First,
        }
    }

    /// The session of this probe is over.
    pub(super) fn ended(&mut self, probe: usize, at: BootTime) {
        if let Some(Some(lock)) = self.locks.get_mut(probe) {
            lock.ended = Some(at);
        }
    }

    /// Those heard while every probe came in its time, before and after.
    fn others(&mut self) -> Vec<SessionId> {
        let Self { locks, heard } = self;
        let (mut others, mut left) = (Vec::new(), VecDeque::new());
        for heard in heard.drain(..) {
            let around = |lock: &Option<Lock>| {
                lock.as_ref().is_some_and(|lock| lock.unbroken < heard.at && heard.at < lock.last)
            };
            if locks.iter().all(around) {
                others.push(heard.session);
            } else {
                left.push_back(heard);
            }
        }
        *heard = left;
        others
    }
}

impl Lock {
    /// How far from its time a session at `at` is, and the rhythm with it. `None`: too far, or it has come already.
    fn beat(&self, period: u64, at: BootTime) -> Option<(u64, Self)> {
        let tolerance = tolerance(period);
        let (beats, off) = beats(period, at.since(self.tick));
        if beats >= 1 && off <= tolerance {
            let expected = BootTime(self.tick.0.saturating_add(beats.saturating_mul(period)));
            // A session is late more often than early: the ticker is where the early ones are, and moves slowly.
            let tick = if at < expected { at } else { BootTime(expected.0.saturating_add(off / 8)) };
            let unbroken = if beats == 1 { self.unbroken } else { at };
            return Some((off, Self { tick, last: at, unbroken, ended: None }));
        }
        // One that takes longer than the period is followed by the next at once.
        let ended = self.ended?;
        let waited = ended.since(self.last) >= period.saturating_sub(tolerance);
        let at_once = ended <= at && at.since(ended) <= tolerance;
        let tick = BootTime(self.tick.0.saturating_add(beats.saturating_mul(period)).min(at.0));
        (waited && at_once)
            .then_some((tolerance, Self { tick, last: at, unbroken: self.unbroken, ended: None }))
    }
}

/// The nearest whole number of periods, and how far from it.
fn beats(period: u64, span: u64) -> (u64, u64) {
    let period = period.max(1);
    let beats = span.saturating_add(period / 2) / period;
    (beats, span.abs_diff(beats.saturating_mul(period)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn id(at: f64) -> SessionId {
        SessionId(format!("{at}"))
    }

    /// What was heard at these seconds, one letter each: `p` a probe, `1` the first, `o` out of rhythm.
    fn play(periods: &[u64], times: &[f64]) -> (String, Vec<String>) {
        let periods: Vec<u64> = periods.iter().map(|s| s * SECOND).collect();
        let (mut rhythm, mut told, mut learned) = (Rhythm::default(), String::new(), Vec::new());
        for time in times {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds of a test")]
            let at = BootTime((time * 1e9) as u64);
            told.push(match rhythm.hear(&periods, at, &id(*time)) {
                Beat::In { learned: Learned { probe, others }, .. } => {
                    learned.extend(probe.map(|id| format!("probe {id}")));
                    learned.extend(others.into_iter().map(|id| format!("other {id}")));
                    'p'
                }
                Beat::First => '1',
                Beat::Out { .. } => 'o',
            });
        }
        (told, learned)
    }

    #[test]
    fn two_in_time_make_a_rhythm_and_what_is_between_is_none_of_it() {
        let (told, learned) = play(&[5], &[10.0, 15.01, 20.0, 22.5, 25.1, 30.0]);
        assert_eq!(told, "1ppopp");
        assert_eq!(learned, ["probe 10", "other 22.5"]);
    }

    #[test]
    fn a_late_one_is_told_and_blamed_on_nobody() {
        // The probe of 20 s came at 22.5: one beat is missing, so nobody can say that it was somebody's own.
        let (told, learned) = play(&[5], &[10.0, 15.0, 22.5, 25.0, 30.0]);
        assert_eq!((told.as_str(), learned), ("1popp", vec!["probe 10".to_owned()]));
    }

    #[test]
    fn one_in_each_period() {
        let (told, learned) = play(&[5], &[10.0, 15.0, 15.2, 20.0]);
        assert_eq!((told.as_str(), learned), ("1pop", vec!["probe 10".to_owned(), "other 15.2".to_owned()]));
    }

    #[test]
    fn two_probes_with_the_same_arguments() {
        let (told, learned) = play(&[10, 10], &[0.0, 3.0, 10.0, 13.0, 17.0, 20.0, 23.0]);
        assert_eq!(told, "11ppopp");
        assert_eq!(learned, ["probe 0", "probe 3", "other 17"]);
        // At the same moment.
        assert_eq!(play(&[10, 10], &[0.0, 0.01, 10.0, 10.01, 20.0, 20.01]).0, "11pppp");
        // Every five seconds, and every ten.
        assert_eq!(play(&[10, 5], &[1.0, 3.0, 6.0, 11.0, 13.0, 16.0, 21.0, 23.0]).0, "11pppppp");
    }

    #[test]
    fn a_kubelet_that_starts_again_has_a_new_rhythm() {
        let (told, learned) = play(&[10], &[0.0, 10.0, 20.0, 37.0, 47.0, 57.0, 67.0, 77.0, 87.0]);
        // The old rhythm is waited for; nothing that was heard meanwhile is blamed on anybody.
        assert!(told.starts_with("1ppo") && told.ends_with("pp"), "{told}");
        assert!(learned.iter().all(|line| line.starts_with("probe ")), "{learned:?}");
    }

    #[test]
    fn slow_probes_follow_each_other_at_once() {
        let period = [5 * SECOND];
        let mut rhythm = Rhythm::default();
        let at = |rhythm: &mut Rhythm, s: u64| rhythm.hear(&period, BootTime(s * SECOND), &id(0.0));
        assert_eq!(at(&mut rhythm, 0), Beat::First);
        assert!(matches!(at(&mut rhythm, 5), Beat::In { .. }));
        rhythm.ended(0, BootTime(12 * SECOND));
        assert!(matches!(at(&mut rhythm, 12), Beat::In { .. }));
        rhythm.ended(0, BootTime(13 * SECOND));
        assert!(matches!(at(&mut rhythm, 15), Beat::In { .. }));
    }

    #[test]
    fn memory_is_bounded_and_any_time_will_do() {
        let mut rhythm = Rhythm::default();
        for at in [0, u64::MAX, 5, 0, u64::MAX / 2, 1, 2, 3, 4, 6, 7, 8, 9] {
            rhythm.hear(&[1, u64::MAX], BootTime(at), &id(0.0));
            assert!(rhythm.heard.len() <= MAX_HEARD);
        }
        rhythm.hear(&[], BootTime(0), &id(0.0));
        rhythm.ended(9, BootTime(0));
    }
}
