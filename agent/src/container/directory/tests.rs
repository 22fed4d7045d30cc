use super::*;
use crate::event::{ExitStatus, TaskKey};

const ID: &str = "4fb3a1c2d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f80";
const OTHER: &str = "00b3a1c2d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f80";
const POD: &str = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0b5c4c3e_6a2f_4f0e_9a3b_1c2d3e4f5a6b.slice";
const SECOND: u64 = 1_000_000_000;

fn at(seconds: u64) -> BootTime {
    BootTime(seconds * SECOND)
}

fn started(seconds: u64, cgroup_id: u64) -> ContainerStarted {
    ContainerStarted {
        time: at(seconds),
        cgroup_id,
        init: TaskKey::new(9, 9),
        mnt_ns: 1,
        pid_ns: 2,
        pid_owner: None,
    }
}

#[test]
fn a_pods_container_is_known_from_its_making() {
    let mut directory = Directory::default();
    let path = format!("/{POD}/cri-containerd-{ID}.scope");
    directory.created(at(1), 10, 1, format!("/{POD}").as_bytes(), None);
    directory.created(at(1), 11, 10, path.as_bytes(), Some(11));
    assert_eq!(
        directory.find(11),
        Some(&ContainerInfo {
            id: Some(ID.to_owned()),
            runtime: Some(Runtime::Containerd),
            cgroup_id: 11,
            cgroup_path: Some(path.into_bytes()),
            pod_uid: Some("0b5c4c3e-6a2f-4f0e-9a3b-1c2d3e4f5a6b".to_owned()),
            metadata: Lookup::default(),
        })
    );
    assert_eq!(directory.find(10), None, "the pod's own cgroup is no container");
}

#[test]
fn a_cgroup_below_a_container_resolves_to_it_whatever_it_is_called() {
    let mut directory = Directory::default();
    directory.created(at(1), 11, 1, format!("/docker/{ID}").as_bytes(), Some(11));
    directory.created(at(1), 12, 11, format!("/docker/{ID}/docker/{OTHER}").as_bytes(), Some(11));
    directory.created(at(1), 13, 12, format!("/docker/{ID}/docker/{OTHER}/{OTHER}").as_bytes(), None);
    for id in [11, 12, 13] {
        assert_eq!(directory.find(id).and_then(|info| info.id.as_deref()), Some(ID), "cgroup {id}");
    }
    assert_eq!(directory.containers().count(), 1);
}

#[test]
fn one_made_by_hand_is_a_container_once_its_init_runs() {
    let mut directory = Directory::default();
    directory.created(at(1), 20, 1, b"/mine/box", None);
    directory.created(at(1), 21, 20, b"/mine/box/below", None);
    assert_eq!(directory.find(20), None);
    directory.started(&started(2, 20));
    let info = directory.find(21).expect("a container");
    assert_eq!((info.cgroup_id, info.id.as_deref(), info.runtime), (20, Some("box"), None));
}

#[test]
fn one_that_was_never_told_of_has_no_id_rather_than_an_empty_one() {
    let mut directory = Directory::default();
    directory.started(&started(1, 30));
    let info = directory.find(30).expect("a container");
    assert_eq!((info.id.as_deref(), info.cgroup_path.as_deref()), (None, None));
    directory.created(at(1), 41, 40, b"/x/y", Some(40));
    assert_eq!(directory.find(41).map(|info| info.cgroup_id), Some(40));
}

#[test]
fn a_container_that_is_gone_stays_known_for_the_grace_period() {
    let mut directory = Directory::default();
    directory.created(at(1), 11, 1, format!("/docker/{ID}").as_bytes(), Some(11));
    directory.created(at(1), 12, 11, b"/below", Some(11));
    directory.ended(&ContainerEnded {
        time: at(5),
        cgroup_id: 11,
        init: TaskKey::new(9, 9),
        status: ExitStatus::Code(0),
    });
    directory.removed(at(10), 11);
    directory.created(at(310), 50, 1, b"/later", None);
    assert!(directory.find(11).is_some(), "300 s are not over");
    assert!(directory.find(12).is_some());
    // Events of several processors come slightly out of order: time does not go back.
    directory.created(at(200), 51, 1, b"/earlier", None);
    directory.created(at(311), 52, 1, b"/last", None);
    assert!(directory.find(11).is_none());
    assert!(directory.find(12).is_none());
    assert!(directory.members.is_empty());
}

#[test]
fn what_is_gone_is_bounded_in_number() {
    let mut directory = Directory::new(Limits { gone: 2, ..Limits::default() });
    for id in 10..15 {
        directory.created(at(1), id, 1, format!("/docker/{ID}").as_bytes(), Some(id));
        directory.removed(at(1), id);
    }
    let known: Vec<u64> = (10..15).filter(|id| directory.find(*id).is_some()).collect();
    assert_eq!(known, [13, 14]);
    assert_eq!(directory.cgroups.len(), 2);
}

