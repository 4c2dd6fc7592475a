//! Names of source attributes.
#![allow(missing_docs)]

pub const IMAGE_RESOLVE_MODE: &str = "image.resolvemode";
pub const IMAGE_RECORD_TYPE: &str = "image.recordtype";
pub const IMAGE_LAYER_LIMIT: &str = "image.layerlimit";
pub const IMAGE_CHECKSUM: &str = "image.checksum";

pub const OCI_SESSION: &str = "oci.session";
pub const OCI_STORE: &str = "oci.store";
pub const OCI_LAYER_LIMIT: &str = "oci.layerlimit";

pub const LOCAL_SESSION: &str = "local.session";
pub const LOCAL_UNIQUE: &str = "local.unique";
pub const LOCAL_INCLUDE_PATTERNS: &str = "local.includepattern";
pub const LOCAL_FOLLOW_PATHS: &str = "local.followpaths";
pub const LOCAL_EXCLUDE_PATTERNS: &str = "local.excludepatterns";
pub const LOCAL_SHARED_KEY_HINT: &str = "local.sharedkeyhint";
pub const LOCAL_DIFFER: &str = "local.differ";
pub const LOCAL_METADATA_TRANSFER: &str = "local.metadatatransfer";
pub const LOCAL_METADATA_TRANSFER_EXCLUDE: &str = "local.metadatatransferexclude";

pub const GIT_KEEP_DIR: &str = "git.keepgitdir";
pub const GIT_FULL_URL: &str = "git.fullurl";
pub const GIT_AUTH_HEADER_SECRET: &str = "git.authheadersecret";
pub const GIT_AUTH_TOKEN_SECRET: &str = "git.authtokensecret";
pub const GIT_KNOWN_SSH_HOSTS: &str = "git.knownsshhosts";
pub const GIT_MOUNT_SSH_SOCK: &str = "git.mountsshsock";
pub const GIT_CHECKSUM: &str = "git.checksum";
pub const GIT_SKIP_SUBMODULES: &str = "git.skipsubmodules";
pub const GIT_MTIME: &str = "git.mtime";
pub const GIT_FETCH_BY_COMMIT: &str = "git.fetchbycommit";
pub const GIT_BUNDLE: &str = "git.bundle";
pub const GIT_CHECKOUT_BUNDLE: &str = "git.checkoutbundle";
pub const GIT_SIG_PUBKEY: &str = "git.sig.pubkey";
pub const GIT_SIG_REJECT_EXPIRED: &str = "git.sig.rejectexpired";
pub const GIT_SIG_REQUIRE_SIGNED_TAG: &str = "git.sig.requiresignedtag";
pub const GIT_SIG_IGNORE_SIGNED_TAG: &str = "git.sig.ignoresignedtag";

pub const HTTP_CHECKSUM: &str = "http.checksum";
pub const HTTP_FILENAME: &str = "http.filename";
pub const HTTP_PERM: &str = "http.perm";
pub const HTTP_UID: &str = "http.uid";
pub const HTTP_GID: &str = "http.gid";
pub const HTTP_AUTH_HEADER_SECRET: &str = "http.authheadersecret";
pub const HTTP_HEADER_PREFIX: &str = "http.header.";
pub const HTTP_SIG_PUBKEY: &str = "http.sig.pubkey";
pub const HTTP_SIG_SIGNATURE: &str = "http.sig.signature";

pub const BUILD_FILENAME: &str = "llbbuild.filename";
