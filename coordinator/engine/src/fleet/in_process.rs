//! Functions as tasks of this process: no isolation, no start, the same bytes.
//!
//! Requests and responses pass the wire's encoding and limits. So a query that works here is not refused elsewhere.
//! Non-goals: memory limits, and stopping a handler that blocks its thread. Such a handler keeps its slot until it
//! ends.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use fragment_fn::ahead::ReadBudget;
use fragment_fn::{Environment, EnvironmentSettings, handler, panic_message};
use futures::FutureExt;
use futures::future::BoxFuture;
use gust_protocol::InvokeRequest;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;

use super::framing::{self, Admitted};
use super::platform::{Platform, PlatformParts, ProbedSizes, Probes};
use super::{Invoker, local};
use crate::attempt::{Billing, Invocation};
use crate::error::QueryError;
use crate::model::{FunctionSize, PlatformTraits, TimeModel};

/// Platform of one environment, made when it is first used.
#[derive(Debug)]
pub(super) struct InProcessPlatform {
    parts: PlatformParts,
    started: OnceLock<Arc<InProcess>>,
}

impl InProcessPlatform {
    pub(super) fn new(parts: PlatformParts) -> Self {
        Self { parts, started: OnceLock::new() }
    }

    fn invoker(&self) -> Arc<dyn Invoker> {
        let start = || {
            let settings = EnvironmentSettings {
                temp_folder: self.parts.folder.clone(),
                reading: Some(ReadBudget::new(self.parts.config.read_ahead())),
                ..EnvironmentSettings::default()
            };
            let functions_max = self.parts.config.functions_max as usize;
            Arc::new(InProcess::new(Arc::new(Environment::new(settings)), functions_max))
        };
        Arc::clone(self.started.get_or_init(start)) as _
    }
}

#[async_trait]
impl Platform for InProcessPlatform {
    fn traits(&self) -> PlatformTraits {
        local::TRAITS
    }

    fn model(&self, cores: usize, function_cores: f64) -> TimeModel {
        local::model(cores, function_cores)
    }

    async fn sizes(&self) -> Result<Vec<FunctionSize>, QueryError> {
        let cores = self.parts.config.process.cores as usize;
        let size = local::size(&self.parts.config, "in-process".to_owned(), cores);
        Ok(vec![FunctionSize { is_one_environment: true, ..size }])
    }

    async fn start(&self, _: &FunctionSize) -> Result<Arc<dyn Invoker>, QueryError> {
        Ok(self.invoker())
    }

    async fn region(&self) -> Option<String> {
        self.parts.config.s3.region.clone()
    }

    async fn probes(&self, _: ProbedSizes) -> Probes {
        Probes::of_one_kind(Ok(self.invoker()))
    }

    async fn close(&self) {}
}

/// A function: it takes the request's bytes and the platform's deadline, and returns the response's bytes.
pub type Handler = Arc<dyn Fn(Bytes, SystemTime) -> BoxFuture<'static, Bytes> + Send + Sync>;

/// Runs attempts as tasks, `concurrency_max` at a time.
pub struct InProcess {
    handler: Handler,
    slots: Arc<Semaphore>,
}

impl std::fmt::Debug for InProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InProcess").field("slots_free", &self.slots.available_permits()).finish_non_exhaustive()
    }
}

impl InProcess {
    /// Runs fragments in `environment`.
    pub fn new(environment: Arc<Environment>, concurrency_max: usize) -> Self {
        let handler: Handler = Arc::new(move |payload, deadline| {
            let environment = Arc::clone(&environment);
            async move { handler::handle(&environment, payload, deadline).await }.boxed()
        });
        Self::with_handler(handler, concurrency_max)
    }

    /// Runs any handler.
    pub fn with_handler(handler: Handler, concurrency_max: usize) -> Self {
        Self { handler, slots: Arc::new(Semaphore::new(concurrency_max.max(1))) }
    }
}

#[async_trait]
impl Invoker for InProcess {
    async fn invoke(&self, request: InvokeRequest) -> Invocation {
        let Admitted { framed, slot } = match framing::admit(request, &self.slots).await {
            Ok(admitted) => admitted,
            Err(error) => return framing::not_sent(error),
        };
        let started = Instant::now();
        let (handler, payload) = (Arc::clone(&self.handler), framed.payload.clone());
        let (stop_at, stop_at_wall) = (framed.stop_at, framed.stop_at_wall);
        // The attempt is a task of its own. It goes on if its caller goes away, and a panic ends there.
        let attempt = async move {
            let answer = timeout_at(stop_at, handler(payload, stop_at_wall)).await;
            drop(slot);
            answer
        };
        let attempt = tokio::spawn(attempt.in_current_span());
        // The wait is bounded here, too, because a handler that blocks its thread never sees the bound inside.
        let outcome = match timeout_at(stop_at, attempt).await {
            Ok(Ok(Ok(answer))) => framed.response(&answer),
            Ok(Ok(Err(_))) | Err(_) => Err(framed.timed_out()),
            Ok(Err(ended)) => Err(match ended.try_into_panic() {
                Ok(panic) => framed.crashed(format_args!("panicked: {}", panic_message(&*panic))),
                Err(_) => framing::stopped(),
            }),
        };
        let duration = started.elapsed();
        let billing = match &outcome {
            Err(error) if error.kind == crate::attempt::InvokeErrorKind::TimedOut => {
                Billing::Bounded { at_most: duration }
            }
            _ => Billing::Metered { duration, init: Duration::ZERO },
        };
        Invocation { outcome, billing, cold: Some(false), log_tail: String::new() }
    }
}
