//! When to look whether the kernel side is still what was made, and when that is worth an event: once when something is
//! wrong, once when it is right again.

use std::time::{Duration, Instant};

use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

use crate::{event::Finding, telemetry::Component};

/// See the module.
#[derive(Debug)]
pub(super) struct Integrity {
    every: Duration,
    next: Instant,
    /// what was told last
    wrong: Vec<(String, String)>,
    /// `None`: nobody asks
    component: Option<Component>,
    findings: Gauge,
    found: Counter,
}

/// Names and units, for `/metrics`.
pub(super) fn describe() {
    describe_gauge!(
        "podtrail_agent_integrity_findings",
        "What was wrong with the kernel side when it was last looked at"
    );
    describe_counter!(
        "podtrail_agent_integrity_findings_total",
        "What was found wrong with the kernel side, and mostly put right"
    );
}

impl Integrity {
    /// `wrong`: what is told with the agent's first event.
    pub(super) fn new(every: Duration, component: Option<Component>, wrong: &[Finding]) -> Self {
        let mut integrity = Self {
            every,
            next: Instant::now(),
            wrong: Vec::new(),
            component,
            findings: gauge!("podtrail_agent_integrity_findings"),
            found: counter!("podtrail_agent_integrity_findings_total"),
        };
        integrity.changed(wrong);
        integrity
    }

    /// Whether it is time to look.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let due = now >= self.next;
        if due {
            self.next = now + self.every;
        }
        due
    }

    /// Whether what was found is other than what was told.
    pub(super) fn changed(&mut self, findings: &[Finding]) -> bool {
        let count = u32::try_from(findings.len()).unwrap_or(u32::MAX);
        self.findings.set(f64::from(count));
        self.found.increment(u64::from(count));
        if let Some(component) = &self.component {
            match findings.first() {
                None => component.ready(),
                Some(Finding { subject, detail, time: _ }) => {
                    component.not_ready(format!("{subject}: {detail}"));
                }
            }
        }
        let wrong: Vec<_> = findings.iter().map(|f| (f.subject.clone(), f.detail.clone())).collect();
        let changed = wrong != self.wrong;
        self.wrong = wrong;
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::BootTime, telemetry::Health};

    fn finding(detail: &str, time: u64) -> Finding {
        Finding { subject: "pin of map EVENTS".to_owned(), detail: detail.to_owned(), time: BootTime(time) }
    }

    #[test]
    fn it_is_told_when_it_changes() {
        let mut integrity = Integrity::new(Duration::from_secs(10), None, &[]);
        assert!(!integrity.changed(&[]));
        assert!(integrity.changed(&[finding("gone", 1)]));
        assert!(!integrity.changed(&[finding("gone", 2)]), "the same is still wrong");
        assert!(integrity.changed(&[finding("gone: pinned again", 3)]));
        assert!(integrity.changed(&[]), "all is right again");
        assert!(!integrity.changed(&[]));
    }

    #[test]
    fn what_was_wrong_at_the_start_is_right_again_later() {
        let mut integrity = Integrity::new(Duration::from_secs(10), None, &[finding("gone", 1)]);
        assert!(integrity.changed(&[]));
    }

    #[test]
    fn it_is_due_at_once_and_then_every_so_often() {
        let now = Instant::now();
        let mut integrity = Integrity::new(Duration::from_secs(10), None, &[]);
        assert!(integrity.is_due(now + Duration::from_millis(1)));
        assert!(!integrity.is_due(now + Duration::from_secs(9)));
        assert!(integrity.is_due(now + Duration::from_secs(11)));
    }

    #[test]
    fn readiness_says_what_is_wrong() {
        let health = Health::new();
        let component = health.component("integrity");
        let mut integrity = Integrity::new(Duration::from_secs(10), Some(component), &[]);
        assert_eq!(health.components()["integrity"], None);
        integrity.changed(&[finding("gone", 1)]);
        assert_eq!(health.components()["integrity"].as_deref(), Some("pin of map EVENTS: gone"));
        integrity.changed(&[]);
        assert!(health.is_ready());
    }
}
