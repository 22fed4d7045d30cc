//! Ways into a container and out of it, made up: the numbered cases that need no real runtime.

use podtrail::session::record::Record;
use podtrail_ebpf::layout::cgroup_state;

use crate::{
    kernel::{Clone3, HOST_CGROUP, HOST_MNT, Kernel},
    tell::{events, tell},
};

const ID: &str = "3099e8ec7bcd7afc53561d7422007137c889f85d3a3148a46e958705882cfea0";
const OTHER_ID: &str = "acc033d3801a7b9407b8807ddc26e2beff10771486d3410b720636adedffb6cf";

const POD: u64 = 40;
const CONTAINER: u64 = 42;
const MNT: u32 = 11;
const PID_NS: u32 = 12;
const INIT: u32 = 100;
const RUNC: u32 = 20;
/// containerd's shim
const SHIM: u32 = 10;

/// A machine with a container, made by runc the usual way.
fn with_container() -> Kernel {
    let mut kernel = Kernel { now: 1, ..Kernel::default() };
    kernel.mkdir(POD, HOST_CGROUP, "pod11111111-2222-3333-4444-555555555555");
    make_container(&mut kernel, CONTAINER, ID, INIT, MNT, PID_NS);
    kernel
}

fn make_container(kernel: &mut Kernel, cgroup: u64, name: &str, init: u32, mnt: u32, pid_ns: u32) {
    kernel.mkdir(cgroup, POD, name);
    runc(kernel, init - 3);
    let (stage0, stage1) = (init - 2, init - 1);
    kernel.fork(init - 3, stage0, Clone3::default());
    kernel.exec(stage0, stage0, "6", "/proc/self/fd/6", &["runc", "init"]);
    kernel.attach(init - 3, stage0, cgroup);
    kernel.fork(stage0, stage1, Clone3 { parent: true, ..Clone3::default() });
    kernel.unshare(stage1, Some(mnt), Some(pid_ns));
    kernel.fork(stage1, init, Clone3 { parent: true, ..Clone3::default() });
    kernel.exit(stage1, 0);
    kernel.exit(stage0, 0);
    kernel.exec(init, init, "app", "/bin/app", &["/bin/app"]);
    kernel.exit(init - 3, 0);
}

fn runc(kernel: &mut Kernel, pid: u32) {
    kernel.process(SHIM, 1);
    kernel.fork(SHIM, pid, Clone3::default());
    kernel.exec(pid, pid, "runc", "/usr/sbin/runc", &["runc"]);
}

/// `runc exec` as of 1.4 on v2: cloned into the cgroup, its own copy run there, then the namespaces.
fn runc_exec(kernel: &mut Kernel, runc_pid: u32, cgroup: u64, argv: &[&str]) -> u32 {
    let (stage0, stage1, pid) = (runc_pid + 1, runc_pid + 2, runc_pid + 3);
    let top = kernel.cgroups[&cgroup];
    runc(kernel, runc_pid);
    kernel.fork(runc_pid, stage0, Clone3 { into: Some(cgroup), ..Clone3::default() });
    kernel.exec(stage0, stage0, "6", "/proc/self/fd/6", &["runc", "init"]);
    kernel.fork(stage0, stage1, Clone3 { parent: true, ..Clone3::default() });
    kernel.setns(stage1, None, Some(top.pid_ns));
    kernel.setns(stage1, Some(top.mnt_ns), None);
    kernel.fork(stage1, pid, Clone3 { parent: true, ..Clone3::default() });
    kernel.exit(stage1, 0);
    kernel.exit(stage0, 0);
    let comm = argv[0].rsplit('/').next().unwrap();
    kernel.exec(pid, pid, comm, argv[0], argv);
    kernel.exit(runc_pid, 0);
    pid
}

fn run(kernel: &mut Kernel, parent: u32, pid: u32, argv: &[&str]) {
    kernel.fork(parent, pid, Clone3::default());
    kernel.exec(pid, pid, argv[0].rsplit('/').next().unwrap(), argv[0], argv);
}

