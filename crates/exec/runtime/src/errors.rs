//! Messages of the system in the words container tools use.

use std::io;

/// An I/O error in lower case and without its number.
pub(crate) fn text(err: &io::Error) -> String {
    match err.raw_os_error() {
        Some(number) => errno(number),
        None => err.to_string(),
    }
}

/// The text of an error number, as C libraries know it, in lower case.
pub(crate) fn errno(number: i32) -> String {
    let text = io::Error::from_raw_os_error(number).to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    match chars.next() {
        // Not `ENOSYS`-like or `RFS` texts.
        Some(first)
            if chars
                .clone()
                .next()
                .is_some_and(|second| second.is_lowercase()) =>
        {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_like_those_of_other_tools() {
        assert_eq!(errno(libc::ENOENT), "no such file or directory");
        assert_eq!(errno(libc::ENOEXEC), "exec format error");
        assert_eq!(text(&io::Error::other("as it is")), "as it is");
    }
}
