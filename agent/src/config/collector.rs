//! The collector's configuration: flags over the file over the defaults, checked before anything is opened.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

use super::file::{self, ConfigError, Source};
use crate::trail::log::Limits;

/// What the collector runs with.
#[derive(Clone, Debug, PartialEq)]
pub struct CollectorConfig {
    /// loopback: there is no TLS yet
    pub listen: SocketAddr,
    /// `None`: no metrics
    pub metrics_listen: Option<SocketAddr>,
    pub data: PathBuf,
    pub retention: Limits,
}

/// The flags that have a key in the file too; they go before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CollectorFlags {
    pub listen: Option<String>,
    pub metrics_listen: Option<String>,
    pub data: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    listen: Option<String>,
    metrics_listen: Option<String>,
    data: Option<PathBuf>,
    max_age: Option<String>,
    max_bytes: Option<Bytes>,
}

/// `10737418240` or `"10GiB"`.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected bytes as a number or as text, such as \"10GiB\"")]
enum Bytes {
    Number(u64),
    Text(String),
}

const LISTEN: &str = "127.0.0.1:7443";
const METRICS_LISTEN: &str = "127.0.0.1:9443";
const DATA: &str = "/var/lib/podtrail/collector";
const MAX_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
const MAX_BYTES: u64 = 10 << 30;
/// Below this the log could not hold one event of the largest kind beside another.
const MIN_BYTES: u64 = 1 << 20;

impl CollectorConfig {
    /// Reads the file, where one is given, and checks it all.
    pub fn load(path: Option<&Path>, flags: CollectorFlags) -> Result<Self, ConfigError> {
        let (raw, source) = match path {
            Some(path) => file::load(path)?,
            None => (Raw::default(), Source::default()),
        };
        Self::check(raw, &source, flags)
    }

    fn check(raw: Raw, source: &Source, flags: CollectorFlags) -> Result<Self, ConfigError> {
        let Raw { listen, metrics_listen, data, max_age, max_bytes } = raw;
        let listen = Setting::new(flags.listen, listen, LISTEN, "--listen", "listen");
        let metrics = Setting::new(
            flags.metrics_listen,
            metrics_listen,
            METRICS_LISTEN,
            "--metrics-listen",
            "metrics_listen",
        );
        let max_age = match max_age {
            None => MAX_AGE,
            Some(text) => duration(&text).map_err(|e| source.error("max_age", &e))?,
        };
        let max_bytes = match max_bytes {
            None => Ok(MAX_BYTES),
            Some(Bytes::Number(n)) => Ok(n),
            Some(Bytes::Text(text)) => bytes(&text),
        };
        let max_bytes = max_bytes
            .and_then(|n| if n < MIN_BYTES { Err("at least 1MiB".to_owned()) } else { Ok(n) })
            .map_err(|e| source.error("max_bytes", &e))?;
        Ok(Self {
            listen: listen.parse(loopback).map_err(|e| listen.error(source, &e))?,
            metrics_listen: metrics.parse(address_or_none).map_err(|e| metrics.error(source, &e))?,
            data: flags.data.or(data).unwrap_or_else(|| DATA.into()),
            retention: Limits { max_age, max_bytes },
        })
    }
}

/// A value, and where it comes from.
struct Setting {
    value: String,
    flag: Option<&'static str>,
    key: &'static str,
}

impl Setting {
    fn new(
        flag: Option<String>,
        file: Option<String>,
        default: &str,
        flag_name: &'static str,
        key: &'static str,
    ) -> Self {
        let is_flag = flag.is_some();
        let value = flag.or(file).unwrap_or_else(|| default.to_owned());
        Self { value, flag: is_flag.then_some(flag_name), key }
    }

    fn parse<T>(&self, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, String> {
        parse(&self.value)
    }

    fn error(&self, source: &Source, message: &str) -> ConfigError {
        match self.flag {
            Some(flag) => ConfigError::Flag { flag, message: message.to_owned() },
            None => source.error(self.key, message),
        }
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not an address with a port, such as 127.0.0.1:7443"))
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address = address(text)?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err(format!(
            "{address} is not a loopback address: without TLS the collector listens on loopback only; use 127.0.0.1:{}",
            address.port()
        ))
    }
}

fn address_or_none(text: &str) -> Result<Option<SocketAddr>, String> {
    if text == "none" { Ok(None) } else { address(text).map(Some) }
}

fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is not a duration: write for example 7d, 36h or 30m");
    let span: jiff::Span = text.parse().map_err(|_| bad())?;
    let duration = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| bad())?;
    let duration = Duration::try_from(duration).map_err(|_| bad())?;
    if duration < Duration::from_secs(60) { Err("at least 1m".to_owned()) } else { Ok(duration) }
}

