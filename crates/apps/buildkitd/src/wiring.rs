//! Puts the daemon together: the one place that names implementations.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use builder::{Builder, Machinery};
use cache::{Cache, Rule, SnapshotterKind};
use control::{Package, Services, Upkeep, WorkerRecord};
use executor::{DefaultNetwork, Dns, Executor};
use oci::Platform;
use ops::{LogLimits, Results, Worker, WorkerOptions};
use remotecache::Kind;
use session::Manager;
use solver::{ResultStore as _, Solver};

use crate::settings::Settings;
use crate::state::State;
use crate::{DOCKERFILE_VERSION, PACKAGE, VERSION, revision};

/// Makes everything; the cache is returned as well because it must be closed at the end.
pub(crate) fn wire(settings: &Settings, state: &State) -> Result<(Services, Cache)> {
    let mut options = cache::Options::new(&state.root);
    options.snapshotter = snapshotter(&settings.worker.snapshotter)?;
    let cache = Cache::open(options)?;
    let sessions = Manager::new();
    let platforms = platforms(settings);
    let registry = registry::Client::new(registries(settings));
    let offline = settings.config.system.offline()?;
    let images = source_image::Images::new(registry.clone(), cache.clone(), offline);
    let devices = settings.worker.cdi.clone().map(|cdi| {
        let registry = executor::cdi::Registry::new(cdi.dirs, cdi.auto_allowed);
        // What is wrong with the documents is told now, not when a build needs one.
        drop(registry.known());
        Arc::new(registry)
    });
    let gc = settings.worker.gc.rules(&state.root)?;
    let (rules, shown): (Vec<_>, Vec<_>) = gc.into_iter().map(|it| (it.rule, it.shown)).unzip();
    let limit = cache::limit(&rules).unwrap_or(u64::MAX);
    let worker = Arc::new(Worker {
        options: WorkerOptions {
            id: state.worker_id.clone(),
            platform: platforms.first().cloned().unwrap_or_else(Platform::host),
            log_limits: log_limits(),
            scratch: state.root.join("private"),
        },
        cache: cache.clone(),
        sources: vec![
            Arc::new(images.clone()),
            Arc::new(source_image::Blobs::new(images)),
            Arc::new(source_local::Local::new(cache.clone())),
            Arc::new(source_git::Git::new(cache.clone(), registry.clone())),
            Arc::new(source_http::Http::new(cache.clone(), &user_agent())),
        ],
        executor: executor(settings, state, devices.clone())?,
        devices: devices.clone(),
        sessions: sessions.clone(),
        cache_dirs: ops::CacheDirs::default(),
        usages: ops::Usages::default(),
        explain: Arc::new(ops::Explain::new(cache.db().clone(), limit / EXPLAIN_SHARE)),
    });
    let keys = Arc::new(cachekeys::Persistent::new(cache.db().clone()));
    let results = Arc::new(Results::new(cache.clone(), &state.worker_id));
    let upkeep = upkeep(&cache, rules, keys.clone(), results.clone());
    let solver = Solver::new(solver::Options {
        keys,
        results,
        parallelism: NonZeroUsize::new(settings.worker.parallelism),
        record: None,
    });
    let record = WorkerRecord {
        id: state.worker_id.clone(),
        labels: labels(settings, &cache),
        platforms: platforms.clone(),
        gc: shown,
        devices,
    };
    let builder = Builder::new(Machinery {
        worker,
        solver,
        frontends: crate::frontends::wire(&settings.config.frontend, &record)?,
        exporters: vec![
            Arc::new(export_image::ImageExporter::new(
                cache.content().clone(),
                registry.clone(),
            )),
            Arc::new(export_files::FilesExporter),
        ],
        caches: caches(settings, registry),
        platforms,
        entitlements: settings.entitlements.clone(),
        history: history::History::open(history::Options {
            root: state.root.join("history-v1"),
            db: cache.db().clone(),
            content: cache.content().clone(),
            limits: history::Limits {
                max_bytes: limit / HISTORY_SHARE,
                ..settings.config.history.limits()?
            },
        })?,
    })
    .in_environment(crate::environment::load(
        settings.config.provenance_env_dir.as_deref(),
    )?);
    let services = Services {
        builder: Arc::new(builder),
        sessions,
        cache: cache.clone(),
        upkeep,
        package: Package {
            package: PACKAGE.to_owned(),
            version: VERSION.to_owned(),
            revision: revision().to_owned(),
            dockerfile_version: DOCKERFILE_VERSION.to_owned(),
        },
        worker: record,
    };
    Ok((services, cache))
}

/// All kinds of remote caches.
fn caches(settings: &Settings, registry: registry::Client) -> Vec<Arc<dyn Kind>> {
    // For options that are not given.
    let environment: remotecache_object::Environment = Arc::new(|name| std::env::var(name).ok());
    let mut kinds: Vec<Arc<dyn Kind>> = vec![
        Arc::new(remotecache_oci::Registry::new(registry)),
        Arc::new(remotecache_oci::Local),
        Arc::new(remotecache_oci::Inline),
    ];
    let gha = &settings.config.cache.gha;
    let signing = remotecache_object::Signing {
        command: gha.sign.as_ref().map(|sign| sign.command.clone()),
        required: gha.verify.required,
    };
    kinds.extend(remotecache_object::kinds(&environment, &signing));
    kinds
}

