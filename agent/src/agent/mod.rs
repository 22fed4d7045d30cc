//! The agent's parts put together: source → session machine → convert → spool → standard output, socket, collector.
//!
//! The pipeline must never wait for anybody who reads from the spool. A clean stop loses nothing that is in the
//! ring: it is read to its end, then the last event says STOPPED, then whoever reads gets a few seconds.

mod containers;
mod debugged;
mod integrity;
pub mod lock;
mod metrics;
mod pipeline;
pub(crate) mod selftest;
mod source;
mod start;
mod stdout;
mod ways;

#[cfg(test)]
mod tests;

use std::{fs, io, net::SocketAddr, sync::Arc, time::Duration};

use nix::sys::utsname::uname;
use podtrail_proto::v1;
use tokio::{sync::watch, time::timeout};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use self::pipeline::Sinks;
pub(crate) use self::start::probe_options;
pub use self::{
    containers::Containers,
    lock::LockError,
    pipeline::{First, Pipeline},
    source::{Source, SourceError},
    start::{examine, start, unload},
    ways::Ways,
};
use crate::{
    config::agent::AgentConfig,
    container::{CgroupError, RecoverError},
    local::{Local, LocalError},
    pods,
    probe::{ProbeError, RawRecord},
    spool::{self, Identity, Saved, Spool, SpoolError},
    telemetry,
    tls::ClientTls,
    trail::{Indexed, Moment, log::LogError},
    uplink,
};

/// How long a clean stop waits for the collector where events wait on disk.
const FAREWELL: Duration = Duration::from_millis(500);

