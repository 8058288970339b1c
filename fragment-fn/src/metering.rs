//! Counting decorator around a store: requests by kind, and bytes each way.
//!
//! It counts the calls of the decorated store, one request a call. It does not see retries inside the store's own client,
//! nor the pages of a long listing: one LIST a call here, one per 1,000 keys on S3. [`crate::Pace`] counts
//! the requests that a store refuses because too many come.

use std::fmt::{Display, Formatter};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use gust_protocol::Requests;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};

/// Running totals. Clones of the `Arc` share them.
#[derive(Debug, Default)]
pub struct Counters {
    get: AtomicU64,
    head: AtomicU64,
    list: AtomicU64,
    put: AtomicU64,
    delete: AtomicU64,
    hedged: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    /// Counters that count all of this, too.
    total: Option<Arc<Counters>>,
}

impl Counters {
    /// Makes counters that start at zero. `total` counts what they count, too.
    pub fn part_of(total: &Arc<Counters>) -> Self {
        Self { total: Some(Arc::clone(total)), ..Self::default() }
    }

    fn add(&self, counter: fn(&Self) -> &AtomicU64, more: u64) {
        counter(self).fetch_add(more, Relaxed);
        if let Some(total) = &self.total {
            total.add(counter, more);
        }
    }

    pub fn requests(&self) -> Requests {
        Requests {
            get: self.get.load(Relaxed),
            head: self.head.load(Relaxed),
            list: self.list.load(Relaxed),
            put: self.put.load(Relaxed),
            delete: self.delete.load(Relaxed),
            hedged: self.hedged.load(Relaxed),
        }
    }

    /// Notes that one of the GETs repeats a GET that had not answered in time.
    pub fn note_hedge(&self) {
        self.add(|c| &c.hedged, 1);
    }

    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Relaxed)
    }

    pub fn bytes_written(&self) -> u64 {
        self.bytes_written.load(Relaxed)
    }
}

/// Store that counts the calls of `inner`.
#[derive(Debug)]
pub struct CountingStore {
    inner: Arc<dyn ObjectStore>,
    counters: Arc<Counters>,
}

impl CountingStore {
    pub fn new(inner: Arc<dyn ObjectStore>, counters: Arc<Counters>) -> Self {
        Self { inner, counters }
    }
}

impl Display for CountingStore {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "counting({})", self.inner)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for CountingStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.counters.add(|c| &c.put, 1);
        self.counters.add(|c| &c.bytes_written, payload.content_length() as u64);
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.counters.add(|c| &c.put, 1);
        let upload = self.inner.put_multipart_opts(location, options).await?;
        Ok(Box::new(CountingUpload { upload, counters: Arc::clone(&self.counters) }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let head = options.head;
        self.counters.add(if head { |c| &c.head } else { |c| &c.get }, 1);
        let mut result = self.inner.get_opts(location, options).await?;
        match result.payload {
            // A local file is counted as its whole range when it is asked for.
            GetResultPayload::File(..) if !head => {
                self.counters.add(|c| &c.bytes_read, result.range.end - result.range.start);
            }
            GetResultPayload::File(..) => {}
            GetResultPayload::Stream(stream) => {
                let counters = Arc::clone(&self.counters);
                let counted = stream.inspect_ok(move |chunk| {
                    counters.add(|c| &c.bytes_read, chunk.len() as u64);
                });
                result.payload = GetResultPayload::Stream(counted.boxed());
            }
        }
        Ok(result)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.counters.add(|c| &c.get, ranges.len() as u64);
        let chunks = self.inner.get_ranges(location, ranges).await?;
        self.counters.add(|c| &c.bytes_read, chunks.iter().map(|c| c.len() as u64).sum());
        Ok(chunks)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let counters = Arc::clone(&self.counters);
        let counted = locations.inspect_ok(move |_| {
            counters.add(|c| &c.delete, 1);
        });
        self.inner.delete_stream(counted.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.counters.add(|c| &c.list, 1);
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.counters.add(|c| &c.list, 1);
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.counters.add(|c| &c.list, 1);
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.counters.add(|c| &c.put, 1);
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.counters.add(|c| &c.put, 1);
        self.inner.rename_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct CountingUpload {
    upload: Box<dyn MultipartUpload>,
    counters: Arc<Counters>,
}

#[async_trait]
impl MultipartUpload for CountingUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.counters.add(|c| &c.put, 1);
        self.counters.add(|c| &c.bytes_written, data.content_length() as u64);
        self.upload.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.counters.add(|c| &c.put, 1);
        self.upload.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.counters.add(|c| &c.delete, 1);
        self.upload.abort().await
    }
}
