//! What was kept lately, so that what comes again is stored once: requests of the audit, Events of the Kubernetes API.
//!
//! Ids are often a client's to choose: the whole of what is kept is compared, by a hash. The hashes are in the log's
//! database, written with their events.

use std::collections::{HashSet, VecDeque};

use sha2::{Digest as _, Sha256};

use super::print::{self, Print};
use crate::{
    collector::log::{Beside, DiskLog},
    trail::log::LogError,
};

/// How many are remembered. An API server tries for some minutes; this is what a busy cluster has in hours.
const MAX: usize = 100_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Seen {
    /// what its keys begin with
    prefix: &'static [u8],
    prints: HashSet<Print>,
    /// oldest first, each with the number it is stored under
    order: VecDeque<(u64, Print)>,
    next: u64,
}

impl Seen {
    fn new(prefix: &'static [u8]) -> Self {
        Self { prefix, prints: HashSet::new(), order: VecDeque::new(), next: 0 }
    }

    pub(super) fn load(log: &DiskLog, prefix: &'static [u8]) -> Result<Self, LogError> {
        let mut this = Self::new(prefix);
        for (key, value) in log.beside(prefix)? {
            let number = key.strip_prefix(prefix).and_then(|number| number.try_into().ok());
            if let (Some(number), Ok(print)) = (number.map(u64::from_be_bytes), value.try_into()) {
                this.next = number.saturating_add(1);
                this.order.push_back((number, print));
                this.prints.insert(print);
            }
        }
        Ok(this)
    }

    /// Whether it is new; then `beside` is what is to be written with it. It counts as written from here on: who cannot
    /// write it has to load anew.
    pub(super) fn add(&mut self, print: Print, beside: &mut Vec<Beside>) -> bool {
        if !self.prints.insert(print) {
            return false;
        }
        beside.push(Beside { key: self.key(self.next), value: Some(print.to_vec()) });
        self.order.push_back((self.next, print));
        self.next = self.next.wrapping_add(1);
        while self.order.len() > MAX
            && let Some((number, oldest)) = self.order.pop_front()
        {
            self.prints.remove(&oldest);
            beside.push(Beside { key: self.key(number), value: None });
        }
        true
    }

    fn key(&self, number: u64) -> Vec<u8> {
        [self.prefix, &number.to_be_bytes()].concat()
    }

    /// Of all that is kept of something, as bytes.
    pub(super) fn print(cluster: &str, kept: &[u8]) -> Print {
        let mut hash = Sha256::new();
        hash.update(u64::try_from(cluster.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(cluster);
        hash.update(kept);
        print::of(hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &[u8] = b"test/seen/";

    fn print(cluster: &str, kept: usize) -> Print {
        Seen::print(cluster, kept.to_string().as_bytes())
    }

    fn key(number: u64) -> Vec<u8> {
        [PREFIX, &number.to_be_bytes()].concat()
    }

    #[test]
    fn each_once_also_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let log = DiskLog::open(dir.path()).unwrap();
        let (mut seen, mut beside) = (Seen::load(&log, PREFIX).unwrap(), Vec::new());
        assert!(seen.add(print("c", 1), &mut beside));
        assert!(!seen.add(print("c", 1), &mut beside));
        assert!(seen.add(print("d", 1), &mut beside), "the same of another cluster is another");
        assert!(seen.add(print("c", 11), &mut beside));
        log.append_with(vec![], &beside).unwrap();
        drop(log);
        let log = DiskLog::open(dir.path()).unwrap();
        let (mut seen, mut beside) = (Seen::load(&log, PREFIX).unwrap(), Vec::new());
        assert!(!seen.add(print("c", 1), &mut beside) && !seen.add(print("c", 11), &mut beside));
        assert!(seen.add(print("c", 2), &mut beside));
        assert_eq!(beside[0].key, key(3), "numbers go on");
    }

    #[test]
    fn the_oldest_are_forgotten_in_memory_and_on_disk() {
        let (mut seen, mut beside) = (Seen::new(PREFIX), Vec::new());
        for n in 0..MAX + 10 {
            assert!(seen.add(print("c", n), &mut beside));
        }
        assert_eq!((seen.order.len(), seen.prints.len()), (MAX, MAX));
        let gone: Vec<_> = beside.iter().filter(|b| b.value.is_none()).map(|b| b.key.clone()).collect();
        assert_eq!(gone, (0..10).map(key).collect::<Vec<_>>());
        assert!(!seen.add(print("c", 10), &mut beside) && seen.add(print("c", 0), &mut beside));
    }
}
