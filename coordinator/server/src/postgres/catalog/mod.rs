//! `pg_catalog`, in which clients look for tables and columns.
//!
//! A statement that is about it is written as the engine's, and before it runs the names of the connection's catalog are listed. A
//! listing loads no table. Columns are loaded of the tables that the statement names, by number or by name, and kept for a while.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::{Int32Type, SchemaRef};
use datafusion::common::DataFusionError;
use datafusion_pg_catalog::pg_catalog::{PgCatalogSchemaProvider, PgCatalogStaticTables};
use gust_engine::config::CatalogConfig;
use gust_engine::error::QueryError;
use gust_engine::session::{OWN_CATALOG, Piece, Session, on_big_stack};
use tokio::time::Instant;

mod functions;
mod names;
mod rewrite;
mod roles;
mod routines;

use crate::listing::{self, rows, texts};
use crate::run::FAULT;
use functions::Facts;
use names::{Listed, Listing, Relation};
pub(super) use rewrite::may_mention;
use roles::OwnRole;
use routines::{PgTables, Routines};

/// Name of the schema.
const PG_CATALOG: &str = "pg_catalog";

/// Name of the session's own tables as a database.
pub(super) const OWN_DATABASE: &str = "gust";

/// Most tables whose columns one statement is shown.
const LOADED_MAX: usize = 1_000;

/// Columns that are kept, for all connections, and the time for which they are.
const KEPT_MAX: usize = 10_000;
const KEPT_TIME: Duration = Duration::from_secs(60);

/// Tables that never change, from PostgreSQL.
static STATIC: LazyLock<Result<Arc<PgCatalogStaticTables>, String>> =
    LazyLock::new(|| PgCatalogStaticTables::try_new().map(Arc::new).map_err(|error| error.to_string()));

/// Columns of tables of the configured catalogs, kept for all connections. Clones share them. A connection asks for those that its own
/// listing has, and that lists what its user may read.
#[derive(Debug, Clone, Default)]
pub(super) struct KeptColumns(Arc<Mutex<BTreeMap<[String; 3], Kept>>>);

#[derive(Debug)]
struct Kept {
    since: Instant,
    /// Place of the catalog that was asked. After a reload another one may have its name, and connections from before still have the old one.
    of: CatalogConfig,
    columns: SchemaRef,
}

impl KeptColumns {
    fn get(&self, of: &CatalogConfig, names: [&str; 3]) -> Option<SchemaRef> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = names.map(str::to_owned);
        let found = kept.get(&key)?;
        if found.since.elapsed() < KEPT_TIME && found.of == *of {
            return Some(Arc::clone(&found.columns));
        }
        kept.remove(&key);
        None
    }

    fn keep(&self, of: &CatalogConfig, names: [&str; 3], columns: &SchemaRef) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_MAX {
            kept.retain(|_, kept| kept.since.elapsed() < KEPT_TIME);
        }
        if kept.len() < KEPT_MAX {
            let (of, columns) = (of.clone(), Arc::clone(columns));
            kept.insert(names.map(str::to_owned), Kept { since: Instant::now(), of, columns });
        }
    }
}

/// `pg_catalog` of one connection.
#[derive(Debug)]
pub(super) struct PgCatalog {
    /// Catalog whose tables are shown; None for the session's own.
    catalog: Option<String>,
    /// Name of the connection's user.
    user: String,
    listing: Listing,
    routines: Routines,
    kept: KeptColumns,
    is_installed: bool,
}

/// Statement in the engine's words.
#[derive(Debug)]
pub(super) struct Rewritten {
    pub(super) text: String,
    /// True if there are more tables than those whose columns are shown.
    pub(super) is_partial: bool,
}

impl PgCatalog {
    pub(super) fn new(catalog: Option<String>, user: String, kept: KeptColumns) -> Self {
        let (listing, routines) = (Listing::default(), Routines::default());
        Self { catalog, user, listing, routines, kept, is_installed: false }
    }

    /// Begins with a new session.
    pub(super) fn begin_anew(&mut self) {
        self.is_installed = false;
        (self.listing, self.routines) = (Listing::default(), Routines::default());
    }

