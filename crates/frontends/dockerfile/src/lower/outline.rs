//! What a target can be told: arguments, secrets, agents.

use std::collections::{BTreeMap, BTreeSet};

use dockerfile_syntax::{ArgDeclaration, Span};

use super::Lower;

/// What a target can be told, sorted by place.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outline {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) args: Vec<ArgInfo>,
    pub(crate) secrets: Vec<Need>,
    pub(crate) ssh: Vec<Need>,
}

/// An argument.
#[derive(Debug, Clone, Default)]
pub(crate) struct ArgInfo {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) value: String,
    pub(crate) span: Span,
    /// Arguments its default is made of.
    pub(super) needs: BTreeSet<String>,
}

impl ArgInfo {
    pub(super) fn new(arg: &ArgDeclaration, span: Span) -> Self {
        Self {
            name: arg.name.to_string(),
            description: arg.doc.clone().unwrap_or_default(),
            span,
            ..Self::default()
        }
    }
}

/// Something the client has to bring.
#[derive(Debug, Clone)]
pub(crate) struct Need {
    pub(crate) name: String,
    pub(crate) required: bool,
    pub(crate) span: Span,
}

/// What one record can be told.
#[derive(Debug, Default)]
pub(super) struct RecordOutline {
    /// Names it uses, of global arguments and of its own.
    pub(super) used: BTreeSet<String>,
    args: Vec<ArgInfo>,
    secrets: Vec<Need>,
    ssh: Vec<Need>,
}

impl RecordOutline {
    /// Notes an ARG. One that only repeats a global argument keeps what is known of that.
    pub(super) fn declare(
        &mut self,
        arg: &ArgDeclaration,
        span: Span,
        value: Option<&str>,
        inherited: bool,
    ) {
        self.used.insert(arg.name.to_string());
        if !inherited {
            let value = value.unwrap_or_default().to_owned();
            self.args.push(ArgInfo {
                value,
                ..ArgInfo::new(arg, span)
            });
        }
    }

    pub(super) fn need_secret(&mut self, name: &str, required: bool, span: Span) {
        note(&mut self.secrets, name, required, span);
    }

    pub(super) fn need_ssh(&mut self, name: &str, required: bool, span: Span) {
        let name = if name.is_empty() { "default" } else { name };
        note(&mut self.ssh, name, required, span);
    }
}

/// The first one of a name counts.
fn note(needs: &mut Vec<Need>, name: &str, required: bool, span: Span) {
    if !needs.iter().any(|need| need.name == name) {
        needs.push(Need {
            name: name.to_owned(),
            required,
            span,
        });
    }
}

impl Lower<'_> {
    /// What the target and all it needs can be told. What is nearer to the target wins.
    pub(super) fn outline_of(&self, target: usize) -> Outline {
        let record = &self.records[target];
        let mut outline = Outline {
            name: record.name.clone(),
            description: record.doc.clone(),
            ..Outline::default()
        };
        let mut seen = vec![false; self.records.len()];
        let mut names = BTreeSet::new();
        let mut stack = vec![target];
        while let Some(at) = stack.pop() {
            if std::mem::replace(&mut seen[at], true) {
                continue;
            }
            let own = &self.records[at].outline;
            self.add_args(own, &mut names, &mut outline.args);
            for (needs, all) in [
                (&own.secrets, &mut outline.secrets),
                (&own.ssh, &mut outline.ssh),
            ] {
                for need in needs {
                    note(all, &need.name, need.required, need.span);
                }
            }
            // The base is looked at first.
            stack.extend(self.records[at].links.iter().rev().map(|(to, _)| *to));
            stack.extend(self.records[at].extends);
        }
        outline.args.sort_by_key(|arg| arg.span.first);
        outline.secrets.sort_by_key(|need| need.span.first);
        outline.ssh.sort_by_key(|need| need.span.first);
        outline
    }

    fn add_args(&self, own: &RecordOutline, names: &mut BTreeSet<String>, args: &mut Vec<ArgInfo>) {
        let declared: BTreeMap<&str, &ArgInfo> = own
            .args
            .iter()
            .map(|arg| (arg.name.as_str(), arg))
            .collect();
        let find = |name: &str| {
            declared
                .get(name)
                .copied()
                .or_else(|| self.declared.get(name))
        };
        let mut used = BTreeSet::new();
        let mut stack: Vec<&String> = own.used.iter().collect();
        while let Some(name) = stack.pop() {
            if used.insert(name) {
                stack.extend(find(name).into_iter().flat_map(|arg| &arg.needs));
            }
        }
        for name in used {
            if let Some(arg) = find(name)
                && names.insert(name.clone())
            {
                args.push(arg.clone());
            }
        }
    }
}
