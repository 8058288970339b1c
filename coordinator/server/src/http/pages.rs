//! One page of a statement's kept rows.

use std::sync::Arc;

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderName};
use axum::response::{IntoResponse, Response};
use gust_output::{OutputFormat, RowWriter};
use serde_json::value::RawValue;

use super::held::holding;
use super::problem::Problem;
use super::statements::href;
use crate::door::Door;
use crate::run::of_output;
use crate::spool::Spool;
use crate::statements::Entry;
use crate::tokens::Principal;

/// Header with the number of the page after this one.
const NEXT_PAGE: HeaderName = HeaderName::from_static("gust-next-page");

/// Returns one page. As JSON it says whether it is the last one.
pub(super) async fn one_page(
    door: &Door,
    principal: &Principal,
    entry: &Entry,
    spool: &Spool,
    page: usize,
    format: OutputFormat,
) -> Result<Response, Problem> {
    let pages = spool.pages();
    if page >= pages {
        let detail = format!("there are {pages} pages, which begin with 0");
        return Err(Problem::new(StatusCode::NOT_FOUND, "not-found", detail));
    }
    let place = door.results.take(principal.user.as_deref().unwrap_or_default());
    let place = place.ok_or_else(|| Problem::busy("too many results wait for their readers".to_owned()))?;
    let spool = spool.clone();
    let schema = Arc::clone(spool.schema());
    let writing = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        let written = RowWriter::new(&mut bytes, format).write_rows(&schema, spool.page_batches(page));
        written.map(|_| bytes)
    });
    let fault = |why: String| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "fault", why);
    let bytes = writing.await.map_err(|error| fault(error.to_string()))?;
    let bytes = bytes.map_err(|error| Problem::from(crate::run::Failure::from(of_output(error))))?;
    let next = (page + 1 < pages).then_some(page + 1);
    let mut response = match format {
        OutputFormat::Json => {
            let rows = String::from_utf8(bytes).ok().and_then(|text| RawValue::from_string(text).ok());
            let rows = rows.ok_or_else(|| fault("the rows are no JSON".to_owned()))?;
            let href = next.map(|next| format!("{}/result?page={next}", href(entry)));
            axum::Json(PageBody { page, pages, rows, is_last: next.is_none(), next: href }).into_response()
        }
        _ => ([(CONTENT_TYPE, super::accept::media_type(format))], Body::from(bytes)).into_response(),
    };
    if let Some(next) = next {
        response.headers_mut().insert(NEXT_PAGE, next.into());
    }
    // The page is in memory until its reader has it.
    Ok(holding(response, place))
}

#[derive(serde::Serialize)]
struct PageBody {
    page: usize,
    pages: usize,
    rows: Box<RawValue>,
    is_last: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}
