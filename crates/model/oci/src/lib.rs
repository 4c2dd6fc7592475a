//! The words of OCI images: digests, descriptors, platforms, references, manifests, configs.
//!
//! Documents only: nothing here reads a file or talks to a registry.

mod descriptor;
mod digest;
pub mod media_type;
mod platform;
mod reference;

pub use descriptor::Descriptor;
pub use digest::{Digest, DigestError, Hasher};
pub use platform::{Matcher, Platform, PlatformError};
pub use reference::{Locator, LocatorError, Reference, ReferenceError};
