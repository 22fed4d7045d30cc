//! Events as lines of JSON on standard output, by a thread of their own: a terminal or a pipe that nobody reads may
//! make it wait, and nothing else.

use std::{
    io::{self, BufWriter, Write},
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use podtrail_proto::v1;
use prost::Message as _;
use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::AgentError;
use crate::{
    spool::{Encoded, Spool},
    trail::log::Page,
};

/// How often a pipe is asked whether somebody still reads it, when there is nothing to write.
const LOOK: Duration = Duration::from_secs(1);

const PAGE: Page = Page { max_events: 1000, max_bytes: 1 << 20 };

/// The thread, while it runs.
#[derive(Debug)]
pub(super) struct Printer {
    /// the last event to print, once it is known
    until: watch::Sender<Option<u64>>,
    done: oneshot::Receiver<io::Result<()>>,
}

impl Printer {
    /// Starts to print. `acknowledge`: this is the reader that the spool keeps events for. Cancels `stop` when
    /// nobody reads any more.
    pub(super) fn start(
        spool: Arc<Spool>,
        acknowledge: bool,
        stop: CancellationToken,
    ) -> Result<Self, AgentError> {
        Self::to(io::stdout(), spool, acknowledge, stop)
    }

    pub(super) fn to<W: Write + AsFd + Send + 'static>(
        out: W,
        spool: Arc<Spool>,
        acknowledge: bool,
        stop: CancellationToken,
    ) -> Result<Self, AgentError> {
        let (until, watched) = watch::channel(None);
        let (tell, done) = oneshot::channel();
        let handle = Handle::current();
        // What nobody has printed yet; beside a collector, what comes from now on.
        let fill = spool.fill();
        let from = if acknowledge { fill.acked_seq } else { fill.last_seq };
        std::thread::Builder::new()
            .name("stdout".to_owned())
            .stack_size(256 << 10)
            .spawn(move || {
                let printed = handle.block_on(print(
                    BufWriter::with_capacity(32 << 10, out),
                    &spool,
                    acknowledge,
                    from,
                    watched,
                ));
                stop.cancel();
                let _ = tell.send(printed);
            })
            .map_err(|source| AgentError::System { call: "start a thread", source })?;
        Ok(Self { until, done })
    }

    /// Prints up to `last` and ends, within `wait`.
    pub(super) async fn finish(self, last: u64, wait: Duration) -> io::Result<()> {
        let Self { until, done } = self;
        until.send_replace(Some(last));
        match timeout(wait, done).await {
            Ok(Ok(printed)) => printed,
            Ok(Err(_panicked)) => Err(io::Error::other("the thread that writes it ended")),
            Err(_elapsed) => Err(io::Error::new(io::ErrorKind::TimedOut, "nobody reads it")),
        }
    }
}

async fn print<W: Write + AsFd>(
    mut out: BufWriter<W>,
    spool: &Spool,
    acknowledge: bool,
    from: u64,
    mut until: watch::Receiver<Option<u64>>,
) -> io::Result<()> {
    let mut newest = spool.newest_seq();
    let mut printed = from;
    loop {
        newest.mark_unchanged();
        if acknowledge {
            // A spool that could be opened only now has events of before.
            printed = printed.min(*spool.acked_seq().borrow());
        }
        let events =
            if acknowledge { spool.take_after(printed, PAGE) } else { spool.read_after(printed, PAGE) };
        if let Some(last) = events.last() {
            if !acknowledge && events.first().is_some_and(|first| first.cursor > printed + 1) {
                tracing::warn!("standard output is read too slowly: some events go to the collector only");
            }
            printed = last.cursor;
            match write(&mut out, &events) {
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                written => written?,
            }
            if acknowledge {
                spool.ack_up_to(printed);
            }
            continue;
        }
        if until.borrow_and_update().is_some_and(|last| printed >= last) {
            return Ok(());
        }
        tokio::select! {
            _ = newest.changed() => {}
            _ = until.changed() => {}
            () = tokio::time::sleep(LOOK) => {
                if closed(out.get_ref().as_fd()) {
                    return Ok(());
                }
            }
        }
    }
}

fn write(out: &mut impl Write, events: &[Encoded]) -> io::Result<()> {
    for event in events {
        let event = v1::Event::decode(event.bytes.clone()).map_err(io::Error::other)?;
        serde_json::to_writer(&mut *out, &event)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// Whether the other end is gone for good.
fn closed(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::empty())];
    let gone = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
        && fds.iter().any(|fd| fd.revents().is_some_and(|revents| revents.intersects(gone)))
}
