//! The collector's configuration: flags over the file over the defaults.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use super::{
    attribution::{self, AttributionFlags},
    audit::{self, Audit},
    kubernetes::{self, Kubernetes, KubernetesFlags},
    outputs::{self, OUTPUT, Output},
    principals,
    settings::{
        Settings, SettingsError,
        value::{
            address, bytes_within, duration, log_format, log_level, name, number_within, optional, path,
        },
    },
    tls,
};
use crate::{
    telemetry::LogFormat,
    tls::{Files, server::Kubelets},
    trail::{log::Limits, rights::Principal},
};

const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7443);
const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9443);
const DATA: &str = "/var/lib/podtrail/collector";

const MAX_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
const MAX_AGE_MIN: Duration = Duration::from_secs(60);

const MAX_BYTES: u64 = 10 << 30;
/// Below this the log could not hold one event of the largest kind beside another.
const MAX_BYTES_MIN: u64 = 1 << 20;
const MAX_BYTES_MAX: u64 = 1 << 50;

const SILENT_AFTER: Duration = Duration::from_secs(60);
/// Agents give a sign of life every 15 s, and one of them may be late.
const SILENT_AFTER_MIN: Duration = Duration::from_secs(30);

const STREAMS: usize = 64;
const SUBSCRIPTIONS: usize = 100;
const SLOW_AFTER: Duration = Duration::from_secs(60);
const SLOW_AFTER_MIN: Duration = Duration::from_secs(1);
const MAX_IDLE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
const MAX_IDLE_MIN: Duration = Duration::from_secs(60 * 60);

/// `podtrail-collector run`, as written.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct Flags {
    /// A TOML file; its keys are these flags without the dashes, and flags go first
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address for agents and readers; without TLS loopback only [default: 127.0.0.1:7443]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Directory of the log [default: /var/lib/podtrail/collector]
    #[arg(long, value_name = "DIR")]
    pub data: Option<String>,
    /// Events are kept for this long, like 36h [default: 7d]
    #[arg(long, value_name = "DURATION")]
    pub max_age: Option<String>,
    /// At most so many bytes of events are kept, like 512MiB [default: 10GiB]
    #[arg(long, value_name = "BYTES")]
    pub max_bytes: Option<String>,
    /// Certificate authorities (PEM) that agents and readers must have their certificates from
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<String>,
    /// This collector's certificate (PEM), with those between it and the authority
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<String>,
    /// The key of that certificate (PEM)
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<String>,
    /// Agents may show their kubelet's certificate instead, from this authority (PEM)
    #[arg(long, value_name = "FILE")]
    pub kubelet_ca: Option<String>,
    /// The cluster that those kubelets are of, which their certificates do not say
    #[arg(long, value_name = "NAME")]
    pub kubelet_cluster: Option<String>,
    /// Calls that one certificate's name may have open at once [default: 64]
    #[arg(long, value_name = "N")]
    pub streams_per_peer: Option<String>,
    /// Subscriptions that one principal may have [default: 100]
    #[arg(long, value_name = "N")]
    pub subscriptions_per_principal: Option<String>,
    /// A subscriber that has no room for so long is closed; its place is kept [default: 60s]
    #[arg(long, value_name = "DURATION")]
    pub subscription_slow_after: Option<String>,
    /// A subscription that nobody opens for so long is forgotten [default: 30d]
    #[arg(long, value_name = "DURATION")]
    pub subscription_max_idle: Option<String>,
    /// A node of which nothing came for so long is silent, which is an event, or "never" [default: 60s]
    #[arg(long, value_name = "DURATION")]
    pub silent_after: Option<String>,
    /// For tests, which do not wait for so long: silent-after may be less than agents need
    #[arg(long, hide = true)]
    pub silent_soon: bool,
    #[command(flatten)]
    pub audit: audit::AuditFlags,
    #[command(flatten)]
    pub attribution: AttributionFlags,
    #[command(flatten)]
    pub kubernetes: KubernetesFlags,
    /// Where to serve /metrics, /healthz and /readyz, or "none" [default: 127.0.0.1:9443]
    #[arg(long, value_name = "ADDR")]
    pub metrics_listen: Option<String>,
    /// error, warn, info, debug or trace, or a filter as in RUST_LOG [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// auto, text, logfmt or json [default: auto]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

