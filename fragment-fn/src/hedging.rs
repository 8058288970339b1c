//! Decorator that sends a late read once more. The first answer is used, the other read is dropped.
//!
//! One read in a few hundred meets a store that is slow for it alone, and takes ten times as long as its neighbours. The
//! query then waits for that read. A second read of the same bytes mostly meets a healthy server.
//!
//! ```text
//!  get ─► first byte due: multiple × latency ──► late: the same GET again, the first answer is used
//!     ├─► each next byte due: multiple × latency, + turns ─────┐
//!     └─► last byte due: multiple × (latency + time of a body) ┴─► late: a GET of the missing bytes, which are taken from
//!         the read that has all of them first
//! ```
//!
//! A body is sent again only if it is slow beside this client's other bodies ([`Pace`]): a second read would go through the
//! same pipe. Until a first body has shown the pipe's rate, only silence counts. A read that carries the mark [`Waited`] is
//! not late before the mark is set, and is then as late as one that was waited for from the request on. The decorator stands
//! outside the one that counts, so that both reads are counted. A body that ends before its range does is an error, late or
//! not.
//!
//! Non-goals: writes, heads and lists; local files; bodies longer than 64 MiB.

use std::fmt::{Display, Formatter};
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::future::{Either, select};
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, coalesce_ranges,
};
use tokio::time::{Instant, sleep_until};

use crate::bridge::BRIDGE_BYTES_MAX;
use crate::metering::Counters;
use crate::pace::Pace;

mod body;
mod waited;

use body::{BodyClock, HedgedBody};
pub use waited::Waited;

/// Reads that pay for one second read: 0.5 % of reads may be sent again.
pub const READS_PER_HEDGE: u64 = 200;
/// Second reads that a new client may send at once, because a query waits for the client's first reads.
///
/// A fleet of new clients thus sends at most one read more each, and only where a read is late.
pub const HEDGES_AT_START: u64 = 1;
/// Most second reads that a client saves up in a time without late reads. A store that slows down for all is not asked twice.
const HEDGES_SAVED_MAX: u64 = 8;

/// Bytes of a body that come at a time, while others come beside it.
const TURN_BYTES: u64 = 64 << 10;
/// Turns that a body may miss in a pipe which it shares.
const TURNS: f64 = 2.0;

/// Expected time of a read, and the multiple of it after which the read is late.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpectedRead {
    pub latency: Duration,
    pub bytes_per_second: f64,
    pub late_multiple: f64,
}

impl Default for ExpectedRead {
    /// Starling (SIGMOD 2020): a read of S3 takes 15 ms + bytes × readers / 150 MB/s. At nine times that, 0.3 % of reads
    /// are late by S3's published latencies (99 % within 106 ms, 99.99 % within 283 ms), inside the budget of 0.5 %.
    fn default() -> Self {
        Self { latency: Duration::from_millis(15), bytes_per_second: 150e6, late_multiple: 9.0 }
    }
}

/// Second reads that one client may send. It lives as long as the client.
#[derive(Debug)]
pub struct Hedger {
    expected: ExpectedRead,
    /// Times of the client's reads.
    pace: Arc<Pace>,
    /// Reads that have paid for second reads not sent yet.
    credit: AtomicU64,
}

impl Hedger {
    pub fn new(expected: ExpectedRead, pace: Arc<Pace>) -> Self {
        Self { expected, pace, credit: AtomicU64::new(HEDGES_AT_START * READS_PER_HEDGE) }
    }

    /// Makes the hedger for the store of a URL. None for local files: a disk is not asked twice.
    pub fn for_store(url: &str, pace: Arc<Pace>) -> Option<Arc<Self>> {
        (!url.starts_with("file:")).then(|| Arc::new(Self::new(ExpectedRead::default(), pace)))
    }

    /// Returns the times of the client's reads.
    pub fn pace(&self) -> &Arc<Pace> {
        &self.pace
    }

    fn earn(&self) {
        let saved = |credit: u64| Some((credit + 1).min(HEDGES_SAVED_MAX * READS_PER_HEDGE));
        // It never fails: the closure always returns a value.
        let _ = self.credit.fetch_update(Relaxed, Relaxed, saved);
    }

    fn spend(&self) -> bool {
        self.credit.fetch_update(Relaxed, Relaxed, |credit| credit.checked_sub(READS_PER_HEDGE)).is_ok()
    }

    fn silence_max(&self) -> Duration {
        self.expected.latency.mul_f64(self.expected.late_multiple)
    }

