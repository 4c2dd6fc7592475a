//! Reading definitions: what is accepted, what is refused, and that size does not matter.

use bytes::Bytes;
use llb::build::{Defaults, FileOp, Image, Local, Mount, Options, Run, State};
use llb::{Error, Graph, LoadOptions};
use oci::{Digest, Platform};
use prost::Message as _;
use proto::pb;

fn amd64() -> Platform {
    "linux/amd64".parse().expect("a platform")
}

fn defaults() -> Defaults {
    Defaults {
        platform: amd64(),
        ..Defaults::default()
    }
}

fn load(definition: &pb::Definition) -> Result<Graph, Error> {
    let options = LoadOptions {
        platform: amd64(),
        ..LoadOptions::default()
    };
    Graph::load(definition, &options)
}

fn alpine() -> State {
    Image::new("docker.io/library/alpine:latest").state(Options::default())
}

fn raw(ops: &[pb::Op]) -> pb::Definition {
    let def = ops
        .iter()
        .map(|op| Bytes::from(proto::encode::marshal_op(op)))
        .collect();
    pb::Definition {
        def,
        ..pb::Definition::default()
    }
}

fn terminal(of: &pb::Op) -> pb::Op {
    let digest = Digest::of(proto::encode::marshal_op(of)).to_string();
    pb::Op {
        inputs: vec![pb::Input { digest, index: 0 }],
        ..pb::Op::default()
    }
}

fn source(identifier: &str) -> pb::Op {
    let source = pb::SourceOp {
        identifier: identifier.to_owned(),
        ..pb::SourceOp::default()
    };
    pb::Op {
        op: Some(pb::op::Op::Source(source)),
        ..pb::Op::default()
    }
}

#[test]
fn a_graph_is_read_inputs_first_with_names() {
    let state = alpine()
        .run(Run::shell("echo hi"), Options::named("say hi"))
        .root()
        .file(
            FileOp::new().mkdir("/a", 0o755).rm("/b"),
            Options::default(),
        );
    let graph = load(&state.marshal(&defaults()).expect("written")).expect("read");
    let names: Vec<&str> = graph
        .vertices
        .iter()
        .map(|vertex| vertex.name.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "docker-image://docker.io/library/alpine:latest",
            "say hi",
            "mkdir /a, rm /b"
        ]
    );
    assert_eq!(graph.root.vertex, 2);
    assert_eq!(graph.vertices[2].inputs[0].vertex, 1);
    assert!(
        graph
            .vertices
            .iter()
            .all(|vertex| vertex.digest == vertex.original)
    );
}

#[test]
fn names_of_merge_and_diff_tell_what_they_are_made_of() {
    let (a, b) = (alpine(), Local::new("x").state(Options::default()));
    let diff = State::diff(&State::scratch(), &b, Options::default());
    let merged = State::merge(&[a, diff], Options::default());
    let graph = load(&merged.marshal(&defaults()).expect("written")).expect("read");
    let name = &graph.root_vertex().expect("a root").name;
    assert_eq!(
        name,
        "merge (docker-image://docker.io/library/alpine:latest, diff scratch -> (local://x))"
    );
}

#[test]
fn merges_of_merges_do_not_blow_up_names() {
    let mut state = State::merge(&[alpine(), alpine()], Options::default());
    for _ in 0..64 {
        state = State::merge(&[state.clone(), state], Options::default());
    }
    let graph = load(&state.marshal(&defaults()).expect("written")).expect("read");
    assert!(
        graph
            .vertices
            .iter()
            .all(|vertex| vertex.name.len() < 20_000)
    );
}

#[test]
fn a_chain_far_deeper_than_the_stack_is_written_read_and_dropped() {
    let mut state = alpine();
    for number in 0..20_000 {
        let file = FileOp::new().mkfile("/n", 0o644, number.to_string());
        state = state.file(file, Options::default());
    }
    let definition = state.marshal(&defaults()).expect("written");
    let graph = load(&definition).expect("read");
    assert_eq!(graph.vertices.len(), 20_001);
    let again = State::from_definition(&definition).expect("read");
    drop(state);
    let again = again.marshal(&defaults()).expect("written");
    assert_eq!(again.def, definition.def);
}

