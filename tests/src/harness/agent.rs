//! An agent under test, and what it has told so far.

use std::{
    collections::HashMap,
    env,
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use podtrail_proto::v1::{Event, agent_state::Phase, event::Body};

use super::{Session, daemon, host, leftovers, process, session, surroundings::Surroundings, wait::deadline};

/// Node name of every agent under test.
pub(crate) const NODE: &str = "itest";

/// Where an agent's pins are, in its directory.
const PINS: &str = "pins";

/// An agent that runs.
#[derive(Debug)]
pub(crate) struct Agent {
    child: Mutex<Option<Child>>,
    reader: Mutex<Option<JoinHandle<()>>>,
    told: Arc<Told>,
    /// its local socket
    pub(crate) socket: PathBuf,
    /// its standard error
    pub(crate) log: PathBuf,
    /// closed when dropped: the agent then ends by itself
    _lifeline: Option<ChildStdin>,
}

/// Everything that an agent printed.
#[derive(Debug, Default)]
struct Told {
    lines: Mutex<Lines>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    events: Vec<Arc<Event>>,
    /// the same, by session
    sessions: HashMap<String, Vec<Arc<Event>>>,
    raw: Vec<String>,
    ended: bool,
    /// what could not be read
    bad: Option<String>,
    /// the beginning of a line that it did not come to the end of
    torn: Option<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The command that runs an agent called `name`; the paths are its socket and its log. What it pins and
/// spools is in its own directory, unless `args` say where, and then it is theirs to remove.
pub(crate) fn command(name: &str, args: &[&str]) -> Result<(Command, PathBuf, PathBuf)> {
    let dir = host().dir(name)?;
    let (socket, log) = (dir.join("agent.sock"), dir.join("agent.log"));
    let mut command = daemon::daemon("podtrail-agent");
    command.args(["run", "--stdout", "--node-name", NODE]);
    if !args.contains(&"--metrics-listen") {
        command.args(["--metrics-listen", "none"]);
    }
    command.arg("--socket").arg(&socket);
    if !args.contains(&"--spool") {
        command.arg("--spool").arg(dir.join("spool"));
    }
    // Other agents of this machine, if there are any, are none of the tests' business.
    command.arg("--lock").arg(host().dir.join("agent.lock"));
    let more = env::var("PODTRAIL_ITEST_AGENT").unwrap_or_default();
    // A test that is about an option says itself what it is to be.
    let mut more = more.split_whitespace();
    while let (Some(option), Some(value)) = (more.next(), more.next()) {
        if !args.contains(&option) {
            command.args([option, value]);
        }
    }
    if !args.contains(&"--pin") {
        command.arg("--pin").arg(dir.join(PINS));
    }
    if !args.contains(&"--runtime-socket") {
        command.args(["--runtime-socket", "none"]);
    }
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&log)?);
    Ok((command, socket, log))
}

impl Agent {
    /// Starts an agent and waits until it is at work.
    pub(crate) fn start(name: &str, args: &[&str]) -> Result<Self> {
        Self::start_in(name, args, &Surroundings::default())
    }

    /// The same somewhere else than on this machine as it is.
    pub(crate) fn start_in(name: &str, args: &[&str], surroundings: &Surroundings) -> Result<Self> {
        let (mut command, socket, log) = command(name, args)?;
        surroundings.put(&mut command);
        let mut child = command.spawn().context("cannot start an agent")?;
        let stdout = child.stdout.take().context("no stdout")?;
        let lifeline = child.stdin.take();
        let told = Arc::new(Told::default());
        let reader = thread::spawn({
            let told = Arc::clone(&told);
            move || told.read(BufReader::new(stdout))
        });
        let agent = Self {
            child: Mutex::new(Some(child)),
            reader: Mutex::new(Some(reader)),
            told,
            socket,
            log,
            _lifeline: lifeline,
        };
        agent.wait("the agent says that it started", |events| {
            events
                .iter()
                .any(|event| matches!(phase(event), Some(Phase::Started | Phase::Upgraded)))
                .then_some(())
        })?;
        Ok(agent)
    }

