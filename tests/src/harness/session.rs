//! Sessions, put together from an agent's events, and what a test wants them to be.

use std::{fmt::Write, sync::Arc};

use anyhow::{Context, Result, bail, ensure};
use podtrail_proto::v1::{
    EntryMethod, Event, ExecFailed, Executed, Exited, NamespaceJoined, Process, SessionEnded, SessionStarted,
    event::Body,
};

use super::Agent;

/// One session, as far as it has been told.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) events: Vec<Arc<Event>>,
}

/// The session in the container with this cgroup id whose root has `pid`: the newest, should there be several.
pub(crate) fn wait_open(agent: &Agent, cgroup_id: u64, pid: u32) -> Result<Session> {
    agent.wait(&format!("a session of process {pid} in the container with cgroup {cgroup_id}"), |events| {
        let started = events.iter().rev().find(|event| {
            event.container.as_ref().is_some_and(|container| container.cgroup_id == cgroup_id)
                && matches!(&event.body, Some(Body::SessionStarted(started))
                    if started.root.as_ref().is_some_and(|root| root.pid == pid))
        })?;
        Some(Session::of(events, &started.session_id))
    })
}

/// All sessions of a container, by their first event.
pub(crate) fn all(events: &[Arc<Event>], cgroup_id: u64) -> Vec<Session> {
    let mut ids: Vec<&str> = Vec::new();
    for event in events {
        let mine = event.container.as_ref().is_some_and(|container| container.cgroup_id == cgroup_id);
        if mine && !ids.contains(&event.session_id.as_str()) {
            ids.push(&event.session_id);
        }
    }
    ids.into_iter().map(|id| Session::of(events, id)).collect()
}

impl Session {
    /// The events of session `id`.
    pub(crate) fn of(events: &[Arc<Event>], id: &str) -> Self {
        let events = events.iter().filter(|event| event.session_id == id).cloned().collect();
        Self { id: id.to_owned(), events }
    }

    pub(crate) fn started(&self) -> Result<&SessionStarted> {
        self.events
            .iter()
            .find_map(|event| match &event.body {
                Some(Body::SessionStarted(started)) => Some(started),
                _ => None,
            })
            .with_context(|| format!("session {} never started", self.id))
    }

    pub(crate) fn ended(&self) -> Option<&SessionEnded> {
        self.events.iter().find_map(|event| match &event.body {
            Some(Body::SessionEnded(ended)) => Some(ended),
            _ => None,
        })
    }

