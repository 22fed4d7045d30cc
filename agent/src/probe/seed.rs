//! What was found in `/proc` at start, written into the kernel side's maps; and namespaces of containers that are gone,
//! taken out of them.

use std::collections::HashSet;

use aya::maps::{HashMap as BpfMap, MapData, MapError};
use podtrail_ebpf::layout::{Cgroup, FollowedTask, Session, TaskKey, task_kind};
use zerocopy::FromBytes as _;

use super::{Probe, ProbeError, RawRecord, load::map_error, reader::boot_now};
use crate::{
    container::Snapshot,
    event::{BootTime, ExitStatus},
    session::record::{Exit, Record, Recovered},
};

/// Insert only what is not there (include/uapi/linux/bpf.h): what a hook decided meanwhile is newer.
const BPF_NOEXIST: u64 = 1;

pub(super) type Bytes<const N: usize> = [u8; N];
pub(super) const KEY: usize = size_of::<TaskKey>();
pub(super) const TASK: usize = size_of::<FollowedTask>();
pub(super) const SESSION: usize = size_of::<Session>();
const CGROUP: usize = size_of::<Cgroup>();

impl Probe {
    /// Writes what was found into the maps. Returns records of what ended between the look into `/proc` and now: the
    /// exit hook did not know those tasks yet.
    pub fn seed(&mut self, snapshot: &Snapshot) -> Result<Vec<RawRecord>, ProbeError> {
        {
            let mut cgroups = self.map::<u64, Bytes<CGROUP>>("CGROUPS")?;
            for (id, value) in &snapshot.cgroups {
                add(&mut cgroups, "CGROUPS", *id, bytes(value))?;
            }
        }
        {
            let mut namespaces = self.map::<u32, u64>("NAMESPACES")?;
            for (inum, container) in &snapshot.namespaces {
                add(&mut namespaces, "NAMESPACES", *inum, *container)?;
            }
        }
        let mut new = HashSet::new();
        for (key, value) in &snapshot.sessions {
            let mut sessions = self.map::<Bytes<KEY>, Bytes<SESSION>>("SESSIONS")?;
            if add(&mut sessions, "SESSIONS", bytes(key), bytes(value))? {
                new.insert(*key);
            }
        }
        for (key, value) in &snapshot.tasks {
            let mut tasks = self.map::<Bytes<KEY>, Bytes<TASK>>("TASKS")?;
            let known = tasks.get(&bytes(key), 0).ok();
            let known = known.and_then(|task| FollowedTask::read_from_bytes(&task).ok());
            // What was taken for a container's init, and turned out to be a session's first task.
            let added = if value.init != 0 && known.is_some_and(|task| task.kind == task_kind::INIT) {
                let changed = tasks.insert(bytes(key), bytes::<_, TASK>(value), 0);
                changed.map(|()| true).map_err(|e| map_error("write", "TASKS", &e))?
            } else {
                add(&mut tasks, "TASKS", bytes(key), bytes(value))?
            };
            // A session that was there already has not counted this task.
            if added && value.kind == task_kind::SESSION && !new.contains(&value.entry) {
                self.count_live(&value.entry)?;
            }
        }
        self.bury(snapshot)
    }

    /// Gives what was found in `/proc` the names that the kernel side has for it, which followed its tasks while nobody
    /// read: sessions that it does not know are none, and those whose beginning is still in the ring tell it themselves.
    pub fn rename(&mut self, snapshot: &mut Snapshot) -> Result<(), ProbeError> {
        let begun = self.begun();
        let tasks = self.map::<Bytes<KEY>, Bytes<TASK>>("TASKS")?;
        let entry = |key: &TaskKey| {
            let task = tasks.get(&bytes(key), 0).ok()?;
            let task = FollowedTask::read_from_bytes(&task).ok()?;
            (task.kind == task_kind::SESSION).then_some(task.entry)
        };
        let mut known: Vec<Recovered> = Vec::new();
        for mut recovered in snapshot.recovered.drain(..) {
            let root = recovered.processes.iter().find_map(|exec| entry(&exec.process.key));
            let Some(root) = root.filter(|root| !begun.contains(root)) else { continue };
            recovered.entry = root;
            for exec in &mut recovered.processes {
                exec.entry = root;
                exec.entry_time = BootTime(root.start_time);
            }
            match known.iter_mut().find(|other| other.entry == root) {
                Some(other) => other.processes.append(&mut recovered.processes),
                None => known.push(recovered),
            }
        }
        snapshot.recovered = known;
        snapshot.sessions.clear();
        snapshot.tasks.retain(|(_, task)| task.kind == task_kind::INIT);
        Ok(())
    }

