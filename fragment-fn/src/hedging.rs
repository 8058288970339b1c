//! Decorator that sends a late read once more. The first answer is used, the other read is dropped.
//!
//! One read in a few hundred meets a store that is slow for it alone, and takes ten times as long as its neighbours. The
//! query then waits for that read. A second read of the same bytes mostly meets a healthy server.
//!
//! ```text
//!  get ─► first byte due: multiple × latency ──► late: the same GET again, the first answer is used
//!     ├─► each next byte due: multiple × latency ──┐
//!     └─► last byte due: multiple × (latency + bytes × readers / rate) ──┴─► late: a GET of the missing bytes, which are
//!         taken from the read that has all of them first
//! ```
//!
//! A body is sent again only if it is slow beside this client's other bodies: a second read would go through the same pipe.
//! Until a first body has shown the pipe's rate, only silence counts. The decorator stands outside the one that counts, so
//! that both reads are counted. A body that ends before its range does is an error, late or not.
//!
//! Non-goals: writes, heads and lists; local files; bodies longer than [`MISSING_BYTES_MAX`].

use std::fmt::{Display, Formatter};
use std::future::Future;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{Either, select};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    OBJECT_STORE_COALESCE_DEFAULT, ObjectMeta, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, RenameOptions, Result, coalesce_ranges,
};
use tokio::time::{Instant, timeout};

use crate::metering::Counters;

/// Reads that pay for one second read: 0.5 % of reads may be sent again.
pub const READS_PER_HEDGE: u64 = 200;
/// Second reads that a new client may send at once, because a query waits for the client's first reads.
///
/// A fleet of new clients thus sends at most one read more each, and only where a read is late.
pub const HEDGES_AT_START: u64 = 1;
/// Most second reads that a client saves up in a time without late reads. A store that slows down for all is not asked twice.
const HEDGES_SAVED_MAX: u64 = 8;
/// Most bytes of a body that are held while two reads race for it.
const MISSING_BYTES_MAX: u64 = 64 << 20;
/// Shortest body from which the rate is learnt, in bytes. Shorter bodies tell more about latency than about the pipe.
const RATE_BYTES_MIN: u64 = 64 << 10;

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

/// Knowledge of one client about its reads. It lives as long as the client.
#[derive(Debug)]
pub struct Hedger {
    expected: ExpectedRead,
    /// Reads that have paid for second reads not sent yet.
    credit: AtomicU64,
    /// Reads under way, which share the client's pipe.
    readers: AtomicUsize,
    /// Rate of the pipe in bytes a second, once it was seen.
    rate: Mutex<Option<f64>>,
}

impl Hedger {
    pub fn new(expected: ExpectedRead) -> Self {
        let credit = AtomicU64::new(HEDGES_AT_START * READS_PER_HEDGE);
        Self { expected, credit, readers: AtomicUsize::new(0), rate: Mutex::default() }
    }

