//! What is said about a build's results: what frontends say, what is in them, and where they come from.

mod draft;
mod layers;
mod origins;
mod sbom;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use bytes::Bytes;
use diagnostics::Failure;
use executor::usage::MachineUsage;
use export::attestation::{Attestation, Content, Named, SPDX, Subject};
use export::{Input, Part};
use fault::Class;
use frontend::{Outcome, Reference};
use proto::gateway::{AttestationKind, InTotoSubject, InTotoSubjectKind};
use provenance::{Capture, Environment, Mode, Options, Predicate, Run, Wanted};
use tasks::Cx;

use crate::SolveRequest;
use crate::bridge::BuildBridge;
use crate::reference::LazyReference;
use draft::Draft;
use layers::{Known, KnownLayers};

pub(crate) use draft::Drafts;

/// Behaviour that a client gets that does not ask for another one.
const CURRENT: u32 = 30;

/// When the build began, and when its first document was made.
#[derive(Debug)]
pub(crate) struct Times {
    id: String,
    started: SystemTime,
    finished: OnceLock<SystemTime>,
    machine: MachineUsage,
}

impl Times {
    /// A build that begins now.
    pub(crate) fn begin() -> Self {
        Self {
            id: identity::new_id(),
            started: SystemTime::now(),
            finished: OnceLock::new(),
            machine: MachineUsage::default(),
        }
    }

    /// Watches the machine, for as long as this is polled.
    pub(crate) async fn watch(&self) -> std::convert::Infallible {
        self.machine.watch().await
    }

    /// What the machine did since the build began. Blocking.
    fn usage(&self) -> Vec<serde_json::Value> {
        let samples = self.machine.samples();
        let values = samples.iter().map(serde_json::to_value);
        values.filter_map(Result::ok).collect()
    }

    fn run(&self) -> Run {
        let finished = self.finished.get_or_init(SystemTime::now);
        Run {
            id: self.id.clone(),
            started: self.started.into(),
            finished: (*finished).into(),
        }
    }
}

/// Everything there is to say about the results of one build.
pub(crate) struct Accounts<'a> {
    pub(crate) bridge: &'a BuildBridge,
    pub(crate) request: &'a SolveRequest,
    pub(crate) wanted: &'a Wanted,
    pub(crate) environment: &'a Arc<Environment>,
    pub(crate) times: Arc<Times>,
}

/// A result with what is known about where it comes from.
pub(crate) struct Account {
    id: String,
    capture: Capture,
    reference: Arc<dyn Reference>,
}

