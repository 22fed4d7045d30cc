//! A container runtime for tests: answers what it is told to, on a socket of its own.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use podtrail_proto::runtime::{
    cri::{
        Container, ContainerMetadata, Image, ImageSpec, ImageStatusRequest, ImageStatusResponse,
        ListContainersRequest, ListContainersResponse, ListPodSandboxRequest, ListPodSandboxResponse,
        PodSandbox, PodSandboxMetadata, VersionRequest, VersionResponse,
        image_service_server::{ImageService, ImageServiceServer},
        runtime_service_server::{RuntimeService, RuntimeServiceServer},
    },
    events::{
        Any, Envelope, SubscribeRequest, TaskExecStarted, TaskExit,
        events_server::{Events, EventsServer},
    },
    tasks::{
        GetRequest, GetResponse, Process,
        tasks_server::{Tasks, TasksServer},
    },
};
use prost::Message;
use tokio::{net::UnixListener, sync::broadcast, task::JoinHandle, time::sleep};
use tokio_stream::{
    Stream, StreamExt as _,
    wrappers::{BroadcastStream, UnixListenerStream},
};
use tonic::{Request, Response, Status, transport::Server};

/// What it knows and does.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) containers: Vec<Container>,
    pub(crate) sandboxes: Vec<PodSandbox>,
    pub(crate) images: Vec<Image>,
    /// execs that run, and how others ended
    pub(crate) execs: Vec<(String, Process)>,
    /// calls so far, by name and what was asked for
    pub(crate) calls: Vec<String>,
    /// how long it thinks
    pub(crate) slow: Duration,
    /// it refuses everything with this
    pub(crate) refuses: Option<Status>,
    /// it has no events
    pub(crate) eventless: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Fake {
    pub(crate) path: PathBuf,
    state: Arc<Mutex<State>>,
    /// `None`: the streams end
    events: broadcast::Sender<Option<Envelope>>,
}

