//! What names a request in the environment of the current task, right after its exec: see [`podtrail_ebpf::environ`].
//!
//! Pages are copied whole and searched there; whatever looks like a name is looked at again in the task's own memory, so that
//! names and values may lie across pages.

use aya_ebpf::{
    helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_user, bpf_probe_read_user_str},
    macros::map,
    maps::PerCpuArray,
};
use podtrail_ebpf::{
    environ::{
        self, AUDIT_ID, MISTAKES_MAX, MIX, REQUEST_UID, SEARCHED_MAX, SEARCHED_MAX_OTHERS, VALUE_MAX, Words,
        found,
    },
    layout::{ABSENT, Descriptor, Root, Session, TaskKey, exec_flags, root_flags, scratch},
};

use crate::{
    kernel::{self, opaque, read},
    maps::{self, offset},
};

const PAGE: usize = 4096;
/// What one call of the helper may write: a value, one byte more, and its NUL; rounded up.
const VALUE_ROOM: usize = 136;

/// The search's own memory.
#[repr(C)]
pub struct Search {
    total: u64,
    searched: u64,
    values: [Value; 2],
    page: [u64; PAGE / 8],
}

#[repr(C)]
struct Value {
    hash: u64,
    /// bytes that are kept
    len: u32,
    cut: u32,
    bytes: [u8; VALUE_ROOM],
}

/// For each hook on execs, as `SCRATCH`.
#[map]
pub static ENVIRON: PerCpuArray<Search> =
    PerCpuArray::with_max_entries(scratch::COUNT_BEHIND - scratch::EXEC, 0);

#[unsafe(no_mangle)]
static WORDS: Words = Words::ALL;

/// Pages that are searched, and words that were none, at most.
const STRETCH: u32 = 64;
const STEPS: u32 = (SEARCHED_MAX / PAGE as u64) as u32 + 2 + MISTAKES_MAX;

#[inline(always)]
fn search(hook: u32) -> Option<*mut Search> {
    ENVIRON.get_ptr_mut(hook - scratch::EXEC)
}

/// Searches the environment of a session's root, or of a container's init; answers what was [`found`].
#[inline(always)]
pub fn of_root(hook: u32) -> u32 {
    podtrail_environ(hook, SEARCHED_MAX)
}

/// The current task runs a command of the session with this entry: [`exec_flags`] by its environment. A global function, as `podtrail_report`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn podtrail_environ_in_session(
    hook: u32,
    entry_start: u64,
    entry_tgid: u32,
    first: u32,
) -> u32 {
    let bits = podtrail_environ(hook, if first != 0 { SEARCHED_MAX } else { SEARCHED_MAX_OTHERS }) as u8;
    if first == 0 && bits & !found::LOOKED == 0 {
        return 0;
    }
    let mut flags = if first != 0 { exec_flags::ROOT } else { 0 };
    if let Some(session) = maps::session(&TaskKey::new(entry_tgid, entry_start)) {
        if first != 0 {
            keep(hook, session, bits);
        } else if is_spoofed(hook, session, bits) {
            flags = exec_flags::SPOOF_SUSPECTED;
        }
    }
    flags
}

/// Whether what was found names a request otherwise than the session's root does.
#[inline(always)]
fn is_spoofed(hook: u32, session: &Session, bits: u8) -> bool {
    let Some(search) = search(hook) else { return false };
    // SAFETY: this CPU's and this hook's, which does not run within itself.
    let [audit_id, request_uid] = unsafe { [(*search).values[0].hash, (*search).values[1].hash] };
    environ::differs(session, bits, audit_id, request_uid)
}

/// Keeps what was found with the session whose root it is.
#[inline(always)]
pub fn keep(hook: u32, session: &mut Session, bits: u8) {
    let Some(search) = search(hook) else { return };
    session.environment = bits;
    // SAFETY: this CPU's and this hook's, which does not run within itself.
    unsafe {
        session.audit_id = (*search).values[0].hash;
        session.request_uid = (*search).values[1].hash;
    }
}

