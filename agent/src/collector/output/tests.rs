//! Outputs over real subscriptions: what is acknowledged, what comes again, what a receiver gets.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use podtrail_proto::v1;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::*;
use crate::{
    collector::subscribe::{Settings, testing::Kept},
    config::outputs::{FileOptions, SyslogOptions, SyslogTls},
    tls::testing::{Authority, Wanted},
    trail::{
        MemoryLog, Moment,
        attributions::Attributions,
        log::Log as _,
        testing::{self, executed},
    },
};

const SOON: Duration = Duration::from_secs(20);

/// The verdict on every session is awaited until it is known.
#[derive(Debug, Default)]
struct Waits(AtomicBool);

impl Attributions for Waits {
    fn of(&self, _: &v1::Event) -> Option<Arc<v1::Attribution>> {
        let user = v1::User { name: "alice".to_owned(), ..v1::User::default() };
        let known = v1::Attribution { user: Some(user), ..v1::Attribution::default() };
        self.0.load(Ordering::SeqCst).then(|| Arc::new(known))
    }

    fn is_awaited(&self, _: &v1::Event) -> bool {
        !self.0.load(Ordering::SeqCst)
    }
}

struct Fixture {
    log: Arc<MemoryLog>,
    kept: Kept,
    stop: CancellationToken,
    tasks: TaskTracker,
    subscriptions: Subscriptions,
}

impl Fixture {
    fn new() -> Self {
        let log = Arc::new(MemoryLog::new(u64::MAX));
        let (kept, stop, tasks) = (Kept::default(), CancellationToken::new(), TaskTracker::new());
        let subscriptions = load(&log, &kept, &stop);
        Self { log, kept, stop, tasks, subscriptions }
    }

    fn append(&self, range: std::ops::RangeInclusive<u64>) {
        let event = |n: u64| testing::event("n", n, 1, "s", executed(&["/bin/true", &n.to_string()], false));
        self.log.append(range.map(|n| Arc::new(event(n))).collect()).unwrap();
    }

    fn start(&self, to: To) {
        self.start_holding(Duration::ZERO, to);
    }

    fn start_holding(&self, hold: Duration, to: To) {
        let output = Output { name: "out".to_owned(), filter: String::new(), oldest: true, hold, to };
        start(vec![output], &self.subscriptions, self.log.id(), &self.stop, &self.tasks);
    }

    /// Stops, and starts with what was kept.
    async fn restart(&mut self) {
        self.stop.cancel();
        self.tasks.close();
        timeout(SOON, self.tasks.wait()).await.expect("an output does not end");
        self.subscriptions.flush().unwrap();
        (self.stop, self.tasks) = (CancellationToken::new(), TaskTracker::new());
        self.subscriptions = load(&self.log, &self.kept, &self.stop);
    }

    async fn acknowledged(&self, cursor: u64) {
        let wanted = self.log.id().text(cursor);
        let reached = async {
            while self.subscriptions.get(PRINCIPAL, "out").map_or(true, |known| known.cursor != wanted) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, reached).await.expect("it was never acknowledged");
    }
}

fn load(log: &Arc<MemoryLog>, kept: &Kept, stop: &CancellationToken) -> Subscriptions {
    let store = Box::new(kept.clone());
    Subscriptions::load(log.clone(), store, Settings::default(), Moment::clock(), stop.clone()).unwrap()
}

fn seq(line: &str) -> u64 {
    serde_json::from_str::<v1::Event>(line).unwrap().id.unwrap().seq
}

#[tokio::test]
async fn events_are_held_back_until_it_is_known_whose_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.jsonl");
    let to = To::File(FileOptions { path: path.clone(), max_bytes: 1 << 30, keep: 1 });
    let users = || -> Vec<String> {
        let text = fs::read_to_string(&path).unwrap_or_default();
        let user = |line| serde_json::from_str::<v1::Event>(line).unwrap().attribution.and_then(|a| a.user);
        text.lines().map(|line| user(line).map(|user| user.name).unwrap_or_default()).collect()
    };
    let fixture = Fixture::new();
    let waits = Arc::new(Waits::default());
    fixture.subscriptions.attribute(waits.clone());
    fixture.append(1..=3);
    fixture.start_holding(Duration::from_secs(60), to);
    let connected = async {
        while fixture.subscriptions.get(PRINCIPAL, "out").map_or(true, |known| known.connected != Some(true))
        {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, connected).await.expect("it never began");
    // More than once it has looked whether it is known by now.
    sleep(Duration::from_millis(300)).await;
    assert_eq!(users(), [""; 0]);
    waits.0.store(true, Ordering::SeqCst);
    fixture.acknowledged(3).await;
    assert_eq!(users(), ["alice"; 3]);
}

#[tokio::test]
async fn nothing_is_held_back_for_longer_than_it_was_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.jsonl");
    let to = To::File(FileOptions { path: path.clone(), max_bytes: 1 << 30, keep: 1 });
    let fixture = Fixture::new();
    fixture.subscriptions.attribute(Arc::new(Waits::default()));
    fixture.append(1..=3);
    fixture.start_holding(Duration::from_millis(200), to);
    fixture.acknowledged(3).await;
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 3);
}

#[tokio::test]
async fn a_file_has_every_event_once_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.jsonl");
    let to = To::File(FileOptions { path: path.clone(), max_bytes: 1 << 30, keep: 1 });
    let mut fixture = Fixture::new();
    fixture.append(1..=500);
    fixture.start(to.clone());
    fixture.acknowledged(500).await;
    fixture.restart().await;
    fixture.append(501..=600);
    fixture.start(to.clone());
    fixture.append(601..=700);
    fixture.acknowledged(700).await;
    fixture.restart().await;
    // The subscription's place is lost; the file knows better.
    fixture.kept.0.records.lock().unwrap().clear();
    fixture.subscriptions = load(&fixture.log, &fixture.kept, &fixture.stop);
    fixture.append(701..=702);
    fixture.start(to);
    fixture.acknowledged(702).await;
    let lines: Vec<u64> = fs::read_to_string(path).unwrap().lines().map(seq).collect();
    assert_eq!(lines, (1..=702).collect::<Vec<_>>());
    fixture.restart().await;
}

