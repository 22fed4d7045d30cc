//! API servers, as far as a collector hears of them: what they audit, and how they post it.
//!
//! Their events are those of a real one (`tests/fixtures/audit`), with other names and times in them.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use podtrail::trail::Moment;
use podtrail_proto::v1::Event;
use rustls::{ClientConfig, ClientConnection, Stream};
use serde_json::{Value, json};

use super::{certificates::Files, container::uuid};

/// `--audit-webhook-batch-max-wait`
pub(crate) const MAX_WAIT: Duration = Duration::from_millis(500);

/// One of so many batches is posted a second time: its answer was lost on the way.
const REPLAYED: usize = 5;
/// So long after the first.
const AGAIN: Duration = Duration::from_secs(3);

const FIXTURE: &str = include_str!("../../fixtures/audit/exec-eventlist.json");

/// Who asks for what.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) user: String,
    /// where the user is
    pub(crate) address: String,
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) container: String,
    pub(crate) command: Vec<String>,
    pub(crate) stdin: bool,
    pub(crate) tty: bool,
    /// by SPDY, as an older kubectl does, and not by WebSocket
    pub(crate) spdy: bool,
}

/// A request that an API server has received.
#[derive(Debug)]
pub(crate) struct Received {
    event: Value,
    /// that it tells nothing of it for so long
    late: Duration,
}

/// Posts its audit until it is ended.
#[derive(Debug)]
pub(crate) struct ApiServer {
    inner: Arc<Inner>,
    posting: Option<JoinHandle<Result<()>>>,
}

#[derive(Debug)]
struct Inner {
    /// of its webhook's connections
    own: Ipv4Addr,
    collector: SocketAddr,
    tls: Arc<ClientConfig>,
    /// how far its clock is from the right time, in milliseconds
    skew: i64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// what happened, and from when on it is posted
    waiting: Vec<(Instant, Value)>,
    /// batches that are posted again
    again: Vec<(Instant, String)>,
    posts: usize,
    replays: usize,
    over: bool,
}

fn fixture(which: impl Fn(&Value) -> bool) -> Result<Value> {
    let list: Value = serde_json::from_str(FIXTURE)?;
    let items = list["items"].as_array().context("no items")?;
    items.iter().find(|item| which(item)).cloned().context("the fixture has no such event")
}

/// As API servers write it: to the microsecond.
fn text(moment: Moment) -> Result<Value> {
    let time = Moment(moment.0 / 1000 * 1000).timestamp();
    let event = serde_json::to_value(Event { time: Some(time), ..Event::default() })?;
    event.get("time").cloned().context("an event without its time")
}

