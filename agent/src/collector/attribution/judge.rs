//! The rules: what follows from what is known of a session, and of all that hang together with it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use podtrail_proto::v1::{EntryMethod, Verdict, api_request::Action};

use super::{
    Heard, Settings, World,
    assign::assign,
    engine::Engine,
    evidence::{UNKNOWN_ID, requests},
    fit::{self, after},
    request::Request,
    session::{Place, Session},
    verdict::{Conclusion, text},
};
use crate::trail::{Moment, log::Cursor};

/// Sessions and requests that are put to one another at once; more of them that are alike are not told apart.
const MAX_TOGETHER: usize = 500;
/// What may become clearer by itself is looked at so often.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(10);

/// What follows for one session.
#[derive(Debug, Default)]
pub(super) struct Judged {
    /// `None`: nothing can be said, or not yet
    pub(super) conclusion: Option<Conclusion>,
    /// when it is to be looked at again
    pub(super) again: Option<Moment>,
    /// or when the audit was heard further
    pub(super) behind: bool,
    /// which request is its own
    pub(super) request: Option<Cursor>,
}

/// What a session's end says of the requests that fit to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ByEnd {
    Same,
    Fewer,
    NothingLeft,
}

/// Sessions and requests that hang together: each session by the requests that fit to it.
#[derive(Debug, Default)]
struct Together {
    sessions: Vec<Cursor>,
    requests: Vec<Cursor>,
    /// of each session, places in `requests`
    edges: Vec<Vec<usize>>,
    too_many: bool,
}

impl Engine {
    /// What follows for this session, and for those that hang together with it.
    pub(super) fn judge(
        &self,
        at: Cursor,
        now: Moment,
        world: &dyn World,
        force: bool,
    ) -> Vec<(Cursor, Judged)> {
        let Some(session) = self.sessions.get(&at) else { return Vec::new() };
        let alone = |judged| vec![(at, judged)];
        match session.method {
            EntryMethod::NamespaceJoin => {
                let why = "its namespaces were joined from the node: no request to the API server does that";
                return alone(Judged::say(Conclusion::new(Verdict::NodeLocal, [why.to_owned()], &[])));
            }
            EntryMethod::HostNamespace => return alone(self.judge_host(session, now)),
            EntryMethod::Attach | EntryMethod::PortForward => return alone(Judged::default()),
            EntryMethod::EphemeralContainer => {
                return alone(self.judge_ephemeral(session, now, world, force));
            }
            EntryMethod::Unknown
            | EntryMethod::RuntimeExec
            | EntryMethod::ExecProbe
            | EntryMethod::LifecycleHook => {}
        }
        if !matches!(session.place, Place::Pod(_)) {
            return alone(self.judge_placeless(session, now, force));
        }
        let together = self.together(at);
        if together.requests.is_empty() {
            return alone(self.judge_alone(session, now, world, force));
        }
        self.judge_together(&together, now, world, force)
    }

    /// Everything that hangs together with a session by what fits.
    fn together(&self, at: Cursor) -> Together {
        let kubelets = self.sessions.get(&at).is_some_and(Session::is_kubelets);
        let mut together = Together::default();
        let mut places: BTreeMap<Cursor, usize> = BTreeMap::new();
        let mut seen = BTreeSet::from([at]);
        let mut queue = VecDeque::from([at]);
        while let Some(cursor) = queue.pop_front() {
            let Some(session) = self.sessions.get(&cursor) else { continue };
            let mut edges = Vec::new();
            for request_at in self.around(session) {
                let Some(request) = self.requests.get(&request_at) else { continue };
                if !fit::fits(&self.settings, session, request)
                    || (kubelets && self.is_wanted_by_others(request))
                {
                    continue;
                }
                let new = together.requests.len();
                let place = *places.entry(request_at).or_insert(new);
                edges.push(place);
                if place < new {
                    continue;
                }
                together.requests.push(request_at);
                for other in self.near(request) {
                    let fits = self.sessions.get(&other).is_some_and(|other| {
                        other.is_kubelets() == kubelets && fit::fits(&self.settings, other, request)
                    });
                    if fits && seen.insert(other) {
                        queue.push_back(other);
                    }
                }
            }
            together.sessions.push(cursor);
            together.edges.push(edges);
            if together.sessions.len() + together.requests.len() > MAX_TOGETHER {
                together.too_many = true;
                return together;
            }
        }
        together
    }

