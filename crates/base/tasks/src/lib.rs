//! Named work that somebody waits for: cancellation, scopes, blocking calls, run-once maps.
//!
//! A task never outlives its [`Scope`]; a [`Cx`] tells everything below it when to stop and why. Nothing here knows
//! what the work is about.

pub mod child;
mod cx;
mod memory;
mod once;
mod scope;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

pub use cx::{Cancelled, Cx};
#[cfg(target_os = "linux")]
pub use memory::LittleCode;
pub use memory::{keep_little_memory, release_memory, share_memory};
pub use once::OnceMap;
pub use scope::{Scope, Task};

/// How many threads can work at the same time. Asked of the system once: it takes ten files to answer.
pub fn cores() -> usize {
    static CORES: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(2, std::num::NonZero::get))
}

/// Starts `work` on the blocking pool at once; the future waits for it. A panic in `work` continues there.
///
/// The work is not interrupted when the caller goes away; long work must look at its [`Cx`].
pub fn blocking<T, F>(work: F) -> impl Future<Output = T> + Send + Unpin
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    Blocking(tokio::task::spawn_blocking(work))
}

struct Blocking<T>(tokio::task::JoinHandle<T>);

impl<T> Future for Blocking<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match Pin::new(&mut self.0).poll(cx) {
            Poll::Ready(Ok(value)) => Poll::Ready(value),
            Poll::Ready(Err(err)) if err.is_panic() => {
                std::panic::resume_unwind(err.into_panic());
            }
            // Work that began is never cancelled; work that did not is dropped when the runtime goes away.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }
}

/// Starts a task that is aborted when the returned handle is dropped.
#[allow(clippy::disallowed_methods)]
pub fn spawn<T, F>(name: &'static str, work: F) -> Task<T>
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    Task::new(name, tokio::spawn(work))
}
