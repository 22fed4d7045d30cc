//! Mutual TLS between agents, readers and the collector: TLS 1.3, a certificate on both sides, and a name in each.
//!
//! | module | what it does |
//! |---|---|
//! | [`files`] | certificates and keys as they are on the disk, read whole and checked |
//! | [`identity`] | who a certificate says somebody is |
//! | [`peer`] | somebody who is connected |
//! | [`counts`] | how many of something each has |
//! | [`client`] | the side of agents and of `podtrail` |
//! | [`node`] | the side of agents that ask their node's kubelet |
//! | [`server`] | the side of the collector |
//! | `verifier` | whose certificates it believes |
//! | [`incoming`] | its connections, bounded in number and in time |
//!
//! Files may change at any time: connections that come later use what is there then, those that are open go on. What
//! does not fit together is told once, and what was there before stays in use.

pub mod client;
pub mod counts;
pub mod files;
pub mod identity;
pub mod incoming;
pub mod node;
pub mod peer;
pub mod server;
mod verifier;

#[cfg(test)]
pub(crate) mod testing;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use self::{
    client::{ClientTls, ConnectError, objection},
    files::{Files, TlsError},
    identity::Identity,
    peer::Peer,
    server::ServerTls,
};

/// gRPC is HTTP/2.
const ALPN: &[u8] = b"h2";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
