//! What was dropped, until there is room to say so.

use std::collections::{BTreeMap, BTreeSet};

use podtrail_proto::{Timestamp, v1};
use prost::Message as _;

use super::Now;
use crate::trail::Moment;

/// Sessions named in one gap; where more are touched, none is named, which means any.
const SESSIONS_MAX: usize = 256;

/// Gaps to be.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending {
    /// by source and detail
    gaps: BTreeMap<(i32, String), Missing>,
}

/// One gap to be.
#[derive(Clone, Debug)]
struct Missing {
    count: u64,
    exact: bool,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
    sessions: BTreeSet<String>,
    any_session: bool,
}

/// As much of an event as must be known of one that is dropped.
#[derive(Clone, PartialEq, prost::Message)]
struct Peek {
    #[prost(message, optional, tag = "2")]
    time: Option<Timestamp>,
    #[prost(string, tag = "5")]
    session_id: String,
    #[prost(message, optional, tag = "16")]
    gap: Option<v1::Gap>,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.gaps.is_empty()
    }

    /// An event is dropped. If it is a gap itself, what it counted is carried on.
    pub(super) fn count(&mut self, bytes: &[u8]) {
        let peek = Peek::decode(bytes).unwrap_or_default();
        let missing = self.of(v1::GapSource::AgentBuffer.into(), "events");
        missing.count += 1;
        missing.between(peek.time, peek.time);
        if !peek.session_id.is_empty() {
            missing.touches([peek.session_id]);
        }
        if let Some(gap) = peek.gap {
            self.add(gap);
        }
    }

    /// What is missing by another's word.
    pub(super) fn add(&mut self, gap: v1::Gap) {
        let v1::Gap { source, count, exact, from, to, session_ids, detail } = gap;
        let missing = self.of(source.unwrap_or_default(), &detail);
        missing.count = missing.count.saturating_add(count.unwrap_or(1));
        missing.exact &= exact.unwrap_or(false);
        missing.between(from, to);
        missing.any_session |= session_ids.is_empty();
        missing.touches(session_ids);
    }

    /// Events that cannot be read any more; any session's. `exact`: as many as that.
    pub(super) fn unreadable(&mut self, count: u64, exact: bool, from: Moment, to: Moment, detail: &str) {
        self.add(v1::Gap {
            source: Some(v1::GapSource::AgentSpool.into()),
            count: Some(count),
            exact: Some(exact),
            from: Some(from.timestamp()),
            to: Some(to.timestamp()),
            session_ids: Vec::new(),
            detail: detail.to_owned(),
        });
    }

    /// The gaps as they would be told now, to be kept until they are.
    pub(super) fn gaps(&self) -> Vec<v1::Gap> {
        let gap = |((source, detail), missing): (&(i32, String), &Missing)| {
            missing.clone().into_gap(*source, detail.clone())
        };
        self.gaps.iter().map(gap).collect()
    }

    /// The gaps as events, and nothing pending from here on.
    pub(super) fn take(&mut self, now: Now) -> Vec<v1::Event> {
        let Now { wall, boot } = now;
        std::mem::take(&mut self.gaps)
            .into_iter()
            .map(|((source, detail), missing)| v1::Event {
                id: None,
                time: Some(wall.timestamp()),
                boottime_ns: boot.0,
                container: None,
                session_id: String::new(),
                attribution: None,
                body: Some(v1::event::Body::Gap(missing.into_gap(source, detail))),
            })
            .collect()
    }

    fn of(&mut self, source: i32, detail: &str) -> &mut Missing {
        self.gaps.entry((source, detail.to_owned())).or_insert_with(|| Missing {
            count: 0,
            exact: true,
            from: None,
            to: None,
            sessions: BTreeSet::new(),
            any_session: false,
        })
    }
}

impl Missing {
    fn between(&mut self, from: Option<Timestamp>, to: Option<Timestamp>) {
        let key = |time: &Timestamp| (time.seconds, time.nanos);
        self.from = self.from.into_iter().chain(from).min_by_key(key);
        self.to = self.to.into_iter().chain(to).max_by_key(key);
    }

    fn touches(&mut self, sessions: impl IntoIterator<Item = String>) {
        if !self.any_session {
            self.sessions.extend(sessions);
            self.any_session = self.sessions.len() > SESSIONS_MAX;
        }
    }

    fn into_gap(self, source: i32, detail: String) -> v1::Gap {
        let Self { count, exact, from, to, sessions, any_session } = self;
        let session_ids = if any_session { Vec::new() } else { sessions.into_iter().collect() };
        v1::Gap {
            source: Some(source),
            count: Some(count),
            exact: Some(exact),
            from,
            to,
            session_ids,
            detail,
        }
    }
}
