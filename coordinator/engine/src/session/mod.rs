//! The door: SQL text in, running queries out. Holds the tables, the stores and the functions of one process.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, DynamicFileCatalog, SchemaProvider, TableProviderFactory, UrlTableFactory,
};
use datafusion::common::Result as EngineResult;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::cache::cache_manager::CacheManagerConfig;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::prelude::{SessionConfig, SessionContext};
use gust_catalog::Catalog;
use gust_protocol::functions as sql_functions;
use tempfile::TempDir;

mod budget;
mod classify;
mod doctor;
mod engine;
mod estimate;
mod explain;
mod functions;
mod options;
mod plan;
mod prepared;
mod run;
mod statement;
mod workers;

use crate::error::{ErrorKind, QueryError, with_causes};
pub use doctor::Check;
pub(crate) use plan::Ready;
pub use run::Running;
pub use statement::{Statement, text_of};

use crate::config::{CatalogConfig, CatalogKind, Config, Target};
use crate::cost::{Architecture, PriceError, Tariff};
use crate::dialect;
use crate::exchange::Exchange;
use crate::history;
use crate::memory::SharedPool;
use crate::model::measured::{self, Measured};
use crate::nearest::nearest;
use crate::planner::passes::pack::Packing;
use crate::planner::rules::filter_names;
use crate::planner::rules::unsound::{ComparableKeys, RefuseUnsound};
use crate::storage::Stores;
use crate::tables::catalog::{IcebergCatalog, QueryCatalogs};
use crate::tables::folder::{FolderFactory, Paths};
use crate::tables::iceberg::IcebergFactory;
use functions::{Capacity, FunctionPool};
use options::Options;
use prepared::Prepared;
use workers::Workers;

/// Footers that the coordinator keeps; each file's is read once and weighs row groups for the planner.
const FOOTER_CACHE_BYTES_MAX: usize = 256 << 20;

/// Cleaning up may take this long where every thread is busy with something that cannot be stopped.
const CLEANING_MAX: Duration = Duration::from_secs(5);

/// After each try to clean up.
const CLEANING_PAUSES: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(400), Duration::ZERO];

