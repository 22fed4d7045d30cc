//! The node's socket: `Trail` for whoever may open it.
