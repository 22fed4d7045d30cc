//! What each recorded trace must come to.

use std::collections::HashMap;

use podtrail::{event::Body, session::record::Record};

use crate::{
    kernel::{Clone3, HOST_CGROUP, Kernel},
    tell::{events, tell},
    trace::{Line, Trace, read},
};

const POD: &str = "pod11111111-2222-3333-4444-555555555555";

#[track_caller]
fn expect(trace: &Trace, expected: &[&str]) {
    let told = tell(&events(trace.records()));
    assert_eq!(told, expected, "{}:\n{}", trace.file, told.join("\n"));
}

pub(crate) const RUNC115_V1: Trace =
    Trace { file: "runc115_v1.txt", cgroups: &[(0, 200, 1, POD), (0, 261, 200, "aaa")], lost: &[] };
pub(crate) const RUNC134_V2: Trace =
    Trace { file: "runc134_v2.txt", cgroups: &[(0, 200, 1, POD), (0, 346, 200, "aaa")], lost: &[] };
pub(crate) const RUNC151_V1: Trace =
    Trace { file: "runc151_v1.txt", cgroups: &[(0, 200, 1, POD), (0, 280, 200, "aaa")], lost: &[] };
pub(crate) const RUNC151_V2: Trace =
    Trace { file: "runc151_v2.txt", cgroups: &[(0, 200, 1, POD), (0, 313, 200, "aaa")], lost: &[] };
pub(crate) const CRUN_V2: Trace =
    Trace { file: "crun_v2.txt", cgroups: &[(0, 200, 1, POD), (0, 412, 200, "aaa")], lost: &[] };
pub(crate) const DET: Trace =
    Trace { file: "det.txt", cgroups: &[(0, 200, 1, POD), (0, 629, 200, "aaa")], lost: &[] };
pub(crate) const HOST: Trace =
    Trace { file: "host.txt", cgroups: &[(0, 200, 1, POD), (0, 497, 200, "aaa")], lost: &[] };
pub(crate) const NS: Trace = Trace {
    file: "ns.txt",
    cgroups: &[(0, 200, 1, POD), (0, 445, 200, "aaa"), (1_020_000, 478, 445, "sub")],
    // nsenter waits for its child and ends after it
    lost: &["974900 EXIT tid=11067 tgid=11067 ppid=11066 comm=busybox cg=1"],
};
pub(crate) const ALL: [&Trace; 8] =
    [&RUNC115_V1, &RUNC134_V2, &RUNC151_V1, &RUNC151_V2, &CRUN_V2, &DET, &HOST, &NS];

/// What follows holds for every trace, whatever is pinned below.
#[test]
fn no_trace_shows_a_runtime_s_own_exec_or_an_init_as_a_command_and_every_session_ends() {
    for trace in ALL {
        let records = trace.records();
        let inits: Vec<_> = records
            .iter()
            .filter_map(|record| match record {
                Record::ContainerStarted(started) => Some(started.init),
                _ => None,
            })
            .collect();
        assert_eq!(inits.len(), 1, "{}", trace.file);
        let (mut started, mut ended) = (0, 0);
        for event in events(records) {
            match event.body {
                Body::SessionStarted(_) => started += 1,
                Body::SessionEnded(_) => ended += 1,
                Body::Executed(executed) => {
                    assert!(!inits.contains(&executed.process.key), "{}: an init: {executed:?}", trace.file);
                    let comm = String::from_utf8(executed.process.comm).unwrap();
                    let path = String::from_utf8(executed.path).unwrap();
                    let runtime =
                        ["runc", "crun"].iter().any(|name| comm.contains(name) || path.contains(name))
                            || path.starts_with("/proc/self/fd/")
                            || path.starts_with("/dev/fd/");
                    assert!(!runtime, "{}: a runtime at work: {comm} {path}", trace.file);
                }
                _ => {}
            }
        }
        assert!(started > 0, "{}", trace.file);
        assert_eq!(started, ended, "{}", trace.file);
    }
}

#[test]
fn runc_1_1_on_a_hybrid_host() {
    expect(
        &RUNC115_V1,
        &[
            "s1 started in 261, runtime exec, root 8142, by runc 8131",
            "s1 root 8142 /bin/sh [/bin/sh]",
            "s1 8142 /proc/self/exe [/proc/self/exe]",
            "s1 exited 8142 exe exit 0 50686 us",
            "s1 ended exit 0, 2 commands, lost 0, 54134 us",
        ],
    );
}

#[test]
fn runc_1_3_on_v2() {
    expect(
        &RUNC134_V2,
        &[
            "s1 started in 346, runtime exec, root 10222, by runc-1.3.4 10207",
            "s1 root 10222 /bin/sh [/bin/sh]",
            "s1 10222 /proc/self/exe [/proc/self/exe]",
            "s1 exited 10222 exe exit 0 50762 us",
            "s1 ended exit 0, 2 commands, lost 0, 55343 us",
        ],
    );
}

