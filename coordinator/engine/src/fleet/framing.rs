//! Framing of an invocation, common to all invokers: encodes the request, bounds both payloads, gives up in time.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use gust_protocol::wire::{self, PAYLOAD_BYTES_MAX};
use gust_protocol::{FragmentId, FragmentResponse, InvokeRequest};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::attempt::{Billing, GRACE, Invocation, InvokeError, InvokeErrorKind, WAITED_HINT};

/// Longest invocation on AWS Lambda. A later deadline counts as this one.
const INVOCATION_MAX: Duration = Duration::from_secs(900);

/// Request of one attempt as bytes, and its moments.
#[derive(Debug)]
pub(super) struct Framed {
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

impl Framed {
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
            let message = format!("fragment {id} was answered for fragment {}", response.id);
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
        let message = format!("fragment {} did not answer by its deadline and was stopped", self.id);
        InvokeError::new(InvokeErrorKind::TimedOut, message)
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

/// Frames a request, and waits until another function may run.
///
/// # Errors
/// Those of [`Framed::new`]; [`InvokeErrorKind::TimedOut`] if no function was free by the deadline;
/// [`InvokeErrorKind::Stopped`] after the shutdown.
pub(super) async fn admit(
    request: InvokeRequest,
    slots: &Arc<Semaphore>,
) -> Result<(Framed, OwnedSemaphorePermit), InvokeError> {
    let framed = Framed::new(&request)?;
    drop(request);
    match timeout_at(framed.deadline, Arc::clone(slots).acquire_owned()).await {
        Ok(Ok(slot)) => Ok((framed, slot)),
        Ok(Err(_)) => Err(stopped()),
        Err(_) => Err(framed.waited()),
    }
}

pub(super) fn stopped() -> InvokeError {
    InvokeError::new(InvokeErrorKind::Stopped, "the invoker has been shut down")
}

/// Describes an attempt that reached no function and costs nothing.
pub(super) fn not_sent(error: InvokeError) -> Invocation {
    let billing = Billing::Metered { duration: Duration::ZERO, init: Duration::ZERO };
    Invocation { outcome: Err(error), billing, cold: None, log_tail: String::new() }
}
