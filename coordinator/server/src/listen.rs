//! The listening socket: its connections, their bounds, and their ends.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum_server::Handle;
use axum_server::accept::DefaultAcceptor;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use futures::future::{BoxFuture, LocalBoxFuture};
use gust_engine::config::{CatalogConfig, Config, ServerConfig, TlsConfig};
use gust_engine::error::QueryError;
use hyper_util::rt::TokioTimer;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::connections::{Bounded, Times};
use crate::door::{Door, Purpose, STALLED_MAX};
use crate::http::{Hosts, routes};
use crate::jwt::Provider;
use crate::postgres::Postgres;
use crate::tls;
use crate::tokens::Tokens;

/// Longest time in which the head of a request arrives.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);

/// Longest time of a connection without a request that was let in. Proxies close theirs after 60 s: they have to be the first.
const IDLE_MAX: Duration = Duration::from_secs(75);

/// Pause after which a client of HTTP/2 is asked if it is still there, and its time to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Longest wait at the start for the journals in the exchange.
const SHOWN_TIME_MAX: Duration = Duration::from_secs(5);

/// Most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Most requests that one HTTP/2 connection has under way.
const STREAMS_MAX: u32 = 100;

/// Options of a server that are no settings.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    pub listen: SocketAddr,
    /// Address for clients of PostgreSQL; None for none.
    pub postgres: Option<SocketAddr>,
    /// True if a proxy before the server ends TLS.
    pub is_behind_tls_proxy: bool,
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
    tls: Option<Tls>,
    handle: Handle<SocketAddr>,
    serving: JoinHandle<io::Result<()>>,
    postgres: Option<Postgres>,
    /// End of the time that running queries have; None while connections are taken.
    drained: Option<Instant>,
}

/// Certificate and key in use, and their files.
#[derive(Debug)]
struct Tls {
    files: TlsConfig,
    used: RustlsConfig,
}

/// A server before it takes connections.
struct Ready {
    door: Arc<Door>,
    listener: TcpListener,
    for_postgres: Option<TcpListener>,
    address: SocketAddr,
    hosts: Hosts,
    tls: Option<Tls>,
    drain: Duration,
    connections_max: usize,
}

impl Ready {
    async fn of(config: Config, options: ServerOptions, purpose: Purpose) -> Result<Self, QueryError> {
        let ServerOptions { listen, postgres, is_behind_tls_proxy, catalog, setup } = options;
        for address in [Some(listen), postgres].into_iter().flatten() {
            is_protected(address, &config.server, is_behind_tls_proxy)?;
        }
        if let Some(host) = config.server.hosts.iter().find(|host| has_port(host)) {
            return Err(QueryError::setup(format!("server.hosts: `{host}` has a port, and a name is expected"))
                .with_hint("leave the port out"));
        }
        // Files are read before others can reach anything.
        let tokens = config.server.tokens.as_deref().map(Tokens::read).transpose()?;
        let provider = config.server.jwt.as_ref().map(Provider::new).transpose()?;
        let provider = provider.map(|provider| provider.with_budgets(&config.server.budgets));
        if let (Some(tokens), Some(provider)) = (&tokens, &provider) {
            provider.check_names(tokens)?;
        }
        let tls = match &config.server.tls {
            Some(files) => Some(Tls { files: files.clone(), used: RustlsConfig::from_config(tls::read(files)?) }),
            None => None,
        };
        let failed = |error: io::Error| refused(listen, "--listen", &error);
        let listener = bind(listen).map_err(failed)?;
        let for_postgres = match postgres {
            Some(at) => Some(bind(at).map_err(|error| refused(at, "--postgres", &error))?),
            None => None,
        };
        let address = listener.local_addr().map_err(failed)?;
        let hosts = Hosts::of(address, config.server.hosts.iter().map(String::as_str));
        let (drain, connections_max) = (config.server.drain, config.server.connections_max as usize);
        let door = Arc::new(Door::open(config, tokens, provider, catalog, &setup, purpose).await?);
        Ok(Self { door, listener, for_postgres, address, hosts, tls, drain, connections_max })
    }
}

