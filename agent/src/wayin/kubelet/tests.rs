//! A kubelet over TLS, with what a real one answered, and with what none would.

use std::{
    convert::Infallible,
    fs,
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use http_body_util::{Either, Full, StreamBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::AUTHORIZATION,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::{
    event::ProbeKind,
    tls::testing::{Authority, Issued, Wanted},
    wayin::{
        command::Command,
        spec::Role,
        tests::{FIXTURE, HOOK, ID, POD, PROBE},
    },
};

const WAIT: Duration = Duration::from_secs(20);

type Endless = Pin<Box<dyn futures::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>;
type Answer = Either<Full<Bytes>, StreamBody<Endless>>;

/// What the kubelet answers.
#[derive(Clone, Debug)]
enum Says {
    Pods(Bytes),
    Status(StatusCode),
    /// spaces, without end
    Flood,
}

#[derive(Debug)]
struct Fake {
    says: Mutex<Says>,
    token: Mutex<String>,
    asked: AtomicUsize,
}

struct Served {
    fake: Arc<Fake>,
    options: Options,
    _server: AbortOnDropHandle<()>,
    dir: TempDir,
}

/// A kubelet whose certificate is for these names.
async fn serve(names: &[&str], says: Says) -> Served {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("kubelet-ca");
    let Issued { cert, key } = authority.issue(Wanted { hosts: names, ..Wanted::default() });
    fs::write(dir.path().join("ca.crt"), authority.pem()).unwrap();
    fs::write(dir.path().join("token"), "first\n").unwrap();
    let tls = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            CertificateDer::pem_slice_iter(cert.as_bytes()).collect::<Result<_, _>>().unwrap(),
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let fake = Arc::new(Fake {
        says: Mutex::new(says),
        token: Mutex::new("first".to_owned()),
        asked: AtomicUsize::new(0),
    });
    let server = tokio::spawn({
        let fake = Arc::clone(&fake);
        async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, fake) = (acceptor.clone(), Arc::clone(&fake));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let answer = service_fn(|request: Request<Incoming>| {
                        let answer = fake.answer(&request);
                        async { Ok::<_, Infallible>(answer) }
                    });
                    _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        }
    });
    let target = Target { secure: true, host: "127.0.0.1".to_owned(), port };
    let options = Options {
        target,
        token: Some(dir.path().join("token")),
        ca: Some(dir.path().join("ca.crt")),
        node_name: "node-1".to_owned(),
    };
    Served { fake, options, _server: AbortOnDropHandle::new(server), dir }
}

impl Fake {
    fn answer(&self, request: &Request<Incoming>) -> Response<Answer> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let spaces =
            || futures::stream::repeat_with(|| Ok(Frame::data(Bytes::from_static(&[b' '; 1 << 16]))));
        let (status, body) = match &*self.says.lock().unwrap() {
            _ if request.uri().path() != "/pods" => (StatusCode::NOT_FOUND, Bytes::new()),
            _ if request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok())
                != Some(&format!("Bearer {}", self.token.lock().unwrap())) =>
            {
                (StatusCode::UNAUTHORIZED, Bytes::new())
            }
            Says::Pods(body) => (StatusCode::OK, body.clone()),
            Says::Status(status) => (*status, Bytes::new()),
            Says::Flood => {
                return Response::new(Either::Right(StreamBody::new(Box::pin(spaces()) as Endless)));
            }
        };
        Response::builder().status(status).body(Either::Left(Full::new(body))).unwrap()
    }
}

fn real() -> Says {
    Says::Pods(Bytes::from_static(FIXTURE))
}

