//! Capability ids: what ops may ask for in their metadata, and what the gateway offers.
#![allow(missing_docs)]

/// LLB capabilities as advertised, in the order sent.
pub const LLB: [&str; 88] = [
    "cache.azblob",
    "cache.gha",
    "cache.s3",
    CONSTRAINTS,
    DIFF_OP,
    "exec.cgroup",
    EXEC_META_BASE,
    EXEC_META_CDI,
    EXEC_META_CGROUP_PARENT,
    EXEC_META_LINUX_RESOURCES,
    EXEC_META_NETWORK,
    "exec.meta.network.proxy",
    EXEC_META_PROXY_ENV,
    EXEC_META_SECURITY,
    "exec.meta.security.devices.v1",
    EXEC_META_SETS_DEFAULT_PATH,
    EXEC_META_ULIMIT,
    EXEC_MOUNT_BIND,
    EXEC_MOUNT_BIND_RW_NO_OUTPUT,
    EXEC_MOUNT_CACHE,
    EXEC_MOUNT_CACHE_CONTENT,
    EXEC_MOUNT_CACHE_SHARING,
    EXEC_MOUNT_SECRET,
    EXEC_MOUNT_SELECTOR,
    EXEC_MOUNT_SSH,
    EXEC_MOUNT_TMPFS,
    EXEC_MOUNT_TMPFS_SIZE,
    EXEC_SECRET_ENV,
    EXEC_VALID_EXIT_CODE,
    "exporter.image.annotations",
    "exporter.image.attestations",
    "exporter.multiple",
    "exporter.session",
    "exporter.sourcedateepoch",
    FILE_BASE,
    FILE_COPY_REPLACE_EXISTING,
    FILE_COPY_INCLUDE_EXCLUDE,
    FILE_COPY_REQUIRED_PATHS,
    "file.rm.nofollowsymlink",
    "file.rm.wildcard",
    FILE_SYMLINK_CREATE,
    "gc.freespacefilter",
    "history.filter",
    MERGE_OP,
    META_DESCRIPTION,
    META_EXPORT_CACHE,
    META_IGNORE_CACHE,
    PASSTHROUGH_OP,
    PLATFORM,
    // Compat: upstream's own spelling.
    SOURCE_HTTP_UIDGID,
    SOURCE_BUILD_FILENAME,
    SOURCE_GIT,
    SOURCE_GIT_BUNDLE,
    SOURCE_GIT_CHECKOUT_BUNDLE,
    SOURCE_GIT_CHECKSUM,
    SOURCE_GIT_FETCH_BY_COMMIT,
    SOURCE_GIT_FULL_URL,
    SOURCE_GIT_HTTP_AUTH,
    SOURCE_GIT_KEEP_DIR,
    SOURCE_GIT_KNOWN_SSH_HOSTS,
    SOURCE_GIT_MOUNT_SSH_SOCK,
    SOURCE_GIT_MTIME,
    "source.git.signatureverify",
    SOURCE_GIT_SKIP_SUBMODULES,
    "source.git.subdir",
    SOURCE_HTTP,
    SOURCE_HTTP_AUTH,
    SOURCE_HTTP_CHECKSUM,
    SOURCE_HTTP_HEADER,
    SOURCE_HTTP_PERM,
    "source.http.signatureverify",
    SOURCE_IMAGE,
    SOURCE_IMAGE_CHECKSUM,
    SOURCE_IMAGE_LAYER_LIMIT,
    SOURCE_IMAGE_RESOLVE_MODE,
    "source.imageblob",
    SOURCE_LOCAL,
    SOURCE_LOCAL_DIFFER,
    SOURCE_LOCAL_EXCLUDE_PATTERNS,
    SOURCE_LOCAL_FOLLOW_PATHS,
    SOURCE_LOCAL_INCLUDE_PATTERNS,
    SOURCE_LOCAL_METADATA_TRANSFER,
    SOURCE_LOCAL_SESSION_ID,
    SOURCE_LOCAL_SHARED_KEY_HINT,
    SOURCE_LOCAL_UNIQUE,
    SOURCE_OCI_LAYOUT,
    "source.policy",
    "source.policy.session",
];

