//! What becomes of a session that was held back: it is told, as this or that, or counted.

use super::{
    Command, MAX_BYTES, MAX_LATE, Place, Probes, Session, Stage, WayIn, World,
    fold::{Count, Told},
    kubelet::{Look, Missing},
    method::{self, Conclusion, Container, Group},
    rhythm::Learned,
    spec::SpecCommand,
};
use crate::event::{Attributed, Body, BootTime, Event, Gap, Method, ProbeKind, SessionEnded, SessionId};

impl WayIn {
    /// Compares a session with what is known of its pod by now.
    pub(super) fn compare(
        &mut self,
        id: &SessionId,
        time: BootTime,
        world: &impl World,
        out: &mut Vec<Event>,
    ) {
        let Some(session) = self.sessions.get(id) else { return };
        let (Stage::Asked(root) | Stage::Late(root)) = &session.stage else { return };
        let (cgroup, told, root) = (session.container, session.told, root.clone());
        let place = world.place(cgroup).unwrap_or_default();
        let Place { pod: Some(pod), id: container, name, sandbox: _, pre_stop } = place else { return };
        let hook = pre_stop.map(|argv| SpecCommand {
            kind: ProbeKind::PreStop,
            command: Command::of(argv),
            period: None,
        });
        let look = world.look(&pod, container.as_deref());
        let (conclusion, late) = match look {
            Look::Pending => return,
            Look::Missing(missing) => match hook.filter(|hook| root.commands.contains(&hook.command)) {
                Some(hook) => (self.container(cgroup, out).compare(&root, &[hook], false, 30), false),
                // Told already, and still not known.
                None if told => return,
                None => (method::without(Some(missing)), missing != Missing::NoKubelet),
            },
            Look::Known(spec) => match method::commands(&spec, container.as_deref(), name.as_deref()) {
                Ok(mut commands) => {
                    let known = |hook: &SpecCommand| commands.iter().any(|c| c.command == hook.command);
                    commands.extend(hook.filter(|hook| !known(hook)));
                    let container = self.container(cgroup, out);
                    (container.compare(&root, &commands, spec.deleting, spec.grace), false)
                }
                Err(any) if any.iter().any(|known| root.commands.contains(&known.command)) => {
                    let why = "its arguments are those of a probe or hook of the pod; in which container is not known";
                    (Conclusion::Unknown { evidence: vec![why.to_owned()] }, true)
                }
                Err(any) => (Container::default().compare(&root, &any, false, 0), false),
            },
        };
        if !(told && late) {
            self.conclude(id, conclusion, late, time, out);
        }
    }

    /// `late`: what is not known may come yet.
    pub(super) fn conclude(
        &mut self,
        id: &SessionId,
        conclusion: Conclusion,
        late: bool,
        time: BootTime,
        out: &mut Vec<Event>,
    ) {
        let (method, evidence, probe, group) = match conclusion {
            Conclusion::Is { method, evidence, probe } => (method, evidence, probe, None),
            Conclusion::Unknown { evidence } => (Method::Unknown, evidence, None, None),
            Conclusion::Perhaps { evidence, group } => (Method::Unknown, evidence, None, Some((group, None))),
            Conclusion::Probe { evidence, probe, group, at, learned } => {
                self.learned(id, learned, time, out);
                (Method::ExecProbe, evidence, Some(probe), Some((group, Some(at))))
            }
        };
        let fold = self.options.probes != Probes::All;
        let Some(session) = self.sessions.get_mut(id) else { return };
        let told = session.told;
        if told && method != Method::Unknown {
            attribute(id.clone(), session.container, method, evidence, time, out);
        } else if let Some(started) = session.started() {
            started.method = method;
            started.evidence.extend(evidence);
            started.probe = probe;
        }
        let root = match &session.stage {
            Stage::Asked(root) | Stage::Late(root) => Some(root.clone()),
            Stage::Begun { .. } | Stage::Probe { .. } | Stage::Watched { .. } => None,
        };
        match (group, root) {
            (Some((group, Some(at))), Some(root)) if fold && !told => {
                session.stage = Stage::Probe { group, at, root };
            }
            (Some((group, at)), _) => {
                session.stage = Stage::Watched { group, at };
                self.tell(id, out);
            }
            (None, Some(root)) if late => {
                session.stage = Stage::Late(root);
                self.tell(id, out);
                self.late.push_back(id.clone());
                if self.late.len() > MAX_LATE
                    && let Some(oldest) = self.late.pop_front()
                {
                    self.forget(&oldest);
                }
            }
            _ => {
                self.tell(id, out);
                self.forget(id);
            }
        }
        self.settle(id, out);
    }

