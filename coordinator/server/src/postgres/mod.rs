//! PostgreSQL's protocol, for its many clients.
//!
//! ```text
//!  socket ─► startup (TLS, user) ─► reader (a task) ─► connection ─► admission ─► query (a task) ─► portals ─► answers
//!                                        └ gone: the client's end stops its query
//! ```
//!
//! A connection is a session. Statements take the way of HTTP's: the queue, the decision, the cap, the history. Rows are sent as
//! they come. A portal whose client has enough for now keeps its rows waiting, and gives its right to run up. The memory of its joins it
//! keeps, and beside such a portal no statement of the connection waits.
//!
//! Non-goals: writes, COPY, notifications, replication, SCRAM. BEGIN, COMMIT and ROLLBACK change nothing but the state that clients see.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum_server::tls_rustls::RustlsConfig;
use gust_engine::error::QueryError;
use pgwire::messages::response::TransactionStatus;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod answers;
mod catalog;
mod commands;
mod connection;
mod copy;
mod effects;
mod keys;
mod messages;
mod numeric;
mod parameters;
mod places;
mod portals;
mod prepared;
mod query;
mod reader;
mod rows;
mod settings;
mod startup;
mod values;
mod watch;

use crate::door::{Door, SessionWishes};
use crate::memory::Claims;
use crate::tokens::Principal;
use answers::{Answers, Told};
use catalog::{KeptColumns, OWN_DATABASE, PgCatalog};
use connection::{Connection, Ends};
use keys::Keys;
use places::{Beginning, CONNECTIONS_MAX, CONNECTIONS_OF_USER_MAX, Places};
use settings::Settings;
use startup::{Begun, NotBegun, Socket, Startup};
use watch::Stop;

/// Longest time from the connection to the user's name and password.
const STARTUP_TIME_MAX: Duration = Duration::from_secs(10);

/// Longest time for which a client that was refused is heard.
const LINGER_TIME_MAX: Duration = Duration::from_secs(1);

/// Longest time in which the catalog of a new connection answers.
const OPEN_TIME_MAX: Duration = Duration::from_secs(60);

/// Time without a byte after which a peer is asked if it is there, and pause between questions.
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
const KEEPALIVE_PAUSE: Duration = Duration::from_secs(15);

/// Pause after a connection that could not be taken, as when there are no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Names of a database that stand for the server's own place of bare names.
const OWN_DATABASES: [&str; 2] = [OWN_DATABASE, "postgres"];

/// SQLSTATE codes of PostgreSQL.
const TOO_MANY: &str = "53300";
const NO_DATABASE: &str = "3D000";
const CANNOT_CONNECT: &str = "08004";

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
    places: Places,
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
            places: Places::new(),
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
    loop {
        let accepting = async {
            let room = shared.places.room().await;
            (listener.accept().await, room)
        };
        let (accepted, room) = tokio::select! {
            () = shared.draining.cancelled() => return,
            accepted = accepting => accepted,
        };
        let (tcp, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if let Some(beginning) = room.and_then(|room| shared.places.begin(peer.ip(), room)) {
            let shared = Arc::clone(&shared);
            connections.spawn(async move { connected(tcp, beginning, &shared).await });
        }
    }
}

/// Serves one connection to its end.
async fn connected(tcp: TcpStream, beginning: Beginning, shared: &Shared) {
    // Answers are collected already.
    drop(tcp.set_nodelay(true));
    // A peer without power says nothing. Its connection ends by itself.
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE_TIME).with_interval(KEEPALIVE_PAUSE);
    drop(socket2::SockRef::from(&tcp).set_tcp_keepalive(&keepalive));
    let knowing = tokio::time::timeout(STARTUP_TIME_MAX, known(tcp, shared));
    let known = tokio::select! {
        known = knowing => known.ok().flatten(),
        () = shared.stopping.cancelled() => None,
    };
    drop(beginning);
    let Some(mut known) = known else { return };
    let Some(_place) = shared.places.connect(known.principal.user.as_deref()) else {
        let told = Told::new(
            TOO_MANY,
            format!(
                "there are {CONNECTIONS_MAX} connections, or {CONNECTIONS_OF_USER_MAX} of this user; no more are taken"
            ),
        );
        return known.refuse(&told).await;
    };
    let connection = tokio::select! {
        started = started(known, shared) => started,
        () = shared.stopping.cancelled() => None,
    };
    if let Some((connection, messages)) = connection {
        connection.serve(messages).await;
    }
}

type Started = (Connection<WriteHalf<Socket>>, tokio::sync::mpsc::Receiver<reader::Received>);

