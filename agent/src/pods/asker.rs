//! Asks the node's runtime what it knows of containers, in a task of its own: nobody ever waits for a socket.
//!
//! One or two calls a container: those that came together are asked for by one list where they are many, the newest
//! first where they are few, because its answer names the sandbox, which most likely came just before it. A sandbox is
//! asked for once for all its containers, an image once for all that run it.
//!
//! A runtime knows a sandbox only when it has made all of it, so who is not known yet is asked for again, a few times.
//! A runtime that does not answer is tried again with back-off, as long as the agent runs; what waits for it for too
//! long is told so, and asked for again when the runtime is back.

use std::{collections::HashSet, path::PathBuf, sync::Arc, time::Duration};

use metrics::{Gauge, describe_counter, describe_gauge, gauge};
use podtrail_proto::runtime::cri;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{
    Lookup, Missing, Word,
    cri::{Cri, CriError},
    facts::{self, ImageFacts, Rules, Sandbox},
    socket::Socket,
};
use crate::{backoff::Backoff, escape, session::bounded::Bounded};

/// Containers that wait for an answer at once.
const WANTS_MAX: usize = 4096;
/// From so many on, all are asked for by one list.
const MANY: usize = 6;
const SANDBOXES_MAX: usize = 2048;
const IMAGES_MAX: usize = 1024;

/// How long things take.
#[derive(Clone, Debug)]
pub struct Timing {
    /// from a container's beginning until it is asked for, unless a session in it comes first: the rest of its pod
    /// comes meanwhile, and one answer serves for all
    pub gather: Duration,
    /// from one time that the runtime does not know a container to the next
    pub again: Vec<Duration>,
    /// a container that is in no pod of a kubelet is asked for again so many times
    pub again_outside: usize,
    /// what waits so long for a runtime that does not answer is told so
    pub patience: Duration,
    pub backoff: Backoff,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            gather: Duration::from_secs(1),
            again: [300, 1000, 3000, 10_000].map(Duration::from_millis).to_vec(),
            again_outside: 2,
            patience: Duration::from_secs(60),
            backoff: Backoff::default(),
        }
    }
}

/// A container that somebody wants to know about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// as the runtime calls it
    pub id: String,
    /// its cgroup is in a pod's
    pub in_pod: bool,
    /// a session is in it: not only in case somebody comes
    pub now: bool,
}

#[derive(Debug)]
struct Want {
    in_pod: bool,
    since: Instant,
    next: Instant,
    /// times that the runtime did not know it
    unknown: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Asker {
    socket: Socket,
    rules: Rules,
    timing: Timing,
    backoff: Backoff,
    cri: Option<Cri>,
    /// the runtime's socket, for whoever listens to its events
    place: watch::Sender<Option<PathBuf>>,
    /// no attempt to connect before
    retry: Instant,
    /// why it is not there
    why: String,
    /// a failure that was told, and is not over
    told: bool,
    wants: Bounded<String, Want>,
    sandboxes: Bounded<String, Sandbox>,
    images: Bounded<String, ImageFacts>,
    connected: Gauge,
}

/// Asks until nobody wants to know any more.
pub(super) async fn run(mut asker: Asker, mut asks: mpsc::Receiver<Ask>, words: mpsc::Sender<Word>) {
    loop {
        tokio::select! {
            ask = asks.recv() => {
                let Some(ask) = ask else { return };
                asker.want(ask);
                while let Ok(ask) = asks.try_recv() {
                    asker.want(ask);
                }
            }
            () = sleep_until(asker.wake()) => {}
        }
        let mut out = Vec::new();
        asker.turn(&mut out).await;
        for word in out {
            if words.send(word).await.is_err() {
                return;
            }
        }
    }
}

impl Asker {
    pub(super) fn new(
        socket: Socket,
        rules: Rules,
        timing: Timing,
        place: watch::Sender<Option<PathBuf>>,
    ) -> Self {
        Self {
            socket,
            rules,
            backoff: timing.backoff.clone(),
            timing,
            cri: None,
            place,
            retry: Instant::now(),
            why: "not asked yet".to_owned(),
            told: false,
            wants: Bounded::new(WANTS_MAX),
            sandboxes: Bounded::new(SANDBOXES_MAX),
            images: Bounded::new(IMAGES_MAX),
            connected: gauge!("podtrail_agent_runtime_connected"),
        }
    }

