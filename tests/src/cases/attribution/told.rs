//! What somebody who subscribes is told of sessions and of who is behind them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use anyhow::Result;
use podtrail::trail::Moment;
use podtrail_proto::v1::{
    Attributed, EntryMethod, Event, SubscribeAck, SubscribeOpen, SubscribeRequest, event::Body,
    subscribe_open::From, subscribe_request::Request, subscribe_response::Response,
    trail_client::TrailClient,
};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// What a reader was told of a session.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) container: String,
    pub(super) entered: Option<Moment>,
    pub(super) method: EntryMethod,
    pub(super) begun: Instant,
    pub(super) code: Option<Option<i32>>,
    pub(super) said: Vec<(Instant, Attributed)>,
}

pub(super) type Sessions = BTreeMap<String, Told>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Somebody who has subscribed, in a thread of its own.
pub(super) struct Reader {
    told: Arc<Mutex<Sessions>>,
    failed: Arc<Mutex<Option<String>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Reader {
    pub(super) fn start(
        trail: impl Future<Output = Result<TrailClient<Channel>>> + Send + 'static,
    ) -> Result<Self> {
        let (told, failed) = (Arc::default(), Arc::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, mut stopped) = oneshot::channel();
        let thread = thread::spawn({
            let (told, failed) = (Arc::clone(&told), Arc::clone(&failed));
            move || {
                let read = async {
                    tokio::select! {
                        ended = read(trail.await?, &told) => ended,
                        _ = &mut stopped => Ok(()),
                    }
                };
                if let Err(e) = runtime.block_on(read) {
                    *lock(&failed) = Some(format!("{e:#}"));
                }
            }
        });
        Ok(Self { told, failed, stop: Some(stop), thread: Some(thread) })
    }

    /// What it was told so far.
    pub(super) fn told(&self) -> Result<Sessions> {
        if let Some(failed) = &*lock(&self.failed) {
            anyhow::bail!("the subscription ended: {failed}");
        }
        Ok(lock(&self.told).clone())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

async fn read(mut trail: TrailClient<Channel>, told: &Mutex<Sessions>) -> Result<()> {
    let (requests, rx) = mpsc::channel(8);
    let open =
        SubscribeOpen { name: "itest".to_owned(), from: Some(From::Oldest(true)), ..Default::default() };
    requests.send(SubscribeRequest { request: Some(Request::Open(open)) }).await?;
    let mut responses = trail.subscribe(ReceiverStream::new(rx)).await?.into_inner();
    while let Some(response) = responses.message().await? {
        let Some(Response::Events(events)) = response.response else { continue };
        if let Some(cursor) = events.cursors.last() {
            let ack = SubscribeAck { cursor: cursor.clone() };
            requests.send(SubscribeRequest { request: Some(Request::Ack(ack)) }).await?;
        }
        let mut told = lock(told);
        events.events.into_iter().for_each(|event| learn(&mut told, event));
    }
    anyhow::bail!("it ended")
}

fn learn(told: &mut Sessions, event: Event) {
    let now = Instant::now();
    match event.body {
        Some(Body::SessionStarted(started)) => {
            let container = event.container.map(|container| container.id).unwrap_or_default();
            let new = Told {
                container,
                entered: started.entered.as_ref().map(Moment::from_timestamp),
                method: started.method(),
                begun: now,
                code: None,
                said: Vec::new(),
            };
            told.entry(event.session_id).or_insert(new);
        }
        Some(Body::Attributed(attributed)) => {
            let Some(session) = told.get_mut(&event.session_id) else { return };
            if attributed.method.is_some() {
                session.method = attributed.method();
            }
            if attributed.verdict.is_some() {
                session.said.push((now, attributed));
            }
        }
        Some(Body::SessionEnded(ended)) => {
            if let Some(session) = told.get_mut(&event.session_id) {
                session.code = Some(ended.exit_code);
            }
        }
        _ => {}
    }
}
