//! Failure of a fragment.

use std::time::Duration;

use gust_protocol::{FragmentError, FragmentErrorKind, FragmentId};

use object_store::path::Path;

use crate::attempt::InvokeError;
use crate::cap::OverCap;

/// Failure of a fragment that no attempt could bring to a result.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}", self.told())]
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

/// Failure of the last attempt.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FailureCause {
    #[error(transparent)]
    Fragment(FragmentError),
    #[error(transparent)]
    Invoke(InvokeError),
    /// The attempt succeeded, but its result was torn, swapped or gone.
    #[error("{0}")]
    Result(String),
    /// The query could not pay for another attempt.
    #[error(transparent)]
    Cap(OverCap),
}

impl FragmentFailure {
    /// Returns the next step, if the cause has one.
    pub fn hint(&self) -> Option<&str> {
        match &self.cause {
            FailureCause::Fragment(error) => error.hint.as_deref(),
            FailureCause::Invoke(error) => error.hint.as_deref(),
            FailureCause::Result(_) => None,
            FailureCause::Cap(over) => Some(over.hint()),
        }
    }

    fn told(&self) -> String {
        let Self { id, attempts, elapsed, cause, retries_used_up, log_tail } = self;
        let tries = match attempts {
            0 => "before its first attempt".to_owned(),
            1 => format!("after 1 attempt in {:.1} s", elapsed.as_secs_f64()),
            _ => format!("after {attempts} attempts in {:.1} s", elapsed.as_secs_f64()),
        };
        format!("fragment {id} failed {tries}: {cause}{}{}", note(*retries_used_up), tail(log_tail))
    }

    /// Describes a fragment whose request could not be made.
    pub fn unplannable(id: FragmentId, error: &datafusion::common::DataFusionError) -> Self {
        let cause = FailureCause::Fragment(FragmentError::new(FragmentErrorKind::MalformedRequest, error.to_string()));
        Self { id, attempts: 0, elapsed: Duration::ZERO, cause, retries_used_up: false, log_tail: String::new() }
    }

    /// Describes a fragment whose stage's plan could not be written into the exchange.
    pub fn unpublished(id: &FragmentId, path: &Path, error: &object_store::Error) -> Self {
        let message = format!("cannot write the plan to `{path}` in the exchange: {error}");
        let cause = FailureCause::Fragment(FragmentError::new(FragmentErrorKind::Storage, message));
        Self {
            id: id.clone(),
            attempts: 0,
            elapsed: Duration::ZERO,
            cause,
            retries_used_up: false,
            log_tail: String::new(),
        }
    }
}

fn note(retries_used_up: bool) -> &'static str {
    if retries_used_up { "\nnot tried again: the query's retries are used up" } else { "" }
}

fn tail(log_tail: &str) -> String {
    let log_tail = log_tail.trim_end();
    if log_tail.is_empty() { String::new() } else { format!("\nend of its stderr:\n{log_tail}") }
}
