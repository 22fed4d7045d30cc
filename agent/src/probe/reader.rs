//! The ring, read in batches, and what was lost.
//!
//! While there is work the reader looks by itself every few milliseconds and the kernel side leaves it alone: a wake-up
//! an event is most of what a tracer costs. Before it sleeps it says so in the map `READER` and looks once more; the
//! kernel side looks there after each record. So no record waits for the next one, and a storm costs no wake-ups.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt, fs,
    io::Read as _,
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{Array, Map, MapData, PerCpuArray},
};
use nix::time::{ClockId, clock_gettime};
use podtrail_ebpf::layout::{TaskStart, counter, kind};
use tokio::{io::unix::AsyncFd, time::sleep};
use zerocopy::FromBytes as _;

use super::{
    Options, ProbeError, RawRecord,
    decode::decode,
    load::{self, map_error},
    position::{Instance, Position},
    ring::Ring,
};
use crate::{
    event::{BootTime, GapSource, Hook},
    session::record::{Lost, Record, class},
};

/// How long the reader lets records gather while there is work.
const GATHER: Duration = Duration::from_millis(6);
/// A sleeping reader looks this often even if nobody wakes it.
const LOOK: Duration = Duration::from_millis(500);
/// Bytes of records taken at once, so that what follows gets its turn.
const BATCH_BYTES: usize = 1024 * 1024;

/// The kernel side, loaded, attached and being read.
pub struct Probe {
    pub(super) ebpf: Ebpf,
    ring: AsyncFd<Ring>,
    instance: Instance,
    asleep: Array<MapData, u32>,
    counters: PerCpuArray<MapData, u64>,
    hooks: Vec<Hook>,
    /// the last look found something
    busy: bool,
    seen: Vec<u64>,
    missed: BTreeMap<String, u64>,
    /// records that could not be decoded, since the last [`Self::losses`]
    undecoded: u64,
    undecoded_why: String,
    looked: BootTime,
    read: u64,
    /// containers that ended since the last look
    ended: HashSet<u64>,
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe").field("hooks", &self.hooks).field("read", &self.read).finish_non_exhaustive()
    }
}

/// `CLOCK_BOOTTIME`, now.
pub(super) fn boot_now() -> BootTime {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(BootTime(0), |t| {
        BootTime(t.tv_sec().unsigned_abs() * 1_000_000_000 + t.tv_nsec().unsigned_abs())
    })
}

impl Probe {
    /// Loads and attaches. From here on the kernel side records.
    pub fn load(options: &Options) -> Result<Self, ProbeError> {
        let types = load::types(options)?;
        let mut ebpf = load::object(options, &types)?;
        let Map::RingBuf(events) = take(&mut ebpf, "EVENTS")? else {
            return Err(ProbeError::Object("its map EVENTS is no ring buffer".to_owned()));
        };
        let ring = Ring::new(events).map_err(ProbeError::Ring)?;
        let instance = Instance::random().map_err(ProbeError::Ring)?;
        let asleep =
            Array::try_from(take(&mut ebpf, "READER")?).map_err(|e| map_error("open", "READER", &e))?;
        let counters = PerCpuArray::try_from(take(&mut ebpf, "COUNTERS")?)
            .map_err(|e| map_error("open", "COUNTERS", &e))?;
        if options.diagnose {
            diagnose(&mut ebpf)?;
        }
        let hooks = load::attach(&mut ebpf, options, &types)?;
        drop(types);
        // SAFETY: the ring's descriptor is the map's own, which lives in the same value and is closed with it.
        let ring = unsafe { AsyncFd::register(ring) }.map_err(|e| ProbeError::Ring(e.into()))?;
        Ok(Self {
            ebpf,
            ring,
            instance,
            asleep,
            counters,
            hooks,
            busy: false,
            seen: vec![0; counter::COUNT as usize],
            missed: BTreeMap::new(),
            undecoded: 0,
            undecoded_why: String::new(),
            looked: boot_now(),
            read: 0,
            ended: HashSet::new(),
        })
    }