async fn until(kubelet: &Kubelet, uid: &str, container: &str, done: impl Fn(&Look) -> bool) -> Look {
    let mut answers = kubelet.answers();
    timeout(WAIT, async {
        loop {
            let look = kubelet.look(uid, Some(container));
            if done(&look) {
                return look;
            }
            // What is wanted and was denied is asked for again after a while.
            _ = timeout(Duration::from_millis(200), answers.changed()).await;
        }
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn what_a_real_kubelet_answered() {
    let served = serve(&["127.0.0.1"], real()).await;
    let kubelet = Kubelet::start(served.options.clone());
    let Look::Known(spec) = until(&kubelet, POD, ID, |look| matches!(look, Look::Known(_))).await else {
        panic!("no pod");
    };
    let [container] = &spec.containers[..] else { panic!("{spec:?}") };
    assert_eq!((container.name.as_str(), container.id.as_deref()), ("app", Some(ID)));
    assert_eq!((container.role, spec.deleting, spec.grace), (Role::Container, false, 30));
    let commands: Vec<_> = container.commands.iter().map(|c| (c.kind, c.command, c.period)).collect();
    assert_eq!(
        commands,
        [
            (ProbeKind::Readiness, Command::of(PROBE), Some(5_000_000_000)),
            (ProbeKind::PostStart, Command::of(HOOK), None),
        ]
    );
}

#[tokio::test]
async fn an_unknown_pod_makes_it_ask_and_a_known_one_does_not() {
    let served =
        serve(&["node-1"], Says::Pods(Bytes::from_static(b"{\"kind\":\"PodList\",\"items\":null}"))).await;
    let kubelet = Kubelet::start(served.options.clone());
    let asked = || served.fake.asked.load(Ordering::SeqCst);
    until(&kubelet, POD, ID, |look| *look == Look::Missing(Missing::NotListed)).await;
    let before = asked();
    for _ in 0..1000 {
        assert_eq!(kubelet.look(POD, Some(ID)), Look::Missing(Missing::NotListed), "not for every session");
    }
    *served.fake.says.lock().unwrap() = real();
    assert_eq!(kubelet.look(POD, Some("another of its containers")), Look::Pending);
    until(&kubelet, POD, ID, |look| matches!(look, Look::Known(_))).await;
    // The other container is not listed: the pod is known all the same.
    until(&kubelet, POD, "another of its containers", |look| matches!(look, Look::Known(_))).await;
    let after = asked();
    assert!(after > before);
    for _ in 0..1000 {
        assert!(matches!(kubelet.look(POD, Some(ID)), Look::Known(_)));
    }
    assert!(asked() <= after + 1, "{} more", asked() - after);
}

#[tokio::test]
async fn the_token_is_read_again() {
    let served = serve(&["127.0.0.1"], real()).await;
    assert!(client::pods(&served.options).await.is_ok());
    *served.fake.token.lock().unwrap() = "second".to_owned();
    let error = client::pods(&served.options).await.unwrap_err().to_string();
    assert!(error.contains("401") && error.contains("nodes/pods"), "{error}");
    fs::write(served.dir.path().join("token"), "second").unwrap();
    assert!(client::pods(&served.options).await.is_ok());
}

#[tokio::test]
async fn a_kubelet_that_does_not_answer_is_asked_less_and_what_is_known_stays() {
    let served = serve(&["127.0.0.1"], real()).await;
    let kubelet = Kubelet::start(served.options.clone());
    until(&kubelet, POD, ID, |look| matches!(look, Look::Known(_))).await;
    *served.fake.says.lock().unwrap() = Says::Status(StatusCode::SERVICE_UNAVAILABLE);
    let unknown = "11111111-2222-4333-8444-555555555555";
    until(&kubelet, unknown, "x", |look| *look == Look::Missing(Missing::Unavailable)).await;
    assert!(matches!(kubelet.look(POD, Some(ID)), Look::Known(_)));
    *served.fake.says.lock().unwrap() = real();
    until(&kubelet, unknown, "x", |look| *look == Look::Missing(Missing::NotListed)).await;
}

#[tokio::test]
async fn one_line_says_what_is_wrong() {
    let served = serve(&["127.0.0.1"], Says::Flood).await;
    let says = |says| *served.fake.says.lock().unwrap() = says;
    let with = |change: &dyn Fn(&mut Options)| {
        let mut options = served.options.clone();
        change(&mut options);
        options
    };
    let error = async |options: &Options| {
        let error = client::pods(options).await.unwrap_err().to_string();
        assert_eq!(error.lines().count(), 1, "{error}");
        error
    };
    let told = error(&served.options).await;
    assert!(told.contains("longer than 32 MiB"), "{told}");
    says(Says::Status(StatusCode::FORBIDDEN));
    let told = error(&served.options).await;
    assert!(told.contains("403") && told.contains("\"get\" of nodes/pods"), "{told}");
    says(real());
    let told = error(&with(&|options| options.token = Some("/nowhere/token".into()))).await;
    assert!(told.contains("/nowhere/token") && told.contains("--kubelet-token"), "{told}");
    let empty = served.dir.path().join("empty");
    fs::write(&empty, "\n").unwrap();
    let told = error(&with(&|options| options.token = Some(empty.clone()))).await;
    assert!(told.contains("no token"), "{told}");
    let told = error(&with(&|options| options.ca = Some("/nowhere/ca".into()))).await;
    assert!(
        told.contains("/nowhere/ca") && told.contains("--kubelet-ca") && !told.contains("--tls-ca"),
        "{told}"
    );
    let told = error(&with(&|options| options.target.port = 1)).await;
    assert!(told.contains("refused"), "{told}");
    // Another authority, and another name.
    let other = served.dir.path().join("other.crt");
    fs::write(&other, Authority::new("other").pem()).unwrap();
    let told = error(&with(&|options| options.ca = Some(other.clone()))).await;
    assert!(told.contains("not to be believed"), "{told}");
    let named = serve(&["somebody-else"], real()).await;
    let told = error(&named.options).await;
    assert!(told.contains("not to be believed"), "{told}");
    // In the clear there is no token to give away.
    let told = error(&with(&|options| {
        (options.target.secure, options.ca, options.token) = (false, None, None);
    }))
    .await;
    assert!(told.contains("HTTP"), "{told}");
}

#[test]
fn json_may_be_anything() {
    let read = |json: &str| spec::read(json.as_bytes()).map_err(|error| error.to_string());
    let pod =
        |rest: &str| format!("{{\"kind\":\"PodList\",\"items\":[{{\"metadata\":{{\"uid\":\"u\"}}{rest}}}]}}");
    assert!(read("").is_err() && read("[]").is_err() && read("{\"kind\":\"Status\",\"items\":[]}").is_err());
    assert_eq!(read(&pod("")).unwrap()["u"].containers, []);
    // Deep, in a field that is read and in one that is not: nothing overflows.
    let deep = "[".repeat(2_000_000);
    assert!(read(&pod(&format!(",\"spec\":{{\"containers\":{deep}"))).is_err());
    assert!(read(&pod(&format!(",\"x\":{deep}"))).is_err());
    // Long lists.
    let many = |one: &str, count: usize| vec![one; count].join(",");
    let containers =
        |count| pod(&format!(",\"spec\":{{\"containers\":[{}]}}", many("{\"name\":\"c\"}", count)));
    assert_eq!(read(&containers(1024)).unwrap()["u"].containers.len(), 1024);
    assert!(read(&containers(1025)).unwrap_err().contains("at most 1024"));
    let pods = |count| {
        format!("{{\"kind\":\"PodList\",\"items\":[{}]}}", many("{\"metadata\":{\"uid\":\"u\"}}", count))
    };
    assert!(read(&pods(100_000)).is_ok(), "the same again and again");
    let distinct: Vec<String> = (0..5000).map(|n| format!("{{\"metadata\":{{\"uid\":\"{n}\"}}}}")).collect();
    let distinct = format!("{{\"kind\":\"PodList\",\"items\":[{}]}}", distinct.join(","));
    assert!(read(&distinct).unwrap_err().contains("more pods"));
    let args = format!("[{}]", many("\"\"", 20_000));
    let probe = format!(
        ",\"spec\":{{\"containers\":[{{\"name\":\"c\",\"livenessProbe\":{{\"exec\":{{\"command\":{args}}}}}}}]}}"
    );
    assert!(read(&pod(&probe)).is_err());
    // Every beginning of a real one, and every byte of it another: no panic.
    let text = String::from_utf8(FIXTURE.trim_ascii_end().to_vec()).unwrap();
    for cut in 0..text.len() {
        assert!(read(&text[..cut]).is_err(), "{cut}");
    }
    for at in 0..FIXTURE.len() {
        let mut changed = FIXTURE.to_vec();
        changed[at] ^= 0x15;
        _ = spec::read(&changed);
    }
}

#[test]
fn all_that_a_pod_can_have() {
    let json = r#"{"kind":"PodList","items":[{
        "metadata":{"uid":"00000000-0000-4000-8000-000000000001","deletionTimestamp":"2026-11-22T20:00:00Z",
            "annotations":{"kubernetes.io/config.hash":"0123456789abcdef0123456789abcdef"}},
        "spec":{"terminationGracePeriodSeconds":5,
            "initContainers":[{"name":"once"},{"name":"side","restartPolicy":"Always",
                "startupProbe":{"exec":{"command":["s"]},"periodSeconds":3}}],
            "containers":[{"name":"app",
                "env":[{"name":"PORT","value":"80"},{"name":"SECRET","valueFrom":{"secretKeyRef":{"name":"s","key":"k"}}}],
                "livenessProbe":{"exec":{"command":["get","$(PORT)","$$(PORT)","$(SECRET)","$(OTHER)","$x$"]}},
                "readinessProbe":{"httpGet":{"path":"/","port":80},"periodSeconds":1},
                "lifecycle":{"preStop":{"exec":{"command":["stop","$(PORT)"]}},"postStart":{"httpGet":{"port":1}}}}],
            "ephemeralContainers":[{"name":"debug","targetContainerName":"app"}]},
        "status":{"containerStatuses":[{"name":"app","containerID":"cri-o://aa"}],
            "ephemeralContainerStatuses":[{"name":"debug","containerID":""}]}}]}"#;
    let pods = spec::read(json.as_bytes()).unwrap();
    let pod = &pods["00000000-0000-4000-8000-000000000001"];
    assert_eq!(pod, &pods["0123456789abcdef0123456789abcdef"], "a static pod's cgroup has its file's hash");
    assert_eq!((pod.deleting, pod.grace), (true, 5));
    let told: Vec<_> = pod.containers.iter().map(|c| (c.name.as_str(), c.role, c.id.as_deref())).collect();
    assert_eq!(
        told,
        [
            ("app", Role::Container, Some("aa")),
            ("once", Role::Init, None),
            ("side", Role::Sidecar, None),
            ("debug", Role::Ephemeral, None),
        ]
    );
    let commands = |n: usize| {
        pod.containers[n].commands.iter().map(|c| (c.kind, c.command, c.period)).collect::<Vec<_>>()
    };
    assert_eq!(
        commands(0),
        [
            // As the kubelet expands it: a secret it does not know is empty.
            (
                ProbeKind::Liveness,
                Command::of(["get", "80", "$(PORT)", "", "$(OTHER)", "$x$"]),
                Some(10_000_000_000)
            ),
            (ProbeKind::PreStop, Command::of(["stop", "$(PORT)"]), None),
        ]
    );
    assert_eq!(commands(2), [(ProbeKind::Startup, Command::of(["s"]), Some(3_000_000_000))]);
}
