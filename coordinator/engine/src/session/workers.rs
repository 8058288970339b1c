//! Threads on which statements are planned and run.

use std::io;
use std::sync::Arc;

use fragment_fn::stack::{self, STACK_BYTES};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::run::Turns;

/// Runtime of the engine's own. Its stacks hold the deepest statement that the limits allow. A caller on another
/// runtime is not held up by computations here. Clones share it.
///
/// Dropping the last clone does not wait for its threads. A thread that computes ends with its work, or with the
/// process.
#[derive(Debug, Clone)]
pub(super) struct Workers(Arc<WorkerRuntime>);

#[derive(Debug)]
struct WorkerRuntime {
    handle: Handle,
    /// Descriptions that are made at the same time.
    describing: Arc<Semaphore>,
    describing_max: usize,
    /// Turns of the queries at the cores; None where one runs at a time.
    turns: Option<Turns>,
    /// None while it is dropped.
    runtime: Option<Runtime>,
}

/// Divisor of the threads of queries for those of descriptions.
const DESCRIBING_SHARE: usize = 2;

/// Most threads of queries. Only the touched part of a stack takes memory.
const THREADS_MAX: usize = 512;

impl Workers {
    /// Starts threads for this many queries at a time: each has as many as there are cores. A query whose operator computes for
    /// minutes without a pause then leaves threads to the others. Those that have computed long give way to others ([`Turns`]). Descriptions, which have no
    /// place among the queries, have threads of their own number.
    pub(super) fn start(queries_max: usize) -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let of_queries = cores.saturating_mul(queries_max.max(1)).min(THREADS_MAX);
        let describing = (of_queries / DESCRIBING_SHARE).max(1);
        let threads = if queries_max > 1 { of_queries + describing } else { of_queries };
        let runtime =
            Builder::new_multi_thread().enable_all().worker_threads(threads).thread_stack_size(STACK_BYTES).build()?;
        let (handle, describing_max) = (runtime.handle().clone(), describing);
        let describing = Arc::new(Semaphore::new(describing_max));
        let turns = (queries_max > 1).then(|| Turns::new(cores));
        Ok(Self(Arc::new(WorkerRuntime { handle, describing, describing_max, turns, runtime: Some(runtime) })))
    }

    pub(super) fn turns(&self) -> Option<&Turns> {
        self.0.turns.as_ref()
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.0.handle
    }

    /// Returns the number of descriptions that are made at the same time.
    pub(super) fn describing_max(&self) -> usize {
        self.0.describing_max
    }

    /// Runs a future on these threads. Dropping the returned future drops it. A panic of the future passes to the
    /// caller.
    pub(super) fn run<T, F>(&self, future: F) -> impl Future<Output = T> + use<T, F>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let task = AbortOnDropHandle::new(self.0.handle.spawn(future.in_current_span()));
        async move { task.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())) }
    }

    /// Does the same for a description, which is planned and not run. It waits while enough others are made. Planning cannot be stopped, and
    /// so one that nobody waits for counts until it has ended.
    pub(super) async fn describe<T, F>(&self, describing: F) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let turn = Arc::clone(&self.0.describing).acquire_owned().await;
        let described = async move {
            let _until_its_end = turn;
            describing.await
        };
        self.run(described).await
    }
}

impl Drop for WorkerRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            stack::end(runtime);
        }
    }
}
