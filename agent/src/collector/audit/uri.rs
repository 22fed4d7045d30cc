//! What a request's URI says: its parameters, and where the path after a proxy leads.
//!
//! Read as the API server reads it (Go 1.24, net/url `ParseQuery`): a pair that has a bare `;` or a broken `%` in it is
//! passed over, a `+` is a space, names are decoded before they are compared.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The parameters, in their order. What is not UTF-8 is replaced.
pub(super) fn parameters(uri: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    let query = uri.split_once('?').map_or("", |(_, query)| query);
    query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')).filter_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((form(name)?, form(value)?))
    })
}

/// Whether the API server takes this value of a parameter for true.
pub(super) fn is_true(value: &str) -> bool {
    value != "0" && !value.eq_ignore_ascii_case("false")
}

fn form(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains(['+', '%']) {
        return Some(Cow::Borrowed(text));
    }
    whole(text).then(|| {
        let spaced = text.replace('+', " ");
        Cow::Owned(percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
    })
}

/// Every `%` has its two digits.
fn whole(text: &str) -> bool {
    text.split('%')
        .skip(1)
        .all(|rest| rest.as_bytes().get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)))
}

/// Where a call of the kubelet's own API leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kubelet {
    /// by `/run`, whose command is one parameter, split at spaces
    pub(super) run: bool,
    pub(super) namespace: String,
    pub(super) pod: String,
    /// empty: a port-forward
    pub(super) container: String,
}

/// What stands in a path after `proxy`, decoded; empty: nothing.
pub(super) fn behind_proxy(uri: &str, namespaced: bool) -> String {
    let path = uri.split_once('?').map_or(uri, |(path, _)| path);
    let path = percent_decode_str(path).decode_utf8_lossy();
    // api/v1/nodes/NAME/proxy/…, and api/v1/namespaces/NAMESPACE/pods/NAME/proxy/…
    let before = if namespaced { 7 } else { 5 };
    path.trim_start_matches('/').splitn(before + 1, '/').nth(before).unwrap_or_default().to_owned()
}

/// The kubelet's call that a path is, however it is written.
pub(super) fn kubelet(path: &str) -> Option<Kubelet> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => _ = parts.pop(),
            part => parts.push(part),
        }
    }
    let (namespace, pod, container) = match *parts.as_slice() {
        ["exec" | "attach" | "run", namespace, pod, container]
        | ["exec" | "attach" | "run", namespace, pod, _, container] => (namespace, pod, container),
        ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => (namespace, pod, ""),
        _ => return None,
    };
    let [namespace, pod, container] = [namespace, pod, container].map(str::to_owned);
    Some(Kubelet { run: parts.first() == Some(&"run"), namespace, pod, container })
}

/// What Prometheus asks every kubelet for, many times a minute. Only where it is written plainly.
pub(super) fn is_measuring(path: &str) -> bool {
    matches!(
        path,
        "metrics" | "metrics/cadvisor" | "metrics/probes" | "metrics/resource" | "stats/summary" | "healthz"
    )
}

/// Of a name to be proxied to, `name`, `name:port` or `scheme:name:port`: the name.
pub(super) fn proxied(name: &str) -> &str {
    match name.split(':').collect::<Vec<_>>()[..] {
        [_, name, _] | [name, _] => name,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(uri: &str) -> Vec<(String, String)> {
        parameters(uri).map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn parameters_are_read_as_the_api_server_reads_them() {
        assert_eq!(
            read("/exec?command=%2Fbin%2Fsh&command=-c&command=id%3B+cat+%2Fx%3B+echo+%24%24&tty=true"),
            pairs(&[
                ("command", "/bin/sh"),
                ("command", "-c"),
                ("command", "id; cat /x; echo $$"),
                ("tty", "true")
            ])
        );
        // A name may be written otherwise, a value may be missing or hold another `=` or `?`.
        assert_eq!(
            read("/x?c%6Fmmand=a%2Bb&tty&command==?&=v"),
            pairs(&[("command", "a+b"), ("tty", ""), ("command", "=?"), ("", "v")])
        );
        // What Go's parser passes over.
        assert_eq!(read("/x?a=1;b=2&c=%zz&d=%4&e=%&f=ok"), pairs(&[("f", "ok")]));
        assert_eq!(read("/x?command=%FF%00"), pairs(&[("command", "\u{fffd}\0")]));
        assert_eq!(read("/x"), []);
        assert_eq!(read("/x?"), []);
        assert_eq!(read(""), []);
    }

    #[test]
    fn only_false_and_0_are_false() {
        for (value, expected) in [("true", true), ("", true), ("no", true), ("FALSE", false), ("0", false)] {
            assert_eq!(is_true(value), expected, "{value:?}");
        }
    }

    #[test]
    fn a_kubelets_call_is_found_however_it_is_written() {
        let found = |path: &str| kubelet(path).map(|k| (k.run, [k.namespace, k.pod, k.container].join(" ")));
        let exec = Some((false, "prod web-0 app".to_owned()));
        for path in [
            "exec/prod/web-0/app",
            "exec/prod/web-0/0000-uid/app",
            "attach/prod/web-0/app",
            "exec//prod/./web-0/app/",
            "metrics/../exec/prod/web-0/app",
        ] {
            assert_eq!(found(path), exec, "{path}");
        }
        assert_eq!(found("run/prod/web-0/app"), Some((true, "prod web-0 app".to_owned())));
        assert_eq!(found("portForward/prod/web-0"), Some((false, "prod web-0 ".to_owned())));
        for path in ["", "exec", "exec/prod/web-0", "pods", "../..", "containerLogs/prod/web-0/app"] {
            assert_eq!(found(path), None, "{path}");
        }
    }

    #[test]
    fn what_is_behind_a_proxy() {
        let node = |rest: &str| behind_proxy(&format!("/api/v1/nodes/n1/{rest}"), false);
        for rest in ["proxy/exec/a/b/c?x=/proxy/y", "%70roxy/%65xec%2Fa/b/c", "proxy%2Fexec/a/b/c"] {
            assert_eq!(node(rest), "exec/a/b/c", "{rest}");
        }
        assert_eq!(node("proxy/metrics/%2e%2e/exec"), "metrics/../exec");
        for rest in ["proxy", "proxy/", "?a=/proxy/x", ""] {
            assert_eq!(node(rest), "", "{rest}");
        }
        // A namespace and a pod may be called that.
        assert_eq!(behind_proxy("/api/v1/namespaces/proxy/pods/proxy/proxy/exec/a/b/c", true), "exec/a/b/c");
        for (name, expected) in
            [("n1", "n1"), ("n1:10250", "n1"), ("https:n1:10250", "n1"), ("https:n1:", "n1")]
        {
            assert_eq!(proxied(name), expected);
        }
        assert!(is_measuring("metrics/cadvisor"));
        assert!(!is_measuring("metrics/../exec/a/b/c") && !is_measuring("metrics/") && !is_measuring(""));
    }
}
