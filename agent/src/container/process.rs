//! What `/proc` says of one process. Processes vanish while they are read, and their owners choose most of what is
//! read here: nothing is trusted, everything is bounded, and what cannot be had is `None`.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use podtrail_ebpf::environ::{self, found};
use procfs::FromRead;
use procfs::process::{Stat, Status};

use super::cgroupfs::Hierarchy;
use super::host::{Host, root_directory};
use crate::event::{Credentials, Executable, Namespaces, Tty};
use crate::session::record::RawArgv;

const FILE_MAX: usize = 64 << 10;

/// Bytes of argv that are kept: the half of them from the beginning, the rest from the end.
const ARGV_MAX: usize = 64 << 10;

/// Nobody's argv is longer: the kernel allows a quarter of the stack's limit, and reads it as slowly as we ask.
const ARGV_READ_MAX: usize = 32 << 20;

/// A kernel thread (include/linux/sched.h).
const PF_KTHREAD: u32 = 0x0020_0000;

const NONE: u32 = u32::MAX;

/// A kind of namespace, by its link in `/proc/PID/ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NsKind {
    Mnt,
    Pid,
    User,
    Net,
}

impl NsKind {
    const fn name(self) -> &'static str {
        match self {
            Self::Mnt => "mnt",
            Self::Pid => "pid",
            Self::User => "user",
            Self::Net => "net",
        }
    }
}

/// The inode number of a process's namespace; `folder` is the process's.
pub fn namespace(folder: &Path, kind: NsKind) -> io::Result<u32> {
    let link = fs::read_link(folder.join("ns").join(kind.name()))?;
    str::from_utf8(link.as_os_str().as_bytes())
        .ok()
        .and_then(|text| text.strip_prefix(kind.name())?.strip_prefix(":[")?.strip_suffix(']')?.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a namespace"))
}

/// A process, as far as it must be known to say which container or session it is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    pub parent: u32,
    /// POSIX session
    pub sid: u32,
    /// clock ticks since boot
    pub start_ticks: u64,
    pub tty: u32,
    pub comm: Vec<u8>,
    /// its pid in each pid namespace, the node's first; empty: not told
    pub ns_pids: Vec<u32>,
    /// `None`: the agent may not know
    pub mnt_ns: Option<u32>,
    pub pid_ns: Option<u32>,
    /// device and inode of its root directory
    pub root: Option<(u64, u64)>,
    /// `None`: its cgroup is gone, or in no place that the agent sees
    pub cgroup: Option<u64>,
}

impl Process {
    /// Whether it is the first of a pid namespace other than the node's.
    #[must_use]
    pub fn is_ns_init(&self) -> bool {
        self.ns_pids.len() > 1 && self.ns_pids.last() == Some(&1)
    }
}

/// What changes in a process's life, and what tells that it is still the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    pub parent: u32,
    pub sid: u32,
    pub start_ticks: u64,
    pub tty: u32,
}

/// All process ids that there are.
pub fn pids(host: &Host) -> io::Result<Vec<u32>> {
    let mut pids: Vec<u32> = fs::read_dir(&host.proc)?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    Ok(pids)
}

/// A quick look. `None`: gone, a zombie, or a thread of the kernel's own.
#[must_use]
pub fn glance(host: &Host, pid: u32) -> Option<Glance> {
    let bytes = read_bounded(&host.process(pid).join("stat"), FILE_MAX).ok()?;
    // The parser takes for granted that a number comes first and that something follows the name.
    let close = bytes.iter().rposition(|c| *c == b')')?;
    let shaped = bytes.first()?.is_ascii_digit()
        && bytes.iter().position(|c| *c == b'(')? < close
        && bytes.get(close + 1) == Some(&b' ')
        && bytes.get(close + 2)?.is_ascii_alphabetic();
    if !shaped {
        return None;
    }
    let stat = Stat::from_read(bytes.as_slice()).ok()?;
    if stat.flags & PF_KTHREAD != 0 || matches!(stat.state, 'Z' | 'X' | 'x') {
        return None;
    }
    Some(Glance {
        parent: u32::try_from(stat.ppid).ok()?,
        sid: u32::try_from(stat.session).unwrap_or(0),
        start_ticks: stat.starttime,
        tty: u32::from_ne_bytes(stat.tty_nr.to_ne_bytes()),
    })
}

