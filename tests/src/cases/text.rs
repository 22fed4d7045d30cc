//! From a container to a person's terminal: what is typed there must be read here, and do nothing here.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::ffi::OsStrExt,
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use nix::pty::openpty;
use serde_json::Value;

use super::{BUSYBOX, only_session_of};
use crate::{
    cases,
    harness::{
        Container, Cx, Session,
        collector::{event, podtrail, text},
        container::ITEST,
        daemon, process,
    },
    payload::hex,
};

cases! {
    "text",
    SharedAgent: no_control_byte_reaches_a_pipe, a_terminal_gets_colours_and_nothing_else,
        a_timeline_tells_everything, json_is_what_the_agent_printed, the_names_that_scripts_rely_on,
        sessions_are_listed, an_unknown_session
}

/// What a terminal would act upon, a reader be deceived by, or a parser split at.
const HOSTILE: [&[u8]; 9] = [
    b"true",
    b"\x1b]0;title\x07\x1b[2J\x1b[31mred",
    b"line one\nline two\r\x08\x0b\x0c",
    b"\xff\xfe\x80",
    b"\xc2\x9b31m c1",
    b"\xe2\x80\xae rtl \xe2\x80\x8b zero",
    b"\x7f",
    b"tab\there",
    b"",
];

/// A session that runs a program of an odd name with odd arguments in an odd directory.
fn hostile(cx: &Cx) -> Result<(Container, Session)> {
    let container = cx.container()?;
    let dir = container.path("/tmp").join(std::ffi::OsStr::from_bytes(b"\x1b[2Jdir\xff\n"));
    fs::create_dir(&dir)?;
    fs::copy(container.path(BUSYBOX), dir.join(std::ffi::OsStr::from_bytes(b"busybox\x1b[7m\n")))?;
    let args: Vec<String> = HOSTILE.iter().map(|arg| format!("-{}", hex(arg))).collect();
    let script = format!("cd /tmp/*dir*; {ITEST} payload exec-raw ./busybox* {}; exit 0", args.join(" "));
    let session = only_session_of(cx, &container, &script)?;
    ensure!(session.executed().len() == 3, "{}", session.story());
    Ok((container, session))
}

/// When a session began, for `--from`.
fn beginning(cx: &Cx, session: &Session) -> Result<String> {
    let first =
        cx.agent()?.raw().into_iter().find(|line| line.contains(&session.id)).context("not printed")?;
    let first: Value = serde_json::from_str(&first)?;
    first["time"].as_str().map(str::to_owned).context("no time")
}

fn socket(cx: &Cx) -> Result<String> {
    Ok(cx.agent()?.socket.display().to_string())
}

