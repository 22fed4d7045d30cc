use std::path::Path;

use podtrail_proto::runtime::cri::{Image, ImageSpec};
use tokio::{task::JoinHandle, time::timeout};
use tonic::Status;

use super::*;
use crate::pods::{
    ContainerFacts,
    fake::{Fake, id},
};

const WAIT: Duration = Duration::from_secs(20);

struct Rig {
    asks: mpsc::Sender<Ask>,
    words: mpsc::Receiver<Word>,
    place: watch::Receiver<Option<PathBuf>>,
    task: JoinHandle<()>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn timing() -> Timing {
    Timing {
        gather: Duration::from_millis(50),
        again: [20, 40, 60].map(Duration::from_millis).to_vec(),
        again_outside: 1,
        patience: Duration::from_millis(300),
        backoff: Backoff::new(Duration::from_millis(10), Duration::from_millis(40)),
    }
}

impl Rig {
    fn new(socket: &Path) -> Self {
        Self::with(Socket::At(socket.to_path_buf()), timing())
    }

    fn with(socket: Socket, timing: Timing) -> Self {
        let (asks, to_ask) = mpsc::channel(4096);
        let (say, words) = mpsc::channel(4096);
        let (put, place) = watch::channel(None);
        let task = tokio::spawn(run(Asker::new(socket, Rules::default(), timing, put), to_ask, say));
        Self { asks, words, place, task }
    }

    fn ask(&self, id: &str, now: bool) {
        self.asks.try_send(Ask { id: id.to_owned(), in_pod: true, now }).unwrap();
    }

    async fn word(&mut self) -> Word {
        timeout(WAIT, self.words.recv()).await.unwrap().unwrap()
    }

    /// The next answer.
    async fn answer(&mut self) -> (String, Lookup) {
        loop {
            if let Word::Container { id, lookup } = self.word().await {
                return (id, lookup);
            }
        }
    }

