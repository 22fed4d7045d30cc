//! Records in, numbered events out. One task, one batch at a time; it waits for the source and for nobody else.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use podtrail_proto::v1;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{
    About, AgentError, Containers, Source, SourceError, Ways, integrity::Integrity, metrics::Metrics,
};
use crate::{
    convert::{self, WallOffset, boot_now},
    detector::Detector,
    event::{AgentPhase, AgentState, Body, BootTime, Event, Finding, Observed, Start},
    pods::{
        self, Ask, Pods, Word,
        sessions::{Question, Said},
    },
    probe::RawRecord,
    session::{
        Machine,
        record::{Record, class},
    },
    spool::{Batch, Now, Spool},
    state::Changes,
    telemetry::Component,
    trail::{Indexed, Moment, log::Entry},
    uplink,
};

/// How often losses are asked for, clocks compared, and waits given up.
const TICK: Duration = Duration::from_secs(1);

/// A [`TICK`] waits for the source to be read up to it, but not for longer than this.
const OVERDUE: Duration = Duration::from_secs(10);

/// How often to look whether the source is still what was made, unless told otherwise.
const CHECK: Duration = Duration::from_secs(10);

/// How often to look, a [`TICK`] apart, for what is gone after a loss of exits: the sessions that they were of may
/// still be in the ring, unread, when the loss is told.
const LOOKS: u8 = 3;

/// How often to ask again for all that is pending, in case an ask was forgotten: more were waiting than can be kept.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// Words of the runtime that are taken at once.
const WORDS: usize = 256;

/// How long a clean stop reads on in a ring that does not become empty.
const DRAIN_MAX: Duration = Duration::from_secs(2);

/// Where events go.
#[derive(Clone, Debug)]
pub(super) struct Sinks {
    pub(super) spool: Arc<Spool>,
    /// where readers on the node ask for sessions
    pub(super) indexed: Option<Arc<Indexed<Spool>>>,
    /// how the uplink does, for the metrics
    pub(super) uplink: Option<watch::Receiver<uplink::State>>,
}

/// The agent's first event: how it came to record.
#[derive(Debug, Default)]
pub struct First {
    /// other programs record than those before
    pub upgraded: bool,
    pub start: Start,
    /// what was wrong, and is told with it
    pub findings: Vec<Finding>,
}

/// Everything between the source and the spool.
#[derive(Debug)]
pub struct Pipeline<S> {
    source: S,
    containers: Containers,
    machine: Machine,
    ways: Ways,
    /// what follows for sessions from what the runtime says
    sessions: Box<pods::Sessions>,
    /// `None`: no runtime is asked
    pods: Option<Pods>,
    /// `None`: no problem detector is asked
    detector: Option<Detector>,
    /// something could not be asked
    unasked: bool,
    ask_again: Instant,
    about: About,
    offset: WallOffset,
    looks: u8,
    metrics: Metrics,
    integrity: Integrity,
    first: First,
    // Emptied and filled again, so that a batch allocates nothing of its own.
    raw: Vec<RawRecord>,
    events: Vec<Event>,
    said: Vec<Said>,
    out: Vec<v1::Event>,
    kept: Vec<Entry>,
}

impl<S: Source> Pipeline<S> {
    #[must_use]
    pub fn new(source: S, containers: Containers, about: About) -> Self {
        Self {
            source,
            containers,
            machine: Machine::new(&about.boot_id),
            ways: Ways::default(),
            sessions: Box::new(pods::Sessions::new(&about.boot_id)),
            pods: None,
            detector: None,
            unasked: false,
            ask_again: Instant::now() + ASK_AGAIN,
            about,
            offset: WallOffset::measure(),
            looks: 0,
            metrics: Metrics::new(),
            integrity: Integrity::new(CHECK, None, &[]),
            first: First::default(),
            raw: Vec::new(),
            events: Vec::new(),
            said: Vec::new(),
            out: Vec::new(),
            kept: Vec::new(),
        }
    }

    /// How it begins, and how often the source is checked; `component` says whether that finds something.
    #[must_use]
    pub fn begins(mut self, first: First, every: Duration, component: Component) -> Self {
        self.integrity = Integrity::new(every, Some(component), &first.findings);
        self.first = first;
        self
    }

    /// Goes on with the machine of the agent before, of whose records none will come again.
    #[must_use]
    pub fn goes_on(mut self, machine: Option<Machine>) -> Self {
        self.machine = machine.unwrap_or(self.machine);
        self
    }

    /// How sessions in pods are told apart.
    #[must_use]
    pub fn looks_with(mut self, ways: Ways) -> Self {
        self.ways = ways;
        self
    }

    /// Asks a runtime for what it knows of containers; goes on with what the agent before did so.
    #[must_use]
    pub fn asks(mut self, pods: Option<Pods>, before: Option<pods::Sessions>) -> Self {
        self.pods = pods;
        self.sessions = before.map_or(self.sessions, Box::new);
        for facts in self.containers.all().filter_map(|info| info.metadata.known()) {
            self.sessions.met(facts);
        }
        self
    }

