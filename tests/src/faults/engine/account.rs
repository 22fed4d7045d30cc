//! What the subscriber got, held against what really ran.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
};

use podtrail_proto::{
    Timestamp,
    v1::{AgentState, Event, Executed, Exited, Gap, GapSource, agent_state::Phase, event::Body},
};
use prost::Message as _;

use super::storm::Volley;
use crate::{
    harness::{
        container::ITEST,
        session::{key, raw_argv},
    },
    payload::volley_command,
};

/// Mistakes that are told one by one.
const MISTAKES: usize = 8;

/// How an agent begins that goes on without what the one before knew.
const NO_STATE: &str = "what was known of sessions is lost";
/// What may be missing of a command whose arguments were on their way when its agent was killed, and its state lost:
/// it had no number yet. One command in each of the two containers, and its end.
const UNNUMBERED: u64 = 4;
/// By how much the time of a gap may be off: agents look at clocks once a second.
const SLACK: i128 = 1_500_000_000;

/// Everything that the subscriber got so far.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// begins the names of all sessions of the storm
    storm: String,
    large: bool,
    pub(crate) events: u64,
    /// events that it was given again
    again: u64,
    /// of each epoch of a node's numbers, what came with each
    numbers: BTreeMap<(String, u64), BTreeMap<u64, u64>>,
    /// numbers that the collector says never came
    absent: BTreeMap<(String, u64), BTreeSet<u64>>,
    commands: HashMap<Name, Seen>,
    /// the command that each process ran
    processes: HashMap<Process, Name>,
    sessions: HashMap<String, SessionSeen>,
    gaps: Vec<Gap>,
    /// the agent's own events
    pub(crate) states: Vec<AgentState>,
    mistakes: Vec<String>,
}

/// A session of the storm, and the number of its command; none: the root.
type Name = (String, Option<u32>);
type Process = (u32, u64);

#[derive(Debug, Default)]
struct Seen {
    executed: u32,
    /// of these, the same process in a session that was recovered since
    again: u32,
    exited: u32,
    code: Option<i32>,
}

#[derive(Debug, Default)]
struct SessionSeen {
    volley: Option<String>,
    started: u32,
    /// of these, by an agent that says that it has not seen how it began
    anew: u32,
    executed: u64,
    exited: HashSet<Process>,
    ended: u32,
    /// what the end says: commands, and records that were lost
    told: Option<(u64, u64)>,
}

/// How it compares.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    /// commands that ran
    pub(crate) commands: u64,
    /// events that the subscriber got
    pub(crate) events: u64,
    /// events of the storm that it did not get
    pub(crate) lost: u64,
    /// of these, what the kernel has a record for
    executions: u64,
    exits: u64,
    /// numbers that no event came with
    holes: u64,
    /// commands, ends and whole events that came more than once
    pub(crate) duplicated: u64,
    /// executions and ends that the kernel could not deliver, as gaps count them
    kernel: u64,
    /// numbers that gaps say are missing
    numbers: u64,
    /// what the collector's log had and has no more, whether or not the subscriber got it before
    log: u64,
    /// what gaps count that know only the least, or that no numbers show; and how many do not know exactly
    at_least: u64,
    pub(crate) inexact: u64,
    /// gaps that say what numbers say too
    words: u64,
    /// agents that went on without what the one before knew
    states: u64,
    /// sessions of which something is missing, and none of the gaps is about their time
    unplaced: u64,
    /// events of sessions that were not the storm's: what the kernel dropped may have been theirs
    pub(crate) strangers: u64,
    /// what must never be, whatever fails
    pub(crate) mistakes: Vec<String>,
    /// what is missing, for whoever must find out why
    pub(crate) notes: Vec<String>,
}

impl Verdict {
    fn records(&self) -> u64 {
        self.executions + self.exits
    }

    /// What gaps say is missing.
    pub(crate) fn claimed(&self) -> u64 {
        self.kernel + self.numbers + self.log + self.at_least
    }

