//! `podtrail.v1.Trail` over an indexed log: what readers of the collector and of the node's socket are served.
//!
//! A slow reader costs the memory of one page and one task: pages are read only as fast as they are taken. Reading
//! a log may touch the disk, so it is done where blocking is allowed.

use std::{fmt, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::BoxStream};
use podtrail_proto::v1::{self, tail_request::From, trail_server};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, codec::CompressionEncoding};

use super::{
    Indexed, LogId, MAX_MESSAGE_BYTES, Moment,
    attributions::attributed,
    cursor::CursorError,
    index::{self, FindError, PageToken},
    log::{Cursor, Limits, Log, LogError, Page},
    sight::Sight,
    subscriptions::{SubscribeStream, SubscriptionCalls},
    viewer::{Verb, Viewer},
};
use crate::filter::Filter;

/// Events or sessions on a page.
const MAX_PAGE: usize = 1000;
/// About how long a page gets, and how much is read at once for a tail.
const PAGE_BYTES: usize = 1024 * 1024;
const TAIL_PAGE: Page = Page { max_events: 512, max_bytes: PAGE_BYTES };
/// Tails at once; each holds at most a page or two.
const MAX_TAILS: usize = 256;

/// The longest question: a filter may be long.
const MAX_QUESTION_BYTES: usize = 256 * 1024;

/// How long a reader that is behind may take to make room for why its tail ends.
const LAST_WORD: Duration = Duration::from_secs(1);

/// See the module.
pub struct Service<L> {
    indexed: Arc<Indexed<L>>,
    retention: Limits,
    shutdown: CancellationToken,
    tails: Arc<Semaphore>,
    /// who asks, where the connection does not say
    viewer: Viewer,
    subscriptions: Option<Arc<dyn SubscriptionCalls>>,
}

/// Where a tail begins.
#[derive(Clone, Copy, Debug)]
struct Start {
    /// it gets what comes after
    after: Cursor,
    /// or, if that is trimmed before it is read, whatever is the oldest then
    oldest: bool,
}

impl<L> Clone for Service<L> {
    fn clone(&self) -> Self {
        let Self { indexed, retention, shutdown, tails, viewer, subscriptions } = self;
        Self {
            indexed: indexed.clone(),
            retention: *retention,
            shutdown: shutdown.clone(),
            tails: tails.clone(),
            viewer: viewer.clone(),
            subscriptions: subscriptions.clone(),
        }
    }
}

impl<L> fmt::Debug for Service<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("retention", &self.retention).finish_non_exhaustive()
    }
}

impl<L: Log + fmt::Debug> Service<L> {
    /// `retention` is what readers are told; tails end once `shutdown` is cancelled; `viewer` is who asks, where the
    /// connection does not say.
    #[must_use]
    pub fn new(
        indexed: Arc<Indexed<L>>,
        retention: Limits,
        shutdown: CancellationToken,
        viewer: Viewer,
    ) -> Self {
        let tails = Arc::new(Semaphore::new(MAX_TAILS));
        Self { indexed, retention, shutdown, tails, viewer, subscriptions: None }
    }

    /// Serves subscriptions too.
    #[must_use]
    pub fn with_subscriptions(self, subscriptions: Arc<dyn SubscriptionCalls>) -> Self {
        Self { subscriptions: Some(subscriptions), ..self }
    }

    /// Who asks, and whom to ask.
    fn subscriber<T>(&self, request: &Request<T>) -> Result<(Viewer, &dyn SubscriptionCalls), Status> {
        let viewer = Viewer::of(request, &self.viewer);
        viewer.check(Verb::Subscribe)?;
        let subscriptions = self
            .subscriptions
            .as_deref()
            .ok_or_else(|| Status::unimplemented("subscriptions are the collector's: ask it, or tail"))?;
        Ok((viewer, subscriptions))
    }

    /// Ready to be added to a `tonic` server.
    #[must_use]
    pub fn into_server(self) -> trail_server::TrailServer<Self> {
        trail_server::TrailServer::new(self)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
            .max_decoding_message_size(MAX_QUESTION_BYTES)
            // For those that ask for it. Not gzip: many clients ask for that unasked, and it costs several times as much.
            .send_compressed(CompressionEncoding::Zstd)
    }

