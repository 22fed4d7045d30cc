use proptest::prelude::*;
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::*;

fn short(length: usize) -> u32 {
    u32::try_from(length).unwrap()
}

fn header(kind: u16, size: usize) -> layout::Header {
    layout::Header { time: 7, size: short(size), kind, cpu: 1, version: LAYOUT_VERSION, _pad: 0 }
}

/// An exec record as the kernel side makes it.
fn exec_bytes(exe: &[u8], cwd: &[u8], script: &[u8], argv: &[u8], flags: u32) -> Vec<u8> {
    let mut exec = layout::Exec::new_zeroed();
    let rest: Vec<u8> = [exe, cwd, script, argv].concat();
    exec.header = header(kind::EXEC, size_of::<layout::Exec>() + rest.len());
    exec.task.key = TaskKey::new(42, 4_200);
    exec.task.comm[..2].copy_from_slice(b"sh");
    exec.task.login_uid = u32::MAX;
    exec.entry = TaskKey::new(41, 4_100);
    exec.entry_kind = entry_kind::RUNTIME;
    exec.container = 9;
    exec.exe_len = short(exe.len());
    exec.cwd_len = short(cwd.len());
    exec.script_len = short(script.len());
    exec.argv_len = short(argv.len());
    exec.argv_head = short(argv.len());
    exec.argv_total = argv.len() as u64;
    exec.flags = flags;
    exec.tty_major = 136;
    exec.tty_name[..4].copy_from_slice(b"pts3");
    [exec.as_bytes(), &rest].concat()
}

fn decoded(bytes: &[u8]) -> record::Exec {
    match decode(bytes).unwrap() {
        RawRecord::Session(Record::Exec(exec)) => *exec,
        other => panic!("not an exec: {other:?}"),
    }
}

/// A failed exec as the kernel side makes it.
fn failed_bytes(cwd: &[u8], path: &[u8], argv: &[u8], flags: u32, directory: i32) -> Vec<u8> {
    let mut failed = layout::ExecFailed::new_zeroed();
    let rest: Vec<u8> = [cwd, path, argv].concat();
    failed.header = header(kind::EXEC_FAILED, size_of::<layout::ExecFailed>() + rest.len());
    failed.task.key = TaskKey::new(42, 4_200);
    failed.entry = TaskKey::new(41, 4_100);
    failed.container = 9;
    failed.error = 13;
    failed.flags = flags;
    failed.directory = directory;
    failed.cwd_len = short(cwd.len());
    failed.path_len = short(path.len());
    failed.argv_len = short(argv.len());
    [failed.as_bytes(), &rest].concat()
}

fn failed(bytes: &[u8]) -> record::ExecFailed {
    match decode(bytes).unwrap() {
        RawRecord::Session(Record::ExecFailed(failed)) => *failed,
        other => panic!("no failed exec: {other:?}"),
    }
}

#[test]
fn a_failed_exec_comes_out_as_it_was_asked_for() {
    let record = failed(&failed_bytes(b"b\0a\0", b"./x\xff", b"x\0\0-l\0", 0, 0));
    assert_eq!((record.entry, record.container), (TaskKey::new(41, 4_100), Some(9)));
    let told = record.failed;
    assert_eq!((told.cwd.as_slice(), told.path.as_slice(), told.error), (&b"/a/b"[..], &b"./x\xff"[..], 13));
    assert_eq!(told.argv, [&b"x"[..], b"", b"-l"]);
    assert!(!told.argv_cut && !told.path_incomplete);
    let cut = failed(&failed_bytes(b"", b"x", b"x\0lon", failed_flags::ARGV_CUT, 0)).failed;
    assert_eq!((cut.argv, cut.argv_cut), (vec![b"x".to_vec(), b"lon".to_vec()], true));
    assert!(failed(&failed_bytes(b"", b"", b"", failed_flags::PATH_FAULT, 0)).failed.path_incomplete);
    let of = |directory, path| failed(&failed_bytes(b"", path, b"", failed_flags::AT, directory)).failed.path;
    assert_eq!(of(5, b""), b"/dev/fd/5");
    assert_eq!(of(5, b"x"), b"/dev/fd/5/x");
    assert_eq!(of(5, b"/x"), b"/x");
    assert_eq!(of(-100, b"x"), b"x");
    let mut wrong = failed_bytes(b"", b"x", b"y\0", 0, 0);
    wrong[size_of::<layout::ExecFailed>() - 12] += 1;
    assert_eq!(decode(&wrong), Err(DecodeError::Length(kind::EXEC_FAILED, wrong.len())));
}

