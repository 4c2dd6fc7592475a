//! The program run by a small machine here, against the rules read directly.

use executor::spec::SyscallRule;
use proptest::prelude::*;

use super::*;

const SECCOMP: &str =
    include_str!("../../../../../../testing/vectors/exec/seccomp-as-written-amd64.json");

/// What the kernel would do with a call.
fn execute(program: &[libc::sock_filter], number: u32, audit: u32, args: &[u64]) -> u32 {
    let word = |offset: u32| -> u32 {
        match offset {
            NUMBER => number,
            PROCESSOR => audit,
            offset => {
                let value = args
                    .get(((offset - ARGUMENTS) / 8) as usize)
                    .copied()
                    .unwrap_or(0);
                let first = (offset - ARGUMENTS).is_multiple_of(8);
                if first == cfg!(target_endian = "little") {
                    value as u32
                } else {
                    (value >> 32) as u32
                }
            }
        }
    };
    let (mut at, mut accumulator) = (0_usize, 0_u32);
    loop {
        let step = program[at];
        at += 1;
        let branch = |holds: bool| usize::from(if holds { step.jt } else { step.jf });
        match step.code {
            LOAD => accumulator = word(step.k),
            AND => accumulator &= step.k,
            RETURN => return step.k,
            JUMP => at += step.k as usize,
            IF_EQUAL => at += branch(accumulator == step.k),
            IF_GREATER => at += branch(accumulator > step.k),
            IF_AT_LEAST => at += branch(accumulator >= step.k),
            other => panic!("unknown instruction {other:#x}"),
        }
    }
}

fn default_filter() -> Seccomp {
    let value: serde_json::Value = serde_json::from_str(SECCOMP).expect("vector is JSON");
    let list = |value: &serde_json::Value| -> Vec<String> {
        value
            .as_array()
            .expect("a list")
            .iter()
            .map(|v| v.as_str().expect("a text").to_owned())
            .collect()
    };
    let syscalls = value["syscalls"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|rule| SyscallRule {
            names: list(&rule["names"]),
            action: serde_json::from_value(rule["action"].clone()).expect("an action"),
            errno_ret: rule["errnoRet"].as_u64().map(|errno| errno as u32),
            args: rule.get("args").map_or(Vec::new(), |args| {
                serde_json::from_value(args.clone()).expect("conditions")
            }),
        });
    Seccomp {
        default_action: Action::Errno,
        default_errno_ret: Some(1),
        architectures: list(&value["architectures"]),
        syscalls: syscalls.collect(),
    }
}

fn call(program: &[libc::sock_filter], table: Table, name: &str, args: &[u64]) -> u32 {
    execute(
        program,
        table.number(name).expect("in the table"),
        table.audit(),
        args,
    )
}

const EPERM: u32 = ERRNO | 1;

#[test]
fn the_default_filter_answers_as_its_rules_say() {
    let program = program(&default_filter()).expect("fits");
    for table in [Table::X86_64, Table::X86, Table::X32] {
        assert_eq!(call(&program, table, "read", &[]), ALLOW, "{table:?}");
        assert_eq!(call(&program, table, "mount", &[]), EPERM, "{table:?}");
        assert_eq!(
            call(&program, table, "clone3", &[]),
            ERRNO | ENOSYS,
            "{table:?}"
        );
        assert_eq!(call(&program, table, "chroot", &[]), ALLOW, "{table:?}");
        assert_eq!(call(&program, table, "unshare", &[]), EPERM, "{table:?}");
        for (family, verdict) in [
            (2, ALLOW),
            (37, ALLOW),
            (38, EPERM),
            (39, ALLOW),
            (40, EPERM),
            (41, ALLOW),
        ] {
            assert_eq!(
                call(&program, table, "socket", &[family]),
                verdict,
                "{table:?} {family}"
            );
        }
        for (persona, verdict) in [(0, ALLOW), (8, ALLOW), (9, EPERM), (0xffff_ffff, ALLOW)] {
            assert_eq!(
                call(&program, table, "personality", &[persona]),
                verdict,
                "{table:?} {persona}"
            );
        }
        assert_eq!(call(&program, table, "clone", &[0x11]), ALLOW, "{table:?}");
        assert_eq!(
            call(&program, table, "clone", &[0x1000_0000]),
            EPERM,
            "{table:?}"
        );
    }
    assert_eq!(
        call(&program, Table::X86_64, "socket", &[2 | 1 << 32]),
        ALLOW,
        "greater than 40"
    );
    assert_eq!(
        call(&program, Table::X86_64, "personality", &[8 | 1 << 32]),
        EPERM
    );
}

