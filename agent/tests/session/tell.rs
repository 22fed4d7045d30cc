//! Events as short lines, so that a test can pin a whole outcome and be read.

use std::collections::HashMap;

use podtrail::{
    event::{Body, BootTime, Event, ExitStatus, Method, SessionId},
    session::{Machine, record::Record},
};

pub(crate) const BOOT_ID: &str = "11111111-2222-3333-4444-555555555555";

/// All events of these records.
pub(crate) fn events(records: impl IntoIterator<Item = Record>) -> Vec<Event> {
    let mut machine = Machine::new(BOOT_ID);
    let mut events = Vec::new();
    for record in records {
        machine.handle(record, &mut events);
    }
    machine.flush(BootTime(u64::MAX / 2), &mut events);
    machine.flush(BootTime(u64::MAX), &mut events);
    machine.finish(BootTime(u64::MAX), &mut events);
    events
}

/// One line an event; sessions by the order in which they were announced.
pub(crate) fn tell(events: &[Event]) -> Vec<String> {
    let mut names: HashMap<SessionId, usize> = HashMap::new();
    let mut lines = Vec::new();
    for event in events {
        let session = event.session.as_ref().map_or("-".to_owned(), |id| {
            let next = names.len() + 1;
            format!("s{}", names.entry(id.clone()).or_insert(next))
        });
        lines.push(format!("{session} {}", body(event)));
    }
    lines
}

fn body(event: &Event) -> String {
    let container = event.container.map_or("nowhere".to_owned(), |id| format!("in {id}"));
    match &event.body {
        Body::SessionStarted(started) => {
            let method = match started.method {
                Method::RuntimeExec => "runtime exec",
                Method::ExecProbe => "exec probe",
                Method::LifecycleHook => "lifecycle hook",
                Method::EphemeralContainer => "ephemeral container",
                Method::NamespaceJoin => "namespace join",
                Method::HostNamespace => "host namespace",
                Method::Unknown => "unknown",
            };
            let by = started.entered_by.as_ref().map_or("nobody".to_owned(), |by| {
                format!("{} {}", String::from_utf8_lossy(&by.comm), by.key.tgid)
            });
            format!("started {container}, {method}, root {}, by {by}", started.root.key.tgid)
        }
        Body::Executed(executed) => {
            let args: Vec<_> = executed.argv.args.iter().map(|arg| String::from_utf8_lossy(arg)).collect();
            let root = if executed.root { "root " } else { "" };
            let path = String::from_utf8_lossy(&executed.path);
            format!("{root}{} {path} [{}]", executed.process.key.tgid, args.join(" "))
        }
        Body::ExecFailed(failed) => format!(
            "failed {} {} {} x{} {container}",
            failed.process.key.tgid,
            String::from_utf8_lossy(&failed.path),
            failed.error,
            failed.attempts
        ),
        Body::Exited(exited) => {
            let comm = String::from_utf8_lossy(&exited.process.comm);
            format!(
                "exited {} {comm} {} {} us{}",
                exited.process.key.tgid,
                status(exited.status),
                exited.duration_ns / 1000,
                if exited.late { " late" } else { "" }
            )
        }
        Body::NamespaceJoined(joined) => {
            format!(
                "joined {container} mnt {} pid {} by {}",
                joined.joined.mnt, joined.joined.pid, joined.process.key.tgid
            )
        }
        Body::SessionEnded(ended) => format!(
            "ended {}, {} commands, lost {}, {} us",
            ended.status.map_or("?".to_owned(), status),
            ended.commands,
            ended.lost,
            ended.duration_ns / 1000
        ),
        Body::Gap(gap) => format!("gap {:?} {}: {}", gap.source, gap.count, gap.detail),
        Body::AgentState(state) => format!("agent {:?}", state.phase),
        Body::Attributed(attributed) => format!("attributed {container}, {:?}", attributed.method),
        Body::Observed(observed) => format!("observed {observed:?}"),
        Body::Folded(folded) => format!("folded {} like {}", folded.sessions, folded.like),
    }
}

fn status(status: ExitStatus) -> String {
    match status {
        ExitStatus::Code(code) => format!("exit {code}"),
        ExitStatus::Signal { signal, core: _ } => format!("signal {signal}"),
    }
}
