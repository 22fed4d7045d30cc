//! Which events of a log belong to one session: about a byte an event.

use std::collections::VecDeque;

use crate::trail::log::Cursor;

/// Ascending cursors, each marked as a command or not. All but the first are kept as the distance from the one
/// before, in base-128 digits, least significant first, the top bit saying that more follow; the lowest bit of the
/// number is the mark.
#[derive(Clone, Debug, Default)]
pub(super) struct Cursors {
    first: Option<(Cursor, bool)>,
    last: Cursor,
    commands: u64,
    rest: VecDeque<u8>,
}

impl Cursors {
    /// The oldest that is left.
    pub(super) fn first(&self) -> Option<Cursor> {
        self.first.map(|(c, _)| c)
    }

    /// How many are marked.
    pub(super) fn commands(&self) -> u64 {
        self.commands
    }

    /// Adds one, which must be after all others; another is passed over.
    pub(super) fn push(&mut self, cursor: Cursor, command: bool) {
        if self.first.is_none() {
            self.first = Some((cursor, command));
        } else if cursor > self.last {
            // 2^63 events are beyond any log.
            let mut n = ((cursor - self.last) << 1) | u64::from(command);
            while n >= 0x80 {
                #[expect(clippy::cast_possible_truncation, reason = "one digit of base 128")]
                self.rest.push_back((n as u8 & 0x7f) | 0x80);
                n >>= 7;
            }
            #[expect(clippy::cast_possible_truncation, reason = "the last digit of base 128")]
            self.rest.push_back(n as u8);
        } else {
            return;
        }
        self.last = cursor;
        self.commands += u64::from(command);
    }

    /// Drops those before `oldest`.
    pub(super) fn trim(&mut self, oldest: Cursor) {
        while let Some((cursor, command)) = self.first
            && cursor < oldest
        {
            self.commands -= u64::from(command);
            let mut used = 0;
            let next = decode(&mut self.rest.iter().inspect(|_| used += 1));
            self.rest.drain(..used);
            self.first = next.map(|(distance, command)| (cursor + distance, command));
        }
        if self.first.is_none() {
            *self = Self::default();
        } else if self.rest.capacity() > 64 && self.rest.len() < self.rest.capacity() / 4 {
            self.rest.shrink_to_fit();
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Cursor> + '_ {
        let mut digits = self.rest.iter();
        let mut at = self.first.map(|(c, _)| c);
        std::iter::from_fn(move || {
            let now = at?;
            at = decode(&mut digits).map(|(distance, _)| now + distance);
            Some(now)
        })
    }
}

fn decode<'a>(digits: &mut impl Iterator<Item = &'a u8>) -> Option<(u64, bool)> {
    let mut n = 0u64;
    for (place, digit) in digits.enumerate() {
        n |= u64::from(digit & 0x7f) << (7 * place);
        if digit & 0x80 == 0 {
            return Some((n >> 1, n & 1 == 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keeps_what_was_pushed(
            steps in prop::collection::vec((1u64..1 << 40, any::<bool>()), 0..50),
            cut in 0u64..1 << 42,
        ) {
            let mut all = Vec::new();
            let mut packed = Cursors::default();
            let mut at = 0;
            for (step, command) in steps {
                at += step;
                all.push((at, command));
                packed.push(at, command);
                packed.push(at, true); // not ascending: passed over
            }
            let same = |packed: &Cursors, all: &[(u64, bool)]| {
                assert_eq!(packed.iter().collect::<Vec<_>>(), all.iter().map(|e| e.0).collect::<Vec<_>>());
                assert_eq!(packed.commands(), all.iter().filter(|e| e.1).count() as u64);
                assert_eq!(packed.first(), all.first().map(|e| e.0));
            };
            same(&packed, &all);
            packed.trim(cut);
            all.retain(|e| e.0 >= cut);
            same(&packed, &all);
        }
    }
}
