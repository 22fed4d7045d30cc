//! The rules, case by case: what a name says, and what forks, moves, execs and joins come to.

use podtrail_ebpf::{
    layout::{Cgroup, FollowedTask, Session, TaskKey, cgroup_state, entry_kind, task_kind},
    rules::{
        Attach, Exec, Fork, Join, Known, NAME_MAX, Name, Namespaces, Place, STAGED_MAX, attach,
        cgroup_created, exec, fork, is_sandbox, join, may_have_host_root, name,
    },
};

const HOST: Namespaces = Namespaces { mnt: 1, pid: 2 };
const INSIDE: Namespaces = Namespaces { mnt: 11, pid: 12 };
const ID: &str = "3099e8ec7bcd7afc53561d7422007137c889f85d3a3148a46e958705882cfea0";

const INIT: TaskKey = TaskKey::new(100, 100);
const TASK: TaskKey = TaskKey::new(200, 200);

fn said(text: &str) -> Name {
    let mut bytes = [0; NAME_MAX];
    let len = text.len().min(NAME_MAX);
    bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
    name(&bytes, text.len())
}

fn place(state: u8) -> Place {
    let init = if state == cgroup_state::NEW || state == cgroup_state::ENDED { TaskKey::NONE } else { INIT };
    let (mnt_ns, pid_ns) = match state {
        cgroup_state::RUNNING => (INSIDE.mnt, INSIDE.pid),
        // of whoever made the first entry
        cgroup_state::FIRST | cgroup_state::NAMED => (HOST.mnt, 0),
        _ => (0, 0),
    };
    Place { id: 42, state, init, mnt_ns, pid_ns }
}

fn followed(kind: u8) -> FollowedTask {
    FollowedTask::new(TASK, 42, kind, 0)
}

fn session(kind: u8) -> Session {
    Session { origin_mnt_ns: HOST.mnt, ..Session::new(42, 0, TaskKey::NONE, kind) }
}

fn cgroup(state: u8) -> Cgroup {
    Cgroup::new(1, 0, state)
}

// ----------------------------------------------------------------------------------------------------- names

#[test]
fn names_that_runtimes_give_are_containers() {
    for form in [
        "{}",
        "cri-containerd-{}.scope",
        "crio-{}.scope",
        "crio-{}",
        "docker-{}.scope",
        "libpod-{}.scope",
        "libpod-{}",
        "nerdctl-{}.scope",
    ] {
        let text = form.replace("{}", ID);
        assert_eq!(said(&text), Name::Container, "{text}");
    }
}

#[test]
fn names_beside_a_container_s_are_none() {
    let upper = ID.to_uppercase();
    let short = &ID[1..];
    for text in [
        "kubepods.slice",
        "kubepods-burstable-pod11111111_2222_3333_4444_555555555555.scope",
        "container", // crun's below `crio-<id>.scope`
        "aaa",
        "",
        ".scope",
        "-.scope",
        "user-1000.slice",
        &upper,
        short,
        &format!("crio-conmon-{ID}.scope"),
        &format!("libpod-conmon-{ID}.scope"),
        &format!("{short}g"),
        &format!("x{ID}"),
        &format!("{ID}.scope.d"),
        &format!("{ID}-"),
        &format!("docker_{ID}.scope"),
    ] {
        assert_eq!(said(text), Name::Other, "{text}");
    }
}

#[test]
fn pods_are_said_to_be_ones() {
    for text in [
        "kubepods-burstable-pod11111111_2222_3333_4444_555555555555.slice".to_owned(),
        "kubepods-pod11111111_2222_3333_4444_555555555555.slice".to_owned(),
        "pod11111111-2222-3333-4444-555555555555".to_owned(),
        "pod0123456789abcdef0123456789abcdef".to_owned(), // static
        format!("libpod_pod_{ID}.slice"),
    ] {
        assert_eq!(said(&text), Name::Pod, "{text}");
    }
    for text in ["pod", "pod1", "kubepods-besteffort.slice", "user-1000.slice"] {
        assert_eq!(said(text), Name::Other, "{text}");
    }
}

#[test]
fn services_of_the_host_are_said_to_be_ones_whatever_their_name() {
    for text in ["ssh.service".to_owned(), ".service".to_owned(), format!("docker-{ID}.service")] {
        assert_eq!(said(&text), Name::Service, "{text}");
    }
    assert_eq!(said("service"), Name::Other);
}

