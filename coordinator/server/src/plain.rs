//! Plain types at the door. Some clients refuse views of texts and dictionaries (JDBC's driver before 19, arrow-js). A view drags all
//! texts of its batch along, and a plain column has its own alone.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatchOptions;
use gust_engine::session::plain_type;
use gust_output::{AnnouncedColumns, OutputError};

/// Columns of a statement's rows, and the plain ones that clients see.
pub(crate) struct PlainColumns {
    announced: AnnouncedColumns,
    schema: SchemaRef,
}

impl PlainColumns {
    pub(crate) fn new(announced: &Schema) -> Self {
        Self { announced: AnnouncedColumns::new(announced), schema: plain_schema(announced) }
    }

    pub(crate) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Gives a batch its plain types.
    ///
    /// # Errors
    /// [`OutputError::Undeclared`] where it has other columns than were announced.
    pub(crate) fn conform(&self, batch: &RecordBatch) -> Result<RecordBatch, OutputError> {
        let batch = self.announced.conform(batch)?;
        let strict = CastOptions { safe: false, ..CastOptions::default() };
        let fields = self.schema.fields().iter();
        let columns =
            fields.zip(batch.columns()).map(|(field, column)| match field.data_type() == column.data_type() {
                true => Ok(Arc::clone(column)),
                false => cast_with_options(column, field.data_type(), &strict),
            });
        let columns = columns.collect::<Result<Vec<_>, ArrowError>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(self.schema(), columns, &options)?)
    }
}

/// Returns columns of plain types, each of which may hold NULL.
pub(crate) fn plain_schema(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| Field::new(field.name(), plain_type(field.data_type()), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        Array, ArrayRef, DictionaryArray, Int64Array, LargeListArray, ListArray, StringArray, StringViewArray,
        StructArray,
    };
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::{DataType, Int32Type};

    use super::*;

    #[test]
    fn views_and_dictionaries_become_plain_at_every_depth() {
        let views = || Arc::new(StringViewArray::from(vec![Some("a"), None])) as ArrayRef;
        let dictionary: DictionaryArray<Int32Type> = vec![Some("x"), None].into_iter().collect();
        let record = StructArray::from(vec![(Arc::new(Field::new("v", DataType::Utf8View, true)), views())]);
        let item = Arc::new(Field::new("item", DataType::Utf8View, true));
        let list = ListArray::new(Arc::clone(&item), OffsetBuffer::from_lengths([1, 1]), views(), None);
        let large = LargeListArray::new(item, OffsetBuffer::from_lengths([1, 1]), views(), None);
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("v", views()),
            ("d", Arc::new(dictionary)),
            ("s", Arc::new(record)),
            ("l", Arc::new(list)),
            ("n", Arc::new(Int64Array::from(vec![1, 2]))),
            ("g", Arc::new(large)),
        ];
        let batch = RecordBatch::try_from_iter(columns).expect("rows");
        let plain = PlainColumns::new(&batch.schema());
        let conform = plain.conform(&batch).expect("plain rows");
        let text = format!("{:?}", conform.schema());
        assert!(!["View", "Dictionary", "Large"].iter().any(|kind| text.contains(kind)), "{text}");
        let expect = StringArray::from(vec![Some("a"), None]);
        assert_eq!(conform.column(0).as_ref(), &expect as &dyn Array);
        assert_eq!(conform.column(1).as_ref(), &StringArray::from(vec![Some("x"), None]) as &dyn Array);
        assert_eq!(conform.schema().field(4).data_type(), &DataType::Int64);
        let other = RecordBatch::try_from_iter([("v", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]).expect("rows");
        assert!(matches!(plain.conform(&other), Err(OutputError::Undeclared(_))));
    }
}
