//! The agent's stages put together.