/// Reads a process. `None`: gone, a zombie, or a thread of the kernel's own.
#[must_use]
pub fn read(
    host: &Host,
    hierarchy: &Hierarchy,
    cgroup_of: impl Fn(&[u8]) -> Option<u64>,
    pid: u32,
) -> Option<Process> {
    let folder = host.process(pid);
    let Glance { parent, sid, start_ticks, tty } = glance(host, pid)?;
    let cgroup = read_bounded(&folder.join("cgroup"), FILE_MAX)
        .ok()
        .and_then(|bytes| hierarchy.path_in(&bytes))
        .and_then(|path| cgroup_of(&path));
    let ns_pids = status(&folder).and_then(|status| status.nspid).unwrap_or_default();
    Some(Process {
        pid,
        parent,
        sid,
        start_ticks,
        tty,
        comm: comm(&folder),
        ns_pids: ns_pids.into_iter().filter_map(|pid| u32::try_from(pid).ok()).collect(),
        mnt_ns: namespace(&folder, NsKind::Mnt).ok(),
        pid_ns: namespace(&folder, NsKind::Pid).ok(),
        root: root_directory(&folder),
        cgroup,
    })
}

/// What an exec record tells beyond [`Process`].
#[derive(Clone, Debug, PartialEq)]
pub struct Details {
    pub credentials: Credentials,
    pub namespaces: Namespaces,
    pub path: Vec<u8>,
    pub cwd: Vec<u8>,
    pub path_incomplete: bool,
    pub executable: Executable,
    pub argv: RawArgv,
    pub tty: Option<Tty>,
}

/// Reads the rest of a process. `host_user_ns`: the node's own. `None`: gone.
#[must_use]
pub fn details(host: &Host, process: &Process, host_user_ns: u32) -> Option<Details> {
    let folder = host.process(process.pid);
    let status = status(&folder)?;
    let user_ns = namespace(&folder, NsKind::User).ok();
    let in_user_ns = user_ns.is_some_and(|ns| ns != host_user_ns);
    let mapped = |map: &str, id: u32| {
        if in_user_ns { map_into(&read_bounded(&folder.join(map), FILE_MAX).ok()?, id) } else { None }
    };
    let number = |file: &str| {
        let bytes = read_bounded(&folder.join(file), FILE_MAX).ok()?;
        str::from_utf8(&bytes).ok()?.trim().parse::<u32>().ok().filter(|number| *number != NONE)
    };
    let (path, deleted, memfd, exe_read) = match fs::read_link(folder.join("exe")) {
        Ok(link) => {
            let link = link.as_os_str().as_bytes();
            let (path, deleted) = match link.strip_suffix(b" (deleted)") {
                Some(path) => (path, true),
                None => (link, false),
            };
            (path.to_vec(), deleted, deleted && path.starts_with(b"/memfd:"), true)
        }
        Err(_) => (Vec::new(), false, false, false),
    };
    let file = fs::metadata(folder.join("exe")).ok();
    // A file may really be called so: what has a link left is not deleted.
    let linked = file.as_ref().is_some_and(|file| file.nlink() > 0);
    let path = if deleted && linked { [path.as_slice(), b" (deleted)"].concat() } else { path };
    let cwd = fs::read_link(folder.join("cwd")).map(|cwd| cwd.as_os_str().as_bytes().to_vec()).ok();
    let executable = Executable {
        inode: file.as_ref().map_or(0, MetadataExt::ino),
        device_major: file.as_ref().map_or(0, |file| device(nix::sys::stat::major(file.dev()))),
        device_minor: file.as_ref().map_or(0, |file| device(nix::sys::stat::minor(file.dev()))),
        deleted: deleted && !linked,
        memfd: memfd && !linked,
        upper_layer: false,
        setuid: file.as_ref().is_some_and(|file| file.mode() & 0o4000 != 0),
        setgid: file.as_ref().is_some_and(|file| file.mode() & 0o2000 != 0),
    };
    Some(Details {
        credentials: Credentials {
            uid: status.ruid,
            gid: status.rgid,
            euid: status.euid,
            egid: status.egid,
            container_uid: mapped("uid_map", status.ruid),
            container_gid: mapped("gid_map", status.rgid),
            cap_effective: status.capeff,
            cap_permitted: status.capprm,
            login_uid: number("loginuid"),
            audit_session: number("sessionid"),
        },
        namespaces: Namespaces {
            mnt: process.mnt_ns.unwrap_or(0),
            pid: process.pid_ns.unwrap_or(0),
            user: user_ns.unwrap_or(0),
            net: namespace(&folder, NsKind::Net).unwrap_or(0),
        },
        path_incomplete: !exe_read || cwd.is_none(),
        path,
        cwd: cwd.unwrap_or_default(),
        executable,
        argv: argv(&folder),
        tty: tty(process.tty),
    })
}

