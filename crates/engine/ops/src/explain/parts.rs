//! What instructions are made of, part by part, in words people know. What no part names is summed up in the last one,
//! so that nothing that is in a key is missing.

use cachekeys::Part;
use oci::Digest;
use proto::pb;

use super::settings;
use crate::Op;
use crate::exec::ExecOp;

/// Longer values are kept as their beginning and a digest.
const LONGEST: usize = 1024;

/// The parts of an op. The first is its kind.
pub(super) fn of(op: &Op) -> Vec<Part> {
    match op {
        Op::Source(_) => vec![part("kind", cachekeys::SOURCE)],
        Op::Exec(op) => exec(op),
        Op::File(op) => file(&op.op),
        Op::Merge(_) => vec![part("kind", "merge")],
        Op::Diff(_) => vec![part("kind", "diff")],
        Op::Passthrough(_) => vec![part("kind", "passthrough")],
        Op::Build(_) => vec![part("kind", "build")],
    }
}

/// A part whose value may be shown.
pub(crate) fn part(name: &str, value: &str) -> Part {
    let value = if value.len() > LONGEST {
        let mut end = LONGEST;
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        format!("{}… ({})", &value[..end], short(value))
    } else {
        value.to_owned()
    };
    Part {
        name: name.to_owned(),
        value,
        hidden: false,
    }
}

/// Enough of a digest to tell two values apart, and too little to find out the value.
fn short(value: &str) -> String {
    let digest = Digest::of(value);
    digest.hex()[..6].to_owned()
}

fn exec(op: &ExecOp) -> Vec<Part> {
    let mut parts = vec![part("kind", "exec")];
    let mut rest = op.op.clone();
    if let Some(meta) = &mut rest.meta {
        let args = std::mem::take(&mut meta.args);
        parts.push(part("command", &command(&args)));
        for (index, entry) in std::mem::take(&mut meta.env).iter().enumerate() {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            let title = format!("variable {name}");
            // The last of one name counts, and so does the order.
            if parts.iter().any(|part| part.name == title) {
                parts.push(part(&format!("{title} ({index})"), value));
            } else if history::looks_secret(name, value) {
                parts.push(Part {
                    name: title,
                    value: short(value),
                    hidden: true,
                });
            } else {
                parts.push(part(&title, value));
            }
        }
        parts.push(part("working directory", &std::mem::take(&mut meta.cwd)));
        parts.push(part("user", &std::mem::take(&mut meta.user)));
    }
    for mount in std::mem::take(&mut rest.mounts) {
        parts.extend(settings::of_mount(&mount));
    }
    parts.push(part("platform", &op.platform.to_string()));
    parts.extend(settings::of_exec(&mut rest));
    parts
}

fn command(args: &[String]) -> String {
    match args {
        [shell, flag, script] if shell == "/bin/sh" && flag == "-c" => script.clone(),
        args => args.join(" "),
    }
}

fn file(op: &pb::FileOp) -> Vec<Part> {
    let mut parts = vec![part("kind", "file")];
    for (index, action) in op.actions.iter().enumerate() {
        parts.extend(settings::of_action(index, action));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_are_cut_but_differ() {
        let long = "a".repeat(2000);
        let (one, two) = (part("x", &long), part("x", &(long.clone() + "b")));
        assert!(one.value.len() < 1100);
        assert_ne!(one, two);
    }

    #[test]
    fn a_script_is_its_own_command() {
        let args = |args: &[&str]| args.iter().map(|&it| it.to_owned()).collect::<Vec<_>>();
        assert_eq!(command(&args(&["/bin/sh", "-c", "make"])), "make");
        assert_eq!(command(&args(&["make", "all"])), "make all");
    }
}
