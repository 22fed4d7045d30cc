use std::cell::RefCell;

use podtrail_ebpf::layout::cgroup_state;

use super::*;
use crate::container::fake::{Fake, HOST_MNT, HOST_PID};
use crate::container::{Directory, host_namespaces};

const ID: &str = "4fb3a1c2d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f80";
const OTHER: &str = "00b3a1c2d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f80";
const MNT: u32 = 500;
const PID_NS: u32 = 600;
const NOW: BootTime = BootTime(1_000_000_000_000);
const SHIM: u32 = 30;

/// Knows what the fake says, with nanoseconds that only it has.
struct Exact<'a>(&'a Fake);

impl ExactStart for Exact<'_> {
    fn start_time(&self, pid: u32) -> Option<u64> {
        Some(process::glance(&self.0.host(), pid)?.start_ticks * TICK_NS + 7)
    }
}

fn key(pid: u32) -> TaskKey {
    TaskKey::new(pid, u64::from(pid) * TICK_NS + 7)
}

fn recover_with(fake: &Fake, exact: &dyn ExactStart) -> Snapshot {
    let host = fake.host();
    let hierarchy = Hierarchy::find(&host).unwrap();
    let namespaces = host_namespaces(&host);
    let scan =
        Scan { host: &host, hierarchy: &hierarchy, namespaces: &namespaces, time: NOW, self_pid: 9999 };
    recover(&scan, exact).unwrap()
}

fn recovered(fake: &Fake) -> Snapshot {
    recover_with(fake, &Exact(fake))
}

/// The node: process 1, a shell, and a shim. A container with an init (50) and a worker (51) in `path`.
fn node(path: &str) -> (Fake, u64) {
    let fake = Fake::unified();
    fake.process(1).parent(0).write();
    fake.process(20).parent(1).cgroup("/").write();
    fake.process(SHIM).parent(1).cgroup("/").comm(b"containerd-shim").write();
    let id = fake.cgroup(path);
    fake.process(50).parent(SHIM).cgroup(path).ns_pids(&[50, 1]).mnt(MNT).pid_ns(PID_NS).write();
    fake.process(51).parent(50).sid(50).cgroup(path).ns_pids(&[51, 7]).mnt(MNT).pid_ns(PID_NS).write();
    (fake, id)
}

/// A process in the container of [`node`].
macro_rules! inside {
    ($fake:expr, $pid:expr, $path:expr) => {
        $fake.process($pid).cgroup($path).ns_pids(&[$pid, $pid - 40]).mnt(MNT).pid_ns(PID_NS)
    };
}

fn state(snapshot: &Snapshot, id: u64) -> layout::Cgroup {
    snapshot.cgroups.iter().find(|(cgroup, _)| *cgroup == id).expect("the cgroup").1
}

/// Sessions as (root, kind, members).
fn sessions(snapshot: &Snapshot) -> Vec<(u32, EntryKind, Vec<u32>)> {
    snapshot
        .recovered
        .iter()
        .map(|found| {
            (found.entry.tgid, found.kind, found.processes.iter().map(|exec| exec.process.key.tgid).collect())
        })
        .collect()
}

fn docker() -> String {
    format!("/docker/{ID}")
}

#[test]
fn a_container_and_its_workload_are_no_session() {
    let (fake, id) = node(&docker());
    let below = fake.cgroup(format!("{}/below", docker()));
    let snapshot = recovered(&fake);
    assert_eq!(sessions(&snapshot), []);
    assert_eq!(
        state(&snapshot, id),
        layout::Cgroup {
            init: key(50),
            mnt_ns: MNT,
            pid_ns: PID_NS,
            ..layout::Cgroup::new(fake.cgroup("/docker"), 0, cgroup_state::RUNNING)
        }
    );
    let member = state(&snapshot, below);
    assert_eq!((member.state, member.container, member.parent), (cgroup_state::MEMBER, id, id));
    assert_eq!(state(&snapshot, fake.root_id()).state, cgroup_state::HOST);
    assert_eq!(snapshot.namespaces, [(MNT, id), (PID_NS, id)]);
    assert_eq!(snapshot.tasks, [(key(50), task(task_kind::INIT, id, TaskKey::NONE, false))]);
    assert_eq!(snapshot.unkeyed, [0_u32; 0]);
}

