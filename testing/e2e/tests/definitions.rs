//! Definitions nobody should send, sent: each ends its build with a reason, and the daemon serves on.
//!
//! `E2E_VERTICES` says how many steps the largest one has (CI: 20,000).

use e2e::{Build, Daemon};
use llb::build::{Defaults, FileOp, Options, State};
use prost::Message as _;
use proto::pb;

/// Builds a definition as it is.
fn build(daemon: &Daemon, definition: &pb::Definition) -> Build {
    daemon.build_llb(&definition.encode_to_vec(), &[])
}

/// The most memory a daemon has had so far, in bytes.
fn peak(daemon: &Daemon) -> u64 {
    let path = format!("/proc/{}/status", daemon.pid());
    let status = std::fs::read_to_string(path).expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.expect("a number of kilobytes") * 1024
}

fn scratch_with(path: &str) -> State {
    State::scratch().file(FileOp::new().mkfile(path, 0o644, "x"), Options::default())
}

fn good() -> pb::Definition {
    let state = scratch_with("/a");
    state.marshal(&Defaults::default()).expect("it is complete")
}

/// The definition with the last op, which says what is wanted, replaced.
fn wanting(mut definition: pb::Definition, op: &pb::Op) -> pb::Definition {
    definition.def.pop();
    definition.def.push(proto::encode::marshal_op(op).into());
    definition
}

#[test]
fn what_cannot_be_built_is_refused_and_the_daemon_serves_on() {
    testkit::require!(root);
    let daemon = Daemon::start();
    let file = oci::Digest::of(&good().def[0]).to_string();
    let input = |digest: &str, index| pb::Op {
        inputs: vec![pb::Input {
            digest: digest.to_owned(),
            index,
        }],
        ..pb::Op::default()
    };
    let cases = [
        (wanting(good(), &input(&file, 7)), "1 results received"),
        (
            wanting(good(), &input(&file, i64::MAX)),
            "1 results received",
        ),
        (
            wanting(good(), &input("sha256:0", 0)),
            "invalid missing input digest sha256:0",
        ),
        (
            wanting(good(), &pb::Op::default()),
            "invalid LLB with no inputs on last vertex",
        ),
    ];
    for (definition, expected) in cases {
        build(&daemon, &definition).fails_with(expected);
    }
    build(&daemon, &good()).ok();
}

/// A definition that wants what this op makes.
fn alone(op: pb::op::Op) -> pb::Definition {
    let op = pb::Op {
        op: Some(op),
        ..pb::Op::default()
    };
    let bytes = proto::encode::marshal_op(&op);
    let last = pb::Op {
        inputs: vec![pb::Input {
            digest: oci::Digest::of(&bytes).to_string(),
            index: 0,
        }],
        ..pb::Op::default()
    };
    pb::Definition {
        def: vec![bytes.into(), proto::encode::marshal_op(&last).into()],
        ..pb::Definition::default()
    }
}

#[test]
fn sources_that_name_nothing_fail_when_they_are_wanted() {
    testkit::require!(root);
    let daemon = Daemon::start();
    let image = "docker-image://localhost:1/x:y";
    for (identifier, attr, expected) in [
        ("x/y:z", None, "failed to parse x/y:z: invalid"),
        (
            "docker-imag://x/y:z",
            None,
            "unknown scheme docker-imag: not found",
        ),
        ("docker-image://localhost:1/x", None, "object required"),
        (
            "docker-image://localhost:1/x@sha256:12",
            None,
            "invalid checksum digest length",
        ),
        (
            image,
            Some(("image.resolvemode", "PULL")),
            "invalid resolvemode: PULL",
        ),
        (
            image,
            Some(("image.layerlimit", "x")),
            "invalid layer limit x: strconv.Atoi: parsing \"x\": invalid syntax",
        ),
        (
            "http://localhost:1/x",
            Some(("http.perm", "x")),
            "strconv.ParseInt: parsing \"x\": invalid syntax",
        ),
    ] {
        let attrs = attr.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let definition = alone(pb::op::Op::Source(pb::SourceOp {
            identifier: identifier.to_owned(),
            attrs: attrs.into_iter().collect(),
        }));
        let expected = format!("failed to solve: failed to load cache key: {expected}");
        build(&daemon, &definition).fails_with(&expected);
    }
    build(&daemon, &good()).ok();
}

