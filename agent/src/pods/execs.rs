//! containerd's word on execs: which began under which id, and how they ended. A second source beside the kernel's, and
//! the only one for containers into which the host's kernel cannot see.
//!
//! It is a stream without numbers: what happens while it is broken is not told later. So both its beginning and its end
//! are words too. A runtime that has no such stream is asked once per connection.

use std::{path::PathBuf, time::Duration};

use metrics::counter;
use podtrail_proto::runtime::{
    events::{Envelope, SubscribeRequest, TaskExecStarted, TaskExit, events_client::EventsClient},
    tasks::{self, GetRequest, tasks_client::TasksClient},
};
use prost::Message as _;
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use tonic::{Code, Request, Status, metadata::MetadataValue};

use super::{Word, cri, socket};
use crate::backoff::Backoff;

/// Only ids and numbers are in it.
const EVENT_MAX: usize = 64 << 10;
/// Bytes of an id that are believed: containerd's own are shorter.
const ID_MAX: usize = 256;

/// A stream of which nothing has come for so long was accepted: a server sends nothing before the first event.
const HEARD: Duration = Duration::from_millis(300);

const CALL_WAIT: Duration = Duration::from_secs(5);

const FILTERS: [&str; 2] = ["topic==\"/tasks/exec-started\"", "topic==\"/tasks/exit\""];

/// An exec, by containerd's names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct ExecId {
    pub container: String,
    pub exec: String,
}

/// What containerd says of execs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecWord {
    /// from now on they are told
    Heard,
    /// from now on they are not
    Deaf,
    Started {
        exec: ExecId,
        /// as the node sees it; the runtime's own where the host's kernel cannot see into the container
        pid: u32,
        namespace: String,
    },
    Exited {
        exec: ExecId,
        /// `None`: it is over, and containerd does not know how it ended
        status: Option<u32>,
    },
}

/// Whether an exec still runs is to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StillRuns {
    pub exec: ExecId,
    pub namespace: String,
}

/// Listens until nobody wants to hear any more.
pub(super) async fn run(
    mut place: watch::Receiver<Option<PathBuf>>,
    mut asks: mpsc::Receiver<StillRuns>,
    words: mpsc::Sender<Word>,
    backoff: Backoff,
) {
    let mut waits = backoff.clone();
    loop {
        let Some(path) = place.borrow_and_update().clone() else {
            if place.changed().await.is_err() {
                return;
            }
            continue;
        };
        let mut heard = false;
        let ended = listen(path, &mut asks, &words, &mut heard).await;
        if heard {
            waits = backoff.clone();
            if words.send(Word::Exec(ExecWord::Deaf)).await.is_err() {
                return;
            }
        }
        match ended {
            Ended::Nobody => return,
            // CRI-O, or Docker's: until there is another runtime.
            Ended::Unknown => {
                if place.changed().await.is_err() {
                    return;
                }
            }
            Ended::Broken(why) => {
                tracing::debug!(why = %crate::escape::name(&why), "containerd's events ended: listening again");
                sleep(waits.next_wait()).await;
            }
        }
    }
}

enum Ended {
    /// nobody wants to hear
    Nobody,
    /// it has no such stream
    Unknown,
    Broken(String),
}

