//! Plain outputs of the collector, `[[output]]`: who does not speak gRPC gets lines in a file, or syslog.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use super::settings::{
    Kind, Settings, Table,
    value::{bytes_within, duration, one_of, path, quoted},
};
use crate::filter::Filter;

/// `[[output]]`
pub const OUTPUT: Kind = Kind {
    name: "output",
    keys: &[
        "name",
        "type",
        "filter",
        "from",
        "hold",
        "path",
        "max-bytes",
        "keep",
        "address",
        "tls",
        "tls-ca",
        "tls-cert",
        "tls-key",
        "message-max",
    ],
};

const FILE_BYTES: u64 = 100 << 20;
const FILE_BYTES_MIN: u64 = 64 << 10;
const FILE_BYTES_MAX: u64 = 1 << 40;
const KEEP: u64 = 10;
const HOLD_MAX: Duration = Duration::from_secs(60);
const MESSAGE_MAX: u64 = 64 << 10;
/// What every receiver should take is 2,048 (RFC 5424, 6.1).
const MESSAGE_MIN: u64 = 2 << 10;
const MESSAGE_MAX_MAX: u64 = 32 << 20;

/// One output, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// of its subscription, too
    pub name: String,
    /// CEL; empty: everything
    pub filter: String,
    /// whether a new one begins with the oldest event there is
    pub oldest: bool,
    /// events wait for the verdict on their session, for at most so long
    pub hold: Duration,
    pub to: To,
}

/// Where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    File(FileOptions),
    Syslog(SyslogOptions),
}

/// Lines of JSON in a file that is rotated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileOptions {
    pub path: PathBuf,
    /// a file that would become longer is set aside
    pub max_bytes: u64,
    /// files set aside that are kept
    pub keep: usize,
}

/// RFC 5424 over TCP or TLS, framed by RFC 6587's octet counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyslogOptions {
    pub host: String,
    pub port: u16,
    /// `None`: in the clear
    pub tls: Option<SyslogTls>,
    /// longest message, in bytes; arguments are cut to fit
    pub message_max: usize,
}

/// Whom to believe, and who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyslogTls {
    pub ca: PathBuf,
    /// certificate and key
    pub own: Option<(PathBuf, PathBuf)>,
}

/// Checks `[[output]]`.
pub fn check(settings: &mut Settings) -> Vec<Output> {
    let mut names: Vec<String> = Vec::new();
    let mut paths: Vec<PathBuf> = Vec::new();
    settings.tables(OUTPUT.name, |table| {
        let output = output(table);
        if !output.name.is_empty() && names.contains(&output.name) {
            table.note(format!("there is another output of the name {}", quoted(&output.name)));
        }
        names.push(output.name.clone());
        if let To::File(file) = &output.to {
            if !file.path.as_os_str().is_empty() && paths.contains(&file.path) {
                table.note(format!(
                    "another output writes {}",
                    file.path.display().to_string().escape_debug()
                ));
            }
            paths.push(file.path.clone());
        }
        output
    })
}

fn output(table: &mut Table) -> Output {
    let kinds = [("file", true), ("syslog", false)];
    let file = table.need("type", true, |text| one_of(text, &kinds));
    Output {
        name: table.need("name", String::new(), name),
        filter: table.check("filter", String::new(), filter),
        oldest: table.check("from", true, |text| one_of(text, &[("oldest", true), ("latest", false)])),
        hold: table.check("hold", Duration::ZERO, hold),
        to: if file { to_file(table) } else { to_syslog(table) },
    }
}

fn hold(text: &str) -> Result<Duration, String> {
    let hold = duration(text, Duration::ZERO)?;
    if hold > HOLD_MAX {
        return Err(format!("{} is more than {} s", quoted(text), HOLD_MAX.as_secs()));
    }
    Ok(hold)
}

fn to_file(table: &mut Table) -> To {
    for key in ["address", "tls", "tls-ca", "tls-cert", "tls-key", "message-max"] {
        foreign(table, key, "file");
    }
    let range = FILE_BYTES_MIN..=FILE_BYTES_MAX;
    To::File(FileOptions {
        path: table.need("path", PathBuf::new(), path),
        max_bytes: table.check("max-bytes", FILE_BYTES, |text| bytes_within(text, &range)),
        keep: usize::try_from(table.check("keep", KEEP, |text| number(text, 100_000))).unwrap_or(usize::MAX),
    })
}

fn to_syslog(table: &mut Table) -> To {
    for key in ["path", "max-bytes", "keep"] {
        foreign(table, key, "syslog");
    }
    let (host, port) = table.need("address", (String::new(), 0), host_and_port);
    let with_tls =
        table.check("tls", None, |text| one_of(text, &[("true", Some(true)), ("false", Some(false))]));
    let ca = table.check("tls-ca", None, |text| path(text).map(Some));
    let cert = table.check("tls-cert", None, |text| path(text).map(Some));
    let key = table.check("tls-key", None, |text| path(text).map(Some));
    let range = MESSAGE_MIN..=MESSAGE_MAX_MAX;
    let message_max = table.check("message-max", MESSAGE_MAX, |text| bytes_within(text, &range));
    let own = match (cert, key) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        _ => {
            table.note("tls-cert and tls-key go together".to_owned());
            None
        }
    };
    let tls = match (with_tls, ca) {
        (Some(true) | None, Some(ca)) => Some(SyslogTls { ca, own }),
        (Some(true), None) => {
            table.note("tls-ca is missing: the authority that signed the receiver's certificate".to_owned());
            None
        }
        (Some(false), _) => None,
        // What was run on the nodes goes over a network in the clear only where somebody wrote so.
        (None, None) if host.is_empty() || is_loopback(&host) => None,
        (None, None) => {
            table.note(format!(
                "{host} is not on this machine: write tls-ca, or tls = \"false\" to send in the clear"
            ));
            None
        }
    };
    let message_max = usize::try_from(message_max).unwrap_or(usize::MAX);
    To::Syslog(SyslogOptions { host, port, tls, message_max })
}

