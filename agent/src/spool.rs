//! Numbers events and keeps them until the collector has acknowledged them; readers of the node's socket read from it too.
