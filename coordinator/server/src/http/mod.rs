//! The HTTP API: routes, and what holds for each of them.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde::Serialize;
use utoipa::ToSchema;

use crate::door::Door;
use crate::tokens::Principal;

mod accept;
mod auth;
mod budgets;
mod events;
mod guard;
mod held;
mod links;
mod openapi;
mod pages;
mod problem;
mod query;
mod request;
mod statements;
mod trace;

pub(crate) use auth::secret;
pub(crate) use events::{decimals, dollars, event};
pub(crate) use guard::Hosts;
pub(crate) use problem::Problem;
pub(crate) use request::QueryRequest;

/// Path that says if the server is up.
const HEALTH: &str = "/v1/health";

/// Paths that everybody may ask, also without a token.
const OPEN: [&str; 2] = [HEALTH, openapi::PATH];

/// Makes the routes of the server.
pub(crate) fn routes(door: Arc<Door>, hosts: Hosts) -> Router {
    let api = Router::new()
        .route(HEALTH, get(health))
        .route(openapi::PATH, get(openapi::document))
        .route("/metrics", get(metrics))
        .route("/v1/budgets", get(budgets::list))
        .route("/v1/query", post(query::query))
        .route("/v1/statements", post(statements::submit).get(statements::list))
        .route("/v1/statements/{id}", get(statements::status).delete(statements::cancel))
        .route("/v1/statements/{id}/events", get(statements::events))
        .route("/v1/statements/{id}/links", get(links::all))
        .route("/v1/statements/{id}/links/{part}", get(links::part))
        .route("/v1/statements/{id}/result", get(statements::rows))
        .route("/v1/statements/{id}/trace", get(trace::show))
        .method_not_allowed_fallback(wrong_method)
        .with_state(Arc::clone(&door));
    api.merge(crate::flight::routes(Arc::clone(&door)))
        .fallback(unknown)
        .layer(middleware::from_fn_with_state(door, auth::authenticate))
        .layer(middleware::from_fn_with_state(Arc::new(hosts), guard::guard))
        .layer(middleware::from_fn(crate::flight::as_status))
}

/// Health of the server.
#[derive(Debug, Serialize, ToSchema)]
struct Health {
    status: &'static str,
}

/// Says that the server is up.
///
/// Everybody may ask, also without a token.
#[utoipa::path(
    get,
    path = "/v1/health",
    security(()),
    responses((status = 200, description = "The server is up", body = Health)),
)]
async fn health() -> Response {
    axum::Json(Health { status: "ok" }).into_response()
}

/// Returns metrics for Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    responses((status = 200, description = "Text of Prometheus", content_type = "text/plain", body = String)),
)]
async fn metrics(State(door): State<Arc<Door>>, Extension(principal): Extension<Principal>) -> Response {
    ([(CONTENT_TYPE, crate::metrics::MEDIA_TYPE)], door.metrics_text(&principal)).into_response()
}

async fn unknown() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not-found", "there is nothing at this path")
}

async fn wrong_method() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method", "this path has another method")
}
