//! Writing the program: dispatch on the table, search for the number, compare arguments.

use std::collections::{BTreeMap, BTreeSet};

use executor::spec::{Action, ArgCondition, Comparison, Seccomp};

use super::tables::{Table, X32_BIT};
use super::{Error, MAX_LENGTH};

/// Where the kernel puts the call's number, the processor, and the first argument.
const NUMBER: u32 = 0;
const PROCESSOR: u32 = 4;
const ARGUMENTS: u32 = 16;

const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;
const ENOSYS: u32 = 38;

const LOAD: u16 = 0x20;
const RETURN: u16 = 0x06;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const IF_AT_LEAST: u16 = 0x35;
const AND: u16 = 0x54;

/// What happens to one call.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Outcome {
    /// Without conditions; the default otherwise.
    always: Option<u32>,
    /// With conditions, in order.
    rules: Vec<(Vec<ArgCondition>, u32)>,
}

/// The program of a filter.
pub(super) fn program(filter: &Seccomp) -> Result<Vec<libc::sock_filter>, Error> {
    let tables = tables(filter)?;
    let default = verdict(filter.default_action, filter.default_errno_ret);
    // An unknown call that is not refused anyway needs no translation.
    let unknown = match filter.default_action {
        Action::Allow | Action::Log => default,
        _ => ERRNO | ENOSYS,
    };
    let mut code = Code::default();
    code.push(LOAD, PROCESSOR);
    let processors: BTreeSet<u32> = tables.iter().map(|table| table.audit()).collect();
    for audit in processors {
        let mut block = Code::default();
        block.push(LOAD, NUMBER);
        let x32 = tables.contains(&Table::X32);
        if audit == Table::X86_64.audit() {
            // Numbers of the x32 table are those of the other one, or beyond it. Where they are neither, the kernel
            // itself answers that there is no such call.
            if x32 {
                block.push(AND, !X32_BIT);
            } else {
                block.unless(IF_AT_LEAST, X32_BIT, Code::returning(KILL_PROCESS));
            }
        }
        let table = tables
            .iter()
            .copied()
            .find(|table| table.audit() == audit && *table != Table::X32);
        block.append(match table {
            Some(Table::X86_64) if x32 => {
                search(filter, &[Table::X86_64, Table::X32], default, unknown)
            }
            Some(table) => search(filter, &[table], default, unknown),
            None => Code::returning(KILL_PROCESS),
        });
        code.unless(IF_EQUAL, audit, block);
    }
    // A table the filter says nothing about.
    code.push(RETURN, KILL_PROCESS);
    if code.0.len() > MAX_LENGTH {
        return Err(Error::TooLong {
            length: code.0.len(),
        });
    }
    Ok(code.0)
}

fn tables(filter: &Seccomp) -> Result<Vec<Table>, Error> {
    let mut tables = Vec::new();
    for name in &filter.architectures {
        match Table::named(name) {
            Some(table) => tables.extend(table),
            None => return Err(Error::Architecture { name: name.clone() }),
        }
    }
    // The native table is always in it.
    if let Some(native) = Table::native()
        && !tables.contains(&native)
    {
        tables.push(native);
    }
    Ok(tables)
}

fn verdict(action: Action, errno: Option<u32>) -> u32 {
    match action {
        Action::Allow => ALLOW,
        Action::Errno => ERRNO | (errno.unwrap_or(1) & 0xffff),
        Action::KillProcess => KILL_PROCESS,
        Action::KillThread => KILL_THREAD,
        Action::Trap => TRAP,
        Action::Log => LOG,
    }
}

/// Code that ends with a verdict for the number in the accumulator. Of several tables, each continues the one before.
fn search(filter: &Seccomp, tables: &[Table], default: u32, unknown: u32) -> Code {
    let mut pieces: Vec<(u32, Outcome)> = Vec::new();
    let mut add = |start: u32, outcome: Outcome| {
        if pieces.last().is_none_or(|(_, last)| *last != outcome) {
            pieces.push((start, outcome));
        }
    };
    let returning = |verdict| Outcome {
        always: Some(verdict),
        rules: Vec::new(),
    };
    let mut next = 0;
    for table in tables {
        // Between the calls of two tables is nothing the filter could know.
        let mut between = if next == 0 { default } else { unknown };
        let known = outcomes(filter, *table).into_iter();
        let own = known.map(|(number, outcome)| (number & !X32_BIT, outcome));
        for (number, outcome) in own.filter(|(number, _)| *number >= table.first()) {
            if number > next {
                add(next, returning(between));
            }
            add(
                number,
                Outcome {
                    always: outcome.always.or(Some(default)),
                    ..outcome
                },
            );
            next = number.saturating_add(1);
            between = default;
        }
    }
    add(next, returning(unknown));
    tree(&pieces)
}

