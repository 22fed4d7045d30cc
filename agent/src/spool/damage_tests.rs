//! The spool's files, cut and changed anywhere; and a real process that is killed as it writes them.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    process::{Command, Stdio},
};

use proptest::prelude::*;

use super::{disk_tests::*, tests::*, *};

/// Opens what is left of 30 events, each in a transaction of its own, after the damage.
fn holds(place: &Place, file: &str, damage: impl FnOnce(&mut Vec<u8>)) {
    let spool = place.open().0;
    (0..30).for_each(|n| commit(&spool, n, "p", &[("a", Some("1"))]));
    let before = all(&spool);
    let other = killed(place);
    drop(spool);
    after_damage(&other, file, damage, &before);
}

fn after_damage(other: &Place, file: &str, damage: impl FnOnce(&mut Vec<u8>), before: &[(u64, v1::Event)]) {
    let used: BTreeSet<_> = before.iter().map(|(_, event)| key(event)).collect();
    let path = other.store(file);
    let mut bytes = fs::read(&path).unwrap();
    damage(&mut bytes);
    fs::write(&path, bytes).unwrap();

    let (spool, saved) = other.open();
    let there = all(&spool);
    assert!(there.iter().all(|entry| before.contains(entry)), "nothing but what was written");
    (0..3).for_each(|_| spool.push(&mut vec![event("new", 99)], at(99), &mut Vec::new()));
    for (_, event) in all(&spool).iter().filter(|(_, event)| event.session_id == "new") {
        assert!(!used.contains(&key(event)), "{event:?}");
    }
    let missing = before.len() as u64 - there.len() as u64;
    let told = gaps(&spool);
    let count: u64 = told.iter().map(v1::Gap::count).sum();
    assert!(missing == 0 || !told.is_empty(), "{missing} missing, {saved:?}");
    if file != "mark" {
        assert_eq!(count, missing, "{told:?}");
        assert_eq!(spool.gone(v1::SeqRange { first: 1, last: 33 }).iter().map(length).sum::<u64>(), missing);
    }
    if missing > 0 {
        assert_eq!(saved.source, None, "a position without its events");
    }
}

fn length(range: &v1::SeqRange) -> u64 {
    range.last - range.first + 1
}

fn key(event: &v1::Event) -> (u64, u64) {
    event.id.as_ref().map(|id| (id.epoch, id.seq)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_cut_or_flipped_no_number_is_given_twice_and_nothing_is_missing_untold(
        file in prop_oneof![Just("store.db-wal"), Just("store.db"), Just("store.db-shm"), Just("mark")],
        at in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        holds(&Place::new(), file, |bytes| {
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] ^= 0x55 }
        });
    }
}

/// Each byte of headers, of the mark, and around the ends of pages and of the log's frames; of what is between them, one
/// in so many.
#[test]
fn wherever_a_file_is_cut_what_is_gone_is_counted() {
    const PAGE: usize = 4096;
    const FRAME: usize = PAGE + 24;
    let place = Place::new();
    let spool = place.open().0;
    (0..3).for_each(|n| commit(&spool, n, "p", &[("a", Some("1"))]));
    // Half in the tables, half in the log.
    let other = rusqlite::Connection::open(place.store("store.db")).unwrap();
    other.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    (3..6).for_each(|n| commit(&spool, n, "p", &[("a", Some("2"))]));
    let before = all(&spool);
    for (file, head, step) in [("store.db", 0, PAGE), ("store.db-wal", 32, FRAME), ("mark", 0, usize::MAX)] {
        let length = fs::metadata(place.store(file)).unwrap().len();
        for cut in 0..usize::try_from(length).unwrap() {
            let within = cut.checked_sub(head).map_or(0, |cut| cut % step);
            let near = cut < head || within < 28 || step - within < 3 || cut % 509 == 0;
            if near || file == "mark" {
                after_damage(&killed(&place), file, |bytes| bytes.truncate(cut), &before);
            }
        }
    }
}

