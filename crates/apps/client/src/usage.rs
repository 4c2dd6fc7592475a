//! What the daemon keeps, and having it remove that.

use proto::control::{DiskUsageRequest, PruneRequest, UsageRecord};

use crate::{Client, Error};

impl Client {
    /// What is in the daemon's cache, smallest first.
    pub async fn disk_usage(&self, filter: Vec<String>) -> Result<Vec<UsageRecord>, Error> {
        let request = DiskUsageRequest {
            filter,
            ..DiskUsageRequest::default()
        };
        let mut records = self
            .control()
            .disk_usage(request)
            .await?
            .into_inner()
            .record;
        records.sort_by(|a, b| (a.size, &a.id).cmp(&(b.size, &b.id)));
        Ok(records)
    }

    /// Removes what is not in use. `removed` gets every record as it goes.
    pub async fn prune(
        &self,
        request: PruneRequest,
        mut removed: impl FnMut(UsageRecord),
    ) -> Result<(), Error> {
        let mut stream = self.control().prune(request).await?.into_inner();
        while let Some(record) = stream.message().await? {
            removed(record);
        }
        Ok(())
    }
}