/// All rules of a filter, by number. A rule without conditions ends the matter; before it, conditions are tried in
/// order.
fn outcomes(filter: &Seccomp, table: Table) -> BTreeMap<u32, Outcome> {
    let mut outcomes: BTreeMap<u32, Outcome> = BTreeMap::new();
    for rule in &filter.syscalls {
        let verdict = verdict(rule.action, rule.errno_ret.or(filter.default_errno_ret));
        for number in rule.names.iter().filter_map(|name| table.number(name)) {
            let outcome = outcomes.entry(number).or_default();
            if rule.args.is_empty() {
                outcome.always.get_or_insert(verdict);
            } else {
                outcome.rules.push((rule.args.clone(), verdict));
            }
        }
    }
    for outcome in outcomes.values_mut() {
        let always = outcome.always;
        outcome
            .rules
            .retain(|(_, verdict)| Some(*verdict) != always);
    }
    outcomes
}

/// Binary search over pieces, each beginning at its number.
fn tree(pieces: &[(u32, Outcome)]) -> Code {
    if let Some(code) = Compact::of(pieces) {
        return code;
    }
    let (low, high) = pieces.split_at(pieces.len() / 2);
    let start = high.first().map_or(0, |(start, _)| *start);
    let mut code = Code::default();
    code.unless(IF_AT_LEAST, start, tree(high));
    code.append(tree(low));
    code
}

/// A search in which equal verdicts share one instruction at the end, as far as conditional jumps reach.
#[derive(Default)]
struct Compact {
    code: Code,
    /// Jumps to be set: position, which of the two, verdict.
    open: Vec<(usize, bool, u32)>,
}

impl Compact {
    fn of(pieces: &[(u32, Outcome)]) -> Option<Code> {
        let mut compact = Self::default();
        match pieces {
            [] => return Some(Code::returning(KILL_PROCESS)),
            [(_, only)] => return Some(leaf(only)),
            _ => compact.search(pieces)?,
        }
        let Self { mut code, open } = compact;
        let mut ends: BTreeMap<u32, usize> = BTreeMap::new();
        for (at, holds, verdict) in open {
            let end = *ends.entry(verdict).or_insert_with(|| {
                code.push(RETURN, verdict);
                code.0.len() - 1
            });
            code.set_jump(at, holds, end)?;
        }
        Some(code)
    }

    fn search(&mut self, pieces: &[(u32, Outcome)]) -> Option<()> {
        let (low, high) = pieces.split_at(pieces.len() / 2);
        let at = self.code.0.len();
        self.code.jump_if(IF_AT_LEAST, high.first()?.0, 0, 0);
        for (holds, part) in [(false, low), (true, high)] {
            let here = self.code.0.len();
            match part {
                [
                    (
                        _,
                        Outcome {
                            always: Some(verdict),
                            rules,
                        },
                    ),
                ] if rules.is_empty() => {
                    self.open.push((at, holds, *verdict));
                    continue;
                }
                [(_, only)] => self.code.append(leaf(only)),
                _ => self.search(part)?,
            }
            self.code.set_jump(at, holds, here)?;
        }
        Some(())
    }
}

fn leaf(outcome: &Outcome) -> Code {
    let mut code = Code::default();
    for (conditions, verdict) in &outcome.rules {
        // Written backwards: each condition jumps over what follows when it does not hold.
        let mut rest = Code::returning(*verdict);
        for condition in conditions.iter().rev() {
            rest = compare(condition, rest);
        }
        code.append(rest);
    }
    code.push(RETURN, outcome.always.unwrap_or(KILL_PROCESS));
    code
}

