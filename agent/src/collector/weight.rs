//! What a message takes of memory once it is decoded, told from its bytes before.
//!
//! An argument without anything is two bytes on the wire, and fifty times that as an element of a list of strings:
//! whoever bounds memory by what came over the wire bounds nothing.

use podtrail_proto::{
    Timestamp,
    reflect::{self, Kind, MessageInfo, Shape},
};
use prost::{
    DecodeError,
    bytes::Bytes,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};

/// What the allocator and the type take for a piece of text or bytes, beside its length.
const PIECE: usize = 64;
/// An element of a map, with all that a table that has just grown keeps for it.
const ENTRY: usize = 5 * (2 * size_of::<String>() + 1);
/// A list that has just grown has room for twice what is in it, and was copied from one half as large.
const GROWTH: usize = 3;

/// At most this many bytes are allocated to decode `message`; an error where it cannot be decoded.
pub fn report(message: &[u8]) -> Result<usize, DecodeError> {
    weigh(reflect::report(), message)
}

/// Of an event, what it takes of a budget in bytes of the wire: more than its length where it is out of proportion.
pub(super) fn event(message: &[u8]) -> usize {
    const ORDINARY: usize = 8;
    // What cannot be decoded takes nothing.
    weigh(reflect::event(), message).map_or(0, |bytes| bytes / ORDINARY).max(message.len())
}

fn weigh(info: &MessageInfo, mut message: &[u8]) -> Result<usize, DecodeError> {
    let mut bytes = 0_usize;
    // A list's first elements have room for four.
    let mut begun = 0_u64;
    while !message.is_empty() {
        let (tag, wire_type) = decode_key(&mut message)?;
        let before = message;
        skip_field(wire_type, tag, &mut message, DecodeContext::default())?;
        let Some((at, field)) = info.fields.iter().enumerate().find(|(_, field)| field.number == tag) else {
            continue;
        };
        let mut content = before.get(..before.len() - message.len()).unwrap_or_default();
        if wire_type == WireType::LengthDelimited {
            decode_varint(&mut content)?;
        }
        let (size, inside) = match field.kind {
            _ if field.shape == Shape::Map => (0, ENTRY + 2 * piece(content)),
            Kind::Text => (size_of::<String>(), piece(content)),
            Kind::Bytes => (size_of::<Bytes>(), piece(content)),
            Kind::Message(info) => (info.size, weigh(info, content)?),
            Kind::Timestamp | Kind::Duration => (size_of::<Timestamp>(), 0),
            // Packed, each is a byte at least.
            Kind::Bool | Kind::Int | Kind::Uint | Kind::Double | Kind::Enum(_) => {
                (size_of::<u64>() * content.len().max(1), 0)
            }
        };
        bytes += inside;
        if field.shape == Shape::List {
            let bit = 1_u64.checked_shl(u32::try_from(at).unwrap_or(u32::MAX)).unwrap_or(0);
            bytes += size * if begun & bit == 0 { GROWTH + 1 } else { GROWTH };
            begun |= bit;
        }
    }
    Ok(bytes)
}

fn piece(content: &[u8]) -> usize {
    if content.is_empty() { 0 } else { content.len() + PIECE }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use podtrail_proto::v1;
    use prost::Message as _;

    use super::*;

    /// What `weigh` does not look for is not there.
    #[test]
    fn maps_are_of_plain_values_and_no_message_is_in_itself() {
        fn look(
            info: &'static MessageInfo,
            above: &mut Vec<&'static str>,
            seen: &mut BTreeSet<&'static str>,
        ) {
            assert!(!above.contains(&info.name), "{} is in itself", info.name);
            assert!(info.fields.len() < 64, "{}", info.name);
            above.push(info.name);
            seen.insert(info.name);
            for field in info.fields {
                if let Kind::Message(inner) = field.kind {
                    assert!(field.shape != Shape::Map, "{}.{}", info.name, field.name);
                    look(inner, above, seen);
                }
            }
            above.pop();
        }
        let mut seen = BTreeSet::new();
        look(reflect::report(), &mut Vec::new(), &mut seen);
        assert!(seen.contains("Event") && seen.contains("SeqRange") && seen.contains("Finding"), "{seen:?}");
    }

    #[test]
    fn empty_elements_weigh_what_they_become_and_ordinary_events_what_they_are() {
        let list = |body| v1::Event { body: Some(body), ..v1::Event::default() }.encode_to_vec();
        let executed =
            |argv| list(v1::event::Body::Executed(v1::Executed { argv, ..v1::Executed::default() }));
        let empty = executed(vec![String::new(); 10_000]);
        let request =
            v1::ReportRequest { events: vec![v1::Event::decode(&*empty).unwrap()], ..Default::default() };
        let bytes = report(&request.encode_to_vec()).unwrap();
        assert!((30 * empty.len()..40 * empty.len()).contains(&bytes), "{bytes} of {}", empty.len());
        assert_eq!(event(&empty), weigh(reflect::event(), &empty).unwrap() / 8);
        let ordinary = executed(vec!["--an-option-of-a-common-length=value".to_owned(); 12]);
        assert_eq!(event(&ordinary), ordinary.len());
        assert_eq!(event(b"\xff"), 1);
        assert!(report(b"\xff").is_err());
    }
}
