//! Kinds and hints of errors from the parts below a session.

use std::error::Error;
use std::sync::Arc;

use datafusion::common::DataFusionError;
use gust_protocol::FragmentErrorKind;
use gust_protocol::exchange::ExchangeError;

use crate::attempt::InvokeErrorKind;
use crate::cap::OverCap;
use crate::error::{ErrorKind, QueryError, with_causes};
use crate::history::{HistoryError, Outcome, StatementEnd};
use crate::scheduler::{FailureCause, FragmentFailure};
use crate::sql;
use crate::storage::aws::NoCredentials;
use crate::tables::folder::FolderError;
use crate::tables::text::TextFault;

impl QueryError {
    /// Converts an engine's error. The outermost error of our own types in it comes first, for it knows most. Else the
    /// innermost cause that has a kind decides.
    pub fn from_engine(error: DataFusionError) -> Self {
        let own = fragment_fn::causes(&error).find_map(OwnError::of);
        match own {
            Some(OwnError::Whole(whole)) => return whole,
            Some(OwnError::Described(described)) => return described.with_source(error),
            None => {}
        }
        let error = without_rule(error);
        let classified = fragment_fn::classify(&error);
        let kind = match classified.kind {
            FragmentErrorKind::OutOfMemory | FragmentErrorKind::DiskFull => ErrorKind::Resources,
            FragmentErrorKind::Execution if is_sql(&error) => ErrorKind::Sql,
            _ => ErrorKind::Data,
        };
        // A statement that cannot be planned may fail as late as in the physical plan.
        if let Some(refusal) =
            Some(&classified.message).filter(|_| kind == ErrorKind::Sql).and_then(|m| sql::without_tree(m))
        {
            return Self::from(refusal).with_source(error);
        }
        let told = Self::new(kind, without_request(&classified.message));
        let told = told.with_default_hint(credentials_hint(&error)).with_default_hint(classified.hint);
        let told = told.with_default_hint(hint(classified.kind, &classified.message));
        match sqlstate(classified.kind) {
            Some(state) => told.with_sqlstate(state).with_source(error),
            None => told.with_source(error),
        }
    }

    /// Describes an error of a catalog. A store under it knows the next step better.
    pub(super) fn of_catalog(kind: ErrorKind, error: &gust_catalog::Error) -> Self {
        let store = fragment_fn::causes(error).find_map(|cause| cause.downcast_ref::<Self>());
        let told = Self::new(kind, with_causes(error));
        let told = match error {
            gust_catalog::Error::Unauthorized { .. } => told.with_sqlstate("28000"),
            gust_catalog::Error::Forbidden { .. } => told.with_sqlstate("42501"),
            _ => told,
        };
        // A refusal of the store is one of the table's, too.
        let told = store.iter().fold(told, |told, store| told.with_sqlstate(store.sqlstate()));
        told.with_default_hint(credentials_hint(error))
            .with_default_hint(store.and_then(Self::hint))
            .with_default_hint(error.hint())
    }

