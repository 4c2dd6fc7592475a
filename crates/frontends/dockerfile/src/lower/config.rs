//! Instructions that change nothing but the image and the environment, and WORKDIR.

use std::borrow::Cow;

use bytestring::ByteString;
use dockerfile_syntax::lint::{Lint, is_secret_name};
use dockerfile_syntax::{self as syntax, Command, Instruction, Span, port, signal};
use llb::build::{Action, Chown, FileOp, User};

use super::Lower;
use super::record::Arg;
use super::words::{NO_VARIABLES, Vars};
use crate::error::{Error, Locate, Result, text};
use crate::image::{Healthcheck, Nothing};
use crate::paths;

impl Lower<'_> {
    pub(super) fn env(
        &mut self,
        at: usize,
        instruction: &Instruction,
        env: &syntax::Env,
    ) -> Result<()> {
        let pairs = self.expand_pairs(at, instruction, &env.pairs)?;
        let mut history = self.begin_history(at, "ENV", instruction);
        for (key, value) in &pairs {
            self.lint_pair(instruction, env.legacy);
            self.lint_secret(instruction, "ENV", key);
            if let Some(history) = &mut history {
                history.extend([" ", key, "=", value]);
            }
            let record = &mut self.records[at];
            record.state = std::mem::take(&mut record.state).env(key, value);
            record.image.set_env(key, value);
        }
        self.commit(at, history, false);
        Ok(())
    }

    pub(super) fn label(
        &mut self,
        at: usize,
        instruction: &Instruction,
        label: &syntax::Label,
    ) -> Result<()> {
        let pairs = self.expand_pairs(at, instruction, &label.pairs)?;
        let mut history = self.begin_history(at, "LABEL", instruction);
        for (key, value) in pairs {
            self.lint_pair(instruction, label.legacy);
            if let Some(history) = &mut history {
                history.extend([" ", &key, "=", &value]);
                let labels = &mut self.records[at].image.config.labels;
                labels.insert(key.into_owned(), value.into_owned());
            }
        }
        self.commit(at, history, false);
        Ok(())
    }

    fn expand_pairs<'w>(
        &mut self,
        at: usize,
        instruction: &Instruction,
        pairs: &'w [syntax::Pair],
    ) -> Result<Vec<(Cow<'w, str>, Cow<'w, str>)>> {
        let mut expanded = Vec::with_capacity(pairs.len());
        for pair in pairs {
            let key = self.expand(at, instruction, &pair.key)?;
            expanded.push((key, self.expand(at, instruction, &pair.value)?));
        }
        Ok(expanded)
    }

    fn lint_pair(&mut self, instruction: &Instruction, legacy: bool) {
        if legacy {
            let lint = Lint::LegacyKeyValueFormat {
                keyword: &instruction.keyword,
            };
            self.linter
                .report(lint, instruction.span, &instruction.comments);
        }
    }

    fn lint_secret(&mut self, instruction: &Instruction, keyword: &str, name: &str) {
        if is_secret_name(name) {
            let lint = Lint::SecretsUsedInArgOrEnv { keyword, name };
            self.linter
                .report(lint, instruction.span, &instruction.comments);
        }
    }

    pub(super) fn arg(
        &mut self,
        at: usize,
        instruction: &Instruction,
        arg: &syntax::Arg,
    ) -> Result<()> {
        let mut history = self.begin_history(at, "ARG", instruction);
        for one in &arg.args {
            self.lint_secret(instruction, "ARG", &one.name);
            let value = match (self.build_args.get(&*one.name), &one.default) {
                (Some(given), _) => Some(given.clone().into()),
                (None, Some(default)) => Some(self.expand(at, instruction, default)?),
                (None, None) => {
                    let global = self.globals.get(&one.name);
                    global.map(|value| value.to_owned().into())
                }
            };
            let inherited = !self.build_args.contains_key(&*one.name)
                && one.default.is_none()
                && value.is_some();
            let record = &mut self.records[at];
            if self.outline {
                let outline = &mut record.outline;
                outline.declare(one, instruction.span, value.as_deref(), inherited);
            }
            if let Some(value) = &value
                && !NO_VARIABLES.contains(&&*one.name)
            {
                record.state = std::mem::take(&mut record.state).env(&one.name, value);
            }
            if let Some(history) = &mut history {
                history.extend([" ", &one.name]);
                history.extend(value.iter().flat_map(|value| ["=", value]));
            }
            record.args.push(Arg {
                name: (*one.name).into(),
                value: value.map(Into::into),
            });
        }
        self.commit(at, history, false);
        Ok(())
    }

    /// The command with its shell in front, if it needs one.
    pub(super) fn with_shell(&self, at: usize, line: ByteString) -> Vec<ByteString> {
        let image = &self.records[at].image;
        let mut args = Vec::with_capacity(image.config.shell.len().max(3) + 1);
        match image.config.shell.as_slice() {
            [] if image.os == "windows" => {
                args.extend(["cmd", "/S", "/C"].map(ByteString::from_static))
            }
            [] => args.extend(["/bin/sh", "-c"].map(ByteString::from_static)),
            shell => args.extend(shell.iter().map(|word| ByteString::from(word.as_str()))),
        }
        args.push(line);
        args
    }

    fn default_command(
        &mut self,
        at: usize,
        instruction: &Instruction,
        command: &Command,
    ) -> Vec<String> {
        match command {
            Command::Exec(args) => owned(args),
            Command::Shell(line) => {
                if self.records[at].image.config.shell.is_empty() {
                    let lint = Lint::JsonArgsRecommended {
                        keyword: &instruction.keyword,
                    };
                    self.linter
                        .report(lint, instruction.span, &instruction.comments);
                }
                owned(&self.with_shell(at, line.clone()))
            }
        }
    }

    /// Only the last one counts.
    fn lint_repeated(&mut self, instruction: &Instruction, earlier: Option<Span>) {
        if let Some(earlier) = earlier {
            let lint = Lint::MultipleInstructionsDisallowed {
                keyword: &instruction.keyword,
            };
            self.linter.report(lint, earlier, &instruction.comments);
        }
    }

    pub(super) fn cmd(
        &mut self,
        at: usize,
        instruction: &Instruction,
        cmd: &syntax::Cmd,
    ) -> Result<()> {
        let earlier = self.records[at].cmd_at.replace(instruction.span);
        self.lint_repeated(instruction, earlier);
        let args = self.default_command(at, instruction, &cmd.command);
        let history = format!("CMD {}", quoted_list(&args));
        let config = &mut self.records[at].image.config;
        config.cmd = args;
        config.args_escaped = true;
        self.commit(at, history, false);
        Ok(())
    }

    pub(super) fn entrypoint(
        &mut self,
        at: usize,
        instruction: &Instruction,
        entrypoint: &syntax::Entrypoint,
    ) -> Result<()> {
        let earlier = self.records[at].entrypoint_at.replace(instruction.span);
        self.lint_repeated(instruction, earlier);
        let args = self.default_command(at, instruction, &entrypoint.command);
        let history = format!("ENTRYPOINT {}", quoted_list(&args));
        let record = &mut self.records[at];
        record.image.config.entrypoint = args;
        if record.cmd_at.is_none() {
            record.image.config.cmd.clear();
        }
        self.commit(at, history, false);
        Ok(())
    }

    pub(super) fn healthcheck(
        &mut self,
        at: usize,
        instruction: &Instruction,
        check: &syntax::Healthcheck,
    ) -> Result<()> {
        let earlier = self.records[at].healthcheck_at.replace(instruction.span);
        self.lint_repeated(instruction, earlier);
        let nanos =
            |duration: std::time::Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
        let check = Healthcheck {
            test: check.test.clone(),
            interval: nanos(check.interval),
            timeout: nanos(check.timeout),
            start_period: nanos(check.start_period),
            start_interval: nanos(check.start_interval),
            retries: i64::from(check.retries),
        };
        let history = format!(
            "HEALTHCHECK {{Test:[{}] Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
            check.test.join(" "),
            go_duration(check.interval),
            go_duration(check.timeout),
            go_duration(check.start_period),
            go_duration(check.start_interval),
            check.retries,
        );
        self.records[at].image.config.healthcheck = Some(check);
        self.commit(at, history, false);
        Ok(())
    }

    pub(super) fn expose(
        &mut self,
        at: usize,
        instruction: &Instruction,
        expose: &syntax::Expose,
    ) -> Result<()> {
        let mut words = Vec::new();
        for word in &expose.ports {
            let env = self.records[at].state.env_list();
            words.extend(self.lex.process_words(word, &Vars(env))?);
        }
        let mut ports = Vec::new();
        for word in &words {
            let found = port::parse(word, self.linter, instruction.span, &instruction.comments)
                .map_err(|err| text(err.to_string()))?;
            ports.extend(found);
        }
        let history = format!("EXPOSE [{}]", ports.join(" "));
        let exposed = &mut self.records[at].image.config.exposed_ports;
        exposed.extend(ports.into_iter().map(|port| (port, Nothing {})));
        self.commit(at, history, false);
        Ok(())
    }

    pub(super) fn maintainer(&mut self, at: usize, maintainer: &syntax::Maintainer) -> Result<()> {
        self.records[at].image.author = maintainer.author.to_string();
        self.commit(at, format!("MAINTAINER {}", maintainer.author), false);
        Ok(())
    }

    pub(super) fn shell(&mut self, at: usize, shell: &syntax::Shell) -> Result<()> {
        let args = owned(&shell.args);
        let history = format!("SHELL [{}]", args.join(" "));
        self.records[at].image.config.shell = args;
        self.commit(at, history, false);
        Ok(())
    }

    pub(super) fn stop_signal(
        &mut self,
        at: usize,
        instruction: &Instruction,
        stop: &syntax::StopSignal,
    ) -> Result<()> {
        let name = self.expand(at, instruction, &stop.signal)?;
        signal::check(&name).map_err(|err| text(err.to_string()))?;
        self.commit(at, format!("STOPSIGNAL {name}"), false);
        self.records[at].image.config.stop_signal = name.into_owned();
        Ok(())
    }

    pub(super) fn user(
        &mut self,
        at: usize,
        instruction: &Instruction,
        user: &syntax::User,
    ) -> Result<()> {
        let user = self.expand(at, instruction, &user.user)?;
        let record = &mut self.records[at];
        record.state = std::mem::take(&mut record.state).user(&user);
        let history = format!("USER {user}");
        record.image.config.user = user.into_owned();
        self.commit(at, history, false);
        Ok(())
    }

    pub(super) fn volume(
        &mut self,
        at: usize,
        instruction: &Instruction,
        volume: &syntax::Volume,
    ) -> Result<()> {
        let volumes = self.expand_all(at, instruction, &volume.paths)?;
        if volumes.iter().any(|volume| volume.is_empty()) {
            return Err(Error::Says("VOLUME specified can not be an empty string").into());
        }
        let history = format!("VOLUME [{}]", volumes.join(" "));
        let known = &mut self.records[at].image.config.volumes;
        let volumes = volumes.into_iter().map(Cow::into_owned);
        known.extend(volumes.map(|volume| (volume, Nothing {})));
        self.commit(at, history, false);
        Ok(())
    }

    /// Changes the working directory without an op.
    pub(super) fn change_dir(&mut self, at: usize, dir: &str) -> Result<String> {
        let record = &mut self.records[at];
        let os = record
            .platform
            .as_ref()
            .map_or("linux", |platform| platform.os.as_str());
        let dir = paths::normalize(&record.image.config.working_dir, dir, os, false)
            .context("normalizing working directory")
            .context("normalizing workdir")?;
        record.image.config.working_dir = if os == "windows" {
            dir.replace('/', "\\")
        } else {
            dir.clone()
        };
        record.state = std::mem::take(&mut record.state).dir(&dir);
        Ok(dir)
    }

    pub(super) fn workdir(
        &mut self,
        at: usize,
        instruction: &Instruction,
        workdir: &syntax::Workdir,
    ) -> Result<()> {
        let path = self.expand(at, instruction, &workdir.path)?;
        let record = &self.records[at];
        let os = record
            .platform
            .as_ref()
            .map_or("linux", |platform| platform.os.as_str());
        if !record.workdir_set && !paths::is_absolute(&path, os) {
            let lint = Lint::WorkdirRelativePath { path: &path };
            self.linter
                .report(lint, instruction.span, &instruction.comments);
        }
        self.records[at].workdir_set = true;
        let dir = self.change_dir(at, &path)?;
        let makes_layer = dir != "/";
        if makes_layer {
            let name = self.instruction_name(at, &instruction.text);
            let mut options = self.op_options(at, name, instruction.span);
            options.ignore_cache = false;
            let record = &mut self.records[at];
            let op = FileOp::new().then(Action::Mkdir {
                path: paths::rooted(&dir).into_owned(),
                mode: 0o755,
                parents: true,
                owner: parse_owner(&record.image.config.user),
                timestamp: self
                    .epoch
                    .map(|seconds| seconds.saturating_mul(1_000_000_000)),
            });
            record.state = record.state.file(op, options);
        }
        let mut history = self.begin_history(at, "WORKDIR ", instruction);
        if let Some(history) = &mut history {
            history.push_str(&dir);
        }
        self.commit(at, history, makes_layer);
        Ok(())
    }
}

