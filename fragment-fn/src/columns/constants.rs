//! Values of columns that a file lacks: those of its partition, and the table's initial defaults.
//!
//! Files that came from Hive keep the values of identity-partitioned columns in their folders' names and, after the
//! migration, in Iceberg's metadata. DataFusion's adapters see a file's schema and nothing else of it. So the values travel
//! in the schema's metadata, where the reader of the footer puts them ([`with_constants`]), only for absent columns.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::StructArray;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use gust_protocol::{Base64, plan};
use parquet::file::metadata::{FileMetaData, KeyValue, ParquetMetaData};
use parquet::schema::types::Type;

use super::field_id;
use crate::fault::mismatch_err;

/// Key in a footer's metadata.
const CONSTANTS_KEY: &str = "gust.constants";

/// Values by Iceberg field id, each [`plan::encode_scalar`]d. None is a value of the metadata that cannot be understood.
///
/// It is an extension of a `PartitionedFile`, which [`crate::ScanReader`] reads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileConstants(pub Vec<(i32, Option<Base64>)>);

/// Values of absent columns, decoded for an adapter.
#[derive(Debug, Default)]
pub(super) struct Constants {
    /// Values of the file's partition.
    partition: BTreeMap<i32, Option<ScalarValue>>,
    /// Initial defaults. That of a struct, whatever it is, says that the struct is made of the defaults of its fields.
    defaults: BTreeMap<i32, ScalarValue>,
}

impl Constants {
    pub(super) fn of(physical: &Schema, defaults: &[(i32, Base64)]) -> Result<Self> {
        let encoded: Vec<(i32, Option<Base64>)> = match physical.metadata().get(CONSTANTS_KEY) {
            Some(text) => serde_json::from_str(text).map_err(|error| DataFusionError::External(Box::new(error)))?,
            None => Vec::new(),
        };
        let decode =
            |(id, value): (i32, Option<Base64>)| Ok((id, value.as_ref().map(plan::decode_scalar).transpose()?));
        let partition = encoded.into_iter().map(decode).collect::<Result<_>>()?;
        let defaults = defaults.iter().map(|(id, value)| Ok((*id, plan::decode_scalar(value)?)));
        Ok(Self { partition, defaults: defaults.collect::<Result<_>>()? })
    }

    /// Returns true if the file's partition has a value of the field, be it NULL.
    pub(super) fn has(&self, id: i32) -> bool {
        self.partition.contains_key(&id)
    }

    /// Returns the value of all rows in a column that the file lacks, in the column's type: NULL where there is none.
    ///
    /// # Errors
    /// A value of the partition that cannot be understood, or a value that does not become the column's type.
    pub(super) fn value(&self, id: i32, wanted: &Field) -> Result<ScalarValue> {
        match self.partition.get(&id) {
            None => self.default_value(id, wanted),
            Some(Some(value)) => value.cast_to(wanted.data_type()),
            Some(None) => mismatch_err!(
                "a data file lacks column `{}`, and its value in the partition metadata cannot be understood",
                wanted.name()
            ),
        }
    }

    fn default_value(&self, id: i32, wanted: &Field) -> Result<ScalarValue> {
        match (self.defaults.get(&id), wanted.data_type()) {
            (None, data_type) => ScalarValue::try_new_null(data_type),
            (Some(_), DataType::Struct(fields)) => self.structure(fields, wanted.name()),
            (Some(value), data_type) => value.cast_to(data_type),
        }
    }

    /// Makes a struct of the values that its fields have where a file lacks them.
    fn structure(&self, fields: &Fields, path: &str) -> Result<ScalarValue> {
        let part = |field: &FieldRef| {
            let value = match field_id(field) {
                Some(id) => self.value(id, field)?,
                None => ScalarValue::try_new_null(field.data_type())?,
            };
            if value.is_null() && !field.is_nullable() {
                return mismatch_err!("a data file lacks the required field `{path}.{}`", field.name());
            }
            value.to_array_of_size(1)
        };
        let parts = fields.iter().map(part).collect::<Result<Vec<_>>>()?;
        let made = StructArray::try_new_with_length(fields.clone(), parts, None, 1)?;
        Ok(ScalarValue::Struct(Arc::new(made)))
    }
}

/// Adds the constants of absent columns to the footer. A file with all columns keeps its footer.
pub(crate) fn with_constants(footer: Arc<ParquetMetaData>, constants: &FileConstants) -> Arc<ParquetMetaData> {
    let file = footer.file_metadata();
    let mut ids = Vec::new();
    collect_ids(file.schema(), &mut ids);
    let Some(note) = note(constants, &ids) else { return footer };
    let mut pairs = file.key_value_metadata().cloned().unwrap_or_default();
    pairs.retain(|pair| pair.key != CONSTANTS_KEY);
    pairs.push(KeyValue::new(CONSTANTS_KEY.to_owned(), note));
    let file = FileMetaData::new(
        file.version(),
        file.num_rows(),
        file.created_by().map(str::to_owned),
        Some(pairs),
        file.schema_descr_ptr(),
        file.column_orders().cloned(),
    );
    let noted = ParquetMetaData::new(file, footer.row_groups().to_vec()).into_builder();
    let (columns, offsets) = (footer.column_index().cloned(), footer.offset_index().cloned());
    Arc::new(noted.set_column_index(columns).set_offset_index(offsets).build())
}

/// Adds the constants of absent columns to a file's schema. A file with all columns keeps its own.
pub(crate) fn noted(file: SchemaRef, constants: &FileConstants) -> SchemaRef {
    let ids: Vec<i32> = file.flattened_fields().into_iter().filter_map(field_id).collect();
    let Some(note) = note(constants, &ids) else { return file };
    let mut metadata = file.metadata().clone();
    metadata.insert(CONSTANTS_KEY.to_owned(), note);
    Arc::new(file.as_ref().clone().with_metadata(metadata))
}

/// Writes down the constants of columns that are not among `ids`. None where all are.
fn note(constants: &FileConstants, ids: &[i32]) -> Option<String> {
    let absent: Vec<_> = constants.0.iter().filter(|(id, _)| !ids.contains(id)).collect();
    (!absent.is_empty()).then(|| serde_json::to_string(&absent).unwrap_or_default())
}

fn collect_ids(node: &Type, ids: &mut Vec<i32>) {
    let info = node.get_basic_info();
    if info.has_id() {
        ids.push(info.id());
    }
    if node.is_group() {
        node.get_fields().iter().for_each(|child| collect_ids(child, ids));
    }
}
