//! What the kernel side counts as lost, less what was told already: by this agent or by the one before.

use std::collections::BTreeMap;

use aya::maps::{Map, MapData, PerCpuArray};
use podtrail_ebpf::layout::{counter, hook, kind};

use super::{
    Options, ProbeError, adopt::absent, control::ControlMap, kernel::Attached, load::map_error, maps,
    pins::Generation, position::Position, reader::boot_now, sys, told::ToldMap,
};
use crate::{
    event::{BootTime, GapSource},
    session::record::{Lost, class},
};

/// What was told so far.
#[derive(Debug)]
pub(super) struct Told {
    /// by index into `COUNTERS`
    pub(super) seen: Vec<u64>,
    /// by hook: skipped calls
    pub(super) missed: BTreeMap<String, u64>,
    /// records that could not be decoded, since the last time
    pub(super) undecoded: u64,
    pub(super) undecoded_why: String,
    pub(super) looked: BootTime,
    /// a former agent may have told some of it: its position is gone
    uncertain: bool,
}

impl Told {
    /// Of counters that were made at `since`.
    pub(super) fn begin(since: BootTime) -> Self {
        Self {
            seen: vec![0; counter::COUNT as usize],
            missed: BTreeMap::new(),
            undecoded: 0,
            undecoded_why: String::new(),
            looked: since,
            uncertain: false,
        }
    }

    /// Of counters that a former agent told of, nobody knows how far.
    pub(super) fn unknown(since: BootTime) -> Self {
        Self { uncertain: true, ..Self::begin(since) }
    }

    pub(super) fn saved(saved: &Position) -> Self {
        let Position { instance: _, ring: _, looked, seen, missed, undecoded, undecoded_why } = saved.clone();
        let uncertain = seen.is_empty();
        let mut told = Self { missed, undecoded, undecoded_why, uncertain, ..Self::begin(looked) };
        for (to, from) in told.seen.iter_mut().zip(seen) {
            *to = from;
        }
        told
    }

    /// By index into `COUNTERS`; empty while it is not known.
    pub(super) fn known(&self) -> Vec<u64> {
        if self.uncertain { Vec::new() } else { self.seen.clone() }
    }

    /// The last losses of a kernel side that is about to go. Of another layout they cannot be read.
    pub(super) fn last_of(generation: &Generation, options: &Options, saved: Option<&Position>) -> Vec<Lost> {
        let Ok(mut maps) = maps::pinned(generation, options) else { return Vec::new() };
        let control = ControlMap::pinned(&generation.control()).ok().and_then(|map| map.read());
        let (Some(control), Some(Map::PerCpuArray(data))) = (control, maps.remove("COUNTERS")) else {
            return Vec::new();
        };
        let Ok(counters) = PerCpuArray::try_from(Map::PerCpuArray(data)) else { return Vec::new() };
        let noted = ToldMap::pinned(&generation.told()).and_then(|map| map.read());
        let ours = |known: &&Position| control.counts_for(known.instance);
        let known = noted.as_ref().filter(ours).or(saved.filter(ours));
        let mut told = known.map_or_else(|| Self::unknown(control.since()), Self::saved);
        told.losses(&counters, &[]).unwrap_or_default()
    }

    /// What was lost since the last time.
    pub(super) fn losses(
        &mut self,
        counters: &PerCpuArray<MapData, u64>,
        hooks: &[Attached],
    ) -> Result<Vec<Lost>, ProbeError> {
        // All is read before anything counts as told.
        let totals = (0..counter::COUNT)
            .map(|index| {
                let per_cpu = counters.get(&index, 0).map_err(|e| map_error("read", "COUNTERS", &e))?;
                Ok(per_cpu.iter().sum())
            })
            .collect::<Result<Vec<u64>, ProbeError>>()?;
        let now = boot_now();
        let from = std::mem::replace(&mut self.looked, now);
        let certain = !std::mem::take(&mut self.uncertain);
        let mut losses = Vec::new();
        for (index, (seen, total)) in (0..).zip(self.seen.iter_mut().zip(totals)) {
            let count = total.saturating_sub(std::mem::replace(seen, total));
            if index < counter::LOST || count == 0 {
                continue;
            }
            if let Some(hook) = index.checked_sub(counter::UNHANDLED) {
                if hook >= hook::FORK2 {
                    continue; // the others were there
                }
                losses.push(absent(from, now, format!("{} handed over to nobody {count} times", name(hook))));
                continue;
            }
            let (source, exact, detail) = meaning(index);
            let exact = exact && certain;
            losses.push(Lost { from, time: now, source, count, exact, detail: detail.to_owned() });
        }
        let undecoded = std::mem::take(&mut self.undecoded);
        if undecoded > 0 {
            losses.push(Lost {
                from,
                time: now,
                source: GapSource::AgentDecode,
                count: undecoded,
                exact: true,
                detail: std::mem::take(&mut self.undecoded_why),
            });
        }
        self.skipped(hooks, from, now, &mut losses);
        Ok(losses)
    }

