//! Principals are taken from the configuration again when its file changes.

use std::{fs, path::Path, sync::Arc, time::Duration};

use sha2::{Digest as _, Sha256};
use tokio::{task, time};
use tokio_util::sync::CancellationToken;

use super::admission::Principals;
use crate::{
    config::collector::CollectorConfig,
    telemetry::{
        Emit as _,
        collector::{ConfigRefused, PrincipalsLoaded},
    },
};

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// Looks at the file every few seconds, until `stop`. All but principals is used as it was at the start.
pub(super) async fn run(mut config: CollectorConfig, principals: Arc<Principals>, stop: CancellationToken) {
    let Some(path) = config.flags.config.clone() else { return };
    let mut seen = fingerprint(&path);
    while stop.run_until_cancelled(time::sleep(LOOK)).await.is_some() {
        let principals = principals.clone();
        let (before, path, last) = (config.clone(), path.clone(), seen);
        let looked = task::spawn_blocking(move || look(before, &path, last, &principals)).await;
        // A panic is told by its hook; the next look is another one.
        if let Ok((now, fingerprint)) = looked {
            (config, seen) = (now, fingerprint);
        }
    }
}

type Fingerprint = Option<[u8; 32]>;

fn fingerprint(path: &Path) -> Fingerprint {
    fs::read(path).ok().map(|bytes| Sha256::digest(bytes).into())
}

fn look(
    before: CollectorConfig,
    path: &Path,
    seen: Fingerprint,
    principals: &Principals,
) -> (CollectorConfig, Fingerprint) {
    let now = fingerprint(path);
    if now == seen {
        return (before, seen);
    }
    match CollectorConfig::load(before.flags.clone()) {
        Ok(after) => {
            principals.replace(after.principals.clone());
            // All else is compared with what is in use, however often the file changes.
            let running = CollectorConfig { principals: after.principals.clone(), ..before };
            PrincipalsLoaded { principals: running.principals.len(), restart: after != running }.emit();
            (running, now)
        }
        Err(error) => {
            ConfigRefused { error: &error }.emit();
            (before, now)
        }
    }
}
