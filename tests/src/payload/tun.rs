//! A network device whose other end is this process.
#![expect(unsafe_code, reason = "the ioctl that makes a tun device has no safe form")]

use std::{
    fs::{File, OpenOptions},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
};

use anyhow::{Context, Result};
use nix::libc::{self, IFF_NO_PI, IFF_TUN, O_NONBLOCK, ifreq};

nix::ioctl_write_ptr_bad!(tun_set_interface, libc::TUNSETIFF, ifreq);

/// Makes the device `name` in this thread's network namespace. Each read gives a packet of IP, each write takes one.
pub(super) fn open(name: &str) -> Result<File> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).custom_flags(O_NONBLOCK).open("/dev/net/tun");
    let file = file.context("cannot open /dev/net/tun")?;
    // SAFETY: all zeroes is a valid `ifreq`: plain integers.
    let mut request: ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays 0.
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name.iter_mut().take(room).zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(IFF_TUN | IFF_NO_PI)?;
    // SAFETY: the descriptor is open, and the request lives until the call returns.
    unsafe { tun_set_interface(file.as_raw_fd(), &raw const request) }.context("cannot make a tun device")?;
    Ok(file)
}
