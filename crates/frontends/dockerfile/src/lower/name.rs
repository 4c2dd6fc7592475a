//! Names of steps, and history.

use llb::build::{Env, Location, Options as OpOptions};
use oci::Platform;

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
        let mut name = String::from("[");
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
        let width = record.total.to_string().len();
        name.push_str(&format!(
            "{:>width$}/{}] ",
            record.named_steps, record.total
        ));
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
    pub(super) fn shown(&self, at: usize, text: &str) -> String {
        let env = self.records[at].state.env_list();
        match self.lex.process_word(text, &Vars(env)) {
            Ok(expanded) => upper_first(&expanded.text),
            Err(_) => upper_first(text),
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
            ranges: ranges(span).into(),
        };
        OpOptions::named(name)
            .at(location)
            .ignore_cache(self.records[at].ignore_cache)
    }

    /// Adds to the history of the image.
    pub(super) fn commit(&mut self, at: usize, created_by: String, layer: bool) {
        let created = self.epoch.map(rfc3339);
        self.records[at].image.history.push(History {
            created,
            created_by,
            comment: HISTORY_COMMENT.to_owned(),
            empty_layer: !layer,
            ..History::default()
        });
    }
}

/// Everything up to the first blank in upper case. Compat: a tab is no blank here.
pub(super) fn upper_first(text: &str) -> String {
    match text.split_once(' ') {
        Some((first, rest)) => format!("{} {rest}", first.to_uppercase()),
        None => text.to_uppercase(),
    }
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

/// A time in seconds as images carry it.
pub(super) fn rfc3339(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days since 1 March of year 0, in eras of 400 years: the leap day comes last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (-1, "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(seconds), expected);
        }
    }

    #[test]
    fn only_the_first_word_is_raised() {
        assert_eq!(upper_first("run echo a"), "RUN echo a");
        assert_eq!(upper_first("run\techo a"), "RUN\tECHO a");
    }
}
