//! The cgroup hierarchy that containers are told by: where it is mounted, and all cgroups in it.
//!
//! On v2 it is that one, on v1 that of the `pids` controller, else of `memory`. Hybrid machines have both, and the runtime
//! decides: runc before 1.1 leaves what it executes in the v2 cgroup that it was called in (libcontainer/cgroups/fs), so
//! the hierarchy that more containers are in is taken, v2 where they are as many (docs/decisions/0027). A cgroup's id is the inode number of its folder: kernfs gives both the same number on 64-bit machines
//! (fs/kernfs/dir.c, `kernfs_ino`), and podtrail runs on no others. Only reads; a cgroup that goes meanwhile is
//! left out.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use procfs::process::MountInfo;

use super::host::Host;

/// Controllers whose v1 hierarchy every container is in, best first.
const LEGACY_CONTROLLERS: [&str; 2] = ["pids", "memory"];

/// Cgroups that one walk finds at most.
const WALK_MAX: usize = 262_144;

/// Bytes of a file of `/proc` that are read at most.
const FILE_MAX: usize = 4 << 20;

/// Inode number of the root of every cgroup hierarchy.
const ROOT_INODE: u64 = 1;

#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("{path} cannot be read: {source}; is the node's /proc mounted there?")]
    Mounts { path: PathBuf, source: io::Error },
    #[error(
        "no cgroup hierarchy is mounted{place}: mount cgroup2, or cgroup v1 with the pids or memory controller"
    )]
    None { place: String },
    #[error("the cgroups at {path} cannot be read: {source}")]
    Walk { path: PathBuf, source: io::Error },
    #[error(
        "{path} does not name the hierarchy of the {controller} controller; is the node's /proc mounted there?"
    )]
    Hierarchy { path: PathBuf, controller: String },
}

/// Which cgroups the machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// v2 alone
    Unified,
    /// v1 controllers, and v2 without any: containers are in both
    Hybrid,
    /// v1 alone, or a v2 that nothing is in
    Legacy,
}

impl Mode {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unified => "v2",
            Self::Hybrid => "hybrid",
            Self::Legacy => "v1",
        }
    }
}

/// The hierarchy that containers are told by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    pub mode: Mode,
    pub mount: PathBuf,
    /// v1, and hybrid where containers are in v1 alone: the controller whose `css_set.subsys` entry has the ids; `None`: the default hierarchy has them
    pub controller: Option<String>,
    /// as the `cgroup_*` tracepoints have it; the default hierarchy is 0
    pub id: u32,
    /// the mount shows the whole hierarchy. Else the agent sees a part of the node's cgroups only
    pub whole: bool,
    /// what the mount's root is called in `/proc/PID/cgroup`
    root: Vec<u8>,
    /// where the agent's own cgroup namespace begins, if that is below the mount's root
    namespace: Option<Vec<u8>>,
}

/// A cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub id: u64,
    /// 0: it is the root
    pub parent: u64,
    /// from the hierarchy's root, which is `/`
    pub path: Vec<u8>,
    /// the container that it is or is below of; `None`: none, or nobody has looked yet
    pub container: Option<u64>,
}

/// All cgroups, parents before their children.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    pub cgroups: Vec<Found>,
    /// folders that could not be read, or were too many
    pub skipped: u64,
}

struct Mount {
    root: Vec<u8>,
    point: PathBuf,
    v2: bool,
    controllers: HashSet<String>,
}

