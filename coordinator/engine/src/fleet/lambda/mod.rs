//! Functions on AWS Lambda: one synchronous invocation per attempt.
//!
//! ```text
//! deployment::describe ─► pinned clones ─► Lambda::invoke ─► aws-sdk-lambda ⇢ outcome: response | failure, billing from the log's tail
//! ```
//!
//! An invocation cannot be recalled. If the caller goes away, the attempt keeps its slot until it has ended. The SDK's
//! retries are off, because the scheduler owns them. Non-goals: deploying, which Terraform does, and starting functions
//! ahead of time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_lambda::Client;
use aws_sdk_lambda::config::retry::RetryConfig;
use aws_sdk_lambda::config::timeout::TimeoutConfig;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::{InvocationType, LogType};
use gust_protocol::{FragmentResponse, InvokeRequest};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

mod deployment;
mod outcome;
mod platform;
mod report_line;

pub use deployment::{Deployment, DescribeError, PinnedFunction, describe};
pub(super) use platform::{LambdaPlatform, none_deployed};

use super::Invoker;
use super::framing::{self, Admitted, FramedRequest};
use crate::attempt::{Billing, Invocation, InvokeError, InvokeErrorKind};
use outcome::Refusal;

/// Time that an answer may take after the function's own end: the network's share.
const ANSWER_DELAY_MAX: Duration = Duration::from_secs(5);

/// Time within which a connection is up, unless the network fails.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Runs attempts on deployed functions, each at the version that it had when it was described.
pub struct Lambda {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    /// Equal functions; attempts rotate over them.
    clones: Vec<PinnedFunction>,
    next: AtomicUsize,
    slots: Arc<Semaphore>,
    attempts: TaskTracker,
    stop: CancellationToken,
}

impl std::fmt::Debug for Lambda {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lambda").field("clones", &self.shared.clones).finish_non_exhaustive()
    }
}

impl Lambda {
    /// Makes an invoker with at most `concurrency_max` invocations at once, over all clones.
    pub fn new(config: &aws_config::SdkConfig, clones: Vec<PinnedFunction>, concurrency_max: usize) -> Self {
        // The attempt's own deadline bounds an invocation, and the scheduler retries.
        let timeouts = TimeoutConfig::builder().disable_operation_timeout().connect_timeout(CONNECT_MAX).build();
        let config = aws_sdk_lambda::config::Builder::from(config).retry_config(RetryConfig::disabled());
        let config = config.timeout_config(timeouts).build();
        let shared = Shared {
            client: Client::from_conf(config),
            clones,
            next: AtomicUsize::new(0),
            slots: Arc::new(Semaphore::new(concurrency_max.max(1))),
            attempts: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Stops waiting for answers. The functions go on until they end by themselves.
    pub async fn shutdown(&self) {
        self.shared.slots.close();
        self.shared.stop.cancel();
        self.shared.attempts.close();
        self.shared.attempts.wait().await;
    }
}

#[async_trait]
impl Invoker for Lambda {
    async fn invoke(&self, request: InvokeRequest) -> Invocation {
        let Admitted { framed, slot } = match framing::admit(request, &self.shared.slots).await {
            Ok(admitted) => admitted,
            Err(error) => return framing::not_sent(error),
        };
        let billing_max = framed.billing_max(Instant::now());
        let (reply, invocation) = oneshot::channel();
        self.shared.attempts.spawn(Arc::clone(&self.shared).attempt(framed, slot, reply).in_current_span());
        framing::reply(invocation, billing_max).await
    }
}

impl Shared {
    async fn attempt(
        self: Arc<Self>,
        framed: FramedRequest,
        slot: OwnedSemaphorePermit,
        reply: oneshot::Sender<Invocation>,
    ) {
        let started = Instant::now();
        let invocation = tokio::select! {
            answered = timeout_at(framed.stop_at + ANSWER_DELAY_MAX, self.call(&framed)) => answered.ok(),
            () = self.stop.cancelled() => Some(framing::unanswered(framing::stopped(), framed.billing_max(started))),
        };
        let late = || framing::unanswered(framed.timed_out(), framed.billing_max(started));
        // The send fails if the caller has gone away.
        let _ = reply.send(invocation.unwrap_or_else(late));
        drop(slot);
    }

    async fn call(&self, framed: &FramedRequest) -> Invocation {
        let clone = &self.clones[self.next.fetch_add(1, Ordering::Relaxed) % self.clones.len()];
        let started = Instant::now();
        let request = self.client.invoke().function_name(&clone.name).qualifier(&clone.version);
        let request = request.invocation_type(InvocationType::RequestResponse).log_type(LogType::Tail);
        let answer = match request.payload(Blob::new(framed.payload.clone())).send().await {
            Ok(answer) => answer,
            Err(error) => {
                let Refusal { error, may_have_run } = outcome::refusal(&clone.name, &error);
                return if may_have_run {
                    framing::unanswered(error, framed.billing_max(started))
                } else {
                    framing::not_sent(error)
                };
            }
        };
        let log = outcome::log_tail(answer.log_result());
        let payload = answer.payload().map(AsRef::as_ref).unwrap_or_default();
        let outcome = match answer.function_error() {
            None => framed.response(payload),
            Some(_) => Err(outcome::function_failure(framed, payload, &log)),
        };
        let billing = outcome::billing(&log, started.elapsed());
        let cold = match billing {
            Billing::Reported { init, .. } => Some(!init.is_zero()),
            Billing::Metered { .. } | Billing::Bounded { .. } => None,
        };
        let succeeded = matches!(&outcome, Ok(FragmentResponse { outcome: Ok(_), .. }));
        Invocation { outcome, billing, cold, log_tail: if succeeded { String::new() } else { log } }
    }
}

impl From<DescribeError> for InvokeError {
    fn from(error: DescribeError) -> Self {
        Self::new(InvokeErrorKind::NotDeployed, error.to_string()).with_hint(error.hint())
    }
}
