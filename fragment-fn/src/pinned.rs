//! A data file that is served as it was planned, or not at all.
//!
//! Every GET carries the planned etag as a precondition, and an answer about an object of another size is refused. A file
//! that is overwritten between plan and read is thus a typed error and never a mixture. Neighbouring ranges are read with
//! one request. The bytes that a footer read brings are kept, so that no byte is fetched twice.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use object_store::path::Path;
use object_store::{
    Error, Extensions, GetOptions, GetRange, GetResult, ObjectMeta, ObjectStore, Result, coalesce_ranges,
};

use crate::bridge::BRIDGE_BYTES_MAX;
use crate::hedging::Waited;

/// One data file as it was planned, and the bytes of its end that were read.
///
/// It holds these bytes for its life, so it lives only while its file is read.
#[derive(Debug)]
pub struct PinnedFile {
    store: Arc<dyn ObjectStore>,
    object: ObjectMeta,
    /// Largest gap between ranges of one request.
    bridge_bytes: u64,
    tail: Mutex<Option<FileTail>>,
}

/// Ranges of a file that were read.
pub(crate) struct RangesRead {
    /// Bytes of each, in their order.
    pub(crate) bytes: Vec<Bytes>,
    /// Bytes between them that came along.
    pub(crate) gap_bytes: u64,
}

/// Last bytes of a file, from the offset `start` on.
#[derive(Debug)]
struct FileTail {
    start: u64,
    bytes: Bytes,
}

impl PinnedFile {
    /// Makes the planned `object` in `store`. An Iceberg manifest knows a size and no etag; then only the size is compared.
    pub fn new(store: Arc<dyn ObjectStore>, object: ObjectMeta) -> Self {
        Self { store, object, bridge_bytes: BRIDGE_BYTES_MAX, tail: Mutex::default() }
    }

    /// Makes it read ranges with one request where the gap between them has at most so many bytes.
    #[must_use]
    pub(crate) fn bridging(self, bridge_bytes: u64) -> Self {
        Self { bridge_bytes, ..self }
    }

    pub(crate) fn object(&self) -> &ObjectMeta {
        &self.object
    }

    pub(crate) fn location(&self) -> &Path {
        &self.object.location
    }

    /// Reads one range, in bytes from the file's beginning. It lies within the planned size.
    ///
    /// # Errors
    /// Errors of [`Self::ranges`].
    pub(crate) async fn range(&self, range: Range<u64>) -> Result<Bytes> {
        Ok(self.ranges(&[range]).await?.bytes.swap_remove(0))
    }

    /// Reads one range like [`Self::range`], before somebody waits for it. `mark` tells when somebody does.
    ///
    /// # Errors
    /// Errors of [`Self::ranges`].
    pub(crate) async fn range_ahead(&self, range: Range<u64>, mark: &Waited) -> Result<Bytes> {
        Ok(self.ranges_with(&[range], &mark.extensions()).await?.bytes.swap_remove(0))
    }

    /// Reads ranges, in bytes from the file's beginning. They lie within the planned size.
    ///
    /// # Errors
    /// The store's errors, and [`Error::Precondition`] where the file has another etag or size than was planned.
    pub(crate) async fn ranges(&self, ranges: &[Range<u64>]) -> Result<RangesRead> {
        self.ranges_with(ranges, &Extensions::new()).await
    }

    async fn ranges_with(&self, ranges: &[Range<u64>], extensions: &Extensions) -> Result<RangesRead> {
        let split: Vec<_> = ranges.iter().map(|range| self.split(range)).collect();
        let missing: Vec<Range<u64>> = split.iter().filter_map(|(missing, _)| missing.clone()).collect();
        let mut asked_bytes = 0;
        let fetch = |range: Range<u64>| {
            asked_bytes += range.end - range.start;
            self.fetch(range, extensions.clone())
        };
        let fetched = coalesce_ranges(&missing, fetch, self.bridge_bytes).await?;
        let wanted_bytes: u64 = fetched.iter().map(|bytes| bytes.len() as u64).sum();
        let mut fetched = fetched.into_iter();
        let bytes = split.into_iter().map(|(missing, held)| match (missing.and_then(|_| fetched.next()), held) {
            (Some(head), Some(tail)) => [head, tail].concat().into(),
            (Some(bytes), None) | (None, Some(bytes)) => bytes,
            (None, None) => Bytes::new(),
        });
        Ok(RangesRead { bytes: bytes.collect(), gap_bytes: asked_bytes.saturating_sub(wanted_bytes) })
    }

    /// Splits `range` into a part that has to be fetched and a part that the tail already holds.
    fn split(&self, range: &Range<u64>) -> (Option<Range<u64>>, Option<Bytes>) {
        let tail = self.tail.lock().expect("no holder panics");
        match tail.as_ref() {
            _ if range.is_empty() => (None, None),
            Some(FileTail { start, bytes }) if range.end > *start && range.end <= self.object.size => {
                let from = range.start.max(*start);
                let held = bytes.slice((from - start) as usize..(range.end - start) as usize);
                let missing = (range.start < from).then_some(range.start..from);
                (missing, Some(held))
            }
            _ => (Some(range.clone()), None),
        }
    }

    /// Sends one GET for one range of the object as it was planned.
    async fn fetch(&self, range: Range<u64>, extensions: Extensions) -> Result<Bytes> {
        let range_asked = Some(GetRange::Bounded(range.clone()));
        let if_match = self.object.e_tag.clone();
        let options = GetOptions { range: range_asked, if_match, extensions, ..Default::default() };
        let result = self.store.get_opts(self.location(), options).await.map_err(|error| self.explain(error))?;
        self.check_size(&result)?;
        let bytes = result.bytes().await?;
        let expected = range.end - range.start;
        if bytes.len() as u64 != expected {
            let source = format!("{}: {expected} bytes were asked for, {} came", self.location(), bytes.len()).into();
            return Err(Error::Generic { store: "pinned", source });
        }
        if range.end == self.object.size {
            let mut tail = self.tail.lock().expect("no holder panics");
            if tail.as_ref().is_none_or(|tail| range.start < tail.start) {
                *tail = Some(FileTail { start: range.start, bytes: bytes.clone() });
            }
        }
        Ok(bytes)
    }

    fn check_size(&self, result: &GetResult) -> Result<()> {
        if result.meta.size == self.object.size {
            return Ok(());
        }
        let reason = format!("it has {} bytes, {} were planned", result.meta.size, self.object.size);
        Err(self.changed(reason))
    }

    /// Explains a refused range. No range beyond the planned size is asked for, so the object has become shorter.
    fn explain(&self, error: Error) -> Error {
        // object_store tells it only by its message: the local file system's, and the status of S3.
        let text = error.to_string();
        if ["Requested range was invalid", "416 Range Not Satisfiable"].iter().all(|sign| !text.contains(sign)) {
            return error;
        }
        self.changed(format!("it is shorter than the {} bytes that were planned", self.object.size))
    }

    fn changed(&self, reason: String) -> Error {
        Error::Precondition { path: self.location().to_string(), source: reason.into() }
    }
}
