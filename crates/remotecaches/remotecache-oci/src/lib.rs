//! Remote caches that are made like images: in a registry, in a folder of the client, inside an exported image.

mod inline;
mod local;
mod options;
mod registry_cache;
mod send;

pub use inline::Inline;
pub use local::Local;
pub use registry_cache::Registry;