fn told(kernel: Kernel) -> Vec<String> {
    tell(&events(kernel.records))
}

/// Without times, which are of no interest here.
fn outcome(kernel: Kernel) -> Vec<String> {
    told(kernel)
        .into_iter()
        .map(|line| line.strip_suffix(" 0 us").map_or(line.clone(), str::to_owned))
        .collect()
}

#[test]
fn a_container_and_its_workload_are_no_session() {
    let mut kernel = with_container();
    run(&mut kernel, INIT, 101, &["/bin/sh", "-c", "work"]);
    run(&mut kernel, 101, 102, &["/bin/work"]);
    kernel.exit(102, 0);
    kernel.exit(101, 0);
    kernel.exit(INIT, 0);
    assert_eq!(told(kernel), [""; 0]);
}

#[test]
fn case_1_a_session_cloned_into_the_cgroup_with_no_attach() {
    let mut kernel = with_container();
    let shell = runc_exec(&mut kernel, RUNC, CONTAINER, &["/bin/sh"]);
    run(&mut kernel, shell, 200, &["/bin/id", "-u"]);
    kernel.exit(200, 0);
    kernel.exit(shell, 7 << 8);
    assert_eq!(
        outcome(kernel),
        [
            "s1 started in 42, runtime exec, root 23, by runc 20",
            "s1 root 23 /bin/sh [/bin/sh]",
            "s1 200 /bin/id [/bin/id -u]",
            "s1 exited 200 id exit 0",
            "s1 exited 23 sh exit 7",
            "s1 ended exit 7, 2 commands, lost 0,",
        ]
    );
}

#[test]
fn case_2_a_child_is_of_the_session_of_who_forked_it_not_of_its_parent() {
    let mut kernel = with_container();
    let shell = runc_exec(&mut kernel, RUNC, CONTAINER, &["/bin/sh"]);
    // CLONE_PARENT: its parent is runc's, outside.
    kernel.fork(shell, 200, Clone3 { parent: true, ..Clone3::default() });
    assert_eq!(kernel.processes[&200].parent, kernel.processes[&shell].parent);
    kernel.exec(200, 200, "id", "/bin/id", &["id"]);
    kernel.exit(200, 0);
    kernel.exit(shell, 0);
    let told = outcome(kernel);
    assert!(told.contains(&"s1 200 /bin/id [id]".to_owned()), "{told:#?}");
    assert_eq!(told.last().unwrap(), "s1 ended exit 0, 2 commands, lost 0,");
}

#[test]
fn case_4_a_setns_on_a_pidfd_with_several_namespaces_at_once() {
    let mut kernel = with_container();
    run(&mut kernel, SHIM, 300, &["/usr/bin/nsenter", "--all"]);
    kernel.setns(300, Some(MNT), Some(PID_NS));
    run(&mut kernel, 300, 301, &["/bin/sh"]);
    kernel.exit(301, 0);
    kernel.exit(300, 0);
    assert_eq!(
        outcome(kernel),
        [
            "s1 started in 42, namespace join, root 301, by nsenter 300",
            "s1 joined in 42 mnt 11 pid 12 by 300",
            "s1 root 301 /bin/sh [/bin/sh]",
            "s1 exited 301 sh exit 0",
            "s1 ended exit 0, 1 commands, lost 0,",
        ]
    );
}

#[test]
fn case_6_a_thread_that_joins_makes_its_process_the_joiner_and_no_session_without_a_command() {
    let mut kernel = with_container();
    run(&mut kernel, SHIM, 300, &["/usr/bin/snoop"]);
    kernel.fork(300, 301, Clone3 { thread: true, ..Clone3::default() });
    kernel.setns(301, Some(MNT), None);
    assert_eq!((kernel.mnt(300), kernel.mnt(301)), (HOST_MNT, MNT));
    // What the other threads start sees the host: nothing of the container's.
    run(&mut kernel, 300, 302, &["/bin/date"]);
    kernel.exit(302, 0);
    kernel.exit(301, 0);
    kernel.exit(300, 0);
    assert_eq!(outcome(kernel), ["- joined in 42 mnt 11 pid 0 by 300"]);
}

