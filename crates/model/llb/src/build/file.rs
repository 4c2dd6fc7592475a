//! File operations: copy, make, remove.

use bytes::Bytes;

use super::node::Output;
use super::state::State;
use super::wire::Wire;
use crate::{Error, caps};

/// Changes to the files of one tree, done in order, one layer in the end.
#[derive(Debug, Clone, Default)]
pub struct FileOp {
    actions: Vec<Action>,
}

/// One change. Paths are absolute.
#[derive(Debug, Clone)]
pub enum Action {
    /// Takes files from another tree.
    Copy {
        /// Where they come from.
        from: State,
        /// How.
        copy: Copy,
    },
    /// Makes a directory.
    Mkdir {
        /// Where.
        path: String,
        /// Permission bits.
        mode: u32,
        /// Make parents, and accept that it exists.
        parents: bool,
        /// Whose it is.
        owner: Option<Chown>,
        /// Nanoseconds since the epoch.
        timestamp: Option<i64>,
    },
    /// Writes a file.
    Mkfile {
        /// Where.
        path: String,
        /// Permission bits.
        mode: u32,
        /// What.
        data: Bytes,
        /// Whose it is.
        owner: Option<Chown>,
        /// Nanoseconds since the epoch.
        timestamp: Option<i64>,
    },
    /// Removes.
    Rm {
        /// What.
        path: String,
        /// It may be missing.
        allow_not_found: bool,
        /// `path` is a pattern.
        wildcard: bool,
    },
    /// Makes a symbolic link.
    Symlink {
        /// What it says.
        target: String,
        /// Where it is.
        path: String,
        /// Whose it is.
        owner: Option<Chown>,
        /// Nanoseconds since the epoch.
        timestamp: Option<i64>,
    },
}

/// How files are copied. The default is the plainest copy there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Copy {
    /// Path in the source tree.
    pub src: String,
    /// Path in the tree.
    pub dest: String,
    /// New owner.
    pub owner: Option<Chown>,
    /// New mode.
    pub mode: Option<Mode>,
    /// Follow a link that `src` is.
    pub follow_symlink: bool,
    /// Copy what a directory has, not the directory.
    pub contents_only: bool,
    /// Unpack archives.
    pub unpack: bool,
    /// Make the parents of `dest`.
    pub create_dest: bool,
    /// `src` is a pattern.
    pub wildcard: bool,
    /// The pattern may match nothing.
    pub empty_wildcard: bool,
    /// Nanoseconds since the epoch.
    pub timestamp: Option<i64>,
    /// Only these.
    pub include: Vec<String>,
    /// Not these.
    pub exclude: Vec<String>,
    /// Replace what is of another kind.
    pub replace_existing: bool,
    /// `include` must match these.
    pub required: Vec<String>,
}

/// Permission bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// As a number.
    Bits(u32),
    /// `u+x,g-w`
    Symbolic(String),
}

/// User and group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chown {
    /// The user.
    pub user: Option<User>,
    /// The group.
    pub group: Option<User>,
}

/// A user or group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// By number.
    Id(u32),
    /// By name, looked up in the tree that is changed.
    Name(String),
}

impl FileOp {
    /// No change yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a change.
    pub fn then(mut self, action: Action) -> Self {
        if self.actions.is_empty() {
            // Most have one, and a list would grow to four.
            self.actions.reserve_exact(1);
        }
        self.actions.push(action);
        self
    }

    /// Copies `src` of another tree to `dest`, as `cp -a` would: directories as such, no patterns.
    pub fn copy(self, from: &State, src: &str, dest: &str) -> Self {
        let copy = Copy {
            src: src.to_owned(),
            dest: dest.to_owned(),
            ..Copy::default()
        };
        self.then(Action::Copy {
            from: from.clone(),
            copy,
        })
    }

    /// Copies as told.
    pub fn copy_with(self, from: &State, copy: Copy) -> Self {
        self.then(Action::Copy {
            from: from.clone(),
            copy,
        })
    }

    /// Makes a directory, with its parents.
    pub fn mkdir(self, path: &str, mode: u32) -> Self {
        let path = path.to_owned();
        self.then(Action::Mkdir {
            path,
            mode,
            parents: true,
            owner: None,
            timestamp: None,
        })
    }

    /// Writes a file.
    pub fn mkfile(self, path: &str, mode: u32, data: impl Into<Bytes>) -> Self {
        let (path, data) = (path.to_owned(), data.into());
        self.then(Action::Mkfile {
            path,
            mode,
            data,
            owner: None,
            timestamp: None,
        })
    }

    /// Removes what is there.
    pub fn rm(self, path: &str) -> Self {
        self.then(Action::Rm {
            path: path.to_owned(),
            allow_not_found: false,
            wildcard: false,
        })
    }

    /// Makes a symbolic link at `path` that says `target`.
    pub fn symlink(self, target: &str, path: &str) -> Self {
        let (target, path) = (target.to_owned(), path.to_owned());
        self.then(Action::Symlink {
            target,
            path,
            owner: None,
            timestamp: None,
        })
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }

    pub(super) fn on(self, base: &State) -> Actions {
        Actions {
            base: base.output().cloned(),
            actions: self.actions,
        }
    }
}

