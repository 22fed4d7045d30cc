//! Whatever events say, nothing of it is a terminal's to obey.

use proptest::{collection::vec, prelude::*};

use super::*;

fn text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), Just("\x1b]0;x\x07\n\u{202e}".to_owned())]
}

fn process() -> impl Strategy<Value = Option<v1::Process>> {
    // Few, so that they meet: themselves, as parents of each other, again after their end.
    let process = (0..4u32, 0..4u32, text()).prop_map(|(pid, parent, comm)| v1::Process {
        pid,
        start_time: 0,
        parent_pid: parent,
        parent_start_time: 0,
        comm,
    });
    prop::option::of(process)
}

fn any_body() -> impl Strategy<Value = Body> {
    let executed =
        (process(), vec(text(), 0..3), vec(any::<Vec<u8>>(), 0..3), text(), any::<(u32, bool, bool)>());
    let executed = executed.prop_map(|(process, argv, raw, path, (cut, truncated, root))| {
        Body::Executed(v1::Executed {
            process,
            argv,
            argv_raw: raw.into_iter().map(Into::into).collect(),
            cwd: path.clone(),
            script: path.clone(),
            path,
            argv_cut_index: cut % 4,
            truncated: Some(truncated),
            root: Some(root),
            ..Default::default()
        })
    });
    let exited =
        (process(), any::<(i32, i32, i64, i32)>()).prop_map(|(process, (code, signal, seconds, nanos))| {
            Body::Exited(v1::Exited {
                process,
                exit_code: (code > 0).then_some(code),
                signal: (signal > 0).then_some(signal),
                core_dumped: true,
                duration: Some(Duration { seconds, nanos }),
                late: true,
            })
        });
    let gap = (text(), any::<(Option<u64>, i32, i64, i32)>()).prop_map(
        |(detail, (count, source, seconds, nanos))| {
            let time = Some(Timestamp { seconds, nanos });
            Body::Gap(v1::Gap {
                source: Some(source),
                count,
                detail,
                from: time,
                to: time,
                ..Default::default()
            })
        },
    );
    let joined = (process(), text()).prop_map(|(process, path)| {
        Body::NamespaceJoined(v1::NamespaceJoined { process, path, ..Default::default() })
    });
    prop_oneof![executed, exited, gap, joined]
}

proptest! {
    #[test]
    fn any_events_make_plain_text_and_every_command_is_there(
        bodies in vec((any_body(), any::<(i64, i32)>()), 0..20),
        names in vec(text(), 6),
        width in prop::option::of(0usize..200),
    ) {
        let events: Vec<_> = bodies
            .into_iter()
            .map(|(body, (seconds, nanos))| v1::Event {
                time: Some(Timestamp { seconds, nanos }),
                ..event(0, body)
            })
            .collect();
        let mut session = session();
        session.id.clone_from(&names[0]);
        session.node.clone_from(&names[1]);
        session.container = Some(v1::Container {
            id: names[2].clone(),
            name: names[3].clone(),
            image: names[4].clone(),
            pod: Some(v1::Pod { name: names[5].clone(), ..Default::default() }),
            ..Default::default()
        });
        let text = render(&Look { width, ..look() }, &session, &events);
        for line in text.lines() {
            prop_assert!(line.chars().all(escape::is_plain), "{line:?}");
        }
        if width.is_none() {
            let header = render(&look(), &session, &[]).lines().count();
            let shown = events.iter().filter(|event| !matches!(event.body, Some(Body::Exited(_)))).count();
            let recorded = text.lines().count();
            prop_assert!(recorded == header + shown || recorded == header + shown + 1, "{text}");
        }
    }
}