#[test]
fn names_longer_than_is_looked_at_are_no_containers() {
    let long = "x".repeat(NAME_MAX - 64);
    assert_eq!(said(&format!("{long}{ID}")), Name::Other, "no dash before the id");
    assert_eq!(said(&"0".repeat(NAME_MAX * 2)), Name::Other);
    assert_eq!(
        said(&format!("{}-{ID}", "x".repeat(NAME_MAX - 65))),
        Name::Container,
        "just as long as it may be"
    );
    let bytes = [b'-'; NAME_MAX];
    assert_eq!(name(&bytes, usize::MAX), Name::Other);
}

#[test]
fn case_14_a_cgroup_inside_a_container_is_a_member_whatever_its_name() {
    for state in [cgroup_state::NAMED, cgroup_state::RUNNING, cgroup_state::ENDED, cgroup_state::MEMBER] {
        for name in [Name::Container, Name::Service, Name::Pod, Name::Other] {
            assert_eq!(cgroup_created(name, Some(&cgroup(state))), cgroup_state::MEMBER, "{state} {name:?}");
        }
    }
}

#[test]
fn a_cgroup_of_the_host_is_what_its_name_says() {
    for parent in [
        None,
        Some(cgroup(cgroup_state::HOST)),
        Some(cgroup(cgroup_state::NEW)),
        Some(cgroup(cgroup_state::FIRST)),
    ] {
        assert_eq!(cgroup_created(Name::Container, parent.as_ref()), cgroup_state::NAMED);
        assert_eq!(cgroup_created(Name::Service, parent.as_ref()), cgroup_state::HOST);
        assert_eq!(cgroup_created(Name::Other, parent.as_ref()), cgroup_state::NEW);
    }
}

// ----------------------------------------------------------------------------------------------------- forks

#[test]
fn a_fork_within_one_place_is_followed_only_where_the_parent_is() {
    let here = place(cgroup_state::RUNNING);
    assert_eq!(fork(None, None, &here, &here), Fork::Ignore);
    assert_eq!(
        fork(Some(&followed(task_kind::INIT)), None, &here, &here),
        Fork::Ignore,
        "init's are no session"
    );
    assert_eq!(fork(Some(&followed(task_kind::WORKLOAD)), None, &here, &here), Fork::Inherit);
    let parent = followed(task_kind::SESSION);
    for kind in [entry_kind::RUNTIME, entry_kind::JOIN, entry_kind::SELF_MOVED, entry_kind::HOST_NS] {
        assert_eq!(fork(Some(&parent), Some(&session(kind)), &here, &here), Fork::Inherit);
    }
}

#[test]
fn case_1_a_clone_into_a_container_is_its_first_entry_or_a_session() {
    let to = |state| fork(None, None, &Place::HOST, &place(state));
    assert_eq!(to(cgroup_state::NEW), Fork::First);
    assert_eq!(to(cgroup_state::RUNNING), Fork::Enter);
    assert_eq!(to(cgroup_state::ENDED), Fork::First, "a restart in the same cgroup");
    assert_eq!(to(cgroup_state::HOST), Fork::Ignore);
    assert_eq!(to(cgroup_state::FIRST), Fork::Ignore, "not yet known to be a container");
    let named = Place { init: TaskKey::NONE, ..place(cgroup_state::NAMED) };
    assert_eq!(fork(None, None, &Place::HOST, &named), Fork::First);
    assert_eq!(to(cgroup_state::NAMED), Fork::Enter);
}

#[test]
fn a_session_that_clones_into_another_container_stays_a_session() {
    let to = Place { id: 43, ..place(cgroup_state::RUNNING) };
    let from = place(cgroup_state::RUNNING);
    let parent = followed(task_kind::SESSION);
    let mut announced = session(entry_kind::JOIN);
    announced.announced = 1;
    assert_eq!(fork(Some(&parent), Some(&announced), &from, &to), Fork::Inherit);
    assert_eq!(fork(Some(&parent), Some(&session(entry_kind::RUNTIME)), &from, &to), Fork::Inherit);
}

#[test]
fn a_runtime_s_stage_that_joined_first_and_then_clones_in_is_an_entry() {
    let parent = followed(task_kind::SESSION);
    let to = place(cgroup_state::RUNNING);
    assert_eq!(fork(Some(&parent), Some(&session(entry_kind::JOIN)), &Place::HOST, &to), Fork::Enter);
}