/// A file op bound to the tree it changes.
pub(super) struct Actions {
    base: Option<Output>,
    actions: Vec<Action>,
}

impl Actions {
    /// Base first, then the sources of copies from the newest action to the oldest.
    pub(super) fn inputs(&self) -> impl Iterator<Item = &Output> {
        let copies = self.actions.iter().rev().filter_map(|action| match action {
            Action::Copy { from, .. } => from.output(),
            _ => None,
        });
        self.base.iter().chain(copies)
    }

    pub(super) fn put_inputs(self, stack: &mut Vec<Output>) {
        let copies = self.actions.into_iter().filter_map(|action| match action {
            Action::Copy { from, .. } => from.into_output(),
            _ => None,
        });
        stack.extend(self.base.into_iter().chain(copies));
    }

    /// Writes the op; `input` yields the number of an input, adding it if it is new.
    pub(super) fn write(
        &self,
        wire: &mut Wire,
        mut input: impl FnMut(&Output) -> i64,
    ) -> Result<(), Error> {
        let Some(last) = self.actions.len().checked_sub(1) else {
            return Err(Error::Build("action is required"));
        };
        let base = self.base.as_ref().map_or(-1, &mut input);
        let mut source = |action: &Action| match action {
            Action::Copy { from, .. } => from.output().map_or(-1, &mut input),
            _ => -1,
        };
        let sources = self.actions.iter().map(&mut source);
        let inputs = sources.fold(base, i64::max) + 1;
        for (at, action) in self.actions.iter().enumerate() {
            let source = source(action);
            wire.message(2, |wire| {
                // What an action made is counted behind the inputs.
                let before = at.checked_sub(1).map(|before| inputs + before as i64);
                wire.int(1, before.unwrap_or(base));
                wire.int(2, source);
                wire.int(3, if at == last { 0 } else { -1 });
                action.write(wire, base);
            });
        }
        Ok(())
    }

    /// Compat: upstream records nothing but the base capability, whatever a copy uses.
    pub(super) fn caps(&self) -> &'static [&'static str] {
        &[caps::FILE_BASE]
    }
}

impl Action {
    fn write(&self, wire: &mut Wire, base: i64) {
        match self {
            Self::Copy { copy, .. } => wire.message(4, |wire| copy.write(wire, base)),
            Self::Mkfile {
                path,
                mode,
                data,
                owner,
                timestamp,
            } => wire.message(5, |wire| {
                wire.text(1, path);
                wire.int(2, bits(*mode));
                wire.bytes(3, data);
                chown(wire, 4, owner.as_ref(), base);
                wire.int(5, timestamp.unwrap_or(-1));
            }),
            Self::Mkdir {
                path,
                mode,
                parents,
                owner,
                timestamp,
            } => wire.message(6, |wire| {
                wire.text(1, path);
                wire.int(2, bits(*mode));
                wire.flag(3, *parents);
                chown(wire, 4, owner.as_ref(), base);
                wire.int(5, timestamp.unwrap_or(-1));
            }),
            Self::Rm {
                path,
                allow_not_found,
                wildcard,
            } => wire.message(7, |wire| {
                wire.text(1, path);
                wire.flag(2, *allow_not_found);
                wire.flag(3, *wildcard);
            }),
            Self::Symlink {
                target,
                path,
                owner,
                timestamp,
            } => wire.message(8, |wire| {
                wire.text(1, target);
                wire.text(2, path);
                chown(wire, 3, owner.as_ref(), base);
                wire.int(4, timestamp.unwrap_or(-1));
            }),
        }
    }
}

impl Copy {
    fn write(&self, wire: &mut Wire, base: i64) {
        let (mode, symbolic) = match &self.mode {
            None => (-1, ""),
            Some(Mode::Bits(mode)) => (bits(*mode), ""),
            Some(Mode::Symbolic(text)) => (0, text.as_str()),
        };
        wire.text(1, &self.src);
        wire.text(2, &self.dest);
        chown(wire, 3, self.owner.as_ref(), base);
        wire.int(4, mode);
        wire.flag(5, self.follow_symlink);
        wire.flag(6, self.contents_only);
        wire.flag(7, self.unpack);
        wire.flag(8, self.create_dest);
        wire.flag(9, self.wildcard);
        wire.flag(10, self.empty_wildcard);
        wire.int(11, self.timestamp.unwrap_or(-1));
        wire.list(12, &self.include);
        wire.list(13, &self.exclude);
        wire.flag(14, self.replace_existing);
        wire.text(15, symbolic);
        wire.list(16, &self.required);
    }
}

/// Bits as the signed number of the message.
fn bits(mode: u32) -> i64 {
    i64::from(mode.cast_signed())
}

fn chown(wire: &mut Wire, tag: u32, owner: Option<&Chown>, base: i64) {
    let Some(owner) = owner else {
        return;
    };
    wire.message(tag, |wire| {
        for (tag, user) in [(1, &owner.user), (2, &owner.group)] {
            match user {
                None => {}
                Some(User::Id(id)) => wire.message(tag, |wire| wire.present(2, u64::from(*id))),
                Some(User::Name(name)) => wire.message(tag, |wire| {
                    wire.message(1, |wire| {
                        wire.text(1, name);
                        wire.int(2, base);
                    });
                }),
            }
        }
    });
}