#[test]
fn case_7_a_join_of_the_pid_namespace_is_the_children_s() {
    let mut kernel = with_container();
    run(&mut kernel, SHIM, 300, &["/usr/bin/nsenter", "-p"]);
    kernel.setns(300, None, Some(PID_NS));
    kernel.exec(300, 300, "timeout", "/usr/bin/timeout", &["timeout"]); // still the host's
    run(&mut kernel, 300, 301, &["/bin/ps"]);
    kernel.exit(301, 0);
    kernel.exit(300, 0);
    let told = outcome(kernel);
    assert_eq!(told[0], "s1 started in 42, namespace join, root 301, by nsenter 300");
    assert_eq!(told[1], "s1 joined in 42 mnt 0 pid 12 by 300");
    assert_eq!(told[2], "s1 root 301 /bin/ps [/bin/ps]");
    assert_eq!(told.last().unwrap(), "s1 ended exit 0, 1 commands, lost 0,");
}

#[test]
fn case_9_an_exec_from_a_thread_keeps_the_process() {
    let mut kernel = with_container();
    let shell = runc_exec(&mut kernel, RUNC, CONTAINER, &["/bin/sh"]);
    kernel.fork(shell, 200, Clone3 { thread: true, ..Clone3::default() });
    kernel.exit(shell, 0); // the leader's exit comes before the exec
    kernel.exec(shell, 200, "true", "/bin/true", &["true"]);
    kernel.exit(shell, 0);
    assert_eq!(
        outcome(kernel)[1..],
        [
            "s1 root 23 /bin/sh [/bin/sh]",
            "s1 23 /bin/true [true]",
            "s1 exited 23 true exit 0",
            "s1 ended exit 0, 2 commands, lost 0,",
        ]
    );
}

#[test]
fn case_12_a_session_survives_moves_out_of_its_cgroup_and_within_it() {
    let mut kernel = with_container();
    let shell = runc_exec(&mut kernel, RUNC, CONTAINER, &["/bin/sh"]);
    kernel.mkdir(50, HOST_CGROUP, "user.slice");
    kernel.attach(shell, shell, 50);
    run(&mut kernel, shell, 200, &["/bin/outside"]);
    kernel.mkdir(51, CONTAINER, "below");
    kernel.attach(shell, shell, 51);
    run(&mut kernel, shell, 201, &["/bin/below"]);
    for pid in [200, 201, shell] {
        kernel.exit(pid, 0);
    }
    let told = outcome(kernel);
    assert!(told.iter().all(|line| line.starts_with("s1 ")), "{told:#?}");
    assert_eq!(told.last().unwrap(), "s1 ended exit 0, 3 commands, lost 0,");
}

#[test]
fn case_12_a_workload_that_leaves_its_cgroup_does_not_become_a_join() {
    let mut kernel = with_container();
    run(&mut kernel, INIT, 101, &["/bin/sh"]);
    kernel.attach(101, 101, HOST_CGROUP);
    run(&mut kernel, 101, 102, &["/bin/id"]);
    kernel.exec(101, 101, "sh", "/bin/sh", &["sh"]);
    assert_eq!(told(kernel), [""; 0]);
}

