//! The cases, by subject.

mod fixtures;

use crate::harness::Case;

/// All of them.
pub(crate) fn all() -> Vec<Case> {
    [fixtures::cases()].concat()
}
