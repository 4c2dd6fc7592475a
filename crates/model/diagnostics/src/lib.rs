//! What went wrong, as it travels from an op up to the client: text, class, and typed details.
//!
//! Crates have error types of their own; where a build hands an error to its frontend or its client, it becomes a
//! [`Failure`]. Turning the class into a gRPC code happens here and nowhere else. [`excerpt`] prints the place in a
//! source file the way users know it.

mod detail;
mod excerpt;
mod failure;
mod status;

pub use detail::Detail;
pub use excerpt::{excerpt, excerpts};
pub use failure::Failure;
