//! What is said about a build's results: what frontends say, what is in them, and where they come from.

mod layers;
mod origins;
mod sbom;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use bytes::Bytes;
use diagnostics::Failure;
use export::attestation::{Attestation, Content, Named, SPDX, Subject};
use export::{Input, Part};
use fault::Class;
use frontend::{Outcome, Reference};
use proto::gateway::{AttestationKind, InTotoSubject, InTotoSubjectKind};
use provenance::{Capture, Environment, Mode, Options, Predicate, Run, Steps, Wanted};
use tasks::Cx;

use crate::SolveRequest;
use crate::bridge::BuildBridge;
use crate::reference::LazyReference;
use layers::KnownLayers;

/// Behaviour that a client gets that does not ask for another one.
const CURRENT: u32 = 30;

/// When the build began, and when its first document was made.
#[derive(Debug)]
pub(crate) struct Times {
    id: String,
    started: SystemTime,
    finished: OnceLock<SystemTime>,
}

impl Times {
    /// A build that begins now.
    pub(crate) fn begin() -> Self {
        Self {
            id: identity::new_id(),
            started: SystemTime::now(),
            finished: OnceLock::new(),
        }
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
    pub(crate) environment: &'a Environment,
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

    async fn predicate(
        &self,
        cx: &Cx,
        account: &Account,
        options: &Options,
    ) -> Result<(Predicate, Option<KnownLayers>), Failure> {
        let made = Predicate::new(&account.capture, options, self.environment);
        let mut predicate = made.map_err(|err| refused(&err))?;
        predicate.set_compatibility(self.request.compatibility.unwrap_or(CURRENT));
        let mode = options.mode().map_err(|err| Failure::from_error(&err))?;
        let definition = account.reference.definition();
        let Some(definition) = definition.filter(|_| mode == Mode::Max) else {
            return Ok((predicate, None));
        };
        let (predicate, steps) = tasks::blocking(move || {
            let steps = Steps::new(&definition)?;
            predicate.add_steps(&definition, &steps)?;
            Ok((predicate, steps))
        })
        .await
        .map_err(|err: provenance::Error| Failure::from_error(&err))?;
        let lazy = lazy(&account.reference)?;
        let built = lazy.built(cx).await?;
        let worker = &self.bridge.machinery.worker;
        let layers = KnownLayers::new(worker, built, lazy.edge(), steps);
        Ok((predicate, Some(layers)))
    }

    async fn provenance(
        &self,
        cx: &Cx,
        account: &Account,
        options: &Options,
    ) -> Result<Attestation, Failure> {
        let (predicate, layers) = self.predicate(cx, account, options).await?;
        let fact = |key: &str, value: &'static str| (key.to_owned(), Bytes::from(value));
        let inline_only = if options.inline_only { "true" } else { "false" };
        let predicate_type = predicate.predicate_type().to_owned();
        let made = Arc::new((predicate, layers, self.times.clone()));
        Ok(Attestation {
            bundle: false,
            metadata: BTreeMap::from([
                fact("reason", "provenance"),
                fact("inline-only", inline_only),
            ]),
            content: Content::Made(Arc::new(move || {
                let made = made.clone();
                Box::pin(async move {
                    let document = write(&made.0, made.1.as_ref(), &made.2).await;
                    document.map_err(|err| export::Error::new(&err))
                })
            })),
            path: options.filename.clone(),
            predicate_type,
            subjects: Vec::new(),
        })
    }

    /// Puts the whole story on record. A record that lacks it is better than none.
    pub(crate) async fn keep(
        &self,
        cx: &Cx,
        accounts: &[Account],
        outcome: &Outcome,
        kept: &mut history::Outcome,
    ) {
        for account in accounts {
            self.keep_one(cx, account, outcome, kept).await;
        }
    }

    async fn keep_one(
        &self,
        cx: &Cx,
        account: &Account,
        outcome: &Outcome,
        kept: &mut history::Outcome,
    ) {
        let mut options = Options::default();
        if let Some(wanted) = &self.wanted.provenance {
            options.builder.clone_from(&wanted.builder);
        }
        let kind = options.version.predicate_type().to_owned();
        let document = async {
            let (predicate, layers) = self.predicate(cx, account, &options).await?;
            let document = write(&predicate, layers.as_ref(), &self.times).await;
            document.map_err(|err| Failure::from_error(&err))
        };
        let id = match outcome.platforms.is_empty() {
            true => String::new(),
            false => account.id.clone(),
        };
        match document.await {
            Ok(document) => kept.statements.push((id, kind, document.to_vec())),
            Err(err) => {
                tracing::warn!(
                    error = err.text(),
                    "no provenance for the record of a build"
                );
            }
        }
    }
}

async fn write(
    predicate: &Predicate,
    layers: Option<&KnownLayers>,
    times: &Times,
) -> Result<Bytes, provenance::Error> {
    let mut predicate = predicate.clone();
    let run = times.run();
    if let Some(layers) = layers {
        predicate.set_layers(layers.find().await);
    }
    tasks::blocking(move || predicate.document(&run).map(Bytes::from)).await
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