#[test]
fn case_13_an_exec_into_a_container_inside_a_container_is_of_the_outer_one_s_session() {
    let mut kernel = with_container();
    // Docker in it: a cgroup below, with a container's name.
    kernel.mkdir(60, CONTAINER, OTHER_ID);
    run(&mut kernel, INIT, 110, &["/bin/runc", "create"]);
    kernel.fork(110, 111, Clone3 { into: Some(60), ..Clone3::default() });
    kernel.unshare(111, Some(21), Some(22));
    kernel.fork(111, 112, Clone3::default());
    kernel.exec(112, 112, "inner", "/bin/inner", &["inner"]);
    assert_eq!(kernel.cgroups[&60].state, cgroup_state::MEMBER);
    // By somebody who came in from the host: theirs. By the inner runtime: the workload's.
    let shell = runc_exec(&mut kernel, RUNC, CONTAINER, &["/bin/docker", "exec", "inner", "sh"]);
    kernel.fork(shell, 200, Clone3 { into: Some(60), ..Clone3::default() });
    kernel.setns(200, Some(21), Some(22));
    kernel.exec(200, 200, "sh", "/bin/sh", &["sh"]);
    kernel.exit(200, 0);
    kernel.exit(shell, 0);
    let told = outcome(kernel);
    assert_eq!(told[0], "s1 started in 42, runtime exec, root 23, by runc 20");
    assert!(told.iter().all(|line| line.starts_with("s1 ")), "{told:#?}");
    assert!(told.contains(&"s1 200 /bin/sh [sh]".to_owned()), "{told:#?}");
}

#[test]
fn case_14_a_cgroup_named_like_another_container_is_not_that_one() {
    let mut kernel = with_container();
    let shell = runc_exec(&mut kernel, RUNC, CONTAINER, &["/bin/sh"]);
    kernel.mkdir(61, CONTAINER, OTHER_ID);
    kernel.attach(shell, shell, 61);
    run(&mut kernel, shell, 200, &["/bin/id"]);
    // Nor does a workload become a session of it.
    run(&mut kernel, INIT, 101, &["/bin/sh"]);
    kernel.attach(101, 101, 61);
    run(&mut kernel, 101, 102, &["/bin/id"]);
    let told = outcome(kernel);
    assert_eq!(
        told,
        [
            "s1 started in 42, runtime exec, root 23, by runc 20",
            "s1 root 23 /bin/sh [/bin/sh]",
            "s1 200 /bin/id [/bin/id]",
        ]
    );
}

#[test]
fn case_16_a_session_outlives_its_container_s_init_and_cgroup() {
    let mut kernel = with_container();
    let shell = runc_exec(&mut kernel, RUNC, CONTAINER, &["/bin/sh"]);
    kernel.attach(shell, shell, HOST_CGROUP);
    kernel.exit(INIT, 0);
    kernel.cgroups.remove(&CONTAINER);
    run(&mut kernel, shell, 200, &["/bin/id"]);
    kernel.exit(200, 0);
    kernel.exit(shell, 0);
    let told = outcome(kernel);
    assert!(told.contains(&"s1 200 /bin/id [/bin/id]".to_owned()), "{told:#?}");
    assert_eq!(told.last().unwrap(), "s1 ended exit 0, 2 commands, lost 0,");
}

#[test]
fn case_17_containers_that_share_the_host_s_or_each_other_s_processes() {
    // hostPID: told from the runtime by its mounts alone.
    let mut kernel = Kernel { now: 1, ..Kernel::default() };
    kernel.mkdir(POD, HOST_CGROUP, "pod");
    kernel.mkdir(CONTAINER, POD, &format!("cri-containerd-{ID}.scope"));
    runc(&mut kernel, 97);
    kernel.fork(97, INIT, Clone3::default());
    kernel.attach(97, INIT, CONTAINER);
    kernel.unshare(INIT, Some(MNT), None);
    kernel.exec(INIT, INIT, "app", "/bin/app", &["app"]);
    runc(&mut kernel, RUNC);
    kernel.fork(RUNC, 21, Clone3 { into: Some(CONTAINER), ..Clone3::default() });
    kernel.exec(21, 21, "6", "/proc/self/fd/6", &["runc", "init"]);
    kernel.setns(21, Some(MNT), None);
    kernel.exec(21, 21, "sh", "/bin/sh", &["sh"]);
    kernel.exit(21, 0);
    // A second container of a pod that shares its processes.
    make_container(&mut kernel, 43, OTHER_ID, 400, 31, PID_NS);
    let second = runc_exec(&mut kernel, 30, 43, &["/bin/ps"]);
    kernel.exit(second, 0);
    let told = outcome(kernel);
    let commands: Vec<_> = told.iter().filter(|line| line.contains('[')).collect();
    assert_eq!(commands, ["s1 root 21 /bin/sh [sh]", "s2 root 33 /bin/ps [/bin/ps]"]);
    assert!(told[0].contains("in 42, runtime exec"), "{told:#?}");
    assert!(told.iter().any(|line| line.contains("in 43, runtime exec")), "{told:#?}");
}

