//! Keeping little memory, and giving it back.

#![allow(unsafe_code)]

#[cfg(target_os = "linux")]
use std::{
    ops::Range,
    sync::{
        OnceLock,
        mpsc::{self, RecvTimeoutError},
    },
    time::Duration,
};

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

/// Keeps the program small for as long as this lives: whenever more than `limit` bytes of files are mapped, the pages of
/// the program are given back, and come again as they are asked for.
///
/// A page that is asked for brings its neighbours along. Of what a busy daemon has mapped in the end it needs a third.
#[cfg(target_os = "linux")]
#[derive(Debug)]
pub struct LittleCode {
    /// Nothing is sent: the thread waits for its end.
    _alive: mpsc::Sender<()>,
}

#[cfg(target_os = "linux")]
impl LittleCode {
    /// Looks every `period`, on a thread of its own: it matters most while all others are busy.
    pub fn keep(limit: usize, period: Duration) -> Self {
        let (alive, end) = mpsc::channel();
        let look = move || {
            while end.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
                trim_code(limit);
            }
        };
        // Without a thread the program is as large as it is.
        let _ = std::thread::Builder::new()
            .name("little-code".to_owned())
            .stack_size(64 << 10)
            .spawn(look);
        Self { _alive: alive }
    }
}

/// Takes some microseconds when there is nothing to do, and a fraction of a millisecond when there is.
#[cfg(target_os = "linux")]
fn trim_code(limit: usize) {
    if mapped_files() > limit {
        release_code();
    }
}

/// How many bytes of files are mapped.
#[cfg(target_os = "linux")]
fn mapped_files() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').nth(2)?.parse::<usize>().ok());
    pages.unwrap_or_default() * page_size()
}

#[cfg(target_os = "linux")]
fn page_size() -> usize {
    // SAFETY: takes no pointers.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}

/// Unmaps the pages of the program until they are asked for.
#[cfg(target_os = "linux")]
fn release_code() {
    for segment in segments() {
        // SAFETY: the segment is mapped from a file for as long as the process lives and was never writable, so every
        // page of it can be had from there again.
        unsafe {
            libc::madvise(
                segment.start as *mut libc::c_void,
                segment.len(),
                libc::MADV_DONTNEED,
            );
        }
    }
}

/// The whole pages of the program that are never written: its code and constants.
#[cfg(target_os = "linux")]
fn segments() -> &'static [Range<usize>] {
    static SEGMENTS: OnceLock<Vec<Range<usize>>> = OnceLock::new();
    SEGMENTS.get_or_init(|| {
        let mut found = Vec::<Range<usize>>::new();
        // SAFETY: the callback takes what it is given here, and is done with it when this returns.
        unsafe {
            libc::dl_iterate_phdr(Some(take_segments), (&raw mut found).cast());
        }
        found
    })
}

/// Takes the segments of what the loader tells of first, which is the program; has it stop there.
#[cfg(target_os = "linux")]
unsafe extern "C" fn take_segments(
    object: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    found: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the loader hands out a description that is valid during the call.
    let object = unsafe { &*object };
    // SAFETY: `segments` hands over a vector of its own, and waits.
    let found = unsafe { &mut *found.cast::<Vec<Range<usize>>>() };
    // SAFETY: the description says where the headers are and how many; they are part of the program.
    let headers = unsafe { std::slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into()) };
    let page = page_size();
    for header in headers {
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        let start = object.dlpi_addr as usize + header.p_vaddr as usize;
        let end = start + header.p_memsz as usize;
        found.push(start.next_multiple_of(page)..end / page * page);
    }
    1
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_the_program_goes_and_comes_back() {
        let before = mapped_files();
        trim_code(2 * before);
        assert!(mapped_files() >= before, "that is within the limit");
        trim_code(before / 2);
        let after = mapped_files();
        assert!(after < before, "{before} bytes, then {after}");
        assert_eq!(format!("{:?}", [1.5, 2.5]), "[1.5, 2.5]");
    }

    #[test]
    fn a_program_is_kept_small_until_nobody_asks_for_it() {
        let kept = LittleCode::keep(0, Duration::from_millis(1));
        let before = mapped_files();
        let start = std::time::Instant::now();
        while mapped_files() >= before && start.elapsed() < Duration::from_secs(30) {
            std::thread::yield_now();
        }
        assert!(mapped_files() < before, "{before}");
        drop(kept);
    }

    #[test]
    fn code_and_constants_are_released_and_nothing_that_was_written() {
        static WRITTEN: std::sync::Mutex<u8> = std::sync::Mutex::new(7);
        static MEANT: &[u8; 64] = &[42; 64];
        let holds = |address: usize| segments().iter().any(|it| it.contains(&address));
        assert!(holds(release_code as fn() as usize));
        assert!(holds(MEANT.as_ptr().addr()));
        assert!(!holds((&raw const WRITTEN).addr()));
        // Where the loader puts addresses is written once, before there is any other code.
        assert!(!holds((&raw const MEANT).addr()));
    }
}
