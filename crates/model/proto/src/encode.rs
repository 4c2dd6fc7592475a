//! Bytes that both sides must agree on, because digests are taken of them or because they are compared.
//!
//! The reference's deterministic encoder differs from prost in two points: members of a oneof come after all other
//! fields of their message, and map entries have key and value even when they are zero. Whoever makes an op makes its
//! bytes here; bytes that were received are never made again to find out their digest.

use prost::{Message, Name};

use crate::schema::{self, SCHEMA};
use crate::{errdefs, gateway, pb};

/// The bytes of a message as the reference writes them.
pub fn marshal<M: Message + Name>(message: &M) -> Vec<u8> {
    let shape = SCHEMA
        .message(&M::full_name())
        .expect("every generated message is in the descriptors");
    let bytes = message.encode_to_vec();
    let tree = SCHEMA
        .decode(shape, &bytes)
        .expect("prost wrote these bytes");
    schema::encode(shape, &tree)
}

/// The bytes of an op whose sha256 is its digest.
pub fn marshal_op(op: &pb::Op) -> Vec<u8> {
    marshal(op)
}

/// The bytes of a definition. Its ops are bytes already and kept as they are.
pub fn marshal_definition(definition: &pb::Definition) -> Vec<u8> {
    marshal(definition)
}

/// The bytes of one file action.
pub fn marshal_file_action(action: &pb::FileAction) -> Vec<u8> {
    marshal(action)
}

/// The bytes of a solve detail.
pub fn marshal_solve(solve: &errdefs::Solve) -> Vec<u8> {
    marshal(solve)
}

/// The bytes of a frontend's result.
pub fn marshal_result(result: &gateway::Result) -> Vec<u8> {
    marshal(result)
}
