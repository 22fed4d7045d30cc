//! The images in real containers, as the manifests in `deploy/kustomize` have a kubelet run them: with those capabilities,
//! those mounts, that user, and no other.

use std::{
    collections::BTreeSet,
    env, fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use podtrail_proto::v1::{Event, agent_state::Phase, event::Body};
use serde_json::Value;

use crate::{
    cases,
    harness::{
        Cx,
        agent::phase,
        certificates::{Authority, Files},
        collector::{event, text},
        containerd::{ContainerState, Containerd, Pod, PodSpec, cri},
        daemon,
        deployed::{Template, Volume},
        host, until, within,
    },
};

cases! {
    "deployed",
    Containerd: a_node_and_a_collector_of_the_images
}

const DAEMON_SET: &str = include_str!("../../../deploy/kustomize/base/agent/daemonset.yaml");
const STATEFUL_SET: &str = include_str!("../../../deploy/kustomize/base/collector/statefulset.yaml");
const AGENT: &str = include_str!("../../../deploy/kustomize/base/agent/agent.toml");
const COLLECTOR: &str = include_str!("../../../deploy/kustomize/base/collector/collector.toml");
const ALERTS: &str = include_str!("../../../deploy/kustomize/components/monitoring/alerts.yaml");

/// The collector's service, as the agent's configuration calls it.
const SERVICE: &str = "collector.podtrail.svc";
const NODE: &str = "worker-1";
/// Of the collector's volume group.
const GROUP: u32 = 65532;

/// Bits of include/uapi/linux/capability.h, in order.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// A cluster of one node.
struct Cluster {
    containerd: Containerd,
    dir: PathBuf,
    /// of the collector: gRPC, metrics, audit; of the agent: metrics
    ports: [u16; 4],
    reader: Files,
}

impl Cluster {
    fn new(cx: &Cx) -> Result<Self> {
        let dir = host().dir(&cx.unique("cluster"))?;
        // As a node's init system does, and before containerd, which has mounts of its own from then on.
        for (kind, at) in [("bpf", dir.join("bpf")), ("tracefs", dir.join("tracing"))] {
            fs::create_dir(&at)?;
            let none: Option<&str> = None;
            mount(Some(kind), &at, Some(kind), MsFlags::empty(), none)
                .with_context(|| format!("no {kind}"))?;
        }
        let containerd = Containerd::start_shared()?;
        for image in ["agent", "collector"] {
            containerd.load(&archive(image)?, &format!("localhost/podtrail-{image}"))?;
        }
        fs::create_dir(dir.join("containerd"))?;
        fs::hard_link(&containerd.socket, dir.join("containerd/containerd.sock"))?;

        let (own, cluster) = (Authority::new("podtrail")?, Authority::new("cluster")?);
        let server = own.server(&[SERVICE, "127.0.0.1"], &dir.join("server"))?;
        let reader = own.of("podtrail://reader/investigator", &dir.join("reader"))?;
        let kubelet = cluster.kubelet(NODE, &dir.join("kubelet"))?;
        let put = |path: &str, bytes: &[u8]| -> Result<PathBuf> {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().context("no folder")?)?;
            fs::write(&path, bytes)?;
            Ok(path)
        };
        // The Secret, as the kubelet gives it to the pod's group.
        for (name, file) in [("ca.crt", &server.ca), ("tls.crt", &server.cert), ("tls.key", &server.key)] {
            let path = put(&format!("tls/{name}"), &fs::read(file)?)?;
            chown(&path, None, Some(GROUP))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o440))?;
        }
        put("ca/ca.crt", own.pem().as_bytes())?;
        put("cluster-ca/ca.crt", cluster.pem().as_bytes())?;
        let both = [fs::read(&kubelet.cert)?, fs::read(&kubelet.key)?].concat();
        put("kubelet-pki/kubelet-client-current.pem", &both)?;
        put("config/agent.toml", AGENT.as_bytes())?;
        put("config/collector.toml", COLLECTOR.as_bytes())?;
        // What admission and kubelet put into every pod.
        put("account/token", b"none")?;
        put("account/ca.crt", cluster.pem().as_bytes())?;
        put("hosts", format!("127.0.0.1 localhost {SERVICE}\n").as_bytes())?;
        for made in ["crio", "run", "spool", "data"] {
            fs::create_dir(dir.join(made))?;
        }
        chown(dir.join("data"), None, Some(GROUP))?;
        fs::set_permissions(dir.join("data"), fs::Permissions::from_mode(0o2770))?;
        let free = || -> Result<TcpListener> { Ok(TcpListener::bind("127.0.0.1:0")?) };
        let listeners = [free()?, free()?, free()?, free()?];
        let mut ports = [0; 4];
        for (port, listener) in ports.iter_mut().zip(&listeners) {
            *port = listener.local_addr()?.port();
        }
        Ok(Self { containerd, dir, ports, reader })
    }

    /// Where a volume is: what would be the node's own, and last, is the test's.
    fn volume(&self, volume: &Volume) -> Result<PathBuf> {
        match volume.host_path.as_ref() {
            Some(path) if path.path == Path::new("/sys/fs/cgroup") => {
                ensure!(path.r#type == "Directory", "{}: {}", volume.name, path.r#type);
                Ok(path.path.clone())
            }
            _ => {
                let path = self.dir.join(&volume.name);
                ensure!(path.is_dir(), "the volume {} is not known to the test", volume.name);
                Ok(path)
            }
        }
    }

    fn run(&self, name: &str, template: &Template, more: &[String]) -> Result<(Pod, String)> {
        let pod = self.containerd.pod_with(PodSpec::new("podtrail", name), template.sandbox())?;
        let image = format!("localhost/{name}:{}", env!("CARGO_PKG_VERSION"));
        let fields = [("spec.nodeName", NODE), ("status.hostIP", "127.0.0.1")];
        let mut config = template.config(&image, |volume| self.volume(volume), &fields, more)?;
        let own = [("hosts", "/etc/hosts"), ("account", "/var/run/secrets/kubernetes.io/serviceaccount")];
        config.mounts.extend(own.map(|(from, to)| cri::Mount {
            container_path: to.to_owned(),
            host_path: self.dir.join(from).display().to_string(),
            readonly: true,
            ..cri::Mount::default()
        }));
        // As every pod has them; there is no API server here.
        let server = [("KUBERNETES_SERVICE_HOST", "127.0.0.1"), ("KUBERNETES_SERVICE_PORT", "1")];
        config.envs.extend(
            server.map(|(key, value)| cri::KeyValue { key: key.to_owned(), value: value.to_owned() }),
        );
        let container = self.containerd.launch(&pod, config)?;
        Ok((pod, container))
    }

    fn logged(&self, name: &str) -> String {
        fs::read_to_string(self.containerd.logs().join(name)).unwrap_or_default()
    }

    fn collector(&self) -> Result<(Template, String)> {
        let template = Template::of(STATEFUL_SET, "StatefulSet")?;
        let [grpc, metrics, audit, _] = self.ports.map(|port| format!("127.0.0.1:{port}"));
        let more = [
            format!("--listen={grpc}"),
            format!("--metrics-listen={metrics}"),
            format!("--audit-listen={audit}"),
        ];
        let (_pod, container) = self.run("podtrail-collector", &template, &more)?;
        self.is_ready(self.ports[1], "collector.log")?;
        Ok((template, container))
    }

    fn agent(&self) -> Result<(Template, Pod, String)> {
        let template = Template::of(DAEMON_SET, "DaemonSet")?;
        let [grpc, _, _, metrics] = self.ports;
        let more = [
            format!("--collector=https://{SERVICE}:{grpc}"),
            format!("--metrics-listen=127.0.0.1:{metrics}"),
        ];
        let (pod, container) = self.run("podtrail-agent", &template, &more)?;
        self.is_ready(metrics, "agent.log")?;
        Ok((template, pod, container))
    }

    fn is_ready(&self, port: u16, log: &str) -> Result<()> {
        let ready = until("it is ready", || get(port, "readyz").is_ok_and(|answer| answer.contains(" 200 ")));
        ready.with_context(|| format!("{:?}, log: {}", get(port, "readyz"), self.logged(log)))
    }

    /// Stops it as the kubelet does; it must end by itself, well, and within its grace period.
    fn stop(&self, template: &Template, container: &str, log: &str) -> Result<Duration> {
        let began = Instant::now();
        self.containerd.stop_container(container, template.grace)?;
        let took = began.elapsed();
        let status = self.containerd.status(container)?;
        ensure!(
            status.state() == ContainerState::ContainerExited && status.exit_code == 0,
            "it ended with {}: {}",
            status.exit_code,
            self.logged(log)
        );
        Ok(took)
    }

    /// All events, in the collector's order.
    fn events(&self) -> Result<Vec<Event>> {
        let url = format!("https://127.0.0.1:{}", self.ports[0]);
        let mut command = daemon::command("podtrail");
        command.args(["tail", "--collector", &url, "--from", "oldest", "--no-follow", "-o", "json"]);
        command.envs(self.reader.env()).stdin(Stdio::null());
        text(&command.output().context("cannot run podtrail")?)?.lines().map(event).collect()
    }

    /// The event of a command of the container with this argument, as the collector has it.
    fn executed(&self, container: &str, word: &str) -> Result<Event> {
        let mut last = Ok(Vec::new());
        let found = within(Duration::from_secs(30), word, || {
            last = self.events();
            let is = |event: &&Event| match &event.body {
                Some(Body::Executed(executed)) => {
                    executed.argv.iter().any(|arg| arg == word)
                        && event.container.as_ref().is_some_and(|told| told.id == container)
                }
                _ => false,
            };
            last.as_ref().ok()?.iter().find(is).cloned()
        });
        found.with_context(|| format!("collector: {last:?}; agent: {}", self.logged("agent.log")))
    }

    /// A command as `kubectl exec` has it run, which ends well.
    fn exec(&self, container: &str, word: &str) -> Result<()> {
        let mut streams = self.containerd.exec(container, &["/bin/echo", word], false)?;
        let end = streams.end()?;
        ensure!(end["status"] == "Success", "{end}");
        Ok(())
    }

    /// The process of a container that runs this program.
    fn pid(&self, program: &str) -> Result<u32> {
        let port = format!(
            "--metrics-listen=127.0.0.1:{}",
            self.ports[if program == "podtrail-agent" { 3 } else { 1 }]
        );
        let all = fs::read_dir("/proc")?.flatten();
        let mut pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let is = |pid: &u32| {
            let args = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            args.split(|byte| *byte == 0).any(|arg| arg == port.as_bytes())
                && fs::read_to_string(format!("/proc/{pid}/comm"))
                    .is_ok_and(|comm| program.starts_with(comm.trim()))
        };
        pids.find(is).with_context(|| format!("no {program} runs"))
    }
}

