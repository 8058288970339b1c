//! Keys of one group of files on their way to functions: an Arrow stream of the key columns, with their field ids, and of each key's
//! largest sequence number.
//!
//! The coordinator writes it ([`KeyWriter`]) where functions would read many files of keys; they read it in place of these
//! ([`KeyStream`]). A stream is whole or damaged: its checksum comes with the request.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow_ipc::reader::StreamDecoder;
use arrow_ipc::writer::{IpcWriteOptions, StreamWriter};
use bytes::Bytes;
use datafusion::common::Result;
use gust_protocol::exchange::COMPRESSION;
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;

use super::DamagedDeletes;
use super::equality::KeyColumn;
use crate::columns::field_id;

/// Longest stream, in bytes. It is read whole.
pub(super) const KEYS_BYTES_MAX: u64 = 256 << 20;

/// Most keys of one batch.
pub(super) const BATCH_KEYS: usize = 16 << 10;

/// Most bytes of the keys of one batch. A longer key is alone in its batch.
pub(super) const BATCH_BYTES: usize = 1 << 20;

/// Some keys of a stream.
pub(super) struct KeyBatch {
    /// Parts of the keys, in the order of the group's fields.
    pub(super) columns: Vec<ArrayRef>,
    /// Largest sequence number of each key.
    pub(super) newest: Int64Array,
}

/// Encoder of keys.
pub(super) struct KeyWriter {
    schema: SchemaRef,
    encoder: StreamWriter<Vec<u8>>,
}

impl KeyWriter {
    pub(super) fn new(columns: &[KeyColumn]) -> Result<Self> {
        let part = |column: &KeyColumn| {
            let id = [(PARQUET_FIELD_ID_META_KEY.to_owned(), column.id.to_string())].into();
            Field::new(format!("key {}", column.id), column.data_type.clone(), true).with_metadata(id)
        };
        let newest = Field::new("newest", DataType::Int64, false);
        let schema = Arc::new(Schema::new(columns.iter().map(part).chain([newest]).collect::<Vec<_>>()));
        let options = IpcWriteOptions::default().try_with_compression(COMPRESSION)?;
        Ok(Self { encoder: StreamWriter::try_new_with_options(Vec::new(), &schema, options)?, schema })
    }

    pub(super) fn write(&mut self, KeyBatch { mut columns, newest }: KeyBatch) -> Result<()> {
        columns.push(Arc::new(newest));
        Ok(self.encoder.write(&RecordBatch::try_new(Arc::clone(&self.schema), columns)?)?)
    }

    /// Returns the bytes that it has written.
    pub(super) fn bytes(&self) -> usize {
        self.encoder.get_ref().len()
    }

    /// Returns the bytes that it holds for what it has written.
    pub(super) fn capacity_bytes(&self) -> usize {
        self.encoder.get_ref().capacity()
    }

    pub(super) fn finish(self) -> Result<Vec<u8>> {
        Ok(self.encoder.into_inner()?)
    }
}

/// Encoded keys, and the checksum that they ought to have.
pub(super) struct KeyStream {
    pub(super) bytes: Bytes,
    pub(super) crc32: u32,
}

impl KeyStream {
    /// Decodes the keys as they are asked for, whose parts are `columns`.
    ///
    /// # Errors
    /// A [`DamagedDeletes`] where the bytes are not those that were written.
    pub(super) fn batches(self, columns: &[KeyColumn]) -> Result<impl Iterator<Item = Result<KeyBatch>>> {
        if crc32fast::hash(&self.bytes) != self.crc32 {
            return Err(DamagedDeletes("the checksum of its keys is wrong".to_owned()).into());
        }
        let (mut encoded, mut decoder) = (Buffer::from(self.bytes), StreamDecoder::new());
        let next = move || {
            while !encoded.is_empty() {
                if let Some(batch) = decoder.decode(&mut encoded).map_err(damaged)? {
                    return key_batch(&batch, columns).map(Some);
                }
            }
            decoder.finish().map_err(damaged)?;
            Ok(None)
        };
        Ok(std::iter::repeat_with(next).map_while(Result::transpose).fuse())
    }
}

fn damaged(error: ArrowError) -> DamagedDeletes {
    DamagedDeletes(format!("its keys cannot be decoded: {error}"))
}

/// Takes a batch apart.
fn key_batch(batch: &RecordBatch, columns: &[KeyColumn]) -> Result<KeyBatch> {
    let schema = batch.schema();
    let is_key = |(field, column): (&Arc<Field>, &KeyColumn)| {
        field_id(field) == Some(column.id) && *field.data_type() == column.data_type
    };
    let newest = batch.columns().last().and_then(|newest| newest.as_primitive_opt::<Int64Type>());
    match newest.filter(|newest| newest.null_count() == 0) {
        Some(newest)
            if schema.fields().len() == columns.len() + 1 && schema.fields().iter().zip(columns).all(is_key) =>
        {
            Ok(KeyBatch { columns: batch.columns()[..columns.len()].to_vec(), newest: newest.clone() })
        }
        _ => Err(DamagedDeletes("it has keys of other fields".to_owned()).into()),
    }
}
