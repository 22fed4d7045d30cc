use proptest::prelude::*;

use super::*;

const ID: &str = "4fb3a1c2d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f80";
const OTHER: &str = "00b3a1c2d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f80";
const UID: &str = "0b5c4c3e-6a2f-4f0e-9a3b-1c2d3e4f5a6b";
const UID_: &str = "0b5c4c3e_6a2f_4f0e_9a3b_1c2d3e4f5a6b";
const STATIC_UID: &str = "3f1d2c3b4a5968778695a4b3c2d1e0f0";

#[test]
fn every_known_form() {
    use Runtime::{Containerd, CriO, Docker, Podman};
    let cases = [
        (
            format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice/cri-containerd-{ID}.scope"
            ),
            Some(Containerd),
            Some(UID),
        ),
        // guaranteed: no qos level
        (
            format!("/kubepods.slice/kubepods-pod{UID_}.slice/cri-containerd-{ID}.scope"),
            Some(Containerd),
            Some(UID),
        ),
        (
            format!("/kubepods.slice/kubepods-pod{STATIC_UID}.slice/crio-{ID}.scope"),
            Some(CriO),
            Some(STATIC_UID),
        ),
        (
            format!(
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UID_}.slice/crio-{ID}.scope/container"
            ),
            Some(CriO),
            Some(UID),
        ),
        (format!("/kubepods.slice/kubepods-pod{UID_}.slice/docker-{ID}.scope"), Some(Docker), Some(UID)),
        (format!("/kubepods/besteffort/pod{UID}/{ID}"), None, Some(UID)),
        (format!("/kubepods/pod{UID}/{ID}"), None, Some(UID)),
        (format!("/kubepods/pod{STATIC_UID}/crio-{ID}"), Some(CriO), Some(STATIC_UID)),
        (format!("/system.slice/docker-{ID}.scope"), Some(Docker), None),
        (format!("/docker/{ID}"), Some(Docker), None),
        (format!("/default/{ID}"), Some(Containerd), None),
        (format!("/system.slice/nerdctl-{ID}.scope"), Some(Containerd), None),
        (format!("/machine.slice/libpod-{ID}.scope/container"), Some(Podman), None),
        (format!("/libpod_parent/libpod-{ID}"), Some(Podman), None),
        // podman under a unit of its own
        (format!("/system.slice/web.service/libpod-payload-{ID}"), Some(Podman), None),
        (
            format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope"),
            Some(Podman),
            None,
        ),
        (format!("/machine.slice/machine-libpod_pod_{OTHER}.slice/libpod-{ID}.scope"), Some(Podman), None),
        (
            format!(
                "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UID_}.slice/cri-containerd-{ID}.scope/init.scope"
            ),
            Some(Containerd),
            Some(UID),
        ),
        // kind: the node is itself a container of the host, and the outermost one
        (
            format!(
                "/docker/{ID}/kubelet.slice/kubelet-kubepods-pod{UID_}.slice/cri-containerd-{OTHER}.scope"
            ),
            Some(Docker),
            None,
        ),
    ];
    for (path, runtime, pod_uid) in cases {
        let name = parse(path.as_bytes()).unwrap_or_else(|| panic!("{path} is a container's"));
        assert_eq!(
            (name.id.as_str(), name.runtime, name.pod_uid.as_deref()),
            (ID, runtime, pod_uid),
            "{path}"
        );
        assert!(path.as_bytes()[..name.len].windows(64).any(|id| id == ID.as_bytes()), "{path}");
    }
}

#[test]
fn what_is_no_container() {
    for path in [
        "/".to_owned(),
        String::new(),
        "/init.scope".to_owned(),
        "/system.slice/ssh.service".to_owned(),
        format!("/kubepods.slice/kubepods-pod{UID_}.slice"),
        format!("/kubepods.slice/crio-conmon-{ID}.scope"),
        format!("/machine.slice/libpod-conmon-{ID}.scope"),
        format!("/docker/{}", &ID[1..]),
        format!("/docker/{}", ID.to_uppercase()),
        format!("/x{ID}"),
        format!("/{ID}.service"),
        format!("/machine.slice/machine-libpod_pod_{ID}.slice"),
    ] {
        assert_eq!(parse(path.as_bytes()), None, "{path}");
    }
}

#[test]
fn names_inside_a_container_are_no_other_containers() {
    let path = format!("/docker/{ID}/docker/{OTHER}/crio-{OTHER}.scope");
    let name = parse(path.as_bytes()).expect("a container");
    assert_eq!(name.id, ID);
    assert_eq!(name.len, "/docker/".len() + 64);
}