    /// The hooks in use, and why.
    #[must_use]
    pub fn hooks(&self) -> Vec<Hook> {
        self.hooks.clone()
    }

    /// Records read so far.
    #[must_use]
    pub fn records_read(&self) -> u64 {
        self.read
    }

    /// Waits for records and takes a batch of them, in the order in which they happened on each CPU. Cancel safe:
    /// nothing is taken out of the ring before an await.
    pub async fn read(&mut self, out: &mut Vec<RawRecord>) -> Result<(), ProbeError> {
        loop {
            if self.busy {
                sleep(GATHER).await;
            }
            if self.drain(out) {
                self.busy = true;
                return Ok(());
            }
            self.busy = false;
            self.asleep.set(0, 1, 0).map_err(|e| map_error("write", "READER", &e))?;
            Ring::order();
            if self.drain(out) {
                self.busy = true;
                self.asleep.set(0, 0, 0).map_err(|e| map_error("write", "READER", &e))?;
                return Ok(());
            }
            tokio::select! {
                ready = self.ring.readable_mut() => ready.map_err(ProbeError::Ring)?.clear_ready(),
                () = sleep(LOOK) => {}
            }
        }
    }

    /// Takes what is in the ring now, without waiting. False: nothing was.
    pub fn drain(&mut self, out: &mut Vec<RawRecord>) -> bool {
        let mut bytes = 0;
        while bytes < BATCH_BYTES {
            let Some(item) = self.ring.get_mut().next() else { break };
            let Ok(item) = item else {
                bytes += 1;
                self.undecoded += 1;
                "the ring held what is no record: all that was in it was passed over"
                    .clone_into(&mut self.undecoded_why);
                continue;
            };
            bytes += item.len().max(1);
            self.read += 1;
            match decode(item) {
                Ok(record) => {
                    match &record {
                        RawRecord::Session(Record::ContainerEnded(ended)) => {
                            self.ended.insert(ended.cgroup_id);
                        }
                        RawRecord::CgroupRemoved { time: _, id } => {
                            self.ended.insert(*id);
                        }
                        RawRecord::Session(_) | RawRecord::CgroupCreated(_) => {}
                    }
                    out.push(record);
                }
                Err(e) => {
                    self.undecoded += 1;
                    self.undecoded_why = e.to_string();
                }
            }
        }
        bytes > 0
    }

    /// See [`crate::agent::Source::position`].
    #[must_use]
    pub fn position(&self) -> Vec<u8> {
        let position = Position {
            instance: self.instance,
            ring: self.ring.get_ref().position(),
            looked: self.looked,
            seen: self.seen.clone(),
            missed: self.missed.clone(),
            undecoded: self.undecoded,
            undecoded_why: self.undecoded_why.clone(),
        };
        position.encode()
    }

    /// See [`crate::agent::Source::release`].
    pub fn release(&mut self) {
        self.ring.get_mut().release();
    }

    /// What was lost since the last call.
    pub fn losses(&mut self) -> Result<Vec<Lost>, ProbeError> {
        let now = boot_now();
        let from = std::mem::replace(&mut self.looked, now);
        let mut losses = Vec::new();
        for index in counter::LOST..counter::COUNT {
            let per_cpu = self.counters.get(&index, 0).map_err(|e| map_error("read", "COUNTERS", &e))?;
            let total: u64 = per_cpu.iter().sum();
            let Some(seen) = self.seen.get_mut(index as usize) else { continue };
            let count = total.saturating_sub(std::mem::replace(seen, total));
            if count > 0 {
                let (source, exact, detail) = meaning(index);
                losses.push(Lost { from, time: now, source, count, exact, detail: detail.to_owned() });
            }
        }
        let undecoded = std::mem::take(&mut self.undecoded);
        if undecoded > 0 {
            let detail = std::mem::take(&mut self.undecoded_why);
            losses.push(Lost {
                from,
                time: now,
                source: GapSource::AgentDecode,
                count: undecoded,
                exact: true,
                detail,
            });
        }
        self.skipped(from, now, &mut losses);
        let ended = std::mem::take(&mut self.ended);
        if !ended.is_empty() {
            self.forget_namespaces(&ended)?;
        }
        Ok(losses)
    }

