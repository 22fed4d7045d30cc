//! The collector: takes events in from agents, keeps them in a log on disk, serves readers.
//!
//! | module | what it does |
//! |---|---|
//! | `admission` | who may call what |
//! | `directory` | the data directory: its lock and its format |
//! | [`log`] | the log on disk |
//! | `watchdog` | notices a write that does not end |
//! | `writer` | the one thread that writes it: one fsync for what comes together |
//! | `sequence` | what is taken of a report: duplicates, and holes, which are asked for again |
//! | `ingest` | `podtrail.v1.Ingest` |
//! | [`audit`] | the API server's audit: its webhook, its files |
//! | [`subscribe`] | durable subscriptions |
//! | `reload` | principals, when the configuration's file changes |
//! | [`attribution`] | which person is behind a session |
//! | [`nodes`] | conditions of nodes, and Events of the Kubernetes API |
//! | `seen` | what was kept lately, so that it is kept once |
//! | `silence` | nodes of which nothing comes any more |
//! | `retention` | trims by age and size |
//!
//! An event is acknowledged once it is on the disk, and never before. Nothing here changes an event, and nothing
//! here depends on what it carries.

mod admission;
pub mod attribution;
pub mod audit;
mod directory;
mod ingest;
pub mod log;
pub mod nodes;
pub mod output;
mod print;
mod reload;
mod retention;
mod seen;
mod sequence;
mod silence;
pub mod subscribe;
mod watchdog;
pub mod weight;
mod writer;

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, thread::JoinHandle, time::Instant};

use futures::Stream;
use podtrail_proto::v1;
use tokio::{
    net::{TcpListener, TcpSocket},
    signal::unix::{SignalKind, signal},
    task, time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::Server;

#[cfg(fuzzing)]
pub use self::ingest::fuzz_check;
use self::{
    admission::{Admission, Principals},
    attribution::Driver,
    audit::Audit,
    ingest::Ingest,
    log::DiskLog,
    silence::Silence,
    subscribe::{Subscriptions, calls::Calls, store::DiskStore},
    watchdog::Pulse,
    writer::Writer,
};
use crate::{
    config::collector::{CollectorConfig, Tls},
    telemetry::{
        self, Component, Emit as _, Health, Metrics,
        collector::{Listening, LogOpened, Stopping},
    },
    tls::{
        ServerTls, TlsError, incoming,
        server::{Others, Protocol},
    },
    trail::viewer::Viewer,
    trail::{
        Indexed, Moment,
        log::{Log as _, LogError},
        service,
    },
};

/// From the signal to the end, and how much of that is for peers to leave.
const GRACE: time::Duration = time::Duration::from_secs(5);
const LEAVE: time::Duration = time::Duration::from_secs(3);
/// Connections that wait to be accepted: a thousand agents may come in the same moment, and the kernel resets those that
/// find no place. It allows no more than `net.core.somaxconn`, which is 4096 by default.
const BACKLOG: u32 = 4096;
/// A peer that answers no ping is gone.
const PING: time::Duration = time::Duration::from_secs(20);

/// Why the collector does not run.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    /// cannot listen on {address}
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// the server failed
    #[error("the server failed: {0}")]
    Serve(#[from] tonic::transport::Error),
    /// reflection
    #[error("the description of the services is damaged, build again: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// cannot wait for signals
    #[error("cannot wait for signals: {0}")]
    Signal(io::Error),
    /// a part of the collector panicked
    #[error("a part of the collector panicked: see the log above")]
    Panicked,
    /// a write does not end
    #[error(
        "a write to the log has not ended for {0} s: ending, to be started again; what was acknowledged is safe, check the disk"
    )]
    Stuck(u64),
    /// it was not done in time
    #[error("not everything was finished within {} s of the signal; what was acknowledged is safe", GRACE.as_secs())]
    Late,
}

/// Names and units of all that the collector measures, for `/metrics`.
pub fn describe() {
    telemetry::collector::describe();
    telemetry::subscriptions::describe();
    telemetry::audit::describe();
    telemetry::attribution::describe();
    telemetry::nodes::describe();
    telemetry::outputs::describe();
}