/// An image, as `cargo xtask image` wrote it.
fn archive(name: &str) -> Result<PathBuf> {
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let file = format!("podtrail-{name}-{arch}.tar");
    let folder = match env::var_os("PODTRAIL_ITEST_IMAGES") {
        Some(folder) => PathBuf::from(folder),
        // This program is in target/TRIPLE/debug.
        None => host().exe.ancestors().nth(3).context("no target folder")?.join("image"),
    };
    let path = folder.join(file);
    ensure!(path.exists(), "{} is missing: cargo xtask image --profile dev", path.display());
    Ok(path)
}

fn get(port: u16, page: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET /{page} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// What the kernel lets a process do: sets of capabilities by name, and what else `/proc/PID/status` says.
fn privileges(pid: u32) -> Result<([BTreeSet<String>; 2], String, String)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> Result<String> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        Ok(line.with_context(|| format!("no {name}"))?.trim().to_owned())
    };
    let set = |name: &str| -> Result<BTreeSet<String>> {
        let bits = u64::from_str_radix(&field(name)?, 16)?;
        let names = CAPABILITIES.iter().enumerate().filter(|(bit, _)| bits & (1 << bit) != 0);
        Ok(names.map(|(_, name)| (*name).to_owned()).collect())
    };
    let restrained = format!("{} {}", field("NoNewPrivs")?, field("Seccomp")?);
    Ok(([set("CapPrm")?, set("CapBnd")?], restrained, field("Uid")?))
}