/// As forms are encoded.
fn encoded(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    word.bytes()
        .map(|byte| match byte {
            b' ' => "+".to_owned(),
            byte if plain(byte) => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

impl Asked {
    fn uri(&self) -> String {
        let command: Vec<String> =
            self.command.iter().map(|word| format!("command={}", encoded(word))).collect();
        // In the alphabet's order, and only what is true, as kubectl has it.
        let flags = [("stderr", !self.tty), ("stdin", self.stdin), ("stdout", true), ("tty", self.tty)];
        let flags = flags.iter().filter(|(_, set)| *set).map(|(name, _)| format!("&{name}=true"));
        format!(
            "/api/v1/namespaces/{}/pods/{}/exec?{}&container={}{}",
            self.namespace,
            self.pod,
            command.join("&"),
            self.container,
            flags.collect::<String>()
        )
    }
}

impl ApiServer {
    /// Posts to a collector from this address, by a clock that is so many milliseconds off.
    pub(crate) fn start(own: Ipv4Addr, skew: i64, collector: SocketAddr, files: &Files) -> Result<Self> {
        let inner =
            Arc::new(Inner { own, collector, tls: Arc::new(files.client()?), skew, state: Mutex::default() });
        let posting = thread::spawn({
            let inner = Arc::clone(&inner);
            move || inner.run()
        });
        Ok(Self { inner, posting: Some(posting) })
    }

    /// A request comes in. What it leads to is told so long after it happened.
    pub(crate) fn receive(&self, asked: &Asked, late: Duration) -> Result<Received> {
        let verb = if asked.spdy { "create" } else { "get" };
        let mut event = fixture(|item| {
            item["verb"] == verb
                && item["objectRef"]["subresource"] == "exec"
                && item["responseStatus"]["code"] == 101
        })?;
        event["auditID"] = uuid().into();
        event["requestURI"] = asked.uri().into();
        event["user"]["username"] = asked.user.clone().into();
        event["user"]["uid"] = format!("uid of {}", asked.user).into();
        event["sourceIPs"] = json!([asked.address]);
        event["objectRef"]["namespace"] = asked.namespace.clone().into();
        event["objectRef"]["name"] = asked.pod.clone().into();
        event["requestReceivedTimestamp"] = text(self.inner.now())?;
        Ok(Received { event, late })
    }

    /// The answer is on its way.
    pub(crate) fn started(&self, request: &Received) -> Result<Moment> {
        self.tell(request, "ResponseStarted", 101)
    }

    /// The response is at its end.
    pub(crate) fn complete(&self, request: &Received) -> Result<Moment> {
        self.tell(request, "ResponseComplete", 101)
    }

    /// It comes to nothing: nobody may do that, or the container is not there.
    pub(crate) fn refused(&self, request: &Received, code: i32) -> Result<()> {
        self.tell(request, "ResponseStarted", code)?;
        self.tell(request, "ResponseComplete", code).map(|_at| ())
    }

    /// When it was, by its clock.
    fn tell(&self, request: &Received, stage: &str, code: i32) -> Result<Moment> {
        let mut event = request.event.clone();
        let now = self.inner.now();
        event["stage"] = stage.into();
        event["stageTimestamp"] = text(now)?;
        event["responseStatus"]["code"] = code.into();
        self.inner.lock().waiting.push((Instant::now() + request.late, event));
        Ok(now)
    }

    /// Batches that it posted, and those that it posted again.
    pub(crate) fn posts(&self) -> (usize, usize) {
        let state = self.inner.lock();
        (state.posts, state.replays)
    }

    /// Whether there is nothing more that happened and was not told.
    pub(crate) fn is_drained(&self) -> bool {
        let state = self.inner.lock();
        state.waiting.is_empty() && state.again.is_empty()
    }

    /// Ends it; fails where it could not post.
    pub(crate) fn end(mut self) -> Result<()> {
        self.inner.lock().over = true;
        let posting = self.posting.take().context("it does not post")?;
        posting.join().map_err(|_| anyhow::anyhow!("an API server panicked"))?
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.inner.lock().over = true;
        if let Some(posting) = self.posting.take() {
            let _ = posting.join();
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Moment {
        Moment(Moment::now().0 + self.skew * 1_000_000)
    }

    fn run(&self) -> Result<()> {
        let mut random = fastrand::Rng::with_seed(self.own.to_bits().into());
        // It was there long before.
        let mut seen = Moment(self.now().0 - 120 * 1_000_000_000);
        while !self.lock().over {
            let now = Instant::now();
            let (mut items, again) = {
                let mut state = self.lock();
                let (due, later) =
                    std::mem::take(&mut state.waiting).into_iter().partition(|(at, _)| *at <= now);
                state.waiting = later;
                let due: Vec<(Instant, Value)> = due;
                let again = state.again.iter().position(|(at, _)| *at <= now);
                let again = again.map(|place| state.again.swap_remove(place).1);
                (due.into_iter().map(|(_, event)| event).collect::<Vec<_>>(), again)
            };
            // Something else happens all the time.
            items.push(lease(seen)?);
            items.push(lease(self.now())?);
            seen = self.now();
            random.shuffle(&mut items);
            let list = json!({
                "kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": items,
            });
            let list = list.to_string();
            self.post(&list)?;
            if let Some(list) = &again {
                self.post(list)?;
            }
            let mut state = self.lock();
            state.posts += 1;
            state.replays += usize::from(again.is_some());
            if items.len() > 2 && state.posts.is_multiple_of(REPLAYED) {
                state.again.push((Instant::now() + AGAIN, list));
            }
            drop(state);
            thread::sleep(MAX_WAIT);
        }
        Ok(())
    }

    /// Posts a batch.
    fn post(&self, list: &str) -> Result<()> {
        let mut tcp = connect(self.own, self.collector).context("cannot reach the collector")?;
        tcp.set_read_timeout(Some(Duration::from_secs(30)))?;
        let name = self.collector.ip().to_string().try_into()?;
        let mut tls = ClientConnection::new(Arc::clone(&self.tls), name)?;
        let mut stream = Stream::new(&mut tls, &mut tcp);
        write!(
            stream,
            "POST /audit?timeout=30s HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n{list}",
            self.collector,
            list.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).context("the collector does not answer a batch")?;
        ensure!(answer.starts_with("HTTP/1.1 200 "), "a batch was refused: {answer}");
        Ok(())
    }
}

/// What leads into no container.
fn lease(at: Moment) -> Result<Value> {
    let mut event = fixture(|item| item["objectRef"]["subresource"].is_null())?;
    event["auditID"] = uuid().into();
    for time in ["requestReceivedTimestamp", "stageTimestamp"] {
        event[time] = text(at)?;
    }
    Ok(event)
}

/// From one of the loopback's addresses, as if it were another machine.
fn connect(own: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((own, 0)))?;
        socket.connect(to).await
    })?;
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}
