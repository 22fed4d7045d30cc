//! What goes up: the greeting; then, from where the collector says, batches as the spool has them, and now and then
//! a sign of life.

use std::{sync::Arc, time::Duration};

use futures::Stream;
use podtrail_proto::v1;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::codec::Batch;
use crate::spool::{Encoded, Spool};

/// Events and bytes of one message. Bytes are well under the 4 MiB that gRPC servers take by default.
pub(super) const BATCH_EVENTS: usize = 1000;
const BATCH_BYTES: usize = 256 * 1024;

/// A collector that hears nothing for longer takes the node for silent; proxies forget idle streams.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(15);

/// Where to go on, by the collector's last word; the number of times it has said so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Resume {
    pub(super) times: u64,
    pub(super) after: u64,
}

struct Upstream {
    spool: Arc<Spool>,
    /// of the stream
    epoch: u64,
    hello: Option<v1::Hello>,
    resume: watch::Receiver<Resume>,
    heartbeat: Duration,
    /// how many times it was told where to go on
    resumed: u64,
    sent: u64,
}

/// Pulled by the connection, so a slow collector slows down nothing but this.
pub(super) fn requests(
    spool: Arc<Spool>,
    hello: v1::Hello,
    resume: watch::Receiver<Resume>,
    heartbeat: Duration,
) -> impl Stream<Item = Batch> + Send + 'static {
    let epoch = hello.epoch;
    let upstream = Upstream { spool, epoch, hello: Some(hello), resume, heartbeat, resumed: 0, sent: 0 };
    futures::stream::unfold(upstream, |mut up| async move {
        if let Some(hello) = up.hello.take() {
            return Some((Batch { hello: Some(hello), ..Batch::default() }, up));
        }
        // Whoever holds the other end has given up the stream.
        let batch = up.next().await?;
        Some((batch, up))
    })
}

impl Upstream {
    async fn next(&mut self) -> Option<Batch> {
        let heartbeat = Instant::now() + self.heartbeat;
        loop {
            let Resume { times, after } = *self.resume.borrow_and_update();
            if times > self.resumed {
                (self.resumed, self.sent) = (times, after);
            }
            // Nothing before the collector has said what it has: that is not sent again.
            if times > 0 {
                let events = self.spool.take_of(self.epoch, self.sent, BATCH_EVENTS, BATCH_BYTES);
                if let Some(last) = events.last() {
                    let gone = passed_over(self.sent, &events);
                    self.sent = last.seq;
                    return Some(Batch { hello: None, events, gone });
                }
            }
            tokio::select! {
                () = self.spool.wake(), if times > 0 => {}
                resumed = self.resume.changed() => resumed.ok()?,
                () = sleep_until(heartbeat) => return Some(Batch::default()),
            }
        }
    }
}

/// What the spool has no more of the numbers after `sent`. It gives out in order, so whatever it passes over is gone
/// for good, and the collector need not ask for it.
fn passed_over(sent: u64, events: &[Encoded]) -> Vec<v1::SeqRange> {
    let mut gone = Vec::new();
    let mut before = sent;
    for Encoded { seq, .. } in events {
        if *seq > before + 1 {
            gone.push(v1::SeqRange { first: before + 1, last: seq - 1 });
        }
        before = *seq;
    }
    gone
}
