use std::path::Path;

use podtrail_proto::runtime::tasks::{Process, Status as TaskStatus};
use tokio::{task::JoinHandle, time::timeout};

use super::*;
use crate::pods::fake::{Fake, id};

const WAIT: Duration = Duration::from_secs(20);

struct Rig {
    asks: mpsc::Sender<StillRuns>,
    words: mpsc::Receiver<Word>,
    task: JoinHandle<()>,
    _place: watch::Sender<Option<PathBuf>>,
}

impl Rig {
    fn new(socket: &Path) -> Self {
        let (asks, to_ask) = mpsc::channel(16);
        let (say, words) = mpsc::channel(16);
        let (place, placed) = watch::channel(Some(socket.to_path_buf()));
        let backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(40));
        let task = tokio::spawn(run(placed, to_ask, say, backoff));
        Self { asks, words, task, _place: place }
    }

    async fn word(&mut self) -> ExecWord {
        match timeout(WAIT, self.words.recv()).await.unwrap().unwrap() {
            Word::Exec(word) => word,
            other => panic!("{other:?}"),
        }
    }
}

fn exec(name: &str) -> ExecId {
    ExecId { container: id(3), exec: name.to_owned() }
}

#[tokio::test]
async fn execs_are_told_with_their_ends_and_breaks_too() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::new(dir.path());
    let _serving = fake.serve();
    let mut rig = Rig::new(&fake.path);
    assert_eq!(rig.word().await, ExecWord::Heard);
    fake.started(&id(3), "e1", 4711);
    // The container's own process, and what is far too long to be an id.
    fake.exited(&id(3), &id(3), 1);
    fake.exited(&id(3), &"x".repeat(300), 1);
    fake.exited(&id(3), "e1", 137);
    let namespace = "k8s.io".to_owned();
    assert_eq!(rig.word().await, ExecWord::Started { exec: exec("e1"), pid: 4711, namespace });
    assert_eq!(rig.word().await, ExecWord::Exited { exec: exec("e1"), status: Some(137) });
    assert!(fake.calls().iter().any(|call| call.contains("topic==\"/tasks/exit\"")), "{:?}", fake.calls());

    fake.end_streams();
    assert_eq!(rig.word().await, ExecWord::Deaf);
    assert_eq!(rig.word().await, ExecWord::Heard);
}

#[tokio::test]
async fn who_still_runs_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::new(dir.path());
    let _serving = fake.serve();
    let process = |status: TaskStatus, exit_status| Process { status: status.into(), exit_status };
    fake.state().execs = vec![
        ("runs".to_owned(), process(TaskStatus::Running, 0)),
        ("over".to_owned(), process(TaskStatus::Stopped, 3)),
    ];
    let mut rig = Rig::new(&fake.path);
    assert_eq!(rig.word().await, ExecWord::Heard);
    for name in ["runs", "over", "gone"] {
        rig.asks.send(StillRuns { exec: exec(name), namespace: "k8s.io".to_owned() }).await.unwrap();
    }
    assert_eq!(rig.word().await, ExecWord::Exited { exec: exec("over"), status: Some(3) });
    assert_eq!(rig.word().await, ExecWord::Exited { exec: exec("gone"), status: None });
    assert!(fake.calls().contains(&"Get k8s.io runs".to_owned()), "{:?}", fake.calls());
}

#[tokio::test]
async fn a_runtime_without_events_is_asked_once() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::new(dir.path());
    fake.state().eventless = true;
    let _serving = fake.serve();
    let mut rig = Rig::new(&fake.path);
    sleep(Duration::from_millis(200)).await;
    assert!(rig.words.try_recv().is_err());
    assert!(!rig.task.is_finished());
    rig.task.abort();
}