#[test]
fn ops_in_another_encoding_get_the_canonical_digest() {
    let op = pb::Op {
        platform: Some(pb::Platform::default()),
        ..source("local://x")
    };
    // prost puts the oneof member where its number is, upstream behind everything else.
    let plain = Bytes::from(op.encode_to_vec());
    assert_ne!(plain, proto::encode::marshal_op(&op));
    let input = pb::Input {
        digest: Digest::of(&plain).to_string(),
        index: 0,
    };
    let last = pb::Op {
        inputs: vec![input],
        ..pb::Op::default()
    };
    let mut definition = raw(&[last]);
    definition.def.insert(0, plain.clone());
    let graph = load(&definition).expect("read");
    let vertex = graph.root_vertex().expect("a root");
    assert_eq!(vertex.original, Digest::of(&plain));
    assert_eq!(vertex.digest, Digest::of(proto::encode::marshal_op(&op)));
}

#[test]
fn platforms_are_filled_in_and_normalised_without_changing_digests() {
    let mut op = source("docker-image://x");
    op.platform = Some(pb::Platform {
        architecture: "aarch64".to_owned(),
        os: "Linux".to_owned(),
        variant: "v8".to_owned(),
        ..pb::Platform::default()
    });
    let other = source("local://x");
    for (op, expected) in [(op, "arm64"), (other, "amd64")] {
        let graph = load(&raw(&[op.clone(), terminal(&op)])).expect("read");
        let vertex = graph.root_vertex().expect("a root");
        let platform = vertex.op.platform.clone().expect("a platform");
        assert_eq!(
            (platform.architecture.as_str(), platform.variant.as_str()),
            (expected, "")
        );
        assert_eq!(vertex.digest, Digest::of(proto::encode::marshal_op(&op)));
    }
}

#[test]
fn the_proxy_network_counts_in_digests() {
    let state = alpine().run(Run::shell("true"), Options::default()).root();
    let definition = state.marshal(&defaults()).expect("written");
    let options = |proxy_network| LoadOptions {
        proxy_network,
        ..LoadOptions::default()
    };
    let plain = Graph::load(&definition, &options(false)).expect("read");
    let proxied = Graph::load(&definition, &options(true)).expect("read");
    assert_eq!(plain.vertices[0].digest, proxied.vertices[0].digest);
    assert_ne!(plain.vertices[1].digest, proxied.vertices[1].digest);
    assert_eq!(plain.vertices[1].original, proxied.vertices[1].original);
}

#[test]
fn bad_definitions_are_refused_in_upstreams_words() {
    let refused = |definition: &pb::Definition| load(definition).expect_err("refused").to_string();
    assert_eq!(
        refused(&pb::Definition::default()),
        "invalid empty definition"
    );
    let good = source("local://x");
    assert_eq!(
        refused(&raw(std::slice::from_ref(&good))),
        "invalid LLB with 1 vertexes"
    );
    assert_eq!(
        refused(&raw(&[good.clone(), pb::Op::default()])),
        "invalid LLB with no inputs on last vertex"
    );
    let missing = terminal(&source("local://y"));
    let digest = &missing.inputs[0].digest;
    assert_eq!(
        refused(&raw(&[good.clone(), missing.clone()])),
        format!("invalid missing input digest {digest}")
    );
    let mut negative = terminal(&good);
    negative.inputs[0].index = -1;
    assert_eq!(
        refused(&raw(&[good.clone(), negative])),
        "invalid input 0 output index -1"
    );
    let garbage = Bytes::from_static(b"\x0a\xff\xff\xff\x7f");
    let garbage = pb::Definition {
        def: vec![garbage],
        ..pb::Definition::default()
    };
    assert_eq!(
        refused(&garbage),
        "failed to parse llb proto op: unexpected EOF"
    );
}

