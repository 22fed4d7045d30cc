//! What the log says goes in, what follows from it comes out.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use podtrail_proto::v1::{self, event::Body};

use super::{
    Settings,
    fit::{self, after},
    remote,
    request::{Request, RequestKey},
    session::{Place, PodKey, Session, SessionKey},
    verdict,
};
use crate::trail::{
    Moment,
    index::Known,
    log::{Cursor, Entry},
};

/// Requests are kept for so long: an agent that was cut off may report that late.
const KEEP_REQUESTS: std::time::Duration = std::time::Duration::from_secs(24 * 3600);
/// What is not unambiguous may become so by its end: for so long that is waited for.
pub(super) const KEEP_AMBIGUOUS: std::time::Duration = std::time::Duration::from_secs(3600);
/// How often something may be said of one session.
const MAX_SAID: u32 = 8;
/// Sessions that requests with the same audit id, or of the same environment, are counted up to.
const MAX_SAME_ID: usize = 16;

/// Whether the API server's audit was heard in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// all of it
    All,
    /// not up to its end yet
    Behind,
    /// not all of it, and it will not be
    No,
}

/// What the engine asks of what is around it.
pub trait World {
    /// Whether the audit of this cluster was heard from then to then, by the API servers' clocks.
    fn heard(&self, cluster: &str, from: Moment, to: Moment) -> Heard;
    /// What the log holds of a session that is of no node.
    fn known(&self, cluster: &str, id: &str) -> Known;
}

/// Of one pod, by time.
#[derive(Debug, Default)]
pub(super) struct Pod {
    pub(super) sessions: BTreeSet<(Moment, Cursor)>,
    pub(super) requests: BTreeSet<(Moment, Cursor)>,
}

/// See the module.
#[derive(Debug)]
pub struct Engine {
    pub(super) settings: Settings,
    /// by where they begin in the log
    pub(super) sessions: BTreeMap<Cursor, Session>,
    by_key: HashMap<SessionKey, Cursor>,
    by_container: HashMap<(String, String, String), BTreeSet<Cursor>>,
    pub(super) requests: BTreeMap<Cursor, Request>,
    by_request: HashMap<RequestKey, Cursor>,
    pub(super) pods: HashMap<PodKey, Pod>,
    pub(super) requests_by_id: HashMap<(String, String), BTreeSet<Cursor>>,
    pub(super) sessions_by_id: HashMap<(String, String), BTreeSet<Cursor>>,
    /// how far each node has reported, by its clock
    pub(super) nodes: HashMap<(String, String), Moment>,
    /// no request older than this is missing
    pub(super) complete_from: Moment,
    dirty: BTreeSet<Cursor>,
    /// requests that may be sessions by themselves
    remote: BTreeSet<Cursor>,
    due: BTreeSet<(Moment, Cursor)>,
    /// those that wait for the audit to be heard further
    behind: BTreeSet<Cursor>,
    reached: Cursor,
    newest: Moment,
    counts: Counts,
}

/// What it has done, for metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// verdicts said, and how long after the session became known
    pub said: Vec<(v1::Verdict, std::time::Duration)>,
    /// sessions judged before their time, for want of room
    pub hurried: u64,
}

