use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{StreamExt as _, stream::BoxStream};
use podtrail_proto::{Timestamp, v1};
use tokio::{net::TcpListener, sync::watch, time::timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, Streaming, transport::Server};

use super::*;
use crate::{
    spool::{Identity, Now, Spool},
    trail::Moment,
};

const WAIT: Duration = Duration::from_secs(20);

/// A collector that keeps what it gets, and cuts the stream when it has had so many events.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stub {
    /// by seq, with how often each came
    pub(crate) received: Arc<Mutex<BTreeMap<u64, (v1::Event, u32)>>>,
    hellos: Arc<Mutex<Vec<v1::Hello>>>,
    /// streams that end with their first events, which are lost
    cuts: Arc<Mutex<u32>>,
    /// what it claims to have, whatever it has
    claim: Option<u64>,
}

#[tonic::async_trait]
impl v1::ingest_server::Ingest for Stub {
    type ReportStream = BoxStream<'static, Result<v1::ReportResponse, Status>>;

    async fn report(
        &self,
        request: Request<Streaming<v1::ReportRequest>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let this = self.clone();
        let answers =
            futures::stream::unfold((request.into_inner(), 0, false), move |(mut requests, epoch, cut)| {
                let this = this.clone();
                async move {
                    if cut {
                        return None;
                    }
                    let v1::ReportRequest { hello, events, gone: _ } = requests.message().await.ok()??;
                    let epoch = hello.as_ref().map_or(epoch, |hello| hello.epoch);
                    this.hellos.lock().unwrap().extend(hello);
                    if !events.is_empty() && this.cut() {
                        return Some((Err(Status::unavailable("cut\u{1b}[2J")), (requests, epoch, true)));
                    }
                    for event in events {
                        let seq = event.id.as_ref().unwrap().seq;
                        let mut received = this.received.lock().unwrap();
                        received.entry(seq).or_insert((event, 0)).1 += 1;
                    }
                    let acked_seq = this.claim.unwrap_or_else(|| this.dense());
                    Some((
                        Ok(v1::ReportResponse { epoch, acked_seq, missing: Vec::new() }),
                        (requests, epoch, false),
                    ))
                }
            });
        Ok(Response::new(answers.boxed()))
    }
}

