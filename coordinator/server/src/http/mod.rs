//! The HTTP API: routes, and what holds for each of them.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;

use crate::door::Door;

mod accept;
mod auth;
mod events;
mod guard;
mod problem;
mod query;
mod request;
mod statements;

pub(crate) use auth::secret;
pub(crate) use events::{decimals, dollars};
pub(crate) use guard::Hosts;
use problem::Problem;

/// Path that everybody may ask.
const HEALTH: &str = "/v1/health";

/// Makes the routes of the server.
pub(crate) fn routes(door: Arc<Door>, hosts: Hosts) -> Router {
    let api = Router::new()
        .route(HEALTH, get(health))
        .route("/metrics", get(metrics))
        .route("/v1/query", post(query::query))
        .route("/v1/statements", post(statements::submit).get(statements::list))
        .route("/v1/statements/{id}", get(statements::status).delete(statements::cancel))
        .route("/v1/statements/{id}/events", get(statements::events))
        .route("/v1/statements/{id}/result", get(statements::rows))
        .method_not_allowed_fallback(wrong_method)
        .with_state(Arc::clone(&door));
    api.merge(crate::flight::routes(Arc::clone(&door)))
        .fallback(unknown)
        .layer(middleware::from_fn_with_state(door, auth::authenticate))
        .layer(middleware::from_fn_with_state(Arc::new(hosts), guard::guard))
        .layer(middleware::from_fn(crate::flight::as_status))
}

async fn health() -> Response {
    axum::Json(json!({ "status": "ok" })).into_response()
}

async fn metrics(State(door): State<Arc<Door>>) -> Response {
    ([(CONTENT_TYPE, crate::metrics::MEDIA_TYPE)], door.metrics_text()).into_response()
}

async fn unknown() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not-found", "there is nothing at this path")
}

async fn wrong_method() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method", "this path has another method")
}
