//! What the node-problem-detector of this node says, asked on the node: while the API server is down it is the only word there is
//! of the node, and its counts show what the API server never got.
//!
//! Asked every [`EVERY`]; told when something is other than before, and every [`CONFIRM`] all the same, so that whoever listens
//! knows that it is alive. What follows from it the collector says. Everything that comes is hostile, and bounded.

mod read;

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    net::TcpStream,
    sync::mpsc,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    ask::{self, AskError, Question},
    event::Observed,
    telemetry::{
        Emit as _,
        detector::{Answered, Unanswered},
    },
};

/// What is read of its answers, for its fuzz target alone.
#[cfg(fuzzing)]
pub fn fuzz_read(body: &[u8]) {
    for condition in read::conditions(body).ok().flatten().unwrap_or_default() {
        let crate::event::ObservedCondition { kind, status, reason, message, transition: _, truncated: _ } =
            condition;
        assert!(!kind.is_empty() && [&kind, &status, &reason].into_iter().all(|word| word.len() <= 256));
        assert!(message.len() <= 4096);
    }
    let problems = read::problems(body);
    assert!(problems.len() <= 200 && problems.iter().all(|problem| !problem.reason.is_empty()));
}

/// How often it is asked.
const EVERY: Duration = Duration::from_secs(15);
/// How often it is told though nothing changed: twice as often as the collector takes for stale.
const CONFIRM: Duration = Duration::from_secs(5 * 60);
/// It is on this node, and has it in memory.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of an answer: conditions are a few hundred bytes each, and metrics have all that its process has.
const MAX: usize = 4 << 20;

/// Where it is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `GET /conditions`
    pub conditions: Option<SocketAddr>,
    /// `GET /metrics`
    pub metrics: Option<SocketAddr>,
}

/// Why it does not answer.
#[derive(Debug, thiserror::Error)]
pub enum DetectorError {
    /// {0}
    #[error("{0}: {1}")]
    Connect(SocketAddr, io::Error),
    /// {0}
    #[error("{0}: {1}")]
    Ask(SocketAddr, AskError),
    /// {0}
    #[error("{0} does not answer in {1} s")]
    Slow(SocketAddr, u64),
    /// {0}
    #[error("{0}: its conditions cannot be read: {1}")]
    Conditions(SocketAddr, serde_json::Error),
}

/// Asks it, until it is dropped.
#[derive(Debug)]
pub struct Detector {
    observed: mpsc::Receiver<Observed>,
    _task: AbortOnDropHandle<()>,
}

impl Detector {
    /// Starts asking; `None`: there is nobody to ask. To be called within a runtime.
    #[must_use]
    pub fn start(options: Options) -> Option<Self> {
        Self::every(options, EVERY, CONFIRM)
    }

    fn every(options: Options, every: Duration, confirm: Duration) -> Option<Self> {
        if options == Options::default() {
            return None;
        }
        let (sender, observed) = mpsc::channel(4);
        let task = tokio::spawn(run(options, every, confirm, sender));
        Some(Self { observed, _task: AbortOnDropHandle::new(task) })
    }

    /// What is to be told next. Dropping the future loses nothing.
    pub async fn observed(&mut self) -> Observed {
        match self.observed.recv().await {
            Some(observed) => observed,
            None => std::future::pending().await,
        }
    }
}

async fn run(options: Options, every: Duration, confirm: Duration, to: mpsc::Sender<Observed>) {
    let mut tick = interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = Told::default();
    loop {
        tick.tick().await;
        let answer = ask(options).await;
        match &answer {
            Ok(Some(observed)) => {
                Answered { conditions: observed.conditions.len(), problems: observed.problems.len() }.emit();
            }
            Ok(None) => {}
            Err(error) => Unanswered { error: &error.to_string(), told: told.failing() }.emit(),
        }
        if let Some(observed) = told.next(answer, Instant::now(), confirm)
            && to.send(observed).await.is_err()
        {
            return;
        }
    }
}

/// What was told last.
#[derive(Debug, Default)]
struct Told {
    last: Option<(Observed, Instant)>,
}

impl Told {
    fn failing(&self) -> bool {
        self.last.as_ref().is_some_and(|(last, _)| last.unreachable.is_some())
    }

    /// What is to be told now. `Ok(None)`: it has just begun, and knows nothing yet.
    fn next(
        &mut self,
        answer: Result<Option<Observed>, DetectorError>,
        now: Instant,
        confirm: Duration,
    ) -> Option<Observed> {
        let observed = match answer {
            Ok(None) => return None,
            Ok(Some(observed)) => observed,
            // That it does not answer is told once, whatever the reason.
            Err(_) if self.failing() => return None,
            Err(error) => Observed { unreachable: Some(error.to_string()), ..Observed::default() },
        };
        if let Some((last, at)) = &self.last
            && *last == observed
            && now.saturating_duration_since(*at) < confirm
        {
            return None;
        }
        self.last = Some((observed.clone(), now));
        Some(observed)
    }
}

async fn ask(options: Options) -> Result<Option<Observed>, DetectorError> {
    let Options { conditions, metrics } = options;
    let mut observed = Observed::default();
    if let Some(address) = conditions {
        let body = get(address, "/conditions", "application/json").await?;
        let found = read::conditions(&body).map_err(|error| DetectorError::Conditions(address, error))?;
        let Some(found) = found else { return Ok(None) };
        observed.conditions = found;
        observed.has_conditions = true;
    }
    if let Some(address) = metrics {
        observed.problems = read::problems(&get(address, "/metrics", "text/plain").await?);
        observed.has_problems = true;
    }
    Ok(Some(observed))
}

async fn get(
    address: SocketAddr,
    path: &'static str,
    accept: &'static str,
) -> Result<Vec<u8>, DetectorError> {
    let asking = async {
        let stream =
            TcpStream::connect(address).await.map_err(|error| DetectorError::Connect(address, error))?;
        let host = address.to_string();
        let question = Question { host: &host, path, accept, authorization: None, max: MAX };
        ask::get(stream, question).await.map_err(|error| DetectorError::Ask(address, error))
    };
    timeout(PATIENCE, asking).await.unwrap_or(Err(DetectorError::Slow(address, PATIENCE.as_secs())))
}

#[cfg(test)]
mod tests;
