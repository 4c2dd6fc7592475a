//! Records, their links, and the target.

use std::collections::BTreeSet;

use dockerfile_syntax::case::lower;
use dockerfile_syntax::lint::Lint;
use dockerfile_syntax::shell::{Empty, Expansion};
use dockerfile_syntax::suggest::{self, Case, closest};
use dockerfile_syntax::{Dockerfile, Instruction, Kind, Span, Stage};
use oci::Platform;

use super::record::{Record, Said, Step};
use super::words::Vars;
use super::{Lower, parse_trigger};
use crate::error::{Error, Locate, Result, text};

pub(super) const SCRATCH: &str = "scratch";

impl<'a> Lower<'a> {
    /// A record for each FROM.
    pub(super) fn add_stages(&mut self, file: &'a Dockerfile) -> Result<()> {
        let further = |stage: &Stage| -> usize {
            let mounts = stage.instructions.iter().map(|one| match &one.kind {
                Kind::Run(run) => run.mounts.len(),
                _ => 0,
            });
            mounts.sum()
        };
        // Mounts are taken from records of their own, more often than not.
        let mounts: usize = file.stages.iter().map(further).sum();
        self.records.reserve(file.stages.len() + mounts);
        for (number, stage) in file.stages.iter().enumerate() {
            self.add_stage(number, stage)?;
        }
        Ok(())
    }

    fn add_stage(&mut self, number: usize, stage: &'a Stage) -> Result<()> {
        let base = self.lex.process_word(&stage.base, &Vars(&self.globals));
        let unset = match &base {
            Ok(base) => &base.unmatched,
            Err(err) => &err.unmatched,
        };
        self.report_undeclared(unset.iter(), stage);
        let base = base.at(stage.span)?;
        if base.text.is_empty() {
            let what = format!("base name ({}) should not be blank", stage.base);
            return Err(text(what)).at(stage.span);
        }
        let mut used = base.matched;
        let platform = match stage.platform.as_str() {
            "" => None,
            expression => Some(self.stage_platform(expression, stage, &mut used)?),
        };
        let name = stage.name.clone().unwrap_or_default();
        let named = match name.as_str() {
            "" => None,
            name => self
                .files
                .named_context(name, platform.as_ref().or(self.asked_platform()))?,
        };
        let replaced = named.is_some();
        let mut record = Record {
            display: if name.is_empty() {
                format!("stage-{number}")
            } else {
                name.clone()
            },
            ignore_cache: !replaced && self.files.options.no_cache.covers(&name),
            name,
            base: base.text,
            text: stage.text.as_str().to_owned(),
            doc: stage.doc.clone().unwrap_or_default(),
            span: stage.span,
            named,
            platform,
            ..Record::default()
        };
        let own_steps = stage
            .instructions
            .iter()
            .filter(|one| is_counted(&one.kind))
            .count();
        record.steps = stage
            .instructions
            .iter()
            .map(|instruction| Step {
                instruction: Said::File(instruction),
                sources: Vec::new(),
            })
            .collect();
        let at = self.add_record(record);
        let record = &mut self.records[at];
        if replaced {
            record.extends = None;
        } else {
            record.outline.used.extend(used);
            let own_base = record.base != SCRATCH && record.extends.is_none();
            record.total = own_steps + usize::from(own_base);
        }
        Ok(())
    }

    /// The platform that was asked for.
    pub(super) fn asked_platform(&self) -> Option<&Platform> {
        (!self.implicit_platform).then_some(&self.target_platform)
    }

    /// Adds a record; a base that is the name of an earlier stage means that stage.
    fn add_record(&mut self, mut record: Record<'a>) -> usize {
        let at = self.records.len();
        record.extends = self.by_name.get(&record.base).copied();
        if let Some(base) = record.extends {
            record
                .outline
                .used
                .clone_from(&self.records[base].outline.used);
        }
        record.paths = self.path_sets.len();
        self.path_sets.push(Default::default());
        if !record.name.is_empty() {
            self.by_name.insert(lower(&record.name).into_owned(), at);
        }
        self.records.push(record);
        at
    }

