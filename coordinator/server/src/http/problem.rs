//! Errors as `application/problem+json` (RFC 9457).

use axum::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use gust_engine::error::{ErrorKind, Position, QueryError};
use serde::Serialize;
use serde_json::Value;

use super::query::cost;
use crate::admission::Full;
use crate::run::Failure;

/// Header with the id of the query.
pub(crate) const QUERY_ID: HeaderName = HeaderName::from_static("gust-query-id");

/// Seconds after which a client that was refused may ask again.
const RETRY_AFTER_SECONDS: u16 = 5;

/// SQLSTATE code of PostgreSQL for a server that takes no more queries.
const TOO_MANY: &str = "53300";

/// Answer to a request that was not carried out.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    /// Kind in one word, which a program compares.
    kind: &'static str,
    detail: Box<str>,
    hint: Option<Box<str>>,
    /// SQLSTATE, for errors of statements.
    code: Option<&'static str>,
    position: Option<Position>,
    query_id: Option<Box<str>>,
    /// Headers of what the statement has cost.
    cost: Option<Box<HeaderMap>>,
}

/// The members of RFC 9457, and our own.
#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<Place>,
    #[serde(skip_serializing_if = "Option::is_none")]
    query_id: Option<&'a str>,
}

#[derive(Serialize)]
struct Place {
    line: u64,
    column: u64,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, kind: &'static str, detail: impl Into<String>) -> Self {
        let detail = detail.into().into_boxed_str();
        Self { status, kind, detail, hint: None, code: None, position: None, query_id: None, cost: None }
    }

    pub(crate) fn with_hint(self, hint: impl Into<Box<str>>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Makes the answer where no more is taken for now.
    pub(crate) fn busy(detail: String) -> Self {
        let busy = Self::new(StatusCode::TOO_MANY_REQUESTS, "busy", detail);
        Self { code: Some(TOO_MANY), ..busy.with_hint("ask again later") }
    }

    /// Makes the answer to a request that is not as the API has it.
    pub(crate) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "request", detail)
    }
}

/// Returns the status of a failed statement. A kind that the caller can do something about is a 4xx.
fn status(error: &QueryError) -> StatusCode {
    match (error.kind(), error.sqlstate()) {
        (_, "42501") => StatusCode::FORBIDDEN,
        (_, "0A000") => StatusCode::NOT_ACCEPTABLE,
        (_, "28000") => StatusCode::UNAUTHORIZED,
        (_, "57P01") => StatusCode::SERVICE_UNAVAILABLE,
        (_, "XX000") => StatusCode::INTERNAL_SERVER_ERROR,
        (ErrorKind::Sql, _) => StatusCode::BAD_REQUEST,
        (ErrorKind::Data, _) => StatusCode::UNPROCESSABLE_ENTITY,
        (ErrorKind::CapReached, _) => StatusCode::PAYMENT_REQUIRED,
        (ErrorKind::Interrupted, _) => StatusCode::CONFLICT,
        (ErrorKind::TimedOut, _) => StatusCode::GATEWAY_TIMEOUT,
        (ErrorKind::Functions, _) => StatusCode::BAD_GATEWAY,
        (ErrorKind::Resources, _) => StatusCode::INSUFFICIENT_STORAGE,
        (ErrorKind::Setup, _) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<Failure> for Problem {
    fn from(Failure { id, error, report }: Failure) -> Self {
        Self {
            hint: error.hint().map(Box::from),
            code: Some(error.sqlstate()),
            position: error.position(),
            query_id: id.map(String::into_boxed_str),
            cost: report.map(|report| Box::new(cost(&report))),
            ..Self::new(status(&error), error.kind().name(), error.message())
        }
    }
}

impl From<Full> for Problem {
    fn from(full: Full) -> Self {
        Self::busy(full.to_string())
    }
}

impl Problem {
    /// Returns the problem as JSON. It has texts and numbers alone.
    pub(crate) fn body(&self) -> Value {
        let body = Body {
            r#type: format!("urn:gust:error:{}", self.kind),
            title: self.status.canonical_reason().unwrap_or("error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            kind: self.kind,
            code: self.code,
            hint: self.hint.as_deref(),
            position: self.position.map(|Position { line, column }| Place { line, column }),
            query_id: self.query_id.as_deref(),
        };
        serde_json::to_value(&body).unwrap_or_default()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = self.body().to_string();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS.into());
        }
        if let Some(id) = self.query_id.and_then(|id| HeaderValue::from_str(&id).ok()) {
            headers.insert(QUERY_ID, id);
        }
        headers.extend(self.cost.map(|cost| *cost).unwrap_or_default());
        response
    }
}
