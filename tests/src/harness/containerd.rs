//! Debian's containerd with its CRI plugin, in a place of its own, and what a kubelet says to it.
//!
//! There is no registry: the image is made from busybox and imported. Cgroups are as a kubelet's with the cgroupfs
//! driver, below those of the run.

mod image;

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use futures::{SinkExt as _, StreamExt as _};
use hyper_util::rt::TokioIo;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tokio::net::{TcpStream, UnixStream};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest as _, http::HeaderValue},
};
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::{cgroup, container::uuid, host, leftovers, process, until, wait::scaled, within};

/// Generated from `tests/proto/kubelet.proto`.
pub(crate) mod cri {
    #![expect(
        clippy::all,
        clippy::pedantic,
        clippy::restriction,
        unused_qualifications,
        unreachable_pub,
        reason = "generated code"
    )]
    tonic::include_proto!("runtime.v1");
}

use cri::{
    ContainerConfig, ContainerMetadata, ContainerStatus, ContainerStatusRequest, CreateContainerRequest,
    ExecRequest, ExecSyncRequest, ImageSpec, LinuxContainerConfig, LinuxContainerSecurityContext,
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, ListPodSandboxRequest, NamespaceMode,
    NamespaceOption, PodSandboxConfig, PodSandboxMetadata, RemoveContainerRequest, RemovePodSandboxRequest,
    RunPodSandboxRequest, StartContainerRequest, StopContainerRequest, StopPodSandboxRequest, VersionRequest,
    runtime_service_client::RuntimeServiceClient,
};
pub(crate) use cri::{ContainerState, ExecSyncResponse};

/// The only image there is.
pub(crate) const IMAGE: &str = "localhost/podtrail/itest:1";

/// Where its shims keep their sockets, whatever they are told.
const SHIMS: &str = "/run/containerd";

/// The handler of a runtime that looks like gVisor: what is executed in its containers runs where the kernel sees no
/// container.
pub(crate) const OPAQUE: &str = "runsc";

/// For any call of a kubelet's.
const PATIENCE: Duration = Duration::from_secs(60);

type Client = RuntimeServiceClient<Channel>;

/// containerd's place; it may run, be killed, and run again there.
#[derive(Debug)]
pub(crate) struct Containerd {
    dir: PathBuf,
    /// of its CRI
    pub(crate) socket: PathBuf,
    /// of the image's manifest
    pub(crate) digest: String,
    child: Mutex<Option<Child>>,
    runtime: tokio::runtime::Runtime,
    client: Client,
    /// sockets of shims that were there before
    before: Vec<PathBuf>,
    /// it has mounts as a node's init system makes them
    shared: bool,
}

/// What a pod shall be like.
#[derive(Clone, Debug)]
pub(crate) struct PodSpec {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) handler: String,
}

/// A pod that runs; gone with its containerd.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) spec: PodSpec,
    pub(crate) sandbox: String,
    config: PodSandboxConfig,
}

/// A command with streams, as `kubectl exec` has them.
pub(crate) struct Streams<'c> {
    socket: WebSocketStream<TcpStream>,
    containerd: &'c Containerd,
    /// what it printed so far
    pub(crate) output: Vec<u8>,
}

impl PodSpec {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        let labels =
            [("app", name), ("app.kubernetes.io/part-of", "shop"), ("pod-template-hash", "5d4f8c7b9")];
        Self {
            namespace: namespace.to_owned(),
            name: format!("{name}-0"),
            uid: uuid(),
            labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec(),
            handler: String::new(),
        }
    }

    pub(crate) fn handler(mut self, handler: &str) -> Self {
        handler.clone_into(&mut self.handler);
        self
    }

    /// The kubelet's own, on the sandbox and on its containers.
    fn labels(&self) -> HashMap<String, String> {
        let own = [
            ("io.kubernetes.pod.name", &self.name),
            ("io.kubernetes.pod.namespace", &self.namespace),
            ("io.kubernetes.pod.uid", &self.uid),
        ];
        own.into_iter().map(|(key, value)| (key.to_owned(), value.clone())).collect()
    }
}

impl Containerd {
    /// Starts one, with the image in it.
    pub(crate) fn start() -> Result<Self> {
        Self::begin(false)
    }

    /// One whose mounts are shared, as a node's are, and which has its sockets in a folder of their own.
    pub(crate) fn start_shared() -> Result<Self> {
        Self::begin(true)
    }

    fn begin(shared: bool) -> Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        // Short: a socket's path has 104 bytes at most.
        let dir = host().dir(&format!("containerd{}", COUNT.fetch_add(1, Ordering::Relaxed)))?;
        let socket = dir.join("c.sock");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let client = runtime.block_on(async { client(&socket) });
        let before = entries(&Path::new(SHIMS).join("s"));
        let mut this = Self {
            dir,
            socket,
            digest: String::new(),
            child: Mutex::new(None),
            runtime,
            client,
            before,
            shared,
        };
        fs::write(this.dir.join("opaque"), this.opaque()?)?;
        fs::set_permissions(this.dir.join("opaque"), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        fs::write(this.dir.join("config.toml"), this.config()?)?;
        this.run()?;
        this.import()?;
        Ok(this)
    }

