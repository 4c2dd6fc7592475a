//! A handful of commands and a very small shell in one binary: enough of a base image to build on without a network.
//!
//! Linked statically it runs on `scratch`. Called by the name of a command, or as `toolbox COMMAND …`.

use std::fs;
use std::io::{self, Read as _, Write};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, ExitCode};

type Outcome = Result<(), String>;

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args().collect();
    let called = args
        .first()
        .and_then(|name| name.rsplit('/').next())
        .unwrap_or_default()
        .to_owned();
    args.remove(0);
    let name = if called == "toolbox" && !args.is_empty() {
        args.remove(0)
    } else {
        called
    };
    if name == "sh" {
        return shell(&args);
    }
    let mut out = io::stdout().lock();
    match run(&name, &args, &mut out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("{name}: {text}");
            ExitCode::FAILURE
        }
    }
}

fn named<T>(path: &str, result: io::Result<T>) -> Result<T, String> {
    result.map_err(|err| format!("{path}: {err}"))
}

fn run(name: &str, args: &[String], out: &mut dyn Write) -> Outcome {
    match name {
        "true" => Ok(()),
        "false" => Err("asked to fail".to_owned()),
        "echo" => named("stdout", writeln!(out, "{}", args.join(" "))),
        "cat" => args.iter().try_for_each(|path| {
            let bytes = named(path, fs::read(path))?;
            named(path, out.write_all(&bytes))
        }),
        "env" => std::env::vars()
            .try_for_each(|(key, value)| named("stdout", writeln!(out, "{key}={value}"))),
        "pwd" => {
            let dir = named(".", std::env::current_dir())?;
            named("stdout", writeln!(out, "{}", dir.display()))
        }
        "mkdir" => args
            .iter()
            .filter(|path| *path != "-p")
            .try_for_each(|path| named(path, fs::create_dir_all(path))),
        "rm" => args
            .iter()
            .filter(|path| !path.starts_with('-'))
            .try_for_each(|path| remove(path)),
        "cp" => match args {
            [from, to] => named(from, fs::copy(from, to).map(drop)),
            _ => Err("usage: cp FROM TO".to_owned()),
        },
        "ls" => list(args.first().map_or(".", String::as_str), out),
        "upper" => {
            let mut text = String::new();
            named("stdin", io::stdin().read_to_string(&mut text))?;
            named("stdout", write!(out, "{}", text.to_uppercase()))
        }
        "install" => install(args.first().map_or("/bin", String::as_str)),
        other => Err(format!("no such command: {other}")),
    }
}

fn remove(path: &str) -> Outcome {
    let meta = named(path, fs::symlink_metadata(path))?;
    named(
        path,
        if meta.is_dir() {
            fs::remove_dir_all(path)
        } else {
            fs::remove_file(path)
        },
    )
}

fn list(dir: &str, out: &mut dyn Write) -> Outcome {
    let mut names: Vec<_> = named(dir, fs::read_dir(dir))?
        .filter_map(|entry| entry.ok())
        .map(|entry| entry.file_name())
        .collect();
    names.sort();
    for name in names {
        let path = Path::new(dir).join(&name);
        let meta = named(dir, fs::symlink_metadata(&path))?;
        let mode = meta.permissions().mode() & 0o7777;
        let line = format!(
            "{mode:04o} {}:{} {:>8} {}",
            meta.uid(),
            meta.gid(),
            meta.len(),
            name.display()
        );
        named("stdout", writeln!(out, "{line}"))?;
    }
    Ok(())
}

/// Makes a link for each command.
fn install(dir: &str) -> Outcome {
    let own = named("self", std::env::current_exe())?;
    named(dir, fs::create_dir_all(dir))?;
    for name in [
        "sh", "true", "false", "echo", "cat", "env", "pwd", "mkdir", "rm", "cp", "ls", "upper",
    ] {
        let link = Path::new(dir).join(name);
        named(name, std::os::unix::fs::symlink(&own, link))?;
    }
    Ok(())
}

/// `sh -c 'COMMAND [> FILE] && COMMAND …'` with quotes and variables.
fn shell(args: &[String]) -> ExitCode {
    let script = match args {
        [flag, script] if flag == "-c" => script,
        [flag, rest @ ..] if flag == "-c" && !rest.is_empty() => &rest[0],
        _ => {
            eprintln!("sh: usage: sh -c SCRIPT");
            return ExitCode::FAILURE;
        }
    };
    for command in script.split("&&").flat_map(|part| part.split(['\n', ';'])) {
        let words = words(command);
        let Some((name, rest)) = words.split_first() else {
            continue;
        };
        if name == "exit" {
            let code = rest
                .first()
                .and_then(|code| code.parse::<u8>().ok())
                .unwrap_or(0);
            return ExitCode::from(code);
        }
        if let Err((text, code)) = command_line(name, rest) {
            eprintln!("sh: {text}");
            return ExitCode::from(code);
        }
    }
    ExitCode::SUCCESS
}

fn command_line(name: &str, rest: &[String]) -> Result<(), (String, u8)> {
    let failed = |text: String| (text, 1);
    let (args, target) = match rest {
        [args @ .., arrow, file] if arrow == ">" || arrow == ">>" => {
            (args, Some((file, arrow == ">>")))
        }
        all => (all, None),
    };
    let file = target
        .map(|(file, append)| {
            let opened = fs::OpenOptions::new()
                .create(true)
                .write(true)
                .append(append)
                .truncate(!append)
                .open(file);
            named(file, opened)
        })
        .transpose()
        .map_err(failed)?;
    if Path::new(name).is_absolute() {
        let mut command = Command::new(name);
        command.args(args);
        if let Some(file) = file {
            command.stdout(file);
        }
        let status = command
            .status()
            .map_err(|err| (format!("{name}: {err}"), 127))?;
        let code = status.code().unwrap_or(255);
        let text = format!("{name} ended with {code}");
        return if code == 0 {
            Ok(())
        } else {
            Err((text, u8::try_from(code).unwrap_or(255)))
        };
    }
    let result = match file {
        Some(mut file) => run(name, args, &mut file),
        None => run(name, args, &mut io::stdout().lock()),
    };
    result.map_err(|text| failed(format!("{name}: {text}")))
}

/// Splits at blanks; quotes group, `$NAME` is replaced outside of single quotes.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (None, ' ' | '\t') => words.extend(word.take()),
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (Some(open), close) if open == close => quote = None,
            (Some('"') | None, '$') => {
                let mut name = String::new();
                while let Some(next) =
                    characters.next_if(|c| c.is_ascii_alphanumeric() || *c == '_')
                {
                    name.push(next);
                }
                word.get_or_insert_default()
                    .push_str(&std::env::var(name).unwrap_or_default());
            }
            (_, other) => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_group_and_blanks_split() {
        assert_eq!(words("echo  'a b' \"c d\" ''"), ["echo", "a b", "c d", ""]);
    }
}
