//! What is known of containers, kept up with the records that go by.

use crate::{
    container::{ContainerInfo, Directory, Owners},
    probe::{CgroupCreated, RawRecord},
    session::record::Record,
};

/// The directory of cgroups, and who owns a namespace.
#[derive(Debug, Default)]
pub struct Containers {
    directory: Directory,
    /// `None`: nobody to ask
    owners: Option<Owners>,
}

impl Containers {
    #[must_use]
    pub fn new(directory: Directory, owners: Option<Owners>) -> Self {
        Self { directory, owners }
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
        match &mut record {
            Record::ContainerStarted(started) => self.directory.started(started),
            Record::ContainerEnded(ended) => self.directory.ended(ended),
            Record::Exec(exec) if exec.container.is_none() => {
                let (mnt, pid) = (exec.namespaces.mnt, exec.namespaces.pid);
                exec.container =
                    self.owners.as_mut().and_then(|o| o.find(exec.time, mnt, pid, &self.directory));
            }
            Record::Join(join) if join.container.is_none() => {
                let (mnt, pid) = (join.mnt_ns, join.pid_ns);
                join.container =
                    self.owners.as_mut().and_then(|o| o.find(join.time, mnt, pid, &self.directory));
            }
            Record::Exec(_)
            | Record::Join(_)
            | Record::ArgvChunk(_)
            | Record::Exit(_)
            | Record::Enter(_)
            | Record::Lost(_)
            | Record::Recovered(_)
            | Record::Agent { .. } => {}
        }
        Some(record)
    }

    /// What is known of a container.
    #[must_use]
    pub fn find(&self, cgroup_id: u64) -> Option<&ContainerInfo> {
        self.directory.find(cgroup_id)
    }
}
