//! Arguments: any bytes, any number, any length, and never cut in silence.

use anyhow::{Context, Result, ensure};

use super::{BUSYBOX, nothing_else};
use crate::{
    cases,
    harness::{
        Container, Cx, Session,
        container::ITEST,
        session::{raw_argv, want},
    },
    payload::{hex, sized_argv},
};

cases! {
    "argv",
    SharedAgent: up_to_the_limit_it_is_whole, over_the_limit_head_and_tail_are_kept, not_utf8, an_empty_argv0, no_arguments_at_all,
        newlines_and_escapes, empty_arguments, very_many_arguments, one_very_long_argument, environment_is_not_argv
}

/// Bytes of argv that an agent keeps unless told otherwise.
const LIMIT: usize = 64 * 1024;

/// The session of a payload that becomes busybox with certain arguments.
fn session_of(cx: &Cx, container: &Container, args: &[&str]) -> Result<Session> {
    let ran = container.exec(&[&[ITEST, "payload"], args].concat()).run()?;
    let session = cx.session(container, ran.pid)?;
    ensure!(session.executed().len() == 2, "{}", session.story());
    Ok(session)
}

/// Executes busybox with exactly these arguments; what is told of them must be the same.
fn exactly(cx: &Cx, argv: &[&[u8]], code: i32) -> Result<Session> {
    let container = cx.container()?;
    let hexed: Vec<String> = argv.iter().map(|arg| format!("-{}", hex(arg))).collect();
    let mut args = vec!["exec-raw", BUSYBOX];
    args.extend(hexed.iter().map(String::as_str));
    let session = session_of(cx, &container, &args)?;
    session.expect(&[
        want(ITEST, &[&[ITEST, "payload"], args.as_slice()].concat()).replaced(),
        want(BUSYBOX, argv).exit(code),
    ])?;
    let executed = session.executed()[1];
    let bytes: usize = argv.iter().map(|arg| arg.len() + 1).sum();
    ensure!(executed.argv_bytes == Some(bytes as u64) && executed.truncated == Some(false), "{executed:?}");
    nothing_else(cx, &container, &[&session])?;
    Ok(session)
}

fn up_to_the_limit_it_is_whole(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    // Around the sizes of the pieces that it comes in, too.
    for bytes in [16_383, 16_384, 16_385, 32_767, 32_768, 32_769, 49_152, 65_535, LIMIT] {
        let session = session_of(cx, &container, &["exec-sized", BUSYBOX, &bytes.to_string()])?;
        let executed = session.executed()[1];
        ensure!(executed.argv_bytes == Some(bytes as u64), "{bytes}: {:?}", executed.argv_bytes);
        ensure!(executed.truncated == Some(false), "{bytes}: cut");
        ensure!(executed.argv == sized_argv(bytes), "{bytes}: other arguments");
    }
    Ok(())
}

fn over_the_limit_head_and_tail_are_kept(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    for bytes in [LIMIT + 1, LIMIT + 5000, 2 * LIMIT, 300_000] {
        let session = session_of(cx, &container, &["exec-sized", BUSYBOX, &bytes.to_string()])?;
        let executed = session.executed()[1];
        ensure!(executed.argv_bytes == Some(bytes as u64), "{bytes}: {:?}", executed.argv_bytes);
        ensure!(executed.truncated == Some(true), "{bytes}: not cut");
        let all = sized_argv(bytes);
        let cut = executed.argv_cut_index as usize;
        let argv = &executed.argv;
        ensure!(cut > 0 && cut < argv.len(), "{bytes}: cut at {cut} of {}", argv.len());
        let (head, tail) = argv.split_at(cut);
        // The head's last may lack its end, the tail's first its beginning; everything else is exact.
        let (last, whole) = head.split_last().context("no head")?;
        ensure!(whole == &all[..whole.len()], "{bytes}: another head");
        ensure!(all[whole.len()].starts_with(last.as_str()), "{bytes}: the head ends with {last:?}");
        let (first, whole) = tail.split_first().context("no tail")?;
        ensure!(whole == &all[all.len() - whole.len()..], "{bytes}: another tail");
        ensure!(
            all[all.len() - whole.len() - 1].ends_with(first.as_str()),
            "{bytes}: the tail begins with {first:?}"
        );
        let kept: usize = argv.iter().map(|arg| arg.len() + 1).sum();
        ensure!(kept <= LIMIT + 2 && kept > LIMIT - 64, "{bytes}: {kept} kept");
    }
    Ok(())
}

