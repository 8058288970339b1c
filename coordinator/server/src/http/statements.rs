//! `/v1/statements`: submit and wait, poll, follow, fetch, cancel.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::Field;
use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::http::header::{ACCEPT, HeaderMap, HeaderName, HeaderValue, LOCATION};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt, stream};
use gust_engine::report::Report;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use utoipa::{IntoParams, ToSchema};

use super::events::{dollars, event, progress, so_far};
use super::pages::one_page;
use super::problem::{Body as ProblemBody, Problem};
use super::query::{cut, negotiated, stream_of, while_let_in};
use super::request::{QueryRequest, read};
use crate::chunks::Chunks;
use crate::door::{Door, SessionWishes};
use crate::otlp::trace_parent;
use crate::run::{Asked, spawn};
use crate::statements::{Entry, Key, NotTaken, Rows, State as Progress};
use crate::tokens::Principal;

/// Longest wait of a request, in seconds.
const WAIT_SECONDS_MAX: u64 = 50;

/// Wait of a submission that names none, in seconds.
const WAIT_SECONDS: u64 = 10;

/// Header by which a client submits once, however often it sends.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Longest key.
const KEY_BYTES_MAX: usize = 255;

/// Most events of one answer.
const EVENTS_MAX: usize = 1_000;

/// Pause between looks at the events of a statement that somebody follows.
const FOLLOW_PAUSE: Duration = Duration::from_millis(250);

/// Header by which a client that connects again says which event it has seen last.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wait {
    /// Seconds for which the answer waits for the statement's end.
    #[param(maximum = 50)]
    wait_seconds: Option<u64>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Submitting {
    /// Seconds for which the answer waits for the statement's end.
    #[param(maximum = 50)]
    wait_seconds: Option<u64>,
    /// True if the rows stay in the exchange, where the client reads them by links.
    #[serde(default)]
    links: bool,
}

