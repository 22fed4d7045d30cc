use std::{
    collections::{BTreeMap, BTreeSet},
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
    spool::{Fill, Identity, Now, Spool},
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
    /// requests with events that get lost, by their place, once; what came after them is not taken
    loses: Arc<Mutex<BTreeSet<u32>>>,
    /// refuses the first stream, and asks to be left alone for so long
    pushback: Arc<Mutex<Option<Duration>>>,
    gone: Arc<Mutex<Vec<v1::SeqRange>>>,
    empty: Arc<Mutex<u32>>,
}

#[tonic::async_trait]
impl v1::ingest_server::Ingest for Stub {
    type ReportStream = BoxStream<'static, Result<v1::ReportResponse, Status>>;

    async fn report(
        &self,
        request: Request<Streaming<v1::ReportRequest>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        if let Some(wait) = self.pushback.lock().unwrap().take() {
            let mut status = Status::resource_exhausted("too many");
            status.metadata_mut().insert(PUSHBACK, wait.as_millis().to_string().parse().unwrap());
            return Err(status);
        }
        let this = self.clone();
        let start = (request.into_inner(), 0, 0, false);
        let answers = futures::stream::unfold(start, move |(mut requests, epoch, n, cut)| {
            let this = this.clone();
            async move {
                if cut {
                    return None;
                }
                let v1::ReportRequest { hello, events, gone } = requests.message().await.ok()??;
                let epoch = hello.as_ref().map_or(epoch, |hello| hello.epoch);
                if hello.is_none() && events.is_empty() {
                    *this.empty.lock().unwrap() += 1;
                }
                this.hellos.lock().unwrap().extend(hello);
                if !events.is_empty() && this.cut() {
                    return Some((Err(Status::unavailable("cut\u{1b}[2J")), (requests, epoch, n, true)));
                }
                let n = n + u32::from(!events.is_empty());
                let lost = !events.is_empty() && this.loses.lock().unwrap().remove(&n);
                let missing = if lost { Vec::new() } else { this.keep(events, &gone) };
                let acked_seq = this.claim.unwrap_or_else(|| this.dense());
                Some((Ok(v1::ReportResponse { epoch, acked_seq, missing }), (requests, epoch, n, false)))
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

    /// Takes what comes in order; asks for the rest.
    fn keep(&self, events: Vec<v1::Event>, gone: &[v1::SeqRange]) -> Vec<v1::SeqRange> {
        self.gone.lock().unwrap().extend(gone);
        let mut next = self.dense() + 1;
        for event in events {
            let seq = event.id.as_ref().unwrap().seq;
            if seq > next && !gone.iter().any(|r| r.first <= next && r.last == seq - 1) {
                return vec![v1::SeqRange { first: next, last: seq - 1 }];
            }
            next = next.max(seq + 1);
            self.received.lock().unwrap().entry(seq).or_insert((event, 0)).1 += 1;
        }
        Vec::new()
    }

    /// All up to here has come, or is gone.
    pub(crate) fn dense(&self) -> u64 {
        let (received, gone) = (self.received.lock().unwrap(), self.gone.lock().unwrap());
        let mut last = 0;
        for &seq in received.keys() {
            if seq != last + 1 && !gone.iter().any(|r| r.first <= last + 1 && r.last == seq - 1) {
                break;
            }
            last = seq;
        }
        last
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
    let options = Options { collector: format!("http://{address}"), tls: None, hello, backoff };
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
async fn goes_back_to_what_is_missing() {
    let loses = BTreeSet::from([1, 3, 6]);
    let stub = Stub { loses: Arc::new(Mutex::new(loses)), ..Stub::default() };
    let (address, _server) = stub.serve(anywhere()).await;
    let spool = spool(64 << 20);
    push(&spool, 10 * u64::try_from(requests::BATCH_EVENTS).unwrap());
    let (_uplink, state) = start(&spool, address);
    acked(&spool, 10_000).await;
    assert!(stub.received.lock().unwrap().keys().copied().eq(1..=10_000));
    assert!(stub.loses.lock().unwrap().is_empty(), "what was lost came again");
    assert_eq!((state.borrow().attempts, stub.gone.lock().unwrap().len()), (1, 0));
}

#[tokio::test]
async fn says_what_the_spool_has_no_more() {
    let stub = Stub::default();
    let (address, _server) = stub.serve(anywhere()).await;
    let spool = spool(20_000);
    push(&spool, 1000);
    let Fill { last_seq, dropped, .. } = spool.fill();
    assert!(dropped > 500);
    let (_uplink, _) = start(&spool, address);
    acked(&spool, last_seq).await;
    let received: Vec<u64> = stub.received.lock().unwrap().keys().copied().collect();
    let gone = stub.gone.lock().unwrap().clone();
    assert_eq!(gone.iter().map(|r| r.last - r.first + 1).sum::<u64>(), dropped);
    assert!(gone.iter().all(|r| !received.iter().any(|seq| (r.first..=r.last).contains(seq))));
}

#[tokio::test]
async fn stays_away_as_long_as_it_is_asked_to() {
    let wait = Duration::from_millis(300);
    let stub = Stub { pushback: Arc::new(Mutex::new(Some(wait))), ..Stub::default() };
    let (address, _server) = stub.serve(anywhere()).await;
    let spool = spool(1 << 20);
    push(&spool, 1);
    let began = Instant::now();
    let (_uplink, state) = start(&spool, address);
    acked(&spool, 1).await;
    assert!(began.elapsed() >= wait, "{:?}", began.elapsed());
    assert_eq!(state.borrow().attempts, 2);
}

#[tokio::test]
async fn an_idle_stream_gives_signs_of_life() {
    let spool = spool(1 << 20);
    let (resume, resumed) = watch::channel(Resume::default());
    let often = Duration::from_millis(10);
    let hello = v1::Hello { epoch: spool.sending().epoch, ..v1::Hello::default() };
    let mut stream = Box::pin(requests(Arc::clone(&spool), hello, resumed, often));
    assert!(stream.next().await.unwrap().hello.is_some());
    // Also before the collector has said anything, and without sending it events.
    push(&spool, 3);
    let idle = stream.next().await.unwrap();
    assert!(idle.events.is_empty() && idle.hello.is_none());
    resume.send_replace(Resume { times: 1, after: 0 });
    assert_eq!(stream.next().await.unwrap().events.len(), 3);
    assert!(stream.next().await.unwrap().events.is_empty());
    resume.send_replace(Resume { times: 2, after: 1 });
    let batch = stream.next().await.unwrap();
    assert_eq!(batch.events.iter().map(|e| e.seq).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(batch.gone, []);
    drop(resume);
    assert!(stream.next().await.is_none());
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
