//! Certificates as tests need them; shared with `tests/tls`.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType, date_time_ymd,
};

/// Signs certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// What a certificate is to say.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted<'a> {
    pub(crate) uris: &'a [&'a str],
    /// DNS names and addresses
    pub(crate) hosts: &'a [&'a str],
    /// organization and common name
    pub(crate) subject: Option<(&'a str, &'a str)>,
    pub(crate) expires: Option<SystemTime>,
}

/// A certificate and its key, PEM.
#[derive(Clone, Debug)]
pub(crate) struct Issued {
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn issue(&self, wanted: Wanted<'_>) -> Issued {
        let Wanted { uris, hosts, subject, expires } = wanted;
        let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.subject_alt_names.extend(uris.iter().map(|&uri| SanType::URI(uri.try_into().unwrap())));
        if let Some((organization, name)) = subject {
            params.distinguished_name.push(DnType::OrganizationName, organization);
            params.distinguished_name.push(DnType::CommonName, name);
        }
        if let Some(expires) = expires {
            let since = expires.duration_since(UNIX_EPOCH).unwrap();
            params.not_before = date_time_ymd(2000, 1, 1);
            params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(since.as_secs());
        }
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.0).unwrap();
        Issued { cert: cert.pem(), key: key.serialize_pem() }
    }

    /// A certificate with these URIs.
    pub(crate) fn of(&self, uris: &[&str]) -> Issued {
        self.issue(Wanted { uris, ..Wanted::default() })
    }
}

impl Issued {
    /// Writes `ca.pem`, `cert.pem` and `key.pem`.
    pub(crate) fn write(&self, dir: &Path, ca: &str) {
        fs::create_dir_all(dir).unwrap();
        for (name, text) in [("ca.pem", ca), ("cert.pem", &self.cert), ("key.pem", &self.key)] {
            fs::write(dir.join(name), text).unwrap();
        }
    }
}
