//! The ring, read in batches, and what was lost.
//!
//! While there is work the reader looks by itself every few milliseconds and the kernel side leaves it alone: a wake-up
//! an event is most of what a tracer costs. Before it sleeps it says so in the map `READER` and looks once more; the
//! kernel side looks there after each record. So no record waits for the next one, and a storm costs no wake-ups.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{Array, Map, MapData, PerCpuArray},
};
use nix::time::{ClockId, clock_gettime};
use podtrail_ebpf::layout::{counter, reader};
use tokio::{io::unix::AsyncFd, time::sleep};

use super::{
    Options, ProbeError, RawRecord,
    adopt::{self, Resumed, Started},
    decode::decode,
    inherit::Inherited,
    kernel::Kernel,
    load::map_error,
    losses::Told,
    position::Position,
    ring::Ring,
};
use crate::{
    event::{BootTime, Finding, Hook, TaskKey},
    session::record::{Lost, Record},
};

/// How long the reader lets records gather while there is work.
const GATHER: Duration = Duration::from_millis(6);
/// A sleeping reader looks this often even if nobody wakes it.
const LOOK: Duration = Duration::from_millis(500);
/// Bytes of records taken at once, so that what follows gets its turn.
const BATCH_BYTES: usize = 1024 * 1024;

/// The kernel side, loaded, attached and being read.
pub struct Probe {
    pub(super) kernel: Kernel,
    pub(super) ring: AsyncFd<Ring>,
    asleep: Array<MapData, u32>,
    counters: PerCpuArray<MapData, u64>,
    told: Told,
    /// what was pinned of it by the agent before
    before: Option<Told>,
    /// what was last pinned of it
    noted: Option<(BootTime, u64, Option<i64>)>,
    /// the last look found something
    busy: bool,
    read: u64,
    /// containers that ended since the last look
    ended: HashSet<u64>,
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe").field("told", &self.told).field("read", &self.read).finish_non_exhaustive()
    }
}

/// `CLOCK_BOOTTIME`, now.
pub(super) fn boot_now() -> BootTime {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(BootTime(0), |t| {
        BootTime(t.tv_sec().unsigned_abs() * 1_000_000_000 + t.tv_nsec().unsigned_abs())
    })
}

impl Probe {
    /// Takes over what is pinned, or loads and attaches: from here on, if not before, the kernel side records. `saved`:
    /// where the agent before was, by [`Self::position`].
    pub fn load(options: &Options, saved: Option<&[u8]>) -> Result<(Self, Resumed, Inherited), ProbeError> {
        let saved = saved.and_then(Position::decode);
        let Started { mut kernel, ring, told, noted: before, resumed, inherited } =
            adopt::start(options, saved.as_ref())?;
        let asleep =
            Array::try_from(take(&mut kernel, "READER")?).map_err(|e| map_error("open", "READER", &e))?;
        let counters = PerCpuArray::try_from(take(&mut kernel, "COUNTERS")?)
            .map_err(|e| map_error("open", "COUNTERS", &e))?;
        // SAFETY: the ring's descriptor is the map's own, which lives in the same value and is closed with it.
        let ring = unsafe { AsyncFd::register(ring) }.map_err(|e| ProbeError::Ring(e.into()))?;
        let (noted, busy) = (None, false);
        let ended = HashSet::new();
        let probe = Self { kernel, ring, asleep, counters, told, before, noted, busy, read: 0, ended };
        Ok((probe, resumed, inherited))
    }

    /// The hooks in use, and why.
    #[must_use]
    pub fn hooks(&self) -> Vec<Hook> {
        self.kernel.told()
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
            self.asleep.set(0, reader::ASLEEP, 0).map_err(|e| map_error("write", "READER", &e))?;
            Ring::order();
            if self.drain(out) {
                self.busy = true;
                self.asleep.set(0, reader::AWAKE, 0).map_err(|e| map_error("write", "READER", &e))?;
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
            let item = match item {
                Ok(item) => item,
                Err(torn) => {
                    bytes += 1;
                    self.told.undecoded += 1;
                    self.told.undecoded_why = torn.to_string();
                    continue;
                }
            };
            bytes += item.len().max(1);
            self.read += 1;
            match decode(item) {
                Ok(RawRecord::SelfTest(_)) => {}
                Ok(record) => {
                    match &record {
                        RawRecord::Session(Record::ContainerEnded(ended)) => {
                            self.ended.insert(ended.cgroup_id);
                        }
                        RawRecord::CgroupRemoved { time: _, id } => {
                            self.ended.insert(*id);
                        }
                        RawRecord::Session(_) | RawRecord::CgroupCreated(_) | RawRecord::SelfTest(_) => {}
                    }
                    out.push(record);
                }
                Err(e) => {
                    self.told.undecoded += 1;
                    self.told.undecoded_why = e.to_string();
                }
            }
        }
        bytes > 0
    }

