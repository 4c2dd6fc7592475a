//! Bytes that both sides must agree on, because digests are taken of them or because they are compared.
//!
//! prost writes fields in ascending order, maps sorted by key. The reference encoder differs in one point: members of
//! a oneof come after all other fields of their message. Whoever makes an op makes its bytes here; bytes that were
//! received are never made again to find out their digest.

use prost::Message;

use crate::{errdefs, gateway, pb};

/// The bytes of an op whose sha256 is its digest.
pub fn marshal_op(op: &pb::Op) -> Vec<u8> {
    let Some(kind) = &op.op else {
        return op.encode_to_vec();
    };
    let rest = pb::Op {
        inputs: op.inputs.clone(),
        platform: op.platform.clone(),
        constraints: op.constraints.clone(),
        op: None,
    };
    let mut bytes = rest.encode_to_vec();
    kind.encode(&mut bytes);
    bytes
}

/// The bytes of a definition. Its ops are kept as they are.
pub fn marshal_definition(definition: &pb::Definition) -> Vec<u8> {
    definition.encode_to_vec()
}

/// The bytes of one file action, with its kind last (which ascending order gives already).
pub fn marshal_file_action(action: &pb::FileAction) -> Vec<u8> {
    action.encode_to_vec()
}

/// The bytes of a solve detail: the subject of the failure last, the op inside as [`marshal_op`] writes it.
pub fn marshal_solve(solve: &errdefs::Solve) -> Vec<u8> {
    let head = errdefs::Solve {
        input_ids: solve.input_ids.clone(),
        mount_ids: solve.mount_ids.clone(),
        ..Default::default()
    };
    let mut bytes = head.encode_to_vec();
    if let Some(op) = &solve.op {
        prost::encoding::encode_key(3, prost::encoding::WireType::LengthDelimited, &mut bytes);
        let op = marshal_op(op);
        prost::encoding::encode_varint(op.len() as u64, &mut bytes);
        bytes.extend_from_slice(&op);
    }
    let tail = errdefs::Solve {
        description: solve.description.clone(),
        ..Default::default()
    };
    bytes.extend_from_slice(&tail.encode_to_vec());
    if let Some(subject) = &solve.subject {
        subject.encode(&mut bytes);
    }
    bytes
}

/// The bytes of a frontend's result: the refs last.
pub fn marshal_result(result: &gateway::Result) -> Vec<u8> {
    let rest = gateway::Result {
        metadata: result.metadata.clone(),
        attestations: result.attestations.clone(),
        result: None,
    };
    let mut bytes = rest.encode_to_vec();
    if let Some(refs) = &result.result {
        refs.encode(&mut bytes);
    }
    bytes
}