impl Accounts<'_> {
    /// Adds what is said to what is exported. All results must have been computed. Answers what goes on record.
    pub(crate) async fn attach(
        &self,
        cx: &Cx,
        outcome: &Outcome,
        input: &mut Input,
    ) -> Result<Vec<Account>, Failure> {
        for (id, said) in &outcome.attestations {
            for one in said {
                let one = given(cx, one).await?;
                input.attestations.entry(id.clone()).or_default().push(one);
            }
        }
        let keeps = !self.request.internal;
        if self.wanted.provenance.is_none() && self.wanted.sbom.is_none() && !keeps {
            return Ok(Vec::new());
        }
        let parts = match input.parts() {
            Ok(parts) => parts,
            // Whoever exports it says so.
            Err(_) if self.wanted.provenance.is_none() && self.wanted.sbom.is_none() => {
                return Ok(Vec::new());
            }
            Err(err) => return Err(Failure::from_error(&err)),
        };
        let mut all = input.attestations.values().flatten();
        let has_sbom = all.any(|one| one.predicate_type == SPDX);
        if let Some(sbom) = self.wanted.sbom.as_ref().filter(|_| !has_sbom) {
            let scanner = sbom::Scanner::find(cx, self.bridge, self.request, sbom).await?;
            for part in &parts {
                let Some(reference) = reference(outcome, part) else {
                    continue;
                };
                let one = scanner.scan(cx, self.bridge, &part.id, reference).await?;
                let said = input.attestations.entry(part.id.clone()).or_default();
                said.push(given(cx, &one).await?);
            }
        }
        let mut accounts = self.accounts(cx, outcome, &parts).await?;
        if let Some(options) = &self.wanted.provenance {
            for account in &accounts {
                let said = input.attestations.entry(account.id.clone()).or_default();
                said.push(self.provenance(cx, account, options).await?);
            }
        }
        if !keeps {
            accounts.clear();
        }
        Ok(accounts)
    }

    /// Where each result comes from. An empty one comes from nowhere.
    async fn accounts(
        &self,
        cx: &Cx,
        outcome: &Outcome,
        parts: &[Part],
    ) -> Result<Vec<Account>, Failure> {
        let platforms: Vec<_> = parts
            .iter()
            .map(|part| (part.id.clone(), part.platform.clone()))
            .collect();
        let mut accounts: Vec<Account> = Vec::with_capacity(parts.len());
        for part in parts {
            if accounts.iter().any(|known| known.id == part.id) {
                continue;
            }
            let Some(reference) = reference(outcome, part) else {
                continue;
            };
            let lazy = lazy(reference)?;
            let scope = lazy.scope();
            // What else was made on the way counts too, but not the results for other platforms.
            let own: Vec<&str> = results(outcome).map(|it| it.id()).collect();
            let others = scope.loaded().into_iter();
            let others = others.filter(|(id, _)| !own.contains(&id.as_str()));
            let edges = [lazy.edge().clone()].into_iter();
            let edges = edges.chain(others.map(|(_, edge)| edge));
            let mut capture = origins::of(cx, self.bridge, edges).await;
            scope.describe(&mut capture);
            let images = scope.images();
            for image in provenance::image_platforms(&images, &platforms, &part.id) {
                capture.add_image(image);
            }
            capture.finish().map_err(|err| Failure::from_error(&err))?;
            accounts.push(Account {
                id: part.id.clone(),
                capture,
                reference: reference.clone(),
            });
        }
        Ok(accounts)
    }

    async fn draft(&self, cx: &Cx, account: &Account, options: Options) -> Result<Draft, Failure> {
        let mode = options.mode().map_err(|err| Failure::from_error(&err))?;
        let definition = account.reference.definition();
        let steps = match definition.filter(|_| mode == Mode::Max) {
            Some(definition) => {
                let lazy = lazy(&account.reference)?;
                let worker = &self.bridge.machinery.worker;
                let known = Known::of(worker, lazy.built(cx).await?, lazy.edge());
                Some((definition, known))
            }
            None => None,
        };
        Ok(Draft {
            capture: account.capture.clone(),
            options,
            environment: self.environment.clone(),
            compatibility: self.request.compatibility.unwrap_or(CURRENT),
            steps,
        })
    }

    async fn provenance(
        &self,
        cx: &Cx,
        account: &Account,
        options: &Options,
    ) -> Result<Attestation, Failure> {
        let draft = self.draft(cx, account, options.clone()).await?;
        let (predicate, layers) = draft.predicate().await?;
        let fact = |key: &str, value: &'static str| (key.to_owned(), Bytes::from(value));
        let inline_only = if options.inline_only { "true" } else { "false" };
        let predicate_type = predicate.predicate_type().to_owned();
        let made = Arc::new(Made {
            predicate,
            layers,
            times: self.times.clone(),
            with_usage: options.capture_usage,
        });
        Ok(Attestation {
            bundle: false,
            metadata: BTreeMap::from([
                fact("reason", "provenance"),
                fact("inline-only", inline_only),
            ]),
            content: Content::Made(Arc::new(move || {
                let made = made.clone();
                Box::pin(async move {
                    let document = made.write().await;
                    document.map_err(|err| export::Error::new(&err))
                })
            })),
            path: options.filename.clone(),
            predicate_type,
            subjects: Vec::new(),
        })
    }

    /// The whole story of each result, for the record. A record that lacks one is better than none.
    pub(crate) async fn drafts(&self, cx: &Cx, accounts: &[Account], outcome: &Outcome) -> Drafts {
        let mut drafts = Drafts::default();
        for account in accounts {
            let mut options = Options {
                capture_usage: true,
                ..Options::default()
            };
            if let Some(wanted) = &self.wanted.provenance {
                options.builder.clone_from(&wanted.builder);
            }
            let platform = match outcome.platforms.is_empty() {
                true => String::new(),
                false => account.id.clone(),
            };
            match self.draft(cx, account, options).await {
                Ok(draft) => drafts.add(platform, draft, &self.times),
                Err(err) => {
                    let error = err.text();
                    tracing::warn!(error, "no provenance for the record of a build");
                }
            }
        }
        drafts
    }
}

