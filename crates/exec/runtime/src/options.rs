//! Mount options as texts, sorted into attributes of the mount and settings of the filesystem.

/// What a list of options asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Options {
    /// `MOUNT_ATTR_…` to set.
    pub set: u64,
    /// `MOUNT_ATTR_…` to clear.
    pub clear: u64,
    /// Mounts below the source come along.
    pub recursive: bool,
    /// For the filesystem: name and value.
    pub data: Vec<(String, Option<String>)>,
}

/// Sorts options. The later of two that contradict each other wins.
pub(crate) fn parse(options: &[String]) -> Options {
    let mut parsed = Options::default();
    for option in options {
        if let Some((on, bits, within)) = attribute(option) {
            parsed.set &= !within;
            parsed.clear &= !within;
            if on {
                parsed.set |= bits;
                // The kernel wants the whole field cleared where one of several values is set.
                parsed.clear |= within & !bits | if within == bits { 0 } else { within };
            } else {
                parsed.clear |= bits;
            }
            continue;
        }
        match option.as_str() {
            "rbind" => parsed.recursive = true,
            // Kinds and propagations: every mount here is private, and what is bound is told by its type.
            "bind" | "defaults" | "private" | "rprivate" | "slave" | "rslave" | "shared"
            | "rshared" | "async" => {}
            other => parsed.data.push(match other.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (other.to_owned(), None),
            }),
        }
    }
    parsed
}

/// Whether an option sets or clears, which bits, and in which field they are.
fn attribute(option: &str) -> Option<(bool, u64, u64)> {
    use libc::{
        MOUNT_ATTR__ATIME as ATIME, MOUNT_ATTR_NOATIME as NOATIME, MOUNT_ATTR_NODEV as NODEV,
        MOUNT_ATTR_NODIRATIME as NODIRATIME, MOUNT_ATTR_NOEXEC as NOEXEC,
        MOUNT_ATTR_NOSUID as NOSUID, MOUNT_ATTR_RDONLY as RDONLY,
        MOUNT_ATTR_STRICTATIME as STRICTATIME,
    };
    let flag = |on, bit| Some((on, bit, bit));
    match option {
        "ro" => flag(true, RDONLY),
        "rw" => flag(false, RDONLY),
        "nosuid" => flag(true, NOSUID),
        "suid" => flag(false, NOSUID),
        "nodev" => flag(true, NODEV),
        "dev" => flag(false, NODEV),
        "noexec" => flag(true, NOEXEC),
        "exec" => flag(false, NOEXEC),
        "nodiratime" => flag(true, NODIRATIME),
        "diratime" => flag(false, NODIRATIME),
        "noatime" => Some((true, NOATIME, ATIME)),
        "strictatime" => Some((true, STRICTATIME, ATIME)),
        "relatime" | "atime" => Some((true, 0, ATIME)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Options {
        parse(&text.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn flags_and_settings_are_told_apart() {
        let options = parsed("nosuid strictatime mode=755 size=65536k newinstance");
        assert_eq!(
            options.set,
            libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_STRICTATIME
        );
        assert_eq!(options.clear, libc::MOUNT_ATTR__ATIME);
        let data: Vec<_> = options
            .data
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_deref()))
            .collect();
        assert_eq!(
            data,
            [
                ("mode", Some("755")),
                ("size", Some("65536k")),
                ("newinstance", None)
            ]
        );
    }

    #[test]
    fn the_later_of_two_opposites_wins() {
        assert_eq!(
            parsed("ro rw rbind"),
            Options {
                clear: 1,
                recursive: true,
                ..Options::default()
            }
        );
        assert_eq!(parsed("rw ro").set, libc::MOUNT_ATTR_RDONLY);
    }
}