fn not_utf8(cx: &Cx) -> Result<()> {
    let session = exactly(cx, &[b"true", b"\xff\xfe", b"caf\xe9", b"\xc3\xa9", b"\x80"], 0)?;
    let executed = session.executed()[1];
    ensure!(executed.argv_raw.len() == 5, "no exact bytes: {executed:?}");
    ensure!(
        executed.argv == ["true", "\u{fffd}\u{fffd}", "caf\u{fffd}", "é", "\u{fffd}"],
        "{:?}",
        executed.argv
    );
    Ok(())
}

fn an_empty_argv0(cx: &Cx) -> Result<()> {
    exactly(cx, &[b"", b"true"], 127)?;
    Ok(())
}

fn no_arguments_at_all(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let session = session_of(cx, &container, &["exec-raw", BUSYBOX])?;
    // Since Linux 5.18 the kernel gives such a program one empty argument; before, it got none.
    let argv = raw_argv(session.executed()[1]);
    ensure!(argv.is_empty() || argv == [b""], "{argv:?}");
    nothing_else(cx, &container, &[&session])
}

fn newlines_and_escapes(cx: &Cx) -> Result<()> {
    let session = exactly(
        cx,
        &[
            b"true",
            b"line one\nline two",
            b"\x1b[2J\x1b]0;title\x07",
            b"tab\tbell\x07",
            b"\"quoted\" \\ \x7f",
            b"\xc2\x9b31m",
        ],
        0,
    )?;
    ensure!(session.executed()[1].argv_raw.is_empty(), "UTF-8 needs no second form");
    Ok(())
}

fn empty_arguments(cx: &Cx) -> Result<()> {
    exactly(cx, &[b"true", b"", b"", b"x", b""], 0)?;
    Ok(())
}

fn very_many_arguments(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let script =
        "set --; i=0; while [ $i -lt 5000 ]; do set -- \"$@\" $i; i=$((i+1)); done; /bin/true \"$@\"; exit";
    let script =
        script.replace("set -- \"$@\" $i", "a=\"$a $i\"").replace("/bin/true \"$@\"", "/bin/true $a");
    let pid = container.sh(&script).run()?.ok()?.pid;
    let session = cx.session(&container, pid)?;
    let executed = session.command(&["/bin/true"])?;
    let wanted: Vec<String> =
        std::iter::once("/bin/true".to_owned()).chain((0..5000).map(|i: u32| i.to_string())).collect();
    ensure!(
        executed.argv == wanted && executed.truncated == Some(false),
        "{} arguments",
        executed.argv.len()
    );
    Ok(())
}

fn one_very_long_argument(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let long = "y".repeat(100_000);
    let pid = container.exec(&["/bin/true", &long, "end"]).run()?.ok()?.pid;
    let session = cx.session(&container, pid)?;
    let executed = session.command(&["/bin/true"])?;
    ensure!(executed.argv_bytes == Some(100_000 + 1 + 10 + 4), "{:?}", executed.argv_bytes);
    ensure!(executed.truncated == Some(true), "not cut");
    ensure!(executed.argv.last().is_some_and(|arg| arg == "end"), "the end is not kept");
    Ok(())
}

fn environment_is_not_argv(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let script = "SECRET=in-the-environment /bin/true visible; exit";
    let pid = container.sh(script).run()?.ok()?.pid;
    let session = cx.session(&container, pid)?;
    session.expect(&[want(BUSYBOX, &super::sh(script)), want(BUSYBOX, &["/bin/true", "visible"])])
}
