//! Logs of events, the sessions and nodes indexed from them, and the `Trail` service over both: for the collector
//! and for the node's socket.

pub mod log;