/// Words of the file for an image.
pub(super) fn owned(words: &[ByteString]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

/// `user[:group]`, each a name or a number; nothing for empty text. Empty parts are number 0.
pub(super) fn parse_owner(text: &str) -> Option<Chown> {
    if text.is_empty() {
        return None;
    }
    let part = |text: &str| match text {
        "" | "root" => User::Id(0),
        other => match other.parse::<i32>() {
            Ok(id) => User::Id(id.cast_unsigned()),
            Err(_) => User::Name(other.to_owned()),
        },
    };
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    Some(Chown {
        user: Some(part(user)),
        group: group.map(part),
    })
}

/// `["a" "b"]`
fn quoted_list(items: &[String]) -> String {
    let items: Vec<String> = items
        .iter()
        .map(|item| dockerfile_syntax::quote::go(item).to_string())
        .collect();
    format!("[{}]", items.join(" "))
}

/// Nanoseconds as Go prints a duration: `1m30s`, `250ms`, `0s`.
fn go_duration(nanos: i64) -> String {
    let fraction = |value: i64, unit: i64, suffix: &str| {
        let (whole, rest) = (value / unit, value % unit);
        let digits = unit.to_string().len() - 1;
        let rest = format!("{rest:0digits$}");
        match rest.trim_end_matches('0') {
            "" => format!("{whole}{suffix}"),
            rest => format!("{whole}.{rest}{suffix}"),
        }
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => fraction(nanos, 1_000, "µs"),
        1_000_000..1_000_000_000 => fraction(nanos, 1_000_000, "ms"),
        _ => {
            let (hours, rest) = (nanos / 3_600_000_000_000, nanos % 3_600_000_000_000);
            let (minutes, rest) = (rest / 60_000_000_000, rest % 60_000_000_000);
            let seconds = fraction(rest, 1_000_000_000, "s");
            match (hours, minutes) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_printed_as_go_does() {
        for (nanos, expected) in [
            (0, "0s"),
            (250_000_000, "250ms"),
            (60_000_000_000, "1m0s"),
            (90_500_000_000, "1m30.5s"),
            (3_600_000_000_000, "1h0m0s"),
            (1_500, "1.5µs"),
        ] {
            assert_eq!(go_duration(nanos), expected);
        }
    }

    #[test]
    fn owners_are_names_or_numbers() {
        assert_eq!(parse_owner(""), None);
        let owner = parse_owner("joe:5").expect("an owner");
        assert_eq!(owner.user, Some(User::Name("joe".to_owned())));
        assert_eq!(owner.group, Some(User::Id(5)));
        assert_eq!(parse_owner(":").expect("an owner").user, Some(User::Id(0)));
    }
}
