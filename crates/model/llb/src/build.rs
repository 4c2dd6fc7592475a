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

mod env;
mod exec;
mod file;
mod marshal;
mod node;
mod options;
mod source;
mod source_map;
mod state;
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
