//! From a checked configuration to a running agent.

use crate::config::agent::AgentConfig;

use super::AgentError;

/// Runs the agent.
pub fn start(config: &AgentConfig) -> Result<(), AgentError> {
    let _ = config;
    Ok(())
}
