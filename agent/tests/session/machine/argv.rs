//! Arguments that come in pieces.

use podtrail::{
    event::Body,
    session::record::{Exec, RawArgv},
};

use super::{NOTHING, Run};
use crate::{
    build::{IntoRecord, SECOND, argv, chunk, exec, exit, last, root},
    tell::events,
};

fn long(pid: u32, time: u64) -> Exec {
    Exec { argv: RawArgv { bytes: b"one\0".to_vec(), ..argv(b"one\0two\0three\0") }, ..exec(10, pid, time) }
}

#[test]
fn case_21_a_command_waits_for_its_argv_and_the_rest_of_its_session_behind_it() {
    let mut run = Run::new();
    run.take(root(10, 11, 1000));
    run.take(root(20, 20, 1000));
    assert_eq!(run.take(long(12, 2000)), NOTHING);
    assert_eq!(run.take(exec(10, 13, 2100)), NOTHING);
    assert_eq!(run.take(exec(20, 21, 2100)), ["s2 21 /bin/p21 [p21]"], "another session does not wait");
    assert_eq!(run.take(chunk(12, 2000, 8, b"three\0")), NOTHING);
    assert_eq!(
        run.take(chunk(12, 2000, 4, b"two\0")),
        ["s1 12 /bin/p12 [one two three]", "s1 13 /bin/p13 [p13]"]
    );
    assert_eq!(run.machine.waiting_bytes(), 0);
}

#[test]
fn case_21_chunks_that_never_come_are_a_marked_cut() {
    let ways: [fn(&mut Run) -> Vec<String>; 5] = [
        |run| run.take(exec(10, 12, 3000)),
        |run| run.take(exit(10, 12, 3000)),
        |run| run.take(exec(10, 13, 2000 + SECOND)),
        |run| {
            assert_eq!(run.flush(90 * SECOND), NOTHING, "the reader may be far behind");
            run.flush(91 * SECOND)
        },
        |run| run.finish(),
    ];
    for (index, way) in ways.into_iter().enumerate() {
        let mut run = Run::new();
        run.take(root(10, 11, 1000));
        run.take(long(12, 2000));
        assert!(run.machine.waiting_bytes() > 0);
        let told = way(&mut run);
        assert_eq!(told[0], "s1 12 /bin/p12 [one]", "way {index}");
        let Body::Executed(executed) = run.body(2) else { panic!("{:?}", run.told) };
        assert_eq!((executed.argv.cut, executed.argv.total), (Some(1), 14), "way {index}");
        assert_eq!(run.machine.waiting_bytes(), 0, "way {index}");
        assert_eq!(run.take(chunk(12, 2000, 4, b"two\0")), NOTHING, "way {index}");
    }
}

#[test]
fn a_session_that_ends_while_an_argv_is_incomplete_is_told_in_order() {
    let mut run = Run::new();
    run.take(Exec { root: true, ..long(11, 1000) });
    run.take(long(12, 2000));
    let mut told = run.take(exit(10, 12, 3000));
    told.extend(run.take(last(10, 11, 4000)));
    assert_eq!(
        told,
        [
            "s1 root 11 /bin/p11 [one]",
            "s1 12 /bin/p12 [one]",
            "s1 exited 12 p12 exit 0 1 us",
            "s1 exited 11 p11 exit 0 3 us",
            "s1 ended exit 0, 2 commands, lost 0, 3 us",
        ]
    );
}

#[test]
fn case_21_bytes_of_argv_pass_unchanged() {
    let hostile = b"\0\xff\xfe\0a\nb\0\x1b[2J\0\0";
    let told = events([Exec { argv: argv(hostile), ..root(10, 11, 1000) }.record()]);
    let Body::Executed(executed) = &told[1].body else { panic!("{told:?}") };
    assert_eq!(executed.argv.args, [&b""[..], b"\xff\xfe", b"a\nb", b"\x1b[2J", b""]);
}
