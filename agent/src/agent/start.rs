//! From a checked configuration to a running agent: the lock, the kernel side, what was there before, the signals.

use std::{collections::HashMap, io, path::PathBuf};

use tokio::{
    net::TcpListener,
    runtime::Builder,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use super::{
    About, AgentError, Containers, First, Pipeline, Source, SourceError, Ways, lock::Lock, open_spool, run,
    selftest,
};
use crate::{
    config::agent::AgentConfig,
    container::{
        Directory, ExactStart, Hierarchy, Host, HostNamespaces, Limits, Owners, Scan, Snapshot, follow,
        host_namespaces, recover,
    },
    convert::boot_now,
    detector::Detector,
    doctor::{self, Report},
    escape,
    event::{BootTime, Finding, GapSource, Hook, Start, TaskKey},
    pods::{self, Pods, Socket, Timing},
    probe::{self, Inherited, Probe, ProbeError, RawRecord, Resumed},
    session::{
        Followed, Machine,
        record::{Lost, Record},
    },
    state::State,
    telemetry::{Health, Metrics, http},
    trail::Moment,
    wayin::{Kubelet, WayIn},
};

/// Runs the agent on this node until it is told to stop.
pub fn start(config: &AgentConfig) -> Result<(), AgentError> {
    // One thread: everything here is short, and waking another costs more than the work.
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .build()
        .map_err(|source| AgentError::System { call: "start the runtime", source })?;
    // A task, not the runtime's root: whatever wakes the root costs a write to an eventfd and another turn of epoll.
    let task = runtime.spawn(on_this_node(config.clone()));
    let ended =
        runtime.block_on(task).unwrap_or_else(|panicked| Err(AgentError::Panicked(panicked.to_string())));
    // Whoever still asks something must not hold up the end.
    runtime.shutdown_background();
    ended
}

/// What `podtrail-agent doctor` says.
pub fn examine(config: &AgentConfig) -> Result<Report, AgentError> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| AgentError::System { call: "start the runtime", source })?;
    Ok(runtime.block_on(async {
        let runtimes = pods::survey(&config.runtime_socket).await;
        doctor::examine(config, runtimes)
    }))
}

