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

/// Whether the kernel knows overlay mounts that ignore fsync (5.10 and later).
pub fn has_volatile() -> bool {
    let release = rustix::system::uname();
    let release = release.release().to_string_lossy();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (5, 10)
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
    fn only_the_full_map_is_the_first_namespace() {
        assert!(is_identity("         0          0 4294967295\n"));
        assert!(!is_identity(
            "         0       1000          1\n         1     100000      65536\n"
        ));
        assert!(!is_identity("         0          0      65536\n"));
    }
}
