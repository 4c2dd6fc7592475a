//! Content keys: from the places an operation reads to one digest.

use contenthash::Query;
use diagnostics::Failure;
use oci::Digest;
use solver::Work;

use crate::Value;

/// C of the cache-key rules: the digest of all answers, in order.
pub(crate) async fn content_digest(
    work: &Work,
    value: &Value,
    queries: &[Query],
) -> Result<Digest, Failure> {
    let mut answers = Vec::with_capacity(queries.len());
    match &value.0 {
        None => {
            for query in queries {
                let answer = query
                    .on_nothing()
                    .map_err(|err| Failure::from_error(&err))?;
                answers.push(answer);
            }
        }
        Some(tree) => {
            for query in queries {
                let answer = tree.checksum(&work.cx, query).await.map_err(|err| {
                    Failure::from_error(&err).context(format_args!(
                        "failed to calculate checksum of ref {}",
                        tree.id()
                    ))
                })?;
                answers.push(answer);
            }
        }
    }
    let texts: Vec<&str> = answers.iter().map(Digest::as_str).collect();
    Ok(combined(&texts))
}

/// One digest of several texts, in order.
pub(crate) fn combined(texts: &[&str]) -> Digest {
    Digest::of(texts.join("\0"))
}

/// Keeps one of several equal paths, and none below another. `/` swallows all.
pub(crate) fn outermost(mut paths: Vec<String>) -> Vec<String> {
    paths.sort_by(|a, b| sort_key(a).cmp(sort_key(b)));
    paths.dedup();
    let mut kept: Vec<String> = Vec::with_capacity(paths.len());
    for path in paths {
        let covered = kept.iter().any(|outer| is_below(&path, outer));
        if !covered {
            kept.push(path);
        }
    }
    kept.sort();
    kept
}

fn sort_key(path: &str) -> &str {
    path.trim_end_matches('/')
}

fn is_below(path: &str, outer: &str) -> bool {
    let outer = outer.trim_end_matches('/');
    path.strip_prefix(outer)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A path made absolute and clean: no `.`, no `..`, no double or trailing slash.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_below_others_are_dropped() {
        let paths = ["/b/c", "/b", "/a", "/b/", "/bc"]
            .map(str::to_owned)
            .to_vec();
        assert_eq!(outermost(paths), ["/a", "/b", "/bc"]);
        assert_eq!(outermost(vec!["/x".into(), "/".into()]), ["/"]);
    }

    #[test]
    fn cleaning_stops_at_the_root() {
        assert_eq!(clean("a/../../b//c/."), "/b/c");
        assert_eq!(clean(""), "/");
    }
}
