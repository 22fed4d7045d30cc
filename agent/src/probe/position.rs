//! Where reading has come to, as bytes for the spool: the place in the ring, and what was already told of the losses.
//!
//! It is kept together with the events that were made up to there, so that the next agent neither tells a record or a
//! loss twice nor leaves one out.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _},
};

use crate::event::BootTime;

/// Of these bytes' own format.
const VERSION: u8 = 1;

/// Names a ring for ever: chosen at random when it is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Instance(pub(super) [u8; 16]);

impl Instance {
    pub(super) fn random() -> io::Result<Self> {
        let mut bytes = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// Enough of it for the name of a directory.
    pub(super) fn name(&self) -> String {
        self.0.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What [`Position::ring`] counts in, and what was told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) instance: Instance,
    /// bytes of the ring, since it was made
    pub(super) ring: u64,
    /// when losses were last asked for
    pub(super) looked: BootTime,
    /// by index into `COUNTERS`: what was told; empty: it is not known
    pub(super) seen: Vec<u64>,
    /// by hook: skipped calls that were told
    pub(super) missed: BTreeMap<String, u64>,
    /// records that were read and not understood, not told yet
    pub(super) undecoded: u64,
    pub(super) undecoded_why: String,
}

impl Position {
    pub(super) fn encode(&self) -> Vec<u8> {
        let Self { instance: Instance(instance), ring, looked, seen, missed, undecoded, undecoded_why } =
            self;
        let mut out = Vec::with_capacity(64 + 9 * seen.len());
        out.push(VERSION);
        out.extend_from_slice(instance);
        for number in [*ring, looked.0, *undecoded] {
            put(&mut out, number);
        }
        text(&mut out, undecoded_why);
        put(&mut out, seen.len() as u64);
        for number in seen {
            put(&mut out, *number);
        }
        put(&mut out, missed.len() as u64);
        for (name, number) in missed {
            text(&mut out, name);
            put(&mut out, *number);
        }
        out
    }

    /// `None`: it is no position, or one of another podtrail.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let (&version, after) = rest.split_first()?;
        rest = after;
        if version != VERSION {
            return None;
        }
        let (instance, after) = rest.split_first_chunk::<16>()?;
        rest = after;
        let ring = take(&mut rest)?;
        let looked = BootTime(take(&mut rest)?);
        let undecoded = take(&mut rest)?;
        let undecoded_why = take_text(&mut rest)?;
        let seen = (0..take(&mut rest)?).map(|_| take(&mut rest)).collect::<Option<Vec<_>>>()?;
        let missed = (0..take(&mut rest)?)
            .map(|_| Some((take_text(&mut rest)?, take(&mut rest)?)))
            .collect::<Option<BTreeMap<_, _>>>()?;
        let instance = Instance(*instance);
        rest.is_empty().then_some(Self { instance, ring, looked, seen, missed, undecoded, undecoded_why })
    }
}

/// Seven bits a byte, the lowest first: most of these numbers are small, and a position is written with every batch.
fn put(out: &mut Vec<u8>, mut number: u64) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            return out.push(low & 0x7f);
        }
        out.push(low | 0x80);
    }
}

fn take(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        let bits = u64::from(byte & 0x7f);
        number |= bits.checked_shl(shift).filter(|shifted| shifted >> shift == bits)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn text(out: &mut Vec<u8>, text: &str) {
    put(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn take_text(rest: &mut &[u8]) -> Option<String> {
    let length = usize::try_from(take(rest)?).ok()?;
    let (bytes, after) = rest.split_at_checked(length)?;
    *rest = after;
    String::from_utf8(bytes.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn position() -> Position {
        Position {
            instance: Instance([7; 16]),
            ring: u64::MAX,
            looked: BootTime(1 << 40),
            seen: vec![0, 127, 128, u64::MAX],
            missed: BTreeMap::from([("exec".to_owned(), 3)]),
            undecoded: 2,
            undecoded_why: "kind 9 is not known".to_owned(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let position = position();
        assert_eq!(Position::decode(&position.encode()), Some(position));
    }

    #[test]
    fn part_of_it_or_more_is_none() {
        let bytes = position().encode();
        for length in 0..bytes.len() {
            assert_eq!(Position::decode(&bytes[..length]), None, "{length}");
        }
        assert_eq!(Position::decode(&[&bytes[..], &[0]].concat()), None);
    }

    #[test]
    fn another_format_is_none() {
        let mut bytes = position().encode();
        bytes[0] = VERSION + 1;
        assert_eq!(Position::decode(&bytes), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(first) = bytes.first_mut() { *first = VERSION; }
            let _ = Position::decode(&bytes);
        }
    }
}
