//! Says more about a path that a `COPY`, `ADD` or mount does not find.
//!
//! The step that fails knows a checksum could not be made; whoever wrote the Dockerfile wants to know whether an ignore
//! file took the path away, and by which line, or else what is there instead. A directory of the client only has the
//! paths that were asked for, so it is listed once more, names only, and only around the path in question.

mod ignored;
mod nearest;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf as _, Bytes};
use diagnostics::{Detail, Failure};
use frontend::{Bridge, Explain, Reference, SolveRequest};
use llb::build::{Defaults, Local, Options as OpOptions, State};
use prost::Message as _;
use tasks::Cx;

use self::ignored::Rules;
use self::nearest::Listing;

/// How long a failed build waits for the explanation.
const PATIENCE: Duration = Duration::from_secs(5);
/// Where the daemon puts the listing of a directory of which only the names are wanted.
const LISTING: &str = ".fsutil-metadata";

/// Paths that instructions take from somewhere, each from the root of where it is taken.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// One behind the other: a large file has many, and hardly anybody asks for one.
    text: String,
    paths: Vec<Place>,
    /// Where they are taken from, by number. What has none is taken from the main context.
    origins: BTreeMap<usize, From>,
}

#[derive(Debug)]
struct Place {
    /// First line of the instruction.
    line: u32,
    /// Where in the text the path ends.
    end: usize,
    from: Option<usize>,
}

impl Taken {
    /// Adds a path that the instruction at `line` takes.
    pub(crate) fn note(&mut self, line: u32, path: &str, from: Option<usize>) {
        self.text.push_str(path);
        let end = self.text.len();
        self.paths.push(Place { line, end, from });
    }

    /// Asks what the numbers stand for.
    pub(crate) fn name_origins(&mut self, name: impl Fn(usize) -> From) {
        let used = self.paths.iter().filter_map(|place| place.from);
        let used: BTreeSet<usize> = used.collect();
        self.origins = used.into_iter().map(|at| (at, name(at))).collect();
    }

    fn iter(&self) -> impl Iterator<Item = (u32, &str, &From)> {
        let mut start = 0;
        self.paths.iter().map(move |place| {
            let path = &self.text[start..place.end];
            start = place.end;
            let from = place.from.and_then(|at| self.origins.get(&at));
            (place.line, path, from.unwrap_or(&From::Context))
        })
    }
}

/// Where a path is taken from.
#[derive(Debug, Clone)]
pub(crate) enum From {
    /// The main context, if it is a directory.
    Context,
    /// A directory under a name.
    Directory(Arc<Directory>),
    /// A tree of the build.
    Tree(State),
}

/// A directory of the client, and what its ignore file takes away.
#[derive(Debug, Clone, Default)]
pub(crate) struct Directory {
    pub(crate) local: String,
    pub(crate) session: String,
    /// What the ignore file is called.
    pub(crate) ignore_name: String,
    pub(crate) ignore: Bytes,
}

/// What is known of the paths of one build.
pub(crate) struct Paths {
    pub(crate) bridge: Arc<dyn Bridge>,
    pub(crate) defaults: Defaults,
    pub(crate) context: Option<Directory>,
    pub(crate) taken: Arc<Taken>,
}

impl std::fmt::Debug for Paths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Paths").finish_non_exhaustive()
    }
}

#[async_trait]
impl Explain for Paths {
    async fn explain(&self, cx: &Cx, failure: Failure) -> Failure {
        let Some((path, from)) = self.missing(&failure) else {
            return failure;
        };
        match tokio::time::timeout(PATIENCE, self.hint(cx, path, from)).await {
            Ok(Some(hint)) => failure.and(format_args!(" ({hint})")),
            _ => failure,
        }
    }
}

