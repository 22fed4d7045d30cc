//! Which log it is, so that a cursor of another is never taken for a place in this one.
//!
//! The id is drawn when the log is made. A copy, or what was restored from a backup, goes on with other events under
//! the same numbers: it is known by the file `format`, written once and never again, which then is another file
//! (inode and time of birth). It gets an id of its own.

use fjall::{Database, Keyspace, PersistMode};

use super::{super::directory::Birth, store_error};
use crate::{
    telemetry::{Emit as _, collector::LogCopied},
    trail::{LogId, log::LogError},
};

const ID: &[u8] = b"id";

/// The id of the log in this store.
pub(super) fn identify(store: &Database, state: &Keyspace, birth: Birth) -> Result<LogId, LogError> {
    // One that cannot be read is drawn anew: cursors of before are refused then, and never mistaken.
    let known = state.get(ID).ok().flatten().and_then(|value| decode(&value));
    if let Some((id, of)) = known
        && of == birth
    {
        return Ok(id);
    }
    let id = LogId::random();
    let mut batch = store.batch().durability(Some(PersistMode::SyncData));
    batch.insert(state, ID, encode(id, birth));
    batch.commit().map_err(store_error)?;
    if let Some((before, _)) = known {
        LogCopied { before, id }.emit();
    }
    Ok(id)
}

fn encode(id: LogId, birth: Birth) -> Vec<u8> {
    let Birth { inode, time } = birth;
    [&id.0.to_be_bytes()[..], &inode.to_be_bytes(), &time.0.to_be_bytes()].concat()
}

fn decode(bytes: &[u8]) -> Option<(LogId, Birth)> {
    let (id, rest) = bytes.split_first_chunk()?;
    let (inode, time) = rest.split_first_chunk()?;
    let birth = Birth {
        inode: u64::from_be_bytes(*inode),
        time: crate::trail::Moment(i64::from_be_bytes(time.try_into().ok()?)),
    };
    Some((LogId(u32::from_be_bytes(*id)), birth))
}
