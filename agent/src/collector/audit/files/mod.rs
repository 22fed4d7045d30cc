//! Audit log files of the API server: read as they grow, over rotation, truncation and restarts.
//!
//! How far a file is read is kept with what was logged of it, as one: nothing comes twice, and nothing is left out. What
//! is gone before it was read, and a line that is no audit, is a gap.

mod follow;
mod position;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use podtrail_proto::v1;
use tokio::{task, time};
use tokio_util::sync::CancellationToken;

use self::{
    follow::{Chunk, Follower, Hole},
    position::Position,
};
use super::{
    heard::Source,
    intake::{Intake, Part},
};
use crate::{
    collector::log::{Beside, DiskLog},
    telemetry::{Emit as _, audit::FileTrouble},
    trail::{Moment, log::LogError},
};

/// How often a file is looked at that has said all it had.
const POLL: Duration = Duration::from_millis(250);
/// After something that should not be.
const WAIT: Duration = Duration::from_secs(1);
/// A position that no request came with is kept so often.
const KEEP: Duration = Duration::from_secs(5);
const PREFIX: &[u8] = b"audit/file/";

/// Follows one file.
#[derive(Debug)]
pub(super) struct Followed {
    source: Source,
    path: PathBuf,
    follower: Follower,
}

impl Followed {
    /// Goes on where the log says that it was.
    pub(super) fn open(
        path: PathBuf,
        cluster: String,
        max_line: usize,
        log: &DiskLog,
    ) -> Result<Self, LogError> {
        let key = key(&path);
        let kept = log.beside(&key)?.into_iter().find(|(found, _)| *found == key);
        let position = kept.and_then(|(_, value)| Position::decode(&value));
        let source = Source { cluster, name: format!("file {}", path.display()) };
        Ok(Self { source, follower: Follower::new(path.clone(), position, max_line), path })
    }

    /// Reads until `stop`.
    pub(super) async fn run(self, intake: Intake, stop: CancellationToken) {
        let Self { source, path, mut follower } = self;
        let mut kept: Option<Instant> = None;
        let mut told = String::new();
        let mut wait = Duration::ZERO;
        while stop.run_until_cancelled(time::sleep(wait)).await.is_some() {
            let stepped = task::spawn_blocking(move || {
                let chunk = follower.step();
                (follower, chunk)
            });
            // A panic is told by its hook.
            let Ok((back, step)) = stepped.await else { return };
            follower = back;
            wait = match step {
                Ok(None) => POLL,
                Ok(Some(Chunk { batch, holes, position, moved })) => {
                    let now = Instant::now();
                    let late = kept.is_none_or(|kept| now.duration_since(kept) >= KEEP);
                    let keep = late || moved || !batch.requests.is_empty() || !holes.is_empty();
                    let beside = keep.then(|| Beside { key: key(&path), value: position.encode() });
                    let gaps = holes.into_iter().map(|hole| gap(&path, hole)).collect();
                    let part = Part { batch, gaps, beside: beside.into_iter().collect(), whole: true };
                    if intake.take(&source, part).await.is_ok() {
                        follower.accept(position);
                        kept = if keep { Some(now) } else { kept };
                        told.clear();
                        Duration::ZERO
                    } else {
                        WAIT
                    }
                }
                Err(error) => {
                    let what = error.to_string();
                    if what != told {
                        FileTrouble { path: &path.display().to_string(), what: &what }.emit();
                        told = what;
                    }
                    WAIT
                }
            };
        }
    }
}

fn key(path: &Path) -> Vec<u8> {
    [PREFIX, path.as_os_str().as_encoded_bytes()].concat()
}

fn gap(path: &Path, hole: Hole) -> v1::Gap {
    let Hole { count, exact, since, why } = hole;
    v1::Gap {
        source: Some(v1::GapSource::Audit.into()),
        count: Some(count),
        exact: Some(exact),
        from: since.map(Moment::timestamp),
        to: Some(Moment::now().timestamp()),
        session_ids: Vec::new(),
        detail: format!("{}: {why}", path.display()),
    }
}
