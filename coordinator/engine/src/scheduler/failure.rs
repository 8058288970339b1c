//! Why a fragment has no result.

use gust_protocol::{FragmentError, FragmentErrorKind, FragmentId};

use object_store::path::Path;

use crate::attempt::InvokeError;
use crate::cap::OverCap;

/// A fragment that no attempt could bring home.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}", self.told(&cause.to_string()))]
pub struct FragmentFailure {
    pub id: FragmentId,
    /// All that were booked for it.
    pub attempts: u32,
    pub cause: FailureCause,
    /// It would have been tried again, but the query had no retries left.
    pub budget_spent: bool,
    /// The end of the last attempt's stderr, where the platform failed.
    pub log_tail: String,
}

/// The last attempt's failure.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FailureCause {
    #[error("{0}")]
    Fragment(FragmentError),
    #[error("{0}")]
    Invoke(InvokeError),
    /// The attempt succeeded, but what it left was torn, swapped or gone.
    #[error("{0}")]
    Result(String),
    /// The query could not pay for another attempt.
    #[error("{0}")]
    Cap(OverCap),
}

impl FragmentFailure {
    /// The message and the next step, where the cause has one in its words.
    pub fn parts(&self) -> (String, Option<String>) {
        let cause = self.cause.to_string();
        let (cause, hint) = match cause.split_once("\nhint: ") {
            Some((cause, hint)) => (cause, Some(hint.to_owned())),
            None => (cause.as_str(), None),
        };
        (self.told(cause), hint)
    }

    fn told(&self, cause: &str) -> String {
        let Self { id, attempts, budget_spent, log_tail, .. } = self;
        let plural = if *attempts == 1 { "" } else { "s" };
        format!(
            "fragment {id} failed after {attempts} attempt{plural}: {cause}{}{}",
            note(*budget_spent),
            tail(log_tail)
        )
    }

    /// A fragment whose request could not even be made.
    pub fn unplannable(id: FragmentId, error: &datafusion::common::DataFusionError) -> Self {
        let cause = FailureCause::Fragment(FragmentError::new(FragmentErrorKind::MalformedRequest, error.to_string()));
        Self { id, attempts: 0, cause, budget_spent: false, log_tail: String::new() }
    }

    /// A fragment whose stage's plan could not be written into the exchange.
    pub fn unpublished(id: &FragmentId, path: &Path, error: &object_store::Error) -> Self {
        let message = format!("cannot write the plan to `{path}` in the exchange: {error}");
        let cause = FailureCause::Fragment(FragmentError::new(FragmentErrorKind::Storage, message));
        Self { id: id.clone(), attempts: 0, cause, budget_spent: false, log_tail: String::new() }
    }
}

fn note(budget_spent: bool) -> &'static str {
    if budget_spent { "\nnot tried again: the query's retries are used up" } else { "" }
}

fn tail(log_tail: &str) -> String {
    let log_tail = log_tail.trim_end();
    if log_tail.is_empty() { String::new() } else { format!("\nits last words:\n{log_tail}") }
}