impl Hierarchy {
    /// Finds it among the agent's own mounts.
    pub fn find(host: &Host) -> Result<Self, CgroupError> {
        let mounts = mounts(host)?;
        let legacy = LEGACY_CONTROLLERS.iter().find_map(|name| {
            Some((*name, mounts.iter().find(|mount| !mount.v2 && mount.controllers.contains(*name))?))
        });
        let any_legacy = mounts.iter().any(|mount| !mount.v2 && !mount.controllers.is_empty());
        // Some programs mount cgroup2 for themselves on machines whose containers are all in v1.
        let unified = mounts.iter().find(|mount| mount.v2 && (!any_legacy || is_used(&mount.point)));
        // What the runtime does shows in the containers that are there; an agent in a pod is in one itself.
        let unified = match (unified, &legacy) {
            (Some(_), Some((controller, _))) if any_legacy && more_in_legacy(host, controller) => None,
            (unified, _) => unified,
        };
        let hybrid = any_legacy && mounts.iter().any(|mount| mount.v2 && is_used(&mount.point));
        match (unified, legacy) {
            (Some(mount), _) => {
                let mode = if any_legacy { Mode::Hybrid } else { Mode::Unified };
                Ok(Self::at(host, mode, mount, None, 0))
            }
            (None, Some((controller, mount))) => {
                let mode = if hybrid { Mode::Hybrid } else { Mode::Legacy };
                Ok(Self::at(host, mode, mount, Some(controller), legacy_id(host, controller)?))
            }
            (None, None) => Err(CgroupError::None {
                place: host.cgroup.as_ref().map(|at| format!(" at {}", at.display())).unwrap_or_default(),
            }),
        }
    }

    fn at(host: &Host, mode: Mode, mount: &Mount, controller: Option<&str>, id: u32) -> Self {
        let levels = levels_up(&mount.root);
        let namespace = levels.and_then(|levels| own_namespace(host, &mount.point, controller, levels));
        Self {
            mode,
            mount: mount.point.clone(),
            controller: controller.map(str::to_owned),
            id,
            // Where the agent cannot tell where it is itself, it cannot tell where others are.
            whole: is_whole(&mount.point) && levels.is_some() == namespace.is_some(),
            root: mount.root.clone(),
            namespace,
        }
    }

    /// All cgroups, as they are now.
    pub fn walk(&self) -> Result<Walk, CgroupError> {
        let error = |source| CgroupError::Walk { path: self.mount.clone(), source };
        let root = fs::symlink_metadata(&self.mount).map_err(error)?.ino();
        let mut walk = Walk::default();
        walk.cgroups.push(Found { id: root, parent: 0, path: b"/".to_vec(), container: None });
        let mut seen = HashSet::from([root]);
        let mut next = 0;
        while let Some(Found { id: parent, path, .. }) = walk.cgroups.get(next).cloned() {
            next += 1;
            let entries = match fs::read_dir(self.folder(&path)) {
                Ok(entries) => entries,
                Err(source) if next == 1 => return Err(error(source)),
                Err(source) => {
                    walk.skipped += u64::from(source.kind() != io::ErrorKind::NotFound);
                    continue;
                }
            };
            for entry in entries.flatten() {
                if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                // Not the entry's own: d_ino is that of what it may be mounted over.
                let Ok(id) = entry.metadata().map(|metadata| metadata.ino()) else { continue };
                if walk.cgroups.len() >= WALK_MAX {
                    walk.skipped += 1;
                } else if seen.insert(id) {
                    let path = join(&path, entry.file_name().as_bytes());
                    walk.cgroups.push(Found { id, parent, path, container: None });
                }
            }
        }
        Ok(walk)
    }

    /// The id of the cgroup at a path of this hierarchy.
    #[must_use]
    pub fn id_of(&self, path: &[u8]) -> Option<u64> {
        if path.split(|c| *c == b'/').any(|component| component == b"..") {
            return None;
        }
        fs::symlink_metadata(self.folder(path)).ok().map(|metadata| metadata.ino())
    }

    /// The path, in this hierarchy, that `/proc/PID/cgroup` tells. `None`: it is in none that the mount shows, or its
    /// cgroup is gone.
    #[must_use]
    pub fn path_in(&self, proc_cgroup: &[u8]) -> Option<Vec<u8>> {
        let path = proc_cgroup.split(|c| *c == b'\n').find_map(|line| self.path_in_line(line))?;
        if path.ends_with(b" (deleted)") {
            return None;
        }
        if let Some(namespace) = &self.namespace {
            return seen_from(namespace, path);
        }
        let below = match self.root.as_slice() {
            b"/" => path,
            root => path.strip_prefix(root)?,
        };
        match below {
            b"" => Some(b"/".to_vec()),
            [b'/', ..] => Some(below.to_vec()),
            _ => None,
        }
    }

