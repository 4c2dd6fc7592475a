//! Scanning results for what is in them, when the frontend did not.

use std::collections::BTreeMap;
use std::sync::Arc;

use diagnostics::Failure;
use fault::Class;
use frontend::{Attestation, Bridge as _, Reference, ResolveOptions};
use llb::build::{Defaults, Image, Mount, Options as OpOptions, Run, State};
use oci::Platform;
use proto::gateway::AttestationKind;
use provenance::Sbom;
use serde::Deserialize;
use tasks::Cx;

use crate::SolveRequest;
use crate::bridge::BuildBridge;

const OUT: &str = "/run/out/";
const SOURCE: &str = "/run/src/core/sbom";
const CORE: &str = "sbom";

/// What counts of an image's config.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Config {
    config: Program,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Program {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: String,
}

/// An image that scans.
pub(super) struct Scanner {
    reference: String,
    program: Program,
    platform: Platform,
    parameters: BTreeMap<String, String>,
    ignore_cache: bool,
}

impl Scanner {
    pub(super) async fn find(
        cx: &Cx,
        bridge: &BuildBridge,
        request: &SolveRequest,
        sbom: &Sbom,
    ) -> Result<Self, Failure> {
        let attr = |key: &str| request.frontend_attrs.get(key).map(String::as_str);
        let platforms = bridge.platforms();
        let platform = platforms.first().cloned().unwrap_or_else(Platform::host);
        let options = ResolveOptions {
            platform: Some(platform.clone()),
            mode: attr("image-resolve-mode").unwrap_or("default").to_owned(),
            ..ResolveOptions::default()
        };
        let resolved = bridge.resolve_image(cx, &sbom.generator, options).await?;
        let config: Config = serde_json::from_slice(&resolved.config)
            .map_err(|err| Failure::new(Class::User, err.to_string()))?;
        let scanner = Self {
            reference: resolved.reference,
            program: config.config,
            platform,
            parameters: sbom.parameters.clone(),
            ignore_cache: attr("no-cache") == Some(""),
        };
        if scanner.args().is_empty() {
            let text = format!("scanner {} does not have cmd", scanner.reference);
            return Err(Failure::new(Class::User, text));
        }
        Ok(scanner)
    }

    fn args(&self) -> Vec<String> {
        let parts = [&self.program.entrypoint, &self.program.cmd];
        parts.into_iter().flatten().flatten().cloned().collect()
    }

    /// Scans one result.
    pub(super) async fn scan(
        &self,
        cx: &Cx,
        bridge: &BuildBridge,
        id: &str,
        result: &Arc<dyn Reference>,
    ) -> Result<Attestation, Failure> {
        let internal = |err: llb::Error| Failure::from_error(&err);
        let target = match result.definition() {
            Some(definition) => State::from_definition(&definition).map_err(internal)?,
            None => State::scratch(),
        };
        let mut state = Image::new(&self.reference)
            .state(OpOptions::default().platform(self.platform.clone()))
            .dir(match self.program.working_dir.as_str() {
                "" => "/",
                dir => dir,
            });
        for pair in self.program.env.iter().flatten() {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            state = state.env(key, value);
        }
        state = state
            .env("BUILDKIT_SCAN_DESTINATION", OUT)
            .env("BUILDKIT_SCAN_SOURCE", SOURCE);
        for (key, value) in &self.parameters {
            state = state.env(&format!("BUILDKIT_SCAN_{key}"), value);
        }
        let run = Run::args(self.args())
            .mount(Mount::tmpfs("/tmp", 0))
            .mount(Mount::readonly(SOURCE, &target))
            .mount(Mount::bind(OUT, &State::scratch()));
        let name = format!("[{id}] generating sbom using {}", self.reference);
        let options = OpOptions::named(name).ignore_cache(self.ignore_cache);
        let scanned = state.run(run, options).output(OUT).unwrap_or_default();
        let defaults = Defaults {
            platform: self.platform.clone(),
            ..Defaults::default()
        };
        let definition = scanned.marshal(&defaults).map_err(internal)?;
        let outcome = bridge.load(cx, definition, &[], None).await?;
        let fact = |key: &str, value: &'static str| (key.to_owned(), value.into());
        Ok(Attestation {
            kind: AttestationKind::Bundle,
            metadata: BTreeMap::from([fact("reason", "sbom"), fact("sbom-core", CORE)]),
            reference: outcome.single.flatten(),
            path: String::new(),
            predicate_type: export::attestation::SPDX.to_owned(),
            subjects: Vec::new(),
        })
    }
}
