//! Who a certificate says somebody is.
//!
//! A certificate of podtrail's own authority carries one URI among its alternative names:
//! `podtrail://agent/CLUSTER/NODE`, `podtrail://reader/PRINCIPAL` or `podtrail://audit/CLUSTER`. Where the operator has
//! named the authority of the kubelets, a certificate of that one is a node's by its subject, and nothing else; where they
//! have named that of the API servers, one is an API server's by its common name.

use std::{fmt, sync::Arc};

use percent_encoding::percent_decode_str;
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer as _, X509Certificate},
};

const SCHEME: &str = "podtrail://";
/// Of a cluster, a node or a principal; as `collector` takes them in a greeting.
const MAX_NAME: usize = 253;

const KUBELET_ORGANIZATION: &str = "system:nodes";
const KUBELET_NAME: &str = "system:node:";

/// Who somebody is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// anybody on this machine: there is no TLS
    Loopback,
    Agent {
        cluster: Arc<str>,
        node: Arc<str>,
    },
    Reader {
        principal: Arc<str>,
    },
    /// an API server of this cluster
    Audit {
        cluster: Arc<str>,
    },
    /// a certificate of the right authority, with no name of ours in it
    Unnamed,
}

/// Why a certificate names nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// the certificate cannot be read
    #[error("the certificate cannot be read: {0}")]
    Unreadable(String),
    /// it names several
    #[error("the certificate has {0} podtrail:// names: it must have one")]
    Several(usize),
    /// {0} is no name
    #[error(
        "{0:?} in the certificate is none of podtrail://agent/CLUSTER/NODE, podtrail://reader/PRINCIPAL and podtrail://audit/CLUSTER"
    )]
    Malformed(String),
    /// no kubelet's
    #[error("a certificate of the kubelets' authority, but of {0:?} and not of a node")]
    NoKubelet(String),
    /// no API server's
    #[error("a certificate of the API servers' authority, but of {0:?}, which is none of audit-client")]
    NoApiServer(String),
}

impl Identity {
    /// By the names in a certificate (DER) of podtrail's own authority.
    pub fn of_certificate(der: &[u8]) -> Result<Self, IdentityError> {
        let certificate = read(der)?;
        let unreadable = |e: x509_parser::error::X509Error| IdentityError::Unreadable(e.to_string());
        let names = certificate.subject_alternative_name().map_err(unreadable)?;
        let names = names.iter().flat_map(|names| &names.value.general_names);
        let ours: Vec<&str> = names
            .filter_map(|name| match name {
                GeneralName::URI(uri) => has_scheme(uri).then_some(*uri),
                _ => None,
            })
            .collect();
        match ours.as_slice() {
            [] => Ok(Self::Unnamed),
            [uri] => parse(uri).ok_or_else(|| IdentityError::Malformed((*uri).to_owned())),
            several => Err(IdentityError::Several(several.len())),
        }
    }

    /// By the subject of a kubelet's certificate (DER), whose authority names no cluster.
    pub fn of_kubelet(der: &[u8], cluster: &str) -> Result<Self, IdentityError> {
        let certificate = read(der)?;
        let subject = certificate.subject();
        let no = || IdentityError::NoKubelet(subject.to_string());
        let mut organizations = subject.iter_organization().filter_map(|o| o.as_str().ok());
        let mut names = subject.iter_common_name().filter_map(|name| name.as_str().ok());
        let (Some(name), None) = (names.next(), names.next()) else { return Err(no()) };
        let node = name.strip_prefix(KUBELET_NAME).and_then(checked).ok_or_else(no)?;
        if !organizations.any(|organization| organization == KUBELET_ORGANIZATION) {
            return Err(no());
        }
        Ok(Self::Agent { cluster: cluster.into(), node })
    }

    /// By the common name in an API server's certificate (DER), whose authority signs many others.
    pub fn of_api_server(der: &[u8], cluster: &str, names: &[String]) -> Result<Self, IdentityError> {
        let certificate = read(der)?;
        let subject = certificate.subject();
        let mut found = subject.iter_common_name().filter_map(|name| name.as_str().ok());
        match (found.next(), found.next()) {
            (Some(name), None) if names.iter().any(|wanted| wanted == name) => {
                Ok(Self::Audit { cluster: cluster.into() })
            }
            _ => Err(IdentityError::NoApiServer(subject.to_string())),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback => f.write_str("loopback"),
            Self::Agent { cluster, node } => write!(f, "agent {cluster}/{node}"),
            Self::Reader { principal } => write!(f, "reader {principal}"),
            Self::Audit { cluster } => write!(f, "audit of {cluster}"),
            Self::Unnamed => f.write_str("a certificate without a podtrail:// name"),
        }
    }
}

fn read(der: &[u8]) -> Result<X509Certificate<'_>, IdentityError> {
    match X509Certificate::from_der(der) {
        Ok((_, certificate)) => Ok(certificate),
        Err(e) => Err(IdentityError::Unreadable(e.to_string())),
    }
}

fn has_scheme(uri: &str) -> bool {
    uri.get(..SCHEME.len()).is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME))
}

