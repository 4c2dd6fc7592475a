//! Scanning results for what is in them.

use std::collections::BTreeMap;

use frontend::{Attestation, ResolveOptions, SolveRequest};
use llb::build::{Defaults, Image as ImageSource, Mount, Options as OpOptions, Run};
use proto::gateway::AttestationKind;

use crate::error::{Locate, Result, text};
use crate::files::Files;
use crate::image::Image;
use crate::lower::Lowered;
use crate::named::parse_image;
use crate::options::Sbom;

const OUT: &str = "/run/out/";
const CORE: &str = "sbom";

/// An image that scans.
pub(crate) struct Scanner {
    reference: String,
    image: Image,
    args: Vec<String>,
    parameters: BTreeMap<String, String>,
}

impl Scanner {
    pub(crate) async fn find(files: &Files, sbom: &Sbom) -> Result<Self> {
        let options = ResolveOptions {
            platform: Some(files.options.build_platform.clone()),
            mode: files.options.attribute("image-resolve-mode").to_owned(),
            ..ResolveOptions::default()
        };
        let resolved = files.resolve_image(&sbom.generator, options).await?;
        let image = parse_image(&resolved.config)?;
        let args = [image.config.entrypoint.as_slice(), &image.config.cmd].concat();
        let reference = resolved.reference;
        if args.is_empty() {
            return Err(text(format!("scanner {reference} does not have cmd")).into());
        }
        Ok(Self {
            reference,
            image,
            args,
            parameters: sbom.parameters.clone(),
        })
    }

    /// Scans one result.
    pub(crate) async fn scan(
        &self,
        files: &Files,
        platform: &str,
        lowered: &Lowered,
    ) -> Result<Attestation> {
        let build = &files.options.build_platform;
        let extras = &lowered.scan.extras;
        let mut state = ImageSource::new(&self.reference)
            .state(OpOptions::default().platform(build.clone()))
            .dir(match self.image.config.working_dir.as_str() {
                "" => "/",
                dir => dir,
            });
        for (key, value) in self.image.env() {
            state = state.env(key, value);
        }
        let source = format!("/run/src/core/{CORE}");
        state = state
            .env("BUILDKIT_SCAN_DESTINATION", OUT)
            .env("BUILDKIT_SCAN_SOURCE", &source);
        if !extras.is_empty() {
            state = state.env("BUILDKIT_SCAN_SOURCE_EXTRAS", "/run/src/extras");
        }
        for (key, value) in &self.parameters {
            state = state.env(&format!("BUILDKIT_SCAN_{key}"), value);
        }
        let mut run = Run::args(self.args.iter().cloned())
            .mount(Mount::tmpfs("/tmp", 0))
            .mount(Mount::readonly(&source, &lowered.state))
            .mount(Mount::bind(OUT, &llb::build::State::scratch()));
        for (name, extra) in extras {
            run = run.mount(Mount::readonly(
                &format!("/run/src/extras/{CORE}-{name}"),
                extra,
            ));
        }
        let name = format!("[{platform}] generating sbom using {}", self.reference);
        let options = OpOptions::named(name).ignore_cache(lowered.scan.ignore_cache);
        let scanned = state.run(run, options).output(OUT).unwrap_or_default();
        let defaults = Defaults {
            platform: build.clone(),
            ..lowered.defaults.clone()
        };
        let definition = scanned
            .marshal(&defaults)
            .map_err(|err| text(err.to_string()))
            .context("failed to marshal LLB definition")?;
        let request = SolveRequest {
            definition: Some(definition),
            ..SolveRequest::default()
        };
        let outcome = files.bridge.solve(&files.cx, request).await?;
        let fact = |key: &str, value: &'static str| (key.to_owned(), value.into());
        Ok(Attestation {
            kind: AttestationKind::Bundle,
            metadata: BTreeMap::from([fact("reason", "sbom"), fact("sbom-core", CORE)]),
            reference: outcome.single.flatten(),
            path: String::new(),
            predicate_type: "https://spdx.dev/Document".to_owned(),
            subjects: Vec::new(),
        })
    }
}
