use proptest::prelude::*;

use super::*;
use crate::container::fake::{Fake, HOST_MNT, HOST_PID, HOST_USER};

fn read_one(fake: &Fake, pid: u32) -> Option<Process> {
    let hierarchy = Hierarchy::find(&fake.host()).unwrap();
    read(&fake.host(), &hierarchy, |path| hierarchy.id_of(path), pid)
}

fn details_of(fake: &Fake, pid: u32) -> Details {
    details(&fake.host(), &read_one(fake, pid).expect("the process"), HOST_USER).expect("its details")
}

#[test]
fn what_is_told_of_a_process() {
    for fake in [Fake::unified(), Fake::hybrid(), Fake::legacy()] {
        let cgroup = fake.cgroup("/box");
        fake.process(50)
            .parent(7)
            .sid(40)
            .start(123)
            .tty(0x8803)
            .cgroup("/box")
            .ns_pids(&[50, 1])
            .mnt(8)
            .pid_ns(9)
            .write();
        assert_eq!(
            read_one(&fake, 50),
            Some(Process {
                pid: 50,
                parent: 7,
                sid: 40,
                start_ticks: 123,
                tty: 0x8803,
                comm: b"sh".to_vec(),
                ns_pids: vec![50, 1],
                mnt_ns: Some(8),
                pid_ns: Some(9),
                root: None,
                cgroup: Some(cgroup),
            })
        );
    }
}

#[test]
fn a_name_that_is_no_text_hides_nothing() {
    let fake = Fake::unified();
    for (pid, comm) in [(50, b"\xff\xfe".as_slice()), (51, b") S 1 1 ("), (52, b"a:b Uid:"), (53, b"")] {
        fake.process(pid).comm(comm).ns_pids(&[pid, 1]).write();
        let process = read_one(&fake, pid).expect("a process");
        assert_eq!((process.comm.as_slice(), process.start_ticks, process.parent), (comm, u64::from(pid), 1));
        assert_eq!(process.ns_pids, [pid, 1], "status is read too");
    }
}

#[test]
fn zombies_and_the_kernels_own_are_none() {
    let fake = Fake::unified();
    fake.process(50).state('Z').write();
    fake.process(51).flags(PF_KTHREAD | 0x40).write();
    fake.process(52).state('D').write();
    assert_eq!([50, 51, 52, 53].map(|pid| glance(&fake.host(), pid).is_some()), [false, false, true, false]);
}

#[test]
fn what_may_not_be_read_is_none_and_no_failure() {
    let fake = Fake::unified();
    fake.process(50).hidden().cgroup("/gone (deleted)").write();
    let process = read_one(&fake, 50).expect("a process");
    assert_eq!((process.mnt_ns, process.pid_ns, process.cgroup), (None, None, None));
}

#[test]
fn details_of_a_process_in_a_user_namespace() {
    let fake = Fake::unified();
    fake.process(50)
        .user_ns(77)
        .uids((100_005, 100_000))
        .uid_map("   0 100000 65536\n")
        .login_uid(1000)
        .write();
    let details = details_of(&fake, 50);
    assert_eq!(
        details.credentials,
        Credentials {
            uid: 100_005,
            gid: 5,
            euid: 100_000,
            egid: 6,
            container_uid: Some(5),
            container_gid: None,
            cap_effective: 0xa804_25fa,
            cap_permitted: 0xa804_25fb,
            login_uid: Some(1000),
            audit_session: None,
        }
    );
    assert_eq!(details.namespaces, Namespaces { mnt: HOST_MNT, pid: HOST_PID, user: 77, net: 4_026_531_840 });
    assert_eq!((details.cwd.as_slice(), details.path_incomplete), (b"/work dir".as_slice(), false));
}

#[test]
fn in_the_nodes_user_namespace_there_is_no_second_uid() {
    let fake = Fake::unified();
    fake.process(50).uids((5, 5)).write();
    assert_eq!(details_of(&fake, 50).credentials.container_uid, None);
}

