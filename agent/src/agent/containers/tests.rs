use super::*;
use crate::{
    container::{Limits, fake::Fake},
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

/// A container's cgroup of this form comes, in a pod of a kubelet or elsewhere.
fn comes(containers: &mut Containers, id: u64, path: &str) {
    let path = path.as_bytes().to_vec();
    let created = CgroupCreated { time: BootTime(id), id, parent: 1, container: Some(id), path };
    assert!(containers.pass(RawRecord::CgroupCreated(created)).is_none());
}

fn metadata(containers: &Containers, id: u64) -> Lookup {
    containers.find(id).unwrap().metadata.clone()
}

const OTHER: &str = "f123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[test]
fn a_container_is_asked_for_once_and_only_where_it_may_be_known() {
    let mut containers = Containers::new(Directory::default(), None, None).asks(true);
    comes(&mut containers, 10, &format!("/kubepods/burstable/pod0b5c4c3e-6a2f-4f0e-9a3b-1c2d3e4f5a6b/{ID}"));
    assert_eq!(metadata(&containers, 10), Lookup::Pending);
    assert_eq!(containers.asked(), [Ask { id: ID.to_owned(), in_pod: true, now: false }]);
    containers.pass(started(10));
    assert_eq!(containers.asked(), []);
    for (cgroup, path) in [(11, "/docker-{}.scope"), (12, "/machine.slice/libpod-{}.scope"), (13, "/by-hand")]
    {
        comes(&mut containers, cgroup, &path.replace("{}", OTHER));
        assert_eq!(metadata(&containers, cgroup), Lookup::Missing(Missing::NotFound), "{path}");
    }
    assert_eq!(containers.asked(), []);
    assert_eq!(containers.count(), Counted { known: 0, pending: 1, missing: 3 });
}

#[test]
fn where_no_runtime_is_nobody_is_asked_until_one_comes() {
    let mut containers = Containers::new(Directory::default(), None, None).asks(false);
    comes(&mut containers, 10, &format!("/kubepods/burstable/pod0b5c4c3e-6a2f-4f0e-9a3b-1c2d3e4f5a6b/{ID}"));
    assert_eq!(metadata(&containers, 10), Lookup::Missing(Missing::NoRuntime));
    containers.runtime_is_there();
    assert_eq!((metadata(&containers, 10), containers.asked().len()), (Lookup::Pending, 1));
    // Another runtime, or the same again: who waits for an answer will have one.
    containers.runtime_is_there();
    assert_eq!(containers.asked(), []);
    containers.ask_again();
    assert_eq!(containers.asked().len(), 1);
    containers.answered(ID, Lookup::Missing(Missing::Unavailable("no".to_owned())));
    containers.runtime_is_there();
    assert_eq!((metadata(&containers, 10), containers.asked().len()), (Lookup::Pending, 1));
}

#[test]
fn a_container_that_was_gone_before_it_was_asked_for_says_so() {
    let mut containers = Containers::new(Directory::default(), None, None).asks(true);
    comes(&mut containers, 10, &format!("/kubepods/burstable/pod0b5c4c3e-6a2f-4f0e-9a3b-1c2d3e4f5a6b/{ID}"));
    containers.pass(RawRecord::CgroupRemoved { time: BootTime(20), id: 10 });
    let (cgroup, lookup) = containers.answered(ID, Lookup::Missing(Missing::NotFound)).unwrap();
    let gone = "it was gone before the runtime was asked".to_owned();
    assert_eq!((cgroup, lookup), (10, Lookup::Missing(Missing::Unavailable(gone))));
    assert_eq!(containers.answered(OTHER, Lookup::Missing(Missing::NotFound)), None);
}

#[test]
fn what_an_agent_before_asked_for_is_asked_for_again() {
    let mut containers = Containers::new(Directory::default(), None, None).asks(true);
    comes(&mut containers, 10, &format!("/kubepods/burstable/pod0b5c4c3e-6a2f-4f0e-9a3b-1c2d3e4f5a6b/{ID}"));
    let mut changes = Changes::default();
    containers.save(true, &mut changes);
    let mut state = crate::state::State::new();
    changes.apply(&mut state);
    let known = Directory::restore(Limits::default(), &state).unwrap();
    let mut containers = Containers::new(known, None, None).asks(true);
    assert_eq!(containers.asked().len(), 1);
    let known = Directory::restore(Limits::default(), &state).unwrap();
    let containers = Containers::new(known, None, None).asks(false);
    assert_eq!(metadata(&containers, 10), Lookup::Missing(Missing::NoRuntime));
}
