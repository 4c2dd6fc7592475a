//! Where the build takes its files from: the Dockerfile, the ignore file, the main context.
//!
//! Which of client directory, git, http or frontend input the main context is, is decided once, when the files are
//! opened. Named contexts are in `named`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use frontend::{Bridge, Reference, ResolveOptions, ResolvedImage, SolveRequest};
use llb::build::{Copy, Defaults, FileOp, Http, Local, Options as OpOptions, SourceMap, State};
use oci::Platform;
use parking_lot::Mutex;
use proto::pb;
use tasks::Cx;
use tokio::sync::OnceCell;

use crate::error::{Locate, Result, text};
use crate::explain::Directory;
use crate::memo::Asked;
use crate::options::Options;
use crate::{git_ref, paths};

pub(crate) const IGNORE_FILE: &str = ".dockerignore";
const DEFAULT_NAME: &str = "Dockerfile";
const MAIN: &str = "context";
/// Name of the file an http context is downloaded to.
const HTTP_FILE: &str = "context";

/// The files of one build request.
pub(crate) struct Files {
    pub(crate) cx: Cx,
    pub(crate) bridge: Arc<dyn Bridge>,
    pub(crate) options: Options,
    pub(crate) inputs: BTreeMap<String, pb::Definition>,
    session: String,
    main: Main,
    ignore: OnceCell<IgnoreFile>,
    /// Images that were looked up.
    pub(crate) resolved: Mutex<HashMap<ImageKey, Arc<OnceCell<ResolvedImage>>>>,
    /// The same with what they are; `None` as soon as more was asked than images.
    asked: Mutex<Option<Vec<Asked>>>,
}

/// The ignore file of the main context.
struct IgnoreFile {
    name: String,
    data: Bytes,
    patterns: Vec<String>,
}

/// Name and platform of an image.
type ImageKey = (String, Option<Platform>);

/// What is known about the main context before anything is read.
#[derive(Default)]
struct Main {
    /// Unless it is a directory of the client.
    context: Option<State>,
    /// Where the Dockerfile is, unless in a directory of the client.
    dockerfile: Option<State>,
    /// The op behind a remote context.
    source: Option<State>,
    filename: String,
    /// What the client calls the directory with the Dockerfile.
    local_name: String,
}

/// The Dockerfile as read.
pub(crate) struct Source {
    pub(crate) map: Arc<SourceMap>,
    /// The op that loaded it; warnings go there.
    pub(crate) vertex: String,
    /// `<filename>.dockerignore`, if there is one.
    ignore: Option<Bytes>,
}

impl Files {
    pub(crate) async fn open(
        cx: &Cx,
        bridge: Arc<dyn Bridge>,
        options: Options,
        inputs: BTreeMap<String, pb::Definition>,
        session: &str,
    ) -> Result<Self> {
        let mut files = Self {
            cx: cx.clone(),
            bridge,
            options,
            inputs,
            session: session.to_owned(),
            main: Main::default(),
            ignore: OnceCell::new(),
            resolved: Mutex::default(),
            asked: Mutex::new(Some(Vec::new())),
        };
        files.main = files.find_main().await?;
        Ok(files)
    }

    async fn find_main(&self) -> Result<Main> {
        let given = |key: &str, default: &str| {
            self.options
                .attributes
                .get(key)
                .map_or(default, String::as_str)
                .to_owned()
        };
        let value = given(&given("contextkey", MAIN), "");
        let mut main = Main {
            filename: given("filename", DEFAULT_NAME),
            local_name: given("dockerfilekey", "dockerfile"),
            ..Main::default()
        };
        let forced_local = self.options.attributes.contains_key("dockerfilekey");
        let remote_file;
        if let Some(git) = git_ref::parse(&value) {
            let state = self.git_context(&git?, &value, true);
            main.source = Some(state.clone());
            main.context = Some(state.clone());
            remote_file = Some(state);
        } else if value.starts_with("http://") || value.starts_with("https://") {
            let state = self.http_context(&value, &mut main).await?;
            main.context = Some(state.clone());
            remote_file = Some(state);
        } else {
            remote_file = self.input(&main.local_name)?;
            main.context = self.input(MAIN)?;
        }
        if !forced_local {
            main.dockerfile = remote_file;
        }
        if let Some(dir) = self.options.attributes.get("contextsubdir") {
            main.context = main.context.map(|context| {
                let copy = Copy {
                    src: paths::rooted(dir).into_owned(),
                    dest: "/".to_owned(),
                    contents_only: true,
                    ..Copy::default()
                };
                let op = FileOp::new().copy_with(&context, copy);
                State::scratch().file(op, OpOptions::default())
            });
        }
        Ok(main)
    }

