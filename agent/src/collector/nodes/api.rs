//! The API server, as it is asked: lists by pages, and watches, line by line.
//!
//! `kube` finds it, and shows it who asks. Its own watcher is not used: it begins with a list, always, and what changed while
//! the collector was away would be nobody's. What comes is bounded here, and a server that says nothing any more is given up.

use std::{path::PathBuf, time::Duration};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Limited};
use kube::{
    Client,
    api::{ListParams, Request, WatchParams},
    client::Body,
    config::{Config, KubeConfigOptions, Kubeconfig},
    core::Status,
};
use tokio::time::timeout;

/// Of a page of a list.
const MAX_PAGE: usize = 64 << 20;
/// Of an object: etcd has none above 1.5 MiB, unless somebody asked for it.
const MAX_LINE: usize = 16 << 20;
/// Of why something was refused.
const MAX_STATUS: usize = 64 << 10;
const CONNECT: Duration = Duration::from_secs(10);
/// An answer begins, and goes on, within.
const ANSWER: Duration = Duration::from_secs(60);
/// A watch ends by itself after so long; and how late it may be.
const WATCH: Duration = Duration::from_secs(290);
const LATE: Duration = Duration::from_secs(20);
/// Lines that are taken together.
const MAX_LINES: usize = 256;

/// Where the API server is, and who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// by the service account of the collector's pod
    InCluster,
    /// by a kubeconfig's current context
    Kubeconfig(PathBuf),
}

/// Why it does not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    #[error("{path:?} is no kubeconfig that can be used: {why}; see --kubernetes")]
    Kubeconfig { path: PathBuf, why: String },
    #[error("there is no service account to be used: {0}; is this a pod, with automountServiceAccountToken?")]
    InCluster(String),
    #[error("it cannot be reached: {0}")]
    Connect(String),
    #[error("it says {code}: {message}{}", hint(*.code))]
    Status { code: u16, message: String },
    /// it has no history from there on
    #[error("it does not know any more what changed: {0}")]
    Gone(String),
    #[error("it says nothing for {0} s")]
    Slow(u64),
    #[error("what it says is longer than {0} MiB")]
    Long(usize),
    #[error("what it says is no JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the connection broke: {0}")]
    Broken(String),
}

fn hint(code: u16) -> &'static str {
    match code {
        401 => "; does it know the collector's certificate or token?",
        403 => "; the collector needs get, list and watch of nodes and events: see docs/nodes.md",
        _ => "",
    }
}

impl ApiError {
    /// For the metric.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Kubeconfig { .. } | Self::InCluster(_) => "config",
            Self::Connect(_) => "connect",
            Self::Status { code: 401 | 403, .. } => "forbidden",
            Self::Status { .. } => "status",
            Self::Gone(_) => "gone",
            Self::Slow(_) => "slow",
            Self::Long(_) => "long",
            Self::Json(_) => "json",
            Self::Broken(_) => "broken",
        }
    }
}

/// How long a watch lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    pub watch: Duration,
    pub answer: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { watch: WATCH, answer: ANSWER }
    }
}

/// See the module.
#[derive(Clone)]
pub(super) struct Api {
    client: Client,
    patience: Patience,
}

impl Api {
    /// Reads what says where it is anew: certificates and tokens are replaced.
    pub(super) async fn open(access: &Access, patience: Patience) -> Result<Self, ApiError> {
        let mut config = match access {
            Access::InCluster => Config::incluster_env().map_err(|e| ApiError::InCluster(chain(&e)))?,
            Access::Kubeconfig(path) => {
                let wrong = |e| ApiError::Kubeconfig { path: path.clone(), why: chain(&e) };
                let file = Kubeconfig::read_from(path).map_err(wrong)?;
                Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(wrong)?
            }
        };
        config.connect_timeout = Some(CONNECT);
        // Whoever asks waits on their own terms, and says so.
        config.default_retry = false;
        let client = Client::try_from(config).map_err(|e| ApiError::Connect(chain(&e)))?;
        Ok(Self { client, patience })
    }

