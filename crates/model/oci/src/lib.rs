//! The words of OCI images: digests, descriptors, platforms, references, manifests, configs.
//!
//! Documents only: nothing here reads a file or talks to a registry.

mod config;
mod descriptor;
mod digest;
mod history;
pub mod json;
mod manifest;
pub mod media_type;
mod platform;
mod reference;
mod time;

pub use config::{ConfigError, ImageConfig, RootFs};
pub use descriptor::Descriptor;
pub use digest::{Digest, DigestError, Hasher, hex, hex_digits, push_hex};
pub use history::{History, LayerOrigin, align_history};
pub use manifest::{Index, Manifest};
pub use platform::{Matcher, Platform, PlatformError};
pub use reference::{Locator, LocatorError, Reference, ReferenceError};
pub use time::{Timestamp, TimestampError};