    /// A git context; `main` ones obey some build arguments.
    pub(crate) fn git_context(&self, git: &git_ref::GitRef, value: &str, main: bool) -> State {
        let mut source = git.source();
        let keep = self
            .options
            .attribute("build-arg:BUILDKIT_CONTEXT_KEEP_GIT_DIR");
        let keep = main && fault::truth(keep) == Some(true);
        source.keep_git_dir = keep || git.keep_git_dir == Some(true);
        source.checksum.clone_from(&git.checksum);
        if main
            && !self
                .options
                .attribute("build-arg:SOURCE_DATE_EPOCH")
                .is_empty()
        {
            "commit".clone_into(&mut source.mtime);
        }
        if !git.mtime.is_empty() {
            source.mtime.clone_from(&git.mtime);
        }
        source.state(OpOptions::named(format!(
            "[internal] load git source {value}"
        )))
    }

    async fn http_context(&self, url: &str, main: &mut Main) -> Result<State> {
        let source = Http {
            url: url.to_owned(),
            filename: HTTP_FILE.to_owned(),
            ..Http::default()
        };
        let state = source.state(OpOptions::named("[internal] load remote build context"));
        main.source = Some(state.clone());
        let reference = self
            .solve(&state, false)
            .await
            .context("failed to resolve httpcontext")?;
        let start = self
            .read(reference.as_ref(), HTTP_FILE, Some((0, 1024)))
            .await
            .context("failed to read downloaded context")?;
        if !is_archive(&start) {
            HTTP_FILE.clone_into(&mut main.filename);
            return Ok(state);
        }
        let copy = Copy {
            src: format!("/{HTTP_FILE}"),
            dest: "/".to_owned(),
            unpack: true,
            ..Copy::default()
        };
        Ok(State::scratch().file(FileOp::new().copy_with(&state, copy), OpOptions::default()))
    }

    /// A frontend input as a tree.
    pub(crate) fn input(&self, name: &str) -> Result<Option<State>> {
        let state = self.inputs.get(name).map(State::from_definition);
        state
            .transpose()
            .map_err(|err| text(err.to_string()).into())
    }

    /// The session that has a local directory.
    pub(crate) fn session_of(&self, local: &str) -> String {
        let key = format!("local-sessionid:{local}");
        self.options
            .attributes
            .get(&key)
            .unwrap_or(&self.session)
            .clone()
    }

    /// Notes that an image was looked up.
    pub(crate) fn note_asked(&self, name: &str, options: ResolveOptions, found: &ResolvedImage) {
        if let Some(list) = self.asked.lock().as_mut() {
            list.push(Asked {
                name: name.to_owned(),
                options,
                found: found.clone(),
            });
        }
    }

    /// Notes that something else was asked for, which is not remembered.
    pub(crate) fn note_other(&self) {
        *self.asked.lock() = None;
    }

    /// The images that were looked up, if nothing else was.
    pub(crate) fn asked(&self) -> Option<Vec<Asked>> {
        self.asked.lock().clone()
    }

    /// The session of the caller.
    pub(crate) fn session(&self) -> &str {
        &self.session
    }

    /// The op behind a remote main context.
    pub(crate) fn main_source(&self) -> Option<&State> {
        self.main.source.as_ref()
    }

    /// Solves a tree that only loads something.
    pub(crate) async fn solve(
        &self,
        state: &State,
        evaluate: bool,
    ) -> Result<Option<Arc<dyn Reference>>> {
        let definition = self.marshal(state)?;
        self.solve_definition(definition, evaluate).await
    }

    pub(crate) fn marshal(&self, state: &State) -> Result<pb::Definition> {
        let platform = self.options.build_platform.clone();
        let defaults = Defaults {
            platform,
            ..Defaults::default()
        };
        state
            .marshal(&defaults)
            .map_err(|err| text(err.to_string()).into())
    }

    async fn solve_definition(
        &self,
        definition: pb::Definition,
        evaluate: bool,
    ) -> Result<Option<Arc<dyn Reference>>> {
        let request = SolveRequest {
            definition: Some(definition),
            evaluate,
            ..SolveRequest::default()
        };
        let outcome = self.bridge.solve(&self.cx, request).await?;
        Ok(outcome.single.flatten())
    }

    /// Reads a file of a result.
    pub(crate) async fn read(
        &self,
        reference: Option<&Arc<dyn Reference>>,
        path: &str,
        range: Option<(i64, i64)>,
    ) -> Result<Bytes> {
        match reference {
            Some(reference) => Ok(reference.read_file(&self.cx, path, range).await?),
            None => Err(text(format!("open {path}: no such file or directory")).into()),
        }
    }

