//! Lint: the rules, their texts, and which of them are reported.
//!
//! This crate reports what can be seen in the text alone. Findings that need more (images, build arguments, the
//! ignore file) are reported by who lowers the file, into the same [`Linter`], so that all come in one order.

mod checks;
mod config;
mod rules;

pub use checks::is_secret_name;
pub use checks::{check_casing, check_stage_names};
pub(crate) use checks::{definition_description, from_casing};
pub use config::{Config, ConfigError};
pub use rules::{Lint, RULES, Rule};

use crate::span::Span;

/// Something in the file that works but should be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The rule that found it.
    pub rule: &'static Rule,
    /// What is wrong here.
    pub message: String,
    /// Where.
    pub span: Span,
}

impl Finding {
    /// One line: rule, message and first line.
    pub fn short(&self) -> String {
        let Self {
            rule,
            message,
            span,
        } = self;
        match span.first {
            0 => format!("{}: {message}", rule.name),
            line => format!("{}: {message} (line {line})", rule.name),
        }
    }
}

/// Keeps the findings that the configuration asks for.
#[derive(Debug, Clone, Default)]
pub struct Linter {
    config: Config,
    off: bool,
    findings: Vec<Finding>,
}

impl Linter {
    /// A linter that follows `config`.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            off: false,
            findings: Vec::new(),
        }
    }

    /// A linter that never reports anything.
    pub fn off() -> Self {
        Self {
            off: true,
            ..Self::default()
        }
    }

    /// Reports `lint` at `span`, unless the configuration or a `check=` comment among `comments` (those right above
    /// the instruction) says otherwise.
    pub fn report(&mut self, lint: Lint<'_>, span: Span, comments: &[String]) {
        let rule = lint.rule();
        if self.off {
            return;
        }
        let wanted = match Config::from_comments(comments) {
            Some(extra) if rule.experimental => self.config.shows(rule) || extra.shows(rule),
            Some(extra) => self.config.shows(rule) && extra.shows(rule),
            None => self.config.shows(rule),
        };
        if wanted {
            self.findings.push(Finding {
                rule,
                message: lint.to_string(),
                span,
            });
        }
    }

    /// The findings so far, in the order they were reported.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Takes the findings out. They still count for [`Linter::verdict`] only if it is asked before.
    pub fn take(&mut self) -> Vec<Finding> {
        std::mem::take(&mut self.findings)
    }

    /// The failure of the build if the configuration makes findings errors and there are some.
    pub fn verdict(&self) -> Result<(), Violation> {
        if !self.config.error || self.findings.is_empty() {
            return Ok(());
        }
        let mut rules: Vec<&'static str> = Vec::new();
        for finding in &self.findings {
            if !rules.contains(&finding.rule.name) {
                rules.push(finding.rule.name);
            }
        }
        Err(Violation { rules })
    }
}

/// Findings were to fail the build, and there are some.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("lint violation found for rules: {}", rules.join(", "))]
pub struct Violation {
    /// Names of the rules, each once, in the order of their first finding.
    pub rules: Vec<&'static str>,
}

impl fault::Classify for Violation {
    fn class(&self) -> fault::Class {
        fault::Class::User
    }
}
