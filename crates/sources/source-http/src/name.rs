//! What a downloaded file is called.

use reqwest::header::{CONTENT_DISPOSITION, HeaderMap};
use source::file::safe_name;
use url::Url;

use crate::attrs::Attrs;

/// The option, what the server says, the end of the URL, or `download`: the first there is.
pub(crate) fn of(attrs: &Attrs, headers: Option<&HeaderMap>) -> String {
    if !attrs.file.filename.is_empty() {
        return safe_name(&attrs.file.filename);
    }
    let said = headers
        .and_then(|headers| headers.get(CONTENT_DISPOSITION))
        .and_then(|value| disposition(&String::from_utf8_lossy(value.as_bytes())))
        .filter(|name| !name.is_empty() && !name.ends_with('/'));
    if let Some(name) = said {
        return safe_name(&name);
    }
    let path = Url::parse(&attrs.url)
        .ok()
        .and_then(|url| unescape(url.path()));
    // Compat: a server's root has no name, though an option or a header can say `/`.
    safe_name(path.unwrap_or_default().trim_end_matches('/'))
}

/// `%xx`; broken escapes make the whole text unusable.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

/// The file name in a `Content-Disposition`; `None` too when the header is broken.
fn disposition(header: &str) -> Option<String> {
    let (kind, mut rest) = match header.split_once(';') {
        Some((kind, rest)) => (kind, rest),
        None => (header, ""),
    };
    if !is_token(kind.trim()) {
        return None;
    }
    let (mut plain, mut extended) = (None, None);
    loop {
        rest = rest.trim_start_matches([';', ' ', '\t']);
        if rest.is_empty() {
            break;
        }
        let (name, after) = rest.split_once('=')?;
        let name = name.trim().to_ascii_lowercase();
        if !is_token(&name) {
            return None;
        }
        let (value, after) = value(after.trim_start())?;
        match name.as_str() {
            "filename" => plain = Some(value),
            "filename*" => extended = decode(&value),
            _ => {}
        }
        rest = after.trim_start();
        if !rest.is_empty() && !rest.starts_with(';') {
            return None;
        }
    }
    extended.or(plain)
}

fn is_token(text: &str) -> bool {
    let special = |byte: u8| b"()<>@,;:\\\"/[]?=".contains(&byte);
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !special(byte))
}

/// A token or a quoted text, and what follows.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([';', ' ', '\t']).unwrap_or(text.len());
        let (token, rest) = text.split_at(end);
        return (!token.is_empty()).then(|| (token.to_owned(), rest));
    };
    let mut out = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((out, &quoted[at + 1..])),
            // Only what needs it is escaped; a path of Windows is not.
            '\\' if quoted[at + 1..].starts_with(['"', '\\']) => {
                let (_, escaped) = chars.next()?;
                out.push(escaped);
            }
            '\r' | '\n' => return None,
            other => out.push(other),
        }
    }
    None
}

/// `UTF-8''na%20me`
fn decode(text: &str) -> Option<String> {
    let mut parts = text.splitn(3, '\'');
    let charset = parts.next()?.to_ascii_lowercase();
    let _language = parts.next()?;
    let known = matches!(charset.as_str(), "utf-8" | "us-ascii");
    unescape(parts.next()?).filter(|_| known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attrs::tests::parse;

    fn name(url: &str, header: Option<&str>) -> String {
        let attrs = parse(url, &[]).expect("attributes");
        let headers = header.map(|text| {
            let mut map = HeaderMap::new();
            map.insert(CONTENT_DISPOSITION, text.parse().expect("a header"));
            map
        });
        of(&attrs, headers.as_ref())
    }

    #[test]
    fn the_server_has_a_say() {
        for (header, wanted) in [
            ("attachment; filename=\"my img.jpg\"", "my img.jpg"),
            ("attachment; filename=a.txt; size=3", "a.txt"),
            ("attachment; filename=\"a\\\"b\"", "a\"b"),
            ("attachment; filename*=UTF-8''na%20me", "na me"),
            ("attachment; filename=\"../../etc/passwd\"", "passwd"),
            ("attachment; filename=\"a/\"", "file"),
            ("attachment; filename=\"a", "file"),
            ("attachment", "file"),
        ] {
            assert_eq!(
                name("http://x/dir/file?q=1", Some(header)),
                wanted,
                "{header}"
            );
        }
    }

    #[test]
    fn else_the_url_does() {
        for (url, wanted) in [
            ("http://x/dir/file.tar?x=1#y", "file.tar"),
            ("http://x/dir/", "dir"),
            ("http://x/", "download"),
            ("http://x", "download"),
            ("http://x//", "download"),
            ("http://x/a%20b", "a b"),
            ("http://x/a%0ab", "download"),
        ] {
            assert_eq!(name(url, None), wanted, "{url}");
        }
    }
}
