//! Whether what the kernel side reports is so: an exec of the agent's own, compared with what `/proc` says of it, and one
//! that fails.

use std::time::{Duration, Instant};

use crate::{
    container::{
        Hierarchy, Host, HostNamespaces,
        process::{self, Details, NsKind, Process},
    },
    event::{ExecFailed, ExitStatus},
    probe::{Probe, ProbeError, Refused, Tried},
    session::record::Exec,
};

/// A hook may be skipped for once (see decision 0026): then nothing is reported.
const TRIES: u32 = 3;

/// Tries the kernel side out, unless it was; how long that took. An error: it must not be used, and records no more.
pub(crate) fn try_out(
    probe: &mut Probe,
    host: &Host,
    hierarchy: &Hierarchy,
    namespaces: &HostNamespaces,
) -> Result<Option<Duration>, ProbeError> {
    if probe.was_tried() {
        return Ok(None);
    }
    // Elsewhere pids are other numbers.
    if !process::namespace(&host.proc.join("self"), NsKind::Pid).is_ok_and(|ns| ns == namespaces.pid) {
        tracing::warn!("the kernel side is not tried out: the agent is not in the node's pid namespace");
        return Ok(None);
    }
    let began = Instant::now();
    let mut wrong = Vec::new();
    for _ in 0..TRIES {
        let look = |pid| {
            let process = process::read(host, hierarchy, |path| hierarchy.id_of(path), pid)?;
            let details = process::details(host, &process, namespaces.user)?;
            Some((process, details))
        };
        match probe.try_out(look) {
            Ok(None) => return Ok(None),
            Ok(Some(tried)) => wrong = differences(&tried, namespaces.user),
            Err(ProbeError::SelfTest(why)) => wrong = vec![why],
            Err(other) => return Err(other),
        }
        if wrong.is_empty() {
            let took = began.elapsed();
            tracing::info!(?took, "the kernel side was tried out: it reports what is so");
            return probe.passed().map(|()| Some(took));
        }
    }
    probe.abandon()?;
    Err(ProbeError::SelfTest(wrong.join("; ")))
}

/// What is not as `/proc` has it.
fn differences(tried: &Tried<Option<(Process, Details)>>, host_user_ns: u32) -> Vec<String> {
    let Tried { exec, failed, exit, seen, pid, argv, refused, code } = tried;
    let Some(exec) = exec else { return vec!["it did not report an exec".to_owned()] };
    let mut wrong = Vec::new();
    match exit.as_ref().map(|exit| exit.status) {
        None => wrong.push("it did not report an exit".to_owned()),
        Some(status) if status != ExitStatus::Code(*code) => {
            wrong.push(format!("exit: {status:?}, and not {code}"));
        }
        Some(_) => {}
    }
    let mut same = |what: &str, reported: &dyn std::fmt::Display, is: &dyn std::fmt::Display, same: bool| {
        if !same {
            wrong.push(format!("{what}: {reported}, and not {is}"));
        }
    };
    let key = exec.process.key;
    same("pid", &key.tgid, pid, key.tgid == *pid);
    let (reported, parent) = (exec.process.parent.tgid, std::process::id());
    same("parent", &reported, &parent, reported == parent);
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    same("arguments", &text(&exec.argv.bytes), &text(argv), exec.argv.bytes == *argv);
    if let Some((process, details)) = seen {
        as_proc_has_it(exec, process, details, host_user_ns, &mut same);
    }
    if let Some(refused) = refused {
        let found = failed.as_ref().filter(|failed| failed.process.key.tgid == *pid);
        let found = found.map(|ExecFailed { path, argv, error, .. }| Refused {
            path: path.clone(),
            argv: argv.clone(),
            error: *error,
        });
        let reported = found.as_ref().map_or_else(|| "nothing".to_owned(), told);
        same("exec that fails", &reported, &told(refused), found.as_ref() == Some(refused));
    }
    wrong
}

