//! What a vertex is called when nobody gave it a name.

use proto::pb;

/// Longer names are cut: a merge of merges would otherwise double its name at each level.
const LONGEST: usize = 16 * 1024;

/// The default name of `op`; `input` yields the shown name of an input.
pub(crate) fn default_name<'a>(op: &pb::Op, input: impl Fn(usize) -> &'a str) -> String {
    use pb::op::Op;
    let mut name = match &op.op {
        Some(Op::Source(source)) => source.identifier.clone(),
        Some(Op::Exec(exec)) => exec
            .meta
            .as_ref()
            .map_or(String::new(), |meta| meta.args.join(" ")),
        Some(Op::File(file)) => {
            let names: Vec<String> = file.actions.iter().filter_map(action_name).collect();
            names.join(", ")
        }
        Some(Op::Build(_)) => "build".to_owned(),
        Some(Op::Merge(_)) => {
            let names: Vec<&str> = (0..op.inputs.len()).map(input).collect();
            format!("merge ({})", names.join(", "))
        }
        Some(Op::Diff(diff)) => {
            let side = |index: Option<i64>| match usize::try_from(index.unwrap_or(-1)) {
                Ok(index) => format!("({})", input(index)),
                Err(_) => "scratch".to_owned(),
            };
            let lower = side(diff.lower.as_ref().map(|lower| lower.input));
            let upper = side(diff.upper.as_ref().map(|upper| upper.input));
            format!("diff {lower} -> {upper}")
        }
        Some(Op::Passthrough(through)) => format!("passthrough {}", through.id),
        None => "unknown".to_owned(),
    };
    if name.len() > LONGEST {
        let end = (0..=LONGEST)
            .rev()
            .find(|&at| name.is_char_boundary(at))
            .unwrap_or(0);
        name.truncate(end);
        name.push('…');
    }
    name
}

fn action_name(action: &pb::FileAction) -> Option<String> {
    use pb::file_action::Action;
    Some(match action.action.as_ref()? {
        Action::Copy(copy) => format!("copy {} {}", copy.src, copy.dest),
        Action::Mkfile(file) => format!("mkfile {}", file.path),
        Action::Mkdir(dir) => format!("mkdir {}", dir.path),
        Action::Rm(rm) => format!("rm {}", rm.path),
        Action::Symlink(link) => format!("symlink {} -> {}", link.newpath, link.oldpath),
    })
}
