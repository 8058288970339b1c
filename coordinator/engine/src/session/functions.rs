//! The functions of a process: started with the first query that needs them, ended with the session.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use aws_config::SdkConfig;
use fragment_fn::{Environment, Settings};
use gust_protocol::wire::INLINE_BYTES_MAX;
use gust_protocol::{Limits, StoreAccess};
use object_store::ObjectStore;
use object_store::path::Path as StorePath;
use tokio::sync::{Mutex, OnceCell};
use url::Url;
use uuid::Uuid;

use crate::config::{Config, Target};
use crate::cost::Architecture;
use crate::error::{ErrorKind, QueryError};
use crate::exchange::Exchange;
use crate::fleet::{Breaker, Deployment, InProcess, Invoker, Lambda, Processes, ProcessesConfig, describe};
use crate::model::{Fleet, Warmth};
use crate::planner::Planned;
use crate::scheduler::{EnvironmentRamp, Scheduler, Settings as SchedulerSettings, SpeculationPolicy};
use crate::storage::{Stores, aws};

/// A deployment is looked at again by the first query after this long, so that an upgrade is seen.
const DESCRIBED_FOR: Duration = Duration::from_secs(60);

/// Of a Lambda function's memory, what its pool may hold: the rest is for the program, decoders and what no pool sees.
const LAMBDA_POOL_PERCENT: u64 = 60;

/// Starts functions on demand and knows where they leave large results.
pub(super) struct FunctionPool {
    config: Config,
    /// Which functions: `auto` and `local` have been resolved.
    target: Target,
    exchange: Exchange,
    /// Where functions spill.
    folder: PathBuf,
    started: Mutex<Started>,
    sdk: OnceCell<SdkConfig>,
    health: Arc<Breaker>,
    warmth: std::sync::Mutex<Warmth>,
}

/// What runs now. Queries under way keep what they began with.
#[derive(Default)]
struct Started {
    local: Option<(Scheduler, Option<Arc<Processes>>)>,
    /// One a memory size, the one to use first.
    lambda: Vec<Deployed>,
}

#[derive(Clone)]
struct Deployed {
    deployment: Arc<Deployment>,
    scheduler: Scheduler,
    invoker: Arc<Lambda>,
    described: Instant,
}

/// What one function has, and how many there may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Capacity {
    pub fleet: Fleet,
    /// Lanes of one function: its whole cores, at least one.
    pub lanes: usize,
    /// What these lanes have of cores.
    pub cores: f64,
    pub limits: Limits,
    pub memory_mb: u32,
    /// None is this machine's.
    pub architecture: Option<Architecture>,
}

impl FunctionPool {
    pub(super) fn new(config: &Config, stores: &Stores, folder: &Path) -> Result<Self, QueryError> {
        let setup = |what: &str, e: &dyn std::fmt::Display| {
            QueryError::in_words(ErrorKind::Setup, format!("exchange: {what}: {e}"))
        };
        let url = match &config.exchange {
            Some(url) if url.contains("://") => Url::parse(url).map_err(|e| setup(url, &e))?,
            Some(path) => folder_url(Path::new(path)).map_err(|e| setup(path, &e))?,
            None => folder_url(&folder.join("exchange")).map_err(|e| setup("private folder", &e))?,
        };
        let access: StoreAccess = stores.access(&url).map_err(|e| setup(url.as_str(), &e))?;
        let store: Arc<dyn ObjectStore> = stores.open(&url).map_err(|e| setup(url.as_str(), &e))?;
        let prefix = StorePath::from_url_path(url.path()).map_err(|e| setup(url.as_str(), &e))?.to_string();
        let exchange = Exchange { access, prefix, store };
        Ok(Self {
            config: config.clone(),
            target: config.functions_on(),
            exchange,
            folder: folder.to_owned(),
            started: Mutex::default(),
            sdk: OnceCell::new(),
            health: Arc::default(),
            warmth: std::sync::Mutex::default(),
        })
    }

