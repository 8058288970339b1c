//! Sessions: SQL text goes in, running queries come out.
//!
//! ```text
//!  Engine (a process) ──► Session (a connection) ──► query (a statement on its way)
//!  clients, footers,      settings, tables,          counters, memory,
//!  functions, memory      catalogs, cap              deadline, rows
//! ```

use std::sync::{Arc, Mutex};
use std::time::Duration;

use datafusion::catalog::{CatalogProviderList, UrlTableFactory};
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::memory_pool::{MemoryLimit, MemoryPool};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::prelude::SessionContext;

mod cap;
mod catalogs;
mod classify;
mod copy;
mod defaults;
mod doctor;
mod engine;
mod folder;
mod options;
mod parameters;
mod pieces;
mod plain;
mod prepared;
mod recorder;
mod run;
mod running;
mod setup;
mod statement;
mod system;
mod table_names;
mod versions;
mod workers;

use crate::error::QueryError;
pub use crate::fleet::Finding;
pub use copy::{CopyFormat, CopyTarget};
pub use engine::{Engine, EngineOptions};
pub use fragment_fn::stack::on_big_stack;
pub use options::{Allowed, SessionOptions, SettingsPolicy, TraceParent};
pub use parameters::Described;
pub use pieces::{Piece, Word, WordKind, pieces};
pub use plain::plain_type;
pub use recorder::{EndedStatement, Recorder, Refused, Script};
pub use run::{ClaimedMemory, MemoryGate, RunningStatement};
pub use running::MemoryWaits;
pub use setup::{OwnTables, SetUpLog};
pub use statement::{OWN_CATALOG, OWN_SCHEMA, Statement, text_of};

use crate::cap::SharedBudgets;
use crate::config::{Config, Target};
use crate::cost::{PriceError, Tariff};
use crate::exchange::Exchange;
use crate::exec::RemoteFragmentExec;
use crate::fleet::Asking;
use crate::model::FunctionSize;
use crate::planner::{Planner, PlannerSettings};
use crate::storage::{Reach, Stores};
use crate::tables::catalog::QueryCatalogs;
use crate::tables::folder::{Listings, Paths};
use crate::tables::grants::TableGrants;
use crate::tables::iceberg::ScanPlans;
use crate::tables::path_catalogs::PathCatalogs;
use crate::tables::pins::Pins;
use prepared::Prepared;