#[test]
fn case_18_an_init_that_moves_itself_and_its_children_below_is_no_session_and_execs_still_are() {
    let mut kernel = with_container();
    kernel.mkdir(52, CONTAINER, "init.scope");
    run(&mut kernel, INIT, 101, &["/bin/journald"]);
    kernel.attach(INIT, INIT, 52);
    kernel.attach(INIT, 101, 52);
    run(&mut kernel, 101, 102, &["/bin/helper"]);
    kernel.exit(102, 0);
    // runc joins the cgroup of the init, where its own cannot take tasks any more.
    let pid = runc_exec_into(&mut kernel, 52);
    kernel.exit(pid, 0);
    let told = outcome(kernel);
    let commands: Vec<_> = told.iter().filter(|line| line.contains('[')).collect();
    assert_eq!(commands, ["s1 root 23 /bin/sh [/bin/sh]"]);
    assert!(told[0].contains("in 42, "), "{told:#?}");
}

/// The same `runc exec`, into a cgroup below the container's.
fn runc_exec_into(kernel: &mut Kernel, cgroup: u64) -> u32 {
    let top = kernel.cgroups[&CONTAINER];
    if let Some(below) = kernel.cgroups.get_mut(&cgroup) {
        below.mnt_ns = top.mnt_ns;
        below.pid_ns = top.pid_ns;
    }
    runc_exec(kernel, RUNC, cgroup, &["/bin/sh"])
}

#[test]
fn case_19_an_exec_that_stays_outside_the_cgroup_is_caught_by_its_namespaces() {
    let mut kernel = with_container();
    runc(&mut kernel, RUNC);
    kernel.fork(RUNC, 21, Clone3::default());
    kernel.setns(21, None, Some(PID_NS));
    kernel.setns(21, Some(MNT), None);
    kernel.fork(21, 22, Clone3 { parent: true, ..Clone3::default() });
    kernel.exit(21, 0);
    kernel.exec(22, 22, "sh", "/bin/sh", &["sh"]); // writing cgroup.procs had failed
    kernel.exit(22, 0);
    let told = outcome(kernel);
    assert_eq!(told[0], "s1 started in 42, namespace join, root 22, by runc 21");
    assert_eq!(told.last().unwrap(), "s1 ended exit 0, 1 commands, lost 0,");
}

#[test]
fn case_22_a_vfork_that_execs_and_one_that_does_not() {
    let mut kernel = with_container();
    let shell = runc_exec(&mut kernel, RUNC, CONTAINER, &["/bin/sh"]);
    run(&mut kernel, shell, 200, &["/bin/spawned"]);
    kernel.fork(shell, 201, Clone3::default());
    kernel.exit(201, 127 << 8);
    kernel.exit(200, 0);
    kernel.exit(shell, 0);
    let told = outcome(kernel);
    assert!(!told.iter().any(|line| line.contains("201")), "it ran nothing: {told:#?}");
    assert_eq!(told.last().unwrap(), "s1 ended exit 0, 2 commands, lost 0,");
}

