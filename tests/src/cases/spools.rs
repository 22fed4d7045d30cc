//! The spool in real life: the agent is killed, its disk is full, its newest rows are gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, ChildStdin, Stdio},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use nix::{
    mount::{MsFlags, mount},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use podtrail_proto::{
    Timestamp,
    v1::{Event, Executed, Gap, GapSource, event::Body},
};

use crate::{
    cases,
    harness::{
        Container, Cx, Session,
        collector::Collector,
        container::ITEST,
        daemon,
        filler::Filler,
        host, leftovers, process,
        session::{self, key},
        until,
    },
};

cases! {
    "spools",
    OwnAgent: killed_again_and_again, killed_with_nothing_pinned, a_full_disk, a_full_disk_and_little_memory,
        the_newest_rows_are_gone
}

/// Commands of one part of a storm.
const PART: u32 = 300;

/// A place for an agent: it may run, be killed, and run again there.
struct Place {
    dir: PathBuf,
    args: Vec<String>,
    metrics: u16,
    child: Option<(Child, Option<ChildStdin>)>,
}

impl Place {
    fn new(cx: &Cx, collector: &Collector, args: &[&str]) -> Result<Self> {
        let dir = host().dir(&cx.unique("place"))?;
        fs::create_dir(dir.join("spool"))?;
        let metrics = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut all = vec!["--collector".to_owned(), collector.url()];
        all.extend(args.iter().copied().map(str::to_owned));
        if !args.contains(&"--pin") {
            all.extend(["--pin".to_owned(), dir.join("pins").display().to_string()]);
        }
        Ok(Self { dir, args: all, metrics, child: None })
    }

    /// Runs it, and waits until it hooks.
    fn start(&mut self) -> Result<()> {
        let mut command = daemon::daemon("podtrail-agent");
        command.args(["run", "--node-name", "itest", "--socket", "none", "--stdout"]);
        command.args(["--metrics-listen", &format!("127.0.0.1:{}", self.metrics)]);
        command.arg("--spool").arg(self.dir.join("spool")).arg("--lock").arg(self.dir.join("agent.lock"));
        let file = |name| File::options().create(true).append(true).open(self.dir.join(name));
        command.args(&self.args).stdin(Stdio::piped()).stdout(file("told")?).stderr(file("log")?);
        let mut child = command.spawn().context("cannot start an agent")?;
        let lifeline = child.stdin.take();
        self.child = Some((child, lifeline));
        until("the agent is ready", || self.is_ready()).with_context(|| self.logged())
    }

    fn end(&mut self, signal: Signal) -> Result<()> {
        let (mut child, _lifeline) = self.child.take().context("it does not run")?;
        kill(Pid::from_raw(child.id().cast_signed()), signal)?;
        process::reap(&mut child, "the agent ends")?;
        Ok(())
    }

    fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.metrics))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: itest\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    fn is_ready(&self) -> bool {
        self.get("/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 "))
    }

    /// The value of a metric by its name, labels and all.
    fn metric(&self, name: &str) -> Result<u64> {
        let all = self.get("/metrics")?;
        let line = all.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(Ok(0), |value| Ok(value.trim().parse()?))
    }

    /// Waits until so many commands of a part are in the spool: what is printed was kept before.
    fn wait(&self, storm: &Storm, part: &str, count: usize) -> Result<()> {
        let command = format!("[\"/bin/true\",\"{}\"", storm.name(part));
        let kept = || fs::read_to_string(self.dir.join("told")).map(|told| told.matches(&command).count());
        until(&format!("{count} of part {part} are kept"), || kept().is_ok_and(|kept| kept >= count))
            .with_context(|| self.logged())
    }

    fn logged(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.child.is_some()
            && let Err(e) = self.end(Signal::SIGTERM)
        {
            eprintln!("cannot end an agent: {e:#}");
        }
        if let Err(e) = leftovers::unpin(&self.dir.join("pins")) {
            eprintln!("an agent's kernel side is still there: {e:#}");
        }
        if std::env::var_os("PODTRAIL_ITEST_KEEP").is_some() {
            eprintln!("log of an agent: {}", self.logged());
        }
    }
}

/// A session that waits at a gate before each of its parts, and runs [`PART`] commands in each.
struct Storm {
    container: Container,
    parts: Vec<String>,
}

impl Storm {
    /// What the commands of a part are called, here and in no other run.
    fn name(&self, part: &str) -> String {
        format!("{part}-{}", self.container.cgroup_id)
    }

