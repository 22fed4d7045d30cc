//! Reads what podtrail needs of a kernel's BTF: where a member stands in a struct, how large a struct is, the value of
//! an enumerator. Format: Documentation/bpf/btf.rst of Linux.
//!
//! Input is a file that somebody may have given with `--btf`: every read is bounded, nothing panics, and recursion
//! has a limit.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

const MAGIC: u16 = 0xeb9f;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
/// Anonymous structs in structs, in the kernel, are a few deep.
const DEPTH: u32 = 16;

/// A parsed type section.
#[derive(Debug)]
pub(crate) struct Btf {
    bytes: Vec<u8>,
    strings: Range<usize>,
    /// by type id: where its `struct btf_type` begins; id 0 is void
    types: Vec<u32>,
    structs: HashMap<String, u32>,
    little: bool,
}

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// bytes from the struct's beginning
    pub(crate) offset: u32,
    /// bytes; `None`: it could not be told
    pub(crate) size: Option<u32>,
}

/// Why bytes are no BTF.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BtfError {
    /// it does not begin with BTF's magic number
    #[error("it does not begin with BTF's magic number")]
    Magic,
    /// it ends in the middle of something
    #[error("it ends in the middle of something (byte {0})")]
    Short(usize),
    /// it has a type of a kind that is not known
    #[error("type {0} is of kind {1}, which this podtrail does not know; upgrade podtrail")]
    Kind(u32, u32),
}

struct Type {
    name: u32,
    kind: u32,
    vlen: u32,
    flag: bool,
    /// size or type, by kind
    size: u32,
    /// where what follows it begins
    at: usize,
}

impl Btf {
    /// Parses the whole file; `wanted` names the structs that will be asked for.
    pub(crate) fn parse(bytes: Vec<u8>, wanted: &[&str]) -> Result<Self, BtfError> {
        let magic = [bytes.first().copied().unwrap_or(0), bytes.get(1).copied().unwrap_or(0)];
        let little = match (u16::from_le_bytes(magic), u16::from_be_bytes(magic)) {
            (MAGIC, _) => true,
            (_, MAGIC) => false,
            _ => return Err(BtfError::Magic),
        };
        let mut btf = Self { bytes, strings: 0..0, types: vec![0], structs: HashMap::new(), little };
        let header = btf.u32(4)? as usize;
        let section = |at: usize, btf: &Self| -> Result<Range<usize>, BtfError> {
            let start = header.checked_add(btf.u32(at)? as usize).ok_or(BtfError::Short(at))?;
            let end = start.checked_add(btf.u32(at + 4)? as usize).ok_or(BtfError::Short(at))?;
            if end > btf.bytes.len() { Err(BtfError::Short(end)) } else { Ok(start..end) }
        };
        let types = section(8, &btf)?;
        btf.strings = section(16, &btf)?;

        let mut at = types.start;
        while at < types.end {
            let id = u32::try_from(btf.types.len()).map_err(|_| BtfError::Short(at))?;
            btf.types.push(u32::try_from(at).map_err(|_| BtfError::Short(at))?);
            let found = btf.at(at)?;
            if (found.kind == KIND_STRUCT || found.kind == KIND_UNION)
                && let Some(name) = wanted.iter().find(|name| btf.is_named(found.name, name))
            {
                btf.structs.entry((*name).to_owned()).or_insert(id);
            }
            at = found.at.checked_add(btf.tail(id, &found)?).ok_or(BtfError::Short(at))?;
        }
        Ok(btf)
    }

    /// The member of a struct that has any of `names`, also inside anonymous structs and unions.
    pub(crate) fn member(&self, of: &str, names: &[&str]) -> Option<Member> {
        let id = *self.structs.get(of)?;
        names.iter().find_map(|name| self.find(id, name, DEPTH, &mut HashSet::new()))
    }

    /// Size of a struct or union, in bytes.
    pub(crate) fn size(&self, of: &str) -> Option<u32> {
        self.get(*self.structs.get(of)?).map(|t| t.size)
    }

    /// Value of an enumerator, whichever enum it is in.
    pub(crate) fn enumerator(&self, name: &str) -> Option<i32> {
        const KIND_ENUM: u32 = 6;
        (1..self.types.len()).find_map(|id| {
            let found = self.get(u32::try_from(id).ok()?)?;
            if found.kind != KIND_ENUM {
                return None;
            }
            (0..found.vlen as usize).find_map(|i| {
                let at = found.at + i * 8;
                let is = self.is_named(self.u32(at).ok()?, name);
                if is { self.u32(at + 4).ok().map(u32::cast_signed) } else { None }
            })
        })
    }

