//! The reader's place in the queue for a processor.
//!
//! A storm of short processes on all processors was seen to keep a waiting agent of normal priority, and of any nice
//! value, from running for seconds (Linux 6.18), long enough to fill any ring. The lowest real-time priority ends that.
//! It is safe here: the agent is one thread, which sleeps between batches, and the kernel leaves 5 % of every processor
//! to the others whatever it does (sched_rt_runtime_us).

use std::io;

use nix::{errno::Errno, libc};

/// Gives the calling thread the lowest real-time priority; threads that it starts do not have it. Needs CAP_SYS_NICE.
pub fn run_first() -> io::Result<()> {
    let param = libc::sched_param { sched_priority: 1 };
    // SAFETY: `param` is a whole sched_param, and 0 is the calling thread.
    let set =
        unsafe { libc::sched_setscheduler(0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &raw const param) };
    Errno::result(set).map(|_zero| ()).map_err(io::Error::from)
}
