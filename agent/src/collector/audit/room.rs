//! Room for what is being taken in: bounded in all, however many there are.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::telemetry::{Emit as _, audit::AuditRoom};

/// Bytes that one permit stands for.
const UNIT: usize = 1024;

/// See the module. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Room(Arc<Semaphore>);

/// What one has of it, until dropped.
#[derive(Debug)]
pub(super) struct Taken {
    room: Room,
    permits: Option<OwnedSemaphorePermit>,
    bytes: usize,
}

impl Room {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes.div_ceil(UNIT))))
    }

    pub(super) fn enter(&self) -> Taken {
        Taken { room: self.clone(), permits: None, bytes: 0 }
    }
}

impl Taken {
    /// Of the same room, with nothing yet.
    pub(super) fn another(&self) -> Self {
        self.room.enter()
    }

    /// Whether there is room for `bytes` in all: whoever waited for it would hold what others wait for.
    pub(super) fn grow_to(&mut self, bytes: usize) -> bool {
        let (have, need) = (self.bytes.div_ceil(UNIT), bytes.div_ceil(UNIT));
        let Some(more) = need.checked_sub(have).filter(|more| *more > 0) else {
            self.bytes = self.bytes.max(bytes);
            return true;
        };
        let permits =
            u32::try_from(more).ok().and_then(|n| self.room.0.clone().try_acquire_many_owned(n).ok());
        let Some(permits) = permits else { return false };
        match &mut self.permits {
            Some(own) => own.merge(permits),
            none => *none = Some(permits),
        }
        #[expect(clippy::cast_precision_loss, reason = "a metric")]
        AuditRoom { bytes: (more * UNIT) as f64 }.emit();
        self.bytes = bytes;
        true
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        #[expect(clippy::cast_precision_loss, reason = "a metric")]
        AuditRoom { bytes: -((self.bytes.div_ceil(UNIT) * UNIT) as f64) }.emit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_so_much_for_all_and_it_comes_back() {
        let room = Room::new(10 * UNIT);
        let (mut a, mut b) = (room.enter(), room.enter());
        assert!(a.grow_to(1) && a.grow_to(6 * UNIT) && a.grow_to(2 * UNIT) && b.grow_to(4 * UNIT));
        assert!(!b.grow_to(4 * UNIT + 1) && !a.grow_to(6 * UNIT + 1));
        drop(a);
        assert!(b.grow_to(10 * UNIT));
        drop(b);
        assert_eq!(room.0.available_permits(), 10);
    }
}
