//! The few calls of bpf(2) that aya keeps to itself, or makes through ids, which needs CAP_SYS_ADMIN.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    ptr,
};

use nix::{errno::Errno, libc};

const MAP_LOOKUP_ELEM: u32 = 1;
const MAP_UPDATE_ELEM: u32 = 2;
const OBJ_PIN: u32 = 6;
const OBJ_GET: u32 = 7;

/// `union bpf_attr` for `BPF_OBJ_*` (include/uapi/linux/bpf.h), as far as it is used.
#[repr(C)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

/// The same for `BPF_MAP_*_ELEM`.
#[repr(C)]
struct Element {
    map: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

fn bpf<T>(command: u32, attr: &T) -> io::Result<RawFd> {
    // SAFETY: `attr` is the beginning of a bpf_attr for this command, with its size; the addresses in it are those of
    // values that the callers hold until this returns.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_ref(attr), size_of::<T>()) };
    RawFd::try_from(Errno::result(result)?).map_err(io::Error::other)
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn address<T>(value: *const T) -> u64 {
    value.expose_provenance() as u64
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// Opens what is pinned at `path`.
pub(super) fn get(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let fd = bpf(OBJ_GET, &Object { path: address(path.as_ptr()), fd: 0, flags: 0 })?;
    // SAFETY: the kernel has just made it, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins a map, a program or a link at `path`, where nothing must be.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    bpf(OBJ_PIN, &Object { path: address(path.as_ptr()), fd: number(object), flags: 0 }).map(drop)
}

/// Makes `program` the one that a hook hands over to: at once, between two calls.
pub(super) fn set_slot(slot: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let (key, value) = (0_u32, number(program));
    bpf(
        MAP_UPDATE_ELEM,
        &Element {
            map: number(slot),
            _pad: 0,
            key: address(&raw const key),
            value: address(&raw const value),
            flags: 0,
        },
    )
    .map(drop)
}

/// The id of the program that a hook hands over to; `None`: of none.
pub(super) fn slot(slot: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let (key, mut id) = (0_u32, 0_u32);
    let element = Element {
        map: number(slot),
        _pad: 0,
        key: address(&raw const key),
        value: address(&raw mut id),
        flags: 0,
    };
    match bpf(MAP_LOOKUP_ELEM, &element) {
        // SAFETY: the kernel wrote to it behind the compiler's back.
        Ok(_) => Ok(Some(unsafe { ptr::read_volatile(&raw const id) })),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// A number that the kernel tells of a descriptor: "prog_id", "link_id", "map_id", "recursion_misses".
pub(super) fn told(fd: impl AsFd, what: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':')?.trim().parse().ok())
}

/// The same for an id.
pub(super) fn id(fd: impl AsFd, what: &str) -> Option<u32> {
    told(fd, what).and_then(|id| u32::try_from(id).ok())
}
