//! The API server's audit: taken in by its webhook and from its log files, and what leads into a container kept as
//! [`ApiRequest`](podtrail_proto::v1::ApiRequest) events.
//!
//! | module | what it does |
//! |---|---|
//! | `event`, `uri`, `ephemeral` | what an audit event says |
//! | `webhook`, `room` | batches that API servers post |
//! | `files` | log files, followed |
//! | `intake` | one batch after the other into the log, each request once |
//! | [`heard`] | which API servers are heard, and since when |
//!
//! All audit is heard and counted; of what leads into no container nothing is kept. Everything that comes is hostile:
//! also an API server writes down what its clients chose.

mod ephemeral;
mod event;
mod files;
pub mod heard;
mod intake;
mod room;
mod uri;
mod webhook;

use std::{sync::Arc, time::Duration};

use tokio::{net::TcpListener, time};
use tokio_util::sync::CancellationToken;

pub use self::{
    event::{AuditError, Batch},
    heard::{Heard, Over, Source, Stream, over},
};
use self::{files::Followed, intake::Intake, webhook::Webhook};
use super::{log::DiskLog, writer::Writer};
use crate::{
    config::audit as config,
    telemetry::{Component, Health},
    tls::{
        Files, ServerTls, TlsError, incoming,
        server::{Others, Protocol},
    },
    trail::{Indexed, log::LogError},
};

/// How often it is looked at who fell silent, and what was heard is kept.
const LOOK: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub(super) struct Audit {
    config: config::Audit,
    tls: Option<Arc<ServerTls>>,
    heard: Heard,
    /// `None`: no audit is expected
    health: Option<Component>,
}

impl Audit {
    /// `files`: the collector's own certificate.
    pub(super) fn new(
        config: config::Audit,
        files: Option<Files>,
        health: &Health,
    ) -> Result<Self, TlsError> {
        let load = |files| {
            let others = config.api_servers.clone().map(Others::ApiServers);
            ServerTls::load(files, others, Protocol::Http).map(Arc::new)
        };
        let tls = files.filter(|_| config.listen.is_some()).map(load).transpose()?;
        let heard = Heard::new(config.stale_after);
        let expected = config.listen.is_some() || config.log.is_some();
        let health = expected.then(|| health.component("audit"));
        Ok(Self { config, tls, heard, health })
    }

    /// Whom it hears; `None`: no audit is expected.
    pub(super) fn heard(&self) -> Option<Heard> {
        self.health.is_some().then(|| self.heard.clone())
    }

    /// Takes in until `stop`.
    pub(super) fn start(
        self,
        webhook: Option<TcpListener>,
        writer: Writer,
        indexed: &Arc<Indexed<DiskLog>>,
        stop: &CancellationToken,
    ) -> Result<(), LogError> {
        let Self { config, tls, heard, health } = self;
        let Some(health) = health else { return Ok(()) };
        heard.load(indexed.log())?;
        say(&heard, &health);
        let config::Audit { listen: _, api_servers: _, cluster, max_body, stale_after: _, log } = config;
        let intake = Intake::start(writer.clone(), indexed.clone(), heard.clone());
        if let Some(path) = log {
            let files = Followed::open(path, cluster.clone(), max_body, indexed.log())?;
            tokio::spawn(files.run(intake.clone(), stop.clone()));
        }
        if let Some(listener) = webhook {
            if let Some(tls) = &tls {
                tokio::spawn(tls.clone().watch(stop.clone()));
            }
            let limits = incoming::Limits { connections: 1000, ..incoming::Limits::default() };
            let incoming = incoming::accept(listener, tls, limits, stop.clone());
            let webhook = Webhook::new(intake, cluster, max_body);
            tokio::spawn(webhook.serve(incoming, stop.clone()));
        }
        tokio::spawn(look(heard, writer, health, stop.clone()));
        Ok(())
    }
}

/// Says who fell silent, and keeps what was heard for the next start.
async fn look(heard: Heard, writer: Writer, health: Component, stop: CancellationToken) {
    let mut tick = time::interval(LOOK.min(heard.stale_after() / 4));
    tick.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    let mut last = false;
    while !last {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => last = true,
        }
        say(&heard, &health);
        let beside = heard.unwritten();
        if !beside.is_empty() && writer.notes_with(Vec::new(), beside).await.is_err() {
            heard.not_written();
        }
    }
}

fn say(heard: &Heard, health: &Component) {
    match heard.look() {
        None => health.ready(),
        Some(remark) => health.ready_but(remark),
    }
}

#[cfg(test)]
mod policy_tests;
