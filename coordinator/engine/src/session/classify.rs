//! Why a statement did not run, by what its user can do next.

use std::time::Duration;

use datafusion::common::DataFusionError;
use gust_protocol::FragmentErrorKind;
use gust_protocol::exchange::ExchangeError;

use crate::attempt::InvokeErrorKind;
use crate::budget::OverBudget;
use crate::error::with_causes;
use crate::history::{Ended, HistoryError, Outcome};
use crate::scheduler::{FailureCause, FragmentFailure};
use crate::tables::folder::FolderError;

/// A statement's failure. Messages are whole: they name the thing, the reason and mostly the next step.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The text is not SQL, or names what does not exist.
    #[error("{0}")]
    Sql(String),
    /// The query failed over its data: a file is missing, changed or broken, or an expression cannot be computed.
    #[error("{0}")]
    Data(String),
    /// Memory or temporary space did not suffice.
    #[error("{0}")]
    Resources(String),
    /// Functions failed and nothing else was allowed.
    #[error("{0}")]
    Functions(String),
    #[error("the statement was stopped after {}\nhint: allow more with --timeout", humantime::format_duration(*.0))]
    TimedOut(Duration),
    /// It would have cost more than it may.
    #[error("{0}")]
    BudgetExceeded(OverBudget),
    #[error("interrupted")]
    Interrupted,
    /// The session itself could not be set up.
    #[error("{0}")]
    Setup(String),
}

impl QueryError {
    /// Sorts an engine's error by its innermost telling cause.
    pub fn from_engine(error: DataFusionError) -> Self {
        if let Some(failure) = fragment_fn::find::<FragmentFailure>(&error) {
            return Self::from_fragment(failure);
        }
        if let Some(over) = fragment_fn::find::<OverBudget>(&error) {
            return Self::BudgetExceeded(over.clone());
        }
        if let Some(refused) = fragment_fn::find::<ExchangeError>(&error) {
            return Self::Functions(refused.to_string());
        }
        if let Some(table) = fragment_fn::find::<gust_catalog::Error>(&error) {
            let next = table.next_step().map_or_else(String::new, |next| format!("\nhint: {next}"));
            return Self::Data(with_causes(table) + &next);
        }
        if let Some(folder) = fragment_fn::find::<FolderError>(&error) {
            return Self::Data(folder.to_string());
        }
        if let Some(history) = fragment_fn::find::<HistoryError>(&error) {
            return Self::Data(format!("the history {history}"));
        }
        let error = without_rule(error);
        let classified = fragment_fn::classify(&error);
        let hint = hint(classified.kind, &classified.message);
        let message = format!("{}{hint}", without_request(&classified.message));
        match classified.kind {
            FragmentErrorKind::OutOfMemory | FragmentErrorKind::DiskFull => Self::Resources(message),
            FragmentErrorKind::Execution if is_sql(&error) => Self::Sql(message),
            _ => Self::Data(message),
        }
    }

    fn from_fragment(failure: &FragmentFailure) -> Self {
        if let FailureCause::Budget(over) = &failure.cause {
            return Self::BudgetExceeded(over.clone());
        }
        let message = failure.to_string();
        let FailureCause::Fragment(error) = &failure.cause else { return Self::Functions(message) };
        let hint = match error.kind {
            FragmentErrorKind::OutOfMemory => FUNCTION_MEMORY_HINT,
            kind => hint(kind, &error.message),
        };
        let message = format!("{message}{hint}");
        use FragmentErrorKind as Kind;
        match error.kind {
            Kind::FileMissing | Kind::FileChanged | Kind::FileCorrupt | Kind::SchemaMismatch | Kind::Execution => {
                Self::Data(message)
            }
            Kind::OutOfMemory | Kind::DiskFull => Self::Resources(message),
            Kind::VersionMismatch
            | Kind::MalformedRequest
            | Kind::PlanDecode
            | Kind::AccessDenied
            | Kind::Storage
            | Kind::StorageThrottled
            | Kind::DeadlineExceeded
            | Kind::ResultTooLarge
            | Kind::Panic => Self::Functions(message),
        }
    }

    /// Whether the same statement could succeed without functions.
    pub fn may_succeed_locally(&self) -> bool {
        matches!(self, Self::Functions(_) | Self::Resources(_))
    }
}

