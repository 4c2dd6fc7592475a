//! A walk that shows only what include, exclude and follow lists leave.
//!
//! Rules, with the numbers of the transfer protocol's description: entries that the includes match and the excludes do
//! not are shown (6.2); directories that are not shown themselves are entered unless nothing below can match, and shown
//! before the first entry below them that is.

use std::collections::VecDeque;
use std::io;

use fault::{Class, Classify};

use crate::error::Error;
use crate::follow::{follow_paths, without_nested};
use crate::path;
use crate::patterns::{Hits, PatternError, Patterns};
use crate::root::Root;
use crate::walk::{Entry, Walk};

/// What a client asks to see of a tree. Empty lists mean no filter of that kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilterOptions {
    /// Show only what matches these.
    pub include: Vec<String>,
    /// Do not show what matches these.
    pub exclude: Vec<String>,
    /// Paths, links on the way included, that are added to `include`.
    pub follow: Vec<String>,
}

/// Why a filter cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// One of the include patterns.
    #[error("invalid includepatterns: [{}]", patterns.join(" "))]
    Include {
        /// The whole list.
        patterns: Vec<String>,
        /// What is wrong.
        source: PatternError,
    },
    /// One of the exclude patterns.
    #[error("invalid excludepatterns: [{}]", patterns.join(" "))]
    Exclude {
        /// The whole list.
        patterns: Vec<String>,
        /// What is wrong.
        source: PatternError,
    },
    /// The tree could not be read while links were followed.
    #[error(transparent)]
    Tree(#[from] Error),
}

impl Classify for FilterError {
    fn class(&self) -> Class {
        match self {
            Self::Include { .. } | Self::Exclude { .. } => Class::User,
            Self::Tree(err) => err.class(),
        }
    }
}

/// Include and exclude lists, ready for matching.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    include: Option<Patterns>,
    exclude: Option<Patterns>,
    plain_includes: bool,
    plain_exceptions: bool,
}

impl Filter {
    /// The filter for `root`. Links named by `follow` are read from it now.
    pub fn new(root: &Root, options: &FilterOptions) -> Result<Self, FilterError> {
        let mut include = options.include.clone();
        if !options.follow.is_empty()
            && let Some(followed) = follow_paths(root, &options.follow)?
        {
            include.extend(followed);
            include = without_nested(include).unwrap_or_default();
        }
        Self::from_lists(include, options.exclude.clone())
    }

    /// The filter of two lists, without anything to follow.
    pub fn from_lists(include: Vec<String>, exclude: Vec<String>) -> Result<Self, FilterError> {
        let included = match Patterns::new(&include) {
            Ok(patterns) => (!include.is_empty()).then_some(patterns),
            Err(source) => {
                return Err(FilterError::Include {
                    patterns: include,
                    source,
                });
            }
        };
        let excluded = match Patterns::new(&exclude) {
            Ok(patterns) => (!exclude.is_empty()).then_some(patterns),
            Err(source) => {
                return Err(FilterError::Exclude {
                    patterns: exclude,
                    source,
                });
            }
        };
        Ok(Self {
            plain_includes: included.as_ref().is_none_or(|list| list.is_plain(false)),
            plain_exceptions: excluded.as_ref().is_none_or(|list| list.is_plain(true)),
            include: included,
            exclude: excluded,
        })
    }

    /// Whether everything is shown.
    pub fn is_empty(&self) -> bool {
        self.include.is_none() && self.exclude.is_none()
    }

    /// Whether the entry at this relative path passes, looked at on its own.
    pub fn allows(&self, path: &[u8]) -> bool {
        self.include.as_ref().is_none_or(|list| list.matches(path))
            && !self.exclude.as_ref().is_some_and(|list| list.matches(path))
    }