    /// `seen` has the types that were gone through: what they do not have they do not have a second time either, and types that
    /// name themselves as their members again and again would take for ever.
    fn find(&self, id: u32, name: &str, depth: u32, seen: &mut HashSet<u32>) -> Option<Member> {
        let of = self.get(id)?;
        if depth == 0 || !(of.kind == KIND_STRUCT || of.kind == KIND_UNION) || !seen.insert(id) {
            return None;
        }
        for i in 0..of.vlen as usize {
            let at = of.at + i * 12;
            let (name_at, member, bits) =
                (self.u32(at).ok()?, self.u32(at + 4).ok()?, self.u32(at + 8).ok()?);
            // With the flag, a bit field's width stands in the upper byte.
            let (bits, width) = if of.flag { (bits & 0x00ff_ffff, bits >> 24) } else { (bits, 0) };
            let offset = bits / 8;
            if self.is_named(name_at, name) {
                return (width == 0 && bits % 8 == 0)
                    .then(|| Member { offset, size: self.size_of(member, DEPTH) });
            }
            if name_at == 0
                && let Some(inner) = self.find(member, name, depth - 1, seen)
            {
                return Some(Member { offset: offset.checked_add(inner.offset)?, size: inner.size });
            }
        }
        None
    }

    fn size_of(&self, id: u32, depth: u32) -> Option<u32> {
        let found = self.get(id)?;
        match found.kind {
            // int, struct, union, enum, float, enum64
            1 | 4 | 5 | 6 | 16 | 19 => Some(found.size),
            2 => Some(8), // a pointer
            3 => {
                let element = self.size_of(self.u32(found.at).ok()?, depth.checked_sub(1)?)?;
                element.checked_mul(self.u32(found.at + 8).ok()?)
            }
            // typedef, volatile, const, restrict, type tag
            8..=11 | 18 => self.size_of(found.size, depth.checked_sub(1)?),
            _ => None,
        }
    }

    /// Bytes that follow a type of this kind.
    fn tail(&self, id: u32, found: &Type) -> Result<usize, BtfError> {
        let n = found.vlen as usize;
        Ok(match found.kind {
            2 | 7..=12 | 16 | 18 => 0,
            1 | 14 | 17 => 4,
            3 => 12,
            4 | 5 | 15 | 19 => n * 12,
            6 | 13 => n * 8,
            kind => return Err(BtfError::Kind(id, kind)),
        })
    }

    fn get(&self, id: u32) -> Option<Type> {
        if id == 0 {
            return None;
        }
        self.at(*self.types.get(id as usize)? as usize).ok()
    }

    fn at(&self, at: usize) -> Result<Type, BtfError> {
        let info = self.u32(at + 4)?;
        Ok(Type {
            name: self.u32(at)?,
            kind: (info >> 24) & 0x1f,
            vlen: info & 0xffff,
            flag: info >> 31 == 1,
            size: self.u32(at + 8)?,
            at: at + 12,
        })
    }

    fn u32(&self, at: usize) -> Result<u32, BtfError> {
        let bytes = at
            .checked_add(4)
            .and_then(|end| self.bytes.get(at..end))
            .and_then(|b| <[u8; 4]>::try_from(b).ok())
            .ok_or(BtfError::Short(at))?;
        Ok(if self.little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    }

    /// Whether this stands at `at` of the strings, with its end.
    fn is_named(&self, at: u32, name: &str) -> bool {
        let strings = self.bytes.get(self.strings.clone()).unwrap_or_default();
        let rest = strings.get(at as usize..).and_then(|from| from.strip_prefix(name.as_bytes()));
        rest.is_some_and(|rest| rest.first() == Some(&0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn running() -> Option<Vec<u8>> {
        std::fs::read("/sys/kernel/btf/vmlinux").ok()
    }

    #[test]
    fn finds_members_of_the_running_kernel() {
        let Some(bytes) = running() else { return };
        let btf = Btf::parse(bytes, &["task_struct", "inode", "upid"]).unwrap();
        let tgid = btf.member("task_struct", &["tgid"]).unwrap();
        let pid = btf.member("task_struct", &["pid"]).unwrap();
        assert_eq!(tgid.offset, pid.offset + 4, "pid and tgid are neighbours in every kernel so far");
        assert_eq!(tgid.size, Some(4));
        assert_eq!(btf.member("task_struct", &["comm"]).unwrap().size, Some(16));
        assert!(btf.member("inode", &["i_nlink"]).is_some(), "a member of an anonymous union");
        assert_eq!(btf.member("task_struct", &["no_such_member"]), None);
        assert_eq!(btf.size("upid"), Some(16));
        assert!(btf.enumerator("pids_cgrp_id").is_some());
    }

    #[test]
    fn says_what_is_no_btf() {
        assert_eq!(Btf::parse(vec![], &[]).unwrap_err(), BtfError::Magic);
        assert_eq!(Btf::parse(b"\x7fELF".to_vec(), &[]).unwrap_err(), BtfError::Magic);
        assert!(matches!(Btf::parse(vec![0x9f, 0xeb, 1, 0], &[]).unwrap_err(), BtfError::Short(_)));
    }

    proptest! {
        #[test]
        fn never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            for (at, b) in [0x9f, 0xeb, 1, 0, 24, 0, 0, 0].into_iter().enumerate() {
                if let Some(to) = bytes.get_mut(at) { *to = b; }
            }
            if let Ok(btf) = Btf::parse(bytes, &["", "a"]) {
                let _ = btf.member("", &["a", ""]);
                let _ = btf.size("a");
                let _ = btf.enumerator("x");
            }
        }
    }
}
