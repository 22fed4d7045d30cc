//! A fake `/proc` and cgroup tree in a temporary folder.

use std::cell::Cell;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;

use super::host::Host;

pub(crate) const HOST_MNT: u32 = 4_026_531_832;
pub(crate) const HOST_PID: u32 = 4_026_531_836;
pub(crate) const HOST_USER: u32 = 4_026_531_837;

pub(crate) struct Fake {
    folder: tempfile::TempDir,
    mount: PathBuf,
    /// the beginning of the line in `/proc/PID/cgroup`
    line: &'static str,
    /// the newest cgroup's id, and folders that were made and not used
    newest: Cell<u64>,
    aside: Cell<u32>,
}

impl Fake {
    pub(crate) fn unified() -> Self {
        Self::with("cgroup", "0::", |top| {
            format!("31 23 0:28 / {top}/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n")
        })
    }

    pub(crate) fn hybrid() -> Self {
        Self::with("cgroup/unified", "9:name=systemd:/elsewhere\n8:pids:/elsewhere\n0::", |top| {
            format!(
                "32 31 0:36 / {top}/cgroup/pids rw - cgroup cgroup rw,pids\n\
                 33 31 0:37 / {top}/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                 41 31 0:38 / {top}/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
            )
        })
    }

    pub(crate) fn legacy() -> Self {
        Self::with("cgroup/pids", "9:name=systemd:/elsewhere\n4:memory:/elsewhere\n8:pids:", |top| {
            fs::create_dir_all(format!("{top}/run/cgroupv2")).unwrap();
            format!(
                "30 31 0:35 / {top}/cgroup/memory rw - cgroup cgroup rw,memory\n\
                 32 31 0:36 / {top}/cgroup/pids rw - cgroup cgroup rw,pids\n\
                 50 31 0:38 / {top}/run/cgroupv2 rw,relatime - cgroup2 none rw\n"
            )
        })
    }

    fn with(mount: &str, line: &'static str, mountinfo: impl Fn(&str) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mount = folder.path().join(mount);
        fs::create_dir_all(&mount).unwrap();
        for other in ["cgroup/pids", "cgroup/memory"]
            .iter()
            .filter(|_| mount.ends_with("pids") || mount.ends_with("unified"))
        {
            fs::create_dir_all(folder.path().join(other)).unwrap();
        }
        let own = folder.path().join("proc/self");
        fs::create_dir_all(&own).unwrap();
        let noise = "1 0 8:1 / / rw - ext4 /dev/vda1 rw\n2 1 0:5 / /mnt/a\\040b rw - tmpfs tmpfs rw\n";
        let lines = mountinfo(folder.path().to_str().unwrap());
        fs::write(own.join("mountinfo"), [noise.as_bytes(), b"\xff\xfe bad\n", lines.as_bytes()].concat())
            .unwrap();
        fs::write(own.join("cgroup"), format!("{line}/\n")).unwrap();
        fs::create_dir_all(folder.path().join("aside")).unwrap();
        Self { folder, mount, line, newest: Cell::new(0), aside: Cell::new(0) }
    }

    pub(crate) fn host(&self) -> Host {
        Host { proc: self.folder.path().join("proc"), cgroup: None }
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    pub(crate) fn mount(&self) -> PathBuf {
        self.mount.clone()
    }

    pub(crate) fn root_id(&self) -> u64 {
        fs::metadata(&self.mount).unwrap().ino()
    }

    /// Makes a cgroup; its id.
    pub(crate) fn cgroup(&self, path: impl AsRef<[u8]>) -> u64 {
        let below = path.as_ref().strip_prefix(b"/").unwrap();
        let folder = self.mount.join(std::ffi::OsStr::from_bytes(below));
        if let Ok(there) = fs::metadata(&folder) {
            return there.ino();
        }
        fs::create_dir_all(folder.parent().unwrap()).unwrap();
        // Ids of cgroups grow. Those of folders need not: what is smaller is put aside, so that it is not given again.
        loop {
            fs::create_dir(&folder).unwrap();
            let id = fs::metadata(&folder).unwrap().ino();
            if id > self.newest.get() {
                self.newest.set(id);
                return id;
            }
            let aside = self.aside.replace(self.aside.get() + 1);
            fs::rename(&folder, self.folder.path().join(format!("aside/{aside}"))).unwrap();
        }
    }

    /// The agent's own namespaces are those of `pid`.
    pub(crate) fn link_self(&self, pid: u32) {
        let proc = self.folder.path().join("proc");
        symlink(proc.join(format!("{pid}/ns")), proc.join("self/ns")).unwrap();
    }

    pub(crate) fn process(&self, pid: u32) -> FakeProcess<'_> {
        FakeProcess {
            fake: self,
            pid,
            parent: 1,
            sid: pid,
            start: u64::from(pid),
            state: 'S',
            flags: 0,
            tty: 0,
            comm: b"sh".to_vec(),
            cgroup: b"/".to_vec(),
            ns_pids: vec![pid],
            mnt: Some(HOST_MNT),
            pid_ns: Some(HOST_PID),
            user_ns: HOST_USER,
            argv: b"sh\0".to_vec(),
            exe: None,
            uids: (0, 0),
            login_uid: u32::MAX,
            uid_map: "         0          0 4294967295\n",
        }
    }

