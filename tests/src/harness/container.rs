//! Containers made from nothing: a root of busybox and this program, a `config.json`, a runtime.

use std::{
    fs,
    fs::File,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    mount::{MsFlags, mount},
    sys::stat::Mode,
    unistd::mkfifo,
};
use serde_json::{Value, json};

use super::{cgroup, exec::Exec, host, leftovers, process, until};

/// Where this program is in a container.
pub(crate) const ITEST: &str = "/bin/itest";

/// Applets that get a name of their own in a container.
const APPLETS: [&str; 18] = [
    "sh", "ls", "cat", "echo", "true", "false", "sleep", "kill", "cp", "rm", "mkdir", "nsenter", "xargs",
    "id", "chmod", "env", "ln", "tar",
];

/// How a container is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runtime {
    /// runc, with the cgroups as they are mounted here
    Runc,
    /// runc, in a view where there is only cgroup v2
    RuncV2,
    /// crun, in a view where there is only cgroup v2: it refuses both at once. Where containers are told by v1, in v1
    Crun,
}

impl Runtime {
    /// Its program's name, and the first two numbers of its version.
    pub(crate) fn version(self) -> Result<(&'static str, (u32, u32))> {
        let host = host();
        let (name, program) = match self {
            Self::Runc | Self::RuncV2 => ("runc", &host.runc),
            Self::Crun => ("crun", &host.crun),
        };
        let program = program.as_ref().with_context(|| format!("no {name}"))?;
        let said = String::from_utf8(Command::new(program).arg("--version").output()?.stdout)?;
        let version = said.split_whitespace().nth(2).unwrap_or_default();
        let mut numbers = version.split(['.', '~', '-', '+']).map_while(|number| number.parse().ok());
        let version = numbers.next().zip(numbers.next());
        Ok((name, version.with_context(|| format!("{name} says of its version: {said}"))?))
    }

    /// Whether it has cgroup v2 and nothing else before it.
    pub(crate) fn sees_v2_only(self) -> Result<bool> {
        let host = host();
        Ok(match self {
            Self::Runc => host.v2_only(),
            Self::RuncV2 | Self::Crun => host.told_by()?.v2,
        })
    }

    /// `args`, to be given to this runtime.
    fn command(self, state: &Path, args: &[&str]) -> Result<Command> {
        let host = host();
        let (name, program) = match self {
            Self::Runc | Self::RuncV2 => ("runc", &host.runc),
            Self::Crun => ("crun", &host.crun),
        };
        let program = program.as_ref().with_context(|| format!("no {name}"))?;
        let mut command = match self {
            Self::Runc => Command::new(program),
            Self::RuncV2 | Self::Crun if host.v2_only() => Command::new(program),
            // What is in v2 alone is found on machines where others are too.
            Self::Crun if !host.told_by()?.v2 => Command::new(program),
            Self::RuncV2 | Self::Crun => {
                let mut command = Command::new(&host.exe);
                command.args(["helper", "v2-only"]).arg(program);
                command
            }
        };
        command.arg("--root").arg(state).args(args);
        Ok(command)
    }
}

/// What a container shall be like.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) runtime: Runtime,
    pub(crate) init: Vec<String>,
    /// variables of its init besides
    pub(crate) environment: Vec<String>,
    /// its cgroup, below the run's; default: its id
    pub(crate) cgroup: Option<String>,
    /// namespaces of its own; others are the host's
    pub(crate) namespaces: Vec<&'static str>,
    /// a pid namespace to share: a process's
    pub(crate) pid_of: Option<u32>,
    /// root inside is this user of the host
    pub(crate) mapped_root: Option<u32>,
    /// the v2 hierarchy, writable, at `/cg`
    pub(crate) cgroups_inside: bool,
    /// its root is an overlay, with the image below
    pub(crate) overlay: bool,
    /// everything that is mounted on the host, at this place
    pub(crate) host_at: Option<&'static str>,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            runtime: Runtime::Runc,
            init: vec![ITEST.to_owned(), "payload".to_owned(), "init".to_owned()],
            environment: Vec::new(),
            cgroup: None,
            namespaces: vec!["pid", "mount", "ipc", "uts", "network"],
            pid_of: None,
            mapped_root: None,
            cgroups_inside: false,
            overlay: false,
            host_at: None,
        }
    }
}

/// A running container, gone with all it had when dropped.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) runtime: Runtime,
    /// of its init, on the host
    pub(crate) init: u32,
    /// its cgroup's path
    pub(crate) cgroup: String,
    pub(crate) cgroup_id: u64,
    dir: PathBuf,
    state: PathBuf,
}

impl Spec {
    /// The same with another runtime.
    pub(crate) fn by(runtime: Runtime) -> Self {
        Self { runtime, ..Self::default() }
    }

