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

/// Gives memory that is free inside the allocator back to the system, and the pages of the program itself, most of which
/// were needed to start or for work that is done. Blocking; some milliseconds when there is much.
///
/// What many threads allocated for a moment stays with the allocator otherwise, and a daemon that has nothing to do
/// would look as large as it was at its busiest. Code that is needed again is mapped again from the page cache.
pub fn release_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes no pointers and may be called by any thread at any time.
    unsafe {
        libc::malloc_trim(0);
    }
    #[cfg(target_os = "linux")]
    release_code();
}

/// Unmaps the pages of the segment that this function is in until they are asked for.
#[cfg(target_os = "linux")]
fn release_code() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else {
        return;
    };
    let here = release_code as fn() as usize;
    let Some(segment) = maps.lines().find_map(|line| code_at(line, here)) else {
        return;
    };
    // SAFETY: the segment is mapped from a file and was never writable, so every page of it can be had from there again.
    unsafe {
        libc::madvise(
            segment.start as *mut libc::c_void,
            segment.len(),
            libc::MADV_DONTNEED,
        );
    }
}

/// The range a line of `/proc/self/maps` is about, if it is code from a file and holds this address.
#[cfg(target_os = "linux")]
fn code_at(line: &str, address: usize) -> Option<std::ops::Range<usize>> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let (access, _offset, _device, inode) = (
        fields.next()?,
        fields.next()?,
        fields.next()?,
        fields.next()?,
    );
    let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
    (access == "r-xp" && inode != "0" && range.contains(&address)).then_some(range)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// How much of the program's code is mapped, in KiB.
    fn mapped_code() -> u64 {
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("readable");
        let here = mapped_code as fn() -> u64 as usize;
        let mut lines = maps.lines();
        let own = lines.find(|line| code_at(line, here).is_some());
        own.expect("code is in a file");
        let size = lines.find_map(|line| line.strip_prefix("Rss:"));
        let size = size.and_then(|size| size.split_ascii_whitespace().next());
        size.and_then(|size| size.parse().ok()).expect("a size")
    }

    #[test]
    fn the_code_of_the_program_goes_and_comes_back() {
        let before = mapped_code();
        release_memory();
        let after = mapped_code();
        assert!(after < before, "{before} KiB, then {after} KiB");
        assert_eq!(format!("{:?}", [1.5, 2.5]), "[1.5, 2.5]");
    }

    #[test]
    fn only_code_of_files_is_recognised() {
        let line = |access, inode| format!("1000-3000 {access} 00001000 fe:00 {inode} /p");
        assert_eq!(code_at(&line("r-xp", "7"), 0x2fff), Some(0x1000..0x3000));
        assert_eq!(code_at(&line("r-xp", "7"), 0x3000), None);
        assert_eq!(code_at(&line("r-xp", "0"), 0x2000), None);
        assert_eq!(code_at(&line("r--p", "7"), 0x2000), None);
        assert_eq!(code_at(&line("rwxp", "7"), 0x2000), None);
    }
}