    fn count_live(&mut self, entry: &TaskKey) -> Result<(), ProbeError> {
        let mut sessions = self.map::<Bytes<KEY>, Bytes<SESSION>>("SESSIONS")?;
        let Ok(mut session) =
            sessions.get(&bytes(entry), 0).map(|b| Session::read_from_bytes(&b).unwrap_or(GONE))
        else {
            return Ok(());
        };
        session.live += 1;
        sessions
            .insert(bytes(entry), bytes::<_, SESSION>(&session), 0)
            .map_err(|e| map_error("write", "SESSIONS", &e))
    }

    /// Takes out the tasks that are gone already.
    fn bury(&mut self, snapshot: &Snapshot) -> Result<Vec<RawRecord>, ProbeError> {
        if snapshot.tasks.is_empty() {
            return Ok(Vec::new());
        }
        let alive: HashSet<TaskKey> =
            self.start_times()?.into_iter().map(|(pid, start)| TaskKey::new(pid, start)).collect();
        let mut exits = Vec::new();
        for (key, task) in snapshot.tasks.iter().filter(|(key, _)| !alive.contains(key)) {
            if self.map::<Bytes<KEY>, Bytes<TASK>>("TASKS")?.remove(&bytes(key)).is_err() {
                continue; // the exit hook was there first, and has told
            }
            if task.kind != task_kind::SESSION {
                continue;
            }
            let mut sessions = self.map::<Bytes<KEY>, Bytes<SESSION>>("SESSIONS")?;
            let Ok(mut session) =
                sessions.get(&bytes(&task.entry), 0).map(|b| Session::read_from_bytes(&b).unwrap_or(GONE))
            else {
                continue;
            };
            session.live -= 1;
            let last = session.live <= 0;
            let (lost, refused) = (session.lost, session.refused);
            let changed = if last {
                sessions.remove(&bytes(&task.entry))
            } else {
                sessions.insert(bytes(&task.entry), bytes::<_, SESSION>(&session), 0)
            };
            changed.map_err(|e| map_error("write", "SESSIONS", &e))?;
            exits.push(RawRecord::Session(Record::Exit(Exit {
                time: boot_now(),
                key: *key,
                parent: TaskKey::NONE,
                entry: task.entry,
                // How it ended nobody saw; the session's end is what matters here.
                status: ExitStatus::Code(0),
                last,
                executed: false,
                late: true,
                lost,
                refused,
            })));
        }
        Ok(exits)
    }

    /// Takes out the namespaces of containers that are gone: their numbers will be used again.
    pub(super) fn forget_namespaces(&mut self, containers: &HashSet<u64>) -> Result<(), ProbeError> {
        let mut namespaces = self.map::<u32, u64>("NAMESPACES")?;
        let gone: Vec<u32> = namespaces
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, container)| containers.contains(container))
            .map(|(inum, _)| inum)
            .collect();
        for inum in gone {
            // The exit hook removes those of the init itself.
            let _ = namespaces.remove(&inum);
        }
        Ok(())
    }

    pub(super) fn map<K: aya::Pod, V: aya::Pod>(
        &mut self,
        name: &'static str,
    ) -> Result<BpfMap<&mut MapData, K, V>, ProbeError> {
        let map = self
            .kernel
            .maps
            .get_mut(name)
            .ok_or_else(|| ProbeError::Object(format!("it has no map {name}")))?;
        BpfMap::try_from(map).map_err(|e| map_error("open", name, &e))
    }
}

/// Stands for a session whose bytes have another length, which maps do not do.
const GONE: Session = Session { live: 0, ..Session::new(0, 0, TaskKey::NONE, 0) };

/// False: it was there already.
fn add<K: aya::Pod, V: aya::Pod>(
    map: &mut BpfMap<&mut MapData, K, V>,
    name: &'static str,
    key: K,
    value: V,
) -> Result<bool, ProbeError> {
    match map.insert(key, value, BPF_NOEXIST) {
        Ok(()) => Ok(true),
        Err(MapError::SyscallError(e)) if e.io_error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(map_error("write", name, &e)),
    }
}

/// The bytes of a map's key or value; N is its size, which the callers' types fix.
pub(super) fn bytes<T: zerocopy::IntoBytes + zerocopy::Immutable, const N: usize>(value: &T) -> Bytes<N> {
    const { assert!(size_of::<T>() == N) };
    let mut bytes = [0; N];
    bytes.copy_from_slice(value.as_bytes());
    bytes
}
