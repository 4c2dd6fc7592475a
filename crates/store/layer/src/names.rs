//! What a layer has in it, without unpacking it.

use oci::Descriptor;
use tasks::Cx;

use crate::{Error, archive, decompress, reading};

/// The names of the members of a layer, as the archive has them, markers of removed files included.
pub fn names(
    cx: &Cx,
    store: &content::Store,
    blob: &Descriptor,
    each: &mut dyn FnMut(&[u8]),
) -> Result<(), Error> {
    let file = store.open_blob(&blob.digest)?;
    let stream = decompress::reader(file).map_err(reading(blob))?;
    let mut members = archive::Reader::new(std::io::BufReader::new(stream));
    while let Some(member) = members.next_member().map_err(reading(blob))? {
        cx.check()?;
        each(&member.name);
    }
    Ok(())
}