    pub(super) fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    pub(super) fn target(&self) -> Target {
        self.target
    }

    pub(super) fn breaker(&self) -> &Breaker {
        &self.health
    }

    /// Which functions these are, as a calibration names them.
    pub(super) fn kind(&self, Capacity { memory_mb, architecture, cores, .. }: &Capacity) -> String {
        match (self.target, architecture) {
            (Target::Lambda, architecture) => {
                format!("lambda {memory_mb} MB {}", architecture.map_or("x86_64", Architecture::name))
            }
            (Target::InProcess, _) => "in-process".to_owned(),
            _ if *cores == 1.0 => "processes of 1 core".to_owned(),
            _ => format!("processes of {cores} cores"),
        }
    }

    /// What `decide` and the packing need to know; starts nothing, but asks Lambda what is deployed.
    pub(super) async fn capacity(&self) -> Result<Capacity, QueryError> {
        let first = self.sizes().await?.into_iter().next();
        first.ok_or_else(|| QueryError::functions("no function is deployed".to_owned()))
    }

    /// The same for every memory size that may be picked, the one to use where nothing is picked first.
    pub(super) async fn sizes(&self) -> Result<Vec<Capacity>, QueryError> {
        let functions_max = self.config.functions_max;
        let healthy = self.health.health().allows();
        let inline_bytes_max = INLINE_BYTES_MAX;
        if self.target != Target::Lambda {
            let fleet = Fleet { functions_max: functions_max as usize, healthy, shares_machine: true };
            let limits = Limits {
                memory_bytes_max: self.config.function_memory_bytes,
                temp_bytes_max: self.config.function_temp_bytes,
                inline_bytes_max,
            };
            let lanes = match self.target {
                Target::Processes => self.config.process.cores as usize,
                _ => 1,
            };
            let memory_mb = u32::try_from(limits.memory_bytes_max.div_ceil(1 << 20)).unwrap_or(u32::MAX);
            let cores = lanes as f64;
            return Ok(vec![Capacity { fleet, lanes, cores, limits, memory_mb, architecture: None }]);
        }
        if self.config.on == Target::Auto && !healthy {
            // Not asked again until the breaker lets a query try.
            return Err(QueryError::functions("they could not be asked the last times".to_owned()));
        }
        let of_size = |Deployed { deployment, .. }: Deployed| {
            let functions_max = deployment.functions_max(functions_max);
            let fleet = Fleet { functions_max, healthy, shares_machine: false };
            let limits = Limits {
                memory_bytes_max: u64::from(deployment.memory_mb) * (1 << 20) * LAMBDA_POOL_PERCENT / 100,
                temp_bytes_max: u64::from(deployment.temp_mb) << 20,
                inline_bytes_max,
            };
            let architecture = Some(Architecture::of(&deployment.arch));
            let (lanes, cores, memory_mb) = (deployment.cores(), deployment.cores_used(), deployment.memory_mb);
            Capacity { fleet, lanes, cores, limits, memory_mb, architecture }
        };
        Ok(self.deployed().await?.into_iter().map(of_size).collect())
    }

