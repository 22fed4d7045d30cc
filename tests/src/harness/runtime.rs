//! A container runtime that has very many containers, and nothing in them: for what they cost the agent.

use std::path::{Path, PathBuf};

use anyhow::Result;
use podtrail_proto::runtime::cri::{
    Container, ContainerMetadata, Image, ImageSpec, ImageStatusRequest, ImageStatusResponse,
    ListContainersRequest, ListContainersResponse, ListPodSandboxRequest, ListPodSandboxResponse, PodSandbox,
    PodSandboxMetadata, VersionRequest, VersionResponse,
    image_service_server::{ImageService, ImageServiceServer},
    runtime_service_server::{RuntimeService, RuntimeServiceServer},
};
use tokio::{net::UnixListener, runtime};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use super::container::fresh_id;

/// Of so many pods one runs each image.
const PODS_OF_AN_IMAGE: usize = 10;

/// Pods with one container each, as a kubelet describes them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Crowd {
    sandboxes: Vec<PodSandbox>,
    containers: Vec<Container>,
}

/// Serves until dropped.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) socket: PathBuf,
    _runtime: runtime::Runtime,
}

impl Crowd {
    pub(crate) fn new(pods: usize) -> Self {
        let mut this = Self::default();
        for number in 0..pods {
            let (sandbox, name) = (fresh_id(), format!("checkout-{}", number / PODS_OF_AN_IMAGE));
            let labels = [
                ("app", name.as_str()),
                ("app.kubernetes.io/name", &name),
                ("app.kubernetes.io/part-of", "web-shop"),
                ("app.kubernetes.io/managed-by", "Helm"),
                ("pod-template-hash", "5d4f8c7b9"),
            ];
            this.sandboxes.push(PodSandbox {
                id: sandbox.clone(),
                metadata: Some(PodSandboxMetadata {
                    name: format!("{name}-5d4f8c7b9-{number:05}"),
                    uid: format!("{:08x}-0b5c-4c3e-9a2f-1c2d3e4f5a6b", number),
                    namespace: "production".to_owned(),
                }),
                labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
                runtime_handler: String::new(),
            });
            let image = format!("sha256:{:064x}", number / PODS_OF_AN_IMAGE);
            this.containers.push(Container {
                id: fresh_id(),
                pod_sandbox_id: sandbox,
                metadata: Some(ContainerMetadata { name }),
                image: Some(ImageSpec { image: image.clone(), ..ImageSpec::default() }),
                image_ref: image,
                ..Container::default()
            });
        }
        this
    }

    /// The cgroups of sandboxes and containers, below their pods'.
    pub(crate) fn cgroups(&self) -> Vec<String> {
        let of = |container: &Container| {
            let sandbox = self.sandboxes.iter().find(|sandbox| sandbox.id == container.pod_sandbox_id);
            let uid = sandbox.and_then(|sandbox| sandbox.metadata.as_ref()).map(|pod| pod.uid.clone());
            let pod = format!("kubepods/burstable/pod{}", uid.unwrap_or_default());
            [format!("{pod}/{}", container.pod_sandbox_id), format!("{pod}/{}", container.id)]
        };
        self.containers.iter().flat_map(of).collect()
    }

    pub(crate) fn serve(self, dir: &Path) -> Result<Serving> {
        let socket = dir.join("cri.sock");
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(async { UnixListener::bind(&socket) })?;
        let server = Server::builder()
            .add_service(RuntimeServiceServer::new(self.clone()))
            .add_service(ImageServiceServer::new(self))
            .serve_with_incoming(UnixListenerStream::new(listener));
        runtime.spawn(server);
        Ok(Serving { socket, _runtime: runtime })
    }
}

#[tonic::async_trait]
impl RuntimeService for Crowd {
    async fn version(&self, _: Request<VersionRequest>) -> Result<Response<VersionResponse>, Status> {
        let (runtime_name, runtime_version) = ("crowd".to_owned(), "1".to_owned());
        Ok(Response::new(VersionResponse { runtime_name, runtime_version }))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<ListPodSandboxRequest>,
    ) -> Result<Response<ListPodSandboxResponse>, Status> {
        let id = request.into_inner().filter.map(|filter| filter.id);
        let mut items = self.sandboxes.clone();
        items.retain(|sandbox| id.as_ref().is_none_or(|id| sandbox.id == *id));
        Ok(Response::new(ListPodSandboxResponse { items }))
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Result<Response<ListContainersResponse>, Status> {
        let id = request.into_inner().filter.map(|filter| filter.id);
        let mut containers = self.containers.clone();
        containers.retain(|container| id.as_ref().is_none_or(|id| container.id == *id));
        Ok(Response::new(ListContainersResponse { containers }))
    }
}

#[tonic::async_trait]
impl ImageService for Crowd {
    async fn image_status(
        &self,
        request: Request<ImageStatusRequest>,
    ) -> Result<Response<ImageStatusResponse>, Status> {
        let id = request.into_inner().image.unwrap_or_default().image;
        let name = "registry.example.com/production/checkout";
        let image = Image {
            repo_tags: vec![format!("{name}:v1.42.{}", id.len())],
            repo_digests: vec![format!("{name}@{id}")],
            id,
        };
        Ok(Response::new(ImageStatusResponse { image: Some(image) }))
    }
}