impl Engine {
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            sessions: BTreeMap::new(),
            by_key: HashMap::new(),
            by_container: HashMap::new(),
            requests: BTreeMap::new(),
            by_request: HashMap::new(),
            pods: HashMap::new(),
            requests_by_id: HashMap::new(),
            sessions_by_id: HashMap::new(),
            nodes: HashMap::new(),
            complete_from: Moment::MIN,
            dirty: BTreeSet::new(),
            remote: BTreeSet::new(),
            due: BTreeSet::new(),
            behind: BTreeSet::new(),
            reached: 0,
            newest: Moment::MIN,
            counts: Counts::default(),
        }
    }

    /// Requests from before this moment were not read.
    pub fn reads_from(&mut self, moment: Moment) {
        self.complete_from = self.complete_from.max(moment);
    }

    /// The oldest place in the log that must be read again after a restart: what comes after it.
    #[must_use]
    pub fn needs_after(&self) -> Cursor {
        self.sessions.first_key_value().map_or(self.reached, |(cursor, _)| cursor.saturating_sub(1))
    }

    /// When [`Self::poll`] has something to do though nothing came.
    #[must_use]
    pub fn next_due(&self) -> Option<Moment> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Sessions and requests in memory.
    #[must_use]
    pub fn len(&self) -> (usize, usize) {
        (self.sessions.len(), self.requests.len())
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == (0, 0)
    }

    /// Those that it has anything to judge of.
    pub fn clusters(&self) -> impl Iterator<Item = &str> {
        let clusters = self.nodes.keys().map(|(cluster, _)| cluster.as_str());
        clusters.collect::<BTreeSet<_>>().into_iter()
    }

    /// What it did since this was asked last.
    pub fn counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    /// The audit was heard further, or not any more.
    pub fn heard_changed(&mut self) {
        self.dirty.append(&mut self.behind);
    }

    /// Takes one more event of the log. In cursor order, but for requests and verdicts from before, which may come first.
    pub fn take(&mut self, entry: &Entry) {
        let Entry { cursor, logged, event } = entry;
        self.reached = self.reached.max(*cursor);
        self.newest = self.newest.max(*logged);
        let Some(v1::EventId { cluster, node, epoch: _, seq }) = &event.id else { return };
        let own = *seq == 0;
        if !own && let Some(time) = event.time.as_ref().map(Moment::from_timestamp) {
            // Events of a node may overtake one another a little; its newest is how far it is.
            let reached = self.nodes.entry((cluster.clone(), node.clone())).or_insert(time);
            *reached = time.max(*reached);
        }
        let key = SessionKey { cluster: cluster.clone(), node: node.clone(), id: event.session_id.clone() };
        match &event.body {
            Some(Body::ApiRequest(request)) if own => self.take_request(*cursor, *logged, cluster, request),
            Some(Body::Attributed(attributed)) if own => self.take_said(&key, event, attributed),
            Some(Body::SessionStarted(started))
                if !own && !event.session_id.is_empty() && !self.by_key.contains_key(&key) =>
            {
                self.insert(Session::new(*cursor, *logged, key, event, started));
            }
            Some(Body::Attributed(attributed)) => self.take_container(&key, *logged, attributed),
            body if !own && !event.session_id.is_empty() => {
                let Some(&at) = self.by_key.get(&key) else { return };
                self.change(at, *logged, |session| match body {
                    Some(Body::Executed(executed)) if executed.root() && session.argv.is_none() => {
                        session.ran(executed);
                        session.learn(event.container.as_ref());
                        true
                    }
                    Some(Body::Exited(exited)) => {
                        let process = exited.process.as_ref().map(|p| (p.pid, p.start_time));
                        let of_root = process.is_some() && process == session.root;
                        if of_root && session.root_end.is_none() {
                            session.root_end = event.time.as_ref().map(Moment::from_timestamp);
                        }
                        of_root | session.learn(event.container.as_ref())
                    }
                    Some(Body::SessionEnded(_)) => {
                        session.end = event.time.as_ref().map(Moment::from_timestamp).or(session.end);
                        session.learn(event.container.as_ref());
                        true
                    }
                    _ => session.learn(event.container.as_ref()),
                });
            }
            _ => {}
        }
    }

    fn take_request(&mut self, cursor: Cursor, logged: Moment, cluster: &str, request: &v1::ApiRequest) {
        let key = RequestKey::of(cluster, request);
        let at = *self.by_request.entry(key.clone()).or_insert(cursor);
        if let Some(known) = self.requests.get_mut(&at) {
            known.add(logged, request);
        } else {
            let new = Request::new(cursor, logged, key, request);
            let id = (cluster.to_owned(), new.key.audit_id.clone());
            let same = self.requests_by_id.entry(id).or_default();
            if same.len() < MAX_SAME_ID {
                same.insert(at);
            }
            let pod = self.pods.entry(new.pod.clone()).or_default();
            pod.requests.insert((new.key.received, at));
            self.requests.insert(at, new);
            self.bound_requests();
        }
        let Some(request) = self.requests.get(&at) else { return };
        if remote::method(request).is_some() {
            self.remote.insert(at);
        }
        let near = self.near(request);
        self.dirty.extend(near);
        // Whoever carries its id is judged anew, wherever it is.
        let id = (cluster.to_owned(), request.key.audit_id.clone());
        self.dirty.extend(self.sessions_by_id.get(&id).into_iter().flatten());
    }

    /// The sessions of its pod that it is early or late enough for.
    pub(super) fn near(&self, request: &Request) -> Vec<Cursor> {
        let Settings { skew, latency, .. } = self.settings;
        let from = request.key.received.before(skew);
        let wait = match request.action {
            v1::api_request::Action::EphemeralContainer => fit::EPHEMERAL,
            _ => fit::ANSWER + latency,
        };
        let to = after(request.key.received, wait + skew);
        let pod = self.pods.get(&request.pod);
        pod.into_iter()
            .flat_map(|pod| pod.sessions.range((from, 0)..=(to, Cursor::MAX)))
            .map(|(_, cursor)| *cursor)
            .collect()
    }

    /// The requests into its pod that are early or late enough for it.
    pub(super) fn around(&self, session: &Session) -> Vec<Cursor> {
        let Place::Pod(pod) = &session.place else { return Vec::new() };
        let Settings { skew, latency, .. } = self.settings;
        let back = match session.method {
            v1::EntryMethod::EphemeralContainer | v1::EntryMethod::HostNamespace => fit::EPHEMERAL,
            _ => fit::ANSWER + latency,
        };
        let from = session.entered.before(back + skew);
        let to = after(session.entered, skew);
        let pod = self.pods.get(pod);
        pod.into_iter()
            .flat_map(|pod| pod.requests.range((from, 0)..=(to, Cursor::MAX)))
            .map(|(_, cursor)| *cursor)
            .collect()
    }

    /// What was said before this engine began, or by it.
    fn take_said(&mut self, key: &SessionKey, event: &v1::Event, attributed: &v1::Attributed) {
        let Some(at) = self.by_key.get(key) else {
            self.take_old(event, attributed);
            return;
        };
        if let Some(session) = self.sessions.get_mut(at)
            && let Some(said) = verdict::read(attributed, session.said.as_ref())
        {
            let same = session.said.as_ref().is_some_and(|before| {
                (before.verdict, &before.who, &before.candidates)
                    == (said.verdict, &said.who, &said.candidates)
            });
            if !same {
                session.said = Some(said);
            }
            self.dirty.insert(*at);
        }
    }

    /// Of a session that is not looked at any more: its request is nobody else's.
    fn take_old(&mut self, event: &v1::Event, attributed: &v1::Attributed) {
        let named = matches!(attributed.verdict(), v1::Verdict::ExactId | v1::Verdict::Matched);
        let (Some(id), Some(pod)) = (&event.id, event.container.as_ref().and_then(|c| c.pod.as_ref())) else {
            return;
        };
        if !named || event.session_id.is_empty() || id.node.is_empty() {
            return;
        }
        let same = self.requests_by_id.get(&(id.cluster.clone(), attributed.audit_id.clone()));
        for at in same.into_iter().flatten() {
            if let Some(request) = self.requests.get_mut(at)
                && (&request.pod.namespace, &request.pod.name) == (&pod.namespace, &pod.name)
            {
                request.consumed = true;
            }
        }
    }

    fn take_container(&mut self, key: &SessionKey, logged: Moment, attributed: &v1::Attributed) {
        let container = attributed.container.as_ref();
        let sessions: Vec<Cursor> = if key.id.is_empty() {
            let id = container.map(|c| c.id.clone()).filter(|id| !id.is_empty());
            let Some(id) = id else { return };
            let of = self.by_container.get(&(key.cluster.clone(), key.node.clone(), id));
            of.into_iter().flatten().copied().collect()
        } else {
            self.by_key.get(key).copied().into_iter().collect()
        };
        for at in sessions {
            self.change(at, logged, |session| {
                let method = attributed.method.and_then(|method| v1::EntryMethod::try_from(method).ok());
                let new = method.filter(|method| *method != session.method);
                session.method = new.unwrap_or(session.method);
                session.learn(container) | new.is_some()
            });
        }
    }

    fn insert(&mut self, session: Session) {
        let at = session.cursor;
        self.by_key.insert(session.key.clone(), at);
        let SessionKey { cluster, node, .. } = session.key.clone();
        self.by_container.entry((cluster, node, session.container_id.clone())).or_default().insert(at);
        if !session.audit_id.is_empty() {
            let id = (session.key.cluster.clone(), session.audit_id.clone());
            self.sessions_by_id.entry(id).or_default().insert(at);
        }
        if let Place::Pod(pod) = &session.place {
            self.pods.entry(pod.clone()).or_default().sessions.insert((session.entered, at));
        }
        self.sessions.insert(at, session);
        self.touch(at);
    }

    /// Changes a session; where that says `true`, it is judged again, and those beside it.
    fn change(&mut self, at: Cursor, logged: Moment, change: impl FnOnce(&mut Session) -> bool) {
        let Some(session) = self.sessions.get_mut(&at) else { return };
        if !change(session) {
            return;
        }
        session.logged = session.logged.max(logged);
        if let Place::Pod(pod) = &session.place {
            self.pods.entry(pod.clone()).or_default().sessions.insert((session.entered, at));
        }
        self.touch(at);
    }

    fn touch(&mut self, at: Cursor) {
        self.dirty.insert(at);
        let Some(session) = self.sessions.get(&at) else { return };
        let Place::Pod(pod) = &session.place else { return };
        // Those that may have a request in common with it.
        let Settings { skew, latency, .. } = self.settings;
        let reach = fit::ANSWER + latency + skew * 2;
        let (from, to) = (session.entered.before(reach), after(session.entered, reach));
        let pod = self.pods.get(pod);
        let beside: Vec<Cursor> = pod
            .into_iter()
            .flat_map(|pod| pod.sessions.range((from, 0)..=(to, Cursor::MAX)))
            .map(|(_, cursor)| *cursor)
            .collect();
        self.dirty.extend(beside);
    }

    /// What is to be said now. Call it once everything up to the log's end was taken: what was said already stands there.
    pub fn poll(&mut self, now: Moment, world: &dyn World) -> Vec<v1::Event> {
        let mut events = Vec::new();
        for at in std::mem::take(&mut self.remote) {
            if let Some(request) = self.requests.get(&at) {
                let known = world.known(&request.pod.cluster, &remote::id(&request.key));
                events.extend(remote::events(request, known, now));
            }
        }
        while let Some((at, cursor)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.due.remove(&(at, cursor));
            self.dirty.insert(cursor);
        }
        while let Some(at) = self.dirty.pop_first() {
            if self.sessions.contains_key(&at) {
                self.judge_from(at, now, world, false, &mut events);
            }
        }
        self.make_room(now, world, &mut events);
        self.trim_requests();
        events
    }

    /// Judges a session, and all that hang together with it.
    fn judge_from(
        &mut self,
        at: Cursor,
        now: Moment,
        world: &dyn World,
        force: bool,
        events: &mut Vec<v1::Event>,
    ) {
        for (cursor, judged) in self.judge(at, now, world, force) {
            self.dirty.remove(&cursor);
            let Some(session) = self.sessions.get_mut(&cursor) else { continue };
            if let Some(mut conclusion) = judged.conclusion
                && worth_saying(session, &mut conclusion)
            {
                let said = conclusion.said(session.said.as_ref());
                self.counts.said.push((conclusion.verdict, now.since(session.first_logged)));
                events.push(verdict::event(session, &conclusion, now));
                session.said = Some(said);
            }
            let keep = match &session.said {
                Some(said) if said.verdict == v1::Verdict::Ambiguous => {
                    self.settings.keep.max(KEEP_AMBIGUOUS)
                }
                _ => self.settings.keep,
            };
            let end = after(session.first_logged, keep.max(self.settings.patience * 2));
            if now >= end {
                self.forget(cursor, judged.request);
                continue;
            }
            if judged.behind {
                self.behind.insert(cursor);
            }
            let again = judged.again.map_or(end, |again| again.min(end));
            self.due.insert((again.max(Moment(now.0.saturating_add(1))), cursor));
        }
    }

    /// A session is not looked at any more; `request` is taken by it.
    fn forget(&mut self, at: Cursor, request: Option<Cursor>) {
        let Some(session) = self.sessions.remove(&at) else { return };
        self.by_key.remove(&session.key);
        self.behind.remove(&at);
        let SessionKey { cluster, node, .. } = &session.key;
        let container = (cluster.clone(), node.clone(), session.container_id.clone());
        remove(&mut self.by_container, &container, &at);
        remove(&mut self.sessions_by_id, &(cluster.clone(), session.audit_id.clone()), &at);
        if let Place::Pod(key) = &session.place
            && let Some(pod) = self.pods.get_mut(key)
        {
            pod.sessions.remove(&(session.entered, at));
            if pod.sessions.is_empty() && pod.requests.is_empty() {
                self.pods.remove(key);
            }
        }
        if let Some(request) = request.and_then(|request| self.requests.get_mut(&request)) {
            request.consumed = true;
        }
    }

    /// More than there is room for: the oldest are judged by what is known, and not looked at any more.
    fn make_room(&mut self, now: Moment, world: &dyn World, events: &mut Vec<v1::Event>) {
        while self.sessions.len() > self.settings.most {
            let Some(oldest) = self.sessions.keys().next().copied() else { return };
            self.judge_from(oldest, now, world, true, events);
            self.counts.hurried += 1;
            self.forget(oldest, None);
        }
    }

    fn bound_requests(&mut self) {
        // They are wanted longer than sessions are.
        while self.requests.len() > self.settings.most.saturating_mul(4) {
            let Some(oldest) = self.requests.keys().next().copied() else { return };
            self.drop_request(oldest);
        }
    }

    fn trim_requests(&mut self) {
        let from = self.newest.before(KEEP_REQUESTS);
        while let Some((&oldest, request)) = self.requests.first_key_value() {
            if request.logged >= from {
                return;
            }
            self.drop_request(oldest);
        }
    }

    fn drop_request(&mut self, at: Cursor) {
        let Some(request) = self.requests.remove(&at) else { return };
        self.by_request.remove(&request.key);
        self.remote.remove(&at);
        remove(&mut self.requests_by_id, &(request.key.cluster.clone(), request.key.audit_id.clone()), &at);
        if let Some(pod) = self.pods.get_mut(&request.pod) {
            pod.requests.remove(&(request.key.received, at));
            if pod.sessions.is_empty() && pod.requests.is_empty() {
                self.pods.remove(&request.pod);
            }
        }
        self.complete_from = self.complete_from.max(request.key.received);
    }
}

fn remove<K: std::hash::Hash + Eq>(map: &mut HashMap<K, BTreeSet<Cursor>>, key: &K, at: &Cursor) {
    if let Some(set) = map.get_mut(key) {
        set.remove(at);
        if set.is_empty() {
            map.remove(key);
        }
    }
}

/// Whether this is news: surer than what was said, or against it.
fn worth_saying(session: &Session, new: &mut verdict::Conclusion) -> bool {
    let Some(old) = &session.said else { return true };
    let next = new.said(None);
    if old.times >= MAX_SAID {
        return false;
    }
    let (was, is) = (verdict::rank(old.verdict), verdict::rank(new.verdict));
    let named = matches!(old.verdict, v1::Verdict::ExactId | v1::Verdict::Matched);
    if named && new.names_somebody() && old.who != next.who {
        new.evidence.push("what was said before is wrong: what came since says otherwise".to_owned());
        return true;
    }
    if is > was {
        return true;
    }
    if named && new.verdict == v1::Verdict::Ambiguous {
        new.evidence.push("what was said before is withdrawn: what came since fits as well".to_owned());
        return true;
    }
    new.verdict == v1::Verdict::Ambiguous && is == was && old.candidates != next.candidates
}
