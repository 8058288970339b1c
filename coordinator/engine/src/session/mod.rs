//! The door: SQL text in, running queries out.
//!
//! ```text
//!  Engine (a process) ──► Session (a connection) ──► query (a statement on its way)
//!  clients, footers,      settings, tables,          counters, memory,
//!  functions, memory      catalogs, cap              deadline, rows
//! ```

use std::sync::{Arc, Mutex};
use std::time::Duration;

use datafusion::catalog::{CatalogProvider, CatalogProviderList, DynamicFileCatalog, UrlTableFactory};
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::memory_pool::MemoryLimit;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::prelude::SessionContext;

mod cap;
mod classify;
mod defaults;
mod doctor;
mod engine;
mod options;
mod prepared;
mod recorder;
mod run;
mod statement;
mod workers;

use crate::error::{QueryError, with_causes};
pub use crate::fleet::Finding;
pub use engine::{Engine, EngineOptions};
pub use options::{Allowed, SessionOptions, SettingsPolicy};
pub use recorder::{Recorder, Refused, Script};
pub use run::RunningStatement;
pub use statement::{Statement, text_of};

use crate::config::{Config, Target};
use crate::cost::{PriceError, Tariff};
use crate::exchange::Exchange;
use crate::exec::RemoteFragmentExec;
use crate::fleet::Asking;
use crate::history;
use crate::model::FunctionSize;
use crate::planner::{Planner, PlannerSettings};
use crate::storage::Stores;
use crate::tables::catalog::{IcebergCatalog, QueryCatalogs};
use crate::tables::folder::Paths;
use engine::history_schema;
use prepared::Prepared;

/// One connection: its settings, tables and prepared statements. Cloning shares it.
#[derive(Clone)]
pub struct Session {
    engine: Engine,
    /// The engine's configuration, with what this session asks for above it.
    config: Arc<Config>,
    context: SessionContext,
    /// Its catalogs, in which names are looked up that are no paths.
    catalogs: Arc<dyn CatalogProviderList>,
    stores: Stores,
    prepared: Arc<Mutex<Prepared>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Session {
    /// The only session of an engine of its own, for one user.
    ///
    /// # Errors
    /// Those of [`Engine::open`].
    pub fn new(config: Config) -> Result<Self, QueryError> {
        Engine::open(config, EngineOptions::default())?.session(SessionOptions::default())
    }

    /// What this session shares with others.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// DataFusion's own context: tables can be registered with it directly.
    pub fn context(&self) -> &SessionContext {
        &self.context
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn stores(&self) -> &Stores {
        &self.stores
    }

    /// Where functions leave results that are too large for their response.
    pub fn exchange(&self) -> &Exchange {
        self.engine.exchange()
    }

    /// Makes a configured catalog the one in which bare names are looked up.
    ///
    /// Its only namespace, or `default` among several, becomes the default schema; others are written `namespace.table`.
    pub async fn use_catalog(&self, name: &str) -> Result<(), QueryError> {
        let catalog = self.engine.catalog(name).await?;
        let listed = IcebergCatalog::list(&catalog).await.map_err(|error| in_catalog(name, error))?;
        let default = match listed.schema_names().as_slice() {
            [only] => only.clone(),
            _ => "default".to_owned(),
        };
        let of_history = history_schema(&self.config).map_err(|error| {
            QueryError::setup(format!("catalog `{name}`: {}", with_causes(&error))).with_source(error)
        })?;
        let catalog = match of_history {
            Some(history) => listed.with_schema(history::SCHEMA, history),
            None => listed,
        };
        self.context.register_catalog(name, Arc::new(catalog));
        self.use_schema(name, &default);
        Ok(())
    }

    /// Bare names are looked up here from now on.
    pub fn use_schema(&self, catalog: &str, schema: &str) {
        let state = self.context.state_ref();
        let mut state = state.write();
        let options = state.config_mut().options_mut();
        catalog.clone_into(&mut options.catalog.default_catalog);
        schema.clone_into(&mut options.catalog.default_schema);
    }

    /// What this session's functions and requests cost. Not an error of the query where there are no prices.
    ///
    /// # Errors
    /// Where the region has no price book, or the configured file is none.
    pub async fn tariff(&self) -> Result<Tariff, PriceError> {
        self.engine.fleet.tariff()
    }

    /// The functions of the size that is used where nothing is picked, and whether they share the coordinator's machine.
    pub async fn functions_like(&self) -> Result<(FunctionSize, bool), QueryError> {
        let facts = self.engine.fleet.facts(Asking::Always).await?;
        Ok((facts.sizes[0].clone(), facts.traits.shares_machine))
    }

    /// What plans a query of this session.
    fn planner(&self) -> Planner {
        Planner {
            settings: PlannerSettings {
                memory_bytes_max: self.memory_bytes_max(),
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

    /// Closes the engine, for whoever has no other session of it.
    pub async fn close(&self) {
        self.engine.close().await;
    }

    /// The most memory that a query may have; bytes.
    fn memory_bytes_max(&self) -> u64 {
        match self.context.runtime_env().memory_pool.memory_limit() {
            MemoryLimit::Finite(bytes) => bytes as u64,
            MemoryLimit::Infinite | MemoryLimit::Unknown => u64::MAX,
        }
    }

    /// The session as one query sees it: with stores that count for the query alone, and its part of the memory.
    fn for_query(&self) -> Self {
        let stores = self.stores.for_query();
        let mut state = self.context.state();
        state.config_mut().set_extension(Arc::new(stores.clone()));
        let runtime = RuntimeEnv {
            object_store_registry: Arc::new(stores.clone()),
            memory_pool: self.engine.memory.for_query(),
            ..state.runtime_env().as_ref().clone()
        };
        let catalogs = QueryCatalogs { of_session: Arc::clone(&self.catalogs), stores: stores.clone() };
        let builder = SessionStateBuilder::new_from_existing(state).with_runtime_env(Arc::new(runtime));
        let context = with_paths(builder, Arc::new(catalogs));
        Self { context, stores, ..self.clone() }
    }
}

fn in_catalog(name: &str, error: gust_catalog::Error) -> QueryError {
    let told = QueryError::setup(format!("catalog `{name}`: {}", with_causes(&error))).with_default_hint(error.hint());
    told.with_source(error)
}

/// A context with these catalogs, in which a name that is no table's may be a path.
fn with_paths(state: SessionStateBuilder, catalogs: Arc<dyn CatalogProviderList>) -> SessionContext {
    let paths = Arc::new(Paths::default());
    let catalogs = DynamicFileCatalog::new(catalogs, Arc::clone(&paths) as Arc<dyn UrlTableFactory>);
    let context: SessionContext = state.with_catalog_list(Arc::new(catalogs)).build().into();
    paths.serve(&context);
    context
}
