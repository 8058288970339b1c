//! Rows on their way back: Arrow IPC streams. A small result is inline, a large one is an object in the exchange.
//!
//! ```text
//!  batches ─► ResultWriter ─┬─ up to inline_bytes_max ─► FragmentResult::Inline
//!                           └─ beyond ─► multipart object ─► FragmentResult::Object
//!  FragmentResult ─► read ─► length and checksum verified ─► batches
//! ```
//!
//! A producer writes one object at most. The object's key carries the attempt, so that two attempts never share a key.
//! A reader sees no row before the whole stream's checksum held.

mod rows;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, GenericByteViewArray, RecordBatch, RecordBatchOptions};
use arrow::buffer::Buffer;
use arrow::datatypes::{ByteViewType, DataType, Schema};
use arrow::error::ArrowError;
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{IpcWriteOptions, StreamWriter};
use bytes::Bytes;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::io::AsyncWriteExt;

pub use self::rows::ResultRows;
use crate::{AccessId, Base64, FragmentId, FragmentResult, ObjectRef, StreamSummary};

/// Compression of results on the wire. `lab compression` chose it (docs/measurements.md).
pub const COMPRESSION: Option<CompressionType> = Some(CompressionType::LZ4_FRAME);

/// Errors between a result's producer and its reader.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    #[error("cannot encode or decode an arrow stream: {0}")]
    Arrow(#[from] ArrowError),
    #[error("exchange object `{path}`: {source}")]
    Store { path: String, source: object_store::Error },
    #[error("exchange object `{path}`: {source}")]
    Write { path: String, source: std::io::Error },
    #[error("result of fragment {fragment} is {bytes} bytes long, {promised} were promised: refused")]
    Length { fragment: FragmentId, bytes: u64, promised: u64 },
    #[error("result of fragment {fragment} does not match its checksum: refused")]
    Checksum { fragment: FragmentId },
    #[error("result of fragment {fragment} has other columns than its stage: refused")]
    Schema { fragment: FragmentId },
}

/// Makes the key of an attempt's result object below the exchange's prefix.
pub fn result_path(prefix: &str, id: &FragmentId, attempt: u32) -> Path {
    let FragmentId { query, stage, index } = id;
    let key = format!("{query}/{stage}/{index:05}-{attempt}.arrows");
    Path::parse(prefix).unwrap_or_default().parts().chain(Path::from(key).parts()).collect()
}

/// Object that the coordinator writes for a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StageObject {
    /// Plan that does not travel inline.
    Plan,
    /// Deletion vectors in place of files of positions, and keys in place of files of keys.
    Deletes,
    /// Rows that all fragments read, of this leaf of their plan.
    Rows(u32),
}

impl StageObject {
    fn name(self) -> String {
        match self {
            Self::Plan => "plan".to_owned(),
            Self::Deletes => "deletes".to_owned(),
            Self::Rows(input) => format!("rows-{input}"),
        }
    }

    /// Returns the object of this name.
    fn named(name: &str) -> Option<Self> {
        match name {
            "plan" => Some(Self::Plan),
            "deletes" => Some(Self::Deletes),
            _ => name.strip_prefix("rows-")?.parse().ok().map(Self::Rows),
        }
    }

    /// Makes its key.
    pub fn path(self, prefix: &str, query: &str, stage: u32) -> Path {
        let key = format!("{query}/{stage}/{}", self.name());
        Path::parse(prefix).unwrap_or_default().parts().chain(Path::from(key).parts()).collect()
    }
}

/// Attempt that a result's key names.
#[derive(Debug, PartialEq, Eq)]
pub struct ResultKey {
    pub fragment: FragmentId,
    pub attempt: u32,
}

/// Reads fragment and attempt from the key of a result. None where [`result_path`] does not make `path` below `prefix`.
pub fn result_at(prefix: &str, path: &Path) -> Option<ResultKey> {
    let prefix = Path::parse(prefix).ok()?;
    let parts: Vec<_> = path.prefix_match(&prefix)?.collect();
    let [query, stage, name] = parts.as_slice() else { return None };
    let (index, attempt) = name.as_ref().strip_suffix(".arrows")?.split_once('-')?;
    let number = |text: &str| text.parse::<u32>().ok();
    let fragment =
        FragmentId { query: query.as_ref().to_owned(), stage: number(stage.as_ref())?, index: number(index)? };
    let attempt = number(attempt)?;
    // A key that merely parses is not ours: it has to be the key that is made.
    (result_path(prefix.as_ref(), &fragment, attempt) == *path).then_some(ResultKey { fragment, attempt })
}

