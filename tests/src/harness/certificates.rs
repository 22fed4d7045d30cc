//! Certificates for daemons under test.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;
use podtrail::tls::client::{ClientTls, to_others};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};

/// Signs certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    /// Its own certificate, PEM.
    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A collector's files, in `dir`.
    pub(crate) fn collector(&self, dir: &Path) -> Result<Files> {
        self.issue(dir, &CertificateParams::new(vec!["127.0.0.1".to_owned()])?)
    }

    /// A server's files, for these names and addresses, in `dir`.
    pub(crate) fn server(&self, names: &[&str], dir: &Path) -> Result<Files> {
        let names = names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        self.issue(dir, &CertificateParams::new(names)?)
    }

    /// A kubelet's files, as the cluster's authority signs them, in `dir`.
    pub(crate) fn kubelet(&self, node: &str, dir: &Path) -> Result<Files> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
        self.issue(dir, &params)
    }

    /// Files of whoever this URI names, in `dir`. They may be there already: then they are renewed.
    pub(crate) fn of(&self, uri: &str, dir: &Path) -> Result<Files> {
        let mut params = CertificateParams::default();
        params.subject_alt_names.push(SanType::URI(uri.try_into()?));
        self.issue(dir, &params)
    }

    fn issue(&self, dir: &Path, params: &CertificateParams) -> Result<Files> {
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.0)?;
        fs::create_dir_all(dir)?;
        let write = |name: &str, text: String| -> Result<PathBuf> {
            // Whole, or as before: somebody may read it meanwhile.
            let (new, path) = (dir.join("new"), dir.join(name));
            fs::write(&new, text)?;
            fs::rename(&new, &path)?;
            Ok(path)
        };
        Ok(Files {
            ca: write("ca.pem", self.pem())?,
            cert: write("cert.pem", cert.pem())?,
            key: write("key.pem", key.serialize_pem())?,
        })
    }
}

/// What a daemon, or the command line, is given of them.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) ca: PathBuf,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Files {
    fn each(&self) -> [(&'static str, String); 3] {
        let Self { ca, cert, key } = self;
        [("ca", ca), ("cert", cert), ("key", key)].map(|(name, path)| (name, path.display().to_string()))
    }

    /// As flags.
    pub(crate) fn args(&self) -> Vec<String> {
        self.each().into_iter().flat_map(|(name, path)| [format!("--tls-{name}"), path]).collect()
    }

    /// As a reader of podtrail's uses them.
    pub(crate) fn reader(&self) -> ClientTls {
        let Self { ca, cert, key } = self.clone();
        ClientTls::new(podtrail::tls::Files { ca, cert, key })
    }

    /// As any other program does.
    pub(crate) fn client(&self) -> Result<rustls::ClientConfig> {
        Ok(to_others(&self.ca, Some((&self.cert, &self.key)))?)
    }

    /// As the command line's environment.
    pub(crate) fn env(&self) -> [(String, String); 3] {
        self.each().map(|(name, path)| (format!("PODTRAIL_TLS_{}", name.to_uppercase()), path))
    }
}