#[test]
fn an_exec_has_its_paths_the_right_way_round() {
    let bytes = exec_bytes(b"sh\0bin\0", b"", b"/x.sh", b"sh\0-c\0\0", exec_flags::ROOT | exec_flags::TTY);
    let exec = decoded(&bytes);
    assert_eq!(exec.path, b"/bin/sh");
    assert_eq!(exec.cwd, b"/");
    assert_eq!(exec.script.as_deref(), Some(&b"/x.sh"[..]));
    assert_eq!(exec.argv.bytes, b"sh\0-c\0\0");
    assert_eq!(exec.process.comm, b"sh");
    assert_eq!(exec.credentials.login_uid, None);
    assert_eq!(exec.tty.unwrap().name, "pts/3");
    assert_eq!(exec.container, Some(9));
    assert!(exec.root && !exec.staging);
}

fn root_bytes(root: &layout::Root, values: &[u8]) -> Vec<u8> {
    let facts = [root.as_bytes(), values].concat();
    let rest = exec_bytes(b"sh\0bin\0", b"", b"", b"sh\0", exec_flags::ROOT | exec_flags::ROOT_FACTS);
    let (exec, rest) = rest.split_at(size_of::<layout::Exec>());
    let mut bytes = [exec, &facts, rest].concat();
    let size = short(bytes.len());
    bytes[8..12].copy_from_slice(&size.to_ne_bytes());
    bytes
}

#[test]
fn how_a_root_began_comes_out_whole() {
    let (null, pipe, closed) = ((0o020_666, 1 << 20 | 3), (0o010_600, 0), (0, 0));
    let [null, pipe, closed] = [null, pipe, closed].map(|(mode, rdev)| layout::Descriptor { mode, rdev });
    let flags = root_flags::DESCRIPTORS
        | root_flags::ENVIRONMENT
        | root_flags::AUDIT_ID
        | root_flags::REQUEST_UID
        | root_flags::REQUEST_UID_CUT
        | root_flags::INIT_REQUEST_UID;
    let root = layout::Root {
        environ_total: 9000,
        environ_searched: 8000,
        descriptors: [null, pipe, closed],
        flags,
        audit_id_len: 2,
        request_uid_len: 3,
    };
    let exec = decoded(&root_bytes(&root, b"iduid"));
    assert_eq!(exec.path, b"/bin/sh");
    assert_eq!(exec.descriptors, Some([Descriptor::Null, Descriptor::Pipe, Descriptor::Closed]));
    let value = |bytes: &[u8], cut, of_init| {
        Some(record::EnvironmentValue { bytes: bytes.to_vec(), cut, of_init: Some(of_init) })
    };
    assert_eq!(
        exec.environment,
        Some(record::Environment {
            audit_id: value(b"id", false, false),
            request_uid: value(b"uid", true, true),
            total: 9000,
            searched: 8000,
        })
    );
    // What nobody could look at is not told.
    let exec = decoded(&root_bytes(&layout::Root { flags: 0, ..root }, b"iduid"));
    assert_eq!((exec.descriptors, exec.environment), (None, None));
    let unknown = layout::Root { flags: flags | root_flags::INIT_UNKNOWN, ..root };
    let environment = decoded(&root_bytes(&unknown, b"iduid")).environment.unwrap();
    assert_eq!(environment.audit_id.unwrap().of_init, None);
}

#[test]
fn descriptors_are_what_their_inodes_say() {
    let of = |mode, major: u32, minor| descriptor(layout::Descriptor { mode, rdev: major << 20 | minor });
    assert_eq!(of(0o020_620, 136, 5), Descriptor::Terminal { major: 136, minor: 5 });
    assert_eq!(of(0o020_600, 5, 1), Descriptor::Terminal { major: 5, minor: 1 });
    assert_eq!(of(0o020_666, 1, 5), Descriptor::Other, "/dev/zero");
    assert_eq!(of(0o060_660, 1, 3), Descriptor::Other, "a block device with the number of /dev/null");
    assert_eq!(of(0o100_644, 0, 0), Descriptor::File);
    assert_eq!(of(0o140_777, 0, 0), Descriptor::Socket);
    assert_eq!(of(0o040_755, 0, 0), Descriptor::Other, "a directory");
    assert_eq!(of(0o000_600, 0, 0), Descriptor::Other, "no file at all");
}

