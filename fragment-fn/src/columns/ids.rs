//! Field ids of files that have none: the table's name mapping tells them.
//!
//! Files that were written for Hive and added to a table as they are have no ids. A file with any id has all of its own: its
//! fields without one were dropped before, or belong to nobody.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use datafusion::common::Result;
use gust_protocol::MappedName;
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;

use super::field_id;
use crate::fault::mismatch_err;

/// Key of a field's metadata that tells that its id came from the name mapping. A nested type with it equals no type of a
/// table, so that its values are always made anew.
const MAPPED_KEY: &str = "gust.mapped";

/// Gives the fields of a file without ids those of the name mapping. A file with ids keeps them.
///
/// # Errors
/// A file without ids where the table has no name mapping.
pub(super) fn with_ids(physical: &SchemaRef, names: &[MappedName]) -> Result<SchemaRef> {
    let fields = physical.fields();
    let Some(first) = fields.first() else { return Ok(Arc::clone(physical)) };
    if fields.iter().any(|field| has_ids(field)) {
        return Ok(Arc::clone(physical));
    }
    if names.is_empty() {
        return mismatch_err!(
            "column `{}` of a data file has no Iceberg field id, and the table has no name mapping; set the table property schema.name-mapping.default",
            first.name()
        );
    }
    Ok(Arc::new(Schema::new_with_metadata(mapped_fields(fields, names), physical.metadata().clone())))
}

/// Returns true if the id of a field came from the name mapping.
pub(super) fn is_mapped(field: &Field) -> bool {
    field.metadata().contains_key(MAPPED_KEY)
}

/// Returns true if a field or one below it has an id.
fn has_ids(field: &Field) -> bool {
    field_id(field).is_some() || children(field.data_type()).iter().any(|field| has_ids(field))
}

fn children(of: &DataType) -> &[FieldRef] {
    match of {
        DataType::Struct(fields) => fields,
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::Map(item, _) => std::slice::from_ref(item),
        _ => &[],
    }
}

fn mapped_fields(fields: &Fields, names: &[MappedName]) -> Fields {
    fields.iter().map(|field| mapped(field, field.name(), names)).collect()
}

/// Makes a field with the id that the mapping has under `name`, and likewise those below it.
fn mapped(field: &Field, name: &str, names: &[MappedName]) -> FieldRef {
    let found = names.iter().find(|mapped| mapped.names.iter().any(|known| known == name));
    let below = found.map_or(&[][..], |mapped| &mapped.fields);
    let element = |item: &FieldRef| mapped(item, "element", below);
    let data_type = match field.data_type() {
        DataType::Struct(fields) => DataType::Struct(mapped_fields(fields, below)),
        DataType::List(item) => DataType::List(element(item)),
        DataType::LargeList(item) => DataType::LargeList(element(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(element(item), *size),
        DataType::ListView(item) => DataType::ListView(element(item)),
        DataType::LargeListView(item) => DataType::LargeListView(element(item)),
        DataType::Map(entries, sorted) => DataType::Map(mapped_entries(entries, below), *sorted),
        other => other.clone(),
    };
    let mut made = field.clone().with_data_type(data_type);
    if let Some(id) = found.and_then(|mapped| mapped.id) {
        let mut metadata = field.metadata().clone();
        metadata.insert(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string());
        metadata.insert(MAPPED_KEY.to_owned(), String::new());
        made.set_metadata(metadata);
    }
    Arc::new(made)
}

/// Makes the entries of a map. The mapping calls its fields `key` and `value`, whatever the file does.
fn mapped_entries(entries: &FieldRef, names: &[MappedName]) -> FieldRef {
    let DataType::Struct(fields) = entries.data_type() else { return Arc::clone(entries) };
    let fields = fields.iter().zip(["key", "value"]).map(|(field, name)| mapped(field, name, names));
    Arc::new(entries.as_ref().clone().with_data_type(DataType::Struct(fields.collect())))
}
