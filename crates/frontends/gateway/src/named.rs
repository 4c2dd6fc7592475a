//! Contexts that take the place of a frontend's image: `context:NAME=…` among the options.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use diagnostics::Failure;
use fault::Class;
use frontend::{Bridge, OciStore, Request, ResolveOptions};
use llb::build::{Local, OciLayout, Options, State};
use oci::{Platform, Reference};
use tasks::Cx;

use crate::image::{Config, Image, from_registry, solved, tree};

/// A context found under a name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Context {
    key: String,
    scheme: String,
    rest: String,
}

fn user(text: impl Into<String>) -> Failure {
    Failure::new(Class::User, text)
}

/// What the client put in the place of `source`.
pub(crate) fn find(request: &Request, source: &str) -> Result<Option<Context>, Failure> {
    let invalid = |err| user(format!("invalid context name {source}: {err}"));
    let familiar = Reference::parse(source)
        .map_err(invalid)?
        .with_default_tag()
        .familiar();
    let short = familiar.strip_suffix(":latest").unwrap_or(&familiar);
    let native = Platform::host().normalized();
    for key in [format!("{short}::{native}"), short.to_owned()] {
        let Some(value) = request.options.get(&format!("context:{key}")) else {
            continue;
        };
        let Some((scheme, rest)) = value.split_once(':') else {
            return Err(user(format!("invalid context specifier {value} for {key}")));
        };
        return Ok(Some(Context {
            key,
            scheme: scheme.to_owned(),
            rest: rest.to_owned(),
        }));
    }
    Ok(None)
}

/// The image a context is.
pub(crate) async fn load(
    cx: &Cx,
    bridge: &Arc<dyn Bridge>,
    request: &Request,
    context: &Context,
) -> Result<Image, Failure> {
    let plain = context.rest.strip_prefix("//").unwrap_or(&context.rest);
    match context.scheme.as_str() {
        "docker-image" => from_registry(cx, bridge, plain).await,
        "oci-layout" => from_layout(cx, bridge, request, context, plain).await,
        "input" => from_input(cx, bridge, request, context).await,
        "local" => {
            let state = Local {
                shared_key_hint: format!("context:{}", context.key),
                ..Local::new(context.rest.clone())
            }
            .state(Options::named(format!(
                "[context {}] load from client",
                context.key
            )));
            bare(cx, bridge, &state).await
        }
        other => Err(user(format!(
            "unsupported context source {other} for {}",
            context.key
        ))),
    }
}

/// A tree without a configuration.
async fn bare(cx: &Cx, bridge: &Arc<dyn Bridge>, state: &State) -> Result<Image, Failure> {
    Ok(Image {
        tree: tree(cx, bridge, state).await?,
        ..Image::default()
    })
}

async fn from_layout(
    cx: &Cx,
    bridge: &Arc<dyn Bridge>,
    request: &Request,
    context: &Context,
    written: &str,
) -> Result<Image, Failure> {
    let no_digest = || user(format!("oci-layout reference {written:?} has no digest"));
    let (store, digest) = written.split_once('@').ok_or_else(no_digest)?;
    let digest = digest
        .parse()
        .map_err(|err: oci::DigestError| user(err.to_string()))?;
    let name = context.key.split("::").next().unwrap_or_default();
    let shown = Reference::parse(name)
        .map_err(|err| {
            user(format!(
                "could not parse oci-layout reference {name:?}: {err}"
            ))
        })?
        .with_digest(digest)
        .to_string();
    let options = ResolveOptions {
        log_name: format!("[context {}] load metadata for {shown}", context.key),
        store: Some(OciStore {
            session: request.session.clone(),
            store: store.to_owned(),
        }),
        ..ResolveOptions::default()
    };
    let resolved = bridge.resolve_image(cx, &shown, options).await?;
    let state = OciLayout {
        reference: shown,
        session: request.session.clone(),
        store: store.to_owned(),
    }
    .state(Options::named(format!(
        "[context {}] OCI load from client",
        context.key
    )));
    Ok(Image {
        config: Config::parse(&resolved.config)?,
        digest: Some(resolved.digest),
        tree: tree(cx, bridge, &state).await?,
    })
}

async fn from_input(
    cx: &Cx,
    bridge: &Arc<dyn Bridge>,
    request: &Request,
    context: &Context,
) -> Result<Image, Failure> {
    let name = &context.rest;
    let Some(definition) = request.inputs.get(name) else {
        return Err(user(format!("invalid input {name} for {}", context.key)));
    };
    let mut image = Image {
        tree: solved(cx, bridge, definition.clone()).await?,
        ..Image::default()
    };
    let metadata = request.options.get(&format!("input-metadata:{name}"));
    let Some(metadata) = metadata else {
        return Ok(image);
    };
    let failed = |why: String| user(format!("failed to parse input metadata {metadata}: {why}"));
    let values: BTreeMap<String, String> =
        serde_json::from_str(metadata).map_err(|err| failed(err.to_string()))?;
    if let Some(config) = values.get("containerimage.config") {
        let config = base64::engine::general_purpose::STANDARD
            .decode(config)
            .map_err(|err| failed(err.to_string()))?;
        image.config = Config::parse(&config)?;
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(options: &[(&str, &str)], source: &str) -> Option<(String, String)> {
        let options = options.iter();
        let request = Request {
            options: options
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            ..Request::default()
        };
        let context = find(&request, source).expect("names are right")?;
        Some((context.scheme, context.rest))
    }

    #[test]
    fn contexts_are_found_by_the_short_name() {
        let options = [("context:docker/dockerfile", "input:mine")];
        let mine = Some(("input".to_owned(), "mine".to_owned()));
        for source in ["docker/dockerfile", "docker.io/docker/dockerfile:latest"] {
            assert_eq!(found(&options, source), mine, "{source}");
        }
        assert_eq!(found(&options, "docker/dockerfile:1"), None);
    }

    #[test]
    fn a_context_needs_a_scheme() {
        let request = Request {
            options: BTreeMap::from([("context:a".to_owned(), "b".to_owned())]),
            ..Request::default()
        };
        let err = find(&request, "a").expect_err("no scheme");
        assert_eq!(err.to_string(), "invalid context specifier b for a");
    }
}