    /// Returns the longest time to the next byte of a body. Bodies beside it come in turns.
    fn next_byte_max(&self) -> Duration {
        self.silence_max() + self.pace.round_time(TURN_BYTES).mul_f64(TURNS)
    }

    /// Returns the longest time from the request to the last byte, beside the bodies that come now. None until the pipe's
    /// rate is known.
    fn last_byte_max(&self, bytes: u64) -> Option<Duration> {
        let ExpectedRead { bytes_per_second, late_multiple, .. } = self.expected;
        let body = self.pace.body_time(bytes, bytes_per_second)?;
        Some(self.silence_max() + body.mul_f64(late_multiple))
    }
}

/// Store that sends late reads of `inner` again.
#[derive(Debug)]
pub struct HedgedStore {
    inner: Arc<dyn ObjectStore>,
    hedger: Arc<Hedger>,
    counters: Arc<Counters>,
}

impl HedgedStore {
    /// Makes the store. `counters` count the second reads, and `inner` counts every read.
    pub fn new(inner: Arc<dyn ObjectStore>, hedger: Arc<Hedger>, counters: Arc<Counters>) -> Self {
        Self { inner, hedger, counters }
    }

    /// Makes `store` send its late reads again, where there is a hedger.
    pub fn wrap(
        store: Arc<dyn ObjectStore>,
        hedger: Option<Arc<Hedger>>,
        counters: &Arc<Counters>,
    ) -> Arc<dyn ObjectStore> {
        match hedger {
            Some(hedger) => Arc::new(Self::new(store, hedger, Arc::clone(counters))),
            None => store,
        }
    }

    /// Waits for the first byte, from a second read if need be.
    async fn answer(&self, location: &Path, options: &GetOptions, asked: Instant) -> Result<GetResult> {
        let mut first = self.inner.get_opts(location, options.clone());
        let late = async {
            Waited::wait(options.extensions.get()).await;
            sleep_until(asked + self.hedger.silence_max()).await;
        };
        tokio::select! {
            biased;
            answer = &mut first => return answer,
            () = late => {}
        }
        if !self.hedger.spend() {
            return first.await;
        }
        self.counters.note_hedge();
        tracing::debug!(%location, "a read without an answer is sent again");
        first_success(first, self.inner.get_opts(location, options.clone())).await
    }
}

/// Returns the first success of two and drops the other. If both fail, it returns the error of the first read.
async fn first_success<T>(
    asked_first: impl Future<Output = Result<T>> + Unpin,
    asked_again: impl Future<Output = Result<T>> + Unpin,
) -> Result<T> {
    match select(asked_first, asked_again).await {
        Either::Left((Ok(answer), _)) | Either::Right((Ok(answer), _)) => Ok(answer),
        Either::Left((Err(error), other)) => other.await.map_err(|_| error),
        Either::Right((Err(_), other)) => other.await,
    }
}

impl Display for HedgedStore {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "hedged({})", self.inner)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for HedgedStore {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if options.head {
            return self.inner.get_opts(location, options).await;
        }
        self.hedger.earn();
        let asked = Instant::now();
        let GetResult { payload, meta, range, attributes } = self.answer(location, &options, asked).await?;
        let answered_after = asked.elapsed();
        // An odd answer hardly moves the mean.
        self.hedger.pace.note_first_byte(answered_after.min(self.hedger.silence_max()));
        let payload = match payload {
            GetResultPayload::Stream(stream) => {
                let clock = BodyClock {
                    hedger: Arc::clone(&self.hedger),
                    bytes: range.end - range.start,
                    answered_after,
                    waited: Duration::ZERO,
                };
                let options = GetOptions { if_match: meta.e_tag.clone(), ..options };
                let body = HedgedBody {
                    inner: Arc::clone(&self.inner),
                    counters: Arc::clone(&self.counters),
                    clock,
                    location: location.clone(),
                    options,
                    stream,
                    range: range.clone(),
                    missing: range.clone(),
                    // Without an etag the missing bytes might come from another object.
                    may_hedge: meta.e_tag.is_some(),
                };
                let chunks = futures::stream::try_unfold(body, |mut body| async move {
                    Ok(body.next().await?.map(|chunk| (chunk, body)))
                });
                GetResultPayload::Stream(chunks.boxed())
            }
            file @ GetResultPayload::File(..) => file,
        };
        Ok(GetResult { payload, meta, range, attributes })
    }

    /// Reads ranges that lie close together with one request. Each request is watched by itself. Data files are read by
    /// [`crate::PinnedFile`], which knows the gap that pays.
    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        coalesce_ranges(ranges, |range| self.get_range(location, range), BRIDGE_BYTES_MAX).await
    }

    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests;
