//! Plain outputs: every event to a file or a syslog receiver, by a durable subscription of the output's own.
//!
//! | module | what it does |
//! |---|---|
//! | [`file`] | lines of JSON, in a file that is rotated |
//! | [`syslog`] | RFC 5424 over TCP or TLS |
//! | [`message`] | an event as a syslog message |
//!
//! An event is acknowledged once it is where it belongs: on the disk, or taken by the receiver's TCP. What cannot be
//! written waits in the log, for as long as retention lets it; what retention took is told in the output by a gap.
//! Nothing here holds up the log, or another reader.

pub mod file;
pub mod message;
pub mod syslog;

use std::{io, path::PathBuf, time::Duration};

use tokio::{
    task,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{file::FileSink, syslog::SyslogSink};
use super::subscribe::{
    AckError, Closed, Delivered, Delivery, From, Handle, OpenError, Options, Subscriptions, Window,
};
use crate::{
    backoff::Backoff,
    config::outputs::{Output, To},
    telemetry::{
        Emit as _,
        outputs::{OutputDown, OutputUp, OutputWritten},
    },
    tls::TlsError,
    trail::{cursor::LogId, log::Cursor, viewer::Viewer},
};

/// Whose subscriptions these are: no certificate can have this name.
const PRINCIPAL: &str = "[output]";

/// How often what was written is made safe, and acknowledged.
const KEEP_EVERY: Duration = Duration::from_millis(200);

/// More than readers over the network get: acknowledgements come [`KEEP_EVERY`].
const WINDOW: Window = Window { events: 100_000, bytes: 64 * 1024 * 1024 };

/// Why an output cannot be written now.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// cannot {call} {path}: {source}
    #[error("cannot {call} {}: {source}", path.display())]
    File { call: &'static str, path: PathBuf, source: io::Error },
    /// cannot {call} {address}: {source}
    #[error("cannot {call} {address}: {source}")]
    Net { call: &'static str, address: String, source: io::Error },
    /// {address} closed the connection
    #[error("{0} closed the connection")]
    Hangup(String),
    /// the receiver does not take it
    #[error("{address} took nothing for {seconds} s")]
    Stuck { address: String, seconds: u64 },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Closed(#[from] Closed),
    #[error(transparent)]
    Ack(#[from] AckError),
    /// a bug
    #[error("the output failed by a bug; see the collector's log")]
    Panicked,
}

enum Sink {
    File(Option<Box<FileSink>>),
    Syslog(Box<SyslogSink>),
}

impl Sink {
    async fn open(output: &Output, log: LogId) -> Result<Self, OutputError> {
        match &output.to {
            To::File(options) => {
                let options = options.clone();
                let opened = task::spawn_blocking(move || FileSink::open(options, log)).await;
                Ok(Self::File(Some(Box::new(opened.map_err(|_| OutputError::Panicked)??))))
            }
            To::Syslog(options) => {
                Ok(Self::Syslog(Box::new(SyslogSink::connect(options.clone(), log).await?)))
            }
        }
    }

    /// Everything up to here is in it already, whatever was acknowledged.
    fn has(&self) -> Option<Cursor> {
        match self {
            Self::File(file) => file.as_ref().and_then(|file| file.has()),
            Self::Syslog(_) => None,
        }
    }

    async fn file<T: Send + 'static>(
        file: &mut Option<Box<FileSink>>,
        work: impl FnOnce(&mut FileSink) -> Result<T, OutputError> + Send + 'static,
    ) -> Result<T, OutputError> {
        let mut taken = file.take().ok_or(OutputError::Panicked)?;
        let (taken, done) = task::spawn_blocking(move || {
            let done = work(&mut taken);
            (taken, done)
        })
        .await
        .map_err(|_| OutputError::Panicked)?;
        *file = Some(taken);
        done
    }

    async fn write(&mut self, events: Vec<Delivery>) -> Result<(), OutputError> {
        match self {
            Self::File(file) => Self::file(file, move |file| file.write(&events)).await,
            Self::Syslog(syslog) => syslog.write(&events).await,
        }
    }

    /// Everything up to `cursor` was written, or is not for this output.
    fn passed(&mut self, cursor: Cursor) {
        match self {
            Self::File(Some(file)) => file.passed(cursor),
            Self::File(None) => {}
            Self::Syslog(syslog) => syslog.passed(cursor),
        }
    }

    /// Up to where everything is safe.
    async fn keep(&mut self) -> Result<Option<Cursor>, OutputError> {
        match self {
            Self::File(file) => Self::file(file, FileSink::keep).await,
            Self::Syslog(syslog) => syslog.keep(),
        }
    }

    /// Waits until it is broken from the other side.
    async fn broken(&mut self) -> OutputError {
        match self {
            Self::File(_) => std::future::pending().await,
            Self::Syslog(syslog) => syslog.hangup().await,
        }
    }
}

/// Starts all outputs; they end with `stop`, and are in `tasks` until they have.
pub fn start(
    outputs: Vec<Output>,
    subscriptions: &Subscriptions,
    log: LogId,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) {
    for output in outputs {
        tasks.spawn(run(output, subscriptions.clone(), log, stop.clone()));
    }
}

async fn run(output: Output, subscriptions: Subscriptions, log: LogId, stop: CancellationToken) {
    let fresh = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
    let mut backoff = fresh.clone();
    let mut told = false;
    loop {
        let mut worked = false;
        let error = tokio::select! {
            ended = once(&output, &subscriptions, log, &mut worked) => match ended {
                // The collector stops.
                Err(OutputError::Closed(Closed::Shutdown)) => return,
                Err(error) => error,
                Ok(never) => match never {},
            },
            // While it is opened; once it is open, it hears of the stop by its subscription, and makes all safe.
            () = opening_stopped(&stop) => return,
        };
        if worked {
            backoff = fresh.clone();
            told = false;
        }
        OutputDown {
            output: &output.name,
            error: &error.to_string(),
            again: std::mem::replace(&mut told, true),
        }
        .emit();
        tokio::select! {
            () = sleep(backoff.next_wait()) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// A while after the stop: what hangs is left.
async fn opening_stopped(stop: &CancellationToken) {
    stop.cancelled().await;
    sleep(Duration::from_secs(2)).await;
}

async fn once(
    output: &Output,
    subscriptions: &Subscriptions,
    log: LogId,
    worked: &mut bool,
) -> Result<std::convert::Infallible, OutputError> {
    let mut sink = Sink::open(output, log).await?;
    let mut handle = subscribe(output, subscriptions, sink.has()).await?;
    OutputUp { output: &output.name, after: &log.text(handle.opened().at) }.emit();
    let mut tick = interval(KEEP_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let delivered = tokio::select! {
            delivered = handle.next() => delivered,
            _ = tick.tick() => {
                acknowledge(&mut sink, &mut handle).await?;
                continue;
            }
            error = sink.broken() => return Err(error),
        };
        match delivered {
            Ok(Delivered::Events(events)) => {
                let (count, last) = (events.len(), events.last().map(|event| event.cursor));
                sink.write(events).await?;
                if let Some(last) = last {
                    sink.passed(last);
                }
                *worked = true;
                OutputWritten { output: &output.name, events: count }.emit();
            }
            Ok(Delivered::Heartbeat(cursor)) => sink.passed(cursor),
            Err(closed) => {
                // What was written is worth remembering, whatever the reason.
                acknowledge(&mut sink, &mut handle).await?;
                return Err(closed.into());
            }
        }
    }
}

async fn subscribe(
    output: &Output,
    subscriptions: &Subscriptions,
    has: Option<Cursor>,
) -> Result<Handle, OutputError> {
    let open = |from| {
        let options = Options {
            from,
            filter: output.filter.clone(),
            window: WINDOW,
            gap_if_trimmed: true,
            hold: output.hold,
            ..Options::default()
        };
        subscriptions.open(Viewer::everything(PRINCIPAL), &output.name, options)
    };
    let first = if output.oldest { From::Oldest } else { From::Latest };
    let opened = match has {
        Some(cursor) => open(Some(From::After(cursor))).await,
        None => open(Some(From::Resume)).await,
    };
    match opened {
        Err(OpenError::NotThere(_)) => Ok(open(Some(first)).await?),
        // The log has lost its end, and the subscription was moved back with it.
        Err(OpenError::AfterNewest { .. }) => Ok(open(Some(From::Resume)).await?),
        opened => Ok(opened?),
    }
}

async fn acknowledge(sink: &mut Sink, handle: &mut Handle) -> Result<(), OutputError> {
    match sink.keep().await? {
        Some(cursor) => Ok(handle.ack(cursor)?),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