/// Fails if a terminal would do anything but show this and begin new lines.
fn harmless(output: &str) -> Result<()> {
    let bad = output.chars().find(|&c| {
        c != '\n'
            && (c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{feff}'))
    });
    ensure!(bad.is_none(), "{bad:?} in the output:\n{}", output.escape_debug());
    Ok(())
}

fn no_control_byte_reaches_a_pipe(cx: &Cx) -> Result<()> {
    let (_container, session) = hostile(cx)?;
    let socket = socket(cx)?;
    let timeline = text(&podtrail(&["session", &session.id, "--socket", &socket])?)?;
    harmless(&timeline)?;
    // And everything that was there can still be told.
    for shown in [
        r"\x1b]0;title\x07\x1b[2J",
        r"line one\nline two\r",
        r"\xff\xfe\x80",
        r"\u{9b}31m c1",
        r"\u{202e}",
        r"\x7f",
        r"tab\there",
    ] {
        ensure!(timeline.contains(shown), "no {shown} in:\n{timeline}");
    }
    let tail =
        text(&podtrail(&["tail", "--socket", &socket, "--from", &beginning(cx, &session)?, "--no-follow"])?)?;
    harmless(&tail)?;
    ensure!(tail.contains(r"\xff\xfe\x80"), "it is not in the tail");
    harmless(&text(&podtrail(&["sessions", "--socket", &socket])?)?)
}

fn a_terminal_gets_colours_and_nothing_else(cx: &Cx) -> Result<()> {
    let (_container, session) = hostile(cx)?;
    let socket = socket(cx)?;
    for no_color in [false, true] {
        let pty = openpty(None, None)?;
        let mut command = daemon::command("podtrail");
        command.args(["session", &session.id, "--socket", &socket]).env("TERM", "xterm");
        if no_color {
            command.env("NO_COLOR", "1");
        }
        command.stdin(Stdio::null()).stdout(pty.slave.try_clone()?).stderr(pty.slave);
        let mut child = command.spawn()?;
        drop(command);
        let mut output = Vec::new();
        let _ = File::from(pty.master).read_to_end(&mut output); // it ends with an error, as terminals do
        ensure!(process::reap(&mut child, "podtrail ends")?.success(), "it failed");
        let output = String::from_utf8(output)?.replace("\r\n", "\n");
        let (plain, colours) = without_colours(&output)?;
        harmless(&plain)?;
        ensure!((colours == 0) == no_color, "{colours} colours with NO_COLOR {no_color}");
    }
    Ok(())
}

/// Text without its `ESC [ digits m`, and how many there were.
fn without_colours(text: &str) -> Result<(String, usize)> {
    let mut parts = text.split("\x1b[");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    let mut count = 0;
    for part in parts {
        let (code, rest) = part.split_once('m').context("an escape that is no colour")?;
        ensure!(
            code.chars().all(|c| c.is_ascii_digit() || c == ';'),
            "an escape that is no colour: {code:?}"
        );
        plain.push_str(rest);
        count += 1;
    }
    Ok((plain, count))
}

fn a_timeline_tells_everything(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let ran = container.sh("/bin/echo 'a b' c; /bin/sh -c 'kill -9 $$'; /bin/false; exit 3").run()?;
    let session = cx.session(&container, ran.pid)?;
    let timeline = text(&podtrail(&["session", &session.id, "--socket", &socket(cx)?])?)?;
    for shown in [
        session.id.get(..8).context("a short id")?,
        "runtime exec",
        "exit 3",
        "/bin/echo 'a b' c",
        "/bin/false",
        "exit 1",
        "killed",
        "4 commands",
    ] {
        ensure!(timeline.contains(shown), "no {shown:?} in:\n{timeline}");
    }
    // A beginning of the id is enough, as long as it is unique.
    let short = session.id.get(..12).context("a short id")?;
    ensure!(
        text(&podtrail(&["session", short, "--socket", &socket(cx)?])?)? == timeline,
        "another by {short}"
    );
    Ok(())
}

fn json_is_what_the_agent_printed(cx: &Cx) -> Result<()> {
    let (_container, session) = hostile(cx)?;
    let socket = socket(cx)?;
    let tail =
        text(&podtrail(&["tail", "--socket", &socket, "--from", "oldest", "--no-follow", "-o", "json"])?)?;
    let tailed: Vec<_> = tail.lines().map(event).collect::<Result<_>>()?;
    let tailed: Vec<_> = tailed.iter().filter(|event| event.session_id == session.id).collect();
    let printed: Vec<_> = session.events.iter().map(AsRef::as_ref).collect();
    ensure!(tailed == printed, "the socket tells other events than standard output");
    Ok(())
}

fn the_names_that_scripts_rely_on(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let ran = container.sh("/bin/true; exit 3").run()?;
    let session = cx.session(&container, ran.pid)?;
    let lines: Vec<Value> =
        cx.agent()?.raw().iter().map(|line| serde_json::from_str(line)).collect::<Result<_, _>>()?;
    let mine: Vec<&Value> = lines.iter().filter(|line| line["sessionId"] == *session.id).collect();
    let of = |body: &str| {
        mine.iter().find(|line| line.get(body).is_some()).copied().with_context(|| format!("no {body}"))
    };
    let started = of("sessionStarted")?;
    ensure!(started["container"]["id"] == *container.id, "{started}");
    ensure!(started["sessionStarted"]["method"] == "RUNTIME_EXEC", "{started}");
    ensure!(started["sessionStarted"].get("tty").is_none_or(Value::is_null), "{started}");
    let executed = &of("executed")?["executed"];
    ensure!(executed["path"] == BUSYBOX && executed["argv"][0] == "/bin/sh", "{executed}");
    ensure!(executed["argvBytes"] == "29" && executed["truncated"] == false, "{executed}");
    let process = &executed["process"];
    ensure!(process["pid"] == ran.pid, "{process}");
    ensure!(process["startTime"].is_string() && process["parentPid"].is_u64(), "{process}");
    let exited: Vec<&Value> = mine.iter().filter_map(|line| line.get("exited")).collect();
    ensure!(
        exited.iter().any(|exited| exited["exitCode"] == 0) && exited.iter().any(|e| e["exitCode"] == 3),
        "{exited:?}"
    );
    ensure!(exited.iter().all(|exited| exited.get("signal").is_none_or(Value::is_null)), "{exited:?}");
    let ended = &of("sessionEnded")?["sessionEnded"];
    ensure!(ended["commands"] == "2", "{ended}");
    ensure!(started["id"]["node"] == "itest" && started["id"]["seq"].is_string(), "{started}");
    ensure!(started["id"].get("epoch").is_some(), "{started}");
    ensure!(started["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{started}");
    Ok(())
}

fn sessions_are_listed(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let done = cx.session(&container, container.sh("exit 3").run()?.pid)?;
    container.gate("/gate")?;
    let open = container.sh("read x </gate; exit 0").detached().run()?.ok()?.pid;
    let open = cx.open_session(&container, open)?;
    let socket = socket(cx)?;
    let args = ["sessions", "--socket", &socket, "--container", &container.id];
    let table = text(&podtrail(&args)?)?;
    let short = |session: &Session| session.id.get(..4).unwrap_or_default().to_owned();
    for shown in [short(&done), short(&open)] {
        ensure!(table.contains(&shown), "no {shown} in:\n{table}");
    }
    let json = text(&podtrail(&[&args[..], &["-o", "json"]].concat())?)?;
    let sessions: Vec<Value> = json.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let ids: Vec<&Value> = sessions.iter().map(|session| &session["id"]).collect();
    ensure!(ids == [&*open.id, &*done.id], "not the newest first: {json}");
    ensure!(sessions[1]["ended"]["exitCode"] == 3 && sessions[0].get("ended").is_none(), "{json}");
    container.tell("/gate", "go")?;
    Ok(())
}

fn an_unknown_session(cx: &Cx) -> Result<()> {
    let output = podtrail(&["session", "0000nosuchsession", "--socket", &socket(cx)?])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1) && output.stdout.is_empty(), "{output:?}");
    ensure!(said.lines().count() == 1 && said.contains("0000nosuchsession"), "{said}");
    Ok(())
}
