use super::*;
use crate::container::fake::Fake;

#[test]
fn v2_alone() {
    let fake = Fake::unified();
    let hierarchy = Hierarchy::find(&fake.host()).unwrap();
    assert_eq!(hierarchy.mode, Mode::Unified);
    assert_eq!(hierarchy.mount, fake.mount());
    assert_eq!((hierarchy.controller.as_deref(), hierarchy.id), (None, 0));
    assert!(!hierarchy.whole, "the fake's root has no such inode number");
}

#[test]
fn hybrid_is_told_by_its_v2_part() {
    let fake = Fake::hybrid();
    let hierarchy = Hierarchy::find(&fake.host()).unwrap();
    assert_eq!(hierarchy.mode, Mode::Hybrid);
    assert_eq!(hierarchy.mount, fake.mount());
    assert_eq!((hierarchy.controller.as_deref(), hierarchy.id), (None, 0));
    assert_eq!(hierarchy.path_in(b"8:pids:/no\n0::/yes\n"), Some(b"/yes".to_vec()));
}

#[test]
fn hybrid_is_told_by_the_hierarchy_that_more_containers_are_in() {
    let fake = Fake::hybrid();
    let cgroup = |pid: u32, v1: &str, v2: &str| {
        let folder = fake.host().process(pid);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("cgroup"), format!("9:name=systemd:{v1}\n8:pids:{v1}\n0::{v2}\n")).unwrap();
    };
    let found = || {
        let hierarchy = Hierarchy::find(&fake.host()).unwrap();
        (hierarchy.mode, hierarchy.controller)
    };
    let [one, other] = ["a", "b"].map(|digit| format!("/kubepods/{}", digit.repeat(64)));
    // By runc 1.1 and later: in both.
    cgroup(10, &one, &one);
    assert_eq!(found(), (Mode::Hybrid, None));
    // By runc 1.0, with systemd: what was executed is in v1 alone, and the container is known by both.
    cgroup(11, &one, "/system.slice/containerd.service");
    assert_eq!(found(), (Mode::Hybrid, None));
    // By runc 1.0.
    cgroup(12, &other, "/system.slice/containerd.service");
    assert_eq!(found(), (Mode::Hybrid, Some("pids".to_owned())));
    assert_eq!(Hierarchy::find(&fake.host()).unwrap().id, 8);
}

#[test]
fn v1_is_told_by_pids_even_where_somebody_mounted_an_empty_v2() {
    let fake = Fake::legacy();
    let hierarchy = Hierarchy::find(&fake.host()).unwrap();
    assert_eq!(hierarchy.mode, Mode::Legacy);
    assert_eq!(hierarchy.mount, fake.mount());
    assert_eq!((hierarchy.controller.as_deref(), hierarchy.id), (Some("pids"), 8));
    assert_eq!(hierarchy.path_in(b"4:memory:/no\n8:rdma,pids:/a:b\n0::/no\n"), Some(b"/a:b".to_vec()));
}

#[test]
fn what_is_mounted_over_does_not_count() {
    let fake = Fake::hybrid();
    fs::remove_dir(fake.folder().join("cgroup/pids")).unwrap();
    let hierarchy = Hierarchy::find(&fake.host()).unwrap();
    assert_eq!((hierarchy.mode, hierarchy.mount), (Mode::Unified, fake.mount()));
}

#[test]
fn v1_without_pids_is_told_by_memory() {
    let fake = Fake::legacy();
    let mountinfo = fake.host().proc.join("self/mountinfo");
    let top = fake.folder();
    let line = format!("30 31 0:35 / {}/cgroup/memory rw - cgroup cgroup rw,memory\n", top.display());
    fs::create_dir_all(top.join("cgroup/memory")).unwrap();
    fs::write(mountinfo, line).unwrap();
    let hierarchy = Hierarchy::find(&fake.host()).unwrap();
    assert_eq!((hierarchy.controller.as_deref(), hierarchy.id), (Some("memory"), 4));
}

#[test]
fn only_mounts_at_the_given_place_count() {
    let fake = Fake::unified();
    let mut host = fake.host();
    host.cgroup = Some(fake.folder().join("elsewhere"));
    let error = Hierarchy::find(&host).unwrap_err().to_string();
    assert!(
        error.starts_with("no cgroup hierarchy is mounted at ") && error.contains("elsewhere"),
        "{error}"
    );
    host.cgroup = Some(fake.folder().join("cgroup"));
    assert_eq!(Hierarchy::find(&host).unwrap().mount, fake.mount());
}

#[test]
fn an_unreadable_proc_says_what_to_do() {
    let host = Host { proc: PathBuf::from("/nonexistent"), cgroup: None };
    let error = Hierarchy::find(&host).unwrap_err().to_string();
    assert!(
        error.contains("/nonexistent/self/mountinfo") && error.contains("is the node's /proc mounted"),
        "{error}"
    );
}

#[test]
fn a_mount_of_a_part_is_read_as_the_kernel_tells_it() {
    let fake = Fake::unified();
    let mut hierarchy = Hierarchy::find(&fake.host()).unwrap();
    hierarchy.root = b"/kub".to_vec();
    assert_eq!(hierarchy.path_in(b"0::/kubepods\n"), None, "not below it, only called alike");
    assert_eq!(hierarchy.path_in(b"0::/kub/x\n"), Some(b"/x".to_vec()));
    // Beside the agent's own cgroup namespace.
    hierarchy.root = b"/../kub".to_vec();
    assert_eq!(hierarchy.path_in(b"0::/../kub/x\n"), Some(b"/x".to_vec()));
    assert_eq!(hierarchy.path_in(b"0::/../other\n"), None);
}

