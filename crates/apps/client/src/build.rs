//! A build as its client sees it: what is offered, what is asked for, what comes back.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prost::Message as _;
use proto::control::{
    CacheOptions, CacheOptionsEntry, Exporter, SolveRequest, StatusRequest, StatusResponse,
};
use proto::pb;
use session::client::secrets::SecretSource;
use session::client::ssh::Agent;
use session::client::{Client as Offer, DockerConfig};
use tasks::Cx;
use tokio::time::Instant;

use crate::caches::Caches;
use crate::{Client, Error, Output};

/// How long the progress of a build may be silent once the build has ended.
const SILENCE: Duration = Duration::from_secs(5);

/// A cache to import from or to export to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheOption {
    /// `registry`, `local`, `inline`, …
    pub kind: String,
    /// Options.
    pub attrs: BTreeMap<String, String>,
}

/// A build to run.
#[derive(Debug, Clone, Default)]
pub struct Build {
    /// Id of the build; random when empty.
    pub id: String,
    /// LLB, or
    pub definition: Option<pb::Definition>,
    /// a frontend.
    pub frontend: String,
    /// Options of the frontend.
    pub attrs: BTreeMap<String, String>,
    /// Directories the daemon may read, by name.
    pub locals: BTreeMap<String, PathBuf>,
    /// Folders laid out as OCI says that the daemon may read, by name.
    pub oci_layouts: BTreeMap<String, PathBuf>,
    /// Outputs.
    pub outputs: Vec<Output>,
    /// Caches to fill.
    pub cache_exports: Vec<CacheOption>,
    /// Caches to use.
    pub cache_imports: Vec<CacheOption>,
    /// What steps may do beyond the ordinary.
    pub entitlements: Vec<String>,
    /// Rules for the sources of the build.
    pub source_policy: Option<proto::sourcepolicy::Policy>,
    /// Secrets by id.
    pub secrets: BTreeMap<String, SecretSource>,
    /// Agents by id.
    pub ssh: BTreeMap<String, Agent>,
    /// Credentials for registries.
    pub credentials: Option<DockerConfig>,
    /// Fetch tokens here, so that passwords do not leave this machine.
    pub fetch_tokens: bool,
}

/// What a build answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Response {
    /// ExporterResponse.
    pub exporter: BTreeMap<String, String>,
}

impl AsRef<Self> for Response {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl Build {
    /// A build by a frontend.
    pub fn frontend(name: &str) -> Self {
        Self {
            frontend: name.to_owned(),
            ..Self::default()
        }
    }

    /// A build of LLB.
    pub fn definition(definition: pb::Definition) -> Self {
        Self {
            definition: Some(definition),
            ..Self::default()
        }
    }

    /// Lets the daemon read a directory.
    #[must_use]
    pub fn local(mut self, name: &str, dir: impl Into<PathBuf>) -> Self {
        self.locals.insert(name.to_owned(), dir.into());
        self
    }

    /// Sets an option of the frontend.
    #[must_use]
    pub fn attr(mut self, key: &str, value: &str) -> Self {
        self.attrs.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Adds an output.
    #[must_use]
    pub fn output(mut self, output: Output) -> Self {
        self.outputs.push(output);
        self
    }

    fn request(&self, session: &str) -> SolveRequest {
        let entry = |option: &CacheOption| CacheOptionsEntry {
            r#type: option.kind.clone(),
            attrs: option.attrs.clone(),
        };
        SolveRequest {
            r#ref: self.id.clone(),
            definition: self.definition.clone(),
            session: session.to_owned(),
            frontend: self.frontend.clone(),
            frontend_attrs: self.attrs.clone(),
            cache: Some(CacheOptions {
                exports: self.cache_exports.iter().map(entry).collect(),
                imports: self.cache_imports.iter().map(entry).collect(),
                ..CacheOptions::default()
            }),
            entitlements: self.entitlements.clone(),
            source_policy: self.source_policy.clone(),
            exporters: self
                .outputs
                .iter()
                .map(|output| Exporter {
                    r#type: output.kind.clone(),
                    attrs: output.attrs.clone(),
                })
                .collect(),
            ..SolveRequest::default()
        }
    }
}

impl Client {
    /// Runs a build. `progress` gets every message of its progress stream, in order, before this returns.
    pub async fn build(
        &self,
        cx: &Cx,
        build: Build,
        progress: impl FnMut(StatusResponse),
    ) -> Result<Response, Error> {
        self.run(cx, build, progress, |request| self.solve(request))
            .await
    }