#[test]
fn case_25_a_child_left_behind_keeps_the_session_open() {
    let mut kernel = with_container();
    let shell = runc_exec(&mut kernel, RUNC, CONTAINER, &["/bin/sh"]);
    kernel.fork(shell, 200, Clone3::default());
    kernel.exec(200, 200, "nohup", "/bin/nohup", &["nohup", "work"]);
    kernel.exit(shell, 0);
    run(&mut kernel, 200, 201, &["/bin/work"]);
    let records: Vec<Record> = kernel.records.clone();
    assert!(!tell(&events(records)).iter().any(|line| line.contains("ended")));
    kernel.exit(201, 0);
    kernel.exit(200, 9);
    let told = outcome(kernel);
    assert_eq!(told[told.len() - 2], "s1 exited 200 nohup signal 9");
    assert_eq!(told.last().unwrap(), "s1 ended exit 0, 3 commands, lost 0,", "the root's status");
}

#[test]
fn case_30_a_probe_beside_a_person_with_the_same_argv_is_a_session_of_its_own() {
    let mut kernel = with_container();
    let argv = ["/bin/sh", "-c", "test -d /tmp"];
    let person = runc_exec(&mut kernel, RUNC, CONTAINER, &argv);
    let probe = runc_exec(&mut kernel, 30, CONTAINER, &argv);
    kernel.exit(probe, 0);
    kernel.exit(person, 0);
    assert_eq!(
        outcome(kernel),
        [
            "s1 started in 42, runtime exec, root 23, by runc 20",
            "s1 root 23 /bin/sh [/bin/sh -c test -d /tmp]",
            "s2 started in 42, runtime exec, root 33, by runc 30",
            "s2 root 33 /bin/sh [/bin/sh -c test -d /tmp]",
            "s2 exited 33 sh exit 0",
            "s2 ended exit 0, 1 commands, lost 0,",
            "s1 exited 23 sh exit 0",
            "s1 ended exit 0, 1 commands, lost 0,",
        ]
    );
}

#[test]
fn a_hook_that_the_runtime_runs_inside_does_not_hide_what_comes_after() {
    let mut kernel = Kernel { now: 1, ..Kernel::default() };
    kernel.mkdir(POD, HOST_CGROUP, "pod");
    kernel.mkdir(CONTAINER, POD, ID);
    runc(&mut kernel, 97);
    kernel.fork(97, 98, Clone3::default());
    kernel.attach(97, 98, CONTAINER);
    kernel.unshare(98, Some(MNT), Some(PID_NS));
    kernel.fork(98, INIT, Clone3 { parent: true, ..Clone3::default() });
    kernel.exit(98, 0);
    // createContainer: forked by what will be the init, in its namespaces.
    run(&mut kernel, INIT, 102, &["/usr/bin/nvidia-cdi-hook", "update-ldcache"]);
    kernel.exit(102, 0);
    kernel.exec(INIT, INIT, "app", "/bin/app", &["app"]);
    run(&mut kernel, INIT, 103, &["/bin/work"]);
    let shell = runc_exec(&mut kernel, RUNC, CONTAINER, &["/bin/sh"]);
    kernel.exit(shell, 0);
    assert_eq!(
        outcome(kernel),
        [
            "s1 started in 42, runtime exec, root 23, by runc 20",
            "s1 root 23 /bin/sh [/bin/sh]",
            "s1 exited 23 sh exit 0",
            "s1 ended exit 0, 1 commands, lost 0,",
        ]
    );
}

#[test]
fn a_workload_that_takes_on_the_host_s_mounts_is_a_session_from_there_on() {
    let mut kernel = with_container();
    run(&mut kernel, INIT, 101, &["/usr/bin/nsenter", "-t", "1", "-m"]);
    kernel.setns(101, Some(HOST_MNT), None);
    kernel.exec(101, 101, "bash", "/bin/bash", &["bash"]);
    run(&mut kernel, 101, 102, &["/bin/cat", "/etc/shadow"]);
    kernel.exit(102, 0);
    kernel.exit(101, 0);
    let told = outcome(kernel);
    assert_eq!(told[0], "s1 started in 42, host namespace, root 101, by bash 101");
    assert!(told.contains(&"s1 102 /bin/cat [/bin/cat /etc/shadow]".to_owned()), "{told:#?}");
    assert_eq!(told.last().unwrap(), "s1 ended exit 0, 2 commands, lost 0,");
}

