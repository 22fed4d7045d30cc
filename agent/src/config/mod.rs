//! Configuration: files and flags as written (`raw`), then checked (`checked`), before anything is opened.

pub mod collector;
pub mod file;
