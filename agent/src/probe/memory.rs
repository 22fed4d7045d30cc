//! Memory back to the kernel, after loading: BTF is tens of megabytes while it is read, and nothing afterwards.

/// Gives back what is free. glibc alone would keep it for later.
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer, and is safe beside every other use of the allocator (malloc_trim(3)).
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