    /// What is missing: numbers that never came; and, where the kernel dropped records before anything had a number,
    /// commands and ends that ran and were not told.
    pub(crate) fn missing(&self) -> u64 {
        self.holes + self.records().saturating_sub(self.holes)
    }

    pub(crate) fn whole(&self) -> bool {
        self.lost == 0
            && self.holes == 0
            && self.kernel == 0
            && self.numbers == 0
            && self.log == 0
            && self.inexact == 0
            && self.words == 0
            && self.states == 0
    }

    /// Whether each number that is missing is counted, and nothing is missing that had none; but for what an agent
    /// had half read when it was killed and its state was lost. The end of such a command is nobody's, and counted as that.
    pub(crate) fn numbered(&self) -> bool {
        let half_read = UNNUMBERED * self.states;
        self.numbers == self.holes
            && self.lost <= self.holes + half_read
            && self.inexact == 0
            && self.log == 0
            && self.kernel <= half_read
            && self.unplaced == 0
    }

    /// Whether what is missing is exactly what gaps count. What the kernel dropped of others cannot be told from what it
    /// dropped of the storm, so that where there were others gaps may count more.
    pub(crate) fn balanced(&self) -> bool {
        let kernel = match self.holes {
            0 if self.strangers == 0 => self.kernel == self.records(),
            // What has no number may have had one, or not.
            _ => self.kernel + self.holes >= self.records(),
        };
        self.inexact == 0 && self.log == 0 && self.numbers == self.holes && kernel
    }

    /// Whether gaps speak of all that is missing.
    pub(crate) fn said(&self) -> bool {
        self.unplaced == 0 && (self.inexact > 0 || self.claimed() >= self.missing())
    }
}

/// From when to when something is missing, in nanoseconds of unix time.
type Window = (i128, i128);

fn window(gap: &Gap) -> Window {
    let nanos = |time: &Timestamp| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    (gap.from.as_ref().map_or(i128::MIN, nanos), gap.to.as_ref().map_or(i128::MAX, nanos))
}

fn is_no_state(gap: &Gap) -> bool {
    gap.source() == GapSource::AgentSpool && gap.detail.starts_with(NO_STATE)
}

impl Account {
    pub(crate) fn new(storm: &str, large: bool) -> Self {
        Self { storm: format!("{storm}-"), large, ..Self::default() }
    }

    fn mistake(&mut self, what: impl fmt::Display) {
        if self.mistakes.len() < MISTAKES {
            self.mistakes.push(what.to_string());
        }
    }

    /// Takes in one event.
    pub(crate) fn take(&mut self, event: &Event) {
        self.events += 1;
        if let (Some(Body::Gap(gap)), Some(id)) = (&event.body, &event.id)
            && gap.source() == GapSource::CollectorSequence
        {
            // Its id is that of the first event that is missing.
            let last = id.seq.saturating_add(gap.count.unwrap_or(0));
            self.absent.entry((id.node.clone(), id.epoch)).or_default().extend(id.seq..last);
            self.gaps.push(gap.clone());
            return;
        }
        if let Some(id) = event.id.as_ref().filter(|id| id.seq > 0) {
            let mut hasher = DefaultHasher::new();
            event.encode_to_vec().hash(&mut hasher);
            let content = hasher.finish();
            let numbers = self.numbers.entry((id.node.clone(), id.epoch)).or_default();
            match numbers.insert(id.seq, content) {
                None => {}
                Some(before) => {
                    self.again += 1;
                    if before != content {
                        self.mistake(format_args!(
                            "two events have the number {} of epoch {}",
                            id.seq, id.epoch
                        ));
                    }
                    return;
                }
            }
        }
        let session = &event.session_id;
        match &event.body {
            Some(Body::Executed(executed)) => self.executed(session, executed),
            Some(Body::Exited(exited)) => self.exited(session, exited),
            Some(Body::SessionStarted(started)) => {
                let seen = self.session(session);
                seen.started += 1;
                let unseen = started.evidence.iter().any(|evidence| evidence.contains("was not seen"));
                seen.anew += u32::from(started.recovered == Some(true) || unseen);
            }
            Some(Body::SessionEnded(ended)) => {
                let seen = self.session(session);
                seen.ended += 1;
                seen.told = Some((ended.commands.unwrap_or(0), ended.lost.unwrap_or(0)));
            }
            Some(Body::Gap(gap)) => self.gaps.push(gap.clone()),
            Some(Body::AgentState(state)) => self.states.push(state.clone()),
            Some(
                Body::NamespaceJoined(_)
                | Body::ExecFailed(_)
                | Body::Attributed(_)
                | Body::NodeCondition(_)
                | Body::NodeState(_)
                | Body::NodeObserved(_)
                | Body::ClusterEvent(_)
                | Body::ApiRequest(_)
                | Body::Folded(_),
            )
            | None => {}
        }
    }

