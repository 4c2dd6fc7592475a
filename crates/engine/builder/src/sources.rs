//! The sources of a build: what policies make of them, and what they say about themselves.

use std::sync::Arc;

use ::source::{Asked, Attested, Facts, Hash, Memo, Suffixed};
use diagnostics::Failure;
use fault::Class;
use proto::gateway::checksum_request::ChecksumAlgo;
use proto::gateway::{
    AttestationChain, Blob, ChecksumResponse, ResolveSourceGitResponse, ResolveSourceHttpResponse,
    ResolveSourceImageResponse, ResolveSourceMetaRequest, ResolveSourceMetaResponse,
};
use proto::pb;
use proto::sourcepolicy::Policy;
use tasks::Cx;

use crate::bridge::BuildBridge;
use crate::policy::Rules;
use crate::{verifier, vertex};

/// More than this is not hashed behind a file.
const SUFFIX_LIMIT: usize = 4 << 10;

/// What a build knows about its sources.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    /// What was resolved before.
    pub(crate) memo: Arc<Memo>,
    /// The client's rules for all sources of the build.
    pub(crate) policy: Option<Policy>,
    /// The session that is asked about each source; empty: none.
    pub(crate) verifier: String,
}

impl Sources {
    /// The sources of a new build; its rules are checked.
    pub(crate) fn new(policy: Option<Policy>, verifier: String) -> Result<Self, Failure> {
        Rules::new(&policy)?;
        Ok(Self {
            memo: Arc::default(),
            policy,
            verifier,
        })
    }
}

impl BuildBridge {
    /// Reads a definition and lets policies have their say. The build's own come before `policies`.
    pub(crate) async fn parse(
        &self,
        cx: &Cx,
        definition: &pb::Definition,
        policies: &[Policy],
    ) -> Result<llb::Parsed, Failure> {
        let rules = Rules::new(self.sources.policy.iter().chain(policies))?;
        let mut parsed = llb::Parsed::parse(definition).map_err(|err| Failure::from_error(&err))?;
        if rules.is_empty() && self.sources.verifier.is_empty() {
            return Ok(parsed);
        }
        let sources = parsed.sources_mut().map(|op| async {
            let platform = op.platform.clone();
            let Some(pb::op::Op::Source(source)) = &mut op.op else {
                return Ok(());
            };
            self.judge(cx, source, platform, &rules).await
        });
        let judged = futures::future::try_join_all(sources).await;
        judged.map_err(|err: Failure| err.context("error evaluating the source policy"))?;
        Ok(parsed)
    }

    async fn judge(
        &self,
        cx: &Cx,
        source: &mut pb::SourceOp,
        platform: Option<pb::Platform>,
        rules: &Rules,
    ) -> Result<(), Failure> {
        source.identifier = ops::canonical(&self.machinery.worker, source);
        rules.apply(source)?;
        if self.sources.verifier.is_empty() {
            return Ok(());
        }
        verifier::check(self, cx, source, platform, rules).await
    }

    /// What a source says about itself, as policies allow it.
    pub(crate) async fn source_meta(
        &self,
        cx: &Cx,
        request: ResolveSourceMetaRequest,
    ) -> Result<ResolveSourceMetaResponse, Failure> {
        let mut source = request
            .source
            .clone()
            .ok_or_else(|| Failure::new(Class::User, "source is required"))?;
        let policies = request.source_policies.iter().chain(&self.sources.policy);
        let rules = Rules::new(policies)?;
        let title = match request.log_name.as_str() {
            "" => format!("resolve image config for {}", source.identifier),
            name => name.to_owned(),
        };
        if !rules.is_empty() || !self.sources.verifier.is_empty() {
            let judged = self
                .judge(cx, &mut source, request.platform.clone(), &rules)
                .await;
            judged.map_err(|err| err.context("could not resolve image due to policy"))?;
        }
        self.facts(cx, source, &request, &title).await
    }

