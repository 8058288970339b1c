//! Rows that wait in the exchange for a client, who reads them without the coordinator.
//!
//! ```text
//!  functions ─────► results/QUERY/STAGE/INDEX-ATTEMPT.arrows ─┐
//!  coordinator ─► results/QUERY/4294967295/INDEX-0.arrows ────┴─► links ─► client
//! ```
//!
//! Each object is an Arrow IPC stream. They lie beside the objects of running queries, which the end of a query removes. The server that links
//! to them removes them, or `gust exchange gc` does if it is gone.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use axum::http::Method;
use bytes::Bytes;
use fragment_fn::Signers;
use futures::stream::BoxStream;
use gust_protocol::exchange::{COMPRESSION, ExchangeError, ResultTarget, ResultWriter, result_at, result_path};
use gust_protocol::{FragmentId, FragmentResult};
use object_store::path::{Path, PathPart};
use object_store::{ObjectStoreExt, Result};
use url::Url;

use super::{EXCHANGE_ACCESS, Exchange};

/// Folder of all such rows, below the exchange's prefix. No query has such an id.
const FOLDER: &str = "results";

/// Stage of the objects that the coordinator writes. No stage of a plan has this number.
const WRITTEN: u32 = u32::MAX;

/// Encoded bytes after which the coordinator ends an object.
const PART_BYTES_MIN: u64 = 64 << 20;

/// An object with rows of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptPart {
    /// Key of the object in the exchange's store.
    pub path: String,
    pub rows: u64,
    pub bytes: u64,
    /// CRC-32 of all bytes.
    pub crc32: u32,
}

/// Objects with rows of a statement, and the sum of their bytes, which is asked for with each of them.
#[derive(Debug, Default)]
pub struct Kept {
    parts: Vec<KeptPart>,
    bytes: u64,
}

/// Objects that functions have left of a statement until now. None where its rows are made here after all.
pub type KeptParts = Arc<Mutex<Option<Kept>>>;

impl KeptPart {
    /// Returns the object of a result; None of rows that are in no object.
    pub(crate) fn of(result: &FragmentResult) -> Option<Self> {
        let FragmentResult::Object { object, part } = result else { return None };
        Some(Self { path: object.path.clone(), rows: part.rows, bytes: part.bytes, crc32: part.crc32 })
    }
}

impl Kept {
    pub(crate) fn push(&mut self, part: KeptPart) {
        self.bytes += part.bytes;
        self.parts.push(part);
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn rows(&self) -> u64 {
        self.parts.iter().map(|part| part.rows).sum()
    }

    pub(crate) fn into_parts(self) -> Vec<KeptPart> {
        self.parts
    }
}

/// Returns the prefix of all kept rows in the exchange's store.
pub(crate) fn kept_prefix(prefix: &str) -> String {
    let parts = Path::parse(prefix).unwrap_or_default();
    parts.parts().chain([PathPart::from(FOLDER)]).collect::<Path>().to_string()
}

/// Reads the query from the key of kept rows. None where it is none of theirs.
pub(super) fn kept_at(prefix: &str, path: &Path) -> Option<String> {
    result_at(&kept_prefix(prefix), path).map(|key| key.fragment.query)
}

/// Writes the rows of a statement as objects, one after the other.
///
/// Memory: three multipart parts of an object.
pub struct PartWriter {
    exchange: Exchange,
    query: String,
    schema: SchemaRef,
    open: Option<ResultWriter>,
    ended: Kept,
    part_bytes_min: u64,
}

impl PartWriter {
    /// Makes a writer of a query's rows with these columns.
    pub fn new(exchange: Exchange, query: &str, schema: SchemaRef) -> Self {
        Self::with_parts(exchange, query, schema, PART_BYTES_MIN)
    }

    fn with_parts(exchange: Exchange, query: &str, schema: SchemaRef, part_bytes_min: u64) -> Self {
        Self { exchange, query: query.to_owned(), schema, open: None, ended: Kept::default(), part_bytes_min }
    }