    /// What the lists say of an entry whose directory got `parent`.
    pub fn judge(&self, path: &[u8], is_dir: bool, parent: Option<&Verdict>) -> Verdict {
        let mut verdict = Verdict {
            shown: true,
            enter: is_dir,
            ..Verdict::default()
        };
        if let Some(list) = &self.include {
            let hits = parent.and_then(|parent| parent.include.as_ref());
            let (matched, hits) = list.matches_below(path, hits);
            verdict.include = Some(hits);
            if !matched {
                verdict.shown = false;
                if self.plain_includes && !list.could_match_below(false, path) {
                    verdict.enter = false;
                    return verdict;
                }
            }
        }
        if let Some(list) = &self.exclude {
            let hits = parent.and_then(|parent| parent.exclude.as_ref());
            let (matched, hits) = list.matches_below(path, hits);
            verdict.exclude = Some(hits);
            if matched {
                verdict.shown = false;
                if self.plain_exceptions && !list.could_match_below(true, path) {
                    verdict.enter = false;
                }
            }
        }
        verdict
    }

    /// A walk through the part of `root` that passes.
    pub fn walk(&self, root: &Root) -> Result<FilteredWalk<'_>, Error> {
        Ok(FilteredWalk {
            filter: self,
            walk: Walk::new(root)?,
            parents: Vec::new(),
            ready: VecDeque::new(),
        })
    }
}

/// What a filter says of one entry.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// The entry itself passes.
    pub shown: bool,
    /// It is a directory and something below may pass.
    pub enter: bool,
    include: Option<Hits>,
    exclude: Option<Hits>,
}

/// The walk of a [`Filter`]; same order as [`Walk`].
#[derive(Debug)]
pub struct FilteredWalk<'a> {
    filter: &'a Filter,
    walk: Walk,
    /// Directories above the current entry that were entered.
    parents: Vec<Above>,
    ready: VecDeque<Entry>,
}

#[derive(Debug)]
struct Above {
    entry: Entry,
    verdict: Verdict,
    shown: bool,
}

impl FilteredWalk<'_> {
    fn take(&mut self, entry: Entry) {
        let at = path::bytes(&entry.path);
        self.leave(at);
        let parent = self.parents.last().map(|above| &above.verdict);
        let is_dir = entry.meta.is_dir();
        let verdict = self.filter.judge(at, is_dir, parent);
        if is_dir && !verdict.enter {
            self.walk.skip_dir();
        }
        let shown = verdict.shown;
        if shown {
            for above in self.parents.iter_mut().filter(|above| !above.shown) {
                above.shown = true;
                self.ready.push_back(above.entry.clone());
            }
            self.ready.push_back(entry.clone());
        }
        if verdict.enter {
            self.parents.push(Above {
                entry,
                verdict,
                shown,
            });
        }
    }

    /// Forgets directories that `path` is not in.
    fn leave(&mut self, path: &[u8]) {
        while let Some(above) = self.parents.last() {
            let inside = path
                .strip_prefix(path::bytes(&above.entry.path))
                .is_some_and(|rest| rest.starts_with(b"/"));
            if inside {
                break;
            }
            self.parents.pop();
        }
    }

    /// Whether an error may be passed over: no permission, on something that would not be shown.
    fn forgives(&self, err: &Error) -> bool {
        if err.kind() != io::ErrorKind::PermissionDenied {
            return false;
        }
        let at = path::relative(&err.path);
        match self.parents.last() {
            // The directory that was entered last could not be opened.
            Some(above) if above.entry.path == at => !above.verdict.shown,
            parent => {
                let parent = parent.map(|above| &above.verdict);
                !self.filter.judge(path::bytes(&at), false, parent).shown
            }
        }
    }
}

impl Iterator for FilteredWalk<'_> {
    type Item = Result<Entry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.ready.pop_front() {
                return Some(Ok(entry));
            }
            match self.walk.next()? {
                Ok(entry) => self.take(entry),
                Err(err) if self.forgives(&err) => {}
                Err(err) => return Some(Err(err)),
            }
        }
    }
}
