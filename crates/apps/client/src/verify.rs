//! Whether what the daemon has stored fits together. Only Kiln's daemon can say.

use proto::verify::verify_client::VerifyClient;
use proto::verify::verify_response::Found;
use proto::verify::{Counts, Problem, VerifyRequest};

use crate::{Client, Error};

impl Client {
    /// Has the daemon walk over everything it stored, and read the blobs unless `names_only`. `found` gets what does
    /// not fit as it is found. Refused while builds run.
    pub async fn verify(
        &self,
        names_only: bool,
        mut found: impl FnMut(Problem),
    ) -> Result<Counts, Error> {
        let mut client = VerifyClient::new(self.channel());
        let mut stream = client
            .verify(VerifyRequest { names_only })
            .await?
            .into_inner();
        let mut counts = Counts::default();
        while let Some(message) = stream.message().await? {
            match message.found {
                Some(Found::Problem(problem)) => found(problem),
                Some(Found::Counts(now)) => counts = now,
                None => {}
            }
        }
        Ok(counts)
    }
}
