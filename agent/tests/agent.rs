//! `podtrail-agent` as a program: what it says of wrong usage, and with which exit code.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::process::{Command, Output};

fn agent(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_podtrail-agent")).args(args).output().unwrap()
}

/// One line on stderr, nothing on stdout, and this exit code.
fn refused(args: &[&str], code: i32) -> String {
    let Output { status, stdout, stderr } = agent(args);
    let text = String::from_utf8(stderr).unwrap();
    assert_eq!((status.code(), stdout.as_slice()), (Some(code), &b""[..]), "{args:?}: {text}");
    assert_eq!(text.lines().count(), 1, "{args:?}: {text}");
    assert!(!text.contains('\u{1b}'), "{text:?}");
    assert!(text.starts_with("podtrail-agent: "), "{text}");
    text
}

#[test]
fn unknown_flags_and_commands_are_told_in_a_line() {
    let text = refused(&["run", "--stdin"], 2);
    assert!(text.contains("unexpected argument '--stdin' found; see podtrail-agent --help"), "{text}");
    assert!(refused(&["walk"], 2).contains("unrecognized subcommand 'walk'"));
    refused(&["run", "--\u{1b}[2J"], 2);
    refused(&["doctor", "-o", "yaml"], 2);
}

#[test]
fn a_configuration_that_is_not_there_is_named() {
    let text = refused(&["run", "--config", "/nonexistent/agent.toml"], 2);
    assert!(text.contains("cannot read the configuration /nonexistent/agent.toml: No such file"), "{text}");
}

#[test]
fn everything_wrong_in_a_configuration_is_told_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    std::fs::write(&path, "colector = \"x\"\nargv-limit = \"many\"\n").unwrap();
    let path = path.to_str().unwrap();
    let Output { status, stderr, .. } =
        agent(&["run", "--config", path, "--collector", "http://10.0.0.1:9443"]);
    let text = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(2), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].contains(&format!("{path}:1:1: colector: no such key")), "{text}");
    assert!(lines[1].contains(&format!("{path}:2:1: argv-limit: \"many\" is no number of bytes")), "{text}");
    assert!(lines[2].contains("--collector: \"10.0.0.1\" is not on this node"), "{text}");
}

#[test]
fn a_second_agent_is_refused_by_the_pid_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.lock");
    let _first = podtrail::agent::lock::Lock::take(&path).unwrap();
    let text = refused(&["run", "--lock", path.to_str().unwrap(), "--metrics-listen", "none"], 1);
    let pid = std::process::id();
    let expected = format!("another podtrail-agent runs on this node already (pid {pid}): stop it first");
    assert!(text.contains(&expected), "{text}");
}

#[test]
fn help_goes_to_stdout_and_hides_what_is_for_tests() {
    let Output { status, stdout, stderr } = agent(&["run", "--help"]);
    let text = String::from_utf8(stdout).unwrap();
    assert_eq!((status.code(), stderr.as_slice()), (Some(0), &b""[..]));
    assert!(text.contains("--collector <URL>") && !text.contains("--lock"), "{text}");
}

#[test]
fn doctor_says_whether_it_can_run_by_its_exit_code() {
    let Output { status, stdout, stderr } = agent(&["doctor", "-o", "json"]);
    let report: serde_json::Value = serde_json::from_slice(&stdout).unwrap();
    assert_eq!(status.success(), report["canRun"].as_bool().unwrap(), "{report}");
    assert_eq!(String::from_utf8(stderr).unwrap(), "");
    for key in
        ["kernel", "arch", "btf", "capabilities", "cgroups", "hostNamespaces", "hooks", "node", "problems"]
    {
        assert!(report.get(key).is_some(), "{key} is not in {report}");
    }
    let text = String::from_utf8(agent(&["doctor"]).stdout).unwrap();
    let verdict = if status.success() { "The agent can run here." } else { "The agent cannot run here." };
    assert_eq!(text.lines().last(), Some(verdict), "{text}");
}