/// Reads the query from the key of a [`StageObject`]. None where it does not make `path` below `prefix`.
pub fn stage_object_at(prefix: &str, path: &Path) -> Option<String> {
    let parts: Vec<_> = path.prefix_match(&Path::parse(prefix).ok()?)?.collect();
    let [query, stage, name] = parts.as_slice() else { return None };
    let stage = stage.as_ref().parse().ok()?;
    let object = StageObject::named(name.as_ref())?;
    (object.path(prefix, query.as_ref(), stage) == *path).then(|| query.as_ref().to_owned())
}

/// Length of a multipart part, in bytes. Parts are memory outside the pool.
pub const PART_BYTES: usize = 8 << 20;
/// Parts of one result that are under way at once.
const PARTS_AT_ONCE_MAX: usize = 2;

/// Counts the requests that write a result object of `bytes`: one PUT, or a beginning, the parts and an end.
pub fn writes_of(bytes: u64) -> u64 {
    match bytes.div_ceil(PART_BYTES as u64) {
        0 | 1 => 1,
        parts => parts + 2,
    }
}

/// Encodes a fragment's batches as they come.
///
/// Memory: `inline_bytes_max` at most, then three multipart parts of [`PART_BYTES`].
pub struct ResultWriter {
    encoder: StreamWriter<Vec<u8>>,
    checksum: crc32fast::Hasher,
    bytes: u64,
    rows: u64,
    inline_bytes_max: u64,
    sink: ResultSink,
    target: ResultTarget,
}

/// Place of a result's object.
pub struct ResultTarget {
    /// Store of the exchange, as the request's access table names it.
    pub access: AccessId,
    pub store: Arc<dyn ObjectStore>,
    pub path: Path,
}

enum ResultSink {
    Inline(Vec<u8>),
    Object(Box<Upload>),
}

impl ResultWriter {
    /// `target` is the place of the object, should the rows outgrow `inline_bytes_max`.
    pub fn new(
        schema: &Schema,
        compression: Option<CompressionType>,
        inline_bytes_max: u64,
        target: ResultTarget,
    ) -> Result<Self, ExchangeError> {
        let options = IpcWriteOptions::default().try_with_compression(compression)?;
        Ok(Self {
            encoder: StreamWriter::try_new_with_options(Vec::new(), schema, options)?,
            checksum: crc32fast::Hasher::new(),
            bytes: 0,
            rows: 0,
            inline_bytes_max,
            sink: ResultSink::Inline(Vec::new()),
            target,
        })
    }

    pub async fn write(&mut self, batch: &RecordBatch) -> Result<(), ExchangeError> {
        self.encoder.write(&compact(batch)?)?;
        self.rows += batch.num_rows() as u64;
        self.drain().await
    }

    /// Returns the encoded bytes until now.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Aborts the upload of a begun object. Its parts would be stored, and charged, until somebody removes them.
    pub async fn abort(self) {
        if let ResultSink::Object(upload) = self.sink {
            upload.abort().await;
        }
    }

    /// Ends the stream. An object is complete when this returns.
    pub async fn finish(mut self) -> Result<FragmentResult, ExchangeError> {
        self.encoder.finish()?;
        self.drain().await?;
        let part = StreamSummary { bytes: self.bytes, rows: self.rows, crc32: self.checksum.finalize() };
        match self.sink {
            ResultSink::Inline(bytes) => Ok(FragmentResult::Inline { part, bytes: Base64(bytes.into()) }),
            ResultSink::Object(upload) => {
                upload.finish().await?;
                let ResultTarget { access, path, .. } = self.target;
                let path = path.to_string();
                let object = ObjectRef { access, path, size_bytes: part.bytes, etag: None, footer_bytes: None };
                Ok(FragmentResult::Object { object, part })
            }
        }
    }

    /// Moves the encoder's bytes to the sink, and the sink to the exchange once the bytes exceed `inline_bytes_max`.
    async fn drain(&mut self) -> Result<(), ExchangeError> {
        let chunk = std::mem::take(self.encoder.get_mut());
        self.checksum.update(&chunk);
        self.bytes += chunk.len() as u64;
        if let ResultSink::Inline(held) = &mut self.sink {
            if self.bytes <= self.inline_bytes_max {
                held.extend_from_slice(&chunk);
                return Ok(());
            }
            let held = std::mem::take(held);
            self.sink = ResultSink::Object(Box::new(Upload::new(&self.target)));
            self.put(held.into()).await?;
        }
        self.put(chunk.into()).await
    }

