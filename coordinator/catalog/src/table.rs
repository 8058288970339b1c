//! A table, pinned to the snapshot that was current when it was loaded.

use std::sync::Arc;

use iceberg::spec as ice;
use serde_json::Value;

use crate::convert;
use crate::error::{Error, MetadataFile, Result};
use crate::storage::CatalogStores;
use crate::types::{MappedField, PartitionField, Schema};

const NAME_MAPPING_PROPERTY: &str = "schema.name-mapping.default";
const ENCRYPTION_PROPERTY: &str = "encryption.key-id";

/// A table's metadata in memory. It is cheap to clone, and later commits do not change it.
#[derive(Debug, Clone)]
pub struct Table {
    name: String,
    metadata_location: String,
    metadata: ice::TableMetadataRef,
    stores: CatalogStores,
    schema: Arc<Schema>,
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
    /// Makes the same snapshot, read through other stores.
    #[must_use]
    pub fn with_stores(&self, stores: CatalogStores) -> Table {
        Table { stores, ..self.clone() }
    }

    /// Returns the name in the catalog, or the folder, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the table's folder. New data files belong under `data/` in it.
    pub fn location(&self) -> &str {
        self.metadata.location()
    }

    pub fn metadata_location(&self) -> &str {
        &self.metadata_location
    }

    /// Returns the current schema. Field ids are the table's own.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Returns the pinned snapshot's id. `None` for a table without data.
    pub fn snapshot_id(&self) -> Option<i64> {
        self.metadata.current_snapshot_id()
    }

    /// Returns the time of the snapshot's commit, in milliseconds since the Unix epoch.
    pub fn snapshot_timestamp_unix_ms(&self) -> Option<i64> {
        let snapshot = self.metadata.current_snapshot();
        snapshot.map(|snapshot| snapshot.timestamp_ms())
    }

    /// Lists the fields of the spec that new files are written with. Older files may have other specs.
    pub fn partition_fields(&self) -> Vec<PartitionField> {
        let schema = self.metadata.current_schema();
        let fields = self.metadata.default_partition_spec().fields().iter();
        fields
            .map(|field| PartitionField {
                name: field.name.clone(),
                column: schema.name_by_field_id(field.source_id).unwrap_or_default().to_string(),
                transform: convert::transform(field.transform),
            })
            .collect()
    }

    /// Returns the names of the table's fields in files without field ids. `None`: no such file can be read.
    pub fn name_mapping(&self) -> Option<&[MappedField]> {
        self.name_mapping.as_ref().map(|fields| fields.as_slice())
    }

    pub(crate) fn registered(&self) -> Option<&CatalogName> {
        self.registered.as_ref()
    }

    pub(crate) fn register(mut self, namespace: &str, name: &str) -> Table {
        self.registered = Some(CatalogName { namespace: namespace.to_string(), name: name.to_string() });
        self
    }

    pub(crate) fn metadata(&self) -> &ice::TableMetadataRef {
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
        let in_table = |error: Error| error.in_table(name, MetadataFile::Metadata);
        let raw = read_metadata(metadata_location, stores).await.map_err(in_table)?;
        refuse_unknown(name, &raw)?;
        let metadata: ice::TableMetadata =
            serde_json::from_value(raw).map_err(|error| in_table(Error::corrupt(metadata_location, error)))?;
        Table::new(name, metadata_location, metadata, stores).map_err(in_table)
    }

    pub(crate) fn new(
        name: &str,
        metadata_location: &str,
        metadata: ice::TableMetadata,
        stores: &CatalogStores,
    ) -> Result<Table> {
        let mapping = metadata.properties().get(NAME_MAPPING_PROPERTY);
        let name_mapping = mapping
            .map(|json| serde_json::from_str(json).map(Arc::new))
            .transpose()
            .map_err(|error| Error::corrupt(metadata_location, error))?;
        let table = Table {
            name: name.to_string(),
            metadata_location: metadata_location.to_string(),
            schema: Arc::new(convert::schema(metadata.current_schema())),
            metadata: Arc::new(metadata),
            stores: stores.clone(),
            name_mapping,
            registered: None,
        };
        let snapshot = table.metadata.current_snapshot();
        let encrypted = table.metadata.encryption_keys_iter().next().is_some()
            || table.metadata.properties().contains_key(ENCRYPTION_PROPERTY)
            || snapshot.is_some_and(|snapshot| snapshot.encryption_key_id().is_some());
        if encrypted {
            return Err(table.encrypted(metadata_location));
        }
        Ok(table)
    }

