//! COPY and ADD.

use std::borrow::Cow;

use dockerfile_syntax::lint::Lint;
use dockerfile_syntax::shell::Lex;
use dockerfile_syntax::{self as syntax, Heredoc, Instruction, Sources};
use llb::build::{Copy, FileOp, Http, Mode, Options as OpOptions, State};
use llb::caps;

use super::Lower;
use super::config::parse_owner;
use super::name::COMMAND;
use super::record::Step;
use super::words::note_path;
use crate::error::{Error, Locate, Result, text};
use crate::git_ref::{self, GitRef};
use crate::paths;

/// COPY or ADD with everything expanded.
struct Job<'a> {
    instruction: &'a Instruction,
    add: Option<&'a syntax::Add>,
    paths: Vec<Cow<'a, str>>,
    files: Vec<(&'a Heredoc, Vec<u8>)>,
    dest: Cow<'a, str>,
    chown: Cow<'a, str>,
    chmod: Cow<'a, str>,
    checksum: Cow<'a, str>,
    link: bool,
    parents: bool,
    exclude: &'a [String],
    /// Where paths are taken from.
    from: State,
    /// The record that is; without one it is the main context.
    source: Option<usize>,
    keep_git_dir: Option<bool>,
}

impl Lower<'_> {
    pub(super) fn add(
        &mut self,
        at: usize,
        instruction: &Instruction,
        add: &syntax::Add,
    ) -> Result<()> {
        let chown = self.expand(at, instruction, &add.chown)?;
        let chmod = self.expand(at, instruction, &add.chmod)?;
        let checksum = self.expand(at, instruction, &add.checksum)?;
        let (paths, files, dest) = self.expand_sources(at, instruction, &add.sources)?;
        let mut job = Job {
            instruction,
            add: Some(add),
            paths,
            files,
            dest,
            chown,
            chmod,
            checksum,
            link: add.link,
            parents: false,
            exclude: &add.exclude,
            from: self.context.clone(),
            source: None,
            keep_git_dir: add.keep_git_dir,
        };
        self.lower_copy(at, &mut job)
    }

    pub(super) fn copy(&mut self, at: usize, step: &Step, copy: &syntax::Copy) -> Result<()> {
        let instruction = &step.instruction;
        let chown = self.expand(at, instruction, &copy.chown)?;
        let chmod = self.expand(at, instruction, &copy.chmod)?;
        let (paths, files, dest) = self.expand_sources(at, instruction, &copy.sources)?;
        let from = match step.sources.first() {
            None => self.context.clone(),
            Some(&source) if self.records[source].done => self.records[source].state.clone(),
            Some(_) => {
                return Err(text(format!(
                    "cannot copy from stage {}, it needs to be defined before current stage {}",
                    dockerfile_syntax::quote::go(&copy.from),
                    dockerfile_syntax::quote::go(&self.records[at].display)
                ))
                .into());
            }
        };
        let mut job = Job {
            instruction,
            add: None,
            paths,
            files,
            dest,
            chown,
            chmod,
            checksum: "".into(),
            link: copy.link,
            parents: copy.parents,
            exclude: &copy.exclude,
            from,
            source: step.sources.first().copied(),
            keep_git_dir: None,
        };
        self.lower_copy(at, &mut job)
    }

    #[expect(
        clippy::type_complexity,
        reason = "used by the two functions above only"
    )]
    fn expand_sources<'s>(
        &mut self,
        at: usize,
        instruction: &Instruction,
        sources: &'s Sources,
    ) -> Result<(Vec<Cow<'s, str>>, Vec<(&'s Heredoc, Vec<u8>)>, Cow<'s, str>)> {
        let paths = self.expand_all(at, instruction, &sources.paths)?;
        let dest = self.expand(at, instruction, &sources.dest)?;
        let mut files = Vec::with_capacity(sources.files.len());
        for file in &sources.files {
            let content = if file.expand {
                let lex = Lex::for_document();
                self.expand_with(lex, at, instruction, &file.file_text())?
                    .into_bytes()
            } else {
                file.file_bytes().into_owned()
            };
            files.push((file, content));
        }
        Ok((paths, files, dest))
    }

    fn lower_copy(&mut self, at: usize, job: &mut Job<'_>) -> Result<()> {
        let dest = self.destination(at, &job.dest)?;
        let mut common = Copy {
            dest,
            owner: parse_owner(&job.chown),
            mode: parse_mode(&job.chmod)?,
            create_dest: true,
            exclude: job.exclude.to_vec(),
            ..Copy::default()
        };
        if !job.checksum.is_empty() {
            check_checksum(job)?;
        }
        let name = self.instruction_name(at, &job.instruction.text);
        let mut op = FileOp::new();
        let sources = std::mem::take(&mut job.paths);
        let mut left = sources.len() + job.files.len();
        for path in &sources {
            left -= 1;
            let common = match left {
                0 => std::mem::take(&mut common),
                _ => common.clone(),
            };
            op = self.add_path(at, op, job, common, path, &name)?;
        }
        job.paths = sources;
        let os = self.os(at);
        for (file, content) in &job.files {
            let name =
                paths::without_drive(&file.name, os, false).context("removing drive letter")?;
            let inline = FileOp::new().mkfile(&paths::rooted(&name), 0o644, content.clone());
            let options = OpOptions::named("[internal] preparing inline document");
            let source = State::scratch().file(inline, options);
            op = op.copy_with(
                &source,
                Copy {
                    src: paths::rooted(&name).into_owned(),
                    ..common.clone()
                },
            );
        }
        self.finish_copy(at, job, op, name);
        let history = self.records[at].in_result.then(|| history(job));
        self.commit(at, history, true);
        Ok(())
    }

    /// Puts the files onto the state, or beside it for `--link`.
    fn finish_copy(&mut self, at: usize, job: &Job<'_>, op: FileOp, name: String) {
        let span = job.instruction.span;
        let merges = job.link && job.chmod.is_empty() && self.files.bridge.supports(caps::MERGE_OP);
        if !merges {
            let options = self.op_options(at, name, span);
            let record = &mut self.records[at];
            record.state = record.state.file(op, options);
            return;
        }
        let options = self.op_options(at, name.clone(), span);
        let group = identity::new_id();
        let files = State::scratch().file(op, options.group(&group, &name, true));
        let shown = self.shown(at, &job.instruction.text);
        let platform = self.records[at]
            .platform
            .as_ref()
            .unwrap_or(&self.target_platform);
        let env = self.records[at].state.env_list();
        let link = self.step_name(at, &format!("LINK {shown}"), Some(platform), Some(env));
        let options = self.op_options(at, link, span).group(&group, &name, false);
        let record = &mut self.records[at];
        record.state = State::merge(&[record.state.clone(), files], options);
    }

    fn os(&self, at: usize) -> &str {
        let platform = self.records[at]
            .platform
            .as_ref()
            .unwrap_or(&self.target_platform);
        &platform.os
    }

    fn destination(&self, at: usize, dest: &str) -> Result<String> {
        let os = self.os(at);
        let dir = self.records[at].state.current_dir();
        let dest = paths::without_drive(dest, os, true).context("removing drive letter")?;
        let dest = if paths::is_absolute(&dest, os) {
            paths::normalize("/", &dest, os, true)?
        } else {
            let dest = if matches!(&*dest, "" | ".") {
                "./"
            } else {
                &dest
            };
            paths::normalize(dir, dest, os, true)?
        };
        Ok(paths::clean_keeping_ending(dest))
    }

    /// Adds what one source means.
    fn add_path(
        &mut self,
        at: usize,
        op: FileOp,
        job: &mut Job<'_>,
        common: Copy,
        path: &str,
        name: &str,
    ) -> Result<FileOp> {
        if let Some(git) = git_ref::parse(path) {
            let git = git?;
            if !git.could_be_path {
                let source = git_state(job, &git, name)?;
                if !is_http(path) {
                    note_path(&mut self.context_paths, paths::rooted(path));
                }
                return Ok(op.copy_with(
                    &source,
                    Copy {
                        src: "/".to_owned(),
                        ..common
                    },
                ));
            }
        } else if is_http(path) {
            let Some(add) = job.add else {
                return Err(Error::Says("source can't be a URL for COPY").into());
            };
            let file = url_file(path);
            if !job.checksum.is_empty() {
                check_digest(&job.checksum)?;
            }
            let source = Http {
                url: path.to_owned(),
                filename: file.clone(),
                checksum: job.checksum.to_string(),
                ..Http::default()
            };
            let source = source.state(OpOptions::named(name).describe(COMMAND, ""));
            let unpack = add.unpack.unwrap_or(false);
            let src = paths::rooted(&file).into_owned();
            return Ok(op.copy_with(
                &source,
                Copy {
                    src,
                    unpack,
                    ..common
                },
            ));
        }
        self.lint_ignored(job, path);
        let os = self.os(at);
        let copy = local_copy(job, common, path, os)?;
        // What is copied is the path from the root, unless something was taken off it.
        let used = match job.parents || os == "windows" {
            true => paths::rooted(path),
            false => copy.src.as_str().into(),
        };
        let set = match job.source {
            None => &mut self.context_paths,
            Some(source) => &mut self.path_sets[self.records[source].paths],
        };
        note_path(set, used);
        let needed = copy.required.first().unwrap_or(&copy.src);
        self.taken
            .note(job.instruction.span.first, needed, job.source);
        Ok(op.copy_with(&job.from, copy))
    }

    /// Warns about a source that the ignore file takes away.
    fn lint_ignored(&mut self, job: &Job<'_>, path: &str) {
        let Some(patterns) = &self.ignored else {
            return;
        };
        if job.source.is_some() || patterns.has_exceptions() {
            return;
        }
        let path = paths::clean(path);
        if path == "." || path == "/" {
            let all = |pattern: &str| matches!(pattern, "*" | "**" | "**/*");
            if !patterns.iter().any(|pattern| all(pattern.text())) {
                return;
            }
        }
        if patterns.matches(path.as_bytes()) {
            let verb = if job.add.is_some() { "Add" } else { "Copy" };
            let lint = Lint::CopyIgnoredFile { verb, path: &path };
            self.linter
                .report(lint, job.instruction.span, &job.instruction.comments);
        }
    }
}

