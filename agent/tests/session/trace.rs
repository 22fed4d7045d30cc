//! Reads the traces of real runtimes and plays them to the simulated kernel.
//!
//! What a trace line does not say is looked up in later ones: a namespace that a call made shows when the task is
//! seen next, the cgroup that a task was cloned into when the child is.

use std::{collections::HashMap, fs, path::PathBuf};

use podtrail::session::record::Record;

use crate::kernel::{Clone3, HOST_CGROUP, HOST_MNT, HOST_PID, Kernel};

const CLONE_THREAD: u64 = 0x1_0000;
const CLONE_PARENT: u64 = 0x8000;
const CLONE_NEWNS: u64 = 0x2_0000;
const CLONE_NEWPID: u64 = 0x2000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A trace, and what it lacks.
pub(crate) struct Trace {
    pub(crate) file: &'static str,
    /// cgroups made: when, id, parent, name
    pub(crate) cgroups: &'static [(u64, u64, u64, &'static str)],
    /// lines that the tracer lost
    pub(crate) lost: &'static [&'static str],
}

impl Trace {
    /// The trace as records of the kernel side.
    pub(crate) fn records(&self) -> Vec<Record> {
        self.play(Kernel::default())
    }

    /// The same, from a kernel that is not empty.
    pub(crate) fn play(&self, kernel: Kernel) -> Vec<Record> {
        let text = read(self.file);
        let mut lines: Vec<Line<'_>> =
            text.lines().chain(self.lost.iter().copied()).map(Line::parse).collect();
        // Each processor wrote into its own buffer.
        lines.sort_by_key(|line| line.time);
        let mut player =
            Player { kernel, lines: &lines, at: 0, clones: HashMap::new(), setns: HashMap::new() };
        for (at, line) in lines.iter().enumerate() {
            for (time, id, parent, name) in self.cgroups {
                let before = if at == 0 { 0 } else { lines[at - 1].time };
                if *time >= before && *time < line.time {
                    player.kernel.mkdir(*id, *parent, name);
                }
            }
            player.at = at;
            player.kernel.now = line.time;
            player.play(line);
        }
        player.kernel.records
    }
}

pub(crate) fn read(file: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/traces").join(file);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub(crate) struct Line<'a> {
    pub(crate) time: u64,
    pub(crate) kind: &'a str,
    pub(crate) rest: &'a str,
}

impl<'a> Line<'a> {
    pub(crate) fn parse(line: &'a str) -> Self {
        let (time, rest) = line.split_once(' ').unwrap();
        let (kind, rest) = rest.trim_start().split_once(' ').unwrap();
        Self { time: time.parse().unwrap(), kind, rest }
    }

    pub(crate) fn text(&self, name: &str) -> Option<&'a str> {
        let mut words = self.rest.split_ascii_whitespace();
        words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }

    /// Also "8070(runc)" and "0x8011".
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        let text = self.text(name)?;
        if let Some(hex) = text.strip_prefix("0x") {
            return u64::from_str_radix(hex, 16).ok();
        }
        text.split('(').next()?.parse().ok()
    }

    pub(crate) fn pid(&self, name: &str) -> Option<u32> {
        self.number(name).map(|number| u32::try_from(number).unwrap())
    }
}

struct Player<'a> {
    kernel: Kernel,
    lines: &'a [Line<'a>],
    at: usize,
    clones: HashMap<u32, u64>,
    setns: HashMap<u32, u64>,
}