    /// Waits until what has been told so far gives something.
    pub(crate) fn wait<T>(&self, what: &str, mut find: impl FnMut(&[Arc<Event>]) -> Option<T>) -> Result<T> {
        self.wait_for(what, |lines| find(&lines.events))
    }

    /// Patience begins anew with every event, within reason: what comes late on a busy machine is not lost.
    fn wait_for<T>(&self, what: &str, mut find: impl FnMut(&Lines) -> Option<T>) -> Result<T> {
        let mut end = deadline();
        let last = Instant::now() + 6 * (end - Instant::now());
        let mut lines = lock(&self.told.lines);
        loop {
            if let Some(bad) = &lines.bad {
                bail!("the agent printed what is no event: {bad}");
            }
            if let Some(found) = find(&lines) {
                return Ok(found);
            }
            if lines.ended {
                drop(lines);
                bail!("the agent ended before: {what}; its log: {}", self.logged());
            }
            let now = Instant::now();
            if now >= end {
                let told = lines.events.len();
                let newest = lines.events.last().map(|event| session::line(event)).unwrap_or_default();
                drop(lines);
                bail!(
                    "waited in vain for: {what}; {told} events came, the last one {newest:.200}; the agent's log: {}",
                    self.logged()
                );
            }
            let seen = lines.events.len();
            // In a storm, look again every few milliseconds, not after each event: looking holds up the reader.
            drop(lines);
            thread::sleep(Duration::from_millis(3));
            (lines, _) = self
                .told
                .more
                .wait_timeout_while(
                    lock(&self.told.lines),
                    (end - now).min(Duration::from_millis(50)),
                    |lines| lines.events.len() == seen && !lines.ended && lines.bad.is_none(),
                )
                .unwrap_or_else(PoisonError::into_inner);
            if lines.events.len() > seen {
                end = deadline().min(last);
            }
        }
    }

    /// Waits until session `id` has ended.
    pub(crate) fn ended(&self, id: &str) -> Result<Session> {
        self.wait_for(&format!("session {id} ends"), |lines| {
            let events = lines.sessions.get(id)?;
            let over = events.iter().any(|event| matches!(event.body, Some(Body::SessionEnded(_))));
            over.then(|| Session { id: id.to_owned(), events: events.clone() })
        })
    }

    /// What has been told so far.
    pub(crate) fn events(&self) -> Vec<Arc<Event>> {
        lock(&self.told.lines).events.clone()
    }

