//! `ADD` and `COPY`.

use crate::args::Args;
use crate::ast::{Add, Copy, Sources};
use crate::error::Problem;
use crate::flags::{self, check};
use crate::heredoc::{self, Heredoc};
use crate::statement::Statement;

use super::words;

/// Takes the arguments of the statement.
fn sources(name: &'static str, args: &mut Args, heredocs: &[Heredoc]) -> Result<Sources, Problem> {
    let (Args::Words(words) | Args::Json(words)) = args else {
        return Err(Problem::NoDestination(name));
    };
    let mut from = std::mem::take(words);
    let Some(dest) = from.pop() else {
        return Err(Problem::NoDestination(name));
    };
    if heredoc::from_word(&dest).is_some() {
        return Err(Problem::HeredocDestination(name));
    }
    let mut sources = Sources {
        paths: Vec::with_capacity(from.len()),
        files: Vec::new(),
        dest,
    };
    for word in from {
        match heredoc::from_word(&word) {
            None => sources.paths.push(word),
            Some(announced) => {
                // Of several documents with one name the last one counts; a JSON list has none.
                let body = heredocs
                    .iter()
                    .rfind(|document| document.name == announced.name);
                let content = body
                    .map(|document| document.content.clone())
                    .unwrap_or_default();
                sources.files.push(Heredoc {
                    content,
                    ..announced
                });
            }
        }
    }
    Ok(sources)
}

fn at_least_two(name: &'static str, statement: &Statement) -> Result<(), Problem> {
    if words(statement).len() < 2 {
        Err(Problem::NoDestination(name))
    } else {
        Ok(())
    }
}

fn list<'a>(values: impl Iterator<Item = &'a str>) -> Vec<String> {
    values.map(str::to_owned).collect()
}

pub(super) fn add(statement: &mut Statement) -> Result<Add, Problem> {
    at_least_two("ADD", statement)?;
    let flags = check(&statement.flags, flags::ADD)?;
    Ok(Add {
        sources: sources("ADD", &mut statement.args, &statement.heredocs)?,
        chown: flags.value("chown").to_owned(),
        chmod: flags.value("chmod").to_owned(),
        checksum: flags.value("checksum").to_owned(),
        link: flags.switch("link") == Some(true),
        keep_git_dir: flags.switch("keep-git-dir"),
        unpack: flags.switch("unpack"),
        exclude: list(flags.values("exclude")),
    })
}

pub(super) fn copy(statement: &mut Statement) -> Result<Copy, Problem> {
    at_least_two("COPY", statement)?;
    let flags = check(&statement.flags, flags::COPY)?;
    Ok(Copy {
        sources: sources("COPY", &mut statement.args, &statement.heredocs)?,
        from: flags.value("from").to_owned(),
        chown: flags.value("chown").to_owned(),
        chmod: flags.value("chmod").to_owned(),
        link: flags.switch("link") == Some(true),
        parents: flags.switch("parents") == Some(true),
        exclude: list(flags.values("exclude")),
    })
}
