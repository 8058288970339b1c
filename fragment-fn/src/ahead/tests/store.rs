//! Store that notes GETs and lets them through one by one.

use std::fmt::{Display, Formatter};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMultipartOptions,
    PutOptions, PutPayload, PutResult,
};
use tokio::sync::Semaphore;

use super::*;

#[derive(Debug)]
pub(super) struct GatedStore {
    inner: InMemory,
    pub(super) gets: Mutex<Vec<(Path, Range<u64>)>>,
    pub(super) under_way: Arc<AtomicUsize>,
    pub(super) gate: Semaphore,
    /// Number of GETs that fail next.
    pub(super) failing: AtomicUsize,
}

impl GatedStore {
    /// Makes an empty store that holds every GET.
    pub(super) fn new() -> Self {
        Self {
            inner: InMemory::new(),
            gets: Mutex::default(),
            under_way: Arc::default(),
            gate: Semaphore::new(0),
            failing: AtomicUsize::new(0),
        }
    }
}

/// GET that ends when it is answered or dropped.
struct UnderWay(Arc<AtomicUsize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Display for GatedStore {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("gated")
    }
}

#[async_trait]
impl ObjectStore for GatedStore {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        if let Some(GetRange::Bounded(range)) = &options.range {
            self.gets.lock().expect("no holder panics").push((location.clone(), range.clone()));
        }
        let fails = self.failing.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
        self.under_way.fetch_add(1, SeqCst);
        let _under_way = UnderWay(Arc::clone(&self.under_way));
        self.gate.acquire().await.expect("it is never closed").forget();
        if fails {
            return Err(object_store::Error::Generic { store: "gated", source: "asked to fail".into() });
        }
        self.inner.get_opts(location, options).await
    }

    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        self.inner.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        unreachable!("only read")
    }

    fn delete_stream(
        &self,
        _: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        unreachable!("only read")
    }

    fn list(&self, _: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        unreachable!("only read")
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> object_store::Result<ListResult> {
        unreachable!("only read")
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> object_store::Result<()> {
        unreachable!("only read")
    }
}
