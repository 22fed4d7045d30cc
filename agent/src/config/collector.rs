//! The collector's configuration: flags over the file over the defaults.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use super::settings::{
    Settings, SettingsError,
    value::{address, bytes_within, duration, log_format, log_level, optional, path},
};
use crate::{telemetry::LogFormat, trail::log::Limits};

const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7443);
const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9443);
const DATA: &str = "/var/lib/podtrail/collector";

const MAX_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
const MAX_AGE_MIN: Duration = Duration::from_secs(60);

const MAX_BYTES: u64 = 10 << 30;
/// Below this the log could not hold one event of the largest kind beside another.
const MAX_BYTES_MIN: u64 = 1 << 20;
const MAX_BYTES_MAX: u64 = 1 << 50;

/// `podtrail-collector run`, as written.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Flags {
    /// A TOML file; its keys are these flags without the dashes, and flags go first
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address for agents and readers; loopback only [default: 127.0.0.1:7443]
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
    /// loopback: there is no TLS yet
    pub listen: SocketAddr,
    /// `None`: no metrics
    pub metrics_listen: Option<SocketAddr>,
    pub data: PathBuf,
    pub retention: Limits,
    /// a filter as in `RUST_LOG`
    pub log_level: Option<String>,
    pub log_format: LogFormat,
}

/// Keys that a file may have.
const KEYS: [&str; 7] =
    ["listen", "data", "max-age", "max-bytes", "metrics-listen", "log-level", "log-format"];

impl CollectorConfig {
    /// Reads the file, where there is one, puts the flags over it, and checks it all.
    pub fn load(flags: Flags) -> Result<Self, SettingsError> {
        let Flags { config, listen, data, max_age, max_bytes, metrics_listen, log_level, log_format } = flags;
        let mut settings = Settings::read(config.as_deref(), &KEYS, &[])?;
        settings.flag("--listen", listen);
        settings.flag("--data", data);
        settings.flag("--max-age", max_age);
        settings.flag("--max-bytes", max_bytes);
        settings.flag("--metrics-listen", metrics_listen);
        settings.flag("--log-level", log_level);
        settings.flag("--log-format", log_format);
        let config = Self::check(&mut settings);
        settings.finish(config)
    }

    fn check(settings: &mut Settings) -> Self {
        Self {
            listen: settings.check("listen", LISTEN, loopback),
            data: settings.check("data", PathBuf::from(DATA), path),
            retention: Limits {
                max_age: settings.check("max-age", MAX_AGE, |text| duration(text, MAX_AGE_MIN)),
                max_bytes: settings.check("max-bytes", MAX_BYTES, |text| {
                    bytes_within(text, &(MAX_BYTES_MIN..=MAX_BYTES_MAX))
                }),
            },
            metrics_listen: settings.check("metrics-listen", Some(METRICS), |text| {
                optional(text, |text| address(text, "127.0.0.1:9443, or none"))
            }),
            log_level: settings.check("log-level", None, |text| log_level(text).map(Some)),
            log_format: settings.check("log-format", LogFormat::Auto, log_format),
        }
    }
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address = address(text, "127.0.0.1:7443")?;
    if address.ip().is_loopback() {
        return Ok(address);
    }
    Err(format!(
        "{address} is not a loopback address: without TLS the collector listens on loopback only; use 127.0.0.1:{}",
        address.port()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, flags: Flags) -> Result<CollectorConfig, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let path = file.path().display().to_string();
        CollectorConfig::load(Flags { config: Some(file.path().to_owned()), ..flags })
            .map_err(|e| e.to_string().replace(&path, "F"))
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
                log_level: None,
                log_format: LogFormat::Auto,
            }
        );
    }

    #[test]
    fn flags_go_before_the_file() {
        let text = "listen = \"127.0.0.1:1\"\ndata = \"/a\"\nmetrics-listen = \"none\"\nmax-age = \"36h\"\n\
                    max-bytes = \"512MiB\"\nlog-level = \"debug\"\nlog-format = \"json\"\n";
        assert_eq!(
            load(text, Flags::default()).unwrap(),
            CollectorConfig {
                listen: "127.0.0.1:1".parse().unwrap(),
                metrics_listen: None,
                data: "/a".into(),
                retention: Limits { max_age: Duration::from_secs(129_600), max_bytes: 536_870_912 },
                log_level: Some("debug".to_owned()),
                log_format: LogFormat::Json,
            }
        );
        let flags = Flags {
            config: None,
            listen: Some("[::1]:0".to_owned()),
            data: Some("/b".to_owned()),
            max_age: Some("1h".to_owned()),
            max_bytes: Some("1048576".to_owned()),
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
                log_level: Some("warn".to_owned()),
                log_format: LogFormat::Text,
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
        let keys = KEYS.join(", ");
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
        let told = "is not a loopback address: without TLS the collector listens on loopback only; use 127.0.0.1:7443";
        let flags = Flags { listen: Some("0.0.0.0:7443".to_owned()), ..Flags::default() };
        assert_eq!(load("", flags).unwrap_err(), format!("--listen: 0.0.0.0:7443 {told}"));
        let e = load("listen = \"[::]:7443\"\n", Flags::default()).unwrap_err();
        assert_eq!(e, format!("F:1:1: listen: [::]:7443 {told}"));
    }
}