    fn path_in_line<'a>(&self, line: &'a [u8]) -> Option<&'a [u8]> {
        path_of(line, self.controller.as_deref())
    }

    fn folder(&self, path: &[u8]) -> PathBuf {
        let below = path.strip_prefix(b"/").unwrap_or(path);
        if below.is_empty() {
            self.mount.clone()
        } else {
            self.mount.join(Path::new(std::ffi::OsStr::from_bytes(below)))
        }
    }
}

/// The path that a line of `/proc/PID/cgroup` has, if it is of that v1 controller, or, for `None`, of v2.
fn path_of<'a>(line: &'a [u8], controller: Option<&str>) -> Option<&'a [u8]> {
    let mut fields = line.splitn(3, |c| *c == b':');
    let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let ours = match controller {
        None => id == b"0" && controllers.is_empty(),
        Some(controller) => controllers.split(|c| *c == b',').any(|name| name == controller.as_bytes()),
    };
    ours.then_some(path)
}

/// How many levels the root of a mount is above the agent's cgroup namespace. `None`: none, or it is not above it.
fn levels_up(root: &[u8]) -> Option<usize> {
    let mut components = root.split(|c| *c == b'/').skip(1);
    components.all(|component| component == b"..").then_some(root.len() / 3)
}

/// Where the agent's own cgroup namespace begins, `levels` below the mount's root. `/proc` tells cgroups from there on, and of
/// what is above it how high it is, but no name: so it is found by the agent's own cgroup, which has it among its processes.
fn own_namespace(host: &Host, mount: &Path, controller: Option<&str>, levels: usize) -> Option<Vec<u8>> {
    let bytes = super::process::read_bounded(&host.proc.join("self/cgroup"), FILE_MAX).ok()?;
    let own = bytes.split(|c| *c == b'\n').find_map(|line| path_of(line, controller))?;
    let own = own.strip_suffix(b"/").unwrap_or(own);
    let depth = levels + own.iter().filter(|c| **c == b'/').count();
    let pid = std::process::id().to_string();
    let mut todo = vec![(Vec::new(), 0)];
    let mut seen = 0;
    while let Some((path, at)) = todo.pop() {
        let folder = mount.join(std::ffi::OsStr::from_bytes(path.strip_prefix(b"/").unwrap_or(&path)));
        if at == depth {
            let procs = super::process::read_bounded(&folder.join("cgroup.procs"), FILE_MAX);
            let here = |procs: Vec<u8>| procs.split(|c| *c == b'\n').any(|line| line == pid.as_bytes());
            if path.ends_with(own) && procs.is_ok_and(here) {
                return path.strip_suffix(own).map(<[u8]>::to_vec);
            }
            continue;
        }
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if seen < WALK_MAX && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                seen += 1;
                todo.push((join(&path, entry.file_name().as_bytes()), at + 1));
            }
        }
    }
    None
}

/// The path from the mount's root on of what `/proc` calls `told` in the cgroup namespace that begins at `namespace`: `/..`
/// is a level up (fs/kernfs/dir.c, `kernfs_path_from_node`).
fn seen_from(namespace: &[u8], told: &[u8]) -> Option<Vec<u8>> {
    let (mut above, mut rest) = (namespace, told);
    while let Some(after) = rest.strip_prefix(b"/..").filter(|after| matches!(after, [] | [b'/', ..])) {
        above = above.get(..above.iter().rposition(|c| *c == b'/')?)?;
        rest = after;
    }
    let path = [above, rest.strip_suffix(b"/").unwrap_or(rest)].concat();
    Some(if path.is_empty() { b"/".to_vec() } else { path })
}