    /// Tells what the node's problem detector says.
    #[must_use]
    pub fn observes(mut self, detector: Option<Detector>) -> Self {
        self.detector = detector;
        self
    }

    pub(super) fn about(&self) -> &About {
        &self.about
    }

    /// Until `stop`, or until the source fails. `before`: what was there before the hooks.
    pub(super) async fn run(
        mut self,
        sinks: Sinks,
        before: Vec<RawRecord>,
        stop: CancellationToken,
    ) -> Result<(), AgentError> {
        let First { upgraded, start, findings } = std::mem::take(&mut self.first);
        let phase = if upgraded { AgentPhase::Upgraded } else { AgentPhase::Started };
        self.say(phase, findings, Some(start));
        self.raw = before;
        self.batch(&sinks);

        let ended = self.until(&sinks, &stop).await;

        let begun = Instant::now();
        while self.source.drain(&mut self.raw) && begun.elapsed() < DRAIN_MAX {
            self.batch(&sinks);
        }
        let losses = self.losses();
        // What the last look found gone may have left its exits behind what was drained.
        while self.source.drain(&mut self.raw) && begun.elapsed() < DRAIN_MAX {
            self.batch(&sinks);
        }
        self.machine.finish(boot_now(), &mut self.events);
        self.ways.finish(&mut self.events, &self.containers);
        self.say(AgentPhase::Stopped, Vec::new(), None);
        self.send(&sinks, true);
        self.measure(&sinks);
        Ok(ended.and(losses)?)
    }