#[test]
fn runc_1_5_on_a_hybrid_host() {
    expect(
        &RUNC151_V1,
        &[
            "s1 started in 280, runtime exec, root 9799, by runc-1.5.1 9784",
            "s1 root 9799 /bin/sh [/bin/sh]",
            "s1 9799 /proc/self/exe [/proc/self/exe]",
            "s1 exited 9799 exe exit 0 50720 us",
            "s1 ended exit 0, 2 commands, lost 0, 55032 us",
        ],
    );
}

#[test]
fn runc_1_5_on_v2() {
    expect(
        &RUNC151_V2,
        &[
            "s1 started in 313, runtime exec, root 10015, by runc-1.5.1 9995",
            "s1 root 10015 /bin/sh [/bin/sh]",
            "s1 10015 /proc/self/exe [/proc/self/exe]",
            "s1 exited 10015 exe exit 0 50796 us",
            "s1 ended exit 0, 2 commands, lost 0, 60942 us",
        ],
    );
}

#[test]
fn crun_on_v2() {
    expect(
        &CRUN_V2,
        &[
            "s1 started in 412, runtime exec, root 10629, by crun 10627",
            "s1 root 10629 /bin/sh [/bin/sh]",
            "s1 10629 /proc/self/exe [/proc/self/exe]",
            "s1 exited 10629 exe exit 0 50693 us",
            "s1 ended exit 0, 2 commands, lost 0, 53534 us",
        ],
    );
}

#[test]
fn a_detached_exec_as_containerd_does_it() {
    expect(
        &DET,
        &[
            "s1 started in 629, runtime exec, root 30549, by runc-1.5.1 30536",
            "s1 root 30549 /bin/busybox [/bin/busybox]",
            "s1 exited 30549 busybox exit 0 300890 us",
            "s1 ended exit 0, 1 commands, lost 0, 307572 us",
        ],
    );
}

#[test]
fn a_process_of_the_container_s_cgroup_enters_the_host_s_mount_namespace() {
    // It was recorded in a view of cgroup v2 alone, a mount namespace of its own: so the root does not see the host's
    // yet, and the session counts as a join.
    expect(
        &HOST,
        &[
            "s1 started in 497, namespace join, root 12084, by bash 12084",
            "s1 root 12084 /usr/bin/nsenter [/usr/bin/nsenter]",
            "s1 12084 /bin/sh [/bin/sh]",
            "s1 12085 /usr/bin/tail [/usr/bin/tail]",
            "s1 exited 12085 tail exit 0 803 us",
            "s1 12086 /bin/true [/bin/true]",
            "s1 exited 12086 true exit 0 686 us",
            "s1 exited 12084 sh exit 0 2721 us",
            "s1 ended exit 0, 4 commands, lost 0, 4338 us",
        ],
    );
}

#[test]
fn nsenter_a_self_moved_shell_an_unshare_and_an_exec_after_init_moved_below() {
    expect(
        &NS,
        &[
            "s1 started in 445, namespace join, root 11067, by nsenter 11066",
            "s1 joined in 445 mnt 4026532253 pid 4026532256 by 11066",
            "s1 root 11067 /bin/sh [/bin/sh]",
            "s1 11067 /bin/busybox [/bin/busybox]",
            "s1 exited 11067 busybox exit 0 726 us",
            "s1 ended exit 0, 2 commands, lost 0, 3523 us",
            "s2 started in 445, namespace join, root 11071, by bash 11071",
            "s2 root 11071 /usr/bin/nsenter [/usr/bin/nsenter]",
            "s2 exited 11071 nsenter exit 0 907 us",
            "s2 ended exit 0, 1 commands, lost 0, 1136 us",
            "s3 started in 445, runtime exec, root 11091, by runc-1.5.1 11075",
            "s3 root 11091 /bin/unshare [/bin/unshare]",
            "s3 exited 11091 unshare exit 0 703 us",
            "s3 ended exit 0, 1 commands, lost 0, 7116 us",
            "s4 started in 445, runtime exec, root 11115, by runc-1.5.1 11103",
            "s4 root 11115 /bin/busybox [/bin/busybox]",
            "s4 exited 11115 busybox exit 0 652 us",
            "s4 ended exit 0, 1 commands, lost 0, 5939 us",
        ],
    );
}