/// Client whose user is known.
struct Known {
    startup: Startup,
    principal: Principal,
    reader: ReadHalf<Socket>,
    answers: Answers<WriteHalf<Socket>>,
}

impl Known {
    async fn refuse(&mut self, told: &Told) {
        refuse_on(&mut self.reader, &mut self.answers, told).await;
    }
}

async fn refuse_on(reader: &mut (impl AsyncRead + Unpin), answers: &mut Answers<impl AsyncWrite + Unpin>, told: &Told) {
    if answers.fatal(told).await.is_ok() {
        drop(tokio::time::timeout(LINGER_TIME_MAX, startup::linger(reader)).await);
    }
}

/// Finds out who a client is. None if it was refused, has gone, or only came to cancel a statement.
async fn known(tcp: TcpStream, shared: &Shared) -> Option<Known> {
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
    let principal = startup::authenticate(&shared.door, &startup, &mut reader, &mut answers).await.ok()?;
    match principal {
        Ok(principal) => Some(Known { startup, principal, reader, answers }),
        Err(told) => {
            refuse_on(&mut reader, &mut answers, &told).await;
            None
        }
    }
}

/// Opens the session of a client. None if it was refused, or has gone.
async fn started(mut known: Known, shared: &Shared) -> Option<Started> {
    let opening = open(shared, known.principal.clone(), &known.startup);
    let opened = tokio::time::timeout(OPEN_TIME_MAX, opening).await.unwrap_or_else(|_| {
        let after = OPEN_TIME_MAX.as_secs();
        Err(Told::new(CANNOT_CONNECT, format!("the catalog did not answer within {after} s")))
    });
    let opened = match opened {
        Ok(opened) => opened,
        Err(told) => {
            known.refuse(&told).await;
            return None;
        }
    };
    let Known { startup, reader, answers, .. } = known;
    let Opened { principal, session, catalog, settings, wishes, home } = opened;
    // Without users a client calls itself as it likes.
    let user = principal.user.as_deref().or_else(|| startup.parameter("user")).unwrap_or_default().to_owned();
    let key = shared.keys.make().ok()?;
    let gone = CancellationToken::new();
    let messages = reader::read(reader, gone.clone());
    let ends = Ends { gone, draining: shared.draining.clone(), stopping: shared.stopping.clone() };
    let mut connection = Connection {
        door: Arc::clone(&shared.door),
        principal,
        session,
        home,
        wishes,
        savepoints: Vec::new(),
        before_local: std::collections::BTreeMap::new(),
        pg_catalog: PgCatalog::new(catalog.clone(), user, shared.columns.clone()),
        catalog,
        settings,
        key,
        answers,
        transaction: TransactionStatus::Idle,
        statements: std::collections::BTreeMap::new(),
        portals: std::collections::BTreeMap::new(),
        claims: Claims::default(),
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
    principal: Principal,
    session: gust_engine::session::Session,
    catalog: Option<String>,
    settings: Settings,
    wishes: SessionWishes,
    /// Catalog and schema in which bare names are looked up.
    home: [String; 2],
}

async fn open(shared: &Shared, principal: Principal, startup: &Startup) -> Result<Opened, Told> {
    let user = startup.parameter("user").unwrap_or_default();
    let database = startup.parameter("database").filter(|name| !name.is_empty()).unwrap_or(user);
    let wanted = (database != user && !OWN_DATABASES.contains(&database)).then(|| database.to_owned());
    let wishes = SessionWishes { catalog: wanted.clone(), ..SessionWishes::default() };
    let session = shared.door.session(&principal, wishes.clone()).await.map_err(|error| match wanted {
        Some(_) => {
            let told = Told::new(NO_DATABASE, error.message());
            told.with_hint("a database is a catalog of the configuration, or `gust` for the server's own place")
        }
        None => Told::from(&error),
    })?;
    let mut settings = Settings::default();
    settings.set_user(user);
    let catalog = wanted.or_else(|| shared.door.catalog_of(&session).map(str::to_owned));
    let state = session.context().state();
    let of_names = &state.config_options().catalog;
    let home = [of_names.default_catalog.clone(), of_names.default_schema.clone()];
    Ok(Opened { principal, session, catalog, settings, wishes, home })
}

async fn refuse(mut socket: Socket, told: &Told) {
    let mut answers = Answers::new(&mut socket);
    if answers.fatal(told).await.is_ok() {
        drop(tokio::time::timeout(LINGER_TIME_MAX, startup::linger(&mut socket)).await);
    }
}
