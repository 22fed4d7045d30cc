//! The agent's configuration.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use nix::unistd::gethostname;

mod value;

use self::value::{collector_url, fsync, group, patterns, ring};
use super::{
    detector,
    settings::{
        Settings, SettingsError,
        value::{
            address, bytes_within, duration, log_format, log_level, name, one_of, optional, path, quoted,
        },
    },
    tls, ways,
};
use crate::{
    pods::{Patterns, Rules, Socket},
    probe::{FailedExecs, Setns},
    spool::Fsync,
    telemetry::LogFormat,
    tls::Files,
    wayin::{self, kubelet},
};

/// Where everything of an agent on its node is.
pub const SOCKET: &str = "/run/podtrail/agent.sock";
pub const LOCK: &str = "/run/podtrail/agent.lock";
pub const PIN: &str = "/sys/fs/bpf/podtrail";

const INTEGRITY_EVERY: Duration = Duration::from_secs(10);
const INTEGRITY_EVERY_MIN: Duration = Duration::from_millis(100);

/// Bytes of argv that are kept unless told otherwise, and the most that a kernel lets a program have.
const ARGV_LIMIT: u64 = 64 << 10;
const ARGV_LIMIT_MIN: u64 = 256;
const ARGV_LIMIT_MAX: u64 = 6 << 20;

/// Bytes of argv that a session may have kept in ten seconds. The least leaves one command whole at the usual limit.
const ARGV_BUDGET: u64 = 4 << 20;
const ARGV_BUDGET_MIN: u64 = 64 << 10;
const ARGV_BUDGET_MAX: u64 = 1 << 30;

/// How long a container that is gone stays known.
const GRACE: Duration = Duration::from_secs(300);
const GRACE_MIN: Duration = Duration::from_secs(1);

/// Where events wait for the collector.
pub const SPOOL: &str = "/var/lib/podtrail/agent";

const SPOOL_SIZE: u64 = 512 << 20;
const SPOOL_SIZE_MIN: u64 = 8 << 20;
const SPOOL_SIZE_MAX: u64 = 1 << 40;

const SPOOL_MEMORY: u64 = 16 << 20;
const SPOOL_MEMORY_MIN: u64 = 64 << 10;
const SPOOL_MEMORY_MAX: u64 = 4 << 30;

const SPOOL_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
const SPOOL_AGE_MIN: Duration = Duration::from_secs(60);

const SPOOL_FSYNC: Duration = Duration::from_secs(1);

const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9444);

