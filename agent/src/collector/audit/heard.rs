//! Which audit is heard, and since when: who says that no request came must have been listening.
//!
//! A source is one API server: the address its webhook comes from, or its file. Each that was heard is expected to go
//! on. A webhook of which nothing came for [`Heard::stale_after`] has a hole, since an API server gives up what it cannot
//! send for long, and is heard anew from what comes next; a file has all of it, unless something of it could not be read.
//! One of which nothing came for an hour is no API server any more.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use crate::{
    collector::log::{Beside, DiskLog},
    telemetry::{
        Emit as _,
        audit::{SourceBack, SourceForgotten, SourceHeard, SourceMeasured, SourceStale},
    },
    trail::{Moment, log::LogError},
};

/// Sources remembered: the one that was silent for longest goes.
pub(super) const MAX_SOURCES: usize = 1000;
const FORGET_AFTER: Duration = Duration::from_secs(60 * 60);
/// How long an API server takes to send again what it was told to: its back-off begins with 10 s.
const OWES: Duration = Duration::from_secs(60);
const PREFIX: &[u8] = b"audit/heard/";

/// Where audit comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    pub cluster: String,
    /// "webhook 192.0.2.1", "file /var/log/kubernetes/audit.log"
    pub name: String,
}

/// What was heard of one source, without a hole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    pub source: String,
    /// stages, by the API server's clock, but never later than the collector's
    pub since: Moment,
    pub upto: Moment,
    /// nothing came for long
    pub stale: bool,
    /// what it is about to send again may be as old as this
    pub owes: Option<Moment>,
}

/// Whether all audit of a time was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Over {
    /// every API server's
    All,
    /// not yet: some is not as far, and comes
    Behind,
    /// not of these sources
    Partly(Vec<String>),
    /// of none
    Nobody,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Life {
    since: Moment,
    upto: Moment,
    /// when something last came, by the collector's clock
    last: Moment,
    told_stale: bool,
    /// when it was last told to come again with something
    owes: Option<Moment>,
}

/// See the module. Clones share it.
#[derive(Clone, Debug)]
pub struct Heard(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    stale_after: Duration,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    sources: BTreeMap<Source, Life>,
    /// to be written
    dirty: bool,
    forgotten: Vec<Source>,
}

/// The same of what was heard at another time.
#[must_use]
pub fn over(streams: &[Stream], from: Moment, to: Moment) -> Over {
    let (mut behind, mut without) = (false, Vec::new());
    for Stream { source, since, upto, stale, owes } in streams {
        if *since > from || (*stale && *upto < to) {
            without.push(source.clone());
        } else {
            behind |= *upto < to || owes.is_some_and(|owes| owes < to);
        }
    }
    match (without.len(), behind) {
        (n, _) if n == streams.len() => Over::Nobody,
        (0, true) => Over::Behind,
        (0, false) => Over::All,
        _ => Over::Partly(without),
    }
}

impl Heard {
    #[must_use]
    pub fn new(stale_after: Duration) -> Self {
        Self(Arc::new(Inner { stale_after, state: Mutex::default(), changed: watch::Sender::default() }))
    }

    /// Goes on with what is kept beside the log.
    pub(super) fn load(&self, log: &DiskLog) -> Result<(), LogError> {
        let mut state = self.lock();
        for (key, value) in log.beside(PREFIX)? {
            if let Some((source, life)) = decode(&key, &value) {
                state.sources.insert(source, life);
            }
        }
        Ok(())
    }

    /// How long a source may say nothing.
    #[must_use]
    pub fn stale_after(&self) -> Duration {
        self.0.stale_after
    }

    /// Grows whenever something was heard, or was not for long.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// What was heard of a cluster, a source each.
    #[must_use]
    pub fn streams(&self, cluster: &str) -> Vec<Stream> {
        let now = Moment::now();
        let state = self.lock();
        let own = state.sources.iter().filter(|(source, _)| source.cluster == cluster);
        own.map(|(source, life)| {
            let Life { since, upto, last, told_stale: _, owes } = *life;
            let owes = owes.filter(|at| now.since(*at) < OWES).map(|at| at.before(OWES));
            Stream { source: source.name.clone(), since, upto, stale: self.is_stale(now, last), owes }
        })
        .collect()
    }