/// A path of the context or a stage.
fn local_copy(job: &Job<'_>, common: Copy, path: &str, os: &str) -> Result<Copy> {
    let normalized =
        |path: &str| paths::normalize("/", path, os, false).context("removing drive letter");
    let mut copy = Copy {
        follow_symlink: true,
        contents_only: true,
        wildcard: true,
        empty_wildcard: true,
        unpack: job.add.is_some_and(|add| add.unpack.unwrap_or(true)),
        ..common
    };
    let mut src = path;
    if job.parents {
        let pattern;
        (src, pattern) = path.split_once("/./").unwrap_or(("/", path));
        let pattern = normalized(pattern)?;
        if !has_wildcards(src) && !has_wildcards(&pattern) {
            copy.required = vec![normalized(&paths::join(src, &pattern))?];
        }
        copy.include = vec![pattern.strip_prefix('/').unwrap_or(&pattern).to_owned()];
    }
    copy.src = paths::into_rooted(normalized(src)?);
    Ok(copy)
}

fn git_state(job: &mut Job<'_>, git: &GitRef, name: &str) -> Result<State> {
    if job.add.is_none() {
        return Err(Error::Says("source can't be a git ref for COPY").into());
    }
    if let (Some(flag), Some(query)) = (job.keep_git_dir, git.keep_git_dir)
        && flag != query
    {
        return Err(Error::Says("inconsistent keep-git-dir configuration").into());
    }
    job.keep_git_dir = git.keep_git_dir.or(job.keep_git_dir);
    if !git.checksum.is_empty() {
        if !job.checksum.is_empty() && job.checksum != git.checksum {
            return Err(text(format!(
                "checksum mismatch {} != {}",
                dockerfile_syntax::quote::go(&job.checksum),
                dockerfile_syntax::quote::go(&git.checksum)
            ))
            .into());
        }
        job.checksum = git.checksum.clone().into();
    }
    let mut source = git.source();
    source.keep_git_dir = job.keep_git_dir == Some(true);
    source.checksum = job.checksum.to_string();
    Ok(source.state(OpOptions::named(name)))
}

