//! The context every long call takes first: when to stop, and why.

use std::future::Future;
use std::sync::{Arc, OnceLock};

use fault::{Class, Classify};
use tokio_util::sync::CancellationToken;

/// The work was told to stop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{cause}")]
pub struct Cancelled {
    /// Why, as users read it: `context canceled` unless somebody knows better.
    pub cause: Arc<str>,
}

impl Classify for Cancelled {
    fn class(&self) -> Class {
        Class::Cancelled
    }
}

/// Cancellation, handed down by value. Cancelling a parent cancels its children, never the other way.
#[derive(Debug, Clone)]
pub struct Cx {
    token: CancellationToken,
    cause: Arc<OnceLock<Arc<str>>>,
    parent: Option<Arc<Cx>>,
}

impl Cx {
    /// A context nobody is above of.
    pub fn root() -> Self {
        Self {
            token: CancellationToken::new(),
            cause: Arc::default(),
            parent: None,
        }
    }

    /// A context that also stops when `self` stops.
    pub fn child(&self) -> Self {
        Self {
            token: self.token.child_token(),
            cause: Arc::default(),
            parent: Some(Arc::new(self.clone())),
        }
    }

    /// Tells the work to stop. The first cause is kept.
    pub fn cancel(&self, cause: &str) {
        // A cause that is already there stays: the first reason is the true one.
        let _ = self.cause.set(Arc::from(cause));
        self.token.cancel();
    }

    /// Whether the work should stop.
    pub fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    /// An error when the work should stop. For loops in blocking code.
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.is_cancelled() {
            return Err(self.reason());
        }
        Ok(())
    }

    /// Waits until the work should stop.
    pub async fn cancelled(&self) -> Cancelled {
        self.token.cancelled().await;
        self.reason()
    }

    /// Runs `work` unless and until the context is cancelled; `work` is dropped then.
    pub async fn run<T>(&self, work: impl Future<Output = T>) -> Result<T, Cancelled> {
        tokio::select! {
            biased;
            reason = self.cancelled() => Err(reason),
            value = work => Ok(value),
        }
    }

    fn reason(&self) -> Cancelled {
        let mut at = Some(self);
        while let Some(cx) = at {
            if let Some(cause) = cx.cause.get() {
                return Cancelled {
                    cause: cause.clone(),
                };
            }
            at = cx.parent.as_deref();
        }
        Cancelled {
            cause: Arc::from("context canceled"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_child_stops_with_its_parent_and_knows_why() {
        let parent = Cx::root();
        let child = parent.child();
        parent.cancel("session lost");
        assert_eq!(&*child.cancelled().await.cause, "session lost");
        assert!(child.check().is_err());
    }

    #[tokio::test]
    async fn a_parent_goes_on_when_its_child_stops() {
        let parent = Cx::root();
        parent.child().cancel("enough");
        assert_eq!(parent.run(async { 7 }).await, Ok(7));
    }
}