    /// Whether all requests to a cluster's API servers with a stage from `from` to `to` are in the log.
    #[must_use]
    pub fn over(&self, cluster: &str, from: Moment, to: Moment) -> Over {
        over(&self.streams(cluster), from, to)
    }

    /// Something of this source is in the log, or was not worth it; its stages were from `first` to `last`. `whole`:
    /// nothing is missing before it, however long ago that was.
    pub(super) fn hear(&self, source: &Source, first: Moment, last: Moment, whole: bool) {
        let now = Moment::now();
        let (first, last) = (first.min(now), last.min(now));
        {
            let mut state = self.lock();
            state.dirty = true;
            match state.sources.get_mut(source) {
                Some(life) => {
                    let hole = !whole && now.since(life.last) > self.0.stale_after;
                    if hole {
                        let silent = now.since(life.last);
                        SourceBack { cluster: &source.cluster, source: &source.name, silent }.emit();
                        life.since = first;
                    }
                    life.upto = life.upto.max(last);
                    (life.last, life.told_stale) = (now, false);
                }
                None => {
                    SourceHeard { cluster: &source.cluster, source: &source.name }.emit();
                    let life = Life { since: first, upto: last, last: now, told_stale: false, owes: None };
                    state.sources.insert(source.clone(), life);
                    if state.sources.len() > MAX_SOURCES {
                        let quiet = state.sources.iter().min_by_key(|(_, life)| life.last);
                        if let Some(quiet) = quiet.map(|(source, _)| source.clone()) {
                            state.forget(quiet);
                        }
                    }
                }
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a metric")]
        SourceMeasured { cluster: &source.cluster, source: &source.name, at: now.0 as f64 / 1e9 }.emit();
        self.0.changed.send_modify(|n| *n += 1);
    }

    /// Something of this source cannot be read: nobody can say what came before.
    pub(super) fn interrupt(&self, source: &Source) {
        let now = Moment::now();
        let mut state = self.lock();
        state.dirty = true;
        if let Some(life) = state.sources.get_mut(source) {
            life.since = now;
        }
    }

    /// This source is told to come again.
    pub(super) fn put_off(&self, source: &Source) {
        if let Some(life) = self.lock().sources.get_mut(source) {
            life.owes = Some(Moment::now());
        }
    }

    /// Looks for sources that fell silent: tells each once, and returns what to say of them in `/readyz`.
    pub(super) fn look(&self) -> Option<String> {
        let now = Moment::now();
        let mut state = self.lock();
        let gone: Vec<Source> = state
            .sources
            .iter()
            .filter(|(_, life)| now.since(life.last) > FORGET_AFTER.max(self.0.stale_after))
            .map(|(source, _)| source.clone())
            .collect();
        for source in gone {
            SourceForgotten { cluster: &source.cluster, source: &source.name }.emit();
            state.forget(source);
        }
        let mut remarks = Vec::new();
        let mut changed = false;
        for (source, life) in &mut state.sources {
            let silent = now.since(life.last);
            if silent > self.0.stale_after {
                let Source { cluster, name } = source;
                remarks.push(format!("nothing from {name} of {cluster} for {} s", silent.as_secs()));
                if !std::mem::replace(&mut life.told_stale, true) {
                    changed = true;
                    SourceStale { cluster, source: name, silent }.emit();
                }
            }
        }
        let some = !state.sources.is_empty();
        drop(state);
        if changed {
            self.0.changed.send_modify(|n| *n += 1);
        }
        if some {
            (!remarks.is_empty()).then(|| remarks.join("; "))
        } else {
            Some("nothing was heard yet".to_owned())
        }
    }

    /// What is to be written of it, where something is.
    pub(super) fn unwritten(&self) -> Vec<Beside> {
        let mut state = self.lock();
        let gone: Vec<_> = state.forgotten.drain(..).map(|s| Beside { key: key(&s), value: None }).collect();
        if !std::mem::take(&mut state.dirty) {
            return gone;
        }
        let all = state
            .sources
            .iter()
            .map(|(source, life)| Beside { key: key(source), value: Some(encode(*life)) });
        gone.into_iter().chain(all).collect()
    }

    /// It could not be.
    pub(super) fn not_written(&self) {
        self.lock().dirty = true;
    }

    fn is_stale(&self, now: Moment, last: Moment) -> bool {
        now.since(last) > self.0.stale_after
    }

    // Every change leaves it whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget(&mut self, source: Source) {
        self.sources.remove(&source);
        self.forgotten.push(source);
    }
}

fn key(source: &Source) -> Vec<u8> {
    // Neither has a NUL in it.
    [PREFIX, source.cluster.as_bytes(), b"\0", source.name.as_bytes()].concat()
}

fn encode(life: Life) -> Vec<u8> {
    let Life { since, upto, last, told_stale: _, owes: _ } = life;
    [since, upto, last].iter().flat_map(|moment| moment.0.to_be_bytes()).collect()
}

fn decode(key: &[u8], value: &[u8]) -> Option<(Source, Life)> {
    let name = std::str::from_utf8(key.strip_prefix(PREFIX)?).ok()?;
    let (cluster, name) = name.split_once('\0')?;
    let mut moments = value.as_chunks().0.iter().map(|bytes| Moment(i64::from_be_bytes(*bytes)));
    let (since, upto, last) = (moments.next()?, moments.next()?, moments.next()?);
    let source = Source { cluster: cluster.to_owned(), name: name.to_owned() };
    Some((source, Life { since, upto, last, told_stale: false, owes: None }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str) -> Source {
        Source { cluster: "c".to_owned(), name: name.to_owned() }
    }

    /// So many seconds before now.
    fn ago(seconds: u64) -> Moment {
        Moment::now().before(Duration::from_secs(seconds))
    }

    impl Heard {
        /// As if all of it had been so much earlier.
        fn age(&self, by: Duration) {
            for life in self.lock().sources.values_mut() {
                (life.since, life.upto) = (life.since.before(by), life.upto.before(by));
                life.last = life.last.before(by);
                life.owes = life.owes.map(|owes| owes.before(by));
            }
        }
    }

    #[test]
    fn all_of_a_time_is_heard_where_every_api_server_was() {
        let heard = Heard::new(Duration::from_secs(60));
        assert_eq!(heard.over("c", ago(50), ago(40)), Over::Nobody);
        heard.hear(&source("a"), ago(100), ago(10), false);
        assert_eq!(heard.over("c", ago(50), ago(40)), Over::All);
        assert_eq!(heard.over("d", ago(50), ago(40)), Over::Nobody, "another cluster's is not this one's");
        assert_eq!(heard.over("c", ago(50), ago(5)), Over::Behind);
        assert_eq!(heard.over("c", ago(110), ago(40)), Over::Nobody, "before it began nobody listened");
        heard.hear(&source("b"), ago(45), ago(1), false);
        assert_eq!(heard.over("c", ago(50), ago(40)), Over::Partly(vec!["b".to_owned()]));
        assert_eq!(heard.over("c", ago(44), ago(5)), Over::Behind);
        assert_eq!(heard.over("c", ago(44), ago(20)), Over::All);
    }

    #[test]
    fn a_stream_with_a_hole_begins_anew_after_it() {
        let heard = Heard::new(Duration::from_secs(60));
        heard.hear(&source("a"), ago(30), ago(10), false);
        heard.age(Duration::from_secs(61));
        assert_eq!(heard.over("c", ago(80), ago(75)), Over::All, "what was heard was heard");
        assert_eq!(heard.over("c", ago(80), ago(70)), Over::Nobody, "and nothing comes of what follows");
        assert!(heard.streams("c")[0].stale);
        let told = heard.look().unwrap();
        assert!(told.starts_with("nothing from a of c for 6"), "{told}");
        heard.hear(&source("a"), ago(2), ago(1), false);
        assert_eq!(heard.over("c", ago(80), ago(75)), Over::Nobody);
        assert_eq!(heard.look(), None);
        heard.hear(&source("a"), ago(90), ago(85), false);
        assert_eq!(heard.over("c", ago(2), ago(2)), Over::All, "what comes late takes nothing back");
        assert_eq!(heard.over("c", ago(86), ago(2)), Over::Nobody, "nor fills the hole");
    }

    #[test]
    fn a_file_has_all_of_it_unless_something_cannot_be_read() {
        let heard = Heard::new(Duration::from_secs(60));
        heard.hear(&source("a"), ago(30), ago(10), true);
        heard.age(Duration::from_secs(600));
        heard.hear(&source("a"), ago(20), ago(1), true);
        assert_eq!(heard.over("c", ago(600), ago(2)), Over::All);
        heard.interrupt(&source("a"));
        assert_eq!(heard.over("c", ago(600), ago(2)), Over::Nobody);
        assert_eq!(heard.over("c", Moment::now(), Moment::now()), Over::Behind);
        heard.interrupt(&source("b"));
        assert_eq!(heard.streams("c").len(), 1, "who was never heard is no source");
    }

    #[test]
    fn what_comes_again_is_waited_for() {
        let heard = Heard::new(Duration::from_secs(600));
        heard.hear(&source("a"), ago(500), ago(1), false);
        heard.put_off(&source("a"));
        assert_eq!(heard.over("c", ago(50), ago(40)), Over::Behind, "it may be of then");
        assert_eq!(heard.over("c", ago(400), ago(100)), Over::All, "that is too long ago");
        heard.age(OWES);
        heard.hear(&source("a"), ago(2), ago(1), false);
        assert_eq!(heard.over("c", ago(50), ago(40)), Over::All);
    }

    #[test]
    fn a_clock_that_is_ahead_says_nothing_of_the_future() {
        let heard = Heard::new(Duration::from_secs(60));
        let later = Moment(Moment::now().0 + 3_600_000_000_000);
        heard.hear(&source("a"), ago(30), later, false);
        let stream = heard.streams("c").remove(0);
        assert!(stream.upto <= Moment::now() && stream.upto > ago(20), "{stream:?}");
        assert_eq!(heard.over("c", ago(10), later), Over::Behind);
    }

    #[test]
    fn after_an_hour_of_silence_it_is_forgotten_also_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let log = DiskLog::open(dir.path()).unwrap();
        let heard = Heard::new(Duration::from_secs(60));
        assert_eq!(heard.look().as_deref(), Some("nothing was heard yet"));
        heard.hear(&source("a"), ago(30), ago(10), false);
        log.append_with(vec![], &heard.unwritten()).unwrap();
        assert_eq!(heard.unwritten(), []);
        let loaded = Heard::new(Duration::from_secs(60));
        loaded.load(&log).unwrap();
        assert_eq!(loaded.streams("c"), heard.streams("c"), "a restart is no hole");
        loaded.age(FORGET_AFTER + Duration::from_secs(1));
        _ = loaded.look();
        assert_eq!(loaded.streams("c"), []);
        log.append_with(vec![], &loaded.unwritten()).unwrap();
        assert_eq!(log.beside(PREFIX).unwrap(), []);
    }

    #[test]
    fn sources_are_bounded() {
        let heard = Heard::new(Duration::from_secs(60));
        for n in 0..MAX_SOURCES + 5 {
            heard.hear(&source(&n.to_string()), ago(1), ago(1), false);
        }
        assert_eq!(heard.streams("c").len(), MAX_SOURCES);
    }

    #[test]
    fn anything_on_the_disk_is_read_without_harm() {
        assert_eq!(decode(b"audit/heard/c", &[0; 24]), None);
        assert_eq!(decode(b"audit/heard/c\0s", &[0; 23]), None);
        assert!(decode(b"audit/heard/c\0s", &[0xff; 24]).is_some());
    }
}
