//! What the agent can be told of ways in: the kubelet that knows a pod's probes, and what of probes is to be told.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr as _,
    time::Duration,
};

use tonic::transport::Uri;

use super::settings::{
    Settings,
    value::{duration, one_of, optional, path, quoted},
};
use crate::wayin::{
    Options, Probes,
    kubelet::{self, Target},
};

const KUBELET: &str = "kubelet";
const TOKEN: &str = "kubelet-token";
const CA: &str = "kubelet-ca";
const PROBES: &str = "probes";
const PROBES_EVERY: &str = "probes-every";

pub(super) const KEYS: [&str; 5] = [KUBELET, TOKEN, CA, PROBES, PROBES_EVERY];

const EVERY_MIN: Duration = Duration::from_secs(1);

/// What a pod has of its service account, as this agent would be one.
const OF_POD: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// As written.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(id = "ways")]
pub struct Flags {
    /// The kubelet of this node, which knows what probes and hooks its pods have, or "none"
    /// [default: https://127.0.0.1:10250 where the agent has a service account's token, else none]
    #[arg(long, value_name = "URL")]
    pub kubelet: Option<String>,
    /// Token for the kubelet, read for every question [default: the service account's]
    #[arg(long, value_name = "FILE")]
    pub kubelet_token: Option<String>,
    /// Certificate authorities (PEM) that the kubelet must have its certificate from, for its address or for the node's
    /// name [default: the service account's]
    #[arg(long, value_name = "FILE")]
    pub kubelet_ca: Option<String>,
    /// What to tell of sessions that are probes: "fold": what is new, and how often it came again; "all"; or "none":
    /// only how often [default: fold]
    #[arg(long, value_name = "WHAT")]
    pub probes: Option<String>,
    /// How often to tell how often probes came [default: 5m]
    #[arg(long, value_name = "DURATION")]
    pub probes_every: Option<String>,
}

impl Flags {
    pub(super) fn put_into(self, settings: &mut Settings) {
        let Self { kubelet, kubelet_token, kubelet_ca, probes, probes_every } = self;
        settings.flag("--kubelet", kubelet);
        settings.flag("--kubelet-token", kubelet_token);
        settings.flag("--kubelet-ca", kubelet_ca);
        settings.flag("--probes", probes);
        settings.flag("--probes-every", probes_every);
    }
}

pub(super) fn options(settings: &mut Settings) -> Options {
    let default = Options::default();
    let every =
        settings.check(PROBES_EVERY, Duration::from_nanos(default.every), |text| duration(text, EVERY_MIN));
    let known = [("fold", Probes::Fold), ("all", Probes::All), ("none", Probes::None)];
    Options {
        probes: settings.check(PROBES, default.probes, |text| one_of(text, &known)),
        every: u64::try_from(every.as_nanos()).unwrap_or(u64::MAX),
    }
}

/// How the kubelet is asked; `None`: it is not.
pub(super) fn kubelet(settings: &mut Settings, node_name: &str) -> Option<kubelet::Options> {
    asked(settings, node_name, Path::new(OF_POD))
}

fn asked(settings: &mut Settings, node_name: &str, of_pod: &Path) -> Option<kubelet::Options> {
    let there = |name: &str| Some(of_pod.join(name)).filter(|path| path.exists());
    let given = [KUBELET, TOKEN, CA].map(|key| settings.has(key));
    let in_pod = there("token").map(|_| Target { secure: true, host: "127.0.0.1".to_owned(), port: 10250 });
    let target = settings.check(KUBELET, in_pod, |text| optional(text, url));
    let absolute = |text: &str| path(text).map(Some);
    let token: Option<PathBuf> = settings.check(TOKEN, None, absolute);
    let ca: Option<PathBuf> = settings.check(CA, None, absolute);
    let [kubelet_given, token_given, ca_given] = given;
    let Some(target) = target else {
        if !kubelet_given && (token_given || ca_given) {
            let needs =
                "says nothing without a kubelet: give kubelet, like https://127.0.0.1:10250".to_owned();
            settings.note(if token_given { "--kubelet-token" } else { "--kubelet-ca" }, needs);
        }
        return None;
    };
    if !target.secure {
        if token_given || ca_given {
            let clear = "http has neither: a token would go out in the clear; write https".to_owned();
            settings.note("--kubelet-token, --kubelet-ca", clear);
        }
        return Some(kubelet::Options { target, token: None, ca: None, node_name: node_name.to_owned() });
    }
    let token = if token_given { token } else { there("token") };
    let ca = if ca_given { ca } else { there("ca.crt") };
    if ca.is_none() && !ca_given {
        let needs = "is missing: the kubelet's certificate cannot be believed without it; where the kubelet made its \
                     own, it is /var/lib/kubelet/pki/kubelet.crt";
        settings.note("--kubelet-ca", needs.to_owned());
    }
    Some(kubelet::Options {
        target,
        token,
        ca: Some(ca.unwrap_or_default()),
        node_name: node_name.to_owned(),
    })
}