fn parse(uri: &str) -> Option<Identity> {
    let mut parts = uri.get(SCHEME.len()..)?.split('/');
    match (parts.next()?, parts.next()?, parts.next(), parts.next()) {
        ("agent", cluster, Some(node), None) => {
            Some(Identity::Agent { cluster: decoded(cluster)?, node: decoded(node)? })
        }
        ("reader", principal, None, None) => Some(Identity::Reader { principal: decoded(principal)? }),
        ("audit", cluster, None, None) => Some(Identity::Audit { cluster: decoded(cluster)? }),
        _ => None,
    }
}

/// What a part of a URI stands for: a `/` in a name is written `%2F`.
fn decoded(part: &str) -> Option<Arc<str>> {
    if part.contains(['?', '#']) {
        return None;
    }
    checked(&percent_decode_str(part).decode_utf8().ok()?)
}

fn checked(name: &str) -> Option<Arc<str>> {
    let good = !name.is_empty()
        && name.len() <= MAX_NAME
        && !name.chars().any(|c| c.is_control() || c.is_whitespace());
    good.then(|| name.into())
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};

    use super::*;
    use crate::tls::testing::{Authority, Issued, Wanted};

    fn der(issued: &Issued) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(issued.cert.as_bytes()).unwrap()
    }

    fn agent(cluster: &str, node: &str) -> Identity {
        Identity::Agent { cluster: cluster.into(), node: node.into() }
    }

    fn of(uris: &[&str]) -> Result<Identity, IdentityError> {
        Identity::of_certificate(&der(&Authority::new("ca").of(uris)))
    }

    #[test]
    fn a_certificate_names_an_agent_or_a_reader() {
        assert_eq!(of(&["podtrail://agent/prod/node-1"]), Ok(agent("prod", "node-1")));
        assert_eq!(of(&["podtrail://agent/arn:aws:eks%2Fprod/n"]), Ok(agent("arn:aws:eks/prod", "n")));
        assert_eq!(of(&["PODTRAIL://agent/prod/n"]), Ok(agent("prod", "n")));
        let reader = Identity::Reader { principal: "siem".into() };
        assert_eq!(of(&["spiffe://x/y", "podtrail://reader/siem"]), Ok(reader));
        assert_eq!(of(&["podtrail://audit/prod"]), Ok(Identity::Audit { cluster: "prod".into() }));
        assert_eq!(of(&["spiffe://x/y"]), Ok(Identity::Unnamed));
        assert_eq!(of(&[]), Ok(Identity::Unnamed));
    }

    #[test]
    fn what_is_not_exactly_one_name_is_refused() {
        let two = of(&["podtrail://agent/c/n", "podtrail://reader/r"]);
        assert_eq!(two, Err(IdentityError::Several(2)));
        for uri in [
            "podtrail://agent/c",
            "podtrail://agent/c/",
            "podtrail://agent//n",
            "podtrail://agent/c/n/x",
            "podtrail://agent/c/n?x",
            "podtrail://agent/c/n#x",
            "podtrail://agent/c/n%0a",
            "podtrail://agent/c/n%20m",
            "podtrail://agent/c/%ff",
            "podtrail://reader/",
            "podtrail://reader/a/b",
            "podtrail://audit/",
            "podtrail://audit/a/b",
            "podtrail://Reader/a",
            "podtrail://",
        ] {
            assert_eq!(of(&[uri]), Err(IdentityError::Malformed(uri.to_owned())), "{uri}");
        }
        assert!(matches!(Identity::of_certificate(b"\x30\x82"), Err(IdentityError::Unreadable(_))));
    }

    #[test]
    fn a_kubelet_is_known_by_its_subject_alone() {
        let of = |organization: &str, name: &str| {
            let uris = &["podtrail://reader/r"];
            let wanted = Wanted { uris, subject: Some((organization, name)), ..Wanted::default() };
            Identity::of_kubelet(&der(&Authority::new("ca").issue(wanted)), "prod")
        };
        assert_eq!(of("system:nodes", "system:node:n1"), Ok(agent("prod", "n1")));
        for (organization, name) in [
            ("system:masters", "system:node:n1"),
            ("system:nodes", "system:nodes:n1"),
            ("system:nodes", "system:node:"),
            ("system:nodes", "admin"),
        ] {
            assert!(
                matches!(of(organization, name), Err(IdentityError::NoKubelet(_))),
                "{organization} {name}"
            );
        }
    }

    #[test]
    fn an_api_server_is_known_by_its_common_name_alone() {
        let names = ["kube-apiserver-audit".to_owned(), "other".to_owned()];
        let of = |name: &str| {
            let uris = &["podtrail://audit/elsewhere"];
            let wanted = Wanted { uris, subject: Some(("system:masters", name)), ..Wanted::default() };
            Identity::of_api_server(&der(&Authority::new("ca").issue(wanted)), "prod", &names)
        };
        assert_eq!(of("kube-apiserver-audit"), Ok(Identity::Audit { cluster: "prod".into() }));
        for name in ["kubernetes-admin", "", "kube-apiserver-audit "] {
            assert!(matches!(of(name), Err(IdentityError::NoApiServer(_))), "{name:?}");
        }
    }
}