    /// Asks the log or the index where blocking is allowed.
    async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Indexed<L>) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let indexed = self.indexed.clone();
        tokio::task::spawn_blocking(move || ask(&indexed))
            .await
            .map_err(|_panicked| Status::internal("the question failed; see the log of the server"))?
    }

    async fn tail_start(&self, from: Option<From>) -> Result<Start, Status> {
        self.ask(move |indexed| {
            let log = indexed.log();
            let bounds = log.bounds().map_err(log_status)?;
            let after = match &from {
                Some(From::Oldest(true)) => bounds.oldest.saturating_sub(1),
                Some(From::Cursor(cursor)) => {
                    let after = log.id().parse(cursor)?;
                    if after + 1 < bounds.oldest {
                        return Err(trimmed(log.id(), after, bounds.oldest));
                    }
                    if after > bounds.newest {
                        return Err(Status::out_of_range(format!(
                            "cursor {cursor} is after the newest, {}: the log has lost its end since; start with oldest or latest",
                            log.id().text(bounds.newest)
                        )));
                    }
                    after
                }
                Some(From::Time(time)) => log.seek(Moment::from_timestamp(time)).map_err(log_status)?,
                None | Some(From::Latest(_) | From::Oldest(false)) => bounds.newest,
            };
            Ok(Start { after, oldest: matches!(from, Some(From::Oldest(true))) })
        })
        .await
    }

    /// Sends until the reader is gone (`Ok`), the end is reached (`Ok`), or it cannot go on.
    async fn feed(
        &self,
        start: Start,
        mut until: Option<Cursor>,
        sight: &Sight,
        tx: &mpsc::Sender<Result<v1::TailResponse, Status>>,
    ) -> Result<(), Status> {
        let Start { mut after, oldest: mut any } = start;
        let log = self.indexed.log().id();
        let mut newest = self.indexed.log().newest();
        loop {
            while *newest.borrow_and_update() > after && until.is_none_or(|until| after < until) {
                let page = self
                    .ask(move |indexed| {
                        let page = indexed.log().read(after, TAIL_PAGE).map_err(log_status)?;
                        // Looked at after the read: what was trimmed before it is noticed for certain.
                        let oldest = indexed.log().bounds().map_err(log_status)?.oldest;
                        let first = page.first().map_or(oldest, |e| e.cursor);
                        if !any && first > after + 1 && oldest > after + 1 {
                            return Err(trimmed(indexed.log().id(), after, oldest));
                        }
                        Ok(page)
                    })
                    .await?;
                let Some((first, last)) = page.first().zip(page.last()) else { break };
                if any && until.is_some_and(|until| first.cursor > until) {
                    // All that was there at the call is trimmed: there is still an oldest.
                    until = Some(last.cursor);
                }
                any = false;
                for entry in page {
                    if until.is_some_and(|until| entry.cursor > until) {
                        return Ok(());
                    }
                    after = entry.cursor;
                    let Some(event) = sight.show(entry.event) else { continue };
                    let event = Some(Arc::unwrap_or_clone(event));
                    let response = v1::TailResponse { event, cursor: log.text(after) };
                    if tx.send(Ok(response)).await.is_err() {
                        return Ok(());
                    }
                }
            }
            if until.is_some() || newest.changed().await.is_err() {
                return Ok(());
            }
        }
    }
}

