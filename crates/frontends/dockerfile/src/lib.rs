//! The frontend that builds from Dockerfiles: `dockerfile.v0`.
//!
//! A request goes through these steps, in upstream's order: attributes are parsed (`options`), the Dockerfile and the
//! contexts are found (`files`, `named`), the file is turned into LLB once per platform (`lower`), the LLB is solved,
//! and the results get their metadata (`answer`). What the words of a Dockerfile mean as text is `dockerfile-syntax`'s
//! business; nothing here reads bytes into instructions.
//!
//! Nothing here runs steps or touches files of the machine: all of that is asked of the [`frontend::Bridge`].

mod answer;
mod error;
mod explain;
mod files;
mod git_ref;
mod image;
mod lower;
mod memo;
mod named;
mod options;
mod paths;
mod sbom;
mod subrequest;

use std::sync::Arc;

use async_trait::async_trait;
use diagnostics::{Detail, Failure};
use dockerfile_syntax::lint::{Config, Finding, Linter};
use frontend::{Bridge, Frontend, Outcome, Request, SolveRequest, Warning};
use futures::future::join_all;
use llb::build::SourceMap;
use oci::Platform;
use tasks::Cx;

use crate::answer::{Built, answer};
use crate::error::{Error, Locate, Result, Trouble, ranges, text};
use crate::files::{Files, Source};
use crate::lower::{Lowered, Wish, lower};
use crate::memo::Memo;
use crate::options::Options;

/// `dockerfile.v0`. Remembers what it lowered lately.
#[derive(Default)]
pub struct Dockerfile {
    memo: Memo,
}

#[async_trait]
impl Frontend for Dockerfile {
    fn name(&self) -> &'static str {
        "dockerfile.v0"
    }

    async fn solve(
        &self,
        cx: &Cx,
        bridge: Arc<dyn Bridge>,
        request: Request,
    ) -> std::result::Result<Outcome, Failure> {
        let mut map = None;
        solve(&self.memo, cx, bridge, request, &mut map)
            .await
            .map_err(|trouble| trouble.into_failure(map.as_ref()))
    }
}

/// `map` is set as soon as the Dockerfile is read, for errors that have a place in it.
async fn solve(
    memo: &Memo,
    cx: &Cx,
    bridge: Arc<dyn Bridge>,
    request: Request,
    map: &mut Option<Arc<SourceMap>>,
) -> Result<Outcome> {
    let options = Options::parse(&request, bridge.as_ref())?;
    let missing = options.missing_cap.clone();
    if let Some(cap) = missing.as_ref().filter(|cap| !cap.may_forward) {
        return Err(Error::FrontendCap(cap.name.clone()).into());
    }
    let files = Files::open(cx, bridge, options, request.inputs, &request.session).await?;
    let source = files.dockerfile().await?;
    *map = Some(source.map.clone());
    if let Some(outcome) = forward(&files, &source).await? {
        return Ok(outcome);
    }
    if let Some(cap) = missing {
        return Err(Error::FrontendCap(cap.name).into());
    }
    if let Some(name) = files.options.attributes.get("requestid") {
        return subrequest::answer(&files, &source, name)
            .await
            .map_err(Trouble::unplaced);
    }
    build(memo, &files, &source).await
}

/// Passes the request on if the file or the client names another frontend and there is a way to run one.
async fn forward(files: &Files, source: &Source) -> Result<Option<Outcome>> {
    const ARGUMENT: &str = "build-arg:BUILDKIT_SYNTAX";
    if files.options.attributes.contains_key("cmdline") {
        return Ok(None);
    }
    let argument = files.options.attributes.get(ARGUMENT);
    let directive = dockerfile_syntax::directive::syntax(&source.map.data);
    let (command, line) = match (argument, &directive) {
        (Some(command), _) => (command.as_str(), None),
        (None, Some(directive)) => (directive.value.as_str(), Some(directive.line)),
        (None, None) => return Ok(None),
    };
    if !files.bridge.offers("gateway.v0") {
        tracing::debug!(
            syntax = command,
            "no gateway: the built-in frontend reads the file"
        );
        return Ok(None);
    }
    let image = command.trim().split(' ').next().unwrap_or_default();
    let mut options = files.options.attributes.clone();
    options.insert("cmdline".to_owned(), command.to_owned());
    options.insert("source".to_owned(), image.to_owned());
    let request = SolveRequest {
        frontend: "gateway.v0".to_owned(),
        options,
        inputs: files.inputs.clone(),
        ..SolveRequest::default()
    };
    let outcome = files.bridge.solve(&files.cx, request).await;
    let placed = |failure: &Failure| {
        failure
            .details()
            .iter()
            .any(|detail| matches!(detail, Detail::Source { .. }))
    };
    match outcome {
        Ok(outcome) => Ok(Some(outcome)),
        Err(failure) if placed(&failure) => Err(failure.into()),
        Err(failure) => match line {
            Some(line) => Err(failure).at(dockerfile_syntax::Span::line(line)),
            None => Err(failure).with_context(|| format!("failed with {ARGUMENT} = {command}")),
        },
    }
}

