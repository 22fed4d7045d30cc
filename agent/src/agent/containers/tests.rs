use super::*;
use crate::{
    container::fake::Fake,
    event::{BootTime, GapSource, TaskKey},
    session::record::ContainerStarted,
};

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn over(fake: &Fake) -> Containers {
    Containers::new(Directory::default(), None, Some(Hierarchy::find(&fake.host()).unwrap()))
}

fn started(cgroup_id: u64) -> RawRecord {
    RawRecord::Session(Record::ContainerStarted(ContainerStarted {
        time: BootTime(1),
        cgroup_id,
        init: TaskKey::new(7, 7),
        mnt_ns: 1,
        pid_ns: 2,
        pid_owner: None,
    }))
}

fn lost(source: GapSource, detail: &str) -> Lost {
    let detail = detail.to_owned();
    Lost { from: BootTime(0), time: BootTime(1), source, count: 1, exact: true, detail }
}

fn id(containers: &Containers, cgroup_id: u64) -> Option<String> {
    containers.find(cgroup_id).and_then(|info| info.id.clone())
}

#[test]
fn a_container_that_nobody_told_of_is_looked_for_when_a_record_names_it() {
    let fake = Fake::unified();
    let mut containers = over(&fake);
    let named = fake.cgroup(format!("/kubepods.slice/cri-containerd-{ID}.scope"));
    let by_hand = fake.cgroup("/by-hand");
    assert!(containers.pass(started(named)).is_some());
    assert_eq!(id(&containers, named), Some(ID.to_owned()));
    // Its name alone makes it no container.
    assert_eq!(containers.find(by_hand), None);
    containers.pass(started(by_hand));
    assert_eq!(id(&containers, by_hand).as_deref(), Some("by-hand"));
    assert_eq!(containers.walks, 1, "one walk found both");
}

#[test]
fn a_lost_record_brings_a_walk_before_anything_names_the_container() {
    let fake = Fake::unified();
    let mut containers = over(&fake);
    let now = Instant::now();
    let named = fake.cgroup(format!("/kubepods.slice/cri-containerd-{ID}.scope"));
    for (source, detail) in [
        (GapSource::KernelRing, class::EXIT),
        (GapSource::KernelTable, class::CGROUP_CREATED),
        (GapSource::KernelRing, "cgroup removed"),
    ] {
        containers.lost(&lost(source, detail));
    }
    containers.tick(now);
    assert_eq!((containers.walks, id(&containers, named)), (0, None), "nothing of a container was lost");
    containers.lost(&lost(GapSource::KernelRing, class::CGROUP_CREATED));
    containers.tick(now);
    assert_eq!((containers.walks, id(&containers, named)), (1, Some(ID.to_owned())));
    containers.tick(now + 2 * PAUSE);
    assert_eq!(containers.walks, 1, "once is enough");
}

#[test]
fn walks_are_a_second_apart_and_what_is_gone_is_not_looked_for_again() {
    let fake = Fake::unified();
    let mut containers = over(&fake);
    let now = Instant::now();
    containers.want(1 << 60, now);
    containers.want(1 << 60, now + 10 * PAUSE);
    assert_eq!(containers.walks, 1, "it is gone");
    let named = fake.cgroup(format!("/kubepods.slice/cri-containerd-{ID}.scope"));
    containers.want(named, now + PAUSE / 2);
    assert_eq!((containers.walks, id(&containers, named)), (1, None), "not so soon");
    containers.tick(now + PAUSE / 2);
    assert_eq!(containers.walks, 1);
    // Even if no other record names it.
    containers.tick(now + 10 * PAUSE);
    assert_eq!((containers.walks, id(&containers, named)), (2, Some(ID.to_owned())));
}
