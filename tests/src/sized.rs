//! Functions of this process in several sizes, which differ in their memory. Their platform does not tell it with an attempt.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use fragment_fn::{Environment, EnvironmentSettings};
use gust_engine::attempt::Invocation;
use gust_engine::config::{Config, Target};
use gust_engine::error::QueryError;
use gust_engine::fleet::{self, InProcess, Invoker, Platform, ProbedSizes, Probes};
use gust_engine::model::{FunctionSize, PlatformTraits, TimeModel};
use gust_protocol::wire::INLINE_BYTES_MAX;
use gust_protocol::{AheadBounds, FragmentLimits, InvokeRequest};

/// Platform of functions of this process, in these sizes.
#[derive(Debug)]
pub struct SizedFunctions(Vec<OneSize>);

#[derive(Debug)]
struct OneSize {
    size: FunctionSize,
    invoker: Arc<Counted>,
}

/// Functions of one size, whose attempts are counted.
#[derive(Debug)]
struct Counted {
    inner: InProcess,
    attempts: AtomicUsize,
}

impl SizedFunctions {
    /// Makes functions of so many MB each, of which so many may run at once. They spill to this folder.
    pub fn of(sizes_mb: &[u32], functions_max: usize, temp_folder: PathBuf) -> Self {
        let sized = |memory_mb: &u32| {
            let settings = EnvironmentSettings { temp_folder: temp_folder.clone(), ..EnvironmentSettings::default() };
            let inner = InProcess::new(Arc::new(Environment::new(settings)), functions_max);
            let size = size(*memory_mb, functions_max);
            OneSize { size, invoker: Arc::new(Counted { inner, attempts: AtomicUsize::new(0) }) }
        };
        Self(sizes_mb.iter().map(sized).collect())
    }

    /// Counts the attempts on functions of a size.
    pub fn attempts(&self, memory_mb: u32) -> usize {
        let of_size = self.0.iter().filter(|sized| sized.size.memory_mb == memory_mb);
        of_size.map(|sized| sized.invoker.attempts.load(Ordering::Relaxed)).sum()
    }
}

fn size(memory_mb: u32, functions_max: usize) -> FunctionSize {
    let limits = FragmentLimits {
        memory_bytes_max: u64::from(memory_mb) << 20,
        temp_bytes_max: 1 << 30,
        inline_bytes_max: INLINE_BYTES_MAX,
        bridge_bytes: 1 << 20,
        ahead: AheadBounds::default(),
        late_columns_percent_max: 0,
    };
    FunctionSize {
        kind: format!("functions of {memory_mb} MB in this process"),
        memory_mb,
        architecture: None,
        lanes: 1,
        cores: 1.0,
        limits,
        functions_max,
        is_one_environment: false,
        ramp: None,
        model: TimeModel::laptop(1),
    }
}

#[async_trait]
impl Invoker for Counted {
    async fn invoke(&self, request: InvokeRequest) -> Invocation {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        self.inner.invoke(request).await
    }
}

#[async_trait]
impl Platform for SizedFunctions {
    fn traits(&self) -> PlatformTraits {
        fleet::traits(&Config { on: Target::InProcess, ..Config::default() })
    }

    fn model(&self, cores: usize, function_cores: f64) -> TimeModel {
        TimeModel { function_cores, ..TimeModel::laptop(cores) }
    }

    async fn sizes(&self) -> Result<Vec<FunctionSize>, QueryError> {
        Ok(self.0.iter().map(|sized| sized.size.clone()).collect())
    }

    async fn start(&self, size: &FunctionSize) -> Result<Arc<dyn Invoker>, QueryError> {
        let found = self.0.iter().find(|sized| sized.size.memory_mb == size.memory_mb);
        let none = || QueryError::functions(format!("there are no functions of {} MB", size.memory_mb));
        found.map(|sized| Arc::clone(&sized.invoker) as Arc<dyn Invoker>).ok_or_else(none)
    }

    async fn region(&self) -> Option<String> {
        None
    }

    async fn probes(&self, _: ProbedSizes) -> Probes {
        Probes::default()
    }

    async fn close(&self) {}
}
