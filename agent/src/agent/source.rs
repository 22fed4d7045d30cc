//! Where records come from: the probe, or a test.

use std::future::Future;

use crate::{
    container::{RecoverError, Scan},
    event::{Finding, Hook, TaskKey},
    probe::{ProbeError, RawRecord},
    session::{Followed, record::Lost},
};

/// The source failed for good.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// {0}
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// {0}
    #[error(transparent)]
    Recover(#[from] RecoverError),
}

/// A source of records, in their order.
pub trait Source: Send + 'static {
    /// The hooks in the kernel.
    fn hooks(&self) -> Vec<Hook>;

    /// Waits for records and appends a batch of them. Dropping the future loses none.
    fn read(&mut self, out: &mut Vec<RawRecord>) -> impl Future<Output = Result<(), SourceError>> + Send;

    /// Takes what is there now, without waiting. `false`: nothing was.
    fn drain(&mut self, out: &mut Vec<RawRecord>) -> bool;

    /// What was lost since the last call.
    fn losses(&mut self) -> Result<Vec<Lost>, SourceError>;

    /// Where reading has come to, with what was counted up to there, as bytes that only this source understands. The
    /// pipeline keeps it in the spool together with what it made of the records: one is never there without the other.
    fn position(&self) -> Vec<u8>;

    /// Everything that was read so far is kept for good: the source may forget it. Until then a new agent would read it
    /// again.
    fn release(&mut self);

    /// What was told of losses up to now is in events that have numbers: nobody need tell it again, also where the state
    /// is lost that knew of it. Of what was counted as refused, `untold` is not told yet; below zero, more was told than
    /// was counted so far. `None`: where events are lost, nobody would miss them.
    fn told(&mut self, _untold: Option<i64>) {}

    /// It needs [`Self::release`] soon: what it has no room for is lost.
    fn is_crowded(&self) -> bool {
        false
    }

    /// How much was ever written, and how much of that was read: see [`Self::read_to`].
    fn written(&self) -> u64 {
        0
    }

    /// At least what [`Self::written`] was at a moment: all that had happened by then was read.
    fn read_to(&self) -> u64 {
        0
    }

    /// How many execs and exits of each of `sessions`, and of any other, the kernel side refused so far, but for those that
    /// it follows no more.
    fn refused(&mut self, sessions: &[TaskKey]) -> Result<Vec<(TaskKey, u64)>, SourceError>;

    /// Looks whether what records is still what was made, and puts right what is not: what was found. Empty: nothing.
    fn check(&mut self) -> Vec<Finding> {
        Vec::new()
    }

    /// The container with this cgroup is somebody's session: follows all its processes from now on. Answers what is to be told of
    /// what is there already.
    fn follow(&mut self, _container: u64, _scan: &Scan<'_>) -> Result<Vec<RawRecord>, SourceError> {
        Ok(Vec::new())
    }

    /// Those of `followed` that are not followed any more, whether or not a record says so.
    fn gone(&mut self, followed: Followed) -> Result<Followed, SourceError>;
}
