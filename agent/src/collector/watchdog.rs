//! Notices a write to the log that does not come to its end: a disk that hangs, or a store whose own threads are gone.
//!
//! Nothing can be done about a thread that is stuck in the kernel, and nobody else may write. So `/readyz` says it, and
//! when it lasts the process ends, for whatever started it to start it again. What was acknowledged is safe.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::time;

use crate::telemetry::{
    Component, Emit as _,
    collector::{WriteEnded, WriteHangs},
};

/// When to say that a write takes long, and when to give up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) long: Duration,
    pub(super) stuck: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { long: Duration::from_secs(30), stuck: Duration::from_secs(180) }
    }
}

/// Whether something is being written, and since when. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Pulse(Arc<Mutex<Option<Instant>>>);

/// A write that is under way, until dropped.
#[derive(Debug)]
pub(super) struct Beat<'a>(&'a Pulse);

impl Pulse {
    /// A write begins.
    pub(super) fn begin(&self) -> Beat<'_> {
        self.set(Some(Instant::now()));
        Beat(self)
    }

    fn set(&self, since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    fn lasts(&self) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).map(|since| since.elapsed())
    }
}

impl Drop for Beat<'_> {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

/// Watches; returns how long a write has lasted that is given up.
pub(super) async fn watch(pulse: Pulse, health: Component, limits: Limits) -> Duration {
    let Limits { long, stuck } = limits;
    let mut tick = time::interval((long / 10).min(Duration::from_secs(1)));
    tick.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    let mut told: Option<Duration> = None;
    health.ready();
    loop {
        tick.tick().await;
        match pulse.lasts() {
            Some(lasts) if lasts >= stuck => return lasts,
            Some(lasts) if lasts >= long => {
                let seconds = lasts.as_secs();
                health.not_ready(format!("a write to the log lasts for {seconds} s: is its disk well?"));
                if told.is_none() {
                    WriteHangs { lasts, stuck }.emit();
                }
                told = Some(lasts);
            }
            _ => {
                if let Some(took) = told.take() {
                    health.ready();
                    WriteEnded { took }.emit();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Health;

    #[tokio::test]
    async fn a_write_that_hangs_is_told_and_one_that_is_stuck_is_given_up() {
        let (pulse, health) = (Pulse::default(), Health::new());
        let limits = Limits { long: Duration::from_millis(100), stuck: Duration::from_secs(2) };
        let watching = tokio::spawn(watch(pulse.clone(), health.component("writer"), limits));
        let ready = async |wanted: bool| {
            let mut ready = health.watch();
            time::timeout(Duration::from_secs(20), ready.wait_for(|ready| *ready == wanted))
                .await
                .unwrap()
                .unwrap();
        };
        ready(true).await;
        let beat = pulse.begin();
        ready(false).await;
        let said = health.components()["writer"].clone().unwrap();
        assert!(said.starts_with("a write to the log lasts for "), "{said}");
        drop(beat);
        ready(true).await;
        assert!(!watching.is_finished());

        let _beat = pulse.begin();
        let lasted = time::timeout(Duration::from_secs(20), watching).await.unwrap().unwrap();
        assert!(lasted >= limits.stuck, "{lasted:?}");
    }
}
