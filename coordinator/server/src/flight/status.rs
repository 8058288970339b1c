//! Errors as gRPC's. What is no text of the message is beside it: kind, SQLSTATE, place, id and dollars.

use arrow_flight::error::FlightError;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::Next;
use axum::response::Response;
use gust_engine::error::{ErrorKind, QueryError};
use gust_protocol::with_hint_line;
use serde_json::Value;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Status};

use crate::admission::Full;
use crate::http::decimals;
use crate::run::Failure;

/// Names of the facts beside the message.
const KIND: &str = "gust-kind";
const SQLSTATE: &str = "gust-sqlstate";
const POSITION: &str = "gust-position";
const QUERY_ID: &str = "gust-query-id";
const COST: &str = "gust-cost-dollars";

/// SQLSTATE code of PostgreSQL for a server that takes no more queries.
const TOO_MANY: &str = "53300";

/// Longest message as it travels: in a header, where other letters than ASCII's take three bytes for each of theirs.
const MESSAGE_BYTES_MAX: usize = 2 << 10;

/// Most bytes of a refusal that are read.
const REFUSAL_BYTES_MAX: usize = 64 << 10;

/// Gives a client of gRPC its own kind of error where a layer before the service refuses its request.
pub(crate) async fn as_status(request: Request, next: Next) -> Response {
    let content = request.headers().get(CONTENT_TYPE);
    let is_grpc = content.is_some_and(|content| content.as_bytes().starts_with(b"application/grpc"));
    let response = next.run(request).await;
    if !is_grpc || response.status() == StatusCode::OK {
        return response;
    }
    let code = match response.status() {
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN | StatusCode::MISDIRECTED_REQUEST => Code::PermissionDenied,
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Code::Unimplemented,
        StatusCode::TOO_MANY_REQUESTS => Code::ResourceExhausted,
        StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
        _ => Code::Unknown,
    };
    let body = to_bytes(response.into_body(), REFUSAL_BYTES_MAX).await.unwrap_or_default();
    let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
    let detail = problem["detail"].as_str().unwrap_or("the request is refused");
    Status::new(code, with_hint_line(detail, problem["hint"].as_str())).into_http::<Body>()
}

/// Makes the error of a statement, with what it has cost.
pub(super) fn of_failure(Failure { id, error, report }: Failure) -> Status {
    let mut status = of_error(&error);
    if id.is_some() && status.code() == Code::Unavailable {
        // Clients and proxies repeat a call that was unavailable. This one has run.
        status = with_code(Code::Aborted, &status);
    }
    let cost = report.and_then(|report| report.cost.as_ref().map(|cost| decimals(cost.known)));
    for (name, value) in [(QUERY_ID, id), (COST, cost)] {
        if let Some(value) = value.and_then(|value| MetadataValue::<Ascii>::try_from(value).ok()) {
            status.metadata_mut().insert(name, value);
        }
    }
    status
}

pub(super) fn of_error(error: &QueryError) -> Status {
    let code = match (error.kind(), error.sqlstate()) {
        (_, "28000") => Code::Unauthenticated,
        (_, "42501") => Code::PermissionDenied,
        (_, "57P01") => Code::Unavailable,
        (_, "XX000") => Code::Internal,
        (_, "42P01") => Code::NotFound,
        (ErrorKind::Sql | ErrorKind::Data, _) => Code::InvalidArgument,
        (ErrorKind::Resources | ErrorKind::CapReached, _) => Code::ResourceExhausted,
        // Clients and proxies repeat a call that was unavailable, and this one has cost something.
        (ErrorKind::Functions, _) => Code::Aborted,
        (ErrorKind::TimedOut, _) => Code::DeadlineExceeded,
        (ErrorKind::Interrupted, _) => Code::Cancelled,
        (ErrorKind::Setup, _) => Code::Internal,
    };
    let mut status = Status::new(code, shortened(with_hint_line(error.message(), error.hint())));
    let metadata = status.metadata_mut();
    metadata.insert(KIND, MetadataValue::from_static(error.kind().name()));
    metadata.insert(SQLSTATE, MetadataValue::from_static(error.sqlstate()));
    let position = error.position().map(|place| format!("{}:{}", place.line, place.column));
    if let Some(position) = position.and_then(|place| MetadataValue::<Ascii>::try_from(place).ok()) {
        metadata.insert(POSITION, position);
    }
    status
}

fn with_code(code: Code, status: &Status) -> Status {
    Status::with_metadata(code, status.message(), status.metadata().clone())
}

/// Cuts a message that is too long for a header.
fn shortened(mut message: String) -> String {
    let mut bytes = 0;
    let end = message.char_indices().find(|(_, letter)| {
        bytes += if letter.is_ascii_graphic() || *letter == ' ' { 1 } else { 3 * letter.len_utf8() };
        bytes > MESSAGE_BYTES_MAX
    });
    if let Some((end, _)) = end {
        message.truncate(end);
    }
    message
}

pub(super) fn of_full(full: &Full) -> Status {
    let mut status = Status::resource_exhausted(with_hint_line(full, Some("ask again later")));
    status.metadata_mut().insert(SQLSTATE, MetadataValue::from_static(TOO_MANY));
    status
}

/// Makes the error of a message that cannot be made or read.
pub(super) fn of_flight(error: impl Into<FlightError>) -> Status {
    error.into().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_fits_into_a_header() {
        for (letter, count) in [("x", MESSAGE_BYTES_MAX), ("\u{44f}", MESSAGE_BYTES_MAX / 6)] {
            let message = shortened(letter.repeat(MESSAGE_BYTES_MAX * 2));
            assert_eq!(message.chars().count(), count, "{letter}");
        }
        assert_eq!(shortened("short".to_owned()), "short");
    }

    #[test]
    fn what_has_run_is_not_to_be_repeated() {
        let gone = QueryError::new(ErrorKind::Interrupted, "the server shuts down").with_sqlstate("57P01");
        let failure = |id: Option<&str>, error: &QueryError| {
            of_failure(Failure { id: id.map(str::to_owned), error: error.clone(), report: None }).code()
        };
        assert_eq!(failure(None, &gone), Code::Unavailable);
        assert_eq!(failure(Some("1"), &gone), Code::Aborted);
        assert_eq!(failure(Some("1"), &QueryError::functions("they failed")), Code::Aborted);
        let status = of_failure(Failure { id: Some("1".to_owned()), error: gone, report: None });
        assert_eq!(status.metadata().get(SQLSTATE).map(|code| code.as_bytes()), Some(&b"57P01"[..]));
    }
}
