//! What somebody does who wants a hook to be silent: takes out the program that it hands over to.
#![expect(unsafe_code, reason = "bpf(2) has no safe form")]

use std::{
    ffi::{CString, OsString},
    os::unix::ffi::OsStrExt,
    process::ExitCode,
    ptr,
};

use anyhow::{Context, Result, bail};
use nix::{errno::Errno, libc};

const MAP_DELETE_ELEM: u32 = 3;
const OBJ_GET: u32 = 7;

/// `union bpf_attr`, as far as it is used.
#[repr(C)]
struct Attr {
    first: u64,
    second: u64,
    third: u64,
    fourth: u64,
}

fn bpf(command: u32, attr: &Attr) -> Result<i64> {
    // SAFETY: `attr` is a bpf_attr of this size; the addresses in it are of values that outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_ref(attr), size_of::<Attr>()) };
    Errno::result(result).with_context(|| format!("bpf command {command} failed"))
}

/// `take-out PIN`: of the map that is pinned there.
pub(super) fn take_out(args: &[OsString]) -> Result<ExitCode> {
    let [pin] = args else { bail!("take-out PIN") };
    let path = CString::new(pin.as_bytes())?;
    let map = bpf(
        OBJ_GET,
        &Attr { first: path.as_ptr().expose_provenance() as u64, second: 0, third: 0, fourth: 0 },
    )?;
    let key = 0_u32;
    let first = u64::try_from(map)?;
    bpf(
        MAP_DELETE_ELEM,
        &Attr { first, second: (&raw const key).expose_provenance() as u64, third: 0, fourth: 0 },
    )?;
    Ok(ExitCode::SUCCESS)
}
