//! How a session's root begins: what its environment names, and what its descriptors are open to.

use std::{fs, os::unix::net::UnixStream, process::Command};

use anyhow::{Context, Result, ensure};
use podtrail_proto::v1::SessionStarted;

use super::{BUSYBOX, entries::directory, the_session};
use crate::{
    cases,
    harness::{Container, Cx, Session, Spec, container::ITEST, host, process, want},
};

cases! {
    "roots",
    SharedAgent: ids_that_a_runtime_hands_down, the_first_value_wins, names_that_are_none,
        a_value_anywhere_in_a_page, a_value_behind_a_megabyte, a_search_that_is_given_up,
        values_that_are_too_long, ids_of_the_containers_own_environment, ids_that_no_runtime_put_there,
        another_id_within_a_session, what_descriptors_are_open_to
}

const AUDIT: &str = "KUBERNETES_EXEC_AUDIT_ID";
const REQUEST: &str = "SPO_EXEC_REQUEST_UID";
const ID: &str = "0b9a3f6e-5d2c-4f1a-9d7e-1c2b3a4d5e6f";
const UID: &str = "7f6e5d4c-3b2a-4190-8f7e-6d5c4b3a2918";

fn var(name: &str, value: &str) -> String {
    format!("{name}={value}")
}

/// Who was named, and by whom nobody was.
fn ids(started: &SessionStarted) -> (&str, &str, Vec<&str>) {
    let spoofed = started.spoofed.iter().map(String::as_str).collect();
    (&started.exec_audit_id, &started.exec_request_uid, spoofed)
}

fn says(session: &Session, line: &str) -> Result<()> {
    let evidence = &session.started()?.evidence;
    ensure!(evidence.iter().any(|said| said == line), "no {line:?}: {}", session.story());
    Ok(())
}

/// Runs `true` in a container with exactly this environment, as its session's root.
fn with(cx: &Cx, container: &Container, environment: &[String]) -> Result<Session> {
    let file = container.dir().join("environment");
    let bytes: Vec<u8> = environment.iter().flat_map(|variable| variable.bytes().chain([0])).collect();
    fs::write(&file, bytes)?;
    let (file, dir, init) = (file.display().to_string(), directory(container)?, container.init.to_string());
    let args = ["clone-into-with", &file, &dir, &init, "/bin/true"];
    let output = process::succeed(process::payload(&args))?;
    let session = cx.session(container, String::from_utf8(output.stdout)?.trim().parse()?)?;
    session.expect(&[want(BUSYBOX, &["/bin/true"])])?;
    Ok(session)
}

fn ids_that_a_runtime_hands_down(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let (both, none) = ([var(AUDIT, ID), var(REQUEST, UID)], []);
    let (unknown, empty) = ([var(AUDIT, "unknown")], [var(AUDIT, ""), "SECRET=swordfish".to_owned()]);
    let cases: [(&[String], _, _); 4] =
        [(&both, ID, UID), (&none, "", ""), (&unknown, "unknown", ""), (&empty, "", "")];
    for (environment, audit, request) in cases {
        let variables: Vec<&str> = environment.iter().map(String::as_str).collect();
        let pid = container.exec(&["/bin/true"]).environment(&variables).run()?.ok()?.pid;
        let session = cx.session(&container, pid)?;
        ensure!(ids(session.started()?) == (audit, request, vec![]), "{}", session.story());
        if !audit.is_empty() {
            says(&session, "its environment has KUBERNETES_EXEC_AUDIT_ID")?;
        }
        ensure!(!session.executed()[0].spoof_suspected, "{}", session.story());
        ensure!(!format!("{:?}", session.events).contains("swordfish"), "an environment left the kernel");
    }
    Ok(())
}

fn the_first_value_wins(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let environment = [
        "PATH=/bin".to_owned(),
        var(REQUEST, UID),
        var(AUDIT, ID),
        var(AUDIT, "second"),
        var(REQUEST, "second"),
    ];
    let session = with(cx, &container, &environment)?;
    ensure!(ids(session.started()?) == (ID, UID, vec![]), "{}", session.story());
    // An empty one is the first, too.
    let session = with(cx, &container, &[var(AUDIT, ""), var(AUDIT, ID)])?;
    ensure!(ids(session.started()?) == ("", "", vec![]), "{}", session.story());
    says(&session, "its environment has KUBERNETES_EXEC_AUDIT_ID, empty")
}