async fn on_this_node(config: AgentConfig) -> Result<(), AgentError> {
    let config = &config;
    let stop = CancellationToken::new();
    watch_signals(stop.clone())?;
    let _lock = Lock::take(&config.lock)?;
    let about = About::read()?;
    let health = Health::new();
    let hooks = health.component("kernel hooks");
    let integrity = health.component("integrity");
    let kept = health.component("spool");
    serve_metrics(config, health, stop.clone()).await?;

    let host = Host::default();
    let hierarchy = Hierarchy::find(&host)?;
    let namespaces = host_namespaces(&host);
    if let Some(note) = &namespaces.note {
        tracing::warn!("{note}");
    }
    if !hierarchy.whole {
        tracing::warn!(
            mount = %hierarchy.mount.display(),
            "only a part of the node's cgroups can be seen: mount the node's /sys/fs/cgroup to name containers"
        );
    }
    let (spool, saved) = open_spool(config, &about)?;
    spool.report_to(kept);
    let options = probe_options(config, &hierarchy, &namespaces);
    let (mut probe, resumed, inherited) = Probe::load(&options, saved.source.as_deref())?;
    let attached = boot_now();
    selftest::try_out(&mut probe, &host, &hierarchy, &namespaces).map_err(SourceError::Probe)?;
    match &resumed {
        Resumed::Fresh { why } => tracing::info!(why, "the kernel side is new"),
        Resumed::Adopted => tracing::info!("the kernel side went on recording: reading on"),
        Resumed::Upgraded { why } => {
            tracing::info!(why, "the kernel side went on recording: its programs are new");
        }
    }
    let Inherited { continued, records: left, losses, findings } = inherited;
    // Containers that went while no agent ran are still known by name. What is there now is put over it.
    let grace_ns = u64::try_from(config.container_grace.as_nanos()).unwrap_or(u64::MAX);
    let limits = Limits { grace_ns, ..Limits::default() };
    let known = if continued { Directory::restore(limits, &saved.state).ok() } else { None };
    let known = known.unwrap_or_else(|| Directory::new(limits));
    let before =
        Before::find(&mut probe, &host, &hierarchy, &namespaces, attached, resumed.went_on(), known)?;
    probe::give_back_memory();
    if config.realtime
        && let Err(error) = probe::run_first()
    {
        tracing::info!(%error, "runs at normal priority: a storm of processes may keep it from reading the ring");
    }
    hooks.ready();
    tracing::info!(
        node = config.node_name,
        cgroups = hierarchy.mode.as_str(),
        containers = before.containers,
        sessions = before.records.len(),
        "recording"
    );
    let Before { directory, containers: _, records: mut recovered } = before;
    let mut findings = findings;
    let mut machine = None;
    if continued && !saved.state.is_empty() {
        match Machine::restore(&about.boot_id, &saved.state) {
            Ok(restored) => machine = Some(restored),
            Err(error) => findings.push(Finding {
                subject: "state".to_owned(),
                detail: format!("sessions are recovered from /proc: {error}"),
                time: attached,
            }),
        }
    }
    let mut told = None;
    let goes_on = machine.is_some();
    if goes_on {
        // It knows its sessions.
        recovered.clear();
        let since = saved.last_at_work.map(boot_time);
        told = pods::Sessions::restore(&about.boot_id, &saved.state, since).ok();
    } else {
        // Where there is none, the spool has told it.
        let lost = resumed.went_on() && saved.source.is_some();
        spool.forget_state(saved.last_at_work.filter(|_| lost), Moment::now());
        let since = probe.begin_anew();
        // What was refused before is told by the agent before, or in nobody's name.
        let refused = probe.refused(&[]).map_err(SourceError::Probe)?;
        machine = Some(Machine::new(&about.boot_id).goes_on_after(since, boot_now(), refused));
    }
    let mut unused = held_back(&saved.unused, attached);
    let mut ways = match WayIn::restore(config.ways, &saved.state) {
        Ok(restored) => Ways::new(restored),
        Err(error) => {
            findings.push(Finding {
                subject: "state".to_owned(),
                detail: format!("sessions that were held back are gone: {error}"),
                time: attached,
            });
            unused = unused.or(held_back(&saved.state, attached));
            Ways::new(WayIn::new(config.ways))
        }
    };
    if !goes_on {
        // Nothing comes of these sessions any more.
        ways.let_go();
    }
    if let Some(options) = &config.kubelet {
        ways.ask(Kubelet::start(options.clone()));
    }
    let losses: Vec<Lost> = losses.into_iter().chain(unused).collect();
    let absent = absent(&resumed, &losses, saved.last_at_work, attached);
    let lost = losses.into_iter().chain(absent).map(|lost| RawRecord::Session(Record::Lost(lost)));
    let records: Vec<RawRecord> = lost.chain(recovered).chain(left).collect();
    findings.extend(saved.findings.iter().map(|detail| Finding {
        subject: "spool".to_owned(),
        detail: detail.clone(),
        time: attached,
    }));
    let first = First {
        upgraded: matches!(resumed, Resumed::Upgraded { why: _ }),
        start: Start {
            adopted: resumed.went_on(),
            stopped_cleanly: saved.stopped_cleanly,
            since: saved.last_at_work.map(|moment| moment.0),
        },
        findings,
    };
    let containers =
        Containers::new(directory, Some(Owners::new(host, hierarchy.clone(), namespaces)), Some(hierarchy))
            .asks(!config.runtime_socket.places().is_empty());
    let pods = (config.runtime_socket != Socket::Nowhere)
        .then(|| Pods::start(config.runtime_socket.clone(), config.pod_rules(), Timing::default()));
    let pipeline = Pipeline::new(probe, containers, about).begins(first, config.integrity_every, integrity);
    let detector = Detector::start(config.detector);
    let pipeline = pipeline.goes_on(machine).looks_with(ways).asks(pods, told).observes(detector);
    let ended = Box::pin(run(config, spool, pipeline, records, stop)).await;
    hooks.not_ready("stopped");
    ended
}

