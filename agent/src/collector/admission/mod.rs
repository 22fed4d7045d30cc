//! Who may call what: every request passes here before any service sees it.
//!
//! - Agents report, and nothing else; readers read, with the rights of their principal; whoever has a certificate of the
//!   authority may ask for health and for the description of the services. Without TLS the collector is on loopback
//!   alone, and whoever is there may do all of it.
//! - A peer has so many calls at once, over all its connections.
//! - A call ends when the certificate it came by ends, or when the rights of its principal change.

mod body;
mod principals;

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use futures::{FutureExt as _, future::BoxFuture};
use tokio_util::sync::CancellationToken;
use tonic::{
    Status,
    body::Body,
    codegen::{Service, http},
};
use tower::Layer;

use self::body::{Call, Guarded};
pub(super) use self::principals::Principals;
use crate::{
    clock,
    telemetry::{Emit as _, refused::Refused},
    tls::{Identity, Peer, counts::Counts},
    trail::viewer::Viewer,
};

/// Decides about requests.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    principals: Arc<Principals>,
    calls: Counts<Identity>,
    max_calls: usize,
}

/// Why a call is refused.
#[derive(Debug, thiserror::Error)]
enum Denied {
    #[error("the connection does not say who it is of")]
    Nobody,
    #[error("the certificate has expired: connect again with a new one")]
    Expired,
    #[error("{0} may not report: that takes a certificate with podtrail://agent/CLUSTER/NODE")]
    NoAgent(Identity),
    #[error("{0} may not read: that takes a certificate with podtrail://reader/PRINCIPAL")]
    NoReader(Identity),
    #[error("{0} has {1} calls open already: end some, or try later")]
    TooMany(Identity, usize),
}

impl Denied {
    /// For the metric.
    fn reason(&self) -> &'static str {
        match self {
            Self::Nobody | Self::NoAgent(_) | Self::NoReader(_) => "identity",
            Self::Expired => "expired",
            Self::TooMany(..) => "streams",
        }
    }

    fn status(&self) -> Status {
        let message = self.to_string();
        match self {
            Self::Nobody | Self::Expired => Status::unauthenticated(message),
            Self::NoAgent(_) | Self::NoReader(_) => Status::permission_denied(message),
            Self::TooMany(..) => Status::resource_exhausted(message),
        }
    }
}

impl Admission {
    /// `max_calls`: of one certificate's name, at once.
    pub(super) fn new(principals: Arc<Principals>, max_calls: usize) -> Self {
        Self { principals, calls: Counts::default(), max_calls }
    }

    /// Takes a request in, and says when its answer has to end.
    fn admit<B>(&self, peer: Option<&Peer>, request: &mut http::Request<B>) -> Result<Call, Denied> {
        let peer = peer.ok_or(Denied::Nobody)?;
        let left = match peer.expires {
            Some(at) => Some(left(at)?),
            None => None,
        };
        let mut changed = None;
        match (service(request.uri().path()), &peer.identity) {
            (Some("Ingest"), Identity::Loopback | Identity::Agent { .. }) => {}
            (Some("Ingest"), other) => return Err(Denied::NoAgent(other.clone())),
            (Some(_), Identity::Loopback) => {
                request.extensions_mut().insert(Viewer::everything("loopback"));
            }
            (Some(_), Identity::Reader { principal }) => {
                let (viewer, token) = self.principals.viewer(principal);
                request.extensions_mut().insert(viewer);
                changed = Some(token);
            }
            (Some(_), other) => return Err(Denied::NoReader(other.clone())),
            // Health and reflection: they carry nothing of what is recorded.
            (None, _) => {}
        }
        // On loopback everybody has the same name: what the services allow in all is the limit there.
        let place = match &peer.identity {
            Identity::Loopback => None,
            identity => {
                let place = self.calls.enter(identity.clone(), self.max_calls);
                Some(place.ok_or_else(|| Denied::TooMany(identity.clone(), self.max_calls))?)
            }
        };
        Ok(Call::new(peer.name(), place, left, changed.unwrap_or_else(CancellationToken::new)))
    }
}

/// How long until then.
fn left(at: SystemTime) -> Result<Duration, Denied> {
    at.duration_since(clock::wall()).map_err(|_past| Denied::Expired)
}

/// Which of podtrail's services a call is to; `None`: none of them.
fn service(path: &str) -> Option<&str> {
    path.strip_prefix("/podtrail.v1.")?.split('/').next()
}

impl<S> Layer<S> for Admission {
    type Service = Admitting<S>;

    fn layer(&self, inner: S) -> Admitting<S> {
        Admitting { inner, admission: self.clone() }
    }
}

/// A service behind [`Admission`].
#[derive(Clone, Debug)]
pub(super) struct Admitting<S> {
    inner: S,
    admission: Admission,
}

impl<S> Service<http::Request<Body>> for Admitting<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<Guarded>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let peer = request.extensions().get::<Peer>().cloned();
        match self.admission.admit(peer.as_ref(), &mut request) {
            Ok(call) => {
                let answer = self.inner.call(request);
                async move { Ok(call.guard(answer.await?)) }.boxed()
            }
            Err(denied) => {
                let peer = peer.map_or_else(|| "unknown".to_owned(), |peer| peer.name());
                Refused { peer: &peer, reason: denied.reason(), message: &denied.to_string() }.emit();
                let answer = denied.status().into_http::<Body>();
                async move { Ok(answer.map(Guarded::plain)) }.boxed()
            }
        }
    }
}
