//! What was kept lately, so that a batch that comes again is stored once.
//!
//! `auditID` is the client's to choose: the whole of what is kept is compared, by a hash. The hashes are in the log's
//! database, written with their events.

use std::collections::{HashSet, VecDeque};

use podtrail_proto::v1;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::{
    collector::log::{Beside, DiskLog},
    trail::log::LogError,
};

/// Requests remembered. An API server tries for some minutes; this is what a busy cluster has in hours.
const MAX: usize = 100_000;
const PREFIX: &[u8] = b"audit/seen/";

/// Stands for a request in one of its stages.
type Print = [u8; 16];

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Seen {
    prints: HashSet<Print>,
    /// oldest first, each with the number it is stored under
    order: VecDeque<(u64, Print)>,
    next: u64,
}

impl Seen {
    pub(super) fn load(log: &DiskLog) -> Result<Self, LogError> {
        let mut this = Self::default();
        for (key, value) in log.beside(PREFIX)? {
            let number = key.strip_prefix(PREFIX).and_then(|number| number.try_into().ok());
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
    pub(super) fn add(&mut self, cluster: &str, request: &v1::ApiRequest, beside: &mut Vec<Beside>) -> bool {
        let print = print(cluster, request);
        if !self.prints.insert(print) {
            return false;
        }
        beside.push(Beside { key: key(self.next), value: Some(print.to_vec()) });
        self.order.push_back((self.next, print));
        self.next = self.next.wrapping_add(1);
        while self.order.len() > MAX
            && let Some((number, oldest)) = self.order.pop_front()
        {
            self.prints.remove(&oldest);
            beside.push(Beside { key: key(number), value: None });
        }
        true
    }
}

fn key(number: u64) -> Vec<u8> {
    [PREFIX, &number.to_be_bytes()].concat()
}

/// Whichever way it came.
fn print(cluster: &str, request: &v1::ApiRequest) -> Print {
    debug_assert!(request.source.is_empty(), "the same request comes by several ways");
    let mut hash = Sha256::new();
    hash.update(u64::try_from(cluster.len()).unwrap_or(u64::MAX).to_be_bytes());
    hash.update(cluster);
    hash.update(request.encode_to_vec());
    let hash: [u8; 32] = hash.finalize().into();
    let mut print = Print::default();
    print.copy_from_slice(&hash[..16]);
    print
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(n: usize) -> v1::ApiRequest {
        v1::ApiRequest { audit_id: n.to_string(), ..v1::ApiRequest::default() }
    }

    #[test]
    fn each_once_also_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let log = DiskLog::open(dir.path()).unwrap();
        let (mut seen, mut beside) = (Seen::load(&log).unwrap(), Vec::new());
        assert!(seen.add("c", &request(1), &mut beside));
        assert!(!seen.add("c", &request(1), &mut beside));
        assert!(seen.add("d", &request(1), &mut beside), "the same of another cluster is another");
        let other = v1::ApiRequest { stage: "ResponseComplete".to_owned(), ..request(1) };
        assert!(seen.add("c", &other, &mut beside));
        log.append_with(vec![], &beside).unwrap();
        drop(log);
        let log = DiskLog::open(dir.path()).unwrap();
        let (mut seen, mut beside) = (Seen::load(&log).unwrap(), Vec::new());
        assert!(!seen.add("c", &request(1), &mut beside) && !seen.add("c", &other, &mut beside));
        assert!(seen.add("c", &request(2), &mut beside));
        assert_eq!(beside[0].key, key(3), "numbers go on");
    }

    #[test]
    fn the_oldest_are_forgotten_in_memory_and_on_disk() {
        let (mut seen, mut beside) = (Seen::default(), Vec::new());
        for n in 0..MAX + 10 {
            assert!(seen.add("c", &request(n), &mut beside));
        }
        assert_eq!((seen.order.len(), seen.prints.len()), (MAX, MAX));
        let gone: Vec<_> = beside.iter().filter(|b| b.value.is_none()).map(|b| b.key.clone()).collect();
        assert_eq!(gone, (0..10).map(key).collect::<Vec<_>>());
        assert!(!seen.add("c", &request(10), &mut beside) && seen.add("c", &request(0), &mut beside));
    }
}
