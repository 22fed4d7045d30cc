//! What the store keeps beside the events, as protobuf messages: fields are added, never changed.

use podtrail_proto::v1;

/// Rewritten by every batch.
pub(super) const ENDS: &str = "ends";
/// Rewritten by every start and stop.
pub(super) const LIFE: &str = "life";
/// What was dropped and not told yet.
pub(super) const GAPS: &str = "gaps";

/// Where things begin and end; all are cursors.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Ends {
    /// the newest event
    #[prost(uint64, tag = "1")]
    pub(super) last: u64,
    #[prost(uint64, tag = "2")]
    pub(super) acked: u64,
    /// nothing after this was ever sent
    #[prost(uint64, tag = "3")]
    pub(super) sent: u64,
    /// what the rows take
    #[prost(uint64, tag = "4")]
    pub(super) bytes: u64,
    #[prost(uint64, tag = "5")]
    pub(super) events: u64,
    /// when the newest was logged, unix ns
    #[prost(int64, tag = "6")]
    pub(super) logged: i64,
    /// the source's; absent: none
    #[prost(bytes = "vec", optional, tag = "7")]
    pub(super) position: Option<Vec<u8>>,
}

/// Whose events these are, and how the agent that wrote them ended.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Life {
    /// oldest first; never empty once there is a spool
    #[prost(message, repeated, tag = "1")]
    pub(super) epochs: Vec<Epoch>,
    #[prost(string, tag = "2")]
    pub(super) boot_id: String,
    #[prost(bool, tag = "3")]
    pub(super) stopped_cleanly: bool,
}

/// Numbers begin at 1 again.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Epoch {
    #[prost(string, tag = "1")]
    pub(super) cluster: String,
    #[prost(string, tag = "2")]
    pub(super) node: String,
    #[prost(uint64, tag = "3")]
    pub(super) epoch: u64,
    /// the cursor before its first event: its seq is the cursor less this
    #[prost(uint64, tag = "4")]
    pub(super) base: u64,
    /// the cursor of its last event; of the newest, which goes on, the greatest there is
    #[prost(uint64, tag = "5")]
    pub(super) end: u64,
}

/// Gaps to be.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Gaps {
    #[prost(message, repeated, tag = "1")]
    pub(super) gaps: Vec<v1::Gap>,
    /// events dropped since the spool was new
    #[prost(uint64, tag = "2")]
    pub(super) dropped: u64,
}

pub(super) fn encode(message: &impl prost::Message) -> Vec<u8> {
    message.encode_to_vec()
}

pub(super) fn decode<M: prost::Message + Default>(bytes: &[u8]) -> Option<M> {
    M::decode(bytes).ok()
}
