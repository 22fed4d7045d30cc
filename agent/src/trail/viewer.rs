//! Who asks, and what they may see.
//!
//! Every call of `Trail` has a viewer. The connection it came by says who that is: whoever accepts connections puts a
//! [`Viewer`] into the extensions of each request. Where none was put, it is the one that the service was made with.

use std::sync::Arc;

use tonic::{Request, Status};

use super::rights::Rights;
use crate::telemetry::{Emit as _, refused::Refused};

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

impl Verb {
    /// As configurations write it.
    pub const NAMES: [(&'static str, Self); 4] = [
        ("tail", Self::Tail),
        ("subscribe", Self::Subscribe),
        ("sessions", Self::Sessions),
        ("nodes", Self::Nodes),
    ];

    fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, verb)| *verb == self).map_or("", |(name, _)| name)
    }
}

/// Somebody who reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Viewer {
    principal: Arc<str>,
    rights: Arc<Rights>,
}

impl Viewer {
    /// Sees everything: root on the node's socket, or anybody on loopback where there is no TLS.
    #[must_use]
    pub fn everything(principal: &str) -> Self {
        Self::new(principal, Rights::everything())
    }

    /// Sees nothing.
    #[must_use]
    pub fn nobody() -> Self {
        Self::new("", Rights::default())
    }

    /// Sees what these rights say.
    #[must_use]
    pub fn new(principal: &str, rights: Rights) -> Self {
        Self { principal: principal.into(), rights: Arc::new(rights) }
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

    /// What they may see.
    #[must_use]
    pub fn rights(&self) -> &Rights {
        &self.rights
    }

    /// Fails with `PERMISSION_DENIED` where they may not ask for that.
    pub fn check(&self, verb: Verb) -> Result<(), Status> {
        if self.rights.verbs.contains(&verb) {
            return Ok(());
        }
        Err(self.denied(&format!("may not {}: its [[principal]] has no such verb", verb.name())))
    }

    /// `PERMISSION_DENIED`, counted.
    pub(crate) fn denied(&self, what: &str) -> Status {
        let message = format!("{:?} {what}", &*self.principal);
        Refused { peer: &self.principal, reason: "rights", message: &message }.emit();
        Status::permission_denied(message)
    }
}
