//! Named contexts: images, repositories, directories and inputs that take the place of a name.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use base64::Engine as _;
use frontend::{OciStore, ResolveOptions};
use llb::build::{
    Http, Image as ImageSource, Later, Local, OciLayout, Options as OpOptions, State,
};
use oci::{Platform, Reference};

use crate::error::{Error, Locate, Result, Trouble, text};
use crate::explain::Directory;
use crate::files::{Files, IGNORE_FILE};
use crate::git_ref;
use crate::image::Image;

/// How often one may be turned into another.
const MAX_TURNS: usize = 10;

/// A named context that was asked for and exists.
#[derive(Debug, Clone)]
pub(crate) struct NamedContext {
    /// The name that was looked up.
    name: String,
    /// The name under which it was found, perhaps with a platform.
    key: String,
    value: String,
    platform: Option<Platform>,
}

/// What a named context is.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) state: State,
    pub(crate) image: Option<Image>,
    pub(crate) local: Option<PendingLocal>,
}

/// A directory of which it is not yet known what is needed.
#[derive(Debug)]
pub(crate) struct PendingLocal {
    later: Later,
    local: Local,
    name: String,
    /// Whole, for looking at what is there.
    pub(crate) directory: Arc<Directory>,
}

impl PendingLocal {
    /// Only these paths are needed; none: all.
    pub(crate) fn resolve(mut self, follow: Vec<String>) {
        self.local.follow_paths = follow;
        self.later
            .set(&self.local.state(OpOptions::named(self.name)));
    }
}

/// The state an image config describes, on the tree of `state`.
pub(crate) fn with_image(mut state: State, image: &Image) -> State {
    for (key, value) in image.env().filter(|(key, _)| !key.is_empty()) {
        state = state.env(key, value);
    }
    let dir = match image.config.working_dir.as_str() {
        dir if dir.starts_with('/') => dir.to_owned(),
        dir => crate::paths::rooted(dir).into_owned(),
    };
    state = state.dir(&dir);
    if !image.architecture.is_empty() && !image.os.is_empty() {
        state = state.platform(image.platform());
    }
    state
}

/// Whether nobody needs to parse the name to know that it is a reference. May say no of one that is.
pub(crate) fn is_plainly_valid(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..64).contains(&name.len()) && name.bytes().all(plain)
}

impl Files {
    /// Looks for a context that replaces `name` on `platform`.
    pub(crate) fn named_context(
        &self,
        name: &str,
        platform: Option<&Platform>,
    ) -> Result<Option<NamedContext>> {
        if ["scratch", "context"]
            .iter()
            .any(|reserved| name.eq_ignore_ascii_case(reserved))
        {
            return Ok(None);
        }
        if self.has_no_contexts() && is_plainly_valid(name) {
            return Ok(None);
        }
        let named =
            parse_reference(name).with_context(|| format!("invalid context name {name}"))?;
        let familiar = named.familiar();
        let short = familiar.strip_suffix(":latest").unwrap_or(&familiar);
        let wanted = platform
            .cloned()
            .unwrap_or_else(Platform::host)
            .normalized();
        for key in [format!("{short}::{wanted}"), short.to_owned()] {
            if let Some(value) = self.options.attributes.get(&format!("context:{key}")) {
                return Ok(Some(NamedContext {
                    name: short.to_owned(),
                    key,
                    value: value.clone(),
                    platform: platform.cloned(),
                }));
            }
        }
        Ok(None)
    }

    fn has_no_contexts(&self) -> bool {
        const PREFIX: &str = "context:";
        let from = (Bound::Included(PREFIX), Bound::Unbounded);
        let mut known = self.options.attributes.range::<str, _>(from);
        known.next().is_none_or(|(key, _)| !key.starts_with(PREFIX))
    }

    /// Makes a tree of a named context. A policy of the client may turn an image into something else.
    pub(crate) async fn load_named(&self, context: &NamedContext) -> Result<Loaded> {
        self.note_other();
        let mut context = context.clone();
        for _ in 0..=MAX_TURNS {
            match self.load_as(&context).await {
                Err(trouble) => context.value = turned_into(trouble)?,
                loaded => return loaded,
            }
        }
        Err(text(format!(
            "context recursion limit exceeded; this may indicate a cycle in the provided source policies: {}",
            context.value
        ))
        .into())
    }

