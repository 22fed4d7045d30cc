//! Where records come from: the probe, or a test.

use std::{future::Future, io};

use crate::{event::Hook, probe::RawRecord, session::record::Lost};

/// The source failed for good.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// cannot read what the kernel reports: {0}
    #[error("cannot read what the kernel reports: {0}")]
    Read(io::Error),
}

/// A source of records, in their order.
pub trait Source: Send + 'static {
    /// The hooks in the kernel.
    fn hooks(&self) -> Vec<Hook>;

    /// Waits for records and appends a batch. Dropping the future loses none. `Ok` without records is no end.
    fn read(&mut self, out: &mut Vec<RawRecord>) -> impl Future<Output = Result<(), SourceError>> + Send;

    /// What was lost since the last call.
    fn losses(&mut self) -> Vec<Lost>;

    /// How full the ring is, in bytes of how many, where that can be told.
    fn fill(&self) -> Option<(u64, u64)> {
        None
    }
}