    fn report_undeclared<'n>(&mut self, unset: impl Iterator<Item = &'n String>, stage: &Stage) {
        for name in unset {
            if self.declared.contains_key(name) || self.globals.get(name).is_some() {
                continue;
            }
            let predefined = self.globals.iter().map(|(name, _)| name);
            let known = self.declared.keys().map(String::as_str).chain(predefined);
            let suggestion = closest(name, known, Case::Sensitive);
            let lint = Lint::UndefinedArgInFrom {
                name,
                suggestion: suggestion.as_deref(),
            };
            self.linter.report(lint, stage.span, &stage.comments);
        }
    }

    fn stage_platform(
        &mut self,
        expression: &str,
        stage: &Stage,
        used: &mut BTreeSet<String>,
    ) -> Result<Platform> {
        let expanded = self.lex.process_word(expression, &Vars(&self.globals));
        let expanded = match expanded {
            Ok(expanded) => expanded,
            Err(err) => {
                self.report_undeclared(err.unmatched.iter(), stage);
                return Err(err)
                    .with_context(|| "failed to process arguments for platform ".to_owned())
                    .at(stage.span);
            }
        };
        self.report_undeclared(expanded.unmatched.iter(), stage);
        self.lint_platform(expression, &expanded, stage);
        used.extend(expanded.matched.iter().cloned());
        let hint = || {
            let known: Vec<&str> = self.globals.iter().map(|(name, _)| name).collect();
            let mut unset = expanded.unmatched.iter();
            let found =
                unset.find_map(|name| closest(name, known.iter().copied(), Case::Sensitive));
            suggest::Hint(found)
        };
        if expanded.text.is_empty() {
            let what = format!(
                "empty platform value from expression {expression}{}",
                hint()
            );
            return Err(text(what)).at(stage.span);
        }
        expanded.text.parse::<Platform>().or_else(|err| {
            let what = format!("failed to parse platform {expression}: {err}{}", hint());
            // Compat: the place is there twice (frontend/dockerfile/dockerfile2llb/convert.go).
            Err(text(what)).at(stage.span).at(stage.span)
        })
    }

    fn lint_platform(&mut self, expression: &str, expanded: &Expansion, stage: &Stage) {
        let only_target = expanded.unmatched.is_empty()
            && expanded.matched.len() == 1
            && expanded.matched.contains("TARGETPLATFORM")
            && self.globals.get("TARGETPLATFORM") == Some(&expanded.text);
        if only_target {
            let lint = Lint::RedundantTargetPlatform { expression };
            self.linter.report(lint, stage.span, &stage.comments);
        }
        if !expanded.matched.is_empty() || !expanded.unmatched.is_empty() {
            return;
        }
        let name = stage.name.as_deref().unwrap_or_default();
        if let Ok(platform) = expanded.text.parse::<Platform>()
            && !name.contains(&platform.os)
            && !name.contains(&platform.architecture)
        {
            let lint = Lint::FromPlatformFlagConstDisallowed {
                platform: &expanded.text,
            };
            self.linter.report(lint, stage.span, &stage.comments);
        }
    }

    pub(super) fn find_target(&self) -> Result<usize> {
        let target = &self.files.options.target;
        if target.is_empty() {
            return Ok(self.records.len() - 1);
        }
        self.by_name.get(&*lower(target)).copied().ok_or_else(|| {
            let hint = suggest::hint(target, self.names(), Case::Sensitive);
            let quoted = dockerfile_syntax::quote::go(target);
            text(format!("target stage {quoted} could not be found{hint}")).into()
        })
    }

    /// Names shown to users.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.records
            .iter()
            .map(|record| record.display.as_str())
            .filter(|name| !name.is_empty())
    }

    /// Finds out what each stage takes from.
    pub(super) fn link(&mut self) -> Result<()> {
        for at in 0..self.records.len() {
            let mut steps = std::mem::take(&mut self.records[at].steps);
            for step in &mut steps {
                step.sources = self.sources(&step.instruction)?;
                for &source in &step.sources {
                    self.records[at].link(source, step.instruction.span);
                }
            }
            self.records[at].steps = steps;
        }
        self.refuse_cycles()?;
        if let [only] = self.records.as_mut_slice() {
            only.display.clear();
        }
        Ok(())
    }

    /// The records an instruction takes from. What is no stage gets a record of its own, each time.
    fn sources(&mut self, instruction: &Instruction) -> Result<Vec<usize>> {
        match &instruction.kind {
            Kind::Copy(copy) if !copy.from.is_empty() => {
                Ok(vec![self.copy_source(&copy.from, instruction.span)?])
            }
            Kind::Run(run) => Ok(run
                .mounts
                .iter()
                .map(|mount| match mount.from() {
                    "" => self.stage_or_image(SCRATCH, Span::default()),
                    from => self.stage_or_image(from, Span::default()),
                })
                .collect()),
            _ => Ok(Vec::new()),
        }
    }

    fn copy_source(&mut self, from: &str, span: Span) -> Result<usize> {
        if !self.lex.leaves_alone(from) && self.lex.process_word(from, &Empty)?.text != from {
            return Err(Error::Says(
                "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround",
            )
            .into());
        }
        let digits = from.strip_prefix(['+', '-']).unwrap_or(from);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(self.stage_or_image(from, span));
        }
        match from
            .parse::<i64>()
            .ok()
            .and_then(|index| usize::try_from(index).ok())
        {
            Some(index) if index < self.records.len() => Ok(index),
            _ => Err(text(format!(
                "invalid stage index {}",
                from.trim_start_matches('+')
            ))
            .into()),
        }
    }

    fn stage_or_image(&mut self, from: &str, span: Span) -> usize {
        match self.by_name.get(&*lower(from)) {
            Some(&at) => at,
            None => self.add_record(Record {
                base: from.to_owned(),
                span,
                external: true,
                ..Record::default()
            }),
        }
    }

    /// Puts triggers in front of a record's instructions. Says whether there are new links.
    pub(super) fn add_triggers(&mut self, at: usize, triggers: &[String]) -> Result<bool> {
        let span = self.records[at].span;
        let mut steps = Vec::with_capacity(triggers.len());
        let mut new_links = false;
        for trigger in triggers {
            let mut instruction =
                parse_trigger(trigger).map_err(|problem| text(problem.to_string()))?;
            instruction.span = span;
            let sources = self.sources(&instruction)?;
            for &source in &sources {
                new_links = true;
                self.records[at].link(source, span);
            }
            steps.push(Step {
                instruction: Said::Trigger(Box::new(instruction)),
                sources,
            });
        }
        let record = &mut self.records[at];
        record.total += steps.len();
        steps.append(&mut record.steps);
        record.steps = steps;
        Ok(new_links)
    }
}

fn is_counted(kind: &Kind) -> bool {
    matches!(
        kind,
        Kind::Add(_) | Kind::Copy(_) | Kind::Run(_) | Kind::Workdir(_)
    )
}