    fn session(&mut self, id: &str) -> &mut SessionSeen {
        self.sessions.entry(id.to_owned()).or_default()
    }

    fn executed(&mut self, session: &str, executed: &Executed) {
        let argv: Vec<String> =
            raw_argv(executed).iter().map(|arg| String::from_utf8_lossy(arg).into_owned()).collect();
        let Some(name) = self.name(&argv) else { return };
        let (volley, number) = &name;
        let as_it_was = match number {
            Some(number) => argv == volley_command(volley, *number, self.large).0,
            None => executed.root == Some(true),
        };
        if !as_it_was || executed.truncated == Some(true) {
            self.mistake(format_args!("{name:?} was told as {argv:?}"));
        }
        let seen = self.session(session);
        seen.executed += 1;
        let anew = seen.anew;
        let mut again = false;
        if seen.volley.get_or_insert_with(|| volley.clone()) != volley {
            self.mistake(format_args!("{name:?} was told in a session of others, {session}"));
        }
        if let Some(process) = key(executed.process.as_ref()) {
            again = self.processes.insert(process, name.clone()).is_some();
        }
        let seen = self.commands.entry(name).or_default();
        seen.executed += 1;
        // A recovered session tells once more what it found running.
        if again && seen.again < anew {
            seen.again += 1;
        }
    }

    /// Which command of the storm this is.
    fn name(&self, argv: &[String]) -> Option<Name> {
        match argv {
            [itest, _, volley, _, name, ..]
                if itest == ITEST && volley == "volley" && name.starts_with(&self.storm) =>
            {
                Some((name.clone(), None))
            }
            [_, name, number, ..] if name.starts_with(&self.storm) => {
                Some((name.clone(), Some(number.parse().ok()?)))
            }
            _ => None,
        }
    }

    fn exited(&mut self, session: &str, exited: &Exited) {
        let Some(process) = key(exited.process.as_ref()) else { return };
        if let Some(name) = self.processes.get(&process) {
            let seen = self.commands.entry(name.clone()).or_default();
            seen.exited += 1;
            seen.code = exited.exit_code;
        }
        self.session(session).exited.insert(process);
    }

    /// Whether the end of a session of the storm came.
    pub(crate) fn has_ended(&self, volley: &Volley) -> bool {
        self.sessions.values().any(|seen| seen.ended > 0 && seen.volley.as_deref() == Some(&volley.name))
    }

    /// How often the agent said this of itself.
    pub(crate) fn said(&self, phase: Phase) -> usize {
        self.states.iter().filter(|state| state.phase == Some(phase.into())).count()
    }