    pub(crate) fn executed(&self) -> Vec<&Executed> {
        self.events
            .iter()
            .filter_map(|event| match &event.body {
                Some(Body::Executed(executed)) => Some(executed),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn failed(&self) -> Vec<&ExecFailed> {
        self.events
            .iter()
            .filter_map(|event| match &event.body {
                Some(Body::ExecFailed(failed)) => Some(failed),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn exited(&self) -> Vec<&Exited> {
        self.events
            .iter()
            .filter_map(|event| match &event.body {
                Some(Body::Exited(exited)) => Some(exited),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn joined(&self) -> Vec<&NamespaceJoined> {
        self.events
            .iter()
            .filter_map(|event| match &event.body {
                Some(Body::NamespaceJoined(joined)) => Some(joined),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn method(&self) -> Result<EntryMethod> {
        Ok(self.started()?.method())
    }

    /// The only command whose path and arguments begin so.
    pub(crate) fn command(&self, argv: &[&str]) -> Result<&Executed> {
        let executed = self.executed();
        let mut found = executed.into_iter().filter(|executed| {
            executed.argv.len() >= argv.len() && executed.argv.iter().zip(argv).all(|(a, b)| a == b)
        });
        let first = found.next().with_context(|| format!("no command {argv:?} in {}", self.story()))?;
        ensure!(found.next().is_none(), "more than one command {argv:?} in {}", self.story());
        Ok(first)
    }

    /// How the process of a command ended.
    pub(crate) fn exit_of(&self, executed: &Executed) -> Result<&Exited> {
        let key = key(executed.process.as_ref());
        let mut found = self.exited().into_iter().filter(|exited| self::key(exited.process.as_ref()) == key);
        let first = found.next().with_context(|| format!("{:?} never ended", executed.argv))?;
        ensure!(found.next().is_none(), "{:?} ended twice", executed.argv);
        Ok(first)
    }

    /// Fails unless this is true of it, as of every session: it starts with its start, goes on with its root's first
    /// command, ends with its end, is of one container, counts right and lost nothing.
    pub(crate) fn check(&self) -> Result<()> {
        let story = || self.story();
        let mut events = self.events.iter().map(|event| &event.body);
        ensure!(matches!(events.next(), Some(Some(Body::SessionStarted(_)))), "no start first: {}", story());
        let executed = self.executed();
        let root = executed.first().with_context(|| format!("a session without a command: {}", story()))?;
        ensure!(root.root == Some(true), "the first command is not marked as root: {}", story());
        let started = self.started()?;
        ensure!(
            key(root.process.as_ref()) == key(started.root.as_ref()),
            "the session's root is another process than its first command's: {}",
            story()
        );
        let roots = executed.iter().filter(|executed| executed.root == Some(true)).count();
        ensure!(roots == 1, "{roots} roots: {}", story());
        // In a pod, of which no kubelet tells what its probes are, that is the truth.
        let container = self.events.first().and_then(|event| event.container.as_ref());
        let in_pod = container.is_some_and(|container| container.pod.is_some());
        ensure!(
            started.method() != EntryMethod::Unknown || started.recovered == Some(true) || in_pod,
            "how it came in is not known: {}",
            story()
        );
        ensure!(
            started.interactive == Some(started.tty.is_some()),
            "interactive and its terminal do not agree: {}",
            story()
        );
        ensure!(container.is_some_and(|container| !container.id.is_empty()), "no container id: {}", story());
        for event in &self.events {
            ensure!(event.container.as_ref() == container, "events of two containers: {}", story());
        }
        let mut seen = Vec::new();
        for event in &self.events {
            match &event.body {
                Some(Body::Executed(executed)) => {
                    ensure!(
                        !seen.contains(&key(executed.process.as_ref())),
                        "a process executes after its end: {}",
                        story()
                    );
                    ensure!(!executed.path_incomplete, "a path was not walked to its root: {}", story());
                }
                Some(Body::Exited(exited)) => {
                    ensure!(
                        !seen.contains(&key(exited.process.as_ref())),
                        "a process ends twice: {}",
                        story()
                    );
                    seen.push(key(exited.process.as_ref()));
                }
                _ => {}
            }
        }
        if let Some(ended) = self.ended() {
            // What became known of it, or was like it, may come later.
            let more =
                |event: &&Arc<Event>| matches!(event.body, Some(Body::Attributed(_) | Body::Folded(_)));
            let last = self.events.iter().rev().find(|event| !more(event));
            ensure!(
                matches!(last.map(|event| &event.body), Some(Some(Body::SessionEnded(_)))),
                "something after the end: {}",
                story()
            );
            ensure!(
                ended.commands == Some(executed.len() as u64),
                "it counts {:?} commands, told {}: {}",
                ended.commands,
                executed.len(),
                story()
            );
            ensure!(ended.lost == Some(0), "it lost {:?}: {}", ended.lost, story());
        }
        Ok(())
    }

    /// Fails unless its commands are exactly these, in this order, each with its end.
    pub(crate) fn expect(&self, wanted: &[Want]) -> Result<()> {
        let executed = self.executed();
        ensure!(
            executed.len() == wanted.len(),
            "expected {} commands, got {}: {}",
            wanted.len(),
            executed.len(),
            self.story()
        );
        for (number, (executed, want)) in executed.iter().zip(wanted).enumerate() {
            let argv = raw_argv(executed);
            ensure!(
                raw_path(executed) == want.path && argv == want.argv,
                "command {number} is not {want:?}: {}",
                self.story()
            );
            let same = |other: &&Executed| key(other.process.as_ref()) == key(executed.process.as_ref());
            let again = self.executed().into_iter().skip(number + 1).any(|other| same(&other));
            ensure!(
                again == (want.end == End::Replaced),
                "command {number} was {}replaced by another in its process: {}",
                if again { "" } else { "not " },
                self.story()
            );
            let (code, signal) = match want.end {
                End::Replaced => continue,
                End::Running => {
                    ensure!(self.exit_of(executed).is_err(), "command {number} ended: {}", self.story());
                    continue;
                }
                End::Exit(code) => (Some(code), None),
                End::Signal(signal) => (None, Some(signal)),
            };
            let exited = self.exit_of(executed)?;
            ensure!(
                (exited.exit_code, exited.signal) == (code, signal),
                "command {number} ended otherwise than {want:?}: {}",
                self.story()
            );
        }
        Ok(())
    }

    /// It all, a line an event.
    pub(crate) fn story(&self) -> String {
        let mut story = format!("session {}:", self.id);
        for event in &self.events {
            let _ = write!(story, "\n    {}", line(event));
        }
        story
    }
}

/// How a command is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Exit(i32),
    Signal(i32),
    /// its process executed another program
    Replaced,
    /// not yet
    Running,
}

/// A command that a test wants to see.
#[derive(Clone, Debug)]
pub(crate) struct Want {
    path: Vec<u8>,
    argv: Vec<Vec<u8>>,
    end: End,
}

/// A command that exits with 0.
pub(crate) fn want<A: AsRef<[u8]>>(path: &str, argv: &[A]) -> Want {
    let argv = argv.iter().map(|arg| arg.as_ref().to_vec()).collect();
    Want { path: path.as_bytes().to_vec(), argv, end: End::Exit(0) }
}

impl Want {
    pub(crate) fn exit(self, code: i32) -> Self {
        Self { end: End::Exit(code), ..self }
    }

    pub(crate) fn signal(self, signal: i32) -> Self {
        Self { end: End::Signal(signal), ..self }
    }

    pub(crate) fn replaced(self) -> Self {
        Self { end: End::Replaced, ..self }
    }

    pub(crate) fn running(self) -> Self {
        Self { end: End::Running, ..self }
    }
}

/// Arguments as the kernel had them.
pub(crate) fn raw_argv(executed: &Executed) -> Vec<Vec<u8>> {
    if executed.argv_raw.is_empty() {
        executed.argv.iter().map(|arg| arg.as_bytes().to_vec()).collect()
    } else {
        executed.argv_raw.iter().map(|arg| arg.to_vec()).collect()
    }
}

/// The path as the kernel had it.
pub(crate) fn raw_path(executed: &Executed) -> Vec<u8> {
    if executed.path_raw.is_empty() { executed.path.as_bytes().to_vec() } else { executed.path_raw.to_vec() }
}

/// What names a process.
pub(crate) fn key(process: Option<&Process>) -> Option<(u32, u64)> {
    process.map(|process| (process.pid, process.start_time))
}

/// An event in one short line.
pub(crate) fn line(event: &Event) -> String {
    let pid = |process: &Option<Process>| process.as_ref().map_or(0, |process| process.pid);
    let what = match &event.body {
        Some(Body::Executed(e)) => {
            let argv: Vec<String> = e.argv.iter().map(|arg| arg.chars().take(120).collect()).collect();
            let root = if e.root == Some(true) { "root " } else { "" };
            format!("{root}exec {} {} {argv:?}", pid(&e.process), e.path)
        }
        Some(Body::Exited(e)) => {
            format!("exit {} code {:?} signal {:?}", pid(&e.process), e.exit_code, e.signal)
        }
        Some(Body::SessionStarted(e)) => {
            format!("start {} {:?} tty {:?} {:?}", pid(&e.root), e.method(), e.tty, e.evidence)
        }
        Some(Body::SessionEnded(e)) => {
            format!(
                "end code {:?} signal {:?} commands {:?} lost {:?}",
                e.exit_code, e.signal, e.commands, e.lost
            )
        }
        Some(Body::ExecFailed(e)) => {
            format!("failed {} {} {:?} {} x{:?}", pid(&e.process), e.path, e.argv, e.error, e.attempts)
        }
        Some(Body::NamespaceJoined(e)) => format!("join {} {:?}", pid(&e.process), e.namespaces),
        other => format!("{other:?}"),
    };
    let seq = event.id.as_ref().map_or(0, |id| id.seq);
    format!("{seq} [{}] {what}", event.session_id)
}

/// The only session of several.
pub(crate) fn only(sessions: &[Session]) -> Result<Session> {
    let stories = || sessions.iter().map(Session::story).collect::<Vec<_>>().join("\n");
    match sessions {
        [session] => Ok(session.clone()),
        _ => bail!("expected one session, got {}:\n{}", sessions.len(), stories()),
    }
}
