//! What podtrail's BPF programs and user space both know: the [`layout`] of records and map values, the kernel
//! fields that are read ([`offsets`]), the
//! [`rules`] by which tasks become members of containers and sessions, and the [`budget`] of each.
//!
//! Nothing here calls the kernel: it compiles for `bpfel-unknown-none` and for the host, where the rules are
//! tested by replaying traces.
#![no_std]

pub mod budget;
pub mod layout;
pub mod offsets;
pub mod rules;