    /// The same, as it was printed.
    pub(crate) fn raw(&self) -> Vec<String> {
        lock(&self.told.lines).raw.clone()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Result<u32> {
        Ok(lock(&self.child).as_ref().context("the agent was stopped")?.id())
    }

    /// The end of its log.
    pub(crate) fn logged(&self) -> String {
        tail(&self.log)
    }

    /// Ends it with a signal and reads all that it still prints.
    pub(crate) fn end(&self, signal: Signal) -> Result<ExitStatus> {
        let mut child = lock(&self.child).take().context("the agent was stopped already")?;
        kill(Pid::from_raw(i32::try_from(child.id())?), signal)?;
        let status = process::reap(&mut child, "the agent ends")?;
        self.unpin()?;
        if let Some(reader) = lock(&self.reader).take() {
            reader.join().ok().context("the reader of the agent's output failed")?;
        }
        let lines = lock(&self.told.lines);
        if let Some(bad) = &lines.bad {
            bail!("the agent printed what is no event: {bad}");
        }
        // Who kills it cuts it off anywhere: the next one prints that event again.
        if let Some(torn) = lines.torn.as_ref().filter(|_| signal != Signal::SIGKILL) {
            bail!("the agent's last line has no end: {torn}");
        }
        Ok(status)
    }

    /// It would go on recording.
    fn unpin(&self) -> Result<()> {
        self.log.parent().map_or(Ok(()), |dir| leftovers::unpin(&dir.join(PINS)))
    }

    /// Asks it to stop, and checks that it kept its promises: no number missing, no loss, a last word.
    pub(crate) fn stop(&self) -> Result<()> {
        let status = self.end(Signal::SIGTERM)?;
        ensure!(status.success(), "the agent ended with {status}: {}", self.logged());
        let events = self.events();
        ensure!(
            events.last().is_some_and(|event| phase(event) == Some(Phase::Stopped)),
            "the agent's last event is not that it stopped: {:?}",
            events.last()
        );
        whole(&events)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(mut child) = lock(&self.child).take() {
            let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
            if process::reap(&mut child, "the agent ends").is_err() {
                eprintln!("an agent had to be killed");
            }
            if let Err(e) = self.unpin() {
                eprintln!("an agent's kernel side is still there: {e:#}");
            }
        }
        if env::var_os("PODTRAIL_ITEST_KEEP").is_some() {
            eprintln!("log of {}: {}", self.log.display(), self.logged());
        }
    }
}

/// Fails unless events are numbered without a hole, each once, and none is a gap.
pub(crate) fn whole(events: &[Arc<Event>]) -> Result<()> {
    let mut next = None;
    for event in events {
        let id = event.id.as_ref().context("an event without an id")?;
        ensure!(id.node == NODE, "an event of node {:?}", id.node);
        if let Some((epoch, seq)) = next {
            ensure!((id.epoch, id.seq) == (epoch, seq), "expected number {seq} of {epoch}, got {id:?}");
        } else {
            ensure!(id.seq == 1, "the first number is {}", id.seq);
        }
        next = Some((id.epoch, id.seq + 1));
        ensure!(!matches!(event.body, Some(Body::Gap(_))), "a gap: {event:?}");
    }
    Ok(())
}

pub(crate) fn phase(event: &Event) -> Option<Phase> {
    match &event.body {
        Some(Body::AgentState(state)) => state.phase.and_then(|phase| Phase::try_from(phase).ok()),
        _ => None,
    }
}

fn tail(log: &Path) -> String {
    let text = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(20);
    lines.get(from..).unwrap_or_default().join("\n")
}

impl Told {
    fn read(&self, mut stdout: impl BufRead) {
        loop {
            let mut line = Vec::new();
            let read = stdout.read_until(b'\n', &mut line);
            let event = match (read, line.pop()) {
                (Ok(_), None) => break,
                (Ok(_), Some(b'\n')) => match serde_json::from_slice::<Event>(&line) {
                    Ok(event) => Ok((event, String::from_utf8_lossy(&line).into_owned())),
                    Err(e) => Err(format!("{e}: {}", String::from_utf8_lossy(&line))),
                },
                (Ok(_), Some(last)) => {
                    line.push(last);
                    lock(&self.lines).torn = Some(String::from_utf8_lossy(&line).into_owned());
                    break;
                }
                (Err(e), _) => {
                    lock(&self.lines).bad = Some(e.to_string());
                    break;
                }
            };
            let mut lines = lock(&self.lines);
            match event {
                Ok((event, raw)) => {
                    let event = Arc::new(event);
                    if !event.session_id.is_empty() {
                        lines.sessions.entry(event.session_id.clone()).or_default().push(Arc::clone(&event));
                    }
                    lines.events.push(event);
                    lines.raw.push(raw);
                }
                Err(bad) => lines.bad = Some(bad),
            }
            drop(lines);
            self.more.notify_all();
        }
        lock(&self.lines).ended = true;
        self.more.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::{Told, lock};

    fn read(printed: &str) -> (usize, Option<String>, bool) {
        let told = Told::default();
        told.read(printed.as_bytes());
        let lines = lock(&told.lines);
        assert!(lines.ended);
        (lines.events.len(), lines.torn.clone(), lines.bad.is_some())
    }

    #[test]
    fn a_line_without_an_end_is_torn_and_no_event_even_where_it_reads_as_one() {
        assert_eq!(read(""), (0, None, false));
        assert_eq!(read("{}\n{}\n"), (2, None, false));
        assert_eq!(read("{}\n{}"), (1, Some("{}".to_owned()), false));
        assert_eq!(read("{}\n{\"sess"), (1, Some("{\"sess".to_owned()), false));
        assert_eq!(read("{\"sess\n{}\n"), (1, None, true));
    }
}
