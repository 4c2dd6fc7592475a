//! LLB for people (`debug dump-llb`): JSON, one step a line, or a graph for Graphviz. Needs no daemon.

use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use oci::Digest;
use prost::Message as _;
use proto::pb;
use proto::pb::file_action::Action;
use proto::pb::op::Op;

/// Prints the definition in a file, or on standard input.
pub(crate) fn llb(file: Option<&Path>, dot: bool) -> Result<()> {
    let mut bytes = Vec::new();
    match file.filter(|path| path.as_os_str() != "-") {
        Some(path) => {
            let failed = |op| move |err| fstree::Error::new(op, path, err);
            let mut file = std::fs::File::open(path).map_err(failed("open"))?;
            file.read_to_end(&mut bytes).map_err(failed("read"))?;
        }
        None => {
            std::io::stdin()
                .read_to_end(&mut bytes)
                .context("failed to read the definition")?;
        }
    }
    let steps = steps(&bytes)?;
    if dot {
        print!("{}", graph(&steps));
    } else {
        print!("{}", steps.iter().map(json).collect::<String>());
    }
    Ok(())
}

struct Step {
    digest: Digest,
    op: pb::Op,
    metadata: pb::OpMetadata,
}

fn steps(bytes: &[u8]) -> Result<Vec<Step>> {
    let definition = pb::Definition::decode(bytes).context("error parsing definition")?;
    let step = |bytes: &bytes::Bytes| {
        let digest = Digest::of(bytes);
        let op = pb::Op::decode(bytes.as_ref()).context("failed to parse op")?;
        let metadata = definition.metadata.get(digest.as_str());
        Ok(Step {
            metadata: metadata.cloned().unwrap_or_default(),
            digest,
            op,
        })
    };
    definition.def.iter().map(step).collect()
}

fn json(step: &Step) -> String {
    let op = proto::gojson::to_string(&step.op);
    let metadata = proto::gojson::to_string(&step.metadata);
    let digest = &step.digest;
    format!("{{\"Op\":{op},\"Digest\":\"{digest}\",\"OpMetadata\":{metadata}}}\n")
}

fn graph(steps: &[Step]) -> String {
    let mut text = String::from("digraph {\n");
    for step in steps {
        let (label, shape) = look(step);
        let digest = &step.digest;
        text.push_str(&format!(
            "  \"{digest}\" [label={label:?} shape=\"{shape}\"];\n"
        ));
    }
    for step in steps {
        for (index, input) in (0..).zip(&step.op.inputs) {
            let label = edge(&step.op, index);
            let (from, to) = (&input.digest, &step.digest);
            text.push_str(&format!("  {from:?} -> \"{to}\" [label={label:?}];\n"));
        }
    }
    text.push_str("}\n");
    text
}

/// Where a step sees an input, if not as its root.
fn edge(op: &pb::Op, input: i64) -> &str {
    let Some(Op::Exec(exec)) = &op.op else {
        return "";
    };
    let mounts = exec.mounts.iter();
    mounts
        .filter(|mount| mount.input == input && mount.dest != "/")
        .map(|mount| mount.dest.as_str())
        .next_back()
        .unwrap_or("")
}

fn look(step: &Step) -> (String, &'static str) {
    match &step.op.op {
        Some(Op::Source(source)) => (source.identifier.clone(), "ellipse"),
        Some(Op::Exec(exec)) => {
            let args = exec.meta.as_ref().map(|meta| meta.args.join(" "));
            (args.unwrap_or_default(), "box")
        }
        Some(Op::Build(_)) => ("build".to_owned(), "box3d"),
        Some(Op::Merge(_)) => ("merge".to_owned(), "invtriangle"),
        Some(Op::Diff(_)) => ("diff".to_owned(), "doublecircle"),
        Some(Op::File(file)) => {
            let names: Vec<_> = file.actions.iter().map(action).collect();
            (names.join(","), "note")
        }
        Some(Op::Passthrough(_)) | None => (step.digest.to_string(), "plaintext"),
    }
}

fn action(action: &pb::FileAction) -> String {
    match &action.action {
        Some(Action::Copy(it)) => format!("copy{{src={}, dest={}}}", it.src, it.dest),
        Some(Action::Mkfile(it)) => format!("mkfile{{path={}}}", it.path),
        Some(Action::Mkdir(it)) => format!("mkdir{{path={}}}", it.path),
        Some(Action::Rm(it)) => format!("rm{{path={}}}", it.path),
        Some(Action::Symlink(it)) => {
            format!("symlink{{oldpath={}, newpath={}}}", it.oldpath, it.newpath)
        }
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A source and a step on it.
    fn definition() -> Vec<u8> {
        let source = pb::Op {
            op: Some(Op::Source(pb::SourceOp {
                identifier: "docker-image://a".into(),
                ..pb::SourceOp::default()
            })),
            ..pb::Op::default()
        };
        let source = source.encode_to_vec();
        let exec = pb::Op {
            inputs: vec![pb::Input {
                digest: Digest::of(&source).to_string(),
                index: 0,
            }],
            op: Some(Op::Exec(pb::ExecOp {
                meta: Some(pb::Meta {
                    args: vec!["echo".into(), "\"<x>\"".into()],
                    ..pb::Meta::default()
                }),
                mounts: vec![pb::Mount {
                    dest: "/in".into(),
                    ..pb::Mount::default()
                }],
                ..pb::ExecOp::default()
            })),
            ..pb::Op::default()
        };
        let definition = pb::Definition {
            def: vec![source.into(), exec.encode_to_vec().into()],
            ..pb::Definition::default()
        };
        definition.encode_to_vec()
    }

    #[test]
    fn every_step_is_a_line() {
        let steps = steps(&definition()).expect("valid");
        let expected = format!(
            "{{\"Op\":{{\"Op\":{{\"source\":{{\"identifier\":\"docker-image://a\"}}}}}},\
             \"Digest\":\"{}\",\"OpMetadata\":{{}}}}\n",
            steps[0].digest
        );
        assert_eq!(json(&steps[0]), expected);
    }

    #[test]
    fn a_graph_has_nodes_and_edges() {
        let steps = steps(&definition()).expect("valid");
        let (a, b) = (&steps[0].digest, &steps[1].digest);
        let expected = format!(
            "digraph {{\n  \"{a}\" [label=\"docker-image://a\" shape=\"ellipse\"];\n  \
             \"{b}\" [label=\"echo \\\"<x>\\\"\" shape=\"box\"];\n  \
             \"{a}\" -> \"{b}\" [label=\"/in\"];\n}}\n"
        );
        assert_eq!(graph(&steps), expected);
    }
}
