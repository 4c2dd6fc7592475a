//! Builds on record: listing and following them, changing them, reading what they point to.

use proto::content::ReadContentRequest;
use proto::content::content_client::ContentClient;
use proto::control::{BuildHistoryEvent, BuildHistoryRequest, UpdateBuildHistoryRequest};

use crate::{Client, Error};

impl Client {
    /// Lists builds, and follows them unless the request says to stop after the list. `take` gets every event and says
    /// whether to go on.
    pub async fn histories(
        &self,
        request: BuildHistoryRequest,
        mut take: impl FnMut(BuildHistoryEvent) -> bool,
    ) -> Result<(), Error> {
        let mut stream = self
            .control()
            .listen_build_history(request)
            .await?
            .into_inner();
        while let Some(event) = stream.message().await? {
            if !take(event) {
                break;
            }
        }
        Ok(())
    }

    /// Changes or removes a record.
    pub async fn update_history(&self, request: UpdateBuildHistoryRequest) -> Result<(), Error> {
        self.control().update_build_history(request).await?;
        Ok(())
    }

    /// Reads a blob of the daemon. `take` gets its parts in order.
    pub async fn read_blob(
        &self,
        digest: &str,
        mut take: impl FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<(), Error> {
        let mut client =
            ContentClient::new(self.channel()).max_decoding_message_size(session::MAX_MESSAGE);
        let request = ReadContentRequest {
            digest: digest.to_owned(),
            ..ReadContentRequest::default()
        };
        let mut stream = client.read(request).await?.into_inner();
        while let Some(message) = stream.message().await? {
            take(&message.data).map_err(|source| Error::Blob { source })?;
        }
        Ok(())
    }
}
