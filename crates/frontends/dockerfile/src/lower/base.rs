//! What the records that are needed start from.

use std::collections::BTreeSet;
use std::sync::Arc;

use dockerfile_syntax::lint::Lint;
use dockerfile_syntax::suggest::{self, Case};
use dockerfile_syntax::{Kind, Span};
use frontend::ResolveOptions;
use futures::future::join_all;
use llb::build::{Image as ImageSource, Location, Options as OpOptions, State};
use oci::{Digest, Platform, Reference};

use super::Lower;
use super::plan::SCRATCH;
use crate::error::{Error, Locate, Result, ranges};
use crate::files::Files;
use crate::image::Image;
use crate::named::{Loaded, NamedContext, parse_image, parse_reference};

/// Names people mean when they misspell one.
const COMMON: [&str; 7] = [
    "alpine", "busybox", "centos", "debian", "golang", "ubuntu", "fedora",
];

/// A base that has to be looked up.
struct Wanted {
    at: usize,
    reference: Reference,
    platform: Platform,
    look_up: LookUp,
}

enum LookUp {
    /// Nobody needs it: only its name is made.
    Nothing,
    /// The stage itself is a named context.
    Stage(NamedContext),
    /// A named context takes the place of the image.
    Context(NamedContext),
    Image,
}

enum Found {
    Nothing,
    Context(Loaded),
    Image {
        reference: String,
        digest: Digest,
        image: Image,
    },
}