#[test]
fn a_runtime_s_stage_that_joined_a_pod_s_pids_makes_a_new_container() {
    let parent = followed(task_kind::SESSION);
    for state in [cgroup_state::NEW, cgroup_state::ENDED] {
        let to = place(state);
        assert_eq!(fork(Some(&parent), Some(&session(entry_kind::JOIN)), &Place::HOST, &to), Fork::First);
    }
}

#[test]
fn a_workload_that_clones_a_child_out_makes_no_container_of_it() {
    let from = place(cgroup_state::RUNNING);
    let out = Place { id: 43, ..place(cgroup_state::NEW) };
    assert_eq!(fork(None, None, &from, &out), Fork::Leave);
    let nested = Place { id: 43, init: TaskKey::NONE, ..place(cgroup_state::NAMED) };
    assert_eq!(fork(None, None, &from, &nested), Fork::First, "by its name a container of its own");
}

// --------------------------------------------------------------------------------------------------- attaches

fn moved(task: Option<&FollowedTask>, session: Option<&Session>, to: &Place, owner: Option<u64>) -> Attach {
    attach(TASK, task, session, to, owner, false)
}

#[test]
fn the_first_that_is_moved_into_a_container_is_its_init_and_the_next_a_session() {
    assert_eq!(moved(None, None, &place(cgroup_state::NEW), None), Attach::First);
    assert_eq!(moved(None, None, &place(cgroup_state::ENDED), None), Attach::First);
    let running = place(cgroup_state::RUNNING);
    assert_eq!(moved(None, None, &running, None), Attach::Enter(entry_kind::RUNTIME));
    assert_eq!(attach(TASK, None, None, &running, None, true), Attach::Enter(entry_kind::SELF_MOVED));
    assert_eq!(moved(None, None, &place(cgroup_state::HOST), None), Attach::Ignore);
    assert_eq!(moved(None, None, &place(cgroup_state::FIRST), None), Attach::Ignore);
}

#[test]
fn an_attach_that_comes_late_after_the_setns_replaces_the_join() {
    let task = followed(task_kind::SESSION);
    let joining = session(entry_kind::JOIN);
    let to = place(cgroup_state::RUNNING);
    assert_eq!(moved(Some(&task), Some(&joining), &to, Some(42)), Attach::Enter(entry_kind::RUNTIME));
    assert_eq!(moved(Some(&task), Some(&joining), &place(cgroup_state::NEW), None), Attach::First);
    assert_eq!(moved(Some(&task), Some(&joining), &place(cgroup_state::HOST), Some(42)), Attach::Ignore);
}

#[test]
fn one_attach_a_hierarchy_is_one_entry() {
    let task = followed(task_kind::SESSION);
    let entered = session(entry_kind::RUNTIME);
    assert_eq!(moved(Some(&task), Some(&entered), &place(cgroup_state::RUNNING), Some(42)), Attach::Ignore);
    assert_eq!(
        attach(INIT, None, None, &place(cgroup_state::NAMED), None, false),
        Attach::Ignore,
        "systemd and runc both move the first"
    );
}

#[test]
fn case_12_a_session_never_changes_with_the_cgroup() {
    let task = followed(task_kind::SESSION);
    for announced in [0, 1] {
        for kind in [entry_kind::RUNTIME, entry_kind::SELF_MOVED, entry_kind::HOST_NS, entry_kind::RECOVERED]
        {
            let session = Session { announced, ..session(kind) };
            for state in [cgroup_state::HOST, cgroup_state::NEW, cgroup_state::RUNNING, cgroup_state::ENDED] {
                for owner in [None, Some(42)] {
                    assert_eq!(moved(Some(&task), Some(&session), &place(state), owner), Attach::Ignore);
                }
            }
        }
    }
    let joined = Session { announced: 1, ..session(entry_kind::JOIN) };
    assert_eq!(moved(Some(&task), Some(&joined), &place(cgroup_state::RUNNING), Some(42)), Attach::Ignore);
}

#[test]
fn case_18_init_moving_itself_or_its_children_below_makes_no_session() {
    let to = place(cgroup_state::RUNNING);
    let init = followed(task_kind::INIT);
    assert_eq!(attach(INIT, Some(&init), None, &to, Some(42), true), Attach::Ignore);
    assert_eq!(moved(None, None, &to, Some(42)), Attach::Ignore, "its children, by its namespaces");
    assert_eq!(
        moved(None, None, &to, Some(43)),
        Attach::Enter(entry_kind::RUNTIME),
        "those of another container are strangers"
    );
}