    /// A probe has a request only where nobody else can have it.
    fn is_wanted_by_others(&self, request: &Request) -> bool {
        self.near(request)
            .iter()
            .filter_map(|at| self.sessions.get(at))
            .any(|session| !session.is_kubelets() && fit::fits(&self.settings, session, request))
    }

    fn judge_together(
        &self,
        together: &Together,
        now: Moment,
        world: &dyn World,
        force: bool,
    ) -> Vec<(Cursor, Judged)> {
        let Together { sessions, requests, edges, too_many } = together;
        let exact = self.exact(together);
        // Those that are certain by their id leave the others alone.
        let taken: BTreeSet<usize> = exact.iter().flatten().copied().collect();
        let open: Vec<Vec<usize>> = edges
            .iter()
            .zip(&exact)
            .map(|(edges, exact)| match exact {
                Some(_) => Vec::new(),
                None => edges.iter().copied().filter(|r| !taken.contains(r)).collect(),
            })
            .collect();
        let by_ends = self.by_ends(together, &open, now, world);
        let left: Vec<Vec<usize>> = by_ends.iter().map(|(edges, _)| edges.clone()).collect();
        let told_apart = by_ends.iter().any(|(_, by_end)| *by_end == ByEnd::Fewer);
        let assigned = assign(&left, requests.len());
        sessions
            .iter()
            .enumerate()
            .filter_map(|(place, at)| {
                let session = self.sessions.get(at)?;
                let get = |places: &[usize]| -> Vec<&Request> {
                    let at = places.iter().filter_map(|p| requests.get(*p));
                    at.filter_map(|at| self.requests.get(at)).collect()
                };
                let fits = edges.get(place).map(Vec::as_slice).unwrap_or_default();
                if let Some(own) = exact.get(place).copied().flatten() {
                    let rivals: Vec<usize> = fits
                        .iter()
                        .copied()
                        .filter(|r| !taken.contains(r) && assigned.free.get(*r) == Some(&true))
                        .collect();
                    let judged = self.judge_exact(session, &get(&[own]), &get(&rivals), now, world, force);
                    let request = requests.get(own).copied().filter(|_| rivals.is_empty());
                    return Some((*at, Judged { request, ..judged }));
                }
                let may_be = assigned.may_be.get(place).map(Vec::as_slice).unwrap_or_default();
                if may_be.is_empty() {
                    // Others have what fits to it, by their ids.
                    return Some((*at, self.judge_alone(session, now, world, force)));
                }
                let certain = assigned.always.get(place) == Some(&true) && !too_many;
                let candidates = get(may_be);
                let one = candidates.iter().map(|request| request.who()).collect::<BTreeSet<_>>().len() == 1;
                let nothing_left = by_ends.get(place).is_none_or(|(_, by_end)| *by_end == ByEnd::NothingLeft);
                // Another session that it may be of would have been told by now.
                let outlived = nothing_left && !candidates.iter().all(|r| self.is_told_past(session, r));
                let abandoned = candidates.iter().all(|r| self.is_abandoned(session, r));
                let verdict = if certain && one && session.argv.is_some() && !abandoned && !outlived {
                    Verdict::Matched
                } else {
                    Verdict::Ambiguous
                };
                let size = (sessions.len(), requests.len());
                let mut evidence = self.evidence(session, verdict, &candidates, size, told_apart);
                if abandoned {
                    evidence.push(
                        "the response was complete while the session went on: the client left at once, or it was another's"
                            .to_owned(),
                    );
                }
                if nothing_left {
                    let but = if outlived { "but " } else { "" };
                    evidence.push(format!("{but}the response went on after the session had ended"));
                }
                if *too_many {
                    evidence.push(format!("more than {MAX_TOGETHER} sessions and requests are alike"));
                }
                let conclusion = Conclusion::new(verdict, evidence, &candidates);
                let last = self.last_logged(session, &candidates, sessions);
                // Where more sessions than requests are alike, the request that is missing may still come.
                let end = after(session.first_logged, self.settings.patience);
                let missing = assigned.always.get(place) == Some(&false);
                let judged = if missing && now < end && !force {
                    Judged { again: Some(end), ..Judged::default() }
                } else {
                    self.when_settled(session, conclusion, last, now, world, force)
                };
                let request = may_be.first().and_then(|p| requests.get(*p)).copied();
                Some((*at, Judged { request: request.filter(|_| verdict == Verdict::Matched), ..judged }))
            })
            .collect()
    }