    async fn put(&mut self, chunk: Bytes) -> Result<(), ExchangeError> {
        match &mut self.sink {
            ResultSink::Object(upload) => upload.put(chunk).await,
            ResultSink::Inline(_) => Ok(()),
        }
    }
}

/// Upload of one object of a result, in multipart parts. Bytes that are no whole part wait in memory.
pub struct Upload {
    writer: BufWriter,
    path: String,
}

impl Upload {
    pub fn new(target: &ResultTarget) -> Self {
        let (store, path) = (Arc::clone(&target.store), target.path.clone());
        let writer = BufWriter::with_capacity(store, path, PART_BYTES).with_max_concurrency(PARTS_AT_ONCE_MAX);
        Self { writer, path: target.path.to_string() }
    }

    pub async fn put(&mut self, chunk: Bytes) -> Result<(), ExchangeError> {
        self.writer.put(chunk).await.map_err(|source| ExchangeError::Store { path: self.path.clone(), source })
    }

    /// Ends the object, which is complete when this returns.
    pub async fn finish(mut self) -> Result<(), ExchangeError> {
        self.writer.shutdown().await.map_err(|source| ExchangeError::Write { path: self.path, source })
    }

    /// Aborts the upload of a begun object. Its parts would be stored, and charged, until somebody removes them.
    pub async fn abort(mut self) {
        // The bucket's lifecycle rule removes the parts of an upload that cannot be aborted.
        let _ = self.writer.abort().await;
    }
}

/// Encodes batches as one stream.
///
/// # Errors
/// [`ExchangeError::Arrow`] for types that Arrow IPC does not know.
pub fn encode_stream(schema: &Schema, batches: &[RecordBatch]) -> Result<(StreamSummary, Bytes), ExchangeError> {
    let options = IpcWriteOptions::default().try_with_compression(COMPRESSION)?;
    let mut encoder = StreamWriter::try_new_with_options(Vec::new(), schema, options)?;
    for batch in batches {
        encoder.write(&compact(batch)?)?;
    }
    let bytes = Bytes::from(encoder.into_inner()?);
    let rows = batches.iter().map(|batch| batch.num_rows() as u64).sum();
    Ok((StreamSummary { bytes: bytes.len() as u64, rows, crc32: crc32fast::hash(&bytes) }, bytes))
}

/// Drops the text of a batch that none of its rows refers to.
///
/// Batches of a scan share the buffers of the pages that they were cut from, and the encoder writes whole buffers.
/// Without this the same text would travel several times.
pub fn compact(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    fn is_wasteful<T: ByteViewType>(column: &GenericByteViewArray<T>) -> bool {
        column.data_buffers().iter().map(Buffer::len).sum::<usize>() > column.total_buffer_bytes_used()
    }
    let compacted = |column: &ArrayRef| -> ArrayRef {
        match column.data_type() {
            DataType::Utf8View if is_wasteful(column.as_string_view()) => Arc::new(column.as_string_view().gc()),
            DataType::BinaryView if is_wasteful(column.as_binary_view()) => Arc::new(column.as_binary_view().gc()),
            _ => Arc::clone(column),
        }
    };
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let columns = batch.columns().iter().map(compacted).collect();
    RecordBatch::try_new_with_options(batch.schema(), columns, &options)
}

