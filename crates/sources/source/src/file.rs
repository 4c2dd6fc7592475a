//! A tree of a single file that came from outside.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use rustix::fs::{Timespec, Timestamps};

/// What users may say about the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Name; absent: as the source says.
    pub filename: String,
    /// Permission bits; 0: 0600.
    pub perm: i64,
    /// Owner.
    pub uid: i64,
    /// Group.
    pub gid: i64,
}

impl Options {
    /// Takes an attribute if it is one of the file. Others are `Ok(false)`.
    pub fn take(&mut self, name: &str, value: &str) -> Result<bool, crate::Error> {
        match name {
            "http.filename" => value.clone_into(&mut self.filename),
            "http.perm" => self.perm = number(value)?,
            "http.uid" => self.uid = number(value)?,
            "http.gid" => self.gid = number(value)?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// A number as Go's `ParseInt` reads it with base 0.
fn number(text: &str) -> Result<i64, crate::Error> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let parsed = if let Some(hex) = lower.strip_prefix("0x") {
        i64::from_str_radix(hex, 16)
    } else if let Some(octal) = lower.strip_prefix("0o") {
        i64::from_str_radix(octal, 8)
    } else if let Some(binary) = lower.strip_prefix("0b") {
        i64::from_str_radix(binary, 2)
    } else if lower.len() > 1 && lower.starts_with('0') {
        i64::from_str_radix(&lower, 8)
    } else {
        lower.parse()
    };
    match parsed {
        Ok(number) if !lower.contains(['+', '-']) => Ok(sign * number),
        _ => Err(crate::Error::user(format!(
            "strconv.ParseInt: parsing {text:?}: invalid syntax"
        ))),
    }
}

/// The last element of a path as a file name that can do no harm; `download` when there is none.
///
/// Compat: a path of nothing but slashes is `/`, which no file can be made of.
pub fn safe_name(text: &str) -> String {
    let text = text.trim();
    let name = text.trim_end_matches('/');
    if name.is_empty() && !text.is_empty() {
        return "/".to_owned();
    }
    let name = name.rsplit('/').next().unwrap_or(name);
    if matches!(name, "" | "." | "..") || name.chars().any(char::is_control) {
        return "download".to_owned();
    }
    name.to_owned()
}

/// Compat: of a number the kernel is told the lower half.
fn id(value: i64) -> u32 {
    u32::try_from(value & i64::from(u32::MAX)).expect("what is left has 32 bits")
}

/// What the kernel said, as Go has it: a small letter at the beginning, and no number.
fn words(err: &io::Error) -> String {
    let text = err.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(letters).collect()
}

/// A file that is being written. Blocks.
pub struct Draft {
    file: File,
}

impl Draft {
    /// Makes `dir/name`, empty, as `options` say. `dir` is empty, and nobody else's.
    ///
    /// Compat: failures are told as Go's `os.Root` does.
    pub fn new(dir: &Path, name: &str, options: &Options) -> io::Result<Self> {
        let failed = |kind, why: &str| Err(io::Error::new(kind, format!("openat {name}: {why}")));
        let perm = match u32::try_from(options.perm) {
            Ok(0) => 0o600,
            Ok(perm) if perm <= 0o777 => perm,
            _ => return failed(io::ErrorKind::InvalidInput, "unsupported file mode"),
        };
        if name.contains('/') {
            return failed(io::ErrorKind::InvalidInput, "path escapes from parent");
        }
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(dir.join(name));
        let file = match file {
            Ok(file) => file,
            Err(err) => {
                let kind = match err.kind() {
                    // A name is chosen by whoever asks.
                    io::ErrorKind::InvalidFilename => io::ErrorKind::InvalidInput,
                    kind => kind,
                };
                return failed(kind, &words(&err));
            }
        };
        if options.uid != 0 || options.gid != 0 {
            fchown(&file, Some(id(options.uid)), Some(id(options.gid)))?;
        }
        file.set_permissions(Permissions::from_mode(perm))?;
        Ok(Self { file })
    }

    /// Ends writing: the file gets this time, in seconds since the epoch.
    pub fn finish(self, modified: i64) -> io::Result<()> {
        let time = Timespec {
            tv_sec: modified,
            tv_nsec: 0,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::futimens(&self.file, &times)?;
        Ok(())
    }
}

impl Write for Draft {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.file.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn numbers_have_go_prefixes() {
        for (text, wanted) in [
            ("420", 420),
            ("0644", 0o644),
            ("0o644", 0o644),
            ("0x1F", 31),
            ("-1", -1),
            ("0", 0),
        ] {
            assert_eq!(number(text).ok(), Some(wanted), "{text}");
        }
        for text in ["", "x", "08", "--1", "0x+1"] {
            let err = number(text).err().map(|err| err.message);
            let wanted = format!("strconv.ParseInt: parsing {text:?}: invalid syntax");
            assert_eq!(err, Some(wanted));
        }
    }

    #[test]
    fn names_are_made_safe() {
        for (text, wanted) in [
            ("a.tar", "a.tar"),
            ("/x/a.tar", "a.tar"),
            ("x/", "x"),
            ("..", "download"),
            ("", "download"),
            (" a ", "a"),
            ("/", "/"),
            (" // ", "/"),
            (" ", "download"),
            ("a\nb", "download"),
        ] {
            assert_eq!(safe_name(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn the_file_has_mode_and_time() {
        let dir = tempfile::tempdir().expect("a folder");
        let options = Options {
            perm: 0o741,
            ..Options::default()
        };
        let mut draft = Draft::new(dir.path(), "f", &options).expect("a file");
        draft.write_all(b"x").expect("written");
        draft.finish(1_700_000_000).expect("finished");
        let meta = std::fs::metadata(dir.path().join("f")).expect("the file");
        assert_eq!(meta.mode() & 0o7777, 0o741);
        assert_eq!(meta.mtime(), 1_700_000_000);
    }

    #[test]
    fn modes_are_permissions_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a folder");
        for perm in [0o4741, -1, i64::MAX] {
            let options = Options {
                perm,
                ..Options::default()
            };
            let refused = Draft::new(dir.path(), "f", &options).err();
            let text = refused.map(|err| err.to_string());
            assert_eq!(text.as_deref(), Some("openat f: unsupported file mode"));
        }
        assert!(!dir.path().join("f").exists());
    }

    #[test]
    fn names_that_cannot_be_are_told_as_go_does() {
        let dir = tempfile::tempdir().expect("a folder");
        let refused = |name: &str| {
            let made = Draft::new(dir.path(), name, &Options::default());
            made.err().map(|err| err.to_string()).unwrap_or_default()
        };
        assert_eq!(refused("/"), "openat /: path escapes from parent");
        let long = "x".repeat(300);
        assert_eq!(refused(&long), format!("openat {long}: file name too long"));
    }

    #[test]
    fn owners_have_as_many_bits_as_the_kernel_takes() {
        assert_eq!(id(-2), u32::MAX - 1);
        assert_eq!(id((1 << 32) + 1), 1);
    }
}