#[test]
fn ops_with_wrong_numbers_fail_alone() {
    testkit::require!(root);
    let daemon = Daemon::start();
    let action = |input, secondary_input, action| pb::FileAction {
        input,
        secondary_input,
        output: 0,
        action: Some(action),
    };
    let copy = |input, secondary| {
        action(
            input,
            secondary,
            pb::file_action::Action::Copy(pb::FileActionCopy {
                src: "/x".to_owned(),
                dest: "/y".to_owned(),
                mode: -1,
                timestamp: -1,
                ..pb::FileActionCopy::default()
            }),
        )
    };
    let broken = [
        vec![copy(-1, 5)],
        vec![copy(3, -1)],
        vec![copy(i64::MAX, i64::MIN)],
        vec![copy(0, 0)],
        vec![copy(1, -1), copy(0, -1)],
    ];
    for actions in broken {
        let definition = alone(pb::op::Op::File(pb::FileOp { actions }));
        build(&daemon, &definition).fails_with("error:");
    }
    build(&daemon, &good()).ok();
}

#[test]
fn a_definition_larger_than_a_message_is_refused() {
    testkit::require!(root);
    let daemon = Daemon::start();
    let state = State::scratch().file(
        FileOp::new().mkfile("/large", 0o644, vec![b'x'; 64 << 20]),
        Options::default(),
    );
    let definition = state.marshal(&Defaults::default()).expect("it is complete");
    let said = match e2e::is_our_client() {
        true => "too large",
        false => "message larger than max",
    };
    let before = peak(&daemon);
    build(&daemon, &definition).fails_with(said);
    // The kernel counts roughly: when pages are given back meanwhile, the peak it tells can be a little lower.
    let taken = peak(&daemon).saturating_sub(before);
    assert!(!e2e::is_ours() || taken < 32 << 20, "{taken} bytes");
    build(&daemon, &good()).ok();
}

#[test]
fn a_chain_of_many_thousand_steps_is_built() {
    testkit::require!(root);
    if e2e::skipped_unless(
        e2e::is_ours(),
        "the stock daemon takes more than five minutes",
    ) {
        return;
    }
    let given = std::env::var("E2E_VERTICES").ok();
    let count: u64 = given.and_then(|text| text.parse().ok()).unwrap_or(20_000);
    let daemon = Daemon::start();
    let mut state = scratch_with("/a");
    for level in 0..count {
        let id = level.to_string();
        let below = std::slice::from_ref(&state);
        state = State::passthrough(&id, below, Options::default()).remove(0);
    }
    let mut definition = state.marshal(&Defaults::default()).expect("it is complete");
    // A hundred thousand with what clients say of each do not fit into a message.
    definition.metadata.clear();
    build(&daemon, &definition).ok();
    let peak = peak(&daemon);
    eprintln!("{count} steps: {peak} bytes");
    assert!(peak < (128 << 20) + count * (24 << 10), "{peak} bytes");
}

#[test]
fn a_definition_that_a_step_made_is_built_in_its_place() {
    testkit::require!(root);
    let daemon = Daemon::start();
    for (name, attribute) in [
        ("buildkit.llb.definition", ""),
        ("graphs/one", "graphs/one"),
    ] {
        let planned = FileOp::new().mkdir("/graphs", 0o755).mkfile(
            &format!("/{name}"),
            0o644,
            good().encode_to_vec(),
        );
        let state = State::scratch()
            .file(planned, Options::default())
            .build(attribute, Options::default());
        let definition = state.marshal(&Defaults::default()).expect("it is complete");
        let out = tempfile::tempdir().expect("a temporary directory");
        let output = format!("--output=type=local,dest={}", out.path().display());
        daemon
            .build_llb(&definition.encode_to_vec(), &[&output])
            .ok();
        let made = std::fs::read_to_string(out.path().join("a")).expect("it was built");
        assert_eq!(made, "x");
    }
    if e2e::skipped_unless(e2e::is_ours(), "a missing definition ends the stock daemon") {
        return;
    }
    let state = scratch_with("/a").build("nothing", Options::default());
    let definition = state.marshal(&Defaults::default()).expect("it is complete");
    build(&daemon, &definition).fails_with("failed to open nothing: no such file or directory");
}
