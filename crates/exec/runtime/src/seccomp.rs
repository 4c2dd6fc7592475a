//! From a system call filter in the specification to the program the kernel runs.
//!
//! The program first tells the table a call belongs to (processor, and on x86 the bit of the x32 table), then finds
//! the call's number by binary search over ranges with equal outcome, then compares arguments where rules ask for it.
//! Calls newer than anything the filter names fail as unknown, not as forbidden, so that C libraries fall back.
//! Assembling takes a tenth of a millisecond, and programs are kept by content of the filter.

mod assemble;
mod tables;

use std::collections::HashMap;
use std::sync::Arc;

use executor::spec::Seccomp;
use parking_lot::Mutex;

/// The kernel takes no longer programs.
const MAX_LENGTH: usize = 4096;

/// A program for the kernel.
pub(crate) type Program = Arc<Vec<libc::sock_filter>>;

/// Why a filter cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// A name of a table that does not exist.
    #[error("unknown seccomp architecture {name}")]
    Architecture { name: String },
    /// Too many rules.
    #[error("seccomp filter takes {length} instructions, {MAX_LENGTH} are allowed")]
    TooLong { length: usize },
}

/// Programs made so far.
#[derive(Debug, Default)]
pub(crate) struct Programs {
    made: Mutex<HashMap<Seccomp, Program>>,
}

impl Programs {
    /// The program for a filter.
    pub(crate) fn of(&self, filter: &Seccomp) -> Result<Program, Error> {
        if let Some(program) = self.made.lock().get(filter) {
            return Ok(program.clone());
        }
        let program = Arc::new(assemble::program(filter)?);
        self.made.lock().insert(filter.clone(), program.clone());
        Ok(program)
    }
}