async fn listen(
    path: PathBuf,
    asks: &mut mpsc::Receiver<StillRuns>,
    words: &mpsc::Sender<Word>,
    heard: &mut bool,
) -> Ended {
    let channel = socket::channel(&path);
    let mut tasks = TasksClient::new(channel.clone()).max_decoding_message_size(EVENT_MAX);
    let mut events = EventsClient::new(channel).max_decoding_message_size(EVENT_MAX);
    let request = SubscribeRequest { filters: FILTERS.map(str::to_owned).to_vec() };
    let mut subscribing = std::pin::pin!(events.subscribe(request));
    let subscribed = loop {
        tokio::select! {
            subscribed = &mut subscribing => break subscribed,
            () = sleep(HEARD), if !*heard => {
                *heard = true;
                if words.send(Word::Exec(ExecWord::Heard)).await.is_err() {
                    return Ended::Nobody;
                }
            }
            ask = asks.recv() => {
                let Some(ask) = ask else { return Ended::Nobody };
                if let Some(ended) = answer(&mut tasks, ask, words).await {
                    return ended;
                }
            }
        }
    };
    let mut stream = match subscribed {
        Ok(response) => response.into_inner(),
        Err(status) if status.code() == Code::Unimplemented => return Ended::Unknown,
        Err(status) => return Ended::Broken(cri::line(&status)),
    };
    if !*heard {
        *heard = true;
        if words.send(Word::Exec(ExecWord::Heard)).await.is_err() {
            return Ended::Nobody;
        }
    }
    loop {
        tokio::select! {
            message = stream.message() => match message {
                Ok(Some(envelope)) => {
                    if let Some(word) = word(envelope)
                        && words.send(Word::Exec(word)).await.is_err()
                    {
                        return Ended::Nobody;
                    }
                }
                Ok(None) => return Ended::Broken("it closed the stream".to_owned()),
                Err(status) => return Ended::Broken(cri::line(&status)),
            },
            ask = asks.recv() => {
                let Some(ask) = ask else { return Ended::Nobody };
                if let Some(ended) = answer(&mut tasks, ask, words).await {
                    return ended;
                }
            }
        }
    }
}

/// Asks whether an exec still runs, and says so if not.
async fn answer(
    tasks: &mut TasksClient<tonic::transport::Channel>,
    ask: StillRuns,
    words: &mpsc::Sender<Word>,
) -> Option<Ended> {
    let StillRuns { exec, namespace } = ask;
    let mut request =
        Request::new(GetRequest { container_id: exec.container.clone(), exec_id: exec.exec.clone() });
    if let Ok(namespace) = MetadataValue::try_from(namespace) {
        request.metadata_mut().insert("containerd-namespace", namespace);
    }
    let got =
        timeout(CALL_WAIT, tasks.get(request)).await.unwrap_or_else(|_| Err(Status::unavailable("late")));
    let status = match got {
        Ok(response) => match response.into_inner().process {
            Some(process) if process.status() != tasks::Status::Stopped => return None,
            process => process.map(|process| process.exit_status),
        },
        Err(status) if status.code() == Code::NotFound => None,
        // It may run: whoever wants to know asks again with the next stream.
        Err(_) => return None,
    };
    let word = Word::Exec(ExecWord::Exited { exec, status });
    words.send(word).await.is_err().then_some(Ended::Nobody)
}

/// `None`: of no interest, or not to be understood.
fn word(envelope: Envelope) -> Option<ExecWord> {
    let Envelope { namespace, topic, event } = envelope;
    let value = event?.value;
    let word = match topic.as_str() {
        "/tasks/exec-started" => {
            let TaskExecStarted { container_id, exec_id, pid } =
                TaskExecStarted::decode(value.as_slice()).ok()?;
            ExecWord::Started { exec: ExecId { container: container_id, exec: exec_id }, pid, namespace }
        }
        "/tasks/exit" => {
            let TaskExit { container_id, id, pid: _, exit_status } =
                TaskExit::decode(value.as_slice()).ok()?;
            // The container's own process is no exec.
            if id == container_id || id.is_empty() {
                return None;
            }
            let exec = ExecId { container: container_id, exec: id };
            ExecWord::Exited { exec, status: Some(exit_status) }
        }
        _ => return None,
    };
    let (ExecWord::Started { exec, .. } | ExecWord::Exited { exec, .. }) = &word else { return None };
    if exec.container.len() > ID_MAX || exec.exec.len() > ID_MAX {
        return None;
    }
    counter!("podtrail_agent_exec_words_total").increment(1);
    Some(word)
}

#[cfg(test)]
mod tests;
