//! Reading what a container writes.

use std::future::Future;
use std::os::fd::OwnedFd;

use bytes::BytesMut;
use executor::{Error, Output};
use progress::Stream;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

/// Smallest and largest piece read at once.
const FEW: usize = 4 * 1024;
const MANY: usize = 64 * 1024;

/// Hands everything that comes out of a pipe to `output`, until nobody can write to it any more.
pub(crate) fn pump(
    pipe: OwnedFd,
    stream: Stream,
    output: &Output,
) -> Result<impl Future<Output = ()> + use<>, Error> {
    let failed = |err| Error::start_io("failed to watch a pipe", err);
    rustix::io::ioctl_fionbio(&pipe, true).map_err(|errno| failed(errno.into()))?;
    let mut pipe = Receiver::from_owned_fd(pipe).map_err(failed)?;
    let output = output.clone();
    Ok(async move {
        let mut buffer = BytesMut::new();
        let mut size = FEW;
        loop {
            buffer.reserve(size);
            match pipe.read_buf(&mut buffer).await {
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
    })
}
