//! What a copy gave further names, kept small.

use std::ffi::CStr;
use std::path::{Path, PathBuf};

use super::links::Links;

/// Files of one directory that have the same names in another too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkedFiles {
    /// Where they were; a path in the source without links.
    pub from: PathBuf,
    /// Where they are too; a path in the target without links.
    pub to: PathBuf,
    /// Each ends with a zero.
    names: Vec<u8>,
}

impl LinkedFiles {
    /// None yet.
    pub fn new(from: &Path, to: &Path) -> Self {
        Self {
            from: from.to_owned(),
            to: to.to_owned(),
            names: Vec::new(),
        }
    }

    /// One more.
    pub fn add(&mut self, name: &CStr) {
        self.names.extend_from_slice(name.to_bytes_with_nul());
    }

    /// Those of a directory.
    pub fn add_all(&mut self, links: &Links) {
        links.names().for_each(|name| self.add(name));
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        let names = self.names.strip_suffix(b"\0");
        names
            .into_iter()
            .flat_map(|names| names.split(|byte| *byte == 0))
    }
}