    async fn until(&mut self, sinks: &Sinks, stop: &CancellationToken) -> Result<(), SourceError> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut due: Option<Due> = None;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                _ = tick.tick() => due = due.or_else(|| Some(Due::now(&self.source))),
                word = word(&mut self.pods) => {
                    self.words(word);
                    self.send(sinks, false);
                }
                read = self.source.read(&mut self.raw) => {
                    read?;
                    self.batch(sinks);
                }
                observed = observed(&mut self.detector) => {
                    let body = Body::Observed(Box::new(observed));
                    self.events.push(Event { time: boot_now(), container: None, session: None, body });
                    self.send(sinks, false);
                }
                () = self.ways.answer() => {
                    self.ways.answered(&mut self.events, &self.containers);
                    self.follow(sinks);
                }
            }
            if let Some(time) = due.as_ref().and_then(|due| due.has_come(&self.source)) {
                due = None;
                self.losses()?;
                self.tick(sinks, time);
            }
        }
    }

    /// Containers that the kubelet says are sessions are followed from now on.
    fn follow(&mut self, sinks: &Sinks) {
        for container in self.ways.debugged(&self.containers) {
            let Some(scan) = self.containers.scan() else { continue };
            match self.source.follow(container, &scan) {
                Ok(mut found) => self.raw.append(&mut found),
                Err(error) => tracing::warn!(container, %error, "an ephemeral container is not followed"),
            }
        }
        self.batch(sinks);
    }

    fn batch(&mut self, sinks: &Sinks) {
        for raw in self.raw.drain(..) {
            if let Some(record) = self.containers.pass(raw) {
                self.ways.hear(&record, &mut self.events, &self.containers);
                self.machine.handle(record, &mut self.events);
            }
        }
        self.send(sinks, false);
    }

    /// What the runtime says: this, and what else there is now.
    fn words(&mut self, word: Word) {
        let mut next = Some(word);
        let mut left = WORDS;
        while let Some(word) = next {
            let now = boot_now();
            match word {
                Word::Runtime => self.containers.runtime_is_there(),
                Word::Container { id, lookup } => {
                    let (cgroup, lookup) = match self.containers.answered(&id, lookup.clone()) {
                        Some((cgroup, lookup)) => (Some(cgroup), lookup),
                        None => (None, lookup),
                    };
                    self.sessions.answered(&id, cgroup, &lookup, now, &mut self.containers, &mut self.said);
                }
                Word::Exec(word) => self.sessions.exec(word, now, &mut self.containers, &mut self.said),
            }
            left = left.saturating_sub(1);
            next = self.pods.as_mut().filter(|_| left > 0).and_then(Pods::next_word);
        }
    }

    /// Asks what is to be asked; what does not fit now is asked for with the next tick.
    fn ask(&mut self) {
        let asks = self.containers.asked();
        let Some(pods) = &self.pods else {
            self.sessions.questions();
            return;
        };
        for ask in asks {
            self.unasked |= !pods.ask(ask);
        }
        for question in self.sessions.questions() {
            match question {
                Question::Container(id) => self.unasked |= !pods.ask(Ask { id, in_pod: true, now: true }),
                // Asked again when the runtime's words are heard again.
                Question::StillRuns(exec) => _ = pods.still_runs(exec),
            }
        }
    }

    /// All that happened until `time` was read.
    fn tick(&mut self, sinks: &Sinks, time: BootTime) {
        self.offset = WallOffset::measure();
        self.machine.flush(time, &mut self.events);
        self.sessions.tick(boot_now(), &mut self.containers, &mut self.said);
        let again = Instant::now() >= self.ask_again;
        if std::mem::take(&mut self.unasked) || again {
            self.containers.ask_again();
            self.ask_again = Instant::now() + ASK_AGAIN;
        }
        if self.integrity.is_due(Instant::now()) {
            let findings = self.source.check();
            if self.integrity.changed(&findings) {
                for Finding { subject, detail, time: _ } in &findings {
                    tracing::warn!(subject, detail, "the kernel side was disturbed");
                }
                self.say(AgentPhase::Integrity, findings, None);
            }
        }
        self.ways.flush(&mut self.events, &self.containers);
        self.follow(sinks);
        // Even without events: what was dropped is reported when there is room.
        self.send(sinks, false);
        if let Some(indexed) = &sinks.indexed
            && let Err(error) = indexed.catch_up()
        {
            tracing::warn!(%error, "sessions on the node's socket may be incomplete");
        }
        self.measure(sinks);
    }

    /// Asks what was lost, and makes up for what would be wrong for ever without it. Not more than once a [`TICK`].
    fn losses(&mut self) -> Result<(), SourceError> {
        for lost in self.source.losses()? {
            if lost.is_of(class::EXIT) || lost.is_of(class::LAST) {
                self.looks = LOOKS;
            }
            self.containers.lost(&lost);
            self.machine.handle(Record::Lost(lost), &mut self.events);
        }
        if self.machine.misses_refused() {
            let sessions = self.machine.followed().sessions;
            for (entry, total) in self.source.refused(&sessions)? {
                self.machine.handle(Record::Refused { entry, total }, &mut self.events);
            }
        }
        if self.looks > 0 {
            self.looks -= 1;
            let followed = self.machine.followed();
            if !followed.is_empty() {
                let gone = self.source.gone(followed)?;
                // Afterwards: by now they were gone, and nobody knows since when.
                self.machine.missing(boot_now(), gone);
            }
        }
        self.containers.tick(Instant::now());
        Ok(())
    }

    /// The agent's own events: the first, the last, and what is wrong with what records.
    fn say(&mut self, phase: AgentPhase, findings: Vec<Finding>, start: Option<Start>) {
        let About { version, kernel, boot_id } = self.about.clone();
        let hooks = self.source.hooks();
        let state = AgentState { phase, version, kernel, boot_id, hooks, findings, start };
        self.machine.handle(Record::Agent { time: boot_now(), state }, &mut self.events);
    }

    fn send(&mut self, sinks: &Sinks, last: bool) {
        for mut event in self.ways.pass(&mut self.events, &self.containers) {
            let container = event.container.and_then(|id| self.containers.find(id));
            self.sessions.pass(&mut event, container);
            self.out.push(convert::event(event, container, self.offset));
        }
        for Said { event, info } in self.said.drain(..) {
            let container = event.container.and_then(|id| self.containers.find(id)).or(info.as_deref());
            self.out.push(convert::event(event, container, self.offset));
        }
        self.ask();
        let now = Now { wall: Moment::now(), boot: boot_now() };
        let mut state = Changes::default();
        if let Some(all) = sinks.spool.wants_state() {
            self.machine.save(all, &mut state);
            self.sessions.save(all, &mut state);
            self.containers.save(all, &mut state);
            self.ways.save(all, &mut state);
        } else {
            self.machine.forget_changes();
            self.sessions.forget_changes();
            self.containers.forget_changes();
            self.ways.forget_changes();
        }
        let (position, may_wait) = (self.source.position(), !self.source.is_crowded());
        let batch = Batch { events: &mut self.out, position, state, last, may_wait };
        // Not before: until then a new agent would have to read it again.
        if sinks.spool.commit(batch, now, &mut self.kept) {
            self.source.release();
            self.source.told(sinks.spool.is_marked().then(|| self.machine.untold_refused()));
        }
        for entry in &self.kept {
            self.metrics.event(&entry.event);
        }
        if let Some(indexed) = &sinks.indexed {
            indexed.count(&self.kept);
        }
        self.kept.clear();
    }

    fn measure(&self, sinks: &Sinks) {
        self.metrics.spool(sinks.spool.fill(), Moment::now());
        self.metrics.sessions(self.machine.open_sessions());
        self.metrics.containers(self.containers.count());
        if let Some(uplink) = &sinks.uplink {
            self.metrics.uplink(*uplink.borrow());
        }
    }
}

/// A moment after which waits are over, when what happened until then was read: an agent that did not get to run for a
/// while has in the ring what it waits for.
#[derive(Debug)]
struct Due {
    time: BootTime,
    written: u64,
    since: Instant,
}

impl Due {
    fn now(source: &impl Source) -> Self {
        // In this order.
        let time = boot_now();
        Self { time, written: source.written(), since: Instant::now() }
    }

    fn has_come(&self, source: &impl Source) -> Option<BootTime> {
        (source.read_to() >= self.written || self.since.elapsed() >= OVERDUE).then_some(self.time)
    }
}

async fn observed(detector: &mut Option<Detector>) -> Observed {
    match detector {
        Some(detector) => detector.observed().await,
        None => std::future::pending().await,
    }
}

async fn word(pods: &mut Option<Pods>) -> Word {
    match pods {
        Some(pods) => pods.word().await,
        None => std::future::pending().await,
    }
}
