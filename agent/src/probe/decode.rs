//! Bytes of the ring → records. Hostile until proven otherwise: copied out, every length checked, never cast.

use podtrail_ebpf::layout::{
    self, LAYOUT_VERSION, SELF_TEST, TaskKey, entry_kind, exec_flags, exit_flags, failed_flags, kind,
    root_flags,
};
use zerocopy::FromBytes;

use crate::{
    event::{
        BootTime, Credentials, Descriptor, ExecFailed, Executable, ExitStatus, Namespaces, Process, Tty,
    },
    session::record::{self, EntryKind, RawArgv, Record},
};

const ANCESTOR: usize = size_of::<layout::Ancestor>();

/// What the kernel side reported.
#[derive(Clone, Debug, PartialEq)]
pub enum RawRecord {
    Session(Record),
    CgroupCreated(CgroupCreated),
    CgroupRemoved {
        time: BootTime,
        id: u64,
    },
    /// of the session in which an agent tried out the kernel side: for nobody else
    SelfTest(Box<Record>),
}

/// A new cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupCreated {
    pub time: BootTime,
    pub id: u64,
    pub parent: u64,
    /// the container that it is, or is below of
    pub container: Option<u64>,
    /// from the hierarchy's root
    pub path: Vec<u8>,
}

/// Why bytes are no record.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// {0} bytes are no record
    #[error("{0} bytes are no record")]
    Short(usize),
    /// layout version
    #[error("it has layout version {0}, this agent reads {LAYOUT_VERSION}")]
    Version(u32),
    /// unknown kind
    #[error("kind {0} is not known")]
    Kind(u16),
    /// its lengths do not fit
    #[error("a record of kind {0} whose lengths do not fit its {1} bytes")]
    Length(u16, usize),
}

/// Decodes one record.
pub fn decode(bytes: &[u8]) -> Result<RawRecord, DecodeError> {
    let (header, _) = layout::Header::read_from_prefix(bytes).map_err(|_| DecodeError::Short(bytes.len()))?;
    if header.version != LAYOUT_VERSION {
        return Err(DecodeError::Version(header.version));
    }
    if header.size as usize != bytes.len() {
        return Err(DecodeError::Length(header.kind, bytes.len()));
    }
    let time = BootTime(header.time);
    let bad = || DecodeError::Length(header.kind, bytes.len());
    let record = match header.kind {
        kind::EXEC => {
            let (exec, rest) = fixed::<layout::Exec>(bytes).ok_or_else(bad)?;
            Record::Exec(Box::new(self::exec(time, &exec, rest).ok_or_else(bad)?))
        }
        kind::ARGV_CHUNK => {
            let (chunk, rest) = fixed::<layout::ArgvChunk>(bytes).ok_or_else(bad)?;
            let layout::ArgvChunk { header: _, key, exec_time, offset, len } = chunk;
            if len as usize != rest.len() {
                return Err(bad());
            }
            Record::ArgvChunk(record::ArgvChunk {
                time,
                key,
                exec_time: BootTime(exec_time),
                offset,
                bytes: rest.to_vec(),
            })
        }
        kind::EXEC_FAILED => {
            let (failed, rest) = fixed::<layout::ExecFailed>(bytes).ok_or_else(bad)?;
            Record::ExecFailed(Box::new(exec_failed(time, &failed, rest).ok_or_else(bad)?))
        }
        kind::EXIT => {
            let layout::Exit { header: _, key, parent, entry, code, flags, lost, refused } =
                exact(bytes).ok_or_else(bad)?;
            Record::Exit(record::Exit {
                time,
                key,
                parent,
                entry,
                status: ExitStatus::from_wait(code),
                last: flags & exit_flags::LAST != 0,
                executed: flags & exit_flags::EXECUTED != 0,
                late: flags & exit_flags::LATE != 0,
                lost,
                refused,
            })
        }
        kind::ENTER => Record::Enter(Box::new(enter(time, &exact(bytes).ok_or_else(bad)?).ok_or_else(bad)?)),
        kind::JOIN => {
            let (join, rest) = fixed::<layout::Join>(bytes).ok_or_else(bad)?;
            let (ancestors, rest) = rest.as_chunks::<ANCESTOR>();
            if ancestors.len() != join.ancestors as usize || !rest.is_empty() {
                return Err(bad());
            }
            Record::Join(Box::new(self::join(time, &join, ancestors)))
        }
        kind::CONTAINER_STARTED => {
            let layout::ContainerStarted { header: _, cgroup_id, init, mnt_ns, pid_ns, pid_owner, _reserved } =
                exact(bytes).ok_or_else(bad)?;
            Record::ContainerStarted(record::ContainerStarted {
                time,
                cgroup_id,
                init,
                mnt_ns,
                pid_ns,
                pid_owner: (pid_owner != 0).then_some(pid_owner),
            })
        }
        kind::CONTAINER_ENDED => {
            let layout::ContainerEnded { header: _, cgroup_id, init, code, _pad } =
                exact(bytes).ok_or_else(bad)?;
            Record::ContainerEnded(record::ContainerEnded {
                time,
                cgroup_id,
                init,
                status: ExitStatus::from_wait(code),
            })
        }
        kind::CGROUP_CREATED => {
            let (created, rest) = fixed::<layout::CgroupCreated>(bytes).ok_or_else(bad)?;
            let layout::CgroupCreated { header: _, id, parent, container, path_len, _pad } = created;
            if path_len as usize != rest.len() {
                return Err(bad());
            }
            let container = (container != 0).then_some(container);
            return Ok(RawRecord::CgroupCreated(CgroupCreated {
                time,
                id,
                parent,
                container,
                path: rest.to_vec(),
            }));
        }
        kind::CGROUP_REMOVED => {
            let layout::CgroupRemoved { header: _, id } = exact(bytes).ok_or_else(bad)?;
            return Ok(RawRecord::CgroupRemoved { time, id });
        }
        other => return Err(DecodeError::Kind(other)),
    };
    let entry = match &record {
        Record::Exec(exec) => exec.entry,
        Record::ExecFailed(failed) => failed.entry,
        Record::Exit(exit) => exit.entry,
        _ => TaskKey::NONE,
    };
    if entry.start_time == SELF_TEST {
        return Ok(RawRecord::SelfTest(Box::new(record)));
    }
    Ok(RawRecord::Session(record))
}