    fn config(&self) -> Result<String> {
        let dir = self.dir.display();
        let runc = host().runc.as_ref().context("no runc")?.display();
        Ok(format!(
            r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  sandbox_image = "{IMAGE}"
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    conf_dir = "{dir}/no-cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "{runc}"
        Root = "{dir}/runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{OPAQUE}]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{OPAQUE}.options]
        BinaryName = "{dir}/opaque"
        Root = "{dir}/opaque-state"
"#,
            socket = self.socket.display(),
        ))
    }

    /// runc, but for what it executes: that is a process of the node, which no container's cgroup and no container's
    /// namespaces have, as it is for the kernel of a node where gVisor's runs.
    fn opaque(&self) -> Result<String> {
        let runc = host().runc.as_ref().context("no runc")?.display();
        let busybox = host().busybox.as_ref().context("no busybox")?.display();
        Ok(format!(
            r#"#!{busybox} sh
runc={runc}
for word in "$@"; do
    [ "$word" = exec ] && exec=1
    [ "$before" = --pid-file ] && pid_file=$word
    [ "$before" = --process ] && spec=$word
    before=$word
done
[ "$exec" ] || exec "$runc" "$@"
# As long, and with the code, that its last argument says: "sleep 1; exit 7".
script=$({busybox} sed -n 's/.*"args":\["\/bin\/sh","-c","\([^"]*\)"\].*/\1/p' "$spec")
{busybox} sh -c "PATH=/bin; alias sleep='{busybox} sleep'; ${{script:-true}}" </dev/null >/dev/null 2>&1 &
echo -n $! >"$pid_file"
"#
        ))
    }