    /// Holds it against what ran.
    pub(crate) fn verdict(&self, ran: &[Volley]) -> Verdict {
        let mut verdict = Verdict { events: self.events, duplicated: self.again, ..Verdict::default() };
        let mut mistakes = self.mistakes.clone();
        let windows =
            |of: fn(&Gap) -> bool| self.gaps.iter().filter(move |gap| of(gap)).map(window).collect();
        let said: Vec<Window> = windows(|gap| !is_no_state(gap));
        let states: Vec<Window> = windows(is_no_state);
        verdict.states = states.len() as u64;
        let mut of_volley: HashMap<&str, Vec<&SessionSeen>> = HashMap::new();
        for seen in self.sessions.values() {
            match &seen.volley {
                Some(volley) => of_volley.entry(volley).or_default().push(seen),
                None => verdict.strangers += 1,
            }
        }
        let all_seen = ran.iter().all(|volley| of_volley.contains_key(&*volley.name));
        for volley in ran {
            let sessions = of_volley.remove(&*volley.name).unwrap_or_default();
            let about = |windows: &[Window]| {
                let about =
                    |(from, to): &&Window| *from <= volley.ended + SLACK && *to >= volley.began - SLACK;
                windows.iter().filter(about).count()
            };
            // An agent that knows nothing of the sessions that run begins them again, and counts anew. Each such word
            // excuses one beginning of each session that ran then.
            let forgot = u32::try_from(about(&states)).unwrap_or(u32::MAX);
            let missing = self.of_volley(volley, &sessions, forgot, &mut verdict, &mut mistakes);
            if missing > 0 && about(&said) + about(&states) == 0 {
                verdict.unplaced += 1;
                verdict.notes.push(format!("no gap is about the time of {}", volley.root.join(" ")));
            }
        }
        for (stranger, _) in of_volley {
            mistakes.push(format!("{stranger} was told, and never ran"));
        }
        let epochs: BTreeSet<_> = self.numbers.keys().chain(self.absent.keys()).collect();
        for (node, epoch) in epochs {
            let key = (node.clone(), *epoch);
            let (came, absent) = (self.numbers.get(&key), self.absent.get(&key));
            let came = |seq: &u64| came.is_some_and(|came| came.contains_key(seq));
            let newest = self
                .numbers
                .get(&key)
                .and_then(|came| came.keys().next_back())
                .max(absent.and_then(BTreeSet::last));
            let missing: Vec<u64> = (1..=newest.copied().unwrap_or(0)).filter(|seq| !came(seq)).collect();
            verdict.holes += missing.len() as u64;
            verdict.numbers += absent.map_or(0, |absent| absent.len() as u64);
            let unsaid = missing.iter().find(|seq| !absent.is_some_and(|absent| absent.contains(seq)));
            if let Some(first) = unsaid {
                verdict
                    .notes
                    .push(format!("nobody says that number {first} of {node}, epoch {epoch}, is missing"));
            }
        }
        for gap in &self.gaps {
            let count = gap.count.unwrap_or(0);
            match gap.source() {
                // What they count has numbers, which say exactly what of it is missing. What had none is counted by
                // `numbered`.
                GapSource::CollectorSequence | GapSource::AgentBuffer | GapSource::AgentSpool => {
                    verdict.words += 1;
                }
                _ if gap.exact != Some(true) => {
                    verdict.at_least += count;
                    verdict.inexact += 1;
                }
                // Other records than these two are no event of their own.
                GapSource::KernelRing => {
                    verdict.kernel += if matches!(&*gap.detail, "exec" | "exit") { count } else { 0 };
                }
                // This source knows whose the records were.
                GapSource::SessionBudget if self.of_strangers(gap, all_seen) => {}
                GapSource::CollectorStore => verdict.log += count,
                _ => verdict.kernel += count,
            }
        }
        verdict.mistakes = mistakes;
        verdict
    }