fn fixed<T: FromBytes>(bytes: &[u8]) -> Option<(T, &[u8])> {
    T::read_from_prefix(bytes).ok()
}

fn exact<T: FromBytes>(bytes: &[u8]) -> Option<T> {
    T::read_from_bytes(bytes).ok()
}

fn exec(time: BootTime, exec: &layout::Exec, rest: &[u8]) -> Option<record::Exec> {
    let mut rest = rest;
    let mut take = |len: u32| -> Option<&[u8]> {
        let (taken, left) = rest.split_at_checked(len as usize)?;
        rest = left;
        Some(taken)
    };
    let flags = exec.flags;
    let has = |flag| flags & flag != 0;
    let facts = if has(exec_flags::ROOT_FACTS) {
        let length = u32::try_from(size_of::<layout::Root>()).ok()?;
        let root = layout::Root::read_from_bytes(take(length)?).ok()?;
        let audit_id = take(root.audit_id_len.into())?;
        Some((root, audit_id, take(root.request_uid_len.into())?))
    } else {
        None
    };
    let exe = take(exec.exe_len)?;
    let cwd = take(exec.cwd_len)?;
    let script = take(exec.script_len)?;
    let argv = take(exec.argv_len)?;
    if !rest.is_empty() || u64::from(exec.argv_len) > u64::from(exec.argv_head) + u64::from(exec.argv_tail) {
        return None;
    }
    Some(record::Exec {
        time,
        process: process(&exec.task),
        tid: exec.task.tid,
        entry: exec.entry,
        entered_by: exec.entered_by,
        entry_time: BootTime(exec.entry_time),
        entry_kind: entry(exec.entry_kind)?,
        container: (exec.container != 0).then_some(exec.container),
        staging: has(exec_flags::STAGING),
        root: has(exec_flags::ROOT),
        host_mnt: has(exec_flags::HOST_MNT),
        cgroup_id: exec.task.cgroup_id,
        namespaces: namespaces(&exec.task),
        credentials: credentials(&exec.creds, &exec.task),
        tty: has(exec_flags::TTY).then(|| Tty {
            major: exec.tty_major,
            minor: exec.tty_minor,
            name: tty_name(exec.tty_major, &exec.tty_name),
        }),
        path: path(exe, has(exec_flags::MEMFD)),
        cwd: path(cwd, false),
        path_incomplete: (has(exec_flags::EXE_INCOMPLETE) && !has(exec_flags::MEMFD))
            || has(exec_flags::CWD_INCOMPLETE)
            || has(exec_flags::SCRIPT_CUT),
        script: (!script.is_empty()).then(|| script.to_vec()),
        executable: Executable {
            inode: exec.exe_inode,
            device_major: exec.exe_dev >> 20,
            device_minor: exec.exe_dev & 0xf_ffff,
            deleted: has(exec_flags::DELETED),
            memfd: has(exec_flags::MEMFD),
            upper_layer: has(exec_flags::UPPER_LAYER),
            setuid: exec.exe_mode & 0o4000 != 0,
            setgid: exec.exe_mode & 0o2000 != 0,
        },
        argv: RawArgv {
            total: exec.argv_total,
            head: exec.argv_head,
            tail: exec.argv_tail,
            bytes: argv.to_vec(),
            fault: has(exec_flags::ARGV_FAULT),
        },
        argv_over_budget: has(exec_flags::ARGV_OVER_BUDGET),
        descriptors: facts.and_then(|(root, ..)| descriptors(&root)),
        environment: facts
            .and_then(|(root, audit_id, request_uid)| environment(&root, audit_id, request_uid)),
        spoof_suspected: has(exec_flags::SPOOF_SUSPECTED),
    })
}

