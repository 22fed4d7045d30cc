//! Calls of the Container Runtime Interface, each bounded in time and size. Only such as read.

use std::{path::Path, time::Duration};

use metrics::counter;
use podtrail_proto::runtime::cri::{
    Container, ContainerFilter, Image, ImageSpec, ImageStatusRequest, ListContainersRequest,
    ListPodSandboxRequest, PodSandbox, PodSandboxFilter, VersionRequest, VersionResponse,
    image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use tokio::time::timeout;
use tonic::{Code, Response, Status, transport::Channel};

use super::socket;

/// As long as a kubelet waits for a list, or less: nobody waits for this but the answer's event.
const WAIT: Duration = Duration::from_secs(10);

/// What a kubelet takes too.
const ANSWER_MAX: usize = 16 << 20;

/// Characters kept of what a runtime says of its failure.
const STATUS_MAX: usize = 200;

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum CriError {
    /// no answer to {call} within {wait:?}
    #[error("no answer to {call} within {wait:?}")]
    Silent { call: &'static str, wait: Duration },
    /// it does not speak CRI's runtime.v1
    #[error("it does not speak CRI's runtime.v1: is its CRI plugin disabled?")]
    NoCri,
    /// {call}: {line}
    #[error("{call}: {line}")]
    Refused { call: &'static str, line: String },
}

/// A runtime.
#[derive(Debug)]
pub struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    wait: Duration,
}

impl Cri {
    /// Nothing is connected before the first call.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        let channel = socket::channel(path);
        Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(ANSWER_MAX),
            images: ImageServiceClient::new(channel).max_decoding_message_size(ANSWER_MAX),
            wait: WAIT,
        }
    }

    /// The same, less patient.
    #[cfg(test)]
    pub(super) fn waits(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Who it is, like "containerd 1.6.20".
    pub async fn version(&mut self) -> Result<String, CriError> {
        let call = self.runtime.version(VersionRequest::default());
        let VersionResponse { runtime_name, runtime_version } = answer("Version", self.wait, call).await?;
        let version: String = format!("{runtime_name} {runtime_version}").chars().take(STATUS_MAX).collect();
        Ok(version)
    }

    /// All containers, or those with this id.
    pub(super) async fn containers(&mut self, id: Option<&str>) -> Result<Vec<Container>, CriError> {
        let filter = id.map(|id| ContainerFilter { id: id.to_owned() });
        let call = self.runtime.list_containers(ListContainersRequest { filter });
        Ok(answer("ListContainers", self.wait, call).await?.containers)
    }

    /// All sandboxes, or those with this id.
    pub(super) async fn sandboxes(&mut self, id: Option<&str>) -> Result<Vec<PodSandbox>, CriError> {
        let filter = id.map(|id| PodSandboxFilter { id: id.to_owned() });
        let call = self.runtime.list_pod_sandbox(ListPodSandboxRequest { filter });
        Ok(answer("ListPodSandbox", self.wait, call).await?.items)
    }

    /// The image that a container's `image_ref` names; `None`: it is gone.
    pub(super) async fn image(&mut self, reference: &str) -> Result<Option<Image>, CriError> {
        let spec = ImageSpec { image: reference.to_owned(), ..ImageSpec::default() };
        let call = self.images.image_status(ImageStatusRequest { image: Some(spec) });
        Ok(answer("ImageStatus", self.wait, call).await?.image)
    }
}

async fn answer<T>(
    call: &'static str,
    wait: Duration,
    future: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, CriError> {
    let result = match timeout(wait, future).await {
        Err(_elapsed) => Err(CriError::Silent { call, wait }),
        Ok(Err(status)) if status.code() == Code::Unimplemented => Err(CriError::NoCri),
        Ok(Err(status)) => Err(CriError::Refused { call, line: line(&status) }),
        Ok(Ok(response)) => Ok(response.into_inner()),
    };
    let outcome = if result.is_ok() { "ok" } else { "error" };
    counter!("podtrail_agent_cri_calls_total", "call" => call, "outcome" => outcome).increment(1);
    result
}

/// In one line, and no longer than a line.
pub(super) fn line(status: &Status) -> String {
    let mut message: String = status.message().chars().take(STATUS_MAX).collect();
    // What a broken connection says of itself is only "transport error".
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        message = cause.to_string().chars().take(STATUS_MAX).collect();
        source = cause.source();
    }
    if message.is_empty() {
        message = status.code().description().to_owned();
    }
    message
}