/// `podtrail-agent run`, as written.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Flags {
    /// A TOML file; its keys are these flags without the dashes, and flags go first
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// This node's name in every event; default: the host name
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// This cluster's name in every event
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// Send events to this collector, like https://collector:7443; default: to none
    #[arg(long, value_name = "URL")]
    pub collector: Option<String>,
    /// Certificate authorities (PEM) that the collector must have its certificate from
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<String>,
    /// This agent's certificate (PEM), which names its cluster and node
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<String>,
    /// The key of that certificate (PEM)
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<String>,
    /// Directory where events wait for the collector, or "none": in memory alone, and gone when the agent ends
    /// [default: /var/lib/podtrail/agent]
    #[arg(long, value_name = "DIR")]
    pub spool: Option<String>,
    /// Most that events take there, like 2GiB; when it is full, the oldest are dropped, and counted [default: 512MiB]
    #[arg(long, value_name = "BYTES")]
    pub spool_size: Option<String>,
    /// Events that no collector took for so long are dropped, and counted, like 36h [default: 7d]
    #[arg(long, value_name = "DURATION")]
    pub spool_age: Option<String>,
    /// What a power cut may lose: what came in this time, like 1s; or "always": nothing, but each batch waits for the
    /// disk; or "never": what the kernel had not written yet [default: 1s]
    #[arg(long, value_name = "WHEN")]
    pub spool_fsync: Option<String>,
    /// Memory for events that cannot be on disk: there is no spool, or its disk is full [default: 16MiB]
    #[arg(long, value_name = "BYTES")]
    pub spool_memory: Option<String>,
    /// The socket that `podtrail` on this node reads from, or "none" [default: /run/podtrail/agent.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<String>,
    /// A group, by name or number, that may read from the socket too; default: root's
    #[arg(long, value_name = "GROUP")]
    pub socket_group: Option<String>,
    /// Print every event of this node as a line of JSON
    #[arg(long)]
    pub stdout: bool,
    /// Where the kernel side is pinned, so that it goes on recording while no agent runs (also after a stop: `unload`
    /// ends it), or "none" [default: /sys/fs/bpf/podtrail]
    #[arg(long, value_name = "DIR")]
    pub pin: Option<String>,
    /// How often to check that the kernel side is still what was made [default: 10s]
    #[arg(long, value_name = "TIME", hide = true)]
    pub integrity_every: Option<String>,
    /// Bytes of a command's arguments to keep, like 64KiB; of longer ones, head and tail
    /// [default: 64KiB]
    #[arg(long, value_name = "BYTES")]
    pub argv_limit: Option<String>,
    /// Bytes of arguments that one session may have kept in ten seconds, like 4MiB; beyond it, 1KiB of each command
    /// [default: 4MiB]
    #[arg(long, value_name = "BYTES")]
    pub session_argv_budget: Option<String>,
    /// The socket of the node's container runtime (CRI), which is asked for pods and images; "auto": containerd's or
    /// CRI-O's, where it usually is; or "none" [default: auto]
    #[arg(long, value_name = "PATH")]
    pub runtime_socket: Option<String>,
    /// Labels of pods to put into events, separated by commas; a name that ends with * is the beginning of names; or
    /// "none" [default: app,app.kubernetes.io/*]
    #[arg(long, value_name = "LABELS")]
    pub pod_labels: Option<String>,
    /// Runtime handlers whose containers this node's kernel cannot see into, written like labels
    /// [default: gvisor*,runsc*,kata*]
    #[arg(long, value_name = "HANDLERS")]
    pub opaque_runtimes: Option<String>,
    /// How long a container that is gone stays known, for what is told of it late [default: 5m]
    #[arg(long, value_name = "DURATION")]
    pub container_grace: Option<String>,
    /// Size of the ring between kernel and agent, a power of two, like 8MiB [default: 4MiB]
    #[arg(long, value_name = "BYTES")]
    pub ring_size: Option<String>,
    /// realtime, so that no storm of processes keeps the agent from reading the ring, or normal [default: realtime]
    #[arg(long, value_name = "PRIORITY")]
    pub priority: Option<String>,
    /// Where to serve /metrics, /healthz and /readyz, or "none" [default: 127.0.0.1:9444]
    #[arg(long, value_name = "ADDR")]
    pub metrics_listen: Option<String>,
    /// error, warn, info, debug or trace, or a filter as in RUST_LOG [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// auto, text, logfmt or json [default: auto]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// The hook for setns: auto, fexit, kprobe or tracepoint
    #[arg(long, value_name = "HOOK", hide = true)]
    pub setns: Option<String>,
    /// Whether tasks are preempted in programs of tracepoints, so that these need others behind them: auto, yes or no
    #[arg(long, value_name = "WHEN", hide = true)]
    pub preempted: Option<String>,
    /// Whether to tell of execs that fail: auto, on or off; auto: on where the kernel lets the agent see them without a
    /// system call's tracepoint, which slows down every system call of the node [default: auto]
    #[arg(long, value_name = "WHEN")]
    pub failed_execs: Option<String>,
    /// BTF of the running kernel, where /sys/kernel/btf/vmlinux is not it
    #[arg(long, value_name = "FILE")]
    pub btf: Option<String>,
    #[command(flatten)]
    pub ways: ways::Flags,
    #[command(flatten)]
    pub detector: detector::Flags,
    /// Log what the BPF programs do (level debug)
    #[arg(long, hide = true)]
    pub diagnose: bool,
    /// The file whose lock makes this the node's only agent
    #[arg(long, value_name = "PATH", hide = true)]
    pub lock: Option<String>,
}

/// `podtrail-agent unload`, as written: what it needs to find what `run` left.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Unload {
    /// Where the kernel side is pinned, as in `run` [default: /sys/fs/bpf/podtrail]
    #[arg(long, value_name = "DIR")]
    pin: Option<String>,
    /// The agent's configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[arg(long, value_name = "PATH", hide = true)]
    lock: Option<String>,
}

impl From<Unload> for Flags {
    fn from(flags: Unload) -> Self {
        let Unload { pin, config, lock } = flags;
        Self { pin, config, lock, ..Self::default() }
    }
}

