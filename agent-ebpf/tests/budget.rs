//! What a session may take: shares of the ring, as floods come to fill it, and the budget of argument bytes.

use podtrail_ebpf::{
    budget::{ARGV_PERIOD_US, Ring, UNDER_WAY_NS, affords, fits, fits_large, held, price, turned},
    layout::Share,
};

const SIZE: u64 = 4 << 20;
const RECORD: u64 = 1700;

/// A ring that nobody reads, with so much in it.
fn ring(filled: u64) -> Ring {
    Ring { size: SIZE, consumed: 1 << 40, produced: (1 << 40) + filled }
}

/// So many sessions put in all that they may, in turn, `each` of them in a container; the bytes that are left.
fn flooded(sessions: usize, each: usize) -> u64 {
    let mut held = vec![0_u64; sessions];
    loop {
        let mut refused = 0;
        for session in 0..sessions {
            let first = session / each * each;
            let container: u64 = held[first..(first + each).min(sessions)].iter().sum();
            if fits(&ring(held.iter().sum()), container + RECORD, held[session] + RECORD) {
                held[session] += RECORD;
            } else {
                refused += 1;
            }
        }
        if refused == sessions {
            return SIZE - held.iter().sum::<u64>();
        }
    }
}

fn commands_of_another(left: u64, container: u64) -> u64 {
    let mut own = 0;
    while fits(&ring(SIZE - left + own), container + own + 500, own + 500) {
        own += 500;
    }
    own / 500
}

#[test]
fn one_that_floods_leaves_half() {
    let left = flooded(1, 1);
    assert!(left <= SIZE / 2 && left > SIZE / 2 - 2 * RECORD, "{left}");
    assert!(commands_of_another(left, 0) > 1000, "in another container");
    assert!(commands_of_another(left, SIZE / 2) > 300, "in the same one");
}

#[test]
fn those_that_flood_leave_two_parts_of_their_number_and_two() {
    for sessions in [2_u64, 3, 10, 50] {
        let left = flooded(usize::try_from(sessions).unwrap(), 1);
        let part = 2 * SIZE / (sessions + 2);
        assert!(left + (sessions + 2) * RECORD >= part, "{sessions} leave {left} of {part}");
        assert!(commands_of_another(left, 0) > 100, "{sessions}");
    }
}

#[test]
fn more_sessions_of_one_container_are_of_less_use() {
    for sessions in [8, 50, 200] {
        let (apart, together) = (flooded(sessions, 1), flooded(sessions, sessions));
        let part = 8 * SIZE / (sessions as u64 + 8);
        assert!(together + (sessions as u64 + 8) * RECORD >= part, "{sessions} leave {together} of {part}");
        assert!(together >= apart, "{sessions}: {together}, {apart}");
    }
}

#[test]
fn nobody_is_asked_while_half_is_free() {
    assert!(fits(&ring(SIZE / 2), SIZE, SIZE));
    assert!(!fits(&ring(SIZE / 2 + 1), SIZE, SIZE));
}

#[test]
fn what_is_large_has_to_fit_into_the_share_always() {
    assert!(fits_large(&ring(0), SIZE / 2, SIZE / 2));
    assert!(!fits_large(&ring(0), SIZE / 2 + 1, SIZE / 2 + 1), "of one session");
    assert!(fits_large(&ring(0), SIZE, SIZE / 2));
    assert!(!fits_large(&ring(0), SIZE + 1, 1), "of one container");
    assert!(!fits_large(&Ring { size: 64 << 10, consumed: 0, produced: 0 }, 65 << 10, 65 << 10));
}

#[test]
fn a_full_ring_has_room_for_nobody() {
    assert_eq!(ring(SIZE).free(), 0);
    assert!(!fits(&ring(SIZE), 1, 1));
    // Positions are read one after the other: the reader may seem to be ahead.
    assert_eq!(Ring { size: SIZE, consumed: 10, produced: 5 }.free(), SIZE);
}

#[test]
fn a_share_forgets_what_the_reader_has_come_past() {
    let share = Share { mark: 1000, time: 0, before: 70, since: 30 };
    assert_eq!(held(&share), 100);
    let at = |consumed, produced| Ring { size: SIZE, consumed, produced };
    let late = UNDER_WAY_NS + 1;
    assert_eq!(turned(&share, &at(999, 2000), late), None, "some of it may be unread");
    assert_eq!(turned(&share, &at(1000, 2000), UNDER_WAY_NS), None, "some of it may be under way");
    let new = turned(&share, &at(1000, 2000), late).unwrap();
    assert_eq!(new, Share { mark: 2000, time: late, before: 30, since: 0 });
    let newer = turned(&new, &at(2000, 2000), 2 * late).unwrap();
    assert_eq!(held(&newer), 0);
}

#[test]
fn what_two_processors_forgot_at_once_does_no_harm() {
    let share = Share { mark: 0, time: 0, before: 5, since: -70_000 };
    assert_eq!(held(&share), 5);
    assert_eq!(held(&turned(&share, &ring(0), UNDER_WAY_NS + 1).unwrap()), 0);
}

#[test]
fn a_budget_is_given_back_in_its_period() {
    const BUDGET: u32 = 4 << 20;
    let period = ARGV_PERIOD_US * 1000;
    let one = price(64 << 10, BUDGET);
    let (mut spent, mut taken) = (0_u64, 0);
    let now = 1 << 50;
    while affords(spent, now, one) {
        spent = spent.max(now) + one;
        taken += 1;
    }
    assert_eq!(taken, 64);
    assert!(!affords(spent, now + one - 1000, one), "not yet");
    assert!(affords(spent, now + one, one), "one more when one was given back");
    assert!(affords(spent, now + 100 * period, price(u64::from(BUDGET), BUDGET)), "all of it, after a while");
    assert!(!affords(0, now, price(u64::from(BUDGET) + 1, BUDGET)), "and never more than that");
    assert!(!affords(0, now, price(1, 0)));
    assert!(price(u64::from(u32::MAX), u32::MAX) <= period);
}
