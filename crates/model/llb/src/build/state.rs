//! A tree that a build will make, and what can be made of it.

use std::sync::{Arc, LazyLock};

use oci::Platform;
use proto::pb;

use super::env::Env;
use super::exec::{Ran, Run};
use super::file::FileOp;
use super::marshal::{self, Defaults};
use super::node::{Kind, Later, Node, Output};
use super::options::Options;
use crate::Error;

/// A tree, and how the next command runs on it.
#[derive(Debug, Clone)]
pub struct State {
    output: Option<Output>,
    settings: Arc<Settings>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    pub(super) env: Env,
    pub(super) dir: Arc<str>,
    pub(super) user: Arc<str>,
    pub(super) hostname: Arc<str>,
    pub(super) network: pb::NetMode,
    pub(super) security: pb::SecurityMode,
    pub(super) platform: Option<Arc<Platform>>,
}

impl Default for State {
    fn default() -> Self {
        // States are made and thrown away all the time while a graph is built.
        static PLAIN: LazyLock<Arc<Settings>> = LazyLock::new(Arc::default);
        Self {
            output: None,
            settings: PLAIN.clone(),
        }
    }
}

impl State {
    /// The empty tree.
    pub fn scratch() -> Self {
        Self::default()
    }

    /// A tree that will be known before the graph is written.
    pub fn later() -> (Self, Later) {
        let (later, output) = Later::new();
        (
            Self {
                output: Some(output),
                ..Self::default()
            },
            later,
        )
    }

    pub(super) fn of(node: Arc<Node>, index: u32) -> Self {
        Self {
            output: Some(Output::new(node, index)),
            ..Self::default()
        }
    }

    pub(super) fn made_by(&self, kind: Kind, options: Options) -> Self {
        let node = Arc::new(Node { kind, options });
        Self {
            output: Some(Output::new(node, 0)),
            settings: self.settings.clone(),
        }
    }

    /// A source op by identifier and attributes; the typed sources of this module are more convenient.
    pub fn source(
        identifier: impl Into<String>,
        attrs: std::collections::BTreeMap<String, String>,
        caps: Vec<&'static str>,
        options: Options,
    ) -> Self {
        let platform = options.platform.clone();
        let kind = Kind::Source {
            identifier: identifier.into(),
            attrs,
            caps,
        };
        let state = Self::scratch().made_by(kind, options);
        match platform {
            Some(platform) => state.change(|settings| settings.platform = Some(platform)),
            None => state,
        }
    }

    /// What makes the tree; `None` for scratch.
    pub fn output(&self) -> Option<&Output> {
        self.output.as_ref()
    }

    /// The same, taken out.
    pub(super) fn into_output(self) -> Option<Output> {
        self.output
    }

    /// The same settings on another tree.
    pub fn with_output_of(&self, other: &Self) -> Self {
        Self {
            output: other.output.clone(),
            settings: self.settings.clone(),
        }
    }

    /// Whether this is the empty tree.
    pub fn is_scratch(&self) -> bool {
        self.output.is_none()
    }

    pub(super) fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    fn change(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(Arc::make_mut(&mut self.settings));
        self
    }

    /// Sets a variable.
    pub fn env(self, key: &str, value: &str) -> Self {
        self.change(|settings| settings.env.set(key, value))
    }

    /// All variables.
    pub fn env_list(&self) -> &Env {
        &self.settings.env
    }

    /// Sets the working directory, as is.
    pub fn dir(self, dir: &str) -> Self {
        self.change(|settings| settings.dir = dir.into())
    }

    /// The working directory; empty when never set.
    pub fn current_dir(&self) -> &str {
        &self.settings.dir
    }

    /// Sets the user.
    pub fn user(self, user: &str) -> Self {
        self.change(|settings| settings.user = user.into())
    }

    /// Sets the host name.
    pub fn hostname(self, name: &str) -> Self {
        self.change(|settings| settings.hostname = name.into())
    }

    /// Sets the network mode.
    pub fn network(self, mode: pb::NetMode) -> Self {
        self.change(|settings| settings.network = mode)
    }

    /// Sets the security mode.
    pub fn security(self, mode: pb::SecurityMode) -> Self {
        self.change(|settings| settings.security = mode)
    }

    /// Sets the platform.
    pub fn platform(self, platform: Platform) -> Self {
        self.change(|settings| settings.platform = Some(Arc::new(platform)))
    }

    /// The platform, if one was set.
    pub fn current_platform(&self) -> Option<&Platform> {
        self.settings.platform.as_deref()
    }

    /// Runs a command on the tree.
    pub fn run(&self, run: Run, options: Options) -> Ran {
        run.on(self, options)
    }

    /// Changes files of the tree.
    pub fn file(&self, op: FileOp, options: Options) -> Self {
        self.made_by(Kind::File(op.on(self)), options)
    }

    /// Lays trees on top of each other; empty ones do not count. Settings are those of the first.
    pub fn merge(states: &[Self], options: Options) -> Self {
        let inputs: Vec<Output> = states
            .iter()
            .filter_map(|state| state.output.clone())
            .collect();
        let first = states.first().cloned().unwrap_or_default();
        match inputs.as_slice() {
            [] => Self {
                output: None,
                settings: first.settings,
            },
            [only] => Self {
                output: Some(only.clone()),
                settings: first.settings,
            },
            _ => first.made_by(Kind::Merge(inputs), options),
        }
    }

    /// What `upper` has that `lower` has not.
    pub fn diff(lower: &Self, upper: &Self, options: Options) -> Self {
        if upper.is_scratch() && lower.is_scratch() {
            return Self::scratch();
        }
        let kind = Kind::Diff {
            lower: lower.output.clone(),
            upper: upper.output.clone(),
        };
        Self::scratch().made_by(kind, options)
    }

    /// What the definition in a file of this tree makes: a graph that a step of the build wrote. Without a name the file
    /// is `buildkit.llb.definition`. Scratch builds nothing.
    pub fn build(&self, filename: &str, options: Options) -> Self {
        let Some(definition) = self.output.clone() else {
            return Self::scratch();
        };
        let filename = filename.to_owned();
        let kind = Kind::Build {
            definition,
            filename,
        };
        Self::scratch().made_by(kind, options)
    }

    /// The same trees as outputs of one op whose name counts in the cache keys of what uses them. Empty trees cannot be
    /// handed on.
    pub fn passthrough(id: &str, states: &[Self], options: Options) -> Vec<Self> {
        let trees: Vec<Output> = states.iter().filter_map(|it| it.output.clone()).collect();
        let count = u32::try_from(trees.len()).unwrap_or(u32::MAX);
        let id = id.to_owned();
        let kind = Kind::Passthrough { id, trees };
        let node = Arc::new(Node { kind, options });
        (0..count)
            .map(|index| Self::of(node.clone(), index))
            .collect()
    }

    /// Writes the graph down. Scratch is a definition without ops.
    pub fn marshal(&self, defaults: &Defaults) -> Result<pb::Definition, Error> {
        marshal::marshal(self, defaults)
    }
}
