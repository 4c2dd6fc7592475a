//! Bringing in the image of a frontend.

use std::collections::BTreeMap;
use std::sync::Arc;

use diagnostics::Failure;
use fault::Class;
use frontend::{Bridge, Reference as Tree, Request, ResolveOptions, SolveRequest};
use llb::build::{Defaults, Image as Source, Options, State};
use oci::{Digest, Reference};
use serde::Deserialize;
use tasks::Cx;

use crate::named;

/// The image of a frontend.
#[derive(Clone, Default)]
pub(crate) struct Image {
    pub(crate) config: Config,
    pub(crate) digest: Option<Digest>,
    /// `None`: nothing in it.
    pub(crate) tree: Option<Arc<dyn Tree>>,
}

/// What its configuration says about running it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Config {
    pub(crate) env: Option<Vec<String>>,
    pub(crate) entrypoint: Option<Vec<String>>,
    pub(crate) working_dir: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) labels: BTreeMap<String, String>,
}

fn nullable<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Config {
    /// From the configuration of an image.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, Failure> {
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Document {
            config: Option<Config>,
        }
        let document: Document = serde_json::from_slice(json).map_err(|err| {
            let text = format!("failed to read the configuration of the frontend: {err}");
            Failure::new(Class::User, text)
        })?;
        Ok(document.config.unwrap_or_default())
    }
}

/// The image named `source`, or what the client put in its place.
pub(crate) async fn load(
    cx: &Cx,
    bridge: &Arc<dyn Bridge>,
    request: &Request,
    source: &str,
) -> Result<Image, Failure> {
    match named::find(request, source)? {
        Some(context) => named::load(cx, bridge, request, &context).await,
        None => from_registry(cx, bridge, source).await,
    }
}

/// An image of a registry, its configuration first.
pub(crate) async fn from_registry(
    cx: &Cx,
    bridge: &Arc<dyn Bridge>,
    source: &str,
) -> Result<Image, Failure> {
    let user = |err: oci::ReferenceError| Failure::new(Class::User, err.to_string());
    let name = Reference::parse(source).map_err(user)?.with_default_tag();
    let resolved = bridge
        .resolve_image(cx, &name.to_string(), ResolveOptions::default())
        .await?;
    let mut name = Reference::parse(&resolved.reference).map_err(user)?;
    name = name.with_digest(resolved.digest.clone());
    let state = Source {
        record_type: "frontend".to_owned(),
        ..Source::new(name.to_string())
    }
    .state(Options::default());
    Ok(Image {
        config: Config::parse(&resolved.config)?,
        digest: Some(resolved.digest),
        tree: tree(cx, bridge, &state).await?,
    })
}

/// The result of a graph.
pub(crate) async fn tree(
    cx: &Cx,
    bridge: &Arc<dyn Bridge>,
    state: &State,
) -> Result<Option<Arc<dyn Tree>>, Failure> {
    let definition = state
        .marshal(&Defaults::default())
        .map_err(|err| Failure::from_error(&err))?;
    solved(cx, bridge, definition).await
}

/// The result of a definition.
pub(crate) async fn solved(
    cx: &Cx,
    bridge: &Arc<dyn Bridge>,
    definition: proto::pb::Definition,
) -> Result<Option<Arc<dyn Tree>>, Failure> {
    let request = SolveRequest {
        definition: Some(definition),
        ..SolveRequest::default()
    };
    let outcome = bridge.solve(cx, request).await?;
    outcome
        .single
        .ok_or_else(|| Failure::new(Class::User, "gateway source didn't return default result"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_may_say_little() {
        let config = Config::parse(br#"{"config":{"Labels":null,"Env":null}}"#).expect("read");
        assert!(config.labels.is_empty() && config.env.is_none());
        assert!(Config::parse(b"{}").is_ok());
        assert!(Config::parse(b"x").is_err());
    }
}
