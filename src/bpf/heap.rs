//! Returns freed memory that the allocator keeps.

/// Returns freed memory to the kernel. Rust frees with `free`, which keeps memory that is not at the end of its arenas; after a
/// burst that is nearly all of it. Memory in use is not moved. Takes some milliseconds for a hundred MiB.
pub fn give_back_memory() {
    // Other C libraries return memory by themselves.
    #[cfg(target_env = "gnu")]
    // SAFETY: it may be called at any time, from any thread.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
