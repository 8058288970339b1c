//! A table, pinned to the snapshot that was current when it was loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::cache::Key;
use crate::error::{Error, MetadataFile, Result};
use crate::location::Location;
use crate::metadata::{MetadataFault, TableMetadata};
use crate::scan::{COMPACT, DeleteFile};
use crate::storage::CatalogStores;
use crate::types::{Field, InitialDefault, MappedField, PartitionField, Schema, Type};

const FORMAT_PROPERTY: &str = "write.format.default";
const NAME_MAPPING_PROPERTY: &str = "schema.name-mapping.default";
/// Length of a UUID in a metadata file's name.
const UUID_CHARS: usize = 36;

/// A table's metadata in memory. It is cheap to clone, and later commits do not change it.
#[derive(Debug, Clone)]
pub struct Table {
    name: String,
    metadata_location: String,
    metadata: Arc<TableMetadata>,
    stores: CatalogStores,
    name_mapping: Option<Arc<Vec<MappedField>>>,
    /// None for a table that was loaded from a folder.
    registered: Option<CatalogName>,
}

/// Name of a table in its catalog.
#[derive(Debug, Clone)]
pub(crate) struct CatalogName {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Table {
    /// Makes the same snapshot, read through other stores. Credentials that its catalog has lent stay its own.
    #[must_use]
    pub fn with_stores(&self, stores: CatalogStores) -> Table {
        Table { stores: stores.lent_as(&self.stores), ..self.clone() }
    }

    /// Makes the same snapshot, read through stores with the credentials that were lent last.
    pub(crate) fn with_lent(&self, stores: CatalogStores) -> Table {
        Table { stores, ..self.clone() }
    }

    /// Returns the name in the catalog, or the folder, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn format_version(&self) -> u8 {
        self.metadata.format_version
    }

    /// Returns the format of new data files, in small letters: `parquet`, `orc` or `avro`.
    pub fn file_format(&self) -> String {
        self.metadata.property(FORMAT_PROPERTY).unwrap_or("parquet").to_lowercase()
    }

    /// Returns the table's folder. New data files belong under `data/` in it.
    pub fn location(&self) -> &str {
        &self.metadata.location
    }

    /// Lists the prefixes of the files for which its catalog has lent credentials.
    pub fn lent_prefixes(&self) -> impl Iterator<Item = &str> {
        self.stores.lent_prefixes()
    }

    /// Returns the place of one of its files: a data file, or a file of deletes. The root of the store tells whose credentials
    /// open it.
    ///
    /// # Errors
    /// Invalid: no absolute location. Not lent: see [`Error::NotLent`].
    pub fn place(&self, file: &str) -> Result<Location> {
        self.stores.place(&self.name, file)
    }

    pub fn metadata_location(&self) -> &str {
        &self.metadata_location
    }

    /// Returns the current schema. Field ids are the table's own.
    pub fn schema(&self) -> &Schema {
        self.metadata.schema()
    }

    /// Returns the id of the current schema.
    pub fn schema_id(&self) -> Option<i64> {
        self.metadata.schema_ids.first().copied()
    }

    /// Lists the ids of a column and of all fields below it. Empty for a column that the table does not have.
    pub fn leaf_ids(&self, column: &str) -> Vec<i32> {
        let mut fields = Vec::new();
        if let Some(field) = self.schema().field(column) {
            field.collect(&mut fields);
        }
        fields.into_iter().map(|field| field.id).collect()
    }

    /// Returns the pinned snapshot's id. `None` for a table without data.
    pub fn snapshot_id(&self) -> Option<i64> {
        self.metadata.snapshot.as_ref().map(|snapshot| snapshot.id)
    }

    /// Returns the time of the snapshot's commit, in milliseconds since the Unix epoch.
    pub fn snapshot_timestamp_unix_ms(&self) -> Option<i64> {
        self.metadata.snapshot.as_ref().map(|snapshot| snapshot.timestamp_ms)
    }

    /// Lists the fields of the spec that new files are written with. Older files may have other specs.
    pub fn partition_fields(&self) -> Vec<PartitionField> {
        let parts = self.metadata.default_spec().iter();
        parts
            .map(|part| PartitionField {
                name: part.name.clone(),
                column: part.source().and_then(|id| self.metadata.current_name(id)).unwrap_or_default(),
                transform: part.transform,
            })
            .collect()
    }