#[test]
fn a_workload_moved_out_is_followed_so_that_it_is_no_join() {
    assert_eq!(moved(None, None, &place(cgroup_state::HOST), Some(42)), Attach::Leave);
    assert_eq!(
        moved(None, None, &place(cgroup_state::NEW), Some(42)),
        Attach::Leave,
        "into a cgroup that it made"
    );
    let nested = Place { init: TaskKey::NONE, ..place(cgroup_state::NAMED) };
    assert_eq!(moved(None, None, &nested, Some(42)), Attach::First, "by its name a container of its own");
    let workload = followed(task_kind::WORKLOAD);
    for state in [cgroup_state::HOST, cgroup_state::RUNNING, cgroup_state::NEW] {
        assert_eq!(moved(Some(&workload), None, &place(state), Some(42)), Attach::Ignore);
    }
}

// ------------------------------------------------------------------------------------------------------ execs

fn runs(task: Option<&FollowedTask>, session: Option<&Session>, place: Place, ns: Namespaces) -> Exec {
    exec(&Known { task, session, place, owner: None, beside: false }, ns, HOST, false)
}

#[test]
fn a_new_cgroup_is_a_container_s_where_its_first_task_runs_in_another_pid_namespace() {
    let first = place(cgroup_state::FIRST);
    assert_eq!(runs(None, None, first, INSIDE), Exec::Init);
    assert_eq!(runs(None, None, first, Namespaces { mnt: HOST.mnt, ..INSIDE }), Exec::Init);
    assert_eq!(runs(None, None, first, HOST), Exec::Host);
    assert_eq!(
        runs(None, None, first, Namespaces { pid: HOST.pid, ..INSIDE }),
        Exec::Host,
        "a service with a mount namespace of its own"
    );
    let known = Known { task: None, session: None, place: first, owner: None, beside: false };
    assert_eq!(exec(&known, HOST, HOST, true), Exec::Ignore, "the runtime's copy of itself decides nothing");
}

#[test]
fn case_17_a_named_container_runs_where_its_init_sees_other_mounts_even_with_the_host_s_pids() {
    let named = place(cgroup_state::NAMED);
    assert_eq!(runs(None, None, named, Namespaces { pid: HOST.pid, ..INSIDE }), Exec::Init);
    assert_eq!(runs(None, None, named, INSIDE), Exec::Init);
    assert_eq!(runs(None, None, named, HOST), Exec::Ignore, "the runtime");
    let of_runtime = Place { mnt_ns: 5, ..named };
    assert_eq!(
        runs(None, None, of_runtime, Namespaces { mnt: 5, pid: HOST.pid }),
        Exec::Ignore,
        "the runtime, in a mount namespace of its own"
    );
}

#[test]
fn a_container_that_starts_in_another_s_pid_namespace_is_a_session() {
    let starts = |state, ns| {
        let known = Known { task: None, session: None, place: place(state), owner: None, beside: true };
        exec(&known, ns, HOST, false)
    };
    for state in [cgroup_state::NAMED, cgroup_state::FIRST, cgroup_state::ENDED] {
        assert!(place(state).may_start());
        assert_eq!(starts(state, INSIDE), Exec::Ephemeral, "{state}");
    }
    assert_eq!(starts(cgroup_state::NAMED, HOST), Exec::Ignore, "the runtime");
    assert_eq!(starts(cgroup_state::RUNNING, INSIDE), Exec::Ignore, "it has started");
    assert!(!place(cgroup_state::RUNNING).may_start());
}

#[test]
fn a_pod_s_sandbox_is_its_first_container() {
    let pod = Cgroup { pod: 1, first: 42, ..cgroup(cgroup_state::NEW) };
    assert!(is_sandbox(42, &pod) && !is_sandbox(43, &pod));
    assert!(!is_sandbox(42, &Cgroup { pod: 0, ..pod }), "there are none but in pods");
}

#[test]
fn a_container_s_own_programs_are_nobody_s() {
    let running = place(cgroup_state::RUNNING);
    assert_eq!(runs(None, None, running, INSIDE), Exec::Ignore);
    assert_eq!(runs(Some(&followed(task_kind::INIT)), None, running, INSIDE), Exec::Ignore);
    let workload = followed(task_kind::WORKLOAD);
    let known =
        Known { task: Some(&workload), session: None, place: Place::HOST, owner: Some(42), beside: false };
    assert_eq!(exec(&known, INSIDE, HOST, false), Exec::Ignore, "moved out of its cgroup");
}