/// Fetches a result that is not inline, and verifies it. Its rows are decoded as they are asked for.
///
/// `store` is the exchange's. The whole encoded stream is held in memory until its last message is decoded. Columns of a stream that is nearly all one message point into it,
/// where they are not compressed.
///
/// # Errors
/// [`ExchangeError::Store`] where the object cannot be read, [`ExchangeError::Length`] and [`ExchangeError::Checksum`]
/// for torn or swapped bytes, [`ExchangeError::Schema`] for other columns. All come before any row is seen.
pub async fn read(
    id: &FragmentId,
    result: FragmentResult,
    schema: &Schema,
    store: &dyn ObjectStore,
) -> Result<ResultRows, ExchangeError> {
    let part = *result.part();
    let bytes = match result {
        FragmentResult::Inline { bytes, .. } => bytes.0,
        // Rows by partition are read by functions, and not here.
        FragmentResult::Parts { .. } => return Err(ExchangeError::Schema { fragment: id.clone() }),
        FragmentResult::Object { object, .. } => {
            let failed = |source| ExchangeError::Store { path: object.path.clone(), source };
            let path = Path::parse(&object.path).map_err(|e| failed(e.into()))?;
            let response = store.get(&path).await.map_err(failed)?;
            response.bytes().await.map_err(failed)?
        }
    };
    if bytes.len() as u64 != part.bytes {
        let (fragment, bytes) = (id.clone(), bytes.len() as u64);
        return Err(ExchangeError::Length { fragment, bytes, promised: part.bytes });
    }
    if crc32fast::hash(&bytes) != part.crc32 {
        return Err(ExchangeError::Checksum { fragment: id.clone() });
    }
    ResultRows::open(id, bytes, schema)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray, StringViewArray};
    use arrow::datatypes::{DataType, Field};
    use object_store::memory::InMemory;
    use object_store::{ObjectStoreExt, PutPayload};

    use super::*;

    fn id() -> FragmentId {
        FragmentId { query: "q".to_owned(), stage: 0, index: 7 }
    }

    fn batch(rows: i64) -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
        let words: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|row| format!("word {row}"))));
        RecordBatch::try_from_iter([("n", numbers), ("w", words)]).expect("equal lengths")
    }

    async fn written(batches: &[RecordBatch], inline_bytes_max: u64) -> (Arc<InMemory>, FragmentResult) {
        let store = Arc::new(InMemory::new());
        let target = ResultTarget { access: 1, store: Arc::clone(&store) as _, path: result_path("x", &id(), 2) };
        let mut writer =
            ResultWriter::new(&batch(0).schema(), COMPRESSION, inline_bytes_max, target).expect("a plain schema");
        for batch in batches {
            writer.write(batch).await.expect("in memory");
        }
        let result = writer.finish().await.expect("in memory");
        (store, result)
    }

    #[test]
    fn keys_of_others_are_no_results() {
        for prefix in ["", "a/b"] {
            assert_eq!(
                result_at(prefix, &result_path(prefix, &id(), 3)),
                Some(ResultKey { fragment: id(), attempt: 3 })
            );
        }
        #[track_caller]
        fn check(path: &str, expect: Option<u32>) {
            assert_eq!(result_at("x", &Path::from(path)).map(|key| key.attempt), expect, "{path}");
        }
        check("x/q/0/00007-2.arrows", Some(2));
        check("y/q/0/00007-2.arrows", None);
        check("x/q/0/7-2.arrows", None);
        check("x/q/0/00007-2.parquet", None);
        check("x/q/0/part-00007-2.arrows", None);
        check("x/q/zero/00007-2.arrows", None);
        check("x/deeper/q/0/00007-2.arrows", None);
        check("x/q/00007-2.arrows", None);
    }

    #[test]
    fn keys_of_stages_objects_name_their_query() {
        for object in [StageObject::Plan, StageObject::Deletes, StageObject::Rows(0), StageObject::Rows(12)] {
            assert_eq!(stage_object_at("x", &object.path("x", "q", 1)).as_deref(), Some("q"), "{object:?}");
        }
        for other in ["x/q/1/rows-", "x/q/1/rows-03", "x/q/1/rows--1", "x/q/1/row-3", "y/q/1/rows-3", "x/q/rows-3"] {
            assert_eq!(stage_object_at("x", &Path::from(other)), None, "{other}");
        }
    }

    #[tokio::test]
    async fn rows_come_back_inline_or_through_an_object() {
        for (sizes, inline_bytes_max, inline) in
            [(vec![], 10_000, true), (vec![3, 0, 5], 10_000, true), (vec![1000, 2000], 500, false), (vec![], 0, false)]
        {
            let batches: Vec<RecordBatch> = sizes.iter().map(|rows| batch(*rows)).collect();
            let (store, result) = written(&batches, inline_bytes_max).await;
            assert_eq!(matches!(result, FragmentResult::Inline { .. }), inline, "{sizes:?}");
            assert_eq!(result.part().rows, sizes.iter().sum::<i64>() as u64);
            let back = read(&id(), result, &batch(0).schema(), store.as_ref()).await.expect("what was written");
            let back: Vec<RecordBatch> = back.collect::<Result<_, _>>().expect("what was written");
            assert_eq!(back, batches, "{sizes:?}");
        }
    }

    #[tokio::test]
    async fn text_that_batches_share_travels_once() {
        let texts: Vec<String> = (0..1000_u32).map(|i| format!("{:064x}", u128::from(i).pow(9))).collect();
        let column: ArrayRef = Arc::new(StringViewArray::from_iter_values(&texts));
        let whole = RecordBatch::try_from_iter([("s", column)]).expect("one column");
        let target = ResultTarget { access: 0, store: Arc::new(InMemory::new()), path: result_path("x", &id(), 0) };
        let mut writer = ResultWriter::new(&whole.schema(), None, 1 << 20, target).expect("a schema");
        for start in (0..1000).step_by(100) {
            writer.write(&whole.slice(start, 100)).await.expect("in memory");
        }
        let result = writer.finish().await.expect("in memory");
        // A row has 64 bytes of text and 16 of view. Without compaction there would be ten times as much text.
        assert!(result.part().bytes < 1000 * 100, "{} bytes", result.part().bytes);
        let back = read(&id(), result, &whole.schema(), &InMemory::new()).await.expect("what was written");
        let back: Vec<RecordBatch> = back.collect::<Result<_, _>>().expect("what was written");
        let back: Vec<&str> = back.iter().flat_map(|batch| batch.column(0).as_string_view().iter().flatten()).collect();
        assert_eq!(back, texts);
    }

    #[tokio::test]
    async fn rows_without_columns_are_counted() {
        let empty = Schema::empty();
        let options = RecordBatchOptions::new().with_row_count(Some(42));
        let rows = RecordBatch::try_new_with_options(Arc::new(empty.clone()), vec![], &options).expect("no columns");
        let target = ResultTarget { access: 0, store: Arc::new(InMemory::new()), path: result_path("x", &id(), 0) };
        let mut writer = ResultWriter::new(&empty, COMPRESSION, 10_000, target).expect("no columns");
        writer.write(&rows).await.expect("in memory");
        let result = writer.finish().await.expect("in memory");
        let back = read(&id(), result, &empty, &InMemory::new()).await.expect("what was written");
        let back: Vec<RecordBatch> = back.collect::<Result<_, _>>().expect("what was written");
        assert_eq!(back.iter().map(RecordBatch::num_rows).sum::<usize>(), 42);
    }

    #[tokio::test]
    async fn torn_and_swapped_bytes_are_refused() {
        let schema = batch(0).schema();
        let (store, result) = written(&[batch(1000)], 0).await;
        let FragmentResult::Object { object, part } = result else { panic!("inline") };
        let path = Path::from(object.path.clone());
        let whole = store.get(&path).await.expect("written").bytes().await.expect("in memory");
        let swap = |at: usize| {
            let mut bytes = whole.to_vec();
            bytes[at] ^= 1;
            bytes
        };
        let other = Schema::new(vec![Field::new("n", DataType::Int32, true)]);
        for (bytes, schema, expect) in [
            (whole[..whole.len() - 1].to_vec(), schema.as_ref(), "bytes long"),
            (swap(0), schema.as_ref(), "checksum"),
            (swap(whole.len() / 2), schema.as_ref(), "checksum"),
            (whole.to_vec(), &other, "other columns"),
        ] {
            store.put(&path, PutPayload::from(bytes)).await.expect("in memory");
            let result = FragmentResult::Object { object: object.clone(), part };
            let error = read(&id(), result, schema, store.as_ref()).await.expect_err(expect);
            assert!(error.to_string().contains(expect), "{error}");
        }
        store.delete(&path).await.expect("in memory");
        let gone = read(&id(), FragmentResult::Object { object, part }, &schema, store.as_ref()).await;
        assert!(matches!(gone, Err(ExchangeError::Store { .. })), "{gone:?}");
    }

    /// A stream of the first release decodes for ever, or the protocol's version is raised.
    #[tokio::test]
    async fn the_stream_equals_the_golden_bytes() {
        let (_, result) = written(&[batch(3)], 10_000).await;
        let FragmentResult::Inline { bytes, .. } = &result else { panic!("not inline") };
        let golden = include_bytes!("../testdata/result.arrows");
        assert_eq!(&bytes.0[..], golden);
        let rows = ResultRows::open(&id(), Bytes::from_static(golden), &batch(0).schema()).expect("golden bytes");
        assert_eq!(rows.collect::<Result<Vec<_>, _>>().expect("golden bytes"), [batch(3)]);
    }

    #[test]
    fn keys_carry_the_attempt() {
        assert_eq!(result_path("a/b", &id(), 2).as_ref(), "a/b/q/0/00007-2.arrows");
        assert_eq!(result_path("", &id(), 0).as_ref(), "q/0/00007-0.arrows");
    }
}