/// Whether the processes of this machine are in more containers by that v1 controller than by v2.
fn more_in_legacy(host: &Host, controller: &str) -> bool {
    let (mut legacy, mut unified) = (HashSet::new(), HashSet::new());
    for pid in super::process::pids(host).unwrap_or_default() {
        let Ok(bytes) = super::process::read_bounded(&host.process(pid).join("cgroup"), FILE_MAX) else {
            continue;
        };
        for line in bytes.split(|c| *c == b'\n') {
            let id = |path| super::name::parse(path).map(|name| name.id);
            legacy.extend(path_of(line, Some(controller)).and_then(id));
            unified.extend(path_of(line, None).and_then(id));
        }
    }
    legacy.len() > unified.len()
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    let mut joined = path.strip_suffix(b"/").unwrap_or(path).to_vec();
    joined.push(b'/');
    joined.extend_from_slice(name);
    joined
}

/// The cgroup mounts that the agent sees, whole ones first, at or below `host.cgroup` where it is given.
fn mounts(host: &Host) -> Result<Vec<Mount>, CgroupError> {
    let path = host.proc.join("self/mountinfo");
    let bytes = super::process::read_bounded(&path, FILE_MAX)
        .map_err(|source| CgroupError::Mounts { path: path.clone(), source })?;
    let mut mounts: Vec<Mount> = bytes
        .split(|c| *c == b'\n')
        .filter_map(mount)
        .filter(|mount| host.cgroup.as_ref().is_none_or(|at| mount.point.starts_with(at)))
        // One that another is mounted over is still listed.
        .filter(|mount| mount.point.is_dir())
        .collect();
    mounts.sort_by_key(|mount| !is_whole(&mount.point));
    Ok(mounts)
}

fn mount(line: &[u8]) -> Option<Mount> {
    // Other mounts' lines may be anything that their owners liked.
    let text = str::from_utf8(line).ok()?;
    if !text.contains(" - cgroup") {
        return None;
    }
    let info = MountInfo::from_line(text).ok()?;
    let v2 = match info.fs_type.as_str() {
        "cgroup2" => true,
        "cgroup" => false,
        _ => return None,
    };
    Some(Mount {
        root: unescape(info.root.as_bytes()),
        point: PathBuf::from(std::ffi::OsString::from_vec(unescape(info.mount_point.as_os_str().as_bytes()))),
        v2,
        controllers: info
            .super_options
            .into_keys()
            .filter(|name| !matches!(name.as_str(), "rw" | "ro"))
            .collect(),
    })
}

/// Undoes the kernel's `\040` and its like (fs/proc_namespace.c, `mangle`).
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let digits =
            after.get(..3).filter(|_| *first == b'\\').and_then(|digits| str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    plain
}

fn is_whole(mount: &Path) -> bool {
    fs::symlink_metadata(mount).is_ok_and(|metadata| metadata.ino() == ROOT_INODE)
}

/// Whether anybody puts processes into a v2 hierarchy beside v1 ones: it is where systemd and runc expect it, or
/// has cgroups.
fn is_used(mount: &Path) -> bool {
    mount.file_name().is_some_and(|name| name == "unified")
        || fs::read_dir(mount).is_ok_and(|entries| {
            entries.flatten().any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        })
}

fn legacy_id(host: &Host, controller: &str) -> Result<u32, CgroupError> {
    let path = host.proc.join("self/cgroup");
    let bytes = super::process::read_bounded(&path, FILE_MAX)
        .map_err(|source| CgroupError::Mounts { path: path.clone(), source })?;
    bytes
        .split(|c| *c == b'\n')
        .filter_map(|line| str::from_utf8(line).ok())
        .find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let id = fields.next()?.parse().ok()?;
            fields.next()?.split(',').any(|name| name == controller).then_some(id)
        })
        .ok_or_else(|| CgroupError::Hierarchy { path, controller: controller.to_owned() })
}

#[cfg(test)]
mod tests;
