//! The listening socket: its connections, their bounds, and their ends.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum_server::Handle;
use gust_engine::config::Config;
use gust_engine::error::QueryError;
use hyper_util::rt::TokioTimer;
use tokio::task::JoinHandle;

use crate::door::Door;
use crate::http::{Hosts, routes};

/// Longest time in which the head of a request arrives.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);

/// Most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Most requests that one HTTP/2 connection has under way.
const STREAMS_MAX: u32 = 100;

/// Options of a server that are no settings.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    pub listen: SocketAddr,
    /// Catalog in which bare names are looked up.
    pub catalog: Option<String>,
    /// Texts of statements whose tables every session shows.
    pub setup: Vec<String>,
}

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    door: Arc<Door>,
    address: SocketAddr,
    drain: Duration,
    handle: Handle<SocketAddr>,
    serving: JoinHandle<io::Result<()>>,
}

impl Server {
    /// Opens the engine, runs the set-up statements, and listens.
    ///
    /// # Errors
    /// [`gust_engine::error::ErrorKind::Setup`] if the address cannot be listened at, or is one that others can reach; and the errors of
    /// the engine and of the set-up statements.
    pub async fn start(config: Config, options: ServerOptions) -> Result<Self, QueryError> {
        let ServerOptions { listen, catalog, setup } = options;
        if !listen.ip().is_loopback() {
            let message = format!("{listen} can be reached from other machines, and the server has no users yet");
            return Err(QueryError::setup(message).with_hint("listen at 127.0.0.1 or [::1]"));
        }
        let failed = |error: io::Error| {
            QueryError::setup(format!("cannot listen at {listen}: {error}")).with_hint("choose another with --listen")
        };
        let listener = TcpListener::bind(listen).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let hosts = Hosts::of(address, config.server.hosts.iter().map(String::as_str));
        let drain = config.server.drain;
        let door = Arc::new(Door::open(config, catalog, &setup).await?);
        let handle = Handle::new();
        let mut server = axum_server::from_tcp(listener).map_err(failed)?.handle(handle.clone());
        let builder = server.http_builder();
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIME_MAX).max_buf_size(HEAD_BYTES_MAX);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_header_list_size(HEAD_BYTES_MAX as u32)
            .max_concurrent_streams(STREAMS_MAX);
        let serving = tokio::spawn(server.serve(routes(Arc::clone(&door), hosts).into_make_service()));
        Ok(Self { door, address, drain, handle, serving })
    }

    /// Returns the address at which it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections, and gives running queries the configured time.
    pub fn drain(&self) {
        self.handle.graceful_shutdown(Some(self.drain));
    }

    /// Ends all connections. Their queries are cancelled.
    pub fn stop(&self) {
        self.handle.shutdown();
    }

    /// Waits until all connections have ended.
    ///
    /// # Errors
    /// [`gust_engine::error::ErrorKind::Setup`] if no more connections could be taken.
    pub async fn ended(&mut self) -> Result<(), QueryError> {
        match (&mut self.serving).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(QueryError::setup(format!("cannot serve: {error}"))),
            Err(error) => Err(QueryError::setup(format!("cannot serve: {error}"))),
        }
    }

    /// Stops what still runs, and closes the engine.
    pub async fn close(self) {
        self.door.close().await;
    }
}