    pub(crate) fn encrypted(&self, file: &str) -> Error {
        Error::Unsupported {
            table: self.name.clone(),
            feature: format!("encryption ({file})"),
            next: "rewrite the table without encryption",
        }
    }
}

/// Reads the metadata as JSON, because iceberg silently drops the parts that it cannot parse.
async fn read_metadata(location: &str, stores: &CatalogStores) -> Result<Value> {
    let bytes = stores.read(location).await?;
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return serde_json::from_slice(&bytes).map_err(|error| Error::corrupt(location, error));
    }
    // iceberg's inflater is private, so that iceberg reads the file.
    let metadata = ice::TableMetadata::read_from(&stores.file_io(), location)
        .await
        .map_err(|error| Error::from_iceberg(location, error))?;
    if metadata.format_version() > ice::FormatVersion::V2 {
        return Err(Error::Unsupported {
            table: metadata.location().to_string(),
            feature: "gzipped metadata in format version 3".to_string(),
            next: "set the table property write.metadata.compression-codec to none",
        });
    }
    serde_json::to_value(metadata).map_err(|error| Error::corrupt(location, error))
}

/// Refuses, by name, metadata that would be read wrongly and metadata that iceberg cannot parse.
fn refuse_unknown(table: &str, metadata: &Value) -> Result<()> {
    let unsupported = |feature: String, next| Error::Unsupported { table: table.to_string(), feature, next };
    if let Some(version) = metadata["format-version"].as_u64()
        && version > 3
    {
        return Err(unsupported(
            format!("format version {version}"),
            "use a version that knows it, or write the table in format version 3 or lower",
        ));
    }
    let current = &metadata["current-schema-id"];
    let schemas = metadata["schemas"].as_array();
    for schema in schemas.into_iter().flatten().chain([&metadata["schema"]]) {
        let is_current = schema["schema-id"] == *current || schemas.is_none();
        for_each_field(schema, &mut |field, ty| {
            let name = field["name"].as_str().unwrap_or("element");
            if !is_known_type(ty) {
                return Err(unsupported(
                    format!("column {name} of type {ty}"),
                    "query a copy of the table without that column",
                ));
            }
            if is_current && !field["initial-default"].is_null() {
                return Err(unsupported(
                    format!("column {name} with an initial default"),
                    "rewrite the data files that were written before the column was added",
                ));
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Calls `visit` with every field below a type, and with the name of its type if it is not nested.
fn for_each_field(nested: &Value, visit: &mut impl FnMut(&Value, &str) -> Result<()>) -> Result<()> {
    let mut each = |field: &Value, ty: &Value| {
        visit(field, ty.as_str().unwrap_or("struct"))?;
        for_each_field(ty, visit)
    };
    for field in nested["fields"].as_array().into_iter().flatten() {
        each(field, &field["type"])?;
    }
    for part in ["element", "key", "value"] {
        let ty = &nested[part];
        if !ty.is_null() {
            each(nested, ty)?;
        }
    }
    Ok(())
}

fn is_known_type(name: &str) -> bool {
    const KNOWN: [&str; 15] = [
        "struct",
        "boolean",
        "int",
        "long",
        "float",
        "double",
        "date",
        "time",
        "timestamp",
        "timestamptz",
        "timestamp_ns",
        "timestamptz_ns",
        "string",
        "uuid",
        "binary",
    ];
    KNOWN.contains(&name) || name.starts_with("decimal(") || name.starts_with("fixed[")
}
