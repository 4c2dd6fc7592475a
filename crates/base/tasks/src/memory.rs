//! Keeping little memory, and giving it back.

#![allow(unsafe_code)]

/// Has the allocator keep less than it would by itself. To be called first thing in `main`, before there are threads.
///
/// Threads that share arenas also share what is free in them: by default there may be eight arenas for each core, each as
/// large as the busiest moment of any thread that used it. Large buffers are mapped one by one and go back at once when
/// they are done with; by default the first one that is freed makes the allocator carve those of its size out of arenas.
pub fn keep_little_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let arenas = i32::try_from(crate::cores().clamp(2, 16)).unwrap_or(2);
        let settings = [
            (libc::M_ARENA_MAX, arenas),
            (libc::M_MMAP_THRESHOLD, 128 << 10),
            (libc::M_TRIM_THRESHOLD, 256 << 10),
        ];
        for (setting, value) in settings {
            // SAFETY: takes no pointers; no other thread is there yet that might allocate.
            unsafe {
                libc::mallopt(setting, value);
            }
        }
    }
}

/// Has all threads take memory from one place: for programs whose threads are many and live for moments. To be called
/// first thing in `main`, before there are threads.
pub fn share_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes no pointers; no other thread is there yet that might allocate.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

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
