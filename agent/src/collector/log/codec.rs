//! Records of the log as bytes. The format stands in the documentation of `log`.

use std::sync::Arc;

use podtrail_proto::v1;
use prost::Message as _;

use crate::{
    collector::weight,
    trail::{Moment, log::Cursor},
};

/// Before every event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) logged: Moment,
    pub(super) before: u64,
}

/// An event as it is stored.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) header: Header,
    pub(super) event: Arc<v1::Event>,
}

/// An agent's buffer: within it numbers are dense.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeEpoch {
    pub cluster: String,
    pub node: String,
    pub epoch: u64,
}

/// How far one has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    pub seq: u64,
    /// of the event with that number
    pub time: Moment,
    /// where it stands
    pub cursor: Cursor,
}

/// Of a stored event, what it takes of a page or of the tail.
pub(super) fn cost(value: &[u8]) -> usize {
    weight::event(value.get(Header::BYTES..).unwrap_or_default())
}

/// The number in these bytes, if they are one.
pub(super) fn cursor(bytes: &[u8]) -> Option<Cursor> {
    bytes.try_into().ok().map(Cursor::from_be_bytes)
}

/// Splits off what the next `N` bytes are.
fn take<'a, const N: usize>(bytes: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(first)
}

impl Header {
    pub(super) const BYTES: usize = 16;

    pub(super) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let logged = Moment(i64::from_be_bytes(*take(&mut bytes)?));
        Some(Self { logged, before: u64::from_be_bytes(*take(&mut bytes)?) })
    }
}

impl Stored {
    pub(super) fn encode(header: Header, event: &v1::Event) -> Vec<u8> {
        let Header { logged, before } = header;
        let mut bytes = Vec::with_capacity(Header::BYTES + event.encoded_len());
        bytes.extend(logged.0.to_be_bytes());
        bytes.extend(before.to_be_bytes());
        event.encode_raw(&mut bytes);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let header = Header::decode(bytes).ok_or("it is cut short")?;
        let event = bytes.get(Header::BYTES..).unwrap_or_default();
        let event = v1::Event::decode(event).map_err(|_| "it is no event")?;
        Ok(Self { header, event: Arc::new(event) })
    }
}

impl NodeEpoch {
    /// Whose event it is, and its number; `None`: nobody's.
    pub(in crate::collector) fn of(event: &v1::Event) -> Option<(Self, u64)> {
        let v1::EventId { cluster, node, epoch, seq } = event.id.clone()?;
        (seq > 0).then_some((Self { cluster, node, epoch }, seq))
    }

    /// Names are cut to what a length of 16 bits can say; nobody is let in with longer ones.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for name in [&self.cluster, &self.node] {
            let len = u16::try_from(name.len()).unwrap_or(u16::MAX);
            bytes.extend(len.to_be_bytes());
            bytes.extend(name.bytes().take(len.into()));
        }
        bytes.extend(self.epoch.to_be_bytes());
        bytes
    }

    pub(super) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut name = || {
            let len = u16::from_be_bytes(*take(&mut bytes)?);
            let (name, rest) = bytes.split_at_checked(len.into())?;
            bytes = rest;
            String::from_utf8(name.to_vec()).ok()
        };
        let (cluster, node) = (name()?, name()?);
        Some(Self { cluster, node, epoch: cursor(bytes)? })
    }
}

impl Reached {
    pub(super) fn encode(self) -> Vec<u8> {
        let Self { seq, time, cursor } = self;
        [seq.to_be_bytes(), time.0.to_be_bytes(), cursor.to_be_bytes()].concat()
    }

    pub(super) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let seq = u64::from_be_bytes(*take(&mut bytes)?);
        let time = Moment(i64::from_be_bytes(*take(&mut bytes)?));
        Some(Self { seq, time, cursor: cursor(bytes)? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn comes_back_as_it_went(cluster: String, node: String, epoch: u64, seq: u64, time: i64, cursor: u64) {
            let key = NodeEpoch { cluster, node, epoch };
            prop_assert_eq!(NodeEpoch::decode(&key.encode()), Some(key));
            let reached = Reached { seq, time: Moment(time), cursor };
            prop_assert_eq!(Reached::decode(&reached.encode()), Some(reached));
        }

        #[test]
        fn any_bytes_are_read_without_harm(bytes: Vec<u8>) {
            _ = NodeEpoch::decode(&bytes);
            _ = Reached::decode(&bytes);
            _ = Stored::decode(&bytes);
        }
    }
}