/// A global function, as `podtrail_report`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn podtrail_environ(hook: u32, limit: u64) -> u32 {
    let Some(search) = search(hook) else { return 0 };
    // SAFETY: this CPU's and this hook's, which does not run within itself.
    unsafe {
        (*search).total = 0;
        (*search).searched = 0;
        (*search).values[0].hash = 0;
        (*search).values[1].hash = 0;
        (*search).values[0].len = 0;
        (*search).values[1].len = 0;
        (*search).values[0].cut = 0;
        (*search).values[1].cut = 0;
    }
    if offset!(mm_env_start) == ABSENT || offset!(mm_env_end) == ABSENT {
        return 0;
    }
    let mm: u64 = read(kernel::current(), offset!(task_mm));
    let start: u64 = read(mm, offset!(mm_env_start));
    let end: u64 = read(mm, offset!(mm_env_end));
    if start == 0 || end < start {
        return 0;
    }
    let total = end - start;
    let stop = if total > limit { start.wrapping_add(limit) } else { end };
    let mut bits = u32::from(found::LOOKED);
    let mut at = start & !7;
    let mut i = 0;
    while i < STEPS / STRETCH + 1 {
        i += 1;
        let next = podtrail_environ_stretch(hook, at, start, stop);
        if next == at {
            break;
        }
        at = next;
    }
    // SAFETY: as above.
    unsafe {
        if (*search).values[0].hash != 0 {
            bits |= u32::from(found::AUDIT_ID);
        }
        if (*search).values[1].hash != 0 {
            bits |= u32::from(found::REQUEST_UID);
        }
        if bits & 3 == 3 {
            // Nothing more is looked for.
            at = end;
        }
        (*search).total = total;
        (*search).searched = if at > start { at - start } else { 0 };
    }
    bits
}

/// Searches on from `at`, for a number of steps; answers where it came to: nowhere, if there is nothing more to search. A
/// loop within a loop, so that the verifier goes through few rounds of each.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn podtrail_environ_stretch(hook: u32, at: u64, start: u64, stop: u64) -> u64 {
    let Some(search) = search(hook) else { return at };
    let mut at = at;
    let mut i = 0;
    while i < STRETCH {
        i += 1;
        // SAFETY: this CPU's and this hook's, which does not run within itself.
        let all = unsafe { (*search).values[0].hash != 0 && (*search).values[1].hash != 0 };
        if at >= stop || all {
            break;
        }
        let step = podtrail_environ_step(hook, at, start, stop);
        if step == 0 {
            break;
        }
        at = at.wrapping_add(u64::from(step));
    }
    at
}

/// Searches from `at`, which is aligned to 8, to the end of the page, to `stop`, or to the first word of a name. Answers
/// how far it came; 0: the page cannot be read.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn podtrail_environ_step(hook: u32, at: u64, start: u64, stop: u64) -> u32 {
    let Some(search) = search(hook) else { return 0 };
    let page_end = (at | (PAGE as u64 - 1)) + 1;
    let to = if page_end < stop { page_end } else { stop };
    // The mask and the comparison are for the verifier.
    let length = opaque(to.wrapping_sub(at)) & (2 * PAGE as u64 - 1);
    if length > PAGE as u64 {
        return 0;
    }
    // SAFETY: the page has room for a page.
    let failed =
        unsafe { bpf_probe_read_user((&raw mut (*search).page).cast(), length as u32, at as *const _) != 0 };
    if failed {
        return 0;
    }
    // What is left of a word at the end is the end of a value: every name's words are before it.
    let words = length as u32 / 8;
    let hit = podtrail_environ_words(hook, words);
    if hit >= words {
        return length as u32;
    }
    podtrail_environ_name(hook, at.wrapping_add(u64::from(hit) * 8), hit, start);
    (hit + 1) * 8
}

/// Index of the first of so many words of the page that may be of a name; `words`: none is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn podtrail_environ_words(hook: u32, words: u32) -> u32 {
    let Some(search) = search(hook) else { return words };
    // SAFETY: the page, of which no word beyond its end is read.
    let page = unsafe { (&raw const (*search).page).cast::<u64>() };
    let (table, multiplier) = table();
    let mut i: u32 = 0;
    while i < (PAGE / 8) as u32 {
        if i >= words {
            return words;
        }
        // SAFETY: `i` is below the page's words, and a bucket within the table.
        unsafe {
            let word = page.wrapping_add(i as usize).read();
            if table.wrapping_add(environ::bucket(word, multiplier)).read() == word {
                return i;
            }
        }
        i += 1;
    }
    words
}

