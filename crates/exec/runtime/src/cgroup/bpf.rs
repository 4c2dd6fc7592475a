//! Device rules on the unified hierarchy: a program attached to the group, asked at every use of a device.

#![allow(unsafe_code)]

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use executor::spec::DeviceRule;
use parking_lot::Mutex;

use super::devices;

const PROG_LOAD: i32 = 5;
const PROG_ATTACH: i32 = 8;
/// Kind of program, and of attachment.
const CGROUP_DEVICE: u32 = 15;
const ATTACH_DEVICE: u32 = 6;
/// Programs of groups above stay in force.
const ALLOW_MULTI: u32 = 2;

/// One instruction.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    value: i32,
}

const LOAD: u8 = 0x61;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const COPY: u8 = 0xbc;
const SET: u8 = 0xb7;
const IF_NOT: u8 = 0x56;
const EXIT: u8 = 0x95;

/// Where the program keeps what it is asked about.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const ACCESS: u8 = 2;
const KIND: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// Programs loaded so far, by rules.
#[derive(Debug, Default)]
pub(crate) struct Programs {
    loaded: Mutex<HashMap<Vec<DeviceRule>, Arc<OwnedFd>>>,
}

impl Programs {
    /// Lets a group use the devices of these rules, and the standard ones, only.
    pub(super) fn attach(&self, group: BorrowedFd<'_>, rules: &[DeviceRule]) -> io::Result<()> {
        let mut loaded = self.loaded.lock();
        let program = match loaded.get(rules) {
            Some(program) => program.clone(),
            None => {
                let program = Arc::new(load(&program(rules))?);
                loaded.insert(rules.to_vec(), program.clone());
                program
            }
        };
        drop(loaded);
        attach(group, &program)
    }
}

fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> Instruction {
    Instruction {
        code,
        registers: to | from << 4,
        offset,
        value,
    }
}

/// The program of a list of rules: the first one that fits allows.
fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut code = vec![
        instruction(LOAD, ACCESS, CONTEXT, 0, 0),
        instruction(COPY, KIND, ACCESS, 0, 0),
        instruction(AND, KIND, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        instruction(LOAD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD, MINOR, CONTEXT, 8, 0),
    ];
    let standard = devices::standard();
    for rule in standard
        .iter()
        .chain(rules.iter().filter(|rule| rule.allow))
    {
        code.extend(allow(rule));
    }
    code.extend([
        instruction(SET, RESULT, 0, 0, 0),
        instruction(EXIT, 0, 0, 0, 0),
    ]);
    code
}

fn allow(rule: &DeviceRule) -> Vec<Instruction> {
    const MKNOD: i32 = 1;
    const READ: i32 = 2;
    const WRITE: i32 = 4;
    const ALL: i32 = MKNOD | READ | WRITE;
    let mut tests = Vec::new();
    if let Some(kind) = rule.kind {
        tests.push(vec![instruction(
            IF_NOT,
            KIND,
            0,
            0,
            if kind == 'b' { 1 } else { 2 },
        )]);
    }
    let bit = |letter, bit| if rule.access.contains(letter) { bit } else { 0 };
    let access = bit('m', MKNOD) | bit('r', READ) | bit('w', WRITE);
    if access != ALL {
        // Nothing may be asked for beyond what the rule gives. The context is not needed any more.
        tests.push(vec![
            instruction(COPY, CONTEXT, ACCESS, 0, 0),
            instruction(AND, CONTEXT, 0, 0, !access),
            instruction(IF_NOT, CONTEXT, 0, 0, 0),
        ]);
    }
    for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
        if let Some(number) = number {
            tests.push(vec![instruction(
                IF_NOT,
                register,
                0,
                0,
                number.cast_signed(),
            )]);
        }
    }
    let mut code = tests.concat();
    code.extend([
        instruction(SET, RESULT, 0, 0, 1),
        instruction(EXIT, 0, 0, 0, 0),
    ]);
    let length = code.len();
    for (at, step) in code
        .iter_mut()
        .enumerate()
        .filter(|(_, step)| step.code == IF_NOT)
    {
        // To what follows this rule, which has a handful of instructions.
        step.offset = (length - at - 1) as i16;
    }
    code
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    #[repr(C)]
    #[derive(Default)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
    }
    let attributes = Load {
        kind: CGROUP_DEVICE,
        count: program.len() as u32,
        instructions: program.as_ptr().expose_provenance() as u64,
        license: c"Apache-2.0".as_ptr().expose_provenance() as u64,
        ..Load::default()
    };
    let fd = bpf(PROG_LOAD, &attributes)?;
    // SAFETY: the kernel just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn attach(group: BorrowedFd<'_>, program: &OwnedFd) -> io::Result<()> {
    #[repr(C)]
    struct Attach {
        target: RawFd,
        program: RawFd,
        kind: u32,
        flags: u32,
    }
    let attributes = Attach {
        target: group.as_raw_fd(),
        program: program.as_raw_fd(),
        kind: ATTACH_DEVICE,
        flags: ALLOW_MULTI,
    };
    bpf(PROG_ATTACH, &attributes).map(drop)
}

fn bpf<T>(command: i32, attributes: &T) -> io::Result<RawFd> {
    // SAFETY: the kernel reads as many bytes as it is told there are; pointers inside refer to data that outlives the
    // call, as both callers keep it in variables of theirs.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as RawFd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program answers.
    fn ask(code: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0_u32; 6];
        let mut at = 0;
        loop {
            let step = code[at];
            at += 1;
            let (to, from) = (
                (step.registers & 15) as usize,
                (step.registers >> 4) as usize,
            );
            let value = step.value.cast_unsigned();
            match step.code {
                LOAD => registers[to] = context[step.offset as usize / 4],
                AND => registers[to] &= value,
                SHIFT_RIGHT => registers[to] >>= value,
                COPY => registers[to] = registers[from],
                SET => registers[to] = value,
                IF_NOT if registers[to] != value => at += step.offset as usize,
                IF_NOT => {}
                EXIT => return registers[0] == 1,
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }

    fn rule(allow: bool, kind: Option<char>) -> DeviceRule {
        DeviceRule {
            allow,
            kind,
            major: None,
            minor: None,
            access: "rwm".to_owned(),
        }
    }

    #[test]
    fn confined_groups_use_standard_devices_and_make_any_node() {
        let code = program(&[rule(false, None)]);
        assert!(ask(&code, 2, 6, 1, 3), "null, read and write");
        assert!(ask(&code, 2, 2, 136, 7), "a terminal");
        assert!(!ask(&code, 2, 2, 1, 11), "kernel log");
        assert!(!ask(&code, 1, 2, 1, 3), "a disk with the numbers of null");
        assert!(ask(&code, 1, 1, 254, 0), "making a node of a disk");
        assert!(!ask(&code, 1, 3, 254, 0), "reading it");
    }

    #[test]
    fn unconfined_groups_use_everything() {
        let code = program(&[rule(true, Some('c')), rule(true, Some('b'))]);
        assert!(ask(&code, 1, 7, 254, 0) && ask(&code, 2, 7, 1, 11));
    }
}