    fn from_fragment(failure: &FragmentFailure) -> Self {
        if let FailureCause::Cap(over) = &failure.cause {
            return Self::over_cap(over.clone());
        }
        if let FailureCause::Access(error) = &failure.cause {
            return Self::from_engine(DataFusionError::Shared(Arc::clone(error)));
        }
        // `hint` says more about a version mismatch than the function's own hint.
        let is_of_versions =
            matches!(&failure.cause, FailureCause::Fragment(e) if e.kind == FragmentErrorKind::VersionMismatch);
        let own_hint = failure.hint().filter(|_| !is_of_versions);
        let told = |kind| Self::new(kind, failure.to_string()).with_default_hint(own_hint).with_source(failure.clone());
        let Some(error) = failure.cause.fragment_error() else { return told(ErrorKind::Functions) };
        let hint = match error.kind {
            FragmentErrorKind::OutOfMemory => Some(FUNCTION_MEMORY_HINT),
            FragmentErrorKind::InputLost => Some(INPUT_LOST_HINT),
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
            | Kind::InputLost
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

/// Error of our own types.
enum OwnError {
    /// It has its cause.
    Whole(QueryError),
    /// The engine's error around it is its cause.
    Described(QueryError),
}

impl OwnError {
    fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        if let Some(error) = error.downcast_ref::<QueryError>() {
            return Some(Self::Whole(error.clone()));
        }
        if let Some(failure) = error.downcast_ref::<FragmentFailure>() {
            return Some(Self::Whole(QueryError::from_fragment(failure)));
        }
        if let Some(over) = error.downcast_ref::<OverCap>() {
            return Some(Self::Whole(QueryError::over_cap(over.clone())));
        }
        if let Some(refused) = error.downcast_ref::<ExchangeError>() {
            return Some(Self::Described(QueryError::functions(refused.to_string())));
        }
        if let Some(table) = error.downcast_ref::<gust_catalog::Error>() {
            use gust_catalog::Error as Fault;
            let kind = match table {
                Fault::Unauthorized { .. } | Fault::Refused { .. } | Fault::Setting { .. } => ErrorKind::Setup,
                Fault::NoVersion { .. } => ErrorKind::Sql,
                _ => ErrorKind::Data,
            };
            return Some(Self::Described(QueryError::of_catalog(kind, table)));
        }
        if let Some(folder) = error.downcast_ref::<FolderError>() {
            return Some(Self::Described(QueryError::data(folder.to_string()).with_hint(folder.hint())));
        }
        if let Some(fault) = error.downcast_ref::<TextFault>() {
            return Some(Self::Described(QueryError::data(fault.to_string()).with_hint(fault.hint())));
        }
        let history = error.downcast_ref::<HistoryError>()?;
        let described = QueryError::data(format!("the history {history}")).with_default_hint(history.fault.hint());
        Some(Self::Described(described))
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
            ErrorKind::CapReached => Outcome::CapReached,
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

/// Returns true if memory of a function did not suffice.
pub(super) fn ran_out_of_memory_there(error: &DataFusionError) -> bool {
    fragment_fn::find::<FragmentFailure>(error).is_some_and(FragmentFailure::ran_out_of_memory)
}

/// Returns true if rows that functions had left for others are lost and were not made anew: another attempt would not give the same rows, or they were lost too often.
pub(super) fn lost_rows(error: &DataFusionError) -> bool {
    fragment_fn::find::<FragmentFailure>(error).is_some_and(|failure| failure.lost().is_some())
}

/// Returns the next step if the chain of AWS has no credentials.
fn credentials_hint(error: &(dyn Error + 'static)) -> Option<&'static str> {
    fragment_fn::causes(error).any(|cause| cause.is::<NoCredentials>()).then_some(NoCredentials::HINT)
}

/// Hint for rows between functions that were lost and not made anew.
const INPUT_LOST_HINT: &str = "run the statement again, or use --allow-fallback";

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
        FragmentErrorKind::Execution if says(&["Cannot cast string"]) => {
            "TRY_CAST(x AS type) is NULL where the text is no value of the type"
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
    use gust_protocol::FragmentId;
    use object_store::Error as StoreError;
    use object_store::path::Path;
    use url::Url;

    use super::*;
    use crate::config::S3Config;
    use crate::storage::Stores;

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

    #[test]
    fn a_store_under_a_catalog_keeps_the_catalogs_kind_and_location() {
        let url = Url::parse("gs://lake/").expect("a URL");
        let refused = Stores::new(S3Config::default()).open(&url).expect_err("no store");
        assert_eq!(refused.kind(), ErrorKind::Sql);
        let location = "gs://lake/t/metadata/v1.metadata.json".to_owned();
        let unreachable = gust_catalog::Error::Unreachable { location, source: refused.into() };
        let error = QueryError::from_engine(DataFusionError::External(Box::new(unreachable)));
        assert_eq!(error.kind(), ErrorKind::Data);
        assert_eq!(
            error.message(),
            "cannot reach gs://lake/t/metadata/v1.metadata.json: `gs://lake/`: scheme `gs` is not supported"
        );
        assert_eq!(error.hint(), Some("use a local path, file:// or s3://"));
    }

    #[test]
    fn a_fragment_that_was_not_prepared_keeps_its_kind_and_its_cause() {
        let id = FragmentId { query: "q".to_owned(), stage: 0, index: 0 };
        let path = Path::from("p/q/0/plan");
        let full = StoreError::Generic { store: "S3", source: "the bucket is full".into() };
        let failure = FragmentFailure::unpublished(id.clone(), &path, full);
        let error = QueryError::from_engine(DataFusionError::External(Box::new(failure)));
        assert_eq!((error.kind(), error.sqlstate()), (ErrorKind::Functions, "58030"));
        assert!(error.message().starts_with("fragment q/0/0 failed before its first attempt: "), "{error}");
        assert!(fragment_fn::causes(&error).any(|cause| cause.is::<StoreError>()), "{error:?}");

        // The fragment shows although its cause is an error of ours, too.
        let failure = FragmentFailure::unplannable(id, QueryError::sql("no such thing").into());
        let error = QueryError::from_engine(DataFusionError::External(Box::new(failure)));
        assert_eq!(error.kind(), ErrorKind::Functions);
        assert_eq!(error.message(), "fragment q/0/0 failed before its first attempt: External error: no such thing");
    }
}
