//! Check of batches against the columns that their statement announced.
//!
//! A plan may declare one type and make another, which is a fault of the plan. Encoders would write such rows under a header
//! that does not fit them, or bytes that no reader understands. Columns are equal if their values are. NULL's permission,
//! metadata, and the names of parts of lists and maps may differ; the announced ones are written.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use super::OutputError;

/// Columns of a statement's rows.
pub struct AnnouncedColumns {
    schema: SchemaRef,
}

impl AnnouncedColumns {
    pub fn new(announced: &Schema) -> Self {
        // Any column may hold NULL. A reader loses nothing, and rows may break a promise that nobody needs.
        let fields = announced.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
        let schema = Schema::new_with_metadata(fields.collect::<Vec<Field>>(), announced.metadata().clone());
        Self { schema: Arc::new(schema) }
    }

    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Puts the batch under the announced schema.
    ///
    /// # Errors
    /// [`OutputError::Undeclared`] where it has other columns.
    pub fn conform(&self, batch: &RecordBatch) -> Result<RecordBatch, OutputError> {
        if batch.num_columns() != self.schema.fields().len() {
            return Err(OutputError::Undeclared(format!(
                "{} columns were announced, and rows of {} came",
                self.schema.fields().len(),
                batch.num_columns()
            )));
        }
        let columns = self.schema.fields().iter().zip(batch.columns()).map(|(field, column)| column_of(field, column));
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let conform = RecordBatch::try_new_with_options(self.schema(), columns.collect::<Result<_, _>>()?, &options);
        conform.map_err(|error| OutputError::Undeclared(error.to_string()))
    }
}

fn column_of(field: &Field, column: &ArrayRef) -> Result<ArrayRef, OutputError> {
    let (announced, came) = (field.data_type(), column.data_type());
    if announced == came {
        return Ok(Arc::clone(column));
    }
    let differs = || format!("column `{}` was announced as {announced}, and rows of {came} came", field.name());
    if !holds_equal_values(announced, came) {
        return Err(OutputError::Undeclared(differs()));
    }
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(column, announced, &strict)
        .map_err(|error| OutputError::Undeclared(format!("{}: {error}", differs())))
}

/// Returns true where two types differ only in NULL's permission, in metadata, and in names that no value shows.
fn holds_equal_values(a: &DataType, b: &DataType) -> bool {
    let of_fields = |a: &Field, b: &Field| holds_equal_values(a.data_type(), b.data_type());
    let of_structs = |a: &Fields, b: &Fields| {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.name() == b.name() && of_fields(a, b))
    };
    match (a, b) {
        (DataType::List(a), DataType::List(b))
        | (DataType::LargeList(a), DataType::LargeList(b))
        | (DataType::ListView(a), DataType::ListView(b))
        | (DataType::LargeListView(a), DataType::LargeListView(b)) => of_fields(a, b),
        (DataType::FixedSizeList(a, a_len), DataType::FixedSizeList(b, b_len)) => a_len == b_len && of_fields(a, b),
        (DataType::Struct(a), DataType::Struct(b)) => of_structs(a, b),
        (DataType::Map(a, _), DataType::Map(b, _)) => match (a.data_type(), b.data_type()) {
            (DataType::Struct(a), DataType::Struct(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| of_fields(a, b))
            }
            _ => false,
        },
        (a, b) => a == b,
    }
}
