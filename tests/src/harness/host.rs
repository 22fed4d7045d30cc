//! The machine that the tests run on: where its programs are, and how its cgroups are mounted.

use std::{
    env, fs,
    os::unix::{fs::MetadataExt, net::UnixListener},
    path::{Path, PathBuf},
    process,
    sync::OnceLock,
};

use anyhow::{Context, Result, ensure};

use super::{
    Needs,
    cgroup::{self, Hierarchy},
    leftovers,
};

/// Begins the names of everything that a run makes.
pub(crate) const PREFIX: &str = "podtrail-itest-";

/// What is true of this machine during the whole run.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) runc: Option<PathBuf>,
    pub(crate) crun: Option<PathBuf>,
    pub(crate) busybox: Option<PathBuf>,
    pub(crate) containerd: Option<PathBuf>,
    /// this program
    pub(crate) exe: PathBuf,
    /// of this run alone
    pub(crate) dir: PathBuf,
    /// every cgroup hierarchy that is mounted
    pub(crate) hierarchies: Vec<Hierarchy>,
    /// this runc knows no v2 hierarchy beside those of v1
    pub(crate) only_in_v1: bool,
    /// an initramfs cannot be pivoted away from
    pub(crate) no_pivot: bool,
    /// below which all containers of this run are
    pub(crate) cgroup: String,
    /// says to other runs that this one is not over
    _claim: UnixListener,
}

/// This machine.
pub(crate) fn host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(|| Host::look().unwrap_or_else(|e| panic!("cannot make out this machine: {e:#}")))
}

/// Fails where this process sees other mounts than the node's own processes: it then cannot play one of these.
pub(crate) fn has_the_nodes_mounts() -> Result<()> {
    let node = podtrail::container::host_namespaces(&podtrail::container::Host::default());
    let own = super::process::namespace(process::id(), "mnt")?;
    ensure!(
        node.mnt == own,
        "the tests are in mount namespace {own}, the node in {} (by {}): what they run is not on the node. \
         Run them in the node's own",
        node.mnt,
        node.found_by
    );
    Ok(())
}

/// Fails where the root directory is another than the node's own processes': it then cannot be given to a container as theirs.
pub(crate) fn has_the_nodes_root() -> Result<()> {
    let node = podtrail::container::host_namespaces(&podtrail::container::Host::default());
    let own = fs::metadata("/")?;
    ensure!(
        node.root.is_none_or(|root| root.is(Some((own.dev(), own.ino())))),
        "the tests have another root directory than the node (by {}), and mount theirs: run them in the node's own",
        node.found_by
    );
    Ok(())
}

/// Why a case that needs `needs` cannot run here.
pub(crate) fn missing(needs: Needs) -> Option<String> {
    if needs == Needs::Nothing {
        return None;
    }
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root".to_owned());
    }
    let host = host();
    let mut programs = vec![("runc", &host.runc), ("crun", &host.crun), ("busybox", &host.busybox)];
    if needs == Needs::Containerd {
        programs.push(("containerd", &host.containerd));
    }
    for (what, found) in programs {
        if found.is_none() {
            return Some(format!("needs {what}: install it, or set {}", variable(what)));
        }
    }
    host.told_by().err().map(|e| format!("needs cgroups: {e}"))
}

fn variable(program: &str) -> String {
    format!("PODTRAIL_ITEST_{}", program.to_ascii_uppercase())
}

/// Where temporary files of all runs go.
pub(crate) fn tmp() -> PathBuf {
    env::var_os("PODTRAIL_ITEST_TMP").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from)
}

impl Host {
    fn look() -> Result<Self> {
        let name = format!("{PREFIX}{}", process::id());
        let claim = leftovers::claim(&name).context("cannot claim a name")?;
        let dir = tmp().join(&name);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let root_is = fs::read_to_string("/proc/self/mounts")?
            .lines()
            .filter_map(|line| {
                let mut fields = line.split(' ').skip(1);
                (fields.next()? == "/").then(|| fields.next().map(str::to_owned))?
            })
            .next_back();
        let runc = program("runc", &["/usr/sbin/runc", "/usr/bin/runc", "/bin/runc", "/sbin/runc"]);
        let hierarchies = cgroup::hierarchies()?;
        let v1 = hierarchies.iter().any(|hierarchy| !hierarchy.v2);
        Ok(Self {
            only_in_v1: v1 && runc.as_deref().is_some_and(is_old),
            runc,
            crun: program("crun", &["/usr/bin/crun", "/bin/crun", "/usr/sbin/crun"]),
            busybox: program("busybox", &["/usr/bin/busybox", "/bin/busybox"]),
            containerd: program("containerd", &["/usr/bin/containerd", "/usr/local/bin/containerd"]),
            exe: env::current_exe()?,
            dir,
            hierarchies,
            no_pivot: root_is.is_some_and(|fs| fs == "rootfs"),
            cgroup: format!("/{name}"),
            _claim: claim,
        })
    }

    /// The hierarchy whose cgroup ids name containers: v2, where runc puts containers into it, else that of `pids`.
    pub(crate) fn told_by(&self) -> Result<&Hierarchy> {
        let v2 = self.hierarchies.iter().find(|hierarchy| hierarchy.v2);
        let pids = self.hierarchies.iter().find(|hierarchy| hierarchy.pids);
        let found = if self.only_in_v1 { pids.or(v2) } else { v2.or(pids) };
        found.context("neither cgroup v2 nor the pids controller of v1 is mounted")
    }

    /// Whether there is cgroup v2 and nothing else.
    pub(crate) fn v2_only(&self) -> bool {
        matches!(self.hierarchies.as_slice(), [only] if only.v2 && only.mount == Path::new("/sys/fs/cgroup"))
    }

    /// A directory of its own for `name`.
    pub(crate) fn dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        ensure!(!dir.exists(), "{} is there already", dir.display());
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(dir)
    }
}

/// Whether a runc is older than 1.1, which was the first to put containers into a v2 hierarchy beside those of v1.
fn is_old(runc: &Path) -> bool {
    let said = process::Command::new(runc).arg("--version").output().map(|output| output.stdout);
    String::from_utf8_lossy(&said.unwrap_or_default()).starts_with("runc version 1.0")
}

fn program(name: &str, places: &[&str]) -> Option<PathBuf> {
    match env::var_os(variable(name)) {
        Some(path) => Some(PathBuf::from(path)).filter(|path| path.exists()),
        None => places.iter().map(Path::new).find(|path| path.exists()).map(Path::to_path_buf),
    }
}
