//! `/v1/statements/ID/links`: where a client reads the rows of a statement that were left in the exchange.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chrono::Utc;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use gust_engine::exchange::KeptPart;
use gust_output::OutputFormat;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use utoipa::{IntoParams, ToSchema};

use super::accept;
use super::problem::Problem;
use super::query::{EndsEarly, cut};
use super::statements::{find, href, of_query};
use crate::door::Door;
use crate::links::LinkedRows;
use crate::run::spawn;
use crate::statements::{Entry, Rows, State as Progress};
use crate::tokens::Principal;

/// Longest time for which a presigned link holds.
const LINK_TIME_MAX: Duration = Duration::from_secs(15 * 60);

/// Most links of one answer.
const LINKS_MAX: usize = 1_000;

/// Chunks of the store between it and the client.
const CHUNKS_QUEUED_MAX: usize = 2;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct First {
    /// Number of the first part.
    #[serde(default)]
    #[param(maximum = 4_294_967_295.0)]
    from: u32,
}

/// Links to the parts of a statement's rows.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Links)]
struct LinksBody {
    links: Vec<LinkBody>,
    /// Number of all parts.
    parts: usize,
    /// Time until which these links hold.
    expires: String,
    /// Place of the links after these.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Link to one part, which is an Arrow IPC stream.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Link)]
struct LinkBody {
    part: usize,
    /// URL of the store, which needs no token, or a path of this server, which does.
    href: String,
    is_presigned: bool,
    rows: u64,
    bytes: u64,
    /// CRC-32 of the bytes.
    crc32: u32,
}

/// Returns the linked rows of a statement, and the time for which they are kept.
fn linked(door: &Door, entry: &Entry) -> Result<(Arc<LinkedRows>, Duration), Problem> {
    let refused = |why: &str| Problem::new(StatusCode::CONFLICT, "links", why);
    let state = entry.state();
    let Progress::Ended(ended) = &state else {
        let detail = format!("the statement is {}: it has no rows yet", state.name());
        let refused = Problem::new(StatusCode::CONFLICT, "not-ended", detail);
        return Err(refused.with_hint("wait for it with ?wait_seconds="));
    };
    match &ended.result {
        Ok((_, Rows::Linked(rows))) => Ok((Arc::clone(rows), door.statements.time_left(ended))),
        Ok((_, Rows::None)) => Err(refused("the statement has no rows")),
        Ok((_, Rows::Spooled(_))) => {
            Err(refused("the statement has no links").with_hint("submit it with `links`, or fetch its result"))
        }
        Err(failure) => Err(failure.clone().into()),
    }
}

/// Makes the answer where the store does not do its part.
fn store_failed(error: &dyn std::error::Error) -> Problem {
    Problem::new(StatusCode::BAD_GATEWAY, "store", format!("the exchange does not answer: {error}"))
}

/// Returns links to the rows of a statement that was submitted with `links`.
///
/// Whoever has a presigned link may read the part, until it expires. Asking again makes new ones.
#[utoipa::path(
    get,
    path = "/v1/statements/{id}/links",
    params(("id" = String, Path, description = "Id of a statement"), First),
    responses((status = 200, description = "Links", body = LinksBody)),
)]
pub(super) async fn all(
    State(door): State<Arc<Door>>,
    Extension(principal): Extension<Principal>,
    Path(id): Path<String>,
    from: Result<Query<First>, QueryRejection>,
) -> Result<Response, Problem> {
    let from = of_query(from)?.from as usize;
    let entry = find(&door, &principal, &id)?;
    let (rows, left) = linked(&door, &entry)?;
    let parts = &rows.objects.parts;
    // A store takes whole seconds, one at least.
    let time = Duration::from_secs(left.min(LINK_TIME_MAX).as_secs().max(1));
    let mut links = Vec::new();
    for (number, part) in parts.iter().enumerate().skip(from).take(LINKS_MAX) {
        let signed = door.links.results.link(part, time).await.map_err(|error| store_failed(&error))?;
        let is_presigned = signed.is_some();
        let href = signed.map_or_else(|| format!("{}/links/{number}", href(&entry)), String::from);
        let KeptPart { rows, bytes, crc32, .. } = *part;
        links.push(LinkBody { part: number, href, is_presigned, rows, bytes, crc32 });
    }
    let next = from.saturating_add(LINKS_MAX);
    let next = (next < parts.len()).then(|| format!("{}/links?from={next}", href(&entry)));
    let expires = (Utc::now() + time).to_rfc3339();
    let body = axum::Json(LinksBody { links, parts: parts.len(), expires, next });
    Ok(([(CACHE_CONTROL, HeaderValue::from_static("no-store"))], body).into_response())
}