impl Server {
    /// Opens the engine, runs the set-up statements, and listens.
    ///
    /// # Errors
    /// [`gust_engine::error::ErrorKind::Setup`] if the address cannot be listened at, others can reach it and it is not protected, or the
    /// tokens or the certificate cannot be read; and the errors of the engine and of the set-up statements.
    pub fn start(config: Config, options: ServerOptions) -> LocalBoxFuture<'static, Result<Self, QueryError>> {
        Box::pin(async move {
            let Ready { door, listener, for_postgres, address, hosts, tls, drain, connections_max } =
                Ready::of(config, options, Purpose::Serve).await?;
            let times = Times { beginning_max: HEAD_TIME_MAX, idle_max: IDLE_MAX, stalled_max: STALLED_MAX };
            tokio::spawn(Arc::clone(&door).tidy());
            tokio::spawn(Arc::clone(&door).hear_late());
            tokio::spawn(Arc::clone(&door).keep_budgets());
            // A client that asks for a statement of an earlier server is not to hear that there is none.
            let (shown, is_shown) = oneshot::channel();
            tokio::spawn(Arc::clone(&door).take_over(shown));
            drop(tokio::time::timeout(SHOWN_TIME_MAX, is_shown).await);
            // A provider that is down locks nobody out who has a token of the file. The log has the error.
            drop(door.fetch_keys().await);
            tokio::spawn(Arc::clone(&door).refresh_keys());
            let handle = Handle::new();
            let failed = |error: io::Error| refused(address, "--listen", &error);
            let server = bounded(axum_server::from_tcp(listener).map_err(failed)?.handle(handle.clone()));
            let routes = routes(Arc::clone(&door), hosts).into_make_service();
            let serving = match &tls {
                Some(Tls { used, .. }) => {
                    let used = used.clone();
                    let encrypted = RustlsAcceptor::new(used).handshake_timeout(HEAD_TIME_MAX);
                    tokio::spawn(server.acceptor(Bounded::new(encrypted, connections_max, times)).serve(routes))
                }
                None => {
                    let plain = DefaultAcceptor::new();
                    tokio::spawn(server.acceptor(Bounded::new(plain, connections_max, times)).serve(routes))
                }
            };
            let used = || tls.as_ref().map(|tls| tls.used.clone());
            let postgres =
                for_postgres.map(|listener| Postgres::start(listener, Arc::clone(&door), used())).transpose()?;
            Ok(Self { door, address, drain, tls, handle, serving, postgres, drained: None })
        })
    }

    /// Checks that a server could start, that the identity provider tells its keys, that each catalog answers, that the collector takes
    /// traces, and that the exchange can have journals if they are wanted. No connection is taken. Nothing is written but an object in the exchange, which is deleted again.
    ///
    /// # Errors
    /// Those of [`Self::start`], and [`gust_engine::error::ErrorKind::Setup`] for the first that does not answer.
    pub fn check(config: Config, options: ServerOptions) -> LocalBoxFuture<'static, Result<(), QueryError>> {
        Box::pin(async move {
            let Ready { door, .. } = Ready::of(config, options, Purpose::Check).await?;
            let checked = async {
                door.fetch_keys().await?;
                door.ask_catalogs().await?;
                door.try_traces().await?;
                door.try_journals().await
            };
            let checked = checked.await;
            door.close().await;
            checked
        })
    }

    /// Reads tokens, certificate and key anew. After an error the earlier ones hold. A broken certificate does not hold up
    /// tokens, whose revocation may be urgent.
    ///
    /// # Errors
    /// [`gust_engine::error::ErrorKind::Setup`] if one of the files cannot be used.
    pub fn reload(&self) -> Result<(), QueryError> {
        let tokens = self.door.reload();
        if let Some(Tls { files, used }) = &self.tls {
            used.reload_from_config(tls::read(files)?);
        }
        tokens
    }

    /// Returns a future that takes the catalogs that `read` returns, for sessions that are opened after. It tells if any has changed. The server
    /// goes on meanwhile. After an error the earlier catalogs hold.
    pub fn reload_catalogs(
        &self,
        read: impl FnOnce() -> Result<BTreeMap<String, CatalogConfig>, QueryError> + Send + 'static,
    ) -> BoxFuture<'static, Result<bool, QueryError>> {
        let door = Arc::clone(&self.door);
        Box::pin(async move { door.reload_catalogs(read).await })
    }

    /// Returns the URL at which it listens.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Returns the address for clients of PostgreSQL; None if there is none.
    pub fn postgres_address(&self) -> Option<SocketAddr> {
        self.postgres.as_ref().map(Postgres::address)
    }

    /// Takes no more connections, and gives running queries the configured time.
    pub fn drain(&mut self) {
        self.drained = Some(Instant::now() + self.drain);
        if let Some(postgres) = &self.postgres {
            postgres.drain(self.drain);
        }
        self.handle.graceful_shutdown(Some(self.drain));
    }

    /// Ends all connections. Their queries are cancelled.
    pub fn stop(&self) {
        if let Some(postgres) = &self.postgres {
            postgres.stop();
        }
        self.handle.shutdown();
    }

    /// Waits until all connections have ended, and in a drain also the statements that go on without one.
    ///
    /// # Errors
    /// [`gust_engine::error::ErrorKind::Setup`] if no more connections could be taken.
    pub async fn ended(&mut self) -> Result<(), QueryError> {
        let cannot_serve = |error: &dyn Display| QueryError::setup(format!("cannot serve: {error}"));
        let ended = match (&mut self.serving).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(cannot_serve(&error)),
            Err(error) => Err(cannot_serve(&error)),
        };
        if let Some(postgres) = &self.postgres {
            if ended.is_err() {
                postgres.stop();
            }
            postgres.ended().await;
        }
        if let Some(drained) = self.drained {
            // What is left then is cancelled.
            drop(tokio::time::timeout_at(drained.into(), self.door.ended()).await);
        }
        ended
    }

    /// Stops what still runs, and closes the engine.
    pub async fn close(self) {
        self.door.close().await;
    }
}

