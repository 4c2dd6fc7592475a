//! Groups of tasks that end together.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::task::{JoinHandle, JoinSet};

use crate::{Cancelled, Cx};

/// A task that stops when this handle is dropped.
#[derive(Debug)]
pub struct Task<T> {
    name: &'static str,
    handle: JoinHandle<T>,
}

impl<T> Task<T> {
    pub(crate) fn new(name: &'static str, handle: JoinHandle<T>) -> Self {
        Self { name, handle }
    }

    /// What the task is for.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether the task has ended.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match Pin::new(&mut self.handle).poll(cx) {
            Poll::Ready(Ok(value)) => Poll::Ready(value),
            Poll::Ready(Err(err)) if err.is_panic() => {
                std::panic::resume_unwind(err.into_panic());
            }
            // Only the handle can abort the task, and the handle is being polled: the runtime is going away.
            Poll::Ready(Err(_)) => Poll::Pending,
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Tasks that are waited for together. The first error stops the others; dropping the scope stops all.
#[derive(Debug)]
pub struct Scope<E> {
    name: &'static str,
    cx: Cx,
    tasks: JoinSet<Result<(), E>>,
}

impl<E: From<Cancelled> + Send + 'static> Scope<E> {
    /// A scope whose tasks stop with `cx`.
    pub fn new(cx: &Cx, name: &'static str) -> Self {
        Self {
            name,
            cx: cx.child(),
            tasks: JoinSet::new(),
        }
    }

    /// The context the tasks of this scope should take.
    pub fn cx(&self) -> &Cx {
        &self.cx
    }

    /// Adds a task.
    #[allow(clippy::disallowed_methods)]
    pub fn spawn(
        &mut self,
        task: &'static str,
        work: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        tracing::trace!(scope = self.name, task, "task started");
        let cx = self.cx.clone();
        self.tasks.spawn(async move {
            match cx.run(work).await {
                Ok(result) => result,
                Err(cancelled) => Err(cancelled.into()),
            }
        });
    }

    /// Waits for all tasks. The first error cancels the rest and is returned once they have ended.
    pub async fn join(mut self) -> Result<(), E> {
        let mut first = None;
        while let Some(ended) = self.tasks.join_next().await {
            let result = match ended {
                Ok(result) => result,
                Err(err) if err.is_panic() => std::panic::resume_unwind(err.into_panic()),
                Err(_) => continue,
            };
            if let Err(err) = result
                && first.is_none()
            {
                first = Some(err);
                self.cx.cancel("context canceled");
            }
        }
        first.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_error_stops_the_others() {
        #[derive(Debug, PartialEq)]
        enum Error {
            Mine,
            Cancelled,
        }
        impl From<Cancelled> for Error {
            fn from(_: Cancelled) -> Self {
                Self::Cancelled
            }
        }
        let mut scope = Scope::new(&Cx::root(), "test");
        scope.spawn("waits for ever", std::future::pending());
        scope.spawn("fails", async { Err(Error::Mine) });
        assert_eq!(scope.join().await, Err(Error::Mine));
    }
}
