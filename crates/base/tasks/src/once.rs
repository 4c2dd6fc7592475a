//! Work that is done once however many ask for it.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OnceCell;

/// Single-flight by key. A success is remembered until [`OnceMap::forget`]; a failure is not, and whoever waits next
/// tries again. When the caller that does the work is dropped, another waiter takes over.
#[derive(Debug)]
pub struct OnceMap<K, V> {
    cells: Mutex<HashMap<K, Arc<OnceCell<V>>>>,
}

impl<K, V> Default for OnceMap<K, V> {
    fn default() -> Self {
        Self {
            cells: Mutex::new(HashMap::new()),
        }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> OnceMap<K, V> {
    /// The remembered value, or that of `work`.
    pub async fn get_or_try<E, F>(&self, key: &K, work: impl FnOnce() -> F) -> Result<V, E>
    where
        F: Future<Output = Result<V, E>>,
    {
        let cell = self.cells.lock().entry(key.clone()).or_default().clone();
        cell.get_or_try_init(work).await.cloned()
    }

    /// The remembered value, without waiting for one that is on its way.
    pub fn known(&self, key: &K) -> Option<V> {
        self.cells.lock().get(key)?.get().cloned()
    }

    /// Drops what is remembered under `key`.
    pub fn forget(&self, key: &K) {
        self.cells.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn two_askers_one_run() {
        let map = OnceMap::default();
        let runs = AtomicUsize::new(0);
        let work = || async {
            runs.fetch_add(1, Ordering::Relaxed);
            Ok::<_, ()>(5)
        };
        let (a, b) = tokio::join!(map.get_or_try(&"k", work), map.get_or_try(&"k", work));
        assert_eq!((a, b), (Ok(5), Ok(5)));
        assert_eq!(runs.load(Ordering::Relaxed), 1);
    }
}
