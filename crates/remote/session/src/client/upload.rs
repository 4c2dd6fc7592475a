//! Offers bytes, such as a context on standard input, under URLs that the daemon can read once.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use bytes::BytesMut;
use futures::Stream;
use parking_lot::Mutex;
use proto::upload::BytesMessage;
use proto::upload::upload_server::{Upload, UploadServer};
use tokio::io::{AsyncRead, AsyncReadExt};
use tonic::{Request, Response, Status, Streaming};

use crate::{PART, metadata};

/// The methods of the service.
pub const METHODS: &[&str] = &["Pull"];

type Source = Box<dyn AsyncRead + Send + Unpin>;

/// The uploads of one session.
#[derive(Clone, Default)]
pub struct Uploads(Arc<Mutex<HashMap<String, Source>>>);

impl std::fmt::Debug for Uploads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uploads").finish_non_exhaustive()
    }
}

impl Uploads {
    /// Offers `source`; the URL works once.
    pub fn add(&self, source: impl AsyncRead + Send + Unpin + 'static) -> String {
        let id = identity::new_id();
        let url = format!("http://{}/{id}", crate::upload::HOST);
        self.0.lock().insert(id, Box::new(source));
        url
    }

    /// The service over them.
    pub fn service(&self) -> UploadServer<impl Upload + use<>> {
        UploadServer::new(self.clone())
    }
}

#[tonic::async_trait]
impl Upload for Uploads {
    type PullStream = Pin<Box<dyn Stream<Item = Result<BytesMessage, Status>> + Send>>;

    async fn pull(
        &self,
        request: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<Self::PullStream>, Status> {
        let path = metadata::text(request.metadata(), metadata::UPLOAD_PATH).unwrap_or_default();
        let id = path.rsplit('/').next().unwrap_or_default();
        let source = self.0.lock().remove(id);
        let source = source
            .ok_or_else(|| Status::unknown(format!("no http response from session for {id}")))?;
        let chunks = futures::stream::try_unfold(source, |mut source| async move {
            let mut buffer = BytesMut::with_capacity(PART);
            let read = source.read_buf(&mut buffer).await;
            let len = read.map_err(|err| Status::unknown(err.to_string()))?;
            let message = BytesMessage {
                data: buffer.freeze(),
            };
            Ok((len > 0).then_some((message, source)))
        });
        Ok(Response::new(Box::pin(chunks)))
    }
}
