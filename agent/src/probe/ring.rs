//! The ring's memory: records are read where they are and stay there until [`Ring::release`], so that an agent that is
//! killed before it has kept what it read leaves them to the next one.
//!
//! Layout and protocol: kernel/bpf/ringbuf.c. A page with the consumer's position, which is ours; a page with the
//! producer's; the data, mapped twice in a row, so that no record is cut by the end. Positions only grow. The kernel
//! looks at the consumer's position to see what is free, and at nothing else of ours.

use std::{
    fmt, io,
    num::NonZeroUsize,
    os::fd::{AsFd, AsRawFd, RawFd},
    ptr::NonNull,
    slice,
    sync::atomic::{AtomicU32, AtomicUsize, Ordering, fence},
};

use aya::maps::MapData;
use nix::{
    libc::{c_void, off_t},
    sys::mman::{MapFlags, ProtFlags, mmap, munmap},
    unistd::{SysconfVar, sysconf},
};

/// Before each record (`struct bpf_ringbuf_hdr`): its length with two flags, and a number of the kernel's own.
const HEADER: usize = 8;
/// Still being written (`BPF_RINGBUF_BUSY_BIT`).
const BUSY: u32 = 1 << 31;
/// To be passed over (`BPF_RINGBUF_DISCARD_BIT`).
const DISCARD: u32 = 1 << 30;

/// The ring has no sense from here on: all that was in it was passed over.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("the ring held what is no record: all that was in it was passed over")]
pub(super) struct Torn;

/// The ring, mapped. Reads by its own position; the kernel's view of it changes by [`Self::release`] alone.
pub(super) struct Ring {
    map: Option<MapData>,
    consumer: Mapping,
    producer: Mapping,
    page: usize,
    /// bytes of data, a power of two
    size: usize,
    /// where reading is
    at: usize,
    /// what the consumer's page says
    released: usize,
    /// something was handed out since
    unreleased: bool,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { map: _, consumer: _, producer: _, page: _, size, at, released, unreleased: _ } = self;
        f.debug_struct("Ring")
            .field("size", size)
            .field("at", at)
            .field("released", released)
            .finish_non_exhaustive()
    }
}

impl Ring {
    /// Maps a ring buffer map; reading begins where the kernel believes it to be.
    pub(super) fn new(map: MapData) -> io::Result<Self> {
        let page = page_size()?;
        let size = map.info().map_err(io::Error::other)?.max_entries() as usize;
        let consumer = Mapping::shared(map.fd(), page, 0, true)?;
        let producer = Mapping::shared(map.fd(), page + 2 * size, page, false)?;
        Self::over(Some(map), consumer, producer, page, size)
    }

    fn over(
        map: Option<MapData>,
        consumer: Mapping,
        producer: Mapping,
        page: usize,
        size: usize,
    ) -> io::Result<Self> {
        let whole = size.is_power_of_two() && size.is_multiple_of(page);
        if !whole || consumer.length < page || producer.length < page + 2 * size {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{size} bytes are no ring")));
        }
        let at = consumer.position().load(Ordering::Acquire);
        Ok(Self { map, consumer, producer, page, size, at, released: at, unreleased: false })
    }

    /// Bytes that have ever been put in.
    fn produced(&self) -> usize {
        self.producer.position().load(Ordering::Acquire)
    }

    /// Where reading is: the bytes that were ever put in before.
    pub(super) fn position(&self) -> u64 {
        self.at as u64
    }

    /// Bytes that were ever put in: what was put in by now was read when [`Self::position`] is as much.
    pub(super) fn written(&self) -> u64 {
        self.produced() as u64
    }

    /// Passes over what lies before `position`. False, and nothing done, where that is no place between what was
    /// released and what is there.
    pub(super) fn skip_to(&mut self, position: u64) -> bool {
        let Ok(position) = usize::try_from(position) else { return false };
        let there = self.produced().wrapping_sub(self.released);
        let wanted = position.wrapping_sub(self.released);
        if wanted > there || there > self.size || !position.is_multiple_of(HEADER) {
            return false;
        }
        self.at = position;
        self.unreleased = wanted > 0;
        true
    }