    /// Makes it and starts it; `name` must not be used twice.
    pub(crate) fn start(self, name: &str) -> Result<Container> {
        let id = fresh_id();
        let dir = host().dir(name)?;
        let cgroup = format!("{}/{}", host().cgroup, self.cgroup.as_ref().unwrap_or(&id));
        // From here on, what is made is removed, whether or not the rest succeeds.
        let mut container = Container {
            runtime: self.runtime,
            init: 0,
            cgroup_id: 0,
            state: dir.join("state"),
            id,
            cgroup,
            dir,
        };
        container.make_root(self.overlay).context("cannot make the container's root")?;
        let config = self.config(&container)?;
        fs::write(container.dir.join("bundle/config.json"), serde_json::to_vec_pretty(&config)?)?;
        container.run().with_context(|| format!("cannot start container {name}"))?;
        Ok(container)
    }

    fn config(&self, container: &Container) -> Result<Value> {
        let mut mounts = vec![
            json!({"destination": "/proc", "type": "proc", "source": "proc"}),
            json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]}),
            json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                   "options": ["newinstance", "ptmxmode=0666", "mode=0620"]}),
            json!({"destination": ITEST, "type": "bind", "source": host().exe, "options": ["bind", "ro"]}),
        ];
        if self.cgroups_inside {
            let told_by = &host().told_by()?.mount;
            let source = if self.runtime.sees_v2_only()? { Path::new("/sys/fs/cgroup") } else { told_by };
            mounts.push(
                json!({"destination": "/cg", "type": "bind", "source": source, "options": ["bind", "rw"]}),
            );
        }
        if let Some(place) = self.host_at {
            let options = ["rbind", "rprivate"];
            mounts.push(json!({"destination": place, "type": "bind", "source": "/", "options": options}));
        }
        let mut namespaces: Vec<Value> = self.namespaces.iter().map(|kind| json!({"type": kind})).collect();
        if let Some(pid) = self.pid_of {
            namespaces.push(json!({"type": "pid", "path": format!("/proc/{pid}/ns/pid")}));
        }
        let mut linux = json!({"cgroupsPath": container.cgroup});
        if let Some(uid) = self.mapped_root {
            let map = json!([{"containerID": 0, "hostID": uid, "size": 65536}]);
            linux["uidMappings"] = map.clone();
            linux["gidMappings"] = map;
            namespaces.push(json!({"type": "user"}));
        }
        linux["namespaces"] = Value::Array(namespaces);
        let mut config = json!({
            "ociVersion": "1.0.2",
            "process": process_of(&self.init, &self.environment, false, 0),
            "root": {"path": "rootfs", "readonly": false},
            "mounts": mounts,
            "linux": linux,
        });
        if self.namespaces.contains(&"uts") {
            config["hostname"] = Value::from("itest");
        }
        Ok(config)
    }
}

/// The `process` of a configuration.
pub(crate) fn process_of(args: &[String], environment: &[String], terminal: bool, uid: u32) -> Value {
    let capabilities = capabilities();
    let mut variables = vec!["PATH=/bin".to_owned(), "TERM=dumb".to_owned()];
    variables.extend_from_slice(environment);
    json!({
        "terminal": terminal,
        "user": {"uid": uid, "gid": uid},
        "args": args,
        "env": variables,
        "cwd": "/",
        "noNewPrivileges": false,
        "capabilities": {
            "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
        },
    })
}

/// Those that this process has itself: a runtime cannot give others.
fn capabilities() -> Vec<&'static str> {
    const KNOWN: [(u32, &str); 13] = [
        (0, "CAP_CHOWN"),
        (1, "CAP_DAC_OVERRIDE"),
        (3, "CAP_FOWNER"),
        (4, "CAP_FSETID"),
        (5, "CAP_KILL"),
        (6, "CAP_SETGID"),
        (7, "CAP_SETUID"),
        (8, "CAP_SETPCAP"),
        (18, "CAP_SYS_CHROOT"),
        (19, "CAP_SYS_PTRACE"),
        (21, "CAP_SYS_ADMIN"),
        (27, "CAP_MKNOD"),
        (12, "CAP_NET_ADMIN"),
    ];
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let own = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let own = own.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    KNOWN.into_iter().filter(|(bit, _)| own & (1 << bit) != 0).map(|(_, name)| name).collect()
}

/// 64 hexadecimal digits that no other container of any run has.
pub(crate) fn fresh_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    // What differs comes first: people and tables show the beginning.
    let id = format!("{:032x}{:016x}{count:016x}", now.as_nanos(), std::process::id());
    id.chars().rev().collect()
}