    /// When the last came that has a say in this.
    fn last_logged(&self, session: &Session, candidates: &[&Request], sessions: &[Cursor]) -> Moment {
        let rivals = sessions
            .iter()
            .filter_map(|at| self.sessions.get(at))
            .filter(|rival| candidates.iter().any(|request| fit::fits(&self.settings, rival, request)));
        rivals
            .map(|rival| rival.first_logged)
            .chain(candidates.iter().map(|request| request.logged))
            .chain([session.logged])
            .max()
            .unwrap_or(session.logged)
    }

    /// Of each session the request with the id in its environment, where that is the only one and the session the only
    /// one, and they fit: clients choose ids, and who makes a pod chooses its environment.
    fn exact(&self, together: &Together) -> Vec<Option<usize>> {
        let of = |(at, edges): (&Cursor, &Vec<usize>)| {
            let session = self.sessions.get(at)?;
            if matches!(session.audit_id.as_str(), "" | UNKNOWN_ID) || session.argv.is_none() {
                return None;
            }
            let id = (session.key.cluster.clone(), session.audit_id.clone());
            let requests = self.requests_by_id.get(&id).filter(|requests| requests.len() == 1)?;
            self.sessions_by_id.get(&id).filter(|sessions| sessions.len() == 1)?;
            let request = requests.first()?;
            edges.iter().copied().find(|place| together.requests.get(*place) == Some(request))
        };
        together.sessions.iter().zip(&together.edges).map(of).collect()
    }

    fn judge_exact(
        &self,
        session: &Session,
        own: &[&Request],
        rivals: &[&Request],
        now: Moment,
        world: &dyn World,
        force: bool,
    ) -> Judged {
        let id = text(&session.audit_id);
        let mut evidence = vec![format!(
            "KUBERNETES_EXEC_AUDIT_ID of the root is {id}, which one request has, and no other session"
        )];
        evidence.extend(self.alike(session, own));
        if rivals.is_empty() {
            return Judged::say(Conclusion::new(Verdict::ExactId, evidence, own));
        }
        // An id can be planted in a pod's environment: a request that fits as well, and that no session is left for,
        // may be the true one.
        evidence.push(format!("{} more fit, and have no session of their own", requests(rivals.len())));
        let all: Vec<&Request> = own.iter().chain(rivals).copied().collect();
        let last = all.iter().map(|request| request.logged).max().unwrap_or(session.logged);
        let conclusion = Conclusion::new(Verdict::Ambiguous, evidence, &all);
        self.when_settled(session, conclusion, last.max(session.logged), now, world, force)
    }

    /// Of each session what fits by its end too, and whether that made a difference; all that fits, where nothing is left.
    fn by_ends(
        &self,
        together: &Together,
        open: &[Vec<usize>],
        now: Moment,
        world: &dyn World,
    ) -> Vec<(Vec<usize>, ByEnd)> {
        let outlives = |at: &Cursor, place: usize| {
            let session = self.sessions.get(at);
            let request = together.requests.get(place).and_then(|at| self.requests.get(at));
            session.zip(request).is_some_and(|(session, request)| self.outlives(request, session, now, world))
        };
        let both = together.sessions.iter().zip(open);
        let by_end: Vec<Vec<usize>> = both
            .map(|(at, edges)| edges.iter().copied().filter(|place| !outlives(at, *place)).collect())
            .collect();
        // A response may go on for long, as what was printed is slow to be read. So ends say nothing of a session that no
        // request would be left for, and of a request that no session would be left for.
        let had: BTreeSet<usize> = by_end.iter().flatten().copied().collect();
        let mut left: Vec<Vec<usize>> = by_end
            .iter()
            .zip(open)
            .map(|(by_end, edges)| {
                let stays = |r: &usize| by_end.is_empty() || by_end.contains(r) || !had.contains(r);
                edges.iter().copied().filter(stays).collect()
            })
            .collect();
        // And where fewer pairs can be made of what is left, one of them is not what it seems.
        let requests = together.requests.len();
        if assign(&left, requests).pairs < assign(open, requests).pairs {
            left = open.to_vec();
        }
        let told = |((left, by_end), open): ((Vec<usize>, Vec<usize>), &Vec<usize>)| {
            let what = match (by_end.len(), left.len()) {
                (0, 1..) => ByEnd::NothingLeft,
                (_, n) if n < open.len() => ByEnd::Fewer,
                _ => ByEnd::Same,
            };
            (left, what)
        };
        left.into_iter().zip(by_end).zip(open).map(told).collect()
    }