    async fn known(&mut self) -> (String, Arc<ContainerFacts>) {
        match self.answer().await {
            (id, Lookup::Known(facts)) => (id, facts),
            other => panic!("{other:?}"),
        }
    }
}

fn started() -> (tempfile::TempDir, Fake) {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::new(dir.path());
    fake.state().images.push(Image {
        id: format!("sha256:{}", id(7)),
        repo_tags: vec!["registry.example/shop/web:1".to_owned()],
        repo_digests: vec![format!("registry.example/shop/web@sha256:{}", id(9))],
    });
    (dir, fake)
}

#[tokio::test]
async fn a_pod_costs_two_calls_and_its_image_one() {
    let (_dir, fake) = started();
    let _serving = fake.serve();
    let container = fake.pod(1, "web");
    let mut rig = Rig::new(&fake.path);
    rig.ask(&id(2), false);
    rig.ask(&container, false);
    assert_eq!(rig.word().await, Word::Runtime);
    let mut answers = [rig.known().await, rig.known().await];
    answers.sort_by_key(|(id, _)| id.clone());
    let [(first, sandbox), (second, facts)] = answers;
    assert_eq!((first, second), (id(2), container.clone()));
    assert!(sandbox.sandbox && sandbox.name.is_none() && !facts.sandbox);
    assert!(Arc::ptr_eq(&sandbox.pod, &facts.pod), "the pod is kept once");
    assert_eq!(facts.name.as_deref(), Some("web"));
    assert_eq!(facts.image.as_deref(), Some("registry.example/shop/web:1"));
    assert_eq!(facts.image_digest, Some(format!("sha256:{}", id(9))));
    assert_eq!((facts.pod.namespace.as_str(), facts.pod.name.as_str()), ("prod", "web-0"));
    assert_eq!(facts.pod.uid, "uid-1");
    let labels: Vec<&str> = facts.pod.labels.keys().map(String::as_str).collect();
    assert_eq!(labels, ["app", "app.kubernetes.io/part-of"]);
    assert_eq!(
        fake.calls(),
        [
            format!("ListContainers {container}"),
            format!("ListPodSandbox {}", id(2)),
            format!("ImageStatus sha256:{}", id(7))
        ]
    );
    // Another container of the same image: one call, and one for its pod.
    let other = fake.pod(2, "web");
    fake.state().calls.clear();
    rig.ask(&other, true);
    assert_eq!(rig.known().await.0, other);
    assert_eq!(fake.calls().len(), 2, "{:?}", fake.calls());
    assert_eq!(rig.place.borrow().clone(), Some(fake.path.clone()));
}

#[tokio::test]
async fn many_cost_one_list() {
    let (_dir, fake) = started();
    let _serving = fake.serve();
    let mut rig = Rig::new(&fake.path);
    for number in 1..=100 {
        let container = fake.pod(number, "web");
        rig.ask(&id(2 * number), false);
        rig.ask(&container, false);
    }
    for _ in 0..200 {
        rig.known().await;
    }
    assert_eq!(
        fake.calls(),
        ["ListContainers ".to_owned(), "ListPodSandbox ".to_owned(), format!("ImageStatus sha256:{}", id(7))]
    );
}

#[tokio::test]
async fn who_is_not_known_yet_is_asked_for_again_and_who_never_is_not_for_ever() {
    let (_dir, fake) = started();
    let _serving = fake.serve();
    let mut rig = Rig::new(&fake.path);
    rig.ask(&id(3), true);
    while fake.calls().is_empty() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    fake.pod(1, "late");
    assert_eq!(rig.known().await.0, id(3));

    fake.state().calls.clear();
    rig.ask(&id(99), true);
    // However many sessions come to it.
    for _ in 0..50 {
        rig.ask(&id(99), true);
    }
    assert_eq!(rig.answer().await, (id(99), Lookup::Missing(Missing::NotFound)));
    assert_eq!(fake.calls().len(), 8, "four times, container and sandbox: {:?}", fake.calls());

    // One that is in no pod's cgroup is most likely none of the runtime's pods.
    fake.state().calls.clear();
    rig.asks.try_send(Ask { id: id(98), in_pod: false, now: true }).unwrap();
    assert_eq!(rig.answer().await, (id(98), Lookup::Missing(Missing::NotFound)));
    assert_eq!(fake.calls().len(), 4, "twice: {:?}", fake.calls());
}

#[tokio::test]
async fn sessions_that_come_one_after_the_other_do_not_hasten_what_is_asked_again() {
    let (_dir, fake) = started();
    let _serving = fake.serve();
    let mut rig = Rig::new(&fake.path);
    assert_eq!(rig.word().await, Word::Runtime);
    let began = Instant::now();
    let answered = loop {
        rig.ask(&id(99), true);
        match timeout(Duration::from_millis(2), rig.answer()).await {
            Ok(answered) => break answered,
            Err(_) => assert!(began.elapsed() < WAIT),
        }
    };
    assert_eq!(answered, (id(99), Lookup::Missing(Missing::NotFound)));
    let all: Duration = timing().again.iter().sum();
    assert!(began.elapsed() >= all, "{:?}", began.elapsed());
}

#[tokio::test]
async fn without_a_socket_there_is_no_runtime_and_one_that_comes_is_found() {
    let (dir, fake) = started();
    let mut rig = Rig::with(Socket::At(dir.path().join("cri.sock")), timing());
    rig.ask(&id(3), true);
    let (_, lookup) = rig.answer().await;
    let Lookup::Missing(Missing::Unavailable(why)) = lookup else { panic!("{lookup:?}") };
    assert!(why.starts_with("there is no ") && why.contains("cri.sock"), "{why}");
    fake.pod(1, "web");
    let _serving = fake.serve();
    assert_eq!(rig.word().await, Word::Runtime);
    rig.ask(&id(3), true);
    assert_eq!(rig.known().await.0, id(3));
}

#[tokio::test]
async fn nowhere_to_look_is_no_runtime() {
    // As `auto` on a node without one.
    let mut rig = Rig::with(Socket::Nowhere, timing());
    rig.ask(&id(3), false);
    assert_eq!(rig.answer().await, (id(3), Lookup::Missing(Missing::NoRuntime)));
}

#[tokio::test]
async fn a_runtime_that_restarts_is_asked_again_and_answers() {
    let (_dir, fake) = started();
    let serving = fake.serve();
    let container = fake.pod(1, "web");
    let mut rig = Rig::new(&fake.path);
    assert_eq!(rig.word().await, Word::Runtime);
    rig.ask(&container, true);
    assert_eq!(rig.known().await.1.pod.name, "web-0");
    drop(serving);
    // What it says of a sandbox when it is back may be another.
    fake.state().sandboxes[0].metadata.as_mut().unwrap().name = "web-1".to_owned();
    fake.state().refuses = Some(Status::unavailable("shutting down\u{1b}"));
    rig.ask(&container, true);
    let (_, lookup) = rig.answer().await;
    assert!(matches!(lookup, Lookup::Missing(Missing::Unavailable(_))), "{lookup:?}");
    fake.state().refuses = None;
    let _serving = fake.serve();
    // Who was told is asked for again by whoever hears this.
    assert_eq!(rig.word().await, Word::Runtime);
    rig.ask(&container, true);
    let (of, facts) = rig.known().await;
    assert_eq!((of, facts.pod.name.as_str()), (container, "web-1"));
}

#[tokio::test]
async fn what_waits_when_the_runtime_fails_is_answered_when_it_is_back() {
    let (_dir, fake) = started();
    let serving = fake.serve();
    let container = fake.pod(1, "web");
    let mut rig = Rig::with(Socket::At(fake.path.clone()), Timing { patience: WAIT, ..timing() });
    assert_eq!(rig.word().await, Word::Runtime);
    drop(serving);
    fake.state().refuses = Some(Status::internal("no"));
    rig.ask(&container, true);
    tokio::time::sleep(Duration::from_millis(100)).await;
    fake.state().refuses = None;
    let _serving = fake.serve();
    assert_eq!(rig.known().await.0, container);
}

#[tokio::test]
async fn one_that_does_not_speak_cri_says_so() {
    let (_dir, fake) = started();
    let _serving = fake.serve();
    fake.state().refuses = Some(Status::unimplemented("unknown service runtime.v1.RuntimeService"));
    let mut rig = Rig::new(&fake.path);
    rig.ask(&id(3), true);
    let (_, lookup) = rig.answer().await;
    let Lookup::Missing(Missing::Unavailable(why)) = lookup else { panic!("{lookup:?}") };
    assert!(why.contains("runtime.v1"), "{why}");
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_given_up() {
    let (_dir, fake) = started();
    let _serving = fake.serve();
    fake.state().slow = WAIT;
    let mut cri = Cri::new(&fake.path).waits(Duration::from_millis(50));
    let error = cri.version().await.unwrap_err().to_string();
    assert_eq!(error, "no answer to Version within 50ms");
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_refused() {
    let (_dir, fake) = started();
    let _serving = fake.serve();
    let huge = ImageSpec { image: "x".repeat(17 << 20), ..ImageSpec::default() };
    fake.pod(1, "web");
    fake.state().containers[0].image = Some(huge);
    let mut cri = Cri::new(&fake.path);
    let error = cri.containers(None).await.unwrap_err().to_string();
    assert!(error.starts_with("ListContainers: ") && error.len() < 400, "{error}");
}

#[tokio::test]
async fn what_was_not_asked_for_is_no_answer() {
    let (_dir, fake) = started();
    let _serving = fake.serve();
    fake.pod(1, "web");
    // It answers every question with another container.
    fake.state().containers[0].id = id(77);
    let mut rig = Rig::new(&fake.path);
    rig.ask(&id(3), true);
    assert_eq!(rig.answer().await, (id(3), Lookup::Missing(Missing::NotFound)));
}
