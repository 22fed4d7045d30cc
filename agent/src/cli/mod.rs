//! `podtrail tail | sessions | session | nodes | subscriptions`: the trail for people and scripts.
//!
//! Data goes to stdout, all else to stderr. Never writes a byte to a terminal that has not been escaped, and never
//! changes anything but the caller's own subscriptions.

pub mod args;
pub mod around;
pub mod client;
pub mod line;
mod subscriptions;
pub mod table;
pub mod tail;
pub mod time;
pub mod timeline;
pub mod who;
pub mod words;

#[cfg(test)]
mod testing;

use std::{
    env,
    io::{self, IsTerminal as _, Write},
    process::ExitCode,
};

use futures::FutureExt as _;
use podtrail_proto::v1;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use self::{
    args::{Args, Colour, Command, Environment, Output, SessionsArgs, TailArgs},
    client::{Client, ClientError},
    line::Look,
};
use crate::{
    escape,
    filter::FilterError,
    json::{self, JsonError},
};

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Json(#[from] JsonError),
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
    #[error("cannot start: {0}")]
    Runtime(io::Error),
    #[error("{0} left out of the output")]
    LeftOut(String),
}

impl CliError {
    /// Whoever read the output has seen enough.
    fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            _ if self.is_closed_pipe() => ExitCode::SUCCESS,
            Self::Client(ClientError::Url { .. } | ClientError::NoFiles | ClientError::Filter(_)) => {
                ExitCode::from(2)
            }
            _ => ExitCode::FAILURE,
        }
    }
}

/// The whole program. Exit codes: 0 done, 1 failed, 2 wrong usage.
#[must_use]
pub fn main() -> ExitCode {
    let args = match Args::read() {
        Ok(args) => args,
        Err(code) => return code,
    };
    match start(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is_closed_pipe() {
                complain(&error.to_string());
            }
            if let (CliError::Client(ClientError::Filter(error)), Command::Tail(tail)) =
                (&error, &args.command)
            {
                _ = write!(io::stderr(), "{}", pointed(&tail.filter, error));
            }
            error.exit_code()
        }
    }
}

fn start(args: &Args) -> Result<(), CliError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::Runtime)?;
    let mut out = Out {
        format: args.output,
        look: look(args.color),
        buffer: Vec::new(),
        stdout: io::stdout(),
        left_out: 0,
    };
    let done = runtime.block_on(run(args, &mut out));
    out.flush()?;
    done?;
    if out.left_out > 0 {
        return Err(CliError::LeftOut(words::count(out.left_out, "message")));
    }
    Ok(())
}

async fn run(args: &Args, out: &mut Out) -> Result<(), CliError> {
    let source = args.source(Environment::read())?;
    let mut client = Client::connect(source).await?;
    match &args.command {
        Command::Tail(tail) => match &tail.subscription {
            Some(name) => subscriptions::tail(&mut client, name, tail, out).await,
            None => run_tail(&mut client, tail, out).await,
        },
        Command::Sessions(sessions) => run_sessions(&mut client, sessions, out).await,
        Command::Session { id } => run_session(&mut client, id, out).await,
        Command::Nodes => run_nodes(&mut client, out).await,
        Command::Subscriptions(which) => subscriptions::run(&mut client, which, out).await,
    }
}

async fn run_tail(client: &mut Client, args: &TailArgs, out: &mut Out) -> Result<(), CliError> {
    // From the first event that is seen on, an interrupt is the orderly end.
    let mut interrupt = signal(SignalKind::interrupt()).map_err(CliError::Runtime)?;
    let mut tail = tokio::select! {
        tail = client.tail(args.request(out.look.now)) => tail?,
        _ = interrupt.recv() => return Ok(()),
    };
    let mut printer = tail::Printer::new(out.look);
    let mut cursor = String::new();
    let done = loop {
        // What is here already is written in one go, what is not is waited for with nothing held back.
        let next = match tail.next().now_or_never() {
            Some(next) => next,
            None => {
                out.flush()?;
                tokio::select! {
                    next = tail.next() => next,
                    _ = interrupt.recv() => break Ok(()),
                }
            }
        };
        let response = match next {
            Ok(Some(response)) => response,
            Ok(None) if args.no_follow => break Ok(()),
            Ok(None) => break Err(tail.ended().into()),
            Err(error) => break Err(error.into()),
        };
        let v1::TailResponse { event, cursor: at } = response;
        let Some(event) = event else { continue };
        out.event(&event, &mut printer)?;
        cursor = at;
    };
    out.flush()?;
    if !cursor.is_empty() && io::stderr().is_terminal() {
        complain(&format!("to go on from here: --from {}", escape::name(&cursor)));
    }
    done
}