/// What was held back, in a state that nobody goes on with.
fn held_back(state: &State, now: BootTime) -> Option<Lost> {
    let (count, exact) = WayIn::lost_with(state);
    (count > 0).then(|| Lost {
        from: now,
        time: now,
        source: GapSource::AgentBuffer,
        count,
        exact,
        detail: "sessions that were held back when the agent before ended".to_owned(),
    })
}

/// The time in which nothing was hooked, as far as it is not told by `losses` already: from the last word of the agent
/// before to this one's hooks.
fn absent(resumed: &Resumed, losses: &[Lost], last: Option<Moment>, attached: BootTime) -> Option<Lost> {
    let told = losses.iter().any(|lost| lost.source == GapSource::HooksAbsent);
    if resumed.went_on() || told {
        return None;
    }
    Some(Lost {
        from: boot_time(last?),
        time: attached,
        source: GapSource::HooksAbsent,
        count: 0,
        exact: false,
        detail: "no agent, and nothing pinned".to_owned(),
    })
}

/// A moment of the past, on the clock that events have.
fn boot_time(moment: Moment) -> BootTime {
    let ago = u64::try_from(Moment::now().since(moment).as_nanos()).unwrap_or(u64::MAX);
    BootTime(boot_now().0.saturating_sub(ago))
}

/// Removes what is pinned: nothing records on this node any more. Answers what was removed, for people.
pub fn unload(config: &AgentConfig) -> Result<String, AgentError> {
    // A running agent would pin it all again.
    let _lock = Lock::take(&config.lock)?;
    let Some(dir) = &config.pin else { return Ok("nothing is pinned: --pin is none\n".to_owned()) };
    let removed = probe::unload(dir).map_err(ProbeError::from)?;
    let shown = dir.display().to_string();
    let shown = escape::guard(&shown);
    if removed.is_empty() {
        return Ok(format!("nothing was pinned in {shown}\n"));
    }
    let line = |path: &PathBuf| format!("removed {}\n", escape::guard(&path.display().to_string()));
    Ok(removed.iter().map(line).collect::<String>() + "nothing records on this node now\n")
}

/// How the probe is to load. Shared with `doctor`, which says how it would.
pub(crate) fn probe_options(
    config: &AgentConfig,
    hierarchy: &Hierarchy,
    namespaces: &HostNamespaces,
) -> probe::Options {
    let HostNamespaces { mnt, pid, user, cgroup: _, root, found_by: _, note: _ } = *namespaces;
    let default = probe::Options::default();
    probe::Options {
        argv_limit: config.argv_limit,
        argv_budget: config.session_argv_budget,
        ring_size: config.ring_size.unwrap_or(default.ring_size),
        setns: config.setns,
        failed: config.failed_execs,
        preempted: config.preempted.unwrap_or(default.preempted),
        btf: config.btf.clone(),
        diagnose: config.diagnose,
        host: probe::Host {
            mnt_ns: mnt,
            pid_ns: pid,
            user_ns: user,
            root: root.map(|root| (root.inode, root.device)),
            controller: hierarchy.controller.clone(),
            hierarchy: hierarchy.id,
        },
        pin: config.pin.clone(),
        ..default
    }
}

/// What was there before the agent.
struct Before {
    directory: Directory,
    containers: usize,
    records: Vec<RawRecord>,
}