    /// Returns the counts of distinct values by field id, of the nearest snapshot, of the pinned one and those before it, for which
    /// somebody has counted them. Empty where nobody has.
    pub fn distinct_counts(&self) -> BTreeMap<i32, u64> {
        let TableMetadata { snapshot, snapshots, distinct, .. } = &*self.metadata;
        if distinct.is_empty() {
            return BTreeMap::new();
        }
        let parents: BTreeMap<i64, Option<i64>> =
            snapshots.iter().map(|snapshot| (snapshot.id, snapshot.parent)).collect();
        let before = |id: &i64| parents.get(id).copied().flatten();
        // A bad writer may have made a circle of parents.
        let line = std::iter::successors(snapshot.as_ref().map(|snapshot| snapshot.id), before).take(snapshots.len());
        line.filter_map(|id| distinct.get(&id)).next().cloned().unwrap_or_default()
    }

    /// Returns the names of the table's fields in files without field ids. `None`: no such file can be read.
    pub fn name_mapping(&self) -> Option<&[MappedField]> {
        self.name_mapping.as_ref().map(|fields| fields.as_slice())
    }

    /// Lists the fields at every depth, of the newest schema that has them, that have a value in rows that are older than they are.
    pub fn initial_defaults(&self) -> Vec<(&Field, &InitialDefault)> {
        let mut fields = BTreeMap::new();
        for field in self.metadata.schemas.iter().flat_map(|schema| &schema.fields) {
            collect_fields(field, &mut fields);
        }
        fields.into_values().filter_map(|field| Some((field, field.initial_default.as_ref()?))).collect()
    }

    /// Lists the columns that deletes compare and that the current schema lacks. A struct has those of its fields that they compare, of
    /// whatever schema, under names of their own.
    ///
    /// # Errors
    /// Unsupported: a field that was dropped from a column which is still there.
    pub fn dropped_columns(&self, deletes: &[DeleteFile]) -> Result<Vec<Field>> {
        let mut keys: BTreeMap<i32, BTreeSet<i32>> = BTreeMap::new();
        for id in deletes.iter().flat_map(DeleteFile::equality_ids) {
            let Some(column) = self.metadata.schemas.iter().find_map(|schema| column_of(schema, *id)) else { continue };
            if column_of(self.schema(), *id).is_some() {
                continue;
            }
            if !self.schema().fields.iter().any(|field| field.id == column.id) {
                keys.entry(column.id).or_default().insert(*id);
                continue;
            }
            let name = self.metadata.field(*id).map(|found| found.name).unwrap_or_default();
            return Err(Error::Unsupported {
                table: self.name.clone(),
                feature: format!("equality deletes by column {name}, which was dropped from {}", column.name),
                next: COMPACT,
            });
        }
        let dropped = |(column, keys): (i32, BTreeSet<i32>)| {
            let versions = self.metadata.schemas.iter().flat_map(|schema| &schema.fields);
            let versions = versions.filter(|field| field.id == column).filter_map(|field| part_of(field, &keys));
            versions.reduce(|newer, older| Field { ty: united(newer.ty, older.ty), ..newer })
        };
        Ok(keys.into_iter().filter_map(dropped).collect())
    }

    /// Makes the same table with other metadata of it.
    pub(crate) fn with_metadata(&self, metadata: Arc<TableMetadata>) -> Table {
        Table { metadata, ..self.clone() }
    }

    pub(crate) fn registered(&self) -> Option<&CatalogName> {
        self.registered.as_ref()
    }

    pub(crate) fn register(mut self, namespace: &str, name: &str) -> Table {
        self.registered = Some(CatalogName { namespace: namespace.to_string(), name: name.to_string() });
        self
    }

    /// Returns a name of the table that no other table has, for what is kept of its files.
    pub(crate) fn identity(&self) -> &str {
        self.metadata.uuid.as_deref().unwrap_or(&self.metadata_location)
    }

    /// Returns the bytes that its metadata holds, about.
    pub(crate) fn held_bytes(&self) -> usize {
        self.metadata.held_bytes
    }

    pub(crate) fn metadata(&self) -> &TableMetadata {
        &self.metadata
    }

    pub(crate) fn stores(&self) -> &CatalogStores {
        &self.stores
    }

    /// Loads a table from its metadata file.
    ///
    /// # Errors
    /// Missing, unreachable, corrupt, or unsupported by its metadata alone.
    pub(crate) async fn load(name: &str, metadata_location: &str, stores: &CatalogStores) -> Result<Table> {
        let read = || async {
            let read = stores.read_held(metadata_location).await?;
            let (name, location) = (name.to_owned(), metadata_location.to_owned());
            stores.cache().decoding(metadata_location, move || parse(&name, &location, &read.bytes)).await
        };
        let metadata = match is_unique(metadata_location) {
            true => {
                let key = Key::Metadata(metadata_location.to_owned());
                stores.cache().get_or_read(key, &[], |_| read()).await
            }
            false => read().await.map(Arc::new),
        };
        let metadata = metadata.map_err(|error| error.in_table(name, MetadataFile::Metadata))?;
        Table::new(name, metadata_location, metadata, stores)
    }