async fn run_sessions(client: &mut Client, args: &SessionsArgs, out: &mut Out) -> Result<(), CliError> {
    let mut request = args.request(out.look.now);
    let mut sessions = Vec::new();
    loop {
        let page = client.sessions(request.clone()).await?;
        match out.format {
            Output::Json => page.sessions.iter().try_for_each(|session| out.json(session))?,
            Output::Text => sessions.extend(page.sessions),
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    if out.format == Output::Text {
        if sessions.is_empty() {
            complain("no such sessions");
        } else {
            out.write(table::sessions(&sessions, &out.look).as_bytes())?;
        }
    }
    Ok(())
}

async fn run_session(client: &mut Client, id: &str, out: &mut Out) -> Result<(), CliError> {
    let mut request = v1::GetSessionRequest { id: id.to_owned(), page_size: 0, page_token: String::new() };
    let mut session = None;
    let mut events = Vec::new();
    loop {
        let page = client.session(request.clone()).await?;
        if session.is_none() {
            let found = page.session.unwrap_or_default();
            // From here on it is this one, also where another begins like it meanwhile.
            if !found.id.is_empty() {
                request.id.clone_from(&found.id);
            }
            if out.format == Output::Json {
                out.json(&found)?;
            }
            session = Some(found);
        }
        match out.format {
            Output::Json => page.events.iter().try_for_each(|event| out.json(event))?,
            Output::Text => events.extend(page.events),
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    if out.format == Output::Text {
        let look = out.look;
        timeline::write(out, &look, &session.unwrap_or_default(), &events)?;
    }
    Ok(())
}

async fn run_nodes(client: &mut Client, out: &mut Out) -> Result<(), CliError> {
    let answer = client.nodes().await?;
    match out.format {
        Output::Json => answer.nodes.iter().try_for_each(|node| out.json(node)),
        Output::Text => Ok(out.write(table::nodes(&answer, &out.look).as_bytes())?),
    }
}

/// Standard output, written in large pieces.
#[derive(Debug)]
struct Out {
    format: Output,
    look: Look,
    buffer: Vec<u8>,
    stdout: io::Stdout,
    /// messages that could not be written as JSON
    left_out: u64,
}

impl Out {
    fn json(&mut self, message: &impl Serialize) -> Result<(), CliError> {
        if let Err(error) = json::push(&mut self.buffer, message) {
            // One message that this version cannot read must not hide those after it.
            if self.left_out == 0 {
                complain(&error.to_string());
            }
            self.left_out += 1;
        }
        Ok(self.write(&[])?)
    }

    fn event(&mut self, event: &v1::Event, printer: &mut tail::Printer) -> Result<(), CliError> {
        match self.format {
            Output::Json => self.json(event),
            Output::Text => {
                let mut text = String::new();
                printer.push(&mut text, event);
                Ok(self.write(text.as_bytes())?)
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() > 64 * 1024 { self.flush() } else { Ok(()) }
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Self::write(self, bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut stdout = self.stdout.lock();
        let written = stdout.write_all(&self.buffer).and_then(|()| stdout.flush());
        self.buffer.clear();
        written
    }
}

/// The line of a filter that is wrong, and a caret under the place.
fn pointed(text: &str, error: &FilterError) -> String {
    let Some(line) = text.split('\n').nth(error.line.saturating_sub(1)) else { return String::new() };
    let before: String = line.chars().take(error.column.saturating_sub(1)).collect();
    let indent = escape::width(&escape::guard(&before));
    format!("  {}\n  {:indent$}^\n", escape::guard(line), "")
}

/// One line to stderr; there is nobody to tell where that fails.
fn complain(message: &str) {
    let _ = writeln!(io::stderr(), "podtrail: {}", escape::guard(message));
}

fn look(colour: Colour) -> Look {
    let terminal = io::stdout().is_terminal();
    let set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
    Look {
        colour: match colour {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => terminal && !set("NO_COLOR") && !dumb,
        },
        width: terminal
            .then(|| terminal_size::terminal_size_of(io::stdout()))
            .flatten()
            .map(|(width, _)| width.0.into()),
        now: jiff::Timestamp::now(),
    }
}
