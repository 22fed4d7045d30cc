//! Loads and attaches the BPF programs and reads their ring: the only module with `unsafe`, the only one that names aya.
