//! The calls about subscriptions of `podtrail.v1.Trail`.
//!
//! A stream that its client does not read costs the memory of a few responses and of its window's bookkeeping, and
//! that for a limited time. Why it ended reaches the client behind everything that was sent before.

use std::{fmt, sync::Arc, time::Duration};

use futures::{FutureExt as _, StreamExt as _, stream::BoxStream};
use podtrail_proto::v1::{
    self, subscribe_open, subscribe_request::Request as Asked, subscribe_response::Response as Answer,
};
use tokio::{
    sync::{mpsc, oneshot},
    task,
    time::{self, Instant},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{
    AckError, Closed, Delivered, FindError, From, Handle, LookError, OpenError, Opened, Options,
    Subscriptions, Window,
};
use crate::{
    telemetry::{
        Emit as _,
        subscriptions::{EventsDelivered, SubscriptionClosed, SubscriptionOpened},
    },
    trail::{
        LogId, Moment,
        service::log_status,
        subscriptions::{SubscribeStream, SubscriptionCalls},
        viewer::Viewer,
    },
};

/// How long a client may take to say what it wants.
const OPEN: Duration = Duration::from_secs(10);
/// Responses on their way to the client.
const RESPONSES: usize = 4;
/// Bounds of what a client may ask for.
const MAX_EVENTS: u32 = 10_000;
const MAX_BYTES: u64 = 64 * 1024 * 1024;
const MIN_HEARTBEAT: Duration = Duration::from_millis(100);
const MAX_HEARTBEAT: Duration = Duration::from_secs(3600);
const MAX_HOLD: Duration = Duration::from_secs(60);

type Responses = mpsc::Sender<Result<v1::SubscribeResponse, Status>>;

/// Serves them over gRPC.
#[derive(Clone)]
pub struct Calls {
    subscriptions: Subscriptions,
    log: LogId,
}

impl Calls {
    #[must_use]
    pub fn new(subscriptions: Subscriptions) -> Self {
        let log = subscriptions.0.log.id();
        Self { subscriptions, log }
    }

    /// Everything on one stream: `Ok`, where the client left.
    async fn serve(
        &self,
        viewer: Viewer,
        requests: &mut Streaming<v1::SubscribeRequest>,
        responses: &Responses,
    ) -> Result<(), Status> {
        let first = time::timeout(OPEN, requests.message()).await;
        let Ok(first) = first else { return Err(Status::invalid_argument(NO_OPEN)) };
        let open = match first? {
            Some(v1::SubscribeRequest { request: Some(Asked::Open(open)) }) => open,
            Some(_) => return Err(Status::invalid_argument(NO_OPEN)),
            None => return Ok(()),
        };
        let v1::SubscribeOpen { name, .. } = &open;
        let (principal, name) = (viewer.principal().to_owned(), name.clone());
        let options = options(open, self.log)?;
        let opening = self.subscriptions.open(viewer, &name, options).await;
        let mut handle = opening.map_err(|e| self.open_status(e))?;
        let Opened { at, created, oldest, newest } = handle.opened();
        SubscriptionOpened { principal: &principal, name: &name, cursor: at, created }.emit();
        let opened = Answer::Opened(v1::SubscribeOpened {
            cursor: self.log.text(at),
            created,
            oldest_cursor: self.log.text(oldest),
            newest_cursor: self.log.text(newest),
        });
        // Cannot fail: it is the first. Whoever is gone already is noticed below.
        _ = responses.try_send(Ok(answer(opened)));
        let end = self.pass_on(&mut handle, requests, responses).await;
        let (reason, why) = match &end {
            Ok(()) => ("left", "the client left"),
            Err(status) => (reason(status), status.message()),
        };
        SubscriptionClosed { principal: &principal, name: &name, reason, why }.emit();
        end
    }

    async fn pass_on(
        &self,
        handle: &mut Handle,
        requests: &mut Streaming<v1::SubscribeRequest>,
        responses: &Responses,
    ) -> Result<(), Status> {
        let slow_after = self.subscriptions.0.settings.slow_after;
        // Since when the client takes nothing.
        let mut stuck = None;
        loop {
            tokio::select! {
                // What is acknowledged makes room for more.
                biased;
                request = requests.message() => match request? {
                    Some(v1::SubscribeRequest { request: Some(Asked::Ack(v1::SubscribeAck { cursor })) }) => {
                        handle.ack(self.log.parse(&cursor)?).map_err(|e| self.ack_status(&e))?;
                    }
                    Some(_) => return Err(Status::invalid_argument("after open a client sends acks alone")),
                    None => return Ok(()),
                },
                sent = self.pass_one(handle, responses, &mut stuck, slow_after) => sent?,
                () = responses.closed() => return Ok(()),
            }
        }
    }

    /// Sends what comes next. May be cancelled: nothing is lost by it.
    async fn pass_one(
        &self,
        handle: &mut Handle,
        responses: &Responses,
        stuck: &mut Option<Instant>,
        slow_after: Duration,
    ) -> Result<(), Status> {
        let permit = match responses.try_reserve() {
            Ok(permit) => permit,
            Err(_) => {
                let since = *stuck.get_or_insert_with(Instant::now);
                tokio::select! {
                    permit = responses.reserve() => match permit {
                        Ok(permit) => permit,
                        // Noticed by the caller.
                        Err(_) => return Ok(()),
                    },
                    closed = handle.closed() => return Err(self.closed_status(closed)),
                    () = time::sleep_until(since + slow_after) => {
                        let slow = Closed::Slow { seconds: slow_after.as_secs() };
                        return Err(self.closed_status(slow));
                    }
                }
            }
        };
        *stuck = None;
        let next = match handle.next().await.map_err(|e| self.closed_status(e))? {
            Delivered::Heartbeat(cursor) => Answer::Heartbeat(v1::SubscribeHeartbeat {
                cursor: self.log.text(cursor),
                newest_cursor: self.log.text(handle.newest()),
            }),
            Delivered::Events(batch) => {
                EventsDelivered { events: batch.len() }.emit();
                let (events, cursors) = batch
                    .into_iter()
                    .map(|d| (Arc::unwrap_or_clone(d.event), self.log.text(d.cursor)))
                    .unzip();
                Answer::Events(v1::SubscribeEvents { events, cursors })
            }
        };
        permit.send(Ok(answer(next)));
        Ok(())
    }

    fn ack_status(&self, e: &AckError) -> Status {
        match e {
            AckError::NotDelivered { last } => Status::invalid_argument(format!(
                "that was not delivered on this stream yet: the last that was is {}",
                self.log.text(*last)
            )),
            AckError::Closed => Status::aborted(e.to_string()),
        }
    }

    fn open_status(&self, e: OpenError) -> Status {
        let why = e.to_string();
        match e {
            OpenError::Name | OpenError::Filter(_) => Status::invalid_argument(why),
            OpenError::NotThere(_) => Status::not_found(why),
            OpenError::TooMany(_) | OpenError::TooManyOpen(_) => Status::resource_exhausted(why),
            OpenError::Trimmed { oldest, .. } => {
                Status::out_of_range(format!("{why}; the oldest left is {}", self.log.text(oldest)))
            }
            OpenError::AfterNewest { .. } => Status::out_of_range(why),
            OpenError::Log(e) => log_status(e),
            OpenError::Panicked => Status::internal(why),
        }
    }

    fn closed_status(&self, closed: Closed) -> Status {
        let why = closed.to_string();
        match closed {
            Closed::TakenOver => Status::aborted(why),
            Closed::Deleted => Status::not_found(why),
            Closed::Shutdown => Status::unavailable(why),
            Closed::Slow { .. } => Status::resource_exhausted(why),
            Closed::Read(LookError::Trimmed { after, oldest }) => {
                self.open_status(OpenError::Trimmed { after, oldest })
            }
            Closed::Read(LookError::Log(e)) => log_status(e),
            Closed::Panicked => Status::internal(why),
        }
    }
}

const NO_OPEN: &str = "the first request of a stream must carry open";

fn answer(response: Answer) -> v1::SubscribeResponse {
    v1::SubscribeResponse { response: Some(response) }
}

/// For the metric.
fn reason(status: &Status) -> &'static str {
    match status.code() {
        tonic::Code::Aborted => "taken_over",
        tonic::Code::NotFound => "deleted",
        tonic::Code::Unavailable => "shutdown",
        tonic::Code::ResourceExhausted => "slow",
        tonic::Code::OutOfRange => "trimmed",
        tonic::Code::InvalidArgument => "invalid",
        tonic::Code::Cancelled | tonic::Code::Unknown => "left",
        _ => "failed",
    }
}

