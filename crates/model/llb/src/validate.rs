//! Ops that say nothing sensible are refused before anybody walks them.

use proto::pb;

use crate::Error;

pub(crate) fn validate(op: &pb::Op) -> Result<(), Error> {
    use pb::op::Op;
    let inputs = op.inputs.len();
    match &op.op {
        Some(Op::Exec(exec)) => validate_exec(exec),
        Some(Op::File(file)) if file.actions.is_empty() => {
            Err(Error::Invalid("invalid file op with no actions"))
        }
        Some(Op::Diff(diff)) => validate_diff(diff, inputs),
        Some(Op::Passthrough(through)) => validate_passthrough(through, inputs),
        _ => Ok(()),
    }
}

fn validate_exec(exec: &pb::ExecOp) -> Result<(), Error> {
    let Some(meta) = &exec.meta else {
        return Err(Error::Invalid("invalid exec op with no meta"));
    };
    if meta.args.is_empty() {
        return Err(Error::Invalid("invalid exec op with no args"));
    }
    if exec.mounts.is_empty() {
        return Err(Error::Invalid("invalid exec op with no mounts"));
    }
    if !exec.mounts.iter().any(|mount| mount.dest == "/") {
        return Err(Error::Invalid("invalid exec op with no rootfs"));
    }
    Ok(())
}

fn validate_diff(diff: &pb::DiffOp, inputs: usize) -> Result<(), Error> {
    let (Some(lower), Some(upper)) = (&diff.lower, &diff.upper) else {
        return Err(Error::Invalid(
            "invalid diff op with nil lower or upper input",
        ));
    };
    for index in [lower.input, upper.input] {
        if index != -1 && usize::try_from(index).map_or(true, |index| index >= inputs) {
            return Err(Error::DiffInput { index });
        }
    }
    Ok(())
}

fn validate_passthrough(through: &pb::PassthroughOp, inputs: usize) -> Result<(), Error> {
    if through.id.is_empty() {
        return Err(Error::Invalid("invalid passthrough op with no id"));
    }
    if through.outputs.is_empty() {
        return Err(Error::Invalid("invalid passthrough op with no outputs"));
    }
    for &index in &through.outputs {
        if index < 0 || inputs > 0 && index >= inputs as i64 {
            return Err(Error::PassthroughOutput { index });
        }
    }
    Ok(())
}