fn device(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

/// The file, or as much of it as `max` bytes.
pub fn read_bounded(path: &Path, max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(max as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What was [`found`] of names of requests in the environment with which a process began, as far as it is still there. 0: nobody
/// knows.
pub fn environment(host: &Host, pid: u32) -> u8 {
    let path = host.proc.join(pid.to_string()).join("environ");
    let max = usize::try_from(environ::SEARCHED_MAX).unwrap_or(usize::MAX);
    let Ok(bytes) = read_bounded(&path, max) else { return 0 };
    let has = |name: &[u8]| bytes.split(|byte| *byte == 0).any(|variable| variable.starts_with(name));
    let mut bits = found::LOOKED;
    if has(environ::AUDIT_ID) {
        bits |= found::AUDIT_ID;
    }
    if has(environ::REQUEST_UID) {
        bits |= found::REQUEST_UID;
    }
    bits
}

fn comm(folder: &Path) -> Vec<u8> {
    let mut comm = read_bounded(&folder.join("comm"), 64).unwrap_or_default();
    if comm.last() == Some(&b'\n') {
        comm.pop();
    }
    comm
}

/// A name that is not UTF-8 must not hide its process: the parser wants text.
fn status(folder: &Path) -> Option<Status> {
    let bytes = read_bounded(&folder.join("status"), FILE_MAX).ok()?;
    Status::from_read(String::from_utf8_lossy(&bytes).as_bytes()).ok()
}

fn argv(folder: &Path) -> RawArgv {
    let head_max = ARGV_MAX / 2;
    let tail_max = ARGV_MAX - head_max;
    let Ok(file) = File::open(folder.join("cmdline")) else {
        return RawArgv { fault: true, ..RawArgv::default() };
    };
    let mut file = file.take(ARGV_READ_MAX as u64);
    let mut bytes = Vec::new();
    let mut tail = VecDeque::<u8>::new();
    let mut total = 0;
    let mut fault = false;
    let mut chunk = [0; 4096];
    loop {
        let read = match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => chunk.get(..read).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => {
                fault = true;
                break;
            }
        };
        total += read.len() as u64;
        let (head, rest) = read.split_at(read.len().min(head_max - bytes.len()));
        bytes.extend_from_slice(head);
        tail.extend(rest);
        tail.drain(..tail.len().saturating_sub(tail_max));
    }
    let (head, tail_len) = (bytes.len(), tail.len());
    bytes.extend(tail);
    let length = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    RawArgv { total, head: length(head), tail: length(tail_len), bytes, fault }
}

/// A user namespace's own number for one of the node's: lines of inside, outside, count.
fn map_into(map: &[u8], id: u32) -> Option<u32> {
    str::from_utf8(map).ok()?.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().map(str::parse::<u32>);
        let (inside, outside, count) = (fields.next()?.ok()?, fields.next()?.ok()?, fields.next()?.ok()?);
        let offset = id.checked_sub(outside).filter(|offset| *offset < count)?;
        inside.checked_add(offset)
    })
}

/// From `tty_nr`, the kernel's `new_encode_dev` (include/linux/kdev_t.h). Named as in Documentation/admin-guide/devices.txt.
fn tty(number: u32) -> Option<Tty> {
    if number == 0 {
        return None;
    }
    let major = (number & 0xf_ff00) >> 8;
    let minor = (number & 0xff) | ((number >> 12) & 0xf_ff00);
    let name = match (major, minor) {
        (136..=143, _) => format!("pts/{}", (major - 136) * 256 + minor),
        (4, 0..=63) => format!("tty{minor}"),
        (4, _) => format!("ttyS{}", minor - 64),
        (5, 1) => "console".to_owned(),
        (204, 64..) => format!("ttyAMA{}", minor - 64),
        (229, _) => format!("hvc{minor}"),
        _ => format!("{major}:{minor}"),
    };
    Some(Tty { major, minor, name })
}

#[cfg(test)]
mod tests;
