//! Rows as one Parquet file, whose footer comes last: a file that ends early has none, and no reader takes it.

use std::io::{self, Write};
use std::sync::Arc;

use arrow::array::new_null_array;
use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use super::OutputError;
use super::formats::{ColumnChanges, unique_names};

/// Rows of a row group at most. A later query reads row groups side by side.
const ROW_GROUP_ROWS_MAX: usize = 1 << 20;

/// Encoded bytes of a row group at most. The writer holds one in memory.
const ROW_GROUP_BYTES_MAX: usize = 128 << 20;

/// Writes a file, even for no rows. A column name that comes twice gets a number, and types that Parquet does not know
/// (intervals, unions) are text.
pub(super) fn write(
    out: &mut (impl Write + Send),
    schema: &SchemaRef,
    batches: impl Iterator<Item = Result<RecordBatch, OutputError>>,
) -> Result<(), OutputError> {
    if schema.fields().is_empty() {
        let message = "a Parquet file has at least one column".to_owned();
        return Err(OutputError::Encode(ArrowError::ParquetError(message)));
    }
    let changes = ColumnChanges::new(schema, |field| !is_parquet(field), unique_names());
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES_MAX))
        .build();
    let mut writer = ArrowWriter::try_new(out, Arc::clone(&changes.schema), Some(properties))?;
    for batch in batches {
        writer.write(&changes.apply(&batch?)?)?;
    }
    writer.close()?;
    Ok(())
}

/// Tries the type, because the writer finds some of them impossible at their first value.
fn is_parquet(field: &FieldRef) -> bool {
    let schema = Arc::new(Schema::new(vec![field.as_ref().clone().with_nullable(true)]));
    let written = || {
        let null = RecordBatch::try_new(Arc::clone(&schema), vec![new_null_array(field.data_type(), 1)])?;
        let mut writer = ArrowWriter::try_new(io::sink(), Arc::clone(&schema), None)?;
        writer.write(&null)?;
        writer.close()
    };
    written().is_ok()
}

impl From<ParquetError> for OutputError {
    fn from(error: ParquetError) -> Self {
        match error {
            ParquetError::External(cause) => match cause.downcast::<io::Error>() {
                Ok(error) => Self::Write(*error),
                Err(other) => Self::Encode(ArrowError::ParquetError(other.to_string())),
            },
            other => Self::Encode(other.into()),
        }
    }
}
