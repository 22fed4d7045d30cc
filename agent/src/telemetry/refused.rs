//! Who was refused. Anybody can cause it as often as they like, so each is counted, and told once a minute.

use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

use metrics::{Unit, counter, describe_counter};
use tracing::warn;

use super::Emit;

const EVERY: Duration = Duration::from_secs(60);
/// Peers that are remembered; all beyond share one place.
const MAX_PEERS: usize = 1024;

/// Somebody asked for what they may not have, or sent what nobody takes.
#[derive(Debug)]
pub struct Refused<'a> {
    /// their certificate's name, or their address
    pub peer: &'a str,
    pub reason: &'static str,
    pub message: &'a str,
}

impl Emit for Refused<'_> {
    fn emit(self) {
        static TOLD: LazyLock<Mutex<Told>> = LazyLock::new(Mutex::default);
        let Self { peer, reason, message } = self;
        counter!("podtrail_collector_refused_total", "reason" => reason).increment(1);
        let untold = TOLD.lock().unwrap_or_else(PoisonError::into_inner).tell(peer, Instant::now());
        if let Some(untold) = untold {
            // How many others of this peer were counted, and not told, since the last that was.
            warn!(peer, reason, error = message, untold, "refused");
        }
    }
}

/// Names and units, for `/metrics`.
pub fn describe() {
    describe_counter!("podtrail_collector_refused_total", Unit::Count, "Requests refused, by reason");
}

/// Of whom was told lately.
#[derive(Debug, Default)]
struct Told(HashMap<String, Last>);

#[derive(Debug)]
struct Last {
    at: Instant,
    untold: u64,
}

impl Told {
    /// `Some`: tell, and how many were not since the last time.
    fn tell(&mut self, peer: &str, now: Instant) -> Option<u64> {
        let fresh = |last: &Last| now.saturating_duration_since(last.at) < EVERY;
        if self.0.len() >= MAX_PEERS && !self.0.contains_key(peer) {
            self.0.retain(|_, last| fresh(last));
        }
        let peer = if self.0.len() >= MAX_PEERS && !self.0.contains_key(peer) { "" } else { peer };
        match self.0.get_mut(peer) {
            Some(last) if fresh(last) => {
                last.untold += 1;
                None
            }
            Some(last) => {
                last.at = now;
                Some(std::mem::take(&mut last.untold))
            }
            None => {
                self.0.insert(peer.to_owned(), Last { at: now, untold: 0 });
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_peer_is_told_once_a_minute() {
        let mut told = Told::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(told.tell("a", at(0)), Some(0));
        assert_eq!(told.tell("a", at(1)), None);
        assert_eq!(told.tell("b", at(1)), Some(0));
        assert_eq!(told.tell("a", at(59)), None);
        assert_eq!(told.tell("a", at(60)), Some(2));
        assert_eq!(told.tell("a", at(119)), None);
        assert_eq!(told.tell("b", at(120)), Some(0));
    }

    #[test]
    fn the_table_is_bounded_and_the_rest_share_a_place() {
        let mut told = Told::default();
        let start = Instant::now();
        for peer in 0..MAX_PEERS {
            assert_eq!(told.tell(&peer.to_string(), start), Some(0));
        }
        assert_eq!(told.tell("one more", start), Some(0));
        assert_eq!(told.tell("and another", start), None);
        assert_eq!(told.tell("5", start), None);
        assert!(told.0.len() <= MAX_PEERS + 1);
        // A minute later there is room again.
        let later = start + EVERY;
        assert_eq!(told.tell("one more", later), Some(0));
        assert!(told.0.len() < 3, "{}", told.0.len());
    }
}
