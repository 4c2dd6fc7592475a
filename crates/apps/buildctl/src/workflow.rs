//! What the environment of a workflow says about its cache service.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};

/// Fills what is not given of a cache of type gha.
pub(crate) fn fill(
    attrs: &mut BTreeMap<String, String>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<()> {
    let two = match attrs.get("version") {
        Some(version) => version == "2",
        None => {
            variable("ACTIONS_CACHE_SERVICE_V2").is_some_and(|it| fault::truth(&it) == Some(true))
        }
    };
    if two
        && !attrs.contains_key("url_v2")
        && let Some(url) = variable("ACTIONS_RESULTS_URL")
    {
        attrs.insert("url_v2".to_owned(), url);
    }
    if !attrs.contains_key("url") {
        let url = variable("ACTIONS_CACHE_URL").or_else(|| variable("ACTIONS_RESULTS_URL"));
        if let Some(url) = url {
            attrs.insert("url".to_owned(), url);
        }
    }
    if !attrs.contains_key("url") && !attrs.contains_key("url_v2") {
        bail!("cache with type gha requires url parameter to be set");
    }
    if !attrs.contains_key("token") {
        let token = variable("ACTIONS_RUNTIME_TOKEN")
            .context("cache with type gha requires token parameter or $ACTIONS_RUNTIME_TOKEN")?;
        attrs.insert("token".to_owned(), token);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(given: &[(&str, &str)], variables: &[(&str, &str)]) -> Result<String, String> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let mut attrs = given.iter().map(owned).collect();
        let variables: BTreeMap<String, String> = variables.iter().map(owned).collect();
        fill(&mut attrs, |name| variables.get(name).cloned()).map_err(|err| err.to_string())?;
        let pairs = attrs.iter().map(|(key, value)| format!("{key}={value}"));
        Ok(pairs.collect::<Vec<_>>().join(","))
    }

    #[test]
    fn a_workflow_needs_no_options() {
        let all = [
            ("ACTIONS_CACHE_URL", "one"),
            ("ACTIONS_RESULTS_URL", "two"),
            ("ACTIONS_RUNTIME_TOKEN", "t"),
        ];
        assert_eq!(filled(&[], &all).as_deref(), Ok("token=t,url=one"));
        assert_eq!(filled(&[], &all[1..]).as_deref(), Ok("token=t,url=two"));
        let two = [&all[..], &[("ACTIONS_CACHE_SERVICE_V2", "true")]].concat();
        assert_eq!(
            filled(&[], &two).as_deref(),
            Ok("token=t,url=one,url_v2=two")
        );
        assert_eq!(
            filled(&[("version", "1")], &two).as_deref(),
            Ok("token=t,url=one,version=1")
        );
    }

    #[test]
    fn what_is_given_stays() {
        let variables = [("ACTIONS_CACHE_URL", "one"), ("ACTIONS_RUNTIME_TOKEN", "t")];
        let given = [("token", "x"), ("url", "mine")];
        assert_eq!(
            filled(&given, &variables).as_deref(),
            Ok("token=x,url=mine")
        );
    }

    #[test]
    fn what_is_missing_is_told() {
        assert_eq!(
            filled(&[], &[]),
            Err("cache with type gha requires url parameter to be set".to_owned())
        );
        assert_eq!(
            filled(&[("url", "x")], &[]),
            Err(
                "cache with type gha requires token parameter or $ACTIONS_RUNTIME_TOKEN".to_owned()
            )
        );
    }
}
