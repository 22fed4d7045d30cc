use std::{collections::BTreeSet, io::Write as _};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// An audit log as an API server writes it.
struct Audit {
    dir: TempDir,
    next: usize,
    rotations: usize,
}

fn line(id: usize) -> String {
    format!(
        r#"{{"kind":"Event","apiVersion":"audit.k8s.io/v1","auditID":"{id}","stage":"ResponseStarted","stageTimestamp":"2026-11-22T19:23:51Z","requestURI":"/x?command=id","objectRef":{{"resource":"pods","subresource":"exec","namespace":"n","name":"p"}}}}"#
    )
}

impl Audit {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), next: 0, rotations: 0 }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("audit.log")
    }

    fn write(&self, bytes: &[u8]) {
        let mut file = File::options().create(true).append(true).open(self.path()).unwrap();
        file.write_all(bytes).unwrap();
    }

    /// So many more lines.
    fn log(&mut self, lines: usize) {
        for id in self.next..self.next + lines {
            self.write(format!("{}\n", line(id)).as_bytes());
        }
        self.next += lines;
    }

    /// As the API server itself does it.
    fn rotate(&mut self) {
        self.rotations += 1;
        let name = format!("audit-2026-11-22T19-23-51.{:03}.log", self.rotations);
        fs::rename(self.path(), self.dir.path().join(name)).unwrap();
        self.write(b"");
    }

    /// As logrotate does it.
    fn logrotate(&self) {
        let name = |n: usize| self.dir.path().join(format!("audit.log.{n}"));
        for n in (1..100).rev().filter(|n| name(*n).exists()) {
            fs::rename(name(n), name(n + 1)).unwrap();
        }
        fs::rename(self.path(), name(1)).unwrap();
        self.write(b"");
    }

    fn follow(&self, position: Option<Position>) -> Follower {
        Follower::new(self.path(), position, 1 << 20)
    }
}

/// What there is now: ids in their order, holes, and where that leaves it.
fn drain(follower: &mut Follower) -> (Vec<usize>, Vec<Hole>, Option<Position>) {
    let (mut ids, mut holes, mut at) = (Vec::new(), Vec::new(), None);
    let mut nothing = 0;
    // Twice: a file that has lost its name is looked at once more.
    while nothing < 2 {
        let Some(chunk) = follower.step().unwrap() else {
            nothing += 1;
            continue;
        };
        nothing = 0;
        let Chunk { batch, holes: more, position, moved: _ } = chunk;
        ids.extend(batch.requests.iter().map(|request| request.audit_id.parse::<usize>().unwrap()));
        holes.extend(more);
        follower.accept(position.clone());
        at = Some(position);
    }
    (ids, holes, at)
}

fn whys(holes: &[Hole]) -> Vec<(u64, bool, &str)> {
    holes.iter().map(|hole| (hole.count, hole.exact, hole.why.as_str())).collect()
}

#[test]
fn a_file_is_read_as_it_grows_and_half_a_line_waits() {
    let mut audit = Audit::new();
    let mut follower = audit.follow(None);
    assert!(follower.step().unwrap().is_none(), "there is none yet");
    audit.log(3);
    assert_eq!(drain(&mut follower).0, [0, 1, 2]);
    let whole = line(3);
    let (half, rest) = whole.split_at(100);
    audit.write(half.as_bytes());
    assert_eq!(drain(&mut follower).0, [0; 0]);
    audit.write(rest.as_bytes());
    assert_eq!(drain(&mut follower).0, [0; 0], "its end may be a part of what follows");
    audit.write(b"\n\n  \n");
    let (ids, holes, _) = drain(&mut follower);
    assert_eq!((ids, holes), (vec![3], vec![]));
}

