//! What one open subscription delivers next: pure, with no log, no clock and no client.
//!
//! ```text
//!             acked              passed      scanned            newest
//!   ◄── done ───┤── in flight, or ──┤── held ────┤── not read yet ──┤
//!               │   not shown       │
//! ```
//! Invariants:
//! - Everything up to `passed` was delivered, or is not shown to this reader; nothing is delivered twice by one feed.
//! - Whatever is acknowledged was told to the client before: `acked ≤ told ≤ passed`.
//! - In flight is never more than the window allows, but for a single event that is larger than it.
//! - Memory is bounded: [`Feed::wants`] asks for no page while enough is held.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use podtrail_proto::v1;
use prost::Message as _;
use tokio::time::Instant;

use crate::trail::log::Cursor;

/// What one response holds at most; a single event may be longer.
const BATCH_EVENTS: usize = 1024;
const BATCH_BYTES: usize = 256 * 1024;
/// The next page is asked for when less than this is held: it is read while these are sent.
const ENOUGH_EVENTS: usize = 2 * BATCH_EVENTS;
const ENOUGH_BYTES: usize = 2 * BATCH_BYTES;

/// An event for this reader, in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    pub cursor: Cursor,
    pub event: Arc<v1::Event>,
    /// as encoded
    bytes: usize,
}

impl Delivery {
    #[must_use]
    pub fn new(cursor: Cursor, event: Arc<v1::Event>) -> Self {
        let bytes = event.encoded_len();
        Self { cursor, event, bytes }
    }
}

/// What this reader is shown of a piece of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// the piece is what comes after this,
    pub after: Cursor,
    /// up to this
    pub to: Cursor,
    pub shown: Vec<Delivery>,
}

/// What may be delivered and not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub events: usize,
    pub bytes: usize,
}

/// When something must happen though nothing comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// at least so often something is said
    pub heartbeat: Duration,
    /// a window that stays full for so long, while there is more to deliver, is that of a reader who is too slow
    pub slow_after: Duration,
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Deliver(Vec<Delivery>),
    /// nothing came: everything up to here is delivered, or not shown
    Heartbeat(Cursor),
    /// the reader is too slow
    Slow,
    /// nothing before this moment, unless a page, an acknowledgement or an event comes
    Wait(Instant),
}

/// An acknowledgement of what this stream has not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotDelivered {
    /// the last that it has
    pub last: Cursor,
}

/// See the module.
#[derive(Debug)]
pub struct Feed {
    window: Window,
    pace: Pace,
    acked: Cursor,
    /// the client has heard of everything up to here
    told: Cursor,
    passed: Cursor,
    scanned: Cursor,
    held: VecDeque<Delivery>,
    held_bytes: usize,
    in_flight: VecDeque<(Cursor, usize)>,
    in_flight_bytes: usize,
    /// when something was last said
    said: Instant,
    /// since when the window is full, with something to deliver
    full: Option<Instant>,
}

impl Feed {
    /// Begins after `at`.
    #[must_use]
    pub fn new(at: Cursor, window: Window, pace: Pace, now: Instant) -> Self {
        Self {
            window,
            pace,
            acked: at,
            told: at,
            passed: at,
            scanned: at,
            held: VecDeque::new(),
            held_bytes: 0,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            said: now,
            full: None,
        }
    }

    /// After which cursor the next page is to be read, if one is wanted.
    #[must_use]
    pub fn wants(&self, newest: Cursor) -> Option<Cursor> {
        let enough = self.held.len() >= ENOUGH_EVENTS || self.held_bytes >= ENOUGH_BYTES;
        (self.scanned < newest && !enough).then_some(self.scanned)
    }

    /// Takes the page that was wanted; one that goes not on where the last ended is passed over.
    pub fn page(&mut self, page: Look) {
        let Look { after, to, shown } = page;
        if after != self.scanned {
            return;
        }
        self.scanned = to.max(after);
        self.held_bytes += shown.iter().map(|d| d.bytes).sum::<usize>();
        self.held.extend(shown);
        self.pass();
    }

    /// What is not shown needs no delivery.
    fn pass(&mut self) {
        if self.held.is_empty() {
            self.passed = self.scanned;
        }
    }

    /// Everything up to `cursor` is processed. Late and repeated ones do no harm. Returns whether it is news.
    pub fn ack(&mut self, cursor: Cursor) -> Result<bool, NotDelivered> {
        if cursor > self.told {
            return Err(NotDelivered { last: self.told });
        }
        if cursor <= self.acked {
            return Ok(false);
        }
        self.acked = cursor;
        while let Some((_, bytes)) = self.in_flight.pop_front_if(|(c, _)| *c <= cursor) {
            self.in_flight_bytes -= bytes;
        }
        Ok(true)
    }

    /// Events delivered and not acknowledged.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// What to do at `now`.
    pub fn step(&mut self, now: Instant) -> Step {
        let batch = self.batch();
        if !batch.is_empty() {
            self.said = now;
            self.full = None;
            return Step::Deliver(batch);
        }
        let slow = if self.held.is_empty() {
            self.full = None;
            None
        } else {
            Some(*self.full.get_or_insert(now) + self.pace.slow_after)
        };
        if slow.is_some_and(|at| now >= at) {
            return Step::Slow;
        }
        let heartbeat = self.said + self.pace.heartbeat;
        if now >= heartbeat {
            self.said = now;
            self.told = self.passed;
            return Step::Heartbeat(self.passed);
        }
        Step::Wait(slow.map_or(heartbeat, |slow| slow.min(heartbeat)))
    }

    /// As many of those held as the window takes and one response carries.
    fn batch(&mut self) -> Vec<Delivery> {
        let mut total = 0;
        let mut count = 0;
        for Delivery { cursor, bytes, event: _ } in &self.held {
            let room = self.in_flight.is_empty()
                || (self.in_flight.len() < self.window.events
                    && self.in_flight_bytes.saturating_add(*bytes) <= self.window.bytes);
            let fits = count == 0 || (count < BATCH_EVENTS && total + bytes <= BATCH_BYTES);
            if !room || !fits {
                break;
            }
            total += bytes;
            count += 1;
            self.in_flight.push_back((*cursor, *bytes));
            self.in_flight_bytes += bytes;
            self.told = *cursor;
            self.passed = *cursor;
        }
        self.held_bytes -= total;
        let batch = self.held.drain(..count).collect();
        self.pass();
        batch
    }
}

#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;
