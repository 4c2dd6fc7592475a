//! Names of steps, and history.

use std::borrow::Cow;

use dockerfile_syntax::Instruction;
use llb::build::{Env, Location, Options as OpOptions};
use oci::{Platform, Timestamp};

use super::Lower;
use super::words::Vars;
use crate::error::ranges;
use crate::image::{HISTORY_COMMENT, History};

/// Description that holds the instruction as written.
pub(super) const COMMAND: &str = "com.docker.dockerfile.v1.command";

impl Lower<'_> {
    /// Takes the next step number.
    pub(super) fn count_step(&mut self, at: usize) {
        let record = &mut self.records[at];
        if record.total > 0 {
            record.named_steps += 1;
        }
    }

    /// The name of the current step.
    pub(super) fn step_name(
        &self,
        at: usize,
        text: &str,
        platform: Option<&Platform>,
        env: Option<&Env>,
    ) -> String {
        let record = &self.records[at];
        if record.total == 0 {
            return text.to_owned();
        }
        let mut name = String::with_capacity(text.len() + record.display.len() + 16);
        name.push('[');
        if let Some(platform) = platform
            && self.files.options.platform_map
        {
            name.push_str(&platform.to_string());
            if let Some(target) = env.and_then(target_of) {
                name.push_str(&arrow(platform, target));
            }
            name.push(' ');
        }
        if !record.display.is_empty() {
            name.push_str(&record.display);
            name.push(' ');
        }
        push_number(&mut name, record.named_steps, record.total.ilog10());
        name.push('/');
        push_number(&mut name, record.total, 0);
        name.push_str("] ");
        if record.on_trigger {
            name.push_str("ONBUILD ");
        }
        name.push_str(text);
        name
    }

    /// Name of an instruction: expanded if that is possible, its first word in upper case.
    pub(super) fn instruction_name(&mut self, at: usize, text: &str) -> String {
        self.count_step(at);
        let shown = self.shown(at, text);
        let record = &self.records[at];
        let platform = record.platform.as_ref().unwrap_or(&self.target_platform);
        self.step_name(at, &shown, Some(platform), Some(record.state.env_list()))
    }

    /// The text of an instruction as shown.
    pub(super) fn shown<'t>(&self, at: usize, text: &'t str) -> Cow<'t, str> {
        let env = self.records[at].state.env_list();
        if self.lex.leaves_alone(text) {
            return upper_first(text.into());
        }
        match self.lex.expand(text, &Vars(env)) {
            Ok((expanded, _)) => upper_first(expanded.into()),
            Err(_) => upper_first(text.into()),
        }
    }

    /// Options of an op that an instruction makes.
    pub(super) fn op_options(
        &self,
        at: usize,
        name: impl Into<String>,
        span: dockerfile_syntax::Span,
    ) -> OpOptions {
        let location = Location {
            map: self.map().clone(),
            ranges: ranges(span),
        };
        OpOptions::named(name)
            .at(location)
            .ignore_cache(self.records[at].ignore_cache)
    }

    /// Begins what the history of the image says of an instruction, unless nobody will see it.
    pub(super) fn begin_history(
        &self,
        at: usize,
        keyword: &str,
        instruction: &Instruction,
    ) -> Option<String> {
        self.records[at].in_result.then(|| {
            let mut history = String::with_capacity(instruction.text.len() + 24);
            history.push_str(keyword);
            history
        })
    }

    /// Adds to the history of the image, if anybody will see it.
    pub(super) fn commit(&mut self, at: usize, created_by: impl Into<Option<String>>, layer: bool) {
        if !self.records[at].in_result {
            return;
        }
        let Some(created_by) = created_by.into() else {
            return;
        };
        let created = self.epoch.map(Timestamp::from_seconds);
        self.records[at].image.history.push(
            History {
                created,
                created_by,
                comment: HISTORY_COMMENT.into(),
                empty_layer: !layer,
                ..History::default()
            }
            .into(),
        );
    }
}

/// Writes a number with as many blanks in front as one with `further` digits behind its first needs. Without the
/// formatter, which takes longer than all the rest of a name.
fn push_number(text: &mut String, number: usize, further: u32) {
    let own = number.checked_ilog10().unwrap_or_default();
    for _ in own..further {
        text.push(' ');
    }
    for place in (0..=own).rev() {
        let digit = number / 10_usize.pow(place) % 10;
        text.push(char::from(b'0' + digit as u8));
    }
}

/// Everything up to the first blank in upper case. Compat: a tab is no blank here.
pub(super) fn upper_first(mut text: Cow<'_, str>) -> Cow<'_, str> {
    let end = text.bytes().position(|byte| byte == b' ');
    let end = end.unwrap_or(text.len());
    let first = &text[..end];
    if first.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return text;
    }
    if first.is_ascii() {
        text.to_mut()[..end].make_ascii_uppercase();
    } else {
        let upper = first.to_uppercase();
        text.to_mut().replace_range(..end, &upper);
    }
    text
}

/// The platform the variables of a stage say it builds for.
fn target_of(env: &Env) -> Option<Platform> {
    let mut target = Platform::default();
    let mut known = false;
    for (name, value) in env.iter() {
        let part = match name {
            "TARGETPLATFORM" => match value.parse() {
                Ok(platform) => return Some(platform),
                Err(_) => continue,
            },
            "TARGETOS" => &mut target.os,
            "TARGETARCH" => &mut target.architecture,
            "TARGETVARIANT" => &mut target.variant,
            _ => continue,
        };
        value.clone_into(part);
        known = true;
    }
    known.then_some(target)
}

/// How a build for another platform is shown behind its own.
fn arrow(own: &Platform, mut target: Platform) -> String {
    if target.os.is_empty() {
        target.os.clone_from(&own.os);
    }
    if target.architecture.is_empty() {
        target.architecture.clone_from(&own.architecture);
    }
    let target = target.normalized();
    if target.os != own.os {
        return format!("->{target}");
    }
    if target.architecture == own.architecture {
        return String::new();
    }
    match target.variant.as_str() {
        "" => format!("->{}", target.architecture),
        variant => format!("->{}/{variant}", target.architecture),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_below_each_other() {
        let written = |number, further| {
            let mut text = String::new();
            push_number(&mut text, number, further);
            text
        };
        for (number, further, text) in [(0, 0, "0"), (7, 1, " 7"), (10, 1, "10"), (905, 3, " 905")]
        {
            assert_eq!(written(number, further), text);
        }
    }

    #[test]
    fn only_the_first_word_is_raised() {
        assert_eq!(upper_first("run echo a".into()), "RUN echo a");
        assert_eq!(upper_first("run\techo a".into()), "RUN\tECHO a");
    }
}
