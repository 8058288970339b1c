//! The body of a request, as SQL or as JSON, within its bounds.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderMap};
use gust_engine::config::is_timeout;
use gust_engine::money::Money;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::problem::Problem;
use crate::door::SessionWishes;

/// Most bytes of a body.
const BODY_BYTES_MAX: usize = 1 << 20;

/// Longest time in which a body arrives.
const BODY_TIME_MAX: Duration = Duration::from_secs(30);

/// A request for a statement's rows.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct QueryRequest {
    /// Statements. Only the last one may have rows.
    pub(crate) sql: String,
    /// Catalog in which bare names are looked up.
    catalog: Option<String>,
    /// Schema in which bare names are looked up.
    schema: Option<String>,
    /// Dollars that each statement may cost, below the server's own cap.
    #[schema(schema_with = super::openapi::dollars)]
    max_cost: Option<Money>,
    /// Seconds after which each statement is stopped, below the server's own.
    #[schema(exclusive_minimum = 0.0, maximum = 86_400.0)]
    timeout_seconds: Option<f64>,
    /// Labels of the statements in the history.
    #[serde(default)]
    #[schema(schema_with = super::openapi::labels)]
    labels: BTreeMap<String, String>,
    /// True if the cost is wanted, and not the rows.
    #[serde(default)]
    pub(crate) dry_run: bool,
    /// Seconds for which a submission waits for its end.
    #[schema(maximum = 50)]
    pub(crate) wait_seconds: Option<u64>,
    /// Fate of the statement after that wait.
    on_wait: Option<OnWait>,
    /// True if the rows of a submission stay in the exchange, where its client reads them by links.
    pub(super) links: Option<bool>,
}

/// Fate of a submitted statement that has not ended after the wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
enum OnWait {
    Continue,
    Cancel,
}

impl QueryRequest {
    /// Refuses what only a submission has.
    pub(crate) fn is_one_shot(&self) -> Result<(), Problem> {
        match (self.wait_seconds, self.on_wait, self.links) {
            (None, None, None) => Ok(()),
            _ => Err(Problem::malformed("wait_seconds, on_wait and links belong to POST /v1/statements")),
        }
    }

    pub(crate) fn is_linked(&self) -> bool {
        self.links == Some(true)
    }

    pub(crate) fn cancels_on_wait(&self) -> bool {
        self.on_wait == Some(OnWait::Cancel)
    }

    /// Returns a text that is equal for equal requests. How long a client waits is no part of what it asks for.
    pub(crate) fn fingerprint(&self) -> String {
        let mut request = serde_json::to_value(self).unwrap_or_default();
        if let Some(members) = request.as_object_mut() {
            // Servers before links had no such member.
            members.retain(|name, value| match name.as_str() {
                "wait_seconds" | "on_wait" => false,
                "links" => !value.is_null(),
                _ => true,
            });
        }
        request.to_string()
    }

    /// Takes the wishes for the session.
    pub(crate) fn wishes(&mut self) -> Result<SessionWishes, Problem> {
        let timeout = self.timeout_seconds.map(|seconds| {
            let timeout = Duration::try_from_secs_f64(seconds).ok().filter(|timeout| is_timeout(*timeout));
            timeout.ok_or_else(|| Problem::malformed("timeout_seconds: expected seconds above zero, at most a day"))
        });
        let wishes = SessionWishes {
            catalog: self.catalog.take(),
            schema: self.schema.take(),
            cap: self.max_cost,
            timeout: timeout.transpose()?,
            ..SessionWishes::default()
        };
        let labels = std::mem::take(&mut self.labels);
        wishes.with_labels(labels).map_err(|bad| Problem::malformed(format!("labels: expected {bad}")))
    }
}

/// Content of a body. Others are refused, so that no form of a web page is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Sql,
    Json,
}

impl Content {
    fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let name = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        match name.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "application/sql" => Ok(Self::Sql),
            "application/json" => Ok(Self::Json),
            _ => {
                let detail = format!("a body of `{name}` is not taken");
                Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content-type", detail)
                    .with_hint("send application/sql or application/json"))
            }
        }
    }
}

/// Reads the body of a request for rows.
pub(crate) async fn read(headers: &HeaderMap, body: Body) -> Result<QueryRequest, Problem> {
    let content = Content::of(headers)?;
    let text = match tokio::time::timeout(BODY_TIME_MAX, to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(bytes)) => String::from_utf8(bytes.into()),
        Ok(Err(error)) if is_too_long(&error) => {
            let detail = format!("the body is longer than {BODY_BYTES_MAX} bytes");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-long", detail));
        }
        Ok(Err(error)) => return Err(Problem::malformed(format!("the body does not arrive: {error}"))),
        Err(_) => {
            let detail = format!("the body did not arrive within {} seconds", BODY_TIME_MAX.as_secs());
            return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "request", detail));
        }
    };
    let text = text.map_err(|_| Problem::malformed("the body is not UTF-8"))?;
    match content {
        Content::Sql => Ok(QueryRequest { sql: text, ..QueryRequest::default() }),
        Content::Json => {
            serde_json::from_str(&text).map_err(|error| Problem::malformed(format!("the body is no request: {error}")))
        }
    }
}

fn is_too_long(error: &axum::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        cause = error.source();
    }
    false
}