/// Code that runs `then` (which ends with a verdict) if the condition holds, and falls through otherwise.
fn compare(condition: &ArgCondition, then: Code) -> Code {
    let offset = ARGUMENTS + 8 * condition.index.min(5);
    let (low_at, high_at) = if cfg!(target_endian = "little") {
        (offset, offset + 4)
    } else {
        (offset + 4, offset)
    };
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    let (mask_high, mask_low) = match condition.op {
        Comparison::MaskedEqual => halves(condition.value),
        _ => (u32::MAX, u32::MAX),
    };
    let (high, low) = match condition.op {
        Comparison::MaskedEqual => halves(condition.value_two & condition.value),
        _ => halves(condition.value),
    };
    let skip = then.0.len() as u32;
    // Labels: `then` follows at once; the end is behind it. All code below is written with both distances known.
    let mut code = Code::default();
    let load = |code: &mut Code, at: u32, mask: u32| {
        code.push(LOAD, at);
        if mask != u32::MAX {
            code.push(AND, mask);
        }
    };
    match condition.op {
        Comparison::Equal | Comparison::MaskedEqual => {
            load(&mut code, high_at, mask_high);
            // Behind this: jump, low half, comparison, jump, then.
            let low_half = if mask_low == u32::MAX { 1 } else { 2 };
            code.jump_if(IF_EQUAL, high, 1, 0);
            code.push(JUMP, low_half + 2 + skip);
            load(&mut code, low_at, mask_low);
            code.jump_if(IF_EQUAL, low, 1, 0);
            code.push(JUMP, skip);
        }
        Comparison::NotEqual => {
            load(&mut code, high_at, mask_high);
            // To `then` over: load, comparison, jump.
            code.jump_if(IF_EQUAL, high, 0, 3);
            load(&mut code, low_at, mask_low);
            code.jump_if(IF_EQUAL, low, 0, 1);
            code.push(JUMP, skip);
        }
        Comparison::Greater | Comparison::GreaterOrEqual => {
            load(&mut code, high_at, mask_high);
            // High half greater: holds, over comparison, jump, load, comparison, jump.
            code.jump_if(IF_GREATER, high, 5, 0);
            code.jump_if(IF_EQUAL, high, 1, 0);
            code.push(JUMP, 3 + skip);
            load(&mut code, low_at, mask_low);
            let test = if condition.op == Comparison::Greater {
                IF_GREATER
            } else {
                IF_AT_LEAST
            };
            code.jump_if(test, low, 1, 0);
            code.push(JUMP, skip);
        }
        Comparison::Less | Comparison::LessOrEqual => {
            load(&mut code, high_at, mask_high);
            // High half less: holds, over comparison, jump, load, comparison, jump.
            code.jump_if(IF_AT_LEAST, high, 0, 5);
            code.jump_if(IF_EQUAL, high, 1, 0);
            code.push(JUMP, 3 + skip);
            load(&mut code, low_at, mask_low);
            let test = if condition.op == Comparison::Less {
                IF_AT_LEAST
            } else {
                IF_GREATER
            };
            code.jump_if(test, low, 0, 1);
            code.push(JUMP, skip);
        }
    }
    code.append(then);
    code
}

/// Instructions so far.
#[derive(Debug, Clone, Default)]
struct Code(Vec<libc::sock_filter>);

impl Code {
    fn returning(verdict: u32) -> Self {
        let mut code = Self::default();
        code.push(RETURN, verdict);
        code
    }

    fn push(&mut self, code: u16, k: u32) {
        self.0.push(libc::sock_filter {
            code,
            jt: 0,
            jf: 0,
            k,
        });
    }

    fn jump_if(&mut self, code: u16, k: u32, jt: u8, jf: u8) {
        self.0.push(libc::sock_filter { code, jt, jf, k });
    }

    /// Sets where a conditional jump goes, if it reaches that far.
    fn set_jump(&mut self, at: usize, holds: bool, target: usize) -> Option<()> {
        let distance = u8::try_from(target.checked_sub(at + 1)?).ok()?;
        let step = self.0.get_mut(at)?;
        *(if holds { &mut step.jt } else { &mut step.jf }) = distance;
        Some(())
    }

    fn append(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Runs `block`, which ends with a verdict, if the test holds, and goes on behind it otherwise.
    fn unless(&mut self, test: u16, k: u32, block: Self) {
        let length = block.0.len();
        match u8::try_from(length) {
            Ok(distance) => self.jump_if(test, k, 0, distance),
            Err(_) => {
                // Too far for a conditional jump.
                self.jump_if(test, k, 1, 0);
                self.push(JUMP, length as u32);
            }
        }
        self.append(block);
    }
}

#[cfg(test)]
mod tests;