impl Stub {
    /// Serves on `address` until dropped; returns where.
    pub(crate) async fn serve(&self, address: SocketAddr) -> (SocketAddr, AbortOnDropHandle<()>) {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = v1::ingest_server::IngestServer::new(self.clone());
        let task = tokio::spawn(async move {
            Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        (address, AbortOnDropHandle::new(task))
    }

    fn cut(&self) -> bool {
        let mut cuts = self.cuts.lock().unwrap();
        let cut = *cuts > 0;
        *cuts = cuts.saturating_sub(1);
        cut
    }

    /// All up to here has come.
    pub(crate) fn dense(&self) -> u64 {
        let received = self.received.lock().unwrap();
        received.keys().zip(1..).take_while(|(seq, n)| **seq == *n).count() as u64
    }
}

fn spool(max_bytes: usize) -> Arc<Spool> {
    let identity = Identity { cluster: "c".to_owned(), node: "n".to_owned(), epoch: 7 };
    Arc::new(Spool::new(identity, crate::spool::Options { max_bytes, acknowledged: true }))
}

fn push(spool: &Spool, count: u64) {
    let event = v1::Event {
        time: Some(Timestamp { seconds: 1, nanos: 0 }),
        session_id: "s".to_owned(),
        body: Some(v1::event::Body::Exited(v1::Exited { exit_code: Some(3), ..v1::Exited::default() })),
        ..v1::Event::default()
    };
    let mut events = vec![event; usize::try_from(count).unwrap()];
    spool.push(&mut events, Now { wall: Moment(1), ..Now::default() }, &mut Vec::new());
}

fn start(spool: &Arc<Spool>, address: SocketAddr) -> (AbortOnDropHandle<()>, watch::Receiver<State>) {
    let hello = v1::Hello { cluster: "c".to_owned(), node: "n".to_owned(), epoch: 7, ..v1::Hello::default() };
    let backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(20));
    let options = Options { collector: format!("http://{address}"), hello, backoff };
    let (state, watched) = watch::channel(State::default());
    (AbortOnDropHandle::new(tokio::spawn(run(Arc::clone(spool), options, state))), watched)
}

async fn acked(spool: &Spool, seq: u64) {
    let mut acked = spool.acked_seq();
    timeout(WAIT, acked.wait_for(|acked| *acked >= seq)).await.unwrap().unwrap();
}

fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

#[tokio::test]
async fn events_arrive_whole_in_order_and_once() {
    let stub = Stub::default();
    let (address, _server) = stub.serve(anywhere()).await;
    let spool = spool(16 << 20);
    push(&spool, 2500);
    let (_uplink, state) = start(&spool, address);
    acked(&spool, 2500).await;
    push(&spool, 1);
    acked(&spool, 2501).await;
    assert!(state.borrow().connected);
    let received = stub.received.lock().unwrap();
    assert!(received.keys().copied().eq(1..=2501));
    assert!(received.values().all(|(_, times)| *times == 1));
    let (event, _) = &received[&77];
    let id = event.id.clone().unwrap();
    assert_eq!((id.cluster.as_str(), id.node.as_str(), id.epoch), ("c", "n", 7));
    let Some(v1::event::Body::Exited(exited)) = &event.body else { panic!("{event:?}") };
    assert_eq!((exited.exit_code, event.session_id.as_str()), (Some(3), "s"));
    assert_eq!(stub.hellos.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_cut_stream_is_begun_again_after_what_was_acknowledged() {
    let stub = Stub { cuts: Arc::new(Mutex::new(3)), ..Stub::default() };
    let (address, _server) = stub.serve(anywhere()).await;
    let spool = spool(16 << 20);
    push(&spool, 50);
    let (_uplink, state) = start(&spool, address);
    acked(&spool, 50).await;
    assert!(stub.received.lock().unwrap().keys().copied().eq(1..=50), "nothing lost, ids stable");
    let hellos = stub.hellos.lock().unwrap().len();
    assert_eq!((hellos, state.borrow().attempts), (4, 4), "a greeting on each stream");
    assert_eq!(*stub.cuts.lock().unwrap(), 0);
}

#[tokio::test]
async fn a_collector_that_comes_late_gets_everything() {
    let stub = Stub::default();
    let (address, server) = stub.serve(anywhere()).await;
    drop(server);
    let spool = spool(16 << 20);
    push(&spool, 10);
    let (_uplink, mut state) = start(&spool, address);
    timeout(WAIT, state.wait_for(|state| state.attempts > 3)).await.unwrap().unwrap();
    assert!(!state.borrow().connected);
    push(&spool, 10);
    let (_, _server) = stub.serve(address).await;
    acked(&spool, 20).await;
    assert!(stub.received.lock().unwrap().keys().copied().eq(1..=20));
}

#[tokio::test]
async fn an_acknowledgement_of_what_was_not_sent_is_not_believed() {
    let stub = Stub { claim: Some(1_000_000), ..Stub::default() };
    let (address, _server) = stub.serve(anywhere()).await;
    let spool = spool(16 << 20);
    push(&spool, 10);
    let (_uplink, mut state) = start(&spool, address);
    timeout(WAIT, state.wait_for(|state| state.attempts > 3)).await.unwrap().unwrap();
    assert_eq!(spool.fill().acked_seq, 0);
}

#[test]
fn what_the_collector_says_is_cut() {
    let line = status_line(&Status::internal("x".repeat(10_000)));
    assert!(line.len() < 400, "{}", line.len());
    assert_eq!(status_line(&Status::unavailable("")), "Unavailable: The service is currently unavailable");
}
