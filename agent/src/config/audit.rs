//! What the collector can be told of the API server's audit.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::settings::{
    Settings,
    value::{bytes_within, duration, name, path, quoted},
};
use crate::tls::server::ApiServers;

/// As the agents' own name for their cluster.
const CLUSTER: &str = "default";
const MAX_BODY: u64 = 32 << 20;
const MAX_BODY_MIN: u64 = 1 << 20;
const MAX_BODY_MAX: u64 = 256 << 20;
const STALE_AFTER: Duration = Duration::from_secs(60);
/// API servers wait for more, by default 30 s, before they send a batch.
const STALE_AFTER_MIN: Duration = Duration::from_secs(1);

/// Its flags.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct AuditFlags {
    /// Address for the API server's audit webhook; without TLS loopback only [default: none]
    #[arg(long, value_name = "ADDR")]
    pub audit_listen: Option<String>,
    /// API servers may show a certificate of this authority (PEM) instead of one with podtrail://audit/CLUSTER
    #[arg(long, value_name = "FILE")]
    pub audit_ca: Option<String>,
    /// The common names that those certificates have, with commas between them
    #[arg(long, value_name = "NAMES")]
    pub audit_client: Option<String>,
    /// The cluster of audit that comes by such a certificate, without one, or from a file [default: default]
    #[arg(long, value_name = "NAME")]
    pub audit_cluster: Option<String>,
    /// The longest batch that is taken, like 64MiB [default: 32MiB]
    #[arg(long, value_name = "BYTES")]
    pub audit_max_body: Option<String>,
    /// An API server of which no audit came for so long is not heard [default: 60s]
    #[arg(long, value_name = "DURATION")]
    pub audit_stale_after: Option<String>,
    /// An audit log file of the API server to follow [default: none]
    #[arg(long, value_name = "PATH")]
    pub audit_log: Option<String>,
}

pub(super) const KEYS: [&str; 7] = [
    "audit-listen",
    "audit-ca",
    "audit-client",
    "audit-cluster",
    "audit-max-body",
    "audit-stale-after",
    "audit-log",
];

/// What was told, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// `None`: no webhook. Loopback, where there is no TLS.
    pub listen: Option<SocketAddr>,
    pub api_servers: Option<ApiServers>,
    pub cluster: String,
    /// bytes
    pub max_body: usize,
    pub stale_after: Duration,
    /// `None`: no file
    pub log: Option<PathBuf>,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            listen: None,
            api_servers: None,
            cluster: CLUSTER.to_owned(),
            max_body: usize::try_from(MAX_BODY).unwrap_or(usize::MAX),
            stale_after: STALE_AFTER,
            log: None,
        }
    }
}

impl AuditFlags {
    pub(super) fn put(self, settings: &mut Settings) {
        let Self {
            audit_listen,
            audit_ca,
            audit_client,
            audit_cluster,
            audit_max_body,
            audit_stale_after,
            audit_log,
        } = self;
        settings.flag("--audit-listen", audit_listen);
        settings.flag("--audit-ca", audit_ca);
        settings.flag("--audit-client", audit_client);
        settings.flag("--audit-cluster", audit_cluster);
        settings.flag("--audit-max-body", audit_max_body);
        settings.flag("--audit-stale-after", audit_stale_after);
        settings.flag("--audit-log", audit_log);
    }
}

