//! Kinds and hints of errors from the parts below a session.

use datafusion::common::DataFusionError;
use gust_protocol::FragmentErrorKind;
use gust_protocol::exchange::ExchangeError;

use crate::attempt::InvokeErrorKind;
use crate::cap::OverCap;
use crate::error::{ErrorKind, QueryError, with_causes};
use crate::history::{HistoryError, Outcome, StatementEnd};
use crate::scheduler::{FailureCause, FragmentFailure};
use crate::storage::aws::NoCredentials;
use crate::tables::folder::FolderError;

impl QueryError {
    /// Converts an engine's error. An error of our own types in it comes first, then the innermost cause that has a
    /// kind.
    pub fn from_engine(error: DataFusionError) -> Self {
        if let Some(told) = fragment_fn::find::<Self>(&error) {
            return told.clone();
        }
        if let Some(failure) = fragment_fn::find::<FragmentFailure>(&error) {
            return Self::from_fragment(failure);
        }
        if let Some(over) = fragment_fn::find::<OverCap>(&error) {
            return Self::over_cap(over.clone());
        }
        if let Some(told) = Self::from_ours(&error) {
            return told.with_source(error);
        }
        let error = without_rule(error);
        let classified = fragment_fn::classify(&error);
        let kind = match classified.kind {
            FragmentErrorKind::OutOfMemory | FragmentErrorKind::DiskFull => ErrorKind::Resources,
            FragmentErrorKind::Execution if is_sql(&error) => ErrorKind::Sql,
            _ => ErrorKind::Data,
        };
        let told = Self::new(kind, without_request(&classified.message));
        let told = told.with_default_hint(credentials_hint(&error)).with_default_hint(classified.hint);
        let told = told.with_default_hint(hint(classified.kind, &classified.message));
        match sqlstate(classified.kind) {
            Some(state) => told.with_sqlstate(state).with_source(error),
            None => told.with_source(error),
        }
    }

    /// Converts errors of our own types, which mostly know their next step.
    fn from_ours(error: &DataFusionError) -> Option<Self> {
        if let Some(refused) = fragment_fn::find::<ExchangeError>(error) {
            return Some(Self::functions(refused.to_string()));
        }
        if let Some(table) = fragment_fn::find::<gust_catalog::Error>(error) {
            let told = Self::data(with_causes(table)).with_default_hint(credentials_hint(error));
            return Some(told.with_default_hint(table.hint()));
        }
        if let Some(folder) = fragment_fn::find::<FolderError>(error) {
            return Some(Self::data(folder.to_string()).with_hint(folder.hint()));
        }
        let history = fragment_fn::find::<HistoryError>(error)?;
        Some(Self::data(format!("the history {history}")).with_default_hint(history.fault.hint()))
    }

    fn from_fragment(failure: &FragmentFailure) -> Self {
        if let FailureCause::Cap(over) = &failure.cause {
            return Self::over_cap(over.clone());
        }
        // `hint` says more about a version mismatch than the function's own hint.
        let is_of_versions =
            matches!(&failure.cause, FailureCause::Fragment(e) if e.kind == FragmentErrorKind::VersionMismatch);
        let own_hint = failure.hint().filter(|_| !is_of_versions);
        let told = |kind| Self::new(kind, failure.to_string()).with_default_hint(own_hint).with_source(failure.clone());
        let FailureCause::Fragment(error) = &failure.cause else { return told(ErrorKind::Functions) };
        let hint = match error.kind {
            FragmentErrorKind::OutOfMemory => Some(FUNCTION_MEMORY_HINT),
            kind => hint(kind, &error.message),
        };
        use FragmentErrorKind as Kind;
        let kind = match error.kind {
            Kind::FileMissing | Kind::FileChanged | Kind::FileCorrupt | Kind::SchemaMismatch | Kind::Execution => {
                ErrorKind::Data
            }
            Kind::OutOfMemory | Kind::DiskFull => ErrorKind::Resources,
            Kind::VersionMismatch
            | Kind::MalformedRequest
            | Kind::PlanDecode
            | Kind::AccessDenied
            | Kind::Storage
            | Kind::StorageThrottled
            | Kind::DeadlineExceeded
            | Kind::ResultTooLarge
            | Kind::Panic => ErrorKind::Functions,
        };
        let told = told(kind).with_default_hint(hint);
        match sqlstate(error.kind) {
            Some(state) => told.with_sqlstate(state),
            None => told,
        }
    }

    /// Makes the error of a query that may not spend more. Its source has the amounts.
    pub fn over_cap(over: OverCap) -> Self {
        Self::new(ErrorKind::CapReached, over.to_string()).with_hint(over.hint()).with_source(over)
    }
}

/// Returns PostgreSQL's code for a failure whose kind tells more than its [`ErrorKind`].
fn sqlstate(kind: FragmentErrorKind) -> Option<&'static str> {
    match kind {
        FragmentErrorKind::DiskFull => Some("53100"),
        FragmentErrorKind::FileMissing | FragmentErrorKind::FileChanged => Some("58P01"),
        FragmentErrorKind::FileCorrupt => Some("XX001"),
        FragmentErrorKind::AccessDenied => Some("42501"),
        FragmentErrorKind::Storage | FragmentErrorKind::StorageThrottled => Some("58030"),
        _ => None,
    }
}

