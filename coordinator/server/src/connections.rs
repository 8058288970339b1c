//! Bounds of connections: how many there are, the time in which each begins to speak and shows a user, and the time for which a client
//! may read nothing.
//!
//! A connection is known once a request of it was let in. One that is not, or has been idle, is closed after a while: a stranger
//! holds no place for long, whatever he sends.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Extension;
use axum::middleware::AddExtension;
use axum_server::accept::Accept;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tower_layer::Layer;

/// Bytes after which hyper knows the protocol, and its own time-outs hold: the preface of HTTP/2.
const BEGINNING_BYTES: usize = 24;

/// Bytes that a ping has at most, with TLS. Pings are no answers.
const PING_BYTES_MAX: usize = 128;

/// Acceptor that has places for a number of connections. One more is closed at once.
#[derive(Debug, Clone)]
pub(crate) struct Bounded<A> {
    inner: A,
    places: Arc<Semaphore>,
    times: Times,
}

/// Bounds of a connection's times.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// Longest time in which the beginning of the first request arrives.
    pub(crate) beginning_max: Duration,
    /// Longest time without a request that was let in.
    pub(crate) idle_max: Duration,
    /// Longest time in which a client reads nothing of what is sent.
    pub(crate) stalled_max: Duration,
}

impl<A> Bounded<A> {
    pub(crate) fn new(inner: A, connections_max: usize, times: Times) -> Self {
        Self { inner, places: Arc::new(Semaphore::new(connections_max)), times }
    }
}

/// Requests of a connection that were let in. Each request has it among its extensions.
#[derive(Debug, Clone)]
pub(crate) struct LetIn(Arc<Mutex<Requests>>);

#[derive(Debug)]
struct Requests {
    under_way: usize,
    /// True once one was let in.
    is_known: bool,
    /// Time at which the last one ended, or bytes of its answer were sent, or at which the connection began.
    last: Instant,
}

/// A request that was let in, until its answer is sent.
#[derive(Debug)]
pub(crate) struct UnderWay(LetIn);

impl LetIn {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Requests { under_way: 0, is_known: false, last: Instant::now() })))
    }

    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request.
    pub(crate) fn begin(&self) -> UnderWay {
        let mut requests = self.requests();
        (requests.under_way, requests.is_known) = (requests.under_way + 1, true);
        drop(requests);
        UnderWay(self.clone())
    }

    /// Gives a client that was let in once more of the time between two requests. Returns false for a stranger.
    fn goes_on(&self) -> bool {
        let mut requests = self.requests();
        requests.last = Instant::now();
        requests.is_known
    }

    /// Tells that bytes were sent. The end of an answer may wait here for its reader after the request has ended.
    fn sent(&self, bytes: usize) {
        let mut requests = self.requests();
        if requests.is_known && bytes > PING_BYTES_MAX {
            requests.last = Instant::now();
        }
    }

    /// Returns the time since which nothing is asked; None while something is answered.
    fn idle_since(&self) -> Option<Instant> {
        let requests = self.requests();
        (requests.under_way == 0).then_some(requests.last)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut requests = self.0.requests();
        requests.under_way -= 1;
        requests.last = Instant::now();
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
    type Service = AddExtension<A::Service, LetIn>;
    type Future = BoxFuture<'static, io::Result<(Self::Stream, Self::Service)>>;

    fn accept(&self, stream: I, service: S) -> Self::Future {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            tracing::debug!("a connection is closed: connections_max others are open");
            return std::future::ready(Err(io::ErrorKind::ConnectionRefused.into())).boxed();
        };
        let (accepting, times) = (self.inner.accept(stream, service), self.times);
        async move {
            let (stream, service) = accepting.await?;
            let let_in = LetIn::new();
            Ok((Connection::new(stream, place, times, let_in.clone()), Extension(let_in).layer(service)))
        }
        .boxed()
    }
}

/// Connection in its place. Reading fails where its beginning has not arrived in time, or nobody was let in for a while. Writing
/// fails where the client reads nothing.
#[derive(Debug)]
pub(crate) struct Connection<S> {
    stream: S,
    _place: OwnedSemaphorePermit,
    /// None once the beginning has arrived.
    beginning: Option<Beginning>,
    let_in: LetIn,
    idle_max: Duration,
    /// Next look at the time without a request.
    idle_look: Pin<Box<Sleep>>,
    stalled_max: Duration,
    /// End of the client's time to read; None while it reads.
    stalled: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
struct Beginning {
    bytes_left: usize,
    ends: Pin<Box<Sleep>>,
}

impl<S> Connection<S> {
    fn new(stream: S, place: OwnedSemaphorePermit, times: Times, let_in: LetIn) -> Self {
        let Times { beginning_max, idle_max, stalled_max } = times;
        let ends = Box::pin(tokio::time::sleep(beginning_max));
        Self {
            stream,
            _place: place,
            beginning: Some(Beginning { bytes_left: BEGINNING_BYTES, ends }),
            let_in,
            idle_max,
            idle_look: Box::pin(tokio::time::sleep(idle_max)),
            stalled_max,
            stalled: None,
        }
    }