#[test]
fn cgroups_without_a_container() {
    let (fake, _) = node(&docker());
    let named = fake.cgroup(format!("/docker/{OTHER}"));
    let empty = fake.cgroup("/empty");
    let service = fake.cgroup("/system.slice/udev.service");
    // A service may have namespaces of its own.
    fake.process(70).cgroup("/system.slice/udev.service").mnt(700).pid_ns(701).ns_pids(&[70, 1]).write();
    let used = fake.cgroup("/user.slice/x.scope");
    fake.process(71).cgroup("/user.slice/x.scope").write();
    fake.process(72).cgroup("/user.slice/x.scope").mnt(702).pid_ns(703).ns_pids(&[72, 1]).write();
    let snapshot = recovered(&fake);
    let states = [named, empty, service, used].map(|id| state(&snapshot, id).state);
    use cgroup_state::{HOST, NAMED, NEW};
    assert_eq!(states, [NAMED, NEW, HOST, HOST]);
    assert_eq!(state(&snapshot, fake.cgroup("/user.slice")).state, NEW, "itself it has no processes");
    assert_eq!(sessions(&snapshot), []);
}

#[test]
fn a_container_made_by_hand_is_told_by_its_pid_namespace() {
    let (fake, id) = node("/mine/box");
    let snapshot = recovered(&fake);
    assert_eq!(state(&snapshot, id).state, cgroup_state::RUNNING);
    assert_eq!(state(&snapshot, id).init, key(50));
    let mut directory = Directory::default();
    directory.seed(NOW, &snapshot.containers);
    assert_eq!(directory.find(id).and_then(|info| info.id.as_deref()), Some("box"));
    assert_eq!(directory.find(fake.cgroup("/mine")), None);
}

#[test]
fn an_init_that_moved_itself_one_level_down() {
    for name in ["init.scope", "init"] {
        let (fake, id) = node(&format!("/mine/box/{name}"));
        let boxed = fake.cgroup("/mine/box");
        let snapshot = recovered(&fake);
        assert_eq!(state(&snapshot, boxed).state, cgroup_state::RUNNING);
        assert_eq!(
            (state(&snapshot, id).state, state(&snapshot, id).container),
            (cgroup_state::MEMBER, boxed)
        );
    }
}

#[test]
fn names_that_look_like_containers_inside_one_are_members() {
    let (fake, id) = node(&docker());
    let path = format!("{}/docker/{OTHER}", docker());
    let inner = fake.cgroup(&path);
    // Docker in Docker: an init of its own.
    fake.process(60).parent(51).cgroup(&path).ns_pids(&[60, 20, 1]).mnt(800).pid_ns(801).write();
    let snapshot = recovered(&fake);
    assert_eq!(
        (state(&snapshot, inner).state, state(&snapshot, inner).container),
        (cgroup_state::MEMBER, id)
    );
    assert_eq!(state(&snapshot, id).init, key(50));
    assert_eq!(sessions(&snapshot), []);
}

#[test]
fn two_execs_are_two_sessions_with_their_descendants() {
    let (fake, id) = node(&docker());
    let path = docker();
    inside!(fake, 60, &path).parent(SHIM).tty(0x8801).comm(b"bash").argv(b"bash\0-l\0").uids((0, 0)).write();
    inside!(fake, 61, &path).parent(60).sid(60).write();
    inside!(fake, 62, &path).parent(61).sid(60).write();
    inside!(fake, 70, &path).parent(SHIM).write();
    let snapshot = recovered(&fake);
    assert_eq!(
        sessions(&snapshot),
        [(60, EntryKind::Runtime, vec![60, 61, 62]), (70, EntryKind::Runtime, vec![70])]
    );
    let (entry, session) = snapshot.sessions[0];
    assert_eq!(entry, key(60));
    assert_eq!((session.container, session.live, session.by), (id, 3, key(SHIM)));
    assert_eq!(
        (session.kind, session.announced, session.time),
        (entry_kind::RECOVERED, 1, key(60).start_time)
    );
    assert_eq!(session.origin_mnt_ns, HOST_MNT);
    for pid in [60, 61, 62] {
        let (_, task) = snapshot.tasks.iter().find(|(task, _)| *task == key(pid)).expect("followed");
        assert_eq!((task.kind, task.entry, task.container), (task_kind::SESSION, key(60), id), "{pid}");
    }
    assert!(!snapshot.tasks.iter().any(|(task, _)| task.tgid == 51), "the workload is not followed");

    let found = &snapshot.recovered[0];
    assert_eq!((found.time, found.container), (NOW, id));
    let root = &found.processes[0];
    assert_eq!((root.time, root.root, root.host_mnt), (BootTime(key(60).start_time), true, false));
    assert_eq!((root.process.parent, root.process.comm.as_slice()), (key(SHIM), b"bash".as_slice()));
    assert_eq!(root.argv.bytes, b"bash\0-l\0");
    assert_eq!(root.tty.as_ref().map(|tty| tty.name.as_str()), Some("pts/1"));
    assert_eq!((root.cgroup_id, root.container, root.entered_by), (id, Some(id), key(SHIM)));
    assert_eq!((root.namespaces.mnt, root.namespaces.pid), (MNT, PID_NS));
    assert!(found.processes[1..].iter().all(|exec| !exec.root));
}