fn foreign(table: &mut Table, key: &str, kind: &str) {
    let wrong = format!("an output of type {kind} has no such key");
    table.check(key, (), |_text| Err(wrong));
}

fn filter(text: &str) -> Result<String, String> {
    Filter::compile(text).map(|_compiled| text.to_owned()).map_err(|e| e.to_string())
}

/// A subscription's name.
fn name(text: &str) -> Result<String, String> {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b);
    if (1..=64).contains(&text.len()) && text.bytes().all(good) {
        return Ok(text.to_owned());
    }
    Err(format!("{} is no name: 1 to 64 of a-z, 0-9, - . _", quoted(text)))
}

fn number(text: &str, most: u64) -> Result<u64, String> {
    let wrong = || format!("{} is no number from 0 to {most}", quoted(text));
    text.parse().ok().filter(|number| *number <= most).ok_or_else(wrong)
}

fn host_and_port(text: &str) -> Result<(String, u16), String> {
    let wrong = || format!("{} is no address, like siem.example:6514", quoted(text));
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    let good = !bare.is_empty() && bare.chars().all(plain) && (bare == host) != bare.contains(':');
    let port = port.parse().ok().filter(|port| *port != 0 && good).ok_or_else(wrong)?;
    Ok((bare.to_owned(), port))
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outputs(text: &str) -> Result<Vec<Output>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let mut settings = Settings::read(Some(file.path()), &[], &[OUTPUT]).unwrap();
        let outputs = check(&mut settings);
        let path = file.path().display().to_string();
        settings.finish(outputs).map_err(|e| e.to_string().replace(&path, "F"))
    }

    #[test]
    fn files_and_syslog() {
        let text = "[[output]]\nname = \"archive\"\ntype = \"file\"\npath = \"/a/b.jsonl\"\nmax-bytes = \"1MiB\"\nkeep = 3\n\
                    from = \"latest\"\nfilter = \"has(executed)\"\n[[output]]\nname = \"siem\"\ntype = \"syslog\"\n\
                    address = \"siem.example:6514\"\ntls-ca = \"/ca\"\n[[output]]\nname = \"near\"\ntype = \"syslog\"\n\
                    address = \"[::1]:514\"\nmessage-max = \"8KiB\"\n";
        let file = FileOptions { path: "/a/b.jsonl".into(), max_bytes: 1 << 20, keep: 3 };
        let tls = Some(SyslogTls { ca: "/ca".into(), own: None });
        let far = SyslogOptions { host: "siem.example".to_owned(), port: 6514, tls, message_max: 65_536 };
        let near = SyslogOptions { host: "::1".to_owned(), port: 514, tls: None, message_max: 8192 };
        let output = |name: &str, filter: &str, oldest, to| Output {
            name: name.to_owned(),
            filter: filter.to_owned(),
            oldest,
            hold: Duration::ZERO,
            to,
        };
        assert_eq!(
            outputs(text).unwrap(),
            [
                output("archive", "has(executed)", false, To::File(file)),
                output("siem", "", true, To::Syslog(far)),
                output("near", "", true, To::Syslog(near)),
            ]
        );
        assert_eq!(outputs("").unwrap(), []);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let text = "[[output]]\nname = \"A b\"\ntype = \"file\"\naddress = \"x:1\"\n[[output]]\nname = \"s\"\ntype = \"syslog\"\n\
                    address = \"10.0.0.1:514\"\n[[output]]\nname = \"s\"\ntype = \"syslog\"\naddress = \"nowhere\"\ntls-key = \"/k\"\n";
        let told = outputs(text).unwrap_err();
        let mut lines: Vec<&str> = told.lines().collect();
        lines.sort_unstable();
        assert_eq!(
            lines,
            [
                "F:12:1: output.address: \"nowhere\" is no address, like siem.example:6514",
                "F:1:1: output: path is missing",
                "F:2:1: output.name: \"A b\" is no name: 1 to 64 of a-z, 0-9, - . _",
                "F:4:1: output.address: an output of type file has no such key",
                "F:5:1: output: 10.0.0.1 is not on this machine: write tls-ca, or tls = \"false\" to send in the clear",
                "F:9:1: output: there is another output of the name \"s\"",
                "F:9:1: output: tls-cert and tls-key go together",
            ]
        );
    }

    #[test]
    fn addresses() {
        for (good, host, port) in
            [("a:1", "a", 1), ("[::1]:514", "::1", 514), ("10.0.0.1:6514", "10.0.0.1", 6514)]
        {
            assert_eq!(host_and_port(good), Ok((host.to_owned(), port)));
        }
        for bad in ["", ":", "a", "a:", "a:0", ":1", "::1:514", "[a]:1", "a b:1", "a:70000", "\u{1b}:1"] {
            assert!(host_and_port(bad).is_err(), "{bad}");
        }
    }
}
