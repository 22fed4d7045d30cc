//! How a session came in, from what is known of it and of its pod: a method, and the findings it was concluded from.
//!
//! Arguments alone say nothing: anybody may run a probe's command by hand. What a kubelet runs has no terminal, nothing
//! on its standard input, the specification's arguments, and its time. Where one of these is not known, the method is
//! [`Method::Unknown`] and not a guess. Findings are numbers and fixed words: no argument of anybody is in them.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::{
    command::Command,
    fold::{Count, Told},
    kubelet::Missing,
    rhythm::{Beat, Learned, Rhythm, tolerance},
    spec::{ContainerSpec, PodSpec, Role, SpecCommand},
};
use crate::event::{BootTime, Descriptor, Method, Probe, ProbeKind, SessionId, SessionStarted};

const SECOND: u64 = 1_000_000_000;
/// A postStart hook runs so soon after its container's start.
const POST_START_MAX: u64 = 15 * SECOND;
/// A container that was told to stop is gone so long after its time to do so is over.
const STOP_SLACK: u64 = 15 * SECOND;
/// Of one container.
const MAX_GROUPS: usize = 16;
const MAX_STOPPING: usize = 4;

/// What is kept of a container.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Container {
    /// when its own program started, where that was seen
    pub(super) started: Option<BootTime>,
    post_start: bool,
    /// sessions that were its preStop hook if it ends soon
    stopping: VecDeque<Stopping>,
    pub(super) groups: BTreeMap<Command, Group>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Stopping {
    session: SessionId,
    entered: BootTime,
    until: BootTime,
}

/// The probes of a container that have the same arguments.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Group {
    pub(super) rhythm: Rhythm,
    /// the session that was told last, and what it did
    pub(super) told: Option<Told>,
    pub(super) count: Option<Count>,
}

/// What the first command of a session is compared by.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Root {
    pub(super) session: SessionId,
    pub(super) entered: BootTime,
    /// what it could be in a specification; empty: its arguments are cut
    pub(super) commands: Vec<Command>,
}

/// What was concluded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Conclusion {
    /// that, and nothing will change it here
    Is { method: Method, evidence: Vec<String>, probe: Option<Probe> },
    /// a probe's, in its rhythm
    Probe { evidence: Vec<String>, probe: Probe, group: Command, at: usize, learned: Learned },
    /// a probe's arguments; the sessions that follow will tell
    Perhaps { evidence: Vec<String>, group: Command },
    /// not known; what there is to know may come yet
    Unknown { evidence: Vec<String> },
}

/// Why a session with this announcement is no probe and no hook, whatever it runs. Empty: it may be one.
pub(super) fn excludes(started: &SessionStarted, sandbox: bool) -> Vec<String> {
    let mut why = Vec::new();
    if started.tty.is_some() {
        why.push("a terminal: probes and hooks have none".to_owned());
    }
    for (name, descriptor) in
        ["stdin", "stdout", "stderr"].into_iter().zip(started.descriptors.iter().flatten())
    {
        match descriptor {
            Descriptor::Terminal { .. } if started.tty.is_none() => {
                why.push(format!("{name} is {descriptor}: probes and hooks have none"));
            }
            Descriptor::Null | Descriptor::Terminal { .. } => {}
            other if name == "stdin" => {
                why.push(format!("stdin is {other}: a probe's and a hook's is /dev/null"));
            }
            _ => {}
        }
    }
    if started.exec_audit_id.is_some() {
        why.push("it has an API server's audit id: somebody asked for it there".to_owned());
    }
    if sandbox {
        why.push("the pod's sandbox: it has no probes and no hooks".to_owned());
    }
    why
}

/// What speaks for a probe or a hook, but for the arguments.
pub(super) fn allows(started: &SessionStarted) -> String {
    match started.descriptors {
        Some(_) => "no terminal, and stdin is /dev/null".to_owned(),
        None => "no terminal; what stdin was is not known".to_owned(),
    }
}

/// Nothing is known of the pod. `late`: it was asked for, and did not come in time.
pub(super) fn without(missing: Option<Missing>) -> Conclusion {
    let why = match missing {
        Some(Missing::NoKubelet) => "no kubelet is asked (kubelet = \"none\")",
        Some(Missing::NotListed) => "the kubelet does not list the pod",
        Some(Missing::Unavailable) => "the kubelet does not answer",
        None => "the kubelet has not answered yet",
    };
    Conclusion::Unknown { evidence: vec![format!("the pod's probes and hooks are not known: {why}")] }
}

/// The commands that may be run in a container. `Err`: in any of those of its pod, as it is not known which it is.
pub(super) fn commands(
    pod: &PodSpec,
    id: Option<&str>,
    name: Option<&str>,
) -> Result<Vec<SpecCommand>, Vec<SpecCommand>> {
    let by_id = |container: &&ContainerSpec| id.is_some() && container.id.as_deref() == id;
    let by_name = |container: &&ContainerSpec| name == Some(container.name.as_str());
    let found = pod.containers.iter().find(by_id).or_else(|| pod.containers.iter().find(by_name));
    let mut lasting = pod.containers.iter().filter(|container| container.role != Role::Init);
    let only = lasting.next().filter(|_| lasting.next().is_none() && pod.containers.len() == 1);
    match found.or(only) {
        Some(container) => Ok(container.commands.clone()),
        None => Err(pod.containers.iter().flat_map(|container| &container.commands).copied().collect()),
    }
}