    fn begin(cx: &Cx, parts: &[&str]) -> Result<Self> {
        let container = cx.container()?;
        container.gate("/gate")?;
        let parts: Vec<String> = parts.iter().copied().map(str::to_owned).collect();
        let script = format!(
            "for part in {}; do read x </gate; {ITEST} payload storm {PART} /bin/true $part-{} >/tmp/$part; done; exit 5",
            parts.join(" "),
            container.cgroup_id
        );
        container.sh(&script).detached().run()?.ok()?;
        Ok(Self { container, parts })
    }

    fn go(&self) -> Result<()> {
        self.container.tell("/gate", "go")
    }

    fn wait(&self, part: &str) -> Result<()> {
        let file = self.container.path(&format!("/tmp/{part}"));
        until(&format!("part {part} is over"), || fs::read(&file).is_ok_and(|count| !count.is_empty()))?;
        ensure!(fs::read_to_string(&file)?.trim() == PART.to_string(), "not all of {part} ran");
        Ok(())
    }

    fn run(&self, part: &str) -> Result<()> {
        self.go()?;
        self.wait(part)
    }

    /// All that the collector has, once it has the end of this session.
    fn told(&self, collector: &Collector) -> Result<Told> {
        let mut events = Vec::new();
        until("the collector has the end of the session", || {
            events = collector.events().unwrap_or_default();
            events.iter().any(|event| {
                matches!(event.body, Some(Body::SessionEnded(_)))
                    && event.container.as_ref().is_some_and(|c| c.cgroup_id == self.container.cgroup_id)
            })
        })
        .with_context(|| format!("it has {} events; {}", events.len(), collector.logged()))?;
        let events: Vec<Arc<Event>> = events.into_iter().map(Arc::new).collect();
        let sessions = session::all(&events, self.container.cgroup_id);
        let session = session::only(&sessions)?.clone();
        Ok(Told { events, session, cgroup: self.container.cgroup_id })
    }
}

struct Told {
    events: Vec<Arc<Event>>,
    session: Session,
    cgroup: u64,
}

impl Told {
    fn name(&self, part: &str) -> String {
        format!("{part}-{}", self.cgroup)
    }

    /// The commands of `part`.
    fn commands(&self, part: &str) -> Vec<&Executed> {
        let name = self.name(part);
        let mut all = self.session.executed();
        all.retain(|executed| matches!(&executed.argv[..], [first, second, _] if first == "/bin/true" && *second == name));
        all
    }

    /// How many commands of `part` there are with their exits; none of them twice.
    fn of(&self, part: &str) -> Result<u32> {
        let mut exits: BTreeMap<_, u32> = BTreeMap::new();
        for exited in self.session.exited() {
            *exits.entry(key(exited.process.as_ref())).or_default() += 1;
        }
        let mut numbers = BTreeSet::new();
        for executed in self.commands(part) {
            ensure!(numbers.insert(executed.argv.last()), "{:?} is there twice", executed.argv);
            let exits = exits.get(&key(executed.process.as_ref())).copied().unwrap_or_default();
            ensure!(exits == 1, "{:?} ended {exits} times", executed.argv);
        }
        Ok(u32::try_from(numbers.len())?)
    }

    /// Those that may touch this session: others run on this machine too.
    fn gaps(&self) -> Vec<&Gap> {
        let gaps = self.events.iter().filter_map(|event| match &event.body {
            Some(Body::Gap(gap)) => Some(gap),
            _ => None,
        });
        gaps.filter(|gap| gap.session_ids.is_empty() || gap.session_ids.contains(&self.session.id)).collect()
    }

    /// The numbers of each epoch, in order; none is there twice.
    fn epochs(&self) -> Result<Vec<Vec<u64>>> {
        let mut epochs: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for event in &self.events {
            let id = event.id.as_ref().context("an event without an id")?;
            // The collector's own have none, or the first of those that they say are missing.
            let by_collector =
                matches!(&event.body, Some(Body::Gap(gap)) if gap.source() == GapSource::CollectorSequence);
            if id.seq == 0 || by_collector {
                continue;
            }
            epochs.entry(id.epoch).or_default().push(id.seq);
        }
        for (epoch, seqs) in &mut epochs {
            seqs.sort_unstable();
            let before = seqs.len();
            seqs.dedup();
            ensure!(seqs.len() == before, "numbers of epoch {epoch} are there twice");
        }
        Ok(epochs.into_values().collect())
    }

