//! podtrail: the audit trail for what happens inside pods after somebody gets in.
//!
//! One direction: data only flows down this list. Each stage knows the types of the one before it and nothing of
//! the one after.
//!
//! | module | what it does |
//! |---|---|
//! | [`probe`] | loads and attaches the BPF programs, reads their ring: the only `unsafe`, the only one that names aya |
//! | [`session`] | a pure state machine from the kernel's records to events: no clock, no I/O |
//! | [`container`] | cgroup id → container; what `/proc` says at start |
//! | [`pods`] | what the node's container runtime says of containers: pod, name, image |
//! | [`state`] | what session and container know, as bytes that outlive the agent |
//! | [`wayin`] | how a session in a pod came in; probes, folded |
//! | [`detector`] | what the node-problem-detector of this node says |
//! | [`convert`] | events → `podtrail.v1` messages: proto types stop here |
//! | [`spool`] | numbers events and keeps them until they are acknowledged |
//! | [`uplink`] | the stream to the collector |
//! | [`trail`] | logs, sessions indexed from them, and the `Trail` service over both |
//! | [`filter`] | which events a reader wants: CEL over their fields |
//! | [`local`] | the node's socket |
//! | [`collector`] | ingest, and the log on disk |
//! | [`cli`] | `podtrail tail | sessions | session | nodes` |
//! | [`agent`] | the agent's parts put together, `podtrail-agent` |
//! | [`doctor`] | can the agent run here, and how |
//! | [`clock`] | the wall clock, read in one place |
//! | [`condition`] | what a node's condition means |
//! | [`json`] | canonical protobuf JSON, a message a line |
//! | [`ask`] | one question by HTTP to somebody on this node |
//! | [`backoff`] | how long to wait before the next attempt |
//! | [`escape`] | what comes from outside, made fit for a terminal or a log |
//! | [`config`] | configuration files and flags, checked before anything is opened |
//! | [`tls`] | mutual TLS: certificates, who they name, and files that change |
//! | [`telemetry`] | logs, metrics, health |

pub mod ask;
pub mod backoff;
pub mod clock;
pub mod condition;
pub mod escape;
pub mod event;
pub mod json;
pub mod session;
pub mod state;

pub mod agent;
pub mod cli;
pub mod collector;
pub mod config;
pub mod container;
pub mod convert;
pub mod detector;
pub mod doctor;
pub mod filter;
pub mod local;
pub mod pods;
pub mod probe;
pub mod spool;
pub mod telemetry;
pub mod tls;
pub mod trail;
pub mod uplink;
pub mod wayin;
