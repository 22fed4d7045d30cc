//! Gaps for what was seen, and cannot be told.

use super::open::Open;
use crate::event::{Body, BootTime, Event, Gap, GapSource, SessionId};

/// There were more sessions than can be kept: this one, the oldest, is not followed any more.
pub(super) fn give_up(mut open: Open, time: BootTime, out: &mut Vec<Event>) {
    open.release_all(out);
    let gap = Gap {
        source: GapSource::AgentBuffer,
        count: 1,
        exact: false,
        from: time,
        to: time,
        sessions: vec![open.id.clone()],
        detail: "too many sessions at once: the rest of the oldest".to_owned(),
    };
    out.push(open.event(time, Body::Gap(gap)));
}

/// The commands of its session were lost.
pub(super) const STRAY_EXIT: &str = "the end of a process, of whose session no command came";
/// The session of a command is over.
pub(super) const LATE_COMMAND: &str = "a command that came after the end of its session";

/// An event that cannot be told, because what it belongs to was lost or is over.
pub(super) fn one_untold(time: BootTime, session: SessionId, detail: &str) -> Gap {
    Gap {
        source: GapSource::AgentDecode,
        count: 1,
        exact: true,
        from: time,
        to: time,
        sessions: vec![session],
        detail: detail.to_owned(),
    }
}