#[test]
fn made_by_hand() {
    let of = |path: &[u8]| of_container(path).map(|name| (name.id, name.runtime));
    assert_eq!(of(b"/mine/box"), Some(("box".to_owned(), None)));
    assert_eq!(of(b"/mine/box/"), Some(("box".to_owned(), None)));
    assert_eq!(of(b"/system.slice/runc-box.scope"), Some(("box".to_owned(), Some(Runtime::Runc))));
    assert_eq!(of(b"/system.slice/crun-a-b.scope"), Some(("a-b".to_owned(), Some(Runtime::Crun))));
    assert_eq!(of(b"/system.slice/runc-.scope"), Some(("runc-.scope".to_owned(), None)));
    assert_eq!(of(b"/machine.slice/machine-deb.scope"), Some(("machine-deb.scope".to_owned(), None)));
    assert_eq!(of(b"/a\xff\nb"), Some(("a\u{fffd}\nb".to_owned(), None)));
    assert_eq!(of(b"/"), None);
    assert_eq!(of(b""), None);
    assert_eq!(of(&[b'x'; 10_000]).map(|(id, _)| id.len()), Some(HAND_MADE_MAX));
}

#[test]
fn pods_are_told_by_well_formed_uids_only() {
    for component in [
        "pod",
        "podcast",
        "pod-1",
        "kubepods.slice",
        "x-podabc.slice",
        "pod0b5c4c3e06a2f-4f0e-9a3b-1c2d3e4f5a6b",
    ] {
        assert_eq!(uid_of(component.as_bytes()), None, "{component}");
    }
    assert_eq!(uid_of(b"pod\xff"), None);
}

fn component() -> impl Strategy<Value = Vec<u8>> {
    let id =
        prop_oneof![Just(ID.to_owned()), Just(OTHER.to_owned()), "[0-9a-f]{60,66}", Just(ID.to_uppercase())];
    let prefix = prop_oneof![
        Just(String::new()),
        "(cri-containerd-|crio-|crio-conmon-|docker-|libpod-|libpod-conmon-|nerdctl-|conmon-|x|-)",
        "[a-z-]{0,70}",
    ];
    let suffix = prop_oneof![
        Just(""),
        Just(".scope"),
        Just(".slice"),
        Just(".service"),
        Just(".scope.scope"),
        Just("x")
    ];
    prop_oneof![
        4 => (prefix, id, suffix).prop_map(|(prefix, id, suffix)| format!("{prefix}{id}{suffix}").into_bytes()),
        1 => proptest::collection::vec(any::<u8>().prop_filter("no slash", |c| *c != b'/'), 1..200),
        1 => Just(b"kubepods".to_vec()),
    ]
}

fn kernel_says(component: &[u8]) -> rules::Name {
    let mut bytes = [0; rules::NAME_MAX];
    let len = component.len().min(rules::NAME_MAX);
    bytes[..len].copy_from_slice(&component[..len]);
    rules::name(&bytes, component.len())
}

proptest! {
    /// The container of a path is the outermost cgroup that the kernel side, making them one after the other, takes
    /// for one; what it finds below is a member.
    #[test]
    fn agrees_with_the_kernel_side(components in proptest::collection::vec(component(), 0..6)) {
        let path = components.iter().fold(Vec::new(), |mut path, component| {
            path.push(b'/');
            path.extend_from_slice(component);
            path
        });
        let mut parent: Option<podtrail_ebpf::layout::Cgroup> = None;
        let mut outermost = None;
        for (at, component) in components.iter().enumerate() {
            let state = rules::cgroup_created(kernel_says(component), parent.as_ref());
            if state == podtrail_ebpf::layout::cgroup_state::NAMED {
                outermost = Some(at);
            }
            parent = Some(podtrail_ebpf::layout::Cgroup::new(0, 0, state));
        }
        let name = parse(&path);
        prop_assert_eq!(name.is_some(), outermost.is_some());
        if let (Some(name), Some(at)) = (name, outermost) {
            let len: usize = components[..=at].iter().map(|component| component.len() + 1).sum();
            prop_assert_eq!(name.len, len);
            prop_assert_eq!(name.id.len(), 64);
            let own = components[..=at].iter().fold(Vec::new(), |mut path, c| { path.push(b'/'); path.extend_from_slice(c); path });
            prop_assert_eq!(of_container(&own).map(|own| own.id), Some(name.id));
        }
    }

    #[test]
    fn survives_anything(path in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = parse(&path);
        let _ = of_container(&path);
        let _ = kind(&path);
    }
}