    fn want(&mut self, ask: Ask) {
        let Ask { id, in_pod, now } = ask;
        let at = Instant::now();
        if let Some(want) = self.wants.get_mut(&id) {
            // Who was asked for already is asked for again in its own time, however many sessions come.
            if now && want.unknown == 0 {
                want.next = want.next.min(at);
            }
            return;
        }
        let next = if now { at } else { at + self.timing.gather };
        // Who is pushed out is asked for again when somebody comes to it.
        let _oldest = self.wants.insert(id, Want { in_pod, since: at, next, unknown: 0 });
    }

    /// When there is something to do.
    fn wake(&self) -> Instant {
        let due = self.wants.iter().map(|(_, want)| want.next).min();
        match &self.cri {
            Some(_) => due.unwrap_or_else(far),
            // What waits is told so in time.
            None => self.retry.min(
                self.wants
                    .iter()
                    .map(|(_, want)| want.since + self.timing.patience)
                    .min()
                    .unwrap_or_else(far),
            ),
        }
    }

    /// Asks what is due.
    async fn turn(&mut self, out: &mut Vec<Word>) {
        self.clear();
        let now = Instant::now();
        if self.cri.is_none() && now >= self.retry {
            self.connect(out).await;
        }
        if self.cri.is_none() {
            self.give_up(now, out);
            return;
        }
        // Those that would be due soon too: they came together. The newest first.
        if !self.wants.iter().any(|(_, want)| want.next <= now) {
            return;
        }
        let until = now + self.timing.gather / 2;
        let is_due = |want: &Want| want.next <= now || (want.unknown == 0 && want.next <= until);
        let due = self.wants.iter().filter(|(_, want)| is_due(want));
        let mut due: Vec<String> = due.map(|(id, _)| id.clone()).collect();
        due.reverse();
        let asked =
            if due.len() >= MANY { self.ask_all(&due, out).await } else { self.ask_each(&due, out).await };
        if let Err(error) = asked {
            self.failed(&error);
            self.give_up(now, out);
        }
    }

    async fn connect(&mut self, out: &mut Vec<Word>) {
        let places = self.socket.places();
        self.why = match &self.socket {
            Socket::At(path) => format!("there is no {}", escape::name(&path.display().to_string())),
            Socket::Auto | Socket::Nowhere => String::new(),
        };
        for place in places {
            let mut cri = Cri::new(&place);
            match cri.version().await {
                Ok(version) => {
                    tracing::info!(runtime = %escape::name(&version), socket = %place.display(), "asks this runtime for pods");
                    self.cri = Some(cri);
                    self.backoff = self.timing.backoff.clone();
                    self.told = false;
                    self.connected.set(1.0);
                    self.place.send_replace(Some(place));
                    out.push(Word::Runtime);
                    return;
                }
                Err(error) => self.why = format!("{}: {error}", place.display()),
            }
        }
        self.retry = Instant::now() + self.backoff.next_wait();
        if !self.why.is_empty() && !self.told {
            self.told = true;
            tracing::warn!(why = %escape::name(&self.why), "no runtime answers: containers are told without their pods; tried again");
        }
    }

    /// The runtime is not well: it is looked for anew.
    fn failed(&mut self, error: &CriError) {
        self.why = error.to_string();
        tracing::warn!(why = %escape::name(&self.why), "the runtime failed: what was asked for follows");
        self.told = true;
        self.cri = None;
        self.connected.set(0.0);
        self.retry = Instant::now() + self.backoff.next_wait();
        // It may forget what it has when it starts again.
        self.sandboxes = Bounded::new(SANDBOXES_MAX);
    }

    /// Tells those that waited too long for a runtime, or for one that is not there at all.
    fn give_up(&mut self, now: Instant, out: &mut Vec<Word>) {
        let absent = self.why.is_empty();
        let late = |want: &Want| absent || now >= want.since + self.timing.patience;
        let late: Vec<String> =
            self.wants.iter().filter(|(_, want)| late(want)).map(|(id, _)| id.clone()).collect();
        for id in late {
            self.wants.remove(&id);
            let missing = if absent { Missing::NoRuntime } else { Missing::Unavailable(self.why.clone()) };
            out.push(Word::Container { id, lookup: Lookup::Missing(missing) });
        }
    }

    async fn ask_each(&mut self, due: &[String], out: &mut Vec<Word>) -> Result<(), CriError> {
        for id in due {
            if let Some(sandbox) = self.sandboxes.get(id) {
                let facts = self.rules.of_sandbox(sandbox);
                self.answer(id, facts, out);
                continue;
            }
            let Some(cri) = &mut self.cri else { return Ok(()) };
            let found = cri.containers(Some(id)).await?.into_iter().find(|container| container.id == *id);
            match found {
                Some(container) => self.found(container, out).await?,
                None => match self.sandbox(id).await? {
                    Some(sandbox) => {
                        let facts = self.rules.of_sandbox(&sandbox);
                        self.answer(id, facts, out);
                    }
                    None => self.unknown(id, out),
                },
            }
        }
        Ok(())
    }