#[test]
fn a_hook_that_the_runtime_runs_inside_before_the_init_does_not_end_the_container() {
    // The hook was taken for the init and is gone: what comes after it is the init.
    let ended = Place { mnt_ns: INSIDE.mnt, ..place(cgroup_state::ENDED) };
    assert_eq!(runs(None, None, ended, INSIDE), Exec::Init);
    assert_eq!(
        runs(None, None, ended, Namespaces { pid: HOST.pid, ..INSIDE }),
        Exec::Init,
        "case 17: hostPID"
    );
    assert_eq!(runs(None, None, ended, HOST), Exec::Ignore);
}

#[test]
fn the_host_s_root_counts_for_a_container_s_workload_alone() {
    let asks = |task: Option<&FollowedTask>, session: Option<&Session>, place, ns| {
        may_have_host_root(&Known { task, session, place, owner: None, beside: false }, ns, HOST)
    };
    let running = Place { mnt_ns: INSIDE.mnt, ..place(cgroup_state::RUNNING) };
    let (init, workload) = (followed(task_kind::INIT), followed(task_kind::WORKLOAD));
    assert!(asks(None, None, running, INSIDE));
    assert!(asks(None, None, running, Namespaces { mnt: 77, ..INSIDE }), "unshared, then chroot");
    assert!(asks(Some(&init), None, running, INSIDE), "its own entrypoint");
    assert!(asks(None, None, running, Namespaces { pid: HOST.pid, ..INSIDE }), "hostPID");
    assert!(!asks(Some(&workload), None, running, INSIDE), "moved out");
    let session = Session::new(42, 1, TaskKey::NONE, entry_kind::RUNTIME);
    assert!(!asks(Some(&followed(task_kind::SESSION)), Some(&session), running, INSIDE));
    for state in
        [cgroup_state::HOST, cgroup_state::NEW, cgroup_state::NAMED, cgroup_state::FIRST, cgroup_state::ENDED]
    {
        let starting = Place { state, ..running };
        assert!(!asks(None, None, starting, INSIDE), "a runtime at work: {state}");
    }
    assert!(!asks(None, None, running, HOST), "it has the host's mounts: that is known already");
    assert!(!asks(None, None, Place { mnt_ns: 0, ..running }, INSIDE), "as the container has from the start");
}

#[test]
fn a_container_s_task_that_comes_to_the_host_s_mounts_is_a_session() {
    let outside = Namespaces { mnt: HOST.mnt, ..INSIDE };
    assert_eq!(runs(None, None, place(cgroup_state::RUNNING), outside), Exec::New(entry_kind::HOST_NS, 42));
    let shares = Place { mnt_ns: 0, ..place(cgroup_state::RUNNING) };
    assert_eq!(
        runs(None, None, shares, outside),
        Exec::Ignore,
        "its init had the host's mounts from the start"
    );
}

#[test]
fn case_8_the_runtime_at_work_in_the_cgroup_is_staging_until_it_sees_the_container() {
    let task = followed(task_kind::SESSION);
    let running = place(cgroup_state::RUNNING);
    let mut entered = session(entry_kind::RUNTIME);
    assert_eq!(runs(Some(&task), Some(&entered), running, HOST), Exec::Staging);
    assert_eq!(runs(Some(&task), Some(&entered), running, INSIDE), Exec::Command);
    entered.staged = STAGED_MAX;
    assert_eq!(runs(Some(&task), Some(&entered), running, HOST), Exec::Command, "no runtime stays that long");
    entered.staged = 0;
    entered.announced = 1;
    assert_eq!(
        runs(Some(&task), Some(&entered), running, HOST),
        Exec::Command,
        "to the host's mounts, later"
    );
}

#[test]
fn a_runtime_in_a_mount_namespace_of_its_own_is_at_work_there() {
    let task = followed(task_kind::SESSION);
    let entered = Session { origin_mnt_ns: 5, ..session(entry_kind::RUNTIME) };
    let running = place(cgroup_state::RUNNING);
    assert_eq!(
        runs(Some(&task), Some(&entered), running, Namespaces { mnt: 5, pid: HOST.pid }),
        Exec::Staging
    );
    assert_eq!(runs(Some(&task), Some(&entered), running, INSIDE), Exec::Command);
}