    /// What a probe's time says of sessions that were told before it.
    pub(super) fn learned(&mut self, by: &SessionId, learned: Learned, time: BootTime, out: &mut Vec<Event>) {
        let Some(cgroup) = self.sessions.get(by).map(|session| session.container) else { return };
        let Learned { probe, others } = learned;
        if let Some(probe) = probe {
            let evidence = vec!["another came in the probe's rhythm".to_owned()];
            attribute(probe, cgroup, Method::ExecProbe, evidence, time, out);
        }
        for other in others {
            let evidence =
                vec!["the probe came in its rhythm before and after it: it is none of them".to_owned()];
            attribute(other, cgroup, Method::RuntimeExec, evidence, time, out);
        }
    }

    /// Where a session is over: counts it, or tells it and remembers what it did.
    pub(super) fn settle(&mut self, id: &SessionId, out: &mut Vec<Event>) {
        let Some(Session { container: cgroup, stage, outcome, ended: Some((time, ended)), .. }) =
            self.sessions.get(id)
        else {
            return;
        };
        let (cgroup, time, ended) = (*cgroup, *time, ended.clone());
        let digest = outcome.digest(&ended);
        match stage {
            // Waits on: for the kubelet, and not for ever.
            Stage::Begun { .. } | Stage::Asked(_) | Stage::Late(_) => {}
            Stage::Watched { group, at } => {
                let (key, at) = (*group, *at);
                self.forget(id);
                let Some(group) = self.group(cgroup, key) else { return };
                if let Some(at) = at {
                    group.rhythm.ended(at, time);
                }
                if let Some(digest) = digest
                    && (at.is_some() || group.told.is_none())
                {
                    group.told = Some(Told { digest, session: id.clone(), at: time });
                }
            }
            Stage::Probe { group, at: _, root } => {
                let (key, entered) = (*group, root.entered);
                let mode = self.options.probes;
                let alike = self.group(cgroup, key).is_some_and(|group| match mode {
                    Probes::Fold => {
                        let told = group.told.as_ref().zip(digest);
                        told.is_some_and(|(told, digest)| told.covers(digest, entered))
                    }
                    Probes::None => true,
                    Probes::All => false,
                });
                if !alike || digest.is_none() {
                    return self.release(id, out);
                }
                self.count(id, cgroup, entered, time, &ended, out);
            }
        }
    }

    /// Counts a probe's session, of which nothing was told.
    pub(super) fn count(
        &mut self,
        id: &SessionId,
        cgroup: u64,
        entered: BootTime,
        time: BootTime,
        ended: &SessionEnded,
        out: &mut Vec<Event>,
    ) {
        let none = self.options.probes == Probes::None;
        let Some(Stage::Probe { group, at, root: _ }) = self.sessions.get(id).map(|session| &session.stage)
        else {
            return;
        };
        let (key, at) = (*group, *at);
        self.forget(id);
        let _ = self.folded.insert(id.clone(), ());
        let Some(group) = self.group(cgroup, key) else { return };
        group.rhythm.ended(at, time);
        if none {
            group.told = None;
        }
        // Those of one count have all ended alike.
        if group.count.is_some_and(|count| count.status() != ended.status) {
            tell_count(cgroup, group, out);
        }
        Count::add(&mut group.count, entered, ended);
    }

