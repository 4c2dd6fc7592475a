//! Says more about a path that a `COPY`, `ADD` or mount does not find.
//!
//! The step that fails knows a checksum could not be made; whoever wrote the Dockerfile wants to know whether an ignore
//! file took the path away, and by which line, or else what is there instead. A directory of the client only has the
//! paths that were asked for, so it is listed once more, names only, and only around the path in question.

mod ignored;
mod nearest;

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

/// A path that an instruction takes from somewhere.
#[derive(Debug, Clone)]
pub(crate) struct Taken {
    /// First line of the instruction.
    pub(crate) line: u32,
    /// From the root of where it is taken.
    pub(crate) path: String,
    pub(crate) from: From,
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
    pub(crate) taken: Arc<[Taken]>,
}

impl std::fmt::Debug for Paths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Paths").finish_non_exhaustive()
    }
}

#[async_trait]
impl Explain for Paths {
    async fn explain(&self, cx: &Cx, failure: Failure) -> Failure {
        let Some(taken) = self.missing(&failure) else {
            return failure;
        };
        match tokio::time::timeout(PATIENCE, self.hint(cx, taken)).await {
            Ok(Some(hint)) => failure.and(format_args!(" ({hint})")),
            _ => failure,
        }
    }
}

impl Paths {
    /// The path that was not found, if that is what went wrong.
    fn missing(&self, failure: &Failure) -> Option<&Taken> {
        let lines: Vec<i32> = failure
            .details()
            .iter()
            .filter_map(|detail| match detail {
                Detail::Source { ranges, .. } => ranges.first()?.start,
                _ => None,
            })
            .map(|start| start.line)
            .collect();
        self.taken.iter().find(|taken| {
            lines
                .iter()
                .any(|&line| i64::from(line) == i64::from(taken.line))
                && {
                    let quoted = dockerfile_syntax::quote::go(&taken.path);
                    failure.text().ends_with(&format!("{quoted}: not found"))
                }
        })
    }

    async fn hint(&self, cx: &Cx, taken: &Taken) -> Option<String> {
        match (&taken.from, &self.context) {
            (From::Tree(state), _) => self.in_tree(cx, state, &taken.path).await,
            (From::Directory(directory), _) => self.in_directory(cx, directory, &taken.path).await,
            (From::Context, Some(directory)) => self.in_directory(cx, directory, &taken.path).await,
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