/// Ids that upstream has names for but does not advertise. Graphs that ask for them load.
const SILENT: [&str; 2] = [
    "exec.meta.removemountstubs.recursive",
    FILE_COPY_MODE_STRING,
];

/// Gateway capabilities as advertised, in the order sent.
pub const GATEWAY: [&str; 27] = [
    "frontend.caps",
    "frontend.inputs",
    "gateway.evaluate",
    "gateway.exec",
    "gateway.exec.extrahosts",
    "gateway.exec.filesystem",
    "gateway.exec.secretenv",
    "gateway.exec.signals",
    "gateway.solve.evaluate",
    "gateway.solve.metadata",
    "gateway.warnings",
    "importcaches",
    "proto.refarray",
    "readdir",
    "readfile",
    "reference.attestations",
    "reference.output",
    "resolveimage",
    "resolveimage.resolvemode",
    "return",
    "returnmap",
    "solve.base",
    SOLVE_INLINE_RETURN,
    "source.metaresolver",
    "source.metaresolver.http.checksumrequest",
    "source.metaresolver.image.attestations",
    "statfile",
];

/// Whether a graph may ask for this.
pub fn supported(id: &str) -> bool {
    LLB.binary_search(&id).is_ok() || SILENT.contains(&id)
}

/// The only gateway capability that is advertised as deprecated.
pub const SOLVE_INLINE_RETURN: &str = "solve.inlinereturn";

pub const CONSTRAINTS: &str = "constraints";
pub const PLATFORM: &str = "platform";
pub const META_IGNORE_CACHE: &str = "meta.ignorecache";
pub const META_DESCRIPTION: &str = "meta.description";
pub const META_EXPORT_CACHE: &str = "meta.exportcache";

pub const MERGE_OP: &str = "mergeop";
pub const SOURCE_BUILD_FILENAME: &str = "source.buildop.llbfilename";
pub const DIFF_OP: &str = "diffop";
pub const PASSTHROUGH_OP: &str = "passthroughop";

pub const FILE_BASE: &str = "file.base";
pub const FILE_COPY_INCLUDE_EXCLUDE: &str = "file.copy.includeexcludepatterns";
pub const FILE_COPY_REQUIRED_PATHS: &str = "file.copy.requiredpaths";
pub const FILE_COPY_REPLACE_EXISTING: &str = "file.copy.alwaysreplaceexistingdestpaths";
pub const FILE_COPY_MODE_STRING: &str = "file.copy.modestring";
pub const FILE_SYMLINK_CREATE: &str = "file.symlink.create";

pub const EXEC_META_BASE: &str = "exec.meta.base";
pub const EXEC_META_CDI: &str = "exec.meta.cdi";
pub const EXEC_META_CGROUP_PARENT: &str = "exec.meta.cgroup.parent";
pub const EXEC_META_LINUX_RESOURCES: &str = "exec.meta.linux.resources";
pub const EXEC_META_NETWORK: &str = "exec.meta.network";
pub const EXEC_META_PROXY_ENV: &str = "exec.meta.proxyenv";
pub const EXEC_META_SECURITY: &str = "exec.meta.security";
pub const EXEC_META_SETS_DEFAULT_PATH: &str = "exec.meta.setsdefaultpath";
pub const EXEC_META_ULIMIT: &str = "exec.meta.ulimit";
pub const EXEC_MOUNT_BIND: &str = "exec.mount.bind";
pub const EXEC_MOUNT_BIND_RW_NO_OUTPUT: &str = "exec.mount.bind.readwrite-nooutput";
pub const EXEC_MOUNT_CACHE: &str = "exec.mount.cache";
pub const EXEC_MOUNT_CACHE_CONTENT: &str = "exec.mount.cache.content";
pub const EXEC_MOUNT_CACHE_SHARING: &str = "exec.mount.cache.sharing";
pub const EXEC_MOUNT_SECRET: &str = "exec.mount.secret";
pub const EXEC_MOUNT_SELECTOR: &str = "exec.mount.selector";
pub const EXEC_MOUNT_SSH: &str = "exec.mount.ssh";
pub const EXEC_MOUNT_TMPFS: &str = "exec.mount.tmpfs";
pub const EXEC_MOUNT_TMPFS_SIZE: &str = "exec.mount.tmpfs.size";
pub const EXEC_SECRET_ENV: &str = "exec.secretenv";
pub const EXEC_VALID_EXIT_CODE: &str = "exec.validexitcode";