/// How long a clean stop waits for the collector otherwise, and for standard output.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Why the agent cannot run, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// {0}
    #[error(transparent)]
    Lock(#[from] LockError),
    /// {0}
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// {0}
    #[error(transparent)]
    Local(#[from] LocalError),
    /// {0}
    #[error(transparent)]
    Source(#[from] SourceError),
    /// {0}
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// {0}
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// {0}
    #[error(transparent)]
    Log(#[from] LogError),
    /// cannot serve metrics on {0}: {1}
    #[error("cannot serve metrics on {0}: {1}; choose another address with --metrics-listen, or none")]
    Metrics(SocketAddr, io::Error),
    /// cannot {call}: {source}
    #[error("cannot {call}: {source}")]
    System { call: &'static str, source: io::Error },
    /// a bug
    #[error("the agent failed by a bug of its own ({0}): report it, with the log")]
    Panicked(String),
    /// cannot write events to standard output: {0}
    #[error("cannot write events to standard output: {0}")]
    Stdout(io::Error),
}

/// What the agent says of itself in its first and last event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    pub version: String,
    pub kernel: String,
    pub boot_id: String,
}

impl About {
    /// Of this build on this kernel.
    pub fn read() -> Result<Self, AgentError> {
        let path = "/proc/sys/kernel/random/boot_id";
        let boot_id = fs::read_to_string(path)
            .map_err(|source| AgentError::System { call: "read the boot id", source })?;
        let kernel = uname()
            .map_err(|e| AgentError::System { call: "ask for the kernel's version", source: e.into() })?
            .release()
            .to_string_lossy()
            .into_owned();
        Ok(Self { version: env!("CARGO_PKG_VERSION").to_owned(), kernel, boot_id: boot_id.trim().to_owned() })
    }
}

impl From<ProbeError> for AgentError {
    fn from(error: ProbeError) -> Self {
        Self::Source(error.into())
    }
}

/// Names and units of all that the agent measures, for `/metrics`.
pub fn describe() {
    metrics::describe();
    integrity::describe();
    pods::asker::describe();
    telemetry::detector::describe();
    telemetry::kubelet::describe();
    telemetry::tls::describe();
}

/// Runs the agent until `stop`, or until it cannot go on.
pub async fn run<S: Source>(
    config: &AgentConfig,
    spool: Arc<Spool>,
    pipeline: Pipeline<S>,
    before: Vec<RawRecord>,
    stop: CancellationToken,
) -> Result<(), AgentError> {
    let mut indexed = None;
    let mut local = None;
    if let Some(path) = &config.socket {
        let both = Arc::new(Indexed::open(Arc::clone(&spool))?);
        local = Some(Local::open(path, config.socket_group, Arc::clone(&both), config.spool_memory)?);
        indexed = Some(both);
    }
    let tls = config.tls.clone().map(|files| Arc::new(ClientTls::new(files)));
    let _told = tls.clone().map(|tls| AbortOnDropHandle::new(tokio::spawn(tls.watch())));
    let uplink = config.collector.as_ref().map(|collector| {
        let (state, watched) = watch::channel(uplink::State::default());
        let options = uplink::Options {
            collector: collector.clone(),
            tls: tls.clone(),
            hello: hello(&spool, pipeline.about()),
            backoff: uplink::Backoff::default(),
        };
        let task = AbortOnDropHandle::new(tokio::spawn(uplink::run(Arc::clone(&spool), options, state)));
        (task, watched)
    });
    let printer = if config.stdout {
        let acknowledge = config.collector.is_none();
        Some(stdout::Printer::start(Arc::clone(&spool), acknowledge, stop.clone())?)
    } else {
        None
    };
    let state = uplink.as_ref().map(|(_, state)| state.clone());

    let sinks = Sinks { spool: Arc::clone(&spool), indexed, uplink: state };

    let ended = Box::pin(pipeline.run(sinks, before, stop)).await;

    // Even after an error: what is in the spool is true, and the last event says that no more comes.
    let last = spool.fill().last_seq;
    if uplink.is_some() {
        let safe = config.spool.is_some() && spool.fill().trouble.is_none();
        // What is on disk is safe: the wait is only for the collector to hear of the stop now.
        let wait = if safe { FAREWELL } else { LAST_WORDS };
        let mut acked = spool.acked_seq();
        let missing = timeout(wait, acked.wait_for(|acked| *acked >= last)).await.is_err();
        if missing && !safe {
            let lost = last.saturating_sub(spool.fill().acked_seq);
            tracing::error!(
                events = lost,
                "stopped before the collector had everything: these events are gone"
            );
        }
    }
    let printed = match printer {
        Some(printer) => printer.finish(last, LAST_WORDS).await,
        None => Ok(()),
    };
    if let Some(local) = local {
        local.close().await;
    }
    ended.and(printed.map_err(AgentError::Stdout))
}

/// The spool as the agent before left it, and what it kept for the agent itself.
pub(crate) fn open_spool(config: &AgentConfig, about: &About) -> Result<(Arc<Spool>, Saved), AgentError> {
    let acknowledged = config.collector.is_some() || config.stdout;
    let options = spool::Options { max_bytes: config.spool_memory, acknowledged };
    let (cluster, name) = (config.cluster.clone(), config.node_name.clone());
    let now = Moment::now();
    let Some(dir) = config.spool.clone() else {
        let epoch = u64::try_from(now.0).unwrap_or(u64::MAX);
        let spool = Spool::new(Identity { cluster, node: name, epoch }, options);
        return Ok((Arc::new(spool), Saved::default()));
    };
    let node = spool::Node { cluster, name, boot_id: about.boot_id.clone() };
    let (max_bytes, max_age) = (config.spool_size, config.spool_age);
    let disk = spool::Disk { dir, max_bytes, max_age, fsync: config.spool_fsync };
    let (spool, saved) = Spool::open(&node, options, &disk, now)?;
    Ok((Arc::new(spool), saved))
}

fn hello(spool: &Spool, about: &About) -> v1::Hello {
    let Identity { cluster, node, epoch } = spool.sending();
    let About { version, kernel: _, boot_id } = about.clone();
    v1::Hello { cluster, node, epoch, agent_version: version, boot_id }
}
