//! What agents were told by the detectors of their nodes, taken from the log as it comes.
//!
//! Up to where is written with what followed from it, so each is taken once, also over a restart.

use std::{sync::Arc, time::Duration};

use podtrail_proto::v1::event::Body;
use tokio::{task, time};
use tokio_util::sync::CancellationToken;

use super::intake::{AFTER, Intake};
use crate::{
    collector::log::DiskLog,
    trail::{
        Indexed,
        log::{Cursor, Log as _, LogError, Page},
    },
};

/// Observations that are taken at once.
const BATCH: usize = 256;
/// What comes in so short a time is taken together.
const TOGETHER: Duration = Duration::from_millis(100);
/// After a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Until `stop`.
pub(super) async fn run(intake: Intake, indexed: Arc<Indexed<DiskLog>>, stop: CancellationToken) {
    loop {
        let taking = take(&intake, &indexed);
        if stop.run_until_cancelled(taking).await.is_none() {
            return;
        }
        // What was not written is read again.
        if stop.run_until_cancelled(time::sleep(RETRY)).await.is_none() {
            return;
        }
    }
}

async fn take(intake: &Intake, indexed: &Arc<Indexed<DiskLog>>) {
    let mut newest = indexed.log().newest();
    let Ok(kept) = intake.read(AFTER.to_vec()).await else { return };
    let kept = kept.and_then(|value| Some(Cursor::from_be_bytes(value.try_into().ok()?)));
    // A log that lost its end goes on below it.
    let mut after = kept.unwrap_or(0).min(*newest.borrow());
    loop {
        newest.borrow_and_update();
        loop {
            let cursors = indexed.index().observed(after, BATCH);
            let Some(last) = cursors.last().copied() else { break };
            let from = indexed.clone();
            let read = task::spawn_blocking(move || read(&from, &cursors)).await;
            let Ok(Ok(observed)) = read else { return };
            if intake.observed(observed, last).await.is_err() {
                return;
            }
            after = last;
        }
        if newest.changed().await.is_err() {
            return;
        }
        time::sleep(TOGETHER).await;
    }
}

fn read(
    indexed: &Indexed<DiskLog>,
    cursors: &[Cursor],
) -> Result<Vec<(super::state::Name, podtrail_proto::v1::NodeObserved)>, LogError> {
    let mut found = Vec::with_capacity(cursors.len());
    let mut rest = cursors;
    while !rest.is_empty() {
        let page = indexed.log().get(rest, Page::SCAN)?;
        let Some(last) = page.last().map(|entry| entry.cursor) else { break };
        for entry in page {
            let event = &*entry.event;
            if let (Some(id), Some(Body::NodeObserved(observed))) = (&event.id, &event.body) {
                found.push(((id.cluster.clone(), id.node.clone()), observed.clone()));
            }
        }
        rest = rest.get(rest.partition_point(|cursor| *cursor <= last)..).unwrap_or_default();
    }
    Ok(found)
}