    async fn ask_all(&mut self, due: &[String], out: &mut Vec<Word>) -> Result<(), CriError> {
        let Some(cri) = &mut self.cri else { return Ok(()) };
        let containers = cri.containers(None).await?;
        let sandboxes = cri.sandboxes(None).await?;
        let wanted: HashSet<&String> = due.iter().collect();
        for sandbox in sandboxes.into_iter().take(WANTS_MAX) {
            self.keep(sandbox);
        }
        for container in containers {
            if wanted.contains(&container.id) {
                self.found(container, out).await?;
            }
        }
        for id in due {
            if !self.wants.contains(id) {
                continue;
            }
            match self.sandboxes.get(id) {
                Some(sandbox) => {
                    let facts = self.rules.of_sandbox(sandbox);
                    self.answer(id, facts, out);
                }
                None => self.unknown(id, out),
            }
        }
        Ok(())
    }

    async fn found(&mut self, container: cri::Container, out: &mut Vec<Word>) -> Result<(), CriError> {
        let id = container.id.clone();
        let sandbox = self.sandbox(&container.pod_sandbox_id.clone()).await?;
        let asked = match facts::image_to_ask(&container) {
            Some(reference) => Some(self.image(reference).await?),
            None => None,
        };
        let image = facts::image(&container, asked.as_ref());
        match self.rules.container(container, sandbox.as_ref(), image) {
            Some(facts) => self.answer(&id, facts, out),
            None => self.unknown(&id, out),
        }
        Ok(())
    }

    async fn sandbox(&mut self, id: &str) -> Result<Option<Sandbox>, CriError> {
        if let Some(sandbox) = self.sandboxes.get(&id.to_owned()) {
            return Ok(Some(sandbox.clone()));
        }
        let Some(cri) = self.cri.as_mut().filter(|_| !id.is_empty()) else { return Ok(None) };
        let found = cri.sandboxes(Some(id)).await?.into_iter().find(|sandbox| sandbox.id == id);
        if let Some(sandbox) = found {
            self.keep(sandbox);
        }
        Ok(self.sandboxes.get(&id.to_owned()).cloned())
    }

    fn keep(&mut self, sandbox: cri::PodSandbox) {
        let id = sandbox.id.clone();
        if let Some(sandbox) = self.rules.sandbox(sandbox) {
            let _oldest = self.sandboxes.insert(id, sandbox);
        }
    }

    async fn image(&mut self, reference: String) -> Result<ImageFacts, CriError> {
        if let Some(image) = self.images.get(&reference) {
            return Ok(image.clone());
        }
        let Some(cri) = &mut self.cri else { return Ok(ImageFacts::default()) };
        let image = cri.image(&reference).await?.map(facts::of_image).unwrap_or_default();
        let _oldest = self.images.insert(reference, image.clone());
        Ok(image)
    }

    fn answer(&mut self, id: &str, facts: super::ContainerFacts, out: &mut Vec<Word>) {
        if self.wants.remove(&id.to_owned()).is_some() {
            out.push(Word::Container { id: id.to_owned(), lookup: Lookup::Known(Arc::new(facts)) });
        }
    }

    /// The runtime does not know it, or not yet.
    fn unknown(&mut self, id: &str, out: &mut Vec<Word>) {
        let id = id.to_owned();
        let Some(want) = self.wants.get_mut(&id) else { return };
        let times = if want.in_pod { self.timing.again.len() } else { self.timing.again_outside };
        match self.timing.again.get(want.unknown).filter(|_| want.unknown < times) {
            Some(wait) => {
                want.unknown += 1;
                want.next = Instant::now() + *wait;
            }
            None => {
                self.wants.remove(&id);
                out.push(Word::Container { id, lookup: Lookup::Missing(Missing::NotFound) });
            }
        }
    }

    /// Nobody saves what is here.
    fn clear(&mut self) {
        self.wants.forget_changes();
        self.sandboxes.forget_changes();
        self.images.forget_changes();
    }
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

/// Names and units, for `/metrics`.
pub(crate) fn describe() {
    describe_counter!("podtrail_agent_cri_calls_total", "Calls of the node's container runtime");
    describe_counter!("podtrail_agent_exec_words_total", "What containerd said of execs");
    describe_gauge!(
        "podtrail_agent_runtime_connected",
        "1 while the node's container runtime answers what is asked of containers"
    );
}

#[cfg(test)]
mod tests;