#[test]
fn sessions_that_the_hooks_saw_come_in_are_theirs() {
    let (fake, _) = node(&docker());
    let path = docker();
    inside!(fake, 60, &path).parent(SHIM).write();
    inside!(fake, 90, &path).parent(60).write();
    inside!(fake, 80, &path).parent(SHIM).write();
    let mut snapshot = recovered(&fake);
    assert_eq!(snapshot.sessions.len(), 2);
    snapshot.keep_before(BootTime(key(80).start_time));
    assert_eq!(sessions(&snapshot), [(60, EntryKind::Runtime, vec![60, 90])]);
    let keys: Vec<u32> = snapshot.sessions.iter().map(|(entry, _)| entry.tgid).collect();
    assert_eq!(keys, [60]);
    let tasks: Vec<u32> = snapshot.tasks.iter().map(|(task, _)| task.tgid).collect();
    assert_eq!(tasks, [50, 60, 90], "the init and late children of early sessions stay");
}

#[test]
fn an_orphan_of_a_session_is_found_by_its_posix_session() {
    let (fake, _) = node(&docker());
    let path = docker();
    inside!(fake, 60, &path).parent(SHIM).write();
    // nohup: its parent is gone, and the kernel gave it to the container's init
    inside!(fake, 65, &path).parent(50).sid(60).write();
    inside!(fake, 66, &path).parent(65).sid(66).write();
    // a daemon of the workload's own
    inside!(fake, 80, &path).parent(50).sid(80).write();
    let snapshot = recovered(&fake);
    assert_eq!(sessions(&snapshot), [(60, EntryKind::Runtime, vec![60, 65, 66])]);
}

#[test]
fn a_join_has_its_cgroup_outside() {
    let (fake, id) = node(&docker());
    // nsenter -m -p: sees the mounts, its child is in both
    fake.process(60).parent(20).mnt(MNT).comm(b"nsenter").write();
    fake.process(61).parent(60).mnt(MNT).pid_ns(PID_NS).ns_pids(&[61, 9]).write();
    // nsenter -p only, the parent in the node's namespaces altogether
    fake.process(70).parent(20).write();
    fake.process(71).parent(70).pid_ns(PID_NS).ns_pids(&[71, 10]).write();
    let snapshot = recovered(&fake);
    assert_eq!(sessions(&snapshot), [(60, EntryKind::Join, vec![60, 61]), (71, EntryKind::Join, vec![71])]);
    let joined: Vec<_> =
        snapshot.sessions.iter().map(|(_, s)| (s.container, s.joined_mnt_ns, s.joined_pid_ns)).collect();
    assert_eq!(joined, [(id, MNT, 0), (id, 0, PID_NS)]);
    assert_eq!(snapshot.recovered[0].processes[0].cgroup_id, fake.root_id());
}

#[test]
fn a_join_whose_nsenter_is_gone_is_one_still() {
    let (fake, _) = node(&docker());
    fake.process(61).parent(50).mnt(MNT).pid_ns(PID_NS).ns_pids(&[61, 9]).write();
    assert_eq!(sessions(&recovered(&fake)), [(61, EntryKind::Join, vec![61])]);
}