fn names_that_are_none(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let environment = [
        format!("X{AUDIT}={ID}"),
        format!("A={AUDIT}={ID}"),
        format!("{AUDIT}X={ID}"),
        AUDIT.to_owned(),
        format!("{}={ID}", AUDIT.to_lowercase()),
        format!("_EXEC_AUDIT_ID={ID}"),
        format!("{REQUEST}_={UID}"),
        format!("_{REQUEST}={UID}"),
        format!("\n{REQUEST}={UID}"),
    ];
    let session = with(cx, &container, &environment)?;
    ensure!(ids(session.started()?) == ("", "", vec![]), "{}", session.story());
    // They do not hide one that is.
    let session = with(cx, &container, &[&environment[..], &[var(AUDIT, ID)]].concat())?;
    ensure!(ids(session.started()?) == (ID, "", vec![]), "{}", session.story());
    Ok(())
}

/// The environment ends below the program's name and one word, at the end of a page (fs/exec.c): so what is behind a variable
/// says where in a page it stands. Here it begins `before` bytes before a page.
fn at_a_page(variable: &str, before: usize) -> [String; 2] {
    let above = 8 + "/bin/true\0".len();
    // variable, NUL, filler, NUL, program's name, word: from `before` bytes before the last page's beginning to its end.
    let filler = 4096 + before - above - (variable.len() + 1) - 1;
    [variable.to_owned(), format!("Z={}", "z".repeat(filler - 2))]
}

fn a_value_anywhere_in_a_page(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    for (name, value) in [(AUDIT, ID), (REQUEST, UID)] {
        let variable = var(name, value);
        // Its name, its `=`, its value or its end at a page's beginning, and everywhere within eight bytes.
        for before in
            (0..=variable.len() + 1).filter(|at| *at < 10 || *at % 5 == 0 || *at + 4 > variable.len())
        {
            let [variable, filler] = at_a_page(&variable, before);
            let session = with(cx, &container, &["A=b".to_owned(), variable, filler])?;
            let expected = if name == AUDIT { (ID, "", vec![]) } else { ("", UID, vec![]) };
            ensure!(ids(session.started()?) == expected, "{before} before a page: {}", session.story());
        }
    }
    Ok(())
}

fn a_value_behind_a_megabyte(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let mut environment: Vec<String> = (0..14).map(|n| format!("LONG_{n}={}", "x".repeat(99_000))).collect();
    environment.extend([var(AUDIT, ID), "LAST=1".to_owned(), var(REQUEST, UID)]);
    let session = with(cx, &container, &environment)?;
    ensure!(ids(session.started()?) == (ID, UID, vec![]), "{}", session.story());
    ensure!(!session.started()?.evidence.iter().any(|line| line.contains("searched")), "{}", session.story());
    Ok(())
}

fn a_search_that_is_given_up(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    // Thousands of words that look like a name's, and are none: at one place of eight in memory, whichever that is.
    let mut environment: Vec<String> =
        (0..8).map(|n| format!("L{n}={}12345", "_EXEC_AU".repeat(12_000))).collect();
    environment.push(var(AUDIT, ID));
    let session = with(cx, &container, &environment)?;
    ensure!(ids(session.started()?) == ("", "", vec![]), "{}", session.story());
    let given_up = |line: &String| line.ends_with("bytes of its environment could be searched");
    ensure!(session.started()?.evidence.iter().any(given_up), "{}", session.story());
    Ok(())
}

fn values_that_are_too_long(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let (most, more) = ("x".repeat(128), "x".repeat(129));
    let session = with(cx, &container, &[var(AUDIT, &most)])?;
    ensure!(ids(session.started()?) == (&most, "", vec![]), "{}", session.story());
    for long in [more.clone(), "x".repeat(100_000)] {
        let session = with(cx, &container, &[var(AUDIT, &long), var(REQUEST, UID)])?;
        let cut = var(AUDIT, &most);
        ensure!(ids(session.started()?) == ("", UID, vec![&*cut]), "{}", session.story());
        says(&session, "its environment has KUBERNETES_EXEC_AUDIT_ID, longer than any: not used")?;
    }
    Ok(())
}

fn ids_of_the_containers_own_environment(cx: &Cx) -> Result<()> {
    let own = vec![var(AUDIT, "forged")];
    let container = cx.start(Spec { environment: own, ..Spec::default() })?;
    let (audit, request) = (var(AUDIT, ID), var(REQUEST, UID));
    let pid = container.exec(&["/bin/true"]).environment(&[&audit, &request]).run()?.ok()?.pid;
    let session = cx.session(&container, pid)?;
    // Of the one the container has something to say, of the other it has not.
    ensure!(ids(session.started()?) == ("", UID, vec![&*audit]), "{}", session.story());
    says(
        &session,
        "its environment has KUBERNETES_EXEC_AUDIT_ID, and so has that of the container's init: not used",
    )
}

