//! Arguments: put together from the pieces in which the kernel side sends them, and split at their NULs.
//!
//! Bytes pass unchanged, whatever they are. What is missing is marked, never guessed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::record::RawArgv;
use crate::event::Argv;

/// An argument area that comes in pieces. Takes room only for bytes that did arrive.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Assembly {
    total: u64,
    head: usize,
    /// of head and tail together
    kept: usize,
    /// memory could not be read any further: nothing more will come
    fault: bool,
    /// the beginning, without a hole
    prefix: Vec<u8>,
    /// what came before its turn, by offset
    later: BTreeMap<usize, Vec<u8>>,
    later_bytes: usize,
}

impl Assembly {
    pub(super) fn new(raw: RawArgv) -> Self {
        let RawArgv { total, head, tail, mut bytes, fault } = raw;
        // Not more than there is: a record that says otherwise must not make us wait for it.
        let kept = (u64::from(head) + u64::from(tail)).min(total);
        let kept = usize::try_from(kept).unwrap_or(usize::MAX);
        let head = usize::try_from(head).unwrap_or(usize::MAX).min(kept);
        bytes.truncate(kept);
        Self { total, head, kept, fault, prefix: bytes, later: BTreeMap::new(), later_bytes: 0 }
    }

    /// Whether nothing more is to be waited for.
    pub(super) fn is_complete(&self) -> bool {
        self.fault || self.prefix.len() >= self.kept
    }

    /// Bytes that it holds.
    pub(super) fn bytes(&self) -> usize {
        self.prefix.len().saturating_add(self.later_bytes)
    }

    pub(super) fn add(&mut self, offset: u32, mut bytes: Vec<u8>) {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        bytes.truncate(self.kept.saturating_sub(offset));
        if bytes.is_empty() {
            return;
        }
        if offset > self.prefix.len() {
            let held = self.later.get(&offset).map_or(0, Vec::len);
            if held < bytes.len() {
                self.later_bytes = self.later_bytes - held + bytes.len();
                self.later.insert(offset, bytes);
            }
            return;
        }
        self.append(offset, &bytes);
        while let Some(entry) = self.later.first_entry() {
            if *entry.key() > self.prefix.len() {
                break;
            }
            let (offset, bytes) = entry.remove_entry();
            self.later_bytes -= bytes.len();
            self.append(offset, &bytes);
        }
    }

    fn append(&mut self, offset: usize, bytes: &[u8]) {
        let known = self.prefix.len() - offset.min(self.prefix.len());
        self.prefix.extend_from_slice(bytes.get(known..).unwrap_or_default());
    }

    /// The arguments, with what is there.
    pub(super) fn finish(mut self) -> Argv {
        let whole = u64::try_from(self.kept).is_ok_and(|kept| kept == self.total);
        if whole && self.prefix.len() >= self.kept {
            return Argv { args: split(&self.prefix), total: self.total, cut: None };
        }
        let end = self.end();
        let tail = if whole { Vec::new() } else { self.prefix.split_off(self.head.min(self.prefix.len())) };
        let mut args = split(&self.prefix);
        let cut = args.len();
        args.extend(split(&tail));
        args.extend(split(&end));
        Argv { args, total: self.total, cut: Some(cut) }
    }

    /// What arrived of the end, without a hole, where not everything before it did.
    fn end(&mut self) -> Vec<u8> {
        let mut pieces = Vec::new();
        let mut reached = self.kept;
        while let Some((offset, bytes)) = self.later.pop_last() {
            if offset.saturating_add(bytes.len()) < reached {
                break;
            }
            let len = reached.saturating_sub(offset).min(bytes.len());
            pieces.push(bytes.into_iter().take(len).collect::<Vec<u8>>());
            reached = reached.min(offset);
        }
        pieces.reverse();
        pieces.concat()
    }
}

