//! An answer's body on its way through a pipe, whole or cut.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures::{Stream, StreamExt};

use super::IdentityPipe;
use crate::s3::connection::Breaker;

/// End of a body.
#[derive(Debug, Clone)]
pub(super) enum BodyEnd {
    Whole,
    /// The body ends after so many bytes, as if it were over.
    After(u64),
    /// The connection breaks off after so many bytes.
    Breaks(u64, Breaker),
}

/// Returns the body's bytes, each piece as soon as the line lets it through.
pub(super) fn shaped(body: Body, line: Arc<IdentityPipe>, end: BodyEnd) -> Body {
    let left = match &end {
        BodyEnd::Whole => u64::MAX,
        BodyEnd::After(bytes) | BodyEnd::Breaks(bytes, _) => *bytes,
    };
    let breaker = match end {
        BodyEnd::Breaks(_, breaker) => Some(breaker),
        BodyEnd::Whole | BodyEnd::After(_) => None,
    };
    let flow = Flow { body: body.into_data_stream().boxed(), pending: Bytes::new(), left, breaker, line };
    Body::from_stream(flow.pieces())
}

struct Flow {
    body: futures::stream::BoxStream<'static, Result<Bytes, axum::Error>>,
    pending: Bytes,
    /// Bytes that may still pass.
    left: u64,
    breaker: Option<Breaker>,
    line: Arc<IdentityPipe>,
}

impl Flow {
    fn pieces(self) -> impl Stream<Item = io::Result<Bytes>> + Send {
        futures::stream::try_unfold(self, |mut flow| async move {
            let piece = flow.next().await?;
            Ok(piece.map(|piece| (piece, flow)))
        })
    }

    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        while self.pending.is_empty() && self.left > 0 {
            match self.body.next().await {
                Some(chunk) => self.pending = chunk.map_err(io::Error::other)?,
                None => return Ok(None),
            }
        }
        if self.left == 0 {
            let Some(breaker) = &self.breaker else { return Ok(None) };
            breaker.break_off();
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let bytes = self.line.piece_bytes().min(self.pending.len() as u64).min(self.left);
        let piece = self.pending.split_to(bytes as usize);
        self.left -= bytes;
        self.line.pass(bytes).await;
        Ok(Some(piece))
    }
}
