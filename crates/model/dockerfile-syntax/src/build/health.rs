//! `HEALTHCHECK`.

use std::time::Duration;

use crate::args::Args;
use crate::ast::{Command, Healthcheck};
use crate::error::Problem;
use crate::flags::{self, Checked, check};
use crate::number;
use crate::statement::Statement;

use super::command_of;

pub(super) fn healthcheck(statement: &mut Statement) -> Result<Healthcheck, Problem> {
    let Args::Typed(word, command) = &mut statement.args else {
        return Err(Problem::AtLeastOneArgument("HEALTHCHECK"));
    };
    let command = command_of(command);
    let mut found = Healthcheck {
        test: vec!["NONE".to_owned()],
        interval: Duration::ZERO,
        timeout: Duration::ZERO,
        start_period: Duration::ZERO,
        start_interval: Duration::ZERO,
        retries: 0,
    };
    let word = word.to_uppercase();
    if word == "NONE" {
        return match command {
            Command::Shell(text) if text.is_empty() => Ok(found),
            Command::Exec(list) if list.is_empty() => Ok(found),
            _ => Err(Problem::HealthcheckNone),
        };
    }
    let flags = check(&statement.flags, flags::HEALTHCHECK)?;
    if word != "CMD" {
        return Err(Problem::HealthcheckType(word));
    }
    found.test = match command {
        Command::Exec(list) if !list.is_empty() => {
            let list = list.iter().map(ToString::to_string);
            std::iter::once("CMD".to_owned()).chain(list).collect()
        }
        Command::Shell(text) if !text.is_empty() => vec!["CMD-SHELL".to_owned(), text.to_string()],
        _ => return Err(Problem::HealthcheckCommand),
    };
    found.interval = interval(flags, "interval")?;
    found.timeout = interval(flags, "timeout")?;
    found.start_period = interval(flags, "start-period")?;
    found.start_interval = interval(flags, "start-interval")?;
    match flags.value("retries") {
        "" => {}
        text => {
            let retries = number::go_int32(text).map_err(Problem::Number)?;
            found.retries =
                u32::try_from(retries).map_err(|_| Problem::NegativeRetries(retries))?;
        }
    }
    Ok(found)
}

fn interval(flags: Checked<'_>, name: &'static str) -> Result<Duration, Problem> {
    const SHORTEST: i64 = 1_000_000;
    let text = flags.value(name);
    if text.is_empty() {
        return Ok(Duration::ZERO);
    }
    match number::go_duration(text).map_err(Problem::Number)? {
        0 => Ok(Duration::ZERO),
        short if short < SHORTEST => Err(Problem::IntervalTooShort(name)),
        enough => Ok(Duration::from_nanos(enough.unsigned_abs())),
    }
}