/// The word at `address`, the `index`-th of the page, looks like one of a name: whether it is, with its value taken. Answers
/// the bit of what was found, which may have been found before.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn podtrail_environ_name(hook: u32, address: u64, index: u32, start: u64) -> u32 {
    let Some(search) = search(hook) else { return 0 };
    let index = opaque(u64::from(index)) & (PAGE as u64 / 8 - 1);
    let (_, multiplier) = table();
    // SAFETY: `index` is within the page, and the bucket within the table.
    let place = unsafe {
        let word = (&raw const (*search).page).cast::<u64>().wrapping_add(index as usize).read();
        let places = (&raw const WORDS.places).cast::<u8>();
        places.wrapping_add(environ::bucket(word, multiplier)).read_volatile()
    };
    let (bit, before) = environ::name_of(place);
    let name = address.wrapping_sub(before);
    if name < start {
        return 0;
    }
    if name > start {
        let mut behind = 1u8;
        // SAFETY: writes one byte.
        unsafe { bpf_probe_read_user((&raw mut behind).cast(), 1, name.wrapping_sub(1) as *const _) };
        if behind != 0 {
            return 0;
        }
    }
    let mut there = [0u64; 4];
    // SAFETY: both names are shorter than `there`.
    let failed = unsafe {
        let to = (&raw mut there).cast();
        if bit == found::AUDIT_ID {
            bpf_probe_read_user(to, AUDIT_ID.len() as u32, name as *const _)
        } else {
            bpf_probe_read_user(to, REQUEST_UID.len() as u32, name as *const _)
        }
    };
    if failed != 0 {
        return 0;
    }
    const AUDIT_ID_WORDS: [u64; 4] = words(AUDIT_ID);
    const REQUEST_UID_WORDS: [u64; 4] = words(REQUEST_UID);
    if bit == found::AUDIT_ID {
        if !same(&there, &AUDIT_ID_WORDS) {
            return 0;
        }
        // SAFETY: a value of this CPU's own memory.
        unsafe { take(&raw mut (*search).values[0], name.wrapping_add(AUDIT_ID.len() as u64)) };
    } else {
        if !same(&there, &REQUEST_UID_WORDS) {
            return 0;
        }
        // SAFETY: as above.
        unsafe { take(&raw mut (*search).values[1], name.wrapping_add(REQUEST_UID.len() as u64)) };
    }
    u32::from(bit)
}

const fn words(name: &[u8]) -> [u64; 4] {
    let mut words = [0u64; 4];
    let mut i = 0;
    while i < name.len() {
        words[i / 8] |= (name[i] as u64) << (i % 8 * 8);
        i += 1;
    }
    words
}

#[inline(always)]
fn same(a: &[u64; 4], b: &[u64; 4]) -> bool {
    a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3]
}

#[inline(always)]
fn table() -> (*const u64, u64) {
    // SAFETY: a part of an initialized static; volatile, so that it stays where it is.
    unsafe { ((&raw const WORDS.words).cast::<u64>(), core::ptr::read_volatile(&raw const WORDS.multiplier)) }
}

/// The first value wins.
///
/// # Safety
/// `value` must be one of [`Search::values`].
#[inline(always)]
unsafe fn take(value: *mut Value, from: u64) {
    // SAFETY: the caller's.
    unsafe {
        if (*value).hash != 0 {
            return;
        }
        let to = (&raw mut (*value).bytes).cast::<u8>();
        let length = bpf_probe_read_user_str(to.cast(), VALUE_MAX as u32 + 2, from as *const _);
        let mut length = if length > 0 { length as u32 - 1 } else { 0 };
        if length > VALUE_MAX as u32 {
            length = VALUE_MAX as u32;
            (*value).cut = 1;
        }
        (*value).len = length;
        let mut hash = MIX;
        let mut i = 0;
        while i < VALUE_MAX as u32 {
            if i >= length {
                break;
            }
            hash = environ::mix(hash, to.wrapping_add(i as usize).read());
            i += 1;
        }
        // Not 0, which says that there is none.
        (*value).hash = hash | 1;
    }
}