/// Runs until SIGTERM or SIGINT, or until it cannot go on.
pub async fn run(config: CollectorConfig) -> Result<(), CollectorError> {
    let watched = config.clone();
    let CollectorConfig {
        listen,
        tls,
        principals,
        streams_per_peer,
        subscriptions_per_principal,
        subscription_slow_after,
        subscription_max_idle,
        metrics_listen,
        data,
        retention,
        outputs,
        silent_after,
        audit,
        attribution,
        kubernetes,
        log_level: _,
        log_format: _,
        flags: _,
    } = config;
    let stop = on_signal()?;
    _ = Metrics::global();
    describe();
    let health = Health::new();
    let log_health = health.component("log");

    let files = tls.as_ref().map(|tls| tls.files.clone());
    let tls = match tls {
        Some(Tls { files, kubelets }) => {
            Some(Arc::new(ServerTls::load(files, kubelets.map(Others::Kubelets), Protocol::Grpc)?))
        }
        None => None,
    };
    let grpc = bind(listen)?;
    let webhook =
        audit.listen.map(|address| Ok::<_, CollectorError>((bind(address)?, address))).transpose()?;
    let audit = Audit::new(audit, files, &health)?;
    let metrics = match metrics_listen {
        Some(address) => Some(bind(address)?),
        None => None,
    };
    let listening = Listening {
        grpc: local(&grpc, listen)?,
        metrics: metrics.as_ref().map(|m| local(m, listen)).transpose()?,
        audit: webhook.as_ref().map(|(w, address)| local(w, *address)).transpose()?,
    };
    // Health and metrics answer from the first moment and to the last.
    let end = CancellationToken::new();
    let _end = end.clone().drop_guard();
    if let Some(listener) = metrics {
        tokio::spawn(telemetry::http::serve(listener, health.clone(), end.clone()));
    }

    log_health.not_ready("counting what the log holds");
    let shutdown = stop.clone();
    let settings = subscribe::Settings {
        max_per_principal: subscriptions_per_principal,
        slow_after: subscription_slow_after,
        max_idle: subscription_max_idle,
        ..subscribe::Settings::default()
    };
    let opening = task::spawn_blocking(move || open(&data, settings, shutdown));
    let (indexed, subscriptions) = tokio::select! {
        opened = opening => opened.map_err(|_| CollectorError::Panicked)??,
        // Nothing was promised to anybody yet.
        () = stop.cancelled() => return Ok(()),
    };
    let pulse = Pulse::default();
    let (writer, thread) = Writer::start(indexed.clone(), log_health.clone(), pulse.clone(), stop.clone())?;
    let stuck = watchdog::watch(pulse, health.component("writer"), watchdog::Limits::default());
    tokio::spawn(retention::run(indexed.clone(), retention, stop.clone()));
    subscriptions.attribute(indexed.clone());
    tokio::spawn(subscriptions.clone().run());
    let written = TaskTracker::new();
    output::start(outputs, &subscriptions, indexed.log().id(), &stop, &written);
    written.close();
    if let Some(heard) = audit.heard() {
        indexed.set_attributes();
        let (writer, indexed, stop) = (writer.clone(), indexed.clone(), stop.clone());
        tokio::spawn(Driver { settings: attribution, writer, indexed, heard, stop }.run());
    }
    nodes::start(kubernetes, writer.clone(), &indexed, &health, &stop);
    audit.start(webhook.map(|(listener, _)| listener), writer.clone(), &indexed, &stop)?;
    listening.emit();
    log_health.ready();

    let principals = Arc::new(Principals::new(principals));
    tokio::spawn(reload::run(watched, principals.clone(), stop.clone()));
    if let Some(tls) = &tls {
        tokio::spawn(tls.clone().watch(stop.clone()));
    }
    // Who asks is known by the connection; a request that came past admission would be nobody's.
    let trail = service::Service::new(indexed.clone(), retention, stop.clone(), Viewer::nobody())
        .with_subscriptions(Arc::new(Calls::new(subscriptions.clone())))
        .into_server();
    let silence = Silence::new(silent_after, writer.clone(), indexed.clone());
    tokio::spawn(silence.clone().run(stop.clone()));
    let ingest = Ingest::server(writer.clone(), indexed.clone(), silence, stop.clone());
    let admission = Admission::new(principals, streams_per_peer);
    let incoming = incoming::accept(grpc, tls, incoming::Limits::default(), stop.clone());
    let serving = serve(incoming, admission, trail, ingest, stop.clone(), log_health);
    let finish = async {
        let served = tokio::select! {
            served = serving => served,
            // Whoever has not left by then is cut.
            () = after(&stop, LEAVE) => Ok(()),
        };
        writer.finish().await;
        written.wait().await;
        task::spawn_blocking(move || finish(thread, &indexed, &subscriptions))
            .await
            .map_err(|_| CollectorError::Panicked)??;
        served
    };
    tokio::select! {
        finished = finish => finished,
        lasted = stuck => Err(CollectorError::Stuck(lasted.as_secs())),
        () = after(&stop, GRACE) => Err(CollectorError::Late),
    }
}

