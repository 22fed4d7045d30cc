//! Which words of an environment may be of a name that is looked for: decisions only, as in [`crate::rules`].
//!
//! An environment may have megabytes, and is searched at an exec, so most of it is looked at once, eight bytes at a time:
//! wherever a name stands, it covers a whole aligned word of these, at one of eight places in the name. Those sixteen words
//! have a table; a word that is in it is looked at again, byte by byte, with what is before and behind it.

use crate::layout::Session;

/// Names with their `=`.
pub const AUDIT_ID: &[u8; 25] = b"KUBERNETES_EXEC_AUDIT_ID=";
pub const REQUEST_UID: &[u8; 21] = b"SPO_EXEC_REQUEST_UID=";

/// Bytes of a value that are kept. The API server's ids have at most 64.
pub const VALUE_MAX: usize = 128;

/// Bytes of an environment that are searched: the kernel allows no more than 6 MiB of arguments and environment (3/4 of
/// `_STK_LIM`, fs/exec.c).
pub const SEARCHED_MAX: u64 = 6 * 1024 * 1024;

/// The same of a process that is no session's root.
pub const SEARCHED_MAX_OTHERS: u64 = 64 * 1024;

/// Words that look like a name and are none, until the search is given up.
pub const MISTAKES_MAX: u32 = 512;

/// What was found, as bits.
pub mod found {
    pub const AUDIT_ID: u8 = 1;
    pub const REQUEST_UID: u8 = 1 << 1;
    /// somebody looked
    pub const LOOKED: u8 = 1 << 2;
}

/// The words that are looked for begin here in the names, and at the seven places behind. Not at the beginning, which
/// Kubernetes puts into every pod's environment.
const AUDIT_ID_FROM: usize = 10;
const REQUEST_UID_FROM: usize = 6;

const BITS: u32 = 6;
const BUCKETS: usize = 1 << BITS;

/// A multiplier that sends each word to a bucket of its own, and what is in the buckets: the word, or another bucket's
/// word where there is none.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Words {
    pub words: [u64; BUCKETS],
    /// of each bucket, 8 for the second name, and which of its eight words
    pub places: [u8; BUCKETS],
    pub multiplier: u64,
}

const fn word_at(name: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    let mut i = 0;
    while i < 8 {
        bytes[i] = name[at + i];
        i += 1;
    }
    u64::from_ne_bytes(bytes)
}

const fn word(place: u8) -> u64 {
    if place < 8 {
        word_at(AUDIT_ID, AUDIT_ID_FROM + place as usize)
    } else {
        word_at(REQUEST_UID, REQUEST_UID_FROM + place as usize - 8)
    }
}

impl Words {
    /// Found when the program is compiled.
    pub const ALL: Self = Self::find();

    const fn find() -> Self {
        let mut multiplier: u64 = 0x9e37_79b9_7f4a_7c15;
        loop {
            let mut taken = [false; BUCKETS];
            let mut all = Self { words: [word(0); BUCKETS], places: [0; BUCKETS], multiplier };
            let mut place = 0;
            while place < 16 {
                let bucket = bucket(word(place), multiplier);
                if taken[bucket] {
                    break;
                }
                taken[bucket] = true;
                all.words[bucket] = word(place);
                all.places[bucket] = place;
                place += 1;
            }
            if place == 16 {
                return all;
            }
            multiplier = multiplier.wrapping_mul(0xd134_2543_de82_ef95) | 1;
        }
    }
}

/// The bucket of a word.
#[inline(always)]
#[must_use]
pub const fn bucket(word: u64, multiplier: u64) -> usize {
    (word.wrapping_mul(multiplier) >> (64 - BITS)) as usize
}

/// How far before a word of this place its name begins, and which bit of [`found`] it is.
#[inline(always)]
#[must_use]
pub const fn name_of(place: u8) -> (u8, u64) {
    if place < 8 {
        (found::AUDIT_ID, AUDIT_ID_FROM as u64 + place as u64)
    } else {
        (found::REQUEST_UID, REQUEST_UID_FROM as u64 + place as u64 - 8)
    }
}

/// One step of a hash over a value: enough to tell values apart that nobody gains anything by confusing.
#[inline(always)]
#[must_use]
pub const fn mix(hash: u64, byte: u8) -> u64 {
    (hash ^ byte as u64).wrapping_mul(0x100_0000_01b3)
}

/// How [`mix`] begins.
pub const MIX: u64 = 0xcbf2_9ce4_8422_2325;

/// Whether a process of a session names a request that its root did not: `bits` were [`found`] in its environment, with
/// these hashes of their values. Nothing is said of a session whose root nobody looked at.
#[inline(always)]
#[must_use]
pub fn differs(session: &Session, bits: u8, audit_id: u64, request_uid: u64) -> bool {
    if session.environment & found::LOOKED == 0 {
        return false;
    }
    let other =
        |bit: u8, own: u64, roots: u64| bits & bit != 0 && (session.environment & bit == 0 || own != roots);
    other(found::AUDIT_ID, audit_id, session.audit_id)
        || other(found::REQUEST_UID, request_uid, session.request_uid)
}
