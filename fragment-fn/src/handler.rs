//! The function as any platform sees it: bytes in, bytes out.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use cpu_time::ProcessTime;
use futures::FutureExt;
use futures::future::BoxFuture;
use gust_protocol::version::PROTOCOL_VERSION;
use gust_protocol::{
    FragmentError, FragmentErrorKind, FragmentId, FragmentResponse, FragmentResult, InvokeRequest, Usage, wire,
};
use tracing::Instrument;

use crate::environment::Environment;
use crate::executor::{self, Meter};
use crate::panics;

/// Time for the answer before the platform stops the function.
const ANSWER_TIME: Duration = Duration::from_millis(500);

/// Answers one request. It never panics, and never outlives the earlier of the request's deadline and the platform's.
pub fn handle(environment: &Arc<Environment>, payload: Bytes, platform_deadline: SystemTime) -> BoxFuture<'_, Bytes> {
    Box::pin(async move {
        let started = Instant::now();
        let cpu = ProcessTime::now();
        let cold = environment.take_cold();
        let (id, attempt, outcome, mut usage) = match wire::decode_request(&payload) {
            Ok(request) => {
                let span = tracing::info_span!("attempt", fragment = %request.fragment.id, attempt = request.attempt);
                let (outcome, usage) = attempt(environment, &request, platform_deadline).instrument(span).await;
                (request.fragment.id, request.attempt, outcome, usage)
            }
            Err(error) => {
                let unknown = FragmentId { query: String::new(), stage: 0, index: 0 };
                (unknown, 0, Err(FragmentError::from(error)), Usage::default())
            }
        };
        if let Err(FragmentError { kind, message, .. }) = &outcome {
            tracing::warn!(fragment = %id, attempt, ?kind, message, "fragment failed");
        }
        usage.cold = cold;
        usage.cpu_us = u64::try_from(cpu.elapsed().as_micros()).unwrap_or(u64::MAX);
        usage.spans.total_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let response = FragmentResponse { version: PROTOCOL_VERSION, id, attempt, outcome, usage };
        wire::encode_response(&response).unwrap_or_else(|error| Bytes::from(error.to_string()))
    })
}

/// Runs the request within its deadline and turns a panic into an error.
async fn attempt(
    environment: &Arc<Environment>,
    request: &InvokeRequest,
    platform_deadline: SystemTime,
) -> (Result<FragmentResult, FragmentError>, Usage) {
    let meter = Meter::new(request);
    let answer_by = platform_deadline.checked_sub(ANSWER_TIME).unwrap_or(UNIX_EPOCH);
    let deadline = answer_by.min(UNIX_EPOCH + Duration::from_millis(request.deadline_unix_ms));
    let left = deadline.duration_since(SystemTime::now()).unwrap_or_default();
    let running = AssertUnwindSafe(executor::execute(environment, request, &meter)).catch_unwind();
    let outcome = match tokio::time::timeout(left, running).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) => {
            let message = format!("the function panicked: {}", panics::message(&*panic));
            Err(FragmentError::new(FragmentErrorKind::Panic, message))
        }
        Err(_) => {
            let message = format!("fragment {} was not done at its deadline", request.fragment.id);
            Err(FragmentError::new(FragmentErrorKind::DeadlineExceeded, message))
        }
    };
    (outcome, meter.usage())
}
