//! Framing of an invocation, common to all invokers: encodes the request, bounds both payloads, gives up in time.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use gust_protocol::wire::{self, PAYLOAD_BYTES_MAX};
use gust_protocol::{FragmentId, FragmentResponse, InvokeRequest};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::attempt::{Billing, GRACE, Invocation, InvokeError, InvokeErrorKind, WAITED_HINT, billed_max};

/// Longest invocation on AWS Lambda. A later deadline counts as this one.
const INVOCATION_MAX: Duration = Duration::from_secs(900);

/// Request of one attempt as bytes, and its moments.
#[derive(Debug)]
pub(super) struct FramedRequest {
    pub payload: Bytes,
    /// Moment after which nothing is started for the attempt.
    pub deadline: Instant,
    /// Moment at which the platform stops the attempt.
    pub stop_at: Instant,
    /// [`Self::stop_at`] in wall time, for the function.
    pub stop_at_wall: SystemTime,
    id: FragmentId,
    attempt: u32,
}

impl FramedRequest {
    /// Encodes a request.
    ///
    /// # Errors
    /// [`InvokeErrorKind::RequestTooLarge`]; [`InvokeErrorKind::TimedOut`] if the deadline has passed already.
    fn new(request: &InvokeRequest) -> Result<Self, InvokeError> {
        let (id, attempt) = (request.fragment.id.clone(), request.attempt);
        let payload = wire::encode_request(request).map_err(|error| {
            InvokeError::new(InvokeErrorKind::Protocol, format!("cannot encode fragment {id}: {error}"))
        })?;
        if payload.len() > PAYLOAD_BYTES_MAX {
            let message = format!(
                "request for fragment {id} is {} bytes long, a function takes {PAYLOAD_BYTES_MAX}",
                payload.len()
            );
            let error = InvokeError::new(InvokeErrorKind::RequestTooLarge, message);
            return Err(error.with_hint(Some("use more, smaller fragments")));
        }
        let (now, now_wall) = (Instant::now(), SystemTime::now());
        let deadline = Duration::from_millis(request.deadline_unix_ms);
        let left = deadline.saturating_sub(now_wall.duration_since(UNIX_EPOCH).unwrap_or_default());
        if left.is_zero() {
            let message = format!("fragment {id} was not sent: its deadline had passed");
            return Err(InvokeError::new(InvokeErrorKind::TimedOut, message));
        }
        let left = left.min(INVOCATION_MAX);
        let stop_at_wall = now_wall + left + GRACE;
        Ok(Self { payload, deadline: now + left, stop_at: now + left + GRACE, stop_at_wall, id, attempt })
    }

    /// Reads the function's answer to this request.
    ///
    /// # Errors
    /// [`InvokeErrorKind::ResponseTooLarge`]; [`InvokeErrorKind::Protocol`] if it is no response, or a result of
    /// another attempt.
    pub fn response(&self, payload: &[u8]) -> Result<FragmentResponse, InvokeError> {
        let id = &self.id;
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(self.response_too_large());
        }
        let response = wire::decode_response(payload).map_err(|error| {
            let message = format!("answer for fragment {id} is not a response: {error}");
            InvokeError::new(InvokeErrorKind::Protocol, message).with_hint(error.hint())
        })?;
        // A function that could not read the request cannot name the attempt in its refusal.
        if response.outcome.is_ok() && (&response.id, response.attempt) != (id, self.attempt) {
            let message = format!(
                "attempt {} of fragment {id} was answered for attempt {} of fragment {}",
                self.attempt, response.attempt, response.id
            );
            return Err(InvokeError::new(InvokeErrorKind::Protocol, message));
        }
        Ok(response)
    }

    pub fn response_too_large(&self) -> InvokeError {
        let message = format!(
            "response for fragment {} is larger than the {PAYLOAD_BYTES_MAX} bytes that a function may answer",
            self.id
        );
        InvokeError::new(InvokeErrorKind::ResponseTooLarge, message)
    }

    pub fn timed_out(&self) -> InvokeError {
        let message = format!("fragment {} did not answer by its deadline", self.id);
        InvokeError::new(InvokeErrorKind::TimedOut, message)
    }

    /// Bounds the charge of an attempt that started at `started` and whose end is not known.
    pub fn billing_max(&self, started: Instant) -> Billing {
        Billing::Bounded { at_most: billed_max(self.deadline.saturating_duration_since(started)) }
    }

    pub fn waited(&self) -> InvokeError {
        let message = format!("fragment {} waited for a free function until its deadline", self.id);
        InvokeError::new(InvokeErrorKind::TimedOut, message).with_hint(Some(WAITED_HINT))
    }

    pub fn crashed(&self, how: impl std::fmt::Display) -> InvokeError {
        let message = format!("function ended while it ran fragment {}: {how}", self.id);
        InvokeError::new(InvokeErrorKind::Crashed, message)
    }
}