/// Connection with its settings, tables and prepared statements. Clones share it.
#[derive(Clone)]
pub struct Session {
    /// Engine, with the catalogs that the user sees.
    engine: Engine,
    /// Configuration of the engine, overridden by this session's options.
    config: Arc<Config>,
    context: SessionContext,
    /// Catalogs in which names that are no paths are looked up.
    catalogs: Arc<dyn CatalogProviderList>,
    /// The same as one query sees them. None in the session itself.
    of_query: Option<Arc<QueryCatalogs>>,
    stores: Stores,
    /// Pool of the tables that the session keeps.
    tables: Arc<dyn MemoryPool>,
    prepared: Arc<Mutex<Prepared>>,
    /// User whose statements the history shows; None for everyone's.
    history_of: Option<String>,
    /// Budgets that the user shares with others.
    budgets: Option<SharedBudgets>,
    /// Span of the client that asks.
    trace_parent: Option<TraceParent>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Session {
    /// Opens the only session of an engine of its own, for one user.
    ///
    /// # Errors
    /// Those of [`Engine::open`] and [`Engine::session`].
    pub fn new(config: Config) -> Result<Self, QueryError> {
        Engine::open(config, EngineOptions::default())?.session(SessionOptions::default())
    }

    /// Returns the engine, which this session may share with others.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Returns DataFusion's own context. Tables can be registered with it directly.
    pub fn context(&self) -> &SessionContext {
        &self.context
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn stores(&self) -> &Stores {
        &self.stores
    }

    /// Returns the exchange, in which functions leave results that are too large for their response.
    pub fn exchange(&self) -> &Exchange {
        self.engine.exchange()
    }

    /// Returns the prices of functions and requests. Missing prices fail no query without a cap.
    ///
    /// # Errors
    /// [`PriceError`] if the region has no price book, or the configured file is none.
    pub async fn tariff(&self) -> Result<Tariff, PriceError> {
        self.engine.tariff()
    }

    /// Returns the first size of functions, which is used if none is picked. The second value is true if functions
    /// share the coordinator's machine.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Functions`] or [`crate::error::ErrorKind::Setup`] if no function can be used.
    pub async fn functions_like(&self) -> Result<(FunctionSize, bool), QueryError> {
        let facts = self.engine.fleet.facts(Asking::Always).await?;
        Ok((facts.sizes[0].clone(), facts.traits.shares_machine))
    }

    /// Makes the planner of a query of this session.
    fn planner(&self) -> Planner {
        Planner {
            settings: PlannerSettings {
                memory_bytes_max: self.memory_bytes_max(),
                digest: self.engine.digest,
                ..PlannerSettings::from(&*self.config)
            },
            fleet: Arc::clone(&self.engine.fleet),
            stores: self.stores.clone(),
            leaf: &RemoteFragmentExec::leaf,
        }
    }

    fn target(&self) -> Target {
        self.config.on
    }

    fn timeout(&self) -> Duration {
        self.config.timeout
    }

    /// Closes the engine, as [`Engine::close`] does. The caller has no other session of the engine.
    pub async fn close(&self) {
        self.engine.close().await;
    }

    /// Returns the most bytes of memory that a query may have.
    fn memory_bytes_max(&self) -> u64 {
        match self.context.runtime_env().memory_pool.memory_limit() {
            MemoryLimit::Finite(bytes) => bytes as u64,
            MemoryLimit::Infinite | MemoryLimit::Unknown => u64::MAX,
        }
    }

    /// Returns the session as one query sees it, with stores that count for the query alone and a memory pool of its
    /// own.
    fn for_query(&self) -> Self {
        self.for_query_of(None)
    }

    /// Does the same for a query of which these snapshots are read.
    fn for_query_of(&self, pins: Option<Arc<Pins>>) -> Self {
        let stores = self.stores.for_query();
        let mut state = self.context.state();
        state.config_mut().set_extension(Arc::new(stores.clone()));
        state.config_mut().set_extension(Arc::new(Listings::after(Arc::clone(&self.engine.listings))));
        state.config_mut().set_extension(Arc::<ScanPlans>::default());
        let runtime = RuntimeEnv {
            object_store_registry: Arc::new(stores.clone()),
            memory_pool: self.engine.memory.for_query(),
            ..state.runtime_env().as_ref().clone()
        };
        let catalogs = Arc::new(QueryCatalogs::new(Arc::clone(&self.catalogs), stores.clone(), pins));
        let builder = SessionStateBuilder::new_from_existing(state).with_runtime_env(Arc::new(runtime));
        let context = with_paths(builder, Arc::clone(&catalogs) as _, stores.reach());
        Self { context, stores, of_query: Some(catalogs), ..self.clone() }
    }
}

/// Makes a context with these catalogs. A name that is no table's may be a path in it.
fn with_paths(state: SessionStateBuilder, catalogs: Arc<dyn CatalogProviderList>, reach: &Reach) -> SessionContext {
    let mut state = state;
    let config = state.config().get_or_insert_default();
    let paths = Arc::new(Paths::new(reach, config.get_extension::<TableGrants>()));
    let defaults = config.options().catalog.clone();
    let default = (defaults.default_catalog, defaults.default_schema);
    let catalogs = PathCatalogs { catalogs, default, paths: Arc::clone(&paths) as Arc<dyn UrlTableFactory> };
    let context: SessionContext = state.with_catalog_list(Arc::new(catalogs)).build().into();
    paths.serve(&context);
    context
}

#[cfg(test)]
#[path = "reference_tests.rs"]
mod reference_tests;