/// The agent's configuration, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentConfig {
    pub node_name: String,
    pub cluster: String,
    /// a URL with scheme, host and port
    pub collector: Option<String>,
    /// there where the collector's URL is https
    pub tls: Option<Files>,
    /// `None`: events are in memory alone
    pub spool: Option<PathBuf>,
    pub spool_size: u64,
    pub spool_age: Duration,
    pub spool_fsync: Fsync,
    pub spool_memory: usize,
    pub socket: Option<PathBuf>,
    /// its number; `None`: root's
    pub socket_group: Option<u32>,
    pub lock: PathBuf,
    pub stdout: bool,
    /// `None`: nothing is pinned
    pub pin: Option<PathBuf>,
    pub integrity_every: Duration,
    pub argv_limit: u32,
    /// bytes in ten seconds
    pub session_argv_budget: u32,
    pub runtime_socket: Socket,
    pub pod_labels: Patterns,
    pub opaque_runtimes: Patterns,
    pub container_grace: Duration,
    /// `None`: as the probe sees fit
    pub ring_size: Option<u32>,
    /// the agent runs before everything that has no real-time priority
    pub realtime: bool,
    pub metrics_listen: Option<SocketAddr>,
    /// `None`: no kubelet is asked
    pub kubelet: Option<kubelet::Options>,
    pub ways: wayin::Options,
    /// nobody, unless it is said
    pub detector: crate::detector::Options,
    pub setns: Setns,
    pub failed_execs: FailedExecs,
    /// `None`: as this kernel does
    pub preempted: Option<bool>,
    pub btf: Option<PathBuf>,
    pub diagnose: bool,
    /// a filter as in `RUST_LOG`
    pub log_level: Option<String>,
    pub log_format: LogFormat,
}

/// Keys that a file may have.
const KEYS: [&str; 35] = [
    "node-name",
    "cluster",
    "collector",
    "tls-ca",
    "tls-cert",
    "tls-key",
    "spool",
    "spool-size",
    "spool-age",
    "spool-fsync",
    "spool-memory",
    "socket",
    "socket-group",
    "stdout",
    "pin",
    "argv-limit",
    "session-argv-budget",
    "runtime-socket",
    "pod-labels",
    "opaque-runtimes",
    "container-grace",
    "ring-size",
    "priority",
    "metrics-listen",
    "failed-execs",
    "btf",
    "log-level",
    "log-format",
    ways::KEYS[0],
    ways::KEYS[1],
    ways::KEYS[2],
    ways::KEYS[3],
    ways::KEYS[4],
    detector::KEYS[0],
    detector::KEYS[1],
];

impl AgentConfig {
    /// Reads the file, where there is one, puts the flags over it, and checks it all.
    pub fn load(flags: Flags) -> Result<Self, SettingsError> {
        let Flags {
            config,
            node_name,
            cluster,
            collector,
            tls_ca,
            tls_cert,
            tls_key,
            spool,
            spool_size,
            spool_age,
            spool_fsync,
            spool_memory,
            socket,
            socket_group,
            stdout,
            pin,
            integrity_every,
            argv_limit,
            session_argv_budget,
            runtime_socket,
            pod_labels,
            opaque_runtimes,
            container_grace,
            ring_size,
            priority,
            metrics_listen,
            log_level,
            log_format,
            setns,
            preempted,
            failed_execs,
            btf,
            ways,
            detector,
            diagnose,
            lock,
        } = flags;
        let mut settings = Settings::read(config.as_deref(), &KEYS, &[])?;
        settings.flag("--node-name", node_name);
        settings.flag("--cluster", cluster);
        settings.flag("--collector", collector);
        settings.flag("--tls-ca", tls_ca);
        settings.flag("--tls-cert", tls_cert);
        settings.flag("--tls-key", tls_key);
        settings.flag("--spool", spool);
        settings.flag("--spool-size", spool_size);
        settings.flag("--spool-age", spool_age);
        settings.flag("--spool-fsync", spool_fsync);
        settings.flag("--spool-memory", spool_memory);
        settings.flag("--socket", socket);
        settings.flag("--socket-group", socket_group);
        settings.flag("--stdout", stdout.then(|| "true".to_owned()));
        settings.flag("--pin", pin);
        settings.flag("--integrity-every", integrity_every);
        settings.flag("--argv-limit", argv_limit);
        settings.flag("--session-argv-budget", session_argv_budget);
        settings.flag("--runtime-socket", runtime_socket);
        settings.flag("--pod-labels", pod_labels);
        settings.flag("--opaque-runtimes", opaque_runtimes);
        settings.flag("--container-grace", container_grace);
        settings.flag("--ring-size", ring_size);
        settings.flag("--priority", priority);
        settings.flag("--metrics-listen", metrics_listen);
        settings.flag("--log-level", log_level);
        settings.flag("--log-format", log_format);
        settings.flag("--setns", setns);
        settings.flag("--preempted", preempted);
        settings.flag("--failed-execs", failed_execs);
        settings.flag("--btf", btf);
        settings.flag("--lock", lock);
        ways.put_into(&mut settings);
        detector.put_into(&mut settings);
        // A host name is whatever somebody set it to: checked like one that was written.
        settings.otherwise("node-name", "--node-name (not given; the host name)", || {
            gethostname().map(|host| host.to_string_lossy().into_owned()).unwrap_or_default()
        });
        let config = Self::check(&mut settings, diagnose);
        settings.finish(config)
    }