#[test]
fn unknown_capabilities_are_refused() {
    let op = source("local://x");
    let mut definition = raw(&[op.clone(), terminal(&op)]);
    let mut metadata = pb::OpMetadata::default();
    metadata.caps.insert("no.such.cap", true);
    let digest = Digest::of(proto::encode::marshal_op(&op)).to_string();
    definition.metadata.insert(digest.into(), metadata);
    let refused = load(&definition).expect_err("refused").to_string();
    assert_eq!(refused, "unknown API capability no.such.cap");
}

#[test]
fn ops_that_say_nothing_are_refused() {
    let exec = |exec: pb::ExecOp| pb::Op {
        op: Some(pb::op::Op::Exec(exec)),
        ..pb::Op::default()
    };
    let meta = Some(pb::Meta {
        args: vec!["x".to_owned()],
        ..pb::Meta::default()
    });
    let cases = [
        (exec(pb::ExecOp::default()), "invalid exec op with no meta"),
        (
            exec(pb::ExecOp {
                meta: Some(pb::Meta::default()),
                ..pb::ExecOp::default()
            }),
            "invalid exec op with no args",
        ),
        (
            exec(pb::ExecOp {
                meta,
                ..pb::ExecOp::default()
            }),
            "invalid exec op with no mounts",
        ),
        (
            pb::Op {
                op: Some(pb::op::Op::File(pb::FileOp::default())),
                ..pb::Op::default()
            },
            "invalid file op with no actions",
        ),
        (
            pb::Op {
                op: Some(pb::op::Op::Diff(pb::DiffOp::default())),
                ..pb::Op::default()
            },
            "invalid diff op with nil lower or upper input",
        ),
    ];
    for (op, expected) in cases {
        let refused = load(&raw(&[op.clone(), terminal(&op)])).expect_err("refused");
        assert_eq!(refused.to_string(), expected);
    }
}

#[test]
fn sources_can_be_rewritten_before_digests_are_made() {
    let definition = alpine()
        .run(Run::shell("true"), Options::default())
        .root()
        .marshal(&defaults())
        .expect("written");
    let mut parsed = llb::Parsed::parse(&definition).expect("read");
    for op in parsed.sources_mut() {
        if let Some(pb::op::Op::Source(source)) = &mut op.op {
            source.identifier = "docker-image://docker.io/library/alpine@pinned".to_owned();
        }
    }
    let graph = parsed.into_graph(&LoadOptions::default()).expect("linked");
    let root = graph.root_vertex().expect("a root");
    assert_ne!(root.digest, root.original);
    assert_eq!(
        root.op.inputs[0].digest,
        graph.vertices[0].digest.to_string()
    );
}

#[test]
fn outputs_of_a_run_are_numbered_over_what_it_may_change() {
    let run = Run::shell("make")
        .mount(Mount::bind("/out", &State::scratch()))
        .mount(Mount::readonly("/in", &alpine()))
        .mount(Mount::cache("/a", "id", pb::CacheSharingOpt::Shared));
    let ran = alpine().run(run, Options::default());
    let root = |state: &State| {
        load(&state.marshal(&defaults()).expect("written"))
            .expect("read")
            .root
            .output
    };
    assert_eq!(root(&ran.root()), 0);
    assert_eq!(root(&ran.output("/out").expect("an output")), 1);
    assert!(ran.output("/in").is_none() && ran.output("/a").is_none());
}

#[test]
fn a_later_tree_is_what_it_was_set_to() {
    let (context, later) = State::later();
    let copied = alpine().file(FileOp::new().copy(&context, "/a", "/b"), Options::default());
    later.set(&Local::new("context").state(Options::default()));
    let graph = load(&copied.marshal(&defaults()).expect("written")).expect("read");
    assert!(
        graph
            .vertices
            .iter()
            .any(|vertex| vertex.name == "local://context")
    );
}

#[test]
fn scratch_is_a_definition_without_ops() {
    assert!(
        State::scratch()
            .marshal(&defaults())
            .expect("written")
            .def
            .is_empty()
    );
    let empty = State::merge(&[State::scratch()], Options::default());
    assert!(empty.is_scratch());
}