impl Paths {
    /// The path that was not found, if that is what went wrong.
    fn missing(&self, failure: &Failure) -> Option<(&str, &From)> {
        let lines: Vec<i32> = failure
            .details()
            .iter()
            .filter_map(|detail| match detail {
                Detail::Source { ranges, .. } => ranges.first()?.start,
                _ => None,
            })
            .map(|start| start.line)
            .collect();
        let mut taken = self.taken.iter();
        taken.find_map(|(number, path, from)| {
            let here = |&line: &i32| i64::from(line) == i64::from(number);
            let quoted = || dockerfile_syntax::quote::go(path);
            let missing = lines.iter().any(here)
                && failure
                    .text()
                    .ends_with(&format!("{}: not found", quoted()));
            missing.then_some((path, from))
        })
    }

    async fn hint(&self, cx: &Cx, path: &str, from: &From) -> Option<String> {
        match (from, &self.context) {
            (From::Tree(state), _) => self.in_tree(cx, state, path).await,
            (From::Directory(directory), _) => self.in_directory(cx, directory, path).await,
            (From::Context, Some(directory)) => self.in_directory(cx, directory, path).await,
            (From::Context, None) => None,
        }
    }

    async fn in_directory(&self, cx: &Cx, directory: &Directory, path: &str) -> Option<String> {
        let rules = Rules::read(&directory.ignore);
        let name = &directory.ignore_name;
        let listing = self.list(cx, directory, path).await;
        let exists = listing.as_ref().is_none_or(|listing| listing.has(path));
        if exists {
            if let Some(rule) = rules.excluding(path) {
                let (line, text) = (rule.line, &rule.text);
                return Some(format!("line {line} of {name} excludes it: {text}"));
            }
            let inside = listing.as_ref().and_then(|listing| listing.first_in(path));
            if let Some(rule) = inside.and_then(|inside| rules.excluding(inside)) {
                let (line, text) = (rule.line, &rule.text);
                return Some(format!(
                    "line {line} of {name} excludes what is in it: {text}"
                ));
            }
            // It is there, and no rule takes it away: something else went wrong.
            return None;
        }
        listing.map(|listing| listing.nearest(path))
    }

    /// Names in the directory: all on the way to `path`, and what is in it.
    async fn list(&self, cx: &Cx, directory: &Directory, path: &str) -> Option<Listing> {
        let local = Local {
            session: directory.session.clone(),
            exclude: nearest::elsewhere(path),
            shared_key_hint: format!("{}-listing", directory.local),
            metadata_only: true,
            ..Local::new(&directory.local)
        };
        let state = local.state(OpOptions::named(format!(
            "[internal] list {}",
            directory.local
        )));
        let tree = self.solve(cx, &state).await?;
        let mut data = tree.read_file(cx, LISTING, None).await.ok()?;
        let mut listing = Listing::default();
        while data.remaining() >= 4 {
            let length = usize::try_from(data.get_u32_le()).ok()?;
            if data.remaining() < length {
                return None;
            }
            let stat = proto::fsutil::Stat::decode(data.split_to(length)).ok()?;
            listing.add(&stat.path);
        }
        Some(listing)
    }

    async fn in_tree(&self, cx: &Cx, state: &State, path: &str) -> Option<String> {
        let tree = self.solve(cx, state).await?;
        let mut listing = Listing::default();
        for dir in nearest::parents(path) {
            // The first that is there tells where the path ends.
            let Ok(entries) = tree.read_dir(cx, dir, "").await else {
                continue;
            };
            let dir = dir.trim_end_matches('/');
            listing.add(dir);
            for entry in entries {
                listing.add(&format!("{dir}/{}", entry.path));
            }
            return Some(listing.nearest(path));
        }
        None
    }

    async fn solve(&self, cx: &Cx, state: &State) -> Option<Arc<dyn Reference>> {
        let definition = state.marshal(&self.defaults).ok()?;
        let request = SolveRequest {
            definition: Some(definition),
            ..SolveRequest::default()
        };
        self.bridge.solve(cx, request).await.ok()?.single.flatten()
    }
}
