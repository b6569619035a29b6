//! What the allocator keeps of the memory that was freed.

/// Gives it back to the kernel. Rust frees by `free`, which keeps what is not at the end of its areas: after a burst that is nearly all.
/// What is in use stays where it is; it costs some milliseconds for a hundred MiB.
pub fn give_back_memory() {
    // Other C libraries give back by themselves.
    #[cfg(target_env = "gnu")]
    // SAFETY: it may be called at any time, from any thread.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