impl Player<'_> {
    /// The next value of `name` in a line of thread `tid`.
    fn next(&self, tid: u32, name: &str) -> Option<u64> {
        let later = self.lines.get(self.at + 1..)?;
        later.iter().filter(|line| line.pid("tid") == Some(tid)).find_map(|line| line.number(name))
    }

    fn next_inode(&self, tid: u32, name: &str) -> Option<u32> {
        self.next(tid, name).map(|inode| u32::try_from(inode).unwrap())
    }

    /// A mount namespace that `tid` is in from here on.
    fn new_mnt(&self, tid: u32) -> Option<u32> {
        self.next_inode(tid, "mnt").or_else(|| {
            // It is not seen again but for its end: what others have from now on.
            let now = self.kernel.mnt(tid);
            let later = self.lines.get(self.at + 1..)?;
            later.iter().filter_map(|line| line.pid("mnt")).find(|mnt| *mnt != now && *mnt != HOST_MNT)
        })
    }

    /// The pid namespace that the children of `tid` are in: that of the next one, or its own where it has none.
    fn new_pid_ns(&self, tid: u32) -> Option<u32> {
        let later = self.lines.get(self.at + 1..)?;
        let mut forks = later.iter().filter(|line| line.kind == "FORK" && line.pid("tid") == Some(tid));
        let child = forks.find_map(|line| line.pid("child"));
        child.and_then(|child| self.next_inode(child, "pidns")).or_else(|| self.next_inode(tid, "pidns"))
    }

    fn play(&mut self, line: &Line<'_>) {
        if line.kind == "ATTACH" {
            return self.attach(line);
        }
        let tid = line.pid("tid").unwrap();
        if line.kind != "setns_ret" {
            self.appear(tid, line);
        }
        match line.kind {
            "clone" | "clone3" => {
                self.clones.insert(tid, line.number("flags").unwrap());
            }
            "FORK" => self.fork(line, tid),
            "EXEC" => {
                let pid = line.pid("tgid").unwrap();
                let file = line.text("file").unwrap();
                let comm = line.text("comm").unwrap();
                self.kernel.exec(pid, line.pid("old_pid").unwrap(), comm, file, &[file]);
            }
            "EXIT" => self.kernel.exit(tid, 0),
            "SETNS" => {
                self.setns.insert(tid, line.number("flags").unwrap());
            }
            "setns_ret" => {
                let flags = self.setns.remove(&tid).unwrap();
                if line.number("ret") == Some(0) {
                    // No flags: whatever the descriptor is of.
                    let mnt = (flags == 0 || flags & CLONE_NEWNS != 0).then(|| self.new_mnt(tid)).flatten();
                    let pid =
                        (flags == 0 || flags & CLONE_NEWPID != 0).then(|| self.new_pid_ns(tid)).flatten();
                    self.kernel.setns(tid, mnt, pid);
                }
            }
            "UNSHARE" => {
                let flags = line.number("flags").unwrap();
                let mnt = (flags & CLONE_NEWNS != 0).then(|| self.next_inode(tid, "mnt")).flatten();
                let pid = (flags & CLONE_NEWPID != 0).then(|| self.new_pid_ns(tid)).flatten();
                self.kernel.unshare(tid, mnt, pid);
            }
            "execve" | "execveat" => {}
            other => panic!("a line of an unknown kind: {other}"),
        }
    }

    /// Tasks that were there before the trace, or whose fork it does not show.
    fn appear(&mut self, tid: u32, line: &Line<'_>) {
        let tgid = line.pid("tgid").unwrap();
        if self.kernel.processes.contains_key(&tgid) {
            let (seen, known) = (line.pid("mnt"), self.kernel.mnt(line.pid("old_pid").unwrap_or(tid)));
            assert!(seen.is_none_or(|seen| seen == known), "{}: {tid} is not in {known}", line.time);
            let known = self.kernel.processes[&tgid].cgroup;
            // A task that exits is shown in its cgroup until the end.
            assert!(
                line.number("cg").is_none_or(|seen| seen == known),
                "{}: {tid} is not in cgroup {known}",
                line.time
            );
            return;
        }
        let pid_ns = line.pid("pidns").unwrap_or(HOST_PID);
        let cgroup = line.number("cg").unwrap_or(HOST_CGROUP);
        let task = self.kernel.process(tgid, line.pid("ppid").unwrap_or(0));
        task.cgroup = cgroup;
        task.pid_ns = pid_ns;
        task.pid_ns_for_children = pid_ns;
        task.comm = line.text("comm").unwrap_or_default().to_owned();
        let mnt = line.pid("mnt").or_else(|| self.next_inode(tid, "mnt")).unwrap_or(HOST_MNT);
        self.kernel.set_mnt(tgid, mnt);
    }

    fn attach(&mut self, line: &Line<'_>) {
        if line.number("root") != Some(0) {
            return; // a v1 hierarchy
        }
        let by = line.pid("tid").unwrap();
        let task = line.pid("task").unwrap();
        for (tid, name) in [(by, "tid"), (task, "task")] {
            let tgid = self.kernel.tgid(tid);
            if !self.kernel.processes.contains_key(&tgid) {
                let mnt = self.next_inode(tid, "mnt").unwrap_or(HOST_MNT);
                let comm = line.text(name).and_then(|text| text.split_once('(')).unwrap().1;
                comm.trim_end_matches(')').clone_into(&mut self.kernel.process(tgid, 0).comm);
                self.kernel.set_mnt(tgid, mnt);
            }
        }
        self.kernel.attach(by, task, line.number("dst_id").unwrap());
    }

    fn fork(&mut self, line: &Line<'_>, tid: u32) {
        let child = line.pid("child").unwrap();
        let flags = self.clones.remove(&tid).unwrap_or(0);
        let has = |flag| flags & flag != 0;
        let how = Clone3 {
            thread: has(CLONE_THREAD),
            parent: has(CLONE_PARENT),
            into: has(CLONE_INTO_CGROUP).then(|| self.next(child, "cg")).flatten(),
            mnt_ns: has(CLONE_NEWNS).then(|| self.next_inode(child, "mnt")).flatten(),
            pid_ns: has(CLONE_NEWPID).then(|| self.next_inode(child, "pidns")).flatten(),
        };
        self.kernel.fork(tid, child, how);
    }
}
