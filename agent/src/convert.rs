//! Internal events → `podtrail.v1` messages: proto types stop here.