fn told(refused: &Refused) -> String {
    let Refused { path, argv, error } = refused;
    format!("{} with {}: errno {error}", path.escape_ascii(), argv.join(&b' ').escape_ascii())
}

type Same<'a> = dyn FnMut(&str, &dyn std::fmt::Display, &dyn std::fmt::Display, bool) + 'a;

fn as_proc_has_it(exec: &Exec, process: &Process, details: &Details, host_user_ns: u32, same: &mut Same<'_>) {
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    let Process {
        pid: _,
        parent: _,
        sid: _,
        start_ticks,
        tty: _,
        comm,
        ns_pids: _,
        mnt_ns: _,
        pid_ns: _,
        cgroup,
        root: _,
    } = process;
    let tick = 1_000_000_000 / procfs::ticks_per_second().max(1);
    let reported = exec.process.key.start_time / tick;
    same("start time", &reported, start_ticks, reported.abs_diff(*start_ticks) <= 1);
    same("comm", &text(&exec.process.comm), &text(comm), exec.process.comm == *comm);
    if let Some(cgroup) = cgroup {
        same("cgroup", &exec.cgroup_id, cgroup, exec.cgroup_id == *cgroup);
    }
    let (reported, is) = (exec.namespaces, details.namespaces);
    for (what, reported, is) in [
        ("mount namespace", reported.mnt, is.mnt),
        ("pid namespace", reported.pid, is.pid),
        ("user namespace", reported.user, is.user),
        // 0: the kernel has none.
        ("network namespace", if reported.net == 0 { is.net } else { reported.net }, is.net),
    ] {
        same(what, &reported, &is, is == 0 || reported == is);
    }
    // A link in `/proc` is as the agent's root has it, which may be anywhere in its mount namespace.
    let deleted = details.executable.deleted || details.executable.memfd;
    let below = |whole: &[u8], part: &[u8]| part.is_empty() || part == b"/" || whole.ends_with(part);
    let path_ok = !exec.path_incomplete && below(&exec.path, &details.path);
    same("path", &text(&exec.path), &text(&details.path), deleted || path_ok);
    same("working directory", &text(&exec.cwd), &text(&details.cwd), below(&exec.cwd, &details.cwd));
    if details.namespaces.user == host_user_ns {
        let (mut reported, is) = (exec.credentials, details.credentials);
        // A kernel without audit has none.
        reported.login_uid = reported.login_uid.or(is.login_uid);
        reported.audit_session = reported.audit_session.or(is.audit_session);
        same("credentials", &format!("{reported:?}"), &format!("{is:?}"), reported == is);
    }
}

#[cfg(test)]
mod tests {
    use podtrail_ebpf::layout::TaskKey;

    use super::*;
    use crate::{
        event::{self, BootTime},
        session::record::{EntryKind, RawArgv},
    };