    /// Loads the Dockerfile.
    pub(crate) async fn dockerfile(&self) -> Result<Source> {
        let main = &self.main;
        let name = main.filename.as_str();
        let lower = (paths::base(name) == DEFAULT_NAME)
            .then(|| paths::join(&paths::dir(name), &DEFAULT_NAME.to_lowercase()));
        let state = match &main.dockerfile {
            Some(state) => state.clone(),
            None => {
                let mut follow = vec![name.to_owned(), format!("{name}{IGNORE_FILE}")];
                follow.extend(lower.clone());
                let local = Local {
                    session: self.session_of(&main.local_name),
                    follow_paths: follow,
                    shared_key_hint: main.local_name.clone(),
                    without_differ: true,
                    ..Local::new(&main.local_name)
                };
                local.state(OpOptions::named(format!(
                    "[internal] load build definition from {name}"
                )))
            }
        };
        let definition = self.marshal(&state)?;
        let vertex = llb::head(&definition).ok().flatten();
        let reference = self
            .solve_definition(definition.clone(), false)
            .await
            .context("failed to read dockerfile")?;
        let reference = reference.as_ref();
        let mut data = self.read(reference, name, None).await;
        if data.is_err()
            && let Some(lower) = &lower
            && let Ok(found) = self.read(reference, lower, None).await
        {
            data = Ok(found);
        }
        let data = data.context("failed to read dockerfile")?;
        let ignore = self
            .read(reference, &format!("{name}{IGNORE_FILE}"), None)
            .await
            .ok();
        let map = SourceMap {
            definition: Some(definition),
            filename: name.to_owned(),
            language: "Dockerfile".to_owned(),
            data,
        };
        let vertex = vertex.map_or_else(String::new, |digest| digest.as_str().to_owned());
        Ok(Source {
            map: Arc::new(map),
            vertex,
            ignore,
        })
    }

    /// The patterns of the ignore file of the main context; read once.
    pub(crate) async fn ignored(&self, source: &Source) -> Result<&[String]> {
        if self.main.context.is_some() {
            return Ok(&[]);
        }
        let file = self
            .ignore
            .get_or_try_init(async || -> Result<IgnoreFile> {
                let (data, name) = match &source.ignore {
                    Some(data) => (
                        data.clone(),
                        format!("{}{IGNORE_FILE}", source.map.filename),
                    ),
                    None => (self.load_ignore_file().await?, IGNORE_FILE.to_owned()),
                };
                let patterns = fstree::ignore::parse(&data)
                    .map_err(|err| text(err.to_string()))
                    .with_context(|| format!("failed parsing {name}"))?;
                Ok(IgnoreFile {
                    name,
                    data,
                    patterns,
                })
            })
            .await?;
        Ok(&file.patterns)
    }

    /// The main context as a directory of the client, if it is one; known once the ignore file was read.
    pub(crate) fn main_directory(&self) -> Option<Directory> {
        if self.main.context.is_some() {
            return None;
        }
        let ignore = self.ignore.get()?;
        Some(Directory {
            local: MAIN.to_owned(),
            session: self.session_of(MAIN),
            ignore_name: ignore.name.clone(),
            ignore: ignore.data.clone(),
        })
    }

    async fn load_ignore_file(&self) -> Result<Bytes> {
        let local = Local {
            session: self.session_of(MAIN),
            follow_paths: vec![IGNORE_FILE.to_owned()],
            shared_key_hint: format!("{MAIN}-{IGNORE_FILE}"),
            without_differ: true,
            ..Local::new(MAIN)
        };
        let state = local.state(OpOptions::named(format!("[internal] load {IGNORE_FILE}")));
        let reference = self.solve(&state, false).await?;
        // Most contexts have none; that is no reason to fail.
        Ok(self
            .read(reference.as_ref(), IGNORE_FILE, None)
            .await
            .unwrap_or_default())
    }

    /// The main context, reduced to `follow` if it is a directory of the client.
    pub(crate) async fn context(&self, source: &Source, follow: Vec<String>) -> Result<State> {
        if let Some(context) = &self.main.context {
            return Ok(context.clone());
        }
        let exclude = self
            .ignored(source)
            .await
            .context("failed to read dockerignore patterns")?;
        let local = Local {
            session: self.session_of(MAIN),
            exclude: exclude.to_vec(),
            follow_paths: follow,
            shared_key_hint: MAIN.to_owned(),
            ..Local::new(MAIN)
        };
        Ok(local.state(OpOptions::named("[internal] load build context")))
    }
}

/// Whether a file that starts like this is one of the archives a context can come in.
pub(crate) fn is_archive(start: &[u8]) -> bool {
    const MAGIC: [&[u8]; 3] = [b"BZh", b"\x1f\x8b\x08", b"\xfd7zXZ\0"];
    MAGIC.iter().any(|magic| start.starts_with(magic)) || is_tar(start)
}

/// Whether the first block is a tar header whose checksum is right.
fn is_tar(start: &[u8]) -> bool {
    let Some(header) = start.get(..512) else {
        return false;
    };
    let field = String::from_utf8_lossy(&header[148..156]);
    let field = field.trim_matches(['\0', ' ']);
    let Ok(expected) = u64::from_str_radix(field, 8) else {
        return false;
    };
    let blank = 148..156;
    let sum: u64 = header
        .iter()
        .enumerate()
        .map(|(at, &byte)| {
            if blank.contains(&at) {
                u64::from(b' ')
            } else {
                u64::from(byte)
            }
        })
        .sum();
    sum == expected
}