    /// Runs it in its place, and waits until it answers.
    pub(crate) fn run(&self) -> Result<()> {
        let program = host().containerd.as_ref().context("no containerd")?;
        let log = File::options().create(true).append(true).open(self.dir.join("log"))?;
        let mut command = if self.shared {
            let mut command = Command::new(&host().exe);
            command.args(["helper", "shared-mounts"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.arg("--config").arg(self.dir.join("config.toml"));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context("cannot start containerd")?;
        *self.child() = Some(child);
        until("containerd answers", || {
            self.runtime.block_on(async { self.client.clone().version(VersionRequest {}).await.is_ok() })
        })
        .with_context(|| self.logged())
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Ends it; its shims and containers go on.
    pub(crate) fn stop(&self) -> Result<()> {
        let Some(mut child) = self.child().take() else { return Ok(()) };
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)?;
        process::reap(&mut child, "containerd ends")?;
        Ok(())
    }

    /// Stops or continues it, without ending it.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.child().as_ref().context("containerd does not run")?.id();
        Ok(kill(Pid::from_raw(pid.cast_signed()), signal)?)
    }

    /// The end of its log.
    pub(crate) fn logged(&self) -> String {
        let text = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(12)..).unwrap_or_default().join("\n")
    }

    /// `runc` as its shims call it: for whoever goes past containerd.
    pub(crate) fn runc(&self) -> Result<Command> {
        let mut command = Command::new(host().runc.as_ref().context("no runc")?);
        command.arg("--root").arg(self.dir.join("runc/k8s.io")).stdin(Stdio::null());
        Ok(command)
    }

    fn import(&mut self) -> Result<()> {
        let (archive, digest) = image::of_busybox(&self.dir.join("image")).context("cannot make an image")?;
        self.load(&archive, "localhost/podtrail/itest")?;
        self.digest = digest;
        Ok(())
    }

    /// Imports an image.
    pub(crate) fn load(&self, archive: &Path, name: &str) -> Result<()> {
        let ctr = host().containerd.as_ref().context("no containerd")?.with_file_name("ctr");
        let mut command = Command::new(ctr);
        command.arg("--address").arg(&self.socket).args(["--namespace", "k8s.io", "images", "import"]);
        command.args(["--snapshotter", "native", "--digests", "--base-name", name]);
        let output = command.arg(archive).output().context("cannot run ctr")?;
        ensure!(output.status.success(), "ctr: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// A call of the kubelet's, which a stopped containerd does not answer.
    fn call<T>(&self, call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>) -> Result<T> {
        let answered = self.runtime.block_on(async { tokio::time::timeout(scaled(PATIENCE), call).await });
        let answer = answered.context("containerd does not answer")?;
        Ok(answer.map_err(|status| anyhow::anyhow!("{}: {}", status.code(), status.message()))?.into_inner())
    }

    pub(crate) fn pod(&self, spec: PodSpec) -> Result<Pod> {
        self.pod_with(spec, LinuxSandboxSecurityContext { namespace_options: Some(namespaces()) })
    }

    pub(crate) fn pod_with(&self, spec: PodSpec, security: LinuxSandboxSecurityContext) -> Result<Pod> {
        let mut labels = spec.labels();
        labels.extend(spec.labels.iter().cloned());
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: spec.name.clone(),
                uid: spec.uid.clone(),
                namespace: spec.namespace.clone(),
                attempt: 0,
            }),
            log_directory: self.dir.join("logs").display().to_string(),
            labels,
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("{}/kubepods/besteffort/pod{}", host().cgroup, spec.uid),
                security_context: Some(security),
            }),
        };
        let request =
            RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: spec.handler.clone() };
        let mut client = self.client.clone();
        let answer = self.call(client.run_pod_sandbox(request)).with_context(|| self.logged())?;
        Ok(Pod { spec, sandbox: answer.pod_sandbox_id, config })
    }

    /// A container of the pod that runs `command`; its id.
    pub(crate) fn container(&self, pod: &Pod, name: &str, command: &[&str]) -> Result<String> {
        let labels = [("io.kubernetes.container.name".to_owned(), name.to_owned())].into();
        let hook = r#"{"exec":{"command":["/bin/sh","-c","sleep 1"]}}"#;
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(ImageSpec { image: IMAGE.to_owned() }),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            labels,
            annotations: [("io.kubernetes.container.preStopHandler".to_owned(), hook.to_owned())].into(),
            linux: Some(LinuxContainerConfig {
                security_context: Some(LinuxContainerSecurityContext {
                    namespace_options: Some(namespaces()),
                    ..LinuxContainerSecurityContext::default()
                }),
                ..LinuxContainerConfig::default()
            }),
            ..ContainerConfig::default()
        };
        self.launch(pod, config)
    }

    /// Any container of the pod; its id.
    pub(crate) fn launch(&self, pod: &Pod, mut config: ContainerConfig) -> Result<String> {
        config.labels.extend(pod.spec.labels());
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.sandbox.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        let mut client = self.client.clone();
        let id = self.call(client.create_container(request)).with_context(|| self.logged())?.container_id;
        let request = StartContainerRequest { container_id: id.clone() };
        self.call(client.start_container(request)).with_context(|| self.logged())?;
        Ok(id)
    }

    /// A pod with one container that waits.
    pub(crate) fn simple(&self, spec: PodSpec) -> Result<(Pod, String)> {
        let pod = self.pod(spec)?;
        let container = self.container(&pod, "web", &["/bin/sleep", "1000000"])?;
        Ok((pod, container))
    }

    pub(crate) fn state(&self, container: &str) -> Result<ContainerState> {
        Ok(self.status(container)?.state())
    }

    pub(crate) fn status(&self, container: &str) -> Result<ContainerStatus> {
        let request = ContainerStatusRequest { container_id: container.to_owned() };
        let answer = self.call(self.client.clone().container_status(request))?;
        answer.status.context("no status")
    }

    /// SIGTERM, and SIGKILL when it has not ended within so many seconds.
    pub(crate) fn stop_container(&self, container: &str, timeout: i64) -> Result<()> {
        let request = StopContainerRequest { container_id: container.to_owned(), timeout };
        self.call(self.client.clone().stop_container(request)).map(|_done| ())
    }

    /// Where its containers' logs are.
    pub(crate) fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    pub(crate) fn remove_container(&self, container: &str) -> Result<()> {
        let request = RemoveContainerRequest { container_id: container.to_owned() };
        self.call(self.client.clone().remove_container(request)).map(|_done| ())
    }

    /// As a probe's, or a lifecycle hook's.
    pub(crate) fn exec_sync(&self, container: &str, cmd: &[&str]) -> Result<ExecSyncResponse> {
        let cmd = cmd.iter().map(|&word| word.to_owned()).collect();
        let request = ExecSyncRequest { container_id: container.to_owned(), cmd, timeout: 60 };
        self.call(self.client.clone().exec_sync(request))
    }

    /// As `kubectl exec`, by WebSocket.
    pub(crate) fn exec(&self, container: &str, cmd: &[&str], tty: bool) -> Result<Streams<'_>> {
        self.stream(container, cmd, true, tty)
    }

    /// The same, perhaps without anything on stdin.
    pub(crate) fn stream(
        &self,
        container: &str,
        cmd: &[&str],
        stdin: bool,
        tty: bool,
    ) -> Result<Streams<'_>> {
        let request = ExecRequest {
            container_id: container.to_owned(),
            cmd: cmd.iter().map(|&word| word.to_owned()).collect(),
            tty,
            stdin,
            stdout: true,
            stderr: !tty,
        };
        let url = self.call(self.client.clone().exec(request))?.url;
        let socket = self.runtime.block_on(async {
            let url = url.replacen("http://", "ws://", 1);
            let mut request = url.as_str().into_client_request()?;
            let protocol = HeaderValue::from_static("v4.channel.k8s.io");
            request.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
            let host = request.uri().authority().context("a URL without a host")?.as_str().to_owned();
            let stream = TcpStream::connect(host).await?;
            Ok::<_, anyhow::Error>(client_async(request, stream).await?.0)
        });
        Ok(Streams { socket: socket.context("cannot stream")?, containerd: self, output: Vec::new() })
    }
}

