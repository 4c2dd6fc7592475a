//! What one build has resolved: asked again, it gets the same answer, whatever became of the remote side.

use std::any::Any;
use std::future::Future;
use std::sync::Arc;

use tasks::OnceMap;

type Value = Arc<dyn Any + Send + Sync>;

/// Answers of one build by key. Sources put into their keys what makes an answer different, and their own name.
#[derive(Default)]
pub struct Memo(OnceMap<String, Value>);

impl std::fmt::Debug for Memo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memo").finish_non_exhaustive()
    }
}

impl Memo {
    /// The answer under `key`, or that of `work`. Whoever asks meanwhile waits for it; failures are not kept.
    pub async fn get_or_try<T, E, F>(
        &self,
        key: &str,
        work: impl FnOnce() -> F,
    ) -> Result<Arc<T>, E>
    where
        T: Send + Sync + 'static,
        F: Future<Output = Result<T, E>>,
    {
        let work = || async {
            let value: Value = Arc::new(work().await?);
            Ok(value)
        };
        let value = self.0.get_or_try(&key.to_owned(), work).await?;
        Ok(value
            .downcast()
            .unwrap_or_else(|_| panic!("two kinds of answers under {key}")))
    }

    /// The answer under `key`, if there is one by now.
    pub fn known<T: Send + Sync + 'static>(&self, key: &str) -> Option<Arc<T>> {
        self.0.known(&key.to_owned())?.downcast().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_answer_stays() {
        let memo = Memo::default();
        assert_eq!(memo.known::<u8>("a"), None);
        let first = memo.get_or_try("a", || async { Ok::<_, ()>(1_u8) }).await;
        let second = memo.get_or_try("a", || async { Ok::<_, ()>(2_u8) }).await;
        assert_eq!((first, second), (Ok(Arc::new(1)), Ok(Arc::new(1))));
        assert_eq!(memo.known("a"), Some(Arc::new(1_u8)));
    }

    #[tokio::test]
    async fn failures_are_not_kept() {
        let memo = Memo::default();
        let failed = memo.get_or_try("a", || async { Err::<u8, _>("no") }).await;
        assert_eq!(failed, Err("no"));
        let next = memo.get_or_try("a", || async { Ok::<_, &str>(2_u8) }).await;
        assert_eq!(next, Ok(Arc::new(2)));
    }
}