#[test]
fn whoever_joined_has_its_ancestors() {
    let mut join = layout::Join::new_zeroed();
    let ancestor = |tgid, name: &[u8; 4]| {
        let mut comm = [0; 16];
        comm[..4].copy_from_slice(name);
        layout::Ancestor { key: TaskKey::new(tgid, u64::from(tgid) * 10), comm }
    };
    let above = [ancestor(7, b"bash"), ancestor(5, b"sshd")];
    join.header = header(kind::JOIN, size_of::<layout::Join>() + 2 * ANCESTOR);
    join.ancestors = 2;
    let bytes = [join.as_bytes(), above.as_bytes()].concat();
    let Ok(RawRecord::Session(Record::Join(decoded))) = decode(&bytes) else { panic!("no join") };
    assert_eq!(
        decoded.ancestors,
        [
            Process { key: above[0].key, parent: above[1].key, comm: b"bash".to_vec() },
            Process { key: above[1].key, parent: TaskKey::NONE, comm: b"sshd".to_vec() },
        ]
    );
    join.ancestors = 3;
    let bytes = [join.as_bytes(), above.as_bytes()].concat();
    assert!(matches!(decode(&bytes), Err(DecodeError::Length(kind::JOIN, _))));
}

#[test]
fn a_memfd_has_only_its_name() {
    let bytes =
        exec_bytes(b"memfd:runc\0", b"tmp\0", b"", b"x\0", exec_flags::MEMFD | exec_flags::EXE_INCOMPLETE);
    let exec = decoded(&bytes);
    assert_eq!(exec.path, b"memfd:runc");
    assert!(exec.executable.memfd && !exec.path_incomplete);
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    let mut bytes = exec_bytes(b"sh\0", b"", b"", b"sh\0", 0);
    bytes.pop();
    assert!(matches!(decode(&bytes), Err(DecodeError::Length(kind::EXEC, _))), "the size is checked");
    let size = short(bytes.len());
    bytes[8..12].copy_from_slice(&size.to_ne_bytes());
    assert!(matches!(decode(&bytes), Err(DecodeError::Length(kind::EXEC, _))), "and the parts are");
}

#[test]
fn a_foreign_record_is_refused() {
    assert_eq!(decode(&[0; 10]), Err(DecodeError::Short(10)));
    let mut other = header(kind::EXIT, 24);
    other.version = 99;
    assert_eq!(decode(other.as_bytes()), Err(DecodeError::Version(99)));
    assert_eq!(decode(header(77, 24).as_bytes()), Err(DecodeError::Kind(77)));
}

proptest! {
    #[test]
    fn bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..700), kind in 0u16..12) {
        let size = bytes.len();
        if size >= 24 {
            bytes[..24].copy_from_slice(header(kind, size).as_bytes());
        }
        let _ = decode(&bytes);
    }

    #[test]
    fn what_the_kernel_sends_comes_out_whole(
        exe in proptest::collection::vec("[a-z]{1,9}", 0..6),
        argv in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let walked: Vec<u8> = exe.iter().rev().flat_map(|c| [c.as_bytes(), b"\0"].concat()).collect();
        let exec = decoded(&exec_bytes(&walked, b"", b"", &argv, 0));
        let expected = if exe.is_empty() { "/".to_owned() } else { format!("/{}", exe.join("/")) };
        prop_assert_eq!(exec.path, expected.into_bytes());
        prop_assert_eq!(exec.argv.bytes, argv);
    }

    #[test]
    fn a_damaged_exec_never_panics(at in 0usize..400, value in any::<u8>()) {
        let root = layout::Root { audit_id_len: 4, ..layout::Root::new_zeroed() };
        let mut bytes = root_bytes(&root, b"name");
        if let Some(byte) = bytes.get_mut(at) { *byte = value; }
        let _ = decode(&bytes);
    }
}