#[test]
fn services_and_logins_of_the_host_are_nobody_s() {
    let mut kernel = with_container();
    kernel.mkdir(70, HOST_CGROUP, "ssh.service");
    kernel.mkdir(71, HOST_CGROUP, "session-3.scope");
    run(&mut kernel, SHIM, 500, &["/usr/sbin/sshd"]);
    kernel.attach(1, 500, 70);
    run(&mut kernel, 500, 501, &["/usr/sbin/sshd", "-R"]);
    kernel.attach(1, 501, 71);
    run(&mut kernel, 501, 502, &["/bin/bash"]);
    kernel.unshare(502, Some(99), None);
    run(&mut kernel, 502, 503, &["/bin/ls"]);
    assert_eq!(kernel.cgroups[&71].state, cgroup_state::HOST);
    assert_eq!(told(kernel), [""; 0]);
}

/// A container whose init runs in the pid namespace of another: runc joins that on the way.
fn make_beside(kernel: &mut Kernel, cgroup: u64, name: &str, init: u32, mnt: u32, pid_ns: u32) {
    kernel.mkdir(cgroup, POD, name);
    runc(kernel, init - 3);
    let (stage0, stage1) = (init - 2, init - 1);
    kernel.fork(init - 3, stage0, Clone3::default());
    kernel.exec(stage0, stage0, "6", "/proc/self/fd/6", &["runc", "init"]);
    kernel.attach(init - 3, stage0, cgroup);
    kernel.fork(stage0, stage1, Clone3 { parent: true, ..Clone3::default() });
    kernel.setns(stage1, None, Some(pid_ns));
    kernel.unshare(stage1, Some(mnt), None);
    kernel.fork(stage1, init, Clone3 { parent: true, ..Clone3::default() });
    kernel.exit(stage1, 0);
    kernel.exit(stage0, 0);
    kernel.exec(init, init, "sh", "/bin/sh", &["sh"]);
    kernel.exit(init - 3, 0);
}

const THIRD_ID: &str = "09a2fb8ee0a51e4ae3b6a7cc6d2e8d2bc3f1d0d8b8f4a7a1c5e9b3d7f1a2c4e6";

#[test]
fn a_container_beside_another_is_a_session_until_its_last_process_ends() {
    // The pod's first container is its sandbox, the second the one that is looked into.
    let mut kernel = with_container();
    make_container(&mut kernel, 43, OTHER_ID, 200, 21, 22);
    make_beside(&mut kernel, 44, THIRD_ID, 300, 31, 22);
    run(&mut kernel, 300, 301, &["/bin/ps"]);
    kernel.exit(301, 0);
    let shell = runc_exec(&mut kernel, RUNC, 44, &["/bin/ls"]);
    kernel.exit(shell, 0);
    kernel.exit(300, 0);
    assert_eq!(kernel.cgroups[&44].state, cgroup_state::ENDED);
    assert_eq!(
        outcome(kernel),
        [
            "s1 started in 44, ephemeral container, root 300, by nobody",
            "s1 root 300 /bin/sh [sh]",
            "s1 301 /bin/ps [/bin/ps]",
            "s1 exited 301 ps exit 0",
            "s2 started in 44, runtime exec, root 23, by runc 20",
            "s2 root 23 /bin/ls [/bin/ls]",
            "s2 exited 23 ls exit 0",
            "s2 ended exit 0, 1 commands, lost 0,",
            "s1 exited 300 sh exit 0",
            "s1 ended exit 0, 2 commands, lost 0,",
        ]
    );
}

#[test]
fn containers_in_their_sandbox_s_pid_namespace_are_nobody_s() {
    let mut kernel = with_container();
    make_beside(&mut kernel, 43, OTHER_ID, 200, 21, PID_NS);
    make_beside(&mut kernel, 44, THIRD_ID, 300, 31, PID_NS);
    run(&mut kernel, 300, 301, &["/bin/ps"]);
    assert_eq!(told(kernel), [""; 0]);
}