fn credentials(creds: &layout::Creds, task: &layout::Task) -> Credentials {
    let foreign = |id: u32| (creds.in_user_ns != 0 && id != u32::MAX).then_some(id);
    Credentials {
        uid: creds.uid,
        gid: creds.gid,
        euid: creds.euid,
        egid: creds.egid,
        container_uid: foreign(creds.ns_uid),
        container_gid: foreign(creds.ns_gid),
        cap_effective: creds.cap_effective,
        cap_permitted: creds.cap_permitted,
        login_uid: set(task.login_uid),
        audit_session: set(task.audit_session),
    }
}

fn exec_failed(time: BootTime, failed: &layout::ExecFailed, rest: &[u8]) -> Option<record::ExecFailed> {
    let layout::ExecFailed {
        header: _,
        task,
        creds,
        entry,
        container,
        error,
        flags,
        directory,
        cwd_len,
        path_len,
        argv_len,
        _reserved,
    } = failed;
    let has = |flag| flags & flag != 0;
    let (cwd, rest) = rest.split_at_checked(*cwd_len as usize)?;
    let (name, argv) = rest.split_at_checked(*path_len as usize)?;
    if argv.len() != *argv_len as usize {
        return None;
    }
    let mut args: Vec<Vec<u8>> = argv.split(|b| *b == 0).map(<[u8]>::to_vec).collect();
    // Behind the last NUL; what is there is an argument that was cut.
    if args.last().is_some_and(Vec::is_empty) {
        args.pop();
    }
    Some(record::ExecFailed {
        time,
        entry: *entry,
        container: (*container != 0).then_some(*container),
        failed: ExecFailed {
            process: process(task),
            path: if has(failed_flags::AT) { below(*directory, name) } else { name.to_vec() },
            cwd: path(cwd, false),
            path_incomplete: has(failed_flags::PATH_FAULT) || has(failed_flags::CWD_INCOMPLETE),
            argv: args,
            argv_cut: has(failed_flags::ARGV_CUT) || has(failed_flags::ARGV_FAULT),
            credentials: credentials(creds, task),
            error: i32::try_from(*error).ok()?,
            attempts: 1,
        },
    })
}