/// The collector's configuration, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct CollectorConfig {
    /// loopback, where there is no TLS
    pub listen: SocketAddr,
    pub tls: Option<Tls>,
    pub principals: Vec<Principal>,
    pub streams_per_peer: usize,
    pub subscriptions_per_principal: usize,
    pub subscription_slow_after: Duration,
    pub subscription_max_idle: Duration,
    /// `None`: no metrics
    pub metrics_listen: Option<SocketAddr>,
    pub data: PathBuf,
    pub retention: Limits,
    /// `[[output]]`
    pub outputs: Vec<Output>,
    /// `None`: never
    pub silent_after: Option<Duration>,
    pub audit: Audit,
    /// where there is audit
    pub attribution: crate::collector::attribution::Settings,
    pub kubernetes: Kubernetes,
    /// a filter as in `RUST_LOG`
    pub log_level: Option<String>,
    pub log_format: LogFormat,
    /// what it was read from, to be read again when the file has changed
    pub flags: Flags,
}

/// How the collector shows itself, and whom it believes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    pub files: Files,
    pub kubelets: Option<Kubelets>,
}

/// Keys that a file may have.
const KEYS: [&str; 34] = [
    "listen",
    "data",
    "max-age",
    "max-bytes",
    "tls-ca",
    "tls-cert",
    "tls-key",
    "kubelet-ca",
    "kubelet-cluster",
    "streams-per-peer",
    "subscriptions-per-principal",
    "subscription-slow-after",
    "subscription-max-idle",
    "silent-after",
    audit::KEYS[0],
    audit::KEYS[1],
    audit::KEYS[2],
    audit::KEYS[3],
    audit::KEYS[4],
    audit::KEYS[5],
    audit::KEYS[6],
    attribution::KEYS[0],
    attribution::KEYS[1],
    attribution::KEYS[2],
    attribution::KEYS[3],
    kubernetes::KEYS[0],
    kubernetes::KEYS[1],
    kubernetes::KEYS[2],
    kubernetes::KEYS[3],
    kubernetes::KEYS[4],
    kubernetes::KEYS[5],
    "metrics-listen",
    "log-level",
    "log-format",
];

impl CollectorConfig {
    /// Reads the file, where there is one, puts the flags over it, and checks it all.
    pub fn load(flags: Flags) -> Result<Self, SettingsError> {
        let Flags {
            config,
            listen,
            data,
            max_age,
            max_bytes,
            tls_ca,
            tls_cert,
            tls_key,
            kubelet_ca,
            kubelet_cluster,
            streams_per_peer,
            subscriptions_per_principal,
            subscription_slow_after,
            subscription_max_idle,
            silent_after,
            silent_soon: _,
            audit,
            attribution,
            kubernetes,
            metrics_listen,
            log_level,
            log_format,
        } = flags.clone();
        let mut settings = Settings::read(config.as_deref(), &KEYS, &[principals::PRINCIPAL, OUTPUT])?;
        settings.flag("--listen", listen);
        settings.flag("--data", data);
        settings.flag("--max-age", max_age);
        settings.flag("--max-bytes", max_bytes);
        settings.flag("--tls-ca", tls_ca);
        settings.flag("--tls-cert", tls_cert);
        settings.flag("--tls-key", tls_key);
        settings.flag("--kubelet-ca", kubelet_ca);
        settings.flag("--kubelet-cluster", kubelet_cluster);
        settings.flag("--streams-per-peer", streams_per_peer);
        settings.flag("--subscriptions-per-principal", subscriptions_per_principal);
        settings.flag("--subscription-slow-after", subscription_slow_after);
        settings.flag("--subscription-max-idle", subscription_max_idle);
        settings.flag("--silent-after", silent_after);
        audit.put(&mut settings);
        attribution.put(&mut settings);
        kubernetes.put(&mut settings);
        settings.flag("--metrics-listen", metrics_listen);
        settings.flag("--log-level", log_level);
        settings.flag("--log-format", log_format);
        let config = Self::check(&mut settings, flags);
        settings.finish(config)
    }

