//! An Iceberg REST catalog inside the test process, on a loopback port of its own.
//!
//! It keeps its tables as a SQL catalog does, in the tables of SQLite that every Iceberg implementation shares, with metadata
//! in files or on the S3 server. It takes commits, so that pyiceberg writes through it. It notes every request.
//!
//! ```text
//!  client ──HTTP──▶ axum ─▶ notes, delays, faults ─▶ access (token, OAuth2, SigV4) ─▶ tables ─▶ SQLite, metadata files
//! ```
//!
//! Independent of the client under test: it shares no code with it. Non-goals: views, transactions over several tables.

mod access;
mod commit;
mod routes;
mod tables;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use axum::http::{Method, Uri};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

pub use access::Access;
use access::Tokens;
pub use tables::Place;
use tables::Tables;

use crate::s3::Lent;

const THREADS: usize = 2;

/// Behaviour of the server, which a test may change at any time.
#[derive(Debug, Clone)]
pub struct Rules {
    pub access: Access,
    /// Path before the namespaces, which `/v1/config` tells. Empty for none.
    pub prefix: String,
    /// Names of one page.
    pub page_names: usize,
    /// Time before each answer.
    pub delay: Duration,
    pub faults: Vec<Fault>,
    /// Credentials that are lent for tables. None lends none.
    pub lends: Option<Lending>,
    /// Further settings in the answer of a table.
    pub table_config: BTreeMap<String, String>,
    /// Seconds by which the server's clock is ahead, in what it tells and in what it checks.
    pub clock_ahead: i64,
}

impl Rules {
    fn now(&self) -> chrono::DateTime<chrono::Utc> {
        chrono::Utc::now() + chrono::TimeDelta::seconds(self.clock_ahead)
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            access: Access::Open,
            prefix: String::new(),
            page_names: 1000,
            delay: Duration::ZERO,
            faults: Vec::new(),
            lends: None,
            table_config: BTreeMap::new(),
            clock_ahead: 0,
        }
    }
}

/// Answer in place of the right one, for the first requests whose path and query have a text.
#[derive(Debug, Clone)]
pub struct Fault {
    pub path_part: String,
    pub status: u16,
    pub retry_after: Option<u64>,
    /// Text of the answer. `{authorization}` in it is what the request was authorized with, as careless servers quote it.
    pub body: String,
    /// Requests that it befalls still.
    pub times: u32,
}

impl Fault {
    pub fn new(path_part: &str, status: u16, times: u32) -> Self {
        let body = format!(r#"{{"error": {{"message": "told to fail", "type": "Fault", "code": {status}}}}}"#);
        Self { path_part: path_part.to_owned(), status, retry_after: None, body, times }
    }

    #[must_use]
    pub fn retry_after(self, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }
}

/// Credentials for the files of one table, on the S3 server.
#[derive(Debug, Clone)]
pub struct Lending {
    pub keys: Lent,
    /// Time for which they are valid.
    pub life: Duration,
    /// Prefix that the credentials are said to be for. None is the table's location.
    pub prefix: Option<String>,
}

/// Request that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub query: String,
    pub status: u16,
}

/// Running server. Dropping it stops it.
pub struct RestServer {
    endpoint: String,
    state: Arc<State>,
    runtime: Option<Runtime>,
}

struct State {
    rules: Mutex<Rules>,
    asked: Mutex<Vec<Asked>>,
    fired: Mutex<BTreeMap<u16, u64>>,
    tokens: Tokens,
    tables: Tables,
}

impl State {
    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, method: &Method, uri: &Uri, status: u16) {
        let (path, query) = (uri.path().to_owned(), uri.query().unwrap_or_default().to_owned());
        let asked = Asked { method: method.to_string(), path, query, status };
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
    }
}

impl RestServer {
    /// Starts a server without tables. Its database is a file of `folder`; `place` is where tables go.
    ///
    /// # Errors
    /// When no port, no thread or no database can be had.
    pub fn start(folder: &Path, place: Place, rules: Rules) -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").context("cannot listen on loopback")?;
        listener.set_nonblocking(true).context("cannot listen without blocking")?;
        let endpoint = format!("http://{}", listener.local_addr().context("the listener has no address")?);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("rest-server")
            .enable_all()
            .build()
            .context("cannot start the server's threads")?;
        let database = folder.join("rest.db");
        let tables = std::thread::scope(|scope| {
            scope.spawn(|| runtime.block_on(Tables::open(&database, place))).join().expect("no panic")
        })?;
        let state = Arc::new(State {
            rules: Mutex::new(rules),
            asked: Mutex::default(),
            fired: Mutex::default(),
            tokens: Tokens::default(),
            tables,
        });
        let served = Arc::clone(&state);
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener)?;
            let router = axum::Router::new().fallback(move |request| routes::answer(Arc::clone(&served), request));
            axum::serve(listener, router).await
        });
        Ok(Self { endpoint, state, runtime: Some(runtime) })
    }

    /// Returns `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Changes the behaviour of later requests.
    pub fn set(&self, change: impl FnOnce(&mut Rules)) {
        change(&mut self.state.rules());
    }

    /// Ends all tokens: they are answered with 419 from now on.
    pub fn expire_tokens(&self) {
        self.state.tokens.expire();
    }

    /// Returns how many tokens were given.
    pub fn tokens_given(&self) -> u64 {
        self.state.tokens.given()
    }

    /// Returns how often each fault's status was answered.
    pub fn fired(&self) -> BTreeMap<u16, u64> {
        self.state.fired.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns all requests since the start, or since the last time, in the order of their answers.
    pub fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Enters tables whose metadata is there already, by namespace and name.
    ///
    /// # Errors
    /// That of the database.
    pub async fn register(&self, tables: &[(Vec<String>, String, String)]) -> anyhow::Result<()> {
        self.state.tables.register(tables).await
    }

    /// Makes another metadata file the present one of a table, as a commit does.
    ///
    /// # Errors
    /// That of the database.
    pub async fn point(&self, namespace: &[String], name: &str, location: &str) -> anyhow::Result<()> {
        self.state.tables.point(namespace, name, location).await
    }
}

impl Drop for RestServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