impl Wait {
    fn duration(&self, default: u64) -> Result<Duration, Problem> {
        match self.wait_seconds.unwrap_or(default) {
            seconds if seconds <= WAIT_SECONDS_MAX => Ok(Duration::from_secs(seconds)),
            _ => Err(Problem::malformed(format!("wait_seconds: expected 0 to {WAIT_SECONDS_MAX}"))),
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Forget {
    /// True if a statement that has ended is forgotten, with its rows.
    #[serde(default)]
    forget: bool,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Since {
    /// Number of the first event.
    #[serde(default)]
    #[param(maximum = 4_294_967_295.0)]
    since: u32,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageOf {
    /// Number of a page, from 0 on. Without it the answer has all rows.
    #[param(maximum = 4_294_967_295.0)]
    page: Option<u32>,
}

/// Submitted statement.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Statement)]
struct StatementBody {
    id: String,
    /// QUEUED, RUNNING, SUCCEEDED, FAILED or CANCELLED.
    state: &'static str,
    submitted: String,
    href: String,
    /// Number of statements before it, while it is queued.
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<usize>,
    /// Seconds until its turn, if statements take as long as the last ones did.
    #[serde(skip_serializing_if = "Option::is_none")]
    expected_wait_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    query_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    progress: Option<Value>,
    /// Dollars that are booked, or of the bill.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    cost: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    report: Option<Value>,
    /// Place of the rows of one that has succeeded, if it has rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<ResultBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ProblemBody>,
}

/// Rows of a statement: their columns, their number, their place.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = StatementResult)]
struct ResultBody {
    columns: Vec<ColumnBody>,
    rows: u64,
    /// Pages of rows that the server keeps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pages: Option<usize>,
    /// Place of the rows, or of the links to them.
    href: String,
    /// True if there are links, and the server keeps no rows.
    is_linked: bool,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Column)]
struct ColumnBody {
    name: String,
    r#type: String,
}

/// Statements of a user, the newest first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Statements)]
struct ListBody {
    statements: Vec<ListedBody>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ListedStatement)]
struct ListedBody {
    id: String,
    state: &'static str,
    submitted: String,
    href: String,
}

/// Events of a statement.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Events)]
struct EventsBody {
    #[schema(value_type = Vec<Object>)]
    events: Vec<Value>,
    /// Number of the next event.
    next: usize,
    /// Number of all events until now. Those in the middle of a long statement are not kept after its end.
    total: usize,
    state: &'static str,
}

pub(super) fn of_query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Problem> {
    query.map(|Query(query)| query).map_err(|refused| Problem::malformed(refused.body_text()))
}

impl From<NotTaken> for Problem {
    fn from(refused: NotTaken) -> Self {
        match refused {
            NotTaken::Full(full) => full.into(),
            NotTaken::TooMany(_) => Self::busy(refused.to_string()),
            NotTaken::KeyReused => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency", refused.to_string()),
        }
    }
}

/// Takes statements, and waits for their end for a while.
///
/// They go on without their client. With the same `Idempotency-Key` the first submission is found.
#[utoipa::path(
    post,
    path = "/v1/statements",
    params(Submitting, ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]([ -~]*[!-~])?$",
        description = "Key of the submission")),
    request_body(content((String = "application/sql"), (QueryRequest = "application/json"))),
    responses(
        (status = 200, description = "It has ended", body = StatementBody),
        (status = 202, description = "It is on its way", body = StatementBody),
    ),
)]
pub(super) async fn submit(
    State(door): State<Arc<Door>>,
    Extension(principal): Extension<Principal>,
    query: Result<Query<Submitting>, QueryRejection>,
    request: Request,
) -> Result<Response, Problem> {
    // A body of SQL has no other place for them.
    let Submitting { wait_seconds, links } = of_query(query)?;
    let (head, body) = request.into_parts();
    let mut asked = read(&head.headers, body).await?;
    asked.links = (links || asked.is_linked()).then_some(true);
    let wait = Wait { wait_seconds: asked.wait_seconds.or(wait_seconds) }.duration(WAIT_SECONDS)?;
    let cancels = asked.cancels_on_wait();
    let key = key(&head.headers, asked.fingerprint())?;
    let wishes = SessionWishes { trace_parent: trace_parent(&head.headers), ..asked.wishes()? };
    let is_linked = asked.is_linked();
    let asked = Asked { principal, sql: asked.sql, dry_run: asked.dry_run, is_linked, wishes };
    let of_wait = asked.principal.clone();
    let entry = door.statements.submit(&door, asked, key)?;
    // A client that vanishes during the wait wants what it said.
    let canceling = cancels.then(|| entry.cancel_on_drop());
    let mut state = while_let_in(&door, &of_wait, entry.wait(wait)).await?;
    if let Some(guard) = canceling
        && !state.is_ended()
    {
        drop(guard);
        state = entry.wait(Duration::from_secs(WAIT_SECONDS)).await;
    }
    let status = if state.is_ended() { StatusCode::OK } else { StatusCode::ACCEPTED };
    let mut response = (status, axum::Json(described(&door, &entry, &state).await)).into_response();
    if let Ok(place) = HeaderValue::try_from(href(&entry)) {
        response.headers_mut().insert(LOCATION, place);
    }
    Ok(response)
}

fn key(headers: &HeaderMap, fingerprint: String) -> Result<Option<Key>, Problem> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let is_key = |key: &&str| (1..=KEY_BYTES_MAX).contains(&key.len()) && !key.contains(char::is_control);
    let key = key.to_str().ok().filter(is_key);
    let key =
        key.ok_or_else(|| Problem::malformed(format!("idempotency-key: expected 1 to {KEY_BYTES_MAX} characters")))?;
    Ok(Some(Key { key: key.to_owned(), hash: Sha256::digest(fingerprint.as_bytes()).into() }))
}

pub(super) fn href(entry: &Entry) -> String {
    format!("/v1/statements/{}", entry.id)
}

pub(super) fn find(door: &Door, principal: &Principal, id: &str) -> Result<Arc<Entry>, Problem> {
    let missing = || Problem::new(StatusCode::NOT_FOUND, "not-found", "there is no such statement");
    door.statements.get(principal, id).ok_or_else(missing)
}

/// Lists the user's statements.
#[utoipa::path(
    get,
    path = "/v1/statements",
    responses((status = 200, description = "Statements, the newest first", body = ListBody)),
)]
pub(super) async fn list(State(door): State<Arc<Door>>, Extension(principal): Extension<Principal>) -> Response {
    let entries = door.statements.list(&principal);
    let listed = entries.iter().map(|entry| ListedBody {
        id: entry.id.clone(),
        state: entry.state().name(),
        submitted: entry.submitted.to_rfc3339(),
        href: href(entry),
    });
    axum::Json(ListBody { statements: listed.collect() }).into_response()
}

