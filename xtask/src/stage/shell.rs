//! A shell that is typed into, line by line, each awaited.

use std::{
    fs::File,
    io::{self, ErrorKind, Read, Write},
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    pty::openpty,
};

use super::Stage;

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A shell somewhere, and the wires to it.
#[derive(Debug)]
pub(crate) struct Shell {
    child: Child,
    input: Option<File>,
    output: File,
    seen: Vec<u8>,
    lines: u32,
}

impl Shell {
    /// Opens one with a terminal.
    pub(crate) fn on_terminal(mut command: Command) -> Result<Self> {
        let pty = openpty(None, None).context("cannot open a terminal")?;
        let slave = |fd: &OwnedFd| fd.try_clone().context("cannot double a descriptor");
        command.stdin(slave(&pty.slave)?).stdout(slave(&pty.slave)?).stderr(slave(&pty.slave)?);
        let child = start(command)?;
        let input = File::from(pty.master.try_clone().context("cannot double a descriptor")?);
        Self::new(child, input, File::from(pty.master))
    }

    /// Opens one on pipes.
    pub(crate) fn on_pipes(mut command: Command) -> Result<Self> {
        let (reader, writer) = io::pipe().context("cannot make a pipe")?;
        command
            .stdin(Stdio::piped())
            .stderr(writer.try_clone().context("cannot double a descriptor")?)
            .stdout(writer);
        let mut child = start(command)?;
        let input = child.stdin.take().context("the shell has no input")?;
        Self::new(child, File::from(OwnedFd::from(input)), File::from(OwnedFd::from(reader)))
    }

    fn new(child: Child, input: File, output: File) -> Result<Self> {
        fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).context("cannot set a descriptor")?;
        Ok(Self { child, input: Some(input), output, seen: Vec::new(), lines: 0 })
    }

    /// Types a line, waits until the shell is through with it, and returns what was said meanwhile.
    pub(crate) fn line(&mut self, stage: &Stage, line: &str) -> Result<String> {
        self.seen.clear();
        self.lines += 1;
        // The shell works the sum out, so that what a terminal echoes is not taken for the answer.
        let (typed, answer) =
            (format!("{line}\necho [$((0+{}))]\n", self.lines), format!("[{}]", self.lines));
        self.write(typed.as_bytes())?;
        let waited = stage.until(&format!("the shell's answer to {line:?}"), PATIENCE, || {
            let open = self.read()?;
            if contains(&self.seen, answer.as_bytes()) {
                return Ok(Some(()));
            }
            if !open {
                bail!("the shell ended; it said: {}", self.said());
            }
            Ok(None)
        });
        waited.map_err(|error| self.explained(error))?;
        Ok(String::from_utf8_lossy(&self.seen).into_owned())
    }

    /// Types the last line, and waits for the shell's end.
    pub(crate) fn end(mut self, stage: &Stage, line: &str) -> Result<()> {
        self.write(format!("{line}\n").as_bytes())?;
        stage.until("the shell's end", PATIENCE, || {
            self.read()?;
            self.child.try_wait().context("cannot wait for the shell")
        })?;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(input) = &mut self.input else { return Ok(()) };
        input
            .write_all(bytes)
            .with_context(|| format!("cannot type into the shell; it said: {}", self.said()))
    }

    /// Takes in what there is; says whether there may be more.
    fn read(&mut self) -> Result<bool> {
        let mut buffer = [0; 4096];
        loop {
            match self.output.read(&mut buffer) {
                Ok(0) => return Ok(false),
                Ok(n) => self.seen.extend(buffer.iter().take(n)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                // A terminal whose other side is closed.
                Err(error) if error.raw_os_error() == Some(nix::libc::EIO) => return Ok(false),
                Err(error) => return Err(error).context("cannot read from the shell"),
            }
        }
    }

    /// An error, with what the shell said; an interruption needs no explanation.
    fn explained(&self, error: anyhow::Error) -> anyhow::Error {
        if error.is::<super::Interrupted>() {
            error
        } else {
            error.context(format!("it said: {}", self.said()))
        }
    }

    fn said(&self) -> String {
        let tail = self.seen.len().saturating_sub(1000);
        String::from_utf8_lossy(self.seen.get(tail..).unwrap_or_default()).escape_debug().to_string()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // Closed before the process is ended: a shell on a pipe then ends by itself.
        self.input = None;
        if !matches!(self.child.try_wait(), Ok(Some(_))) && self.child.kill().is_ok() {
            drop(self.child.wait());
        }
    }
}

/// Starts it in a process group of its own, so that Ctrl-C reaches this program alone, which then ends all in order.
pub(super) fn start(mut command: Command) -> Result<Child> {
    let name = command.get_program().to_owned();
    command.process_group(0).spawn().with_context(|| format!("cannot start {}", name.display()))
}

fn contains(text: &[u8], what: &[u8]) -> bool {
    text.windows(what.len()).any(|window| window == what)
}
