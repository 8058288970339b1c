//! A counting decorator around a store: requests by kind and bytes each way.
//!
//! It counts what the decorated store is asked, one request a call. Not tracked: retries inside the store's own client, and
//! the pages of a long listing (one LIST a call here, one per 1,000 keys on S3).

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

/// Running totals; cloning the `Arc` shares them.
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
}

impl Counters {
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

    /// One of the GETs is a second try at what another has not answered in time.
    pub fn note_hedge(&self) {
        self.hedged.fetch_add(1, Relaxed);
    }

    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Relaxed)
    }

    pub fn bytes_written(&self) -> u64 {
        self.bytes_written.load(Relaxed)
    }
}

/// Counts what passes through to `inner`.
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
        self.counters.put.fetch_add(1, Relaxed);
        self.counters.bytes_written.fetch_add(payload.content_length() as u64, Relaxed);
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.counters.put.fetch_add(1, Relaxed);
        let upload = self.inner.put_multipart_opts(location, options).await?;
        Ok(Box::new(CountingUpload { upload, counters: Arc::clone(&self.counters) }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let kind = if options.head { &self.counters.head } else { &self.counters.get };
        kind.fetch_add(1, Relaxed);
        let head = options.head;
        let mut result = self.inner.get_opts(location, options).await?;
        match result.payload {
            // A local file is read as a whole range once it is asked for.
            GetResultPayload::File(..) if !head => {
                self.counters.bytes_read.fetch_add(result.range.end - result.range.start, Relaxed);
            }
            GetResultPayload::File(..) => {}
            GetResultPayload::Stream(stream) => {
                let counters = Arc::clone(&self.counters);
                let counted = stream.inspect_ok(move |chunk| {
                    counters.bytes_read.fetch_add(chunk.len() as u64, Relaxed);
                });
                result.payload = GetResultPayload::Stream(counted.boxed());
            }
        }
        Ok(result)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.counters.get.fetch_add(ranges.len() as u64, Relaxed);
        let chunks = self.inner.get_ranges(location, ranges).await?;
        self.counters.bytes_read.fetch_add(chunks.iter().map(|c| c.len() as u64).sum(), Relaxed);
        Ok(chunks)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let counters = Arc::clone(&self.counters);
        let counted = locations.inspect_ok(move |_| {
            counters.delete.fetch_add(1, Relaxed);
        });
        self.inner.delete_stream(counted.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.counters.list.fetch_add(1, Relaxed);
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.counters.list.fetch_add(1, Relaxed);
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.counters.list.fetch_add(1, Relaxed);
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.counters.put.fetch_add(1, Relaxed);
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.counters.put.fetch_add(1, Relaxed);
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
        self.counters.put.fetch_add(1, Relaxed);
        self.counters.bytes_written.fetch_add(data.content_length() as u64, Relaxed);
        self.upload.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.counters.put.fetch_add(1, Relaxed);
        self.upload.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.counters.delete.fetch_add(1, Relaxed);
        self.upload.abort().await
    }
}
