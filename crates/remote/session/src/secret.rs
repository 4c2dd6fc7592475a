//! Bytes that must not be shown.

use std::fmt;

use bytes::Bytes;

/// A secret value. It cannot be printed, compared or serialised by accident.
#[derive(Clone, Default)]
pub struct Secret(Bytes);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<Bytes>) -> Self {
        Self(value.into())
    }

    /// The value, for the one place that needs it.
    pub fn reveal(&self) -> &Bytes {
        &self.0
    }

    /// The value as text; bytes that are none are replaced.
    pub fn reveal_text(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether two secrets are equal, in a time that depends on their lengths only.
    pub fn same(&self, other: &Self) -> bool {
        let pairs = self.0.iter().zip(other.0.iter());
        self.0.len() == other.0.len() && pairs.fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}