    /// Waits until the connection has been idle for too long.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.idle_look.as_mut().poll(cx));
            let ends = match self.let_in.idle_since() {
                Some(since) if since.elapsed() >= self.idle_max => return Poll::Ready(()),
                Some(since) => since + self.idle_max,
                None => Instant::now() + self.idle_max,
            };
            self.idle_look.as_mut().reset(ends);
        }
    }

    fn written(&mut self, written: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            self.let_in.sent(*bytes);
        }
        self.in_time(written, cx)
    }

    /// Gives a write its time. It begins where nothing can be written, and is over where something was.
    fn in_time<T>(&mut self, written: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled_max = self.stalled_max;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(stalled_max)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        let arrived = buffer.filled().len() - before;
        // The beginning of a request that comes at the last moment is not thrown away.
        if this.poll_idle(cx).is_ready() && !(arrived > 0 && this.let_in.goes_on()) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let Some(beginning) = &mut this.beginning else { return read };
        if read.is_pending() {
            ready!(beginning.ends.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        beginning.bytes_left = beginning.bytes_left.saturating_sub(arrived);
        if beginning.bytes_left == 0 {
            this.beginning = None;
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.written(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.in_time(flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    fn connection() -> (Connection<DuplexStream>, DuplexStream, LetIn) {
        let (server, client) = duplex(64);
        let [beginning_max, stalled_max, idle_max] = [10, 20, 30].map(Duration::from_secs);
        let (times, let_in) = (Times { beginning_max, idle_max, stalled_max }, LetIn::new());
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().expect("a place");
        (Connection::new(server, place, times, let_in.clone()), client, let_in)
    }

    /// Returns the seconds after which a reading ends by the bounds.
    async fn seconds_to_the_end(connection: &mut Connection<DuplexStream>) -> u64 {
        let begun = Instant::now();
        let mut bytes = [0; 64];
        loop {
            if let Err(error) = connection.read(&mut bytes).await {
                assert_eq!(error.kind(), io::ErrorKind::TimedOut);
                return begun.elapsed().as_secs();
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_has_to_begin_and_to_be_let_in() {
        let (mut silent, _client, _) = connection();
        assert_eq!(seconds_to_the_end(&mut silent).await, 10);
        // A stranger with the whole preface of HTTP/2, who goes on to talk.
        let (mut stranger, mut client, _) = connection();
        tokio::spawn(async move {
            client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("sent");
            loop {
                tokio::time::sleep(Duration::from_secs(4)).await;
                if client.write_all(b"ping").await.is_err() {
                    return;
                }
            }
        });
        assert_eq!(seconds_to_the_end(&mut stranger).await, 30);
        // One whose request is answered for 100 s, and who says nothing after it.
        let (mut known, mut client, let_in) = connection();
        client.write_all(&[b'x'; 24]).await.expect("sent");
        let under_way = let_in.begin();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(100)).await;
            drop(under_way);
        });
        assert_eq!(seconds_to_the_end(&mut known).await, 130);
        // Another request's bytes come at the moment of the end, and the last bytes of an answer are sent after it.
        client.write_all(&[b'x'; 24]).await.expect("sent");
        let mut bytes = [0; 24];
        known.read_exact(&mut bytes).await.expect("they are handed on");
        tokio::time::sleep(Duration::from_secs(20)).await;
        for sent in [PING_BYTES_MAX, PING_BYTES_MAX + 1] {
            let_in.sent(sent);
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        assert_eq!(seconds_to_the_end(&mut known).await, 25);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_given_up() {
        let (mut connection, mut client, _) = connection();
        let reading = tokio::spawn(async move {
            let mut bytes = [0; 64];
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_secs(15)).await;
                client.read_exact(&mut bytes).await.expect("bytes");
            }
            // It keeps the connection, and reads no more.
            std::future::pending::<()>().await;
        });
        let begun = Instant::now();
        let error = connection.write_all(&[b'x'; 64 * 10]).await.expect_err("it stops");
        // Slow is not stopped: 20 s count from the last byte that was taken.
        assert_eq!((error.kind(), begun.elapsed().as_secs()), (io::ErrorKind::TimedOut, 45 + 20));
        reading.abort();
    }
}