#[test]
fn workload_that_was_moved_out_is_followed_as_that() {
    let (fake, id) = node(&docker());
    fake.process(60).parent(51).sid(50).mnt(MNT).pid_ns(PID_NS).ns_pids(&[60, 9]).write();
    let snapshot = recovered(&fake);
    assert_eq!(sessions(&snapshot), []);
    assert!(snapshot.tasks.contains(&(key(60), task(task_kind::WORKLOAD, id, TaskKey::NONE, false))));
}

#[test]
fn a_session_that_left_the_cgroup_stays_one() {
    let (fake, id) = node(&docker());
    let path = docker();
    inside!(fake, 60, &path).parent(SHIM).write();
    fake.process(61).parent(60).mnt(MNT).pid_ns(PID_NS).ns_pids(&[61, 9]).cgroup("/").write();
    let snapshot = recovered(&fake);
    assert_eq!(sessions(&snapshot), [(60, EntryKind::Runtime, vec![60, 61])]);
    assert_eq!(snapshot.recovered[0].processes[1].container, Some(id));
}

#[test]
fn a_container_task_that_sees_the_nodes_mounts_is_a_session() {
    let (fake, _) = node(&docker());
    let path = docker();
    fake.process(60).parent(51).sid(50).cgroup(&path).ns_pids(&[60, 9]).pid_ns(PID_NS).write();
    fake.process(61).parent(60).sid(50).cgroup(&path).ns_pids(&[61, 10]).pid_ns(PID_NS).write();
    let snapshot = recovered(&fake);
    assert_eq!(sessions(&snapshot), [(60, EntryKind::HostNamespace, vec![60, 61])]);
    assert!(snapshot.recovered[0].processes[0].host_mnt);
}

#[test]
fn a_container_task_whose_root_is_the_nodes_is_a_session() {
    let (fake, id) = node(&docker());
    let path = docker();
    let root =
        |pid: u32, to: &str| std::os::unix::fs::symlink(to, fake.host().process(pid).join("root")).unwrap();
    fake.process(1).parent(0).write();
    root(1, "/");
    let mounts = "27 1 254:0 / / rw - ext4 /dev/vda rw\n";
    std::fs::write(fake.host().process(1).join("mountinfo"), mounts).unwrap();
    // chroot in the container, and what that ran; beside it the workload, which has another root.
    for (pid, parent) in [(60, 51), (61, 60), (62, 51)] {
        let process = fake.process(pid).parent(parent).sid(50).cgroup(&path).mnt(MNT).pid_ns(PID_NS);
        process.ns_pids(&[pid, pid - 51]).write();
        root(pid, if pid == 62 { "/proc" } else { "/" });
    }
    let snapshot = recovered(&fake);
    assert_eq!(sessions(&snapshot), [(60, EntryKind::HostNamespace, vec![60, 61])]);
    assert!(!snapshot.recovered[0].processes[0].host_mnt);
    assert_eq!(state(&snapshot, id).host_root, 0);
    // Where the container had it from the start, it is nothing else.
    root(50, "/");
    let snapshot = recovered(&fake);
    assert_eq!((sessions(&snapshot), state(&snapshot, id).host_root), (vec![], 1));
}

#[test]
fn a_container_with_the_nodes_own_namespaces() {
    let fake = Fake::unified();
    let path = docker();
    fake.process(1).parent(0).write();
    fake.process(SHIM).parent(1).write();
    let id = fake.cgroup(&path);
    fake.process(50).parent(SHIM).cgroup(&path).mnt(MNT).write();
    fake.process(51).parent(50).sid(50).cgroup(&path).mnt(MNT).write();
    // an orphan of the workload: in the node's pid namespace the shim gets it
    fake.process(52).parent(SHIM).sid(50).cgroup(&path).mnt(MNT).write();
    fake.process(60).parent(SHIM).cgroup(&path).mnt(MNT).write();
    let snapshot = recovered(&fake);
    assert_eq!(sessions(&snapshot), [(60, EntryKind::Runtime, vec![60])]);
    let cgroup = state(&snapshot, id);
    assert_eq!((cgroup.init, cgroup.mnt_ns, cgroup.pid_ns), (key(50), MNT, 0));
    assert_eq!(snapshot.namespaces, [(MNT, id)]);
}

