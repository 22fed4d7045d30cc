//! What podtrail's BPF programs and user space both know: the [`layout`] of records and map values, the kernel
//! fields that are read ([`offsets`]), the
//! [`rules`] by which tasks become members of containers and sessions, the [`budget`] of each, and what is looked for in an
//! [`environ`]ment.
//!
//! Nothing here calls the kernel: it compiles for `bpfel-unknown-none` and for the host, where the rules are
//! tested by replaying traces.
#![no_std]

pub mod budget;
pub mod environ;
pub mod layout;
pub mod offsets;
pub mod rules;