fn url(text: &str) -> Result<Target, String> {
    let like = "like https://127.0.0.1:10250, or none";
    let uri = Uri::from_str(text).map_err(|_wrong| format!("{} is no URL, {like}", quoted(text)))?;
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let secure = match uri.scheme_str().unwrap_or_default() {
        "https" => true,
        "http" if loopback => false,
        "http" => {
            return Err(format!(
                "{} is not on this node, and http goes out in the clear: use https",
                quoted(host)
            ));
        }
        _ => return Err(format!("{} has no scheme, {like}", quoted(text))),
    };
    let Some(port) = uri.port_u16() else { return Err(format!("{} has no port, {like}", quoted(text))) };
    match uri.path_and_query().map_or("/", |path| path.as_str()) {
        "/" | "/pods" | "/pods/" => Ok(Target { secure, host: host.to_owned(), port }),
        _ => Err(format!("{} has more than scheme, host and port, {like}", quoted(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::SettingsError;

    fn load(flags: Flags, of_pod: &Path) -> Result<(Options, Option<kubelet::Options>), SettingsError> {
        let mut settings = Settings::read(None, &KEYS, &[]).unwrap();
        flags.put_into(&mut settings);
        let options = options(&mut settings);
        let kubelet = asked(&mut settings, "node-1", of_pod);
        settings.finish((options, kubelet))
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn without_a_service_account_nobody_is_asked() {
        let none = tempfile::tempdir().unwrap();
        let (options, kubelet) = load(Flags::default(), none.path()).unwrap();
        assert_eq!((options, kubelet), (Options::default(), None));
        let flags = Flags { probes: some("none"), probes_every: some("90s"), ..Flags::default() };
        let (options, _) = load(flags, none.path()).unwrap();
        assert_eq!(options, Options { probes: Probes::None, every: 90_000_000_000 });
    }

    #[test]
    fn a_pod_asks_its_node_with_its_own_token() {
        let pod = tempfile::tempdir().unwrap();
        for name in ["token", "ca.crt"] {
            std::fs::write(pod.path().join(name), "x").unwrap();
        }
        let kubelet = load(Flags::default(), pod.path()).unwrap().1.unwrap();
        assert_eq!(kubelet.target.to_string(), "https://127.0.0.1:10250");
        assert_eq!(
            (kubelet.token, kubelet.ca),
            (Some(pod.path().join("token")), Some(pod.path().join("ca.crt")))
        );
        assert_eq!(kubelet.node_name, "node-1");
        let (_, kubelet) = load(Flags { kubelet: some("none"), ..Flags::default() }, pod.path()).unwrap();
        assert_eq!(kubelet, None);
        let flags = Flags {
            kubelet: some("https://[2001:db8::1]:10250/pods"),
            kubelet_ca: some("/ca"),
            kubelet_token: some("/t"),
            ..Flags::default()
        };
        let kubelet = load(flags, pod.path()).unwrap().1.unwrap();
        assert_eq!(kubelet.target.to_string(), "https://[2001:db8::1]:10250");
        assert_eq!((kubelet.token, kubelet.ca), (Some("/t".into()), Some("/ca".into())));
        let flags = Flags { kubelet: some("http://127.0.0.1:10255"), ..Flags::default() };
        let kubelet = load(flags, pod.path()).unwrap().1.unwrap();
        assert_eq!((kubelet.token, kubelet.ca), (None, None), "a token never goes out in the clear");
    }

    #[test]
    fn what_will_not_do() {
        let none = tempfile::tempdir().unwrap();
        let flags = |kubelet: &str| Flags { kubelet: some(kubelet), ..Flags::default() };
        for (flags, why) in [
            (flags("https://127.0.0.1:10250"), "kubelet-ca: is missing"),
            (flags("http://10.0.0.1:10255"), "use https"),
            (Flags { kubelet_token: some("/t"), ..flags("http://127.0.0.1:10255") }, "in the clear"),
            (Flags { kubelet_token: some("/t"), ..Flags::default() }, "without a kubelet"),
            (flags("127.0.0.1:10250"), "no scheme"),
            (flags("https://127.0.0.1"), "no port"),
            (flags("https://127.0.0.1:1/configz"), "more than scheme"),
            (Flags { probes: some("some"), ..Flags::default() }, "fold"),
            (Flags { probes_every: some("0s"), ..Flags::default() }, "probes-every"),
        ] {
            let error = load(flags, none.path()).unwrap_err().to_string();
            assert!(error.contains(why) && error.lines().count() == 1, "{why}: {error}");
        }
    }
}
