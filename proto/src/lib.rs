//! `podtrail.v1`: generated messages and services, and their canonical JSON (serde).
//!
//! The contract is `podtrail/v1/podtrail.proto`; nothing here is written by hand.

/// Version 1 of the contract.
pub mod v1 {
    #![expect(
        clippy::all,
        clippy::pedantic,
        clippy::restriction,
        unused_qualifications,
        reason = "generated code"
    )]
    tonic::include_proto!("podtrail.v1");
    include!(concat!(env!("OUT_DIR"), "/podtrail.v1.serde.rs"));
    include!(concat!(env!("OUT_DIR"), "/podtrail.v1.reflect.rs"));

    /// The encoded `FileDescriptorSet`, for gRPC reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/podtrail.v1.bin"));
}

/// What container runtimes are asked, in their own words: as much of it as podtrail reads.
pub mod runtime {
    #![expect(
        clippy::all,
        clippy::pedantic,
        clippy::restriction,
        unused_qualifications,
        reason = "generated code"
    )]

    /// The Container Runtime Interface: `runtime/cri.proto`.
    pub mod cri {
        tonic::include_proto!("runtime.v1");
    }

    /// containerd's events: `runtime/containerd_events.proto`.
    pub mod events {
        tonic::include_proto!("containerd.services.events.v1");
    }

    /// containerd's tasks: `runtime/containerd_tasks.proto`.
    pub mod tasks {
        tonic::include_proto!("containerd.services.tasks.v1");
    }
}

pub mod reflect;
mod timestamp;

pub use pbjson_types::Duration;
pub use timestamp::Timestamp;