/// Names of metrics in a text, as far as `prefix` begins them.
fn metrics<'a>(text: &'a str, prefix: &str) -> BTreeSet<&'a str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with(prefix))
        .collect()
}

fn a_node_and_a_collector_of_the_images(cx: &Cx) -> Result<()> {
    let cluster = Cluster::new(cx)?;
    let (_victim, container) = cluster.containerd.simple(PodSpec::new("prod", "payments"))?;
    let (collector_template, collector) = cluster.collector()?;
    let (template, _pod, agent) = cluster.agent()?;

    // Ready is ready: what comes now is not missed.
    cluster.exec(&container, "first")?;
    let told = cluster.executed(&container, "first")?;
    let id = told.id.as_ref().context("no id")?;
    ensure!((id.cluster.as_str(), id.node.as_str()) == ("default", NODE), "{id:?}");
    within(Duration::from_secs(20), "the pod of the session becomes known", || {
        let events = cluster.events().ok()?;
        let named = |event: &Event| {
            let pod = match &event.body {
                Some(Body::Attributed(attributed)) => {
                    attributed.container.as_ref().and_then(|c| c.pod.as_ref())
                }
                _ => event.container.as_ref().and_then(|container| container.pod.as_ref()),
            };
            event.session_id == told.session_id
                && pod
                    .is_some_and(|pod| (pod.namespace.as_str(), pod.name.as_str()) == ("prod", "payments-0"))
        };
        events.iter().any(named).then_some(())
    })?;

    // The kernel gave them what the manifests ask for, and nothing else.
    let wanted: BTreeSet<String> = template.capabilities()?.into_iter().collect();
    let (sets, restrained, uid) = privileges(cluster.pid("podtrail-agent")?)?;
    ensure!(sets == [wanted.clone(), wanted.clone()], "the agent has {sets:?}");
    ensure!((restrained.as_str(), uid.as_str()) == ("1 2", "0\t0\t0\t0"), "{restrained}, {uid}");
    let (sets, restrained, uid) = privileges(cluster.pid("podtrail-collector")?)?;
    ensure!(sets == [BTreeSet::new(), BTreeSet::new()], "the collector has {sets:?}");
    ensure!(
        (restrained.as_str(), uid.as_str()) == ("1 2", "65532\t65532\t65532\t65532"),
        "{restrained}, {uid}"
    );

    // With them, doctor lacks nothing, and there is none that it would not ask for.
    let config = "--config=/etc/podtrail/config/agent.toml";
    let doctor =
        cluster.containerd.exec_sync(&agent, &["/usr/bin/podtrail-agent", "doctor", config, "-o", "json"])?;
    let report: Value = serde_json::from_slice(&doctor.stdout)
        .with_context(|| String::from_utf8_lossy(&doctor.stderr).into_owned())?;
    ensure!(report["canRun"] == true, "{report:#}");
    let held = report["capabilities"].as_array().context("no capabilities")?;
    let held: BTreeSet<String> =
        held.iter().filter_map(|name| Some(name.as_str()?.trim_start_matches("CAP_").to_owned())).collect();
    ensure!(held == wanted, "doctor knows of {held:?}");
    for problem in report["problems"].as_array().context("no problems")? {
        let what = problem["what"].as_str().unwrap_or_default();
        // The only thing that a test's containerd has not.
        ensure!(
            !what.contains("CAP_") && !what.contains("cgroups") && !what.contains("runtime"),
            "{problem}"
        );
    }

    // The image's own command line, by the node's socket.
    let listed = cluster.containerd.exec_sync(&agent, &["/usr/bin/podtrail", "sessions", "-o", "json"])?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    ensure!(listed.contains(&told.session_id), "{listed}");

    // What alerts look at is there, with its name.
    let answer = get(cluster.ports[3], "metrics")?;
    for name in metrics(ALERTS, "podtrail_agent_") {
        let there = answer.lines().any(|line| {
            line.starts_with(name) && line.get(name.len()..).is_some_and(|rest| rest.starts_with([' ', '{']))
        });
        // One that counts losses by where they were is not there before the first.
        ensure!(there || name == "podtrail_agent_lost_total", "{name} is not in: {answer}");
    }

    // A new version: the old one ends in time, and what happens meanwhile is not lost.
    let took = cluster.stop(&template, &agent, "agent.log")?;
    eprintln!("the agent drained in {took:.1?} of {} s", template.grace);
    cluster.containerd.remove_container(&agent)?;
    cluster.exec(&container, "meanwhile")?;
    let (template, _pod, agent) = cluster.agent()?;
    cluster.executed(&container, "meanwhile")?;
    cluster.exec(&container, "afterwards")?;
    cluster.executed(&container, "afterwards")?;
    cluster.stop(&template, &agent, "agent.log")?;

    let events = cluster.events()?;
    let mut seqs: Vec<u64> = events
        .iter()
        .filter_map(|event| event.id.as_ref())
        .filter(|id| id.node == NODE)
        .map(|id| id.seq)
        .collect();
    seqs.sort_unstable();
    ensure!(seqs.iter().copied().eq(1..=u64::try_from(seqs.len())?), "numbers: {seqs:?}");
    if let Some(gap) = events.iter().find(|event| matches!(event.body, Some(Body::Gap(_)))) {
        bail!("a gap: {gap:?}");
    }
    let phases: Vec<Phase> = events.iter().filter_map(phase).collect();
    ensure!(phases == [Phase::Started, Phase::Stopped, Phase::Started, Phase::Stopped], "{phases:?}");
    let took = cluster.stop(&collector_template, &collector, "collector.log")?;
    eprintln!("the collector drained in {took:.1?} of {} s", collector_template.grace);
    Ok(())
}
