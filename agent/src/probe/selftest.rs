//! The kernel side, tried out: an exec of the agent's own is reported by the hooks at work, in a session that nobody is told
//! of, and whoever calls compares it with what `/proc` says of the same process.
//!
//! The session's key is no task's ([`SELF_TEST`]): what is left of one whose agent was killed is passed over by every reader.

use std::{
    io::{Error, ErrorKind, Read as _, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
};

use nix::libc::ENOTDIR;

use podtrail_ebpf::layout::{FollowedTask, SELF_TEST, Session, TaskKey, entry_kind, task_kind};

use super::{
    Probe, ProbeError, RawRecord,
    decode::decode,
    failed::Seen,
    inherit::retire,
    load::map_error,
    pins::Generation,
    seed::{Bytes, KEY, SESSION, TASK, bytes},
};
use crate::{
    event::ExecFailed,
    session::record::{Exec, Exit, Record},
};

/// The argument that makes the agent play its part.
const PART: &str = "self-test";
/// What it is called then.
const NAME: &str = "podtrail-agent";
/// No program on any machine, and what it says who tries to become it.
const NOWHERE: &str = "/proc/self/exe/nowhere";
const REFUSED: i32 = ENOTDIR;
/// How that ends.
pub const PLAYED: u8 = 90;

/// What came of a try.
#[derive(Debug)]
pub struct Tried<T> {
    /// what the kernel side reported of it
    pub exec: Option<Exec>,
    pub failed: Option<ExecFailed>,
    pub exit: Option<Exit>,
    /// what `look` saw
    pub seen: T,
    /// how it really was
    pub pid: u32,
    pub argv: Vec<u8>,
    /// what it tried to become in vain; `None`: nobody sees that here
    pub refused: Option<Refused>,
    pub code: i32,
}

/// An exec that had to fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub path: Vec<u8>,
    pub argv: Vec<Vec<u8>>,
    pub error: i32,
}

/// Does what the process that is tried out does: an exec that fails, and then it is there until its standard input ends.
/// `false`: it is none.
#[must_use]
pub fn plays_along() -> bool {
    let mut args = std::env::args_os().skip(1);
    let plays = args.next().is_some_and(|part| part == PART);
    if plays {
        // Whatever comes, it ends.
        let _ = Command::new(NOWHERE).arg0(NAME).args(args).exec();
        let _ = std::io::stdout().write_all(b"\n");
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
    }
    plays
}

impl Probe {
    /// Whether the programs at work were tried out already.
    #[must_use]
    pub fn was_tried(&self) -> bool {
        self.kernel.control.tested == 1
    }

    /// They are right.
    pub fn passed(&mut self) -> Result<(), ProbeError> {
        self.kernel.control.tested = 1;
        match &mut self.kernel.kept {
            Some(kept) => kept.control.write(&self.kernel.control),
            None => Ok(()),
        }
    }

    /// They are wrong: nothing records any more. What is in the ring is left for the next agent.
    pub fn abandon(&self) -> Result<(), ProbeError> {
        let Some(kept) = &self.kernel.kept else { return Ok(()) };
        let generation: &Generation = &kept.generation;
        retire(&kept.pins, generation)?;
        Ok(generation.remove()?)
    }

