//! Permission changes as `chmod` takes them: octal or symbolic.

use crate::Error;

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const STICKY: u32 = 0o1000;
const EXECUTE: u32 = 0o111;
/// What a clause without `u`, `g`, `o` or `a` is about.
const EVERYBODY: u32 = SETUID | SETGID | 0o777;

/// What the mode of a copy becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModeChange(Vec<Step>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Clear(u32),
    Set(u32),
    /// Set where something is executable already, and on directories.
    SetIfExecutable(u32),
    /// The bits of one class (shifted by so much) for the classes of a mask.
    Take {
        from: u32,
        mask: u32,
        clear: bool,
        set: bool,
    },
}

impl ModeChange {
    /// Exactly these permission bits, with setuid, setgid and sticky.
    pub fn octal(mode: u32) -> Self {
        Self(vec![Step::Clear(0o7777), Step::Set(mode & 0o7777)])
    }

    /// A mode as users write it: `0755`, `u=rwX,go=rX`, `a+x`, `g=u-w`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.starts_with(|first: char| first.is_ascii_digit()) {
            return match u32::from_str_radix(text, 8) {
                Ok(mode) if mode & !0o7777 == 0 => Ok(Self::octal(mode)),
                _ => Err(Error::Mode),
            };
        }
        let mut steps = Vec::new();
        for clause in text.split(',') {
            parse_clause(clause, &mut steps)?;
        }
        Ok(Self(steps))
    }

    /// The permission bits that come out.
    pub fn apply(&self, permissions: u32, is_dir: bool) -> u32 {
        let mut mode = permissions;
        for step in &self.0 {
            match *step {
                Step::Clear(bits) => mode &= !bits,
                Step::Set(bits) => mode |= bits,
                Step::SetIfExecutable(bits) => {
                    if is_dir || permissions & EXECUTE != 0 {
                        mode |= bits;
                    }
                }
                Step::Take {
                    from,
                    mask,
                    clear,
                    set,
                } => {
                    let taken = (((mode >> from) & 0o7) * 0o111) & mask;
                    if clear {
                        mode &= if set { !mask } else { !taken };
                    }
                    if set {
                        mode |= taken;
                    }
                }
            }
        }
        mode
    }
}

fn parse_clause(clause: &str, steps: &mut Vec<Step>) -> Result<(), Error> {
    let operators = ['+', '-', '='];
    let end = clause.find(operators).ok_or(Error::Mode)?;
    let (who_text, mut rest) = clause.split_at(end);
    let mut who = 0;
    for class in who_text.chars() {
        who |= match class {
            'a' => EVERYBODY,
            'u' => SETUID | 0o700,
            'g' => SETGID | 0o070,
            'o' => 0o007,
            _ => return Err(Error::Mode),
        };
    }
    while let Some(operator) = rest.chars().next() {
        let behind = &rest[1..];
        let end = behind.find(operators).unwrap_or(behind.len());
        parse_operation(operator, &behind[..end], &mut who, steps)?;
        rest = &behind[end..];
    }
    Ok(())
}

/// One operator with its letters. `t` widens `who` for what follows.
fn parse_operation(
    operator: char,
    letters: &str,
    who: &mut u32,
    steps: &mut Vec<Step>,
) -> Result<(), Error> {
    let (mut bits, mut if_executable) = (0, 0);
    let mut taken = false;
    let not_only_others = *who == 0 || *who & !0o007 != 0;
    for letter in letters.chars() {
        match letter {
            'r' => bits |= 0o444,
            'w' => bits |= 0o222,
            'x' => bits |= EXECUTE,
            'X' if operator == '-' => bits |= EXECUTE,
            'X' => if_executable = EXECUTE,
            's' if not_only_others => bits |= SETUID | SETGID,
            't' if not_only_others => {
                *who |= STICKY;
                bits |= STICKY;
            }
            's' | 't' => {}
            'u' | 'g' | 'o' => {
                // Letters before are done first, so that the copied bits come on top.
                if bits != 0 {
                    push(operator, *who, bits, steps);
                }
                if if_executable != 0 {
                    push('X', *who, if_executable, steps);
                }
                (bits, if_executable, taken) = (0, 0, true);
                steps.push(Step::Take {
                    from: match letter {
                        'u' => 6,
                        'g' => 3,
                        _ => 0,
                    },
                    mask: if *who == 0 { 0o777 } else { *who & 0o777 },
                    clear: operator != '+',
                    set: operator != '-',
                });
            }
            _ => return Err(Error::Mode),
        }
    }
    if bits != 0 || operator == '=' && !taken {
        push(operator, *who, bits, steps);
    }
    if if_executable != 0 {
        push('X', *who, if_executable, steps);
    }
    Ok(())
}

fn push(operator: char, who: u32, bits: u32, steps: &mut Vec<Step>) {
    let chosen = if who == 0 { bits } else { bits & who };
    match operator {
        '-' => steps.push(Step::Clear(chosen)),
        'X' => steps.push(Step::SetIfExecutable(chosen)),
        '+' => steps.push(Step::Set(chosen)),
        _ => {
            steps.push(Step::Clear(if who == 0 { EVERYBODY } else { who }));
            steps.push(Step::Set(chosen));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_changes() {
        for (text, before, is_dir, wanted) in [
            ("0755", 0o600, false, 0o755),
            ("4755", 0o600, false, 0o4755),
            ("u+x", 0o644, false, 0o744),
            ("a+x", 0o644, false, 0o755),
            ("+x", 0o644, false, 0o755),
            ("go-w", 0o666, false, 0o644),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("go=u-w", 0o754, false, 0o755),
            ("g=u", 0o640, false, 0o660),
            ("go=", 0o777, false, 0o700),
            ("u+s", 0o755, false, 0o4755),
            ("g+s,+t", 0o755, true, 0o3755),
            ("=r", 0o6777, false, 0o444),
            ("u=rw,g=r,o=", 0o777, false, 0o640),
            ("o+g", 0o640, false, 0o644),
            ("o-u", 0o647, false, 0o641),
            ("-X", 0o755, false, 0o644),
        ] {
            let change = ModeChange::parse(text).expect(text);
            let found = change.apply(before, is_dir);
            assert_eq!(found, wanted, "{text} on {before:o}: {found:o}");
        }
    }

    #[test]
    fn what_chmod_refuses_is_refused() {
        for text in ["", "u", "u,", "z+x", "u+z", "9", "17777", "u+x,", "rwx"] {
            assert!(ModeChange::parse(text).is_err(), "{text}");
        }
    }
}
