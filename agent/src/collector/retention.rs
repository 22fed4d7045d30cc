//! Keeps the log to its limits: every minute by age, and as soon as it has grown beyond its size.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, task, time};
use tokio_util::sync::CancellationToken;

use super::log::DiskLog;
use crate::{
    telemetry::{
        Emit as _,
        collector::{LogMeasured, LogTrimmed, TrimFailed},
    },
    trail::{
        Indexed,
        log::{Limits, Log as _, LogError},
    },
};

const BY_AGE: Duration = Duration::from_secs(60);
/// How often growth is looked at: a trim costs one fsync.
const BY_SIZE: Duration = Duration::from_secs(1);

/// Runs until `shutdown`. Failures are told and tried again.
pub(super) async fn run(indexed: Arc<Indexed<DiskLog>>, limits: Limits, shutdown: CancellationToken) {
    let mut newest: watch::Receiver<u64> = indexed.log().newest();
    let mut tick = time::interval(BY_SIZE);
    tick.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    let mut aged: Option<time::Instant> = None;
    loop {
        let now = tokio::select! {
            () = shutdown.cancelled() => return,
            now = tick.tick() => now,
        };
        let by_age = aged.is_none_or(|last| now.duration_since(last) >= BY_AGE);
        if !by_age && !newest.has_changed().unwrap_or(false) {
            continue;
        }
        newest.mark_unchanged();
        if by_age {
            aged = Some(now);
        }
        let indexed = indexed.clone();
        let done = task::spawn_blocking(move || keep_to(&indexed, &limits, by_age)).await;
        match done {
            Ok(Ok(0)) | Err(_) => {}
            Ok(Ok(events)) => LogTrimmed { events }.emit(),
            Ok(Err(e)) => TrimFailed { error: &e.to_string() }.emit(),
        }
    }
}

/// Trims where it must, and measures.
fn keep_to(indexed: &Indexed<DiskLog>, limits: &Limits, by_age: bool) -> Result<u64, LogError> {
    let over = indexed.log().bounds()?.bytes > limits.max_bytes;
    let dropped = if by_age || over { indexed.trim(limits)? } else { 0 };
    let (sessions, open) = indexed.index().session_counts();
    LogMeasured { bounds: &indexed.log().bounds()?, sessions, open: Some(open) }.emit();
    Ok(dropped)
}