#[test]
fn executables_deleted_in_memory_and_only_called_so() {
    let fake = Fake::unified();
    fake.process(50).exe("/tmp/no such file (deleted)".into()).write();
    fake.process(51).exe("/memfd:x (deleted)".into()).write();
    let odd = fake.folder().join("odd (deleted)");
    fs::write(&odd, "").unwrap();
    std::os::unix::fs::chown(&odd, None, None).unwrap();
    fs::set_permissions(&odd, std::os::unix::fs::PermissionsExt::from_mode(0o4755)).unwrap();
    fake.process(52).exe(odd.clone()).write();
    let of = |pid| {
        let Details { path, executable, .. } = details_of(&fake, pid);
        (path, executable.deleted, executable.memfd, executable.setuid)
    };
    assert_eq!(of(50), (b"/tmp/no such file".to_vec(), true, false, false));
    assert_eq!(of(51), (b"/memfd:x".to_vec(), true, true, false));
    assert_eq!(of(52), (odd.as_os_str().as_bytes().to_vec(), false, false, true));
    assert_eq!(details_of(&fake, 52).executable.inode, fs::metadata(odd).unwrap().ino());
}

#[test]
fn argv_short_long_and_empty() {
    let fake = Fake::unified();
    fake.process(50).argv(b"sh\0-c\0\xff\x1b[2J\0").write();
    let argv = details_of(&fake, 50).argv;
    assert_eq!(
        argv,
        RawArgv { total: 12, head: 12, tail: 0, bytes: b"sh\0-c\0\xff\x1b[2J\0".to_vec(), fault: false }
    );

    fake.process(51).argv(b"").write();
    assert_eq!(details_of(&fake, 51).argv, RawArgv::default());

    let long: Vec<u8> = (0..300_000u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    fake.process(52).argv(&long).write();
    let argv = details_of(&fake, 52).argv;
    assert_eq!((argv.total, argv.head, argv.tail), (300_000, 32_768, 32_768));
    assert_eq!(argv.bytes[..32_768], long[..32_768]);
    assert_eq!(argv.bytes[32_768..], long[300_000 - 32_768..]);
}

#[test]
fn terminals() {
    let name = |number| tty(number).map(|tty| (tty.major, tty.minor, tty.name));
    assert_eq!(name(0), None);
    assert_eq!(name(0x8800), Some((136, 0, "pts/0".to_owned())));
    assert_eq!(name(0x10_8800 | 0x2c), Some((136, 300, "pts/300".to_owned())));
    assert_eq!(name(0x0401), Some((4, 1, "tty1".to_owned())));
    assert_eq!(name(0x0440), Some((4, 64, "ttyS0".to_owned())));
    assert_eq!(name(0x0501), Some((5, 1, "console".to_owned())));
    assert_eq!(name(0x0702), Some((7, 2, "7:2".to_owned())));
}

#[test]
fn this_process() {
    let host = Host::default();
    let own = std::process::id();
    let seen = glance(&host, own).expect("this process");
    assert_eq!(seen.parent, std::os::unix::process::parent_id());
    assert!(pids(&host).unwrap().contains(&own));
    assert!(namespace(&host.process(own), NsKind::Mnt).unwrap() > 0);
    let process = Process {
        pid: own,
        parent: seen.parent,
        sid: seen.sid,
        start_ticks: seen.start_ticks,
        tty: seen.tty,
        comm: comm(&host.process(own)),
        ns_pids: Vec::new(),
        mnt_ns: None,
        pid_ns: None,
        root: None,
        cgroup: None,
    };
    let details = details(&host, &process, HOST_USER).expect("its details");
    assert_eq!(details.path, std::env::current_exe().unwrap().as_os_str().as_bytes());
    assert_eq!(details.cwd, std::env::current_dir().unwrap().as_os_str().as_bytes());
    assert_eq!(details.credentials.uid, nix::unistd::getuid().as_raw());
    let args: Vec<u8> = std::env::args_os().flat_map(|arg| [arg.as_bytes(), b"\0"].concat()).collect();
    assert_eq!(details.argv.bytes, args);
}

proptest! {
    #[test]
    fn a_stat_of_any_shape_is_no_panic(bytes in "[0-9]{0,3} ?[(]?[a-z)( ]{0,6}[)]? ?[A-Z]?( -?[0-9]{1,21}){0,60}") {
        let fake = Fake::unified();
        let folder = fake.host().process(5);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("stat"), bytes).unwrap();
        let _ = glance(&fake.host(), 5);
    }
}