fn bind(at: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(at)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn has_port(host: &str) -> bool {
    host.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'))
}

fn refused(at: SocketAddr, flag: &str, error: &io::Error) -> QueryError {
    QueryError::setup(format!("cannot listen at {at}: {error}")).with_hint(format!("choose another with {flag}"))
}

/// Refuses an address that others can reach, unless there are tokens and TLS.
fn is_protected(listen: SocketAddr, server: &ServerConfig, is_behind_tls_proxy: bool) -> Result<(), QueryError> {
    let (has_users, has_tls) =
        (server.tokens.is_some() || server.jwt.is_some(), server.tls.is_some() || is_behind_tls_proxy);
    let (what, hint) = match (listen.ip().is_loopback(), has_users, has_tls) {
        (true, ..) | (false, true, true) => return Ok(()),
        (false, false, _) => (
            "users",
            "set `tokens` under [server], with tokens of `gust token new`, or [server.jwt]; or listen at 127.0.0.1",
        ),
        (false, true, false) => {
            ("TLS", "set `certificate` and `key` under [server.tls], or give --behind-tls-proxy where a proxy ends it")
        }
    };
    let message = format!("{listen} can be reached from other machines, and the server has no {what}");
    Err(QueryError::setup(message).with_hint(hint))
}

/// Bounds the heads of requests, and the time in which they arrive.
fn bounded(mut server: axum_server::Server<SocketAddr>) -> axum_server::Server<SocketAddr> {
    let builder = server.http_builder();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIME_MAX).max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .max_concurrent_streams(STREAMS_MAX);
    server
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_others_reach_needs_users_and_tls() {
        let tls = || TlsConfig { certificate: "c.pem".into(), key: "k.pem".into() };
        for (listen, has_users, has_tls, is_behind_tls_proxy, missing) in [
            ("127.0.0.1:8123", false, false, false, None),
            ("[::1]:8123", false, false, false, None),
            ("0.0.0.0:8123", false, true, true, Some("users")),
            ("[::]:8123", false, false, false, Some("users")),
            ("192.0.2.1:8123", true, false, false, Some("TLS")),
            ("192.0.2.1:8123", true, true, false, None),
            ("0.0.0.0:8123", true, false, true, None),
        ] {
            let server = ServerConfig {
                tokens: has_users.then(|| "tokens.toml".into()),
                tls: has_tls.then(tls),
                ..ServerConfig::default()
            };
            let refused = is_protected(listen.parse().expect("an address"), &server, is_behind_tls_proxy).err();
            let expect = missing
                .map(|what| format!("{listen} can be reached from other machines, and the server has no {what}"));
            assert_eq!(refused.map(|error| error.message().to_owned()), expect, "{listen} {has_users} {has_tls}");
        }
    }
}
