//! What the agent can be told of the node's problem detector.

use std::net::SocketAddr;

use super::settings::{
    Settings,
    value::{address, optional},
};
use crate::detector::Options;

const CONDITIONS: &str = "npd-conditions";
const METRICS: &str = "npd-metrics";

pub(super) const KEYS: [&str; 2] = [CONDITIONS, METRICS];

/// As written.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(id = "detector")]
pub struct Flags {
    /// Where the node-problem-detector of this node serves /conditions, like 127.0.0.1:20256, or "none" [default: none]
    #[arg(long, value_name = "ADDR")]
    pub npd_conditions: Option<String>,
    /// Where it serves /metrics, like 127.0.0.1:20257, or "none" [default: none]
    #[arg(long, value_name = "ADDR")]
    pub npd_metrics: Option<String>,
}

impl Flags {
    pub(super) fn put_into(self, settings: &mut Settings) {
        let Self { npd_conditions, npd_metrics } = self;
        settings.flag("--npd-conditions", npd_conditions);
        settings.flag("--npd-metrics", npd_metrics);
    }
}

pub(super) fn options(settings: &mut Settings) -> Options {
    Options {
        conditions: settings
            .check(CONDITIONS, None, |text| optional(text, |text| own(text, "127.0.0.1:20256"))),
        metrics: settings.check(METRICS, None, |text| optional(text, |text| own(text, "127.0.0.1:20257"))),
    }
}

/// It speaks in the clear, and to anybody: whoever answers elsewhere could say anything of this node.
fn own(text: &str, like: &str) -> Result<SocketAddr, String> {
    let address = address(text, &format!("{like}, or none"))?;
    if address.ip().is_loopback() {
        return Ok(address);
    }
    Err(format!("{address} is not a loopback address: only this node's own detector is asked, like {like}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Options, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let mut settings = Settings::read(Some(file.path()), &KEYS, &[]).unwrap();
        let options = options(&mut settings);
        let path = file.path().display().to_string();
        settings.finish(options).map_err(|e| e.to_string().replace(&path, "F"))
    }

    #[test]
    fn nobody_is_asked_unless_it_is_said_and_nobody_elsewhere() {
        assert_eq!(load("").unwrap(), Options::default());
        let both = load("npd-conditions = \"127.0.0.1:20256\"\nnpd-metrics = \"[::1]:20257\"\n").unwrap();
        assert_eq!(both.conditions, Some("127.0.0.1:20256".parse().unwrap()));
        assert_eq!(both.metrics, Some("[::1]:20257".parse().unwrap()));
        assert_eq!(load("npd-conditions = \"none\"\n").unwrap(), Options::default());
        assert_eq!(
            load("npd-metrics = \"192.0.2.1:20257\"\n").unwrap_err(),
            "F:1:1: npd-metrics: 192.0.2.1:20257 is not a loopback address: only this node's own detector is asked, like 127.0.0.1:20257"
        );
        assert!(load("npd-conditions = \"x\"\n").unwrap_err().contains("is no address with a port"));
    }
}
