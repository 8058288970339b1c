//! PostgreSQL's protocol, for its many clients.
//!
//! ```text
//!  socket ─► startup (TLS, user) ─► reader (a task) ─► connection ─► admission ─► query (a task) ─► portals ─► answers
//!                                        └ gone: the client's end stops its query
//! ```
//!
//! A connection is a session. Statements take the way of HTTP's: the queue, the decision, the cap, the history. Rows are sent as
//! they come. A portal whose client has enough for now keeps its rows waiting, and gives its right to run up.
//!
//! Non-goals: writes, COPY, notifications, replication, SCRAM. BEGIN, COMMIT and ROLLBACK change nothing but the state that clients see.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum_server::tls_rustls::RustlsConfig;
use gust_engine::error::QueryError;
use pgwire::messages::response::TransactionStatus;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod answers;
mod catalog;
mod commands;
mod connection;
mod keys;
mod messages;
mod numeric;
mod parameters;
mod portals;
mod prepared;
mod query;
mod reader;
mod rows;
mod settings;
mod startup;
mod watch;

use crate::door::{Door, SessionWishes};
use answers::{Answers, Told};
use catalog::{KeptColumns, OWN_DATABASE, PgCatalog};
use connection::{Connection, Ends};
use keys::Keys;
use settings::Settings;
use startup::{Begun, NotBegun, Socket, Startup};
use watch::Stop;

/// Longest time from the connection to the user's name and password.
const STARTUP_TIME_MAX: Duration = Duration::from_secs(10);

/// Longest time for which a client that was refused is heard.
const LINGER_TIME_MAX: Duration = Duration::from_secs(1);

/// Most connections at the same time.
const CONNECTIONS_MAX: usize = 1_000;

/// Pause after a connection that could not be taken, as when there are no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Names of a database that stand for the server's own place of bare names.
const OWN_DATABASES: [&str; 2] = [OWN_DATABASE, "postgres"];

/// SQLSTATE codes of PostgreSQL.
const TOO_MANY: &str = "53300";
const NO_DATABASE: &str = "3D000";

/// Socket that listens for clients of PostgreSQL, and their connections.
#[derive(Debug)]
pub(crate) struct Postgres {
    address: SocketAddr,
    draining: CancellationToken,
    stopping: CancellationToken,
    connections: TaskTracker,
}

/// Facts that all connections share.
#[derive(Debug)]
struct Shared {
    door: Arc<Door>,
    tls: Option<RustlsConfig>,
    keys: Keys,
    columns: KeptColumns,
    draining: CancellationToken,
    stopping: CancellationToken,
}

impl Postgres {
    /// Listens on a socket that is bound.
    ///
    /// # Errors
    /// [`gust_engine::error::ErrorKind::Setup`] if the socket cannot be used.
    pub(crate) fn start(
        listener: std::net::TcpListener,
        door: Arc<Door>,
        tls: Option<RustlsConfig>,
    ) -> Result<Self, QueryError> {
        let failed = |error: std::io::Error| QueryError::setup(format!("cannot serve PostgreSQL's clients: {error}"));
        let address = listener.local_addr().map_err(failed)?;
        let listener = TcpListener::from_std(listener).map_err(failed)?;
        let (draining, stopping) = (CancellationToken::new(), CancellationToken::new());
        let keys = Keys::default();
        let shared = Shared {
            door,
            tls,
            keys,
            columns: KeptColumns::default(),
            draining: draining.clone(),
            stopping: stopping.clone(),
        };
        let connections = TaskTracker::new();
        connections.spawn(accept(listener, Arc::new(shared), connections.clone()));
        Ok(Self { address, draining, stopping, connections })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections, and gives statements under way this time.
    pub(crate) fn drain(&self, time: Duration) {
        self.draining.cancel();
        let stopping = self.stopping.clone();
        drop(tokio::spawn(async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = tokio::time::sleep(time) => stopping.cancel(),
            }
        }));
    }

    /// Ends all connections. Their statements are cancelled.
    pub(crate) fn stop(&self) {
        self.draining.cancel();
        self.stopping.cancel();
    }

    /// Waits until all connections have ended, after [`Self::drain`] or [`Self::stop`].
    pub(crate) async fn ended(&self) {
        self.draining.cancelled().await;
        self.connections.close();
        self.connections.wait().await;
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, connections: TaskTracker) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            () = shared.draining.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let tcp = match accepted {
            Ok((tcp, _)) => tcp,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (shared, place) = (Arc::clone(&shared), Arc::clone(&places).try_acquire_owned());
        connections.spawn(async move {
            match place {
                Ok(_place) => connected(tcp, &shared).await,
                Err(_) => {
                    let told =
                        Told::new(TOO_MANY, format!("there are {CONNECTIONS_MAX} connections; no more are taken"));
                    refuse(Socket::Plain(tcp), &told).await;
                }
            }
        });
    }
}

