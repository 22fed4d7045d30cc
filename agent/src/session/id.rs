//! Ids of sessions.

use data_encoding::{BASE32_DNSCURVE, Encoding, Specification};
use sha2::{Digest, Sha256};

use crate::event::{SessionId, TaskKey};

const LENGTH: usize = 16;

/// Makes the ids of one boot.
#[derive(Debug)]
pub(crate) struct Ids {
    boot_id: String,
    base32: Encoding,
}

impl Ids {
    pub(crate) fn new(boot_id: &str) -> Self {
        let mut specification = Specification::new();
        // Crockford's alphabet: nothing that people confuse when they read an id aloud.
        specification.symbols.push_str("0123456789abcdefghjkmnpqrstvwxyz");
        Self { boot_id: boot_id.to_owned(), base32: specification.encoding().unwrap_or(BASE32_DNSCURVE) }
    }

    /// Of the session with this root: the same whenever and by whichever agent it is asked.
    pub(super) fn of(&self, root: TaskKey) -> SessionId {
        self.hashed(&[&root.tgid.to_le_bytes(), &root.start_time.to_le_bytes()])
    }

    /// Of a session that only the runtime tells of.
    pub(crate) fn of_exec(&self, container: &str, exec: &str) -> SessionId {
        self.hashed(&[b"exec", &[0], container.as_bytes(), &[0], exec.as_bytes()])
    }

    fn hashed(&self, parts: &[&[u8]]) -> SessionId {
        let mut hash = Sha256::new();
        hash.update(self.boot_id.as_bytes());
        hash.update([0]);
        for part in parts {
            hash.update(part);
        }
        let hash = hash.finalize();
        let mut id = self.base32.encode(hash.get(..LENGTH * 5 / 8).unwrap_or(&hash));
        id.truncate(LENGTH);
        SessionId(id)
    }
}

#[cfg(test)]
mod tests {
    use super::{Ids, TaskKey};

    #[test]
    fn an_id_is_pinned_and_depends_on_boot_pid_and_start() {
        let ids = Ids::new("6f1c6a0c-0d5c-4a35-9a55-0f3c2f1f7c11");
        let root = TaskKey::new(4242, 1_000_000_007);
        let id = ids.of(root).0;
        assert_eq!(id, "20hra6005bdjk87z");
        assert_eq!(id, Ids::new("6f1c6a0c-0d5c-4a35-9a55-0f3c2f1f7c11").of(root).0);
        assert_ne!(id, Ids::new("another-boot").of(root).0);
        assert_ne!(id, ids.of(TaskKey::new(4243, 1_000_000_007)).0);
        assert_ne!(id, ids.of(TaskKey::new(4242, 1_000_000_008)).0);
    }
}