/// What describes builds may take such parts of what everything may take, however many builds there are.
const HISTORY_SHARE: u64 = 8;
const EXPLAIN_SHARE: u64 = 32;

/// Starts to keep the rules.
fn upkeep(
    cache: &Cache,
    rules: Vec<Rule>,
    keys: Arc<cachekeys::Persistent>,
    results: Arc<Results>,
) -> Upkeep {
    let forget_keys = Arc::new(move || {
        cachekeys::sweep(keys.as_ref(), &|result| results.exists(result.as_str()));
    });
    let keeper = (!rules.is_empty()).then(|| {
        let forget = forget_keys.clone();
        cache.keep(rules, move || forget())
    });
    let upkeep = Upkeep {
        keeper: keeper.map(Arc::new),
        forget_keys,
    };
    upkeep.poke();
    upkeep
}

fn snapshotter(name: &str) -> Result<SnapshotterKind> {
    Ok(match name {
        "auto" | "" => SnapshotterKind::Auto,
        "overlayfs" => SnapshotterKind::Overlay,
        "native" => SnapshotterKind::Native,
        "fuse-overlayfs" => SnapshotterKind::FuseOverlay,
        "stargz" => bail!(
            "unimplemented: snapshotter stargz: estargz images are pulled whole; choose --oci-worker-snapshotter=auto"
        ),
        other => bail!(
            "unknown snapshotter name: {other:?}: expected auto, overlayfs, fuse-overlayfs or native"
        ),
    })
}

/// What steps may run on: the configured platforms, else the machine's own.
fn platforms(settings: &Settings) -> Vec<Platform> {
    match settings.worker.platforms.as_slice() {
        [] => crate::platforms::native(),
        configured => configured.to_vec(),
    }
}

fn executor(
    settings: &Settings,
    state: &State,
    devices: Option<Arc<executor::cdi::Registry>>,
) -> Result<Arc<dyn Executor>> {
    let dns = settings.config.dns.clone().unwrap_or_default();
    let executor = executor::Settings {
        root: state.root.join("executor"),
        cgroup_parent: settings.worker.cgroup_parent.clone(),
        dns: Dns {
            nameservers: dns.nameservers,
            search_domains: dns.search_domains,
            options: dns.options,
        },
        network: DefaultNetwork::Host,
        apparmor_profile: settings.worker.apparmor_profile.clone(),
        selinux: settings.worker.selinux,
        rootless: settings.worker.rootless,
        no_process_sandbox: settings.worker.no_process_sandbox,
        devices,
        ..executor::Settings::default()
    };
    match settings.worker.binary.as_deref() {
        None => {
            let runtime =
                runtime::Runtime::new(executor).context("failed to set up the runtime")?;
            Ok(Arc::new(runtime))
        }
        Some(binary) => {
            let path = std::env::var("PATH").unwrap_or_default();
            Ok(Arc::new(executor::runc::Runc::new(
                executor,
                Some(binary),
                &path,
            )?))
        }
    }
}

fn log_limits() -> LogLimits {
    let mut limits = LogLimits::default();
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    if let Some(size) = number("BUILDKIT_STEP_LOG_MAX_SIZE") {
        limits.size = size;
    }
    if let Some(speed) = number("BUILDKIT_STEP_LOG_MAX_SPEED") {
        limits.speed = speed;
    }
    limits
}

fn labels(settings: &Settings, cache: &Cache) -> BTreeMap<String, String> {
    const PREFIX: &str = "org.mobyproject.buildkit.worker.";
    let hostname = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let process_mode = if settings.worker.no_process_sandbox {
        "no-sandbox"
    } else {
        "sandbox"
    };
    let selinux = if settings.worker.selinux {
        "true"
    } else {
        "false"
    };
    let facts = [
        ("executor", "oci"),
        ("hostname", &hostname),
        ("network", "host"),
        ("oci.process-mode", process_mode),
        ("selinux.enabled", selinux),
        ("snapshotter", cache.snapshotter()),
    ];
    let mut labels: BTreeMap<String, String> = facts
        .iter()
        .map(|(key, value)| (format!("{PREFIX}{key}"), (*value).to_owned()))
        .collect();
    if let Some(profile) = &settings.worker.apparmor_profile {
        labels.insert(format!("{PREFIX}apparmor.profile"), profile.clone());
    }
    labels.extend(settings.worker.labels.clone());
    labels
}

/// What servers see as who asks.
fn user_agent() -> String {
    format!("buildkit/{VERSION}")
}

fn registries(settings: &Settings) -> registry::Config {
    let hosts = settings.config.registry.iter().map(|(host, it)| {
        let config = registry::HostConfig {
            mirrors: it.mirrors.clone(),
            http: it.http,
            insecure: it.insecure,
            ca: it.ca.clone(),
            keypairs: it
                .keypair
                .iter()
                .map(|pair| registry::KeyPair {
                    key: pair.key.clone(),
                    cert: pair.cert.clone(),
                })
                .collect(),
            tls_config_dirs: it.tlsconfigdir.clone(),
        };
        (host.clone(), config)
    });
    let mut config = registry::Config {
        hosts: hosts.collect(),
        user_agent: user_agent(),
        ..registry::Config::default()
    };
    if let Some(concurrency) = settings.worker.registry_concurrency {
        config.concurrency = concurrency.max(1);
    }
    config
}
