//! Which flags an instruction has, and checking what was written against that.

use crate::ast::Flag;
use crate::case::lower;
use crate::error::Problem;
use crate::suggest::{self, Case};

/// What values a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Nothing, or a boolean.
    Bool,
    /// One value.
    Value,
    /// A value each time it is repeated.
    Values,
}

/// The flags of an instruction.
pub(crate) type Known = &'static [(&'static str, Takes)];

pub(crate) const NONE: Known = &[];
pub(crate) const FROM: Known = &[("platform", Takes::Value)];
pub(crate) const ADD: Known = &[
    ("chown", Takes::Value),
    ("chmod", Takes::Value),
    ("link", Takes::Bool),
    ("keep-git-dir", Takes::Bool),
    ("checksum", Takes::Value),
    ("unpack", Takes::Bool),
    ("exclude", Takes::Values),
];
pub(crate) const COPY: Known = &[
    ("chown", Takes::Value),
    ("from", Takes::Value),
    ("chmod", Takes::Value),
    ("link", Takes::Bool),
    ("exclude", Takes::Values),
    ("parents", Takes::Bool),
];
pub(crate) const RUN: Known = &[
    ("device", Takes::Values),
    ("mount", Takes::Values),
    ("network", Takes::Value),
    ("security", Takes::Value),
];
pub(crate) const HEALTHCHECK: Known = &[
    ("interval", Takes::Value),
    ("timeout", Takes::Value),
    ("start-period", Takes::Value),
    ("start-interval", Takes::Value),
    ("retries", Takes::Value),
];

/// Flags that were checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Checked<'a>(&'a [Flag]);

/// Checks names, repetition and presence of values.
pub(crate) fn check(flags: &[Flag], known: Known) -> Result<Checked<'_>, Problem> {
    for (index, flag) in flags.iter().enumerate() {
        let name = &flag.name;
        let Some((_, takes)) = known.iter().find(|(known, _)| *known == &**name) else {
            let hint = suggest::hint(name, known.iter().map(|(name, _)| *name), Case::Sensitive);
            return Err(Problem::UnknownFlag {
                name: name.to_string(),
                hint,
            });
        };
        if *takes != Takes::Values && flags[..index].iter().any(|other| other.name == *name) {
            return Err(Problem::DuplicateFlag(name.to_string()));
        }
        match (takes, flag.value.as_deref()) {
            (Takes::Bool, Some("")) | (Takes::Value | Takes::Values, None) => {
                return Err(Problem::FlagWithoutValue(name.to_string()));
            }
            (Takes::Bool, Some(value)) if to_bool(value).is_none() => {
                return Err(Problem::FlagNotBool {
                    name: name.to_string(),
                    value: value.to_owned(),
                });
            }
            _ => {}
        }
    }
    Ok(Checked(flags))
}

fn to_bool(value: &str) -> Option<bool> {
    match &*lower(value) {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

impl<'a> Checked<'a> {
    /// Every value of a flag.
    pub(crate) fn values(self, name: &'static str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |flag| flag.name == name)
            .filter_map(|flag| flag.value.as_deref())
    }

    /// The value of a flag; empty if it is not given.
    pub(crate) fn value(self, name: &'static str) -> &'a str {
        self.values(name).next().unwrap_or_default()
    }

    /// Whether a flag is on, if it is given.
    pub(crate) fn switch(self, name: &str) -> Option<bool> {
        let flag = self.0.iter().find(|flag| flag.name == name)?;
        Some(
            flag.value
                .as_deref()
                .is_none_or(|value| to_bool(value) == Some(true)),
        )
    }
}