/// What a client asked for, checked.
fn options(open: v1::SubscribeOpen, log: LogId) -> Result<Options, Status> {
    let v1::SubscribeOpen {
        name: _,
        from,
        filter,
        max_in_flight_events,
        max_in_flight_bytes,
        heartbeat,
        gap_if_trimmed,
        hold,
    } = open;
    let defaults = Options::default();
    // `false` is what a client sends that means nothing by it.
    let from = match from {
        None
        | Some(
            subscribe_open::From::Resume(false)
            | subscribe_open::From::Oldest(false)
            | subscribe_open::From::Latest(false),
        ) => None,
        Some(subscribe_open::From::Resume(true)) => Some(From::Resume),
        Some(subscribe_open::From::Oldest(true)) => Some(From::Oldest),
        Some(subscribe_open::From::Latest(true)) => Some(From::Latest),
        Some(subscribe_open::From::Cursor(cursor)) => Some(From::After(log.parse(&cursor)?)),
        Some(subscribe_open::From::Time(time)) => Some(From::Time(Moment::from_timestamp(&time))),
    };
    let most =
        |what: &str, most: &dyn fmt::Display| Status::invalid_argument(format!("{what} is at most {most}"));
    let events = match max_in_flight_events {
        0 => defaults.window.events,
        n if n > MAX_EVENTS => return Err(most("max_in_flight_events", &MAX_EVENTS)),
        n => usize::try_from(n).unwrap_or(defaults.window.events),
    };
    let bytes = match max_in_flight_bytes {
        0 => defaults.window.bytes,
        n if n > MAX_BYTES => return Err(most("max_in_flight_bytes", &MAX_BYTES)),
        n => usize::try_from(n).unwrap_or(defaults.window.bytes),
    };
    let heartbeat = match heartbeat {
        None => defaults.heartbeat,
        Some(asked) => Duration::try_from(asked)
            .ok()
            .filter(|asked| (MIN_HEARTBEAT..=MAX_HEARTBEAT).contains(asked))
            .ok_or_else(|| Status::invalid_argument("heartbeat is between 100 ms and 1 h"))?,
    };
    let hold = match hold {
        None => defaults.hold,
        Some(asked) => Duration::try_from(asked)
            .ok()
            .filter(|asked| *asked <= MAX_HOLD)
            .ok_or_else(|| Status::invalid_argument("hold is between 0 and 60 s"))?,
    };
    Ok(Options { from, filter, window: Window { events, bytes }, heartbeat, gap_if_trimmed, hold })
}

