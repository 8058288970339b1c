//! Classification of an engine's error by the caller's next step.

use std::error::Error;

use arrow::error::ArrowError;
use datafusion::common::DataFusionError;
use gust_protocol::exchange::ExchangeError;
use gust_protocol::{Advised, FragmentError, FragmentErrorKind as Kind, LostInput};
use parquet::errors::ParquetError;

use crate::fault::{FileFault, SchemaMismatch};

/// Finds the kind of the innermost cause that has one, and keeps the whole message.
pub fn classify(error: &DataFusionError) -> FragmentError {
    let kind = causes(error).filter_map(kind_of).last().unwrap_or(Kind::Execution);
    if let Some(lost) = find::<LostInput>(error) {
        return FragmentError { lost: Some(lost.clone()), ..FragmentError::new(Kind::InputLost, lost.to_string()) };
    }
    if let Some(fault) = find::<FileFault>(error) {
        return FragmentError::new(kind, fault.to_string()).with_hint(fault.hint());
    }
    match find::<Advised>(error) {
        Some(advised) => FragmentError::new(kind, &advised.message).with_hint(Some(&advised.hint)),
        None => FragmentError::new(kind, error.strip_backtrace()),
    }
}

/// Finds the first cause of a type among the causes of an error.
pub fn find<E: Error + 'static>(error: &DataFusionError) -> Option<&E> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

/// Lists an error and its causes, from the outside in.
pub fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&cause| inner_cause(cause)).take(CAUSES_MAX)
}

/// Most causes of an error that are looked at.
const CAUSES_MAX: usize = 32;

/// Returns the cause, also where a library wraps it without calling it `source`.
fn inner_cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    if let Some(ParquetError::External(inner)) = error.downcast_ref::<ParquetError>() {
        return Some(inner.as_ref());
    }
    match error.downcast_ref::<ArrowError>() {
        Some(ArrowError::ExternalError(inner)) => return Some(inner.as_ref()),
        Some(ArrowError::IoError(_, inner)) => return Some(inner),
        _ => {}
    }
    match error.downcast_ref::<DataFusionError>() {
        Some(DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner)) => Some(inner.as_ref()),
        Some(DataFusionError::Shared(inner)) => Some(inner.as_ref()),
        _ => error.source(),
    }
}

fn kind_of(error: &(dyn Error + 'static)) -> Option<Kind> {
    if let Some(fault) = error.downcast_ref::<FileFault>() {
        return Some(fault.kind());
    }
    if error.is::<SchemaMismatch>() {
        return Some(Kind::SchemaMismatch);
    }
    if let Some(error) = error.downcast_ref::<object_store::Error>() {
        return Some(of_store(error));
    }
    if let Some(error) = error.downcast_ref::<std::io::Error>() {
        use std::io::ErrorKind;
        return match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Some(Kind::DiskFull),
            ErrorKind::PermissionDenied => Some(Kind::AccessDenied),
            // The spill limit's own error, after the writer has wrapped it.
            _ if error.to_string().contains("used disk space") => Some(Kind::DiskFull),
            _ => None,
        };
    }
    if let Some(error) = error.downcast_ref::<ParquetError>() {
        return match error {
            ParquetError::External(_) => None,
            _ => Some(Kind::FileCorrupt),
        };
    }
    match error.downcast_ref::<DataFusionError>()? {
        DataFusionError::ResourcesExhausted(message) if message.contains("disk space") => Some(Kind::DiskFull),
        DataFusionError::ResourcesExhausted(_) => Some(Kind::OutOfMemory),
        DataFusionError::Execution(message) if is_of_name_matching(message) => Some(Kind::SchemaMismatch),
        _ => None,
    }
}

/// Returns true where a file's columns do not fit the table's. DataFusion's adapter of names (55.2) tells it only by its text.
fn is_of_name_matching(message: &str) -> bool {
    message.starts_with("Cannot cast column")
        || (message.starts_with("Non-nullable column") && message.contains("is missing"))
}

fn of_store(error: &object_store::Error) -> Kind {
    use object_store::Error;
    match error {
        Error::NotFound { .. } => Kind::FileMissing,
        Error::Precondition { .. } => Kind::FileChanged,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => Kind::AccessDenied,
        other if is_refused(other) => Kind::AccessDenied,
        other if is_throttled(other) => Kind::StorageThrottled,
        _ => Kind::Storage,
    }
}

