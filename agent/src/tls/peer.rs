//! Somebody who is connected.

use std::{net::IpAddr, time::SystemTime};

use tonic::Request;

use super::Identity;

/// Who is at the other end of a connection; every request that comes by it carries this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub address: IpAddr,
    pub identity: Identity,
    /// when its certificate ends
    pub expires: Option<SystemTime>,
}

impl Peer {
    /// Whose request this is; `None`: it came by no connection of ours, as in a test.
    #[must_use]
    pub fn of<T>(request: &Request<T>) -> Option<&Self> {
        request.extensions().get()
    }

    /// As logs name it, and as what it does is counted: by its certificate, where it has one that says who it is.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.identity {
            Identity::Loopback => self.address.to_string(),
            Identity::Unnamed => format!("{} ({})", self.address, self.identity),
            named @ (Identity::Agent { .. } | Identity::Reader { .. } | Identity::Audit { .. }) => {
                named.to_string()
            }
        }
    }

    /// Whether it may report as this node.
    #[must_use]
    pub fn may_report_as(&self, cluster: &str, node: &str) -> bool {
        match &self.identity {
            Identity::Loopback => true,
            Identity::Agent { cluster: c, node: n } => &**c == cluster && &**n == node,
            Identity::Reader { .. } | Identity::Audit { .. } | Identity::Unnamed => false,
        }
    }
}
