//! Outcome of one attempt, and its bill as far as it is known.

use std::time::Duration;

use gust_protocol::FragmentResponse;
use serde::{Deserialize, Serialize};

/// Time from an attempt's deadline until its platform stops it. A function ends by itself at its deadline. On Lambda
/// this time only bounds the bill and the wait, and the function's own time-out stops the attempt.
pub const GRACE: Duration = Duration::from_secs(1);

/// Longest start of a new environment. Most starts take a tenth of a second. A start is billed even if the deadline
/// comes first.
pub const START_MAX: Duration = Duration::from_secs(3);

/// Hint for an attempt that found all functions busy until its deadline.
pub const WAITED_HINT: &str = "allow more functions or more time";

/// Outcome of one attempt.
#[derive(Debug)]
pub struct Invocation {
    pub outcome: Result<FragmentResponse, InvokeError>,
    pub billing: Billing,
    /// Start of an environment for the attempt: true if there was one, None if the platform does not tell.
    pub cold: Option<bool>,
    /// End of the function's stderr during the attempt; empty if it succeeded.
    pub log_tail: String,
}

/// Charge for an attempt, as far as it is known. An unknown charge is never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Billing {
    /// Figures from the platform's own log. `init` is the part of `duration` that started the environment, zero if none
    /// was billed.
    Reported { duration: Duration, init: Duration, memory_mb: u32 },
    /// Times measured from outside: `duration` from the invocation to its answer, `init` for the start of the
    /// environment if there was one.
    Metered { duration: Duration, init: Duration },
    /// Upper bound of the billed time of an attempt without an answer.
    Bounded { at_most: Duration },
}

/// Returns the most that is billed for an attempt with `time` until its deadline.
pub fn billed_max(time: Duration) -> Duration {
    time.max(START_MAX) + GRACE
}

/// Failure of the platform, as opposed to the fragment's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvokeError {
    pub kind: InvokeErrorKind,
    pub message: String,
    /// Next step of the user.
    pub hint: Option<String>,
}

impl InvokeError {
    pub fn new(kind: InvokeErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// Sets the next step; None removes it.
    #[must_use]
    pub fn with_hint(self, hint: Option<impl Into<String>>) -> Self {
        Self { hint: hint.map(Into::into), ..self }
    }
}

/// Kind of a platform's failure; it says what the caller can do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InvokeErrorKind {
    /// The request is larger than the platform takes.
    RequestTooLarge,
    /// The response was larger than the platform carries.
    ResponseTooLarge,
    /// The function's process ended before it answered.
    Crashed,
    /// The platform killed the function for its memory. Use smaller fragments or larger functions.
    OutOfMemory,
    /// The deadline passed without an answer. On Lambda the attempt may run on until the function's own time-out;
    /// elsewhere the platform has stopped it.
    TimedOut,
    /// The environment did not come up.
    InitFailed,
    /// The platform runs as many functions as it will for now, and has started nothing. Try again, more slowly.
    Throttled,
    /// The platform could not be reached or failed by itself.
    Unavailable,
    /// Credentials or permissions do not allow it.
    AccessDenied,
    /// The function, its version or its region does not exist.
    NotDeployed,
    /// The answer was not a response of this protocol.
    Protocol,
    /// The invoker has been shut down.
    Stopped,
}

impl InvokeErrorKind {
    /// Returns true if another attempt can succeed with nothing else changed.
    pub const fn is_retryable(self) -> bool {
        match self {
            Self::Crashed | Self::InitFailed | Self::Throttled | Self::Unavailable => true,
            Self::RequestTooLarge
            | Self::ResponseTooLarge
            | Self::OutOfMemory
            | Self::TimedOut
            | Self::AccessDenied
            | Self::NotDeployed
            | Self::Protocol
            | Self::Stopped => false,
        }
    }
}
