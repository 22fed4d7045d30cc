//! What both daemons can be told of TLS.

use std::path::PathBuf;

use super::settings::{Settings, value::path};
use crate::tls::Files;

const CA: &str = "tls-ca";
const CERT: &str = "tls-cert";
const KEY: &str = "tls-key";

pub(super) const KEYS: [&str; 3] = [CA, CERT, KEY];

/// The three files: all, or none.
pub(super) fn files(settings: &mut Settings) -> Option<Files> {
    let absolute = |text: &str| path(text).map(Some);
    let given = KEYS.map(|key| settings.has(key));
    let [ca, cert, key] = KEYS.map(|key| settings.check(key, None, absolute));
    if given.contains(&true) {
        for (key, given) in KEYS.iter().zip(given) {
            if !given {
                settings.note(
                    &format!("--{key}"),
                    "is missing: tls-ca, tls-cert and tls-key go together".to_owned(),
                );
            }
        }
    }
    // One that is given and wrong has been told; what stands here in its place is not used.
    let some = |path: Option<PathBuf>| path.unwrap_or_default();
    given.contains(&true).then(|| Files { ca: some(ca), cert: some(cert), key: some(key) })
}
