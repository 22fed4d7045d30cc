//! Sessions and requests as they come, for tests: what a node and an API server would say of them.

use podtrail_proto::v1::{self, EntryMethod, api_request::Action, event::Body};

use super::{Engine, Heard, Known, Settings, World};
use crate::trail::{
    Moment,
    index::Index,
    log::{Cursor, Entry},
};

pub(super) const MS: i64 = 1_000_000;
/// Where the story begins.
const EPOCH: i64 = 1_800_000_000 * 1_000_000_000;

/// So many milliseconds into the story.
pub(super) fn at(ms: i64) -> Moment {
    Moment(EPOCH + ms * MS)
}

/// An exec, as the node sees it.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) id: String,
    pub(super) node: String,
    pub(super) pod: String,
    pub(super) container: String,
    pub(super) argv: Vec<String>,
    pub(super) tty: bool,
    pub(super) method: EntryMethod,
    pub(super) audit_id: String,
    pub(super) entered: Moment,
    pub(super) end: Option<Moment>,
}

impl Run {
    pub(super) fn new(id: &str, argv: &[&str], entered: i64, end: i64) -> Self {
        Self {
            id: id.to_owned(),
            node: "n".to_owned(),
            pod: "web-0".to_owned(),
            container: "app".to_owned(),
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
            tty: false,
            method: EntryMethod::RuntimeExec,
            audit_id: String::new(),
            entered: at(entered),
            end: (end > 0).then(|| at(end)),
        }
    }

    pub(super) fn place(&self) -> v1::Container {
        v1::Container {
            id: format!("id of {}/{}", self.pod, self.container),
            name: self.container.clone(),
            pod: Some(v1::Pod { namespace: "prod".to_owned(), name: self.pod.clone(), ..v1::Pod::default() }),
            ..v1::Container::default()
        }
    }

    /// Its events, with their times.
    pub(super) fn events(&self) -> Vec<(Moment, v1::Event)> {
        let root =
            v1::Process { pid: 7, start_time: self.entered.0.unsigned_abs(), ..v1::Process::default() };
        let event = |time: Moment, body| {
            let id = v1::EventId { cluster: "c".to_owned(), node: self.node.clone(), epoch: 1, seq: 1 };
            let event = v1::Event {
                id: Some(id),
                time: Some(time.timestamp()),
                container: Some(self.place()),
                session_id: self.id.clone(),
                body: Some(body),
                ..v1::Event::default()
            };
            (time, event)
        };
        let started = v1::SessionStarted {
            method: Some(self.method.into()),
            interactive: Some(self.tty),
            root: Some(root.clone()),
            entered: Some(self.entered.timestamp()),
            exec_audit_id: self.audit_id.clone(),
            ..v1::SessionStarted::default()
        };
        let executed = v1::Executed {
            process: Some(root.clone()),
            argv: self.argv.clone(),
            root: Some(true),
            ..v1::Executed::default()
        };
        let mut events = vec![
            event(self.entered, Body::SessionStarted(started)),
            event(self.entered, Body::Executed(executed)),
        ];
        if let Some(end) = self.end {
            let exited = v1::Exited { process: Some(root), exit_code: Some(0), ..v1::Exited::default() };
            events.push(event(end, Body::Exited(exited)));
            events.push(event(end, Body::SessionEnded(v1::SessionEnded::default())));
        }
        events
    }

    /// The request that would have caused it, answered 20 ms before, by this user.
    pub(super) fn asked_by(&self, user: &str) -> Ask {
        Ask {
            id: format!("{}-{user}", self.id),
            user: user.to_owned(),
            action: Action::Exec,
            pod: self.pod.clone(),
            container: self.container.clone(),
            argv: self.argv.clone(),
            tty: self.tty,
            code: 101,
            address: format!("192.0.2.{}", user.len()),
            received: Moment(self.entered.0 - 30 * MS),
            started: Moment(self.entered.0 - 20 * MS),
            complete: self.end.map(|end| Moment(end.0 + 10 * MS)),
            ephemeral: Vec::new(),
        }
    }
}

/// A request, as an API server sees it.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) id: String,
    pub(super) user: String,
    pub(super) action: Action,
    pub(super) pod: String,
    pub(super) container: String,
    pub(super) argv: Vec<String>,
    pub(super) tty: bool,
    pub(super) code: i32,
    pub(super) address: String,
    pub(super) received: Moment,
    pub(super) started: Moment,
    pub(super) complete: Option<Moment>,
    pub(super) ephemeral: Vec<String>,
}

impl Ask {
    /// This far from what other clocks say.
    pub(super) fn skewed(mut self, ms: i64) -> Self {
        for time in [Some(&mut self.received), Some(&mut self.started), self.complete.as_mut()] {
            time.into_iter().for_each(|time| time.0 += ms * MS);
        }
        self
    }

