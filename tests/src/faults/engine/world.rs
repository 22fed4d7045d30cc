//! Everything that a scenario breaks: a storm in containers, an agent, a collector, a subscriber, and between them what
//! the scenario wants there.

use std::{
    cell::RefCell,
    fs,
    net::TcpListener,
    path::PathBuf,
    rc::Rc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use podtrail_proto::v1::agent_state::Phase;

use super::{
    account::{Account, Verdict},
    daemon::Daemon,
    kept::Reader,
    link::Link,
    storm::{Pace, Storm, Volley},
};
use crate::{
    faults::{Outcome, Run},
    harness::{daemon, host, leftovers, surroundings::Surroundings, wait::scaled},
};

/// The node's name in every event.
const NODE: &str = "faults";

/// How often to say how far it is.
const PROGRESS: Duration = Duration::from_secs(10);
/// How long what happened may take to come through to the subscriber once everything works again.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long the last gaps may take when all else came through.
const LAST_GAPS: Duration = Duration::from_secs(15);
/// How often the agent is ended where others keep it so busy that its last word must wait for the next.
const FAREWELLS: u32 = 5;

/// What a scenario wants to be otherwise than usual.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// options of the agent besides
    pub(crate) agent: Vec<String>,
    /// options of the collector besides
    pub(crate) collector: Vec<String>,
    /// a bad network before the collector
    pub(crate) network: bool,
    /// daemons with a clock of their own
    pub(crate) clock: bool,
    /// the spool's disk is this small
    pub(crate) spool_disk: Option<u64>,
    /// the log may become another one: the subscriber knows events by their ids
    pub(crate) by_ids: bool,
    /// commands with kilobytes of arguments among the others
    pub(crate) large: bool,
    /// the log's disk is this small
    pub(crate) log_disk: Option<u64>,
    /// a daemon that ends by itself is started again, as what runs daemons does
    pub(crate) restarted: bool,
    pub(crate) pace: Pace,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            agent: Vec::new(),
            collector: Vec::new(),
            network: false,
            clock: false,
            by_ids: false,
            large: true,
            spool_disk: None,
            log_disk: None,
            restarted: false,
            pace: Pace(1000),
        }
    }
}

/// What the subscriber must have in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// everything, and no word of a gap
    Whole,
    /// everything but what gaps count, exactly
    Counted,
    /// everything but what numbers show that are missing, and that gaps count, exactly
    Numbered,
    /// everything but what gaps speak of, of the time of which they speak; some may not know how much, or count what the subscriber had before
    Said,
}

pub(crate) struct World {
    run: Run,
    restarted: bool,
    began: Instant,
    said: Instant,
    pub(crate) dir: PathBuf,
    pub(crate) storm: Storm,
    pub(crate) agent: Daemon,
    /// options of the agent, from its next start on
    pub(crate) agent_options: Rc<RefCell<Vec<String>>>,
    pub(crate) collector: Daemon,
    pub(crate) subscriber: Daemon,
    pub(crate) link: Option<Link>,
    /// the file that says how far the daemons' clock is off
    pub(crate) clock: PathBuf,
    pub(crate) faults: u64,
    kept: Option<Reader>,
    pub(crate) account: Account,
}