/// What the kernel calls a program that is named from a directory (`alloc_bprm`, fs/exec.c).
fn below(directory: i32, name: &[u8]) -> Vec<u8> {
    const AT_FDCWD: i32 = -100;
    if directory == AT_FDCWD || name.first() == Some(&b'/') {
        return name.to_vec();
    }
    let mut path = format!("/dev/fd/{directory}").into_bytes();
    if !name.is_empty() {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    path
}

fn descriptors(root: &layout::Root) -> Option<[Descriptor; 3]> {
    (root.flags & root_flags::DESCRIPTORS != 0).then(|| root.descriptors.map(descriptor))
}

/// By type and device number (include/uapi/linux/stat.h, Documentation/admin-guide/devices.txt).
fn descriptor(of: layout::Descriptor) -> Descriptor {
    let layout::Descriptor { mode, rdev } = of;
    let (major, minor) = (rdev >> 20, rdev & 0xf_ffff);
    match mode & 0o170_000 {
        _ if mode == 0 => Descriptor::Closed,
        0o010_000 => Descriptor::Pipe,
        0o100_000 => Descriptor::File,
        0o140_000 => Descriptor::Socket,
        0o020_000 if (major, minor) == (1, 3) => Descriptor::Null,
        // Consoles and serial lines, /dev/tty and /dev/console, and Unix98 terminals.
        0o020_000 if matches!(major, 4 | 5 | 136..=143) => Descriptor::Terminal { major, minor },
        _ => Descriptor::Other,
    }
}

fn environment(root: &layout::Root, audit_id: &[u8], request_uid: &[u8]) -> Option<record::Environment> {
    let has = |flag| root.flags & flag != 0;
    let value = |is, cut, init, bytes: &[u8]| {
        has(is).then(|| record::EnvironmentValue {
            bytes: bytes.to_vec(),
            cut: has(cut),
            of_init: if has(root_flags::INIT_UNKNOWN) { None } else { Some(has(init)) },
        })
    };
    has(root_flags::ENVIRONMENT).then(|| record::Environment {
        audit_id: value(root_flags::AUDIT_ID, root_flags::AUDIT_ID_CUT, root_flags::INIT_AUDIT_ID, audit_id),
        request_uid: value(
            root_flags::REQUEST_UID,
            root_flags::REQUEST_UID_CUT,
            root_flags::INIT_REQUEST_UID,
            request_uid,
        ),
        total: root.environ_total,
        searched: root.environ_searched,
    })
}

fn enter(time: BootTime, enter: &layout::Enter) -> Option<record::Enter> {
    let layout::Enter { header: _, task, by, by_comm, container, replaces, entry_kind, _pad, _reserved } =
        enter;
    Some(record::Enter {
        time,
        process: process(task),
        by: *by,
        by_comm: comm(by_comm),
        kind: entry(*entry_kind)?,
        container: *container,
        replaces: (!replaces.is_none()).then_some(*replaces),
        login_uid: set(task.login_uid),
        audit_session: set(task.audit_session),
    })
}

fn join(time: BootTime, join: &layout::Join, ancestors: &[[u8; ANCESTOR]]) -> record::Join {
    let layout::Join { header: _, task, entry, container, mnt_ns, pid_ns, ancestors: _, _pad } = join;
    record::Join {
        time,
        process: process(task),
        tid: task.tid,
        entry: *entry,
        container: (*container != 0).then_some(*container),
        mnt_ns: *mnt_ns,
        pid_ns: *pid_ns,
        login_uid: set(task.login_uid),
        audit_session: set(task.audit_session),
        ancestors: self::ancestors(ancestors),
    }
}

/// Each is the parent of the one before it.
fn ancestors(bytes: &[[u8; ANCESTOR]]) -> Vec<Process> {
    let mut above: Vec<Process> = Vec::with_capacity(bytes.len());
    for bytes in bytes {
        let Ok(layout::Ancestor { key, comm }) = layout::Ancestor::read_from_bytes(bytes) else { break };
        let key = known(key);
        if let Some(before) = above.last_mut() {
            before.parent = key;
        }
        above.push(Process { key, parent: TaskKey::NONE, comm: self::comm(&comm) });
    }
    above
}

fn process(task: &layout::Task) -> Process {
    Process { key: known(task.key), parent: known(task.parent), comm: comm(&task.comm) }
}

/// A key without its padding, which must not make two of one process.
fn known(key: TaskKey) -> TaskKey {
    TaskKey::new(key.tgid, key.start_time)
}

fn namespaces(task: &layout::Task) -> Namespaces {
    Namespaces { mnt: task.mnt_ns, pid: task.pid_ns, user: task.user_ns, net: task.net_ns }
}

fn entry(kind: u8) -> Option<EntryKind> {
    Some(match kind {
        entry_kind::RUNTIME => EntryKind::Runtime,
        entry_kind::SELF_MOVED => EntryKind::SelfMoved,
        entry_kind::JOIN => EntryKind::Join,
        entry_kind::HOST_NS => EntryKind::HostNamespace,
        entry_kind::RECOVERED => EntryKind::Recovered,
        entry_kind::EPHEMERAL => EntryKind::Ephemeral,
        _ => return None,
    })
}

/// The audit subsystem's "not set" is all ones.
fn set(id: u32) -> Option<u32> {
    (id != u32::MAX).then_some(id)
}

fn comm(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().copied().take_while(|b| *b != 0).collect()
}

/// Components, last first, each with a NUL → an absolute path. A memfd has only its name.
fn path(components: &[u8], memfd: bool) -> Vec<u8> {
    let mut names: Vec<&[u8]> = components.split(|b| *b == 0).collect();
    names.pop(); // behind the last NUL
    if memfd && let [name] = names.as_slice() {
        return name.to_vec();
    }
    let mut path = Vec::with_capacity(components.len() + 1);
    for name in names.iter().rev() {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    if path.is_empty() {
        path.push(b'/');
    }
    path
}

/// Unix98 terminals have majors 136 to 143 (Documentation/admin-guide/devices.txt); the kernel calls them "pts0".
fn tty_name(major: u32, name: &[u8]) -> String {
    let name = String::from_utf8_lossy(&comm(name)).into_owned();
    match name.strip_prefix("pts") {
        Some(number) if (136..=143).contains(&major) && !number.starts_with('/') => format!("pts/{number}"),
        _ => name,
    }
}

#[cfg(test)]
mod tests;