    fn begun(&self) -> Result<ResultWriter, ExchangeError> {
        let Exchange { prefix, store, .. } = &self.exchange;
        let id = FragmentId { query: self.query.clone(), stage: WRITTEN, index: self.ended.parts.len() as u32 };
        let path = result_path(&kept_prefix(prefix), &id, 0);
        let target = ResultTarget { access: EXCHANGE_ACCESS, store: Arc::clone(store), path };
        ResultWriter::new(&self.schema, COMPRESSION, 0, target)
    }

    /// Adds rows.
    ///
    /// # Errors
    /// The store's, and [`ExchangeError::Arrow`] for types that Arrow IPC does not know.
    pub async fn push(&mut self, batch: &RecordBatch) -> Result<(), ExchangeError> {
        let mut writer = match self.open.take() {
            Some(writer) => writer,
            None => self.begun()?,
        };
        match writer.write(batch).await {
            Ok(()) if writer.bytes() >= self.part_bytes_min => self.end(writer).await,
            Ok(()) => {
                self.open = Some(writer);
                Ok(())
            }
            Err(error) => {
                writer.abort().await;
                Err(error)
            }
        }
    }

    /// Returns the encoded bytes until now.
    pub fn bytes(&self) -> u64 {
        self.ended.bytes() + self.open.as_ref().map_or(0, ResultWriter::bytes)
    }

    async fn end(&mut self, writer: ResultWriter) -> Result<(), ExchangeError> {
        if let Some(part) = KeptPart::of(&writer.finish().await?) {
            self.ended.push(part);
        }
        Ok(())
    }

    /// Ends the rows. There is one object at least, which tells the columns.
    ///
    /// # Errors
    /// The store's.
    pub async fn finish(mut self) -> Result<Vec<KeptPart>, ExchangeError> {
        let last = match self.open.take() {
            None if self.ended.parts.is_empty() => Some(self.begun()?),
            last => last,
        };
        if let Some(last) = last {
            self.end(last).await?;
        }
        Ok(self.ended.into_parts())
    }

    /// Gives the rows up that are not written.
    pub async fn abort(self) {
        if let Some(open) = self.open {
            open.abort().await;
        }
    }
}

/// Kept rows of all statements.
#[derive(Debug, Clone)]
pub struct KeptResults {
    exchange: Exchange,
    /// Signers of links; None if the store has none, or none are wanted.
    signers: Option<Signers>,
}

impl KeptResults {
    pub(crate) fn new(exchange: Exchange, signers: Option<Signers>) -> Self {
        Self { exchange, signers }
    }

    /// Returns a URL by which everybody who has it reads a part, for this time at most; None if nobody signs.
    ///
    /// # Errors
    /// Those of the credentials.
    pub async fn link(&self, part: &KeptPart, time: Duration) -> Result<Option<Url>> {
        match &self.signers {
            Some(signers) => {
                let path = Path::parse(&part.path)?;
                signers.of(&path).signed_url(Method::GET, &path, time).await.map(Some)
            }
            None => Ok(None),
        }
    }

    /// Reads the bytes of a part.
    ///
    /// # Errors
    /// The store's.
    pub async fn read(&self, part: &KeptPart) -> Result<BoxStream<'static, Result<Bytes>>> {
        Ok(self.exchange.store.get(&Path::parse(&part.path)?).await?.into_stream())
    }

