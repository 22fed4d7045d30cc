//! Expressions of every form, right and wrong.

use std::time::{Duration, Instant};

use podtrail_proto::v1;
use proptest::{prelude::*, sample::select};

use super::*;

/// Of which expressions are made; types fit now and then.
fn expression() -> impl Strategy<Value = String> {
    let leaf = select(vec![
        "true",
        "0",
        "-1",
        "9223372036854775807",
        "1.5",
        "''",
        "'curl'",
        "b'x'",
        "null",
        "[]",
        "id.seq",
        "sessionId",
        "executed.argv",
        "executed.path",
        "executed.nothing",
        "executed",
        "container.pod.labels",
        "gap.count",
        "time",
        "sessionStarted.method",
        "duration('1h')",
        "timestamp('2026-01-01T00:00:00Z')",
        "a",
        "RUNTIME_EXEC",
        "\u{1f980}",
    ]);
    leaf.prop_map(str::to_owned).prop_recursive(6, 48, 3, |inner| {
        let operator = select(vec!["==", "!=", "<", ">=", "&&", "||", "+", "-", "*", "/", "%", "in"]);
        let call = select(vec!["size", "has", "string", "int", "timestamp", "type", "nothing"]);
        let method = select(vec!["contains", "startsWith", "matches", "getHours", "size", "nothing"]);
        let loops = select(vec!["exists", "all", "exists_one", "filter", "map"]);
        prop_oneof![
            (inner.clone(), operator, inner.clone()).prop_map(|(a, o, b)| format!("({a} {o} {b})")),
            inner.clone().prop_map(|a| format!("!({a})")),
            (inner.clone(), inner.clone(), inner.clone()).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            (call, inner.clone()).prop_map(|(f, a)| format!("{f}({a})")),
            (inner.clone(), method, inner.clone()).prop_map(|(a, f, b)| format!("{a}.{f}({b})")),
            (inner.clone(), loops, inner.clone()).prop_map(|(a, f, b)| format!("{a}.{f}(a, {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}[{b}]")),
            (inner.clone(), inner).prop_map(|(a, b)| format!("[{a}, {b}]")),
        ]
    })
}

/// What takes long to go through.
fn long() -> v1::Event {
    let argv = (0..2000).map(|n| "x".repeat(n % 50)).collect();
    let executed = v1::Executed { argv, path: "/usr/bin/curl".repeat(300), ..Default::default() };
    v1::Event { body: Some(Body::Executed(executed)), ..Default::default() }
}

proptest! {
    #[test]
    fn whatever_compiles_decides_within_its_steps_and_whatever_does_not_says_where(text in expression()) {
        // Far more than the steps take, in any build.
        const SOON: Duration = Duration::from_secs(20);
        match Filter::compile(&text) {
            Ok(filter) => {
                for event in [v1::Event::default(), long()] {
                    let began = Instant::now();
                    let first = filter.decide(&event);
                    prop_assert_eq!(filter.decide(&event), first);
                    prop_assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
                }
            }
            Err(error) => {
                prop_assert!(!error.why.starts_with("the parser cannot read this"), "the parser panicked");
                prop_assert!(error.line == 1 && error.column <= text.chars().count() + 1, "{:?}", error);
            }
        }
    }

    #[test]
    fn any_text_is_compiled_or_refused(text in "\\PC{0,200}") {
        _ = Filter::compile(&text);
    }
}