fn trimmed(log: LogId, after: Cursor, oldest: Cursor) -> Status {
    Status::out_of_range(format!(
        "events {} to {} are trimmed already: the oldest left is {}; start with oldest, or with a later cursor",
        after + 1,
        oldest - 1,
        log.text(oldest)
    ))
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(crate) fn log_status(e: LogError) -> Status {
    match e {
        LogError::Corrupt(..) => Status::data_loss(e.to_string()),
        LogError::Closed => Status::unavailable(e.to_string()),
        LogError::Io { .. }
        | LogError::Store(_)
        | LogError::Full { .. }
        | LogError::Locked { .. }
        | LogError::Newer { .. }
        | LogError::Foreign { .. } => Status::internal(e.to_string()),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn find_status(e: FindError) -> Status {
    match e {
        FindError::None { .. } => Status::not_found(e.to_string()),
        FindError::Ambiguous { .. } => Status::invalid_argument(e.to_string()),
    }
}

fn page_size(asked: u32) -> usize {
    match asked as usize {
        0 => MAX_PAGE,
        n => n.min(MAX_PAGE),
    }
}

fn bad_token() -> Status {
    Status::invalid_argument("page_token is not one that this call gave out")
}

fn given(s: String) -> Option<String> {
    (!s.is_empty()).then_some(s)
}

#[tonic::async_trait]
impl<L: Log + fmt::Debug> trail_server::Trail for Service<L> {
    type SubscribeStream = SubscribeStream;
    type TailStream = BoxStream<'static, Result<v1::TailResponse, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<v1::SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let (viewer, subscriptions) = self.subscriber(&request)?;
        Ok(Response::new(subscriptions.subscribe(viewer, request.into_inner()).await?))
    }

    async fn list_subscriptions(
        &self,
        request: Request<v1::ListSubscriptionsRequest>,
    ) -> Result<Response<v1::ListSubscriptionsResponse>, Status> {
        let (viewer, subscriptions) = self.subscriber(&request)?;
        let subscriptions = subscriptions.list(viewer).await?;
        Ok(Response::new(v1::ListSubscriptionsResponse { subscriptions }))
    }

    async fn get_subscription(
        &self,
        request: Request<v1::GetSubscriptionRequest>,
    ) -> Result<Response<v1::GetSubscriptionResponse>, Status> {
        let (viewer, subscriptions) = self.subscriber(&request)?;
        let subscription = subscriptions.get(viewer, request.into_inner().name).await?;
        Ok(Response::new(v1::GetSubscriptionResponse { subscription: Some(subscription) }))
    }

    async fn delete_subscription(
        &self,
        request: Request<v1::DeleteSubscriptionRequest>,
    ) -> Result<Response<v1::DeleteSubscriptionResponse>, Status> {
        let (viewer, subscriptions) = self.subscriber(&request)?;
        subscriptions.delete(viewer, request.into_inner().name).await?;
        Ok(Response::new(v1::DeleteSubscriptionResponse {}))
    }

    async fn tail(&self, request: Request<v1::TailRequest>) -> Result<Response<Self::TailStream>, Status> {
        let viewer = Viewer::of(&request, &self.viewer);
        viewer.check(Verb::Tail)?;
        let v1::TailRequest { from, filter, follow } = request.into_inner();
        let filter = Filter::compile(&filter).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let Ok(permit) = self.tails.clone().try_acquire_owned() else {
            return Err(Status::resource_exhausted(format!(
                "{MAX_TAILS} readers are here already: try later"
            )));
        };
        let start = self.tail_start(from).await?;
        let until = (!follow.unwrap_or(true)).then(|| *self.indexed.log().newest().borrow());
        let (tx, rx) = mpsc::channel(16);
        let this = self.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let sight = Sight { filter, viewer, attributions: this.indexed.clone() };
            let end = tokio::select! {
                end = this.feed(start, until, &sight, &tx) => end,
                () = this.shutdown.cancelled() => Err(Status::unavailable("shutting down: come again")),
                // Nobody reads any more.
                () = tx.closed() => Ok(()),
            };
            if let Err(status) = end {
                // A reader that takes nothing must not keep the task, nor hold up a shutdown.
                _ = tokio::time::timeout(LAST_WORD, tx.send(Err(status))).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(rx).boxed()))
    }

    async fn list_sessions(
        &self,
        request: Request<v1::ListSessionsRequest>,
    ) -> Result<Response<v1::ListSessionsResponse>, Status> {
        let viewer = Viewer::of(&request, &self.viewer);
        viewer.check(Verb::Sessions)?;
        let v1::ListSessionsRequest {
            since,
            until,
            namespace,
            pod,
            user,
            method,
            node,
            container_id,
            page_size: size,
            page_token,
        } = request.into_inner();
        let after = match page_token.as_str() {
            "" => None,
            token => Some(PageToken::decode(token).ok_or_else(bad_token)?),
        };
        let filter = index::Filter {
            since: since.as_ref().map(Moment::from_timestamp),
            until: until.as_ref().map(Moment::from_timestamp),
            namespace: given(namespace),
            pod: given(pod),
            user: given(user),
            method,
            node: given(node),
            container: given(container_id),
        };
        check_hidden(&filter, &viewer)?;
        let page = self
            .ask(move |indexed| {
                indexed
                    .index()
                    .sessions(&filter, viewer.rights(), after.as_ref(), page_size(size), PAGE_BYTES)
                    .map_err(find_status)
            })
            .await?;
        Ok(Response::new(v1::ListSessionsResponse {
            sessions: page.sessions,
            next_page_token: page.next.map(|t| t.encode()).unwrap_or_default(),
        }))
    }

    async fn get_session(
        &self,
        request: Request<v1::GetSessionRequest>,
    ) -> Result<Response<v1::GetSessionResponse>, Status> {
        let viewer = Viewer::of(&request, &self.viewer);
        viewer.check(Verb::Sessions)?;
        let v1::GetSessionRequest { id, page_size: size, page_token } = request.into_inner();
        let after = match page_token.as_str() {
            "" => 0,
            token => self.indexed.log().id().parse(token).map_err(|e| match e {
                CursorError::Garbage(_) => bad_token(),
                CursorError::Foreign { .. } => e.into(),
            })?,
        };
        self.ask(move |indexed| {
            let (session, cursors) = {
                let index = indexed.index();
                let found = index.find(&id, viewer.rights()).map_err(find_status)?;
                // One more than a page, to know whether that is the last.
                (index.session(&found), index.cursors(&found, after, page_size(size) + 1))
            };
            let (events, next) = read_page(indexed.log().as_ref(), &cursors, page_size(size))?;
            // Its first events may not know its pod yet.
            let namespace = session.as_ref().and_then(namespace_of).map(str::to_owned);
            let rights = viewer.rights();
            let shown = events
                .into_iter()
                .map(|event| attributed(event, indexed))
                .filter_map(|event| rights.show_in(event, namespace.as_deref()));
            let events = shown.map(Arc::unwrap_or_clone).collect();
            let session = session.and_then(|session| rights.show_session(session));
            let next_page_token = next.map(|c| indexed.log().id().text(c)).unwrap_or_default();
            Ok(Response::new(v1::GetSessionResponse { session, events, next_page_token }))
        })
        .await
    }

    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        let viewer = Viewer::of(&request, &self.viewer);
        viewer.check(Verb::Nodes)?;
        let retention = self.retention;
        self.ask(move |indexed| {
            let bounds = indexed.log().bounds().map_err(log_status)?;
            let log = indexed.log().id();
            let nodes = indexed.index().nodes();
            Ok(Response::new(v1::ListNodesResponse {
                nodes: nodes.into_iter().map(|node| viewer.rights().show_node(node)).collect(),
                retention: Some(v1::Retention {
                    max_age: Some(retention.max_age.into()),
                    max_bytes: retention.max_bytes,
                    bytes: bounds.bytes,
                    events: bounds.events,
                    oldest_cursor: log.text(bounds.oldest),
                    newest_cursor: log.text(bounds.newest),
                    oldest: bounds.oldest_time.map(Moment::timestamp),
                }),
            }))
        })
        .await
    }
}

