//! How far behind every subscription is, for `/metrics`.

use std::collections::BTreeSet;

use super::{look::is_trimmed, store::Key};
use crate::{
    telemetry::{
        Emit as _,
        subscriptions::{SubscriptionLag, SubscriptionOvertaken, SubscriptionsCounted},
    },
    trail::log::{Bounds, Cursor},
};

/// Subscriptions with a metric of their own. A metric that was given out stays for as long as the process runs, so
/// that those that come and go have a bound too.
const MAX_LABELS: usize = 200;
/// All that are beyond that, together: the greatest lag among them.
const OTHERS: &str = "(others)";

/// What was told.
#[derive(Debug, Default)]
pub(super) struct Lags {
    labelled: BTreeSet<Key>,
    overtaken: BTreeSet<Key>,
    others: bool,
}

impl Lags {
    /// `all`: every subscription, where it is, and whether it is connected.
    pub(super) fn tell(&mut self, all: &[(Key, Cursor, bool)], bounds: &Bounds) {
        let lag = |cursor: Cursor| bounds.newest.saturating_sub(cursor);
        let mut left = self.labelled.clone();
        let mut others = 0;
        for (key, cursor, _) in all {
            left.remove(key);
            if self.labelled.len() < MAX_LABELS || self.labelled.contains(key) {
                self.labelled.insert(key.clone());
                let Key { principal, name } = key;
                SubscriptionLag { principal, name, events: lag(*cursor) }.emit();
            } else {
                others = others.max(lag(*cursor));
                self.others = true;
            }
        }
        // Those that are deleted lag no more.
        for Key { principal, name } in &left {
            SubscriptionLag { principal, name, events: 0 }.emit();
        }
        if self.others {
            SubscriptionLag { principal: OTHERS, name: OTHERS, events: others }.emit();
        }
        let trimmed = all.iter().filter(|(_, cursor, _)| is_trimmed(bounds, *cursor));
        let mut overtaken = BTreeSet::new();
        for (key, cursor, _) in trimmed {
            if !self.overtaken.contains(key) {
                let Key { principal, name } = key;
                let events = bounds.oldest.saturating_sub(cursor.saturating_add(1));
                SubscriptionOvertaken { principal, name, events }.emit();
            }
            overtaken.insert(key.clone());
        }
        self.overtaken = overtaken;
        let connected = all.iter().filter(|(_, _, connected)| *connected).count();
        SubscriptionsCounted { known: all.len(), connected, overtaken: self.overtaken.len() }.emit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    fn metric(of: &str) -> Option<f64> {
        let text = Metrics::global().render();
        text.lines().find_map(|line| line.strip_prefix(of)?.trim().parse().ok())
    }

    #[test]
    fn lags_are_told_within_bounds() {
        _ = Metrics::global();
        let bounds = Bounds { oldest: 50, newest: 100, ..Bounds::default() };
        let key = |n: usize| Key { principal: "lags".to_owned(), name: format!("s{n:04}") };
        let lag = |n: &str| {
            metric(&format!(
                "podtrail_collector_subscription_lag_events{{principal=\"{}\",name=\"{n}\"}}",
                if n == OTHERS { OTHERS } else { "lags" }
            ))
        };
        let mut lags = Lags::default();
        lags.tell(&[(key(0), 90, true), (key(1), 48, false), (key(2), 49, false)], &bounds);
        assert_eq!(
            (lag("s0000"), lag("s0001"), lag("s0002"), lag(OTHERS)),
            (Some(10.0), Some(52.0), Some(51.0), None)
        );
        // The one before the oldest has missed nothing yet.
        assert_eq!(lags.overtaken, BTreeSet::from([key(1)]));
        let all: Vec<_> = (1..=MAX_LABELS + 2).map(|n| (key(n), 100 - n as u64 / 10, false)).collect();
        lags.tell(&all, &bounds);
        assert_eq!((lag("s0000"), lag("s0001")), (Some(0.0), Some(0.0)));
        assert!(lags.overtaken.is_empty());
        assert_eq!((lags.labelled.len(), lag("s0199"), lag("s0200")), (MAX_LABELS, Some(19.0), None));
        assert_eq!(lag(OTHERS), Some(20.0));
    }
}
