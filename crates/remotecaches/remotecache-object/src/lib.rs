//! Remote caches in stores of objects: blobs by digest, and documents by name that say what the blobs are.
//!
//! Three kinds: `s3` (a bucket), `azblob` (a container of Azure's store of blobs) and `gha` (the cache service of GitHub's
//! actions). What they have in common is in `objects`; each says where blobs and documents are and how they are asked
//! for. Nothing here knows what a cache says: that is `remotecache`'s matter.

mod attrs;
mod azblob;
mod azure;
mod download;
mod gha;
mod http;
mod objects;
mod s3;
#[cfg(test)]
mod trial;

use std::sync::Arc;

use remotecache::Kind;

pub use gha::Signing;

use objects::Caches;

/// Looks up a variable of the daemon's environment.
pub type Environment = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// All kinds of such caches. Options that are not given are looked up in `environment`.
pub fn kinds(environment: &Environment, signing: &Signing) -> [Arc<dyn Kind>; 3] {
    [
        Arc::new(Caches::<s3::Bucket>::new(environment, signing)),
        Arc::new(Caches::<azblob::Container>::new(environment, signing)),
        Arc::new(Caches::<gha::Entries>::new(environment, signing)),
    ]
}
