use podtrail_proto::{Duration, Timestamp, v1};

use super::*;

/// A shell's command in a pod.
fn executed() -> v1::Event {
    let labels = [("app", "payments"), ("app.kubernetes.io/name", "pay")];
    let pod = v1::Pod {
        namespace: "prod".to_owned(),
        name: "payments-0".to_owned(),
        labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        ..Default::default()
    };
    let executed = v1::Executed {
        process: Some(v1::Process { pid: 4711, start_time: 12, parent_pid: 1, ..Default::default() }),
        path: "/usr/bin/curl".to_owned(),
        path_raw: vec![0xff, b'x'].into(),
        argv: ["curl", "-s", "https://example.org/Ä"].map(str::to_owned).to_vec(),
        argv_bytes: Some(30),
        root: Some(false),
        credentials: Some(v1::Credentials {
            uid: Some(0),
            effective_capabilities: u64::MAX,
            ..Default::default()
        }),
        ..Default::default()
    };
    v1::Event {
        id: Some(v1::EventId { node: "node-1".to_owned(), seq: 7, ..Default::default() }),
        time: Some(Timestamp { seconds: 1_795_382_440, nanos: 500_000_000 }),
        container: Some(v1::Container { pod: Some(pod), ..Default::default() }),
        session_id: "s1".to_owned(),
        body: Some(Body::Executed(executed)),
        ..Default::default()
    }
}

fn started() -> v1::Event {
    let started = v1::SessionStarted {
        method: Some(v1::EntryMethod::RuntimeExec.into()),
        interactive: Some(true),
        ..Default::default()
    };
    v1::Event { body: Some(Body::SessionStarted(started)), ..Default::default() }
}

fn exited() -> v1::Event {
    let exited = v1::Exited {
        exit_code: Some(-1),
        duration: Some(Duration { seconds: 90, nanos: 1 }),
        ..Default::default()
    };
    v1::Event { body: Some(Body::Exited(exited)), ..Default::default() }
}

