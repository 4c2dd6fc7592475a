//! The client library: connects to a daemon, offers it what a build needs of this machine, and runs builds.
//!
//! ```no_run
//! # async fn example() -> Result<(), client::Error> {
//! use client::{Build, Client, ConnectOptions};
//!
//! let client = Client::connect("unix:///run/buildkit/buildkitd.sock", &ConnectOptions::default()).await?;
//! let build = Build::frontend("dockerfile.v0").local("context", ".").local("dockerfile", ".");
//! let cx = tasks::Cx::root();
//! let response = client.build(&cx, build, |_progress| {}).await?;
//! println!("{:?}", response.exporter);
//! # Ok(())
//! # }
//! ```

mod ask;
mod build;
mod caches;
mod connect;
mod error;
mod explain;
mod history;
mod layout;
mod output;
mod usage;
mod verify;

pub use ask::Answer;
pub use build::{Build, CacheOption, Response};
pub use connect::{Client, ConnectOptions, TlsOptions};
pub use error::Error;
pub use output::{Destination, Output};
pub use proto::control::{PruneRequest, StatusResponse, UsageRecord};
pub use proto::explain::ExplainedStep;
pub use proto::verify::{Counts as VerifyCounts, Problem as VerifyProblem};
pub use session::client::DockerConfig;
pub use session::client::secrets::SecretSource;
pub use session::client::ssh::{Agent, KeyError, Keyring};