    /// One epoch without a hole, no gap, and the session whole: begun once, ended once, with right counts.
    fn whole(&self, storm: &Storm) -> Result<()> {
        ensure!(self.gaps().is_empty(), "gaps: {:?}", self.gaps());
        let epochs = self.epochs()?;
        ensure!(epochs.len() == 1, "{} epochs", epochs.len());
        ensure!(holes(&epochs[0]) == 0, "{} numbers are missing", holes(&epochs[0]));
        let count = |of: fn(&Body) -> bool| {
            self.session.events.iter().filter(|event| event.body.as_ref().is_some_and(of)).count()
        };
        ensure!(count(|body| matches!(body, Body::SessionStarted(_))) == 1, "it began more than once");
        ensure!(count(|body| matches!(body, Body::SessionEnded(_))) == 1, "it ended more than once");
        self.session.check()?;
        for part in &storm.parts {
            ensure!(self.of(part)? == PART, "{} of part {part}", self.of(part)?);
        }
        let ended = self.session.ended().context("it has not ended")?;
        // The shell, and each part's own program.
        let commands = 1 + u64::try_from(storm.parts.len())? * u64::from(PART + 1);
        ensure!((ended.commands, ended.exit_code) == (Some(commands), Some(5)), "{ended:?}");
        ensure!(self.session.executed().len() as u64 == commands, "another number of commands");
        Ok(())
    }
}

/// Numbers that are not there, from 1 to the last.
fn holes(seqs: &[u64]) -> u64 {
    seqs.last().map_or(0, |last| last - seqs.len() as u64)
}

fn nanos(time: Option<&Timestamp>) -> i128 {
    time.map_or(0, |time| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos))
}

fn now() -> Result<i128> {
    Ok(i128::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?)
}

fn killed_again_and_again(cx: &Cx) -> Result<()> {
    let mut collector = Collector::place(&cx.unique("collector"))?;
    let mut place = Place::new(cx, &collector, &[])?;
    place.start()?;
    let storm = Storm::begin(cx, &["a", "b", "c", "d", "e"])?;
    for part in ["a", "b", "c"] {
        storm.go()?;
        place.wait(&storm, part, 30)?;
        place.end(Signal::SIGKILL)?;
        // Of the second, all the rest runs while there is no agent; of the others, its start is in the middle.
        if part == "b" {
            storm.wait(part)?;
        }
        place.start()?;
        storm.wait(part)?;
    }
    place.end(Signal::SIGKILL)?;
    storm.run("d")?;
    place.start()?;
    storm.run("e")?;
    collector.start()?;
    storm.told(&collector)?.whole(&storm).with_context(|| place.logged())
}

fn killed_with_nothing_pinned(cx: &Cx) -> Result<()> {
    let mut collector = Collector::place(&cx.unique("collector"))?;
    let mut place = Place::new(cx, &collector, &["--pin", "none"])?;
    place.start()?;
    let storm = Storm::begin(cx, &["seen", "unseen", "again"])?;
    storm.run("seen")?;
    place.wait(&storm, "seen", PART as usize)?;
    place.end(Signal::SIGKILL)?;
    let killed = now()?;
    storm.run("unseen")?;
    let restarted = now()?;
    place.start()?;
    let ready = now()?;
    storm.run("again")?;
    collector.start()?;
    let told = storm.told(&collector)?;
    let counts = [told.of("unseen")?, told.of("again")?];
    ensure!(counts == [0, PART], "unseen and again: {counts:?}");
    ensure!(told.commands("seen").len() == PART as usize, "{} of part seen", told.commands("seen").len());
    let epochs = told.epochs()?;
    ensure!(epochs.iter().all(|seqs| holes(seqs) == 0) && epochs.len() == 1, "{} epochs", epochs.len());
    let gaps = told.gaps();
    let [gap] = gaps[..] else { anyhow::bail!("{gaps:?}") };
    ensure!(gap.source() == GapSource::HooksAbsent && gap.exact == Some(false), "{gap:?}");
    // Nothing of the first agent comes after the gap's begin, and nothing that was not seen lies outside of it.
    let slack = 50_000_000;
    let of = told.name("seen");
    let last = told.session.events.iter().filter(
        |event| matches!(&event.body, Some(Body::Executed(executed)) if executed.argv.get(1) == Some(&of)),
    );
    let last = last.map(|event| nanos(event.time.as_ref())).max().unwrap_or_default();
    let (from, to) = (nanos(gap.from.as_ref()), nanos(gap.to.as_ref()));
    ensure!(last - slack <= from && from <= killed + slack, "from {from}: last {last}, killed {killed}");
    ensure!(restarted - slack <= to && to <= ready + slack, "to {to}: {restarted} to {ready}");
    Ok(())
}