fn compile(text: &str) -> Filter {
    Filter::compile(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn decide(text: &str, event: &v1::Event) -> Result<bool, Undecided> {
    compile(text).decide(event)
}

/// All that is true, and whose negation is false.
#[track_caller]
fn all_true(event: &v1::Event, texts: &[&str]) {
    for text in texts {
        assert_eq!(decide(text, event), Ok(true), "{text}");
        assert_eq!(decide(&format!("!({text})"), event), Ok(false), "!({text})");
    }
}

#[test]
fn fields_are_named_as_in_json_and_as_in_the_proto() {
    all_true(
        &executed(),
        &[
            r#"sessionId == "s1" && session_id == "s1""#,
            r#"container.pod.namespace == "prod""#,
            r#"executed.path == "/usr/bin/curl""#,
            "executed.argvBytes == 30u && executed.argv_bytes == 30",
            r#"id.node == "node-1" && id.seq == 7"#,
            r#".id.node == "node-1""#,
            "executed.process.startTime == 12",
        ],
    );
}

#[test]
fn what_is_not_set_has_its_default_and_has_tells() {
    all_true(
        &executed(),
        &[
            "has(executed) && !has(exited) && !has(sessionStarted)",
            "exited.exitCode == 0 && exited.process.pid == 0u",
            r#"sessionStarted.method == "UNKNOWN""#,
            "has(executed.root) && !executed.root && !has(executed.truncated)",
            "has(executed.path) && !has(executed.cwd)",
            "has(executed.argv) && !has(executed.argvRaw)",
            "has(executed.credentials.uid) && !has(executed.credentials.gid)",
            "!has(executed.tty) && !has(executed.tty.name) && executed.tty.name == ''",
            "has(container.pod.labels) && has(container.pod.labels.app) && !has(container.pod.labels.nope)",
            "!has(attributed.container.pod.labels.app) && size(attributed.container.pod.labels) == 0",
            "size(attributed.evidence) == 0",
            "time > timestamp('1970-01-01T00:00:00Z') && gap.from == timestamp(0)",
        ],
    );
}

#[test]
fn what_a_list_or_a_map_does_not_hold_is_its_default() {
    all_true(
        &executed(),
        &[
            r#"executed.argv[1] == "-s""#,
            r#"executed.argv[3] == "" && executed.argv[-1] == "" && executed.argv[9u] == """#,
            "executed.argv[9223372036854775807] == ''",
            r#"container.pod.labels["app.kubernetes.io/name"] == "pay""#,
            r#"container.pod.labels.app == "payments" && container.pod.labels["none"] == """#,
            r#"agentState.hooks[3].name == "" && [1, 2][2] == 0"#,
        ],
    );
}

#[test]
fn numbers_of_all_kinds_compare() {
    all_true(
        &executed(),
        &[
            "executed.process.pid == 4711 && executed.process.pid == 4711u && executed.process.pid == 4711.0",
            "executed.process.pid > -1 && executed.process.pid >= 4711 && executed.process.pid < 4711.5",
            "executed.process.pid in [1, 4711] && !(executed.process.pid in [1u, 2u])",
            "executed.process.pid + 1u == 4712 && int(executed.process.pid) - 4712 == -1",
            "(executed.credentials.effectiveCapabilities / 2097152u) % 2u == 1u",
            "exited.exitCode == 0u && 7 / 2 == 3 && -7 % 3 == -1 && 7.0 / 2.0 == 3.5",
            "executed.credentials.effectiveCapabilities == 18446744073709551615u",
            "executed.credentials.effectiveCapabilities > 9223372036854775807",
            "0x1F == 31 && int('-5') == -5 && uint(5.9) == 5u && double(2) == 2.0 && -(3) < 0",
        ],
    );
    all_true(&exited(), &["exited.exitCode == -1 && exited.exitCode < 0u"]);
}

#[test]
fn enums_are_their_names() {
    all_true(
        &started(),
        &[
            r#"sessionStarted.method == "RUNTIME_EXEC" && "RUNTIME_EXEC" == sessionStarted.method"#,
            r#"sessionStarted.method in ["EXEC_PROBE", "RUNTIME_EXEC"]"#,
            r#"sessionStarted.method.startsWith("RUNTIME")"#,
            "sessionStarted.interactive",
        ],
    );
    let mut event = started();
    event.body = Some(Body::SessionStarted(v1::SessionStarted { method: Some(99), ..Default::default() }));
    all_true(&event, &[r#"string(sessionStarted.method) == "99""#]);
}

#[test]
fn text_and_bytes() {
    all_true(
        &executed(),
        &[
            r#"executed.path.startsWith("/usr/") && executed.path.endsWith("curl") && executed.path.contains("bin")"#,
            r#"executed.path.matches("^/usr/(s?bin)/[a-z]+$") && matches(executed.path, "curl")"#,
            r#"executed.argv.join(" ") == "curl -s https://example.org/Ä" && executed.argv.join().size() == 27"#,
            r#""ABC".lowerAscii() == "abc" && executed.path.upperAscii() == "/USR/BIN/CURL""#,
            r#"size("Ä") == 1 && size(bytes("Ä")) == 2 && "Ä".size() == 1"#,
            r#"executed.pathRaw == b"\xffx" && executed.pathRaw.size() == 2 && executed.pathRaw > b"\x00""#,
            r#""a" + "b" == "ab" && "a" < "b" && string(1) + string(2u) == "12" && string(b"x") == "x""#,
            r#"b"a" + b"b" == bytes("ab")"#,
        ],
    );
}

#[test]
fn loops() {
    all_true(
        &executed(),
        &[
            r#"executed.argv.exists(a, a.contains("example.org"))"#,
            r#"executed.argv.all(a, a.size() > 1) && [].all(a, a == 1) && ![].exists(a, a == 1)"#,
            r#"executed.argv.exists_one(a, a.startsWith("-")) && executed.argv.existsOne(a, a == "-s")"#,
            r#"executed.argv.filter(a, a.startsWith("-")) == ["-s"]"#,
            r#"executed.argv.map(a, a.size())[0] == 4"#,
            r#"executed.argv.map(a, a.startsWith("-"), a + "!") == ["-s!"]"#,
            r#"container.pod.labels.exists(k, k.startsWith("app.") && container.pod.labels[k] == "pay")"#,
            r#"container.pod.labels.map(k, k) == ["app", "app.kubernetes.io/name"]"#,
            r#""app" in container.pod.labels && !("x" in container.pod.labels)"#,
            r#""-s" in executed.argv && !("-x" in executed.argv)"#,
            r#"executed.argv.exists(a, executed.argv.exists(b, a != b && a.size() > b.size()))"#,
            r#"size(executed.argv) == 3 && executed.argv.size() == 3 && [1, 2] + [3] == [1, 2, 3]"#,
            r#"[1, 2].exists(time, time == 2)"#,
            r#"executed.argv == ["curl", "-s", "https://example.org/Ä"] && executed.argv != ["curl"]"#,
            r#"(has(executed) ? executed.argv : []).size() == 3"#,
        ],
    );
}

#[test]
fn times() {
    all_true(
        &executed(),
        &[
            "time == timestamp('2026-11-22T21:20:40.5Z') && time > timestamp('2026-11-22T21:20:40Z')",
            "time - timestamp('2026-11-22T21:20:40Z') == duration('500ms')",
            "time + duration('-1h') < time && duration('1h') + time > time && time - duration('1s') < time",
            "time.getHours() == 21 && time.getHours('+02:00') == 23 && time.getDayOfWeek() == 0",
            "time.getFullYear() == 2026 && time.getMonth() == 10 && time.getDate() == 22",
            "time.getDayOfMonth() == 21 && time.getDayOfYear() == 325 && time.getMilliseconds() == 500",
            "int(time) == 1795382440 && string(duration('90s')) == '90s'",
            "string(timestamp('2026-11-22T21:20:40Z')) == '2026-11-22T21:20:40Z'",
            "gap.to - gap.from == duration('0s') && -duration('1s') < duration('0')",
        ],
    );
    all_true(
        &exited(),
        &[
            "exited.duration > duration('1m') && exited.duration.getSeconds() == 90 && exited.duration.getMinutes() == 1",
        ],
    );
}

#[test]
fn nothing_matches_everything() {
    for text in ["", " \n\t"] {
        assert!(compile(text).matches(&executed()));
    }
}

#[test]
fn what_says_that_something_is_missing_passes() {
    let filter = compile("false");
    for body in [Body::Gap(v1::Gap::default()), Body::AgentState(v1::AgentState::default())] {
        let event = v1::Event { body: Some(body), ..Default::default() };
        assert!(filter.passes(&event) && !filter.matches(&event), "{event:?}");
    }
    assert!(!filter.passes(&executed()));
}

#[test]
fn what_has_no_value_passes() {
    for (text, why) in [
        ("1 / int(executed.tty.major) == 1", "division by zero"),
        ("1u % executed.tty.major == 1u", "division by zero"),
        ("9223372036854775807 + int(executed.process.pid) > 0", "too large"),
        ("-9223372036854775808 / (0 - int(executed.process.parentPid)) > 0", "too large"),
        ("-9223372036854775808 % (0 - int(executed.process.parentPid)) > 0", "too large"),
        ("-(-9223372036854775808 + int(executed.tty.major)) > 0", "too large"),
        ("0u - executed.process.pid > 0u", "too large"),
        ("uint(int(exited.exitCode) - 1) > 0u", "too large"),
        ("int(executed.credentials.effectiveCapabilities) > 0", "too large"),
        ("int(executed.path) > 0", "no whole number"),
        ("timestamp(executed.path) > time", "RFC 3339"),
        ("duration(executed.path) > duration('0s')", "no duration"),
        ("time.getHours(executed.path) > 0", "no time zone"),
        ("string(executed.pathRaw) == ''", "UTF-8"),
        ("executed.argv.exists(a, int(a) == 1)", "no whole number"),
        ("timestamp(9223372036854775807 - int(executed.tty.major)).getHours() == 1", "too large"),
    ] {
        let filter = compile(text);
        let Err(Undecided::Undefined(said)) = filter.decide(&executed()) else {
            panic!("{text} has a value")
        };
        assert!(said.contains(why), "{text}: {said}");
        assert!(filter.passes(&executed()), "{text}");
    }
}

#[test]
fn one_side_may_decide_where_the_other_has_no_value() {
    let undefined = "1u / executed.tty.major == 1u";
    all_true(
        &executed(),
        &[
            &format!("({undefined}) || has(executed)"),
            &format!("has(executed) || ({undefined})"),
            &format!("!(({undefined}) && has(exited))"),
            r#"executed.argv.exists(a, a == "-s" || int(a) == 1)"#,
            r#"!executed.argv.all(a, a != "-s" && int(a) == 1)"#,
        ],
    );
    assert!(decide(&format!("({undefined}) || has(exited)"), &executed()).is_err());
}

#[test]
fn mistakes_are_said_with_their_place() {
    let mut wrong = Vec::new();
    for (text, line, column, why) in [
        ("executed.pth == 'x'", 1, 10, "Executed has no field pth; did you mean path?"),
        (
            "has(executed) &&\n  exeuted.path == 'x'",
            2,
            3,
            "an event has no field exeuted; did you mean executed?",
        ),
        ("xyz == 1", 1, 1, "an event has no field xyz; it has id, time"),
        ("has(executed.pth)", 1, 14, "did you mean path?"),
        ("has(exeuted)", 1, 5, "did you mean executed?"),
        ("executed.path", 1, 10, "a filter is a bool, this is: string"),
        ("executed", 1, 1, "a filter is a bool, this is a Executed: say has(…)"),
        ("executed && true", 1, 1, "say has(…)"),
        ("executed.path && true", 1, 10, "a bool is wanted here, this is: string"),
        ("executed.path == 1", 1, 15, "string cannot be compared with int"),
        ("'Ä' == executed.path && executed.path == 1", 1, 39, "string cannot be compared with int"),
        ("time > '2026'", 1, 6, "write timestamp("),
        ("executed == executed", 1, 10, "Executed cannot be compared: compare its fields, or say has(…)"),
        ("executed.process.pid + 1 == 2u", 1, 22, "write 1u for a uint"),
        ("!executed.path", 1, 11, "a bool is wanted here"),
        ("-executed.path == ''", 1, 1, "there is no negative of string"),
        (
            "executed.path.startWith('x')",
            1,
            15,
            "there is no function startWith(); did you mean startsWith()?",
        ),
        (
            "executed.path.startsWith(1)",
            1,
            15,
            "startsWith() does not take (string, int); there is: string.startsWith(string)",
        ),
        ("startsWith(executed.path, 'x')", 1, 1, "there is: string.startsWith(string)"),
        ("frobnicate(1)", 1, 1, "there is no function frobnicate()"),
        (
            "sessionStarted.method == 'RUNTIMEEXEC'",
            1,
            26,
            "no EntryMethod is called \"RUNTIMEEXEC\"; did you mean \"RUNTIME_EXEC\"?",
        ),
        ("sessionStarted.method in ['EXEC_PROBE', 'ssh']", 1, 41, "there is UNKNOWN, RUNTIME_EXEC"),
        ("sessionStarted.method == 1", 1, 23, "EntryMethod cannot be compared with int"),
        ("executed.path.matches('(')", 1, 23, "this is no regular expression: unclosed group"),
        ("executed.path.matches('\\\\w{1000}{1000}')", 1, 23, "this pattern is too large"),
        ("executed.path.matches(executed.cwd)", 1, 32, "wants its pattern in quotes"),
        ("executed.argv.exists(a, a == 1)", 1, 27, "string cannot be compared with int"),
        ("executed.argv.exists(a == 1)", 1, 15, "exists() is written as list.exists(x, …)"),
        ("executed.argv.exists(a.b, true)", 1, 24, "a name is wanted here"),
        ("executed.path.exists(a, true)", 1, 15, "exists() goes through a list or a map, not: string"),
        ("executed.argv.map(a, a) == ['x'] && a", 1, 37, "an event has no field a"),
        ("executed.argv['x'] == ''", 1, 14, "a list's index is an int, not: string"),
        ("container.pod.labels[1] == ''", 1, 21, "a map's key is a string, not: int"),
        ("1 in executed.argv", 1, 3, "list(string) cannot hold: int"),
        ("1 in 2", 1, 3, "in wants a list or a map"),
        ("[1, 'a'] == []", 1, 5, "a list of int cannot hold: string"),
        ("executed.tty == null", 1, 17, "say has(…) or !has(…)"),
        ("{'a': 1}['a'] == 1", 1, 1, "no map literals"),
        ("Event{} == 1", 1, 6, "make no messages"),
        ("true ? 1 : 'a'", 1, 6, "both sides must be of one type"),
        ("1 / 0 == 1", 1, 3, "division by zero"),
        ("9223372036854775807 + 1 > 0", 1, 21, "too large"),
        ("time > timestamp('yesterday')", 1, 8, "no time as RFC 3339 has it"),
        ("99999999999999999999 > 0", 1, 1, "invalid int literal"),
        ("executed.path == 'x' &&", 1, 24, "something is missing at the end"),
        ("executed.path == 'Ä' + + 'x'", 1, 24, "'+' is not expected here"),
        ("(true", 1, 6, "missing ')' at the end"),
        ("executed.path = 'x'", 1, 15, "'= ' has no meaning in CEL"),
        ("executed.?path == 'x'", 1, 9, "unsupported syntax"),
    ] {
        match Filter::compile(text) {
            Ok(_) => wrong.push(format!("{text}: compiles")),
            Err(error) if error.why.contains(why) && (error.line, error.column) == (line, column) => {}
            Err(error) => wrong.push(format!("{text}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn an_error_can_be_read_again() {
    let error = Filter::compile("executed.pth == 'x'").unwrap_err();
    assert_eq!(FilterError::read(&error.to_string()), Some(error));
    for other in ["", "filter, line x, column 1: y", "filter, line 1", "cursor 1 is trimmed"] {
        assert_eq!(FilterError::read(other), None);
    }
}

/// As deep and as long as the bound on the text allows.
#[test]
fn hostile_texts_are_refused_or_compiled_and_nothing_else() {
    let nested = [
        ("(", "true", ")"),
        ("[", "1", "]"),
        ("!", "true", ""),
        ("-", "1", ""),
        ("size(", "''", ")"),
        ("true ? true : ", "true", ""),
        ("true ? ", "true", " : true"),
        ("executed.", "path", ""),
        ("1 + ", "1", ""),
        ("true && ", "true", ""),
        ("true || ", "true", ""),
        ("1 == ", "1", ""),
        ("{1: ", "1", "}"),
        ("executed.argv[", "1", "]"),
        ("[1].map(x, ", "1", ")"),
        ("[1].exists(x, ", "true", ")"),
        ("a.b(", "1", ")"),
        ("a{b: ", "1", "}"),
        ("has(", "executed", ")"),
        ("", "executed", ".argv"),
        ("", "executed", "[0]"),
        ("", "executed", ".size()"),
        ("", "''", ".lowerAscii()"),
        ("", "''", " + ''"),
        ("", "'", "\\'"),
        ("\u{ac}", "", ""),
        ("'''", "", ""),
        ("b'", "", ""),
        ("\n", "x", "\n"),
        ("// ", "", ""),
        ("1", "1", "1"),
        ("0x", "f", "f"),
        ("1.", "5", "e9"),
    ];
    for (open, inner, close) in nested {
        for depth in [1, 10, 95, 100, 300, 2000, 4096] {
            let depth = depth.min(MAX_BYTES.saturating_sub(inner.len()) / (open.len() + close.len()));
            let text = format!("{}{inner}{}", open.repeat(depth), close.repeat(depth));
            match Filter::compile(&text) {
                Ok(filter) => _ = filter.decide(&executed()),
                Err(error) => {
                    assert!(error.line >= 1 && error.column >= 1 && !error.why.is_empty(), "{error:?}");
                    assert!(!error.why.starts_with("the parser cannot read this"), "it panicked: {text}");
                }
            }
        }
    }
    assert!(Filter::compile(&" ".repeat(MAX_BYTES)).is_ok());
    let error = Filter::compile(&"x".repeat(MAX_BYTES + 1)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "filter, line 1, column 1: a filter has at most 4096 bytes, this one has 4097"
    );
}

#[test]
fn what_costs_too_much_is_refused_or_stopped() {
    let list = format!("[{}]", vec!["1"; 600].join(","));
    let text = format!("{list}.exists(a, {list}.exists(b, {list}.exists(c, a + b + c == 4)))");
    assert!(Filter::compile(&text).unwrap_err().why.contains("costs too much"));
    let text = "[1].exists(a, [1].exists(b, [1].exists(c, [1].exists(d, true))))";
    assert!(Filter::compile(text).unwrap_err().why.contains("at most 3 deep"));

    let mut event = executed();
    let Some(Body::Executed(executed)) = &mut event.body else { panic!("not executed") };
    executed.argv = vec!["x".repeat(8); 8000];
    // Once through what is long is fine, each with each is not.
    all_true(&event, &["executed.argv.all(a, a == 'xxxxxxxx') && executed.argv.join(' ').size() == 71999"]);
    let filter = compile("executed.argv.all(a, executed.argv.all(b, a == b))");
    assert_eq!(filter.decide(&event), Err(Undecided::TooExpensive));
    assert!(filter.passes(&event));
    // Text that doubles, and lists that do.
    let doubled = format!("[executed.path]{}[0] == ''", ".map(a, a + a)".repeat(40));
    assert_eq!(compile(&doubled).decide(&event), Err(Undecided::TooExpensive));
    let doubled = format!("[executed.argv]{}[0] == []", ".map(a, a + a)".repeat(40));
    assert_eq!(compile(&doubled).decide(&event), Err(Undecided::TooExpensive));
    // Steps that are used up are no value that the other side of || could save.
    assert_eq!(decide(&format!("{doubled} || true"), &event), Err(Undecided::TooExpensive));
}