impl Container {
    /// Compares a session with what may be run in its container.
    pub(super) fn compare(
        &mut self,
        root: &Root,
        commands: &[SpecCommand],
        deleting: bool,
        grace: u64,
    ) -> Conclusion {
        if root.commands.is_empty() {
            let evidence =
                vec!["its arguments are cut: they cannot be compared with the pod's probes".to_owned()];
            return Conclusion::Unknown { evidence };
        }
        let same: Vec<&SpecCommand> =
            commands.iter().filter(|known| root.commands.contains(&known.command)).collect();
        let Some(first) = same.first() else {
            let count = commands.len();
            let evidence = match count {
                0 => "the pod's specification has no command for the kubelet to run in it".to_owned(),
                1 => "its arguments are not those of the pod's one probe or hook".to_owned(),
                _ => format!("its arguments are none of the pod's {count} probes and hooks"),
            };
            return Conclusion::Is { method: Method::RuntimeExec, evidence: vec![evidence], probe: None };
        };
        let names: Vec<&str> = same.iter().map(|known| known.kind.as_str()).collect();
        let mut evidence = vec![format!("its arguments are those of the pod's {}", names.join(" and "))];
        let group = first.command;
        let probes: Vec<(ProbeKind, u64)> =
            same.iter().filter_map(|known| Some((known.kind, known.period?))).collect();
        let beat = self.hear(&probes, group, root);
        let out = match beat {
            Some(Beat::In { probe: at, after, learned }) => {
                let (kind, period) = probes.get(at).copied().unwrap_or((first.kind, 0));
                evidence.push(format!(
                    "{} after the one before it: every {}, give or take {}",
                    seconds(after),
                    seconds(period),
                    seconds(tolerance(period))
                ));
                let probe = Probe { kind, period_ns: Some(period) };
                return Conclusion::Probe { evidence, probe, group, at, learned };
            }
            Some(Beat::Out { after }) => {
                Some(format!("not in its rhythm: {} after the last that was", seconds(after)))
            }
            Some(Beat::First) => Some("no other has come yet to know its rhythm by".to_owned()),
            None => None,
        };
        if let Some(hook) = self.hook(&same, root, deleting, grace, &mut evidence) {
            let probe = Some(Probe { kind: hook, period_ns: None });
            return Conclusion::Is { method: Method::LifecycleHook, evidence, probe };
        }
        let Some(out) = out else { return Conclusion::Unknown { evidence } };
        evidence.push(out);
        Conclusion::Perhaps { evidence, group }
    }

    fn hear(&mut self, probes: &[(ProbeKind, u64)], group: Command, root: &Root) -> Option<Beat> {
        if probes.is_empty() || (self.groups.len() >= MAX_GROUPS && !self.groups.contains_key(&group)) {
            return None;
        }
        let periods: Vec<u64> = probes.iter().map(|(_, period)| *period).collect();
        Some(self.groups.entry(group).or_default().rhythm.hear(&periods, root.entered, &root.session))
    }

    /// The hook that this is by its time.
    fn hook(
        &mut self,
        same: &[&SpecCommand],
        root: &Root,
        deleting: bool,
        grace: u64,
        evidence: &mut Vec<String>,
    ) -> Option<ProbeKind> {
        let has = |kind| same.iter().any(|known| known.kind == kind);
        if has(ProbeKind::PostStart) {
            match self.started {
                Some(started) if root.entered.since(started) <= POST_START_MAX && !self.post_start => {
                    self.post_start = true;
                    evidence.push(format!(
                        "{} after its container's start",
                        seconds(root.entered.since(started))
                    ));
                    return Some(ProbeKind::PostStart);
                }
                Some(_) if self.post_start => evidence.push("the postStart hook has run already".to_owned()),
                Some(started) => evidence.push(format!(
                    "{} after its container's start: postStart runs at once",
                    seconds(root.entered.since(started))
                )),
                None => evidence.push("when its container started was not seen".to_owned()),
            }
        }
        if has(ProbeKind::PreStop) {
            if deleting {
                evidence.push("the pod is being deleted".to_owned());
                return Some(ProbeKind::PreStop);
            }
            evidence.push("whether its container is being stopped is not known yet".to_owned());
            let time = grace.saturating_mul(SECOND).saturating_add(STOP_SLACK);
            let until = BootTime(root.entered.0.saturating_add(time));
            self.stopping.push_back(Stopping { session: root.session.clone(), entered: root.entered, until });
            while self.stopping.len() > MAX_STOPPING {
                self.stopping.pop_front();
            }
        }
        None
    }

    /// Its own program has ended: the last session that could have been the preStop hook was it.
    pub(super) fn stopped(&mut self, at: BootTime) -> Option<(SessionId, Vec<String>)> {
        let stopping = std::mem::take(&mut self.stopping);
        let Stopping { session, entered, until } = stopping.into_iter().last()?;
        let after = at.since(entered);
        let evidence = format!("its container ended {} later, within its time to stop", seconds(after));
        (at <= until).then_some((session, vec![evidence]))
    }
}

/// For people.
pub(super) fn seconds(nanos: u64) -> String {
    let (whole, hundredths) = (nanos / SECOND, nanos % SECOND / 10_000_000);
    if hundredths == 0 { format!("{whole} s") } else { format!("{whole}.{hundredths:02} s") }
}
