//! `ADD` and `COPY`.

use crate::ast::{Add, Copy, Sources};
use crate::error::Problem;
use crate::flags::{self, check};
use crate::heredoc::{self, Heredoc};
use crate::statement::Statement;

use super::words;

fn sources(name: &'static str, statement: &Statement) -> Result<Sources, Problem> {
    let Some((dest, from)) = words(statement).split_last() else {
        return Err(Problem::NoDestination(name));
    };
    if heredoc::from_word(dest).is_some() {
        return Err(Problem::HeredocDestination(name));
    }
    let mut sources = Sources {
        paths: Vec::new(),
        files: Vec::new(),
        dest: dest.clone(),
    };
    for word in from {
        match heredoc::from_word(word) {
            None => sources.paths.push(word.clone()),
            Some(announced) => {
                // Of several documents with one name the last one counts; a JSON list has none.
                let body = statement
                    .heredocs
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

pub(super) fn add(statement: &Statement) -> Result<Add, Problem> {
    at_least_two("ADD", statement)?;
    let flags = check(&statement.flags, flags::ADD)?;
    Ok(Add {
        sources: sources("ADD", statement)?,
        chown: flags.value("chown").to_owned(),
        chmod: flags.value("chmod").to_owned(),
        checksum: flags.value("checksum").to_owned(),
        link: flags.switch("link") == Some(true),
        keep_git_dir: flags.switch("keep-git-dir"),
        unpack: flags.switch("unpack"),
        exclude: list(flags.values("exclude")),
    })
}

pub(super) fn copy(statement: &Statement) -> Result<Copy, Problem> {
    at_least_two("COPY", statement)?;
    let flags = check(&statement.flags, flags::COPY)?;
    Ok(Copy {
        sources: sources("COPY", statement)?,
        from: flags.value("from").to_owned(),
        chown: flags.value("chown").to_owned(),
        chmod: flags.value("chmod").to_owned(),
        link: flags.switch("link") == Some(true),
        parents: flags.switch("parents") == Some(true),
        exclude: list(flags.values("exclude")),
    })
}
