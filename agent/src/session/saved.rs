//! The machine's state as bytes, so that the next agent goes on with it: in the middle of sessions, of arguments that
//! are not complete, and of waits.

use std::collections::VecDeque;

use super::{
    Ending, MAX_ENDED, MAX_SESSIONS, Machine,
    bounded::Bounded,
    entries::{Entries, Joining},
    id::Ids,
    missing::Missing,
    refused::{Refusals, Rest},
    searches::Searches,
    waits::{MAX_WAITING_BYTES, MAX_WAITS, Wait},
};
use crate::{
    event::BootTime,
    state::{Changes, State, StateError, Table},
};

/// Of what is saved by this module: another is not read.
const VERSION: u32 = 3;

/// What waits, but for the sessions themselves: short lists, which change as a whole.
type Waiting = (VecDeque<Wait>, VecDeque<Ending>, VecDeque<Missing>, VecDeque<(BootTime, Joining)>, Rest);

impl Machine {
    /// What changed since the last time; all there is, if `all`.
    pub fn save(&mut self, all: bool, out: &mut Changes) {
        self.open.save(Table::SESSIONS, all, out);
        self.ended.save(Table::ENDED, all, out);
        self.entries.save(all, out);
        self.refusals.save(all, out);
        self.searches.save(all, out);
        let waiting = (&self.waits, &self.endings, &self.missing, self.entries.held(), self.refusals.rest());
        let waiting = postcard::to_stdvec(&waiting).unwrap_or_default();
        if all || waiting != self.saved {
            out.put(Table::WAITING, &(), Some(&waiting));
            self.saved = waiting;
        }
        if all {
            out.put(Table::VERSION, &(), Some(&VERSION));
        }
    }

    /// Instead of [`Self::save`], where nobody keeps what it saves.
    pub fn forget_changes(&mut self) {
        self.open.forget_changes();
        self.ended.forget_changes();
        self.entries.forget_changes();
        self.refusals.forget_changes();
        self.searches.forget_changes();
    }

    /// The machine whose changes made this state.
    pub fn restore(boot_id: &str, state: &State) -> Result<Self, StateError> {
        match Table::VERSION.get::<u32>(state)? {
            None => return Ok(Self::new(boot_id)),
            Some(VERSION) => {}
            Some(other) => return Err(StateError::Version(other)),
        }
        let waiting: Vec<u8> = Table::WAITING.get(state)?.unwrap_or_default();
        let (waits, endings, missing, held, refused): Waiting =
            postcard::from_bytes(&waiting).map_err(|_wrong| StateError::Damaged("what waits"))?;
        let open = Bounded::restore(MAX_SESSIONS, Table::SESSIONS, state)?;
        let waiting_bytes = waits.iter().map(|wait| wait.bytes).fold(0, usize::saturating_add);
        let lists = [endings.len(), missing.len()].into_iter().all(|len| len <= MAX_SESSIONS);
        let bounded = open.iter().all(|(_, open): (_, &super::Open)| open.is_bounded());
        if !bounded || !lists || waits.len() > MAX_WAITS || waiting_bytes > MAX_WAITING_BYTES {
            return Err(StateError::Damaged("the sessions"));
        }
        Ok(Self {
            ids: Ids::new(boot_id),
            entries: Entries::restore(state, held)?,
            open,
            ended: Bounded::restore(MAX_ENDED, Table::ENDED, state)?,
            waits,
            waiting_bytes,
            endings,
            missing,
            refusals: Refusals::restore(state, refused)?,
            searches: Searches::restore(state)?,
            saved: waiting,
        })
    }
}