    /// One page: its text.
    pub(super) async fn list(
        &self,
        path: &str,
        fields: Option<&str>,
        limit: u32,
        more: &str,
    ) -> Result<Bytes, ApiError> {
        let params = ListParams {
            limit: Some(limit),
            continue_token: (!more.is_empty()).then(|| more.to_owned()),
            field_selector: fields.map(str::to_owned),
            ..ListParams::default()
        };
        let request = Request::new(path).list(&params).map_err(|e| ApiError::Connect(e.to_string()))?;
        let body = self.ask(request).await?;
        let whole = Limited::new(body, MAX_PAGE).collect();
        let whole = timeout(self.patience.answer, whole).await.map_err(|_| self.slow())?;
        whole.map(http_body_util::Collected::to_bytes).map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                ApiError::Long(MAX_PAGE >> 20)
            } else {
                ApiError::Broken(chain(&*error))
            }
        })
    }

    /// What changes after this version.
    pub(super) async fn watch(
        &self,
        path: &str,
        fields: Option<&str>,
        version: &str,
    ) -> Result<Watch, ApiError> {
        let Patience { watch, answer: _ } = self.patience;
        let seconds = u32::try_from(watch.as_secs()).unwrap_or(u32::MAX);
        let params = WatchParams {
            timeout: Some(seconds),
            field_selector: fields.map(str::to_owned),
            ..WatchParams::default()
        };
        let request =
            Request::new(path).watch(&params, version).map_err(|e| ApiError::Connect(e.to_string()))?;
        let body = self.ask(request).await?;
        Ok(Watch { body, buffer: BytesMut::new(), searched: 0, idle: watch.saturating_add(LATE) })
    }

    async fn ask(&self, request: hyper::Request<Vec<u8>>) -> Result<Body, ApiError> {
        let answer = self.client.send(request.map(Body::from));
        let answer = timeout(self.patience.answer, answer).await.map_err(|_| self.slow())?;
        let (head, body) = answer.map_err(|e| ApiError::Connect(chain(&e)))?.into_parts();
        if head.status.is_success() {
            return Ok(body);
        }
        let body = timeout(self.patience.answer, Limited::new(body, MAX_STATUS).collect()).await;
        let text =
            body.ok().and_then(Result::ok).map(http_body_util::Collected::to_bytes).unwrap_or_default();
        Err(refused(&text, head.status.as_u16()))
    }

    fn slow(&self) -> ApiError {
        ApiError::Slow(self.patience.answer.as_secs())
    }
}

/// A `Status`, by whichever way it came.
pub(super) fn refused(json: &[u8], code: u16) -> ApiError {
    let status: Status = serde_json::from_slice(json).unwrap_or_default();
    let code = if status.code == 0 { code } else { status.code };
    if code == 410 || matches!(status.reason.as_str(), "Gone" | "Expired") {
        return ApiError::Gone(status.message);
    }
    let message = if status.message.is_empty() { status.reason } else { status.message };
    ApiError::Status { code, message }
}

/// Lines as they come.
pub(super) struct Watch {
    body: Body,
    buffer: BytesMut,
    /// so much of it has no end of a line
    searched: usize,
    idle: Duration,
}

impl Watch {
    /// At least one line, and those that are here already; `None`: it ended, as watches do. What is left of a line then was
    /// not sent to its end, and comes with the next.
    pub(super) async fn lines(&mut self) -> Result<Option<Vec<Bytes>>, ApiError> {
        loop {
            let lines = self.whole();
            if !lines.is_empty() {
                return Ok(Some(lines));
            }
            if self.buffer.len() > MAX_LINE {
                return Err(ApiError::Long(MAX_LINE >> 20));
            }
            let frame = timeout(self.idle, self.body.frame()).await;
            match frame.map_err(|_| ApiError::Slow(self.idle.as_secs()))? {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(e)) => return Err(ApiError::Broken(chain(&e))),
            }
        }
    }

    fn whole(&mut self) -> Vec<Bytes> {
        let mut lines = Vec::new();
        while lines.len() < MAX_LINES {
            let rest = self.buffer.get(self.searched..).unwrap_or_default();
            let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                self.searched = self.buffer.len();
                break;
            };
            let line = self.buffer.split_to(self.searched + end + 1).freeze();
            self.searched = 0;
            if !line.trim_ascii().is_empty() {
                lines.push(line);
            }
        }
        lines
    }
}

/// Errors of `kube` say the least, and those below them why.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let all = std::iter::successors(Some(error), |error| error.source());
    let mut text = String::new();
    for error in all.map(ToString::to_string) {
        if !text.ends_with(&error) {
            text = if text.is_empty() { error } else { format!("{text}: {error}") };
        }
    }
    text
}