    /// Hooks that the kernel skipped because one was running on the same CPU already (5.12 and newer tell).
    fn skipped(&mut self, from: BootTime, now: BootTime, losses: &mut Vec<Lost>) {
        use std::os::fd::{AsFd as _, AsRawFd as _};
        for (name, program) in self.ebpf.programs() {
            let Ok(fd) = program.fd() else { continue };
            let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
            let Ok(text) = fs::read_to_string(path) else { continue };
            let total = text
                .lines()
                .find_map(|l| l.strip_prefix("recursion_misses:"))
                .and_then(|n| n.trim().parse::<u64>().ok())
                .unwrap_or(0);
            let seen = self.missed.entry(name.to_owned()).or_insert(0);
            let count = total.saturating_sub(std::mem::replace(seen, total));
            if count > 0 {
                let detail = name.trim_start_matches("podtrail_").to_owned();
                losses.push(Lost {
                    from,
                    time: now,
                    source: GapSource::KernelRecursion,
                    count,
                    exact: false,
                    detail,
                });
            }
        }
    }

    /// Exact start times of all processes, by pid, in nanoseconds of `CLOCK_BOOTTIME`: `/proc` rounds them.
    pub fn start_times(&mut self) -> Result<HashMap<u32, u64>, ProbeError> {
        let mut file = load::task_iterator(&mut self.ebpf)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|e| ProbeError::Tasks(e.to_string()))?;
        Ok(bytes
            .chunks_exact(size_of::<TaskStart>())
            .filter_map(|row| TaskStart::read_from_bytes(row).ok())
            .map(|row| (row.pid, row.start_time))
            .collect())
    }

    /// Bytes in the ring that nobody has read yet are not told by 5.10; sent and lost are.
    pub fn sent(&self) -> Result<u64, ProbeError> {
        (counter::SENT..counter::LOST).try_fold(0, |sum, index| {
            let per_cpu = self.counters.get(&index, 0).map_err(|e| map_error("read", "COUNTERS", &e))?;
            Ok(sum + per_cpu.iter().sum::<u64>())
        })
    }
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<aya::maps::Map, ProbeError> {
    ebpf.take_map(name).ok_or_else(|| ProbeError::Object(format!("it has no map {name}")))
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
    ];
    match index {
        counter::REFUSED => (GapSource::SessionBudget, true, class::REFUSED),
        counter::TASKS_FULL => (GapSource::KernelTable, false, "tasks"),
        counter::SESSIONS_FULL => (GapSource::KernelTable, false, "sessions"),
        counter::CGROUPS_FULL => (GapSource::KernelTable, false, "cgroups"),
        counter::NAMESPACES_FULL => (GapSource::KernelTable, false, "namespaces"),
        counter::UNREADABLE => (GapSource::KernelTable, false, "unreadable tasks"),
        other => {
            let class = RECORDS.get((other - counter::LOST) as usize).copied().unwrap_or("unknown");
            (GapSource::KernelRing, true, class)
        }
    }
}

/// Sends what the BPF programs say to the log.
fn diagnose(ebpf: &mut Ebpf) -> Result<(), ProbeError> {
    let logger = aya_log::EbpfLogger::init(ebpf).map_err(|e| ProbeError::Object(format!("aya-log: {e}")))?;
    // SAFETY: the logger owns its ring's descriptor and keeps it open.
    let mut logger = unsafe { AsyncFd::register(logger) }.map_err(|e| ProbeError::Ring(e.into()))?;
    tokio::spawn(async move {
        while let Ok(mut guard) = logger.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    });
    Ok(())
}
