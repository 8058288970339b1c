//! `POST /v1/query`: statements in, rows out, in one response.
//!
//! The status is sent with the first bytes of the rows. An error before them has a status of its own. An error after them aborts
//! the body, which no client takes for its end.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE, HeaderValue, TRAILER};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, stream};
use gust_engine::report::Report;
use gust_output::OutputFormat;
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::sync::mpsc;

use super::accept;
use super::events::decimals;
use super::problem::{Problem, QUERY_ID};
use super::request::read;
use crate::chunks::{Part, start};
use crate::door::{Door, SessionWishes};
use crate::otlp::trace_parent;
use crate::run::{Asked, Failure, dismissed, gone};
use crate::tokens::Principal;

/// Header or trailer with the dollars that are known, in decimals.
const COST: HeaderName = HeaderName::from_static("gust-cost-dollars");

/// The same with the bounded amounts at their bounds.
const COST_AT_MOST: HeaderName = HeaderName::from_static("gust-cost-dollars-at-most");

/// Runs statements, and returns the rows of the last one.
///
/// The rows are streamed. A body that is cut is no success. A client that closes its connection cancels its query.
#[utoipa::path(
    post,
    path = "/v1/query",
    request_body(content((String = "application/sql"), (ref("#/components/schemas/OneShotRequest") = "application/json"))),
    responses(
        (status = 200, description = "Rows", headers(
            ("gust-query-id" = String, description = "Id of the last statement"),
            ("gust-cost-dollars" = String, description = "Dollars that are known; a trailer after the first 64 KiB"),
            ("gust-cost-dollars-at-most" = String, description = "The same with bounded amounts at their bounds"),
        )),
        (status = 204, description = "The last statement has no rows"),
    ),
)]
pub(super) async fn query(
    State(door): State<Arc<Door>>,
    Extension(principal): Extension<Principal>,
    request: Request,
) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    let format = negotiated(&head.headers)?;
    let mut asked = read(&head.headers, body).await?;
    asked.is_one_shot()?;
    let wishes = SessionWishes { trace_parent: trace_parent(&head.headers), ..asked.wishes()? };
    let asked =
        Asked { principal: principal.clone(), sql: asked.sql, dry_run: asked.dry_run, is_linked: false, wishes };
    let asked = asked.admitted(door.base());
    let turn = door.admission.queue(principal.user.as_deref().unwrap_or_default())?.turn();
    let permit = while_let_in(&door, &principal, turn).await?;
    stream_of(start(&door, asked, format, permit), format, cut(door, principal)).await
}

/// Waits for something, as long as the principal is let in.
pub(super) async fn while_let_in<T>(
    door: &Door,
    principal: &Principal,
    work: impl Future<Output = T>,
) -> Result<T, Problem> {
    tokio::select! {
        done = work => Ok(done),
        () = door.dismissed(principal) => Err(Failure::from(dismissed()).into()),
    }
}

/// Waits until a principal's answers are cut.
pub(super) fn cut(door: Arc<Door>, principal: Principal) -> BoxFuture<'static, ()> {
    async move { drop(gone(&door, &principal, std::future::pending().boxed()).await) }.boxed()
}

/// Returns the format that the client accepts.
pub(super) fn negotiated(headers: &HeaderMap) -> Result<OutputFormat, Problem> {
    let accepted = headers.get_all(ACCEPT).iter().map(|value| value.to_str().unwrap_or("-/-"));
    accept::choose(accepted).ok_or_else(|| {
        Problem::new(StatusCode::NOT_ACCEPTABLE, "format", "no format of this server is accepted")
            .with_hint(format!("accept one of {}", accept::offered()))
    })
}

/// Makes the response of rows that are on their way. Its status is that of the first part.
pub(super) async fn stream_of(
    mut parts: mpsc::Receiver<Part>,
    format: OutputFormat,
    cut: BoxFuture<'static, ()>,
) -> Result<Response, Problem> {
    let mut id = None;
    loop {
        match parts.recv().await {
            Some(Part::Started { id: started }) => id = Some(started),
            Some(Part::Chunk(first)) => {
                let body = Body::new(StreamBody::new(rows(first, parts, cut)));
                let mut response = response(StatusCode::OK, id, accept::media_type(format), body);
                let trailers = HeaderValue::from_static("gust-cost-dollars, gust-cost-dollars-at-most");
                response.headers_mut().insert(TRAILER, trailers);
                return Ok(response);
            }
            Some(Part::End { done, rest }) => {
                let status = if done.is_silent { StatusCode::NO_CONTENT } else { StatusCode::OK };
                let mut response = response(status, id, accept::media_type(format), Body::from(rest));
                response.headers_mut().extend(cost(&done.report));
                return Ok(response);
            }
            Some(Part::Failed(failure)) => return Err(failure.into()),
            None => {
                let detail = "the statement ended without an answer";
                return Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "fault", detail));
            }
        }
    }
}

fn response(status: StatusCode, id: Option<String>, media_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if status != StatusCode::NO_CONTENT {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    }
    if let Some(id) = id.and_then(|id| HeaderValue::try_from(id).ok()) {
        headers.insert(QUERY_ID, id);
    }
    response
}

/// Returns the headers of a statement's cost; none if it is not priced.
pub(super) fn cost(report: &Report) -> HeaderMap {
    let Some(cost) = &report.cost else { return HeaderMap::new() };
    let amounts = [(COST, cost.known), (COST_AT_MOST, cost.at_most)];
    amounts.into_iter().filter_map(|(name, money)| Some((name, HeaderValue::try_from(decimals(money)).ok()?))).collect()
}

/// Frames of a body that has begun.
enum Rows {
    First(Bytes, mpsc::Receiver<Part>),
    Following(mpsc::Receiver<Part>),
    Trailers(HeaderMap),
    Done,
}

/// Reason why a body ends early. The connection is closed, so that only the log has it.
#[derive(Debug, thiserror::Error)]
#[error("the rows end early")]
pub(super) struct EndsEarly;

fn rows(
    first: Bytes,
    parts: mpsc::Receiver<Part>,
    cut: BoxFuture<'static, ()>,
) -> impl Stream<Item = Result<Frame<Bytes>, EndsEarly>> {
    stream::unfold((Rows::First(first, parts), cut), |(rows, mut cut)| async {
        let (frame, next) = match rows {
            Rows::First(first, parts) => (Ok(Frame::data(first)), Rows::Following(parts)),
            Rows::Following(mut parts) => {
                let part = tokio::select! {
                    part = parts.recv() => part,
                    () = &mut cut => None,
                };
                match part {
                    Some(Part::Chunk(chunk)) => (Ok(Frame::data(chunk)), Rows::Following(parts)),
                    Some(Part::End { done, rest }) => (Ok(Frame::data(rest)), Rows::Trailers(cost(&done.report))),
                    Some(Part::Failed(Failure { id, error, .. })) => {
                        tracing::warn!(id, why = ?error.message(), "a statement failed after its first rows were sent");
                        (Err(EndsEarly), Rows::Done)
                    }
                    Some(Part::Started { .. }) | None => (Err(EndsEarly), Rows::Done),
                }
            }
            Rows::Trailers(trailers) => (Ok(Frame::trailers(trailers)), Rows::Done),
            Rows::Done => return None,
        };
        Some((frame, (next, cut)))
    })
}
