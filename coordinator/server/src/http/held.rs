//! A body that holds something until its last byte is sent, or its client has gone.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http_body::{Frame, SizeHint};

#[derive(Debug)]
struct Held<T> {
    body: Body,
    /// True once a frame was handed on.
    has_begun: bool,
    _held: T,
}

/// Makes a response's body hold something.
pub(super) fn holding<T: Send + Unpin + 'static>(response: Response, held: T) -> Response {
    response.map(|body| Body::new(Held { body, has_begun: false, _held: held }))
}

impl<T: Unpin> http_body::Body for Held<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        self.has_begun |= frame.is_ready();
        frame
    }

    /// Returns true for an empty body alone. One that says it is at its end is dropped when its last frame is buffered, not when it is
    /// sent.
    fn is_end_stream(&self) -> bool {
        !self.has_begun && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