#[test]
fn a_container_with_the_nodes_mounts_has_no_host_sessions() {
    let fake = Fake::unified();
    let path = docker();
    fake.process(1).parent(0).write();
    fake.process(SHIM).parent(1).write();
    fake.cgroup(&path);
    fake.process(50).parent(SHIM).cgroup(&path).ns_pids(&[50, 1]).pid_ns(PID_NS).write();
    fake.process(51).parent(50).sid(50).cgroup(&path).ns_pids(&[51, 2]).pid_ns(PID_NS).write();
    assert_eq!(sessions(&recovered(&fake)), []);
}

#[test]
fn the_root_and_the_init_come_first_even_within_one_tick() {
    let (fake, id) = node(&docker());
    let path = docker();
    // Pids go round: children with smaller ones.
    inside!(fake, 60, &path).parent(SHIM).write();
    inside!(fake, 49, &path).parent(60).start(60).ns_pids(&[49, 30]).write();
    fake.process(45).parent(51).start(50).cgroup(&path).ns_pids(&[45, 31, 1]).mnt(800).pid_ns(801).write();
    let snapshot = recovered(&fake);
    assert_eq!(snapshot.recovered[0].processes[0].process.key.tgid, 60);
    assert_eq!(state(&snapshot, id).init, key(50));
}

#[test]
fn a_pod_that_shares_its_pid_namespace() {
    let (fake, pause) = node(&format!("{POD}/{ID}"));
    let path = format!("{POD}/{OTHER}");
    let app = fake.cgroup(&path);
    fake.process(55).parent(SHIM).cgroup(&path).ns_pids(&[55, 20]).mnt(510).pid_ns(PID_NS).write();
    // its orphans go to the pause container's process
    fake.process(56).parent(50).cgroup(&path).ns_pids(&[56, 21]).mnt(510).pid_ns(PID_NS).write();
    fake.process(60).parent(SHIM).cgroup(&path).ns_pids(&[60, 22]).mnt(510).pid_ns(PID_NS).write();
    let snapshot = recovered(&fake);
    assert_eq!(sessions(&snapshot), [(60, EntryKind::Runtime, vec![60])]);
    assert_eq!(state(&snapshot, app).init, key(55));
    assert_eq!(snapshot.namespaces, [(MNT, pause), (510, app), (PID_NS, pause)]);
}

#[test]
fn without_exact_starts_tasks_are_left_out_and_told() {
    let (fake, id) = node(&docker());
    inside!(fake, 60, &docker()).parent(SHIM).write();
    let snapshot = recover_with(&fake, &NoExactStart);
    assert_eq!((snapshot.tasks.len(), snapshot.sessions.len(), snapshot.recovered.len()), (0, 0, 0));
    assert_eq!(state(&snapshot, id).state, cgroup_state::RUNNING);
    assert_eq!(snapshot.namespaces.len(), 2);
    assert_eq!(snapshot.unkeyed, [50, 60]);
}

#[test]
fn a_pid_that_is_another_process_by_now_is_left_out() {
    struct Reused<'a>(Exact<'a>);
    impl ExactStart for Reused<'_> {
        fn start_time(&self, pid: u32) -> Option<u64> {
            let start = self.0.start_time(pid)?;
            Some(if pid == 61 { start + TICK_NS } else { start })
        }
    }
    let (fake, _) = node(&docker());
    inside!(fake, 60, &docker()).parent(SHIM).write();
    inside!(fake, 61, &docker()).parent(60).write();
    let snapshot = recover_with(&fake, &Reused(Exact(&fake)));
    assert_eq!(sessions(&snapshot), [(60, EntryKind::Runtime, vec![60])]);
    assert_eq!(snapshot.sessions[0].1.live, 1);
}