impl From<&QueryError> for StatementEnd {
    fn from(error: &QueryError) -> Self {
        let outcome = match error.kind() {
            ErrorKind::TimedOut => Outcome::TimedOut,
            ErrorKind::Interrupted => Outcome::Cancelled,
            _ => Outcome::Failed,
        };
        Self { outcome, message: Some(error.message().to_owned()) }
    }
}

/// Removes the name of the planner's rule that met the error.
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

/// Removes the request for a report, which DataFusion adds to errors that it calls internal.
fn without_request(message: &str) -> &str {
    message.split_once("\nThis issue was likely caused by a bug in DataFusion").map_or(message, |(message, _)| message)
}

/// Returns true if a fragment was stopped with its statement. The last of its attempts has all the time that is left.
pub(super) fn ran_out_of_time(error: &DataFusionError) -> bool {
    match fragment_fn::find::<FragmentFailure>(error).map(|failure| &failure.cause) {
        Some(FailureCause::Fragment(error)) => error.kind == FragmentErrorKind::DeadlineExceeded,
        Some(FailureCause::Invoke(error)) => error.kind == InvokeErrorKind::TimedOut,
        _ => false,
    }
}

/// Returns true if memory of the coordinator, and not of a function, did not suffice.
pub(super) fn ran_out_of_memory_here(error: &DataFusionError) -> bool {
    fragment_fn::find::<FragmentFailure>(error).is_none()
        && fragment_fn::classify(error).kind == FragmentErrorKind::OutOfMemory
}

/// Returns the next step if the chain of AWS has no credentials.
fn credentials_hint(error: &DataFusionError) -> Option<&'static str> {
    fragment_fn::find::<NoCredentials>(error).map(|_| NoCredentials::HINT)
}

/// Hint for functions, which have memory of their own.
const FUNCTION_MEMORY_HINT: &str =
    "raise function_memory_bytes, deploy functions with more memory, or use more of them";

/// Returns the next step for those kinds that have one.
fn hint(kind: FragmentErrorKind, message: &str) -> Option<&'static str> {
    // An error of a store has no kind to compare, only words.
    let says = |words: &[&str]| words.iter().any(|words| message.contains(words));
    Some(match kind {
        FragmentErrorKind::Storage if says(&["NoSuchBucket"]) => {
            "there is no such bucket; check its name, the region and the endpoint"
        }
        FragmentErrorKind::Storage if says(&["LocalFileSystem"]) => "check the path and what the disk says of it",
        FragmentErrorKind::AccessDenied if says(&["Permission denied"]) => {
            "this user may not read it; check the permissions of the file and of the folders above it"
        }
        FragmentErrorKind::AccessDenied if says(&["SignatureDoesNotMatch", "InvalidAccessKeyId"]) => {
            "the store does not take these keys; check the access key, its secret and the region"
        }
        FragmentErrorKind::FileMissing | FragmentErrorKind::FileChanged => {
            "a file of the table is gone or is not the one that was planned; run the query again"
        }
        FragmentErrorKind::FileCorrupt => "a file is truncated or is not Parquet; write it again",
        FragmentErrorKind::SchemaMismatch => {
            "declare the column in CREATE EXTERNAL TABLE with a type that all files fit in, or rewrite the odd file"
        }
        FragmentErrorKind::OutOfMemory => "raise memory_bytes_max, or run fewer queries at once",
        FragmentErrorKind::DiskFull => "free space in the temporary folder, or set temp_folder",
        FragmentErrorKind::AccessDenied => {
            "check the credentials and the bucket's policy; without the right to list, S3 says so of a missing file, too"
        }
        FragmentErrorKind::VersionMismatch => {
            "deploy the function of the coordinator's release; on AWS: `infra/release --function-only`, then `terraform apply` with that package; `gust doctor` shows both versions"
        }
        FragmentErrorKind::Storage => "check the endpoint, the region and the network",
        _ => return None,
    })
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

#[cfg(test)]
mod tests {
    use aws_credential_types::provider::error::CredentialsError;
    use object_store::Error as StoreError;

    use super::*;

    #[test]
    fn missing_credentials_have_their_own_hint() {
        let missing = NoCredentials::from(&CredentialsError::not_loaded("no profile"));
        let path = "bucket/t.parquet".to_owned();
        let refused = |source: Box<dyn std::error::Error + Send + Sync>| {
            let error = StoreError::Unauthenticated { path: path.clone(), source };
            QueryError::from_engine(DataFusionError::ObjectStore(Box::new(error)))
        };
        assert_eq!(refused(missing.into()).hint(), Some(NoCredentials::HINT));
        let other = refused("wrong key".into());
        assert!(other.hint().is_some_and(|hint| hint != NoCredentials::HINT), "{other:?}");
    }
}
