//! Remote caches a build would like to use. There is no importer yet: a build goes on without, as it does when a cache
//! cannot be reached, and its users see why.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use diagnostics::Failure;
use fault::Class;
use parking_lot::Mutex;
use progress::Sink;

use crate::vertex;

/// The caches one build asked for.
#[derive(Default)]
pub(crate) struct Imports {
    seen: Mutex<BTreeSet<String>>,
}

impl Imports {
    /// Shows, once, that a cache is not used.
    pub(crate) async fn skip(
        &self,
        sink: &Arc<dyn Sink>,
        kind: &str,
        attrs: &BTreeMap<String, String>,
    ) {
        let from = attrs.get("ref").or_else(|| attrs.get("src"));
        let title = format!(
            "importing cache manifest from {}",
            from.map_or(kind, String::as_str)
        );
        if !self.seen.lock().insert(title.clone()) {
            return;
        }
        let text = format!("unimplemented: cache import from {kind}");
        let failed: Result<(), Failure> = vertex::run(sink, &title, &title, |_| async {
            Err(Failure::new(Class::Unsupported, text))
        })
        .await;
        if let Err(err) = failed {
            tracing::warn!(error = %err, cache = title, "a cache is not used");
        }
    }
}

#[cfg(test)]
mod tests {
    use progress::Event;

    use super::*;

    #[derive(Default)]
    struct Events(Mutex<Vec<Event>>);

    impl Sink for Events {
        fn emit(&self, event: Event) {
            self.0.lock().push(event);
        }
    }

    #[tokio::test]
    async fn a_cache_that_cannot_be_used_is_shown_once() {
        let events = Arc::new(Events::default());
        let sink: Arc<dyn Sink> = events.clone();
        let imports = Imports::default();
        let attrs = BTreeMap::from([("ref".to_owned(), "example.com/cache".to_owned())]);
        imports.skip(&sink, "registry", &attrs).await;
        imports.skip(&sink, "registry", &attrs).await;
        let events = events.0.lock();
        assert_eq!(events.len(), 2, "a start and an end");
        let Some(Event::Vertex(end)) = events.last() else {
            panic!("not a vertex");
        };
        assert_eq!(end.name, "importing cache manifest from example.com/cache");
        assert_eq!(end.error, "unimplemented: cache import from registry");
    }
}
