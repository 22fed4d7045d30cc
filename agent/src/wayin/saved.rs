//! What is held back and counted, as bytes that outlive the agent: kept with the events in one transaction.

use std::collections::VecDeque;

use super::{MAX_BYTES, MAX_CONTAINERS, MAX_FOLDED, MAX_LATE, MAX_SESSIONS, Options, Session, Stage, WayIn};
use crate::{
    event::SessionId,
    session::bounded::Bounded,
    state::{Changes, State, StateError, Table},
};

/// Of what is saved by this module: another is not read.
const VERSION: u32 = 1;

impl WayIn {
    /// What changed since the last time; all there is, if `all`.
    pub fn save(&mut self, all: bool, out: &mut Changes) {
        self.sessions.save(Table::HELD, all, out);
        self.containers.save(Table::PROBES, all, out);
        if all {
            out.put(Table::WAYS_VERSION, &(), Some(&VERSION));
        }
    }

    /// Instead of [`Self::save`], where nobody keeps what it saves.
    pub fn forget_changes(&mut self) {
        self.sessions.forget_changes();
        self.containers.forget_changes();
    }

    /// What was saved, to go on with.
    pub fn restore(options: Options, state: &State) -> Result<Self, StateError> {
        match Table::WAYS_VERSION.get::<u32>(state)? {
            None => return Ok(Self::new(options)),
            Some(VERSION) => {}
            Some(other) => return Err(StateError::Version(other)),
        }
        let sessions: Bounded<SessionId, Session> = Bounded::restore(MAX_SESSIONS, Table::HELD, state)?;
        let bytes = sessions.iter().map(|(_, session)| session.bytes).fold(0, usize::saturating_add);
        if bytes > MAX_BYTES.saturating_mul(2) {
            return Err(StateError::Damaged("what was held back"));
        }
        let late = sessions.iter().filter(|(_, session)| matches!(session.stage, Stage::Late(_)));
        let late: VecDeque<SessionId> = late.map(|(id, _)| id.clone()).take(MAX_LATE).collect();
        Ok(Self {
            options,
            bytes,
            late,
            sessions,
            containers: Bounded::restore(MAX_CONTAINERS, Table::PROBES, state)?,
            folded: Bounded::new(MAX_FOLDED),
        })
    }

    /// What is gone with a state that nobody goes on with: events held back, and sessions only counted. `false`: that is
    /// a lower bound.
    #[must_use]
    pub fn lost_with(state: &State) -> (u64, bool) {
        let there = Table::HELD.len(state).saturating_add(Table::PROBES.len(state));
        if there == 0 {
            return (0, true);
        }
        let Ok(Self { sessions, containers, .. }) = Self::restore(Options::default(), state) else {
            return (1, false);
        };
        let held = sessions.iter().map(|(_, session)| session.held.len()).fold(0, usize::saturating_add);
        let groups = containers.iter().flat_map(|(_, container)| container.groups.values());
        let counted = groups.filter_map(|group| group.count).map(|count| count.sessions());
        let counted = counted.fold(0, u64::saturating_add);
        (u64::try_from(held).unwrap_or(u64::MAX).saturating_add(counted), true)
    }
}