#[test]
fn what_was_not_accepted_comes_again() {
    let mut audit = Audit::new();
    audit.log(2);
    let mut follower = audit.follow(None);
    for _ in 0..3 {
        let chunk = follower.step().unwrap().unwrap();
        assert!(chunk.moved && chunk.batch.requests.is_empty());
    }
    let start = follower.step().unwrap().unwrap().position;
    follower.accept(start);
    for _ in 0..3 {
        assert_eq!(follower.step().unwrap().unwrap().batch.requests.len(), 2);
    }
    // Also a hole, and the step into the next file.
    let mut gone = follower.step().unwrap().unwrap().position;
    gone.inode = 1;
    let mut follower = audit.follow(Some(gone));
    for _ in 0..3 {
        assert_eq!(follower.step().unwrap().unwrap().holes.len(), 1);
    }
    drain(&mut follower);
    audit.write(line(7).as_bytes());
    audit.rotate();
    assert!(follower.step().unwrap().is_none());
    for _ in 0..3 {
        let chunk = follower.step().unwrap().unwrap();
        assert_eq!((chunk.batch.requests.len(), chunk.moved), (1, true));
    }
}

#[test]
fn several_rotations_between_two_looks_are_no_hole() {
    for numbered in [false, true] {
        let mut audit = Audit::new();
        audit.log(2);
        let mut follower = audit.follow(None);
        assert_eq!(drain(&mut follower).0, [0, 1]);
        for _ in 0..5 {
            audit.log(3);
            if numbered { audit.logrotate() } else { audit.rotate() }
        }
        audit.log(1);
        let (ids, holes, _) = drain(&mut follower);
        assert_eq!((ids, holes), ((2..18).collect(), vec![]), "numbered: {numbered}");
    }
}

#[test]
fn what_was_compressed_before_it_was_read_is_a_hole_that_says_so() {
    let stamp = |path: &Path, seconds| {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    };
    let why = "1 rotated file was compressed before it was read: leave out --audit-log-compress, or have logrotate delay it";
    // At once after each rotation, with the time of that or with that of the file.
    for keeps_time in [false, true] {
        let mut audit = Audit::new();
        let write = |audit: &mut Audit, lines, seconds| {
            audit.log(lines);
            stamp(&audit.path(), seconds);
        };
        let zip = |audit: &mut Audit, seconds| {
            audit.rotate();
            let path = audit.dir.path().join(format!("audit-2026-11-22T19-23-51.{:03}.log", audit.rotations));
            let zipped = path.with_extension("log.gz");
            fs::write(&zipped, b"\x1f\x8b").unwrap();
            fs::remove_file(path).unwrap();
            stamp(&zipped, if keeps_time { seconds } else { seconds + 1 });
        };
        write(&mut audit, 2, 10);
        let mut follower = Follower::new(audit.path(), None, 4096);
        assert_eq!(drain(&mut follower).0, [0, 1]);
        // One that is open is read to its end, whatever becomes of its name.
        write(&mut audit, 1, 11);
        zip(&mut audit, 11);
        write(&mut audit, 1, 20);
        let (ids, holes, _) = drain(&mut follower);
        assert_eq!((ids, holes), (vec![2, 3], vec![]));
        // One between two looks is not.
        zip(&mut audit, 20);
        write(&mut audit, 5, 30);
        zip(&mut audit, 30);
        write(&mut audit, 1, 40);
        let (ids, holes, position) = drain(&mut follower);
        assert_eq!(ids, [9]);
        assert_eq!(whys(&holes), [(0, false, why)]);
        // Nor the one that was read, where nobody has it open.
        write(&mut audit, 1, 41);
        zip(&mut audit, 41);
        write(&mut audit, 1, 50);
        let mut follower = Follower::new(audit.path(), position, 4096);
        let (ids, holes, _) = drain(&mut follower);
        assert_eq!(ids, [11]);
        let gone = format!("the file that was read before is gone, and {why}");
        assert_eq!(whys(&holes), [(0, false, &*gone)]);
    }
}

#[test]
fn what_has_another_name_is_not_its_own() {
    let mut audit = Audit::new();
    audit.log(1);
    let mut follower = audit.follow(None);
    drain(&mut follower);
    audit.log(1);
    audit.rotate();
    for name in
        ["audit-copy.log", "audit.log.1.gz", "audit.log.bak", "audit2.log", "other.log", "audit-1.txt"]
    {
        fs::write(audit.dir.path().join(name), format!("{}\n", line(100))).unwrap();
    }
    audit.log(1);
    assert_eq!(drain(&mut follower).0, [1, 2]);
}

