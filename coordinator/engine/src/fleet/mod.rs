//! Fleet: functions of one platform, their facts, and the place of their large results.
//!
//! ```text
//!  Fleet ─► Platform: in process │ processes │ Lambda ─► Invoker: exactly ONE attempt
//!    ├─ breaker: are they worth asking?
//!    └─ warm: likely state of their environments
//! ```
//!
//! The scheduler owns retries, so that every attempt is seen and priced. An invoker never tries again. Every fault is a
//! typed outcome, never a panic. A platform is one folder or file here, and one line of [`platform()`]. CONTRIBUTING.md
//! says how to add one.

use std::fmt::Debug;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use gust_protocol::{InvokeRequest, StoreAccess};
use object_store::path::Path as StorePath;
use object_store::{ObjectMeta, ObjectStore};
use url::Url;

mod framing;
mod health;
mod in_process;
mod lambda;
mod local;
mod platform;
mod processes;

pub use health::{Breaker, Health};
pub use in_process::{Handler, InProcess};
pub use lambda::{Deployment, DescribeError, Lambda, PinnedFunction, describe};
pub use platform::{Finding, Platform, PlatformParts, ProbeSubject, ProbedSizes, Probes};
pub use processes::{Processes, ProcessesConfig};

use crate::attempt::Invocation;
use crate::config::{Config, CostConfig, Prefer, Target};
use crate::cost::{Architecture, DEFAULT_REGION, PriceError, Tariff};
use crate::error::QueryError;
use crate::exchange::Exchange;
use crate::model::measured::Measured;
use crate::model::{
    FleetFacts, FunctionSize, PlatformTraits, ReadPrices, TimeModel, WarmState, bridge_bytes, reads_ahead,
};
use crate::storage::{StoreCredentials, Stores};

/// Runs one attempt of one fragment.
#[async_trait]
pub trait Invoker: Debug + Send + Sync + 'static {
    /// Runs one attempt, never a retry. A platform failure is an outcome and is billed like any other.
    ///
    /// Dropping the future frees the caller only. The attempt may go on until its deadline.
    async fn invoke(&self, request: InvokeRequest) -> Invocation;
}

/// Makes the platform of a target: one line each. [`Config::functions_on`] has resolved `auto` and `local`.
fn platform(target: Target, parts: PlatformParts) -> Arc<dyn Platform> {
    match target {
        Target::InProcess => Arc::new(in_process::InProcessPlatform::new(parts)),
        Target::Auto | Target::Local | Target::Processes => Arc::new(processes::ProcessPlatform::new(parts)),
        Target::Lambda => Arc::new(lambda::LambdaPlatform::new(parts)),
    }
}

/// Returns the traits of a configuration's functions, even if there are none.
pub fn traits(config: &Config) -> PlatformTraits {
    let parts = PlatformParts {
        config: Arc::new(config.clone()),
        folder: std::env::temp_dir(),
        exchange_url: String::new(),
        breaker: Arc::default(),
    };
    platform(config.functions_on(), parts).traits()
}

/// Functions of a process, started with the first query that needs them.
#[derive(Debug)]
pub struct Fleet {
    config: Arc<Config>,
    platform: Arc<dyn Platform>,
    exchange: Exchange,
    breaker: Arc<Breaker>,
    /// Calibrations, one for each kind of functions.
    measured: Vec<Measured>,
    warm: Mutex<Arc<WarmState>>,
    /// First size, once it was asked for.
    first: Mutex<Option<FirstSize>>,
    has_started: AtomicBool,
}

#[derive(Debug, Clone, Copy)]
struct FirstSize {
    memory_mb: u32,
    architecture: Option<Architecture>,
}

/// Condition on which functions elsewhere are asked for facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asking {
    /// The breaker does not advise against it.
    WhileHealthy,
    Always,
}