impl Before {
    /// Looks twice: a process that forked before its session was in the kernel's map left a child that nobody follows.
    ///
    /// Where the kernel side `went_on`, it knows its tasks better than `/proc` does: sessions are those that it has, by
    /// its own names, and of the maps only cgroups and namespaces are filled up.
    fn find(
        probe: &mut Probe,
        host: &Host,
        hierarchy: &Hierarchy,
        namespaces: &HostNamespaces,
        attached: BootTime,
        went_on: bool,
        known: Directory,
    ) -> Result<Self, AgentError> {
        let mut directory = known;
        let mut sessions = HashMap::new();
        let mut order = Vec::new();
        let mut ended = Vec::new();
        for _ in 0..2 {
            let starts = Starts(probe.start_times().map_err(SourceError::Probe)?);
            let scan = Scan { host, hierarchy, namespaces, time: boot_now(), self_pid: std::process::id() };
            let mut snapshot: Snapshot = recover(&scan, &starts)?;
            if went_on {
                probe.rename(&mut snapshot).map_err(SourceError::Probe)?;
            }
            directory.seed(scan.time, &snapshot.containers);
            ended.extend(probe.seed(&snapshot).map_err(SourceError::Probe)?);
            if !snapshot.unkeyed.is_empty() {
                tracing::debug!(
                    processes = snapshot.unkeyed.len(),
                    "left out: they ended while they were looked at"
                );
            }
            for session in snapshot.recovered {
                // What came after the hooks is in the ring already.
                if session.entry.start_time < attached.0 {
                    let key = session.entry;
                    if sessions.insert(key, session).is_none() {
                        order.push(key);
                    }
                }
            }
        }
        let containers = directory.containers().count();
        let recovered = order.iter().filter_map(|key| sessions.remove(key));
        let mut records: Vec<RawRecord> =
            recovered.map(|session| RawRecord::Session(Record::Recovered(Box::new(session)))).collect();
        records.append(&mut ended);
        Ok(Self { directory, containers, records })
    }
}

struct Starts(HashMap<u32, u64>);

impl ExactStart for Starts {
    fn start_time(&self, pid: u32) -> Option<u64> {
        self.0.get(&pid).copied()
    }
}

impl Source for Probe {
    fn hooks(&self) -> Vec<Hook> {
        Self::hooks(self)
    }

    async fn read(&mut self, out: &mut Vec<RawRecord>) -> Result<(), SourceError> {
        Ok(Self::read(self, out).await?)
    }

    fn drain(&mut self, out: &mut Vec<RawRecord>) -> bool {
        Self::drain(self, out)
    }

    fn losses(&mut self) -> Result<Vec<Lost>, SourceError> {
        Ok(Self::losses(self)?)
    }

    fn position(&self) -> Vec<u8> {
        Self::position(self)
    }

    fn release(&mut self) {
        Self::release(self);
    }

    fn told(&mut self, untold: Option<i64>) {
        Self::told(self, untold);
    }

    fn is_crowded(&self) -> bool {
        Self::is_crowded(self)
    }

    fn written(&self) -> u64 {
        Self::written(self)
    }

    fn read_to(&self) -> u64 {
        Self::read_to(self)
    }

    fn refused(&mut self, sessions: &[TaskKey]) -> Result<Vec<(TaskKey, u64)>, SourceError> {
        Ok(Self::refused(self, sessions)?)
    }

    fn check(&mut self) -> Vec<Finding> {
        Self::check(self)
    }

    /// Twice, as at start: what was forked before its session was known is found the second time.
    fn follow(&mut self, container: u64, scan: &Scan<'_>) -> Result<Vec<RawRecord>, SourceError> {
        let mut sessions = HashMap::new();
        let mut ended = Vec::new();
        for _ in 0..2 {
            let starts = Starts(self.start_times()?);
            let snapshot = follow(scan, &starts, container)?;
            ended.extend(self.seed(&snapshot)?);
            sessions.extend(snapshot.recovered.into_iter().map(|session| (session.entry, session)));
        }
        let told = sessions.into_values().map(|session| Record::Recovered(Box::new(session)));
        Ok(told.map(RawRecord::Session).chain(ended).collect())
    }

    fn gone(&mut self, followed: Followed) -> Result<Followed, SourceError> {
        Ok(Self::gone(self, followed)?)
    }
}

fn watch_signals(stop: CancellationToken) -> Result<(), AgentError> {
    let io = |source| AgentError::System { call: "watch for signals", source };
    let mut terminate = signal(SignalKind::terminate()).map_err(io)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(io)?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    Ok(())
}

async fn serve_metrics(
    config: &AgentConfig,
    health: Health,
    stop: CancellationToken,
) -> Result<(), AgentError> {
    let Some(address) = config.metrics_listen else { return Ok(()) };
    // Before anything is counted.
    Metrics::global();
    super::describe();
    let listener =
        TcpListener::bind(address).await.map_err(|e: io::Error| AgentError::Metrics(address, e))?;
    tokio::spawn(http::serve(listener, health, stop));
    Ok(())
}
