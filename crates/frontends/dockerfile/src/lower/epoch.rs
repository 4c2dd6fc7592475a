//! SOURCE_DATE_EPOCH: a number, or something whose date counts.

use dockerfile_syntax::{Add, Dockerfile, Kind, Stage};
use llb::build::{Copy, Env, FileOp, Http, Options as OpOptions, State};
use proto::pb;

use super::Lower;
use super::copy::{check_digest, is_http, url_file};
use super::plan::SCRATCH;
use super::words::Vars;
use crate::error::{Error, Locate, Result, text};
use crate::files::is_archive;
use crate::git_ref;
use crate::options::{equal_fold, number};

const NAME: &str = "SOURCE_DATE_EPOCH";

impl Lower<'_> {
    pub(super) async fn read_epoch(&mut self, file: &Dockerfile) -> Result<()> {
        let global = self.globals.get(NAME).filter(|value| !value.is_empty());
        let Some(value) = self.build_args.get(NAME).map(String::as_str).or(global) else {
            return Ok(());
        };
        let value = value.to_owned();
        self.epoch = match value.as_str() {
            "" => None,
            value => match number::parse_int(value) {
                Ok(seconds) => Some(seconds),
                Err(_) => self.epoch_of(value, file).await?,
            },
        };
        match self.epoch.map(|seconds| seconds.to_string()) {
            None => {
                self.build_args.remove(NAME);
                self.globals.remove(NAME);
            }
            Some(seconds) => {
                if let Some(given) = self.build_args.get_mut(NAME) {
                    given.clone_from(&seconds);
                }
                if self.globals.get(NAME).is_some() {
                    self.globals.set(NAME, &seconds);
                }
            }
        }
        Ok(())
    }

    /// The date of a context or stage of this name.
    async fn epoch_of(&self, value: &str, file: &Dockerfile) -> Result<Option<i64>> {
        if value == "context" {
            let name = "[internal] resolve main build context metadata".to_owned();
            return match self.files.main_source() {
                Some(source) => self.date_of(source, name).await,
                None => Ok(None),
            };
        }
        if let Some(context) = self.files.named_context(value, None)? {
            let loaded = self.files.load_named(&context).await?;
            if loaded.local.is_some() {
                return Ok(None);
            }
            let name = format!("[internal] resolve {NAME} named context {value}");
            return self.date_of(&loaded.state, name).await;
        }
        let named = |stage: &&Stage| {
            stage
                .name
                .as_deref()
                .is_some_and(|name| equal_fold(name, value))
        };
        let Some(stage) = file.stages.iter().find(named) else {
            return Err(text(format!("invalid {NAME}: {value}")).into());
        };
        let source = self.only_source(stage).at(stage.span)?;
        let shown = stage.name.as_deref().unwrap_or_default();
        let name = format!("[internal] resolve {NAME} source stage {shown}");
        self.date_of(&source, name).await
    }

    /// What the only ADD of a stage fetches.
    fn only_source(&self, stage: &Stage) -> Result<State> {
        let mut env = self.globals.clone();
        env.remove(NAME);
        if self.lex.process_word(&stage.base, &Vars(&env))?.text != SCRATCH {
            return Err(text(format!("{NAME} stage must use FROM scratch")).into());
        }
        let one = || text(format!("{NAME} stage must contain exactly one remote ADD"));
        let mut source = None;
        for instruction in &stage.instructions {
            match &instruction.kind {
                Kind::Arg(arg) => {
                    for arg in &arg.args {
                        if let Some(given) = self.build_args.get(&*arg.name) {
                            env.set(&arg.name, given);
                        } else if let Some(default) = &arg.default {
                            let value = self.lex.process_word(default, &Vars(&env))?.text;
                            env.set(&arg.name, &value);
                        }
                    }
                }
                Kind::Add(_) if source.is_some() => return Err(one().into()),
                Kind::Add(add) => source = Some(self.added(add, &env)?),
                other => {
                    // Compat: the name as written, which is how upstream finds it too.
                    let _ = other;
                    return Err(text(format!(
                        "{NAME} stage does not meet source-only requirements: unsupported {} instruction",
                        instruction.keyword
                    ))
                    .into());
                }
            }
        }
        source.ok_or_else(|| one().into())
    }

    fn added(&self, add: &Add, env: &Env) -> Result<State> {
        let [path] = add.sources.paths.as_slice() else {
            return Err(one_source().into());
        };
        if !add.sources.files.is_empty() {
            return Err(one_source().into());
        }
        let path = self.lex.process_word(path, &Vars(env))?.text;
        let checksum = self.lex.process_word(&add.checksum, &Vars(env))?.text;
        if let Some(git) = git_ref::parse(&path) {
            let git = git?;
            if !git.could_be_path {
                let mut source = git.source();
                source.keep_git_dir =
                    add.keep_git_dir == Some(true) || git.keep_git_dir == Some(true);
                source.checksum = if checksum.is_empty() {
                    git.checksum.clone()
                } else {
                    checksum
                };
                return Ok(source.state(OpOptions::default()));
            }
        } else if is_http(&path) {
            if !checksum.is_empty() {
                check_digest(&checksum)?;
            }
            let filename = url_file(&path);
            let source = Http {
                url: path,
                filename,
                checksum,
                ..Http::default()
            };
            return Ok(source.state(OpOptions::default()));
        }
        Err(text(format!(
            "{NAME} stage source must be a single HTTP(S) or Git ADD"
        ))
        .into())
    }

    async fn date_of(&self, source: &State, log_name: String) -> Result<Option<i64>> {
        let definition = self.files.marshal(source)?;
        let graph = llb::Parsed::parse(&definition).map(|mut parsed| {
            let sources = parsed.sources_mut();
            let ops: Vec<pb::SourceOp> = sources
                .filter_map(|op| match &op.op {
                    Some(pb::op::Op::Source(source)) => Some(source.clone()),
                    _ => None,
                })
                .collect();
            ops
        });
        let ops = graph.map_err(|err| Error::Text(err.to_string()))?;
        let [op] = ops.as_slice() else {
            return Ok(None);
        };
        let bridge = &self.files.bridge;
        self.files.note_other();
        let facts = bridge
            .resolve_source(&self.files.cx, op.clone(), &log_name)
            .await?;
        let committed = facts.git_commit.as_deref().and_then(commit_time);
        match committed.or(facts.last_modified) {
            None if is_http(&op.identifier) => self.date_of_archive(source, op).await,
            known => Ok(known),
        }
    }

    /// The date of the newest file in an archive whose server says nothing.
    async fn date_of_archive(&self, source: &State, op: &pb::SourceOp) -> Result<Option<i64>> {
        let Some(name) = op.attrs.get(llb::attr::HTTP_FILENAME) else {
            return Ok(None);
        };
        let files = self.files;
        let fetched = files.solve(source, false).await?;
        let start = files.read(fetched.as_ref(), name, Some((0, 1024))).await?;
        if !is_archive(&start) {
            return Ok(None);
        }
        let copy = Copy {
            src: crate::paths::rooted(name).into_owned(),
            dest: "/".to_owned(),
            unpack: true,
            ..Copy::default()
        };
        let op = FileOp::new().copy_with(source, copy);
        let options = OpOptions::named(format!("[internal] unpack {name} for {NAME}"));
        let Some(tree) = files
            .solve(&State::scratch().file(op, options), false)
            .await?
        else {
            return Ok(None);
        };
        let mut newest = None;
        let mut dirs = vec![String::new()];
        while let Some(dir) = dirs.pop() {
            for entry in tree.read_dir(&files.cx, &format!("{dir}/"), "").await? {
                match entry.mode & GO_TYPE {
                    GO_DIR => dirs.push(format!("{dir}/{}", entry.path)),
                    0 => newest = newest.max(Some(entry.mod_time.div_euclid(1_000_000_000))),
                    _ => {}
                }
            }
        }
        Ok(newest)
    }
}

/// What a mode as Go counts it says of the type: nothing for a regular file.
const GO_TYPE: u32 = 0x8f28_0000;
const GO_DIR: u32 = 1 << 31;

fn one_source() -> Error {
    text(format!(
        "{NAME} stage must contain exactly one remote ADD source"
    ))
}

/// When a commit object says it was committed.
fn commit_time(object: &[u8]) -> Option<i64> {
    let text = String::from_utf8_lossy(object);
    let line = text
        .lines()
        .take_while(|line| !line.is_empty())
        .find_map(|line| line.strip_prefix("committer "))?;
    let mut words = line.rsplit(' ');
    let _zone = words.next()?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committer_tells_the_time() {
        let object = b"tree 00\nauthor A <a@b> 1 +0000\ncommitter B C <b@c> 1700000000 +0100\n\ncommitter x 5 +0\n";
        assert_eq!(commit_time(object), Some(1_700_000_000));
    }
}