#[test]
fn one_that_vanishes_while_it_is_read_is_left_out() {
    struct Vanishing<'a>(&'a Fake, RefCell<Vec<u32>>);
    impl ExactStart for Vanishing<'_> {
        fn start_time(&self, pid: u32) -> Option<u64> {
            let start = Exact(self.0).start_time(pid);
            self.1.borrow_mut().retain(|doomed| {
                if *doomed == pid {
                    self.0.remove_process(pid);
                }
                *doomed != pid
            });
            start
        }
    }
    let (fake, _) = node(&docker());
    inside!(fake, 60, &docker()).parent(SHIM).write();
    inside!(fake, 61, &docker()).parent(60).write();
    inside!(fake, 70, &docker()).parent(SHIM).write();
    let snapshot = recover_with(&fake, &Vanishing(&fake, RefCell::new(vec![61, 70])));
    assert_eq!(sessions(&snapshot), [(60, EntryKind::Runtime, vec![60])]);
    assert!(!snapshot.tasks.iter().any(|(task, _)| [61, 70].contains(&task.tgid)));
    assert_eq!(snapshot.sessions.len(), 1);
}

#[test]
fn the_agent_itself_zombies_and_unreadable_processes_are_no_session() {
    let (fake, _) = node(&docker());
    let path = docker();
    inside!(fake, 9999, &path).parent(SHIM).write();
    inside!(fake, 80, &path).parent(SHIM).state('Z').write();
    inside!(fake, 81, "/nowhere").parent(SHIM).hidden().write();
    assert_eq!(sessions(&recovered(&fake)), []);
}

#[test]
fn parents_in_a_circle_and_long_chains_end() {
    let (fake, _) = node(&docker());
    let path = docker();
    inside!(fake, 100, &path).parent(101).write();
    inside!(fake, 101, &path).parent(100).write();
    inside!(fake, 200, &path).parent(SHIM).write();
    for pid in 201..400 {
        inside!(fake, pid, &path).parent(pid - 1).write();
    }
    let found = sessions(&recovered(&fake));
    let long = found.iter().find(|(root, ..)| *root == 200).expect("the long one");
    assert_eq!(long.2, (200..400).collect::<Vec<u32>>());
}

#[test]
fn hybrid_and_v1_give_the_same() {
    for fake in [Fake::hybrid(), Fake::legacy()] {
        let path = docker();
        fake.process(1).parent(0).write();
        fake.process(SHIM).parent(1).write();
        let id = fake.cgroup(&path);
        inside!(fake, 50, &path).parent(SHIM).ns_pids(&[50, 1]).write();
        inside!(fake, 60, &path).parent(SHIM).write();
        let snapshot = recovered(&fake);
        assert_eq!(sessions(&snapshot), [(60, EntryKind::Runtime, vec![60])]);
        assert_eq!(snapshot.recovered[0].container, id);
    }
}

/// On whatever machine this runs, with the rights that the test has.
#[test]
fn this_machine() {
    struct Ticks;
    impl ExactStart for Ticks {
        fn start_time(&self, pid: u32) -> Option<u64> {
            Some(process::glance(&Host::default(), pid)?.start_ticks * TICK_NS)
        }
    }
    let host = Host::default();
    let Ok(hierarchy) = Hierarchy::find(&host) else { return };
    let namespaces = host_namespaces(&host);
    assert!(HOST_PID == namespaces.pid);
    let scan = Scan {
        host: &host,
        hierarchy: &hierarchy,
        namespaces: &namespaces,
        time: NOW,
        self_pid: std::process::id(),
    };
    let snapshot = recover(&scan, &Ticks).unwrap();
    assert_eq!(snapshot.cgroups.len(), snapshot.containers.len());
    assert_eq!(snapshot.cgroups[0].1.state, cgroup_state::HOST);
    assert_eq!(snapshot.sessions.len(), snapshot.recovered.len());
    let own = std::process::id();
    assert!(!snapshot.tasks.iter().any(|(task, _)| task.tgid == own));
}

const POD: &str = "/kubepods/besteffort/pod11111111-2222-3333-4444-555555555555";
const THIRD: &str = "11b3a1c2d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f80";