impl Fleet {
    /// Makes the fleet, and starts nothing. `folder` is the session's own. Functions spill there, and it holds results
    /// if no exchange is configured.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Setup`] if the exchange cannot be used.
    pub fn new(
        config: &Arc<Config>,
        stores: &Stores,
        folder: &Path,
        measured: Vec<Measured>,
    ) -> Result<Self, QueryError> {
        let exchange = exchange(config, stores, folder)?;
        let breaker = Arc::<Breaker>::default();
        let parts = PlatformParts {
            config: Arc::clone(config),
            folder: folder.to_owned(),
            exchange_url: exchange.access.url.clone(),
            breaker: Arc::clone(&breaker),
        };
        Ok(Self {
            config: Arc::clone(config),
            platform: platform(config.functions_on(), parts),
            exchange,
            breaker,
            measured,
            warm: Mutex::default(),
            first: Mutex::default(),
            has_started: AtomicBool::new(false),
        })
    }

    /// Returns the fleet of another platform, with the same exchange.
    #[must_use]
    pub fn with_platform(self, platform: Arc<dyn Platform>) -> Self {
        Self { platform, ..self }
    }

    /// Returns the place for results that are too large for a function's response.
    pub fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    pub fn breaker(&self) -> &Arc<Breaker> {
        &self.breaker
    }

    pub fn platform(&self) -> &dyn Platform {
        self.platform.as_ref()
    }

    /// Returns the time model of the coordinator: its calibration, else published figures.
    pub fn coordinator_model(&self) -> TimeModel {
        let cores = cores();
        let measured = self.measured.first().map(|measured| measured.model(cores));
        let model = measured.unwrap_or_else(|| self.platform.model(cores, 1.0));
        TimeModel { reads_ahead: reads_ahead(self.config.read_ahead()), ..model }
    }

    /// Returns the facts about the functions, and starts none. A platform elsewhere is asked for its deployment. `asking`
    /// says if it is asked while the breaker advises against it.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Functions`] or [`crate::error::ErrorKind::Setup`] if no function can be used.
    pub async fn facts(&self, asking: Asking) -> Result<FleetFacts, QueryError> {
        let traits = self.platform.traits();
        let is_healthy = self.breaker.health().allows();
        if !traits.shares_machine && !is_healthy && asking == Asking::WhileHealthy {
            return Err(QueryError::functions("functions were not reachable in the last attempts")
                .with_hint("`gust doctor` tells more"));
        }
        let mut sizes = self.platform.sizes().await?;
        for size in &mut sizes {
            if let Some(measured) = self.measured.iter().find(|measured| measured.functions == size.kind) {
                size.model = measured.model(cores());
            }
            size.model.reads_ahead = reads_ahead(self.config.read_ahead());
            size.model.function_reads_ahead = reads_ahead(size.limits.ahead);
        }
        let first = sizes.first().ok_or_else(lambda::none_deployed)?;
        *self.first.lock().expect("no holder panics") =
            Some(FirstSize { memory_mb: first.memory_mb, architecture: first.architecture });
        Ok(FleetFacts { traits, sizes, is_healthy, warm: Arc::clone(&self.warm()) })
    }

    /// Returns the largest gap, in bytes, that the coordinator reads along between two ranges of a file.
    pub fn bridge_bytes_here(&self, prefer: Option<Prefer>) -> u64 {
        let model = self.coordinator_model();
        let prices = self.any_tariff().map(|tariff| ReadPrices::of_coordinator(&tariff, model.cores));
        bridge_bytes(model.read_seconds(), prices, prefer)
    }

    /// Sets the largest gaps that functions read along.
    pub fn bridging(&self, mut facts: FleetFacts, prefer: Option<Prefer>) -> FleetFacts {
        let tariff = self.any_tariff();
        for size in &mut facts.sizes {
            let prices = tariff.as_ref().map(|tariff| ReadPrices::of_function(&size.tariff(tariff)));
            size.limits.bridge_bytes = bridge_bytes(size.model.function_read_seconds(), prices, prefer);
        }
        facts
    }

    /// Returns prices for comparing: another region's where this one has none.
    fn any_tariff(&self) -> Option<Tariff> {
        self.tariff().or_else(|_| self.tariff_elsewhere()).ok()
    }

    /// Returns the invoker of functions of a size.
    ///
    /// # Errors
    /// The platform's, if the functions cannot be started.
    pub async fn invoker(&self, size: &FunctionSize) -> Result<Arc<dyn Invoker>, QueryError> {
        self.has_started.store(true, Ordering::Relaxed);
        self.platform.start(size).await
    }

