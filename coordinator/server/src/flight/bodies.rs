//! Bounds of what clients send: the version of HTTP, the time of a body, and the bodies on their way at the same time.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::{FutureExt, StreamExt};

use crate::admission::Admission;
use crate::http::Problem;
use crate::tokens::Principal;

/// Most bytes of one message of a client. A statement has at most half of them.
pub(super) const MESSAGE_BYTES_MAX: usize = 2 << 20;

/// Longest time in which the body of a call arrives.
const BODY_TIME_MAX: Duration = Duration::from_secs(30);

/// Bodies on their way at the same time, and those of one user.
const BODIES_MAX: usize = 64;
const BODIES_OF_USER_MAX: usize = 32;

/// Makes the places of bodies.
pub(super) fn places() -> Admission {
    Admission::new(BODIES_MAX, 0).with_user_max(BODIES_OF_USER_MAX)
}

/// Bounds the body of a call.
pub(super) async fn bounded(State(places): State<Admission>, request: Request, next: Next) -> Response {
    // HTTP/1.1 has no place for the status of a call, so that a result that is cut looks like a whole one.
    if request.version() != Version::HTTP_2 {
        let detail = "Flight SQL needs HTTP/2";
        return Problem::new(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "version", detail).into_response();
    }
    let user = request.extensions().get::<Principal>().and_then(|principal| principal.user.clone());
    let waiting = places.queue(user.as_deref().unwrap_or_default());
    let Some(place) = waiting.ok().and_then(|waiting| waiting.turn().now_or_never()) else {
        return Problem::busy("too many calls are sent at the same time".to_owned()).into_response();
    };
    let (head, body) = request.into_parts();
    let late = tokio::time::sleep(BODY_TIME_MAX);
    // The place is given back with the body.
    let bounded = body.into_data_stream().take_until(late).map(move |part| {
        let _held = &place;
        part
    });
    next.run(Request::from_parts(head, Body::from_stream(bounded))).await
}