impl From<&QueryError> for Ended {
    fn from(error: &QueryError) -> Self {
        let outcome = match error {
            QueryError::TimedOut(_) => Outcome::TimedOut,
            QueryError::Interrupted => Outcome::Cancelled,
            _ => Outcome::Failed,
        };
        Self { outcome, message: Some(error.to_string()) }
    }
}

/// The error without the name of the planner's rule that met it, and without the request to report it to DataFusion.
fn without_rule(error: DataFusionError) -> DataFusionError {
    let is_rule = |text: &str| {
        let is_name = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        is_name || text.starts_with("Optimizer rule")
    };
    match error {
        DataFusionError::Context(rule, inner) if is_rule(&rule) => without_rule(*inner),
        other => other,
    }
}

/// DataFusion asks for a report of what it calls internal.
fn without_request(message: &str) -> &str {
    message.split_once("\nThis issue was likely caused by a bug in DataFusion").map_or(message, |(message, _)| message)
}

/// Whether a fragment was stopped with its statement: the last of its attempts has all the time that is left.
pub(super) fn ran_out_of_time(error: &DataFusionError) -> bool {
    match fragment_fn::find::<FragmentFailure>(error).map(|failure| &failure.cause) {
        Some(FailureCause::Fragment(error)) => error.kind == FragmentErrorKind::DeadlineExceeded,
        Some(FailureCause::Invoke(error)) => error.kind == InvokeErrorKind::TimedOut,
        _ => false,
    }
}

/// Whether memory of the coordinator's did not suffice, not a function's.
pub(super) fn ran_out_of_memory_here(error: &DataFusionError) -> bool {
    fragment_fn::find::<FragmentFailure>(error).is_none()
        && fragment_fn::classify(error).kind == FragmentErrorKind::OutOfMemory
}

/// Functions have memory of their own.
const FUNCTION_MEMORY_HINT: &str =
    "\nhint: raise function_memory_bytes, deploy functions with more memory, or use more of them";

/// A next step for those kinds that have one, on a line of its own.
fn hint(kind: FragmentErrorKind, message: &str) -> &'static str {
    // What a store answers is told by its words only.
    let says = |words: &[&str]| words.iter().any(|words| message.contains(words));
    match kind {
        FragmentErrorKind::Storage if says(&["NoSuchBucket"]) => {
            "\nhint: there is no such bucket; check its name, the region and the endpoint"
        }
        FragmentErrorKind::Storage if says(&["LocalFileSystem"]) => {
            "\nhint: check the path and what the disk says of it"
        }
        FragmentErrorKind::AccessDenied if says(&["Permission denied"]) => {
            "\nhint: this user may not read it; check the permissions of the file and of the folders above it"
        }
        FragmentErrorKind::AccessDenied if says(&["SignatureDoesNotMatch", "InvalidAccessKeyId"]) => {
            "\nhint: the store does not take these keys; check the access key, its secret and the region"
        }
        FragmentErrorKind::FileMissing | FragmentErrorKind::FileChanged => {
            "\nhint: a file of the table is gone or is not the one that was planned; run the query again"
        }
        FragmentErrorKind::FileCorrupt => "\nhint: a file is truncated or is not Parquet; write it again",
        FragmentErrorKind::SchemaMismatch => {
            "\nhint: declare the column in CREATE EXTERNAL TABLE with a type that all files fit in, or rewrite the odd file"
        }
        FragmentErrorKind::OutOfMemory => "\nhint: raise memory_bytes_max, or run fewer queries at once",
        FragmentErrorKind::DiskFull => "\nhint: free space in the temporary folder, or set temp_folder",
        FragmentErrorKind::AccessDenied => {
            "\nhint: check the credentials and the bucket's policy; without the right to list, S3 says so of a missing file, too"
        }
        FragmentErrorKind::VersionMismatch => {
            "\nhint: on AWS: `infra/release --function-only`, then `terraform apply` with that package; `gust doctor` shows both versions"
        }
        FragmentErrorKind::Storage => "\nhint: check the endpoint, the region and the network",
        _ => "",
    }
}

fn is_sql(error: &DataFusionError) -> bool {
    matches!(
        error.find_root(),
        DataFusionError::Plan(_)
            | DataFusionError::SQL(..)
            | DataFusionError::SchemaError(..)
            | DataFusionError::NotImplemented(_)
    )
}
