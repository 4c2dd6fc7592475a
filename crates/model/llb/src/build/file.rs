//! File operations: copy, make, remove.

use bytes::Bytes;
use proto::pb;

use super::node::Output;
use super::state::State;
use crate::caps;

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
    pub(super) fn inputs(&self) -> Vec<&Output> {
        let copies = self.actions.iter().rev().filter_map(|action| match action {
            Action::Copy { from, .. } => from.output(),
            _ => None,
        });
        self.base.iter().chain(copies).collect()
    }

    pub(super) fn into_inputs(self) -> Vec<Output> {
        let copies = self.actions.into_iter().filter_map(|action| match action {
            Action::Copy { from, .. } => from.output().cloned(),
            _ => None,
        });
        self.base.into_iter().chain(copies).collect()
    }

    /// The op; `input` yields the number of an input, adding it if it is new.
    pub(super) fn to_op(&self, mut input: impl FnMut(&Output) -> i64) -> pb::FileOp {
        let base = self.base.as_ref().map_or(-1, &mut input);
        let secondary: Vec<i64> = self
            .actions
            .iter()
            .map(|action| match action {
                Action::Copy { from, .. } => from.output().map_or(-1, &mut input),
                _ => -1,
            })
            .collect();
        let inputs = secondary
            .iter()
            .chain([&base])
            .max()
            .map_or(0, |highest| highest + 1);
        let last = self.actions.len().saturating_sub(1);
        let actions = self.actions.iter().zip(secondary).enumerate();
        pb::FileOp {
            actions: actions
                .map(|(at, (action, secondary))| pb::FileAction {
                    input: if at == 0 {
                        base
                    } else {
                        inputs + at as i64 - 1
                    },
                    secondary_input: secondary,
                    output: if at == last { 0 } else { -1 },
                    action: Some(action.to_pb(base)),
                })
                .collect(),
        }
    }

    /// Compat: upstream records nothing but the base capability, whatever a copy uses.
    pub(super) fn caps(&self) -> Vec<&'static str> {
        vec![caps::FILE_BASE]
    }
}

impl Action {
    fn to_pb(&self, base: i64) -> pb::file_action::Action {
        use pb::file_action::Action as Pb;
        match self {
            Self::Copy { copy, .. } => Pb::Copy(copy.to_pb(base)),
            Self::Mkdir {
                path,
                mode,
                parents,
                owner,
                timestamp,
            } => Pb::Mkdir(pb::FileActionMkDir {
                path: path.clone(),
                mode: bits(*mode),
                make_parents: *parents,
                owner: chown(owner.as_ref(), base),
                timestamp: timestamp.unwrap_or(-1),
            }),
            Self::Mkfile {
                path,
                mode,
                data,
                owner,
                timestamp,
            } => Pb::Mkfile(pb::FileActionMkFile {
                path: path.clone(),
                mode: bits(*mode),
                data: data.clone(),
                owner: chown(owner.as_ref(), base),
                timestamp: timestamp.unwrap_or(-1),
            }),
            Self::Rm {
                path,
                allow_not_found,
                wildcard,
            } => Pb::Rm(pb::FileActionRm {
                path: path.clone(),
                allow_not_found: *allow_not_found,
                allow_wildcard: *wildcard,
            }),
            Self::Symlink {
                target,
                path,
                owner,
                timestamp,
            } => Pb::Symlink(pb::FileActionSymlink {
                oldpath: target.clone(),
                newpath: path.clone(),
                owner: chown(owner.as_ref(), base),
                timestamp: timestamp.unwrap_or(-1),
            }),
        }
    }
}

impl Copy {
    fn to_pb(&self, base: i64) -> pb::FileActionCopy {
        let (mode, mode_str) = match &self.mode {
            None => (-1, String::new()),
            Some(Mode::Bits(mode)) => (bits(*mode), String::new()),
            Some(Mode::Symbolic(text)) => (0, text.clone()),
        };
        pb::FileActionCopy {
            src: self.src.clone(),
            dest: self.dest.clone(),
            owner: chown(self.owner.as_ref(), base),
            mode,
            follow_symlink: self.follow_symlink,
            dir_copy_contents: self.contents_only,
            attempt_unpack_docker_compatibility: self.unpack,
            create_dest_path: self.create_dest,
            allow_wildcard: self.wildcard,
            allow_empty_wildcard: self.empty_wildcard,
            timestamp: self.timestamp.unwrap_or(-1),
            include_patterns: self.include.clone(),
            exclude_patterns: self.exclude.clone(),
            always_replace_existing_dest_paths: self.replace_existing,
            mode_str,
            required_paths: self.required.clone(),
        }
    }
}

fn bits(mode: u32) -> i32 {
    mode.cast_signed()
}

fn chown(owner: Option<&Chown>, base: i64) -> Option<pb::ChownOpt> {
    let user = |user: &Option<User>| {
        user.as_ref().map(|user| pb::UserOpt {
            user: Some(match user {
                User::Id(id) => pb::user_opt::User::ById(*id),
                User::Name(name) => {
                    let name = name.clone();
                    pb::user_opt::User::ByName(pb::NamedUserOpt { name, input: base })
                }
            }),
        })
    };
    owner.map(|owner| pb::ChownOpt {
        user: user(&owner.user),
        group: user(&owner.group),
    })
}
