//! Bytes of ops, read and written.

use oci::Digest;
use prost::Message;
use proto::pb;

use crate::Error;

/// The bytes whose SHA-256 names the op: what `proto::encode::marshal_op` gives, without its detour through a tree
/// where that is not needed.
pub(crate) fn op_bytes(op: &pb::Op) -> Vec<u8> {
    use prost::encoding::message;
    let Some(kind) = op.op.as_ref().filter(|kind| is_plain(kind)) else {
        return proto::encode::marshal_op(op);
    };
    let mut bytes = Vec::with_capacity(op.encoded_len());
    message::encode_repeated(1, &op.inputs, &mut bytes);
    if let Some(platform) = &op.platform {
        message::encode(10, platform, &mut bytes);
    }
    if let Some(constraints) = &op.constraints {
        message::encode(11, constraints, &mut bytes);
    }
    kind.encode(&mut bytes);
    bytes
}

/// Whether prost writes this kind as upstream does. It leaves out empty parts of map entries, which upstream writes.
fn is_plain(kind: &pb::op::Op) -> bool {
    match kind {
        pb::op::Op::Source(source) => source
            .attrs
            .iter()
            .all(|(key, value)| !key.is_empty() && !value.is_empty()),
        pb::op::Op::Build(_) => false,
        _ => true,
    }
}

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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Every op of the wire vectors, and the corners of what is plain.
    #[test]
    fn the_short_way_gives_the_same_bytes() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../../testing/vectors/wire/ops.json"
        );
        let text = std::fs::read_to_string(Path::new(path)).expect("the vectors are there");
        let list: Vec<serde_json::Value> = serde_json::from_str(&text).expect("vectors are JSON");
        let mut seen = 0;
        for entry in list.iter().filter(|entry| entry["message"] == "pb.Op") {
            let hex = entry["hex"].as_str().expect("bytes");
            let bytes: Vec<u8> = (0..hex.len() / 2)
                .map(|at| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).expect("hex"))
                .collect();
            let op = pb::Op::decode(bytes.as_slice()).expect("an op");
            assert_eq!(op_bytes(&op), bytes, "{}", entry["name"]);
            seen += 1;
        }
        assert!(seen > 30, "{seen}");
        let attrs = [("local.unique".to_owned(), String::new())].into();
        let source = pb::SourceOp {
            identifier: "local://x".to_owned(),
            attrs,
        };
        let op = pb::Op {
            op: Some(pb::op::Op::Source(source)),
            ..pb::Op::default()
        };
        assert_eq!(op_bytes(&op), proto::encode::marshal_op(&op));
        assert_eq!(op_bytes(&pb::Op::default()), Vec::<u8>::new());
    }
}