    fn check(settings: &mut Settings, diagnose: bool) -> Self {
        let spool_size = settings
            .check("spool-size", SPOOL_SIZE, |text| bytes_within(text, &(SPOOL_SIZE_MIN..=SPOOL_SIZE_MAX)));
        let tls = tls::files(settings);
        let secure = tls.is_some();
        let spool_memory = settings.check("spool-memory", SPOOL_MEMORY, |text| {
            bytes_within(text, &(SPOOL_MEMORY_MIN..=SPOOL_MEMORY_MAX))
        });
        let argv_limit = settings
            .check("argv-limit", ARGV_LIMIT, |text| bytes_within(text, &(ARGV_LIMIT_MIN..=ARGV_LIMIT_MAX)));
        let argv_budget = settings.check("session-argv-budget", ARGV_BUDGET, |text| {
            bytes_within(text, &(ARGV_BUDGET_MIN..=ARGV_BUDGET_MAX))
        });
        let node_name = settings.check("node-name", String::new(), name);
        Self {
            kubelet: ways::kubelet(settings, &node_name),
            ways: ways::options(settings),
            detector: detector::options(settings),
            node_name,
            cluster: settings.check("cluster", "default".to_owned(), name),
            collector: settings.check("collector", None, |text| collector_url(text, secure).map(Some)),
            tls,
            spool: settings.check("spool", Some(PathBuf::from(SPOOL)), |text| optional(text, path)),
            spool_size,
            spool_age: settings.check("spool-age", SPOOL_AGE, |text| duration(text, SPOOL_AGE_MIN)),
            spool_fsync: settings.check("spool-fsync", Fsync::Every(SPOOL_FSYNC), fsync),
            spool_memory: usize::try_from(spool_memory).unwrap_or(usize::MAX),
            socket: settings.check("socket", Some(PathBuf::from(SOCKET)), |text| optional(text, path)),
            socket_group: settings.check("socket-group", None, |text| group(text).map(Some)),
            lock: settings.check("lock", PathBuf::from(LOCK), path),
            stdout: settings.check("stdout", false, |text| {
                text.parse().map_err(|_wrong| format!("{} is neither true nor false", quoted(text)))
            }),
            pin: settings.check("pin", Some(PathBuf::from(PIN)), |text| optional(text, path)),
            integrity_every: settings
                .check("integrity-every", INTEGRITY_EVERY, |text| duration(text, INTEGRITY_EVERY_MIN)),
            argv_limit: u32::try_from(argv_limit).unwrap_or(u32::MAX),
            session_argv_budget: u32::try_from(argv_budget).unwrap_or(u32::MAX),
            runtime_socket: settings.check("runtime-socket", Socket::Auto, |text| match text {
                "auto" => Ok(Socket::Auto),
                text => Ok(optional(text, path)?.map_or(Socket::Nowhere, Socket::At)),
            }),
            pod_labels: settings.check("pod-labels", Rules::default().labels, patterns),
            opaque_runtimes: settings.check("opaque-runtimes", Rules::default().opaque, patterns),
            container_grace: settings.check("container-grace", GRACE, |text| duration(text, GRACE_MIN)),
            ring_size: settings.check("ring-size", None, |text| ring(text).map(Some)),
            realtime: settings
                .check("priority", true, |text| one_of(text, &[("realtime", true), ("normal", false)])),
            metrics_listen: settings.check("metrics-listen", Some(METRICS), |text| {
                optional(text, |text| address(text, "127.0.0.1:9444, or none"))
            }),
            setns: settings.check("setns", Setns::Auto, |text| {
                one_of(
                    text,
                    &[
                        ("auto", Setns::Auto),
                        ("fexit", Setns::Fexit),
                        ("kprobe", Setns::Kprobe),
                        ("tracepoint", Setns::Tracepoint),
                    ],
                )
            }),
            preempted: settings.check("preempted", None, |text| {
                one_of(text, &[("auto", None), ("yes", Some(true)), ("no", Some(false))])
            }),
            failed_execs: settings.check("failed-execs", FailedExecs::Auto, |text| {
                one_of(
                    text,
                    &[("auto", FailedExecs::Auto), ("on", FailedExecs::On), ("off", FailedExecs::Off)],
                )
            }),
            btf: settings.check("btf", None, |text| path(text).map(Some)),
            diagnose,
            log_level: settings.check("log-level", None, |text| log_level(text).map(Some)),
            log_format: settings.check("log-format", LogFormat::Auto, log_format),
        }
    }
}