    fn check(settings: &mut Settings, flags: Flags) -> Self {
        let tls = check_tls(settings);
        let principals = principals::check(settings);
        if tls.is_none() && !principals.is_empty() {
            let what =
                "without TLS nobody has a certificate to be known by: give tls-ca, tls-cert and tls-key";
            settings.note("[[principal]]", what.to_owned());
        }
        let secure = tls.is_some();
        Self {
            listen: settings.check("listen", LISTEN, |text| listen(text, "127.0.0.1:7443", secure)),
            tls,
            principals,
            streams_per_peer: settings
                .check("streams-per-peer", STREAMS, |text| number_within(text, &(1..=100_000))),
            subscriptions_per_principal: settings.check(
                "subscriptions-per-principal",
                SUBSCRIPTIONS,
                |text| number_within(text, &(1..=100_000)),
            ),
            subscription_slow_after: settings
                .check("subscription-slow-after", SLOW_AFTER, |text| duration(text, SLOW_AFTER_MIN)),
            subscription_max_idle: settings
                .check("subscription-max-idle", MAX_IDLE, |text| duration(text, MAX_IDLE_MIN)),
            data: settings.check("data", PathBuf::from(DATA), path),
            retention: Limits {
                max_age: settings.check("max-age", MAX_AGE, |text| duration(text, MAX_AGE_MIN)),
                max_bytes: settings.check("max-bytes", MAX_BYTES, |text| {
                    bytes_within(text, &(MAX_BYTES_MIN..=MAX_BYTES_MAX))
                }),
            },
            outputs: outputs::check(settings),
            audit: audit::check(settings, secure),
            attribution: attribution::check(settings),
            kubernetes: kubernetes::check(settings, flags.kubernetes.kubernetes_soon),
            silent_after: settings.check("silent-after", Some(SILENT_AFTER), |text| match text {
                "never" => Ok(None),
                text if flags.silent_soon => duration(text, Duration::ZERO).map(Some),
                text => duration(text, SILENT_AFTER_MIN)
                    .map(Some)
                    .map_err(|e| format!("{e}: agents give a sign of life every 15 s; or \"never\"")),
            }),
            metrics_listen: settings.check("metrics-listen", Some(METRICS), |text| {
                optional(text, |text| address(text, "127.0.0.1:9443, or none"))
            }),
            log_level: settings.check("log-level", None, |text| log_level(text).map(Some)),
            log_format: settings.check("log-format", LogFormat::Auto, log_format),
            flags,
        }
    }
}

fn check_tls(settings: &mut Settings) -> Option<Tls> {
    let files = tls::files(settings);
    let given = (settings.has("kubelet-ca"), settings.has("kubelet-cluster"));
    let ca = settings.check("kubelet-ca", None, |text| path(text).map(Some));
    let cluster = settings.check("kubelet-cluster", None, |text| name(text).map(Some));
    match given {
        (true, false) => {
            let what = "is missing: of which cluster are the kubelets of kubelet-ca?";
            settings.note("--kubelet-cluster", what.to_owned());
        }
        (false, true) => settings.note("--kubelet-ca", "is missing: who signs the kubelets?".to_owned()),
        (true, true) if files.is_none() => {
            settings.note("--kubelet-ca", "needs tls-ca, tls-cert and tls-key".to_owned());
        }
        _ => {}
    }
    Some(Tls { files: files?, kubelets: ca.zip(cluster).map(|(ca, cluster)| Kubelets { ca, cluster }) })
}

