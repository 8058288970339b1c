//! Rows on their way back: Arrow IPC streams, inline while they are small, one object in the exchange when they are not.
//!
//! ```text
//!  batches ─► ResultWriter ─┬─ up to inline_bytes_max ─► FragmentResult::Inline
//!                           └─ beyond ─► multipart object ─► FragmentResult::Object
//!  FragmentResult ─► read ─► length and checksum verified ─► batches
//! ```
//!
//! A producer writes one object at most, under a key that carries the attempt: two attempts never share a key.
//! A reader sees no row before the whole stream's checksum held.

use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::buffer::Buffer;
use datafusion::arrow::datatypes::Schema;
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::ipc::CompressionType;
use datafusion::arrow::ipc::reader::StreamDecoder;
use datafusion::arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::io::AsyncWriteExt;

use crate::{AccessId, Base64, FragmentId, FragmentResult, ObjectRef, Part};

/// What the wire pays for: measured by `lab compression` (see ARCHITECTURE.md).
pub const COMPRESSION: Option<CompressionType> = Some(CompressionType::LZ4_FRAME);

/// What can go wrong between a result's producer and its reader.
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

/// Key of an attempt's result object below the exchange's prefix.
pub fn result_path(prefix: &str, id: &FragmentId, attempt: u32) -> Path {
    let FragmentId { query, stage, index } = id;
    let key = format!("{query}/{stage}/{index:05}-{attempt}.arrows");
    Path::parse(prefix).unwrap_or_default().parts().chain(Path::from(key).parts()).collect()
}

/// Encodes a fragment's batches as they come. Holds at most `inline_bytes_max` and one multipart part in memory.
pub struct ResultWriter {
    encoder: StreamWriter<Vec<u8>>,
    checksum: crc32fast::Hasher,
    bytes: u64,
    rows: u64,
    inline_bytes_max: u64,
    sink: Sink,
    target: (AccessId, Arc<dyn ObjectStore>, Path),
}

enum Sink {
    Inline(Vec<u8>),
    Object(Box<BufWriter>),
}

impl ResultWriter {
    /// `target`: where the object goes if the rows outgrow `inline_bytes_max`.
    pub fn new(
        schema: &Schema,
        compression: Option<CompressionType>,
        inline_bytes_max: u64,
        target: (AccessId, Arc<dyn ObjectStore>, Path),
    ) -> Result<Self, ExchangeError> {
        let options = IpcWriteOptions::default().try_with_compression(compression)?;
        Ok(Self {
            encoder: StreamWriter::try_new_with_options(Vec::new(), schema, options)?,
            checksum: crc32fast::Hasher::new(),
            bytes: 0,
            rows: 0,
            inline_bytes_max,
            sink: Sink::Inline(Vec::new()),
            target,
        })
    }

    pub async fn write(&mut self, batch: &RecordBatch) -> Result<(), ExchangeError> {
        self.encoder.write(batch)?;
        self.rows += batch.num_rows() as u64;
        self.drain().await
    }

    /// Ends the stream; the object, if there is one, is complete when this returns.
    pub async fn finish(mut self) -> Result<FragmentResult, ExchangeError> {
        self.encoder.finish()?;
        self.drain().await?;
        let part = Part { bytes: self.bytes, rows: self.rows, crc32: self.checksum.finalize() };
        match self.sink {
            Sink::Inline(bytes) => Ok(FragmentResult::Inline { part, bytes: Base64(bytes.into()) }),
            Sink::Object(mut writer) => {
                let (access, _, path) = self.target;
                let path = path.to_string();
                writer.shutdown().await.map_err(|source| ExchangeError::Write { path: path.clone(), source })?;
                let object = ObjectRef { access, path, size_bytes: part.bytes, etag: None, footer_bytes: None };
                Ok(FragmentResult::Object { object, part })
            }
        }
    }

    /// Moves what the encoder has produced to the sink, and the sink to the exchange once it is too large.
    async fn drain(&mut self) -> Result<(), ExchangeError> {
        let chunk = std::mem::take(self.encoder.get_mut());
        self.checksum.update(&chunk);
        self.bytes += chunk.len() as u64;
        if let Sink::Inline(held) = &mut self.sink {
            if self.bytes <= self.inline_bytes_max {
                held.extend_from_slice(&chunk);
                return Ok(());
            }
            let held = std::mem::take(held);
            let writer = BufWriter::new(Arc::clone(&self.target.1), self.target.2.clone());
            self.sink = Sink::Object(Box::new(writer));
            self.put(held.into()).await?;
        }
        self.put(chunk.into()).await
    }

    async fn put(&mut self, chunk: Bytes) -> Result<(), ExchangeError> {
        let Sink::Object(writer) = &mut self.sink else { return Ok(()) };
        let path = self.target.2.to_string();
        writer.put(chunk).await.map_err(|source| ExchangeError::Store { path, source })
    }
}

/// Fetches (if it is not inline), verifies and decodes a result.
///
/// `store` is the exchange's. Holds the encoded stream in memory as a whole; decoded columns point into it where they
/// are not compressed.
///
/// # Errors
/// [`ExchangeError::Length`] and [`ExchangeError::Checksum`] for torn or swapped bytes, before any row is seen.
pub async fn read(
    id: &FragmentId,
    result: FragmentResult,
    schema: &Schema,
    store: &dyn ObjectStore,
) -> Result<Vec<RecordBatch>, ExchangeError> {
    let part = *result.part();
    let bytes = match result {
        FragmentResult::Inline { bytes, .. } => bytes.0,
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
    decode(id, bytes, schema)
}

fn decode(id: &FragmentId, bytes: Bytes, schema: &Schema) -> Result<Vec<RecordBatch>, ExchangeError> {
    let mut buffer = Buffer::from(bytes);
    let mut decoder = StreamDecoder::new();
    let mut batches = Vec::new();
    while !buffer.is_empty() {
        batches.extend(decoder.decode(&mut buffer)?);
    }
    decoder.finish()?;
    let fits = decoder.schema().is_some_and(|found| {
        found.fields().len() == schema.fields().len()
            && found.fields().iter().zip(schema.fields()).all(|(f, s)| f.data_type() == s.data_type())
    });
    if !fits {
        return Err(ExchangeError::Schema { fragment: id.clone() });
    }
    Ok(batches)
}
