//! What a remote says a ref stands for.

use crate::access::Access;
use crate::attrs::Attrs;
use crate::bundle::Bundle;
use crate::cli::Cli;
use crate::remote::is_commit;
use crate::{Call, Error, bundle};

/// A ref, and what it stands for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// What was asked for: the ref as given, or the default branch.
    pub(crate) asked: String,
    /// Its full name, or the commit itself.
    pub(crate) reference: String,
    /// A commit or an annotated tag.
    pub(crate) checksum: String,
    /// The commit behind an annotated tag.
    pub(crate) commit: Option<String>,
}

impl Resolved {
    /// The repository uses the longer kind of names.
    pub(crate) fn is_sha256(&self) -> bool {
        self.checksum.len() == 64
    }
}

/// Finds out what the source is about. The remote is asked at most once per build.
pub(crate) async fn resolve(attrs: &Attrs, call: &Call<'_>) -> Result<Resolved, Error> {
    let hex = |byte: u8| byte.is_ascii_hexdigit();
    if !attrs.checksum.bytes().all(hex) {
        return Err(Error::BadChecksum {
            checksum: attrs.checksum.clone(),
        });
    }
    if is_commit(&attrs.reference) {
        if !attrs.reference.starts_with(&attrs.checksum) {
            return Err(Error::Checksum {
                expected: attrs.checksum.clone(),
                actual: attrs.reference.clone(),
            });
        }
        return Ok(trusted(&attrs.reference, &attrs.reference));
    }
    if let Some(bundle) = &attrs.bundle {
        return in_bundle(bundle, attrs, call).await;
    }
    if attrs.fetch_by_commit {
        return by_commit(attrs);
    }
    let key = format!("git {}#{}", attrs.remote, attrs.reference);
    let known = call.memo.get_or_try(&key, || ask(attrs, call)).await?;
    check(attrs, &known)?;
    Ok((*known).clone())
}

fn trusted(reference: &str, commit: &str) -> Resolved {
    Resolved {
        asked: reference.to_owned(),
        reference: reference.to_owned(),
        checksum: commit.to_owned(),
        commit: None,
    }
}

fn by_commit(attrs: &Attrs) -> Result<Resolved, Error> {
    let commit = &attrs.checksum;
    if commit.is_empty() {
        return Err(Error::NoCommit);
    }
    if !is_commit(commit) {
        return Err(Error::PartialCommit {
            checksum: commit.clone(),
        });
    }
    // Names alone are branches here; the remote is not asked.
    Ok(match attrs.reference.as_str() {
        "" => trusted(commit, commit),
        full if full.starts_with("refs/") => trusted(full, commit),
        branch => trusted(&format!("refs/heads/{branch}"), commit),
    })
}

/// What a bundle says a ref stands for; a commit alone needs no look into it.
async fn in_bundle(bundle: &Bundle, attrs: &Attrs, call: &Call<'_>) -> Result<Resolved, Error> {
    let asked = attrs.reference.as_str();
    if asked.is_empty() {
        return Ok(trusted(&attrs.checksum, &attrs.checksum));
    }
    let cli = Cli::new(call, Access::default());
    let staged = bundle::stage(bundle, attrs, call, &cli).await?;
    let peeled = format!("{asked}^{{}}");
    let output = cli
        .run(&["ls-remote", "--", &staged.url(), asked, &peeled])
        .await?;
    let resolved = pick(asked, &output)?;
    check(attrs, &resolved)?;
    Ok(resolved)
}

fn check(attrs: &Attrs, resolved: &Resolved) -> Result<(), Error> {
    let wanted = attrs.checksum.as_str();
    let commit = resolved.commit.as_deref();
    if resolved.checksum.starts_with(wanted) || commit.is_some_and(|it| it.starts_with(wanted)) {
        return Ok(());
    }
    Err(Error::Checksum {
        expected: wanted.to_owned(),
        // Compat: with a tag, only what is behind it is named.
        actual: match commit {
            Some(commit) => format!(" or {commit}"),
            None => resolved.checksum.clone(),
        },
    })
}

async fn ask(attrs: &Attrs, call: &Call<'_>) -> Result<Resolved, Error> {
    let cli = Cli::new(call, Access::new(attrs, call).await?);
    let remote = attrs.remote.as_str();
    let asked = match attrs.reference.as_str() {
        "" => default_branch(&cli, attrs).await?,
        reference => reference.to_owned(),
    };
    let peeled = format!("{asked}^{{}}");
    let output = cli.run(&["ls-remote", "--", remote, &asked, &peeled]).await;
    let output =
        output.map_err(|err| err.during(format!("failed to fetch remote {}", attrs.shown())))?;
    pick(&asked, &output)
}

