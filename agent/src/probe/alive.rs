//! What the kernel side still follows, asked key by key: going through a map that changes meanwhile may leave out some.

use aya::maps::MapError;
use podtrail_ebpf::layout::TaskKey;

use super::{
    Probe, ProbeError,
    load::map_error,
    seed::{Bytes, KEY, SESSION, TASK, bytes},
};
use crate::session::Followed;

impl Probe {
    /// Those of `followed` that the kernel side does not follow any more. Exits of some may still be in the ring.
    pub fn gone(&mut self, followed: Followed) -> Result<Followed, ProbeError> {
        let Followed { sessions, processes } = followed;
        Ok(Followed {
            sessions: self.absent::<SESSION>("SESSIONS", sessions)?,
            processes: self.absent::<TASK>("TASKS", processes)?,
        })
    }

    fn absent<const N: usize>(
        &mut self,
        name: &'static str,
        mut keys: Vec<TaskKey>,
    ) -> Result<Vec<TaskKey>, ProbeError> {
        let map = self.map::<Bytes<KEY>, Bytes<N>>(name)?;
        let mut failed = None;
        keys.retain(|key| match map.get(&bytes(key), 0) {
            Ok(_) => false,
            Err(MapError::KeyNotFound) => true,
            Err(e) => {
                failed.get_or_insert(map_error("read", name, &e));
                false
            }
        });
        failed.map_or(Ok(keys), Err)
    }
}