/// As Kubernetes gives them to pods and requests.
pub(crate) fn uuid() -> String {
    let id = format!("{:032x}", fastrand::u128(..));
    let part = |from, to| id.get(from..to).unwrap_or_default();
    [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
}

impl Container {
    /// A command to be executed in it.
    pub(crate) fn exec(&self, args: &[&str]) -> Exec<'_> {
        Exec::new(self, args)
    }

    /// The same, of shell text.
    pub(crate) fn sh(&self, script: &str) -> Exec<'_> {
        self.exec(&["/bin/sh", "-c", script])
    }

    /// Where `path` of the container is on the host.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.rootfs().join(path.trim_start_matches('/'))
    }

    /// A directory of its own on the host.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes `/name`, a pipe that a program inside waits at until [`Container::tell`].
    pub(crate) fn gate(&self, name: &str) -> Result<()> {
        mkfifo(&self.path(name), Mode::from_bits_truncate(0o666))
            .with_context(|| format!("cannot make {name}"))?;
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o666))?;
        Ok(())
    }

    /// Writes a line to a gate; waits for somebody to read it.
    pub(crate) fn tell(&self, name: &str, line: &str) -> Result<()> {
        process::tell(&self.path(name), line)
    }

    /// A gate that stays open, once somebody reads it, for as many lines as there are to say.
    pub(crate) fn speak(&self, name: &str) -> Result<File> {
        process::speak(&self.path(name))
    }

    /// The line that a program inside writes to a gate.
    pub(crate) fn hear(&self, name: &str) -> Result<String> {
        process::hear(&self.path(name))
    }

    /// A call of its runtime.
    pub(crate) fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = self.runtime.command(&self.state, args)?;
        command.stdin(Stdio::null());
        Ok(command)
    }

    fn rootfs(&self) -> PathBuf {
        self.dir.join("bundle/rootfs")
    }

    fn make_root(&self, overlay: bool) -> Result<()> {
        let rootfs = self.rootfs();
        fs::create_dir_all(&rootfs)?;
        fs::create_dir_all(&self.state)?;
        let image = if overlay {
            let layers = self.dir.join("layers");
            fs::create_dir_all(&layers)?;
            // An upper layer wants a filesystem with extended attributes.
            mount(Some("tmpfs"), &layers, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
            for layer in ["lower", "upper", "work"] {
                fs::create_dir(layers.join(layer))?;
            }
            layers.join("lower")
        } else {
            rootfs.clone()
        };
        // runc 1.0 looks at /sys/fs/cgroup from inside, and panics where it is not.
        for dir in ["bin", "proc", "dev", "tmp", "cg", "sys/fs/cgroup"] {
            fs::create_dir_all(image.join(dir))?;
        }
        fs::set_permissions(image.join("tmp"), fs::Permissions::from_mode(0o1777))?;
        let busybox = host().busybox.as_ref().context("no busybox")?;
        fs::copy(busybox, image.join("bin/busybox")).context("cannot copy busybox")?;
        fs::set_permissions(image.join("bin/busybox"), fs::Permissions::from_mode(0o755))?;
        File::create(image.join(ITEST.trim_start_matches('/')))?;
        for applet in APPLETS {
            symlink("busybox", image.join("bin").join(applet))?;
        }
        if overlay {
            let layers = self.dir.join("layers");
            let [lower, upper, work] = ["lower", "upper", "work"].map(|layer| layers.join(layer));
            let options = format!(
                "lowerdir={},upperdir={},workdir={}",
                lower.display(),
                upper.display(),
                work.display()
            );
            mount(Some("overlay"), &rootfs, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
                .context("cannot mount an overlay")?;
        }
        Ok(())
    }

    fn run(&mut self) -> Result<()> {
        let pid_file = self.dir.join("init.pid");
        let log = self.dir.join("init.log");
        let output = File::create(&log)?;
        let mut command = self.command(&["run", "--detach"])?;
        if host().no_pivot {
            command.arg("--no-pivot");
        }
        command.arg("--bundle").arg(self.dir.join("bundle")).arg("--pid-file").arg(&pid_file).arg(&self.id);
        let status = command.stdout(output.try_clone()?).stderr(output).status()?;
        ensure!(status.success(), "{status}: {}", fs::read_to_string(&log)?.trim());
        self.init = fs::read_to_string(&pid_file)?.trim().parse().context("the pid file's content")?;
        self.cgroup_id = cgroup::id(&self.cgroup)?;
        // The runtime is done before its last stage becomes the container's init, and the name and the executable
        // change before the agent is told: what sleeps has come through its exec.
        until("the container's init runs", || match process::state(self.init) {
            Some('S') => !is_runtime(self.init),
            Some('R' | 'D') => false,
            _ => true,
        })?;
        if process::comm(self.init).is_none() {
            bail!("its init ended at once: {}", fs::read_to_string(&log)?.trim());
        }
        Ok(())
    }

    fn remove(&self) -> Result<()> {
        if let Ok(mut delete) = self.command(&["delete", "--force", &self.id]) {
            delete.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        }
        cgroup::remove(&self.cgroup)?;
        leftovers::remove_dir(&self.dir)
    }
}

/// Whether process `pid` is still the runtime, whose sealed copy can have any name.
fn is_runtime(pid: u32) -> bool {
    let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    !exe.file_name().is_some_and(|name| name == "busybox" || name == "itest")
}

impl Drop for Container {
    fn drop(&mut self) {
        if let Err(e) = self.remove() {
            eprintln!("cannot remove container {}: {e:#}", self.id);
        }
    }
}
