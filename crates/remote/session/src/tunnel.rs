//! A byte stream over two streams of messages.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use futures::{Stream, StreamExt};
use tasks::Cx;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;
use tonic::transport::server::Connected;

/// How many messages may wait on their way out. Each is one write of the connection inside.
const QUEUE: usize = 16;
/// A write is cut here, so that one message never comes near the size limit.
const MAX_WRITE: usize = 1 << 20;

type Incoming = Pin<Box<dyn Stream<Item = Result<Bytes, tonic::Status>> + Send>>;

/// A connection whose bytes travel as messages. Ends when the other side ends its stream.
pub struct Tunnel {
    incoming: Incoming,
    rest: Bytes,
    outgoing: PollSender<Bytes>,
    /// Cancelled when nothing more comes in, and when the connection is dropped.
    ended: Cx,
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel").finish_non_exhaustive()
    }
}

impl Tunnel {
    /// A connection fed by `incoming`; what it writes comes out of the receiver. `ended` is cancelled at its end.
    pub fn new<S>(incoming: S, ended: Cx) -> (Self, mpsc::Receiver<Bytes>)
    where
        S: Stream<Item = Result<Bytes, tonic::Status>> + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let tunnel = Self {
            incoming: Box::pin(incoming.fuse()),
            rest: Bytes::new(),
            outgoing: PollSender::new(sender),
            ended,
        };
        (tunnel, receiver)
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.ended.cancel("context canceled");
    }
}

impl Connected for Tunnel {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match self.incoming.as_mut().poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(bytes))) => self.rest = bytes,
                Poll::Ready(Some(Err(status))) => {
                    self.ended.cancel("context canceled");
                    return Poll::Ready(Err(io::Error::other(status)));
                }
                Poll::Ready(None) => {
                    self.ended.cancel("context canceled");
                    return Poll::Ready(Ok(()));
                }
            }
        }
        let len = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest[..len]);
        self.rest.advance(len);
        Poll::Ready(Ok(()))
    }
}

impl Tunnel {
    /// Sends one message when there is room for it.
    fn send(
        &mut self,
        cx: &mut Context<'_>,
        message: impl FnOnce() -> Bytes,
    ) -> Poll<io::Result<usize>> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        match self.outgoing.poll_reserve(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(err)) => Poll::Ready(Err(gone(err))),
            Poll::Ready(Ok(())) => {
                let message = message();
                let len = message.len();
                let sent = self.outgoing.send_item(message).map_err(gone);
                Poll::Ready(sent.map(|()| len))
            }
        }
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let buf = &buf[..buf.len().min(MAX_WRITE)];
        self.send(cx, || Bytes::copy_from_slice(buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.send(cx, || {
            let total: usize = bufs.iter().map(|buf| buf.len()).sum();
            let mut message = BytesMut::with_capacity(total.min(MAX_WRITE));
            for buf in bufs {
                let room = MAX_WRITE - message.len();
                message.extend_from_slice(&buf[..buf.len().min(room)]);
            }
            message.freeze()
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.close();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn bytes_come_out_whatever_the_sizes_of_messages() {
        let parts = ["ab", "", "cde", "f"].map(|part| Ok(Bytes::from(part)));
        let ended = Cx::root();
        let (mut tunnel, _out) = Tunnel::new(futures::stream::iter(parts), ended.clone());
        let mut text = String::new();
        tunnel.read_to_string(&mut text).await.expect("read");
        assert_eq!(text, "abcdef");
        assert!(ended.is_cancelled());
    }

    #[tokio::test]
    async fn what_is_written_comes_out_and_shutdown_ends_it() {
        let (mut tunnel, mut out) = Tunnel::new(futures::stream::pending(), Cx::root());
        tunnel.write_all(b"hello").await.expect("write");
        tunnel.shutdown().await.expect("shutdown");
        assert_eq!(out.recv().await, Some(Bytes::from("hello")));
        assert_eq!(out.recv().await, None);
    }
}