#[test]
fn calls_newer_than_the_filter_are_unknown_not_forbidden() {
    let program = program(&default_filter()).expect("fits");
    let audit = Table::X86_64.audit();
    assert_eq!(execute(&program, 1023, audit, &[]), ERRNO | ENOSYS);
    assert_eq!(execute(&program, X32_BIT - 1, audit, &[]), ERRNO | ENOSYS);
    assert_eq!(
        execute(&program, 5000, Table::X86.audit(), &[]),
        ERRNO | ENOSYS
    );
}

#[test]
fn a_foreign_table_kills() {
    let program = program(&default_filter()).expect("fits");
    assert_eq!(
        execute(&program, 0, Table::S390x.audit(), &[]),
        KILL_PROCESS
    );
}

#[test]
fn the_default_filter_is_short() {
    let length = program(&default_filter()).expect("fits").len();
    assert!(length < 400, "{length} instructions");
}

#[test]
fn every_number_gets_what_its_rules_say() {
    let filter = default_filter();
    let program = program(&filter).expect("fits");
    for table in [Table::X86_64, Table::X86] {
        let named = |number: u32| {
            filter
                .syscalls
                .iter()
                .find(|rule| rule.names.iter().any(|n| table.number(n) == Some(number)))
        };
        let newest = (0..1000)
            .rev()
            .find(|number| named(*number).is_some())
            .expect("some");
        for number in 0..=newest {
            let expected = match named(number) {
                // Conditions have tests of their own.
                Some(rule) if !rule.args.is_empty() => continue,
                Some(rule) => verdict(rule.action, rule.errno_ret),
                // Numbers of the x32 table behind those of the other one.
                None if table == Table::X86_64 && number > 462 => continue,
                None => EPERM,
            };
            assert_eq!(
                execute(&program, number, table.audit(), &[]),
                expected,
                "{table:?} {number}"
            );
        }
    }
}

fn holds(condition: &ArgCondition, args: &[u64; 6]) -> bool {
    let arg = args[condition.index as usize];
    match condition.op {
        Comparison::NotEqual => arg != condition.value,
        Comparison::Less => arg < condition.value,
        Comparison::LessOrEqual => arg <= condition.value,
        Comparison::Equal => arg == condition.value,
        Comparison::GreaterOrEqual => arg >= condition.value,
        Comparison::Greater => arg > condition.value,
        Comparison::MaskedEqual => arg & condition.value == condition.value_two & condition.value,
    }
}

/// Values close to each other in both halves, so that every branch is met.
fn word() -> impl Strategy<Value = u64> {
    (0_u64..3, 0_u64..3).prop_map(|(high, low)| high << 32 | low)
}

fn condition() -> impl Strategy<Value = ArgCondition> {
    use Comparison::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, MaskedEqual, NotEqual};
    let op = prop::sample::select(vec![
        NotEqual,
        Less,
        LessOrEqual,
        Equal,
        GreaterOrEqual,
        Greater,
        MaskedEqual,
    ]);
    (0_u32..6, word(), word(), op).prop_map(|(index, value, value_two, op)| ArgCondition {
        index,
        value,
        value_two,
        op,
    })
}

proptest! {
    #[test]
    fn arguments_are_compared_as_64_bit_numbers(
        rules in prop::collection::vec(prop::collection::vec(condition(), 1..4), 1..4),
        args in prop::array::uniform6(word()),
    ) {
        let filter = Seccomp {
            default_action: Action::Errno,
            default_errno_ret: Some(1),
            architectures: vec!["SCMP_ARCH_X86_64".to_owned()],
            syscalls: rules
                .iter()
                .map(|args| SyscallRule {
                    names: vec!["socket".to_owned()],
                    action: Action::Allow,
                    errno_ret: None,
                    args: args.clone(),
                })
                .collect(),
        };
        let program = program(&filter).expect("fits");
        let any = rules.iter().any(|rule| rule.iter().all(|condition| holds(condition, &args)));
        let verdict = call(&program, Table::X86_64, "socket", &args);
        prop_assert_eq!(verdict, if any { ALLOW } else { EPERM });
    }
}
