//! What there is to tell of certificates and their files.

use std::{
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use metrics::{Unit, describe_gauge, gauge};
use tracing::{error, info, warn};

use super::Emit;

/// Names and units, for `/metrics`.
pub fn describe() {
    describe_gauge!(
        "podtrail_tls_certificate_expiry_timestamp_seconds",
        Unit::Seconds,
        "When our own certificate ends, as seconds since 1970"
    );
}

/// A certificate of ours is in use.
#[derive(Debug)]
pub struct CertificateExpires<'a> {
    pub cert: &'a Path,
    pub at: SystemTime,
    /// what is left, where that is not much; zero: it has ended
    pub soon: Option<Duration>,
}

impl Emit for CertificateExpires<'_> {
    fn emit(self) {
        let Self { cert, at, soon } = self;
        let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        gauge!("podtrail_tls_certificate_expiry_timestamp_seconds").set(seconds);
        match soon {
            None => {}
            Some(Duration::ZERO) => {
                error!(cert = %cert.display(), "our certificate has expired: nobody accepts it; renew it");
            }
            Some(left) => {
                let hours = left.as_secs() / 3600;
                warn!(cert = %cert.display(), hours, "our certificate expires soon: renew it");
            }
        }
    }
}

/// Others than its owner's group can read the key.
#[derive(Debug)]
pub struct KeyReadable<'a> {
    pub path: &'a Path,
}

impl Emit for KeyReadable<'_> {
    fn emit(self) {
        warn!(key = %self.path.display(), "everybody on this machine can read this private key: chmod o= it");
    }
}

/// Certificate, key or authorities have changed, and are used from now on.
#[derive(Debug)]
pub struct FilesLoaded<'a> {
    pub cert: &'a Path,
}

impl Emit for FilesLoaded<'_> {
    fn emit(self) {
        info!(cert = %self.cert.display(), "certificates reloaded: new connections use them");
    }
}

/// They have changed, and cannot be used.
#[derive(Debug)]
pub struct FilesRefused<'a> {
    pub error: &'a dyn std::error::Error,
}

impl Emit for FilesRefused<'_> {
    fn emit(self) {
        warn!(error = %self.error, "certificates cannot be reloaded: those from before stay in use");
    }
}