    pub(super) fn events(&self) -> Vec<(Moment, v1::Event)> {
        let stage = |time: Moment, stage: &str| {
            let request = v1::ApiRequest {
                action: Some(self.action.into()),
                audit_id: self.id.clone(),
                stage: stage.to_owned(),
                request_uri: format!("/{:?}/{}/{}?{:?}", self.action, self.pod, self.container, self.argv),
                namespace: "prod".to_owned(),
                pod: self.pod.clone(),
                container: self.container.clone(),
                command: self.argv.clone(),
                tty: Some(self.tty),
                stdin: Some(self.tty),
                user: Some(v1::User { name: self.user.clone(), ..v1::User::default() }),
                source_ips: vec![self.address.clone()],
                code: Some(self.code),
                received: Some(self.received.timestamp()),
                stage_time: Some(time.timestamp()),
                ephemeral_containers: self.ephemeral.clone(),
                ..v1::ApiRequest::default()
            };
            let event = v1::Event {
                id: Some(v1::EventId { cluster: "c".to_owned(), ..v1::EventId::default() }),
                time: Some(time.timestamp()),
                body: Some(Body::ApiRequest(request)),
                ..v1::Event::default()
            };
            (time, event)
        };
        let mut events = vec![stage(self.started, "ResponseStarted")];
        events.extend(self.complete.map(|complete| stage(complete, "ResponseComplete")));
        events
    }
}

/// A collector in small: a log, an index, an engine, and a clock that the test moves.
pub(super) struct Stage {
    pub(super) log: Vec<Entry>,
    index: Index,
    engine: Engine,
    settings: Settings,
    pub(super) now: Moment,
    /// the audit was heard from then to then, and never further than now
    pub(super) heard: (Moment, Moment),
    /// restarts before each step
    pub(super) restless: bool,
}

struct Around<'a> {
    index: &'a Index,
    heard: (Moment, Moment),
}

impl World for Around<'_> {
    fn heard(&self, _cluster: &str, from: Moment, to: Moment) -> Heard {
        match self.heard {
            (since, _) if since > from => Heard::No,
            (_, upto) if upto < to => Heard::Behind,
            _ => Heard::All,
        }
    }

    fn known(&self, cluster: &str, id: &str) -> Known {
        self.index.known(cluster, id)
    }
}

impl Stage {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            log: Vec::new(),
            index: Index::new(),
            engine: Engine::new(settings.clone()),
            settings,
            now: at(0),
            heard: (Moment::MIN, Moment::MAX),
            restless: false,
        }
    }

    /// As if the collector had been killed: everything is read again.
    pub(super) fn restart(&mut self) {
        let after = self.engine.needs_after();
        self.engine = Engine::new(self.settings.clone());
        // What the driver does: requests and verdicts from before, then the log.
        let (old, new): (Vec<&Entry>, Vec<&Entry>) = self.log.iter().partition(|e| e.cursor <= after);
        for entry in old.into_iter().filter(|e| {
            matches!(&e.event.body, Some(Body::ApiRequest(_)))
                || matches!(&e.event.body, Some(Body::Attributed(a)) if a.verdict.is_some())
        }) {
            self.engine.take(entry);
        }
        new.into_iter().for_each(|entry| self.engine.take(entry));
    }

    fn append(&mut self, event: v1::Event) {
        let entry = Entry { cursor: self.log.len() as Cursor + 1, logged: self.now, event: event.into() };
        self.index.apply(&entry);
        self.engine.take(&entry);
        self.log.push(entry);
    }

    fn poll(&mut self) {
        if self.restless {
            self.restart();
        }
        let (since, upto) = self.heard;
        let around = Around { index: &self.index, heard: (since, upto.min(self.now)) };
        for event in self.engine.poll(self.now, &around) {
            self.append(event);
        }
    }

    /// Events that come at these moments by the collector's clock, in this order where moments are equal.
    pub(super) fn play(&mut self, mut coming: Vec<(Moment, v1::Event)>) {
        coming.sort_by_key(|(time, _)| *time);
        for (time, event) in coming {
            self.wait_until(time);
            self.append(event);
            self.poll();
        }
    }

    /// Lets time pass, with whatever falls due.
    pub(super) fn wait_until(&mut self, then: Moment) {
        while self.now < then {
            // The audit is heard further every second.
            let tick = Moment(self.now.0 + 1000 * MS);
            let due = self.engine.next_due().unwrap_or(then);
            self.now = due.min(tick).min(then).max(Moment(self.now.0 + 1));
            self.engine.heard_changed();
            self.poll();
        }
        self.now = self.now.max(then);
        self.poll();
    }

    /// Sessions and requests in memory.
    pub(super) fn held(&self) -> (usize, usize) {
        self.engine.len()
    }

    pub(super) fn hear_until(&mut self, moment: Moment) {
        self.heard.1 = moment;
        self.engine.heard_changed();
        self.poll();
    }

    /// All that was said of a session, in order.
    pub(super) fn said(&self, session: &str) -> Vec<v1::Attributed> {
        let of = self.log.iter().filter(|entry| entry.event.session_id == session);
        of.filter_map(|entry| match &entry.event.body {
            Some(Body::Attributed(attributed)) if attributed.verdict.is_some() => Some(attributed.clone()),
            _ => None,
        })
        .collect()
    }

    /// The last that was said, in short: `EXACT_ID alice`, `AMBIGUOUS alice bob`, `-`.
    pub(super) fn last(&self, session: &str) -> String {
        let said = self.said(session);
        let Some(last) = said.last() else { return "-".to_owned() };
        let candidates = last.candidates.iter().filter(|_| last.user.is_none());
        let mut names: Vec<String> =
            candidates.filter_map(|c| c.user.as_ref()).map(|user| user.name.clone()).collect();
        names.extend(last.user.as_ref().map(|user| user.name.clone()));
        names.sort_unstable();
        [vec![last.verdict().as_str_name().to_owned()], names].concat().join(" ")
    }
}