/// `secure`: the collector has a certificate.
pub(super) fn check(settings: &mut Settings, secure: bool) -> Audit {
    let given = (settings.has("audit-ca"), settings.has("audit-client"));
    let ca = settings.check("audit-ca", None, |text| path(text).map(Some));
    let names = settings.check("audit-client", None, |text| common_names(text).map(Some));
    match given {
        (true, false) => {
            let what = "is missing: that authority signs others too; which common name has the API server?";
            settings.note("--audit-client", what.to_owned());
        }
        (false, true) => settings.note("--audit-ca", "is missing: who signs the API server?".to_owned()),
        (true, true) if !secure => {
            settings.note("--audit-ca", "needs tls-ca, tls-cert and tls-key".to_owned());
        }
        _ => {}
    }
    let Audit { listen: _, api_servers: _, cluster, max_body, stale_after, log: _ } = Audit::default();
    let cluster = settings.check("audit-cluster", cluster, name);
    Audit {
        listen: settings.check("audit-listen", None, |text| {
            super::collector::listen(text, "127.0.0.1:7444", secure).map(Some)
        }),
        api_servers: ca.zip(names).map(|(ca, names)| ApiServers { ca, cluster: cluster.clone(), names }),
        cluster,
        max_body: settings.check("audit-max-body", max_body, |text| {
            let bytes = bytes_within(text, &(MAX_BODY_MIN..=MAX_BODY_MAX))?;
            usize::try_from(bytes).map_err(|e| e.to_string())
        }),
        stale_after: settings.check("audit-stale-after", stale_after, |text| duration(text, STALE_AFTER_MIN)),
        log: settings.check("audit-log", None, |text| path(text).map(Some)),
    }
}

fn common_names(text: &str) -> Result<Vec<String>, String> {
    let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
    if names.iter().any(|name| name.is_empty() || name.chars().any(char::is_control)) {
        return Err(format!("{} is no list of common names, like kube-apiserver-audit", quoted(text)));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, secure: bool) -> Result<Audit, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let mut settings = Settings::read(Some(file.path()), &KEYS, &[]).unwrap();
        let audit = check(&mut settings, secure);
        let path = file.path().display().to_string();
        settings.finish(audit).map_err(|e| e.to_string().replace(&path, "F"))
    }

    #[test]
    fn nothing_listens_unless_it_is_said() {
        assert_eq!(load("", false).unwrap(), Audit::default());
        let told = "audit-listen = \"[::]:7444\"\naudit-ca = \"/k8s\"\naudit-client = \"a, b\"\n\
                    audit-cluster = \"prod\"\naudit-max-body = \"64MiB\"\naudit-stale-after = \"2m\"\n\
                    audit-log = \"/var/log/audit.log\"\n";
        let servers = ApiServers {
            ca: "/k8s".into(),
            cluster: "prod".to_owned(),
            names: vec!["a".to_owned(), "b".to_owned()],
        };
        assert_eq!(
            load(told, true).unwrap(),
            Audit {
                listen: Some("[::]:7444".parse().unwrap()),
                api_servers: Some(servers),
                cluster: "prod".to_owned(),
                max_body: 64 << 20,
                stale_after: Duration::from_secs(120),
                log: Some("/var/log/audit.log".into()),
            }
        );
    }

    #[test]
    fn what_cannot_be_is_told_in_its_place() {
        let told = |text: &str| load(text, false).unwrap_err();
        assert_eq!(
            told("audit-listen = \"0.0.0.0:7444\"\n"),
            "F:1:1: audit-listen: 0.0.0.0:7444 is not a loopback address: give tls-ca, tls-cert and tls-key, or use 127.0.0.1:7444"
        );
        assert_eq!(
            told("audit-ca = \"/a\"\n"),
            "--audit-client: is missing: that authority signs others too; which common name has the API server?"
        );
        assert_eq!(told("audit-client = \"a\"\n"), "--audit-ca: is missing: who signs the API server?");
        assert_eq!(
            told("audit-ca = \"/a\"\naudit-client = \"a\"\n"),
            "--audit-ca: needs tls-ca, tls-cert and tls-key"
        );
        assert_eq!(
            told("audit-ca = \"/a\"\naudit-client = \"a,,b\"\n").lines().next().unwrap(),
            "F:2:1: audit-client: \"a,,b\" is no list of common names, like kube-apiserver-audit"
        );
        assert!(told("audit-cluster = \"a b\"\n").contains("is no name"));
        assert!(told("audit-max-body = 5\n").contains("5 bytes is not between 1048576 and 268435456"));
        assert!(told("audit-log = \"x\"\n").contains("\"x\" is not an absolute path"));
        assert!(told("audit-stale-after = \"never\"\n").contains("is no duration"));
    }
}