/// Running, until dropped.
#[derive(Debug)]
pub(crate) struct Serving(JoinHandle<()>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Fake {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { path: dir.join("cri.sock"), state: Arc::default(), events: broadcast::channel(64).0 }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Calls by name, sorted out of what was called.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.state().calls.iter().filter(|call| *call != "Version").cloned().collect()
    }

    pub(crate) fn serve(&self) -> Serving {
        let _ = std::fs::remove_file(&self.path);
        let listener = UnixListenerStream::new(UnixListener::bind(&self.path).unwrap());
        let this = self.clone();
        Serving(tokio::spawn(async move {
            Server::builder()
                .add_service(RuntimeServiceServer::new(this.clone()))
                .add_service(ImageServiceServer::new(this.clone()))
                .add_service(EventsServer::new(this.clone()))
                .add_service(TasksServer::new(this))
                .serve_with_incoming(listener)
                .await
                .unwrap();
        }))
    }

    /// A pod with one container of this name; returns the container's id.
    pub(crate) fn pod(&self, number: u64, name: &str) -> String {
        let (sandbox, container) = (id(2 * number), id(2 * number + 1));
        let mut state = self.state();
        state.sandboxes.push(PodSandbox {
            id: sandbox.clone(),
            metadata: Some(PodSandboxMetadata {
                name: format!("{name}-0"),
                uid: format!("uid-{number}"),
                namespace: "prod".to_owned(),
            }),
            labels: [("app", name), ("app.kubernetes.io/part-of", "shop"), ("secret", "x")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            runtime_handler: String::new(),
        });
        state.containers.push(Container {
            id: container.clone(),
            pod_sandbox_id: sandbox,
            metadata: Some(ContainerMetadata { name: name.to_owned() }),
            image: Some(ImageSpec { image: format!("sha256:{}", id(7)), ..ImageSpec::default() }),
            image_ref: format!("sha256:{}", id(7)),
            ..Container::default()
        });
        container
    }

    pub(crate) fn started(&self, container: &str, exec: &str, pid: u32) {
        let (container_id, exec_id) = (container.to_owned(), exec.to_owned());
        self.event("/tasks/exec-started", &TaskExecStarted { container_id, exec_id, pid });
    }

    pub(crate) fn exited(&self, container: &str, exec: &str, exit_status: u32) {
        let (container_id, id) = (container.to_owned(), exec.to_owned());
        self.event("/tasks/exit", &TaskExit { container_id, id, pid: 1, exit_status });
    }

    fn event(&self, topic: &str, event: &impl Message) {
        let event = Any { value: event.encode_to_vec() };
        let _ = self.events.send(Some(Envelope {
            namespace: "k8s.io".to_owned(),
            topic: topic.to_owned(),
            event: Some(event),
        }));
    }

    pub(crate) fn end_streams(&self) {
        let _ = self.events.send(None);
    }

    async fn called(&self, call: String) -> Result<(), Status> {
        let (slow, refuses) = {
            let mut state = self.state();
            state.calls.push(call);
            (state.slow, state.refuses.clone())
        };
        sleep(slow).await;
        refuses.map_or(Ok(()), Err)
    }
}

/// 64 hexadecimal digits.
pub(crate) fn id(number: u64) -> String {
    format!("{number:064x}")
}

#[tonic::async_trait]
impl RuntimeService for Fake {
    async fn version(&self, _: Request<VersionRequest>) -> Result<Response<VersionResponse>, Status> {
        self.called("Version".to_owned()).await?;
        let (runtime_name, runtime_version) = ("fake".to_owned(), "1".to_owned());
        Ok(Response::new(VersionResponse { runtime_name, runtime_version }))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<ListPodSandboxRequest>,
    ) -> Result<Response<ListPodSandboxResponse>, Status> {
        let id = request.into_inner().filter.map(|filter| filter.id);
        self.called(format!("ListPodSandbox {}", id.clone().unwrap_or_default())).await?;
        let mut items = self.state().sandboxes.clone();
        items.retain(|sandbox| id.as_ref().is_none_or(|id| sandbox.id == *id));
        Ok(Response::new(ListPodSandboxResponse { items }))
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Result<Response<ListContainersResponse>, Status> {
        let id = request.into_inner().filter.map(|filter| filter.id);
        self.called(format!("ListContainers {}", id.clone().unwrap_or_default())).await?;
        let mut containers = self.state().containers.clone();
        containers.retain(|container| id.as_ref().is_none_or(|id| container.id == *id));
        Ok(Response::new(ListContainersResponse { containers }))
    }
}

#[tonic::async_trait]
impl ImageService for Fake {
    async fn image_status(
        &self,
        request: Request<ImageStatusRequest>,
    ) -> Result<Response<ImageStatusResponse>, Status> {
        let image = request.into_inner().image.unwrap_or_default().image;
        self.called(format!("ImageStatus {image}")).await?;
        let image = self.state().images.iter().find(|known| known.id == image).cloned();
        Ok(Response::new(ImageStatusResponse { image }))
    }
}

#[tonic::async_trait]
impl Events for Fake {
    type SubscribeStream = std::pin::Pin<Box<dyn Stream<Item = Result<Envelope, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        if self.state().eventless {
            return Err(Status::unimplemented("unknown service"));
        }
        self.called(format!("Subscribe {}", request.into_inner().filters.join(" "))).await?;
        let events = BroadcastStream::new(self.events.subscribe()).map_while(|event| event.ok()?);
        Ok(Response::new(Box::pin(events.map(Ok))))
    }
}

#[tonic::async_trait]
impl Tasks for Fake {
    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let namespace = request.metadata().get("containerd-namespace").cloned();
        let namespace = namespace.as_ref().and_then(|value| value.to_str().ok()).unwrap_or("none").to_owned();
        let GetRequest { container_id: _, exec_id } = request.into_inner();
        self.called(format!("Get {namespace} {exec_id}")).await?;
        let found = self.state().execs.iter().find(|(id, _)| *id == exec_id).map(|(_, process)| *process);
        let process = found.ok_or_else(|| Status::not_found("no such exec"))?;
        Ok(Response::new(GetResponse { process: Some(process) }))
    }
}
