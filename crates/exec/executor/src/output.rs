//! Reading what a container writes.

use bytes::BytesMut;
use progress::Stream;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::Output;

/// Smallest and largest piece read at once.
const FEW: usize = 4 * 1024;
const MANY: usize = 64 * 1024;

/// Hands everything that can be read to `output`, until nobody can write any more.
pub async fn pump(mut reader: impl AsyncRead + Unpin, stream: Stream, output: Output) {
    let mut buffer = BytesMut::new();
    let mut size = FEW;
    loop {
        buffer.reserve(size);
        match reader.read_buf(&mut buffer).await {
            Ok(0) => return,
            Ok(read) => {
                size = if read >= size { MANY } else { FEW };
                output(stream, buffer.split().freeze());
            }
            Err(err) => {
                tracing::warn!(error = %err, "output of a step lost");
                return;
            }
        }
    }
}