    /// See [`crate::agent::Source::position`].
    #[must_use]
    pub fn position(&self) -> Vec<u8> {
        self.place().encode()
    }

    fn place(&self) -> Position {
        let Told { missed, undecoded, undecoded_why, looked, .. } = &self.told;
        Position {
            instance: self.kernel.control.instance(),
            ring: self.ring.get_ref().position(),
            looked: *looked,
            seen: self.told.known(),
            missed: missed.clone(),
            undecoded: *undecoded,
            undecoded_why: undecoded_why.clone(),
        }
    }

    /// See [`crate::agent::Source::is_crowded`].
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.ring.get_ref().is_crowded()
    }

    /// See [`crate::agent::Source::written`].
    #[must_use]
    pub fn written(&self) -> u64 {
        self.ring.get_ref().written()
    }

    /// See [`crate::agent::Source::read_to`].
    #[must_use]
    pub fn read_to(&self) -> u64 {
        self.ring.get_ref().position()
    }

    /// See [`crate::agent::Source::release`].
    pub fn release(&mut self) {
        self.ring.get_mut().release();
        // What was in the rings of before came first.
        self.kernel.forget_retired();
    }

    /// The state of the agent before is not gone on with: what it was about to tell is told now, and nothing that it told.
    /// Answers until when it told.
    pub fn begin_anew(&mut self) -> BootTime {
        if let Some(before) = self.before.take() {
            self.told = before;
        }
        self.told.looked
    }

    /// See [`crate::agent::Source::told`].
    pub fn told(&mut self, untold: Option<i64>) {
        let mark = (self.told.looked, self.told.undecoded, untold);
        if self.noted == Some(mark) {
            return;
        }
        let noted = untold.map(|untold| {
            let mut noted = self.place();
            if let Some(refused) = noted.seen.get_mut(counter::REFUSED as usize) {
                *refused = refused.saturating_add_signed(untold.saturating_neg());
            }
            noted
        });
        let Some(kept) = &mut self.kernel.kept else { return };
        match kept.told.write(noted.as_ref()) {
            Ok(()) => self.noted = Some(mark),
            Err(error) => {
                tracing::warn!(%error, "what was told of losses may be told again by the next agent");
            }
        }
    }

    /// Sessions that begin with a record that nobody has read yet.
    pub(super) fn begun(&mut self) -> HashSet<TaskKey> {
        let mut begun = HashSet::new();
        self.ring.get_mut().peek(|bytes| {
            if let Ok(RawRecord::Session(record)) = decode(bytes) {
                match record {
                    Record::Enter(enter) => _ = begun.insert(enter.process.key),
                    Record::Join(join) => _ = begun.insert(join.entry),
                    Record::Exec(exec) if exec.root => _ = begun.insert(exec.entry),
                    _ => {}
                }
            }
        });
        begun
    }

    /// What was lost since the last call.
    pub fn losses(&mut self) -> Result<Vec<Lost>, ProbeError> {
        let losses = self.told.losses(&self.counters, &self.kernel.hooks)?;
        let ended = std::mem::take(&mut self.ended);
        if !ended.is_empty() {
            self.forget_namespaces(&ended)?;
        }
        Ok(losses)
    }

    /// What is wrong with what records, after it was put right where it can be. Empty: nothing.
    pub fn check(&mut self) -> Vec<Finding> {
        self.kernel.check()
    }

    /// Exact start times of all processes, by pid, in nanoseconds of `CLOCK_BOOTTIME`: `/proc` rounds them.
    pub fn start_times(&mut self) -> Result<HashMap<u32, u64>, ProbeError> {
        self.kernel.start_times()
    }

    /// Bytes in the ring that nobody has read yet are not told by 5.10; sent and lost are.
    pub fn sent(&self) -> Result<u64, ProbeError> {
        (counter::SENT..counter::LOST).try_fold(0, |sum, index| {
            let per_cpu = self.counters.get(&index, 0).map_err(|e| map_error("read", "COUNTERS", &e))?;
            Ok(sum + per_cpu.iter().sum::<u64>())
        })
    }
}

fn take(kernel: &mut Kernel, name: &'static str) -> Result<Map, ProbeError> {
    kernel.maps.remove(name).ok_or_else(|| ProbeError::Object(format!("it has no map {name}")))
}

/// Sends what the BPF programs say to the log.
pub(super) fn diagnose(ebpf: &mut Ebpf) -> Result<(), ProbeError> {
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
