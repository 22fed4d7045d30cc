//! What only an agent's settings say, read as what it means.

use std::{net::IpAddr, str::FromStr as _, time::Duration};

use tonic::transport::Uri;

use crate::{
    config::settings::value::{bytes_within, duration, quoted},
    pods::Patterns,
    spool::Fsync,
};

/// Labels, or handlers, that one may name.
const PATTERNS_MAX: usize = 64;
const RING_SIZE_MIN: u64 = 64 << 10;
const RING_SIZE_MAX: u64 = 1 << 30;
const SPOOL_FSYNC_MIN: Duration = Duration::from_millis(10);

/// Names with commas between; the last character of each may be `*`.
pub(super) fn patterns(text: &str) -> Result<Patterns, String> {
    if text == "none" {
        return Ok(Patterns::default());
    }
    let names: Vec<&str> = text.split(',').map(str::trim).collect();
    if names.len() > PATTERNS_MAX {
        return Err(format!("{} names are too many: at most {PATTERNS_MAX}", names.len()));
    }
    for name in &names {
        let body = name.strip_suffix('*').unwrap_or(name);
        let plain = body.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
        if name.is_empty() || name.len() > 317 || !plain {
            return Err(format!("{} is no name, nor the beginning of one with a * behind it", quoted(name)));
        }
    }
    Ok(Patterns::of(&names))
}

pub(super) fn fsync(text: &str) -> Result<Fsync, String> {
    match text {
        "always" => Ok(Fsync::Always),
        "never" => Ok(Fsync::Never),
        _ => duration(text, SPOOL_FSYNC_MIN)
            .map(Fsync::Every)
            .map_err(|error| format!("{error}, nor \"always\" or \"never\"")),
    }
}

pub(super) fn ring(text: &str) -> Result<u32, String> {
    let size = bytes_within(text, &(RING_SIZE_MIN..=RING_SIZE_MAX))?;
    match u32::try_from(size) {
        Ok(size) if size.is_power_of_two() => Ok(size),
        _ => Err(format!("{size} is not a power of two, like 4MiB or 8MiB")),
    }
}

/// A group's number, or its name as this system's list of groups has it. Other sources of groups are not asked.
pub(super) fn group(text: &str) -> Result<u32, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let mut found = groups.lines().filter_map(|line| {
        let mut parts = line.split(':');
        let name = parts.next()?;
        let number = parts.nth(1)?.parse().ok()?;
        (name == text).then_some(number)
    });
    found.next().ok_or_else(|| {
        format!("there is no group {} in /etc/group: make it, or give its number", quoted(text))
    })
}

/// In the clear, what was run on a node may not leave it.
pub(super) fn collector_url(text: &str, secure: bool) -> Result<String, String> {
    let like = "like https://collector.example:7443";
    let uri = Uri::from_str(text).map_err(|_wrong| format!("{} is no URL, {like}", quoted(text)))?;
    let scheme = uri.scheme_str().unwrap_or_default();
    let host = uri.host().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let loopback = bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match scheme {
        "https" if !secure => return Err("https needs tls-ca, tls-cert and tls-key".to_owned()),
        "https" => {}
        "http" if secure => {
            return Err("with tls-ca, tls-cert and tls-key it must begin with https://".to_owned());
        }
        "http" if loopback => {}
        "http" => {
            return Err(format!(
                "{} is not on this node, and http goes out in the clear: use https",
                quoted(host)
            ));
        }
        _ => return Err(format!("{} has no scheme, {like}", quoted(text))),
    }
    let Some(port) = uri.port_u16() else { return Err(format!("{} has no port, {like}", quoted(text))) };
    if uri.path_and_query().is_some_and(|path| path.as_str() != "/") {
        return Err(format!("{} has more than scheme, host and port, {like}", quoted(text)));
    }
    Ok(format!("{scheme}://{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_leave_the_node_in_the_clear_for_nowhere() {
        for good in
            ["http://127.0.0.1:7443", "http://localhost:1/", "http://[::1]:7443", "http://127.9.9.9:80"]
        {
            assert_eq!(collector_url(good, false), Ok(good.trim_end_matches('/').to_owned()));
        }
        for good in ["https://127.0.0.1:7443", "https://collector.example:443/", "https://[2001:db8::1]:7443"]
        {
            assert_eq!(collector_url(good, true), Ok(good.trim_end_matches('/').to_owned()));
        }
        for (bad, secure, why) in [
            ("http://10.0.0.1:9443", false, "not on this node"),
            ("http://collector.example:9443", false, "not on this node"),
            ("http://127.0.0.1.example:9443", false, "not on this node"),
            ("https://127.0.0.1:7443", false, "https needs tls-ca"),
            ("http://127.0.0.1:7443", true, "must begin with https://"),
            ("127.0.0.1:7443", false, "no scheme"),
            ("http://127.0.0.1", false, "no port"),
            ("https://collector.example", true, "no port"),
            ("http://127.0.0.1:7443/x", false, "more than scheme"),
            ("ftp://x:1", true, "no scheme"),
            ("", false, "no URL"),
            ("http://\u{1b}[2J", false, "no URL"),
        ] {
            let error = collector_url(bad, secure).unwrap_err();
            assert!(
                error.contains(why) && !error.contains('\n') && !error.contains('\u{1b}'),
                "{bad}: {error}"
            );
        }
    }

    #[test]
    fn a_group_is_a_name_or_a_number() {
        assert_eq!(group("root"), Ok(0));
        assert_eq!(group("4711"), Ok(4711));
        for none in ["", "no such group", "root:x", "-1"] {
            assert!(group(none).unwrap_err().contains("there is no group"), "{none}");
        }
    }

    #[test]
    fn a_sync_is_always_never_or_now_and_then() {
        assert_eq!(fsync("always"), Ok(Fsync::Always));
        assert_eq!(fsync("never"), Ok(Fsync::Never));
        assert_eq!(fsync("2s"), Ok(Fsync::Every(Duration::from_secs(2))));
        let error = fsync("often").unwrap_err();
        assert!(error.contains("\"often\"") && error.contains("\"always\""), "{error}");
    }
}
