//! Events as the agent speaks of them → `podtrail.v1` messages: the one place in the pipeline with proto types.
//!
//! Must never fail and never lose a byte: what is not UTF-8 goes out twice, readable in the text field and exact in
//! the `*_raw` field beside it. Everything is destructured, so that a new field cannot be forgotten here.

mod clock;
mod text;

#[cfg(test)]
mod tests;

use nix::errno::Errno;
use podtrail_proto::{Duration, Timestamp, v1};

pub use self::clock::{WallOffset, boot_now};
use self::text::{Text, text, texts};
use crate::container::ContainerInfo;
use crate::event::{
    AgentPhase, AgentState, Argv, Attributed, Body, Credentials, Event, ExecFailed, Executable, Executed,
    ExitStatus, Exited, Finding, Folded, Gap, GapSource, Hook, Method, NamespaceJoined, Namespaces, Observed,
    ObservedCondition, ObservedProblem, Probe, Process, SessionEnded, SessionId, SessionStarted, Start, Tty,
};
use crate::pods::{ContainerFacts, Lookup, Missing, PodFacts};
use crate::trail::Moment;

/// One event as the world sees it, still without its id. `info` is what is known of `event.container`.
#[must_use]
pub fn event(event: Event, info: Option<&ContainerInfo>, offset: WallOffset) -> v1::Event {
    let Event { time, container: cgroup_id, session, body } = event;
    let told_container = matches!(&body, Body::Attributed(attributed) if attributed.container);
    // Where nothing is known of a container but its number, that is told.
    let container = info
        .map(container)
        .or_else(|| cgroup_id.map(|cgroup_id| v1::Container { cgroup_id, ..v1::Container::default() }));
    let mut body = self::body(body, offset);
    if let v1::event::Body::Attributed(attributed) = &mut body
        && told_container
    {
        attributed.container.clone_from(&container);
    }
    v1::Event {
        id: None,
        attribution: None,
        time: Some(offset.wall(time)),
        boottime_ns: time.0,
        container,
        session_id: session.map(|SessionId(id)| id).unwrap_or_default(),
        body: Some(body),
    }
}

fn body(body: Body, offset: WallOffset) -> v1::event::Body {
    use v1::event::Body as Out;
    match body {
        Body::SessionStarted(started) => Out::SessionStarted(session_started(*started, offset)),
        Body::Executed(executed) => Out::Executed(self::executed(*executed)),
        Body::ExecFailed(failed) => Out::ExecFailed(exec_failed(*failed)),
        Body::Exited(exited) => Out::Exited(self::exited(exited)),
        Body::NamespaceJoined(joined) => Out::NamespaceJoined(namespace_joined(*joined)),
        Body::SessionEnded(ended) => Out::SessionEnded(session_ended(&ended)),
        Body::Gap(gap) => Out::Gap(self::gap(gap, offset)),
        Body::AgentState(state) => Out::AgentState(agent_state(state, offset)),
        Body::Attributed(attributed) => Out::Attributed(self::attributed(*attributed)),
        Body::Folded(folded) => Out::Folded(self::folded(*folded, offset)),
        Body::Observed(observed) => Out::NodeObserved(self::observed(*observed)),
    }
}

fn observed(observed: Observed) -> v1::NodeObserved {
    let Observed { conditions, problems, unreachable, has_conditions, has_problems } = observed;
    let condition = |condition: ObservedCondition| {
        let ObservedCondition { kind, status, reason, message, transition, truncated } = condition;
        v1::NodeCondition {
            r#type: kind,
            status,
            reason,
            message,
            transition: transition.map(|seconds| Timestamp { seconds, nanos: 0 }),
            truncated,
            ..v1::NodeCondition::default()
        }
    };
    let problem = |ObservedProblem { reason, count }: ObservedProblem| v1::ProblemCount { reason, count };
    v1::NodeObserved {
        conditions: conditions.into_iter().map(condition).collect(),
        problems: problems.into_iter().map(problem).collect(),
        unreachable: unreachable.unwrap_or_default(),
        has_conditions: Some(has_conditions),
        has_problems: Some(has_problems),
    }
}

