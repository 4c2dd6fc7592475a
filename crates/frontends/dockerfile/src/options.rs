//! What the client asked for: frontend attributes, parsed and checked in upstream's order.

mod imports;
mod limits;
pub(crate) mod number;

use std::collections::BTreeMap;
use std::sync::Arc;

use frontend::{Bridge, Request};
use llb::build::ResolveMode;
use llb::caps;
use oci::Platform;
use proto::gateway::CacheOptionsEntry;
use proto::pb;

use crate::error::{Error, Locate, Result, text};
use crate::named::parse_reference;

const BUILD_ARG: &str = "build-arg:";
const FRONTEND_CAPS: [&str; 4] = [
    "moby.buildkit.frontend.inputs",
    "moby.buildkit.frontend.subrequests",
    "moby.buildkit.frontend.contexts",
    "moby.buildkit.frontend.gitquerystring",
];

/// Everything but what names files and contexts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    /// The attributes themselves.
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) target: String,
    pub(crate) platforms: Vec<Platform>,
    /// Answer by platform even if there is only one.
    pub(crate) platform_map: bool,
    /// First platform of the worker.
    pub(crate) build_platform: Platform,
    pub(crate) build_args: BTreeMap<String, String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) resolve_mode: ResolveMode,
    pub(crate) extra_hosts: Vec<pb::HostIp>,
    pub(crate) shm_size: i64,
    pub(crate) ulimits: Vec<pb::Ulimit>,
    pub(crate) resources: Option<Arc<pb::LinuxResources>>,
    pub(crate) network: pb::NetMode,
    pub(crate) cgroup_parent: String,
    pub(crate) hostname: String,
    pub(crate) cache_namespace: String,
    pub(crate) cache_imports: Vec<CacheOptionsEntry>,
    pub(crate) no_cache: NoCache,
    pub(crate) sbom: Option<Sbom>,
    pub(crate) lint: Option<dockerfile_syntax::lint::Config>,
    /// What is missing to do what the client demands; tells whether another frontend might.
    pub(crate) missing_cap: Option<MissingCap>,
}

/// Which stages must run again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum NoCache {
    #[default]
    None,
    All,
    Stages(Vec<String>),
}

impl NoCache {
    pub(crate) fn covers(&self, stage: &str) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Stages(names) => names.iter().any(|name| equal_fold(name, stage)),
        }
    }
}

/// An image to scan results with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sbom {
    pub(crate) generator: String,
    pub(crate) parameters: BTreeMap<String, String>,
}

/// A capability that we lack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MissingCap {
    pub(crate) name: String,
    pub(crate) may_forward: bool,
}

/// Equal but for the case of letters.
pub(crate) fn equal_fold(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other) || one.to_lowercase() == other.to_lowercase()
}

impl Options {
    pub(crate) fn parse(request: &Request, bridge: &dyn Bridge) -> Result<Self> {
        let attributes = &request.options;
        refuse_removed(attributes, bridge)?;
        let attribute = |key: &str| attributes.get(key).map_or("", String::as_str);
        let build_platform = bridge
            .platforms()
            .first()
            .cloned()
            .unwrap_or_else(Platform::host);
        let platforms = match attribute("platform") {
            "" => Vec::new(),
            list => parse_platforms(list)?,
        };
        let resolve_mode = parse_resolve_mode(attribute("image-resolve-mode"))?;
        let extra_hosts = limits::extra_hosts(attribute("add-hosts"))
            .context("failed to parse additional hosts")?;
        let shm_size =
            limits::shm_size(attribute("shm-size")).context("failed to parse shm size")?;
        let ulimits = limits::ulimits(attribute("ulimit")).context("failed to parse ulimit")?;
        let resources = limits::resources(attributes).context("failed to parse resource limits")?;
        let network = parse_network(attribute("force-network-mode"))?;
        let no_cache = match attributes.get("no-cache").map(String::as_str) {
            None => NoCache::None,
            Some("") => NoCache::All,
            Some(list) => NoCache::Stages(list.split(',').map(str::to_owned).collect()),
        };
        let platform_map = parse_platform_map(attributes, platforms.len())?;
        let cache_imports = parse_cache_imports(attributes)?;
        let sbom = parse_attestations(attributes)?;
        let lint = match attributes.get("build-arg:BUILDKIT_DOCKERFILE_CHECK") {
            None => None,
            Some(value) => Some(
                dockerfile_syntax::lint::Config::parse(value)
                    .map_err(|err| text(err.to_string()))
                    .context("failed to parse build-arg:BUILDKIT_DOCKERFILE_CHECK")?,
            ),
        };
        let hostname = match attribute("build-arg:BUILDKIT_SANDBOX_HOSTNAME") {
            "" => attribute("hostname"),
            name => name,
        };
        Ok(Self {
            target: attribute("target").to_owned(),
            platforms,
            platform_map,
            build_platform,
            build_args: with_prefix(attributes, BUILD_ARG),
            labels: with_prefix(attributes, "label:"),
            resolve_mode,
            extra_hosts,
            shm_size,
            ulimits,
            resources: resources.map(Arc::new),
            network,
            cgroup_parent: attribute("cgroup-parent").to_owned(),
            hostname: hostname.to_owned(),
            cache_namespace: attribute("build-arg:BUILDKIT_CACHE_MOUNT_NS").to_owned(),
            cache_imports,
            no_cache,
            sbom,
            lint,
            missing_cap: missing_cap(attribute("frontend.caps")),
            attributes: attributes.clone(),
        })
    }

    /// An attribute; empty if it is not given.
    pub(crate) fn attribute(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }
}

