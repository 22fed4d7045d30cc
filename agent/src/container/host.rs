//! Where the node's `/proc` and cgroups are mounted, and which namespaces are the node's own.
//!
//! Both places are parameters: an agent in a container has the node's mounted elsewhere, and tests have fakes.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::process::{self, NsKind};

/// Inode numbers that the kernel gives its initial namespaces (include/uapi/linux/nsfs.h, include/linux/proc_ns.h).
const INITIAL_USER_NS: u32 = 0xEFFF_FFFD;
const INITIAL_PID_NS: u32 = 0xEFFF_FFFC;
const INITIAL_CGROUP_NS: u32 = 0xEFFF_FFFB;

/// More of a list of mounts is not read.
const MOUNTS_MAX: usize = 4 << 20;

/// Where the node's things are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// the node's procfs
    pub proc: PathBuf,
    /// the node's cgroup mount, or the folder with its mounts; `None`: wherever the agent's own mounts say
    pub cgroup: Option<PathBuf>,
}

impl Default for Host {
    fn default() -> Self {
        Self { proc: PathBuf::from("/proc"), cgroup: None }
    }
}

impl Host {
    /// The folder of a process.
    #[must_use]
    pub fn process(&self, pid: u32) -> PathBuf {
        self.proc.join(pid.to_string())
    }
}

/// The node's own namespaces, as inode numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostNamespaces {
    pub mnt: u32,
    pub pid: u32,
    pub user: u32,
    pub cgroup: u32,
    /// its root directory; `None`: not known
    pub root: Option<Root>,
    /// whose mount namespace that is
    pub found_by: &'static str,
    /// `Some`: it is the agent's own, and this is why
    pub note: Option<String>,
}

/// A process's root directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    pub inode: u64,
    /// of its file system, as the kernel numbers devices within itself
    pub device: u32,
    /// the same as programs are told it, which may be another (btrfs)
    pub told_device: u64,
}

impl Root {
    /// Of the process with this folder.
    fn of(folder: &Path) -> Option<Self> {
        let (told_device, inode) = root_directory(folder)?;
        let mounts = process::read_bounded(&folder.join("mountinfo"), MOUNTS_MAX).ok()?;
        // "27 1 254:0 / / rw": number, parent, device, root, place (fs/proc_namespace.c); the last that is there is on top.
        let device = str::from_utf8(&mounts).ok()?.lines().rev().find_map(|line| {
            let mut words = line.split(' ');
            let device = words.nth(2)?;
            (words.nth(1) == Some("/")).then_some(device)
        })?;
        let (major, minor) = device.split_once(':')?;
        let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
        // include/linux/kdev_t.h
        Some(Self { inode, device: (major << 20) | minor, told_device })
    }

    /// Whether it is this one, as programs are told of it.
    #[must_use]
    pub fn is(&self, root: Option<(u64, u64)>) -> bool {
        root == Some((self.told_device, self.inode))
    }
}

/// Device and inode of a process's root directory.
pub(super) fn root_directory(folder: &Path) -> Option<(u64, u64)> {
    let root = fs::metadata(folder.join("root/.")).ok()?;
    Some((root.dev(), root.ino()))
}