    /// Hooks that the kernel skipped because one was running on the same CPU already (5.12 and newer tell). What that means for
    /// forks, execs and exits is found out as what comes after them is seen.
    fn skipped(&mut self, hooks: &[Attached], from: BootTime, now: BootTime, losses: &mut Vec<Lost>) {
        for attached in hooks.iter().filter(|attached| !attached.hook.is_made_up_for()) {
            let total = sys::told(&attached.program, "recursion_misses").unwrap_or(0);
            let seen = self.missed.entry(attached.hook.name.to_owned()).or_insert(0);
            let before = std::mem::replace(seen, total);
            // One that was attached again counts from 0.
            let count = total.checked_sub(before).unwrap_or(total);
            if count > 0 {
                losses.push(Lost {
                    from,
                    time: now,
                    source: GapSource::KernelRecursion,
                    count,
                    exact: false,
                    detail: attached.hook.name.to_owned(),
                });
            }
        }
    }
}

fn name(index: u32) -> &'static str {
    match index {
        hook::MKDIR => "cgroup_mkdir",
        hook::RMDIR => "cgroup_rmdir",
        hook::ATTACH => "cgroup_attach_task",
        hook::FORK => "sched_process_fork",
        hook::EXEC => "sched_process_exec",
        hook::EXIT => "sched_process_exit",
        hook::EXECVE => "execve",
        hook::EXECVEAT => "execveat",
        _ => "setns",
    }
}

/// What a counter of lost things means: source, whether it counts events exactly, and which class.
fn meaning(index: u32) -> (GapSource, bool, &'static str) {
    const RECORDS: [&str; kind::COUNT as usize] = [
        "none",
        "exec",
        "argv",
        class::EXIT,
        "enter",
        "join",
        class::CGROUP_CREATED,
        "cgroup removed",
        "container started",
        "container ended",
        "failed exec",
    ];
    match index {
        counter::REFUSED => (GapSource::SessionBudget, true, class::REFUSED),
        counter::TASKS_FULL => (GapSource::KernelTable, false, "tasks"),
        counter::SESSIONS_FULL => (GapSource::KernelTable, false, "sessions"),
        counter::CGROUPS_FULL => (GapSource::KernelTable, false, "cgroups"),
        counter::NAMESPACES_FULL => (GapSource::KernelTable, false, "namespaces"),
        counter::UNREADABLE => (GapSource::KernelTable, false, "unreadable tasks"),
        counter::LOST_STAGE => (GapSource::KernelRing, true, "a runtime's exec"),
        counter::LOST_LAST => (GapSource::KernelRing, true, class::LAST),
        counter::SKIPPED_EXEC => (GapSource::KernelRecursion, true, "exec"),
        other => {
            let class = RECORDS.get((other - counter::LOST) as usize).copied().unwrap_or("unknown");
            (GapSource::KernelRing, true, class)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Position, Told};
    use crate::event::BootTime;

    #[test]
    fn what_is_not_known_is_not_known_to_the_next_agent_either() {
        let mut told = Told::unknown(BootTime(7));
        assert!(told.known().is_empty());
        told = Told::saved(&Position { looked: BootTime(7), seen: told.known(), ..Position::default() });
        assert!(told.uncertain);
        told = Told::saved(&Position { seen: vec![1, 2], ..Position::default() });
        assert_eq!((told.uncertain, &told.known()[..3]), (false, &[1, 2, 0][..]));
    }
}
