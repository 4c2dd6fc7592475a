//! Turns of those who write the same blob into the same folder of a machine, which may be that of several sessions.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use oci::Digest;
use parking_lot::Mutex;
use tasks::Cx;
use tokio::sync::OwnedMutexGuard;

use crate::Error;

/// Nobody waits longer: that folders have one name does not mean that they are one, and the other client may be slow.
const PATIENCE: Duration = Duration::from_secs(2);

/// A store's name, and what is written.
type Key = (String, Digest);
type Lock = Arc<tokio::sync::Mutex<()>>;

/// Who writes what.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<HashMap<Key, Lock>>);

/// The others wait while this lives.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    key: Key,
    /// `None`: somebody else took too long.
    guard: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits for those who write the blob into `store` now, but not for ever.
    pub(crate) async fn take(
        &self,
        cx: &Cx,
        store: &str,
        blob: &Digest,
    ) -> Result<Turn<'_>, Error> {
        let key = (store.to_owned(), blob.clone());
        let lock = self.0.lock().entry(key.clone()).or_default().clone();
        let mut turn = Turn {
            turns: self,
            key,
            guard: None,
        };
        let locked = tokio::time::timeout(PATIENCE, lock.lock_owned());
        turn.guard = cx.run(locked).await?.ok();
        Ok(turn)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut turns = self.turns.0.lock();
        self.guard = None;
        // What the table has is the last one when nobody holds or awaits it.
        if turns
            .get(&self.key)
            .is_some_and(|lock| Arc::strong_count(lock) == 1)
        {
            turns.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_writes_at_a_time_and_nobody_waits_for_ever() {
        let (turns, cx, blob) = (Turns::default(), Cx::root(), Digest::of("x"));
        let first = turns.take(&cx, "local:/a", &blob).await.expect("a turn");
        let other = turns.take(&cx, "local:/b", &blob).await.expect("a turn");
        assert!(other.guard.is_some(), "another folder");
        drop(other);
        let late = turns.take(&cx, "local:/a", &blob).await.expect("a turn");
        assert!(late.guard.is_none(), "the first one is slow");
        drop(late);
        let (next, ()) = tokio::join!(turns.take(&cx, "local:/a", &blob), async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            drop(first);
        });
        assert!(next.expect("a turn").guard.is_some());
        assert!(turns.0.lock().is_empty(), "nothing is left behind");
    }
}
