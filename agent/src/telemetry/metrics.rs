//! The metrics of this process, as Prometheus reads them.

use std::sync::OnceLock;

use metrics::{Unit, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

/// Handle to the recorder that the `metrics` macros of this process write to.
#[derive(Clone, Debug)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl Metrics {
    /// The process's own: set up at the first call.
    pub fn global() -> &'static Self {
        static GLOBAL: OnceLock<Metrics> = OnceLock::new();
        GLOBAL.get_or_init(|| {
            let recorder = PrometheusBuilder::new().build_recorder();
            let handle = recorder.handle();
            // Fails only where something else recorded first: then that one counts, and ours stays empty.
            _ = metrics::set_global_recorder(recorder);
            Self::describe();
            gauge!("podtrail_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
            Self { handle }
        })
    }

    /// Names and units of what every daemon has.
    pub fn describe() {
        describe_gauge!("podtrail_build_info", "1; the version is its label");
        describe_counter!(
            "podtrail_filter_undecided_total",
            Unit::Count,
            "Events that were delivered because a filter could not decide, by reason"
        );
        describe_gauge!("process_resident_memory_bytes", Unit::Bytes, "Memory in use");
        describe_gauge!(
            "process_cpu_seconds_total",
            Unit::Seconds,
            "Processor time used, in user space and kernel"
        );
        describe_gauge!("process_open_fds", Unit::Count, "Open file descriptors");
        describe_gauge!("process_threads", Unit::Count, "Threads");
    }

    /// In Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        process();
        self.handle.run_upkeep();
        self.handle.render()
    }
}

/// What `/proc` says of this process, by the names that every Prometheus client uses.
fn process() {
    let Ok(me) = procfs::process::Process::myself() else { return };
    if let Ok(stat) = me.stat() {
        #[expect(clippy::cast_precision_loss, reason = "a metric")]
        {
            gauge!("process_resident_memory_bytes").set(stat.rss.saturating_mul(procfs::page_size()) as f64);
            let ticks = stat.utime.saturating_add(stat.stime);
            gauge!("process_cpu_seconds_total").set(ticks as f64 / procfs::ticks_per_second() as f64);
            gauge!("process_threads").set(stat.num_threads as f64);
        }
    }
    if let Ok(fds) = me.fd_count() {
        gauge!("process_open_fds").set(u32::try_from(fds).unwrap_or(u32::MAX));
    }
}
