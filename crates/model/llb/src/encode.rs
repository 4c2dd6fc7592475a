use oci::Digest;
use prost::Message;
use proto::pb;

use crate::Error;

/// Digest of the op a definition ends in, if it has one.
pub fn head(definition: &pb::Definition) -> Result<Option<Digest>, Error> {
    let Some(last) = definition.def.last() else {
        return Ok(None);
    };
    let op = decode(last)?;
    Ok(op
        .inputs
        .first()
        .and_then(|input| input.digest.parse().ok()))
}

pub(crate) fn decode(bytes: &[u8]) -> Result<pb::Op, Error> {
    pb::Op::decode(bytes).map_err(|err| {
        let text = err.to_string();
        let truncated = ["underflow", "delimited length", "varint"];
        let reason = if truncated.iter().any(|word| text.contains(word)) {
            "unexpected EOF".to_owned()
        } else {
            text
        };
        Error::Parse { reason }
    })
}