#[test]
fn a_flood_of_cgroups_inside_one_container_pushes_no_other_out() {
    let mut directory = Directory::new(Limits { members: 100, ..Limits::default() });
    directory.created(at(1), 10, 1, format!("/docker/{ID}").as_bytes(), Some(10));
    for id in 1000..11_000 {
        directory.created(at(1), id, 10, b"/flood", Some(10));
    }
    directory.created(at(2), 11, 1, format!("/docker/{OTHER}").as_bytes(), Some(11));
    assert_eq!(directory.find(10).and_then(|info| info.id.as_deref()), Some(ID));
    assert_eq!(directory.find(11).and_then(|info| info.id.as_deref()), Some(OTHER));
    assert_eq!((directory.members.len(), directory.dropped()), (100, 9900));
}

#[test]
fn too_many_cgroups_are_counted_and_the_gone_make_room() {
    let mut directory = Directory::new(Limits { cgroups: 2, ..Limits::default() });
    directory.created(at(1), 10, 1, format!("/docker/{ID}").as_bytes(), Some(10));
    directory.created(at(1), 11, 1, b"/a", None);
    directory.created(at(1), 12, 1, b"/b", None);
    assert_eq!(directory.dropped(), 1);
    directory.removed(at(2), 11);
    directory.created(at(2), 13, 1, format!("/docker/{OTHER}").as_bytes(), Some(13));
    assert!(directory.find(10).is_some());
    assert!(directory.find(13).is_some());
    assert_eq!(directory.cgroups.len(), 2);
}

#[test]
fn seeds_do_not_overwrite_what_was_reported_meanwhile() {
    let mut directory = Directory::default();
    directory.created(at(5), 11, 1, format!("/docker/{ID}").as_bytes(), Some(11));
    directory.find_mut(11).expect("a container").metadata = Lookup::Pending;
    directory.seed(
        at(6),
        &[
            Found { id: 1, parent: 0, path: b"/".to_vec(), container: None },
            Found { id: 11, parent: 1, path: format!("/docker/{ID}").into_bytes(), container: Some(11) },
            Found { id: 20, parent: 1, path: b"/box".to_vec(), container: Some(20) },
            Found { id: 21, parent: 20, path: b"/box/sub".to_vec(), container: Some(20) },
        ],
    );
    assert_eq!(directory.find(11).map(|info| &info.metadata), Some(&Lookup::Pending));
    assert_eq!(directory.find(21).and_then(|info| info.id.as_deref()), Some("box"));
    assert_eq!(directory.find(1), None);
}

#[test]
fn parents_in_a_circle_end() {
    let mut directory = Directory::default();
    directory.created(at(1), 10, 11, b"/a", None);
    directory.created(at(1), 11, 10, b"/b", None);
    assert_eq!(directory.find(10), None);
}

#[test]
fn the_outermost_of_containers_in_each_other_counts() {
    let mut directory = Directory::default();
    directory.created(at(1), 20, 1, b"/box", None);
    directory.created(at(1), 21, 20, b"/box/in", None);
    directory.started(&started(2, 21));
    assert_eq!(directory.find(21).map(|info| info.cgroup_id), Some(21));
    directory.started(&started(3, 20));
    assert_eq!(directory.find(21).map(|info| info.cgroup_id), Some(20));
}

#[test]
fn the_grace_period_is_not_shortened_by_a_late_record() {
    let mut directory = Directory::default();
    directory.created(at(400), 11, 1, format!("/docker/{ID}").as_bytes(), Some(11));
    directory.removed(at(10), 11);
    directory.created(at(690), 12, 1, b"/x", None);
    assert!(directory.find(11).is_some());
    directory.created(at(701), 13, 1, b"/y", None);
    assert!(directory.find(11).is_none());
}

#[test]
fn what_was_saved_is_known_to_the_next_agent() {
    let (mut directory, mut state) = (Directory::default(), State::new());
    let mut save = |directory: &mut Directory, all| {
        let mut changes = Changes::default();
        directory.save(all, &mut changes);
        changes.apply(&mut state);
        Directory::restore(Limits::default(), &state).unwrap()
    };
    directory.created(at(1), 10, 1, format!("/docker/{ID}").as_bytes(), Some(10));
    directory.created(at(1), 11, 10, b"/below", None);
    save(&mut directory, true);
    directory.created(at(2), 12, 1, format!("/docker/{OTHER}").as_bytes(), Some(12));
    directory.removed(at(3), 11);
    directory.removed(at(5), 10);
    let mut restored = save(&mut directory, false);
    assert_eq!(restored.find(10).and_then(|info| info.id.as_deref()), Some(ID), "gone, and still known");
    assert_eq!(restored.find(12), directory.find(12));
    assert_eq!((restored.members.len(), restored.cgroups.len()), (0, 2));
    for directory in [&mut directory, &mut restored] {
        directory.created(at(306), 13, 1, b"/later", None);
        assert_eq!(directory.find(10), None, "the grace period goes on");
    }
    assert_eq!(save(&mut directory, false).cgroups.len(), 2);
}
