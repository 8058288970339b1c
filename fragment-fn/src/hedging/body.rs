//! Body of a read that is watched while it comes.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, ObjectStore, Result};
use tokio::time::{Instant, sleep};

use super::{Hedger, Waited, first_success};
use crate::metering::Counters;

/// Most bytes of a body that are held while two reads race for it.
const MISSING_BYTES_MAX: u64 = 64 << 20;

/// Clock of a read whose body comes.
pub(super) struct BodyClock {
    pub(super) hedger: Arc<Hedger>,
    pub(super) bytes: u64,
    /// Time from the request to the answer.
    pub(super) answered_after: Duration,
    /// Time in which somebody has waited for bytes of the body.
    pub(super) waited: Duration,
}

impl BodyClock {
    /// Waits until the next bytes, asked for at `asked`, or the last ones are late. The bodies that come beside this one may
    /// become more or fewer meanwhile.
    async fn late(&self, asked: Instant) {
        loop {
            let silent = asked.elapsed();
            let silence_left = self.hedger.next_byte_max().saturating_sub(silent);
            let left = match self.hedger.last_byte_max(self.bytes) {
                Some(max) => silence_left.min(max.saturating_sub(self.answered_after + self.waited + silent)),
                None => silence_left,
            };
            if left.is_zero() {
                return;
            }
            sleep(left).await;
        }
    }
}

/// Body that is watched while it comes.
pub(super) struct HedgedBody {
    pub(super) inner: Arc<dyn ObjectStore>,
    pub(super) counters: Arc<Counters>,
    pub(super) clock: BodyClock,
    pub(super) location: Path,
    /// Options of a request for the same object: its etag is a condition.
    pub(super) options: GetOptions,
    pub(super) stream: BoxStream<'static, Result<Bytes>>,
    pub(super) range: Range<u64>,
    /// Bytes that have not come yet.
    pub(super) missing: Range<u64>,
    /// True where a second read may be sent.
    pub(super) may_hedge: bool,
}

impl HedgedBody {
    /// Returns the next bytes. Only time in which somebody asks for them counts.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        let mut receiving = self.clock.hedger.pace.receive();
        let may_hedge = self.may_hedge && self.missing_bytes() <= MISSING_BYTES_MAX;
        let asked = Instant::now();
        let (clock, extensions) = (&self.clock, &self.options.extensions);
        let late = async {
            Waited::wait(extensions.get()).await;
            clock.late(asked).await;
        };
        let in_time = tokio::select! {
            biased;
            next = self.stream.next() => Some(next),
            () = late, if may_hedge => None,
        };
        let next = match in_time {
            Some(next) => next,
            None if self.clock.hedger.spend() => {
                let bytes = self.race().await?;
                receiving.came(bytes.len() as u64);
                return Ok(Some(bytes));
            }
            None => {
                self.may_hedge = false;
                self.stream.next().await
            }
        };
        self.clock.waited += asked.elapsed();
        let chunk = next.transpose()?;
        match &chunk {
            Some(chunk) => {
                receiving.came(chunk.len() as u64);
                self.missing.start += chunk.len() as u64;
            }
            None => {
                // The caller would take a body that ends early for a whole one.
                check_length(self.range_bytes() - self.missing_bytes(), &self.range, &self.location)?;
                self.clock.hedger.pace.note_body(self.range_bytes(), self.clock.waited);
            }
        }
        Ok(chunk)
    }

    fn range_bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    fn missing_bytes(&self) -> u64 {
        self.missing.end.saturating_sub(self.missing.start)
    }

    /// Reads the missing bytes, from this read or from a second one.
    async fn race(&mut self) -> Result<Bytes> {
        self.counters.note_hedge();
        tracing::debug!(location = %self.location, missing = self.missing_bytes(), "a late read is sent again");
        let location = self.location.clone();
        let missing = self.missing.clone();
        let stream = std::mem::replace(&mut self.stream, futures::stream::empty().boxed());
        let on = async {
            let bytes = Bytes::from(stream.try_collect::<Vec<_>>().await?.concat());
            check_length(bytes.len() as u64, &missing, &location).map(|()| bytes)
        };
        let again = async {
            let options = GetOptions { range: Some(GetRange::Bounded(missing.clone())), ..self.options.clone() };
            let bytes = self.inner.get_opts(&location, options).await?.bytes().await?;
            check_length(bytes.len() as u64, &missing, &location).map(|()| bytes)
        };
        let bytes = first_success(Box::pin(on), Box::pin(again)).await?;
        self.missing.start = self.missing.end;
        self.may_hedge = false;
        // The race tells nothing about the pipe's rate.
        self.range = self.missing.clone();
        Ok(bytes)
    }
}

fn check_length(bytes: u64, range: &Range<u64>, location: &Path) -> Result<()> {
    let expected = range.end - range.start;
    if bytes == expected {
        return Ok(());
    }
    let source = format!("{location}: {expected} bytes were asked for, {bytes} came").into();
    Err(Error::Generic { store: "hedged", source })
}
