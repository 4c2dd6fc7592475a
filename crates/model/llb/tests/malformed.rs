//! Definitions nobody should send: refused with a reason, or read within bounds.

use bytes::Bytes;
use llb::{Error, Graph, LoadOptions};
use oci::{Digest, Platform};
use proptest::prelude::*;
use proto::pb;

fn load(definition: &pb::Definition) -> Result<Graph, Error> {
    let options = LoadOptions {
        platform: Platform::host(),
        ..LoadOptions::default()
    };
    Graph::load(definition, &options)
}

fn source(name: &str) -> pb::Op {
    pb::Op {
        op: Some(pb::op::Op::Source(pb::SourceOp {
            identifier: format!("local://{name}"),
            ..pb::SourceOp::default()
        })),
        ..pb::Op::default()
    }
}

fn on(digest: &str, index: i64) -> pb::Input {
    pb::Input {
        digest: digest.to_owned(),
        index,
    }
}

fn raw(ops: &[pb::Op]) -> pb::Definition {
    let bytes = |op: &pb::Op| Bytes::from(proto::encode::marshal_op(op));
    pb::Definition {
        def: ops.iter().map(bytes).collect(),
        ..pb::Definition::default()
    }
}

fn digest(op: &pb::Op) -> String {
    Digest::of(proto::encode::marshal_op(op)).to_string()
}

fn merge(inputs: Vec<pb::Input>) -> pb::Op {
    let list = (0..inputs.len() as i64).map(|input| pb::MergeInput { input });
    pb::Op {
        op: Some(pb::op::Op::Merge(pb::MergeOp {
            inputs: list.collect(),
        })),
        inputs,
        ..pb::Op::default()
    }
}

/// An op cannot contain its own digest, so a circle is always an op that is not there under that name.
#[test]
fn circles_are_missing_inputs() {
    let promised = digest(&source("b"));
    let first = merge(vec![on(&promised, 0), on(&promised, 0)]);
    let second = merge(vec![on(&digest(&first), 0), on(&digest(&first), 0)]);
    let last = pb::Op {
        inputs: vec![on(&digest(&second), 0)],
        ..pb::Op::default()
    };
    let refused = load(&raw(&[first, second, last])).expect_err("there is no b");
    assert_eq!(refused, Error::MissingInput { digest: promised });
}

#[test]
fn what_is_no_digest_is_a_missing_input() {
    for name in ["", "sha256:xyz", "sha256:", "../../etc/passwd", "\u{0}"] {
        let last = pb::Op {
            inputs: vec![on(name, 0)],
            ..pb::Op::default()
        };
        let refused = load(&raw(&[source("a"), last])).expect_err("no digest");
        assert!(
            matches!(refused, Error::MissingInput { .. }),
            "{name:?}: {refused}"
        );
    }
}

#[test]
fn an_output_number_beyond_everything_is_read_and_left_to_the_op() {
    let a = source("a");
    let last = pb::Op {
        inputs: vec![on(&digest(&a), i64::MAX)],
        ..pb::Op::default()
    };
    let graph = load(&raw(&[a, last])).expect("only the op knows how many outputs it has");
    assert_eq!(graph.root.output, i64::MAX as usize);
}

#[test]
fn a_hundred_thousand_vertices_under_one_are_read() {
    let sources: Vec<pb::Op> = (0..100_000).map(|n| source(&n.to_string())).collect();
    let top = merge(sources.iter().map(|op| on(&digest(op), 0)).collect());
    let last = pb::Op {
        inputs: vec![on(&digest(&top), 0)],
        ..pb::Op::default()
    };
    let mut ops = sources;
    ops.extend([top, last]);
    let graph = load(&raw(&ops)).expect("it is only large");
    assert_eq!(graph.vertices.len(), 100_001);
    assert_eq!(graph.vertices[100_000].inputs.len(), 100_000);
}

/// Each level reads the one below twice: 2^64 paths through 64 ops.
#[test]
fn a_graph_with_more_paths_than_atoms_is_read_at_once() {
    let mut ops = vec![source("a")];
    for level in 0..64 {
        let below = digest(&ops[level]);
        ops.push(merge(vec![on(&below, 0), on(&below, 0)]));
    }
    let below = digest(&ops[64]);
    ops.push(pb::Op {
        inputs: vec![on(&below, 0)],
        ..pb::Op::default()
    });
    let graph = load(&raw(&ops)).expect("it is small");
    assert_eq!(graph.vertices.len(), 65);
    let longest = graph.vertices.iter().map(|it| it.name.len()).max();
    assert!(longest.is_some_and(|length| length < 20_000), "{longest:?}");
}

#[test]
fn a_definition_of_64_megabytes_is_read_without_copies_of_copies() {
    let large = Bytes::from(vec![b'x'; 64 << 20]);
    let file = pb::Op {
        op: Some(pb::op::Op::File(pb::FileOp {
            actions: vec![pb::FileAction {
                input: -1,
                secondary_input: -1,
                action: Some(pb::file_action::Action::Mkfile(pb::FileActionMkFile {
                    path: "/large".to_owned(),
                    data: large,
                    ..pb::FileActionMkFile::default()
                })),
                ..pb::FileAction::default()
            }],
        })),
        ..pb::Op::default()
    };
    let last = pb::Op {
        inputs: vec![on(&digest(&file), 0)],
        ..pb::Op::default()
    };
    let graph = load(&raw(&[file, last])).expect("it is only large");
    assert_eq!(graph.vertices.len(), 1);
}

proptest! {
    #[test]
    fn random_bytes_are_refused_or_read(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..8)) {
        let definition = pb::Definition {
            def: pieces.into_iter().map(Bytes::from).collect(),
            ..pb::Definition::default()
        };
        let _ = load(&definition);
    }

    #[test]
    fn a_good_definition_with_a_changed_byte_is_refused_or_read(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let a = source("a");
        let b = merge(vec![on(&digest(&a), 0), on(&digest(&a), 0)]);
        let last = pb::Op { inputs: vec![on(&digest(&b), 0)], ..pb::Op::default() };
        let mut definition = raw(&[a, b, last]);
        let entry = at.index(definition.def.len());
        let mut bytes = definition.def[entry].to_vec();
        let place = at.index(bytes.len());
        bytes[place] = byte;
        definition.def[entry] = Bytes::from(bytes);
        let _ = load(&definition);
    }
}
