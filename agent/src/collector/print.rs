//! A short hash, for what is compared and not kept.

use sha2::{Digest as _, Sha256};

/// Stands for what was hashed.
pub(super) type Print = [u8; 16];

pub(super) fn of(hash: Sha256) -> Print {
    let whole: [u8; 32] = hash.finalize().into();
    let mut print = Print::default();
    print.copy_from_slice(&whole[..16]);
    print
}
