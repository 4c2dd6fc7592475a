//! Writing graphs.
//!
//! A [`State`] is a tree that some op will make, together with how the next command runs on it (environment, working
//! directory, user, …). States are values: every call yields a new one and the old one stays what it was.
//! [`State::marshal`] writes the graph down byte for byte as stock clients do.
//!
//! ```
//! use llb::build::{Defaults, FileOp, Image, Local, Options, Run, State};
//!
//! let context = Local::new("context").state(Options::default());
//! let tree = Image::new("docker.io/library/alpine:latest")
//!     .state(Options::default())
//!     .run(Run::shell("apk add git"), Options::named("install git"))
//!     .root()
//!     .file(FileOp::new().copy(&context, "/src", "/src"), Options::default());
//! let definition = tree.marshal(&Defaults::default())?;
//! # let _: State = tree;
//! # assert_eq!(definition.def.len(), 5);
//! # Ok::<(), llb::Error>(())
//! ```
//!
//! # Several stages
//!
//! What one stage made is copied into the next; the compiler stays behind. Stages that do not need each other run side
//! by side. What a command may write to besides its root is a [`Mount`]; a cache outlives the build.
//!
//! ```
//! use llb::build::{Defaults, FileOp, Image, Local, Mount, Options, Run, State};
//! use proto::pb::CacheSharingOpt;
//!
//! let sources = Local::new("context").state(Options::named("sources"));
//! let compile = |program: &str| {
//!     let cache = Mount::cache("/root/.cache", "compiler", CacheSharingOpt::Locked);
//!     Image::new("docker.io/library/rust:1")
//!         .state(Options::default())
//!         .env("CARGO_NET_OFFLINE", "true")
//!         .dir("/src")
//!         .run(
//!             Run::args(["cargo", "build", "--bin", program])
//!                 .mount(Mount::readonly("/src", &sources))
//!                 .mount(cache),
//!             Options::named(format!("compile {program}")),
//!         )
//!         .root()
//! };
//! let image = FileOp::new()
//!     .copy(&compile("server"), "/target/server", "/bin/")
//!     .copy(&compile("client"), "/target/client", "/bin/");
//! let image = State::scratch().file(image, Options::named("programs"));
//! let definition = image.marshal(&Defaults::default())?;
//! // An image, a directory, two commands, a file op, and the op that says which of them is wanted.
//! assert_eq!(definition.def.len(), 6);
//! # Ok::<(), llb::Error>(())
//! ```
//!
//! # Merging trees
//!
//! A merge lays trees on top of each other without copying; a later tree hides what an earlier one has at the same path.
//!
//! ```
//! use llb::build::{Defaults, FileOp, Image, Options, State};
//!
//! let base = Image::new("docker.io/library/alpine:3").state(Options::default());
//! let layer = |path: &str, text: &'static str| {
//!     let file = FileOp::new().mkfile(path, 0o644, text.as_bytes());
//!     State::scratch().file(file, Options::default())
//! };
//! let merged = State::merge(
//!     &[base, layer("/etc/motd", "welcome\n"), layer("/etc/issue", "kiln\n")],
//!     Options::named("configured"),
//! );
//! let definition = merged.marshal(&Defaults::default())?;
//! assert_eq!(definition.def.len(), 5);
//! # Ok::<(), llb::Error>(())
//! ```
//!
//! # Graphs that make graphs
//!
//! Sources of any kind go by [`State::source`]; a step may itself write a definition, which [`State::build`] builds in
//! its place; [`State::passthrough`] names trees anew, so that what is built on them is cached apart.
//!
//! ```
//! use std::collections::BTreeMap;
//!
//! use llb::build::{Defaults, Image, Mount, Options, Run, State};
//!
//! let attrs = BTreeMap::from([("git.keepgitdir".to_owned(), "true".to_owned())]);
//! let repository = State::source(
//!     "git://example.com/project.git",
//!     attrs,
//!     vec![llb::caps::SOURCE_GIT],
//!     Options::default(),
//! );
//! let planned = Image::new("example.com/planner:1")
//!     .state(Options::default())
//!     .run(
//!         Run::shell("plan /src > /out/graph")
//!             .mount(Mount::readonly("/src", &repository))
//!             .mount(Mount::bind("/out", &State::scratch())),
//!         Options::named("plan"),
//!     )
//!     .output("/out")
//!     .expect("the command can write to it");
//! let built = planned.build("graph", Options::named("what was planned"));
//! let named = State::passthrough("nightly", &[built], Options::default());
//! let definition = named[0].marshal(&Defaults::default())?;
//! assert_eq!(definition.def.len(), 6);
//! # Ok::<(), llb::Error>(())
//! ```

mod capsets;
mod env;
mod exec;
mod file;
mod marshal;
mod node;
mod options;
mod quick;
mod source;
mod source_map;
mod state;
mod wire;
mod written;

pub use env::Env;
pub use exec::{Mount, MountKind, Ran, Run, Secret, Ssh};
pub use file::{Action, Chown, Copy, FileOp, Mode, User};
pub use marshal::Defaults;
pub use node::{Later, Output};
pub use options::Options;
pub use source::{Git, Http, Image, Local, OciLayout, ResolveMode, json_list};
pub use source_map::{Location, SourceMap};
pub use state::State;
