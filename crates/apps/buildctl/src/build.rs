//! `buildctl build`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use client::{Answer, Build, DockerConfig, Response};
use progress_ui::{Display, Mode};
use prost::Message as _;
use proto::pb;
use tasks::Cx;

use crate::args::{BuildArgs, Global, given};
use crate::metrics::Metrics;
use crate::{answer, connection, options, places, registries};

/// How often a live view is redrawn while nothing arrives.
const TICK: Duration = Duration::from_millis(150);

/// Runs a build and shows its progress.
pub(crate) async fn run(global: &Global, args: &BuildArgs) -> Result<()> {
    let mut trace = given(args.trace.as_ref()).map(open_trace).transpose()?;
    let metrics = args.debug_json_cache_metrics.as_deref().unwrap_or_default();
    let mut metrics = Metrics::open(metrics)?;
    let mut build = build(args)?;
    let mode: Mode = args.progress.parse().map_err(anyhow::Error::msg)?;
    let id = build.id.clone();
    let asks = answer::is_question(&mut build);
    if let Some(path) = given(args.ref_file.as_ref())
        && let Err(err) = write_whole(path, build.id.as_bytes())
    {
        // Compat: the build does not fail for it.
        eprintln!("warning: {err:#}");
    }
    let connection = connection::connect_or_start(global).await?;
    let cx = Cx::root();
    let _signals = stop_on_signal(cx.clone());
    let display = RefCell::new(Display::stderr(mode));
    let watch = |status| {
        if let Some(trace) = &mut trace {
            // A trace that cannot be written must not fail the build.
            let _ = trace.write_all((progress_ui::rawjson(&status) + "\n").as_bytes());
        }
        if let Some(metrics) = &mut metrics {
            metrics.note(&status);
        }
        display.borrow_mut().update(status);
    };
    let work = async {
        if asks {
            connection.client.ask(&cx, build, watch).await
        } else {
            let response = connection.client.build(&cx, build, watch).await?;
            Ok(response.into())
        }
    };
    let result: Result<Answer, client::Error> = ticking(work, || display.borrow_mut().tick()).await;
    display.borrow_mut().finish();
    if args.explain {
        crate::explain::after(&connection.client, &id).await;
    }
    let told = tell(args, asks, result);
    if let Some(metrics) = metrics {
        // They are for looking at; a build does not fail for them.
        let _ = metrics.write();
    }
    told
}

/// Leaves what the build answered where it was asked for.
fn tell(args: &BuildArgs, asks: bool, result: Result<Answer, client::Error>) -> Result<()> {
    let answer = result.map_err(unsolved)?;
    if let Some(path) = given(args.metadata_file.as_ref()) {
        write_metadata(path, &answer.response)?;
    }
    if asks {
        answer::print(&answer.metadata)?;
    }
    Ok(())
}

/// Compat: only what the daemon answers is a failure to solve; what is wrong here speaks for itself.
fn unsolved(err: client::Error) -> anyhow::Error {
    let is_bare = err.is_of_this_machine();
    let err = anyhow::Error::new(err);
    match is_bare {
        true => err,
        false => err.context("failed to solve"),
    }
}

/// Waits for `work`, calling `tick` now and then.
async fn ticking<T>(work: impl Future<Output = T>, tick: impl Fn()) -> T {
    let mut work = std::pin::pin!(work);
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            result = &mut work => return result,
            _ = ticks.tick() => tick(),
        }
    }
}

fn build(args: &BuildArgs) -> Result<Build> {
    if args.proxy_network {
        bail!("unimplemented: --proxy-network");
    }
    let mut build = Build::frontend(&args.frontend);
    build.id = identity::new_id();
    args.registry_auth_tlscontext
        .iter()
        .try_for_each(|option| registries::check(option))?;
    build.credentials = Some(credentials()?);
    build.fetch_tokens = std::env::var_os("BUILDKIT_NO_CLIENT_TOKEN").is_none();
    build.ssh = crate::ssh::agents(&args.ssh)?;
    build.secrets = args
        .secret
        .iter()
        .map(|option| options::secret(option))
        .collect::<Result<_>>()?;
    let allowed = args.allow.iter().map(|it| options::entitlement(it));
    build.entitlements = allowed.collect::<Result<_>>()?;
    for option in &args.output {
        build.outputs.push(options::output(option)?);
    }
    for option in &args.export_cache {
        build
            .cache_exports
            .push(options::cache("--export-cache", option)?);
    }
    for option in &args.import_cache {
        build
            .cache_imports
            .push(options::cache("--import-cache", option)?);
    }
    let policy = given(args.source_policy_file.as_ref());
    build.source_policy = policy.map(crate::policy::read).transpose()?;
    build.attrs = options::opts(&args.opt).context("invalid opt")?;
    build.locals = places::locals(&args.local).context("invalid local")?;
    build.oci_layouts = places::layouts(&args.oci_layout).context("invalid oci-layout")?;
    if args.explain {
        build.attrs.insert("explain".to_owned(), "1".to_owned());
    }
    if args.frontend.is_empty() {
        build.definition = Some(definition(args.no_cache)?);
    } else if args.no_cache {
        build.attrs.insert("no-cache".to_owned(), String::new());
    }
    Ok(build)
}