#[tokio::test]
async fn a_file_that_cannot_be_written_gets_all_of_it_later() {
    let dir = tempfile::tempdir().unwrap();
    let parent = dir.path().join("later");
    let path = parent.join("events.jsonl");
    let mut fixture = Fixture::new();
    fixture.append(1..=10);
    fixture.start(To::File(FileOptions { path: path.clone(), max_bytes: 1 << 30, keep: 1 }));
    fixture.append(11..=20);
    fs::create_dir(parent).unwrap();
    fixture.acknowledged(20).await;
    let lines: Vec<u64> = fs::read_to_string(path).unwrap().lines().map(seq).collect();
    assert_eq!(lines, (1..=20).collect::<Vec<_>>());
    fixture.restart().await;
}

/// A receiver: the next `count` messages of a connection, by their numbers.
async fn receive(stream: &mut (impl AsyncRead + Unpin), count: usize) -> Vec<u64> {
    let mut got = Vec::new();
    while got.len() < count {
        let mut length = 0;
        loop {
            match timeout(SOON, stream.read_u8()).await.expect("nothing came").unwrap() {
                b' ' => break,
                digit => length = length * 10 + usize::from(digit - b'0'),
            }
        }
        let mut message = vec![0; length];
        timeout(SOON, stream.read_exact(&mut message)).await.expect("it was cut").unwrap();
        let message = String::from_utf8(message).unwrap();
        assert!(
            message.starts_with("<110>1 1970-01-01T00:00:01.000000Z n podtrail - Executed ["),
            "{message}"
        );
        got.push(seq(message.split_once("] ").unwrap().1));
    }
    got
}

async fn accept(listener: &TcpListener) -> TcpStream {
    timeout(SOON, listener.accept()).await.expect("nobody came").unwrap().0
}

fn syslog(listener: &TcpListener, tls: Option<SyslogTls>) -> To {
    let port = listener.local_addr().unwrap().port();
    To::Syslog(SyslogOptions { host: "127.0.0.1".to_owned(), port, tls, message_max: 65_536 })
}

#[tokio::test]
async fn a_receiver_gets_again_what_its_connection_did_not_take() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut fixture = Fixture::new();
    fixture.append(1..=50);
    fixture.start(syslog(&listener, None));
    let mut first = accept(&listener).await;
    assert_eq!(receive(&mut first, 50).await, (1..=50).collect::<Vec<_>>());
    fixture.acknowledged(50).await;
    // More than the kernel's buffers hold: the connection breaks with some of it on its way.
    let count = 60_000;
    fixture.append(51..=count);
    assert_eq!(receive(&mut first, 10).await, (51..=60).collect::<Vec<_>>());
    drop(first);
    let mut second = accept(&listener).await;
    let mut got = receive(&mut second, 1).await;
    assert!((51..count).contains(&got[0]), "went on at {}", got[0]);
    while *got.last().unwrap() < count {
        got.extend(receive(&mut second, 1).await);
    }
    assert_eq!(got, (got[0]..=count).collect::<Vec<_>>(), "from there on each, in order");
    fixture.acknowledged(count).await;
    fixture.restart().await;
}

#[tokio::test]
async fn what_a_receiver_does_not_take_is_not_acknowledged() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut fixture = Fixture::new();
    fixture.append(1..=90_000);
    fixture.start(syslog(&listener, None));
    let mut stream = accept(&listener).await;
    receive(&mut stream, 1).await;
    // The rest is read by nobody: more than all buffers on the way hold.
    sleep(3 * KEEP_EVERY).await;
    let place = fixture.subscriptions.get(PRINCIPAL, "out").unwrap();
    let place = fixture.log.id().parse(&place.cursor).unwrap();
    assert!(place < 90_000, "{place}");
    drop(stream);
    drop(listener);
    fixture.restart().await;
}

#[tokio::test]
async fn over_tls_the_receiver_must_be_whom_the_authority_names() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, other) = (Authority::new("a"), Authority::new("b"));
    let server = authority.issue(Wanted { hosts: &["127.0.0.1"], ..Wanted::default() });
    server.write(dir.path(), &authority.pem());
    fs::write(dir.path().join("other.pem"), other.pem()).unwrap();
    let ca = |name| Some(SyslogTls { ca: dir.path().join(name), own: None });

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let acceptor = acceptor(&server.cert, &server.key);
    let mut fixture = Fixture::new();
    fixture.append(1..=20);
    fixture.start(syslog(&listener, ca("other.pem")));
    let tcp = accept(&listener).await;
    timeout(SOON, acceptor.accept(tcp)).await.unwrap().unwrap_err();
    fixture.restart().await;

    fixture.start(syslog(&listener, ca("ca.pem")));
    loop {
        // Attempts of the first may still be waiting.
        let Ok(mut stream) = timeout(SOON, acceptor.accept(accept(&listener).await)).await.unwrap() else {
            continue;
        };
        assert_eq!(receive(&mut stream, 20).await, (1..=20).collect::<Vec<_>>());
        fixture.acknowledged(20).await;
        break;
    }
    fixture.restart().await;
}

fn acceptor(cert: &str, key: &str) -> tokio_rustls::TlsAcceptor {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
    let chain = CertificateDer::pem_slice_iter(cert.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    Arc::new(config).into()
}
