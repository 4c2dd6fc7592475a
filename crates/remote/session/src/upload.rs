//! Bytes a client offers under a URL of the host `buildkit-session`, such as a context from its standard input.

use bytes::Bytes;
use futures::{Stream, StreamExt};
use proto::upload::BytesMessage;
use proto::upload::upload_client::UploadClient;
use tasks::Cx;
use tonic::Request;

use crate::{Error, MAX_MESSAGE, Session, metadata};

/// The host of such URLs.
pub const HOST: &str = "buildkit-session";

/// Opens the upload at `path`; the chunks come as the client sends them. Each upload can be read once.
pub async fn pull(
    cx: &Cx,
    session: &Session,
    path: &str,
    host: &str,
) -> Result<impl Stream<Item = Result<Bytes, Error>> + Send + use<>, Error> {
    let mut request = Request::new(futures::stream::pending::<BytesMessage>());
    metadata::append_name(request.metadata_mut(), metadata::UPLOAD_PATH, path)?;
    metadata::append_name(request.metadata_mut(), metadata::UPLOAD_HOST, host)?;
    let mut client = UploadClient::new(session.channel()).max_decoding_message_size(MAX_MESSAGE);
    let response = session.call(cx, client.pull(request)).await?;
    let (cx, session) = (cx.clone(), session.clone());
    Ok(
        futures::stream::try_unfold(response.into_inner(), move |mut incoming| {
            let (cx, session) = (cx.clone(), session.clone());
            async move {
                let message = session.call(&cx, incoming.message()).await?;
                Ok(message.map(|message| (message.data, incoming)))
            }
        })
        .boxed(),
    )
}
