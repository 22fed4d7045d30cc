//! The plug-ins for node-problem-detector: their configurations are what it reads, and their scripts say what is so.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use regex::Regex;
use serde::Deserialize;

use crate::{deploy, names};

const GOOD: i32 = 0;
const BAD: i32 = 1;
const UNKNOWN: i32 = 2;

fn folder() -> PathBuf {
    deploy().join("node-problem-detector")
}

/// What a script says: its exit code, and its line.
fn says(script: &str, args: &[&str], variables: &[(&str, &str)]) -> (i32, String) {
    let mut command = Command::new(folder().join(script));
    command.args(args).stdin(Stdio::null()).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let output = command.envs(variables.iter().copied()).output().unwrap();
    assert!(output.stderr.is_empty(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    let line = String::from_utf8(output.stdout).unwrap();
    assert_eq!(line.matches('\n').count(), 1, "{script}: {line:?}");
    (output.status.code().unwrap(), line.trim_end().to_owned())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Custom {
    plugin: String,
    #[serde(rename = "pluginConfig")]
    settings: Settings,
    source: String,
    #[serde(rename = "metricsReporting")]
    metrics: bool,
    conditions: Vec<Condition>,
    rules: Vec<Run>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    invoke_interval: String,
    timeout: String,
    max_output_length: usize,
    concurrency: u32,
    enable_message_change_based_condition_update: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    r#type: String,
    reason: String,
    message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Run {
    r#type: String,
    condition: String,
    reason: String,
    path: String,
    timeout: String,
    #[serde(default)]
    args: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Log {
    plugin: String,
    #[serde(rename = "logPath")]
    path: String,
    #[serde(rename = "lookback")]
    _lookback: String,
    #[serde(rename = "bufferSize")]
    buffer: u32,
    source: String,
    #[serde(rename = "metricsReporting")]
    metrics: bool,
    conditions: Vec<Condition>,
    rules: Vec<Pattern>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pattern {
    r#type: String,
    condition: String,
    reason: String,
    pattern: String,
}

fn seconds(text: &str) -> u64 {
    text.strip_suffix('s').unwrap().parse().unwrap()
}

#[test]
fn configurations_are_what_the_detector_reads() {
    let all = names(&folder());
    let page = fs::read_to_string(folder().join("README.md")).unwrap();
    let mut used = BTreeSet::new();
    let mut types = BTreeSet::new();
    for name in all.iter().filter(|name| name.ends_with(".json") && *name != "kernel-hang.json") {
        let text = fs::read_to_string(folder().join(name)).unwrap();
        let Custom { plugin, settings, source, metrics, conditions, rules } =
            serde_json::from_str(&text).unwrap();
        assert!(plugin == "custom" && metrics && source.ends_with("-monitor"), "{name}");
        assert!(settings.concurrency > 0 && !settings.enable_message_change_based_condition_update, "{name}");
        let ([condition], [rule]) = (conditions.as_slice(), rules.as_slice()) else { panic!("{name}") };
        assert_eq!((&rule.condition, rule.r#type.as_str()), (&condition.r#type, "permanent"), "{name}");
        assert!(rule.reason != condition.reason && !condition.message.is_empty(), "{name}");
        assert!(types.insert(condition.r#type.clone()), "{name}");
        assert!(page.contains(&format!("| `{}` |", condition.r#type)), "{name}: {}", condition.r#type);
        assert!(seconds(&rule.timeout) <= seconds(&settings.timeout), "{name}");
        assert!(seconds(&settings.timeout) < seconds(&settings.invoke_interval), "{name}");
        let script = rule.path.strip_prefix("./config/podtrail/").unwrap();
        let mode = fs::metadata(folder().join(script)).unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{script} cannot be run");
        // As it is called there; whatever it finds, it says so in a line that is not cut.
        let args: Vec<&str> = rule.args.iter().map(String::as_str).collect();
        let (code, line) = says(script, &args, &[("TIMEOUT", "1")]);
        assert!((GOOD..=UNKNOWN).contains(&code), "{script}: {code}");
        assert!(!line.is_empty() && line.len() <= settings.max_output_length, "{script}: {line}");
        used.insert(script.to_owned());
    }
    let scripts: BTreeSet<_> = all.iter().filter(|name| name.ends_with(".sh")).cloned().collect();
    assert_eq!(used, scripts);
    // As the detector was seen to tell it.
    assert!(types.contains("FDPressure"), "{types:?}");
}

#[test]
fn file_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file-nr");
    let at = file.to_str().unwrap();
    let said = |text: &str, args: &[&str]| {
        fs::write(&file, text).unwrap();
        says("pressure.sh", &[&["fd"], args].concat(), &[("FILE_NR", at)])
    };
    assert_eq!(
        said("1700000\t0\t2000000\n", &[]),
        (BAD, "1700000 of 2000000 file descriptors in use".to_owned())
    );
    assert_eq!(said("1699999\t0\t2000000\n", &[]).0, GOOD);
    assert_eq!(said("1699999\t0\t2000000\n", &["50"]).0, BAD);
    assert_eq!(
        said("1216\t0\t9223372036854775807\n", &[]),
        (GOOD, "1216 file descriptors in use, and no limit".to_owned())
    );
    for broken in ["", "x 0 100\n", "1 0 -5\n", "1 0 0\n", "1\n"] {
        assert_eq!(said(broken, &[]).0, UNKNOWN, "{broken:?}");
    }
    assert_eq!(said("1 0 100\n", &["much"]).0, UNKNOWN);
    fs::remove_file(&file).unwrap();
    assert_eq!(says("pressure.sh", &["fd"], &[("FILE_NR", at)]).0, UNKNOWN);
    // This machine's own.
    assert_eq!(says("pressure.sh", &["fd", "100"], &[]).0, GOOD);
}

#[test]
fn tracked_connections() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().to_str().unwrap();
    let said = |args: &[&str]| says("pressure.sh", &[&["conntrack"], args].concat(), &[("NETFILTER", at)]);
    let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    assert_eq!(said(&[]), (GOOD, "connections are not tracked".to_owned()));
    put("nf_conntrack_max", "262144\n");
    assert_eq!(said(&[]).0, UNKNOWN);
    put("nf_conntrack_count", "235930\n");
    assert_eq!(said(&[]), (BAD, "235930 of 262144 tracked connections".to_owned()));
    put("nf_conntrack_count", "235929\n");
    assert_eq!(said(&[]).0, GOOD);
    assert_eq!(said(&["10"]).0, BAD);
    for broken in ["many\n", ""] {
        put("nf_conntrack_count", broken);
        assert_eq!(said(&[]).0, UNKNOWN, "{broken:?}");
    }
    put("nf_conntrack_count", "5\n");
    put("nf_conntrack_max", "0\n");
    assert_eq!(said(&[]), (GOOD, "5 tracked connections, and no limit".to_owned()));
    assert_eq!(says("pressure.sh", &["memory"], &[]).0, UNKNOWN);
}

#[test]
fn the_public_network() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let open = listener.local_addr().unwrap().to_string();
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    // No stream goes to many; and one that takes nobody in any more.
    let nowhere = "224.0.0.1:9";
    let full = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&full, 0).unwrap();
    let at = full.local_addr().unwrap();
    let waiting: Vec<_> =
        std::iter::from_fn(|| TcpStream::connect_timeout(&at, Duration::from_millis(300)).ok()).collect();
    assert!(waiting.len() < 100, "it takes everybody");
    let said = |targets: &[&str]| says("public-network.sh", targets, &[("TIMEOUT", "1")]);
    assert_eq!(said(&[&open]), (GOOD, format!("{open} answers")));
    assert_eq!(said(&[&closed]), (GOOD, format!("{closed} answers, by refusing")));
    assert_eq!(said(&[nowhere, &open]).0, GOOD);
    let began = Instant::now();
    assert_eq!(said(&[nowhere, &at.to_string()]), (BAD, format!("no answer from {nowhere} {at}")));
    assert!(began.elapsed() < Duration::from_secs(8));
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("mark");
    let harmful = format!("127.0.0.1:1;touch${{IFS}}{}", mark.display());
    for bad in [&harmful, "127.0.0.1", "127.0.0.1:http", ":80", "a b:80", "$(true):1"] {
        assert_eq!(said(&[bad]).0, UNKNOWN, "{bad}");
    }
    assert!(!mark.exists());
}

#[test]
fn names_are_resolved() {
    let said =
        |names: &[&str], resolve: &str| says("dns.sh", names, &[("TIMEOUT", "1"), ("RESOLVE", resolve)]);
    assert_eq!(says("dns.sh", &["localhost"], &[]), (GOOD, "localhost is resolved".to_owned()));
    assert_eq!(says("dns.sh", &["no.such.name.invalid"], &[("TIMEOUT", "1")]).0, BAD);
    assert_eq!(said(&["a", "b"], "test b ="), (GOOD, "b is resolved".to_owned()));
    assert_eq!(said(&["a", "b"], "false"), (BAD, "the node resolves none of: a b".to_owned()));
    assert_eq!(said(&["5"], "sleep"), (BAD, "the node resolves none of: 5".to_owned()));
    assert_eq!(said(&["a"], "no-such-program").0, UNKNOWN);
}

#[test]
fn the_container_engine() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let crictl = |script: &str| {
        fs::write(path("crictl"), format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(Path::new(&path("crictl")), fs::Permissions::from_mode(0o755)).unwrap();
    };
    let sockets = format!("{} {}", path("none.sock"), path("one.sock"));
    let said = || {
        let (program, sockets) = (path("crictl"), sockets.as_str());
        says("container-engine.sh", &[], &[("CRICTL", &program), ("SOCKETS", sockets), ("TIMEOUT", "1")])
    };
    assert_eq!(said().0, UNKNOWN);
    crictl("exit 0");
    assert_eq!(said(), (BAD, "no container runtime listens".to_owned()));
    let _listener = UnixListener::bind(path("one.sock")).unwrap();
    crictl(&format!(
        "[ \"$*\" = \"--runtime-endpoint unix://{} pods --quiet\" ] || exit 9",
        path("one.sock")
    ));
    assert_eq!(said(), (GOOD, format!("the container runtime at {} answers", path("one.sock"))));
    crictl("sleep 30");
    assert_eq!(
        said(),
        (BAD, format!("the container runtime at {} does not answer within 1 s", path("one.sock")))
    );
    crictl("exit 1");
    assert_eq!(said(), (BAD, format!("the container runtime at {} cannot list its pods", path("one.sock"))));
}

#[test]
fn the_kernels_log() {
    let text = fs::read_to_string(folder().join("kernel-hang.json")).unwrap();
    let Log { plugin, path, _lookback: _, buffer, source, metrics, conditions, rules } =
        serde_json::from_str(&text).unwrap();
    assert_eq!(
        (plugin.as_str(), path.as_str(), source.as_str()),
        ("kmsg", "/dev/kmsg", "kernel-hang-monitor")
    );
    assert!(metrics && buffer > 0);
    let [condition] = conditions.as_slice() else { panic!("several conditions") };
    assert_eq!(condition.r#type, "KernelHung");
    assert!(!condition.reason.is_empty() && !condition.message.is_empty());
    // The detector looks whether a line ends with what a pattern says.
    let rules: BTreeMap<_, _> = rules
        .iter()
        .map(|Pattern { r#type, condition, reason, pattern }| {
            assert_eq!((r#type.as_str(), condition.as_str()), ("permanent", "KernelHung"));
            (reason.as_str(), Regex::new(&format!(r"{pattern}\z")).unwrap())
        })
        .collect();
    let matching = |line: &str| -> Vec<&str> {
        rules.iter().filter(|(_, pattern)| pattern.is_match(line)).map(|(reason, _)| *reason).collect()
    };
    for (line, reason) in [
        ("INFO: task docker:20744 blocked for more than 120 seconds.", "TaskHung"),
        ("INFO: task Web Content:77 blocked for more than 241 seconds.", "TaskHung"),
        ("watchdog: BUG: soft lockup - CPU#3 stuck for 22s! [kworker/3:1:1234]", "SoftLockup"),
        ("NMI watchdog: Watchdog detected hard LOCKUP on cpu 2", "HardLockup"),
        ("watchdog: Watchdog detected hard LOCKUP on cpu 11", "HardLockup"),
        ("rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:", "RcuStall"),
        ("rcu: INFO: rcu_sched self-detected stall on CPU", "RcuStall"),
    ] {
        assert_eq!(matching(line), [reason], "{line}");
    }
    for line in [
        "EXT4-fs (sda1): mounted filesystem with ordered data mode",
        "\"echo 0 > /proc/sys/kernel/hung_task_timeout_secs\" disables this message.",
        "Out of memory: Killed process 77 (java) total-vm:1kB, anon-rss:1kB, file-rss:0kB",
    ] {
        assert_eq!(matching(line), Vec::<&str>::new(), "{line}");
    }
}