    /// Offers what the build needs of this machine while `solve` has it built, and records layouts it left.
    pub(crate) async fn run<T: AsRef<Response>>(
        &self,
        cx: &Cx,
        mut build: Build,
        progress: impl FnMut(StatusResponse),
        solve: impl AsyncFnOnce(SolveRequest) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if build.id.is_empty() {
            build.id = identity::new_id();
        }
        let caches = Caches::prepare(&mut build)?;
        let offer = offer(&build, &caches).await?;
        let request = build.request(offer.id());
        let session_cx = Cx::root();
        let session = offer.run(&session_cx, self.channel());
        let work = async {
            let heard = Mutex::new(Instant::now());
            let progress = heeded(progress, &heard);
            let follow = self.follow(&build.id, progress);
            let (solved, followed) = both(solve(request), follow, &heard).await;
            // A build that failed has said why; that its progress is missing then is no second problem.
            let response = solved?;
            followed?;
            Ok(response)
        };
        let result: Result<T, Error> = tokio::select! {
            result = cx.run(work) => match result {
                Ok(result) => result,
                Err(cancelled) => Err(diagnostics::Failure::cancelled(&*cancelled.cause).into()),
            },
            ended = session => Err(match ended {
                Err(err) => err.into(),
                Ok(()) => diagnostics::Failure::cancelled("the session with the daemon ended").into(),
            }),
        };
        session_cx.cancel("done");
        let response = result?;
        for dir in build.outputs.iter().filter_map(Output::layout) {
            crate::layout::record(dir, response.as_ref())?;
        }
        caches.record(response.as_ref())?;
        Ok(response)
    }

    pub(crate) async fn solve(&self, request: SolveRequest) -> Result<Response, Error> {
        let size = request.encoded_len();
        if size > session::MAX_MESSAGE {
            return Err(Error::TooLarge { size });
        }
        let response = self.control().solve(request).await?;
        Ok(Response {
            exporter: response.into_inner().exporter_response,
        })
    }

    /// Follows the progress of a build to its end.
    pub async fn follow(
        &self,
        id: &str,
        mut progress: impl FnMut(StatusResponse),
    ) -> Result<(), Error> {
        let request = StatusRequest {
            r#ref: id.to_owned(),
        };
        let mut stream = self.control().status(request).await?.into_inner();
        while let Some(message) = stream.message().await? {
            progress(message);
        }
        Ok(())
    }
}

/// Notes when something was heard.
fn heeded(
    mut progress: impl FnMut(StatusResponse),
    heard: &Mutex<Instant>,
) -> impl FnMut(StatusResponse) {
    move |status| {
        *heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        progress(status);
    }
}

/// How a build ended, and how its progress did. A build that was refused before it began may have no progress, and
/// a daemon may wait for it for ever.
async fn both<T>(
    solve: impl Future<Output = Result<T, Error>>,
    follow: impl Future<Output = Result<(), Error>>,
    heard: &Mutex<Instant>,
) -> (Result<T, Error>, Result<(), Error>) {
    let (mut solve, mut follow) = (std::pin::pin!(solve), std::pin::pin!(follow));
    let solved = tokio::select! {
        solved = &mut solve => solved,
        followed = &mut follow => return (solve.await, followed),
    };
    let ended = Instant::now();
    loop {
        let last = *heard.lock().unwrap_or_else(PoisonError::into_inner);
        let until = last.max(ended) + SILENCE;
        if until <= Instant::now() {
            return (solved, Ok(()));
        }
        tokio::select! {
            biased;
            followed = &mut follow => return (solved, followed),
            () = tokio::time::sleep_until(until) => {}
        }
    }
}

/// What the daemon may call back for.
async fn offer(build: &Build, caches: &Caches) -> Result<Offer, Error> {
    for (name, path) in &build.locals {
        let local = |source: std::io::Error| Error::Local {
            name: name.clone(),
            path: path.clone(),
            source: fstree::Cause(source),
        };
        let meta = std::fs::metadata(path).map_err(local)?;
        if !meta.is_dir() {
            return Err(local(std::io::ErrorKind::NotADirectory.into()));
        }
    }
    let mut offer = Offer::new("").await;
    crate::output::add_services(&mut offer, build, caches)?;
    Ok(offer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_refused_build_does_not_wait_for_its_progress() {
        let refused = async { Err::<(), _>(Error::TwoLayouts) };
        let start = Instant::now();
        let (solved, followed) = both(refused, std::future::pending(), &Mutex::new(start)).await;
        assert!(matches!(solved, Err(Error::TwoLayouts)));
        assert!(followed.is_ok());
        assert_eq!(start.elapsed().as_secs(), SILENCE.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn progress_is_followed_while_there_is_some() {
        let start = Instant::now();
        let heard = Mutex::new(start);
        let count = std::cell::Cell::new(0);
        let mut progress = heeded(|_| count.set(count.get() + 1), &heard);
        let follow = async {
            for _ in 0..4 {
                tokio::time::sleep(SILENCE - Duration::from_secs(1)).await;
                progress(StatusResponse::default());
            }
            Ok(())
        };
        let (solved, followed) = both(async { Ok(1) }, follow, &heard).await;
        assert!(matches!((solved, followed), (Ok(1), Ok(()))));
        assert_eq!((count.get(), start.elapsed().as_secs()), (4, 16));
    }
}