    /// Tells what a session holds back, though what it was held back for has not come.
    pub(super) fn release(&mut self, id: &SessionId, out: &mut Vec<Event>) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        match &session.stage {
            Stage::Probe { group, at, root: _ } => {
                session.stage = Stage::Watched { group: *group, at: Some(*at) };
                self.tell(id, out);
                self.settle(id, out);
            }
            Stage::Asked(_) => {
                let time = session.held.last().map_or(BootTime(0), |event| event.time);
                self.conclude(id, method::without(None), true, time, out);
            }
            Stage::Begun { sure } => {
                if !*sure && let Some(started) = session.started() {
                    started.method = Method::Unknown;
                    started.evidence.push("its first command has not come yet".to_owned());
                }
                self.tell(id, out);
                self.forget(id);
            }
            Stage::Watched { .. } | Stage::Late(_) => {}
        }
    }

    /// Tells what is held back, after what was only counted before it.
    pub(super) fn tell(&mut self, id: &SessionId, out: &mut Vec<Event>) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let (cgroup, held) = (session.container, std::mem::take(&mut session.held));
        session.told = true;
        self.bytes = self.bytes.saturating_sub(std::mem::take(&mut session.bytes));
        if let Stage::Watched { group, at: Some(_) } = &session.stage {
            let key = *group;
            if let Some(group) = self.group(cgroup, key) {
                tell_count(cgroup, group, out);
            }
        }
        out.extend(held);
    }

    pub(super) fn forget(&mut self, id: &SessionId) {
        if let Some(session) = self.sessions.remove(id) {
            self.bytes = self.bytes.saturating_sub(session.bytes);
        }
    }

    /// Looks at it no more.
    pub(super) fn give_up(&mut self, id: &SessionId, out: &mut Vec<Event>) {
        self.release(id, out);
        self.forget(id);
    }

    pub(super) fn make_room(&mut self, out: &mut Vec<Event>) {
        while self.bytes > MAX_BYTES {
            let oldest = self.sessions.iter().find(|(_, session)| !session.told).map(|(id, _)| id.clone());
            let Some(oldest) = oldest else { break };
            self.release(&oldest, out);
        }
    }

    /// Events are missing: what they may be of is told as far as it is known.
    pub(super) fn gap(&mut self, gap: &Gap, of: Option<&SessionId>, out: &mut Vec<Event>) {
        let touched = |id: &SessionId| {
            (gap.sessions.is_empty() && of.is_none()) || gap.sessions.contains(id) || of == Some(id)
        };
        let touched = self.sessions.iter().filter(|(id, _)| touched(id));
        for id in touched.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            if let Some(session) = self.sessions.get_mut(&id) {
                session.outcome.breaks();
            }
            self.release(&id, out);
        }
    }
}

pub(super) fn tell_counts(cgroup: u64, container: &mut Container, out: &mut Vec<Event>) {
    for group in container.groups.values_mut() {
        tell_count(cgroup, group, out);
    }
}

pub(super) fn tell_count(cgroup: u64, group: &mut Group, out: &mut Vec<Event>) {
    let like = group.told.as_ref().map_or_else(|| SessionId(String::new()), |told| told.session.clone());
    out.extend(group.count.take().map(|count| count.tell(cgroup, &like, Method::ExecProbe)));
}

/// A session that was told is of another method than it was told to be.
pub(super) fn attribute(
    session: SessionId,
    cgroup: u64,
    method: Method,
    evidence: Vec<String>,
    time: BootTime,
    out: &mut Vec<Event>,
) {
    let attributed = Attributed { evidence, method: Some(method), ..Attributed::default() };
    let body = Body::Attributed(Box::new(attributed));
    out.push(Event { time, container: Some(cgroup), session: Some(session), body });
}