impl Lower<'_> {
    /// Resolves the bases of what the target needs, over and over while triggers add links. Returns what is needed.
    pub(super) async fn resolve(&mut self, target: usize) -> Result<BTreeSet<usize>> {
        loop {
            let needed = self.reach(target);
            self.resolve_bases(&needed).await?;
            let mut new_links = false;
            for &at in &needed {
                let span = self.records[at].span;
                new_links |= self.pull_triggers(at).only_at(span)?;
            }
            if !new_links {
                return Ok(needed);
            }
        }
    }

    /// The records the target needs, itself included.
    fn reach(&self, target: usize) -> BTreeSet<usize> {
        let mut needed = BTreeSet::new();
        let mut stack = vec![target];
        while let Some(at) = stack.pop() {
            if needed.insert(at) {
                stack.extend(self.records[at].extends);
                stack.extend(self.records[at].links.iter().map(|(to, _)| *to));
            }
        }
        needed
    }

    fn pull_triggers(&mut self, at: usize) -> Result<bool> {
        let record = &mut self.records[at];
        let mut triggers = std::mem::take(&mut record.image.config.on_build);
        if record.external {
            // Nothing runs there, and an image whose trigger copies from itself would never end.
            return Ok(false);
        }
        if let Some(base) = record.extends
            && !std::mem::replace(&mut record.triggered, true)
        {
            triggers.extend(self.records[base].steps.iter().filter_map(|step| {
                match &step.instruction.kind {
                    Kind::Onbuild(onbuild) => Some(onbuild.expression.clone()),
                    _ => None,
                }
            }));
        }
        if triggers.is_empty() {
            return Ok(false);
        }
        self.add_triggers(at, &triggers)
    }

    async fn resolve_bases(&mut self, needed: &BTreeSet<usize>) -> Result<()> {
        let mut wanted = Vec::new();
        for at in 0..self.records.len() {
            let record = &mut self.records[at];
            if record.extends.is_some() || record.done || record.resolved {
                continue;
            }
            record.resolved = self.all_stages || needed.contains(&at);
            if record.base == SCRATCH && record.named.is_none() {
                record.done = record.external;
                if !record.external {
                    record.image = Image::empty(&self.target_platform);
                    record.platform = Some(self.target_platform.clone());
                }
                continue;
            }
            let span = record.span;
            let unplaced = record.external && span == Span::default();
            let found = self.want(at);
            wanted.push(if unplaced { found? } else { found.at(span)? });
        }
        let this = &*self;
        let found = join_all(wanted.iter().map(|wanted| this.look_up(wanted))).await;
        for (wanted, found) in wanted.into_iter().zip(found) {
            let at = wanted.at;
            let (span, external) = (self.records[at].span, self.records[at].external);
            let outcome = found.and_then(|found| self.apply(wanted, found));
            let unplaced = external && span == Span::default();
            if unplaced {
                outcome?
            } else {
                outcome.at(span)?
            }
            self.records[at].done |= external;
        }
        Ok(())
    }

    fn want(&self, at: usize) -> Result<Wanted> {
        let record = &self.records[at];
        let quoted = || dockerfile_syntax::quote::go(&record.base);
        let reference = parse_reference(&record.base)
            .with_context(|| format!("failed to parse stage name {}", quoted()))?
            .with_default_tag();
        let platform = record
            .platform
            .as_ref()
            .unwrap_or(&self.target_platform)
            .clone();
        let look_up = if !record.resolved {
            LookUp::Nothing
        } else if let Some(context) = &record.named {
            LookUp::Stage(context.clone())
        } else if let Some(context) = self
            .files
            .named_context(&reference.to_string(), Some(&platform))?
        {
            LookUp::Context(context)
        } else {
            LookUp::Image
        };
        Ok(Wanted {
            at,
            reference,
            platform,
            look_up,
        })
    }

    async fn look_up(&self, wanted: &Wanted) -> Result<Found> {
        match &wanted.look_up {
            LookUp::Nothing => Ok(Found::Nothing),
            LookUp::Stage(context) | LookUp::Context(context) => {
                Ok(Found::Context(self.files.load_named(context).await?))
            }
            LookUp::Image => self.look_up_image(wanted).await,
        }
    }

    async fn look_up_image(&self, wanted: &Wanted) -> Result<Found> {
        let reference = wanted.reference.to_string();
        let platform = match self.files.options.platform_map {
            true => format!("{} ", wanted.platform),
            false => String::new(),
        };
        let options = ResolveOptions {
            platform: Some(wanted.platform.clone()),
            mode: self.files.options.resolve_mode.as_str().to_owned(),
            log_name: format!("[{platform}internal] load metadata for {reference}"),
            store: None,
        };
        let written = &self.records[wanted.at].base;
        let resolved = self
            .files
            .resolve_image(&reference, options)
            .await
            .map_err(|err| {
                let hint = suggest::hint(
                    written,
                    self.likely_names().iter().map(String::as_str),
                    Case::Sensitive,
                );
                Error::Hinted(Box::new(Error::InText(written.clone(), err.error)), hint)
            })?;
        let image = parse_image(&resolved.config).context("failed to parse image config")?;
        Ok(Found::Image {
            reference: resolved.reference,
            digest: resolved.digest,
            image,
        })
    }

    fn likely_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.names().map(str::to_owned).collect();
        for name in COMMON {
            // Compat: the slash is missing upstream as well (frontend/dockerfile/dockerfile2llb/convert.go).
            names.extend([
                name.to_owned(),
                format!("docker.io/library{name}"),
                format!("{name}:latest"),
                format!("docker.io/library{name}:latest"),
            ]);
        }
        names
    }

    fn apply(&mut self, wanted: Wanted, found: Found) -> Result<()> {
        let Wanted {
            at,
            reference,
            platform,
            look_up,
        } = wanted;
        match (look_up, found) {
            (LookUp::Stage(_), Found::Context(loaded)) => self.become_context(at, loaded),
            (_, Found::Context(loaded)) => self.base_on_context(at, platform, loaded),
            (_, Found::Nothing) => {
                self.records[at].base = reference.to_string();
                self.name_base(at, platform);
            }
            (
                _,
                Found::Image {
                    reference,
                    digest,
                    image,
                },
            ) => {
                let reference = parse_reference(&reference).with_context(|| {
                    format!(
                        "failed to parse ref {}",
                        dockerfile_syntax::quote::go(&reference)
                    )
                })?;
                let written = std::mem::replace(
                    &mut self.records[at].base,
                    reference.with_digest(digest).to_string(),
                );
                self.base_on_image(at, &written, platform, image);
            }
        }
        Ok(())
    }

    /// The whole stage is replaced.
    fn become_context(&mut self, at: usize, loaded: Loaded) {
        self.keep_local(at, loaded.local);
        let record = &mut self.records[at];
        record.state = loaded.state;
        record.done = true;
        if let Some(mut image) = loaded.image {
            image.created = None;
            if !image.architecture.is_empty() && !image.os.is_empty() {
                record.platform = Some(image.platform());
            }
            record.image = image;
        }
    }

    fn base_on_context(&mut self, at: usize, platform: Platform, loaded: Loaded) {
        self.keep_local(at, loaded.local);
        let mut image = loaded.image.unwrap_or_else(|| Image::empty(&platform));
        let record = &mut self.records[at];
        record.base_image = Some(Arc::new(image.clone()));
        image.created = None;
        record.image = image;
        record.state = loaded.state.platform(platform.clone());
        record.platform = Some(platform);
    }

    fn keep_local(&mut self, at: usize, local: Option<crate::named::PendingLocal>) {
        if let Some(local) = local {
            self.pending.push((self.records[at].paths, local));
        }
    }

    fn base_on_image(&mut self, at: usize, written: &str, platform: Platform, mut image: Image) {
        let record = &mut self.records[at];
        record.base_image = Some(Arc::new(image.clone()));
        image.created = None;
        let implicit = record.platform.is_none() && self.implicit_platform;
        let platform = if implicit {
            detect_platform(&image, platform, &self.files.options.build_platform)
        } else {
            platform
        };
        let empty = image.has_no_layers();
        record.image = image;
        if empty {
            record.state = State::scratch();
            record.platform = Some(platform);
            return;
        }
        self.name_base(at, platform.clone());
        let record = &self.records[at];
        let actual = record.image.platform();
        if actual.os != platform.os || actual.architecture != platform.architecture {
            let actual = actual.normalized().to_string();
            let expected = platform.normalized().to_string();
            let (actual, expected) = (actual.as_str(), expected.as_str());
            let lint = Lint::InvalidBaseImagePlatform {
                image: written,
                actual,
                expected,
            };
            self.linter.report(lint, record.span, &[]);
        }
    }

    /// Makes the FROM vertex. It takes a step number even if nobody needs it.
    fn name_base(&mut self, at: usize, platform: Platform) {
        let base = self.records[at].base.clone();
        self.count_step(at);
        let name = self.step_name(at, &format!("FROM {base}"), Some(&platform), None);
        let record = &mut self.records[at];
        let mut location = Location {
            map: self.source.map.clone(),
            ranges: Default::default(),
        };
        if record.span != Span::default() {
            location.ranges = ranges(record.span);
        }
        let options = OpOptions::named(name)
            .describe(super::name::COMMAND, record.text.clone())
            .platform(platform.clone())
            .at(location);
        let source = ImageSource {
            resolve_mode: self.files.options.resolve_mode,
            ..ImageSource::new(base)
        };
        record.state = source.state(options);
        record.platform = Some(platform);
    }
}

/// The image's own platform, if it runs here.
fn detect_platform(image: &Image, target: Platform, build: &Platform) -> Platform {
    let fits = |platform: &Platform| {
        platform.os == image.os && platform.architecture == image.architecture
    };
    if !fits(&target) && fits(build) {
        build.clone()
    } else {
        target
    }
}

impl Files {
    /// Looks an image up, once per name and platform.
    pub(crate) async fn resolve_image(
        &self,
        name: &str,
        options: ResolveOptions,
    ) -> Result<frontend::ResolvedImage> {
        let key = (name.to_owned(), options.platform.clone());
        let cell = self.resolved.lock().entry(key).or_default().clone();
        let found = cell
            .get_or_try_init(async || {
                let found = self
                    .bridge
                    .resolve_image(&self.cx, name, options.clone())
                    .await?;
                self.note_asked(name, options, &found);
                Ok::<_, diagnostics::Failure>(found)
            })
            .await?;
        Ok(found.clone())
    }
}