/// Where the child is to write; it says each number that was kept, and each that was taken to be sent.
const DIR: &str = "PODTRAIL_TEST_SPOOL";

/// No test of its own: what [`a_process_that_is_killed_as_it_writes_loses_nothing_that_it_kept`] kills.
#[test]
fn child() {
    let Some(dir) = env::var_os(DIR) else { return };
    let place = Place::new();
    let disk = Disk { dir: dir.into(), max_bytes: 4 << 20, ..place.disk.clone() };
    let (spool, saved) = Spool::open(&place.node, place.options, &disk, at(1_000_000).wall).unwrap();
    assert_eq!(saved.findings, Vec::<String>::new());
    let mut out = std::io::stdout().lock();
    let mut number = spool.fill().last_seq.cast_signed();
    loop {
        let mut events: Vec<_> = (0..1 + number % 5).map(|n| event("s", number + 1 + n)).collect();
        number += i64::try_from(events.len()).unwrap();
        let position = number.to_le_bytes().to_vec();
        let state = Changes(vec![(b"n".to_vec(), Some(position.clone()))]);
        let batch = Batch { events: &mut events, position, state, last: false, may_wait: true };
        let kept = spool.commit(batch, at(number), &mut Vec::new());
        let acked = spool.fill().acked_seq;
        let sent = spool.take(acked, 3, usize::MAX).last().map_or(0, |last| last.seq);
        if number % 3 == 0 {
            assert!(spool.ack(sent));
        }
        writeln!(out, "{number} {kept} {sent}").unwrap();
    }
}

#[test]
fn a_process_that_is_killed_as_it_writes_loses_nothing_that_it_kept() {
    let place = Place::new();
    let mut random = fastrand::Rng::with_seed(7);
    // Of each number that anybody saw, what came with it.
    let mut seen: BTreeMap<(u64, u64), Vec<u8>> = BTreeMap::new();
    for _ in 0..12 {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "spool::damage_tests::child", "--nocapture"]);
        let mut child =
            command.env(DIR, place.dir.path()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut last = None;
        let mut say = |line: String| {
            let mut words = line.split(' ');
            let number = words.next()?.parse::<u64>().ok()?;
            let kept = words.next()?.parse::<bool>().ok()?;
            let sent = words.next()?.parse::<u64>().ok()?;
            last = Some((number, kept, sent));
            last
        };
        // However it is killed: as it starts, or in the middle of its work.
        let work = random.usize(0..400);
        let begun = lines.by_ref().filter_map(&mut say).take(work).count();
        assert_eq!(begun, work, "the child ended by itself");
        child.kill().unwrap();
        lines.for_each(|line| _ = say(line));
        child.wait().unwrap();

        let (spool, saved) = place.open();
        assert_eq!(saved.findings, Vec::<String>::new());
        let newest = spool.fill().last_seq;
        if let Some((number, kept, sent)) = last {
            assert!(!kept || newest >= number, "{number} was kept, and {newest} is there");
            assert!(newest >= sent, "{sent} was sent, and {newest} is the newest number");
            assert_eq!(saved.source, Some(newest.to_le_bytes().to_vec()), "as of the newest event");
            assert_eq!(saved.state.get(&b"n"[..]), saved.source.as_ref());
        }
        let there = all(&spool);
        let numbers: Vec<u64> = there.iter().map(|(cursor, _)| *cursor).collect();
        let first = numbers.first().copied().unwrap_or(newest + 1);
        assert!(first <= spool.fill().acked_seq + 1, "nothing is gone but what is acknowledged");
        assert_eq!(numbers, (first..=newest).collect::<Vec<_>>(), "no number is missing");
        for (_, event) in there {
            assert_eq!(event.time.unwrap().seconds, key(&event).1.cast_signed(), "its own number");
            let bytes = prost::Message::encode_to_vec(&event);
            assert_eq!(*seen.entry(key(&event)).or_insert_with(|| bytes.clone()), bytes);
        }
    }
    assert!(seen.len() > 500, "{} events", seen.len());
}