/// A container, with its pod as far as the cgroup's name tells.
#[must_use]
pub fn container(info: &ContainerInfo) -> v1::Container {
    let ContainerInfo { id, runtime, cgroup_id, cgroup_path, pod_uid, metadata } = info;
    let (told, detail) = self::metadata(metadata);
    let out = v1::Container {
        id: id.clone().unwrap_or_default(),
        cgroup_id: *cgroup_id,
        runtime: runtime.map(|runtime| runtime.as_str().to_owned()).unwrap_or_default(),
        pod: pod_uid.clone().map(|uid| v1::Pod { uid, ..v1::Pod::default() }),
        cgroup_path: cgroup_path.as_deref().map(String::from_utf8_lossy).unwrap_or_default().into_owned(),
        metadata: Some(told.into()),
        metadata_detail: detail.unwrap_or_default(),
        ..v1::Container::default()
    };
    let Lookup::Known(facts) = metadata else { return out };
    let ContainerFacts {
        name,
        sandbox: _,
        image,
        image_digest,
        runtime_handler,
        pod,
        pre_stop: _,
        observable: _,
    } = &**facts;
    let PodFacts { namespace, name: pod_name, uid, labels } = &**pod;
    v1::Container {
        image: image.clone().unwrap_or_default(),
        name: name.clone().unwrap_or_default(),
        image_digest: image_digest.clone().unwrap_or_default(),
        runtime_handler: runtime_handler.clone().unwrap_or_default(),
        pod: Some(v1::Pod {
            namespace: namespace.clone(),
            name: pod_name.clone(),
            uid: uid.clone(),
            labels: labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        }),
        ..out
    }
}

fn metadata(lookup: &Lookup) -> (v1::Metadata, Option<String>) {
    match lookup {
        Lookup::Known(_) => (v1::Metadata::Known, None),
        Lookup::Pending => (v1::Metadata::Pending, None),
        Lookup::Missing(Missing::NoRuntime) => (v1::Metadata::NoRuntime, None),
        Lookup::Missing(Missing::NotFound) => (v1::Metadata::NotFound, None),
        Lookup::Missing(Missing::Unavailable(why)) => (v1::Metadata::Unavailable, Some(why.clone())),
    }
}

fn session_started(started: SessionStarted, offset: WallOffset) -> v1::SessionStarted {
    let SessionStarted {
        method,
        evidence,
        tty,
        root,
        entered_by,
        entered,
        login_uid,
        audit_session,
        recovered,
        exec_id,
        exec_audit_id,
        exec_request_uid,
        observable,
        labels,
        probe,
        spoofed,
        descriptors: _,
        ancestors,
    } = started;
    let lossy = |bytes: Option<Vec<u8>>| text(bytes.unwrap_or_default()).text;
    v1::SessionStarted {
        method: Some(self::method(method).into()),
        evidence,
        interactive: Some(tty.is_some()),
        tty: tty.map(self::tty),
        root: Some(process(root)),
        entered_by: entered_by.map(process),
        entered: Some(offset.wall(entered)),
        login_uid,
        audit_session,
        recovered: Some(recovered.is_some()),
        observed_from: recovered.map(|from| offset.wall(from)),
        exec_id: exec_id.unwrap_or_default(),
        exec_audit_id: lossy(exec_audit_id),
        exec_request_uid: lossy(exec_request_uid),
        observable: Some(observable),
        labels,
        probe: probe.as_ref().map(self::probe),
        spoofed,
        ancestors: ancestors.into_iter().map(process).collect(),
    }
}

fn probe(probe: &Probe) -> v1::Probe {
    let Probe { kind, period_ns } = *probe;
    v1::Probe { kind: kind.as_str().to_owned(), period: period_ns.map(duration) }
}

/// What became known of the container goes with the event, and once more in it: see [`event`].
fn attributed(attributed: Attributed) -> v1::Attributed {
    let Attributed { container: _, evidence, method, exec_id, status } = attributed;
    let (exit_code, _signal, _core) = self::status(status);
    v1::Attributed {
        evidence,
        exec_id: exec_id.unwrap_or_default(),
        exit_code,
        method: method.map(|method| self::method(method).into()),
        ..v1::Attributed::default()
    }
}

fn folded(folded: Folded, offset: WallOffset) -> v1::Folded {
    let Folded { like: SessionId(like), method, sessions, commands, first, last, status } = folded;
    let (exit_code, signal, _) = self::status(status);
    v1::Folded {
        like_session_id: like,
        method: Some(self::method(method).into()),
        sessions: Some(sessions),
        commands: Some(commands),
        first: Some(offset.wall(first)),
        last: Some(offset.wall(last)),
        exit_code,
        signal,
    }
}