fn bytes(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is not a size: write for example 10GiB or 512MiB");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits).ok_or_else(bad)?;
    let shift = match unit.trim() {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return Err(bad()),
    };
    let number: u64 = number.parse().map_err(|_| bad())?;
    number.checked_mul(1 << shift).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, flags: CollectorFlags) -> Result<CollectorConfig, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let path = file.path().display().to_string();
        CollectorConfig::load(Some(file.path()), flags).map_err(|e| e.to_string().replace(&path, "F"))
    }

    #[test]
    fn defaults() {
        let config = CollectorConfig::load(None, CollectorFlags::default()).unwrap();
        assert_eq!(
            config,
            CollectorConfig {
                listen: "127.0.0.1:7443".parse().unwrap(),
                metrics_listen: Some("127.0.0.1:9443".parse().unwrap()),
                data: "/var/lib/podtrail/collector".into(),
                retention: Limits { max_age: Duration::from_secs(604_800), max_bytes: 10_737_418_240 },
            }
        );
    }

    #[test]
    fn flags_go_before_the_file() {
        let text = "listen = \"127.0.0.1:1\"\ndata = \"/a\"\nmetrics_listen = \"none\"\nmax_age = \"36h\"\nmax_bytes = \"512MiB\"\n";
        let config = load(text, CollectorFlags::default()).unwrap();
        assert_eq!(
            config,
            CollectorConfig {
                listen: "127.0.0.1:1".parse().unwrap(),
                metrics_listen: None,
                data: "/a".into(),
                retention: Limits { max_age: Duration::from_secs(129_600), max_bytes: 536_870_912 },
            }
        );
        let flags = CollectorFlags {
            listen: Some("[::1]:0".to_owned()),
            metrics_listen: Some("127.0.0.1:0".to_owned()),
            data: Some("/b".into()),
        };
        let config = load(text, flags).unwrap();
        assert_eq!(config.listen, "[::1]:0".parse().unwrap());
        assert_eq!(config.metrics_listen, Some("127.0.0.1:0".parse().unwrap()));
        assert_eq!(config.data, PathBuf::from("/b"));
    }

    #[test]
    fn mistakes_name_their_place() {
        let message = |text: &str| load(text, CollectorFlags::default()).unwrap_err();
        assert_eq!(
            message("data = \"/a\"\nlistne = \"x\"\n"),
            "F:2:1: unknown field `listne`, expected one of `listen`, `metrics_listen`, `data`, `max_age`, `max_bytes`"
        );
        assert_eq!(message("data = 1\n"), "F:1:8: data: invalid type: integer `1`, expected path string");
        assert_eq!(
            message("max_bytes = true\n"),
            "F:1:13: max_bytes: expected bytes as a number or as text, such as \"10GiB\""
        );
        assert_eq!(
            message("\nmax_age = \"soon\"\n"),
            "F:2:1: max_age: \"soon\" is not a duration: write for example 7d, 36h or 30m"
        );
        assert_eq!(message("max_bytes = 5\n"), "F:1:1: max_bytes: at least 1MiB");
        assert_eq!(
            message("max_bytes = \"99999999TiB\"\n"),
            "F:1:1: max_bytes: \"99999999TiB\" is not a size: write for example 10GiB or 512MiB"
        );
    }

    #[test]
    fn only_loopback_without_tls() {
        let told = "is not a loopback address: without TLS the collector listens on loopback only; use 127.0.0.1:7443";
        let flags = CollectorFlags { listen: Some("0.0.0.0:7443".to_owned()), ..CollectorFlags::default() };
        assert_eq!(load("", flags).unwrap_err(), format!("--listen: 0.0.0.0:7443 {told}"));
        let e = load("listen = \"[::]:7443\"\n", CollectorFlags::default()).unwrap_err();
        assert_eq!(e, format!("F:1:1: listen: [::]:7443 {told}"));
    }
}
