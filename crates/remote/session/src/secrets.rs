//! Secrets the client has.

use std::collections::BTreeMap;

use proto::secrets::GetSecretRequest;
use proto::secrets::secrets_client::SecretsClient;
use tasks::Cx;
use tonic::Code;

use crate::{Error, Group, MAX_MESSAGE, Secret};

/// The secret of this id, from the first session that has it.
pub async fn fetch(cx: &Cx, group: &Group, id: &str) -> Result<Secret, Error> {
    let answer = group
        .any(cx, async |session| {
            let request = GetSecretRequest {
                id: id.to_owned(),
                annotations: BTreeMap::new(),
            };
            let mut client =
                SecretsClient::new(session.channel()).max_decoding_message_size(MAX_MESSAGE);
            session.call(cx, client.get_secret(request)).await
        })
        .await;
    match answer {
        Ok(response) => Ok(Secret::new(response.into_inner().data)),
        Err(err) if matches!(err.code(), Some(Code::NotFound | Code::Unimplemented)) => {
            Err(Error::SecretMissing { id: id.to_owned() })
        }
        Err(err) => Err(err),
    }
}
