//! Remote caches in stores of objects: blobs by digest, and documents by name that say what the blobs are.

mod http;
mod objects;
mod s3;

pub use s3::S3;

/// Looks up a variable of the daemon's environment.
pub type Environment = std::sync::Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;