    /// Writes a statement about PostgreSQL as the engine's, and makes what it mentions ready. None if it is not about PostgreSQL.
    ///
    /// # Errors
    /// The names cannot be listed, or a table's columns cannot be had.
    pub(super) async fn prepare(&mut self, session: &Session, piece: &Piece) -> Result<Option<Rewritten>, QueryError> {
        let text = piece.text.clone();
        // A tree is as deep as the text makes it, and takes time.
        let rewriting = tokio::task::spawn_blocking(move || on_big_stack(|| rewrite::rewritten(&text)));
        let rewritten = rewriting.await.map_err(|_| QueryError::sql("the parser panicked").with_sqlstate(FAULT))?;
        let Some(text) = rewritten else { return Ok(None) };
        if !self.is_installed {
            self.install(session).map_err(QueryError::from_engine)?;
            self.is_installed = true;
        }
        let mut is_partial = false;
        if rewrite::mentions_relations(piece) {
            self.list(session).await?;
            if rewrite::mentions_columns(piece) {
                is_partial = self.load(session, piece).await?;
            }
            if rewrite::mentions_routines(piece) {
                self.routines.list(session).await?;
            }
        }
        Ok(Some(Rewritten { text, is_partial }))
    }

    fn install(&self, session: &Session) -> Result<(), DataFusionError> {
        let tables = STATIC.clone().map_err(DataFusionError::Internal)?;
        let others = PgCatalogSchemaProvider::try_new(self.listing.clone(), tables, OwnRole(self.user.clone()))?;
        let context = session.context();
        if let Some(own) = context.catalog(OWN_CATALOG) {
            own.register_schema(PG_CATALOG, Arc::new(PgTables { others, routines: self.routines.clone() }))?;
        }
        let database = self.catalog.as_deref().unwrap_or(OWN_DATABASE);
        functions::install(context, &Facts { database, user: &self.user, routines: &self.routines });
        Ok(())
    }

    /// Lists the names of the connection's catalog.
    async fn list(&self, session: &Session) -> Result<(), QueryError> {
        let catalog = self.catalog.as_deref().unwrap_or(OWN_CATALOG);
        let mut schemas: BTreeMap<String, BTreeMap<String, Relation>> = BTreeMap::new();
        for listing::Listed { schema, table, kind } in listing::tables(session, catalog).await? {
            if schema != PG_CATALOG {
                schemas.entry(schema).or_default().insert(table, Relation { kind, columns: None });
            }
        }
        // They are there without a table, too.
        for always in [PG_CATALOG, "information_schema", "public"] {
            schemas.entry(always.to_owned()).or_default();
        }
        let current = self.catalog.clone().unwrap_or_else(|| OWN_DATABASE.to_owned());
        let mut databases: Vec<String> = session.config().catalogs.keys().cloned().collect();
        databases.push(OWN_DATABASE.to_owned());
        self.listing.set(Listed { databases, current, schemas });
        Ok(())
    }

    /// Loads the columns of the tables that a statement names, else of all, up to a bound. Returns true if there are more.
    async fn load(&self, session: &Session, piece: &Piece) -> Result<bool, QueryError> {
        let all = self.listing.names();
        let numbers = rewrite::numbers(piece);
        let mut wanted: Vec<(String, String)> = Vec::new();
        if !numbers.is_empty() {
            let sql = format!(
                "SELECT n.nspname, c.relname, c.oid FROM {OWN_CATALOG}.{PG_CATALOG}.pg_class c \
                 JOIN {OWN_CATALOG}.{PG_CATALOG}.pg_namespace n ON n.oid = c.relnamespace"
            );
            for batch in rows(session, &sql).await? {
                let oids = batch.column(2).as_primitive::<Int32Type>().values().iter();
                let names = texts(&batch, 0).into_iter().zip(texts(&batch, 1));
                let named = names.zip(oids).filter(|(_, oid)| numbers.contains(&i64::from(**oid)));
                wanted.extend(named.map(|(name, _)| name));
            }
        }
        if wanted.is_empty() {
            let texts = rewrite::texts(piece);
            wanted.extend(all.iter().filter(|(_, table)| texts.contains(table.as_str())).cloned());
        }
        let is_partial = wanted.is_empty() && all.len() > LOADED_MAX;
        if wanted.is_empty() {
            wanted = all;
        }
        for (schema, table) in wanted.into_iter().take(LOADED_MAX) {
            // A table that cannot be read has no columns to show.
            if let Ok(columns) = self.columns(session, &schema, &table).await {
                self.listing.set_columns(&schema, &table, columns);
            }
        }
        Ok(is_partial)
    }

    async fn columns(&self, session: &Session, schema: &str, table: &str) -> Result<SchemaRef, QueryError> {
        let catalog = self.catalog.as_deref().unwrap_or(OWN_CATALOG);
        let (of, names) = (session.config().catalogs.get(catalog), [catalog, schema, table]);
        if let Some(columns) = of.and_then(|of| self.kept.get(of, names)) {
            return Ok(columns);
        }
        let columns = listing::columns(session, names).await?;
        if let Some(of) = of {
            self.kept.keep(of, names, &columns);
        }
        Ok(columns)
    }
}