    fn outlives(&self, request: &Request, session: &Session, now: Moment, world: &dyn World) -> bool {
        fit::outlives(&self.settings, request, session, |to| {
            // What was complete by then had the time to come, also in a batch that was sent again.
            now >= after(session.logged, self.settings.patience)
                && world.heard(&session.key.cluster, request.begin(), to) == Heard::All
        })
    }

    fn is_abandoned(&self, session: &Session, request: &Request) -> bool {
        fit::is_abandoned(&self.settings, request, session, self.reached(session))
    }

    /// How far a session's node has reported.
    fn reached(&self, session: &Session) -> Moment {
        let node = (session.key.cluster.clone(), session.key.node.clone());
        self.nodes.get(&node).copied().unwrap_or(Moment::MIN)
    }

    /// Whether all sessions are known that this request may have led to: they are on one node, as its pod is.
    fn is_told_past(&self, session: &Session, request: &Request) -> bool {
        let Settings { skew, latency, .. } = self.settings;
        self.reached(session) > after(request.begin(), latency + skew)
    }

    /// Says it, once nothing more is to be expected: what came is a while ago, and the audit was heard past the start.
    fn when_settled(
        &self,
        session: &Session,
        conclusion: Conclusion,
        last: Moment,
        now: Moment,
        world: &dyn World,
        force: bool,
    ) -> Judged {
        let again = (conclusion.verdict == Verdict::Ambiguous).then(|| after(now, AGAIN));
        if force {
            return Judged::say(conclusion);
        }
        let settled = after(last, self.settings.settle);
        let end = after(session.first_logged, self.settings.patience);
        if now < settled {
            return Judged { again: Some(settled), ..Judged::default() };
        }
        if now < end && self.heard(session, world) == Heard::Behind {
            return Judged { again: Some(end), behind: true, ..Judged::default() };
        }
        Judged { again, ..Judged::say(conclusion) }
    }

    /// Whether the audit was heard when a request for this session would have come.
    fn heard(&self, session: &Session, world: &dyn World) -> Heard {
        let from = session.entered.before(self.settings.latency + self.settings.skew);
        let to = after(session.entered, self.settings.skew);
        if from < self.complete_from {
            return Heard::No;
        }
        world.heard(&session.key.cluster, from, to)
    }

    /// No request fits.
    fn judge_alone(&self, session: &Session, now: Moment, world: &dyn World, force: bool) -> Judged {
        if session.is_kubelets() {
            return Judged::default();
        }
        let end = after(session.first_logged, self.settings.patience);
        if now < end && !force {
            return Judged { again: Some(end), ..Judged::default() };
        }
        let mut evidence = Vec::new();
        let heard = self.heard(session, world);
        let verdict = match heard {
            // The kubelet's own come through no API server.
            Heard::All if session.method == EntryMethod::Unknown && session.terminal != Some(true) => {
                evidence.push(
                    "no request to the API server fits; it may be a probe or a hook: the pod's specification is not known"
                        .to_owned(),
                );
                Verdict::None
            }
            Heard::All => {
                evidence.push(
                    "no request to the API server fits, though its audit was heard before and after"
                        .to_owned(),
                );
                Verdict::NodeLocal
            }
            Heard::Behind | Heard::No => {
                evidence.push("no audit of the API server was heard then, or not all of it".to_owned());
                Verdict::None
            }
        };
        let others = self.around(session);
        let into = others.iter().filter_map(|at| self.requests.get(at));
        let other = into
            .filter(|request| {
                request.action == Action::Exec
                    && request.went_through()
                    && session.entered >= request.begin().before(self.settings.skew)
                    && session.entered <= after(request.begin(), self.settings.latency + self.settings.skew)
            })
            .count();
        if other > 0 {
            evidence.push(format!(
                "{} into its pod then had another container, command or terminal, or were another session's",
                requests(other)
            ));
        }
        evidence.extend(self.about_id(session));
        Judged { behind: heard == Heard::Behind, ..Judged::say(Conclusion::new(verdict, evidence, &[])) }
    }