/// The node's own namespaces: those of its process 1; where that one cannot be read, as under some security modules, of the
/// kernel's own threads, which share them; or the agent's own. The initial pid, user and cgroup namespaces have numbers that
/// never change.
#[must_use]
pub fn host_namespaces(host: &Host) -> HostNamespaces {
    let of = |who: &str, kind: NsKind| process::namespace(&host.proc.join(who), kind);
    let in_the_nodes = of("self", NsKind::Pid).is_ok_and(|pid| pid == INITIAL_PID_NS);
    let initial = |mnt: u32, found_by: &'static str, note: Option<String>| HostNamespaces {
        mnt,
        pid: INITIAL_PID_NS,
        user: INITIAL_USER_NS,
        cgroup: INITIAL_CGROUP_NS,
        // An agent in a container that takes its own for the node's knows nothing of the node's.
        root: found_by
            .strip_prefix("/proc/")
            .and_then(|rest| rest.split('/').next())
            .filter(|_| note.is_none() || in_the_nodes)
            .and_then(|who| Root::of(&host.proc.join(who))),
        found_by,
        note,
    };
    let reason = match of("1", NsKind::Mnt) {
        Ok(mnt) => return initial(mnt, "/proc/1/ns/mnt", None),
        Err(error) => error,
    };
    // There process 2 is kthreadd, and nobody else can be (init/main.c, `rest_init`).
    if in_the_nodes && let Ok(mnt) = of("2", NsKind::Mnt) {
        return initial(mnt, "/proc/2/ns/mnt", None);
    }
    let link = Path::new("1/ns/mnt");
    let unreadable = format!("{} cannot be read ({reason})", host.proc.join(link).display());
    match of("self", NsKind::Mnt) {
        Ok(mnt) => {
            let mut note = format!("{unreadable}: the agent's own mount namespace is taken for the node's");
            if !in_the_nodes {
                note += ", and the agent is not in the node's pid namespace: run it with hostPID and CAP_SYS_PTRACE";
            }
            initial(mnt, "/proc/self/ns/mnt", Some(note))
        }
        Err(error) => {
            let note = format!("{unreadable}, nor can the agent's own ({error}): is /proc mounted?");
            initial(0, "nothing", Some(note))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::fake::Fake;

    #[test]
    fn process_1_tells_the_nodes_mount_namespace() {
        let fake = Fake::unified();
        fake.process(1).mnt(4_026_531_841).write();
        fake.link_self(1);
        let namespaces = host_namespaces(&fake.host());
        assert_eq!(namespaces.mnt, 4_026_531_841);
        assert_eq!(namespaces.pid, 4_026_531_836);
        assert_eq!(namespaces.note, None);
    }

    #[test]
    fn where_process_1_hides_the_kernels_threads_tell() {
        let fake = Fake::unified();
        fake.process(2).mnt(4_026_531_832).write();
        fake.process(77).mnt(9).pid_ns(INITIAL_PID_NS).write();
        fake.link_self(77);
        let namespaces = host_namespaces(&fake.host());
        assert_eq!((namespaces.mnt, namespaces.found_by), (4_026_531_832, "/proc/2/ns/mnt"));
        assert_eq!(namespaces.note, None);
        // In another pid namespace anybody can be process 2.
        let fake = Fake::unified();
        fake.process(2).mnt(4_026_531_832).write();
        fake.process(78).mnt(9).pid_ns(4_026_532_000).write();
        fake.link_self(78);
        assert_eq!(host_namespaces(&fake.host()).mnt, 9);
    }

    #[test]
    fn the_agents_own_is_taken_and_said_so() {
        let fake = Fake::unified();
        fake.process(77).mnt(9).pid_ns(4_026_532_000).write();
        fake.link_self(77);
        let namespaces = host_namespaces(&fake.host());
        assert_eq!((namespaces.mnt, namespaces.pid), (9, INITIAL_PID_NS));
        let note = namespaces.note.expect("a note");
        assert!(note.contains("1/ns/mnt cannot be read"), "{note}");
        assert!(note.contains("hostPID"), "{note}");
    }

    #[test]
    fn the_nodes_root_directory_is_that_of_whoever_tells_its_mounts() {
        let fake = Fake::unified();
        fake.process(1).mnt(4_026_531_841).write();
        let folder = fake.host().process(1);
        std::os::unix::fs::symlink("/", folder.join("root")).unwrap();
        // What is mounted on top of it, and what is mounted elsewhere.
        let mounts = "1 1 0:2 / / rw - rootfs rootfs rw\n27 1 254:1 /@ / rw shared:1 - btrfs /dev/vda1 rw\n\
                      28 27 0:21 / /proc rw - proc proc rw\n29 27 8:1 / /data rw - ext4 /dev/sda1 rw\n";
        fs::write(folder.join("mountinfo"), mounts).unwrap();
        let own = fs::metadata("/").unwrap();
        let root = Root { inode: own.ino(), device: (254 << 20) | 1, told_device: own.dev() };
        assert_eq!(host_namespaces(&fake.host()).root, Some(root));
        assert!(
            root.is(Some((own.dev(), own.ino())))
                && !root.is(Some((own.dev(), own.ino() + 1)))
                && !root.is(None)
        );
        // Nobody's list of mounts is trusted to be one.
        for broken in ["", "27 1", "27 1 x:1 / /", "27 1 254:1 / /data", "\u{0}"] {
            fs::write(folder.join("mountinfo"), broken).unwrap();
            assert_eq!(host_namespaces(&fake.host()).root, None, "{broken:?}");
        }
        // An agent that is in a container without the node's processes knows nothing of the node's.
        let fake = Fake::unified();
        fake.process(77).mnt(9).pid_ns(4_026_532_000).write();
        fake.link_self(77);
        std::os::unix::fs::symlink("/", fake.host().proc.join("self/root")).unwrap();
        fs::write(fake.host().proc.join("self/mountinfo"), mounts).unwrap();
        assert_eq!(host_namespaces(&fake.host()).root, None);
    }

    #[test]
    fn nothing_readable_gives_no_mount_namespace() {
        let fake = Fake::unified();
        let namespaces = host_namespaces(&fake.host());
        assert_eq!(namespaces.mnt, 0);
        assert!(namespaces.note.is_some());
    }

    #[test]
    fn this_machine() {
        let namespaces = host_namespaces(&Host::default());
        assert_ne!(namespaces.mnt, 0, "{namespaces:?}");
    }
}
