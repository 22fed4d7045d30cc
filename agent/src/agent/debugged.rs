//! Containers that are sessions, and of which the kernel side cannot know it: an ephemeral container without a target, or in a
//! pod whose containers share a pid namespace anyway, starts like any other. Its pod's specification alone says what it is, so the
//! kubelet is asked of each container that starts, for a while.

use std::collections::VecDeque;

use crate::{
    event::{Body, BootTime, Event, Method},
    wayin::{
        Look, Missing, World,
        spec::{ContainerSpec, Role},
    },
};

/// How long after its start a container is asked for: the pod's status tells of it later than it starts.
const WAIT_NS: u64 = 20_000_000_000;
/// Containers that are asked for at once.
const MAX_STARTING: usize = 1024;

/// Containers that started, by their cgroups.
#[derive(Debug, Default)]
pub(super) struct Debugged {
    starting: VecDeque<(u64, BootTime)>,
}

impl Debugged {
    pub(super) fn started(&mut self, cgroup: u64, at: BootTime) {
        if self.starting.len() >= MAX_STARTING {
            self.starting.pop_front();
        }
        self.starting.push_back((cgroup, at));
    }

    /// Those that the kubelet says are ephemeral, each once.
    pub(super) fn found(&mut self, now: BootTime, world: &impl World) -> Vec<u64> {
        let mut found = Vec::new();
        self.starting.retain(|(cgroup, at)| match role(*cgroup, world) {
            Said::Role(Role::Ephemeral) => {
                found.push(*cgroup);
                false
            }
            Said::Role(_) | Said::None => false,
            Said::NotYet => now.since(*at) < WAIT_NS,
        });
        found
    }
}

/// What the pod's specification says of a session that is a container.
pub(super) fn explain(event: &mut Event, world: &impl World) {
    if let Body::SessionStarted(started) = &mut event.body
        && started.method == Method::EphemeralContainer
        && let Some(cgroup) = event.container
        && matches!(role(cgroup, world), Said::Role(Role::Ephemeral))
    {
        started.evidence.push("its pod's specification calls the container an ephemeral one".to_owned());
    }
}

enum Said {
    Role(Role),
    /// it is in no pod, or there is no kubelet
    None,
    NotYet,
}

fn role(cgroup: u64, world: &impl World) -> Said {
    let Some(place) = world.place(cgroup) else { return Said::NotYet };
    let Some(pod) = place.pod.filter(|_| !place.sandbox) else { return Said::None };
    match world.look(&pod, place.id.as_deref()) {
        Look::Known(spec) => {
            let by_id = |known: &&ContainerSpec| place.id.is_some() && known.id == place.id;
            let by_name = |known: &&ContainerSpec| place.name.as_deref() == Some(known.name.as_str());
            let known = spec.containers.iter().find(by_id).or_else(|| spec.containers.iter().find(by_name));
            known.map_or(Said::NotYet, |known| Said::Role(known.role))
        }
        Look::Missing(Missing::NoKubelet) => Said::None,
        Look::Pending | Look::Missing(Missing::NotListed | Missing::Unavailable) => Said::NotYet,
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, sync::Arc};

    use super::*;
    use crate::wayin::{Place, spec::PodSpec};

    /// One pod, with an app (1), a debug container (2), and its sandbox (3); 4 is in no pod.
    struct Node {
        look: RefCell<Look>,
        asked: RefCell<u32>,
    }

    impl World for Node {
        fn place(&self, cgroup: u64) -> Option<Place> {
            let (id, name) = match cgroup {
                1 => ("app-id", None),
                2 => ("debug-id", Some("debugger")),
                3 => ("sandbox-id", None),
                4 => ("other-id", None),
                _ => return None,
            };
            Some(Place {
                pod: (cgroup != 4).then(|| "uid".to_owned()),
                id: Some(id.to_owned()),
                name: name.map(str::to_owned),
                sandbox: cgroup == 3,
                pre_stop: None,
            })
        }

        fn look(&self, pod: &str, _container: Option<&str>) -> Look {
            assert_eq!(pod, "uid");
            *self.asked.borrow_mut() += 1;
            self.look.borrow().clone()
        }
    }

    fn spec(debug_id: Option<&str>) -> Look {
        let container = |name: &str, id: Option<&str>, role| ContainerSpec {
            name: name.to_owned(),
            id: id.map(str::to_owned),
            role,
            commands: Vec::new(),
        };
        Look::Known(Arc::new(PodSpec {
            containers: vec![
                container("app", Some("app-id"), Role::Container),
                container("debugger", debug_id, Role::Ephemeral),
            ],
            ..PodSpec::default()
        }))
    }

    fn node(look: Look) -> Node {
        Node { look: RefCell::new(look), asked: RefCell::new(0) }
    }

    fn starting(now: u64) -> Debugged {
        let mut debugged = Debugged::default();
        for cgroup in 1..=5 {
            debugged.started(cgroup, BootTime(now));
        }
        debugged
    }

    #[test]
    fn what_the_specification_calls_ephemeral_is_found_once() {
        for id in [Some("debug-id"), None] {
            let node = node(spec(id));
            let mut debugged = starting(0);
            assert_eq!(debugged.found(BootTime(1), &node), [2], "by its id, or by its name");
            assert_eq!(debugged.found(BootTime(2), &node), [0_u64; 0]);
            assert_eq!(*node.asked.borrow(), 2, "the sandbox and who is in no pod are not asked for");
        }
    }

    #[test]
    fn what_is_not_told_yet_is_asked_for_again_and_not_for_ever() {
        let node = node(Look::Pending);
        let mut debugged = starting(0);
        assert_eq!(debugged.found(BootTime(1), &node), [0_u64; 0]);
        node.look.replace(Look::Missing(Missing::Unavailable));
        assert_eq!(debugged.found(BootTime(WAIT_NS - 1), &node), [0_u64; 0]);
        node.look.replace(spec(None));
        assert_eq!(debugged.found(BootTime(WAIT_NS), &node), [2]);
        let mut late = starting(0);
        node.look.replace(Look::Pending);
        assert_eq!(late.found(BootTime(WAIT_NS), &node), [0_u64; 0]);
        assert!(late.starting.is_empty(), "{late:?}");
    }

    #[test]
    fn without_a_kubelet_nobody_waits() {
        let node = node(Look::Missing(Missing::NoKubelet));
        let mut debugged = Debugged::default();
        debugged.started(2, BootTime(0));
        assert_eq!(debugged.found(BootTime(1), &node), [0_u64; 0]);
        assert!(debugged.starting.is_empty());
        for cgroup in 0..2 * MAX_STARTING as u64 {
            debugged.started(cgroup, BootTime(0));
        }
        assert_eq!(debugged.starting.len(), MAX_STARTING);
    }
}
