//! The Debian package, installed, used, upgraded, removed and purged in a root of its own.

use std::{
    collections::BTreeSet,
    env, fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    cases,
    harness::{Cx, host, process},
};

cases! {
    "packaged",
    Containerd: a_package_comes_and_goes
}

/// The package, as `cargo xtask package` wrote it.
fn package() -> Result<PathBuf> {
    let folder = match env::var_os("PODTRAIL_ITEST_PACKAGE") {
        Some(folder) => PathBuf::from(folder),
        None => host().exe.ancestors().nth(3).context("no target folder")?.join("package"),
    };
    let found = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let found = found.filter(|path| path.extension().is_some_and(|ending| ending == "deb")).max();
    found.with_context(|| format!("no package in {}: cargo xtask package --profile dev", folder.display()))
}

/// A root with a shell and dpkg's database, and nothing else.
struct Root(PathBuf);

impl Root {
    fn new(dir: PathBuf) -> Result<Self> {
        for part in ["bin", "dev", "proc", "sys", "run", "var/lib/dpkg/info", "var/lib/dpkg/updates"] {
            fs::create_dir_all(dir.join(part))?;
        }
        fs::copy(host().busybox.as_ref().context("no busybox")?, dir.join("bin/busybox"))?;
        for applet in ["sh", "rm", "cat"] {
            symlink("busybox", dir.join("bin").join(applet))?;
        }
        fs::write(dir.join("var/lib/dpkg/status"), "")?;
        fs::write(dir.join("dev/null"), "")?;
        Ok(Self(dir))
    }

    fn dpkg(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new("dpkg");
        // Links to libraries are for ldconfig, which is not in that root.
        command.arg(format!("--root={}", self.0.display())).arg("--force-bad-path").args(args);
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
        Ok(String::from_utf8_lossy(&process::succeed(command)?.stdout).into_owned())
    }

    fn install(&self, package: &Path) -> Result<String> {
        self.dpkg(&["--force-confold", "--install", package.to_str().context("no text")?])
    }

    /// Runs one of its programs there; its exit code, and all that it said.
    fn run(&self, program: &str, args: &[&str]) -> Result<(Option<i32>, String)> {
        let output =
            Command::new("chroot").arg(&self.0).arg(program).args(args).stdin(Stdio::null()).output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
    }

    fn has(&self, path: &str) -> bool {
        self.0.join(path).exists()
    }

    /// Files of the package, with their modes.
    fn files(&self) -> Result<Vec<(String, u32)>> {
        let listed = self.dpkg(&["--listfiles", "podtrail"])?;
        let mut files = Vec::new();
        for path in listed
            .lines()
            .map(|line| line.trim_start_matches('/'))
            .filter(|path| *path != "." && !path.is_empty())
        {
            let metadata = fs::symlink_metadata(self.0.join(path)).with_context(|| path.to_owned())?;
            if metadata.is_file() {
                files.push((path.to_owned(), metadata.permissions().mode() & 0o7777));
            }
        }
        Ok(files)
    }
}

/// What a unit says of a key, every time that it does.
fn said<'u>(unit: &'u str, key: &str) -> Vec<&'u str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