#[test]
fn a_file_that_is_cut_is_a_hole_and_read_anew() {
    let mut audit = Audit::new();
    audit.log(3);
    let mut follower = audit.follow(None);
    drain(&mut follower);
    File::options().write(true).open(audit.path()).unwrap().set_len(0).unwrap();
    audit.log(1);
    let cut = (0, false, "it was cut: what was not read before is gone");
    let (ids, holes, _) = drain(&mut follower);
    assert_eq!((ids, whys(&holes)), (vec![3], vec![cut]));
    // Also where it has grown beyond what it was meanwhile.
    File::options().write(true).open(audit.path()).unwrap().set_len(0).unwrap();
    audit.log(5);
    let (ids, holes, at) = drain(&mut follower);
    assert_eq!((ids, whys(&holes)), ((4..9).collect(), vec![cut]));
    // And while nobody looked: that is another file with its number.
    File::options().write(true).open(audit.path()).unwrap().set_len(0).unwrap();
    audit.log(9);
    let (ids, holes, _) = drain(&mut audit.follow(at));
    let gone = (0, false, "the file that was read before is gone, or was cut");
    assert_eq!((ids, whys(&holes)), ((9..18).collect(), vec![gone]));
}

#[test]
fn a_restart_goes_on_where_it_was_also_in_a_file_that_was_rotated() {
    for rotations in 0..4 {
        let mut audit = Audit::new();
        audit.log(4);
        let (ids, _, at) = drain(&mut audit.follow(None));
        assert_eq!(ids, [0, 1, 2, 3]);
        audit.log(2);
        for _ in 0..rotations {
            audit.rotate();
            audit.log(2);
        }
        let at = Position::decode(&at.unwrap().encode().unwrap()).unwrap();
        let (ids, holes, _) = drain(&mut audit.follow(Some(at)));
        assert_eq!((ids, holes), ((4..6 + 2 * rotations).collect(), vec![]), "{rotations}");
    }
}

#[test]
fn a_file_that_is_gone_is_a_hole_and_the_next_is_read() {
    let mut audit = Audit::new();
    audit.log(2);
    let (_, _, at) = drain(&mut audit.follow(None));
    audit.log(2);
    for _ in 0..2 {
        audit.rotate();
        audit.log(2);
    }
    fs::remove_file(audit.dir.path().join("audit-2026-11-22T19-23-51.001.log")).unwrap();
    let (ids, holes, _) = drain(&mut audit.follow(at.clone()));
    let gone = (0, false, "the file that was read before is gone, or was cut");
    assert_eq!((ids, whys(&holes)), ((4..8).collect(), vec![gone]));
    assert_eq!(holes[0].since, Some(at.unwrap().written()));
    // One that is open is read to its end, whatever becomes of its name.
    let mut audit = Audit::new();
    audit.log(1);
    let mut follower = audit.follow(None);
    drain(&mut follower);
    audit.log(2);
    fs::remove_file(audit.path()).unwrap();
    assert_eq!(drain(&mut follower).0, [1, 2]);
    audit.log(1);
    let (ids, holes, _) = drain(&mut follower);
    assert_eq!((ids, holes), (vec![3], vec![]));
}

#[test]
fn lines_that_are_no_audit_are_counted() {
    let mut audit = Audit::new();
    audit.log(1);
    audit.write(b"\xff\x00\n{}\n");
    audit.log(1);
    let (ids, holes, _) = drain(&mut audit.follow(None));
    assert_eq!(ids, [0, 1]);
    assert_eq!(holes.len(), 1);
    assert_eq!((holes[0].count, holes[0].exact), (2, true));
    assert!(holes[0].why.starts_with("a line is no audit event: it is no JSON: "), "{holes:?}");
    // A file that ends in the middle of a line, and another after it.
    let mut follower = audit.follow(None);
    drain(&mut follower);
    audit.write(&line(5).as_bytes()[..50]);
    audit.rotate();
    let (ids, holes, _) = drain(&mut follower);
    assert_eq!((ids, whys(&holes)), (vec![], vec![(1, true, "its last line is not whole")]));
}

