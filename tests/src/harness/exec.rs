//! `runc exec` and `crun exec`, in every form that people and shims use.

use std::{
    fs::{self, File},
    io::{IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::PathBuf,
    process::{Child, ExitStatus, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{pty::openpty, unistd::dup};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::{
    Container, container,
    process::{self},
    within,
};

/// A command to be executed in a container.
#[derive(Debug)]
#[must_use]
pub(crate) struct Exec<'c> {
    container: &'c Container,
    args: Vec<String>,
    environment: Vec<String>,
    uid: u32,
    tty: bool,
    stdin: bool,
    detached: bool,
}

/// A command that runs, or was begun, in a container.
#[derive(Debug)]
pub(crate) struct Running {
    /// on the host
    pub(crate) pid: u32,
    runtime: Child,
    output: Option<JoinHandle<Vec<u8>>>,
    /// our end of its terminal
    terminal: Option<File>,
}

/// A command that ended.
#[derive(Debug)]
pub(crate) struct Ran {
    /// on the host
    pub(crate) pid: u32,
    /// the runtime's: of the command, when not detached
    pub(crate) status: ExitStatus,
    /// of both its outputs, when not detached
    pub(crate) output: Vec<u8>,
}

impl<'c> Exec<'c> {
    pub(crate) fn new(container: &'c Container, args: &[&str]) -> Self {
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        Self { container, args, environment: Vec::new(), uid: 0, tty: false, stdin: false, detached: false }
    }

    /// As this user of the container.
    pub(crate) fn user(mut self, uid: u32) -> Self {
        self.uid = uid;
        self
    }

    /// With these variables besides.
    pub(crate) fn environment(mut self, variables: &[&str]) -> Self {
        self.environment = variables.iter().map(|&variable| variable.to_owned()).collect();
        self
    }

    /// With a standard input that somebody may write to.
    pub(crate) fn stdin(mut self) -> Self {
        self.stdin = true;
        self
    }

    /// With a terminal.
    pub(crate) fn tty(mut self) -> Self {
        self.tty = true;
        self
    }

    /// As a shim does it: the runtime is gone when the command has begun.
    pub(crate) fn detached(mut self) -> Self {
        self.detached = true;
        self
    }

    /// Runs it to its end.
    pub(crate) fn run(self) -> Result<Ran> {
        self.spawn()?.wait()
    }

    /// Begins it; back when the command has its pid.
    pub(crate) fn spawn(self) -> Result<Running> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let Self { container, args, environment, uid, tty, stdin, detached } = self;
        let dir = container.dir();
        let pid_file = dir.join(format!("exec-{number}.pid"));
        let process_file = dir.join(format!("exec-{number}.json"));
        let process = container::process_of(&args, &environment, tty, uid);
        fs::write(&process_file, serde_json::to_vec(&process)?)?;
        let mut command = container.command(&["exec"])?;
        command.arg("--process").arg(&process_file).arg("--pid-file").arg(&pid_file);
        let mut reader: Option<File> = None;
        let mut terminal = None;
        let mut socket = None;
        match (tty, detached) {
            (true, true) => {
                // A path of a socket has 108 bytes at most: beside the state, not below it.
                let path = PathBuf::from(format!("{}/c{number}.sock", super::host().dir.display()));
                let listener = UnixListener::bind(&path)?;
                command.arg("--console-socket").arg(&path);
                command.arg("--detach").stdout(Stdio::null()).stderr(Stdio::null());
                socket = Some((listener, path));
            }
            (true, false) => {
                command.arg("--tty");
                let pty = openpty(None, None)?;
                command.stdin(pty.slave.try_clone()?).stdout(pty.slave.try_clone()?).stderr(pty.slave);
                reader = Some(File::from(dup(&pty.master)?));
                terminal = Some(File::from(pty.master));
            }
            (false, true) => {
                command.arg("--detach").stdout(Stdio::null()).stderr(Stdio::null());
            }
            (false, false) => {
                let (read, write) = std::io::pipe()?;
                command.stdout(write.try_clone()?).stderr(write);
                reader = Some(File::from(OwnedFd::from(read)));
            }
        }
        if stdin {
            command.stdin(Stdio::piped());
        }
        command.arg(&container.id);
        let mut runtime = command.spawn().context("cannot start the runtime")?;
        drop(command); // and with it our copies of the other ends
        if let Some((listener, path)) = socket {
            terminal = Some(receive(&listener)?);
            fs::remove_file(path)?;
        }
        let output = reader.map(|mut reader| {
            thread::spawn(move || {
                let mut output = Vec::new();
                // A terminal whose other end is closed answers EIO: that is its end.
                let _ = reader.read_to_end(&mut output);
                output
            })
        });
        let pid = within(Duration::from_secs(20), "the runtime writes the pid", || {
            let pid = fs::read_to_string(&pid_file).ok().and_then(|pid| pid.trim().parse::<u32>().ok());
            match pid {
                Some(pid) => Some(Some(pid)),
                None => runtime
                    .try_wait()
                    .ok()
                    .flatten()
                    .map(|_| fs::read_to_string(&pid_file).ok().and_then(|pid| pid.trim().parse().ok())),
            }
        });
        let mut running = Running { pid: 0, runtime, output, terminal };
        match pid? {
            Some(pid) => running.pid = pid,
            None => {
                let ran = running.wait()?;
                bail!("{}: {}", ran.status, String::from_utf8_lossy(&ran.output).trim());
            }
        }
        Ok(running)
    }
}

impl Running {
    /// Types on its terminal.
    pub(crate) fn type_in(&mut self, text: &str) -> Result<()> {
        let terminal = self.terminal.as_mut().context("it has no terminal")?;
        Ok(terminal.write_all(text.as_bytes())?)
    }

    /// Waits for the runtime, which, when not detached, waits for the command.
    pub(crate) fn wait(mut self) -> Result<Ran> {
        let status = process::reap(&mut self.runtime, "the runtime ends")?;
        let output = match self.output.take() {
            Some(output) => {
                drop(self.terminal.take());
                // What the command started in the background may hold the pipe open longer.
                within(Duration::from_secs(20), "its output ends", || output.is_finished().then_some(()))?;
                output.join().unwrap_or_default()
            }
            None => Vec::new(),
        };
        Ok(Ran { pid: self.pid, status, output })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.runtime.try_wait() {
            let _ = self.runtime.kill();
            let _ = self.runtime.wait();
        }
    }
}

impl Ran {
    /// Fails unless the command succeeded.
    pub(crate) fn ok(self) -> Result<Self> {
        ensure!(self.status.success(), "{}: {}", self.status, String::from_utf8_lossy(&self.output).trim());
        Ok(self)
    }

    /// Its output, as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).trim().to_owned()
    }
}

/// The terminal that a runtime hands over.
fn receive(listener: &UnixListener) -> Result<File> {
    listener.set_nonblocking(true)?;
    let (stream, _) =
        within(Duration::from_secs(20), "the runtime hands over a terminal", || listener.accept().ok())?;
    stream.set_nonblocking(false)?;
    let mut name = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(&stream, &mut [IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message
            && let Some(terminal) = descriptors.next()
        {
            return Ok(File::from(terminal));
        }
    }
    bail!("no terminal in the runtime's message")
}