    /// Makes a table of the content of its metadata file.
    pub(crate) fn parse(name: &str, metadata_location: &str, bytes: &[u8], stores: &CatalogStores) -> Result<Table> {
        let metadata = parse(name, metadata_location, bytes);
        let metadata = metadata.map_err(|error| error.in_table(name, MetadataFile::Metadata))?;
        Table::new(name, metadata_location, Arc::new(metadata), stores)
    }

    fn new(name: &str, metadata_location: &str, metadata: Arc<TableMetadata>, stores: &CatalogStores) -> Result<Table> {
        let mapping = metadata.property(NAME_MAPPING_PROPERTY);
        let name_mapping = mapping.map(|json| serde_json::from_str(json).map(Arc::new)).transpose();
        let name_mapping = name_mapping.map_err(|error| {
            let why = format!("{NAME_MAPPING_PROPERTY}: {error}");
            Error::corrupt(metadata_location, why).in_table(name, MetadataFile::Metadata)
        })?;
        let table = Table {
            name: name.to_string(),
            metadata_location: metadata_location.to_string(),
            metadata,
            stores: stores.clone(),
            name_mapping,
            registered: None,
        };
        match table.metadata.is_encrypted {
            true => Err(table.encrypted(metadata_location)),
            false => Ok(table),
        }
    }

    pub(crate) fn encrypted(&self, file: &str) -> Error {
        Error::Unsupported {
            table: self.name.clone(),
            feature: format!("encryption ({file})"),
            next: "rewrite the table without encryption",
        }
    }
}

fn parse(table: &str, location: &str, bytes: &[u8]) -> Result<TableMetadata> {
    match TableMetadata::parse(bytes) {
        Ok(metadata) => Ok(metadata),
        Err(MetadataFault::Corrupt(why)) => Err(Error::corrupt(location, why)),
        Err(MetadataFault::Unsupported { feature, next }) => {
            Err(Error::Unsupported { table: table.to_owned(), feature, next })
        }
    }
}

/// Returns true where the file's name has a UUID, so that no other file will ever have it. `v3.metadata.json` may be another
/// table's tomorrow.
fn is_unique(location: &str) -> bool {
    let name = location.rsplit('/').next().unwrap_or(location);
    let starts = 0..name.len().saturating_sub(UUID_CHARS - 1);
    starts.filter_map(|start| name.get(start..start + UUID_CHARS)).any(|part| uuid::Uuid::try_parse(part).is_ok())
}

/// Returns the column that has a field, or is it.
fn column_of(schema: &Schema, id: i32) -> Option<&Field> {
    schema.fields.iter().find(|column| has_field(column, id))
}

fn has_field(field: &Field, id: i32) -> bool {
    field.id == id || field.ty.children().any(|child| has_field(child, id))
}

/// Returns a field with those of the fields below it that lead to `ids`, named by their ids. None where none does.
fn part_of(field: &Field, ids: &BTreeSet<i32>) -> Option<Field> {
    if ids.contains(&field.id) {
        return Some(field.clone());
    }
    let Type::Struct(fields) = &field.ty else { return None };
    let parts = fields.iter().filter_map(|below| part_of(below, ids));
    let parts: Vec<Field> = parts.map(|below| Field { name: below.id.to_string(), ..below }).collect();
    (!parts.is_empty()).then(|| Field { ty: Type::Struct(parts), ..field.clone() })
}

/// Puts the fields of an older version of a struct behind those of a newer one.
fn united(newer: Type, older: Type) -> Type {
    let (Type::Struct(mut fields), Type::Struct(others)) = (newer.clone(), older) else { return newer };
    for other in others {
        match fields.iter_mut().find(|field| field.id == other.id) {
            Some(field) => field.ty = united(field.ty.clone(), other.ty),
            None => fields.push(other),
        }
    }
    Type::Struct(fields)
}

fn collect_fields<'a>(field: &'a Field, fields: &mut BTreeMap<i32, &'a Field>) {
    fields.entry(field.id).or_insert(field);
    field.ty.children().for_each(|child| collect_fields(child, fields));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metadata_file_with_a_uuid_is_unique() {
        let check = |location, expect| assert_eq!(is_unique(location), expect, "{location}");
        check("s3://b/t/metadata/00003-8f3b1b2c-4a53-4b5e-9a55-6a1f0c9d7e21.metadata.json", true);
        check("s3://b/t/metadata/00003-8f3b1b2c-4a53-4b5e-9a55-6a1f0c9d7e21.gz.metadata.json", true);
        check("s3://b/8f3b1b2c-4a53-4b5e-9a55-6a1f0c9d7e21/metadata/v3.metadata.json", false);
        check("v3.metadata.json", false);
    }
}