    /// Notes that a query hands out fragments to `at_once` environments. `files` are those of its fragments, each with
    /// its store.
    pub fn note_handout<'a>(
        &self,
        size: &FunctionSize,
        at_once: usize,
        files: impl IntoIterator<Item = (&'a str, &'a ObjectMeta)>,
    ) {
        Arc::make_mut(&mut self.warm()).query(size.memory_mb, at_once, files);
    }

    fn warm(&self) -> std::sync::MutexGuard<'_, Arc<WarmState>> {
        let mut warm = self.warm.lock().expect("no holder panics");
        if self.platform.traits().kept_for.is_some_and(|kept_for| warm.is_cold(kept_for)) {
            *warm = Arc::default();
        }
        warm
    }

    /// Returns the credentials with which functions reach stores.
    pub async fn credentials(&self, stores: &Stores) -> StoreCredentials {
        match self.platform.traits().lends_credentials {
            true => StoreCredentials::Lent(stores.credentials_to_lend().await),
            false => StoreCredentials::Own,
        }
    }

    /// Returns the prices of functions and requests, for the first size if that is known.
    ///
    /// # Errors
    /// [`PriceError`] if the region has no price book, or the configured file is none.
    pub fn tariff(&self) -> Result<Tariff, PriceError> {
        self.tariff_of(&self.config)
    }

    /// Returns the same by the prices of [`DEFAULT_REGION`], for comparing where a region has none.
    ///
    /// # Errors
    /// None as long as the project has a book for that region.
    pub fn tariff_elsewhere(&self) -> Result<Tariff, PriceError> {
        let region = Some(DEFAULT_REGION.to_owned());
        let cost = CostConfig { prices: None, region, ..self.config.cost.clone() };
        self.tariff_of(&Config { cost, ..Config::clone(&self.config) })
    }

    fn tariff_of(&self, config: &Config) -> Result<Tariff, PriceError> {
        let today = chrono::Utc::now().date_naive();
        let mut tariff = Tariff::of_config(config, &self.platform.traits().billed, today)?;
        if let Some(FirstSize { memory_mb, architecture }) = *self.first.lock().expect("no holder panics") {
            tariff.memory_mb = memory_mb;
            tariff.architecture = architecture.unwrap_or(tariff.architecture);
        }
        Ok(tariff)
    }

    /// Returns the functions to examine.
    pub async fn probes(&self, sizes: ProbedSizes) -> Probes {
        self.has_started.store(true, Ordering::Relaxed);
        self.platform.probes(sizes).await
    }

    pub fn has_started(&self) -> bool {
        self.has_started.load(Ordering::Relaxed)
    }

    pub async fn close(&self) {
        self.platform.close().await;
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn exchange(config: &Config, stores: &Stores, folder: &Path) -> Result<Exchange, QueryError> {
    let setup = |what: &str, e: &dyn std::fmt::Display| QueryError::setup(format!("exchange: {what}: {e}"));
    let url = match &config.exchange {
        Some(url) if url.contains("://") => Url::parse(url).map_err(|e| setup(url, &e))?,
        Some(path) => folder_url(Path::new(path)).map_err(|e| setup(path, &e))?,
        None => folder_url(&folder.join("exchange")).map_err(|e| setup("private folder", &e))?,
    };
    let no_store =
        |error: QueryError| setup(url.as_str(), &error.message()).with_default_hint(error.hint()).with_source(error);
    let access: StoreAccess = stores.own_access(&url).map_err(no_store)?;
    let store: Arc<dyn ObjectStore> = stores.open_own(&url).map_err(no_store)?;
    let prefix = StorePath::from_url_path(url.path()).map_err(|e| setup(url.as_str(), &e))?.to_string();
    Ok(Exchange { access, prefix, store })
}

/// Returns the URL of a folder, and makes the folder if it is not there.
fn folder_url(folder: &Path) -> std::io::Result<Url> {
    std::fs::create_dir_all(folder)?;
    let folder = folder.canonicalize()?;
    Url::from_directory_path(&folder).map_err(|()| std::io::Error::other("not an absolute path"))
}