#[test]
fn a_line_without_end_is_passed_over() {
    let mut audit = Audit::new();
    audit.log(1);
    let short = |at| Follower::new(audit.path(), at, 2000);
    audit.write(&vec![b'x'; 2001]);
    let told = (1, true, "a line has more than 2000 bytes: raise --audit-max-body");
    let mut follower = short(None);
    let (ids, holes, at) = drain(&mut follower);
    assert_eq!((ids, whys(&holes)), (vec![0], vec![told]));
    audit.write(&vec![b'y'; 50_000]);
    assert_eq!(drain(&mut follower).1, [], "told once");
    audit.write(b"z\n");
    audit.write(format!("{}\n", line(1)).as_bytes());
    for mut follower in [follower, short(at)] {
        let (ids, holes, _) = drain(&mut follower);
        assert_eq!((ids, holes), (vec![1], vec![]));
    }
    // One that is just as long as it may be.
    let (mut whole, less) = (line(2), line(2).len());
    whole.insert_str(1, &" ".repeat(2000 - less));
    audit.write(format!("{whole}\n").as_bytes());
    assert_eq!(drain(&mut short(None)).0, [0, 1, 2]);
}

#[derive(Clone, Debug)]
enum Act {
    Log(usize),
    /// a line of which the rest comes with the next
    Half,
    Rotate,
    Step(usize),
    Restart,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (1..5usize).prop_map(Act::Log),
        Just(Act::Half),
        Just(Act::Rotate),
        (1..6usize).prop_map(Act::Step),
        Just(Act::Restart),
    ]
}

fn play(acts: &[Act], numbered: bool) {
    let mut audit = Audit::new();
    let mut follower = audit.follow(None);
    let (mut at, mut half, mut restarted) = (None, None, false);
    let mut seen: Vec<usize> = Vec::new();
    let take = |chunk: Chunk, follower: &mut Follower, seen: &mut Vec<usize>, at: &mut Option<Position>| {
        assert_eq!(chunk.holes, []);
        seen.extend(chunk.batch.requests.iter().map(|r| r.audit_id.parse::<usize>().unwrap()));
        follower.accept(chunk.position.clone());
        *at = Some(chunk.position);
    };
    let finish = |audit: &mut Audit, half: &mut Option<String>| {
        if let Some(rest) = half.take() {
            audit.write(format!("{rest}\n").as_bytes());
        }
    };
    for act in acts {
        match act {
            Act::Log(lines) => {
                finish(&mut audit, &mut half);
                audit.log(*lines);
            }
            Act::Half => {
                finish(&mut audit, &mut half);
                let whole = line(audit.next);
                let (first, rest) = whole.split_at(whole.len() / 2);
                audit.write(first.as_bytes());
                half = Some(rest.to_owned());
                audit.next += 1;
            }
            Act::Rotate => {
                finish(&mut audit, &mut half);
                // An empty one is not rotated.
                if Path::new(&audit.path()).metadata().is_ok_and(|meta| meta.len() > 0) {
                    if numbered { audit.logrotate() } else { audit.rotate() }
                }
            }
            Act::Step(times) => {
                for _ in 0..*times {
                    if let Some(chunk) = follower.step().unwrap() {
                        take(chunk, &mut follower, &mut seen, &mut at);
                    }
                }
            }
            Act::Restart => {
                restarted = true;
                follower = audit.follow(at.clone());
            }
        }
    }
    finish(&mut audit, &mut half);
    let mut nothing = 0;
    while nothing < 2 {
        match follower.step().unwrap() {
            Some(chunk) => {
                nothing = 0;
                take(chunk, &mut follower, &mut seen, &mut at);
            }
            None => nothing += 1,
        }
    }
    // Before the first position is kept there is none to go on from: rotated files from then are not read.
    let all: BTreeSet<usize> = seen.iter().copied().collect();
    let first = all.first().copied().unwrap_or(audit.next);
    assert_eq!(all, (first..audit.next).collect(), "{acts:?}");
    // Files of the very same moment may be read again after a restart; the intake knows what it has.
    assert!(restarted || seen == (first..audit.next).collect::<Vec<_>>(), "{seen:?} of {acts:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_happens_every_line_is_read(acts in prop::collection::vec(act(), 1..40), numbered: bool) {
        play(&acts, numbered);
    }
}
