//! Addresses of git repositories in one form.

/// What an address of a git repository stands for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct GitAddress {
    remote: String,
    reference: String,
    subdir: String,
}

impl GitAddress {
    /// Reads an address; `None` when it is none of a git repository.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (address, query) = address.split_once('?').unwrap_or((address, ""));
        let web = address.starts_with("https://") || address.starts_with("http://");
        let scheme = ["git://", "ssh://"]
            .iter()
            .any(|scheme| address.starts_with(scheme));
        let short = address.starts_with("github.com/");
        let scp = !address.contains("://")
            && address
                .split_once(':')
                .is_some_and(|(host, _)| host.contains('@') && !host.contains('/'));
        let is_git = scheme || short || scp || (web && address.ends_with(".git"));
        if !is_git {
            return None;
        }
        let mut remote = address.to_owned();
        if short {
            remote = format!("https://{address}");
        }
        let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
        let (mut reference, mut subdir) = (reference.to_owned(), subdir.to_owned());
        for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            match key {
                "ref" | "commit" | "checksum" if reference.is_empty() => {
                    value.clone_into(&mut reference);
                }
                "tag" => reference = format!("refs/tags/{value}"),
                "branch" => reference = format!("refs/heads/{value}"),
                "subdir" => value.clone_into(&mut subdir),
                _ => {}
            }
        }
        Some(Self {
            remote,
            reference,
            subdir: subdir.trim_matches('/').to_owned(),
        })
    }

    /// The repository and what of it, without the directory.
    pub(crate) fn whole(&self) -> String {
        match self.reference.as_str() {
            "" => self.remote.clone(),
            reference => format!("{}#{reference}", self.remote),
        }
    }

    /// The same with the directory.
    pub(crate) fn full(&self) -> String {
        match self.subdir.as_str() {
            "" => self.whole(),
            subdir => format!("{}#{}:{subdir}", self.remote, self.reference),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_have_one_form() {
        for (text, whole, full) in [
            (
                "https://h/r.git#main:a/b/",
                "https://h/r.git#main",
                "https://h/r.git#main:a/b",
            ),
            (
                "https://h/r.git?tag=v1&subdir=d",
                "https://h/r.git#refs/tags/v1",
                "https://h/r.git#refs/tags/v1:d",
            ),
            (
                "https://h/r.git#:d",
                "https://h/r.git",
                "https://h/r.git#:d",
            ),
            ("git@h:r#x", "git@h:r#x", "git@h:r#x"),
        ] {
            let address = GitAddress::parse(text).expect("a repository");
            assert_eq!(
                (address.whole().as_str(), address.full().as_str()),
                (whole, full)
            );
        }
        assert_eq!(GitAddress::parse("https://h/x.tar"), None);
        assert_eq!(GitAddress::parse("input:base"), None);
    }
}
