//! What was planned is what is read: a decorator that serves only the objects of this attempt, each as it was planned.
//!
//! Every GET carries the planned etag as a precondition, and an answer about an object of another size is refused, so that
//! a file overwritten between plan and read is a typed error and never a mixture. Neighbouring ranges are read with one
//! request, and the bytes of a footer read are kept for the attempt, so that no byte is fetched twice.

use std::collections::HashMap;
use std::fmt::{Display, Formatter};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use gust_protocol::ObjectRef;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, coalesce_ranges,
};

/// Ranges closer than this are one request: about what S3 transfers in the time of one more round trip.
pub const COALESCE_BYTES: u64 = 1 << 20;

/// One planned object and what has been read of its end.
#[derive(Debug)]
struct Pin {
    size_bytes: u64,
    etag: Option<String>,
    /// The last bytes of the object, from this offset on.
    tail: Mutex<Option<(u64, Bytes)>>,
}

/// Serves the pinned objects of one attempt from `inner`; everything else is refused.
///
/// Holds the end of every object that it has read the end of, so it should not outlive an attempt.
#[derive(Debug)]
pub struct PinnedStore {
    inner: Arc<dyn ObjectStore>,
    pins: HashMap<Path, Arc<Pin>>,
}

impl PinnedStore {
    /// # Errors
    /// A path that is none.
    pub fn new<'a>(inner: Arc<dyn ObjectStore>, objects: impl IntoIterator<Item = &'a ObjectRef>) -> Result<Self> {
        let mut pins = HashMap::new();
        for object in objects {
            let pin = Pin { size_bytes: object.size_bytes, etag: object.etag.clone(), tail: Mutex::default() };
            pins.insert(Path::parse(&object.path)?, Arc::new(pin));
        }
        Ok(Self { inner, pins })
    }

    fn pin(&self, location: &Path) -> Result<Arc<Pin>> {
        self.pins.get(location).cloned().ok_or_else(|| Error::NotFound {
            path: location.to_string(),
            source: "not an input of this fragment".into(),
        })
    }

    /// One GET of the object as it was planned.
    async fn get_pinned(&self, location: &Path, pin: &Pin, options: GetOptions) -> Result<GetResult> {
        let options = GetOptions { if_match: pin.etag.clone(), ..options };
        let result = self.inner.get_opts(location, options).await.map_err(|error| pin.explain(location, error))?;
        pin.check_size(location, &result)?;
        Ok(result)
    }

    /// One GET of one range, verified against the pin.
    async fn fetch(&self, location: &Path, pin: &Pin, range: Range<u64>) -> Result<Bytes> {
        let options = GetOptions { range: Some(GetRange::Bounded(range.clone())), ..Default::default() };
        let result = self.get_pinned(location, pin, options).await?;
        let bytes = result.bytes().await?;
        let expected = range.end - range.start;
        if bytes.len() as u64 != expected {
            return Err(Error::Generic {
                store: "pinned",
                source: format!("{location}: {} bytes came of {expected} asked for", bytes.len()).into(),
            });
        }
        if range.end == pin.size_bytes {
            let mut tail = pin.tail.lock().expect("no holder panics");
            if tail.as_ref().is_none_or(|(start, _)| range.start < *start) {
                *tail = Some((range.start, bytes.clone()));
            }
        }
        Ok(bytes)
    }
}

impl Pin {
    fn check_size(&self, location: &Path, result: &GetResult) -> Result<()> {
        if result.meta.size == self.size_bytes {
            return Ok(());
        }
        Err(Error::Precondition {
            path: location.to_string(),
            source: format!("it has {} bytes, {} were planned", result.meta.size, self.size_bytes).into(),
        })
    }

    /// No range beyond the planned size is ever asked for: where a store says so, the object has become shorter.
    fn explain(&self, location: &Path, error: Error) -> Error {
        // object_store tells it by its message only: the local file system's, and the status of S3.
        let text = error.to_string();
        if ["Requested range was invalid", "416 Range Not Satisfiable"].iter().all(|sign| !text.contains(sign)) {
            return error;
        }
        let source = format!("it is shorter than the {} bytes that were planned", self.size_bytes).into();
        Error::Precondition { path: location.to_string(), source }
    }

    /// The part of `range` that has to be fetched, and the part that the tail already holds.
    fn split(&self, range: &Range<u64>) -> (Option<Range<u64>>, Option<Bytes>) {
        let tail = self.tail.lock().expect("no holder panics");
        match tail.as_ref() {
            Some((start, bytes)) if range.end > *start && range.end <= self.size_bytes => {
                let from = range.start.max(*start);
                let held = bytes.slice((from - start) as usize..(range.end - start) as usize);
                let missing = (range.start < from).then_some(range.start..from);
                (missing, Some(held))
            }
            _ => (Some(range.clone()), None),
        }
    }
}

impl Display for PinnedStore {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "pinned({})", self.inner)
    }
}

/// A fragment reads its inputs and does nothing else with their store.
fn refused<T>(operation: &'static str) -> Result<T> {
    Err(Error::NotSupported { source: format!("{operation}: a fragment's inputs are read only").into() })
}

#[async_trait]
impl ObjectStore for PinnedStore {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let pin = self.pin(location)?;
        self.get_pinned(location, &pin, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let pin = self.pin(location)?;
        let split: Vec<_> = ranges.iter().map(|range| pin.split(range)).collect();
        let missing: Vec<Range<u64>> = split.iter().filter_map(|(missing, _)| missing.clone()).collect();
        let fetched = coalesce_ranges(&missing, |range| self.fetch(location, &pin, range), COALESCE_BYTES).await?;
        let mut fetched = fetched.into_iter();
        Ok(split
            .into_iter()
            .map(|(missing, held)| match (missing.and_then(|_| fetched.next()), held) {
                (Some(head), Some(tail)) => [head, tail].concat().into(),
                (Some(bytes), None) | (None, Some(bytes)) => bytes,
                (None, None) => Bytes::new(),
            })
            .collect())
    }

    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        refused("put")
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        refused("put")
    }

    fn delete_stream(&self, _: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        Box::pin(futures::stream::once(async { refused("delete") }))
    }

    fn list(&self, _: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        Box::pin(futures::stream::once(async { refused("list") }))
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        refused("list")
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        refused("copy")
    }
}