    pub(crate) fn remove_process(&self, pid: u32) {
        fs::remove_dir_all(self.host().process(pid)).unwrap();
    }
}

pub(crate) struct FakeProcess<'a> {
    fake: &'a Fake,
    pid: u32,
    parent: u32,
    sid: u32,
    start: u64,
    state: char,
    flags: u32,
    tty: u32,
    comm: Vec<u8>,
    cgroup: Vec<u8>,
    ns_pids: Vec<u32>,
    mnt: Option<u32>,
    pid_ns: Option<u32>,
    user_ns: u32,
    argv: Vec<u8>,
    exe: Option<PathBuf>,
    uids: (u32, u32),
    login_uid: u32,
    uid_map: &'static str,
}

macro_rules! setters {
    ($($name:ident: $type:ty = $field:ident $(=> $make:expr)?;)*) => {
        $(pub(crate) fn $name(mut self, $name: $type) -> Self {
            self.$field = setters!(@ $name $(, $make)?);
            self
        })*
    };
    (@ $name:ident) => { $name };
    (@ $name:ident, $make:expr) => { $make($name) };
}

impl FakeProcess<'_> {
    setters! {
        parent: u32 = parent;
        sid: u32 = sid;
        start: u64 = start;
        state: char = state;
        flags: u32 = flags;
        tty: u32 = tty;
        comm: &[u8] = comm => <[u8]>::to_vec;
        cgroup: &str = cgroup => |path: &str| path.as_bytes().to_vec();
        ns_pids: &[u32] = ns_pids => <[u32]>::to_vec;
        mnt: u32 = mnt => Some;
        pid_ns: u32 = pid_ns => Some;
        user_ns: u32 = user_ns;
        argv: &[u8] = argv => <[u8]>::to_vec;
        exe: PathBuf = exe => Some;
        uids: (u32, u32) = uids;
        login_uid: u32 = login_uid;
        uid_map: &'static str = uid_map;
    }

    /// Its namespaces may not be read.
    pub(crate) fn hidden(mut self) -> Self {
        (self.mnt, self.pid_ns) = (None, None);
        self
    }

    pub(crate) fn write(self) {
        let Self {
            fake,
            pid,
            parent,
            sid,
            start,
            state,
            flags,
            tty,
            comm,
            cgroup,
            ns_pids,
            mnt,
            pid_ns,
            user_ns,
            argv,
            exe,
            uids: (uid, euid),
            login_uid,
            uid_map,
        } = self;
        let folder = fake.host().process(pid);
        fs::create_dir_all(folder.join("ns")).unwrap();
        let zeros = "0 ".repeat(30);
        let stat = [
            format!("{pid} (").as_bytes(),
            &comm,
            format!(
                ") {state} {parent} {pid} {sid} {tty} -1 {flags} 0 0 0 0 0 0 0 0 20 0 1 0 {start} {zeros}\n"
            )
            .as_bytes(),
        ]
        .concat();
        fs::write(folder.join("stat"), stat).unwrap();
        let ns_pids = ns_pids.iter().map(|pid| format!("\t{pid}")).collect::<String>();
        let status = [
            b"Name:\t".as_slice(),
            &comm,
            format!(
                "\nUmask:\t0022\nState:\t{state} (sleeping)\nTgid:\t{pid}\nNgid:\t0\nPid:\t{pid}\nPPid:\t{parent}\n\
                 TracerPid:\t0\nUid:\t{uid}\t{euid}\t{uid}\t{uid}\nGid:\t5\t6\t5\t5\nFDSize:\t64\nGroups:\t0 \n\
                 NStgid:{ns_pids}\nNSpid:{ns_pids}\nThreads:\t1\nSigQ:\t0/15000\nSigPnd:\t0000000000000000\n\
                 ShdPnd:\t0000000000000000\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n\
                 SigCgt:\t0000000000000000\nCapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\n\
                 CapEff:\t00000000a80425fa\n"
            )
            .as_bytes(),
        ]
        .concat();
        fs::write(folder.join("status"), status).unwrap();
        fs::write(folder.join("comm"), [&comm, b"\n".as_slice()].concat()).unwrap();
        fs::write(folder.join("cgroup"), [fake.line.as_bytes(), &cgroup, b"\n"].concat()).unwrap();
        fs::write(folder.join("cmdline"), argv).unwrap();
        fs::write(folder.join("loginuid"), login_uid.to_string()).unwrap();
        fs::write(folder.join("sessionid"), "4294967295").unwrap();
        fs::write(folder.join("uid_map"), uid_map).unwrap();
        fs::write(folder.join("gid_map"), uid_map).unwrap();
        let link = |target: String, name: &str| {
            let _ = fs::remove_file(folder.join(name));
            symlink(target, folder.join(name)).unwrap();
        };
        if let Some(mnt) = mnt {
            link(format!("mnt:[{mnt}]"), "ns/mnt");
        }
        if let Some(pid_ns) = pid_ns {
            link(format!("pid:[{pid_ns}]"), "ns/pid");
        }
        link(format!("user:[{user_ns}]"), "ns/user");
        link("net:[4026531840]".to_owned(), "ns/net");
        link("/work dir".to_owned(), "cwd");
        link(exe.map_or("/bin/sh".to_owned(), |exe| exe.to_str().unwrap().to_owned()), "exe");
    }
}