/// Parts `a`, `b` and `c`: with room, without, and with room again.
fn full(cx: &Cx, args: &[&str]) -> Result<(Storm, Told)> {
    let mut collector = Collector::place(&cx.unique("collector"))?;
    let mut place = Place::new(cx, &collector, args)?;
    let spool = place.dir.join("spool");
    mount(Some("tmpfs"), &spool, Some("tmpfs"), MsFlags::empty(), Some("size=64m"))
        .context("cannot mount a tmpfs")?;
    place.start()?;
    let storm = Storm::begin(cx, &["a", "b", "c"])?;
    storm.run("a")?;
    let filler = Filler::fill(&spool)?;
    storm.run("b")?;
    until("the agent says that its disk is full", || {
        place.get("/readyz").is_ok_and(|answer| {
            answer.starts_with("HTTP/1.1 503 ") && answer.contains("events are in memory")
        }) && place.metric("podtrail_agent_spool_trouble").is_ok_and(|value| value == 1)
    })
    .with_context(|| place.logged())?;
    drop(filler);
    until("the agent says that it writes again", || {
        place.is_ready() && place.metric("podtrail_agent_spool_trouble").is_ok_and(|value| value == 0)
    })
    .with_context(|| place.logged())?;
    // What fits is on disk by now.
    place.end(Signal::SIGKILL)?;
    place.start()?;
    storm.run("c")?;
    collector.start()?;
    let told = storm.told(&collector).with_context(|| place.logged())?;
    Ok((storm, told))
}

fn a_full_disk(cx: &Cx) -> Result<()> {
    let (storm, told) = full(cx, &[])?;
    told.whole(&storm)
}

fn a_full_disk_and_little_memory(cx: &Cx) -> Result<()> {
    let (_storm, told) = full(cx, &["--spool-memory", "64KiB"])?;
    let epochs = told.epochs()?;
    ensure!(epochs.len() == 1, "{} epochs", epochs.len());
    // The collector found the hole too, and asked for it in vain.
    let (collector, gaps): (Vec<&Gap>, Vec<&Gap>) =
        told.gaps().into_iter().partition(|gap| gap.source() == GapSource::CollectorSequence);
    ensure!(!gaps.is_empty(), "everything fitted");
    for gap in &gaps {
        ensure!(gap.source() == GapSource::AgentBuffer && gap.exact == Some(true), "{gap:?}");
    }
    let counted: u64 = gaps.iter().filter_map(|gap| gap.count).sum();
    ensure!(counted == holes(&epochs[0]), "{counted} counted, {} missing", holes(&epochs[0]));
    let found: u64 = collector.iter().filter_map(|gap| gap.count).sum();
    ensure!(found == counted, "{counted} counted, the collector missed {found}");
    let counts = [told.of("a")?, told.of("c")?];
    ensure!(counts == [PART; 2], "a and c: {counts:?}");
    Ok(())
}

fn the_newest_rows_are_gone(cx: &Cx) -> Result<()> {
    let mut collector = Collector::place(&cx.unique("collector"))?;
    let mut place = Place::new(cx, &collector, &[])?;
    place.start()?;
    let storm = Storm::begin(cx, &["a", "b"])?;
    storm.run("a")?;
    place.wait(&storm, "a", PART as usize)?;
    place.end(Signal::SIGKILL)?;
    let log = File::options().write(true).open(place.dir.join("spool/spool/store.db-wal"))?;
    // Its first pages: what is behind may be from before it was carried over.
    log.set_len(32 + 64 * (4096 + 24))?;
    place.start()?;
    storm.run("b")?;
    collector.start()?;
    let told = storm.told(&collector).with_context(|| place.logged())?;
    let epochs = told.epochs()?;
    let [seqs] = &epochs[..] else { anyhow::bail!("{} epochs", epochs.len()) };
    let of = |source| told.gaps().into_iter().filter(move |gap| gap.source() == source);
    // Besides, the state of sessions went with them; no count is exact about that.
    let gaps: Vec<&Gap> = of(GapSource::AgentSpool).filter(|gap| gap.exact == Some(true)).collect();
    let [gap] = gaps[..] else { anyhow::bail!("{:?}", told.gaps()) };
    let missed: u64 = of(GapSource::CollectorSequence).filter_map(|gap| gap.count).sum();
    ensure!(
        Some(missed) == gap.count && missed == holes(seqs),
        "{missed} missed of {}: {gap:?}",
        holes(seqs)
    );
    // Of each command an exec and an exit, and the first session's begin: what is told, and what is counted as lost.
    let lost = gap.count.context("no count")?;
    ensure!(gap.exact == Some(true) && lost > 0, "{gap:?}");
    let seen = told.commands("a").len();
    ensure!(seen < PART as usize, "nothing was lost");
    ensure!(lost >= 2 * (u64::from(PART) - seen as u64) - 1, "{lost} counted, {seen} told of {PART}");
    ensure!(told.of("b")? == PART, "{} of part b", told.of("b")?);
    Ok(())
}
