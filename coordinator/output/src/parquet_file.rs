//! Rows as one Parquet file, whose footer comes last: a file that ends early has none, and no reader takes it.

use std::io::{self, Write};
use std::sync::Arc;

use arrow::array::new_null_array;
use arrow::compute::can_cast_types;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use super::OutputError;
use super::formats::{Change, ColumnChanges, unique_names};

/// Rows of a row group at most. A later query reads row groups side by side.
const ROW_GROUP_ROWS_MAX: usize = 1 << 20;

/// Encoded bytes of a row group at most. The writer holds one in memory.
const ROW_GROUP_BYTES_MAX: usize = 128 << 20;

/// Writes a file, even for no rows. A column name that comes twice gets a number. Types that Parquet does not know
/// (intervals, durations, unions) are text, and points of time in seconds are in milliseconds.
pub(super) fn write(
    out: &mut (impl Write + Send),
    schema: &SchemaRef,
    batches: impl Iterator<Item = Result<RecordBatch, OutputError>>,
) -> Result<(), OutputError> {
    if schema.fields().is_empty() {
        let message = "a Parquet file has at least one column".to_owned();
        return Err(OutputError::Encode(ArrowError::ParquetError(message)));
    }
    let changes = ColumnChanges::new(schema, change_of, unique_names());
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

fn change_of(field: &FieldRef) -> Change {
    let kept = stored(field.data_type());
    match is_parquet(&kept) {
        true if kept == *field.data_type() => Change::Kept,
        true if can_cast_types(field.data_type(), &kept) => Change::Cast(kept),
        _ => Change::Text,
    }
}

/// Returns the type that the file has for a type. The writer takes some types that are bare numbers to all readers but
/// Arrow's: Parquet has no seconds, no `Date64` and no durations.
fn stored(data_type: &DataType) -> DataType {
    let inner = |field: &FieldRef| Arc::new(field.as_ref().clone().with_data_type(stored(field.data_type())));
    match data_type {
        DataType::Timestamp(TimeUnit::Second, zone) => DataType::Timestamp(TimeUnit::Millisecond, zone.clone()),
        DataType::Date64 => DataType::Timestamp(TimeUnit::Millisecond, None),
        DataType::Time32(_) => DataType::Time32(TimeUnit::Millisecond),
        DataType::Duration(_) => DataType::Utf8,
        DataType::List(item) => DataType::List(inner(item)),
        DataType::LargeList(item) => DataType::LargeList(inner(item)),
        DataType::FixedSizeList(item, length) => DataType::FixedSizeList(inner(item), *length),
        DataType::ListView(item) => DataType::ListView(inner(item)),
        DataType::LargeListView(item) => DataType::LargeListView(inner(item)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect()),
        DataType::Map(entries, is_sorted) => DataType::Map(inner(entries), *is_sorted),
        DataType::Dictionary(key, value) => DataType::Dictionary(key.clone(), Box::new(stored(value))),
        DataType::RunEndEncoded(ends, values) => DataType::RunEndEncoded(Arc::clone(ends), inner(values)),
        other => other.clone(),
    }
}

/// Tries the type, because the writer finds some of them impossible at their first value.
fn is_parquet(data_type: &DataType) -> bool {
    let schema = Arc::new(Schema::new(vec![Field::new("c", data_type.clone(), true)]));
    let written = || {
        let null = RecordBatch::try_new(Arc::clone(&schema), vec![new_null_array(data_type, 1)])?;
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
