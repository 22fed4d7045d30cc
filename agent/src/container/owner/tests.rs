use super::*;
use crate::container::fake::{Fake, HOST_MNT, HOST_PID};
use crate::container::host_namespaces;

const SECOND: u64 = 1_000_000_000;

fn at(seconds: u64) -> BootTime {
    BootTime(seconds * SECOND)
}

fn set_up() -> (Fake, Owners, Directory, u64) {
    let fake = Fake::unified();
    let container = fake.cgroup("/box");
    let below = fake.cgroup("/box/below");
    fake.process(1).write();
    let mut directory = Directory::default();
    let root = fake.root_id();
    directory.created(at(0), container, root, b"/box", Some(container));
    directory.created(at(0), below, container, b"/box/below", Some(container));
    let hierarchy = Hierarchy::find(&fake.host()).unwrap();
    let namespaces = host_namespaces(&fake.host());
    let owners = Owners::new(fake.host(), hierarchy, namespaces);
    (fake, owners, directory, container)
}

#[test]
fn a_process_in_a_containers_cgroup_owns_it() {
    let (fake, mut owners, directory, container) = set_up();
    fake.process(40).mnt(500).cgroup("/").write(); // the one that joined
    fake.process(50).mnt(500).pid_ns(600).cgroup("/box/below").write();
    assert_eq!(owners.find(at(1), 500, 0, &directory), Some(container));
    assert_eq!(owners.find(at(1), HOST_MNT, 600, &directory), Some(container));
    assert_eq!(owners.find(at(1), 700, 600, &directory), Some(container), "the other one tells");
}

#[test]
fn the_nodes_own_and_none_are_not_looked_for() {
    let (_fake, mut owners, directory, _) = set_up();
    assert_eq!(owners.find(at(1), HOST_MNT, HOST_PID, &directory), None);
    assert_eq!(owners.find(at(1), 0, 0, &directory), None);
    assert_eq!(owners.looks(), 0);
}

#[test]
fn what_is_not_found_is_not_looked_for_again_for_a_while() {
    let (fake, mut owners, directory, container) = set_up();
    fake.process(40).mnt(500).cgroup("/").write();
    for seconds in [10, 11, 14] {
        assert_eq!(owners.find(at(seconds), 500, 0, &directory), None);
    }
    assert_eq!(owners.looks(), 1);
    fake.process(50).mnt(500).cgroup("/box").write();
    assert_eq!(owners.find(at(15), 500, 0, &directory), Some(container));
    assert_eq!(owners.looks(), 2);
}

#[test]
fn answers_are_bounded() {
    let (_fake, mut owners, directory, _) = set_up();
    for ns in 1..=600 {
        assert_eq!(owners.find(BootTime(u64::from(ns)), ns, 0, &directory), None);
    }
    assert!(owners.answers.len() <= CACHE_MAX, "{}", owners.answers.len());
    assert!(owners.answers.contains_key(&(NsKind::Mnt, 600)));
}
