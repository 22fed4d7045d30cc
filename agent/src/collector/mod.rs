//! The collector: takes events in from agents, keeps them in a log on disk, serves readers.
