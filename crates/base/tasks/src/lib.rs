//! Named work that somebody waits for: cancellation, scopes, blocking calls, run-once maps.
//!
//! A task never outlives its [`Scope`]; a [`Cx`] tells everything below it when to stop and why. Nothing here knows
//! what the work is about.

mod cx;
mod once;
mod scope;

use std::future::Future;

pub use cx::{Cancelled, Cx};
pub use once::OnceMap;
pub use scope::{Scope, Task};

/// Runs `work` on the blocking pool and waits for it. A panic in `work` continues here.
///
/// The work is not interrupted when the caller goes away; long work must look at its [`Cx`].
pub async fn blocking<T, F>(work: F) -> T
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(err) => std::panic::resume_unwind(err.into_panic()),
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