    fn of_volley(
        &self,
        volley: &Volley,
        sessions: &[&SessionSeen],
        forgot: u32,
        verdict: &mut Verdict,
        mistakes: &mut Vec<String>,
    ) -> u64 {
        let commands = u64::from(volley.commands) + 1;
        verdict.commands += commands;
        let mut told = 0;
        for number in std::iter::once(None).chain((0..volley.commands).map(Some)) {
            let Some(seen) = self.commands.get(&(volley.name.clone(), number)) else { continue };
            told += u64::from(seen.executed.min(1));
            verdict.duplicated += u64::from(
                (seen.executed - seen.again.min(forgot)).saturating_sub(1) + seen.exited.saturating_sub(1),
            );
            let code = number.map_or(0, |number| volley_command(&volley.name, number, self.large).1);
            if seen.exited > 0 && seen.code != Some(code) {
                mistakes
                    .push(format!("{} {number:?} exited with {code}, told: {:?}", volley.name, seen.code));
            }
        }
        let exited: u64 = sessions.iter().map(|seen| seen.exited.len() as u64).sum();
        if exited > commands {
            mistakes.push(format!("{}: {exited} processes ended of {commands}", volley.name));
        }
        let (mut started, mut ended, mut anew) = (0, 0, 0);
        for seen in sessions {
            started += seen.started;
            ended += seen.ended;
            anew += seen.anew;
            if let Some((counted, lost)) = seen.told
                && counted + lost < seen.executed
                && seen.anew.min(forgot) == 0
            {
                mistakes.push(format!("{} ended with {counted} commands of {}", volley.name, seen.executed));
            }
        }
        // What begins anew may have lost the process that its name is of, and its end may be told by both.
        let anew = anew.min(forgot);
        if sessions.len() > 1 + anew as usize {
            let each: Vec<_> = sessions.iter().map(|seen| (seen.started, seen.anew, seen.ended)).collect();
            mistakes.push(format!(
                "{} became {} sessions (started, of these anew, ended: {each:?})",
                volley.name,
                sessions.len()
            ));
        }
        verdict.duplicated += u64::from(started.saturating_sub(1 + anew) + ended.saturating_sub(1 + anew));
        let missing = (commands - told)
            + commands.saturating_sub(exited)
            + u64::from(started == 0)
            + u64::from(ended == 0);
        // The interesting ones are those of which some was told.
        if missing > 0 && told + exited > 0 && verdict.notes.len() < MISTAKES {
            verdict.notes.push(format!(
                "{}: {told} commands and {exited} ends told of {commands}, {started} starts, {ended} ends",
                volley.root.join(" ")
            ));
        }
        verdict.executions += commands - told;
        verdict.exits += commands.saturating_sub(exited);
        verdict.lost += missing;
        missing
    }

    /// Whether a gap is about sessions that were not the storm's.
    fn of_strangers(&self, gap: &Gap, all_seen: bool) -> bool {
        // One of which nothing at all came is nobody's of the storm where all of the storm's were seen.
        let stranger = |id: &String| self.sessions.get(id).map_or(all_seen, |seen| seen.volley.is_none());
        !gap.session_ids.is_empty() && gap.session_ids.iter().all(stranger)
    }

    /// What gaps said, a line for each kind.
    pub(crate) fn told_gaps(&self) -> Vec<String> {
        let mut sums: BTreeMap<(&str, &str, bool, bool), (u64, u64)> = BTreeMap::new();
        for gap in &self.gaps {
            let kind = (
                gap.source().as_str_name(),
                &*gap.detail,
                gap.exact == Some(true),
                gap.session_ids.is_empty(),
            );
            let (gaps, count) = sums.entry(kind).or_default();
            *gaps += 1;
            *count += gap.count.unwrap_or(0);
        }
        let line = |((source, detail, exact, nobodys), (gaps, count)): (_, (u64, u64))| {
            let exact = if exact { "" } else { "at least " };
            let whose = if nobodys { ", of any session" } else { "" };
            format!("{gaps} gaps {source} ({detail}){whose}: {exact}{count}")
        };
        sums.into_iter().map(line).collect()
    }
}