impl std::convert::From<FindError> for Status {
    fn from(e: FindError) -> Self {
        match e {
            FindError::NotThere(_) => Self::not_found(e.to_string()),
            FindError::Log(e) => log_status(e),
        }
    }
}

/// Asks where blocking is allowed.
async fn ask<T: Send + 'static>(
    ask: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    task::spawn_blocking(ask)
        .await
        .map_err(|_| Status::internal("the question failed; see the collector's log"))?
}

#[tonic::async_trait]
impl SubscriptionCalls for Calls {
    async fn subscribe(
        &self,
        viewer: Viewer,
        mut requests: Streaming<v1::SubscribeRequest>,
    ) -> Result<SubscribeStream, Status> {
        let (tx, rx) = mpsc::channel(RESPONSES);
        let (last_word, end) = oneshot::channel::<Status>();
        let this = self.clone();
        tokio::spawn(async move {
            if let Err(status) = this.serve(viewer, &mut requests, &tx).await {
                _ = last_word.send(status);
            }
        });
        // Behind all that was sent, so that nobody waits for room to say it.
        let end = end.into_stream().filter_map(async |end| end.ok().map(Err));
        let responses: BoxStream<'static, _> = ReceiverStream::new(rx).chain(end).boxed();
        Ok(responses)
    }

    async fn list(&self, viewer: Viewer) -> Result<Vec<v1::Subscription>, Status> {
        let subscriptions = self.subscriptions.clone();
        ask(move || subscriptions.list(viewer.principal()).map_err(log_status)).await
    }

    async fn get(&self, viewer: Viewer, name: String) -> Result<v1::Subscription, Status> {
        let subscriptions = self.subscriptions.clone();
        ask(move || Ok(subscriptions.get(viewer.principal(), &name)?)).await
    }

    async fn delete(&self, viewer: Viewer, name: String) -> Result<(), Status> {
        let subscriptions = self.subscriptions.clone();
        ask(move || Ok(subscriptions.delete(viewer.principal(), &name)?)).await
    }
}

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calls").field("log", &self.log).finish_non_exhaustive()
    }
}
