//! Parts that all sessions of a process share: clients of stores, footers, functions, prices, memory, threads.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use datafusion::catalog::{CatalogProviderList, SchemaProvider, TableProviderFactory};
use datafusion::common::Result as EngineResult;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::cache::cache_manager::CacheManagerConfig;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::prelude::{SessionConfig, SessionContext};
use fragment_fn::ahead::ReadBudget;
use futures::future::BoxFuture;
use gust_catalog::MetadataCache;
use gust_protocol::Usage;
use gust_protocol::functions as sql_functions;
use url::Url;

use super::folder::EngineFolder;
use super::options::{Options, SettingsPolicy};
use super::running::{MemoryWaits, Running};
use super::system::{self, Shown};
use super::workers::Workers;
use super::{Session, SessionOptions, defaults, with_paths};
use crate::config::{CatalogConfig, Config, LinksKind};
use crate::cost::{PriceError, Tariff};
use crate::dialect;
use crate::error::QueryError;
use crate::exchange::{Exchange, KeptResults, places};
use crate::fleet::{Fleet, Platform};
use crate::history::{self, HistoryWriter};
use crate::memory::ProcessMemory;
use crate::model::measured;
use crate::planner::DigestBounds;
use crate::planner::rules::file_names::FileNamesInScans;
use crate::planner::rules::filter_names;
use crate::planner::rules::unsound::{ComparableKeys, RefuseUnsound};
use crate::scheduler::Schedulers;
use crate::storage::{Reach, Stores};
use crate::tables::catalog::IcebergCatalog;
use crate::tables::catalogs::Catalogs;
use crate::tables::folder::{EarlierListings, FolderFactory};
use crate::tables::iceberg::IcebergFactory;
use crate::tables::reading::BridgeBytes;

/// Bytes of footers that the coordinator keeps. Each file's footer is read once. The planner weighs row groups by it.
const FOOTER_CACHE_BYTES_MAX: usize = 256 << 20;

/// Longest time for cleaning up. Only threads that are all busy with work that cannot be stopped use it up.
pub(super) const CLEANING_MAX: Duration = Duration::from_secs(5);

/// Pauses after each try to clean up.
const CLEANING_PAUSES: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(400), Duration::ZERO];

/// Options of an engine that the command line or a server sets.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Queries that are expected at the same time. With one, the query may have all of the memory. With more, each is
    /// sure of an even share of one half. A query may have the other half as well, as long as no other query and no
    /// table takes it. The tables of one session may have an even part of that half.
    pub queries_max: usize,
    /// Settings that SET may change.
    pub settings: SettingsPolicy,
    /// Places that queries may read. The exchange, the temporary folder, the history and the files of catalogs are never
    /// among them where this is a list.
    pub reach: Reach,
    /// Bounds above which the coordinator reads delete files for functions.
    pub digest: DigestBounds,
    /// Metadata of Iceberg tables that is kept for all queries.
    pub metadata: Arc<MetadataCache>,
    /// Writer of the history.
    pub history: HistoryWriter,
    /// Platform of functions that the program brings. None for the configuration's.
    pub functions: Option<Arc<dyn Platform>>,
}

impl Default for EngineOptions {
    /// Expects one query at a time, of one user.
    fn default() -> Self {
        Self {
            queries_max: 1,
            settings: SettingsPolicy::OwnSession,
            reach: Reach::default(),
            digest: DigestBounds::default(),
            metadata: Arc::default(),
            history: HistoryWriter::default(),
            functions: None,
        }
    }
}