fn refuse_removed(attributes: &BTreeMap<String, String>, bridge: &dyn Bridge) -> Result<()> {
    if !bridge.supports(caps::FILE_BASE) {
        return Err(Error::Says(
            "needs BuildKit 0.5 or later: requested experimental feature file.base is not supported by build server, please update buildkitd",
        )
        .into());
    }
    if attributes
        .get("override-copy-image")
        .is_some_and(|value| !value.is_empty())
    {
        return Err(Error::Says(
            r#"support for "override-copy-image" was removed in BuildKit 0.11"#,
        )
        .into());
    }
    let disabled = attributes.get("build-arg:BUILDKIT_DISABLE_FILEOP");
    if disabled.and_then(|value| fault::truth(value)) == Some(true) {
        return Err(Error::Says(
            r#"support for "BUILDKIT_DISABLE_FILEOP" build-arg was removed in BuildKit 0.11"#,
        )
        .into());
    }
    Ok(())
}

/// The attributes with this prefix, without it.
pub(crate) fn with_prefix(
    attributes: &BTreeMap<String, String>,
    prefix: &str,
) -> BTreeMap<String, String> {
    attributes
        .range(prefix.to_owned()..)
        .map_while(|(key, value)| Some((key.strip_prefix(prefix)?, value)))
        .map(|(key, value)| (key.to_owned(), value.clone()))
        .collect()
}

fn parse_platforms(list: &str) -> Result<Vec<Platform>> {
    list.split(',')
        .map(|item| {
            item.parse::<Platform>()
                .map(|platform| platform.normalized())
                .map_err(|err| text(err.to_string()))
                .with_context(|| format!("failed to parse target platform {item}"))
        })
        .collect()
}

fn parse_resolve_mode(mode: &str) -> Result<ResolveMode> {
    match mode {
        "" | "default" => Ok(ResolveMode::Default),
        "pull" => Ok(ResolveMode::Pull),
        "local" => Ok(ResolveMode::Local),
        other => Err(text(format!("invalid image-resolve-mode: {other}")).into()),
    }
}

fn parse_network(mode: &str) -> Result<pb::NetMode> {
    match mode {
        "" | "sandbox" => Ok(pb::NetMode::Unset),
        "none" => Ok(pb::NetMode::None),
        "host" => Ok(pb::NetMode::Host),
        other => Err(text(format!("invalid netmode {other}")).into()),
    }
}

fn parse_platform_map(attributes: &BTreeMap<String, String>, platforms: usize) -> Result<bool> {
    let value = ["build-arg:BUILDKIT_MULTI_PLATFORM", "multi-platform"]
        .iter()
        .filter_map(|key| attributes.get(*key))
        .find(|value| !value.is_empty());
    let Some(value) = value else {
        return Ok(platforms > 1);
    };
    match fault::truth(value) {
        None => Err(text(format!("invalid boolean value for multi-platform: {value}")).into()),
        Some(false) if platforms > 1 => Err(Error::Says(
            "conflicting config: returning multiple target platforms is not allowed",
        )
        .into()),
        Some(wanted) => Ok(wanted),
    }
}

fn parse_cache_imports(attributes: &BTreeMap<String, String>) -> Result<Vec<CacheOptionsEntry>> {
    let mut imports = match attributes.get("cache-imports") {
        Some(list) if !list.is_empty() => imports::cache_imports(list)?,
        _ => Vec::new(),
    };
    if let Some(list) = attributes.get("cache-from").filter(|list| !list.is_empty()) {
        imports.extend(list.split(',').map(|reference| CacheOptionsEntry {
            r#type: "registry".to_owned(),
            attrs: BTreeMap::from([("ref".to_owned(), reference.to_owned())]),
        }));
    }
    Ok(imports)
}

fn parse_attestations(attributes: &BTreeMap<String, String>) -> Result<Option<Sbom>> {
    let mut wanted: BTreeMap<String, &str> = BTreeMap::new();
    for (key, value) in attributes {
        let name = key
            .strip_prefix("attest:")
            .or_else(|| key.strip_prefix("build-arg:BUILDKIT_ATTEST_"));
        if let Some(name) = name {
            wanted.insert(name.to_lowercase(), value);
        }
    }
    if let Some(name) = wanted
        .keys()
        .find(|name| !matches!(name.as_str(), "sbom" | "provenance"))
    {
        let name = dockerfile_syntax::quote::go(name).to_string();
        return Err(text(format!("unknown attestation type {name}")).into());
    }
    let Some(value) = wanted.get("sbom") else {
        return Ok(None);
    };
    let mut generator = "docker/buildkit-syft-scanner:stable-1".to_owned();
    let mut parameters = BTreeMap::new();
    for field in limits::csv(value).context("failed to parse sbom")? {
        let (key, value) = field.split_once('=').unwrap_or((&field, ""));
        if key == "generator" {
            value.clone_into(&mut generator);
        } else {
            parameters.insert(key.to_owned(), value.to_owned());
        }
    }
    let named = parse_reference(&generator)
        .with_context(|| format!("failed to parse sbom scanner {generator}"))?;
    Ok(Some(Sbom {
        generator: named.with_default_tag().to_string(),
        parameters,
    }))
}

fn missing_cap(list: &str) -> Option<MissingCap> {
    let mut missing = None;
    for item in list
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
    {
        let (name, may_forward) = item
            .strip_suffix("+forward")
            .map_or((item, false), |name| (name, true));
        if FRONTEND_CAPS.contains(&name) {
            continue;
        }
        let cap = MissingCap {
            name: name.to_owned(),
            may_forward,
        };
        if !may_forward {
            return Some(cap);
        }
        missing.get_or_insert(cap);
    }
    missing
}