fn method(method: Method) -> v1::EntryMethod {
    match method {
        Method::Unknown => v1::EntryMethod::Unknown,
        Method::RuntimeExec => v1::EntryMethod::RuntimeExec,
        Method::ExecProbe => v1::EntryMethod::ExecProbe,
        Method::LifecycleHook => v1::EntryMethod::LifecycleHook,
        Method::EphemeralContainer => v1::EntryMethod::EphemeralContainer,
        Method::NamespaceJoin => v1::EntryMethod::NamespaceJoin,
        Method::HostNamespace => v1::EntryMethod::HostNamespace,
    }
}

fn executed(executed: Executed) -> v1::Executed {
    let Executed {
        process: task,
        path,
        cwd,
        path_incomplete,
        argv,
        script,
        credentials: creds,
        tty: terminal,
        executable: file,
        namespaces: ns,
        cgroup_id,
        root,
        argv_over_budget,
        spoof_suspected,
        not_found,
    } = executed;
    let Argv { args, total, cut } = argv;
    let Text { text: path, raw: path_raw } = text(path);
    let Text { text: cwd, raw: cwd_raw } = text(cwd);
    let Text { text: script, raw: script_raw } = text(script.unwrap_or_default());
    let (argv, argv_raw) = texts(args);
    v1::Executed {
        process: Some(process(task)),
        path,
        path_raw,
        argv,
        argv_raw,
        argv_bytes: Some(total),
        truncated: Some(cut.is_some()),
        argv_cut_index: cut.map_or(0, |index| u32::try_from(index).unwrap_or(u32::MAX)),
        cwd,
        cwd_raw,
        credentials: Some(credentials(creds)),
        tty: terminal.map(tty),
        script,
        script_raw,
        executable: Some(executable(file)),
        namespaces: Some(namespaces(ns)),
        root: Some(root),
        path_incomplete,
        cgroup_id,
        argv_over_budget,
        spoof_suspected,
        not_found,
    }
}

fn exec_failed(failed: ExecFailed) -> v1::ExecFailed {
    let ExecFailed {
        process: task,
        path,
        cwd,
        path_incomplete,
        argv,
        argv_cut,
        credentials: creds,
        error,
        attempts,
    } = failed;
    let Text { text: path, raw: path_raw } = text(path);
    let Text { text: cwd, raw: cwd_raw } = text(cwd);
    let (argv, argv_raw) = texts(argv);
    v1::ExecFailed {
        process: Some(process(task)),
        path,
        path_raw,
        argv,
        argv_raw,
        truncated: Some(argv_cut),
        cwd,
        cwd_raw,
        credentials: Some(credentials(creds)),
        errno: Some(error),
        error: error_name(error),
        attempts: Some(attempts),
        path_incomplete,
    }
}

/// As errno(3) has it; empty where it is not known.
fn error_name(error: i32) -> String {
    match Errno::from_raw(error) {
        Errno::UnknownErrno => String::new(),
        known => format!("{known:?}"),
    }
}

fn exited(exited: Exited) -> v1::Exited {
    let Exited { process: task, status, duration_ns, late } = exited;
    let (exit_code, signal, core_dumped) = self::status(Some(status));
    v1::Exited {
        process: Some(process(task)),
        exit_code,
        signal,
        core_dumped,
        duration: Some(duration(duration_ns)),
        late,
    }
}

fn status(status: Option<ExitStatus>) -> (Option<i32>, Option<i32>, bool) {
    match status {
        None => (None, None, false),
        Some(ExitStatus::Code(code)) => (Some(code), None, false),
        Some(ExitStatus::Signal { signal, core }) => (None, Some(signal), core),
    }
}

fn namespace_joined(joined: NamespaceJoined) -> v1::NamespaceJoined {
    let NamespaceJoined { process: task, joined, login_uid, audit_session, ancestors } = joined;
    v1::NamespaceJoined {
        process: Some(process(task)),
        namespaces: Some(namespaces(joined)),
        credentials: None,
        path: String::new(),
        login_uid,
        audit_session,
        ancestors: ancestors.into_iter().map(process).collect(),
    }
}

fn session_ended(ended: &SessionEnded) -> v1::SessionEnded {
    let SessionEnded { status, duration_ns, commands, lost } = *ended;
    let (exit_code, signal, _core) = self::status(status);
    v1::SessionEnded {
        exit_code,
        signal,
        duration: Some(duration(duration_ns)),
        commands: Some(commands),
        lost: Some(lost),
    }
}

