//! Gives the daemon the secrets that the user offered for this build.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use proto::secrets::secrets_server::{Secrets, SecretsServer};
use proto::secrets::{GetSecretRequest, GetSecretResponse};
use tonic::{Request, Response, Status};

/// The methods of the service.
pub const METHODS: &[&str] = &["GetSecret"];

/// A larger secret is no secret but a mistake.
const MAX_SECRET: usize = 500 << 10;

/// Where a secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// In a file.
    File(PathBuf),
    /// In an environment variable.
    Env(String),
}

/// The service over secrets by id.
pub fn service(sources: BTreeMap<String, SecretSource>) -> SecretsServer<impl Secrets> {
    SecretsServer::new(Provider { sources })
}

struct Provider {
    sources: BTreeMap<String, SecretSource>,
}

#[tonic::async_trait]
impl Secrets for Provider {
    async fn get_secret(
        &self,
        request: Request<GetSecretRequest>,
    ) -> Result<Response<GetSecretResponse>, Status> {
        let id = request.into_inner().id;
        let missing = || Status::not_found(format!("secret {id}: not found"));
        let data = match self.sources.get(&id).ok_or_else(missing)? {
            SecretSource::Env(name) => match std::env::var_os(name) {
                Some(value) => Bytes::from(value.into_encoded_bytes()),
                None => Bytes::new(),
            },
            SecretSource::File(path) => {
                let read = tokio::fs::read(path).await;
                let read =
                    read.map_err(|err| Status::unknown(format!("open {}: {err}", path.display())))?;
                Bytes::from(read)
            }
        };
        if data.len() > MAX_SECRET {
            let text = format!("invalid secret size {}", data.len());
            return Err(Status::unknown(text));
        }
        Ok(Response::new(GetSecretResponse { data }))
    }
}
