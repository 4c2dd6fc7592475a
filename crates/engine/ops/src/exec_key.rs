//! The definition key and the content queries of an exec op, bit for bit upstream's.

use contenthash::Query;
use diagnostics::Failure;
use oci::{Digest, Platform};
use proto::{gojson, pb};
use solver::{CacheMap, InputMap};

use crate::exec_mounts::user;
use crate::json::Object;
use crate::meta::{clean, outermost};

/// What the keys of an exec op depend on.
#[derive(Clone, Copy)]
pub(crate) struct ExecKey<'a> {
    pub(crate) op: &'a pb::ExecOp,
    pub(crate) platform: &'a Platform,
    /// How many inputs there are.
    pub(crate) inputs: usize,
}

impl ExecKey<'_> {
    /// D and what is known of the inputs.
    pub(crate) fn cache_map(self) -> Result<CacheMap, Failure> {
        let mut inputs = Vec::with_capacity(self.inputs);
        for input in 0..self.inputs {
            let places = self.places(input)?;
            inputs.push(InputMap {
                selector: places.selector(),
                content: places.content,
                prepare: true,
            });
        }
        Ok(CacheMap {
            digest: self.digest(),
            inputs,
            done: true,
        })
    }

    /// What of input `input` is read.
    pub(crate) fn selector(self, input: usize) -> Result<Option<Digest>, Failure> {
        Ok(self.places(input)?.selector())
    }

    fn digest(self) -> Digest {
        let mut op = self.op.clone();
        if let Some(meta) = &mut op.meta {
            for host in &mut meta.extra_hosts {
                host.ip = String::new();
            }
            meta.proxy_env = None;
        }
        for mount in &mut op.mounts {
            mount.selector = String::new();
            let dest = mount.dest.clone();
            if let Some(cache) = &mut mount.cache_opt
                && !is_default_cache(cache, &dest)
            {
                *cache = pb::CacheOpt::default();
            }
        }
        if let [only] = op.mounts.as_slice()
            && is_plain_root(only)
        {
            op.mounts.clear();
        }
        let mut json = Object::new();
        json.string("Type", "buildkit.exec.v0");
        json.raw("Exec", &gojson::to_string(&op));
        crate::load::platform_fields(&mut json, self.platform);
        Digest::of(json.finish())
    }

    /// Where this op looks in input `input`, for its content key; empty when it has none.
    pub(crate) fn content_queries(self, input: usize) -> Result<Vec<Query>, Failure> {
        let places = self.places(input)?;
        if !places.content {
            return Ok(Vec::new());
        }
        let paths = outermost(places.paths);
        if paths.iter().any(|path| path == "/") {
            return Ok(vec![Query::of("/")]);
        }
        Ok(paths
            .into_iter()
            .map(|path| Query {
                path,
                follow: true,
                ..Query::default()
            })
            .collect())
    }

    fn places(self, input: usize) -> Result<Places, Failure> {
        let mut places = Places::default();
        for mount in &self.op.mounts {
            let kind = mount.mount_type();
            if mount.input < 0 || !matches!(kind, pb::MountType::Bind | pb::MountType::Cache) {
                continue;
            }
            let index = usize::try_from(mount.input).unwrap_or(usize::MAX);
            if index >= self.inputs {
                return Err(user(format!("mount {} has no input", mount.dest)));
            }
            if index != input {
                continue;
            }
            let path = clean(&mount.selector);
            // Compat: the last mount of an input decides.
            places.content = wants_content(mount, &path)?;
            places.paths.push(path);
        }
        Ok(places)
    }
}

#[derive(Default)]
struct Places {
    paths: Vec<String>,
    content: bool,
}

impl Places {
    fn selector(&self) -> Option<Digest> {
        (!self.paths.is_empty()).then(|| Digest::of(self.paths.join("\0")))
    }
}

fn wants_content(mount: &pb::Mount, path: &str) -> Result<bool, Failure> {
    let allowed = mount.output < 0 || mount.readonly || path == "/";
    match mount.content_cache() {
        pb::MountContentCache::Off => Ok(false),
        pb::MountContentCache::On if allowed => Ok(true),
        pb::MountContentCache::On => Err(user(format!(
            "invalid mount cache content {}",
            gojson::to_string(mount)
        ))),
        pb::MountContentCache::Default => Ok(allowed && mount.dest != "/"),
    }
}

fn is_default_cache(cache: &pb::CacheOpt, dest: &str) -> bool {
    cache.sharing() == pb::CacheSharingOpt::Shared
        && (cache.id == dest
            || cache
                .id
                .split_once('/')
                .is_some_and(|(_, rest)| rest == dest))
}

fn is_plain_root(mount: &pb::Mount) -> bool {
    mount.dest == "/"
        && !mount.readonly
        && mount.mount_type() == pb::MountType::Bind
        && mount.cache_opt.is_none()
        && mount.ssh_opt.is_none()
        && mount.secret_opt.is_none()
        && mount.result_id.is_empty()
}