pub const SOURCE_IMAGE: &str = "source.image";
pub const SOURCE_IMAGE_RESOLVE_MODE: &str = "source.image.resolvemode";
pub const SOURCE_IMAGE_LAYER_LIMIT: &str = "source.image.layerlimit";
pub const SOURCE_IMAGE_CHECKSUM: &str = "source.image.checksum";
pub const SOURCE_OCI_LAYOUT: &str = "source.ocilayout";
pub const SOURCE_LOCAL: &str = "source.local";
pub const SOURCE_LOCAL_UNIQUE: &str = "source.local.unique";
pub const SOURCE_LOCAL_SESSION_ID: &str = "source.local.sessionid";
pub const SOURCE_LOCAL_INCLUDE_PATTERNS: &str = "source.local.includepatterns";
pub const SOURCE_LOCAL_FOLLOW_PATHS: &str = "source.local.followpaths";
pub const SOURCE_LOCAL_EXCLUDE_PATTERNS: &str = "source.local.excludepatterns";
pub const SOURCE_LOCAL_SHARED_KEY_HINT: &str = "source.local.sharedkeyhint";
pub const SOURCE_LOCAL_DIFFER: &str = "source.local.differ";
pub const SOURCE_LOCAL_METADATA_TRANSFER: &str = "source.local.metadatatransfer";
pub const SOURCE_GIT: &str = "source.git";
pub const SOURCE_GIT_KEEP_DIR: &str = "source.git.keepgitdir";
pub const SOURCE_GIT_FULL_URL: &str = "source.git.fullurl";
pub const SOURCE_GIT_HTTP_AUTH: &str = "source.git.httpauth";
pub const SOURCE_GIT_KNOWN_SSH_HOSTS: &str = "source.git.knownsshhosts";
pub const SOURCE_GIT_MOUNT_SSH_SOCK: &str = "source.git.mountsshsock";
pub const SOURCE_GIT_CHECKSUM: &str = "source.git.checksum";
pub const SOURCE_GIT_SKIP_SUBMODULES: &str = "source.git.skipsubmodules";
pub const SOURCE_GIT_MTIME: &str = "source.git.mtime";
pub const SOURCE_GIT_FETCH_BY_COMMIT: &str = "source.git.fetchbycommit";
pub const SOURCE_GIT_BUNDLE: &str = "source.git.bundle";
pub const SOURCE_GIT_CHECKOUT_BUNDLE: &str = "source.git.checkoutbundle";
pub const SOURCE_HTTP: &str = "source.http";
pub const SOURCE_HTTP_AUTH: &str = "source.http.auth";
pub const SOURCE_HTTP_CHECKSUM: &str = "source.http.checksum";
pub const SOURCE_HTTP_HEADER: &str = "source.http.header";
pub const SOURCE_HTTP_PERM: &str = "source.http.perm";
pub const SOURCE_HTTP_UIDGID: &str = "soruce.http.uidgid";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lists_are_sorted_as_they_are_sent() {
        assert!(LLB.is_sorted());
        assert!(GATEWAY.is_sorted());
    }

    #[test]
    fn unadvertised_ids_load_and_unknown_ones_do_not() {
        assert!(supported("file.copy.modestring"));
        assert!(supported(SOURCE_HTTP_UIDGID));
        assert!(!supported("no.such.cap"));
    }
}
