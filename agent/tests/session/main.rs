//! Sessions from end to end, without a kernel: traces of real runtimes and made-up cases are played to a simulated
//! kernel side, which runs the rules of the BPF programs, and its records to the state machine.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, its helpers too")]

mod build;
mod cases;
mod kernel;
mod machine;
mod properties;
mod tell;
mod trace;
mod traces;