impl World {
    /// Starts everything, and waits until the storm is seen at the subscriber.
    pub(crate) fn begin(run: &Run, plan: &Plan) -> Result<Self> {
        let mut run = run.clone();
        let dir = host().dir(&run.name)?;
        for (name, size) in [("spool", plan.spool_disk), ("data", plan.log_disk)] {
            let at = dir.join(name);
            fs::create_dir(&at)?;
            if let Some(size) = size {
                let options = format!("size={size}");
                mount(Some("tmpfs"), &at, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
                    .context("cannot mount a tmpfs")?;
            }
        }
        // Mounted here: what an agent mounts in a network of its own (`ip netns exec`) ends with it.
        let pins = dir.join("pins");
        fs::create_dir(&pins)?;
        mount(Some("bpf"), &pins, Some("bpf"), MsFlags::empty(), None::<&str>)
            .context("cannot mount a bpffs")?;
        let clock = dir.join("clock");
        let link = if plan.network { Some(Link::open(run.random.u64(..))?) } else { None };
        let address = match &link {
            Some(_) => format!("{}:7443", Link::far_address()),
            None => TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string(),
        };
        let around = |network: Option<&String>| Surroundings {
            network: network.cloned(),
            clock: plan.clock.then(|| clock.clone()),
            ..Surroundings::default()
        };
        let near = around(link.as_ref().map(|link| &link.near));
        let far = around(link.as_ref().map(|link| &link.far));
        let url = format!("http://{address}");

        let agent_options = Rc::new(RefCell::new(plan.agent.clone()));
        let agent = Daemon::new("agent", &dir, {
            let (dir, url, around, more) =
                (dir.clone(), url.clone(), near.clone(), Rc::clone(&agent_options));
            move || {
                let mut command = daemon::daemon("podtrail-agent");
                command.args(["run", "--node-name", NODE, "--metrics-listen", "none", "--collector", &url]);
                command.arg("--socket").arg(dir.join("agent.sock")).arg("--spool").arg(dir.join("spool"));
                command.arg("--lock").arg(dir.join("agent.lock"));
                command.arg("--pin").arg(dir.join("pins")).args(&*more.borrow());
                around.put(&mut command);
                command
            }
        });
        let collector = Daemon::new("collector", &dir, {
            let (dir, more) = (dir.clone(), plan.collector.clone());
            move || {
                let mut command = daemon::daemon("podtrail-collector");
                command.args(["run", "--metrics-listen", "none", "--listen", &address]);
                command.arg("--data").arg(dir.join("data")).args(&more);
                far.put(&mut command);
                command
            }
        });
        let subscriber = Daemon::new("subscriber", &dir, {
            let (dir, mut random) = (dir.clone(), run.random.fork());
            let by = if plan.by_ids { "ids" } else { "cursor" };
            move || {
                let mut command = daemon::daemon("podtrail-reader");
                command.arg(&url).arg(dir.join("kept")).arg(random.u64(..).to_string()).arg(by);
                near.put(&mut command);
                command
            }
        });
        let storm = Storm::prepare(&run.name, plan.large)?;
        let mut world = Self {
            account: Account::new(&run.name, plan.large),
            run,
            restarted: plan.restarted,
            began: Instant::now(),
            said: Instant::now(),
            dir,
            storm,
            agent,
            agent_options,
            collector,
            subscriber,
            link,
            clock,
            faults: 0,
            kept: None,
        };
        world.collector.start()?;
        world.agent.start()?;
        world.subscriber.start()?;
        world.until("the agent is at work", |world| Ok(world.account.said(Phase::Started) > 0))?;
        world.storm.begin(plan.pace, &mut world.run.random);
        world.until("the storm is seen at the subscriber", |world| Ok(world.account.events > 100))?;
        Ok(world)
    }

    pub(crate) fn random(&mut self) -> &mut fastrand::Rng {
        &mut self.run.random
    }

    /// How many faults there are to be.
    pub(crate) fn kills(&self) -> u32 {
        self.run.kills
    }

    /// Reads what the subscriber got meanwhile; says now and then how far it is.
    pub(crate) fn look(&mut self) -> Result<()> {
        self.storm.check()?;
        if self.kept.is_none() && self.dir.join("kept").exists() {
            self.kept = Some(Reader::open(&self.dir.join("kept"))?);
        }
        if let Some(kept) = &mut self.kept {
            while let Some(events) = kept.next()? {
                events.events.iter().for_each(|event| self.account.take(event));
            }
        }
        if self.said.elapsed() >= PROGRESS {
            self.said = Instant::now();
            eprintln!(
                "    {}: {} faults, {} commands ran, {} events at the subscriber, {} s",
                self.run.name,
                self.faults,
                self.storm.commands(),
                self.account.events,
                self.began.elapsed().as_secs()
            );
        }
        Ok(())
    }

    /// Fails if a daemon ended that nobody ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        if self.restarted {
            self.agent.keep()?;
            self.collector.keep()?;
            return self.subscriber.check();
        }
        self.agent.check()?;
        self.collector.check()?;
        self.subscriber.check()
    }

    /// Starts what does not run.
    pub(crate) fn start_missing(&mut self) -> Result<()> {
        for daemon in [&mut self.collector, &mut self.agent, &mut self.subscriber] {
            if !daemon.runs() {
                daemon.start()?;
            }
        }
        Ok(())
    }

    /// Lets a random time pass, between `from` and `to` milliseconds, while the storm goes on.
    pub(crate) fn pass(&mut self, from: u64, to: u64) -> Result<()> {
        let end = Instant::now() + scaled(Duration::from_millis(self.random().u64(from..=to)));
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            thread::sleep(left.min(Duration::from_millis(50)));
            self.look()?;
        }
        Ok(())
    }

    /// Waits until `condition` holds; meanwhile no daemon may end by itself.
    pub(crate) fn until(
        &mut self,
        what: &str,
        condition: impl FnMut(&mut Self) -> Result<bool>,
    ) -> Result<()> {
        ensure!(
            self.within(PATIENCE, condition)?,
            "waited in vain for: {what}; {} events at the subscriber\n{}",
            self.account.events,
            self.story()
        );
        Ok(())
    }

    /// Waits until `condition` holds, for `limit` at most; says whether it does.
    pub(crate) fn within(
        &mut self,
        limit: Duration,
        mut condition: impl FnMut(&mut Self) -> Result<bool>,
    ) -> Result<bool> {
        let end = Instant::now() + scaled(limit);
        loop {
            self.look()?;
            if condition(self)? {
                return Ok(true);
            }
            if Instant::now() >= end {
                return Ok(false);
            }
            self.check()?;
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until the subscriber has got so many more events.
    pub(crate) fn progress(&mut self, events: u64) -> Result<()> {
        let wanted = self.account.events + events;
        self.until("the subscriber gets more", |world| Ok(world.account.events >= wanted))
    }

    /// What the daemons logged last.
    pub(crate) fn story(&self) -> String {
        let log = |what: &str, daemon: &Daemon| format!("  the {what}'s log:\n    {}", daemon.logged());
        [log("agent", &self.agent), log("collector", &self.collector), log("subscriber", &self.subscriber)]
            .join("\n")
    }

    /// Ends the storm, waits until all that is to come has come, ends the agent and waits for its last word, and holds
    /// what the subscriber got against what ran.
    pub(crate) fn finish(mut self, expect: Expect) -> Result<Outcome> {
        self.start_missing()?;
        let mut ran = self.storm.end()?;
        let last = self.storm.last(&format!("{}-last", self.run.name))?;
        ran.push(last.clone());
        self.until("the last session is at the subscriber", |world| Ok(world.account.has_ended(&last)))?;
        self.within(LAST_GAPS, |world| Ok(judge(&world.account.verdict(&ran), expect).is_ok()))?;
        self.say_farewell()?;
        self.within(LAST_GAPS, |world| Ok(judge(&world.account.verdict(&ran), expect).is_ok()))?;
        self.collector.stop()?;
        self.subscriber.kill()?;
        self.look()?;
        let traffic = self.link.take().map(|mut link| link.close()).transpose()?;
        let verdict = self.account.verdict(&ran);
        let wrong = judge(&verdict, expect)
            .err()
            .map(|e| format!("{e:#}\n{}\n{}", self.told(&verdict, &ran), self.story()));
        let outcome = Outcome { faults: self.faults, verdict, took: self.began.elapsed(), traffic, wrong };
        let dir = self.dir.clone();
        drop(self);
        leftovers::remove_dir(&dir)?;
        Ok(outcome)
    }

    /// Ends the agent. What the collector has not got when its time is over waits on disk for the next one.
    fn say_farewell(&mut self) -> Result<()> {
        for _ in 0..FAREWELLS {
            let stopped = self.account.said(Phase::Stopped);
            self.agent.stop()?;
            if self.within(LAST_GAPS, |world| Ok(world.account.said(Phase::Stopped) > stopped))? {
                return Ok(());
            }
            self.agent.start()?;
            self.until("the agent's last word is at the subscriber", |world| {
                Ok(world.account.said(Phase::Stopped) > stopped)
            })?;
        }
        bail!("the agent's last words come only with the next agent\n{}", self.story())
    }

    /// What is wrong, in detail.
    fn told(&self, verdict: &Verdict, ran: &[Volley]) -> String {
        let mut verdict = verdict.clone();
        let notes = std::mem::take(&mut verdict.notes);
        let mut lines = vec![format!("{} sessions ran; {verdict:?}", ran.len())];
        lines.extend(notes);
        lines.extend(self.account.told_gaps());
        lines.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
    }
}

/// Whether it is as it must be.
fn judge(verdict: &Verdict, expect: Expect) -> Result<()> {
    ensure!(verdict.mistakes.is_empty(), "{}", verdict.mistakes.join("\n  "));
    ensure!(verdict.duplicated == 0, "{} came more than once", verdict.duplicated);
    ensure!(verdict.commands > 0, "nothing ran");
    match expect {
        Expect::Whole => ensure!(verdict.whole(), "it is not whole"),
        Expect::Counted => ensure!(verdict.balanced(), "gaps and what is missing are not the same"),
        Expect::Numbered => ensure!(verdict.numbered(), "what is missing is not what numbers and gaps say"),
        Expect::Said => ensure!(verdict.said(), "gaps do not speak of all that is missing"),
    }
    Ok(())
}