/// What docker knows of registries.
fn credentials() -> Result<DockerConfig> {
    let dir = std::env::var_os("DOCKER_CONFIG")
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".docker")))
        .unwrap_or_else(|| PathBuf::from("/root/.docker"));
    Ok(DockerConfig::load(&dir)?)
}

/// LLB from standard input.
fn definition(no_cache: bool) -> Result<pb::Definition> {
    // Compat: /dev/null is nothing to read from either.
    let stdin = rustix::fs::fstat(std::io::stdin())?;
    if rustix::fs::FileType::from_raw_mode(stdin.st_mode).is_char_device() {
        bail!("please specify --frontend or pipe LLB definition to stdin");
    }
    let mut bytes = Vec::new();
    std::io::stdin()
        .read_to_end(&mut bytes)
        .context("failed to read the definition")?;
    let mut definition =
        pb::Definition::decode(bytes.as_slice()).context("failed to parse input")?;
    if definition.def.is_empty() {
        bail!("empty definition sent to build. Specify --frontend instead?");
    }
    if no_cache {
        for op in &definition.def {
            let digest = oci::Digest::of(op).to_string();
            definition
                .metadata
                .entry(digest.into())
                .or_default()
                .ignore_cache = true;
        }
    }
    Ok(definition)
}

/// The first signal cancels the build, the third ends the process.
fn stop_on_signal(cx: Cx) -> tasks::Task<()> {
    tasks::spawn("signals", async move {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut interrupt), Ok(mut terminate)) = (
            signal(SignalKind::interrupt()),
            signal(SignalKind::terminate()),
        ) else {
            return;
        };
        for count in 1.. {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            cx.cancel("context canceled");
            if count >= 3 {
                eprintln!("got 3 SIGTERM/SIGINTs, forcibly terminating");
                std::process::exit(1);
            }
        }
    })
}

fn open_trace(path: &Path) -> Result<std::fs::File> {
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map_err(|err| fstree::Error::new("open", path, err).into())
}

/// Base64 of a JSON object that is not empty becomes the object; everything else stays text.
fn write_metadata(path: &Path, response: &Response) -> Result<()> {
    let mut object = BTreeMap::new();
    for (key, value) in &response.exporter {
        let decoded = base64::engine::general_purpose::STANDARD
            .decode(value)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok())
            .filter(|value| value.as_object().is_some_and(|object| !object.is_empty()));
        object.insert(key.clone(), decoded.unwrap_or_else(|| value.clone().into()));
    }
    if object.is_empty() {
        return Ok(());
    }
    write_whole(path, serde_json::to_string_pretty(&object)?.as_bytes())
}

/// Replaces a file in one step. Devices and pipes are written to: root would put a file in the place of `/dev/null`.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    if std::fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
        return std::fs::write(path, bytes)
            .with_context(|| format!("failed to write {}", path.display()));
    }
    let dir = path
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let named = || format!("failed to write {}", path.display());
    let mut file = tempfile::NamedTempFile::new_in(dir).with_context(named)?;
    file.write_all(bytes).with_context(named)?;
    use std::os::unix::fs::PermissionsExt as _;
    file.as_file()
        .set_permissions(std::fs::Permissions::from_mode(0o666))
        .with_context(named)?;
    file.persist(path).with_context(named)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn what_is_wrong_on_this_machine_is_no_failure_to_solve() {
        let text = "registry cache exporter requires ref".to_owned();
        let err = unsolved(client::Error::Option { text });
        assert_eq!(format!("{err:#}"), "registry cache exporter requires ref");
        let refused = client::Error::from(diagnostics::Failure::new(fault::Class::User, "no"));
        assert_eq!(format!("{:#}", unsolved(refused)), "failed to solve: no");
    }

    #[test]
    fn what_is_no_plain_file_is_written_to_and_stays() {
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
        write_whole(Path::new(&path), b"text").expect("written");
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("read");
        assert_eq!(text, "text");
    }
}
