//! Can the agent run here, with which hooks, and if not, what to do about it.