/// Describes a statement, after a wait for its end.
#[utoipa::path(
    get,
    path = "/v1/statements/{id}",
    params(("id" = String, Path, description = "Id of a statement"), Wait),
    responses((status = 200, description = "The statement", body = StatementBody)),
)]
pub(super) async fn status(
    State(door): State<Arc<Door>>,
    Extension(principal): Extension<Principal>,
    Path(id): Path<String>,
    wait: Result<Query<Wait>, QueryRejection>,
) -> Result<Response, Problem> {
    let wait = of_query(wait)?;
    let entry = find(&door, &principal, &id)?;
    let state = while_let_in(&door, &principal, entry.wait(wait.duration(0)?)).await?;
    Ok(axum::Json(described(&door, &entry, &state).await).into_response())
}

/// Cancels a statement, however often it is called.
///
/// A client that has seen its end may have it forgotten, with its rows.
#[utoipa::path(
    delete,
    path = "/v1/statements/{id}",
    params(("id" = String, Path, description = "Id of a statement"), Forget),
    responses(
        (status = 200, description = "The statement", body = StatementBody),
        (status = 204, description = "It is forgotten"),
    ),
)]
pub(super) async fn cancel(
    State(door): State<Arc<Door>>,
    Extension(principal): Extension<Principal>,
    Path(id): Path<String>,
    query: Result<Query<Forget>, QueryRejection>,
) -> Result<Response, Problem> {
    let Forget { forget } = of_query(query)?;
    let entry = find(&door, &principal, &id)?;
    door.cancel(&entry).await;
    let state = entry.wait(Duration::from_secs(WAIT_SECONDS)).await;
    if forget && state.is_ended() {
        door.statements.forget(&entry);
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Ok(axum::Json(described(&door, &entry, &state).await).into_response())
}

/// Describes a statement: its state, its progress, its dollars, and at its end its report and the place of its rows.
async fn described(door: &Door, entry: &Entry, state: &Progress) -> StatementBody {
    let mut told = StatementBody {
        id: entry.id.clone(),
        state: state.name(),
        submitted: entry.submitted.to_rfc3339(),
        href: href(entry),
        position: None,
        expected_wait_seconds: None,
        query_id: state.query_id().map(str::to_owned),
        progress: None,
        cost: None,
        report: None,
        result: None,
        error: None,
    };
    if matches!(state, Progress::Queued { .. })
        && let Some(place) = entry.place(door)
    {
        told.position = Some(place.position);
        told.expected_wait_seconds = place.expected_wait.map(|wait| wait.as_secs_f64());
    }
    if let Some(log) = state.log() {
        let events = log.snapshot();
        told.progress = Some(progress(&events));
        let tariff = door.tariff().await;
        told.cost = Some(so_far(&Report::priced(&events, tariff.as_ref())));
    }
    let Progress::Ended(ended) = state else { return told };
    match &ended.result {
        Ok((done, rows)) => {
            told.query_id = Some(done.id.clone());
            told.cost = Some(dollars(&done.report));
            told.report = serde_json::to_value(&done.report).ok();
            told.result = result(entry, rows);
        }
        Err(failure) => {
            if let Some(report) = &failure.report {
                told.cost = Some(dollars(report));
                told.report = serde_json::to_value(report).ok();
            }
            told.error = Some(Problem::from(failure.clone()).body());
        }
    }
    told
}

fn result(entry: &Entry, rows: &Rows) -> Option<ResultBody> {
    let (schema, count, pages) = match rows {
        Rows::None => return None,
        Rows::Spooled(spool) => (spool.schema(), spool.rows(), Some(spool.pages())),
        Rows::Linked(linked) => (&linked.objects.schema, linked.objects.rows(), None),
    };
    let column = |field: &Arc<Field>| ColumnBody { name: field.name().clone(), r#type: field.data_type().to_string() };
    let columns = schema.fields().iter().map(column).collect();
    let is_linked = pages.is_none();
    let href = format!("{}/{}", href(entry), if is_linked { "links" } else { "result" });
    Some(ResultBody { columns, rows: count, pages, href, is_linked })
}

/// Returns all rows, or one page of them, in the format that the client accepts.
#[utoipa::path(
    get,
    path = "/v1/statements/{id}/result",
    params(("id" = String, Path, description = "Id of a statement"), PageOf),
    responses(
        (status = 200, description = "Rows", headers(("gust-next-page" = u64, description = "Number of the page after this one"))),
        (status = 204, description = "The statement has no rows"),
    ),
)]
pub(super) async fn rows(
    State(door): State<Arc<Door>>,
    Extension(principal): Extension<Principal>,
    Path(id): Path<String>,
    page: Result<Query<PageOf>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let PageOf { page } = of_query(page)?;
    let entry = find(&door, &principal, &id)?;
    let format = negotiated(&headers)?;
    let state = entry.state();
    let Progress::Ended(ended) = &state else {
        let detail = format!("the statement is {}: it has no rows yet", state.name());
        return Err(
            Problem::new(StatusCode::CONFLICT, "not-ended", detail).with_hint("wait for it with ?wait_seconds=")
        );
    };
    let (done, spool) = match &ended.result {
        Ok((_, Rows::None)) => return Ok(StatusCode::NO_CONTENT.into_response()),
        Ok((done, Rows::Spooled(spool))) => (done, spool),
        Ok((_, Rows::Linked(_))) => {
            let linked = Problem::new(StatusCode::CONFLICT, "links", "the rows of this statement are behind links");
            return Err(linked.with_hint(format!("get {}/links", href(&entry))));
        }
        Err(failure) => return Err(failure.clone().into()),
    };
    match page {
        Some(page) => one_page(&door, &principal, &entry, spool, page as usize, format).await,
        None => {
            let (chunks, parts) = Chunks::new(&door, &principal, format);
            spawn(&door, chunks.write_all(Arc::clone(&door), principal.clone(), spool.clone(), done.clone()));
            stream_of(parts, format, cut(door, principal)).await
        }
    }
}