/// Writes what is told of a session's root, with the values behind it; answers the bytes.
///
/// # Safety
/// `root` must point to room for a [`Root`] and two values, aligned to 8.
#[inline(always)]
pub unsafe fn fill(hook: u32, root: *mut Root, task: u64, session: &Session) -> u32 {
    let Some(search) = search(hook) else { return 0 };
    let bits = session.environment;
    let mut flags = of_init(session.container);
    if bits & found::LOOKED != 0 {
        flags |= root_flags::ENVIRONMENT;
    }
    // SAFETY: the caller's; every field is written. The search's memory is this CPU's and this hook's, which does not run within itself.
    unsafe {
        (*root).environ_total = (*search).total;
        (*root).environ_searched = (*search).searched;
        let values = root.add(1).cast::<u8>();
        let mut length = 0;
        if bits & found::AUDIT_ID != 0 {
            let value = &raw const (*search).values[0];
            flags |= root_flags::AUDIT_ID;
            if (*value).cut != 0 {
                flags |= root_flags::AUDIT_ID_CUT;
            }
            length = put(values, value);
        }
        (*root).audit_id_len = length as u16;
        let mut more = 0;
        if bits & found::REQUEST_UID != 0 {
            let value = &raw const (*search).values[1];
            flags |= root_flags::REQUEST_UID;
            if (*value).cut != 0 {
                flags |= root_flags::REQUEST_UID_CUT;
            }
            more = put(values.add(length as usize), value);
        }
        (*root).request_uid_len = more as u16;
        if descriptors(&raw mut (*root).descriptors, task) {
            flags |= root_flags::DESCRIPTORS;
        }
        (*root).flags = flags;
        size_of::<Root>() as u32 + length + more
    }
}

/// What the container's init had.
#[inline(always)]
fn of_init(container: u64) -> u32 {
    let bits = maps::cgroup(container).map_or(0, |container| container.environment);
    let mut flags = 0;
    if bits & found::AUDIT_ID != 0 {
        flags |= root_flags::INIT_AUDIT_ID;
    }
    if bits & found::REQUEST_UID != 0 {
        flags |= root_flags::INIT_REQUEST_UID;
    }
    if bits & found::LOOKED == 0 {
        flags |= root_flags::INIT_UNKNOWN;
    }
    flags
}

/// # Safety
/// `to` must have room for twice a value.
#[inline(always)]
unsafe fn put(to: *mut u8, value: *const Value) -> u32 {
    // SAFETY: the caller's; the mask is for the verifier.
    unsafe {
        let length = opaque(u64::from((*value).len)) as u32 & (2 * VALUE_MAX as u32 - 1);
        bpf_probe_read_kernel(to.cast(), length, (&raw const (*value).bytes).cast());
        length
    }
}

/// What standard input, output and error are open to; false: this kernel does not say.
///
/// # Safety
/// `to` must be writable.
#[inline(always)]
unsafe fn descriptors(to: *mut [Descriptor; 3], task: u64) -> bool {
    let known = offset!(task_files) != ABSENT
        && offset!(files_fdt) != ABSENT
        && offset!(fdt_fd) != ABSENT
        && offset!(inode_rdev) != ABSENT;
    // The first three always have room: a table of descriptors begins with 64 (NR_OPEN_DEFAULT, include/linux/fdtable.h).
    let mut files = [0u64; 3];
    if known {
        let table: u64 = read(read(task, offset!(task_files)), offset!(files_fdt));
        files = read(read(table, offset!(fdt_fd)), 0);
    }
    let mut i = 0;
    while i < 3 {
        let mut descriptor = Descriptor { mode: 0, rdev: 0 };
        if files[i] != 0 {
            let inode: u64 = read(files[i], offset!(file_inode));
            descriptor.mode = u32::from(read::<u16>(inode, offset!(inode_mode)));
            descriptor.rdev = read(inode, offset!(inode_rdev));
        }
        // SAFETY: the caller's.
        unsafe { (*to)[i] = descriptor };
        i += 1;
    }
    known
}