#[test]
fn case_17_a_container_with_the_host_s_mounts_shows_its_commands_after_the_runtime_s() {
    // Privileged, with no mount namespace: nothing tells the runtime from the command but how often it runs itself.
    let task = followed(task_kind::SESSION);
    let shares = Place { mnt_ns: 0, ..place(cgroup_state::RUNNING) };
    let mut entered = session(entry_kind::RUNTIME);
    assert_eq!(runs(Some(&task), Some(&entered), shares, HOST), Exec::Staging);
    assert_eq!(
        runs(Some(&task), Some(&entered), shares, Namespaces { mnt: HOST.mnt, ..INSIDE }),
        Exec::Command,
        "but where it has its own processes, those"
    );
    entered.staged = STAGED_MAX;
    assert_eq!(runs(Some(&task), Some(&entered), shares, HOST), Exec::Command);
}

#[test]
fn what_a_self_moved_shell_runs_is_a_command_at_once() {
    let task = followed(task_kind::SESSION);
    let moved = session(entry_kind::SELF_MOVED);
    assert_eq!(runs(Some(&task), Some(&moved), place(cgroup_state::RUNNING), HOST), Exec::Command);
}

#[test]
fn case_19_a_joiner_s_command_is_one_that_sees_what_was_joined() {
    let task = followed(task_kind::SESSION);
    let mut joined = session(entry_kind::JOIN);
    joined.joined_mnt_ns = INSIDE.mnt;
    assert_eq!(
        runs(Some(&task), Some(&joined), Place::HOST, Namespaces { pid: HOST.pid, ..INSIDE }),
        Exec::Command
    );
    assert_eq!(runs(Some(&task), Some(&joined), Place::HOST, HOST), Exec::Ignore);
    let mut joined = session(entry_kind::JOIN);
    joined.joined_pid_ns = INSIDE.pid;
    assert_eq!(
        runs(Some(&task), Some(&joined), Place::HOST, HOST),
        Exec::Ignore,
        "case 7: a pid namespace is joined by the children, not by the joiner"
    );
    assert_eq!(
        runs(Some(&task), Some(&joined), Place::HOST, Namespaces { mnt: HOST.mnt, ..INSIDE }),
        Exec::Command
    );
}

#[test]
fn a_program_of_the_host_in_a_container_s_namespaces_is_a_session_without_an_entry() {
    let known = Known { task: None, session: None, place: Place::HOST, owner: Some(42), beside: false };
    assert_eq!(exec(&known, INSIDE, HOST, false), Exec::New(entry_kind::JOIN, 42));
    assert_eq!(runs(None, None, Place::HOST, INSIDE), Exec::Ignore, "nobody's namespaces");
    assert_eq!(runs(None, None, place(cgroup_state::NEW), HOST), Exec::Ignore);
}

// ------------------------------------------------------------------------------------------------------ joins

#[test]
fn a_join_begins_with_the_first_namespace_and_goes_on_with_the_next() {
    let task = followed(task_kind::SESSION);
    let joining = session(entry_kind::JOIN);
    assert_eq!(join(None, None, &Place::HOST, INSIDE, HOST), Join::Start);
    assert_eq!(join(None, None, &Place::HOST, Namespaces { mnt: HOST.mnt, ..INSIDE }, HOST), Join::Start);
    assert_eq!(join(Some(&task), Some(&joining), &Place::HOST, INSIDE, HOST), Join::Update);
    let announced = Session { announced: 1, ..joining };
    assert_eq!(join(Some(&task), Some(&announced), &Place::HOST, INSIDE, HOST), Join::Ignore);
    assert_eq!(join(None, None, &Place::HOST, HOST, HOST), Join::Ignore, "network plug-ins do that all day");
}

#[test]
fn runtimes_and_tasks_inside_join_nothing_new() {
    let task = followed(task_kind::SESSION);
    let entered = session(entry_kind::RUNTIME);
    assert_eq!(join(Some(&task), Some(&entered), &place(cgroup_state::RUNNING), INSIDE, HOST), Join::Ignore);
    for state in [cgroup_state::RUNNING, cgroup_state::NAMED, cgroup_state::FIRST, cgroup_state::ENDED] {
        assert_eq!(join(None, None, &place(state), INSIDE, HOST), Join::Ignore);
    }
    for kind in [task_kind::INIT, task_kind::WORKLOAD] {
        assert_eq!(join(Some(&followed(kind)), None, &Place::HOST, INSIDE, HOST), Join::Ignore);
    }
}
