//! Configuration: files and flags as written, then checked, before anything is opened.

pub mod agent;
pub mod attribution;
pub mod audit;
pub mod collector;
pub mod detector;
pub mod kubernetes;
pub mod outputs;
mod principals;
pub mod settings;
mod tls;
pub mod ways;
