//! Checksums of a file with something behind it, as signatures are made of.

use std::fs::File;
use std::io::Read;

use sha2::{Sha256, Sha384, Sha512};
use source::{Hash, Suffixed};
use tasks::Cx;

use crate::{Error, Resolved};

/// `sha512:…`
pub(crate) async fn checksum(
    cx: &Cx,
    resolved: &Resolved,
    asked: &Suffixed,
) -> Result<String, Error> {
    let tree = resolved.tree.tree(cx).await?;
    let path = tree.path().join(&resolved.filename);
    let asked = asked.clone();
    let hashed = tasks::blocking(move || {
        // The file is ours: made by us under a name without slashes, in a tree that nobody else writes to.
        let file = File::open(path)?;
        let hashed = match asked.hash {
            Hash::Sha256 => format!("sha256:{}", hash::<Sha256>(file, &asked.suffix)?),
            Hash::Sha384 => format!("sha384:{}", hash::<Sha384>(file, &asked.suffix)?),
            Hash::Sha512 => format!("sha512:{}", hash::<Sha512>(file, &asked.suffix)?),
        };
        drop(tree);
        Ok(hashed)
    });
    hashed.await.map_err(|source| Error::File {
        what: "read",
        source,
    })
}

fn hash<D: sha2::Digest>(mut file: File, suffix: &[u8]) -> std::io::Result<String> {
    let mut hasher = D::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
    }
    hasher.update(suffix);
    Ok(oci::hex(&hasher.finalize()))
}
