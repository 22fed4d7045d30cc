//! Who asks, and what they may see.
//!
//! Every call of `Trail` has a viewer. The connection it came by says who that is: whoever accepts connections puts a
//! [`Viewer`] into the extensions of each request. Where none was put, it is the one that the service was made with.

use std::sync::Arc;

use podtrail_proto::v1;
use tonic::{Request, Status};

/// What a reader may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    /// `Tail`
    Tail,
    /// `Subscribe`, and everything about the caller's own subscriptions
    Subscribe,
    /// `ListSessions`, `GetSession`
    Sessions,
    /// `ListNodes`
    Nodes,
}

/// Somebody who reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Viewer {
    principal: Arc<str>,
    everything: bool,
}

impl Viewer {
    /// Sees everything: root on the node's socket, or anybody on loopback where there is no TLS.
    #[must_use]
    pub fn everything(principal: &str) -> Self {
        Self { principal: principal.into(), everything: true }
    }

    /// Sees nothing.
    #[must_use]
    pub fn nobody() -> Self {
        Self { principal: "".into(), everything: false }
    }

    /// Who sent this request.
    #[must_use]
    pub fn of<T>(request: &Request<T>, otherwise: &Self) -> Self {
        request.extensions().get().unwrap_or(otherwise).clone()
    }

    /// Their name; subscriptions are theirs by it.
    #[must_use]
    pub fn principal(&self) -> &str {
        &self.principal
    }

    /// Fails with `PERMISSION_DENIED` where they may not ask for that.
    pub fn check(&self, verb: Verb) -> Result<(), Status> {
        if self.everything {
            return Ok(());
        }
        Err(Status::permission_denied(format!("{:?} may not {verb:?}", &*self.principal)))
    }

    /// The event as they may see it; `None`: not at all.
    #[must_use]
    pub fn show(&self, event: Arc<v1::Event>) -> Option<v1::Event> {
        self.everything.then(|| Arc::unwrap_or_clone(event))
    }
}