/// Parts that a process shares among its sessions. Clones share them.
///
/// ```
/// use gust_engine::config::{Config, Target};
/// use gust_engine::session::{Engine, EngineOptions, SessionOptions};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), gust_engine::error::QueryError> {
/// let engine = Engine::open(Config { on: Target::Local, ..Config::default() }, EngineOptions::default())?;
/// let session = engine.session(SessionOptions::default())?;
/// for statement in session.parse("SELECT 6 * 7 AS answer")? {
///     let mut running = session.run(statement).await?;
///     while let Some(batch) = running.next().await? {
///         assert_eq!((batch.schema().field(0).name().as_str(), batch.num_rows()), ("answer", 1));
///     }
///     running.finish().await;
/// }
/// engine.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Engine {
    pub(super) config: Arc<Config>,
    pub(super) settings: SettingsPolicy,
    pub(super) digest: DigestBounds,
    pub(super) stores: Stores,
    /// Runtime of DataFusion, with the temporary folder and the footers that were read.
    runtime: Arc<RuntimeEnv>,
    pub(super) memory: Arc<ProcessMemory>,
    /// Budget of what is read ahead for all queries.
    reading: ReadBudget,
    pub(super) fleet: Arc<Fleet>,
    pub(super) schedulers: Arc<Schedulers>,
    /// Threads on which queries are planned and run.
    pub(super) workers: Workers,
    pub(super) catalogs: Catalogs,
    /// Listings of earlier statements.
    pub(super) listings: Arc<EarlierListings>,
    /// Statements on their way.
    pub(super) running: Arc<Running>,
    /// Writer of the history.
    pub(super) history: HistoryWriter,
    /// Ids of queries that may have left objects in the exchange. Closing the engine cleans up after them.
    unsettled: Arc<Mutex<Vec<String>>>,
    /// Folder of spilled batches and of the private exchange. It is removed with the engine.
    folder: Arc<EngineFolder>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Engine {
    /// Opens an engine, and starts no function. Functions start with the first query that needs them.
    ///
    /// Queries run on threads of the engine's own, whose stacks hold the deepest statement that the limits allow. An
    /// operator that computes for minutes without a pause does not hold up the caller. Time-outs and signals still
    /// come.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Setup`] if a folder, file or store that the settings name cannot be used, or if
    /// threads cannot be started.
    pub fn open(config: Config, options: EngineOptions) -> Result<Self, QueryError> {
        let workers =
            Workers::start(options.queries_max).map_err(|e| QueryError::setup(format!("cannot start threads: {e}")))?;
        let _inside = workers.handle().enter();
        let temp_folder = config.temp_folder.clone().unwrap_or_else(std::env::temp_dir);
        let folder = EngineFolder::make(&temp_folder).map_err(|e| {
            QueryError::setup(format!("temporary folder `{}`: {e}", temp_folder.display())).with_hint("set temp_folder")
        })?;
        let measured = config.time_model.as_deref().map(measured::load).transpose();
        // Estimates are worse without it, but no query needs it.
        let measured = measured.unwrap_or_else(|error| {
            tracing::error!("{error}: estimates are made from published figures; `gust calibrate` measures anew");
            None
        });
        let stores = Stores::within(
            config.s3.clone(),
            options.reach.without(private_places(&config, folder.path()).iter().map(String::as_str))?,
            options.metadata,
        );
        let memory = ProcessMemory::new(memory_bytes(&config), options.queries_max);
        let reading = ReadBudget::new(config.read_ahead());
        let runtime = runtime(&stores, &memory, folder.path());
        let runtime = runtime.map_err(|e| QueryError::setup(e.strip_backtrace()).with_source(e))?;
        let config = Arc::new(config);
        let catalogs = Catalogs::new(&config, &stores);
        let fleet = Fleet::new(&config, &stores, folder.path(), measured.unwrap_or_default())?;
        let fleet = match options.functions {
            Some(platform) => fleet.with_platform(platform),
            None => fleet,
        };
        Ok(Self {
            config,
            settings: options.settings,
            digest: options.digest,
            stores,
            runtime,
            memory,
            reading,
            fleet: Arc::new(fleet),
            schedulers: Arc::default(),
            workers: workers.clone(),
            catalogs,
            listings: Arc::default(),
            running: Arc::default(),
            history: options.history,
            unsettled: Arc::default(),
            folder: Arc::new(folder),
        })
    }

    /// Opens a session: one connection, which sees no settings and tables of others.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Setup`] if the history cannot be shown, or there are too many labels.
    pub fn session(&self, options: SessionOptions) -> Result<Session, QueryError> {
        let _inside = self.workers.handle().enter();
        let (own_history, budgets, grants) = (options.own_history, options.budgets.clone(), options.grants.clone());
        let trace_parent = options.trace_parent.clone();
        let mut config = options.over(&self.config)?;
        let engine = Self { catalogs: self.catalogs.seen_by(grants), ..self.clone() };
        config.catalogs.retain(|name, _| engine.catalogs.has(name));
        // A user without a name has no statements of his own.
        let history_of = own_history.then(|| config.history.user.clone().unwrap_or_default());
        let tables: Arc<dyn MemoryPool> = self.memory.for_tables();
        let opened = engine.context(&config, &tables, history_of.as_deref());
        let (context, catalogs) = opened.map_err(|e| QueryError::setup(e.strip_backtrace()).with_source(e))?;
        Ok(Session {
            engine,
            config: Arc::new(config),
            context,
            catalogs,
            of_query: None,
            stores: self.stores.clone(),
            tables,
            prepared: Arc::default(),
            history_of,
            budgets,
            trace_parent,
        })
    }

    /// Returns this engine with other catalogs, and with other places that queries may read. Memory, threads, functions and counters are the
    /// same. Sessions that are open go on with the catalogs that they began with. What is kept of those goes with the last of them.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Setup`] if a place of the engine's own is none that can be kept from queries.
    pub fn with_catalogs(&self, catalogs: BTreeMap<String, CatalogConfig>, reach: Reach) -> Result<Self, QueryError> {
        let config = Arc::new(Config { catalogs, ..self.config.as_ref().clone() });
        let own = private_places(&config, self.folder.path());
        let stores = self.stores.with_reach(reach.without(own.iter().map(String::as_str))?);
        let catalogs = Catalogs::new(&config, &stores);
        Ok(Self { config, stores, catalogs, listings: Arc::default(), ..self.clone() })
    }

    /// Returns the configuration, which sessions override with their options.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the prices of functions and requests.
    ///
    /// # Errors
    /// [`PriceError`] if the region has no price book, or the configured file is none.
    pub fn tariff(&self) -> Result<Tariff, PriceError> {
        self.fleet.tariff()
    }

    /// Returns the engine's own stores. Their usage is that of all queries.
    pub fn stores(&self) -> &Stores {
        &self.stores
    }

    /// Returns the requests and bytes of the coordinator's stores since the engine was opened.
    pub fn usage(&self) -> Usage {
        self.stores.usage()
    }

    /// Returns the waits for memory of the statements on their way.
    pub fn memory_waits(&self) -> MemoryWaits {
        self.running.memory_waits()
    }

    /// Returns the memory that all queries and tables share.
    pub fn memory(&self) -> &ProcessMemory {
        &self.memory
    }

    /// Returns the number of statements that are described at the same time. Others wait.
    pub fn descriptions_max(&self) -> usize {
        self.workers.describing_max()
    }

    /// Returns the budget of what is read ahead for all queries.
    pub fn reading(&self) -> &ReadBudget {
        &self.reading
    }

    /// Returns the exchange, in which functions leave results that are too large for their response.
    pub fn exchange(&self) -> &Exchange {
        self.fleet.exchange()
    }

    /// Returns the rows that wait in the exchange for clients, with presigned links to them if these are wanted and the store has some.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Setup`] or [`crate::error::ErrorKind::Sql`] for settings that make no client.
    pub fn kept_results(&self, links: LinksKind) -> Result<KeptResults, QueryError> {
        let exchange = self.exchange().clone();
        let signers = match links {
            LinksKind::Presigned => {
                let url = Url::parse(&exchange.access.url).map_err(|error| QueryError::setup(error.to_string()))?;
                self.stores.signers(&url)?
            }
            LinksKind::Proxied => None,
        };
        Ok(KeptResults::new(exchange, signers))
    }

    /// Ends all function processes and removes their objects and files. A program calls it before it ends.
    ///
    /// Busy operators are not waited for. Their files are removed all the same.
    pub fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.history.settled().await;
            let engine = self.clone();
            let closing = async move {
                engine.fleet.close().await;
                let unsettled = std::mem::take(&mut *engine.unsettled.lock().expect("no holder panics"));
                for query in unsettled {
                    engine.clean(&query, engine.exchange()).await;
                }
            };
            // Workers that compute without a pause cannot end the children. The children then end when they lose their
            // parent.
            if self.fleet.has_started() && tokio::time::timeout(CLEANING_MAX, self.workers.run(closing)).await.is_err()
            {
                tracing::warn!("the functions were not ended in order: every thread is busy");
            }
            if let Err(error) = std::fs::remove_dir_all(self.folder.path()) {
                tracing::debug!(folder = %self.folder.path().display(), %error, "the temporary folder stays");
            }
        })
    }

    /// Deletes all objects that a query's attempts wrote. It tries again itself, for a store's client does not repeat
    /// every deletion.
    pub(super) async fn clean(&self, query: &str, exchange: &Exchange) {
        for pause in CLEANING_PAUSES {
            match exchange.clean(query).await {
                Ok(_) => return,
                Err(error) => tracing::warn!(query, %error, "the exchange could not be cleaned"),
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Notes that a query's attempts may leave objects in the exchange from now on.
    pub(super) fn may_leave(&self, query: &str) {
        self.unsettled.lock().expect("no holder panics").push(query.to_owned());
    }

    /// Notes that no object of a query's attempts can turn up in the exchange any more.
    pub(super) fn has_settled(&self, query: &str) {
        self.unsettled.lock().expect("no holder panics").retain(|unsettled| unsettled != query);
    }

    /// Returns the schema `gust`, of one user's statements or of all. It is looked up in the default catalog, whichever that is.
    pub(super) fn system_schema(
        &self,
        config: &Config,
        of_user: Option<&str>,
    ) -> EngineResult<Arc<dyn SchemaProvider>> {
        let (running, fleet, settings, writer) = (&self.running, &self.fleet, &self.settings, &self.history);
        system::schema(Shown { config, of_user, running, fleet, settings, writer })
    }

    /// Returns a session's context, and its catalogs without paths. Its pool is that of the session's tables.
    fn context(
        &self,
        config: &Config,
        tables: &Arc<dyn MemoryPool>,
        history_of: Option<&str>,
    ) -> EngineResult<(SessionContext, Arc<dyn CatalogProviderList>)> {
        let runtime = RuntimeEnv { memory_pool: Arc::clone(tables), ..self.runtime.as_ref().clone() };
        let mut settings = SessionConfig::new()
            .with_extension(Arc::new(self.stores.clone()))
            .with_extension(Arc::new(config.iceberg))
            .with_extension(Arc::new(BridgeBytes(self.fleet.bridge_bytes_here(config.prefer))));
        defaults::settings(settings.options_mut(), self.memory.query_bytes_min());
        settings.options_mut().extensions.insert(Options::new(config.cost.max));
        if let Some(grants) = self.catalogs.grants() {
            settings.set_extension(Arc::clone(grants));
        }
        let state = SessionStateBuilder::new()
            .with_config(settings)
            .with_runtime_env(Arc::new(runtime))
            .with_default_features()
            .with_scalar_functions(sql_functions::scalar())
            .with_aggregate_functions(sql_functions::aggregate())
            .with_higher_order_functions(sql_functions::higher_order())
            .with_analyzer_rules(dialect::analyzer_rules())
            .with_type_planner(Arc::new(dialect::Types))
            .with_optimizer_rules(dialect::optimizer_rules())
            .with_physical_optimizer_rules(physical_rules())
            .with_table_factories(formats())
            .build();
        let catalogs = Arc::clone(state.catalog_list());
        for name in self.catalogs.names() {
            catalogs.register_catalog(name.to_owned(), Arc::new(IcebergCatalog::new(&self.catalogs, name)));
        }
        let context =
            with_paths(SessionStateBuilder::new_from_existing(state), Arc::clone(&catalogs), self.stores.reach());
        let default = context.state().config_options().catalog.default_catalog.clone();
        if let Some(catalog) = context.catalog(&default) {
            catalog.register_schema(history::SCHEMA, self.system_schema(config, history_of)?)?;
        }
        Ok((context, catalogs))
    }
}

/// Lists places that no query of a server reads: what the process writes, and files with secrets.
fn private_places(config: &Config, folder: &Path) -> Vec<String> {
    let own =
        folder.to_str().map(str::to_owned).into_iter().chain(config.exchange.as_deref().into_iter().flat_map(places));
    let databases = config.history.path.iter().map(PathBuf::as_path);
    let databases = databases.chain(config.catalogs.values().filter_map(CatalogConfig::file)).filter_map(Path::to_str);
    // SQLite writes pages into files beside its own.
    let beside = databases.flat_map(|path| ["", "-journal", "-wal", "-shm"].map(|suffix| format!("{path}{suffix}")));
    let keys = config.server.tls.iter().map(|tls| &tls.key);
    let server = &config.server;
    let secrets = server.tokens.iter().chain(keys).chain(config.file.iter());
    let secrets = secrets.filter_map(|path| path.to_str().map(str::to_owned));
    // The file of budgets is locked and written by others beside it.
    let budgets = server.budgets_file.iter().filter_map(|path| path.to_str());
    let budgets = budgets.flat_map(|path| ["", ".lock", ".new"].map(|suffix| format!("{path}{suffix}")));
    own.chain(beside).chain(secrets).chain(budgets).collect()
}

fn memory_bytes(config: &Config) -> usize {
    usize::try_from(config.memory_bytes_max).unwrap_or(usize::MAX)
}

fn runtime(stores: &Stores, memory: &Arc<ProcessMemory>, folder: &Path) -> EngineResult<Arc<RuntimeEnv>> {
    RuntimeEnvBuilder::new()
        // Nothing runs in this pool: each session and each query has one of its own.
        .with_memory_pool(memory.for_query())
        .with_disk_manager_builder(
            DiskManagerBuilder::default().with_mode(DiskManagerMode::Directories(vec![folder.to_owned()])),
        )
        .with_object_store_registry(Arc::new(stores.clone()))
        // A cached listing would hide files that came or went between two queries.
        .with_cache_manager(CacheManagerConfig { list_files_cache_limit: 0, ..CacheManagerConfig::default() })
        .with_metadata_cache_limit(FOOTER_CACHE_BYTES_MAX)
        .build_arc()
}

/// Lists DataFusion's physical rules, with our own before and after them.
fn physical_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules: Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> = vec![Arc::new(ComparableKeys)];
    rules.extend(filter_names::rules());
    rules.push(Arc::new(FileNamesInScans));
    rules.push(Arc::new(RefuseUnsound));
    rules
}

/// Returns the factories of tables by the names that STORED AS may give.
fn formats() -> HashMap<String, Arc<dyn TableProviderFactory>> {
    let folder: Arc<dyn TableProviderFactory> = Arc::new(FolderFactory);
    let mut formats: HashMap<_, _> = FolderFactory::formats().map(|name| (name, Arc::clone(&folder))).collect();
    formats.insert("ICEBERG".to_owned(), Arc::new(IcebergFactory));
    formats
}
