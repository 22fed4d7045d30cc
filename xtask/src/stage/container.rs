//! A container made from nothing but busybox, run by runc.

use std::{
    fs,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{CGROUP2_SUPER_MAGIC, statfs},
};
use serde_json::json;

use super::{Shell, Stage};
use crate::sh::{Cmd, cmd};

/// A running container.
#[derive(Debug)]
pub(crate) struct Container {
    id: String,
    dir: PathBuf,
    pid: u32,
}

impl Container {
    /// Starts one whose own work is `workload`.
    pub(crate) fn start(stage: &Stage, workload: &[&str]) -> Result<Self> {
        let (id, run) = prepare(stage, workload, &[])?;
        run.arg("--detach").arg(&id).quiet().run()?;
        Self::started(stage, id)
    }

    /// Starts one whose own work is what is typed into its shell. `files` are put into its image.
    pub(crate) fn start_shell(stage: &Stage, files: &[(&Path, &str)]) -> Result<(Self, Shell)> {
        let (id, run) = prepare(stage, &["/bin/sh"], files)?;
        let mut shell = Shell::on_pipes(run.arg(&id).into_std())?;
        shell.line(stage, ":")?;
        Ok((Self::started(stage, id)?, shell))
    }

    fn started(stage: &Stage, id: String) -> Result<Self> {
        let file = stage.dir().join("bundle/pid");
        let pid = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let pid = pid.trim().parse().with_context(|| format!("runc wrote no process id: {pid}"))?;
        Ok(Self { id, dir: stage.dir().to_path_buf(), pid })
    }

    /// Its id: 64 hexadecimal digits, as the usual runtimes have them.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Its first process, as the host sees it.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// `runc exec` into it.
    pub(crate) fn exec(&self, flags: &[&str], command: &[&str]) -> Command {
        runc(&self.dir).arg("exec").args(flags).arg(&self.id).args(command).into_std()
    }
}

/// Makes a bundle; returns the container's id, and `runc run` short of it.
fn prepare(stage: &Stage, workload: &[&str], files: &[(&Path, &str)]) -> Result<(String, Cmd)> {
    let id = random_id()?;
    let bundle = stage.dir().join("bundle");
    let image = bundle.join("image");
    fill(&image, files)?;
    let root = layered(&bundle, &image)?;
    let file = bundle.join("config.json");
    let config = config(stage.name, &id, &root, workload);
    fs::write(&file, config.to_string()).with_context(|| format!("cannot write {}", file.display()))?;
    let run =
        runc(stage.dir()).args(["run", "--bundle"]).arg(&bundle).arg("--pid-file").arg(bundle.join("pid"));
    Ok((id, run))
}

/// runc, its state in the stage's folder. Where cgroups are hybrid it sees version 2 alone, so that nothing is made
/// in anybody's version 1 hierarchies.
pub(super) fn runc(dir: &Path) -> Cmd {
    let v2 = statfs("/sys/fs/cgroup").is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC);
    let runc = if v2 {
        cmd("runc")
    } else {
        let view = "mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec \"$@\"";
        cmd("unshare").args(["--mount", "--", "sh", "-c", view, "sh", "runc"])
    };
    runc.arg("--root").arg(dir.join("runc"))
}

fn random_id() -> Result<String> {
    let mut bytes = [0; 32];
    let mut random = fs::File::open("/dev/urandom").context("cannot open /dev/urandom")?;
    random.read_exact(&mut bytes).context("cannot read /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// An image: busybox under each of its names, and `files`. The names are hard links, so that the kernel sees each as a
/// program of its own.
fn fill(image: &Path, files: &[(&Path, &str)]) -> Result<()> {
    for folder in ["bin", "dev", "etc", "proc", "root", "sys", "tmp"] {
        let folder = image.join(folder);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let busybox = crate::root::find("busybox").context("busybox is missing: run `cargo xtask setup`")?;
    copy(&busybox, &image.join("bin/busybox"))?;
    let listed = cmd(&busybox).arg("--list").peek()?.unwrap_or_default();
    for applet in listed.lines().filter(|name| *name != "busybox") {
        let link = image.join("bin").join(applet);
        fs::hard_link(image.join("bin/busybox"), &link)
            .with_context(|| format!("cannot make {}", link.display()))?;
    }
    for (file, name) in files {
        copy(file, &image.join(name))?;
    }
    for (name, text) in [("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"), ("etc/shadow", "root:*:::::::\n")]
    {
        fs::write(image.join(name), text).with_context(|| format!("cannot write {name}"))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot set {}", to.display()))
}

/// The image with a writable layer over it, as the usual runtimes have it; the image itself where the kernel has no
/// overlay filesystem.
fn layered(bundle: &Path, image: &Path) -> Result<PathBuf> {
    let [upper, work, root] = ["upper", "work", "root"].map(|name| bundle.join(name));
    for folder in [&upper, &work, &root] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let layers =
        format!("lowerdir={},upperdir={},workdir={}", image.display(), upper.display(), work.display());
    match mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(layers.as_str())) {
        Ok(()) => Ok(root),
        Err(nix::errno::Errno::ENODEV | nix::errno::Errno::EINVAL) => {
            eprintln!("note: no overlay filesystem here: files are not told from the image's");
            Ok(image.to_path_buf())
        }
        Err(error) => bail!("cannot mount an overlay at {}: {error}", root.display()),
    }
}

fn config(name: &str, id: &str, root: &Path, workload: &[&str]) -> serde_json::Value {
    let namespaces = ["pid", "mount", "ipc", "uts", "network"].map(|kind| json!({ "type": kind }));
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": workload,
            "env": ["PATH=/bin", "TERM=dumb", "HOME=/root"],
            "cwd": "/",
        },
        "root": { "path": root },
        "hostname": "payments-0",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"] },
        ],
        "linux": {
            "cgroupsPath": format!("/{name}/{id}"),
            "namespaces": namespaces,
        },
    })
}