/// Each argument is followed by a NUL; the last one may lack it.
fn split(area: &[u8]) -> Vec<Vec<u8>> {
    if area.is_empty() {
        return Vec::new();
    }
    area.strip_suffix(b"\0").unwrap_or(area).split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::{Argv, Assembly, RawArgv};

    fn whole(bytes: &[u8]) -> RawArgv {
        let len = u32::try_from(bytes.len()).unwrap();
        RawArgv { total: u64::from(len), head: len, tail: 0, bytes: bytes.to_vec(), fault: false }
    }

    fn args(bytes: &[u8]) -> Vec<Vec<u8>> {
        let argv = Assembly::new(whole(bytes)).finish();
        assert_eq!(argv.cut, None);
        assert_eq!(argv.total, bytes.len() as u64);
        argv.args
    }

    #[test]
    fn empty_arguments_are_kept() {
        assert_eq!(args(b"a\0\0b\0"), [&b"a"[..], b"", b"b"]);
        assert_eq!(args(b"\0"), [b""]);
        assert_eq!(args(b"\0\0"), [b"", b""]);
        assert_eq!(args(b"\0a\0"), [&b""[..], b"a"]);
    }

    #[test]
    fn no_bytes_are_no_arguments() {
        assert_eq!(args(b""), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn a_last_argument_without_its_nul_is_an_argument() {
        assert_eq!(args(b"a\0b"), [b"a", b"b"]);
    }

    #[test]
    fn bytes_pass_unchanged() {
        let hostile = b"\xff\xfe\0a\nb\0\x1b]0;owned\x07\0\0";
        assert_eq!(args(hostile), [&b"\xff\xfe"[..], b"a\nb", b"\x1b]0;owned\x07", b""]);
    }

    #[test]
    fn a_cut_points_at_the_first_argument_of_the_tail() {
        let raw = RawArgv { total: 100, head: 5, tail: 4, bytes: b"a\0bcdxy\0z".to_vec(), fault: false };
        let argv = Assembly::new(raw).finish();
        let expected = Argv {
            args: vec![b"a".to_vec(), b"bcd".to_vec(), b"xy".to_vec(), b"z".to_vec()],
            total: 100,
            cut: Some(2),
        };
        assert_eq!(argv, expected);
    }

    #[test]
    fn a_fault_cuts_at_the_end_and_nothing_is_waited_for() {
        let raw = RawArgv { total: 9, head: 9, tail: 0, bytes: b"a\0bc".to_vec(), fault: true };
        let assembly = Assembly::new(raw);
        assert!(assembly.is_complete());
        let argv = assembly.finish();
        assert_eq!((argv.args, argv.cut), (vec![b"a".to_vec(), b"bc".to_vec()], Some(2)));
    }

    #[test]
    fn chunks_in_any_order_and_twice_make_the_whole() {
        let area = b"one\0two\0three\0four\0";
        let pieces = [(4_u32, &area[4..8]), (8, &area[8..14]), (14, &area[14..])];
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]] {
            let mut assembly = Assembly::new(RawArgv { bytes: area[..4].to_vec(), ..whole(area) });
            for index in order {
                assert!(!assembly.is_complete());
                let (offset, bytes) = pieces[index];
                assembly.add(offset, bytes.to_vec());
                assembly.add(offset, bytes.to_vec());
            }
            assert!(assembly.is_complete());
            assert_eq!(assembly.bytes(), area.len());
            let argv = assembly.finish();
            assert_eq!(argv.args, [&b"one"[..], b"two", b"three", b"four"]);
            assert_eq!(argv.cut, None);
        }
    }

    #[test]
    fn a_missing_chunk_is_marked_as_a_cut() {
        let area = b"one\0two\0three\0four\0";
        let mut assembly = Assembly::new(RawArgv { bytes: area[..4].to_vec(), ..whole(area) });
        assembly.add(14, area[14..].to_vec());
        let argv = assembly.finish();
        assert_eq!(argv.args, [&b"one"[..], b"four"]);
        assert_eq!(argv.cut, Some(1));

        let argv = Assembly::new(RawArgv { bytes: area[..6].to_vec(), ..whole(area) }).finish();
        assert_eq!((argv.args, argv.cut), (vec![b"one".to_vec(), b"tw".to_vec()], Some(2)));
    }

    #[test]
    fn a_missing_chunk_of_the_tail_leaves_the_cut_where_the_tail_begins() {
        let raw = RawArgv { total: 100, head: 2, tail: 8, bytes: b"a\0bc".to_vec(), fault: false };
        let mut assembly = Assembly::new(raw);
        assembly.add(8, b"z\0".to_vec());
        let argv = assembly.finish();
        assert_eq!(argv.args, [&b"a"[..], b"bc", b"z"]);
        assert_eq!(argv.cut, Some(1));
    }

    #[test]
    fn lengths_that_contradict_each_other_do_no_harm() {
        let raw =
            RawArgv { total: 3, head: u32::MAX, tail: u32::MAX, bytes: b"a\0b\0c\0".to_vec(), fault: false };
        let mut assembly = Assembly::new(raw);
        assembly.add(u32::MAX, vec![0; 10]);
        assembly.add(1, vec![b'x'; 100]);
        let argv = assembly.finish();
        assert_eq!((argv.args, argv.cut), (vec![b"a".to_vec(), b"b".to_vec()], None));

        let raw =
            RawArgv { total: u64::MAX, head: u32::MAX, tail: u32::MAX, bytes: Vec::new(), fault: false };
        let mut assembly = Assembly::new(raw);
        assembly.add(u32::MAX, b"far".to_vec());
        assert_eq!(assembly.bytes(), 3);
        let argv = assembly.finish();
        assert_eq!(argv.cut, Some(0));
    }
}
