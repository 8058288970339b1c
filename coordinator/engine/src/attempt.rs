//! What one attempt comes to: its outcome, and what the platform will charge for it.

use std::time::Duration;

use gust_protocol::FragmentResponse;

/// A function gives up by itself at its deadline; the platform stops it this much later.
pub const GRACE: Duration = Duration::from_secs(1);

/// The next step where all functions were busy until the deadline.
pub const WAITED_HINT: &str = "allow more functions or more time";

/// What became of one attempt.
#[derive(Debug)]
pub struct Invocation {
    pub outcome: Result<FragmentResponse, InvokeError>,
    pub billing: Billing,
    /// Whether the platform had to start an environment for it; None where it does not tell.
    pub cold: Option<bool>,
    /// The end of what the function wrote to stderr during the attempt; empty if it succeeded.
    pub log_tail: String,
}

/// What the platform will charge for, as far as it is known. Unknown is never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Billing {
    /// What the platform itself wrote into its log: billed duration, of which `init` where it billed a start.
    Reported { duration: Duration, init: Duration, memory_mb: u32 },
    /// Measured from outside: start of the invocation to its answer, and the environment's start where there was one.
    Metered { duration: Duration, init: Duration },
    /// No answer came: at most until the deadline.
    Bounded { at_most: Duration },
}

/// The platform's failure, as opposed to the fragment's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvokeError {
    pub kind: InvokeErrorKind,
    pub message: String,
    /// The next step.
    pub hint: Option<String>,
}

impl InvokeError {
    pub fn new(kind: InvokeErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// The same with the next step, where there is one.
    #[must_use]
    pub fn with_hint(self, hint: Option<impl Into<String>>) -> Self {
        Self { hint: hint.map(Into::into), ..self }
    }
}

/// The kind says what the caller can do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InvokeErrorKind {
    /// The request is larger than the platform takes.
    RequestTooLarge,
    /// The response was larger than the platform carries.
    ResponseTooLarge,
    /// The function's process ended before it answered.
    Crashed,
    /// The platform killed the function for its memory: use smaller fragments or larger functions.
    OutOfMemory,
    /// No answer before the deadline; the platform has stopped the attempt.
    TimedOut,
    /// The environment did not come up.
    InitFailed,
    /// The platform runs as many as it will for now; nothing was started. Try again, more slowly.
    Throttled,
    /// The platform could not be reached or failed by itself.
    Unavailable,
    /// Credentials or permissions do not allow it.
    AccessDenied,
    /// No such function, version or region.
    NotDeployed,
    /// The answer was not a response of this protocol.
    Protocol,
    /// The invoker has been shut down.
    Stopped,
}

impl InvokeErrorKind {
    /// Whether another attempt can succeed with nothing else changed.
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
