use super::*;
use crate::event::{BootTime, TaskKey};

const OFFSET: WallOffset = WallOffset(1_700_000_000_000_000_000);

fn task() -> Process {
    Process { key: TaskKey::new(77, 5), parent: TaskKey::new(1, 2), comm: b"s\xffh".to_vec() }
}

fn executed_with(args: Vec<Vec<u8>>, path: &[u8]) -> Event {
    Event {
        time: BootTime(1_500_000_001),
        container: Some(42),
        session: Some(SessionId("s".to_owned())),
        body: Body::Executed(Box::new(Executed {
            process: task(),
            path: path.to_vec(),
            cwd: b"/".to_vec(),
            path_incomplete: false,
            argv: Argv { total: args.iter().map(|a| a.len() as u64 + 1).sum(), args, cut: None },
            script: None,
            credentials: Credentials::default(),
            tty: Some(Tty { major: 136, minor: 0, name: "pts/0".to_owned() }),
            executable: Executable::default(),
            namespaces: Namespaces { mnt: 1, pid: 2, user: 3, net: 4 },
            cgroup_id: 43,
            root: true,
            argv_over_budget: false,
            spoof_suspected: false,
            not_found: 0,
        })),
    }
}

fn out(event: Event) -> v1::Executed {
    match super::event(event, None, OFFSET).body {
        Some(v1::event::Body::Executed(executed)) => executed,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_exec_that_failed_says_why() {
    let failed = |error| {
        let failed = ExecFailed {
            process: task(),
            path: b"/tmp/\xff".to_vec(),
            cwd: b"/tmp".to_vec(),
            path_incomplete: false,
            argv: vec![b"x".to_vec(), b"\xff".to_vec()],
            argv_cut: true,
            credentials: Credentials { uid: 7, ..Credentials::default() },
            error,
            attempts: 3,
        };
        let body = Body::ExecFailed(Box::new(failed));
        match event(Event { time: BootTime(1), container: None, session: None, body }, None, OFFSET).body {
            Some(v1::event::Body::ExecFailed(failed)) => failed,
            other => panic!("{other:?}"),
        }
    };
    let out = failed(13);
    assert_eq!((out.errno, out.error.as_str(), out.attempts), (Some(13), "EACCES", Some(3)));
    assert_eq!(
        (out.path.as_str(), &out.path_raw[..], out.cwd.as_str()),
        ("/tmp/\u{fffd}", &b"/tmp/\xff"[..], "/tmp")
    );
    assert_eq!(
        (out.argv, out.argv_raw[1].as_ref()),
        (vec!["x".to_owned(), "\u{fffd}".to_owned()], &b"\xff"[..])
    );
    assert_eq!((out.truncated, out.credentials.unwrap().uid), (Some(true), Some(7)));
    assert_eq!((failed(8).error, failed(4095).error), ("ENOEXEC".to_owned(), String::new()));
}

#[test]
fn plain_text_goes_out_once() {
    let executed = out(executed_with(vec![b"ls".to_vec(), "ä".into()], b"/bin/ls"));
    assert_eq!(executed.argv, ["ls", "ä"]);
    assert_eq!(executed.argv_raw, Vec::<bytes::Bytes>::new());
    assert_eq!((executed.path.as_str(), executed.path_raw.len()), ("/bin/ls", 0));
    assert_eq!((executed.argv_bytes, executed.truncated, executed.root), (Some(6), Some(false), Some(true)));
}

#[test]
fn bytes_that_are_no_text_are_kept_exactly() {
    let args = vec![b"a".to_vec(), b"\xff\x00\x1b[2J\n".to_vec(), Vec::new()];
    let executed = out(executed_with(args.clone(), b"/tmp/\xc3\x28"));
    assert_eq!(executed.argv, ["a", "\u{fffd}\0\u{1b}[2J\n", ""]);
    assert_eq!(executed.argv_raw, args, "all of them, so that indexes agree");
    assert_eq!((executed.path.as_str(), &executed.path_raw[..]), ("/tmp/\u{fffd}(", &b"/tmp/\xc3\x28"[..]));
    assert_eq!(executed.process.unwrap().comm, "s\u{fffd}h");
}

#[test]
fn a_cut_argv_says_where() {
    let mut event = executed_with(vec![b"x".to_vec(), b"y".to_vec()], b"/x");
    if let Body::Executed(executed) = &mut event.body {
        executed.argv.total = 1 << 40;
        executed.argv.cut = Some(1);
    }
    let executed = out(event);
    assert_eq!(
        (executed.truncated, executed.argv_cut_index, executed.argv_bytes),
        (Some(true), 1, Some(1 << 40))
    );
}

#[test]
fn time_is_the_wall_clocks_and_the_container_at_least_its_number() {
    let out = event(executed_with(Vec::new(), b""), None, OFFSET);
    assert_eq!(out.time, Some(Timestamp { seconds: 1_700_000_001, nanos: 500_000_001 }));
    assert_eq!(out.boottime_ns, 1_500_000_001);
    assert_eq!(out.container.unwrap().cgroup_id, 42);
    assert_eq!(out.id, None);
}

#[test]
fn times_before_1970_and_beyond_every_calendar_do_not_panic() {
    assert_eq!(WallOffset(-1).wall(BootTime(0)), Timestamp { seconds: -1, nanos: 999_999_999 });
    let far = WallOffset(i128::MAX).wall(BootTime(u64::MAX));
    assert_eq!(far.seconds, i64::MAX);
    assert_eq!(duration(u64::MAX).seconds, 18_446_744_073);
}

#[test]
fn exit_by_signal_has_no_code() {
    let out = body(
        Body::Exited(Exited {
            process: task(),
            status: ExitStatus::Signal { signal: 9, core: true },
            duration_ns: 1_000_000_002,
            late: true,
        }),
        OFFSET,
    );
    let v1::event::Body::Exited(exited) = out else { panic!("{out:?}") };
    assert_eq!((exited.exit_code, exited.signal, exited.core_dumped), (None, Some(9), true));
    assert!(exited.late);
    assert_eq!(exited.duration, Some(Duration { seconds: 1, nanos: 2 }));
}

#[test]
fn the_offset_is_that_of_the_two_clocks() {
    let wall = crate::clock::wall().duration_since(UNIX_EPOCH).unwrap();
    let now = WallOffset::measure().wall(boot_now());
    let difference = i128::from(now.seconds) * 1_000_000_000 + i128::from(now.nanos)
        - i128::try_from(wall.as_nanos()).unwrap();
    assert!((0..2_000_000_000).contains(&difference), "{difference} ns");
}

use std::time::UNIX_EPOCH;