/// Of this one there are only execs: what they imply is filled in, and the container was there before.
#[test]
fn kubectl_exec_and_exec_probes_on_containerd() {
    const CONTAINER: u64 = 1145;
    const INIT: u32 = 26_643;
    let mut kernel = Kernel { now: 1, ..Kernel::default() };
    kernel.mkdir(200, HOST_CGROUP, POD);
    kernel.mkdir(CONTAINER, 200, "3099e8ec7bcd7afc53561d7422007137c889f85d3a3148a46e958705882cfea0");
    kernel.process(INIT, 1).pid_ns = 2;
    kernel.attach(26_588, INIT, CONTAINER);
    kernel.set_mnt(INIT, 3);
    kernel.exec(INIT, INIT, "exe", "/bin/sh", &[]);

    let text = read("kubelet_exec.txt");
    let mut argv: HashMap<u32, Vec<&str>> = HashMap::new();
    let mut commands = Vec::new();
    for line in text.lines().map(Line::parse) {
        let pid = line.pid("tgid").unwrap();
        kernel.now = line.time;
        if line.kind == "execve" {
            argv.insert(pid, line.rest.split_ascii_whitespace().skip(2).collect());
            if line.text("comm") == Some("runc:[2:INIT]") {
                commands.push(pid);
            }
            continue;
        }
        let (cgroup, parent) = (line.number("cg").unwrap(), line.pid("ppid").unwrap());
        let (file, comm) = (line.text("file").unwrap(), line.text("comm").unwrap());
        if commands.contains(&pid) {
            // By the time of its exec it may be the shim's; the runtime that made it is the last one seen.
            let runc =
                *kernel.processes.keys().filter(|pid| kernel.processes[pid].comm == "runc").max().unwrap();
            kernel.process(pid, parent).pid_ns = 2;
            kernel.set_mnt(pid, 3);
            // It joined the namespaces as a child of a stage, which is not shown.
            kernel.setns(pid, Some(3), Some(2));
            kernel.attach(runc, pid, cgroup);
        } else if cgroup == CONTAINER && !kernel.processes.contains_key(&pid) {
            kernel.fork(parent, pid, Clone3::default());
        }
        kernel.process(pid, parent);
        kernel.exec(pid, pid, comm, file, &argv.remove(&pid).unwrap_or_default());
    }
    kernel.now += 1_000_000;
    for pid in commands {
        kernel.exit(pid, 0);
    }

    let told = tell(&events(kernel.records));
    let told: Vec<_> = told.iter().map(String::as_str).filter(|line| !line.contains("joined")).collect();
    let commands: Vec<_> =
        told.iter().copied().filter(|line| line.contains(" root ") && line.contains('[')).collect();
    assert_eq!(
        commands,
        [
            "s1 root 26831 /bin/sh [/bin/sh -c test -d /tmp]",
            "s2 root 26863 /bin/alpha.bin [/bin/alpha.bin plain sleep 1]",
            "s3 root 26905 /bin/alpha.bin [/bin/alpha.bin withstdin sleep 2]",
            "s4 root 26925 /bin/sh [/bin/sh -c test -d /tmp]",
            "s5 root 26966 /bin/alpha.bin [/bin/alpha.bin withtty sleep 2]",
            "s6 root 27001 /bin/sh [/bin/sh -c test -d /tmp]",
            "s7 root 27025 /bin/sh [/bin/sh -c test -d /tmp]",
            "s8 root 27050 /bin/sh [/bin/sh -c test -d /tmp]",
        ]
    );
    // Started, its one command, exited, ended: of the workload's own execs beside them, nothing.
    assert_eq!(told.len(), 8 * 4, "{told:#?}");
    assert!(told.iter().filter(|line| line.contains("started")).all(|line| line.contains("runtime exec")));
    assert!(told.iter().filter(|line| line.contains("started")).all(|line| line.contains(", by runc ")));
}

const THR: Trace = Trace {
    file: "thr.txt",
    cgroups: &[],
    lost: &[
        "755900 EXIT tid=11399 tgid=11399 ppid=11398 comm=true cg=1",
        "757900 EXIT tid=11401 tgid=11401 ppid=11398 comm=true cg=1",
    ],
};

#[test]
fn programs_of_the_host_are_nobody_s_session() {
    expect(&THR, &[]);
}

#[test]
fn an_exec_from_a_thread_that_is_no_leader_and_posix_spawn_stay_in_their_session() {
    // The same programs, run by a shell that is in a session.
    let mut kernel = Kernel { now: 1, ..Kernel::default() };
    kernel.mkdir(200, HOST_CGROUP, "aaa");
    kernel.process(100, 1).pid_ns = 2;
    kernel.set_mnt(100, 3);
    kernel.attach(99, 100, 200);
    kernel.exec(100, 100, "sleep", "/bin/sleep", &[]);
    "bash".clone_into(&mut kernel.process(11_398, 11_363).comm);
    kernel.attach(11_398, 11_398, 200);
    kernel.process(11_398, 0).cgroup = HOST_CGROUP; // as the trace has it: a session does not change with the cgroup
    kernel.fork(11_398, 11_399, Clone3::default());
    let told = tell(&events(THR.play(kernel)));
    assert_eq!(
        told,
        [
            "s1 started in 200, host namespace, root 11399, by bash 11398",
            "s1 root 11399 /bundle/trace/thr [/bundle/trace/thr]",
            "s1 11399 /bin/true [/bin/true]",
            "s1 exited 11399 true exit 0 709 us",
            "s1 11398 /bundle/trace/thr [/bundle/trace/thr]",
            "s1 11401 /bin/true [/bin/true]",
            "s1 exited 11401 true exit 0 671 us",
            "s1 exited 11398 thr exit 0 51062 us",
            "s1 ended exit 0, 4 commands, lost 0, 807333 us",
        ]
    );
}