    /// This process, as `/proc` has it, and a record that says the same.
    fn both() -> (Tried<Option<(Process, Details)>>, u32) {
        let host = Host::default();
        let hierarchy = Hierarchy::find(&host).unwrap();
        let pid = std::process::id();
        let user = process::namespace(&host.proc.join("self"), NsKind::User).unwrap();
        let process = process::read(&host, &hierarchy, |_| Some(77), pid).unwrap();
        let details = process::details(&host, &process, user).unwrap();
        let tick = 1_000_000_000 / procfs::ticks_per_second();
        let exec = Exec {
            time: BootTime(1),
            process: event::Process {
                key: TaskKey::new(pid, process.start_ticks * tick + 5),
                parent: TaskKey::new(pid, 1),
                comm: process.comm.clone(),
            },
            tid: pid,
            entry: TaskKey::NONE,
            entered_by: TaskKey::NONE,
            entry_time: BootTime(1),
            entry_kind: EntryKind::Runtime,
            container: None,
            staging: false,
            root: false,
            host_mnt: false,
            cgroup_id: 77,
            namespaces: details.namespaces,
            credentials: details.credentials,
            tty: None,
            path: details.path.clone(),
            cwd: details.cwd.clone(),
            path_incomplete: false,
            script: None,
            executable: details.executable,
            argv: RawArgv { bytes: b"a\0".to_vec(), ..RawArgv::default() },
            argv_over_budget: false,
            descriptors: None,
            environment: None,
            spoof_suspected: false,
        };
        let refused = Refused { path: b"/no".to_vec(), argv: vec![b"a".to_vec(), b"b".to_vec()], error: 20 };
        let failed = ExecFailed {
            process: exec.process.clone(),
            path: refused.path.clone(),
            cwd: Vec::new(),
            path_incomplete: false,
            argv: refused.argv.clone(),
            argv_cut: false,
            credentials: exec.credentials,
            error: refused.error,
            attempts: 1,
        };
        let process = Process { cgroup: Some(77), ..process };
        let tried = Tried {
            exec: Some(exec),
            failed: Some(failed),
            exit: None,
            seen: Some((process, details)),
            pid,
            argv: b"a\0".to_vec(),
            refused: Some(refused),
            code: 9,
        };
        (tried, user)
    }

    #[test]
    fn whatever_is_not_so_is_named() {
        const NO_EXIT: &str = "it did not report an exit";
        let (tried, user) = both();
        assert_eq!(differences(&tried, user), [NO_EXIT]);
        type Way = (&'static str, fn(&mut Exec));
        let ways: [Way; 13] = [
            ("pid: ", |exec| exec.process.key.tgid += 1),
            ("parent: ", |exec| exec.process.parent.tgid += 1),
            ("arguments: ", |exec| exec.argv.bytes.push(b'x')),
            ("start time: ", |exec| exec.process.key.start_time += 1_000_000_000),
            ("comm: ", |exec| exec.process.comm.push(b'x')),
            ("cgroup: 78, and not 77", |exec| exec.cgroup_id = 78),
            ("mount namespace: ", |exec| exec.namespaces.mnt += 1),
            ("pid namespace: ", |exec| exec.namespaces.pid += 1),
            ("user namespace: ", |exec| exec.namespaces.user += 1),
            ("network namespace: ", |exec| exec.namespaces.net += 1),
            ("path: ", |exec| exec.path.push(b'x')),
            ("path: ", |exec| exec.path_incomplete = true),
            ("credentials: ", |exec| exec.credentials.euid += 1),
        ];
        for (what, change) in ways {
            let (mut tried, user) = both();
            change(tried.exec.as_mut().unwrap());
            let wrong = differences(&tried, user);
            assert!(wrong.len() == 2 && wrong[1].starts_with(what), "{what}: {wrong:?}");
        }
        type Failing = (&'static str, fn(&mut ExecFailed));
        let failing: [Failing; 4] = [
            ("exec that fails: /not with a b: errno 20, and not /no with a b: errno 20", |failed| {
                failed.path.push(b't');
            }),
            ("exec that fails: /no with a: errno 20, and", |failed| drop(failed.argv.pop())),
            ("exec that fails: /no with a b: errno 2, and", |failed| failed.error = 2),
            ("exec that fails: nothing, and not /no", |failed| failed.process.key.tgid += 1),
        ];
        for (what, change) in failing {
            let (mut tried, user) = both();
            change(tried.failed.as_mut().unwrap());
            let wrong = differences(&tried, user);
            assert!(wrong.len() == 2 && wrong[1].starts_with(what), "{what}: {wrong:?}");
        }
        let unseen = Tried { failed: None, ..both().0 };
        assert!(differences(&unseen, user)[1].starts_with("exec that fails: nothing, and not"));
        let unwanted = Tried { refused: None, ..unseen };
        assert_eq!(differences(&unwanted, user), [NO_EXIT]);
        let nothing = Tried { exec: None, ..both().0 };
        assert_eq!(differences(&nothing, user), ["it did not report an exec"]);
    }
}
