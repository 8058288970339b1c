//! The functions of a process: started with the first query that needs them, ended with the session.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fragment_fn::{Environment, Settings};
use gust_protocol::wire::INLINE_BYTES_MAX;
use gust_protocol::{Limits, StoreAccess};
use object_store::ObjectStore;
use object_store::path::Path as StorePath;
use tokio::sync::Mutex;
use url::Url;

use super::error::QueryError;
use crate::config::{Config, Target};
use crate::decide::Fleet;
use crate::exec::Exchange;
use crate::invoker::{InProcess, Invoker, Processes, ProcessesConfig};
use crate::scheduler::Scheduler;
use crate::tables::stores::Stores;

/// Starts functions on demand and knows where they leave large results.
pub(super) struct FunctionPool {
    config: Config,
    exchange: Exchange,
    /// Where functions spill.
    folder: PathBuf,
    started: Mutex<Option<Started>>,
    /// Whether the last that was heard of functions was good.
    healthy: AtomicBool,
}

struct Started {
    scheduler: Scheduler,
    processes: Option<Arc<Processes>>,
}

impl FunctionPool {
    pub(super) fn new(config: &Config, stores: &Stores, folder: &Path) -> Result<Self, QueryError> {
        let setup = |what: &str, e: &dyn std::fmt::Display| QueryError::Setup(format!("exchange: {what}: {e}"));
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
            exchange,
            folder: folder.to_owned(),
            started: Mutex::default(),
            healthy: AtomicBool::new(true),
        })
    }

    pub(super) fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    /// What `decide` needs to know; starts nothing.
    pub(super) fn fleet(&self) -> Option<Fleet> {
        let functions_max = self.config.functions_max as usize;
        let healthy = self.healthy.load(Ordering::Relaxed);
        Some(Fleet { functions_max, healthy, shares_machine: true })
    }

    /// What a query found out about the functions.
    pub(super) fn set_healthy(&self, healthy: bool) {
        self.healthy.store(healthy, Ordering::Relaxed);
    }

    /// Lanes of one function: its cores.
    pub(super) fn lanes(&self) -> usize {
        match self.config.on {
            Target::Processes | Target::Auto => self.config.process.cores as usize,
            Target::InProcess | Target::Local => 1,
        }
    }

    pub(super) fn limits(&self) -> Limits {
        Limits {
            memory_bytes_max: self.config.function_memory_bytes,
            temp_bytes_max: self.config.function_temp_bytes,
            inline_bytes_max: INLINE_BYTES_MAX,
        }
    }

    /// The scheduler over running functions.
    pub(super) async fn scheduler(&self, target: Target) -> Result<Scheduler, QueryError> {
        let mut started = self.started.lock().await;
        if let Some(started) = started.as_ref() {
            return Ok(started.scheduler.clone());
        }
        let functions_max = self.config.functions_max as usize;
        let mut processes = None;
        let invoker: Arc<dyn Invoker> = match target {
            Target::InProcess => {
                let settings = Settings { temp_folder: self.folder.clone(), ..Settings::default() };
                Arc::new(InProcess::new(Arc::new(Environment::new(settings)), functions_max))
            }
            Target::Local | Target::Auto | Target::Processes => {
                let made = Processes::start(self.processes_config()?).await;
                let made = made.map_err(|e| {
                    self.set_healthy(false);
                    QueryError::Functions(format!("cannot start functions: {e}"))
                })?;
                processes.insert(Arc::new(made)).clone()
            }
        };
        let scheduler = Scheduler::new(invoker, functions_max);
        *started = Some(Started { scheduler: scheduler.clone(), processes });
        Ok(scheduler)
    }

    fn processes_config(&self) -> Result<ProcessesConfig, QueryError> {
        let (program, args) = match &self.config.process.program {
            Some(program) => (program.clone(), Vec::new()),
            None => {
                let own = std::env::current_exe();
                let own = own.map_err(|e| QueryError::Setup(format!("cannot find this program's own file: {e}")))?;
                (own, vec!["bootstrap".into()])
            }
        };
        Ok(ProcessesConfig {
            program,
            args,
            processes_max: self.config.functions_max as usize,
            memory_bytes: self.config.function_memory_bytes,
            cores: self.lanes(),
            temp_folder: self.folder.clone(),
            env: Vec::new(),
        })
    }

    pub(super) async fn have_started(&self) -> bool {
        self.started.lock().await.is_some()
    }

    pub(super) async fn close(&self) {
        let started = self.started.lock().await.take();
        if let Some(processes) = started.and_then(|started| started.processes) {
            processes.shutdown().await;
        }
    }
}

/// The URL of a folder, which is made if it is not there.
fn folder_url(folder: &Path) -> std::io::Result<Url> {
    std::fs::create_dir_all(folder)?;
    let folder = folder.canonicalize()?;
    Url::from_directory_path(&folder).map_err(|()| std::io::Error::other("not an absolute path"))
}
