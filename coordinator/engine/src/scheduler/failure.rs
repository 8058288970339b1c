//! Failure of a fragment.

use std::error::Error;
use std::fmt::{Display, Formatter};
use std::sync::Arc;
use std::time::Duration;

use datafusion::common::DataFusionError;
use gust_protocol::{FragmentError, FragmentErrorKind, FragmentId, LostInput};
use object_store::path::Path;

use crate::attempt::{InvokeError, InvokeErrorKind};
use crate::cap::OverCap;

/// Failure of a fragment that no attempt could bring to a result.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}", self.message())]
pub struct FragmentFailure {
    pub id: FragmentId,
    /// Attempts that were booked for the fragment.
    pub attempts: u32,
    /// Time from the fragment's start until it was given up, waiting for a function included.
    pub elapsed: Duration,
    #[source]
    pub cause: FailureCause,
    /// State of the query's retry budget: true if only its end kept the fragment from another attempt.
    pub retries_used_up: bool,
    /// End of the last attempt's stderr, if the platform failed.
    pub log_tail: String,
}

/// Failure of the last attempt, or before the first one.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FailureCause {
    #[error(transparent)]
    Fragment(FragmentError),
    /// No attempt could be made.
    #[error(transparent)]
    Preparation(PreparationError),
    /// An attempt had its slot, and no credentials for its stores.
    #[error(transparent)]
    Access(Arc<DataFusionError>),
    #[error(transparent)]
    Invoke(InvokeError),
    /// The attempt succeeded, but its result was torn, swapped or gone.
    #[error("{0}")]
    Result(String),
    /// The query could not pay for another attempt.
    #[error(transparent)]
    Cap(OverCap),
}

/// Error before a fragment's first attempt: its request could not be made, or its stage's plan not be published.
#[derive(Debug, Clone)]
pub struct PreparationError {
    pub error: FragmentError,
    source: Arc<dyn Error + Send + Sync>,
}

impl Display for PreparationError {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

impl Error for PreparationError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.source.as_ref())
    }
}

impl FailureCause {
    /// Returns the fragment's own error; None if the platform, the result or the cap was the cause.
    pub fn fragment_error(&self) -> Option<&FragmentError> {
        match self {
            Self::Fragment(error) | Self::Preparation(PreparationError { error, .. }) => Some(error),
            Self::Access(_) | Self::Invoke(_) | Self::Result(_) | Self::Cap(_) => None,
        }
    }
}

impl FragmentFailure {
    /// Returns the next step, if the cause has one.
    pub fn hint(&self) -> Option<&str> {
        match &self.cause {
            FailureCause::Invoke(error) => error.hint.as_deref(),
            FailureCause::Cap(over) => Some(over.hint()),
            cause => cause.fragment_error()?.hint.as_deref(),
        }
    }

    /// Returns the rows of another stage that are lost, where that is the cause.
    pub fn lost(&self) -> Option<&LostInput> {
        self.cause.fragment_error()?.lost.as_ref()
    }

    /// Returns true if a function's memory did not suffice.
    pub fn ran_out_of_memory(&self) -> bool {
        match &self.cause {
            FailureCause::Invoke(error) => error.kind == InvokeErrorKind::OutOfMemory,
            cause => cause.fragment_error().is_some_and(|error| error.kind == FragmentErrorKind::OutOfMemory),
        }
    }

    fn message(&self) -> String {
        let Self { id, attempts, elapsed, cause, retries_used_up, log_tail } = self;
        let tries = match attempts {
            0 => "before its first attempt".to_owned(),
            1 => format!("after 1 attempt in {:.1} s", elapsed.as_secs_f64()),
            _ => format!("after {attempts} attempts in {:.1} s", elapsed.as_secs_f64()),
        };
        format!("fragment {id} failed {tries}: {cause}{}{}", note(*retries_used_up), tail(log_tail))
    }

    /// Describes a fragment whose request could not be made.
    pub fn unplannable(id: FragmentId, error: DataFusionError) -> Self {
        Self::before_attempts(id, FragmentErrorKind::MalformedRequest, error.strip_backtrace(), error)
    }

    /// Describes a fragment whose stage's plan could not be written into the exchange.
    pub fn unpublished(id: FragmentId, path: &Path, error: object_store::Error) -> Self {
        let message = format!("cannot write the plan to `{path}` in the exchange: {error}");
        Self::before_attempts(id, FragmentErrorKind::Storage, message, error)
    }

    fn before_attempts(
        id: FragmentId,
        kind: FragmentErrorKind,
        message: String,
        source: impl Error + Send + Sync + 'static,
    ) -> Self {
        let (error, source) = (FragmentError::new(kind, message), Arc::new(source));
        let cause = FailureCause::Preparation(PreparationError { error, source });
        Self { id, attempts: 0, elapsed: Duration::ZERO, cause, retries_used_up: false, log_tail: String::new() }
    }
}

fn note(retries_used_up: bool) -> &'static str {
    if retries_used_up { "\nnot tried again: the query's retries are used up" } else { "" }
}

fn tail(log_tail: &str) -> String {
    let log_tail = log_tail.trim_end();
    if log_tail.is_empty() { String::new() } else { format!("\nend of its stderr:\n{log_tail}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_before_the_first_attempt_keeps_its_cause() {
        /// Returns the cause of the failure's cause.
        fn cause<E: Error + 'static>(failure: &FragmentFailure) -> &E {
            let cause = failure.source().and_then(Error::source);
            cause.and_then(|cause| cause.downcast_ref()).expect("the cause itself")
        }
        let id = || FragmentId { query: "q".to_owned(), stage: 2, index: 1 };
        let refused =
            || object_store::Error::PermissionDenied { path: "p/q/2/plan".to_owned(), source: "no PUT".into() };
        let unpublished = FragmentFailure::unpublished(id(), &Path::from("p/q/2/plan"), refused());
        assert!(
            matches!(cause::<object_store::Error>(&unpublished), object_store::Error::PermissionDenied { .. }),
            "{unpublished:?}"
        );
        let message = format!(
            "fragment q/2/1 failed before its first attempt: cannot write the plan to `p/q/2/plan` in the exchange: {}",
            refused()
        );
        assert_eq!(unpublished.to_string(), message);

        let broken = DataFusionError::Internal("a unit has no file".to_owned());
        let unplannable = FragmentFailure::unplannable(id(), broken);
        assert!(matches!(cause::<DataFusionError>(&unplannable), DataFusionError::Internal(_)), "{unplannable:?}");
        assert!(unplannable.to_string().contains("before its first attempt: Internal error: a unit has no file"));
    }
}