/// A document but for what is only known when somebody asks for it.
struct Made {
    predicate: Predicate,
    layers: Option<KnownLayers>,
    times: Arc<Times>,
    with_usage: bool,
}

impl Made {
    async fn write(&self) -> Result<Bytes, provenance::Error> {
        let mut predicate = self.predicate.clone();
        let run = self.times.run();
        if let Some(layers) = &self.layers {
            predicate.set_layers(layers.find().await);
        }
        let watched = self.with_usage.then(|| self.times.clone());
        tasks::blocking(move || {
            if let Some(times) = watched {
                predicate.set_usage(times.usage());
            }
            predicate.document(&run).map(Bytes::from)
        })
        .await
    }
}

fn refused(err: &provenance::Error) -> Failure {
    let failure = Failure::from_error(err);
    let provenance::Error::Incomplete { locals, .. } = err else {
        return failure;
    };
    let incomplete = locals
        .iter()
        .map(|name| proto::errdefs::ProvenanceMaterialIncomplete {
            name: name.clone(),
            reason: "local_source".to_owned(),
            ..proto::errdefs::ProvenanceMaterialIncomplete::default()
        });
    let detail = proto::errdefs::ProvenanceMaterialsIncomplete {
        incomplete: incomplete.collect(),
    };
    failure.with(diagnostics::Detail::Unknown {
        type_url: "github.com/moby/buildkit/errdefs.ProvenanceMaterialsIncomplete+json".to_owned(),
        value: proto::gojson::to_string(&detail).into_bytes().into(),
    })
}

fn reference<'a>(outcome: &'a Outcome, part: &Part) -> Option<&'a Arc<dyn Reference>> {
    let found = match &outcome.single {
        Some(single) if outcome.platforms.is_empty() => Some(single),
        _ => outcome.platforms.get(&part.id),
    };
    found.and_then(Option::as_ref)
}

/// All results, and the trees of what frontends say about them.
fn results(outcome: &Outcome) -> impl Iterator<Item = &Arc<dyn Reference>> {
    let said = outcome.attestations.values().flatten();
    let said = said.filter_map(|said| said.reference.as_ref());
    outcome.references().chain(said)
}

fn lazy(reference: &Arc<dyn Reference>) -> Result<&LazyReference, Failure> {
    let lazy = reference.as_any().downcast_ref::<LazyReference>();
    lazy.ok_or_else(|| Failure::new(Class::Internal, "a result of another build"))
}

/// What a frontend says, as exporters take it.
async fn given(cx: &Cx, said: &frontend::Attestation) -> Result<Attestation, Failure> {
    let tree = match &said.reference {
        Some(reference) => lazy(reference)?.value(cx).await?.0,
        None => None,
    };
    Ok(Attestation {
        bundle: said.kind == AttestationKind::Bundle,
        metadata: said.metadata.clone(),
        content: tree.map_or(Content::Missing, Content::Tree),
        path: said.path.clone(),
        predicate_type: said.predicate_type.clone(),
        subjects: said.subjects.iter().map(subject).collect(),
    })
}

fn subject(subject: &InTotoSubject) -> Subject {
    match subject.kind() {
        InTotoSubjectKind::Self_ => Subject::Own(subject.name.clone()),
        InTotoSubjectKind::Raw => {
            let digests = subject.digest.iter().filter_map(|it| it.split_once(':'));
            Subject::Other(Named {
                name: subject.name.clone(),
                digest: digests
                    .map(|(algorithm, hex)| (algorithm.to_owned(), hex.to_owned()))
                    .collect(),
            })
        }
    }
}