/// Returns the events from a position on, or all as they come where the client accepts a stream of events.
#[utoipa::path(
    get,
    path = "/v1/statements/{id}/events",
    params(
        ("id" = String, Path, description = "Id of a statement"),
        Since,
        ("Last-Event-ID" = Option<String>, Header, description = "Number of the last event that was seen"),
    ),
    responses(
        (status = 200, description = "Events", content((EventsBody = "application/json"), (String = "text/event-stream"))),
        (status = 204, description = "There are no more events, for a stream that is asked for anew"),
    ),
)]
pub(super) async fn events(
    State(door): State<Arc<Door>>,
    Extension(principal): Extension<Principal>,
    Path(id): Path<String>,
    since: Result<Query<Since>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Since { since } = of_query(since)?;
    let since = since as usize;
    let entry = find(&door, &principal, &id)?;
    let last = headers.get(LAST_EVENT_ID).and_then(|last| last.to_str().ok()?.parse::<usize>().ok());
    let since = last.map_or(since, |last| last.saturating_add(1));
    if accepts_stream(&headers) {
        let state = entry.state();
        if last.is_some() && state.is_ended() && state.events(since, 1).is_empty() {
            // A browser's EventSource would connect again and again.
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
        let dismissed = async move { door.dismissed(&principal).await };
        let followed = Sse::new(followed(entry, since).take_until(dismissed)).keep_alive(KeepAlive::default());
        return Ok(followed.into_response());
    }
    let state = entry.state();
    let events = state.events(since, EVENTS_MAX);
    let next = events.last().map_or(since, |(number, _)| number + 1);
    let events = events.iter().map(|(number, stamped)| event(*number, stamped)).collect();
    Ok(axum::Json(EventsBody { events, next, total: state.events_total(), state: state.name() }).into_response())
}

fn accepts_stream(headers: &HeaderMap) -> bool {
    let types =
        headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    types.filter_map(|offer| offer.split(';').next()).any(|it| it.trim().eq_ignore_ascii_case("text/event-stream"))
}

/// Follows a statement to its end: its events, and then its state.
fn followed(entry: Arc<Entry>, since: usize) -> impl Stream<Item = Result<Event, axum::Error>> {
    let begin = (entry, since, Vec::<Result<Event, axum::Error>>::new(), false);
    stream::unfold(begin, |(entry, mut since, mut ready, mut has_ended)| async move {
        loop {
            if let Some(next) = ready.pop() {
                return Some((next, (entry, since, ready, has_ended)));
            }
            if has_ended {
                return None;
            }
            let state = entry.state();
            let events = state.events(since, EVENTS_MAX);
            if events.is_empty() && state.is_ended() {
                has_ended = true;
                let end = json!({ "state": state.name(), "href": href(&entry) });
                ready.push(Event::default().event("end").json_data(end));
                continue;
            }
            since = events.last().map_or(since, |(number, _)| number + 1);
            let sent = events
                .iter()
                .map(|(number, stamped)| Event::default().id(number.to_string()).json_data(event(*number, stamped)));
            // They are taken from the end.
            ready = sent.collect::<Vec<_>>().into_iter().rev().collect();
            if ready.is_empty() {
                entry.wait(FOLLOW_PAUSE).await;
            }
        }
    })
}
