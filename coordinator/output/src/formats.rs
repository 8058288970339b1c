//! Rows for other programs: CSV, JSON, newline-delimited JSON, Arrow IPC. Each format streams batch by batch.

use std::collections::HashSet;
use std::io::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, StringArray, new_empty_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::csv;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::writer::{EncoderOptions, JsonArray, JsonFormat, LineDelimited, WriterBuilder, make_encoder};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow_ipc::writer::StreamWriter;

use super::OutputError;

/// Writes a header, even for no rows. CSV knows no nested values: they are written as JSON text.
pub(super) fn write_csv(
    out: &mut impl Write,
    schema: &SchemaRef,
    batches: impl Iterator<Item = Result<RecordBatch, OutputError>>,
) -> Result<(), OutputError> {
    let changes = ColumnChanges::new(schema, |field| Change::text_if(field.data_type().is_nested()), str::to_owned);
    if schema.fields().is_empty() {
        return write_lines(out, batches);
    }
    let mut writer = csv::Writer::new(out);
    writer.write(&changes.apply(&RecordBatch::new_empty(schema.clone()))?)?;
    for batch in batches {
        writer.write(&changes.apply(&batch?)?)?;
    }
    Ok(())
}

/// Writes an empty line for the header and for each row. The encoder would write a column of empty texts.
fn write_lines(
    out: &mut impl Write,
    batches: impl Iterator<Item = Result<RecordBatch, OutputError>>,
) -> Result<(), OutputError> {
    out.write_all(b"\n")?;
    for batch in batches {
        for _ in 0..batch?.num_rows() {
            out.write_all(b"\n")?;
        }
    }
    Ok(())
}

pub(super) fn write_json(
    out: &mut impl Write,
    schema: &SchemaRef,
    batches: impl Iterator<Item = Result<RecordBatch, OutputError>>,
) -> Result<(), OutputError> {
    write_objects::<JsonArray>(out, schema, batches)?;
    Ok(out.write_all(b"\n")?)
}

pub(super) fn write_ndjson(
    out: &mut impl Write,
    schema: &SchemaRef,
    batches: impl Iterator<Item = Result<RecordBatch, OutputError>>,
) -> Result<(), OutputError> {
    write_objects::<LineDelimited>(out, schema, batches)
}

/// Writes objects with every column, NULL as null. JSON knows neither NaN nor infinity: they are null.
///
/// A column name that comes twice gets a number, because most readers keep only the last value of a name. Values that
/// JSON cannot hold (maps with keys other than text, unions) are text.
fn write_objects<F: JsonFormat>(
    out: &mut impl Write,
    schema: &SchemaRef,
    batches: impl Iterator<Item = Result<RecordBatch, OutputError>>,
) -> Result<(), OutputError> {
    let changes = ColumnChanges::new(schema, |field| Change::text_if(!is_json(field)), unique_names());
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, F>(out);
    for batch in batches {
        writer.write(&changes.apply(&batch?)?)?;
    }
    Ok(writer.finish()?)
}

/// Writes the schema, even for no rows.
pub(super) fn write_arrow(
    out: &mut impl Write,
    schema: &SchemaRef,
    batches: impl Iterator<Item = Result<RecordBatch, OutputError>>,
) -> Result<(), OutputError> {
    let mut writer = StreamWriter::try_new(out, schema)?;
    for batch in batches {
        writer.write(&batch?)?;
    }
    Ok(writer.finish()?)
}

/// Changes of a result's columns that fit them to a format.
pub(super) struct ColumnChanges {
    pub(super) schema: SchemaRef,
    each: Vec<Change>,
}

/// Change of one column.
pub(super) enum Change {
    Kept,
    Text,
    Cast(DataType),
}

impl Change {
    fn text_if(is_text: bool) -> Self {
        if is_text { Self::Text } else { Self::Kept }
    }
}

impl ColumnChanges {
    pub(super) fn new(
        schema: &Schema,
        change: impl Fn(&FieldRef) -> Change,
        mut name: impl FnMut(&str) -> String,
    ) -> Self {
        let each: Vec<Change> = schema.fields().iter().map(change).collect();
        let fields = schema.fields().iter().zip(&each).map(|(field, change)| {
            let data_type = match change {
                Change::Kept => field.data_type().clone(),
                Change::Text => DataType::Utf8,
                Change::Cast(data_type) => data_type.clone(),
            };
            // Every column is nullable, whatever was promised: a writer has no reason to refuse a batch.
            Field::new(name(field.name()), data_type, true)
        });
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        Self { schema, each }
    }

    pub(super) fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let columns = batch.schema_ref().fields().iter().zip(batch.columns()).zip(&self.each);
        // A value that the other type cannot hold is an error, and no NULL.
        let strict = CastOptions { safe: false, ..CastOptions::default() };
        let columns = columns.map(|((field, column), change)| match change {
            Change::Kept => Ok(Arc::clone(column)),
            Change::Text => to_text(field, column),
            Change::Cast(data_type) => cast_with_options(column, data_type, &strict),
        });
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(self.schema.clone(), columns.collect::<Result<_, _>>()?, &options)
    }
}

fn is_json(field: &FieldRef) -> bool {
    make_encoder(field, &new_empty_array(field.data_type()), &EncoderOptions::default()).is_ok()
}

/// Writes a nested value as JSON where JSON can hold it, and any other as the text of a table.
fn to_text(field: &FieldRef, column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let options = EncoderOptions::default().with_explicit_nulls(true);
    if field.data_type().is_nested()
        && let Ok(mut encoder) = make_encoder(field, column, &options)
    {
        let texts = (0..column.len()).map(|row| {
            let mut text = Vec::new();
            (!encoder.is_null(row)).then(|| encoder.encode(row, &mut text));
            (!text.is_empty()).then(|| String::from_utf8_lossy(&text).into_owned())
        });
        return Ok(Arc::new(texts.collect::<StringArray>()));
    }
    let format = FormatOptions::new().with_display_error(true);
    let formatter = ArrayFormatter::try_new(column, &format)?;
    let texts = (0..column.len()).map(|row| (!column.is_null(row)).then(|| formatter.value(row).to_string()));
    Ok(Arc::new(texts.collect::<StringArray>()))
}

/// Makes a name that was seen before unique by the first free number, from 2.
pub(super) fn unique_names() -> impl FnMut(&str) -> String {
    let mut seen = HashSet::new();
    move |name| {
        let numbered = (2..).map(|number| format!("{name}_{number}"));
        let new = std::iter::once(name.to_owned()).chain(numbered).find(|name| !seen.contains(name));
        let new = new.expect("the numbers do not end");
        seen.insert(new.clone());
        new
    }
}