    /// Makes the hedger for the store of a URL. None for local files: a disk is not asked twice.
    pub fn for_store(url: &str) -> Option<Arc<Self>> {
        (!url.starts_with("file:")).then(|| Arc::new(Self::new(ExpectedRead::default())))
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

    /// Returns the longest time from the request to the last byte. None until the pipe's rate is known.
    fn last_byte_max(&self, bytes: u64) -> Option<Duration> {
        let seen = (*self.rate.lock().expect("no holder panics"))?;
        let rate = seen.min(self.expected.bytes_per_second);
        let shared = bytes as f64 * self.readers.load(Relaxed).max(1) as f64;
        Some(self.silence_max() + Duration::from_secs_f64(self.expected.late_multiple * shared / rate))
    }

    /// Learns the pipe's rate from a body that has come whole.
    fn note_rate(&self, bytes: u64, took: Duration) {
        if bytes < RATE_BYTES_MIN || took < Duration::from_millis(1) {
            return;
        }
        let shared = bytes as f64 * self.readers.load(Relaxed).max(1) as f64 / took.as_secs_f64();
        let mut rate = self.rate.lock().expect("no holder panics");
        // The latest body weighs one fifth: the rate follows the end of a burst within a few reads, and hardly follows one odd read.
        *rate = Some(rate.map_or(shared, |rate| 0.8 * rate + 0.2 * shared));
    }
}

/// Read under way.
#[derive(Debug)]
struct ReadUnderWay(Arc<Hedger>);

impl ReadUnderWay {
    fn enter(hedger: &Arc<Hedger>) -> Self {
        hedger.earn();
        hedger.readers.fetch_add(1, Relaxed);
        Self(Arc::clone(hedger))
    }
}

impl Drop for ReadUnderWay {
    fn drop(&mut self) {
        self.0.readers.fetch_sub(1, Relaxed);
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
    async fn answer(&self, location: &Path, options: &GetOptions) -> Result<GetResult> {
        let mut first = self.inner.get_opts(location, options.clone());
        match timeout(self.hedger.silence_max(), &mut first).await {
            Ok(answer) => answer,
            Err(_) if self.hedger.spend() => {
                self.counters.note_hedge();
                tracing::debug!(%location, "a read without an answer is sent again");
                first_success(first, self.inner.get_opts(location, options.clone())).await
            }
            Err(_) => first.await,
        }
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

/// Body that is watched while it comes.
struct HedgedBody {
    inner: Arc<dyn ObjectStore>,
    counters: Arc<Counters>,
    read: ReadUnderWay,
    location: Path,
    /// Options of a request for the same object: its etag is a condition.
    options: GetOptions,
    stream: BoxStream<'static, Result<Bytes>>,
    range: Range<u64>,
    /// Bytes that have not come yet.
    missing: Range<u64>,
    /// Time left until the last byte is late. None while the pipe's rate is not known.
    time_left: Option<Duration>,
    /// True where a second read may be sent.
    may_hedge: bool,
    time_waited: Duration,
}

impl HedgedBody {
    /// Returns the next bytes. Only time in which somebody waits for them counts.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let asked = Instant::now();
        let silence_max = self.read.0.silence_max();
        let due = self.time_left.map_or(silence_max, |time_left| time_left.min(silence_max));
        let next = match timeout(due, self.stream.next()).await {
            Ok(next) => next,
            Err(_) if self.may_hedge && self.missing_bytes() <= MISSING_BYTES_MAX && self.read.0.spend() => {
                return self.race().await.map(Some);
            }
            Err(_) => {
                self.may_hedge = false;
                self.stream.next().await
            }
        };
        let waited = asked.elapsed();
        self.time_waited += waited;
        self.time_left = self.time_left.map(|time_left| time_left.saturating_sub(waited));
        let chunk = next.transpose()?;
        match &chunk {
            Some(chunk) => self.missing.start += chunk.len() as u64,
            None => {
                // The caller would take a body that ends early for a whole one.
                check_length(self.range_bytes() - self.missing_bytes(), &self.range, &self.location)?;
                self.read.0.note_rate(self.range_bytes(), self.time_waited);
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
        let read = ReadUnderWay::enter(&self.hedger);
        let asked = Instant::now();
        let GetResult { payload, meta, range, attributes } = self.answer(location, &options).await?;
        let payload = match payload {
            GetResultPayload::Stream(stream) => {
                let due = self.hedger.last_byte_max(range.end - range.start);
                let options = GetOptions { if_match: meta.e_tag.clone(), ..options };
                let body = HedgedBody {
                    inner: Arc::clone(&self.inner),
                    counters: Arc::clone(&self.counters),
                    read,
                    location: location.clone(),
                    options,
                    stream,
                    range: range.clone(),
                    missing: range.clone(),
                    time_left: due.map(|due| due.saturating_sub(asked.elapsed())),
                    // Without an etag the missing bytes might come from another object.
                    may_hedge: meta.e_tag.is_some(),
                    time_waited: Duration::ZERO,
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

    /// Reads ranges that lie close together with one request. Each request is watched by itself.
    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        coalesce_ranges(ranges, |range| self.get_range(location, range), OBJECT_STORE_COALESCE_DEFAULT).await
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