    async fn load_as(&self, context: &NamedContext) -> Result<Loaded> {
        let NamedContext { key, value, .. } = context;
        let Some((scheme, rest)) = value.split_once(':') else {
            return Err(text(format!("invalid context specifier {value} for {key}")).into());
        };
        let plain = |state| Loaded {
            state,
            image: None,
            local: None,
        };
        match scheme {
            "docker-image" => self.image_context(context, rest).await,
            _ if scheme == "git" || scheme.starts_with("git@") => match git_ref::parse(value) {
                Some(git) => Ok(plain(self.git_context(&git?, value, false))),
                None => Err(text(format!("invalid git context {value}")).into()),
            },
            "http" | "https" => {
                if let Some(git) = git_ref::parse(value) {
                    return Ok(plain(self.git_context(&git?, value, false)));
                }
                let source = Http {
                    url: value.clone(),
                    filename: "context".to_owned(),
                    ..Http::default()
                };
                Ok(plain(source.state(OpOptions::named(format!(
                    "[context {key}] {value}"
                )))))
            }
            "oci-layout" => self.layout_context(context, rest).await,
            "local" => self.local_context(context, rest).await,
            "input" => self.input_context(context, rest),
            other => Err(text(format!("unsupported context source {other} for {key}")).into()),
        }
    }

    async fn image_context(&self, context: &NamedContext, rest: &str) -> Result<Loaded> {
        let written = rest.strip_prefix("//").unwrap_or(rest);
        if written == "scratch" {
            return Ok(Loaded {
                state: State::scratch(),
                image: None,
                local: None,
            });
        }
        let named = parse_reference(written)?.with_default_tag();
        let options = ResolveOptions {
            platform: context.platform.clone(),
            mode: self.options.resolve_mode.as_str().to_owned(),
            log_name: format!("[context {}] load metadata for {written}", context.key),
            store: None,
        };
        let resolved = self
            .bridge
            .resolve_image(&self.cx, &named.to_string(), options)
            .await?;
        let mut image = parse_image(&resolved.config)?;
        image.created = None;
        let mut options = OpOptions::named(format!("[context {}] {written}", context.key));
        options.platform = context.platform.clone().map(Arc::new);
        // Compat: the digest is left out on purpose, as upstream does (frontend/dockerui/namedcontext.go).
        let state = ImageSource::new(resolved.reference).state(options);
        Ok(Loaded {
            state: with_image(state, &image),
            image: Some(image),
            local: None,
        })
    }

    async fn layout_context(&self, context: &NamedContext, rest: &str) -> Result<Loaded> {
        let written = rest.strip_prefix("//").unwrap_or(rest);
        let unreadable = || {
            let what = format!("could not parse oci-layout reference {}", quoted(written));
            text(format!("{what}: invalid reference format"))
        };
        let (name, digest) = split_reference(written).ok_or_else(unreadable)?;
        let Some(digest) = digest else {
            let what = format!("oci-layout reference {} has no digest", quoted(written));
            return Err(text(what).into());
        };
        let digest = digest.parse().map_err(|_| unreadable())?;
        let shown = parse_reference(&context.name)
            .with_context(|| {
                format!(
                    "could not parse oci-layout reference {}",
                    quoted(&context.name)
                )
            })?
            .with_digest(digest)
            .to_string();
        let session = self.session().to_owned();
        let options = ResolveOptions {
            platform: context.platform.clone(),
            mode: String::new(),
            log_name: format!("[context {}] load metadata for {shown}", context.key),
            store: Some(OciStore {
                session: session.clone(),
                store: name.clone(),
            }),
        };
        let resolved = self.bridge.resolve_image(&self.cx, &shown, options).await?;
        let image =
            parse_image(&resolved.config).context("could not parse oci-layout image config")?;
        let mut options =
            OpOptions::named(format!("[context {}] OCI load from client", context.key));
        options.platform = context.platform.clone().map(Arc::new);
        let source = OciLayout {
            reference: shown,
            session,
            store: name,
        };
        let state = with_image(source.state(options), &image);
        Ok(Loaded {
            state,
            image: Some(image),
            local: None,
        })
    }

