//! Bounds of connections before anybody is known: how many there are, and the time in which each begins to speak.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum_server::accept::Accept;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

/// Bytes after which hyper knows the protocol, and its own time-outs hold: the preface of HTTP/2.
const BEGINNING_BYTES: usize = 24;

/// Acceptor that has places for a number of connections. One more is closed at once.
#[derive(Debug, Clone)]
pub(crate) struct Bounded<A> {
    inner: A,
    places: Arc<Semaphore>,
    /// Longest time in which the beginning of the first request arrives.
    beginning_max: Duration,
}

impl<A> Bounded<A> {
    pub(crate) fn new(inner: A, connections_max: usize, beginning_max: Duration) -> Self {
        Self { inner, places: Arc::new(Semaphore::new(connections_max)), beginning_max }
    }
}

impl<A, I, S> Accept<I, S> for Bounded<A>
where
    A: Accept<I, S> + 'static,
    I: 'static,
    S: 'static,
    A::Stream: Send,
    A::Service: Send,
    A::Future: Send + 'static,
{
    type Stream = Connection<A::Stream>;
    type Service = A::Service;
    type Future = BoxFuture<'static, io::Result<(Self::Stream, Self::Service)>>;

    fn accept(&self, stream: I, service: S) -> Self::Future {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            tracing::warn!("a connection is closed: connections_max others are open");
            return std::future::ready(Err(io::ErrorKind::ConnectionRefused.into())).boxed();
        };
        let (accepting, beginning_max) = (self.inner.accept(stream, service), self.beginning_max);
        async move {
            let (stream, service) = accepting.await?;
            Ok((Connection::new(stream, place, beginning_max), service))
        }
        .boxed()
    }
}

/// Connection in its place. Reading fails where its beginning has not arrived in time.
#[derive(Debug)]
pub(crate) struct Connection<S> {
    stream: S,
    _place: OwnedSemaphorePermit,
    /// None once the beginning has arrived.
    beginning: Option<Beginning>,
}

#[derive(Debug)]
struct Beginning {
    bytes_left: usize,
    ends: Pin<Box<Sleep>>,
}

impl<S> Connection<S> {
    fn new(stream: S, place: OwnedSemaphorePermit, beginning_max: Duration) -> Self {
        let ends = Box::pin(tokio::time::sleep(beginning_max));
        Self { stream, _place: place, beginning: Some(Beginning { bytes_left: BEGINNING_BYTES, ends }) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        let Some(beginning) = &mut this.beginning else { return read };
        if read.is_pending() {
            ready!(beginning.ends.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let arrived = buffer.filled().len() - before;
        beginning.bytes_left = beginning.bytes_left.saturating_sub(arrived);
        if beginning.bytes_left == 0 {
            this.beginning = None;
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