/// Returns one part of the rows, as an Arrow IPC stream.
#[utoipa::path(
    get,
    path = "/v1/statements/{id}/links/{part}",
    params(
        ("id" = String, Path, description = "Id of a statement"),
        ("part" = u32, Path, description = "Number of a part, from 0 on"),
    ),
    responses((status = 200, description = "The part", content_type = "application/vnd.apache.arrow.stream")),
)]
pub(super) async fn part(
    State(door): State<Arc<Door>>,
    Extension(principal): Extension<Principal>,
    Path((id, part)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let entry = find(&door, &principal, &id)?;
    let (rows, _) = linked(&door, &entry)?;
    let missing = || {
        let detail = format!("there are {} parts, which begin with 0", rows.objects.parts.len());
        Problem::new(StatusCode::NOT_FOUND, "not-found", detail)
    };
    let part = part.parse::<usize>().ok().and_then(|number| rows.objects.parts.get(number)).ok_or_else(missing)?;
    let place = door.results.take(principal.user.as_deref().unwrap_or_default());
    let place = place.ok_or_else(|| Problem::busy("too many results wait for their readers".to_owned()))?;
    let bytes = door.links.results.read(part).await.map_err(|error| store_failed(&error))?;
    let part_bytes = part.bytes;
    let (chunks, receiver) = mpsc::channel(CHUNKS_QUEUED_MAX);
    let (stalled_max, cut) = (door.stalled_max, cut(Arc::clone(&door), principal));
    spawn(&door, async move {
        hand_on(bytes, chunks, stalled_max, cut).await;
        // The rows go with the last owner of them.
        drop((place, rows));
    });
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(accept::media_type(OutputFormat::Arrow)));
    headers.insert(CONTENT_LENGTH, part_bytes.into());
    Ok((headers, Body::from_stream(whole(receiver, part_bytes))).into_response())
}

/// Hands the bytes of the store on, until the client is cut off, has gone or reads nothing for so long.
async fn hand_on<E>(
    mut bytes: BoxStream<'static, Result<Bytes, E>>,
    chunks: mpsc::Sender<Bytes>,
    stalled_max: Duration,
    cut: BoxFuture<'static, ()>,
) {
    let handing_on = async {
        while let Some(Ok(chunk)) = bytes.next().await {
            if !matches!(tokio::time::timeout(stalled_max, chunks.send(chunk)).await, Ok(Ok(()))) {
                return;
            }
        }
    };
    tokio::select! {
        () = handing_on => {}
        () = cut => {}
    }
}

/// Returns the chunks, and an error where fewer bytes come: no client takes a part of them for the whole.
fn whole(chunks: mpsc::Receiver<Bytes>, bytes: u64) -> impl Stream<Item = Result<Bytes, EndsEarly>> {
    stream::unfold(Some((chunks, bytes)), |left| async move {
        let (mut chunks, left) = left?;
        match chunks.recv().await {
            Some(chunk) => {
                let left = left.saturating_sub(chunk.len() as u64);
                Some((Ok(chunk), Some((chunks, left))))
            }
            None if left > 0 => Some((Err(EndsEarly), None)),
            None => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;

    use super::*;

    #[tokio::test]
    async fn fewer_bytes_than_a_part_has_are_an_error() {
        for (chunks, bytes, is_whole) in
            [(vec!["ab", "c"], 3, true), (vec!["ab"], 3, false), (vec![], 1, false), (vec![], 0, true)]
        {
            let (sender, receiver) = mpsc::channel(chunks.len().max(1));
            for chunk in &chunks {
                sender.send(Bytes::from_static(chunk.as_bytes())).await.expect("there is room");
            }
            drop(sender);
            let read = whole(receiver, bytes).try_collect::<Vec<_>>().await;
            assert_eq!(read.is_ok(), is_whole, "{chunks:?} of {bytes}");
        }
    }
}
