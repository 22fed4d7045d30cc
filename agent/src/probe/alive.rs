//! What the kernel side still follows, asked key by key where none may be left out: going through a map that changes
//! meanwhile may do so.

use std::collections::HashMap;

use aya::maps::MapError;
use podtrail_ebpf::layout::{Session, TaskKey};
use zerocopy::FromBytes as _;

use super::{
    Probe, ProbeError,
    load::map_error,
    seed::{Bytes, KEY, SESSION, TASK, bytes},
};
use crate::session::Followed;

/// Steps through all sessions, of which there are 16,384 at most.
const GONE_THROUGH: usize = 64 * 1024;

impl Probe {
    /// Those of `followed` that the kernel side does not follow any more. Exits of some may still be in the ring.
    pub fn gone(&mut self, followed: Followed) -> Result<Followed, ProbeError> {
        let Followed { sessions, processes } = followed;
        Ok(Followed {
            sessions: self.absent::<SESSION>("SESSIONS", sessions)?,
            processes: self.absent::<TASK>("TASKS", processes)?,
        })
    }

    /// How many execs and exits of each of `sessions` the kernel side refused so far, but for those that it follows no more;
    /// and of sessions of which the ring lost everything, as far as they are come by.
    pub fn refused(&mut self, sessions: &[TaskKey]) -> Result<Vec<(TaskKey, u64)>, ProbeError> {
        let map = self.map::<Bytes<KEY>, Bytes<SESSION>>("SESSIONS")?;
        // It begins again where what it stands on is removed.
        let others = map.keys().take(GONE_THROUGH).filter_map(Result::ok);
        let others = others.filter_map(|key| TaskKey::read_from_bytes(&key).ok());
        let mut found = HashMap::new();
        for key in others.chain(sessions.iter().copied()) {
            match map.get(&bytes(&key), 0) {
                Ok(value) => {
                    found.extend(Session::read_from_bytes(&value).map(|session| (key, session.refused)));
                }
                Err(MapError::KeyNotFound) => {}
                Err(e) => return Err(map_error("read", "SESSIONS", &e)),
            }
        }
        Ok(found.into_iter().collect())
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