fn check_checksum(job: &Job<'_>) -> Result<()> {
    let [path] = job.paths.as_slice() else {
        return Err(Error::Says("checksum can't be specified for multiple sources").into());
    };
    if !is_http(path) && !matches!(git_ref::parse(path), Some(Ok(_))) {
        return Err(Error::Says("checksum requires HTTP(S) or Git sources").into());
    }
    Ok(())
}

/// Refuses what is no digest, in upstream's words.
pub(super) fn check_digest(digest: &str) -> Result<()> {
    let reason = match digest.split_once(':') {
        None => "invalid checksum digest format",
        Some((algorithm, hex)) => {
            let length = match algorithm {
                "sha256" => 64,
                "sha384" => 96,
                "sha512" => 128,
                _ => return Err(Error::Says("unsupported digest algorithm").into()),
            };
            if hex.len() != length {
                "invalid checksum digest length"
            } else if digest.parse::<oci::Digest>().is_err() {
                "invalid checksum digest format"
            } else {
                return Ok(());
            }
        }
    };
    Err(Error::Says(reason).into())
}

fn parse_mode(chmod: &str) -> Result<Option<Mode>> {
    if chmod.is_empty() {
        return Ok(None);
    }
    let refused = || {
        text(format!(
            "invalid chmod parameter: '{chmod}'. it should be octal string and between 0 and 07777"
        ))
    };
    if chmod.bytes().all(|byte| matches!(byte, b'0'..=b'7')) {
        let bits = u32::from_str_radix(chmod, 8)
            .ok()
            .filter(|bits| *bits <= 0o7777);
        return Ok(Some(Mode::Bits(bits.ok_or_else(refused)?)));
    }
    if chmod.as_bytes()[0].is_ascii_digit() {
        return Err(refused().into());
    }
    if !is_symbolic_mode(chmod) {
        return Err(Error::Says("invalid syntax").into());
    }
    Ok(Some(Mode::Symbolic(chmod.to_owned())))
}