fn gap(gap: Gap, offset: WallOffset) -> v1::Gap {
    let Gap { source, count, exact, from, to, sessions, detail } = gap;
    v1::Gap {
        source: Some(gap_source(source).into()),
        count: Some(count),
        exact: Some(exact),
        from: Some(offset.wall(from)),
        to: Some(offset.wall(to)),
        session_ids: sessions.into_iter().map(|SessionId(id)| id).collect(),
        detail,
    }
}

fn gap_source(source: GapSource) -> v1::GapSource {
    match source {
        GapSource::KernelRing => v1::GapSource::KernelRing,
        GapSource::KernelTable => v1::GapSource::KernelTable,
        GapSource::KernelRecursion => v1::GapSource::KernelRecursion,
        GapSource::AgentDecode => v1::GapSource::AgentDecode,
        GapSource::AgentBuffer => v1::GapSource::AgentBuffer,
        GapSource::SessionBudget => v1::GapSource::SessionBudget,
        GapSource::HooksAbsent => v1::GapSource::HooksAbsent,
        GapSource::RuntimeEvents => v1::GapSource::RuntimeEvents,
    }
}

fn agent_state(state: AgentState, offset: WallOffset) -> v1::AgentState {
    let AgentState { phase, version, kernel, boot_id, hooks, findings, start } = state;
    let phase = match phase {
        AgentPhase::Started => v1::agent_state::Phase::Started,
        AgentPhase::Stopped => v1::agent_state::Phase::Stopped,
        AgentPhase::Upgraded => v1::agent_state::Phase::Upgraded,
        AgentPhase::Integrity => v1::agent_state::Phase::Integrity,
    };
    let hooks = hooks
        .into_iter()
        .map(|hook| {
            let Hook { name, kind, reason } = hook;
            v1::Hook { name, kind, reason }
        })
        .collect();
    let findings = findings
        .into_iter()
        .map(|finding| {
            let Finding { subject, detail, time } = finding;
            v1::Finding { subject, detail, time: Some(offset.wall(time)) }
        })
        .collect();
    let (mut adopted, mut stopped, mut last) = (None, None, None);
    if let Some(Start { adopted: took_over, stopped_cleanly, since }) = start {
        (adopted, stopped) = (Some(took_over), stopped_cleanly);
        last = since.map(|since| Moment(since).timestamp());
    }
    v1::AgentState {
        phase: Some(phase.into()),
        version,
        kernel,
        boot_id,
        hooks,
        findings,
        adopted,
        stopped_cleanly: stopped,
        since: last,
    }
}

fn process(process: Process) -> v1::Process {
    let Process { key, parent, comm } = process;
    v1::Process {
        pid: key.tgid,
        start_time: key.start_time,
        parent_pid: parent.tgid,
        parent_start_time: parent.start_time,
        comm: text(comm).text,
    }
}

fn tty(tty: Tty) -> v1::Tty {
    let Tty { major, minor, name } = tty;
    v1::Tty { name, major, minor }
}

fn credentials(credentials: Credentials) -> v1::Credentials {
    let Credentials {
        uid,
        gid,
        euid,
        egid,
        container_uid,
        container_gid,
        cap_effective,
        cap_permitted,
        login_uid,
        audit_session,
    } = credentials;
    v1::Credentials {
        uid: Some(uid),
        gid: Some(gid),
        effective_uid: Some(euid),
        effective_gid: Some(egid),
        container_uid,
        container_gid,
        effective_capabilities: cap_effective,
        permitted_capabilities: cap_permitted,
        login_uid,
        audit_session,
    }
}

fn executable(executable: Executable) -> v1::Executable {
    let Executable { inode, device_major, device_minor, deleted, memfd, upper_layer, setuid, setgid } =
        executable;
    v1::Executable { inode, device_major, device_minor, deleted, memfd, upper_layer, setuid, setgid }
}

fn namespaces(namespaces: Namespaces) -> v1::Namespaces {
    let Namespaces { mnt, pid, user, net } = namespaces;
    v1::Namespaces { mount: mnt, pid, user, network: net }
}

fn duration(nanos: u64) -> Duration {
    let (seconds, nanos) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    Duration { seconds: i64::try_from(seconds).unwrap_or(i64::MAX), nanos: i32::try_from(nanos).unwrap_or(0) }
}

/// A moment of the wall clock, from nanoseconds since 1970.
fn timestamp(nanos: i128) -> Timestamp {
    const SECOND: i128 = 1_000_000_000;
    Timestamp {
        seconds: i64::try_from(nanos.div_euclid(SECOND)).unwrap_or(i64::MAX),
        nanos: i32::try_from(nanos.rem_euclid(SECOND)).unwrap_or(0),
    }
}