async fn build(memo: &Memo, files: &Files, source: &Source) -> Result<Outcome> {
    let scanner = match &files.options.sbom {
        Some(sbom) => Some(sbom::Scanner::find(files, sbom).await?),
        None => None,
    };
    let platforms: Vec<Option<&Platform>> = match files.options.platforms.as_slice() {
        [] => vec![None],
        list => list.iter().map(Some).collect(),
    };
    let builds = platforms
        .iter()
        .enumerate()
        .map(|(number, platform)| build_platform(memo, files, source, *platform, number == 0));
    let mut built = Vec::with_capacity(platforms.len());
    for one in join_all(builds).await {
        built.push(one?);
    }
    answer(files, scanner.as_ref(), built).await
}

async fn build_platform(
    memo: &Memo,
    files: &Files,
    source: &Source,
    platform: Option<&Platform>,
    warns: bool,
) -> Result<Built> {
    let lowered = lower_once(memo, files, source, platform, warns).await?;
    let paths = explain::Paths {
        bridge: files.bridge.clone(),
        defaults: lowered.defaults.clone(),
        context: files.main_directory(),
        taken: lowered.taken.clone(),
    };
    let Lowered {
        state, defaults, ..
    } = &lowered;
    let definition = state
        .marshal(defaults)
        .map_err(|err| text(err.to_string()))
        .context("failed to marshal LLB definition")?;
    let request = SolveRequest {
        definition: Some(definition),
        cache_imports: files.options.cache_imports.clone(),
        explain: Some(Arc::new(paths)),
        ..SolveRequest::default()
    };
    let outcome = files.bridge.solve(&files.cx, request).await?;
    Ok(Built {
        platform: platform.cloned(),
        reference: outcome.single.flatten(),
        lowered,
    })
}

/// Lowers, unless that was done before, and sends what was found on the way even if that fails.
async fn lower_once(
    memo: &Memo,
    files: &Files,
    source: &Source,
    platform: Option<&Platform>,
    warns: bool,
) -> Result<Lowered> {
    let config = check_config(files, source)?;
    let key = memo::Key::new(files, source, platform, warns);
    if let Some((lowered, findings)) = memo.find(files, source, &key).await {
        send_warnings(files, source, &findings).await;
        return Ok(lowered);
    }
    let mut linter = if warns {
        Linter::new(config)
    } else {
        Linter::off()
    };
    let wish = Wish {
        platform,
        ..Wish::default()
    };
    let lowered = lower(files, source, wish, &mut linter).await;
    send_warnings(files, source, linter.findings()).await;
    let lowered = lowered?;
    memo.keep(files, source, key, &lowered, linter.findings())
        .await;
    Ok(lowered)
}

/// Lowers, and sends what was found on the way even if that fails.
async fn lower_and_warn(files: &Files, source: &Source, wish: Wish<'_>) -> Result<Lowered> {
    let mut linter = Linter::new(check_config(files, source)?);
    let lowered = lower(files, source, wish, &mut linter).await;
    send_warnings(files, source, linter.findings()).await;
    lowered
}

async fn send_warnings(files: &Files, source: &Source, findings: &[Finding]) {
    for finding in findings {
        warn(files, source, finding).await;
    }
}

/// Which findings are reported: what the client says, else the file.
fn check_config(files: &Files, source: &Source) -> Result<Config> {
    if let Some(config) = &files.options.lint {
        return Ok(config.clone());
    }
    match dockerfile_syntax::directive::check(&source.map.data) {
        None => Ok(Config::default()),
        Some(directive) => Config::from_directive(&directive.value)
            .map_err(|err| text(err.to_string()))
            .context("failed to parse check options"),
    }
}

/// A finding that cannot be delivered is no reason to fail.
async fn warn(files: &Files, source: &Source, finding: &Finding) {
    let warning = Warning {
        vertex: source.vertex.clone(),
        level: 1,
        short: finding.short(),
        detail: vec![finding.rule.description.to_owned()],
        url: finding.rule.url.to_owned(),
        info: Some(source.map.info()),
        ranges: ranges(finding.span),
    };
    if let Err(err) = files.bridge.warn(warning).await {
        tracing::debug!(error = err.text(), "warning not delivered");
    }
}
