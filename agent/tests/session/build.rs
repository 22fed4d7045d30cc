//! Records, made up: each with its least interesting values, to be changed where a test is about them.

use podtrail::{
    event::{self, BootTime, Credentials, Executable, ExitStatus, Namespaces, Process, TaskKey},
    session::record::{
        ArgvChunk, ContainerStarted, Enter, EntryKind, Exec, ExecFailed, Exit, Join, RawArgv, Record,
    },
};

pub(crate) const CONTAINER: u64 = 42;
pub(crate) const MNT: u32 = 7001;
pub(crate) const PID_NS: u32 = 7002;
pub(crate) const SECOND: u64 = 1_000_000_000;

pub(crate) fn key(pid: u32) -> TaskKey {
    TaskKey::new(pid, u64::from(pid) * 1000)
}

pub(crate) fn process(pid: u32) -> Process {
    Process { key: key(pid), parent: key(1), comm: format!("p{pid}").into_bytes() }
}

pub(crate) fn argv(bytes: &[u8]) -> RawArgv {
    let len = u32::try_from(bytes.len()).unwrap();
    RawArgv { total: u64::from(len), head: len, tail: 0, bytes: bytes.to_vec(), fault: false }
}

/// A command of process `pid` in the session of entry `entry`, which runc (pid 9) made at the time 1000.
pub(crate) fn exec(entry: u32, pid: u32, time: u64) -> Exec {
    Exec {
        time: BootTime(time),
        process: process(pid),
        tid: pid,
        entry: key(entry),
        entered_by: key(9),
        entry_time: BootTime(1000),
        entry_kind: EntryKind::Runtime,
        container: Some(CONTAINER),
        staging: false,
        root: false,
        host_mnt: false,
        cgroup_id: CONTAINER,
        namespaces: Namespaces { mnt: MNT, pid: PID_NS, user: 0, net: 0 },
        credentials: Credentials::default(),
        tty: None,
        path: format!("/bin/p{pid}").into_bytes(),
        cwd: b"/".to_vec(),
        path_incomplete: false,
        script: None,
        executable: Executable::default(),
        argv: argv(format!("p{pid}\0").as_bytes()),
        argv_over_budget: false,
        descriptors: None,
        environment: None,
        spoof_suspected: false,
    }
}

pub(crate) fn root(entry: u32, pid: u32, time: u64) -> Exec {
    Exec { root: true, ..exec(entry, pid, time) }
}

/// An exec of process `pid` that failed with `error`.
pub(crate) fn failed(entry: u32, pid: u32, time: u64, path: &str, error: i32) -> ExecFailed {
    let name = path.rsplit('/').next().unwrap();
    ExecFailed {
        time: BootTime(time),
        entry: key(entry),
        container: Some(CONTAINER),
        failed: event::ExecFailed {
            process: process(pid),
            path: path.as_bytes().to_vec(),
            cwd: b"/".to_vec(),
            path_incomplete: false,
            argv: vec![name.as_bytes().to_vec()],
            argv_cut: false,
            credentials: Credentials::default(),
            error,
            attempts: 1,
        },
    }
}

pub(crate) fn exit(entry: u32, pid: u32, time: u64) -> Exit {
    Exit {
        time: BootTime(time),
        key: key(pid),
        parent: key(1),
        entry: key(entry),
        status: ExitStatus::Code(0),
        last: false,
        executed: true,
        late: false,
        lost: 0,
        refused: 0,
    }
}

pub(crate) fn last(entry: u32, pid: u32, time: u64) -> Exit {
    Exit { last: true, ..exit(entry, pid, time) }
}

pub(crate) fn enter(pid: u32, time: u64) -> Enter {
    Enter {
        time: BootTime(time),
        process: process(pid),
        by: key(9),
        by_comm: b"runc".to_vec(),
        kind: EntryKind::Runtime,
        container: CONTAINER,
        replaces: None,
        login_uid: None,
        audit_session: None,
    }
}

pub(crate) fn join(pid: u32, time: u64) -> Join {
    Join {
        time: BootTime(time),
        process: process(pid),
        tid: pid,
        entry: key(pid),
        container: Some(CONTAINER),
        mnt_ns: MNT,
        pid_ns: PID_NS,
        login_uid: Some(1000),
        audit_session: Some(3),
        ancestors: Vec::new(),
    }
}

pub(crate) fn started(time: u64) -> ContainerStarted {
    ContainerStarted {
        time: BootTime(time),
        cgroup_id: CONTAINER,
        init: key(2),
        mnt_ns: MNT,
        pid_ns: PID_NS,
        pid_owner: None,
    }
}

pub(crate) fn chunk(pid: u32, exec_time: u64, offset: u32, bytes: &[u8]) -> ArgvChunk {
    ArgvChunk {
        time: BootTime(exec_time + 1),
        key: key(pid),
        exec_time: BootTime(exec_time),
        offset,
        bytes: bytes.to_vec(),
    }
}

/// A record of each kind, so that lists of them stay readable.
pub(crate) trait IntoRecord {
    fn record(self) -> Record;
}

impl IntoRecord for Exec {
    fn record(self) -> Record {
        Record::Exec(Box::new(self))
    }
}
impl IntoRecord for ExecFailed {
    fn record(self) -> Record {
        Record::ExecFailed(Box::new(self))
    }
}
impl IntoRecord for Exit {
    fn record(self) -> Record {
        Record::Exit(self)
    }
}
impl IntoRecord for Enter {
    fn record(self) -> Record {
        Record::Enter(Box::new(self))
    }
}
impl IntoRecord for Join {
    fn record(self) -> Record {
        Record::Join(Box::new(self))
    }
}
impl IntoRecord for ArgvChunk {
    fn record(self) -> Record {
        Record::ArgvChunk(self)
    }
}
impl IntoRecord for ContainerStarted {
    fn record(self) -> Record {
        Record::ContainerStarted(self)
    }
}
