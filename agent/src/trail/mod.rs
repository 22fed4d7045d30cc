//! Logs of events, the sessions and nodes indexed from them, and the `Trail` service over both: for the collector
//! and for the node's socket.
//!
//! | module | what it does |
//! |---|---|
//! | [`attributions`] | whose session an event is of, put on it when it is sent |
//! | [`cursor`] | places in a log, as readers get them |
//! | [`log`] | what a log is: append, read from a cursor, trim |
//! | [`memory`] | a log in memory, bounded by bytes |
//! | [`index`] | sessions and nodes counted from events: no clock, no I/O |
//! | [`indexed`] | a log and its index, kept in step |
//! | [`rights`] | what a principal may see of it |
//! | [`viewer`] | who asks, and what they may see |
//! | [`sight`] | what one reader gets to see of it |
//! | [`subscriptions`] | what the collector serves beside |
//! | [`service`] | `podtrail.v1.Trail` over an indexed log |
//!
//! Nothing here knows where events come from, and nothing here ever changes one.

pub mod attributions;
pub mod cursor;
pub mod index;
pub mod indexed;
pub mod log;
pub mod memory;
pub mod moment;
pub mod rights;
pub mod service;
pub mod sight;
pub mod subscriptions;
#[cfg(test)]
pub(crate) mod testing;
pub mod viewer;

pub use cursor::LogId;
pub use indexed::Indexed;
pub use memory::MemoryLog;
pub use moment::Moment;

/// The largest gRPC message of `podtrail.v1` that anybody has to take: one event with the longest argv the kernel
/// allows, written twice (as text and as bytes). Pages of many events stay under 4 MiB.
pub const MAX_MESSAGE_BYTES: usize = 32 * 1024 * 1024;