impl Streams<'_> {
    /// Types.
    pub(crate) fn say(&mut self, text: &str) -> Result<()> {
        let mut bytes = vec![0];
        bytes.extend_from_slice(text.as_bytes());
        Ok(self.containerd.runtime.block_on(self.socket.send(Message::binary(bytes)))?)
    }

    /// Waits until it has printed `text`.
    pub(crate) fn hears(&mut self, text: &str) -> Result<()> {
        let heard = |output: &[u8]| output.windows(text.len()).any(|part| part == text.as_bytes());
        while !heard(&self.output) {
            if self.next()?.is_some() {
                bail!("it ended without saying {text:?}: {:?}", String::from_utf8_lossy(&self.output));
            }
        }
        Ok(())
    }

    /// Waits for its end: what is said of it.
    pub(crate) fn end(&mut self) -> Result<Value> {
        loop {
            if let Some(end) = self.next()? {
                return Ok(end);
            }
        }
    }

    fn next(&mut self) -> Result<Option<Value>> {
        let next = self.socket.next();
        let message =
            self.containerd.runtime.block_on(async { tokio::time::timeout(scaled(PATIENCE), next).await });
        match message.context("nothing came")? {
            Some(Ok(Message::Binary(bytes))) => match bytes.split_first() {
                Some((1 | 2, output)) => self.output.extend_from_slice(output),
                Some((3, end)) if !end.is_empty() => return Ok(Some(serde_json::from_slice(end)?)),
                _ => {}
            },
            Some(Ok(_)) => {}
            Some(Err(e)) => return Err(e.into()),
            None => bail!("the stream ended: {:?}", String::from_utf8_lossy(&self.output)),
        }
        Ok(None)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if let Err(e) = self.remove() {
            eprintln!("cannot remove what containerd left: {e:#}");
        }
    }
}

impl Containerd {
    fn remove(&mut self) -> Result<()> {
        if self.child().is_some() {
            let _ = self.signal(Signal::SIGCONT);
            let mut client = self.client.clone();
            let all = self.call(client.list_pod_sandbox(ListPodSandboxRequest {})).unwrap_or_default();
            for id in all.items.into_iter().map(|sandbox| sandbox.id) {
                let stop = StopPodSandboxRequest { pod_sandbox_id: id.clone() };
                let stopped = self.call(client.stop_pod_sandbox(stop));
                let remove = RemovePodSandboxRequest { pod_sandbox_id: id };
                if let Err(e) = stopped.and(self.call(client.remove_pod_sandbox(remove))) {
                    eprintln!("cannot remove a pod: {e:#}");
                }
            }
        }
        self.stop()?;
        // Shims of which containerd knew nothing any more.
        let mark = self.socket.display().to_string();
        for pid in leftovers::told_of(&mark) {
            let _ = kill(pid, Signal::SIGKILL);
        }
        within(Duration::from_secs(20), "containerd's shims end", || {
            leftovers::told_of(&mark).is_empty().then_some(())
        })?;
        cgroup::remove(&format!("{}/kubepods", host().cgroup))?;
        for socket in entries(&Path::new(SHIMS).join("s")) {
            if !self.before.contains(&socket) {
                let _ = fs::remove_file(socket);
            }
        }
        // Only what is empty goes.
        for dir in ["s", "runc/k8s.io", "runc", "fifo", ""] {
            let _ = fs::remove_dir(Path::new(SHIMS).join(dir));
        }
        if std::env::var_os("PODTRAIL_ITEST_KEEP").is_some() {
            return Ok(());
        }
        leftovers::remove_dir(&self.dir)
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// A network of its own would need plugins that are not there.
pub(crate) fn namespaces() -> NamespaceOption {
    NamespaceOption {
        network: NamespaceMode::Node.into(),
        pid: NamespaceMode::Container.into(),
        ipc: NamespaceMode::Pod.into(),
    }
}

fn client(socket: &Path) -> Client {
    let socket = socket.to_path_buf();
    let connect = move |_: Uri| {
        let socket = socket.clone();
        async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
    };
    let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(service_fn(connect));
    RuntimeServiceClient::new(channel)
}
