//! Certificates and keys as they are on the disk: read whole, and checked before anything uses them.
//!
//! Whoever renews them replaces several files, one after the other or a directory of them at once (Kubernetes swaps a
//! symbolic link). So they are compared by content, and used only where certificate and key belong together.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::{
    Error, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::provider;
use crate::{
    clock,
    telemetry::{
        Emit as _,
        tls::{CertificateExpires, KeyReadable},
    },
};

/// More is no certificate.
const SIZE_MAX: u64 = 1 << 20;
/// Told from here on.
const SOON: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Where certificate, key and certificate authorities are; PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// who may sign the other side's certificate
    pub ca: PathBuf,
    /// our own, and those between it and the authority
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// cannot read {path}: {source}
    #[error("cannot read {}: {source}; see --tls-ca, --tls-cert and --tls-key", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// {path} has no {what} in it
    #[error("{} has no {what} in it ({why}): it must be PEM", path.display())]
    Empty { path: PathBuf, what: &'static str, why: String },
    /// {path}: no certificate authority
    #[error("{}: that is no certificate authority: {why}", path.display())]
    Authority { path: PathBuf, why: String },
    /// {key} is not the key of {cert}
    #[error("{} is not the key of {}: write both anew", key.display(), cert.display())]
    Mismatch { cert: PathBuf, key: PathBuf },
    /// {cert}: no certificate, or no key
    #[error("{} or its key cannot be used: {why}", cert.display())]
    Unusable { cert: PathBuf, why: String },
}

/// What files held, so that a change is noticed.
pub(super) type Fingerprint = [u8; 32];

/// The contents of files, read at about the same time.
#[derive(Debug, Default)]
pub(super) struct Contents(Vec<(PathBuf, Vec<u8>)>);

impl Contents {
    pub(super) fn read<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<Self, TlsError> {
        let mut contents = Self::default();
        for path in paths {
            let unreadable = |source| TlsError::Unreadable { path: path.to_owned(), source };
            let mut bytes = Vec::new();
            File::open(path)
                .and_then(|file| file.take(SIZE_MAX).read_to_end(&mut bytes))
                .map_err(unreadable)?;
            contents.0.push((path.to_owned(), bytes));
        }
        Ok(contents)
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        let mut hash = Sha256::new();
        for (_, bytes) in &self.0 {
            hash.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(bytes);
        }
        hash.finalize().into()
    }

    fn of(&self, path: &Path) -> &[u8] {
        self.0.iter().find(|(of, _)| of == path).map_or(&[], |(_, bytes)| bytes)
    }

    /// The certificate authorities in a file.
    pub(super) fn roots(&self, path: &Path) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for authority in certificates(path, self.of(path))? {
            let why = |e: Error| TlsError::Authority { path: path.to_owned(), why: e.to_string() };
            roots.add(authority).map_err(why)?;
        }
        Ok(roots)
    }
}

/// A certificate with its key, and until when it can be used.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    expires: SystemTime,
}

impl Files {
    pub(super) fn paths(&self) -> [&Path; 3] {
        let Self { ca, cert, key } = self;
        [ca, cert, key]
    }

    /// Our own certificate and key, which belong together.
    pub(super) fn own(&self, contents: &Contents) -> Result<Own, TlsError> {
        let Self { ca: _, cert, key } = self;
        let chain = certificates(cert, contents.of(cert))?;
        let private = PrivateKeyDer::from_pem_slice(contents.of(key)).map_err(|e| TlsError::Empty {
            path: key.clone(),
            what: "private key",
            why: e.to_string(),
        })?;
        let unusable = |why: String| TlsError::Unusable { cert: cert.clone(), why };
        CertifiedKey::from_der(chain.clone(), private.clone_key(), &provider()).map_err(|e| match e {
            Error::InconsistentKeys(_) => TlsError::Mismatch { cert: cert.clone(), key: key.clone() },
            other => unusable(other.to_string()),
        })?;
        let expires =
            chain.first().and_then(|own| expiry(own)).ok_or_else(|| unusable("no end".to_owned()))?;
        Ok(Own { chain, key: private, expires })
    }

    /// Says what a person should know of what is used from now on.
    pub(super) fn tell(&self, own: &Own) {
        let Self { ca: _, cert, key } = self;
        if let Ok(meta) = key.metadata()
            && meta.permissions().mode() & 0o007 != 0
        {
            KeyReadable { path: key }.emit();
        }
        own.tell_expiry(cert);
    }
}

impl Own {
    /// How long it can still be used, as a metric; and, where that is not long, to the log.
    pub(super) fn tell_expiry(&self, cert: &Path) {
        let left = self.expires.duration_since(clock::wall()).unwrap_or_default();
        CertificateExpires { cert, at: self.expires, soon: (left < SOON).then_some(left) }.emit();
    }
}

/// When a certificate ends; `None`: it cannot be read.
pub(super) fn expiry(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let seconds = certificate.validity().not_after.timestamp();
    // Before 1970: it has ended.
    UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let empty = |why: String| TlsError::Empty { path: path.to_owned(), what: "certificate", why };
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|e: rustls::pki_types::pem::Error| empty(e.to_string()))?;
    if all.is_empty() { Err(empty("nothing begins with BEGIN CERTIFICATE".to_owned())) } else { Ok(all) }
}
