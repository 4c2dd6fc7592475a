//! Which hierarchies there are, and where.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::Kind;

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// Mount point on the host.
    pub root: PathBuf,
    /// Name of the mount point.
    pub name: String,
    /// Controllers with other names than the mount point.
    pub aliases: Vec<String>,
    /// All controllers.
    pub controllers: Vec<String>,
    /// What it is.
    pub kind: Kind,
}

impl Hierarchy {
    /// Whether a controller is on it.
    pub(crate) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }
}

/// All hierarchies of the host.
#[derive(Debug, Default)]
pub(crate) struct Hierarchies {
    list: Vec<Hierarchy>,
    /// Directories that are set up for groups below them.
    ready: Mutex<HashSet<PathBuf>>,
    /// Device rules of unified groups.
    pub(super) programs: super::bpf::Programs,
}

/// What may stand among the options of an old hierarchy without being a controller.
const NOT_CONTROLLERS: [&str; 6] = [
    "rw",
    "ro",
    "xattr",
    "clone_children",
    "noprefix",
    "cpuset_v2_mode",
];

impl Hierarchies {
    /// Those of this machine.
    pub(crate) fn probe() -> Self {
        Self::parse(&std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default())
    }

    /// Those of a mount table.
    pub(crate) fn parse(mountinfo: &str) -> Self {
        let mut list: Vec<Hierarchy> = Vec::new();
        for line in mountinfo.lines() {
            let Some((place, what)) = line.split_once(" - ") else {
                continue;
            };
            let Some(root) = place.split(' ').nth(4) else {
                continue;
            };
            let mut what = what.split(' ');
            let kind = what.next().unwrap_or_default();
            let options = what.nth(1).unwrap_or_default();
            if !root.starts_with("/sys/fs/cgroup") {
                continue;
            }
            let hierarchy = match kind {
                "cgroup" => old(root, options),
                "cgroup2" if root == "/sys/fs/cgroup" => unified(root, Kind::Unified),
                "cgroup2" => unified(root, Kind::Beside),
                _ => continue,
            };
            // A later mount covers an earlier one at the same place, and all below it.
            list.retain(|earlier| !earlier.root.starts_with(&hierarchy.root));
            list.push(hierarchy);
        }
        Self {
            list,
            ..Self::default()
        }
    }

    /// Whether groups can be made below a directory.
    pub(super) fn is_ready(&self, parent: &Path) -> bool {
        self.ready.lock().contains(parent)
    }

    /// Groups can be made below a directory from now on.
    pub(super) fn set_ready(&self, parent: &Path) {
        self.ready.lock().insert(parent.to_owned());
    }

    /// Whether there is only the unified one.
    pub(crate) fn is_unified(&self) -> bool {
        self.list
            .iter()
            .any(|hierarchy| hierarchy.kind == Kind::Unified)
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Hierarchy> {
        self.list.iter()
    }
}

fn unified(root: &str, kind: Kind) -> Hierarchy {
    let root = PathBuf::from(root);
    let name = base(&root);
    Hierarchy {
        root,
        name,
        aliases: Vec::new(),
        controllers: Vec::new(),
        kind,
    }
}

fn old(root: &str, options: &str) -> Hierarchy {
    let root = PathBuf::from(root);
    let name = base(&root);
    let controllers: Vec<String> = options
        .split(',')
        .filter(|option| !NOT_CONTROLLERS.contains(option) && !option.starts_with("release_agent="))
        .map(|option| option.strip_prefix("name=").unwrap_or(option).to_owned())
        .collect();
    let aliases = if controllers.len() > 1 {
        controllers
            .iter()
            .filter(|&controller| *controller != name)
            .cloned()
            .collect()
    } else {
        Vec::new()
    };
    Hierarchy {
        root,
        name,
        aliases,
        controllers,
        kind: Kind::Old,
    }
}

fn base(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Where a group is below a hierarchy's root. The systemd form `slice:prefix:name` becomes the directories systemd
/// would make of it.
pub(crate) fn relative(path: &str) -> PathBuf {
    let mut parts = path.splitn(3, ':');
    let (Some(slice), Some(prefix), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
        return PathBuf::from(path);
    };
    let mut dir = PathBuf::new();
    // `a-b.slice` lives in `a.slice`.
    let stem = slice.trim_end_matches(".slice");
    let mut so_far = String::new();
    for part in stem.split('-').filter(|part| !part.is_empty()) {
        if !so_far.is_empty() {
            so_far.push('-');
        }
        so_far.push_str(part);
        dir.push(format!("{so_far}.slice"));
    }
    dir.push(if prefix.is_empty() {
        format!("{name}.scope")
    } else {
        format!("{prefix}-{name}.scope")
    });
    dir
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
23 27 0:22 / /sys rw,relatime - sysfs sysfs rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:7 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn old_hierarchies_and_the_one_beside_them_are_found() {
        let all = Hierarchies::parse(HYBRID);
        assert!(!all.is_unified());
        let found: Vec<_> = all
            .iter()
            .map(|h| (h.name.as_str(), h.controllers.join("+"), h.kind))
            .collect();
        assert_eq!(
            found,
            [
                ("cpu,cpuacct", "cpu+cpuacct".to_owned(), Kind::Old),
                ("memory", "memory".to_owned(), Kind::Old),
                ("systemd", "systemd".to_owned(), Kind::Old),
                ("unified", String::new(), Kind::Beside),
            ]
        );
        assert_eq!(
            all.iter().next().map(|h| h.aliases.clone()),
            Some(vec!["cpu".to_owned(), "cpuacct".to_owned()])
        );
    }

    #[test]
    fn a_unified_hierarchy_mounted_over_the_old_ones_is_all_there_is() {
        let text = format!("{HYBRID}50 23 0:39 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        let all = Hierarchies::parse(&text);
        assert!(all.is_unified());
        assert_eq!(all.iter().count(), 1);
    }

    #[test]
    fn a_systemd_name_becomes_its_directories() {
        let at = |path: &str| relative(path).display().to_string();
        assert_eq!(at("buildkit/x"), "buildkit/x");
        assert_eq!(at("a.slice:buildkit:x"), "a.slice/buildkit-x.scope");
        assert_eq!(
            at("a-b.slice:buildkit:x"),
            "a.slice/a-b.slice/buildkit-x.scope"
        );
    }
}