/// Returns true where the store refused the credentials. object_store 0.13 has no kind for a listing that is refused: only
/// the message has the status. S3 refuses a token that has ended or makes no sense with status 400.
fn is_refused(error: &object_store::Error) -> bool {
    let text = error.to_string();
    ["403 Forbidden", "401 Unauthorized", "<Code>ExpiredToken<", "<Code>InvalidToken<"]
        .iter()
        .any(|sign| text.contains(sign))
}

/// Returns true where the store asked to slow down. object_store keeps the status of such a request only in the message.
fn is_throttled(error: &object_store::Error) -> bool {
    let text = error.to_string();
    ["SlowDown", "503 Service Unavailable", "429 Too Many Requests"].iter().any(|sign| text.contains(sign))
}

/// Classifies an error of the exchange. A missing or changed object there is no file of the user's.
pub(crate) fn classify_exchange(error: &object_store::Error) -> Kind {
    match of_store(error) {
        Kind::FileMissing | Kind::FileChanged => Kind::Storage,
        kind => kind,
    }
}

/// Classifies an error of writing a result.
pub(crate) fn classify_write(error: &ExchangeError) -> FragmentError {
    let kind = match error {
        ExchangeError::Store { source, .. } => of_store(source),
        ExchangeError::Write { .. } => Kind::Storage,
        ExchangeError::Arrow(_)
        | ExchangeError::Length { .. }
        | ExchangeError::Checksum { .. }
        | ExchangeError::Schema { .. } => Kind::Execution,
    };
    FragmentError::new(kind, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(error: DataFusionError, expect: Kind) {
        assert_eq!(classify(&error).kind, expect, "{error}");
    }

    #[test]
    fn every_cause_is_found_however_deep() {
        let missing = || object_store::Error::NotFound { path: "a".into(), source: "gone".into() };
        let changed = object_store::Error::Precondition { path: "a".into(), source: "other etag".into() };
        let slow = object_store::Error::Generic { store: "S3", source: "503 Service Unavailable: SlowDown".into() };
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        check(missing().into(), Kind::FileMissing);
        check(DataFusionError::from(missing()).context("while opening"), Kind::FileMissing);
        let wrapped = ParquetError::External(Box::new(DataFusionError::from(missing())));
        check(DataFusionError::ParquetError(Box::new(wrapped)), Kind::FileMissing);
        check(changed.into(), Kind::FileChanged);
        check(slow.into(), Kind::StorageThrottled);
        let ended = "400 Bad Request: <Error><Code>ExpiredToken</Code></Error>";
        check(object_store::Error::Generic { store: "S3", source: ended.into() }.into(), Kind::AccessDenied);
        check(full.into(), Kind::DiskFull);
        check(ParquetError::EOF("footer".into()).into(), Kind::FileCorrupt);
        check(DataFusionError::ResourcesExhausted("failed to allocate".into()), Kind::OutOfMemory);
        check(ArrowError::DivideByZero.into(), Kind::Execution);
        check(SchemaMismatch("x".into()).into(), Kind::SchemaMismatch);
        check(DataFusionError::from(SchemaMismatch("x".into())).context("while opening"), Kind::SchemaMismatch);
        check(DataFusionError::Execution("Cannot cast column 'a' from".into()), Kind::SchemaMismatch);
        check(DataFusionError::Execution("schema mismatch: x".into()), Kind::Execution);
        check(Advised::new("overflows", "cast it").into(), Kind::Execution);
        let lost = LostInput { stage: 1, index: 2, attempt: 3, reason: "gone".into() };
        check(DataFusionError::External(Box::new(lost)).context("while joining"), Kind::InputLost);
    }

    #[test]
    fn the_next_step_travels_beside_the_message() {
        let error = DataFusionError::from(Advised::new("`sum(a)` overflows", "cast it")).context("while adding");
        let told = classify(&error);
        assert_eq!((told.message.as_str(), told.hint.as_deref()), ("`sum(a)` overflows", Some("cast it")));
    }
}