/// The namespace of a session's pod.
fn namespace_of(session: &v1::Session) -> Option<&str> {
    let attributed = session.attributed.as_ref().and_then(|attributed| attributed.container.as_ref());
    let pod = session.container.iter().chain(attributed).find_map(|container| container.pod.as_ref());
    pod.map(|pod| pod.namespace.as_str())
}

/// Who may not see a field may not ask for it either: the answer would tell it.
fn check_hidden(filter: &index::Filter, viewer: &Viewer) -> Result<(), Status> {
    let index::Filter { since: _, until: _, namespace, pod, user, method, node: _, container } = filter;
    for (asked, path) in [
        (namespace.is_some(), &["container", "pod", "namespace"][..]),
        (pod.is_some(), &["container", "pod", "name"]),
        (user.is_some(), &["attributed", "user", "name"]),
        (user.is_some(), &["attributed", "impersonated", "name"]),
        (method.is_some(), &["session_started", "method"]),
        (method.is_some(), &["attributed", "method"]),
        (container.is_some(), &["container", "id"]),
    ] {
        if asked && !viewer.rights().fields.show_all_of(path) {
            let field = path.join(".");
            return Err(
                viewer.denied(&format!("may not ask for {field}: its [[principal]] does not show it"))
            );
        }
    }
    Ok(())
}

/// Up to `max` events at `cursors`, and where the next page goes on.
fn read_page(
    log: &impl Log,
    cursors: &[Cursor],
    max: usize,
) -> Result<(Vec<Arc<v1::Event>>, Option<Cursor>), Status> {
    let wanted = cursors.get(..max).unwrap_or(cursors);
    let page = Page { max_events: max, max_bytes: PAGE_BYTES };
    let entries = log.get(wanted, page).map_err(log_status)?;
    // Where the log stopped early for want of room, the page ends with what it gave; otherwise with what was asked.
    let stopped_early = entries.len() < wanted.len();
    let end = entries.last().filter(|_| stopped_early).map(|e| e.cursor).or(wanted.last().copied());
    let more = cursors.last().copied() > end;
    Ok((entries.into_iter().map(|e| e.event).collect(), end.filter(|_| more)))
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