    async fn local_context(&self, context: &NamedContext, name: &str) -> Result<Loaded> {
        let key = &context.key;
        let session = self.session_of(name);
        let ignore = Local {
            session: session.clone(),
            follow_paths: vec![IGNORE_FILE.to_owned()],
            shared_key_hint: format!("context:{key}-{IGNORE_FILE}"),
            without_differ: true,
            ..Local::new(name)
        };
        let ignore = ignore.state(OpOptions::named(format!(
            "[context {key}] load {IGNORE_FILE}"
        )));
        let reference = self.solve(&ignore, true).await?;
        // Most directories have none; that is no reason to fail.
        let data = self
            .read(reference.as_ref(), IGNORE_FILE, None)
            .await
            .unwrap_or_default();
        let exclude = fstree::ignore::parse(&data)
            .map_err(|err| text(err.to_string()))
            .context("failed parsing .dockerignore")?;
        let directory = Directory {
            local: name.to_owned(),
            session: session.clone(),
            ignore_name: format!("{IGNORE_FILE} of context {key}"),
            ignore: data,
        };
        let hint = self.options.attribute(&format!("sharedkey:localdir:{key}"));
        let local = Local {
            session,
            exclude,
            shared_key_hint: format!("context:{key}-{hint}"),
            ..Local::new(name)
        };
        let (state, later) = State::later();
        let name = format!("[context {key}] load from client");
        let pending = PendingLocal {
            later,
            local,
            name,
            directory: Arc::new(directory),
        };
        Ok(Loaded {
            state,
            image: None,
            local: Some(pending),
        })
    }

    fn input_context(&self, context: &NamedContext, name: &str) -> Result<Loaded> {
        let Some(state) = self.input(name)? else {
            return Err(text(format!("invalid input {name} for {}", context.key)).into());
        };
        let Some(metadata) = self
            .options
            .attributes
            .get(&format!("input-metadata:{name}"))
        else {
            return Ok(Loaded {
                state,
                image: None,
                local: None,
            });
        };
        let failed = |reason: String| {
            text(format!(
                "failed to parse input metadata {metadata}: {reason}"
            ))
        };
        let values: BTreeMap<String, String> =
            serde_json::from_str(metadata).map_err(|err| failed(err.to_string()))?;
        let Some(config) = values.get("containerimage.config") else {
            return Ok(Loaded {
                state,
                image: None,
                local: None,
            });
        };
        let config = base64::engine::general_purpose::STANDARD
            .decode(config)
            .map_err(|err| failed(err.to_string()))?;
        let image = parse_image(&config)
            .with_context(|| format!("failed to parse image config for {}", context.key))?;
        Ok(Loaded {
            state: with_image(state, &image),
            image: Some(image),
            local: None,
        })
    }
}

/// What an image was turned into, as the value of a context; any other trouble stays.
fn turned_into(trouble: Trouble) -> Result<String> {
    let identifier = match &*trouble.error {
        Error::Build(failure) => failure
            .text()
            .split_once("ref mutated by policy to non-image: "),
        _ => None,
    };
    let identifier = identifier.and_then(|(_, change)| change.split_once(" -> "));
    let Some((_, identifier)) = identifier else {
        return Err(trouble);
    };
    match identifier.split_once("://") {
        Some((scheme, rest)) => Ok(format!("{scheme}:{rest}")),
        None => Err(text(format!("could not parse ref: {identifier}")).into()),
    }
}

/// Reads an image config.
pub(crate) fn parse_image(config: &[u8]) -> Result<Image> {
    serde_json::from_slice(config).map_err(|err| Error::Text(err.to_string()).into())
}

/// Completes an image name.
pub(crate) fn parse_reference(name: &str) -> std::result::Result<Reference, Error> {
    Reference::parse(name).map_err(|err| text(err.to_string()))
}

/// Name and digest of a reference as written: nothing is completed.
fn split_reference(text: &str) -> Option<(String, Option<String>)> {
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => (name, Some(digest.to_owned())),
        None => (text, None),
    };
    let last = name.rfind('/').map_or(0, |at| at + 1);
    let name = match name[last..].find(':') {
        Some(at) => &name[..last + at],
        None => name,
    };
    (!name.is_empty()).then(|| (name.to_owned(), digest))
}

fn quoted(text: &str) -> String {
    dockerfile_syntax::quote::go(text).to_string()
}
