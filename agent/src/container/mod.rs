//! Which container a cgroup is, and what `/proc` says of containers and sessions that were there before the agent.
//!
//! | module | what it does |
//! |---|---|
//! | [`name`] | what a cgroup's path says of its container |
//! | [`directory`] | cgroup id → container, fed by the kernel side's reports |
//! | [`host`] | where the node's `/proc` and cgroups are mounted, and its own namespaces |
//! | [`cgroupfs`] | the hierarchy that containers are told by, and all cgroups in it |
//! | [`process`] | what `/proc` says of one process |
//! | [`recover`] | containers and sessions that were there before the agent |
//! | [`owner`] | the container that a namespace belongs to |
//!
//! Names, paths and arguments are whatever a container's people made them: bytes, bounded, never trusted.

pub mod cgroupfs;
pub mod directory;
pub mod host;
pub mod name;
pub mod owner;
pub mod process;
pub mod recover;

#[cfg(test)]
pub(crate) mod fake;

pub use cgroupfs::{CgroupError, Found, Hierarchy, Mode};
pub use directory::{ContainerInfo, Directory, Limits};
pub use host::{Host, HostNamespaces, host_namespaces};
pub use name::Runtime;
pub use owner::Owners;
pub use recover::{ExactStart, NoExactStart, RecoverError, Scan, Snapshot, follow, recover};