/// `u+x,go-w`
fn is_symbolic_mode(text: &str) -> bool {
    text.split(',').all(|clause| {
        let rest = clause.trim_start_matches(['u', 'g', 'o', 'a']);
        rest.starts_with(['+', '-', '='])
            && rest.split(['+', '-', '=']).skip(1).all(|perms| {
                let copied = perms.len() == 1 && matches!(perms, "u" | "g" | "o");
                copied || perms.bytes().all(|byte| b"rwxXst".contains(&byte))
            })
    })
}

pub(super) fn is_http(path: &str) -> bool {
    path.starts_with("http://") || path.starts_with("https://")
}

/// The name of the file a URL leads to.
pub(super) fn url_file(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split(['#', '?']).next().unwrap_or_default();
    let path = rest.find('/').map_or("", |at| &rest[at..]);
    match paths::base(path) {
        "." | "/" => "__unnamed__".to_owned(),
        name => git_ref::unescape(name).unwrap_or_else(|| "__unnamed__".to_owned()),
    }
}

fn has_wildcards(text: &str) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'*' | b'?' | b'[' => return true,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
    false
}

fn history(job: &Job<'_>) -> String {
    let mut text = String::with_capacity(job.instruction.text.len() + 24);
    text.push_str(if job.add.is_some() { "ADD" } else { "COPY" });
    if job.parents {
        text.push_str(" --parents");
    }
    for (flag, value) in [(" --chown=", &job.chown), (" --chmod=", &job.chmod)] {
        if !value.is_empty() {
            text.extend([flag, value]);
        }
    }
    for path in &job.paths {
        text.extend([" ", path]);
    }
    for (file, _) in &job.files {
        text.extend([" <<", &file.name]);
    }
    text.extend([" ", &job.dest, " # buildkit"]);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal_or_symbolic() {
        assert_eq!(parse_mode("0644").expect("a mode"), Some(Mode::Bits(0o644)));
        let symbolic = Some(Mode::Symbolic("u+x,go-w".to_owned()));
        assert_eq!(parse_mode("u+x,go-w").expect("a mode"), symbolic);
        for text in ["99999", "zz", "0888", "17777", "u+q"] {
            assert!(parse_mode(text).is_err(), "{text}");
        }
    }

    #[test]
    fn files_of_urls_have_a_name() {
        assert_eq!(url_file("https://h/a/b%20c?x=1/2#y"), "b c");
        assert_eq!(url_file("https://h"), "__unnamed__");
        assert_eq!(url_file("https://h/"), "__unnamed__");
    }
}
