//! The node's own kubelet, asked which pods it has: where probes and hooks can be read without the API server.
//!
//! A look-up never waits. What is not known is asked for by a task of its own: a pod or container that nobody has heard
//! of makes it ask, and otherwise it seldom does. A kubelet that does not answer is asked less and less often.

mod client;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};

pub use self::client::{KubeletError, Target};
use super::spec::{self, PodSpec};
use crate::{
    backoff::Backoff,
    telemetry::{
        Emit as _,
        kubelet::{Asked, Unanswered},
    },
};

/// From one answer to the next question, at least: pods come in crowds.
const PAUSE: Duration = Duration::from_millis(500);
/// What changes in a pod without a new container (an ephemeral container that was added, a deletion) is seen after.
const EVERY: Duration = Duration::from_secs(600);
/// For one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the kubelet did not list is asked for again after.
const AGAIN: Duration = Duration::from_secs(5);
/// A pod that is not listed any more is known for: what happened in it may come late.
const GRACE: Duration = Duration::from_secs(300);
/// Questions that are remembered, and pods that are gone.
const MAX_WANTED: usize = 4096;
const MAX_GONE: usize = 1024;

const WAIT_FIRST: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(300);

/// How the kubelet is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub target: Target,
    /// read for every question: it is replaced every hour; never there without `ca`
    pub token: Option<PathBuf>,
    /// who may have signed the kubelet's certificate; `None`: no TLS
    pub ca: Option<PathBuf>,
    /// the kubelet's certificate may be for this name, too
    pub node_name: String,
}

/// What is known of a pod now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    Known(Arc<PodSpec>),
    /// asked for
    Pending,
    Missing(Missing),
}

/// Why nothing is known of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// there is no kubelet to ask
    NoKubelet,
    /// the kubelet does not have it
    NotListed,
    /// the kubelet does not answer
    Unavailable,
}

/// Asks the kubelet; a clone asks the same.
#[derive(Clone, Debug)]
pub struct Kubelet(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wake: Notify,
    answers: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    pods: HashMap<String, Pod>,
    /// what nobody knew, by container, or by pod where the container has no id
    wanted: HashMap<String, Wanted>,
    /// the last question was not answered
    failing: bool,
}

#[derive(Debug)]
struct Pod {
    spec: Arc<PodSpec>,
    gone: Option<Instant>,
}

#[derive(Debug)]
struct Wanted {
    since: Instant,
    /// when an answer came that did not have it
    denied: Option<Instant>,
}

impl Kubelet {
    /// Starts asking. To be called within a runtime; the task ends with the runtime.
    #[must_use]
    pub fn start(options: Options) -> Self {
        let kubelet = Self::idle();
        tokio::spawn(kubelet.clone().run(options));
        kubelet
    }

    fn idle() -> Self {
        let (answers, _) = watch::channel(0);
        Self(Arc::new(Shared { state: Mutex::default(), wake: Notify::new(), answers }))
    }

    /// Changes with every answer.
    #[must_use]
    pub fn answers(&self) -> watch::Receiver<u64> {
        self.0.answers.subscribe()
    }

    /// The pod of this container. Where the kubelet has not told of it, it is asked.
    #[must_use]
    pub fn look(&self, uid: &str, container: Option<&str>) -> Look {
        let now = Instant::now();
        let mut state = self.state();
        let state = &mut *state;
        let known = state.pods.get(uid).map(|pod| &pod.spec);
        let listed = |spec: &PodSpec, id| spec.containers.iter().any(|known| known.id.as_deref() == Some(id));
        if let Some(spec) = known
            && container.is_none_or(|id| listed(spec, id))
        {
            return Look::Known(Arc::clone(spec));
        }
        // A pod's status says of a container later than it starts: what is known goes, and the next time more.
        let missing = known.map_or(Look::Missing(Missing::NotListed), |spec| Look::Known(Arc::clone(spec)));
        let key = container.unwrap_or(uid);
        let full = state.wanted.len() >= MAX_WANTED;
        match state.wanted.get_mut(key) {
            Some(Wanted { denied: Some(denied), .. }) if now.duration_since(*denied) < AGAIN => {
                return missing;
            }
            Some(wanted) if wanted.denied.is_some() => *wanted = Wanted { since: now, denied: None },
            Some(_) => {}
            None if full => return missing,
            None => _ = state.wanted.insert(key.to_owned(), Wanted { since: now, denied: None }),
        }
        self.0.wake.notify_one();
        match (state.failing, known) {
            (true, None) => Look::Missing(Missing::Unavailable),
            (true, Some(_)) => missing,
            (false, _) => Look::Pending,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self, options: Options) {
        let fresh = || Backoff::new(WAIT_FIRST, WAIT_MAX);
        let mut backoff = fresh();
        loop {
            let asked = Instant::now();
            let answer = match timeout(PATIENCE, client::pods(&options)).await {
                Ok(answer) => answer,
                Err(_late) => Err(KubeletError::Slow(PATIENCE)),
            };
            // Parsing some megabytes takes its time, and this may be the agent's only thread.
            let answer = match answer {
                Ok(body) => match tokio::task::spawn_blocking(move || spec::read(&body)).await {
                    Ok(read) => read.map_err(KubeletError::NoPods),
                    Err(_stops) => return,
                },
                Err(error) => Err(error),
            };
            match answer {
                Ok(pods) => {
                    Asked { pods: pods.len(), took: asked.elapsed() }.emit();
                    backoff = fresh();
                    self.learn(pods, asked);
                    self.0.answers.send_modify(|answers| *answers = answers.wrapping_add(1));
                    sleep(PAUSE).await;
                    // Asked for meanwhile: at once.
                    _ = timeout(EVERY, self.0.wake.notified()).await;
                }
                Err(error) => {
                    let wait = backoff.next_wait();
                    Unanswered { target: &options.target, error: &error, wait }.emit();
                    self.state().failing = true;
                    // Who waits for an answer need not any more.
                    self.0.answers.send_modify(|answers| *answers = answers.wrapping_add(1));
                    sleep(wait).await;
                }
            }
        }
    }

    fn learn(&self, pods: HashMap<String, PodSpec>, asked: Instant) {
        let now = Instant::now();
        let mut state = self.state();
        let State { pods: known, wanted, failing } = &mut *state;
        *failing = false;
        for (uid, pod) in known.iter_mut() {
            if !pods.contains_key(uid) {
                pod.gone.get_or_insert(now);
            }
        }
        known.extend(pods.into_iter().map(|(uid, spec)| (uid, Pod { spec: Arc::new(spec), gone: None })));
        let gone = known.values().filter(|pod| pod.gone.is_some()).count();
        known.retain(|_, pod| {
            pod.gone.is_none_or(|gone_at| now.duration_since(gone_at) < GRACE && gone <= MAX_GONE)
        });
        wanted.retain(|_, wanted| match wanted.denied {
            None if wanted.since <= asked => {
                wanted.denied = Some(now);
                true
            }
            None => true,
            Some(denied) => now.duration_since(denied) < AGAIN,
        });
        if wanted.values().any(|wanted| wanted.denied.is_none()) {
            self.0.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
