//! Errors as `application/problem+json` (RFC 9457).

use axum::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use gust_engine::cap::{OverBudget, OverCap};
use gust_engine::error::{ErrorKind, Position, QueryError};
use serde::Serialize;
use utoipa::ToSchema;

use super::budgets::BudgetBody;
use super::query::cost;
use crate::admission::Full;
use crate::run::{Failure, TOO_MANY};

/// Header with the id of the query.
pub(crate) const QUERY_ID: HeaderName = HeaderName::from_static("gust-query-id");

/// Seconds after which a client that was refused may ask again.
const RETRY_AFTER_SECONDS: u16 = 5;

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
    position: Option<Box<Position>>,
    query_id: Option<Box<str>>,
    /// Headers of what the statement has cost.
    cost: Option<Box<HeaderMap>>,
    /// Budget that did not suffice.
    budget: Option<Box<BudgetBody>>,
    /// True if the same request may be carried out soon.
    is_passing: bool,
}

/// A problem: the members of RFC 9457, and our own.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct Body {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: String,
    /// Kind in one word.
    kind: &'static str,
    /// SQLSTATE, for errors of statements.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    /// Next step.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<Place>,
    #[serde(skip_serializing_if = "Option::is_none")]
    query_id: Option<String>,
    /// Budget that did not suffice.
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<BudgetBody>,
}

/// Place in the statement's text, counted from 1.
#[derive(Debug, Serialize, ToSchema)]
struct Place {
    line: u64,
    column: u64,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, kind: &'static str, detail: impl Into<String>) -> Self {
        let detail = detail.into().into_boxed_str();
        let (hint, code, position, query_id, cost, budget) = (None, None, None, None, None, None);
        let is_passing = status == StatusCode::TOO_MANY_REQUESTS;
        Self { status, kind, detail, hint, code, position, query_id, cost, budget, is_passing }
    }

    pub(crate) fn with_hint(self, hint: impl Into<Box<str>>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    /// Makes the answer where no more is taken for now.
    pub(crate) fn busy(detail: String) -> Self {
        let busy = Self::new(StatusCode::TOO_MANY_REQUESTS, "busy", detail);
        Self { code: Some(TOO_MANY), ..busy.with_hint("ask again later") }
    }

    /// Makes the answer where something is missing for a while that is no fault of the client's.
    pub(crate) fn missing_now(kind: &'static str, detail: String) -> Self {
        let missing = Self::new(StatusCode::SERVICE_UNAVAILABLE, kind, detail);
        Self { is_passing: true, ..missing.with_hint("ask again later; the server's log has the reason") }
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
        // A catalog that refuses the server's own credentials has the same code.
        (ErrorKind::Interrupted, "28000") => StatusCode::UNAUTHORIZED,
        (_, "57P01") => StatusCode::SERVICE_UNAVAILABLE,
        (_, TOO_MANY) => StatusCode::TOO_MANY_REQUESTS,
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

/// Returns the budget that did not suffice for a statement.
fn budget(error: &QueryError) -> Option<&OverBudget> {
    let source = std::error::Error::source(error)?;
    match source.downcast_ref::<OverCap>()? {
        OverCap::Budget(over) => Some(over),
        OverCap::BeforeRun { .. } | OverCap::WhileRunning(_) => None,
    }
}

impl From<Failure> for Problem {
    fn from(Failure { id, error, report }: Failure) -> Self {
        let kind = if error.sqlstate() == TOO_MANY { "busy" } else { error.kind().name() };
        let (over, problem) = (budget(&error), Self::new(status(&error), kind, error.message()));
        Self {
            hint: error.hint().map(Box::from),
            code: Some(error.sqlstate()),
            position: error.position().map(Box::new),
            query_id: id.map(String::into_boxed_str),
            cost: report.map(|report| Box::new(cost(&report))),
            budget: over.map(|over| Box::new(BudgetBody::from(&over.state))),
            is_passing: problem.is_passing || over.is_some_and(|over| over.is_held),
            ..problem
        }
    }
}

impl From<Full> for Problem {
    fn from(full: Full) -> Self {
        Self::busy(full.to_string())
    }
}

impl Problem {
    /// Returns the problem's members. They are texts and numbers alone.
    pub(super) fn body(&self) -> Body {
        Body {
            r#type: format!("urn:gust:error:{}", self.kind),
            title: self.status.canonical_reason().unwrap_or("error"),
            status: self.status.as_u16(),
            detail: self.detail.to_string(),
            kind: self.kind,
            code: self.code,
            hint: self.hint.as_deref().map(str::to_owned),
            position: self.position.as_deref().map(|&Position { line, column }| Place { line, column }),
            query_id: self.query_id.as_deref().map(str::to_owned),
            budget: self.budget.as_deref().cloned(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body())).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.is_passing {
            headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS.into());
        }
        if let Some(id) = self.query_id.and_then(|id| HeaderValue::from_str(&id).ok()) {
            headers.insert(QUERY_ID, id);
        }
        headers.extend(self.cost.map(|cost| *cost).unwrap_or_default());
        response
    }
}
