use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use super::*;
use crate::trail::testing::{SECOND, event, exited};

fn some(seq: u64) -> Arc<v1::Event> {
    Arc::new(event("n", seq, 0, "", exited()))
}

fn cursors(entries: &[Entry]) -> Vec<Cursor> {
    entries.iter().map(|e| e.cursor).collect()
}

fn clock(now: &Arc<AtomicI64>) -> Clock {
    let now = now.clone();
    Arc::new(move || Moment(now.load(Ordering::Relaxed) * SECOND))
}

#[test]
fn the_oldest_go_first_and_cursors_go_on() {
    let each = some(1).encoded_len() as u64;
    let log = MemoryLog::new(each * 3);
    assert_eq!(log.bounds().unwrap(), Bounds { oldest: 1, ..Bounds::default() });
    assert_eq!(log.append((1..=5).map(some).collect()).unwrap(), 5);
    assert_eq!(cursors(&log.read(0, Page::SCAN).unwrap()), [3, 4, 5]);
    assert_eq!(cursors(&log.read(4, Page::SCAN).unwrap()), [5]);
    assert_eq!(cursors(&log.read(9, Page::SCAN).unwrap()), [0; 0]);
    assert_eq!(cursors(&log.get(&[1, 3, 5, 9], Page::SCAN).unwrap()), [3, 5]);
    let bounds = log.bounds().unwrap();
    assert_eq!((bounds.oldest, bounds.newest, bounds.events, bounds.bytes), (3, 5, 3, each * 3));
    assert_eq!(*log.newest().borrow(), 5);
    assert_eq!(log.append(vec![]).unwrap(), 5);
}

#[test]
fn pages_end_by_count_and_by_bytes_but_never_empty() {
    let each = some(1).encoded_len();
    let log = MemoryLog::new(u64::MAX);
    log.append((1..=5).map(some).collect()).unwrap();
    let page = |max_events, max_bytes| Page { max_events, max_bytes };
    assert_eq!(cursors(&log.read(0, page(2, usize::MAX)).unwrap()), [1, 2]);
    assert_eq!(cursors(&log.read(0, page(9, each * 3)).unwrap()), [1, 2, 3]);
    assert_eq!(cursors(&log.read(0, page(9, 1)).unwrap()), [1]);
    assert_eq!(cursors(&log.get(&[2, 3, 4], page(9, each * 2)).unwrap()), [2, 3]);
}

#[test]
fn places_in_time_and_trimming_by_age() {
    let now = Arc::new(AtomicI64::new(100));
    let log = MemoryLog::with_clock(u64::MAX, clock(&now));
    log.append(vec![some(1), some(2)]).unwrap();
    now.store(200, Ordering::Relaxed);
    log.append(vec![some(3)]).unwrap();
    now.store(150, Ordering::Relaxed); // a clock set back
    log.append(vec![some(4)]).unwrap();
    assert_eq!(log.seek(Moment(50 * SECOND)).unwrap(), 0);
    assert_eq!(log.seek(Moment(100 * SECOND)).unwrap(), 0);
    assert_eq!(log.seek(Moment(101 * SECOND)).unwrap(), 2);
    assert_eq!(log.seek(Moment(201 * SECOND)).unwrap(), 4);

    now.store(210, Ordering::Relaxed);
    let limits = Limits { max_age: Duration::from_secs(50), max_bytes: u64::MAX };
    assert_eq!(log.trim(&limits).unwrap(), 2);
    assert_eq!(cursors(&log.read(0, Page::SCAN).unwrap()), [3, 4]);
    assert_eq!(log.trim(&Limits { max_age: Duration::MAX, max_bytes: 0 }).unwrap(), 2);
    assert_eq!(log.bounds().unwrap(), Bounds { oldest: 5, newest: 4, ..Bounds::default() });
    assert_eq!(log.append(vec![some(5)]).unwrap(), 5);
}

#[test]
fn one_event_is_kept_whatever_its_size() {
    let log = MemoryLog::new(1);
    log.append(vec![some(1), some(2)]).unwrap();
    assert_eq!(cursors(&log.read(0, Page::SCAN).unwrap()), [2]);
}
