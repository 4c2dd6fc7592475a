//! What this machine's overlay filesystem needs to be told.

use std::path::Path;

/// Options for overlay mounts that keep layers plain: whiteouts and opaque directories, and nothing else.
///
/// `index=off` where the kernel has the switch; renames of directories and metadata-only copies are switched off
/// where the host turned them on by default, since a layer must stand for itself; `userxattr` in user namespaces.
pub fn overlay_options() -> Vec<String> {
    let mut options = Vec::new();
    let parameters = Path::new("/sys/module/overlay/parameters");
    if parameters.join("index").exists() {
        options.push("index=off".to_owned());
    }
    let is_on =
        |name| std::fs::read_to_string(parameters.join(name)).is_ok_and(|text| text.trim() == "Y");
    if is_on("metacopy") {
        options.push("metacopy=off".to_owned());
    }
    if in_user_namespace() {
        options.push("userxattr".to_owned());
    } else if is_on("redirect_dir") {
        options.push("redirect_dir=off".to_owned());
    }
    options
}

/// Whether this process may begin an overlay mount: the kernel has the filesystem, and the process the capability.
pub fn knows_overlay() -> bool {
    rustix::mount::fsopen("overlay", rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC).is_ok()
}

/// Whether the kernel knows overlay mounts that ignore fsync.
pub fn has_volatile() -> bool {
    kernel() >= (5, 10)
}

/// Whether overlayfs takes its layers one by one through the new mount API. Older kernels have the API but collect the
/// options as text, and only fail at the end.
pub(crate) fn has_layers_one_by_one() -> bool {
    kernel() >= (6, 7)
}

/// Major and minor version of the running kernel.
fn kernel() -> (u32, u32) {
    version(&rustix::system::uname().release().to_string_lossy())
}

fn version(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|part| part.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Whether this process lives in a user namespace other than the first.
pub fn in_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !is_identity(&map))
}

fn is_identity(map: &str) -> bool {
    let fields: Vec<&str> = map.split_whitespace().collect();
    fields == ["0", "0", "4294967295"]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_begins_with_its_version() {
        assert_eq!(version("6.18.44-fc-v445"), (6, 18));
        assert_eq!(version("5.10"), (5, 10));
        assert_eq!(version("6.7-rc1+"), (6, 7));
        assert_eq!(version(""), (0, 0));
    }

    #[test]
    fn only_the_full_map_is_the_first_namespace() {
        assert!(is_identity("         0          0 4294967295\n"));
        assert!(!is_identity(
            "         0       1000          1\n         1     100000      65536\n"
        ));
        assert!(!is_identity("         0          0      65536\n"));
    }
}