async fn default_branch(cli: &Cli, attrs: &Attrs) -> Result<String, Error> {
    let args = ["ls-remote", "--symref", "--", &attrs.remote, "HEAD"];
    let listed = cli.run(&args).await.map_err(|err| {
        let what = "error fetching default branch for repository";
        err.during(format!("{what} {}", attrs.shown()))
    })?;
    let branch = listed
        .lines()
        .find_map(|line| line.split_once("refs/heads/"))
        .and_then(|(_, rest)| rest.split_whitespace().next())
        .ok_or_else(|| Error::NoDefault {
            remote: attrs.shown(),
        })?;
    if branch.starts_with('-') {
        return Err(Error::BadRef {
            reference: branch.to_owned(),
        });
    }
    Ok(branch.to_owned())
}

/// The line that is meant: the full name, then a branch, then a tag.
fn pick(asked: &str, output: &str) -> Result<Resolved, Error> {
    let strip = |prefix: &str| asked.strip_prefix(prefix).unwrap_or(asked).to_owned();
    let full = format!("refs/{}", strip("refs/"));
    let branch = format!("refs/heads/{}", strip("refs/heads/"));
    let tag = format!("refs/tags/{}", strip("refs/tags/"));
    let find = |name: &str| {
        output
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .filter(|(_, reference)| *reference == name)
            .map(|(object, _)| object.to_owned())
            .next_back()
    };
    let found = match (find(&branch), find(&tag)) {
        // Compat: a full name counts only where it names neither a branch nor a tag in another way.
        _ if full != branch && full != tag && find(&full).is_some() => {
            find(&full).map(|object| (object, full, None))
        }
        (Some(object), _) => Some((object, branch, None)),
        (None, Some(object)) => {
            let commit = find(&format!("{tag}^{{}}"));
            Some((object, tag, commit))
        }
        (None, None) => None,
    };
    let Some((checksum, reference, commit)) = found else {
        return Err(Error::NoRef {
            reference: asked.to_owned(),
            output: output.to_owned(),
        });
    };
    if !is_commit(&checksum) {
        return Err(Error::BadCommit { text: checksum });
    }
    Ok(Resolved {
        asked: asked.to_owned(),
        reference,
        checksum,
        commit,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attrs::tests::parse;

    fn object(digit: char) -> String {
        digit.to_string().repeat(40)
    }

    fn lines(refs: &[(char, &str)]) -> String {
        let line = |(digit, name): &(char, &str)| format!("{}\t{name}\n", object(*digit));
        refs.iter().map(line).collect()
    }

    #[test]
    fn a_branch_goes_before_a_tag() {
        let output = lines(&[
            ('a', "refs/heads/x"),
            ('b', "refs/tags/x"),
            ('c', "refs/tags/x^{}"),
        ]);
        let found = pick("x", &output).expect("found");
        assert_eq!(
            (&*found.reference, &*found.checksum),
            ("refs/heads/x", &*object('a'))
        );
        assert_eq!(found.commit, None);
    }

    #[test]
    fn an_annotated_tag_has_a_commit() {
        let output = lines(&[('b', "refs/tags/x"), ('c', "refs/tags/x^{}")]);
        for asked in ["x", "refs/tags/x"] {
            let found = pick(asked, &output).expect("found");
            assert_eq!(found.reference, "refs/tags/x");
            assert_eq!(found.checksum, object('b'));
            assert_eq!(found.commit, Some(object('c')));
        }
    }

    #[test]
    fn any_ref_can_be_named_in_full() {
        let output = lines(&[('d', "refs/pull/1/head")]);
        let found = pick("refs/pull/1/head", &output).expect("found");
        assert_eq!(
            (&*found.reference, &*found.checksum),
            ("refs/pull/1/head", &*object('d'))
        );
    }

    #[test]
    fn what_is_not_there_is_said_with_what_is() {
        let err = pick("x", "").expect_err("nothing");
        assert_eq!(
            err.to_string(),
            "repository does not contain ref x, output: \"\""
        );
    }

    #[test]
    fn checksums_match_the_tag_or_the_commit() {
        let resolved = Resolved {
            checksum: object('b'),
            commit: Some(object('c')),
            ..Resolved::default()
        };
        let with = |checksum: &str| {
            let attrs = parse("example.com/a.git", &[("git.checksum", checksum)]);
            check(&attrs.expect("valid"), &resolved).map_err(|err| err.to_string())
        };
        assert_eq!(with("bbb"), Ok(()));
        assert_eq!(with("ccc"), Ok(()));
        let text = format!("expected checksum to match ddd, got  or {}", object('c'));
        assert_eq!(with("ddd"), Err(text));
    }
}