    /// The next record; `None`: there is none, or it is still being written. Records come in the order in which room
    /// was made for them.
    pub(super) fn next(&mut self) -> Option<Result<&[u8], Torn>> {
        loop {
            let there = self.produced().wrapping_sub(self.at);
            if there == 0 {
                self.settle();
                return None;
            }
            let offset = self.page + (self.at & (self.size - 1));
            // What is not yet committed has the flag from before the producer's position grew.
            let length = self.producer.length_at(offset)?.load(Ordering::Acquire);
            if length & BUSY != 0 {
                return None;
            }
            let bytes = (length & !(BUSY | DISCARD)) as usize;
            let whole = bytes.checked_add(HEADER).map(|n| n.next_multiple_of(HEADER));
            let Some(whole) = whole.filter(|whole| *whole <= there && there <= self.size) else {
                self.at = self.at.wrapping_add(there);
                self.unreleased = true;
                return Some(Err(Torn));
            };
            self.at = self.at.wrapping_add(whole);
            if length & DISCARD == 0 {
                self.unreleased = true;
                return self.producer.bytes(offset + HEADER, bytes).map(Ok);
            }
        }
    }

    /// Looks at all that is there, without reading it.
    pub(super) fn peek(&mut self, mut look: impl FnMut(&[u8])) {
        let Self { at, unreleased, .. } = *self;
        self.unreleased = true;
        while let Some(record) = self.next() {
            if let Ok(bytes) = record {
                look(bytes);
            }
        }
        (self.at, self.unreleased) = (at, unreleased);
    }

    /// What was only passed over need not wait for anybody to keep it.
    fn settle(&mut self) {
        if !self.unreleased {
            self.release();
        }
    }

    /// An eighth of it holds what was not released: well below what a session may have in it, so that none is refused
    /// anything, nor has arguments cut, for what is only kept there.
    pub(super) fn is_crowded(&self) -> bool {
        self.produced().wrapping_sub(self.released) > self.size / 8
    }

    /// Gives the room of all that was read back to the kernel.
    pub(super) fn release(&mut self) {
        self.unreleased = false;
        if self.released != self.at {
            self.released = self.at;
            // After all reading: what is before may be overwritten from now on.
            self.consumer.position().store(self.at, Ordering::Release);
        }
    }

    /// To be called between saying that the reader sleeps and looking a last time.
    pub(super) fn order() {
        fence(Ordering::SeqCst);
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.map.as_ref().map_or(-1, |map| map.fd().as_fd().as_raw_fd())
    }
}

fn page_size() -> io::Result<usize> {
    sysconf(SysconfVar::PAGE_SIZE)?
        .and_then(|size| usize::try_from(size).ok())
        .filter(|size| size.is_power_of_two())
        .ok_or_else(|| io::Error::other("the size of a page is not known"))
}

/// Mapped memory that others write to.
struct Mapping {
    at: NonNull<c_void>,
    length: usize,
}

// SAFETY: the memory belongs to the value and is at the same address for every thread.
unsafe impl Send for Mapping {}
// SAFETY: through a shared reference only atomics, and bytes that nobody writes any more, are read.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn shared(fd: impl AsFd, length: usize, offset: usize, write: bool) -> io::Result<Self> {
        let size = NonZeroUsize::new(length).ok_or(io::ErrorKind::InvalidInput)?;
        let offset = off_t::try_from(offset).map_err(io::Error::other)?;
        let access = if write { ProtFlags::PROT_READ | ProtFlags::PROT_WRITE } else { ProtFlags::PROT_READ };
        // SAFETY: the kernel chooses the address; the mapping is removed when the value is dropped.
        let at = unsafe { mmap(None, size, access, MapFlags::MAP_SHARED, fd, offset) }?;
        Ok(Self { at, length })
    }

    /// The position at the beginning of the consumer's and of the producer's page.
    fn position(&self) -> &AtomicUsize {
        // SAFETY: a mapping begins with a page, aligned to it, and lives as long as `self`; the kernel writes it
        // atomically, too.
        unsafe { self.at.cast::<AtomicUsize>().as_ref() }
    }

    /// The length of the record whose header is at `offset`, which positions keep aligned to 8.
    fn length_at(&self, offset: usize) -> Option<&AtomicU32> {
        let fits = offset.is_multiple_of(HEADER) && offset.checked_add(HEADER)? <= self.length;
        // SAFETY: within the mapping, and aligned: see `fits`; the kernel writes it atomically, too.
        fits.then(|| unsafe { self.at.byte_add(offset).cast::<AtomicU32>().as_ref() })
    }

    /// A committed record: the kernel does not touch it until it is released, for which the ring must be borrowed
    /// mutably again.
    fn bytes(&self, offset: usize, length: usize) -> Option<&[u8]> {
        let fits = offset.checked_add(length)? <= self.length;
        // SAFETY: within the mapping: see `fits`; nobody writes there while the slice lives.
        fits.then(|| unsafe { slice::from_raw_parts(self.at.byte_add(offset).cast::<u8>().as_ptr(), length) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `shared`, with this length, and not referred to any more.
        let _ = unsafe { munmap(self.at, self.length) };
    }
}

#[cfg(test)]
mod tests;