    /// Asks a source about itself; no policy is asked any more.
    pub(crate) async fn facts(
        &self,
        cx: &Cx,
        source: pb::SourceOp,
        request: &ResolveSourceMetaRequest,
        title: &str,
    ) -> Result<ResolveSourceMetaResponse, Failure> {
        let worker = &self.machinery.worker;
        let platform = match &request.platform {
            Some(platform) => ops::platform(platform),
            None => worker.options.platform.clone(),
        };
        let asked = asked(request)?;
        let mut named = source.clone();
        if named.identifier.starts_with("docker-image://") && !request.resolve_mode.is_empty() {
            let mode = request.resolve_mode.clone();
            named.attrs.insert("image.resolvemode".to_owned(), mode);
        }
        let id = format!("{}{platform}", named.identifier);
        let sessions = worker.sessions.group(vec![self.session.clone()]);
        let sink = self.job.sink();
        let memo = &self.sources.memo;
        let given = source.clone();
        let facts = vertex::run(&sink, &id, title, |progress| async move {
            // What a policy made of the source is looked at even where the request decides.
            ops::instance(worker, memo, given, platform.clone())?;
            let instance = ops::instance(worker, memo, named, platform)?;
            let facts = cx
                .run(instance.facts(cx, &sessions, &progress, &asked))
                .await;
            facts
                .map_err(|err| Failure::cancelled(&*err.cause))?
                .map_err(|err| Failure::from_error(&err))
        })
        .await?;
        Ok(answer(source, facts, request))
    }
}

fn asked(request: &ResolveSourceMetaRequest) -> Result<Asked, Failure> {
    let image = request.image.as_ref();
    let chain = image.is_some_and(|it| it.attestation_chain || !it.resolve_attestations.is_empty());
    let mut asked = Asked {
        attestations: image
            .filter(|_| chain)
            .map(|image| image.resolve_attestations.clone()),
        git_objects: request.git.as_ref().is_some_and(|git| git.return_object),
        no_config: image.is_some_and(|image| image.no_config),
        http_checksum: None,
    };
    let checksum = request
        .http
        .as_ref()
        .and_then(|http| http.checksum_request.as_ref());
    if let Some(checksum) = checksum {
        if checksum.suffix.len() > SUFFIX_LIMIT {
            let text = format!("http checksum request suffix exceeds max size {SUFFIX_LIMIT}");
            return Err(Failure::new(Class::User, text));
        }
        let hash = match ChecksumAlgo::try_from(checksum.algo) {
            Ok(ChecksumAlgo::Sha256) => Hash::Sha256,
            Ok(ChecksumAlgo::Sha384) => Hash::Sha384,
            Ok(ChecksumAlgo::Sha512) => Hash::Sha512,
            Err(_) => {
                let text = format!("unsupported checksum algorithm {}", checksum.algo);
                return Err(Failure::new(Class::User, text));
            }
        };
        asked.http_checksum = Some(Suffixed {
            hash,
            suffix: checksum.suffix.clone(),
        });
    }
    Ok(asked)
}

fn answer(
    source: pb::SourceOp,
    facts: Facts,
    request: &ResolveSourceMetaRequest,
) -> ResolveSourceMetaResponse {
    let mut response = ResolveSourceMetaResponse {
        source: Some(source),
        ..ResolveSourceMetaResponse::default()
    };
    match facts {
        Facts::Nothing => {}
        Facts::Image {
            digest,
            config,
            attested,
        } => {
            response.image = Some(ResolveSourceImageResponse {
                digest: digest.to_string(),
                config,
                attestation_chain: attested.map(chain),
            });
        }
        Facts::Git(git) => {
            response.git = Some(ResolveSourceGitResponse {
                checksum: git.checksum,
                r#ref: git.reference,
                commit_checksum: git.commit_checksum,
                commit_object: git.commit,
                tag_object: git.tag,
            });
        }
        Facts::Http(http) => {
            let suffix = request
                .http
                .as_ref()
                .and_then(|http| http.checksum_request.as_ref())
                .map(|request| request.suffix.clone())
                .unwrap_or_default();
            response.http = Some(ResolveSourceHttpResponse {
                checksum: http.digest.to_string(),
                filename: http.filename,
                last_modified: http
                    .last_modified
                    .map(|seconds| prost_types::Timestamp { seconds, nanos: 0 }),
                checksum_response: http
                    .checksum
                    .map(|digest| ChecksumResponse { digest, suffix }),
            });
        }
    }
    response
}

fn chain(attested: Attested) -> AttestationChain {
    let blob = |(descriptor, data): (oci::Descriptor, bytes::Bytes)| {
        let digest = descriptor.digest.to_string();
        let descriptor = proto::gateway::Descriptor {
            media_type: descriptor.media_type,
            digest: digest.clone(),
            size: descriptor.size,
            annotations: descriptor.annotations,
        };
        let blob = Blob {
            descriptor: Some(descriptor),
            data,
        };
        (digest, blob)
    };
    AttestationChain {
        root: attested.root.to_string(),
        image_manifest: attested.image.to_string(),
        attestation_manifest: attested
            .manifest
            .map(|digest| digest.to_string())
            .unwrap_or_default(),
        signature_manifests: attested
            .signature
            .map(|digest| digest.to_string())
            .into_iter()
            .collect(),
        blobs: attested.blobs.into_iter().map(blob).collect(),
    }
}