/// What a session is made of. Cloning shares it.
#[derive(Clone)]
pub struct Session {
    context: SessionContext,
    /// Its catalogs, in which names are looked up that are no paths.
    catalogs: Arc<dyn CatalogProviderList>,
    config: Arc<Config>,
    stores: Stores,
    functions: Arc<FunctionPool>,
    /// What was calibrated, for one kind of functions or several.
    measured: Arc<Vec<Measured>>,
    /// Where queries are planned and run.
    workers: Workers,
    prepared: Arc<Mutex<Prepared>>,
    /// Queries that may have left something in the exchange, cleaned when the functions have ended.
    unsettled: Arc<Mutex<Vec<String>>>,
    /// Spilled batches and the private exchange; removed with the session.
    folder: Arc<TempDir>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Session {
    /// Opens a session. Starts no function: they start with the first query that needs them.
    ///
    /// Queries run on threads of the session's own, whose stacks hold what a statement may be. Who follows them is not held up by an
    /// operator that computes for minutes without a pause: its time-outs and signals still come.
    ///
    /// # Errors
    /// [`ErrorKind::Setup`] where a folder or store that the settings name cannot be used, or threads cannot be started.
    pub fn new(config: Config) -> Result<Self, QueryError> {
        let workers = Workers::start().map_err(|e| QueryError::setup(format!("cannot start threads: {e}")))?;
        let _inside = workers.handle().enter();
        let temp_folder = config.temp_folder.clone().unwrap_or_else(std::env::temp_dir);
        let folder = tempfile::Builder::new().prefix("gust-").tempdir_in(&temp_folder);
        let folder = folder.map_err(|e| {
            QueryError::setup(format!("temporary folder `{}`: {e}", temp_folder.display())).with_hint("set temp_folder")
        })?;
        let measured = config.time_model.as_deref().map(measured::load).transpose();
        let measured =
            Arc::new(measured.map_err(|e| QueryError::in_words(ErrorKind::Setup, e.to_string()))?.unwrap_or_default());
        let stores = Stores::new(config.s3.clone());
        let opened = context(&config, &stores, folder.path());
        let (context, catalogs) = opened.map_err(|e| QueryError::setup(e.strip_backtrace()))?;
        let functions = Arc::new(FunctionPool::new(&config, &stores, folder.path())?);
        Ok(Self {
            context,
            catalogs,
            config: Arc::new(config),
            stores,
            functions,
            measured,
            workers: workers.clone(),
            prepared: Arc::default(),
            unsettled: Arc::default(),
            folder: Arc::new(folder),
        })
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
        self.functions.exchange()
    }

    /// Makes a configured catalog the one in which bare names are looked up.
    ///
    /// Its only namespace, or `default` among several, becomes the default schema; others are written `namespace.table`.
    pub async fn use_catalog(&self, name: &str) -> Result<(), QueryError> {
        let setup = |e: &(dyn std::error::Error + 'static)| {
            let next = e.downcast_ref::<gust_catalog::Error>().and_then(gust_catalog::Error::next_step);
            QueryError::setup(format!("catalog `{name}`: {}", with_causes(e))).or_hint(next)
        };
        let Some(CatalogConfig { kind: CatalogKind::Sqlite, path, warehouse }) = self.config.catalogs.get(name) else {
            let near = nearest(name, self.config.catalogs.keys().map(String::as_str));
            let hint = near
                .map_or("add it to gust.toml under [catalogs]".to_owned(), |near| format!("did you mean `{near}`?"));
            return Err(QueryError::setup(format!("there is no catalog `{name}` in the configuration")).with_hint(hint));
        };
        let catalog = Catalog::sqlite(path, name, warehouse, self.stores.for_catalog()).await.map_err(|e| setup(&e))?;
        let listed = IcebergCatalog::list(&catalog).await.map_err(|e| setup(&e))?;
        let default = match listed.schema_names().as_slice() {
            [only] => only.clone(),
            _ => "default".to_owned(),
        };
        let catalog = match history_schema(&self.config).map_err(|e| setup(&e))? {
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
        let mut tariff = Tariff::of_config(&self.config, chrono::Utc::now().date_naive())?;
        if let Some((architecture, memory_mb)) = self.functions.deployed_as().await {
            tariff.architecture = Architecture::of(&architecture);
            tariff.memory_mb = memory_mb;
        }
        Ok(tariff)
    }

    /// Which functions these are, as a calibration names them, and how many lanes one has.
    pub async fn functions_like(&self) -> Result<(String, usize), QueryError> {
        let capacity = self.functions.capacity().await?;
        Ok((self.functions.kind(&capacity), capacity.lanes))
    }

    fn target(&self) -> Target {
        self.config.on
    }

    fn timeout(&self) -> Duration {
        self.config.timeout
    }

    /// How fragments are packed; `fan_out` is how many were picked.
    fn packing(&self, capacity: &Capacity, fan_out: Option<usize>) -> Packing {
        Packing {
            fragment_bytes_target: self.config.fragment_bytes_target,
            model: self.model(Some(capacity)),
            functions_max: capacity.fleet.functions_max,
            // Who names a target wants to see that many functions; `auto` makes fragments of a size that pays.
            functions: fan_out.or((self.target() != Target::Auto).then_some(capacity.fleet.functions_max)),
            lanes_max: capacity.lanes,
        }
    }

    /// Ends all function processes and removes what they left. To be called before the program ends.
    ///
    /// Does not wait for operators that are still busy, and removes their files all the same.
    pub async fn close(&self) {
        let session = self.clone();
        let closing = async move {
            session.functions.close().await;
            let unsettled = std::mem::take(&mut *session.unsettled.lock().expect("no holder panics"));
            for query in unsettled {
                session.clean(&query).await;
            }
        };
        // Workers that compute without a pause cannot help; the children then end when they lose their parent.
        if self.functions.have_started().await
            && tokio::time::timeout(CLEANING_MAX, self.on_workers(closing)).await.is_err()
        {
            tracing::warn!("the functions were not ended in order: every thread is busy");
        }
        if let Err(error) = std::fs::remove_dir_all(self.folder.path()) {
            tracing::debug!(folder = %self.folder.path().display(), %error, "the temporary folder stays");
        }
    }
}

impl Session {
    /// The session as one query sees it: with stores that count for the query alone.
    fn for_query(&self) -> Self {
        let stores = self.stores.of_a_query();
        let mut state = self.context.state();
        state.config_mut().set_extension(Arc::new(stores.clone()));
        let runtime = state.runtime_env().as_ref().clone();
        let runtime = RuntimeEnv { object_store_registry: Arc::new(stores.clone()), ..runtime };
        let catalogs = QueryCatalogs { of_session: Arc::clone(&self.catalogs), stores: stores.clone() };
        let builder = SessionStateBuilder::new_from_existing(state).with_runtime_env(Arc::new(runtime));
        let context = with_paths(builder, Arc::new(catalogs));
        Self { context, stores, ..self.clone() }
    }

    /// Deletes what a query's attempts wrote. A store's client does not try every deletion again by itself.
    async fn clean(&self, query: &str) {
        for pause in CLEANING_PAUSES {
            let exchange = self.functions.exchange();
            // Without stores of the query's it is cleaned all the same.
            let exchange = exchange.through(&self.stores).unwrap_or_else(|_| exchange.clone());
            match exchange.clean(query).await {
                Ok(_) => return,
                Err(error) => tracing::warn!(query, %error, "the exchange could not be cleaned"),
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Nothing of a query's attempts can turn up in the exchange any more.
    fn has_settled(&self, query: &str) {
        self.unsettled.lock().expect("no holder panics").retain(|unsettled| unsettled != query);
    }
}

/// A context, and its catalogs without paths.
fn context(
    config: &Config,
    stores: &Stores,
    folder: &Path,
) -> EngineResult<(SessionContext, Arc<dyn CatalogProviderList>)> {
    let memory_bytes_max = usize::try_from(config.memory_bytes_max).unwrap_or(usize::MAX);
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(SharedPool::new(memory_bytes_max)))
        .with_disk_manager_builder(
            DiskManagerBuilder::default().with_mode(DiskManagerMode::Directories(vec![folder.to_owned()])),
        )
        .with_object_store_registry(Arc::new(stores.clone()))
        // A listing that is kept would hide files that came or went between two queries.
        .with_cache_manager(CacheManagerConfig { list_files_cache_limit: 0, ..CacheManagerConfig::default() })
        .with_metadata_cache_limit(FOOTER_CACHE_BYTES_MAX)
        .build_arc()?;
    let mut settings = SessionConfig::new().with_extension(Arc::new(stores.clone()));
    engine::settings(settings.options_mut(), memory_bytes_max);
    settings.options_mut().extensions.insert(Options::new(config.cost.max));
    // A folder is read with its sub-folders, as Athena and Spark (recursively) read it.
    settings.options_mut().execution.listing_table_ignore_subdirectory = false;
    let state = SessionStateBuilder::new()
        .with_config(settings)
        .with_runtime_env(runtime)
        .with_default_features()
        .with_scalar_functions(sql_functions::scalar())
        .with_aggregate_functions(sql_functions::aggregate())
        .with_analyzer_rules(dialect::analyzer_rules())
        .with_type_planner(Arc::new(dialect::Types))
        .with_optimizer_rules(dialect::optimizer_rules())
        .with_physical_optimizer_rules(physical_rules())
        .with_table_factories(formats())
        .build();
    let catalogs = Arc::clone(state.catalog_list());
    let context = with_paths(SessionStateBuilder::new_from_existing(state), Arc::clone(&catalogs));
    let default = context.state().config_options().catalog.default_catalog.clone();
    if let (Some(history), Some(catalog)) = (history_schema(config)?, context.catalog(&default)) {
        catalog.register_schema(history::SCHEMA, history)?;
    }
    Ok((context, catalogs))
}

/// DataFusion's physical rules between ours.
fn physical_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules: Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> = vec![Arc::new(ComparableKeys)];
    rules.extend(filter_names::rules());
    rules.push(Arc::new(RefuseUnsound));
    rules
}

/// What STORED AS may name.
fn formats() -> HashMap<String, Arc<dyn TableProviderFactory>> {
    let folder: Arc<dyn TableProviderFactory> = Arc::new(FolderFactory);
    let mut formats: HashMap<_, _> = FolderFactory::formats().map(|name| (name, Arc::clone(&folder))).collect();
    formats.insert("ICEBERG".to_owned(), Arc::new(IcebergFactory));
    formats
}

/// A context with these catalogs, in which a name that is no table's may be a path.
fn with_paths(state: SessionStateBuilder, catalogs: Arc<dyn CatalogProviderList>) -> SessionContext {
    let paths = Arc::new(Paths::default());
    let catalogs = DynamicFileCatalog::new(catalogs, Arc::clone(&paths) as Arc<dyn UrlTableFactory>);
    let context: SessionContext = state.with_catalog_list(Arc::new(catalogs)).build().into();
    paths.serve(&context);
    context
}

/// The tables of the history, where the settings have a place for one. They are looked up in whatever catalog is the default.
fn history_schema(config: &Config) -> EngineResult<Option<Arc<dyn SchemaProvider>>> {
    history::Store::of(&config.history).map(|store| history::schema(&store)).transpose()
}
