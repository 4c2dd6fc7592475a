//! The daemon's ends of a container's output pipes.

use std::future::Future;
use std::os::fd::OwnedFd;

use executor::{Error, Output};
use progress::Stream;
use tokio::net::unix::pipe::Receiver;

/// Hands everything that comes out of a pipe to `output`, until nobody can write to it any more.
pub(crate) fn pump(
    pipe: OwnedFd,
    stream: Stream,
    output: &Output,
) -> Result<impl Future<Output = ()> + use<>, Error> {
    let failed = |err| Error::start_io("failed to watch a pipe", err);
    rustix::io::ioctl_fionbio(&pipe, true).map_err(|errno| failed(errno.into()))?;
    let pipe = Receiver::from_owned_fd(pipe).map_err(failed)?;
    Ok(executor::output::pump(pipe, stream, output.clone()))
}
