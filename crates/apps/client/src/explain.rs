//! Why steps of a build ran. Only Kiln's daemon can say.

use proto::explain::explain_client::ExplainClient;
use proto::explain::{ExplainRequest, ExplainedStep};

use crate::{Client, Error};

impl Client {
    /// Why the steps of a build on record ran: all that ran, or those of a digest or with a text in their name.
    pub async fn explain(&self, build: &str, step: &str) -> Result<Vec<ExplainedStep>, Error> {
        let mut client =
            ExplainClient::new(self.channel()).max_decoding_message_size(session::MAX_MESSAGE);
        let request = ExplainRequest {
            r#ref: build.to_owned(),
            step: step.to_owned(),
        };
        Ok(client.explain(request).await?.into_inner().steps)
    }
}