#[test]
fn from_a_cgroup_namespace_of_the_agents_own_all_are_found() {
    let fake = Fake::unified();
    let mountinfo = fake.host().proc.join("self/mountinfo");
    let line = format!("31 23 0:28 /../.. {}/cgroup rw - cgroup2 cgroup2 rw\n", fake.folder().display());
    fs::write(mountinfo, line).unwrap();
    // The agent is in /kubepods/own, where its namespace begins, or below that.
    for (own, told) in [("/kubepods/own", "/"), ("/kubepods/own/agent.scope", "/agent.scope")] {
        let fake_procs = |path: &str, pids: String| {
            fake.cgroup(path);
            fs::write(fake.mount().join(&path[1..]).join("cgroup.procs"), pids).unwrap();
        };
        let pid = std::process::id();
        fake_procs("/kubepods/another", format!("1\n{pid}1\n"));
        fake_procs("/kubepods/own", "2\n".to_owned());
        fs::write(fake.host().proc.join("self/cgroup"), format!("0::{told}\n")).unwrap();
        // Nobody knows where it is: then nobody knows where others are.
        let hierarchy = Hierarchy::find(&fake.host()).unwrap();
        assert_eq!(hierarchy.namespace, None);
        fake_procs(own, format!("7\n{pid}\n"));
        let hierarchy = Hierarchy::find(&fake.host()).unwrap();
        for (told, path) in [
            ("/../../kubepods.slice/x", Some("/kubepods.slice/x")),
            ("/../another/x", Some("/kubepods/another/x")),
            ("/..", Some("/kubepods")),
            ("/../..", Some("/")),
            ("/", Some("/kubepods/own")),
            ("/agent.scope", Some("/kubepods/own/agent.scope")),
            ("/..x", Some("/kubepods/own/..x")),
            ("/../../..", None),
            ("/../gone (deleted)", None),
        ] {
            let found = hierarchy.path_in(format!("0::{told}\n").as_bytes());
            assert_eq!(found.as_deref(), path.map(str::as_bytes), "{told}");
        }
    }
}

#[test]
fn a_cgroup_that_is_gone_is_no_place() {
    let fake = Fake::unified();
    let hierarchy = Hierarchy::find(&fake.host()).unwrap();
    assert_eq!(hierarchy.path_in(b"0::/a/b (deleted)\n"), None);
    assert_eq!(hierarchy.path_in(b""), None);
    assert_eq!(hierarchy.path_in(b"garbage\n\xff\n"), None);
    assert_eq!(hierarchy.id_of(b"/nothing/here"), None);
    assert_eq!(hierarchy.id_of(b"/../proc"), None, "not out of the tree");
}

#[test]
fn the_walk_finds_all_parents_first() {
    let fake = Fake::unified();
    let slice = fake.cgroup("/a.slice");
    let odd = fake.cgroup(b"/a.slice/\xff\x1b[31m\n");
    let below = fake.cgroup(b"/a.slice/\xff\x1b[31m\n/x");
    fs::write(fake.mount().join("cgroup.procs"), "").unwrap();
    std::os::unix::fs::symlink("/", fake.mount().join("link")).unwrap();
    let hierarchy = Hierarchy::find(&fake.host()).unwrap();
    let walk = hierarchy.walk().unwrap();
    let found = |id, parent, path: &[u8]| Found { id, parent, path: path.to_vec(), container: None };
    assert_eq!(
        walk.cgroups,
        [
            found(fake.root_id(), 0, b"/"),
            found(slice, fake.root_id(), b"/a.slice"),
            found(odd, slice, b"/a.slice/\xff\x1b[31m\n"),
            found(below, odd, b"/a.slice/\xff\x1b[31m\n/x"),
        ]
    );
    assert_eq!(walk.skipped, 0);
    assert_eq!(hierarchy.id_of(b"/a.slice/\xff\x1b[31m\n/x"), Some(below));
    assert_eq!(hierarchy.id_of(b"/"), Some(fake.root_id()));
}

#[test]
fn escapes_of_mountinfo() {
    assert_eq!(unescape(br"/a\040b\134c\012"), b"/a b\\c\n");
    assert_eq!(unescape(br"\04"), br"\04");
    assert_eq!(unescape(br"\999\"), br"\999\");
    let line = br"41 31 0:38 / /sys/fs/c\040g rw shared:1 - cgroup2 none rw";
    assert_eq!(mount(line).unwrap().point, Path::new("/sys/fs/c g"));
}

/// On whatever machine this runs: the agent's own process is found where the kernel says.
#[test]
fn this_machine() {
    let hierarchy = match Hierarchy::find(&Host::default()) {
        Ok(hierarchy) => hierarchy,
        Err(CgroupError::None { .. }) => return, // a sandbox without cgroups
        Err(error) => panic!("{error}"),
    };
    let walk = hierarchy.walk().unwrap();
    assert_eq!(walk.cgroups[0].path, b"/");
    let own = fs::read("/proc/self/cgroup").unwrap();
    let path = hierarchy.path_in(&own).expect("the test is in a cgroup");
    let id = hierarchy.id_of(&path).expect("and it is there");
    assert!(walk.cgroups.iter().any(|found| found.id == id && found.path == path), "{hierarchy:?}");
    if hierarchy.whole {
        assert_eq!(walk.cgroups[0].id, ROOT_INODE);
    }
}
