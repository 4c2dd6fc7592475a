//! Which record of a key has a result that can be had.

use cache::Ref;
use cachekeys::{Key, Record, ResultId, StoreId, Stores};

use crate::collect::Results;
use crate::layers::LayerId;
use crate::store::imported;

/// A result that can be had.
#[derive(Clone)]
pub(crate) enum Available {
    /// It is in the daemon's cache.
    Here(Ref),
    /// It is in an imported cache.
    Elsewhere {
        store: StoreId,
        result: ResultId,
        layer: LayerId,
    },
}

/// The first usable record: the one the build itself loaded or saved, else the newest, of equals an imported one.
pub(crate) fn first(
    key: &Key,
    stores: &Stores,
    results: &dyn Results,
) -> Option<(Record, Option<Available>)> {
    let exists = |result: &ResultId| results.exists(result);
    let mut records = cachekeys::records(stores, key, &exists);
    records.sort_by(|a, b| {
        let newest = b.created.cmp(&a.created);
        newest.then((a.store == StoreId::MAIN).cmp(&(b.store == StoreId::MAIN)))
    });
    let all = key.record().into_iter().chain(records);
    for record in all {
        if record.store == StoreId::MAIN {
            match results.load(&record.result) {
                Some(Some(tree)) => return Some((record, Some(Available::Here(tree)))),
                // There is a result, and it is empty.
                Some(None) => return Some((record, None)),
                None => continue,
            }
        }
        let cache = stores.by_id(record.store).and_then(imported);
        if let Some(layer) = cache.and_then(|cache| cache.layer(&record.result)) {
            let result = record.result.clone();
            let store = record.store;
            let found = Available::Elsewhere {
                store,
                result,
                layer,
            };
            return Some((record, Some(found)));
        }
    }
    None
}
