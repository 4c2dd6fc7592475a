//! Giving memory back.

#![allow(unsafe_code)]

/// Gives memory that is free inside the allocator back to the system. Blocking; some milliseconds when there is much.
///
/// What many threads allocated for a moment stays with the allocator otherwise, and a daemon that has nothing to do
/// would look as large as it was at its busiest.
pub fn release_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes no pointers and may be called by any thread at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}