/// Request that may run now, and its slot.
pub(super) struct Admitted {
    pub framed: FramedRequest,
    pub slot: OwnedSemaphorePermit,
}

/// Frames a request, and waits until another function may run.
///
/// # Errors
/// Those of [`FramedRequest::new`]; [`InvokeErrorKind::TimedOut`] if no function was free by the deadline;
/// [`InvokeErrorKind::Stopped`] after the shutdown.
pub(super) async fn admit(request: InvokeRequest, slots: &Arc<Semaphore>) -> Result<Admitted, InvokeError> {
    let framed = FramedRequest::new(&request)?;
    drop(request);
    match timeout_at(framed.deadline, Arc::clone(slots).acquire_owned()).await {
        Ok(Ok(slot)) => Ok(Admitted { framed, slot }),
        Ok(Err(_)) => Err(stopped()),
        Err(_) => Err(framed.waited()),
    }
}

pub(super) fn stopped() -> InvokeError {
    InvokeError::new(InvokeErrorKind::Stopped, "the invoker has been shut down")
}

/// Describes an attempt that has no answer, but may cost money.
pub(super) fn unanswered(error: InvokeError, billing: Billing) -> Invocation {
    Invocation { outcome: Err(error), billing, cold: None, log_tail: String::new() }
}

/// Waits for the reply of an attempt's task. The task is lost if it ends without one, and `billing_max` is booked.
pub(super) async fn reply(task: oneshot::Receiver<Invocation>, billing_max: Billing) -> Invocation {
    task.await.unwrap_or_else(|_| unanswered(stopped(), billing_max))
}

/// Describes an attempt that reached no function and costs nothing.
pub(super) fn not_sent(error: InvokeError) -> Invocation {
    unanswered(error, Billing::Metered { duration: Duration::ZERO, init: Duration::ZERO })
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use gust_protocol::version::{PROTOCOL_VERSION, fingerprint};
    use gust_protocol::{
        AccessTable, AheadBounds, Base64, Fragment, FragmentLimits, FragmentResult, Output, PlanRef, StagePlan,
        StreamSummary, Usage,
    };

    use super::*;

    /// Makes the request of an attempt with `time` until its deadline.
    pub(in crate::fleet) fn request(time: Duration) -> InvokeRequest {
        let deadline = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970") + time;
        let limits = FragmentLimits {
            memory_bytes_max: 1,
            temp_bytes_max: 1,
            inline_bytes_max: 1,
            bridge_bytes: 1,
            ahead: AheadBounds::default(),
            late_columns_percent_max: 0,
        };
        let id = FragmentId { query: "q".to_owned(), stage: 0, index: 0 };
        InvokeRequest {
            version: PROTOCOL_VERSION,
            fingerprint: fingerprint().to_owned(),
            fragment: Fragment { id, inputs: Vec::new(), parts: Vec::new(), limits },
            attempt: 1,
            deadline_unix_ms: deadline.as_millis() as u64,
            access: AccessTable::default(),
            stage: StagePlan {
                plan: PlanRef::Inline(Base64::default()),
                leaves: Vec::new(),
                scalars: Vec::new(),
                shared: Vec::new(),
                output: Output::Gather { access: 0, prefix: String::new() },
                options: BTreeMap::new(),
            },
        }
    }

    #[test]
    fn the_answer_of_another_attempt_is_refused() {
        let framed = FramedRequest::new(&request(Duration::from_secs(10))).expect("a request");
        let answer = |attempt, index| {
            let id = FragmentId { query: "q".to_owned(), stage: 0, index };
            let part = StreamSummary { bytes: 0, rows: 0, crc32: 0 };
            let outcome = Ok(FragmentResult::Inline { part, bytes: Base64::default() });
            let response =
                FragmentResponse { version: PROTOCOL_VERSION, id, attempt, outcome, usage: Usage::default() };
            framed.response(&wire::encode_response(&response).expect("JSON")).map_err(|error| error.to_string())
        };
        assert!(answer(1, 0).is_ok());
        for (attempt, index) in [(0, 0), (1, 3)] {
            let told =
                format!("attempt 1 of fragment q/0/0 was answered for attempt {attempt} of fragment q/0/{index}");
            assert_eq!(answer(attempt, index).expect_err("another attempt"), told);
        }
    }
}