fn a_package_comes_and_goes(cx: &Cx) -> Result<()> {
    let package = package()?;
    let root = Root::new(host().dir(&cx.unique("root"))?)?;
    root.install(&package)?;
    let files = root.files()?;
    let programs = ["podtrail-agent", "podtrail-collector", "podtrail"];
    for (path, mode) in &files {
        let program = path.starts_with("usr/bin/");
        ensure!(*mode == if program { 0o755 } else { 0o644 }, "{path} has mode {mode:o}");
    }
    for program in programs {
        let (code, text) = root.run(&format!("/usr/bin/{program}"), &["--version"])?;
        ensure!(code == Some(0) && text.contains(env!("CARGO_PKG_VERSION")), "{program}: {code:?} {text}");
    }
    units(&root)?;

    // The daemons take the configuration that comes with them. Without /proc they can do nothing, and say so.
    let (code, text) = root.run(
        "/usr/bin/podtrail-agent",
        &["run", "--config", "/etc/podtrail/agent.toml", "--metrics-listen", "none"],
    )?;
    ensure!(code == Some(1) && !text.contains("agent.toml"), "{code:?}: {text}");
    let broken = root.0.join("etc/podtrail/broken.toml");
    fs::write(&broken, "clusters = \"x\"\n")?;
    for program in ["agent", "collector"] {
        let (code, text) = root.run(
            &format!("/usr/bin/podtrail-{program}"),
            &["run", "--config", "/etc/podtrail/broken.toml"],
        )?;
        ensure!(code == Some(2) && text.contains("no such key"), "{code:?}: {text}");
    }
    fs::remove_file(&broken)?;

    // What somebody changed stays, over an upgrade and a removal.
    let config = root.0.join("etc/podtrail/agent.toml");
    fs::write(&config, "cluster = \"ours\"\n")?;
    let evidence = root.0.join("var/lib/podtrail/agent/spool");
    fs::create_dir_all(&evidence)?;
    root.install(&package)?;
    ensure!(fs::read_to_string(&config)? == "cluster = \"ours\"\n", "an upgrade put it back");
    root.dpkg(&["--remove", "podtrail"])?;
    for (path, _) in &files {
        ensure!(root.has(path) == path.starts_with("etc/"), "{path} after removal");
    }
    root.dpkg(&["--purge", "podtrail"])?;
    ensure!(!root.has("etc/podtrail") && !root.has("usr/bin"), "a purge left something");
    ensure!(evidence.exists(), "a purge removed what was recorded");
    let status = fs::read_to_string(root.0.join("var/lib/dpkg/status"))?;
    ensure!(!status.contains("podtrail"), "{status}");
    Ok(())
}

/// systemd understands the units, and they give what the manifests give.
fn units(root: &Root) -> Result<()> {
    let folder = root.0.join("lib/systemd/system");
    let read = |name: &str| fs::read_to_string(folder.join(name)).with_context(|| name.to_owned());
    let (agent, collector) = (read("podtrail-agent.service")?, read("podtrail-collector.service")?);
    let [set] = said(&agent, "CapabilityBoundingSet")[..] else { bail!("several sets of capabilities") };
    let set: BTreeSet<_> = set.split(' ').map(|name| name.trim_start_matches("CAP_")).collect();
    ensure!(set == podtrail::probe::capabilities((5, 11)).into_iter().collect(), "the agent's unit: {set:?}");
    // Instead of the capability to raise it.
    ensure!(said(&agent, "LimitMEMLOCK") == ["infinity"], "no memory for maps before Linux 5.11");
    ensure!(said(&collector, "CapabilityBoundingSet") == [""], "the collector's unit has capabilities");
    for unit in [&agent, &collector] {
        let [start] = said(unit, "ExecStart")[..] else { bail!("no ExecStart") };
        let mut words = start.split(' ');
        for path in [words.next(), words.next_back()].into_iter().flatten() {
            ensure!(root.has(path.trim_start_matches('/')), "{start}: there is no {path}");
        }
    }
    // As it reads them on a node, with the programs where they would be; its own units are this machine's.
    for (name, unit) in [("podtrail-agent.service", agent), ("podtrail-collector.service", collector)] {
        let here = unit.replace("ExecStart=/usr", &format!("ExecStart={}/usr", root.0.display()));
        let checked = root.0.join("run").join(name);
        fs::write(&checked, here)?;
        let output = Command::new("systemd-analyze")
            .args(["verify", "--man=no", "--generators=no", "--recursive-errors=no"])
            .arg(&checked)
            .stdin(Stdio::null())
            .output()
            .context("cannot run systemd-analyze")?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let ours: Vec<_> = text.lines().filter(|line| line.contains("podtrail")).collect();
        ensure!(output.status.success() && ours.is_empty(), "{name}: {text}");
    }
    Ok(())
}