    /// Deletes the kept rows of a query. Returns the number of objects.
    ///
    /// # Errors
    /// The store's.
    pub async fn remove(&self, query: &str) -> Result<usize> {
        self.exchange.clean_below(&kept_prefix(&self.exchange.prefix), query).await
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow::array::{ArrayRef, Int64Array};
    use futures::TryStreamExt;
    use gust_protocol::exchange::read;
    use gust_protocol::{ObjectRef, StoreAccess, StreamSummary};
    use object_store::ObjectStore;
    use object_store::memory::InMemory;

    use super::*;

    fn exchange(store: &Arc<InMemory>) -> Exchange {
        let access = StoreAccess { url: "memory:///".into(), options: BTreeMap::new() };
        Exchange { access, prefix: "x/y".into(), store: Arc::clone(store) as _ }
    }

    fn batch(values: std::ops::Range<i64>) -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(values));
        RecordBatch::try_from_iter([("n", numbers)]).expect("one column")
    }

    async fn bytes_of(kept: &KeptResults, part: &KeptPart) -> Vec<u8> {
        kept.read(part).await.expect("in memory").try_collect::<Vec<_>>().await.expect("in memory").concat()
    }

    #[test]
    fn the_bytes_are_those_of_all_parts() {
        let mut kept = Kept::default();
        for (rows, bytes) in [(3, 8), (0, 1), (4, 5)] {
            kept.push(KeptPart { path: format!("x/{rows}"), rows, bytes, crc32: 0 });
            assert_eq!(kept.bytes(), kept.parts.iter().map(|part| part.bytes).sum::<u64>());
        }
        assert_eq!((kept.bytes(), kept.rows(), kept.into_parts().len()), (14, 7, 3));
    }

    #[tokio::test]
    async fn rows_become_objects_that_know_their_length_and_checksum() {
        for (sizes, part_bytes_min, objects) in
            [(vec![], 1 << 20, 1), (vec![3, 4], 1 << 20, 1), (vec![3, 0, 4], 1, 3), (vec![3], 1, 1)]
        {
            let store = Arc::new(InMemory::new());
            let exchange = exchange(&store);
            let mut writer = PartWriter::with_parts(exchange.clone(), "q", batch(0..0).schema(), part_bytes_min);
            let mut next = 0;
            for rows in &sizes {
                writer.push(&batch(next..next + rows)).await.expect("in memory");
                next += rows;
            }
            let bytes = writer.bytes();
            let parts = writer.finish().await.expect("in memory");
            assert_eq!(parts.len(), objects, "{sizes:?}");
            let all: u64 = parts.iter().map(|part| part.bytes).sum();
            // The end of the last object comes with its finish.
            assert!(bytes <= all && (bytes > 0) == (next > 0), "{bytes} of {all}");
            let kept = KeptResults::new(exchange.clone(), None);
            let mut rows = Vec::<i64>::new();
            for part in &parts {
                assert_eq!(kept_at("x/y", &Path::from(part.path.as_str())).as_deref(), Some("q"), "{part:?}");
                let bytes = bytes_of(&kept, part).await;
                assert_eq!((bytes.len() as u64, crc32fast::hash(&bytes)), (part.bytes, part.crc32), "{part:?}");
                let KeptPart { path, rows: of_part, bytes: size_bytes, crc32 } = part.clone();
                let object = ObjectRef { access: EXCHANGE_ACCESS, path, size_bytes, etag: None, footer_bytes: None };
                let part = StreamSummary { bytes: size_bytes, rows: of_part, crc32 };
                let result = FragmentResult::Object { object, part };
                let id = FragmentId { query: "q".to_owned(), stage: WRITTEN, index: 0 };
                let batches = read(&id, result, &batch(0..0).schema(), store.as_ref()).await.expect("what was written");
                let before = rows.len();
                for batch in batches {
                    let column = batch.expect("rows").column(0).to_data();
                    rows.extend_from_slice(column.buffers()[0].typed_data::<i64>());
                }
                assert_eq!((rows.len() - before) as u64, of_part);
            }
            assert_eq!(rows, (0..next).collect::<Vec<_>>(), "{sizes:?}");
            exchange.clean("q").await.expect("in memory");
            assert_eq!(kept.remove("other").await.expect("in memory"), 0);
            assert_eq!(kept.remove("q").await.expect("in memory"), objects, "the end of the query left them");
            assert_eq!(store.list(None).try_collect::<Vec<_>>().await.expect("in memory"), []);
        }
    }
}
