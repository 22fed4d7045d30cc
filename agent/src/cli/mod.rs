//! `podtrail tail | sessions | session | nodes`: the trail for people and scripts.
