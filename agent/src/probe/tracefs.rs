//! tracefs, for the one hook that asks it for a number: where nobody has mounted it, a thread does in a mount namespace
//! of its own, which is gone with the thread. The node's mounts stay as they are.

use std::{fs, thread};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use super::ProbeError;

const TRACING: &str = "/sys/kernel/tracing";
const DEBUG: &str = "/sys/kernel/debug/tracing";

/// Whether tracefs is there, where aya looks for it.
pub(super) fn is_mounted() -> bool {
    [TRACING, DEBUG].iter().any(|path| fs::metadata(format!("{path}/events")).is_ok())
}

/// Does `work` on a thread that has tracefs mounted, or has not if that fails: the second value says.
pub(super) fn with_own<T: Send>(work: impl FnOnce() -> T + Send) -> Result<(T, nix::Result<()>), ProbeError> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let mounted = mount_own();
            (work(), mounted)
        });
        thread.join().map_err(|_| ProbeError::Setns("the thread that attaches it failed".to_owned()))
    })
}

fn mount_own() -> nix::Result<()> {
    const NONE: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    // What is mounted here must not come out again.
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("tracefs"), TRACING, Some("tracefs"), flags, NONE)
}
