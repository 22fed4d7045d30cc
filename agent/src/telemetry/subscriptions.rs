//! What subscriptions have to tell.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use tracing::{error, info, warn};

use super::Emit;
use crate::trail::log::Cursor;

/// Names and units, for `/metrics`; to be called once, at start.
pub fn describe() {
    use Unit::Count;
    describe_gauge!(
        "podtrail_collector_subscriptions",
        Count,
        "Subscriptions: known, connected, and overtaken by retention"
    );
    describe_gauge!(
        "podtrail_collector_subscription_lag_events",
        Count,
        "Events of the log that a subscription has not acknowledged"
    );
    describe_counter!(
        "podtrail_collector_overtaken_total",
        Count,
        "Times that retention dropped what a subscription had not acknowledged"
    );
    describe_counter!("podtrail_collector_delivered_total", Count, "Events delivered to subscriptions");
    describe_counter!(
        "podtrail_collector_subscriptions_closed_total",
        Count,
        "Streams of subscriptions that ended, by reason"
    );
    counter!("podtrail_collector_delivered_total").increment(0);
    counter!("podtrail_collector_overtaken_total").increment(0);
    SubscriptionsCounted { known: 0, connected: 0, overtaken: 0 }.emit();
}

/// How many there are.
#[derive(Debug)]
pub struct SubscriptionsCounted {
    pub known: usize,
    pub connected: usize,
    pub overtaken: usize,
}

impl Emit for SubscriptionsCounted {
    #[expect(clippy::cast_precision_loss, reason = "metrics")]
    fn emit(self) {
        let Self { known, connected, overtaken } = self;
        gauge!("podtrail_collector_subscriptions", "state" => "known").set(known as f64);
        gauge!("podtrail_collector_subscriptions", "state" => "connected").set(connected as f64);
        gauge!("podtrail_collector_subscriptions", "state" => "overtaken").set(overtaken as f64);
    }
}

/// How far behind one is.
#[derive(Debug)]
pub struct SubscriptionLag<'a> {
    pub principal: &'a str,
    pub name: &'a str,
    pub events: u64,
}

impl Emit for SubscriptionLag<'_> {
    #[expect(clippy::cast_precision_loss, reason = "a metric")]
    fn emit(self) {
        let Self { principal, name, events } = self;
        let labels = [("principal", principal.to_owned()), ("name", name.to_owned())];
        gauge!("podtrail_collector_subscription_lag_events", &labels).set(events as f64);
    }
}

/// Retention dropped what one had not acknowledged.
#[derive(Debug)]
pub struct SubscriptionOvertaken<'a> {
    pub principal: &'a str,
    pub name: &'a str,
    /// so far
    pub events: u64,
}

impl Emit for SubscriptionOvertaken<'_> {
    fn emit(self) {
        let Self { principal, name, events } = self;
        counter!("podtrail_collector_overtaken_total").increment(1);
        error!(
            principal,
            name, events, "retention has overtaken a subscription: its reader misses events and is told so"
        );
    }
}

/// Somebody reads.
#[derive(Debug)]
pub struct SubscriptionOpened<'a> {
    pub principal: &'a str,
    pub name: &'a str,
    pub cursor: Cursor,
    pub created: bool,
}

impl Emit for SubscriptionOpened<'_> {
    fn emit(self) {
        let Self { principal, name, cursor, created } = self;
        info!(principal, name, cursor, created, "subscription opened");
    }
}

/// Events went out.
#[derive(Debug)]
pub struct EventsDelivered {
    pub events: usize,
}

impl Emit for EventsDelivered {
    fn emit(self) {
        counter!("podtrail_collector_delivered_total").increment(self.events as u64);
    }
}

/// A stream ended; its position stays.
#[derive(Debug)]
pub struct SubscriptionClosed<'a> {
    pub principal: &'a str,
    pub name: &'a str,
    /// for the metric
    pub reason: &'static str,
    pub why: &'a str,
}

impl Emit for SubscriptionClosed<'_> {
    fn emit(self) {
        let Self { principal, name, reason, why } = self;
        counter!("podtrail_collector_subscriptions_closed_total", "reason" => reason).increment(1);
        info!(principal, name, reason, why, "subscription closed");
    }
}

/// Nobody opened it for so long that it is forgotten.
#[derive(Debug)]
pub struct SubscriptionExpired<'a> {
    pub principal: &'a str,
    pub name: &'a str,
    pub days: u64,
}

impl Emit for SubscriptionExpired<'_> {
    fn emit(self) {
        let Self { principal, name, days } = self;
        warn!(principal, name, days, "nobody opened this subscription for too long: forgotten");
    }
}

/// The log lost its end, with events that this subscription had acknowledged.
#[derive(Debug)]
pub struct SubscriptionRewound<'a> {
    pub principal: &'a str,
    pub name: &'a str,
    pub from: Cursor,
    pub to: Cursor,
}

impl Emit for SubscriptionRewound<'_> {
    fn emit(self) {
        let Self { principal, name, from, to } = self;
        error!(
            principal,
            name, from, to, "the log has lost its end: subscription moved back to what is left"
        );
    }
}

/// What was acknowledged may come again after a restart.
#[derive(Debug)]
pub struct AcksNotWritten<'a> {
    pub error: &'a str,
}

impl Emit for AcksNotWritten<'_> {
    fn emit(self) {
        warn!(error = self.error, "positions of subscriptions cannot be written: tried again with the next");
    }
}
