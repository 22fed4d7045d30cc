//! The way in, among the agent's parts: what it may know of containers and pods, and when it is asked.

use tokio::sync::watch;

use super::{
    Containers,
    debugged::{self, Debugged},
};
use crate::{
    convert::boot_now,
    event::Event,
    session::record::{ContainerEnded, Record},
    state::Changes,
    wayin::{Kubelet, Look, Missing, Place, WayIn, World},
};

/// How sessions in pods are told apart; see [`crate::wayin`].
#[derive(Debug, Default)]
pub struct Ways {
    wayin: WayIn,
    /// `None`: nobody knows pods' probes
    kubelet: Option<Kubelet>,
    answers: Option<watch::Receiver<u64>>,
    debugged: Debugged,
    // What is to be told, until it is.
    told: Vec<Event>,
}

struct Around<'a> {
    containers: &'a Containers,
    kubelet: Option<&'a Kubelet>,
}

impl Ways {
    #[must_use]
    pub fn new(wayin: WayIn) -> Self {
        Self { wayin, ..Self::default() }
    }

    /// The kubelet that knows pods' probes.
    pub fn ask(&mut self, kubelet: Kubelet) {
        self.answers = Some(kubelet.answers());
        self.kubelet = Some(kubelet);
    }

    /// Tells what an agent before held back: it will not go on with it.
    pub(super) fn let_go(&mut self) {
        self.wayin.release_all(&mut self.told);
    }

    /// Takes all `events`, and answers those that are to be told now.
    pub(super) fn pass(
        &mut self,
        events: &mut Vec<Event>,
        containers: &Containers,
    ) -> std::vec::Drain<'_, Event> {
        self.take(events, containers);
        self.told.drain(..)
    }

    /// A record goes by: of the beginning and the end of containers, after what was before it.
    pub(super) fn hear(&mut self, record: &Record, events: &mut Vec<Event>, containers: &Containers) {
        match record {
            Record::ContainerStarted(started) => {
                self.debugged.started(started.cgroup_id, started.time);
                let around = Around { containers, kubelet: self.kubelet.as_ref() };
                self.wayin.container_started(started.cgroup_id, started.time, &around, &mut self.told);
            }
            Record::ContainerEnded(ContainerEnded { time, cgroup_id, init: _, status: _ }) => {
                self.take(events, containers);
                self.wayin.container_ended(*cgroup_id, *time, &mut self.told);
            }
            _ => {}
        }
    }

    /// Waits until the kubelet answers.
    pub(super) async fn answer(&mut self) {
        if let Some(answers) = &mut self.answers
            && answers.changed().await.is_ok()
        {
            return;
        }
        std::future::pending::<()>().await;
    }

    pub(super) fn answered(&mut self, events: &mut Vec<Event>, containers: &Containers) {
        self.take(events, containers);
        let around = Around { containers, kubelet: self.kubelet.as_ref() };
        self.wayin.answered(boot_now(), &around, &mut self.told);
    }

    /// Containers that turned out to be sessions.
    pub(super) fn debugged(&mut self, containers: &Containers) -> Vec<u64> {
        self.debugged.found(boot_now(), &Around { containers, kubelet: self.kubelet.as_ref() })
    }

    /// To be called about once a second.
    pub(super) fn flush(&mut self, events: &mut Vec<Event>, containers: &Containers) {
        self.take(events, containers);
        self.wayin.flush(boot_now(), &mut self.told);
    }

    /// Takes all `events`, and holds nothing back any more.
    pub(super) fn finish(&mut self, events: &mut Vec<Event>, containers: &Containers) {
        self.take(events, containers);
        self.wayin.finish(&mut self.told);
    }

    pub(super) fn save(&mut self, all: bool, out: &mut Changes) {
        self.wayin.save(all, out);
    }

    pub(super) fn forget_changes(&mut self) {
        self.wayin.forget_changes();
    }

    fn take(&mut self, events: &mut Vec<Event>, containers: &Containers) {
        let Self { wayin, kubelet, answers: _, debugged: _, told } = self;
        let around = Around { containers, kubelet: kubelet.as_ref() };
        for mut event in events.drain(..) {
            debugged::explain(&mut event, &around);
            wayin.handle(event, &around, told);
        }
    }
}

impl World for Around<'_> {
    fn place(&self, cgroup: u64) -> Option<Place> {
        let info = self.containers.find(cgroup)?;
        let facts = info.metadata.known();
        Some(Place {
            pod: facts.map(|facts| facts.pod.uid.clone()).or_else(|| info.pod_uid.clone()),
            id: info.id.clone(),
            name: facts.and_then(|facts| facts.name.clone()),
            sandbox: facts.is_some_and(|facts| facts.sandbox),
            pre_stop: facts.and_then(|facts| facts.pre_stop.clone()),
        })
    }

    fn look(&self, pod: &str, container: Option<&str>) -> Look {
        self.kubelet.map_or(Look::Missing(Missing::NoKubelet), |kubelet| kubelet.look(pod, container))
    }
}