    /// What environments are likely to have.
    pub(super) fn warmth(&self) -> MutexGuard<'_, Warmth> {
        let mut warmth = self.warmth.lock().expect("no holder panics");
        if self.target == Target::Lambda {
            warmth.cool_down();
        }
        warmth
    }

    /// Environments of functions of a size that are likely to be up.
    pub(super) fn warm(&self, memory_mb: u32) -> usize {
        // What runs in this process needs no start.
        match self.target {
            Target::InProcess => self.config.functions_max as usize,
            _ => self.warmth().environments(memory_mb),
        }
    }

    /// Environments that a query keeps busy at the same time.
    pub(super) fn at_once(&self, planned: &Planned, capacity: &Capacity) -> usize {
        let fragments: usize = planned.stages.iter().map(|stage| stage.fragments.len()).sum();
        // What runs in this process has one environment.
        if self.target == Target::InProcess { 1 } else { fragments.min(capacity.fleet.functions_max) }
    }

    /// Notes what a query is about to hand out.
    pub(super) fn use_for(&self, planned: &Planned, capacity: &Capacity) {
        let mut files = Vec::new();
        for stage in &planned.stages {
            for fragment in &stage.fragments {
                let units = fragment.iter().flatten().map(|unit| &stage.units[*unit].file.object_meta);
                let each: BTreeMap<_, _> = units.map(|file| (&file.location, file)).collect();
                files.extend(each.into_values().map(|file| (stage.access.url.as_str(), file)));
            }
        }
        self.warmth().query(capacity.memory_mb, self.at_once(planned, capacity), files);
    }

    /// The scheduler over running functions; on Lambda over those of one memory size, where it is given.
    pub(super) async fn scheduler(&self, memory_mb: Option<u32>) -> Result<Scheduler, QueryError> {
        if self.target == Target::Lambda {
            let deployed = self.deployed().await?;
            let is_it = |one: &&Deployed| memory_mb.is_none_or(|memory_mb| one.deployment.memory_mb == memory_mb);
            // A size that went away with an upgrade in between: what is there now.
            let chosen = deployed.iter().find(is_it).or(deployed.first()).map(|deployed| deployed.scheduler.clone());
            return chosen.ok_or_else(|| QueryError::functions("no function is deployed".to_owned()));
        }
        let mut started = self.started.lock().await;
        if let Some((scheduler, _)) = &started.local {
            return Ok(scheduler.clone());
        }
        let functions_max = self.config.functions_max as usize;
        let (invoker, processes): (Arc<dyn Invoker>, _) = if self.target == Target::InProcess {
            let settings = Settings { temp_folder: self.folder.clone(), ..Settings::default() };
            (Arc::new(InProcess::new(Arc::new(Environment::new(settings)), functions_max)), None)
        } else {
            let made = Processes::start(self.processes_config()?).await.map_err(|e| {
                self.health.failed(e.to_string());
                QueryError::functions(format!("cannot start functions: {e}"))
            })?;
            let made = Arc::new(made);
            (Arc::clone(&made) as _, Some(made))
        };
        // Both targets share this machine.
        let settings = SchedulerSettings {
            speculation: SpeculationPolicy::SAME_MACHINE,
            ..SchedulerSettings::new(functions_max, seed())
        };
        let scheduler = Scheduler::new(invoker, Arc::clone(&self.health), settings);
        started.local = Some((scheduler.clone(), processes));
        Ok(scheduler)
    }

    /// What runs attempts, for one that is not a query's.
    pub(super) async fn invoker(&self) -> Result<Arc<dyn Invoker>, QueryError> {
        Ok(self.scheduler(None).await?.invoker())
    }

    /// The SDK's settings for Lambda.
    pub(super) async fn sdk(&self) -> &SdkConfig {
        let Config { s3, lambda, .. } = &self.config;
        let region = lambda.region.as_deref().or_else(|| lambda.functions.iter().find_map(|f| f.region.as_deref()));
        // On the heap, as below: the SDK's futures are large, and few.
        self.sdk.get_or_init(|| Box::pin(aws::sdk_config(s3, region, lambda.endpoint.as_deref()))).await
    }

    /// What is deployed on Lambda, by memory size, asked for anew.
    pub(super) async fn describe(&self) -> Result<Vec<Deployment>, QueryError> {
        if self.exchange.access.url.starts_with("file:") {
            return Err(QueryError::setup("functions on Lambda need an exchange in S3")
                .with_hint("set exchange = \"s3://BUCKET/PREFIX\" in gust.toml"));
        }
        let lambda = &self.config.lambda;
        let described = Box::pin(describe(self.sdk().await, &lambda.functions, lambda.memory_mb)).await;
        described.map_err(|error| QueryError::in_words(ErrorKind::Functions, error.to_string()))
    }

    /// What is deployed on Lambda, by memory size; at least one.
    async fn deployed(&self) -> Result<Vec<Deployed>, QueryError> {
        let mut started = self.started.lock().await;
        let is_fresh = |deployed: &Deployed| deployed.described.elapsed() < DESCRIBED_FOR;
        if started.lambda.first().is_some_and(is_fresh) {
            return Ok(started.lambda.clone());
        }
        let described = Instant::now();
        let deployments = match self.describe().await {
            Ok(deployments) => deployments,
            Err(error) => {
                self.health.failed(error.to_string());
                if started.lambda.is_empty() {
                    return Err(error);
                }
                // What is known still runs: a version that was published stays.
                tracing::warn!(%error, "the functions could not be looked at again");
                started.lambda.iter_mut().for_each(|known| known.described = described);
                return Ok(started.lambda.clone());
            }
        };
        let mut deployed = Vec::with_capacity(deployments.len());
        for deployment in deployments {
            let same = started.lambda.iter().find(|known| *known.deployment == deployment).cloned();
            // Another version: new queries go there, those under way end where they began.
            deployed.push(match same {
                Some(same) => Deployed { described, ..same },
                None => self.deploy(deployment, described).await,
            });
        }
        started.lambda.clone_from(&deployed);
        Ok(deployed)
    }

    async fn deploy(&self, deployment: Deployment, described: Instant) -> Deployed {
        let functions_max = deployment.functions_max(self.config.functions_max);
        let invoker = Arc::new(Lambda::new(self.sdk().await, deployment.clones.clone(), functions_max));
        let mut settings = SchedulerSettings::new(functions_max, seed());
        settings.limits.ramp = Some(EnvironmentRamp::lambda(deployment.clones.len() as u32));
        let scheduler = Scheduler::new(Arc::clone(&invoker) as _, Arc::clone(&self.health), settings);
        Deployed { deployment: Arc::new(deployment), scheduler, invoker, described }
    }

    fn processes_config(&self) -> Result<ProcessesConfig, QueryError> {
        let (program, args) = match &self.config.process.program {
            Some(program) => (program.clone(), Vec::new()),
            None => {
                let own = std::env::current_exe();
                let own = own.map_err(|e| QueryError::setup(format!("cannot find this program's own file: {e}")))?;
                (own, vec!["bootstrap".into()])
            }
        };
        Ok(ProcessesConfig {
            program,
            args,
            processes_max: self.config.functions_max as usize,
            memory_bytes: self.config.function_memory_bytes,
            cores: self.config.process.cores as usize,
            temp_folder: self.folder.clone(),
            env: Vec::new(),
        })
    }

    /// Architecture and memory of what is deployed on Lambda and used first, as far as a query has already asked.
    pub(super) async fn deployed_as(&self) -> Option<(String, u32)> {
        let started = self.started.lock().await;
        started.lambda.first().map(|Deployed { deployment, .. }| (deployment.arch.clone(), deployment.memory_mb))
    }

    pub(super) async fn have_started(&self) -> bool {
        let started = self.started.lock().await;
        started.local.is_some() || !started.lambda.is_empty()
    }

    pub(super) async fn close(&self) {
        let Started { local, lambda } = std::mem::take(&mut *self.started.lock().await);
        if let Some(processes) = local.and_then(|(_, processes)| processes) {
            processes.shutdown().await;
        }
        for deployed in lambda {
            deployed.invoker.shutdown().await;
        }
    }
}

/// Of the waits between attempts: another one each time.
fn seed() -> u64 {
    Uuid::new_v4().as_u64_pair().1
}

/// The URL of a folder, which is made if it is not there.
fn folder_url(folder: &Path) -> std::io::Result<Url> {
    std::fs::create_dir_all(folder)?;
    let folder = folder.canonicalize()?;
    Url::from_directory_path(&folder).map_err(|()| std::io::Error::other("not an absolute path"))
}
