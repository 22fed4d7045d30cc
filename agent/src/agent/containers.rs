//! What is known of containers, kept up with the records that go by.
//!
//! A cgroup that nobody told of (its record did not fit into the ring) is looked for in the hierarchy itself, so that
//! its sessions have a container with an id; seldom enough that a tree of very many cgroups cannot hold up the agent.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{
    container::{ContainerInfo, Directory, Hierarchy, Owners},
    convert::boot_now,
    probe::{CgroupCreated, RawRecord},
    session::record::{Lost, Record, class},
    state::Changes,
};

/// From one walk through the hierarchy to the next, at least.
const PAUSE: Duration = Duration::from_secs(1);
/// And that many times as long as a walk takes.
const SHARE: u32 = 20;
/// Cgroups that a walk did not find, remembered: they are gone, and their ids are not given again.
const MAX_ABSENT: usize = 1024;

/// The directory of cgroups, and who owns a namespace.
#[derive(Debug, Default)]
pub struct Containers {
    directory: Directory,
    /// `None`: nobody to ask
    owners: Option<Owners>,
    /// `None`: nothing to walk through
    hierarchy: Option<Hierarchy>,
    /// something is missing from the directory
    due: bool,
    /// no walk before this
    next: Option<Instant>,
    walks: u64,
    absent: VecDeque<u64>,
}

impl Containers {
    #[must_use]
    pub fn new(directory: Directory, owners: Option<Owners>, hierarchy: Option<Hierarchy>) -> Self {
        Self { directory, owners, hierarchy, ..Self::default() }
    }

    /// What changed since the last time; all there is, if `all`.
    pub(super) fn save(&mut self, all: bool, out: &mut Changes) {
        self.directory.save(all, out);
    }

    pub(super) fn forget_changes(&mut self) {
        self.directory.forget_changes();
    }

    /// Learns from a record, and puts the container in where the kernel side did not know it. Records about cgroups
    /// alone end here.
    pub fn pass(&mut self, record: RawRecord) -> Option<Record> {
        let mut record = match record {
            RawRecord::Session(record) => record,
            RawRecord::CgroupCreated(created) => {
                let CgroupCreated { time, id, parent, container, path } = created;
                self.directory.created(time, id, parent, &path, container);
                return None;
            }
            RawRecord::CgroupRemoved { time, id } => {
                self.directory.removed(time, id);
                return None;
            }
        };
        let container = match &mut record {
            Record::ContainerStarted(started) => {
                self.directory.started(started);
                Some(started.cgroup_id)
            }
            Record::ContainerEnded(ended) => {
                self.directory.ended(ended);
                None
            }
            Record::Exec(exec) => {
                if exec.container.is_none() {
                    let (mnt, pid) = (exec.namespaces.mnt, exec.namespaces.pid);
                    exec.container =
                        self.owners.as_mut().and_then(|o| o.find(exec.time, mnt, pid, &self.directory));
                }
                exec.container
            }
            Record::Join(join) => {
                if join.container.is_none() {
                    let (mnt, pid) = (join.mnt_ns, join.pid_ns);
                    join.container =
                        self.owners.as_mut().and_then(|o| o.find(join.time, mnt, pid, &self.directory));
                }
                join.container
            }
            Record::Enter(enter) => Some(enter.container),
            Record::Recovered(recovered) => Some(recovered.container),
            Record::ArgvChunk(_)
            | Record::Exit(_)
            | Record::Lost(_)
            | Record::Refused { .. }
            | Record::Agent { .. } => None,
        };
        if let Some(id) = container {
            self.want(id, Instant::now());
        }
        Some(record)
    }

    /// Records were lost.
    pub fn lost(&mut self, lost: &Lost) {
        self.due |= lost.is_of(class::CGROUP_CREATED);
    }

    /// Walks, if it is time to. To be called about once a second.
    pub fn tick(&mut self, now: Instant) {
        if self.due {
            self.walk(now);
        }
    }

    /// What is known of a container.
    #[must_use]
    pub fn find(&self, cgroup_id: u64) -> Option<&ContainerInfo> {
        self.directory.find(cgroup_id)
    }

    /// A record names this container: it must be known.
    fn want(&mut self, id: u64, now: Instant) {
        if self.directory.confirm(id) || self.absent.contains(&id) {
            return;
        }
        self.due = true;
        if self.walk(now) && !self.directory.confirm(id) {
            self.absent.push_front(id);
            self.absent.truncate(MAX_ABSENT);
        }
    }

    /// Goes through all cgroups there are. False: not now. The directory learns their names, and that is all: a cgroup
    /// that only looks like a container has no sessions unless the kernel side says so.
    fn walk(&mut self, now: Instant) -> bool {
        let Some(hierarchy) = &self.hierarchy else { return false };
        if self.next.is_some_and(|next| now < next) {
            return false;
        }
        let begun = Instant::now();
        let walk = hierarchy.walk();
        self.walks += 1;
        self.next = Some(now + PAUSE.max(begun.elapsed() * SHARE));
        match walk {
            Ok(walk) => self.directory.seed(boot_now(), &walk.cgroups),
            Err(error) => {
                tracing::warn!(%error, "some containers have no id: the records that name them were lost");
                return false;
            }
        }
        self.due = false;
        if let Some(owners) = &mut self.owners {
            owners.ask_again();
        }
        true
    }
}

#[cfg(test)]
mod tests;