fn ids_that_no_runtime_put_there(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let busybox = host().busybox.as_ref().context("no busybox")?;
    let status = Command::new(busybox)
        .args(["nsenter", "-t", &container.init.to_string(), "-m", "-p", "/bin/true"])
        .env(AUDIT, ID)
        .status()?;
    ensure!(status.success(), "{status}");
    let session = the_session(cx, &container)?;
    let spoofed = var(AUDIT, ID);
    ensure!(ids(session.started()?) == ("", "", vec![&*spoofed]), "{}", session.story());
    says(&session, "its environment has KUBERNETES_EXEC_AUDIT_ID, and no runtime put it there: not used")
}

fn another_id_within_a_session(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    let script = format!(
        "/bin/true 1; {AUDIT}=forged /bin/true 2; {REQUEST}=forged /bin/true 3; /bin/env -i /bin/true 4; exit"
    );
    let audit = var(AUDIT, ID);
    for (environment, suspected) in [(vec![&*audit], ["2", "3"]), (vec![], ["2", "3"])] {
        let pid = container.sh(&script).environment(&environment).run()?.ok()?.pid;
        let session = cx.session(&container, pid)?;
        let id = if environment.is_empty() { "" } else { ID };
        ensure!(ids(session.started()?) == (id, "", vec![]), "{}", session.story());
        let flagged: Vec<&str> = session
            .executed()
            .iter()
            .filter(|executed| executed.spoof_suspected)
            .filter_map(|executed| executed.argv.last().map(String::as_str))
            .collect();
        ensure!(flagged == suspected, "{flagged:?}: {}", session.story());
    }
    // The root itself goes on as another program: it is no root any more.
    fs::write(container.path("/forged"), format!("{AUDIT}=forged\0"))?;
    let exec = container.exec(&[ITEST, "payload", "exec-with", "/forged", "/bin/true"]);
    let session = cx.session(&container, exec.environment(&[&audit]).run()?.ok()?.pid)?;
    ensure!(ids(session.started()?) == (ID, "", vec![]), "{}", session.story());
    let [root, after] = session.executed()[..] else { anyhow::bail!("not two: {}", session.story()) };
    ensure!(!root.spoof_suspected && after.spoof_suspected, "{}", session.story());
    Ok(())
}

fn what_descriptors_are_open_to(cx: &Cx) -> Result<()> {
    let container = cx.container()?;
    // What runc hands on, as a shim wants it; undetached, runc makes pipes of its own.
    let session = cx.session(&container, container.exec(&["/bin/true"]).run()?.ok()?.pid)?;
    says(&session, "stdin is a pipe, stdout a pipe, stderr a pipe")?;
    let session = cx.session(&container, container.exec(&["/bin/true"]).detached().run()?.ok()?.pid)?;
    says(&session, "stdin is /dev/null, stdout /dev/null, stderr /dev/null")?;
    let session =
        cx.session(&container, container.exec(&["/bin/true"]).stdin().detached().run()?.ok()?.pid)?;
    says(&session, "stdin is a pipe, stdout /dev/null, stderr /dev/null")?;
    for detached in [false, true] {
        let exec = container.exec(&["/bin/sh", "-c", "read x; exit"]).tty();
        let mut running = if detached { exec.detached() } else { exec }.spawn()?;
        running.type_in("\n")?;
        let session = cx.session(&container, running.pid)?;
        drop(running);
        let started = session.started()?;
        let tty = started.tty.as_ref().context("no terminal")?;
        let terminal = format!("terminal {}:{}", tty.major, tty.minor);
        says(&session, &format!("stdin is {terminal}, stdout {terminal}, stderr {terminal}"))?;
    }
    // Files and sockets, as only somebody on the node gives them.
    let (ours, theirs) = UnixStream::pair()?;
    let (dir, init) = (directory(&container)?, container.init.to_string());
    let mut command = process::payload(&["clone-into", &dir, &init, "/bin/true"]);
    let file = fs::File::create(container.dir().join("errors"))?;
    command.stdin(std::os::fd::OwnedFd::from(theirs)).stderr(file);
    let pid = String::from_utf8(process::succeed(command)?.stdout)?.trim().parse()?;
    drop(ours);
    says(&cx.session(&container, pid)?, "stdin is a socket, stdout a pipe, stderr a file")
}