/// Serves one connection to its end.
async fn connected(tcp: TcpStream, shared: &Shared) {
    // Answers are collected already.
    drop(tcp.set_nodelay(true));
    let starting = tokio::time::timeout(STARTUP_TIME_MAX, started(tcp, shared));
    let connection = tokio::select! {
        started = starting => started.ok().flatten(),
        () = shared.stopping.cancelled() => None,
    };
    if let Some((connection, messages)) = connection {
        connection.serve(messages).await;
    }
}

type Started = (Connection<tokio::io::WriteHalf<Socket>>, tokio::sync::mpsc::Receiver<reader::Received>);

/// Lets a client in. None if it was refused, has gone, or only came to cancel a statement.
async fn started(tcp: TcpStream, shared: &Shared) -> Option<Started> {
    let (socket, startup) = match startup::begin(tcp, shared.tls.as_ref()).await {
        Ok(Begun::Client { socket, startup }) => (socket, startup),
        Ok(Begun::Cancel { pid, secret }) => {
            shared.keys.cancel(pid, &secret);
            return None;
        }
        Err(Some(NotBegun { socket: Some(socket), told })) => {
            refuse(socket, &told).await;
            return None;
        }
        Err(_) => return None,
    };
    let (mut reader, writer) = tokio::io::split(socket);
    let mut answers = Answers::new(writer);
    let opened = match startup::authenticate(&shared.door, &startup, &mut reader, &mut answers).await.ok()? {
        Ok(principal) => open(shared, principal, &startup).await,
        Err(told) => Err(told),
    };
    let opened = match opened {
        Ok(opened) => opened,
        Err(told) => {
            drop(answers.fatal(&told).await);
            drop(tokio::time::timeout(LINGER_TIME_MAX, startup::linger(&mut reader)).await);
            return None;
        }
    };
    let Opened { principal, session, catalog, settings } = opened;
    let key = shared.keys.make().ok()?;
    let gone = CancellationToken::new();
    let messages = reader::read(reader, gone.clone());
    let ends = Ends { gone, draining: shared.draining.clone(), stopping: shared.stopping.clone() };
    let mut connection = Connection {
        door: Arc::clone(&shared.door),
        principal,
        session,
        pg_catalog: PgCatalog::new(catalog.clone(), shared.columns.clone()),
        catalog,
        settings,
        key,
        answers,
        transaction: TransactionStatus::Idle,
        statements: std::collections::BTreeMap::new(),
        portals: std::collections::BTreeMap::new(),
        ends,
    };
    match connection.welcome(&startup).await {
        Ok(()) => Some((connection, messages)),
        Err(Stop::Ends(told) | Stop::Failed(told)) => {
            drop(connection.answers.fatal(&told).await);
            None
        }
        Err(Stop::Gone) => None,
    }
}

/// Session of a client that is let in.
struct Opened {
    principal: crate::tokens::Principal,
    session: gust_engine::session::Session,
    catalog: Option<String>,
    settings: Settings,
}

async fn open(shared: &Shared, principal: crate::tokens::Principal, startup: &Startup) -> Result<Opened, Told> {
    let user = startup.parameter("user").unwrap_or_default();
    let database = startup.parameter("database").filter(|name| !name.is_empty()).unwrap_or(user);
    let wanted = (database != user && !OWN_DATABASES.contains(&database)).then(|| database.to_owned());
    let wishes = SessionWishes { catalog: wanted.clone(), ..SessionWishes::default() };
    let session = shared.door.session(&principal, wishes).await.map_err(|error| match wanted {
        Some(_) => {
            let told = Told::new(NO_DATABASE, error.message());
            told.with_hint("a database is a catalog of the configuration, or `gust` for the server's own place")
        }
        None => Told::from(&error),
    })?;
    let mut settings = Settings::default();
    settings.set_user(user);
    let catalog = wanted.or_else(|| shared.door.catalog().map(str::to_owned));
    Ok(Opened { principal, session, catalog, settings })
}

async fn refuse(mut socket: Socket, told: &Told) {
    let mut answers = Answers::new(&mut socket);
    if answers.fatal(told).await.is_ok() {
        drop(tokio::time::timeout(LINGER_TIME_MAX, startup::linger(&mut socket)).await);
    }
}