/// Ends this long after the stop.
async fn after(stop: &CancellationToken, grace: time::Duration) {
    stop.cancelled().await;
    time::sleep(grace).await;
}

fn open(
    data: &std::path::Path,
    settings: subscribe::Settings,
    shutdown: CancellationToken,
) -> Result<(Arc<Indexed<DiskLog>>, Subscriptions), LogError> {
    let began = Instant::now();
    let indexed = Indexed::open(Arc::new(DiskLog::open(data)?))?;
    let nodes = indexed.index().nodes();
    indexed.log().confirm(&nodes)?;
    let bounds = indexed.log().bounds()?;
    let (sessions, _) = indexed.index().session_counts();
    let path = data.display().to_string();
    LogOpened { path: &path, bounds: &bounds, sessions, took: began.elapsed() }.emit();
    let store = Box::new(DiskStore::new(indexed.log().clone()));
    let log = indexed.log().clone();
    let subscriptions = Subscriptions::load(log, store, settings, Moment::clock(), shutdown)?;
    Ok((Arc::new(indexed), subscriptions))
}

fn finish(
    thread: JoinHandle<Result<(), LogError>>,
    indexed: &Indexed<DiskLog>,
    subscriptions: &Subscriptions,
) -> Result<(), CollectorError> {
    thread.join().map_err(|_| CollectorError::Panicked)??;
    subscriptions.flush()?;
    indexed.log().flush()?;
    Ok(())
}

async fn serve(
    incoming: impl Stream<Item = Result<incoming::Connection, Infallible>>,
    admission: Admission,
    trail: v1::trail_server::TrailServer<service::Service<DiskLog>>,
    ingest: ingest::Server,
    stop: CancellationToken,
    component: Component,
) -> Result<(), CollectorError> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<v1::trail_server::TrailServer<service::Service<DiskLog>>>().await;
    reporter.set_serving::<ingest::Server>().await;
    let describe = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    Server::builder()
        .http2_keepalive_interval(Some(PING))
        .http2_keepalive_timeout(Some(PING))
        .max_concurrent_streams(Some(256))
        // Of what clients send, which is acknowledgements, or waits here for room.
        .initial_stream_window_size(Some(ingest::WINDOW))
        .initial_connection_window_size(Some(ingest::WINDOW))
        .layer(admission)
        .add_service(trail)
        .add_service(ingest)
        .add_service(health)
        .add_service(describe().build_v1()?)
        .add_service(describe().build_v1alpha()?)
        .serve_with_incoming_shutdown(incoming, async {
            stop.cancelled().await;
            component.not_ready("stopping");
            reporter.set_not_serving::<v1::trail_server::TrailServer<service::Service<DiskLog>>>().await;
            reporter.set_not_serving::<ingest::Server>().await;
        })
        .await?;
    Ok(())
}

fn bind(address: SocketAddr) -> Result<TcpListener, CollectorError> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // Not to wait for the last connections of a collector before this one to be forgotten.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|source| CollectorError::Listen { address, source })
}

fn local(listener: &TcpListener, address: SocketAddr) -> Result<SocketAddr, CollectorError> {
    listener.local_addr().map_err(|source| CollectorError::Listen { address, source })
}

/// Cancelled at the first SIGTERM or SIGINT.
fn on_signal() -> Result<CancellationToken, CollectorError> {
    let stop = CancellationToken::new();
    let mut term = signal(SignalKind::terminate()).map_err(CollectorError::Signal)?;
    let mut int = signal(SignalKind::interrupt()).map_err(CollectorError::Signal)?;
    let stopped = stop.clone();
    tokio::spawn(async move {
        let why = tokio::select! {
            _ = term.recv() => "SIGTERM",
            _ = int.recv() => "SIGINT",
        };
        Stopping { why }.emit();
        stopped.cancel();
    });
    Ok(stop)
}
