//! Platform of child processes of the coordinator.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::{Processes, ProcessesConfig};
use crate::error::QueryError;
use crate::fleet::Invoker;
use crate::fleet::local;
use crate::fleet::platform::{Platform, PlatformParts, ProbedSizes, Probes};
use crate::model::{FunctionSize, PlatformTraits, TimeModel};

#[derive(Debug)]
pub(in crate::fleet) struct ProcessPlatform {
    parts: PlatformParts,
    started: Mutex<Option<Arc<Processes>>>,
}

impl ProcessPlatform {
    pub(in crate::fleet) fn new(parts: PlatformParts) -> Self {
        Self { parts, started: Mutex::default() }
    }

    async fn invoker(&self) -> Result<Arc<dyn Invoker>, QueryError> {
        let mut started = self.started.lock().await;
        if let Some(processes) = &*started {
            return Ok(Arc::clone(processes) as _);
        }
        let processes = Processes::start(self.config()?).await.map_err(|e| {
            self.parts.breaker.failed(e.to_string());
            QueryError::functions(format!("cannot start functions: {e}")).with_source(e)
        })?;
        let processes = Arc::new(processes);
        *started = Some(Arc::clone(&processes));
        Ok(processes)
    }

    fn config(&self) -> Result<ProcessesConfig, QueryError> {
        let PlatformParts { config, folder, .. } = &self.parts;
        let (program, args) = match &config.process.program {
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
            processes_max: config.functions_max as usize,
            memory_bytes: config.function_memory_bytes,
            cores: config.process.cores as usize,
            temp_folder: folder.clone(),
            env: Vec::new(),
        })
    }
}

#[async_trait]
impl Platform for ProcessPlatform {
    fn traits(&self) -> PlatformTraits {
        local::TRAITS
    }

    fn model(&self, cores: usize, function_cores: f64) -> TimeModel {
        local::model(cores, function_cores)
    }

    async fn sizes(&self) -> Result<Vec<FunctionSize>, QueryError> {
        let cores = self.parts.config.process.cores;
        let kind = if cores == 1 { "processes of 1 core".to_owned() } else { format!("processes of {cores} cores") };
        Ok(vec![local::size(&self.parts.config, kind, cores as usize)])
    }

    async fn start(&self, _: &FunctionSize) -> Result<Arc<dyn Invoker>, QueryError> {
        self.invoker().await
    }

    async fn region(&self) -> Option<String> {
        self.parts.config.s3.region.clone()
    }

    async fn probes(&self, _: ProbedSizes) -> Probes {
        Probes::of_one_kind(self.invoker().await)
    }

    async fn close(&self) {
        if let Some(processes) = self.started.lock().await.take() {
            processes.shutdown().await;
        }
    }
}