    /// Runs the agent's own program; `look` is called with its pid while it is there. `None`: it cannot be tried now.
    pub fn try_out<T>(&mut self, look: impl FnOnce(u32) -> T) -> Result<Option<Tried<T>>, ProbeError> {
        // What does not fit would be told as lost.
        if self.is_crowded() {
            tracing::warn!(
                "the kernel side is not tried out: its ring is full of what was recorded meanwhile"
            );
            return Ok(None);
        }
        let own = std::process::id();
        let Some(start) = self.start_times()?.get(&own).copied() else {
            return Err(ProbeError::SelfTest(format!("it knows no process {own}, which this is")));
        };
        let (key, entry) = (TaskKey::new(own, start), TaskKey::new(own, SELF_TEST));
        let before = self.follow(key, entry)?;
        let nonce = own.to_string();
        let tried = spawn(&nonce).and_then(|child| Self::watch(child, look));
        self.forget(key, entry, before)?;
        let (pid, code, seen) = match tried {
            Ok(tried) => tried,
            Err(error) => {
                tracing::warn!(%error, "the kernel side is not tried out: the agent cannot run its own program");
                return Ok(None);
            }
        };
        let (mut exec, mut failed, mut exit) = (None, None, None);
        self.ring.get_mut().peek(|record| {
            if let Ok(RawRecord::SelfTest(record)) = decode(record) {
                match *record {
                    // Of another agent's, which was killed at it, nothing is taken for this one's.
                    Record::Exec(found) if found.entry == entry => exec = Some(*found),
                    Record::ExecFailed(found) if found.entry == entry => failed = Some(found.failed),
                    Record::Exit(found) if found.entry == entry => exit = Some(found),
                    _ => {}
                }
            }
        });
        let argv = format!("{NAME}\0{PART}\0{nonce}\0").into_bytes();
        let refused = (Seen::of(&self.kernel.control) == Some(Seen::Yes)).then(|| Refused {
            path: NOWHERE.into(),
            argv: vec![NAME.into(), nonce.into()],
            error: REFUSED,
        });
        Ok(Some(Tried { exec, failed, exit, seen, pid, argv, refused, code }))
    }

    fn watch<T>(mut child: Child, look: impl FnOnce(u32) -> T) -> Result<(u32, i32, T), Error> {
        let pid = child.id();
        // Whoever spawns goes on while the exec is still on its way: memory is new then, and name and credentials are not
        // (`begin_new_exec` in fs/exec.c).
        let mut word = [0];
        let heard = child.stdout.take().ok_or(ErrorKind::BrokenPipe.into());
        let heard = heard.and_then(|mut stdout| stdout.read_exact(&mut word));
        let seen = heard.map(|()| look(pid));
        drop(child.stdin.take());
        let status = child.wait()?;
        Ok((pid, status.code().unwrap_or(-1), seen?))
    }

    /// Makes this process one of the session: its children are too. Answers what it was.
    fn follow(&mut self, key: TaskKey, entry: TaskKey) -> Result<Option<Bytes<TASK>>, ProbeError> {
        let mut session = Session::new(0, 0, TaskKey::NONE, entry_kind::RUNTIME);
        session.announced = 1;
        self.map::<Bytes<KEY>, Bytes<SESSION>>("SESSIONS")?
            .insert(bytes(&entry), bytes::<_, SESSION>(&session), 0)
            .map_err(|e| map_error("write", "SESSIONS", &e))?;
        let task = FollowedTask::new(entry, 0, task_kind::SESSION, 0);
        let mut tasks = self.map::<Bytes<KEY>, Bytes<TASK>>("TASKS")?;
        let before = tasks.get(&bytes(&key), 0).ok();
        tasks.insert(bytes(&key), bytes::<_, TASK>(&task), 0).map_err(|e| map_error("write", "TASKS", &e))?;
        Ok(before)
    }

    fn forget(
        &mut self,
        key: TaskKey,
        entry: TaskKey,
        before: Option<Bytes<TASK>>,
    ) -> Result<(), ProbeError> {
        let mut tasks = self.map::<Bytes<KEY>, Bytes<TASK>>("TASKS")?;
        let done = match before {
            Some(before) => tasks.insert(bytes(&key), before, 0),
            None => tasks.remove(&bytes(&key)),
        };
        done.map_err(|e| map_error("write", "TASKS", &e))?;
        // Its last task may have taken it along.
        let _ = self.map::<Bytes<KEY>, Bytes<SESSION>>("SESSIONS")?.remove(&bytes(&entry));
        // Its mount namespace was taken for that of a container without a number.
        let mut namespaces = self.map::<u32, u64>("NAMESPACES")?;
        let nobodys: Vec<u32> =
            namespaces.iter().flatten().filter(|(_, id)| *id == 0).map(|(ns, _)| ns).collect();
        for inum in nobodys {
            let _ = namespaces.remove(&inum);
        }
        Ok(())
    }
}

/// The agent's own program, which needs no other file.
fn spawn(nonce: &str) -> Result<Child, Error> {
    Command::new("/proc/self/exe")
        .arg0(NAME)
        .args([PART, nonce])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
}
