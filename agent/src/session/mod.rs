//! From the kernel's records to events: which sessions there are, and what was run in them.
//!
//! A pure state machine: no clock, no I/O, no panics, whatever it is fed. Time comes with the records.

pub mod record;
