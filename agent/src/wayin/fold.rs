//! What a probe did, so that it can be seen whether it did the same again; and how often it did.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::command::first_half;
use crate::event::{
    Body, BootTime, Event, ExecFailed, Executed, ExitStatus, Exited, Folded, Method, SessionEnded, SessionId,
};

/// After this one is told in full again, so that a log that keeps a week has what its counts are of.
const AGAIN_NS: u64 = 24 * 3600 * 1_000_000_000;

/// Commands and exits of one session that are looked at.
const MAX_PARTS: usize = 256;

/// What a session did, but for when and by which pids.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Outcome {
    parts: Vec<[u8; 16]>,
    /// something of it is not known
    broken: bool,
}

/// The same for sessions that did the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Digest([u8; 16]);

impl Outcome {
    /// Takes in one of its events.
    pub(super) fn see(&mut self, body: &Body) {
        match body {
            Body::Executed(executed) => self.part(&told(executed)),
            Body::ExecFailed(failed) => self.part(&failed_as(failed)),
            // In what order the processes of a pipe come and go is chance.
            Body::Exited(Exited { process, status, duration_ns: _, late }) => {
                self.broken |= *late;
                self.part(&(1_u8, &process.comm, status));
            }
            Body::SessionStarted(_) | Body::SessionEnded(_) | Body::Attributed(_) => {}
            Body::NamespaceJoined(_)
            | Body::Gap(_)
            | Body::AgentState(_)
            | Body::Folded(_)
            | Body::Observed(_) => self.broken = true,
        }
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Something of it is missing.
    pub(super) fn breaks(&mut self) {
        self.broken = true;
    }

    /// Of the whole session. `None`: it is not known whole.
    pub(super) fn digest(&self, ended: &SessionEnded) -> Option<Digest> {
        if self.broken || ended.lost > 0 || ended.status.is_none() {
            return None;
        }
        let mut parts = self.parts.clone();
        parts.sort_unstable();
        let mut hash = Sha256::new();
        hash.update(postcard::to_stdvec(&(ended.status, parts)).ok()?);
        Some(Digest(first_half(hash)))
    }

    fn part<T: Serialize>(&mut self, what: &T) {
        match postcard::to_stdvec(what) {
            Ok(bytes) if self.parts.len() < MAX_PARTS => {
                let mut hash = Sha256::new();
                hash.update(bytes);
                self.parts.push(first_half(hash));
            }
            _ => self.broken = true,
        }
    }
}

/// Everything that says which program was run, and how: a binary that was replaced is another inode.
fn told(executed: &Executed) -> impl Serialize {
    let Executed {
        process: _,
        path,
        cwd,
        path_incomplete,
        argv,
        script,
        credentials,
        tty,
        executable,
        namespaces,
        cgroup_id,
        root,
        argv_over_budget,
        spoof_suspected,
        not_found,
    } = executed;
    (
        (path, cwd, path_incomplete, argv, script, credentials),
        (tty, executable, namespaces, cgroup_id, root, argv_over_budget, spoof_suspected, not_found),
    )
}

/// Likewise.
fn failed_as(failed: &ExecFailed) -> impl Serialize {
    let ExecFailed { process: _, path, cwd, path_incomplete, argv, argv_cut, credentials, error, attempts } =
        failed;
    ((2_u8, path, cwd, path_incomplete, argv, argv_cut), (credentials, error, attempts))
}

/// The session that was told last.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Told {
    pub(super) digest: Digest,
    pub(super) session: SessionId,
    pub(super) at: BootTime,
}

impl Told {
    /// Whether one that did this need not be told.
    pub(super) fn covers(&self, digest: Digest, at: BootTime) -> bool {
        self.digest == digest && at.since(self.at) < AGAIN_NS
    }
}

/// Sessions that were only counted, since the last word of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Count {
    sessions: u64,
    commands: u64,
    first: BootTime,
    last: BootTime,
    status: Option<ExitStatus>,
}

impl Count {
    /// One more, into `count`.
    pub(super) fn add(count: &mut Option<Self>, entered: BootTime, ended: &SessionEnded) {
        let SessionEnded { status, duration_ns: _, commands, lost: _ } = *ended;
        let count =
            count.get_or_insert(Self { sessions: 0, commands: 0, first: entered, last: entered, status });
        count.sessions = count.sessions.saturating_add(1);
        count.commands = count.commands.saturating_add(commands);
        count.first = count.first.min(entered);
        count.last = count.last.max(entered);
    }

    pub(super) fn since(&self) -> BootTime {
        self.first
    }

    pub(super) fn sessions(&self) -> u64 {
        self.sessions
    }

    pub(super) fn status(&self) -> Option<ExitStatus> {
        self.status
    }

    /// As an event. `like`: empty where none was told.
    pub(super) fn tell(self, container: u64, like: &SessionId, method: Method) -> Event {
        let Self { sessions, commands, first, last, status } = self;
        let folded = Folded { like: like.clone(), method, sessions, commands, first, last, status };
        Event {
            time: last,
            container: Some(container),
            session: Some(like.clone()).filter(|SessionId(id)| !id.is_empty()),
            body: Body::Folded(Box::new(folded)),
        }
    }
}
