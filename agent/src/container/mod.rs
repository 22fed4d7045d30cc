//! Which container a cgroup is, and what `/proc` says of containers and sessions that were there before the agent.