/// An address to listen on. In the clear, what was run and who did what may not come over a network; and anybody could say
/// anything.
pub(super) fn listen(text: &str, example: &str, secure: bool) -> Result<SocketAddr, String> {
    let address = address(text, example)?;
    if secure || address.ip().is_loopback() {
        return Ok(address);
    }
    Err(format!(
        "{address} is not a loopback address: give tls-ca, tls-cert and tls-key, or use 127.0.0.1:{}",
        address.port()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without what it was read from: a file that is gone.
    fn load(text: &str, flags: Flags) -> Result<CollectorConfig, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let path = file.path().display().to_string();
        CollectorConfig::load(Flags { config: Some(file.path().to_owned()), ..flags })
            .map(|config| CollectorConfig { flags: Flags::default(), ..config })
            .map_err(|e| e.to_string().replace(&path, "F"))
    }

    fn tls() -> Tls {
        let files = Files { ca: "/ca".into(), cert: "/cert".into(), key: "/key".into() };
        Tls { files, kubelets: None }
    }

    #[test]
    fn nothing_is_needed() {
        let config = CollectorConfig::load(Flags::default()).unwrap();
        assert_eq!(
            config,
            CollectorConfig {
                listen: "127.0.0.1:7443".parse().unwrap(),
                metrics_listen: Some("127.0.0.1:9443".parse().unwrap()),
                data: "/var/lib/podtrail/collector".into(),
                retention: Limits { max_age: Duration::from_secs(604_800), max_bytes: 10_737_418_240 },
                outputs: vec![],
                tls: None,
                principals: vec![],
                streams_per_peer: 64,
                subscriptions_per_principal: 100,
                subscription_slow_after: Duration::from_secs(60),
                subscription_max_idle: Duration::from_secs(30 * 86_400),
                silent_after: Some(Duration::from_secs(60)),
                audit: Audit::default(),
                attribution: crate::collector::attribution::Settings::default(),
                kubernetes: Kubernetes::default(),
                log_level: None,
                log_format: LogFormat::Auto,
                flags: Flags::default(),
            }
        );
    }

    #[test]
    fn flags_go_before_the_file() {
        let text = "listen = \"127.0.0.1:1\"\ndata = \"/a\"\nmetrics-listen = \"none\"\nmax-age = \"36h\"\n\
                    max-bytes = \"512MiB\"\nlog-level = \"debug\"\nlog-format = \"json\"\ntls-ca = \"/file\"\n\
                    tls-cert = \"/cert\"\ntls-key = \"/key\"\nstreams-per-peer = 5\n\
                    subscriptions-per-principal = 6\nsubscription-slow-after = \"5s\"\n\
                    subscription-max-idle = \"1d\"\nsilent-after = \"never\"\n";
        let ca = Some("/ca".to_owned());
        assert_eq!(
            load(text, Flags { tls_ca: ca.clone(), ..Flags::default() }).unwrap(),
            CollectorConfig {
                listen: "127.0.0.1:1".parse().unwrap(),
                metrics_listen: None,
                data: "/a".into(),
                retention: Limits { max_age: Duration::from_secs(129_600), max_bytes: 536_870_912 },
                outputs: vec![],
                tls: Some(tls()),
                principals: vec![],
                streams_per_peer: 5,
                subscriptions_per_principal: 6,
                subscription_slow_after: Duration::from_secs(5),
                subscription_max_idle: Duration::from_secs(86_400),
                silent_after: None,
                audit: Audit::default(),
                attribution: crate::collector::attribution::Settings::default(),
                kubernetes: Kubernetes::default(),
                log_level: Some("debug".to_owned()),
                log_format: LogFormat::Json,
                flags: Flags::default(),
            }
        );
        let flags = Flags {
            config: None,
            listen: Some("[::1]:0".to_owned()),
            data: Some("/b".to_owned()),
            max_age: Some("1h".to_owned()),
            max_bytes: Some("1048576".to_owned()),
            tls_ca: ca,
            tls_cert: Some("/cert".to_owned()),
            tls_key: Some("/key".to_owned()),
            kubelet_ca: Some("/kubelets".to_owned()),
            kubelet_cluster: Some("prod".to_owned()),
            streams_per_peer: Some("7".to_owned()),
            subscriptions_per_principal: Some("8".to_owned()),
            subscription_slow_after: Some("90s".to_owned()),
            subscription_max_idle: Some("2d".to_owned()),
            silent_after: Some("90s".to_owned()),
            silent_soon: false,
            audit: audit::AuditFlags {
                audit_cluster: Some("flag".to_owned()),
                ..audit::AuditFlags::default()
            },
            attribution: AttributionFlags {
                attribution_wait: Some("7s".to_owned()),
                ..AttributionFlags::default()
            },
            kubernetes: KubernetesFlags {
                kubernetes_cluster: Some("flag".to_owned()),
                ..KubernetesFlags::default()
            },
            metrics_listen: Some("127.0.0.1:0".to_owned()),
            log_level: Some("warn".to_owned()),
            log_format: Some("text".to_owned()),
        };
        assert_eq!(
            load(text, flags).unwrap(),
            CollectorConfig {
                listen: "[::1]:0".parse().unwrap(),
                metrics_listen: Some("127.0.0.1:0".parse().unwrap()),
                data: "/b".into(),
                retention: Limits { max_age: Duration::from_secs(3600), max_bytes: 1 << 20 },
                outputs: vec![],
                tls: Some(Tls {
                    kubelets: Some(Kubelets { ca: "/kubelets".into(), cluster: "prod".to_owned() }),
                    ..tls()
                }),
                principals: vec![],
                streams_per_peer: 7,
                subscriptions_per_principal: 8,
                subscription_slow_after: Duration::from_secs(90),
                subscription_max_idle: Duration::from_secs(2 * 86_400),
                silent_after: Some(Duration::from_secs(90)),
                audit: Audit { cluster: "flag".to_owned(), ..Audit::default() },
                attribution: crate::collector::attribution::Settings {
                    patience: Duration::from_secs(7),
                    ..Default::default()
                },
                kubernetes: Kubernetes {
                    settings: crate::collector::nodes::Settings {
                        cluster: "flag".to_owned(),
                        ..Kubernetes::default().settings
                    },
                    ..Kubernetes::default()
                },
                log_level: Some("warn".to_owned()),
                log_format: LogFormat::Text,
                flags: Flags::default(),
            }
        );
    }

    #[test]
    fn every_error_at_once_with_its_place() {
        let text =
            "listne = \"x\"\ndata = [1]\nmax-bytes = 5\n\n  max-age = \"soon\"\nmetrics-listen = \"here\"\n";
        let flags = Flags { listen: Some("nowhere".to_owned()), ..Flags::default() };
        let told = load(text, flags).unwrap_err();
        let mut lines: Vec<&str> = told.lines().collect();
        lines.sort_unstable();
        let keys = format!("{}, [[principal]], [[output]]", KEYS.join(", "));
        assert_eq!(
            lines,
            [
                "--listen: \"nowhere\" is no address with a port, like 127.0.0.1:7443",
                &format!("F:1:1: listne: no such key; there are: {keys}"),
                "F:2:1: data: array stands where a string or a whole number belongs",
                "F:3:1: max-bytes: 5 bytes is not between 1048576 and 1125899906842624",
                "F:5:3: max-age: \"soon\" is no duration, like 7d, 36h or 30m",
                "F:6:1: metrics-listen: \"here\" is no address with a port, like 127.0.0.1:9443, or none",
            ]
        );
    }

    #[test]
    fn only_loopback_without_tls() {
        let told = "is not a loopback address: give tls-ca, tls-cert and tls-key, or use 127.0.0.1:7443";
        let flags = Flags { listen: Some("0.0.0.0:7443".to_owned()), ..Flags::default() };
        assert_eq!(load("", flags.clone()).unwrap_err(), format!("--listen: 0.0.0.0:7443 {told}"));
        let e = load("listen = \"[::]:7443\"\n", Flags::default()).unwrap_err();
        assert_eq!(e, format!("F:1:1: listen: [::]:7443 {told}"));
        let files = "tls-ca = \"/ca\"\ntls-cert = \"/cert\"\ntls-key = \"/key\"\n";
        let config = load(files, flags).unwrap();
        assert_eq!((config.listen, config.tls), ("0.0.0.0:7443".parse().unwrap(), Some(tls())));
    }

    #[test]
    fn what_belongs_together_is_asked_for() {
        let told = |text: &str| load(text, Flags::default()).unwrap_err();
        let together = "is missing: tls-ca, tls-cert and tls-key go together";
        assert_eq!(told("tls-cert = \"/cert\"\n"), format!("--tls-ca: {together}\n--tls-key: {together}"));
        assert_eq!(
            told("tls-ca = \"a\"\ntls-cert = \"/b\"\ntls-key = \"/c\"\n"),
            "F:1:1: tls-ca: \"a\" is not an absolute path"
        );
        assert!(told("kubelet-ca = \"/k\"\n").starts_with("--kubelet-cluster: is missing"));
        assert!(told("kubelet-cluster = \"c\"\n").starts_with("--kubelet-ca: is missing"));
        assert!(
            told("kubelet-ca = \"/k\"\nkubelet-cluster = \"c\"\n").starts_with("--kubelet-ca: needs tls-ca")
        );
        assert!(told("[[principal]]\nname = \"x\"\n").starts_with("[[principal]]: without TLS"));
        assert_eq!(
            told("silent-after = \"29s\"\n"),
            "F:1:1: silent-after: \"29s\" is less than 30 s: agents give a sign of life every 15 s; or \"never\""
        );
        assert!(told("streams-per-peer = 0\n").contains("\"0\" is no whole number between 1 and 100000"));
    }
}
