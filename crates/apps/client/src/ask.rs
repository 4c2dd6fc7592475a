//! Questions to a frontend: requests it answers with words instead of a build, such as `frontend.outline`.
//!
//! What a frontend says in its result's metadata never reaches those who hand a build over as a whole. So here the
//! client drives: it starts a build with nothing in it, asks the frontend through the gateway, and gives back what it
//! got as the build's result.

use std::collections::BTreeMap;
use std::time::Duration;

use diagnostics::Failure;
use proto::control;
use proto::gateway::llb_bridge_client::LlbBridgeClient;
use proto::gateway::{PingRequest, Result as Answered, ReturnRequest, SolveRequest};
use tasks::Cx;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

use crate::{Build, Client, Error, Response};

/// Names the build a call belongs to.
const BUILD_ID: &str = "buildkit-controlapi-buildid";
/// How long the refusal of a build may take after its gateway was not found.
const REFUSAL: Duration = Duration::from_secs(1);

/// What a frontend answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// What the build answers.
    pub response: Response,
    /// What the frontend says of its result.
    pub metadata: BTreeMap<String, Vec<u8>>,
}

impl AsRef<Response> for Answer {
    fn as_ref(&self) -> &Response {
        &self.response
    }
}

impl From<Response> for Answer {
    fn from(response: Response) -> Self {
        Self {
            response,
            metadata: BTreeMap::new(),
        }
    }
}

impl Client {
    /// Runs a build by a frontend, and tells what the frontend says of its result.
    pub async fn ask(
        &self,
        cx: &Cx,
        build: Build,
        progress: impl FnMut(control::StatusResponse),
    ) -> Result<Answer, Error> {
        self.run(cx, build, progress, |request| self.drive(request))
            .await
    }

    async fn drive(&self, mut request: control::SolveRequest) -> Result<Answer, Error> {
        let cache_imports = request.cache.iter().flat_map(|cache| &cache.imports);
        let question = SolveRequest {
            frontend: std::mem::take(&mut request.frontend),
            frontend_opt: request.frontend_attrs.clone(),
            allow_result_return: true,
            allow_result_array_ref: true,
            cache_imports: cache_imports
                .map(|import| proto::gateway::CacheOptionsEntry {
                    r#type: import.r#type.clone(),
                    attrs: import.attrs.clone(),
                })
                .collect(),
            ..SolveRequest::default()
        };
        let gateway = Gateway::of(self, &request.r#ref)?;
        let mut build = std::pin::pin!(self.solve(request));
        let mut asking = std::pin::pin!(gateway.ask(question));
        let answered = tokio::select! {
            answered = &mut asking => answered,
            // The build may end before the call that gave its result back.
            ended = &mut build => {
                let response = ended?;
                let metadata = asking.await?;
                return Ok(Answer { response, metadata });
            }
        };
        match answered {
            Ok(metadata) => Ok(Answer {
                response: build.await?,
                metadata,
            }),
            // A build that was refused has no gateway, and says more than the missing gateway does.
            Err(err) => match tokio::time::timeout(REFUSAL, build).await {
                Ok(Err(refusal)) => Err(refusal),
                _ => Err(err),
            },
        }
    }
}

/// The gateway of one build.
struct Gateway {
    calls: LlbBridgeClient<Channel>,
    id: MetadataValue<Ascii>,
}

impl Gateway {
    fn of(client: &Client, id: &str) -> Result<Self, Error> {
        let id = id
            .parse()
            .map_err(|_| Failure::new(fault::Class::User, format!("invalid build id {id:?}")))?;
        let calls = LlbBridgeClient::new(client.channel())
            .max_decoding_message_size(session::MAX_MESSAGE)
            .max_encoding_message_size(session::MAX_MESSAGE);
        Ok(Self { calls, id })
    }

    /// The metadata of the answer. A refusal becomes the result of the build, which then says so.
    async fn ask(&self, question: SolveRequest) -> Result<BTreeMap<String, Vec<u8>>, Error> {
        let mut calls = self.calls.clone();
        calls.ping(self.request(PingRequest {})).await?;
        let mut result = ReturnRequest::default();
        match calls.solve(self.request(question)).await {
            Ok(answer) => result.result = Some(answer.into_inner().result.unwrap_or_default()),
            Err(status) => result.error = Some(Failure::from_status(&status).to_rpc()),
        }
        let said = result.result.as_ref().map(said).unwrap_or_default();
        calls.r#return(self.request(result)).await?;
        Ok(said)
    }

    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.metadata_mut().insert(BUILD_ID, self.id.clone());
        request
    }
}

fn said(answer: &Answered) -> BTreeMap<String, Vec<u8>> {
    answer
        .metadata
        .iter()
        .map(|(key, value)| (key.clone(), value.to_vec()))
        .collect()
}