/// A pod whose sandbox is that of [`node`], with an app (60) in a pid namespace of `own`, and a third container (70), with a child
/// (71), in the app's.
fn pod(own: u32) -> (Fake, [u64; 3]) {
    let (fake, sandbox) = node(&format!("{POD}/{ID}"));
    let (app, third) = (format!("{POD}/{OTHER}"), format!("{POD}/{THIRD}"));
    let ids = [sandbox, fake.cgroup(&app), fake.cgroup(&third)];
    let pids: &[u32] = if own == PID_NS { &[60, 9] } else { &[60, 1] };
    fake.process(60).parent(SHIM).cgroup(&app).ns_pids(pids).mnt(501).pid_ns(own).write();
    fake.process(70).parent(SHIM).cgroup(&third).ns_pids(&[70, 30]).mnt(502).pid_ns(own).write();
    fake.process(71).parent(70).cgroup(&third).ns_pids(&[71, 31]).mnt(502).pid_ns(own).write();
    (fake, ids)
}

fn inits(snapshot: &Snapshot) -> Vec<(TaskKey, u64)> {
    let inits = snapshot.tasks.iter().filter(|(_, task)| task.kind == task_kind::INIT);
    inits.map(|(key, task)| (*key, task.container)).collect()
}

#[test]
fn a_container_beside_another_is_a_session() {
    let (fake, [sandbox, app, debug]) = pod(601);
    let snapshot = recovered(&fake);
    assert_eq!(sessions(&snapshot), [(70, EntryKind::Ephemeral, vec![70, 71])]);
    assert_eq!(inits(&snapshot), [(key(50), sandbox), (key(60), app)]);
    let of_session: Vec<_> =
        snapshot.tasks.iter().filter(|(_, task)| task.kind == task_kind::SESSION).copied().collect();
    let followed = task(task_kind::SESSION, debug, key(70), true);
    assert_eq!(of_session, [(key(70), FollowedTask { init: 1, ..followed }), (key(71), followed)]);
    assert_eq!(snapshot.recovered[0].processes[0].entered_by, TaskKey::NONE, "the shim did not enter it");
    let parent = state(&snapshot, state(&snapshot, app).parent);
    assert_eq!((parent.pod, parent.first, parent.state), (1, sandbox, cgroup_state::NEW));
}

#[test]
fn containers_in_their_sandbox_s_pid_namespace_are_no_sessions() {
    let (fake, ids) = pod(PID_NS);
    let snapshot = recovered(&fake);
    assert_eq!(sessions(&snapshot), []);
    assert_eq!(inits(&snapshot), [(key(50), ids[0]), (key(60), ids[1]), (key(70), ids[2])]);
}

#[test]
fn a_container_that_is_said_to_be_a_session_is_one_and_nothing_else_is_told() {
    let (fake, [_, _, third]) = pod(PID_NS);
    let host = fake.host();
    let hierarchy = Hierarchy::find(&host).unwrap();
    let namespaces = host_namespaces(&host);
    let scan =
        Scan { host: &host, hierarchy: &hierarchy, namespaces: &namespaces, time: NOW, self_pid: 9999 };
    let snapshot = follow(&scan, &Exact(&fake), third).unwrap();
    assert_eq!(sessions(&snapshot), [(70, EntryKind::Ephemeral, vec![70, 71])]);
    let keys: Vec<_> = snapshot.tasks.iter().map(|(key, task)| (key.tgid, task.init)).collect();
    assert_eq!(keys, [(70, 1), (71, 0)]);
    assert_eq!(snapshot.sessions.len(), 1);
    assert_eq!((snapshot.cgroups.len(), snapshot.namespaces.len(), snapshot.containers.len()), (0, 0, 0));
    assert_eq!(follow(&scan, &Exact(&fake), 4711).unwrap(), Snapshot::default(), "there is no such cgroup");
}

#[test]
fn what_inits_had_in_their_environment_is_looked_up() {
    use podtrail_ebpf::environ::found;
    let (fake, ids) = pod(601);
    let write = |pid, text: &str| std::fs::write(fake.host().process(pid).join("environ"), text).unwrap();
    write(50, "A=KUBERNETES_EXEC_AUDIT_ID=x\0");
    write(60, "PATH=/bin\0SPO_EXEC_REQUEST_UID=\0KUBERNETES_EXEC_AUDIT_ID=x\0");
    let snapshot = recovered(&fake);
    let found = ids.map(|id| state(&snapshot, id).environment);
    assert_eq!(found, [found::LOOKED, found::LOOKED | found::AUDIT_ID | found::REQUEST_UID, 0]);
}
