//! The seam to `layer`: from a blob to files.

use std::path::Path;

use content::Store;
use oci::{Descriptor, Digest};
use tasks::Cx;

use crate::Error;

/// Unpacks a blob into an empty directory (`layered`: deletions become overlayfs marks) or over a copy of what is below
/// (deletions are carried out), and returns the digest of the tar.
pub(crate) fn unpack(
    _cx: &Cx,
    _content: &Store,
    _blob: &Descriptor,
    _target: &Path,
    _layered: bool,
) -> Result<Digest, Error> {
    Err(Error::Io {
        action: "unpack a layer",
        source: std::io::ErrorKind::Unsupported.into(),
    })
}