impl AgentConfig {
    /// What to make of what the runtime says.
    #[must_use]
    pub fn pod_rules(&self) -> Rules {
        Rules { labels: self.pod_labels.clone(), opaque: self.opaque_runtimes.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(flags: Flags) -> Vec<String> {
        match AgentConfig::load(flags) {
            Err(error) => error.to_string().lines().map(str::to_owned).collect(),
            Ok(config) => panic!("{config:?}"),
        }
    }

    fn with_file(text: &str, flags: Flags) -> (tempfile::TempDir, Flags) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        std::fs::write(&path, text).unwrap();
        (dir, Flags { config: Some(path), ..flags })
    }

    #[test]
    fn nothing_is_needed() {
        let config = AgentConfig::load(Flags::default()).unwrap();
        assert_eq!(config.node_name, gethostname().unwrap().to_str().unwrap());
        assert_eq!((config.cluster.as_str(), config.collector, config.stdout), ("default", None, false));
        assert_eq!(config.socket, Some(PathBuf::from("/run/podtrail/agent.sock")));
        assert_eq!((config.argv_limit, config.ring_size), (65_536, None));
        assert_eq!((config.spool_size, config.spool_memory), (512 << 20, 16 << 20));
        assert_eq!(config.spool, Some(PathBuf::from("/var/lib/podtrail/agent")));
        assert_eq!(config.spool_fsync, Fsync::Every(Duration::from_secs(1)));
        assert_eq!(config.metrics_listen, Some("127.0.0.1:9444".parse().unwrap()));
    }

    #[test]
    fn flags_go_before_the_file() {
        let flags = Flags { cluster: Some("flag".to_owned()), ..Flags::default() };
        let (_dir, flags) =
            with_file("cluster = \"file\"\nnode-name = \"n\"\nargv-limit = 1024\nstdout = true\n", flags);
        let config = AgentConfig::load(flags).unwrap();
        assert_eq!((config.cluster.as_str(), config.node_name.as_str()), ("flag", "n"));
        assert_eq!((config.argv_limit, config.stdout), (1024, true));
    }

    #[test]
    fn every_error_at_once_with_its_place() {
        let flags = Flags {
            log_level: Some("a=b=c".to_owned()),
            ring_size: Some("3MiB".to_owned()),
            ..Flags::default()
        };
        let (dir, flags) = with_file("node_name = \"n\"\ncluster = \"a b\"\nargv-limit = 1\n", flags);
        let file = dir.path().join("agent.toml").display().to_string();
        let errors = errors(flags);
        let expected = [
            format!("{file}:1:1: node_name: no such key; there are: node-name, cluster,"),
            format!("{file}:2:1: cluster: \"a b\" is no name"),
            format!("{file}:3:1: argv-limit: 1 bytes is not between 256 and 6291456"),
            "--log-level: \"a=b=c\" is no log level".to_owned(),
            "--ring-size: 3145728 is not a power of two".to_owned(),
        ];
        for expected in &expected {
            assert!(errors.iter().any(|line| line.starts_with(expected)), "{expected} not in {errors:#?}");
        }
        assert_eq!(errors.len(), expected.len(), "{errors:#?}");
    }

    #[test]
    fn every_key_is_asked_for() {
        // `Settings::finish` tells of one that is not.
        let text: String = KEYS.iter().map(|key| format!("{key} = \"\\u0000\"\n")).collect();
        let (_dir, flags) = with_file(&text, Flags::default());
        assert_eq!(errors(flags).len(), KEYS.len());
    }

    #[test]
    fn none_is_an_answer() {
        let none = || Some("none".to_owned());
        let config = AgentConfig::load(Flags {
            socket: none(),
            metrics_listen: none(),
            spool: none(),
            ..Flags::default()
        })
        .unwrap();
        assert_eq!((config.socket, config.metrics_listen, config.spool), (None, None, None));
    }
}