    /// Of no pod, or of none that is known.
    fn judge_placeless(&self, session: &Session, now: Moment, force: bool) -> Judged {
        if session.is_kubelets() {
            return Judged::default();
        }
        if session.place == Place::NoPod {
            let why = "its container is of no pod: no request to the API server leads there";
            return Judged::say(Conclusion::new(Verdict::NodeLocal, [why.to_owned()], &[]));
        }
        let end = after(session.first_logged, self.settings.patience);
        if now < end && !force {
            return Judged { again: Some(end), ..Judged::default() };
        }
        let why = session.container.as_ref().map(|c| text(&c.metadata_detail)).unwrap_or_default();
        let why = if why.is_empty() { why } else { format!(": {why}") };
        let mut evidence = vec![format!("its pod is not known{why}")];
        evidence.extend(self.about_id(session));
        Judged::say(Conclusion::new(Verdict::None, evidence, &[]))
    }

    /// `kubectl debug`: a container's name is used once in a pod.
    fn judge_ephemeral(&self, session: &Session, now: Moment, world: &dyn World, force: bool) -> Judged {
        if !matches!(session.place, Place::Pod(_)) {
            return self.judge_placeless(session, now, force);
        }
        let around = self.around(session);
        let around: Vec<&Request> = around.iter().filter_map(|at| self.requests.get(at)).collect();
        let fits: Vec<&Request> =
            around.iter().copied().filter(|request| fit::fits(&self.settings, session, request)).collect();
        if fits.is_empty() {
            return self.judge_alone(session, now, world, force);
        }
        let who: BTreeSet<_> = fits.iter().map(|request| request.who()).collect();
        let verdict = if who.len() == 1 { Verdict::Matched } else { Verdict::Ambiguous };
        let mut evidence = vec![format!(
            "{} this ephemeral container by its name",
            if fits.len() == 1 {
                "one request names".to_owned()
            } else {
                format!("{} name", requests(fits.len()))
            }
        )];
        let name = session.container_name();
        let attached = around.iter().filter(|request| {
            request.action == Action::Attach && request.went_through() && request.container == name
        });
        for request in attached {
            let same = if who.contains(&request.who()) { "the same user" } else { "another user" };
            let id = text(&request.key.audit_id);
            evidence.push(format!("{same} attached to it with request {id}"));
        }
        let last = fits.iter().map(|request| request.logged).max().unwrap_or(session.logged);
        let conclusion = Conclusion::new(verdict, evidence, &fits);
        self.when_settled(session, conclusion, last.max(session.logged), now, world, force)
    }

    /// A pod that enters the node's namespaces: whoever is attached to it then may have done it, or the pod by itself.
    fn judge_host(&self, session: &Session, now: Moment) -> Judged {
        let around = self.around(session);
        let attached: Vec<&Request> = around
            .iter()
            .filter_map(|at| self.requests.get(at))
            .filter(|request| {
                request.action == Action::Attach
                    && request.went_through()
                    && (request.container.is_empty() || request.container == session.container_name())
                    && session.entered <= after(request.complete.unwrap_or(Moment::MAX), self.settings.skew)
            })
            .collect();
        let settled = after(session.logged, self.settings.settle);
        if attached.is_empty() || now < settled {
            return Judged { again: Some(settled.max(after(now, AGAIN))), ..Judged::default() };
        }
        let evidence =
            ["attached to its container then; the container may have done it by itself".to_owned()];
        Judged::say(Conclusion::new(Verdict::Ambiguous, evidence, &attached))
    }
}

impl Judged {
    fn say(conclusion: Conclusion) -> Self {
        Self { conclusion: Some(conclusion), ..Self::default() }
    }
}
